"""docs/small-models.md has the numbers and the names that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmstudio_bridge.agent import conversation as results
from lmstudio_bridge.agent import json_calls as strategy
from lmstudio_bridge.agent import model_request as rounds
from lmstudio_bridge.agent import repetition as stuck
from lmstudio_bridge.agent import tool_executor as calls
from lmstudio_bridge.agent import tool_ranking as ranking
from lmstudio_bridge.agent import tools as reserve
from lmstudio_bridge.agent import tools as selection
from lmstudio_bridge.agent.json_calls import choose_strategy
from lmstudio_bridge.agent.result_store import RESULT_TOOLS
from lmstudio_bridge.runs import server_selection as choice
from lmstudio_bridge.runs import server_selection as opening
from lmstudio_bridge.runs import server_selection as similarity
from lmstudio_bridge.runs import tool_cache as catalogues

TEXT = " ".join((Path(__file__).parents[3] / "docs" / "small-models.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    "sentence",
    [
        f"the name tells {strategy.SMALL_MODEL:g}B or less",
        f"only failed or found nothing, in its first {rounds._MUST_CALL_ROUNDS} rounds",
        f"In one turn at most {calls.MAX_CALLS} calls are made",
        f"a cycle of up to {stuck._LONGEST_CYCLE} turns",
        f"the same error {stuck._SAME_ERRORS} times in a row",
        f"After {stuck._FORGIVE_AFTER} new turns in a row",
        f"(at most {results.MAX_CHARS:,} characters)",
        f"are at most {strategy.MAX_TOOLS_WEAK} for a model that is asked for JSON",
        f"the {choice.CLOSEST} tools that are closest to the task",
        f"takes more than {similarity._TIME:.0f} s",
        "at least a third as well as the best",
        f"is kept on disk for {catalogues.MAX_AGE / 86_400:.0f} days",
        f"starts up to {reserve._MOST_AT_ONCE} servers at a time",
        f"brings in up to {selection._FOUND_AT_ONCE} more at a time",
        choose_strategy("any", trained_for_tool_use=True).reason,
    ],
)
def test_the_numbers_are_those_of_the_code(sentence: str) -> None:
    assert sentence in TEXT


def test_a_third_is_a_third() -> None:
    assert ranking.FITS == 1 / 3


def test_a_quarter_is_a_quarter() -> None:
    assert (opening._TOOLS_SHARE, results._SHARE) == (4, 4)


def test_the_steps_against_repetition_are_in_order() -> None:
    words = ["a reminder", "taken out of the history", "taken away", "JSON instead", "the answer is asked for"]
    section = TEXT.partition("## Repetition")[2]
    places = [section.index(word) for word in words]
    assert places == sorted(places)
    assert len(words) == len(stuck.Step) + 1  # JSON comes first where the last step is due


def test_the_bridges_own_tools_are_named() -> None:
    own = {spec.name for spec in (*RESULT_TOOLS, selection.FIND_TOOLS)}
    assert own <= set(re.findall(r"`(\w+)`", TEXT))
