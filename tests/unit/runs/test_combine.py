"""Merging the answers of many items: in which parts, in how many levels, and what is asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmstudio_bridge.events import (
    Event,
    ItemResults,
    ItemsCombined,
    ItemsListed,
    MessageAdded,
    Outcome,
    RunFinished,
    RunStarted,
)
from lmstudio_bridge.messages import UserMessage
from lmstudio_bridge.runs.combine import Combiner
from lmstudio_bridge.runs.item_rows import count_answers
from lmstudio_bridge.runs.journal import open_journal
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import ContinueRequest, ItemRun, RunRequest

CONTEXT = 1_000  # tokens: 1,500 characters of answers
Model = Callable[[str], Outcome]


class Kitchen:
    """Merges answers of 100 characters each with a scripted model."""

    def __init__(
        self, count: int, model: Model, *, folder: Path | None = None, schema: str = "", size: int = 90
    ) -> None:
        names = tuple(f"item {number}" for number in range(1, count + 1))
        listed = ItemsListed(names, "", (), "", None, "", "Put {them} together.", schema)
        answers = {number: Outcome("answered", f"answer {number} {'x' * size}") for number in range(1, count + 1)}
        self.asked: list[RunRequest] = []
        self.told: list[Event] = []
        self._model = model
        self._folder = folder
        start = RunStarted("20261130-120000-abcde", "t", (), 8, "")
        self.combiner = Combiner(
            self._do_run, results=ItemResults(listed, answers), start=start, model=None, folder=folder
        )

    async def combine(self) -> tuple[str, str]:
        return await self.combiner.combine(CONTEXT, at_once=self._at_once, seconds=None, tell=self._tell)

    @property
    def outcome(self) -> Outcome:
        event = self.told[-1]
        assert isinstance(event, ItemsCombined)
        assert event.outcome
        return event.outcome

    def sizes(self) -> list[int]:
        """How many answers each request held."""
        return [len(re.findall("^(?:item|Part) [0-9]+: ", each.task, re.MULTILINE)) for each in self.asked]

    async def _do_run(self, request: RunRequest | ContinueRequest, item: ItemRun) -> RunReport:
        assert isinstance(request, RunRequest)
        assert item.delimiter
        self.asked.append(request)
        outcome = self._model(request.task)
        if self._folder:
            with open_journal(self._folder, item.run_id) as journal:
                journal.keep(RunStarted(item.run_id, request.task, (), 1, "", "read"))
                journal.keep(MessageAdded(UserMessage(request.task)))
                journal.keep(RunFinished(outcome.stop, outcome.answer, outcome.error, 1.0))
        return RunReport(item.run_id, outcome, ())

    async def _at_once(self) -> int:
        return 2

    async def _tell(self, event: Event) -> None:
        self.told.append(event)


def says(answer: str) -> Model:
    return lambda _: Outcome("answered", answer, access="read", rounds=1)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (13, [13]), (14, [13, 1, 2]), (27, [13, 13, 1, 3]), (200, [*[13] * 15, 5, 16])],
)
async def test_answers_are_merged_in_as_many_levels_as_the_context_needs(count: int, sizes: list[int]) -> None:
    kitchen = Kitchen(count, says("Fine."))

    assert await kitchen.combine() == ("Fine.", "")
    assert sorted(kitchen.sizes()[:-1]) == sorted(sizes[:-1])
    assert kitchen.sizes()[-1] == sizes[-1]
    assert kitchen.outcome.rounds == len(sizes)
    assert all(len(each.task) < 2_000 for each in kitchen.asked)


async def test_long_answers_need_a_level_more_and_what_is_cut_is_told() -> None:
    kitchen = Kitchen(12, says("y" * 900), size=1_000)

    assert (await kitchen.combine())[1] == ""
    assert kitchen.sizes() == [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2]
    assert kitchen.outcome.notes[0] == "12 answers were shortened before they were merged."


async def test_where_the_engine_counts_more_tokens_the_parts_get_smaller() -> None:
    def model(task: str) -> Outcome:
        return Outcome("failed", error="Too long.") if len(task) > 1_200 else Outcome("answered", "Fine.", rounds=1)

    kitchen = Kitchen(12, model)

    assert await kitchen.combine() == ("Fine.", "")
    assert kitchen.sizes() == [12, 6, 6, 2]


async def test_a_model_that_is_gone_is_not_asked_with_less() -> None:
    kitchen = Kitchen(4, lambda _: Outcome("failed", error="LM Studio is gone.", outside=True))

    assert await kitchen.combine() == ("", "The answers could not be merged: LM Studio is gone.")
    assert kitchen.sizes() == [4, 4], "tried once more"


async def test_only_the_last_request_has_the_schema_and_the_counts() -> None:
    kitchen = Kitchen(14, says("{}"), schema='{"type": "object"}')
    await kitchen.combine()

    assert [each.output_schema for each in kitchen.asked] == [None, None, {"type": "object"}]
    assert ["put together with the same" in each.task for each in kitchen.asked] == [True, True, False]
    assert all("Put {them} together." in each.task for each in kitchen.asked)
    assert "Counted: 2 \N{MULTIPLICATION SIGN} Part" not in kitchen.asked[-1].task


async def test_parts_that_were_merged_before_a_crash_are_not_merged_again(tmp_path: Path) -> None:
    fails = True

    def model(task: str) -> Outcome:
        return Outcome("stuck") if fails and "2 parts of" in task else Outcome("answered", "Fine.", access="read")

    first = Kitchen(14, model, folder=tmp_path)
    assert (await first.combine())[1] == "The answers could not be merged: the model got stuck"
    fails = False
    again = Kitchen(14, model, folder=tmp_path)

    assert await again.combine() == ("Fine.", "")
    assert again.sizes() == [2]


async def test_what_a_part_made_up_is_told_if_it_stands_in_the_answer() -> None:
    def model(task: str) -> Outcome:
        if "2 parts" in task:
            return Outcome("answered", "c777 and c1.")
        return Outcome("answered", "c777, c888", missing=("c777", "c888"))

    kitchen = Kitchen(14, model)
    await kitchen.combine()

    assert kitchen.outcome.missing == ("c777",)


@pytest.mark.parametrize(
    ("answers", "counted"),
    [
        (["bug", "praise", "bug\n"], "2 \N{MULTIPLICATION SIGN} bug, 1 \N{MULTIPLICATION SIGN} praise"),
        ([{"label": "bug"}] * 2, "label: 2 \N{MULTIPLICATION SIGN} bug"),
        ([{"label": "bug", "why": str(number)} for number in range(4)], "label: 4 \N{MULTIPLICATION SIGN} bug"),
        ([{"label": "bug"}, {"label": "wish"}], ""),
        ([{"kind": "bug"}, {"kind": "wish"}], "kind: 1 \N{MULTIPLICATION SIGN} bug, 1 \N{MULTIPLICATION SIGN} wish"),
        ([{"kind": "a", "n": 1}, {"n": 1}], "kind: 1 \N{MULTIPLICATION SIGN} a; n: 2 \N{MULTIPLICATION SIGN} 1"),
        ([{"label": "bug"}, "cut"] * 2, '2 \N{MULTIPLICATION SIGN} {"label": "bug"}, 2 \N{MULTIPLICATION SIGN} cut'),
        ([{"kind": None}], "kind: 1 \N{MULTIPLICATION SIGN} null"),
        (
            [{f"{number:02}": "x" * 38 for number in range(20)}] * 2,
            "; ".join(f"{number:02}: 2 \N{MULTIPLICATION SIGN} {'x' * 38}" for number in range(20)),
        ),
        (
            [{f"{number:02}": "x" * 58 for number in range(40)}] * 2,
            "; ".join(f"{number:02}: 2 \N{MULTIPLICATION SIGN} {'x' * 58}" for number in range(22)),
        ),
        (["a", "b"], ""),
        ([], ""),
        (["x" * 61] * 2, ""),
        ([str(number % 21) for number in range(42)], ""),
    ],
)
def test_equal_answers_are_counted_where_there_are_few(answers: list[object], counted: str) -> None:
    schema = json.dumps({"properties": {"kind": {"enum": ["bug", "wish", "a"]}, "why": {"type": "string"}}})

    assert count_answers([{"answer": answer} for answer in answers], schema) == counted
