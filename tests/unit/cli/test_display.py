"""What `run` shows in a terminal while a task is worked on."""

from __future__ import annotations

import re

import pytest

from lmstudio_bridge.cli.run import open_display
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    Generating,
    ItemFinished,
    ItemsListed,
    ItemsProgress,
    ItemStarted,
    ModelChosen,
    Outcome,
    RoundStarted,
    RunFinished,
    RunStarted,
    ServersChosen,
    Warned,
)
from tests.unit.cli.test_terminal import Terminal

STARTED = RunStarted("r1", "task", ("fs",), 5, "")
CHOSEN = ModelChosen("tiny", loaded=True, context_length=10_000)
ANSWER = "## Birds\n\n- **heron**: 7\n- [coot](http://x) <b>12</b>\n"


def call(tool: str, *, reason: str = "") -> CallFinished:
    about = {"is_error": bool(reason), "sent": True, "seconds": 0.5, "about": "a.md", "reason": reason}
    return CallFinished(1, "c1", "fs", tool, "text", **about)  # type: ignore[arg-type]


async def shown(monkeypatch: pytest.MonkeyPatch, events: list[Event], *, columns: int) -> str:
    """What was written to the terminal. A note after each event has what stands below it drawn again."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    async with open_display(stream, environ={"NO_COLOR": "1"}) as emit:
        for event in events:
            await emit(event)
            await emit(Warned("note"))
    return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", stream.getvalue()).replace("\r", "\n")


CASES: list[tuple[Event, str]] = [
    (STARTED, "run r1 · servers: fs"),
    (ServersChosen(("fs", "git"), ("a", "b"), ()), "Starting fs (a), git (b)"),
    (ModelChosen("tiny", loaded=False, context_length=None), "model tiny (not loaded yet)"),
    (RoundStarted(1, 5, 3, 2_300), "reading 2,300 tokens"),
    (RoundStarted(1, 5, 3), "reading the prompt"),
    (Generating(1, "thinking", 1_200, 10.0), "thinking (1,200 tokens"),
    (CallStarted(1, "c1", "fs", "read", '{"path": "a.md"}'), "fs: read a.md"),
    (call("read"), "fs read a.md"),
    (call("read", reason="No such file: " + "x/" * 20), "No such file"),
    (Generating(1, "answering", 9, 1.0, ANSWER), "heron: 7"),
    (RunFinished("answered", "x", "", 1.0), "answered"),
]


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize(("event", "words"), CASES)
async def test_what_happens_is_said_in_plain_words_at_any_width(
    monkeypatch: pytest.MonkeyPatch, event: Event, words: str, columns: int
) -> None:
    text = await shown(monkeypatch, [event], columns=columns)

    assert words in text
    assert max(map(len, text.split("\n"))) <= columns


async def test_context_and_speed_stand_beside_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = [CHOSEN, RoundStarted(1, 5, 3, 2_300), Generating(1, "thinking", 200, 4.0)]

    text = await shown(monkeypatch, events, columns=100)

    assert "23% of context" in text
    assert "thinking (200 tokens, 50 tok/s)" in text


async def test_answer_is_formatted_as_it_comes_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = await shown(monkeypatch, [Generating(1, "answering", 9, 1.0, ANSWER)], columns=100)

    assert "## Birds" not in text
    assert "[coot](http://x) <b>12</b>" in text


async def test_long_answer_leaves_room_for_what_is_happening(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(f"line {number}" for number in range(100))

    text = await shown(monkeypatch, [Generating(1, "answering", 9, 1.0, lines)], columns=100)

    assert [number for number in range(100) if re.search(rf"line {number} *\n", text)] == list(range(73, 100))
    assert "answering (9 tokens, 9 tok/s)" in text


async def test_bar_of_many_items_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ItemsListed(("a", "b"), "", (), "", None, "")

    text = await shown(monkeypatch, [listed, ItemStarted(2), ItemsProgress(1, 2, 0, 1, 5.0)], columns=120)

    assert "1 of 2 · 1 at once · about 5 s left · b" in text


async def test_an_item_with_facts_that_were_not_found_or_failed_calls_does_not_look_like_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = ItemsListed(("a", "b", "c"), "", (), "", None, "")
    ended = [
        ItemFinished(1, Outcome("answered", "It is c1.", missing=("c1",))),
        ItemFinished(2, Outcome("answered", "It is c2.")),
        ItemFinished(3, Outcome("answered", "It is c3.", failed=("read: no file",))),
    ]

    text = await shown(monkeypatch, [STARTED, listed, *ended], columns=100)

    assert "! a · not found in anything read: c1 · It is c1." in text
    assert "ok b · It is c2." in text
    assert "! c · calls failed: read: no file · It is c3." in text


async def test_terminal_without_the_marks_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")

    text = await shown(monkeypatch, [call("read"), call("write", reason="No space.")], columns=100)

    assert re.search(r"^ok fs read a\.md .*\n.*^FAILED fs write a\.md · No space\.", text, re.MULTILINE | re.DOTALL)
