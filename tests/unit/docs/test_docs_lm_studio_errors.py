"""docs/contributing/lm-studio-errors.md has every class of failure, with the words and numbers that the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstudio_bridge import errors
from lmstudio_bridge.errors import LLMError
from lmstudio_bridge.lmstudio.failures import error_from_response
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.lmstudio.retry import RetryPolicy
from lmstudio_bridge.messages import ChatRequest
from lmstudio_bridge.settings import Settings
from tests.lmstudio_sim.errors import MODEL_UNLOADED
from tests.lmstudio_sim.replies import CutSocket, EndEarly, Fault, Stall, StreamError, TextReply
from tests.lmstudio_sim.server import open_simulator
from tests.unit.lmstudio.clients import QUESTION, QWEN, open_test_client, within
from tests.unit.lmstudio.failure_table import FAILURES, Failure

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "contributing" / "lm-studio-errors.md").read_text(encoding="utf-8")
POLICY = RetryPolicy()
WORDLESS = {"Nope.", "Oops.", "Authorization Required", "", "[[", "Welcome", "Lost?", "Found", "Ollama is running"}
"""Texts in the failure table that do not matter: the status or the shape decides the class."""


def table_rows() -> dict[str, list[str]]:
    """The cells of each row of the first table, by class."""
    rows = {}
    for line in TEXT.splitlines():
        if found := re.match(r"\| `(\w+)`: ", line):
            rows[found[1]] = [cell.strip() for cell in line.strip("|").split(" | ")]
    return rows


ROWS = table_rows()


def kinds() -> Iterator[str]:
    """Every class of an error, and `empty_turn`, which is a reply without content rather than an error."""
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, LLMError) and value is not LLMError:
            yield value.kind
    yield "empty_turn"


def plain(text: str) -> str:
    """Text with numbers replaced."""
    return re.sub(r"\d+(\.\d+)?", "…", text)


def test_every_class_has_one_row_of_four_cells() -> None:
    assert sorted(ROWS) == sorted(set(kinds()))
    assert {len(cells) for cells in ROWS.values()} == {4}
    assert all(all(cells) for cells in ROWS.values())


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_what_the_user_reads_of_each_known_failure_stands_in_its_row(failure: Failure) -> None:
    error = error_from_response(failure.status, failure.body, url="http://127.0.0.1:1234/v1/chat/completions")

    assert error is not None
    assert f"*{error.message}*" in ROWS[error.kind][0]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_the_words_of_each_known_failure_stand_in_its_row(failure: Failure) -> None:
    if failure.words in WORDLESS or failure.kind in ("bad_request", "rate_limited"):
        return
    quotes = re.findall("`(.*?)`", ROWS[failure.kind][1])
    said = (failure.words + failure.body.decode()).casefold().replace('\\"', '"')
    assert [quote for quote in quotes if quote.casefold() in said]


@pytest.mark.parametrize("kind", ROWS)
def test_no_words_are_quoted_that_nobody_says(kind: str) -> None:
    said = "\n".join(each.words + each.body.decode() for each in FAILURES if each.kind == kind)
    said = said.casefold().replace('\\"', '"')
    assert [quote for quote in re.findall("`(.*?)`", ROWS[kind][1]) if quote.casefold() not in said] == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("unreachable", CutSocket(before_headers=True)),
        ("model_lost", CutSocket(after_tokens=1)),
        ("model_lost", EndEarly(1)),
        ("model_lost", StreamError(MODEL_UNLOADED)),
        ("stalled", Stall(before_headers=True)),
    ],
    ids=["cut before", "cut within", "ended early", "error", "silent"],
)
async def test_what_the_user_reads_of_a_broken_connection_stands_in_its_row(kind: str, fault: Fault) -> None:
    limits = Timeouts(first_byte=0.2)
    async with open_simulator() as sim, open_test_client(sim, timeouts=limits) as client:
        # One more than the tries: the first may be sent again on a fresh connection.
        sim.script(QWEN, *[TextReply("Half an answer.", faults=(fault,))] * (POLICY.attempts + 1))
        with pytest.raises(LLMError) as caught:
            await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))

    assert caught.value.kind == kind
    assert f"*{plain(caught.value.message)}*" in ROWS[kind][0]


async def test_what_the_user_reads_of_a_server_that_is_off_stands_in_its_row() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        await sim.stop()
        with pytest.raises(LLMError) as caught:
            await within(client.list_models())

    assert f"*{caught.value.message}*" in ROWS["unreachable"][0]


def test_the_time_limits_are_those_of_the_settings() -> None:
    limits = (DOCS / "time-limits.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", limits, flags=re.MULTILINE))
    fields = Settings.model_fields
    assert told == {
        f"LMSTUDIO_BRIDGE_{name.upper()}": f"{fields[name].default:g}"
        for name in (
            "connect_timeout",
            "first_byte_timeout",
            "between_bytes_timeout",
            "tool_timeout",
            "run_timeout",
        )
    }
    assert f"({fields['context_length'].default:,} if not set)" in (DOCS / "lm-studio.md").read_text(encoding="utf-8")
