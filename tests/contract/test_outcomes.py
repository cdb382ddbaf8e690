"""What `run` prints and exits with for each way in which a run can end without what was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, HttpReply, LengthReply, ReasoningReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator
from tests.support.journals import Event, events_of, read_journal
from tests.support.shell import MODEL, Shell, configure

SERVER = Path(__file__).with_name("notes_server.py")
READ = CallReply(("notes__read_note", {"path": "a.md"}))
WRITE = CallReply(("notes__write_note", {"path": "b.md", "text": "teal"}))
FAILED_WRITE = CallReply(("notes__write_note", {"path": "missing/b.md", "text": "teal"}))
SILENT_WRITE = CallReply(("notes__write_note", {"path": "silent.md", "text": "teal"}))
DONE = TextReply("I wrote the colour into the note.")
COLOUR = TextReply("The colour is teal.")
LOOK = "Which colour does a.md name?"
CHANGE = "Write the colour into b.md."
LEAK = TextReply('I read it.\n{"name": "notes__read_note", "arguments": {"path": "a.md"}}\nResult: red\nIt is red.')


def notes(shell: Shell, *, timeout: int | None = None) -> Shell:
    entry: dict[str, Any] = {"command": sys.executable, "args": [str(SERVER), str(shell.folder / "ledger.txt")]}
    configure(shell, notes=entry if timeout is None else {**entry, "timeout": timeout})
    return shell


def ran(shell: Shell) -> list[str]:
    path = shell.folder / "ledger.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


async def do(shell: Shell, sim: Simulator, replies: Sequence[Reply], *options: str, task: str) -> tuple[int, str]:
    """Exit code, and all that was printed, by a model that gives these replies and then the last one again."""
    sim.script(MODEL, *replies[:-1])

    def last(_: SimRequest) -> Reply:
        return replies[-1]

    sim.script_fn(MODEL, last)
    code, out, err = await shell.run("run", task, "--mcp", "notes", "--access", "write", *options)
    return code, f"{out}\n{err}"


@pytest.mark.parametrize(
    ("task", "replies", "code", "shown"),
    [
        (LOOK, [READ, COLOUR], 0, "The colour is teal."),
        (CHANGE, [READ, WRITE, DONE], 0, "I wrote"),
        (
            CHANGE,
            [READ, FAILED_WRITE, DONE],
            1,
            'Nothing was changed.\nFailed: write_note missing/b.md: "no such folder"',
        ),
        (CHANGE, [READ, WRITE, FAILED_WRITE, DONE], 1, 'Failed: write_note missing/b.md: "no such folder"'),
        (CHANGE, [READ, DONE], 1, "Nothing was changed."),
        (LOOK, [READ, LEAK], 1, "The model wrote a tool call as text, also when it was asked again."),
        (LOOK, [TextReply("Let me read the note.")], 1, "The model only said what it would do next"),
        (LOOK, [READ, TextReply("The col", finish_reason="content_filter")], 1, "content filter"),
        (LOOK, [READ, ReasoningReply("So it is teal.", finish_reason="stop")], 1, "So it is teal."),
        (LOOK, [HttpReply(413, "<html>413 Request Entity Too Large</html>")], 1, "does not fit into the context"),
        (LOOK, [READ, TextReply("")], 1, "The model got stuck."),
    ],
)
async def test_exit_code_is_0_only_for_an_answer_and_the_changes_that_were_wanted(
    shell: Shell, sim: Simulator, task: str, replies: list[Reply], code: int, shown: str
) -> None:
    got, text = await do(notes(shell), sim, replies, task=task)

    assert got == code, text
    assert shown in text
    assert "is red" not in text


async def test_the_limit_of_rounds_is_no_answer(shell: Shell, sim: Simulator) -> None:
    code, text = await do(notes(shell), sim, [READ, COLOUR], "--max-rounds", "2", task=LOOK)

    assert code == 1
    assert text.startswith("Hit the round limit")


@pytest.mark.parametrize("leak", [LEAK.text, "</tool_call>", "Let me read b.md next."])
async def test_what_is_no_answer_is_none_in_the_last_round_either(shell: Shell, sim: Simulator, leak: str) -> None:
    code, text = await do(notes(shell), sim, [READ, TextReply(leak)], "--max-rounds", "2", task=LOOK)

    assert code == 1
    assert text.startswith("The model got stuck.")


async def test_a_write_that_timed_out_may_have_happened(shell: Shell, sim: Simulator) -> None:
    code, text = await do(notes(shell, timeout=1_000), sim, [SILENT_WRITE, DONE], task=CHANGE)

    assert code == 1
    assert ran(shell) == ["write_note silent.md"]
    assert text.startswith("Failed: write_note silent.md: ")
    assert "(it may have had effects)" in text.splitlines()[0]
    assert "Nothing was changed" not in text


@pytest.mark.parametrize("silent", [SILENT_WRITE, CallReply(("notes__read_note", {"path": "silent.md"}))])
async def test_a_run_that_ends_in_a_call_says_that_a_change_may_have_happened(
    shell: Shell, sim: Simulator, silent: CallReply
) -> None:
    code, text = await do(notes(shell), sim, [READ, silent], "--timeout", "4", task=CHANGE)

    assert code == 1
    assert "The run timed out" in text
    if silent is SILENT_WRITE:
        assert "Failed: write_note silent.md: no result came (it may have had effects)" in text
        assert "Nothing was changed" not in text
    else:
        assert "Failed:" not in text
        assert "Nothing was changed." in text


async def test_a_call_that_was_cut_off_is_not_done(shell: Shell, sim: Simulator) -> None:
    half = LengthReply("", ("notes__write_note", '{"path": "b.md", "text": "te'))

    code, text = await do(notes(shell), sim, [half, DONE], "--max-tokens", "16384", task=CHANGE)

    assert (code, ran(shell)) == (1, [])
    assert text.startswith("Nothing was changed.\nFailed: write_note")


# -- journals of before -----------------------------------------------------------------------------------------------

OLD_RUN = "20260101-000000-aaaaa"


def old_journal() -> list[Event]:
    """The journal of a run by version 0.1 that was killed while a call was under way."""
    first = {"type": "ToolCall", "id": "c1", "name": "notes__read_note", "arguments": '{"path": "a.md"}'}
    second = {"type": "ToolCall", "id": "c2", "name": "notes__write_note", "arguments": '{"path": "b.md"}'}
    head = {"number": 1, "server": "notes"}

    def added(kind: str, **fields: object) -> Event:
        return {"type": "MessageAdded", "message": {"type": kind, **fields}}

    def replied(number: int, call: dict[str, str]) -> Event:
        usage = {"type": "Usage", "prompt_tokens": 9, "completion_tokens": 3, "reasoning_tokens": 0}
        about = {"finish_reason": "tool_calls", "model": MODEL, "usage": usage, "seconds": 1.0}
        return {"type": "RoundFinished", "number": number, "text": "", "reasoning": "", "calls": [call], **about}

    return [
        {
            "type": "RunStarted",
            "run_id": OLD_RUN,
            "task": CHANGE,
            "servers": ["notes"],
            "max_rounds": 5,
            "access": "write",
        }
        | {"started_at": "2026-01-01T00:00:00+00:00"},
        {"type": "ServerReady", "server": "notes", "tools": 2},
        {"type": "ModelChosen", "model": MODEL, "loaded": True, "context_length": 32768},
        added("SystemMessage", text="Use tools."),
        added("UserMessage", text=CHANGE, images=[]),
        {"type": "RoundStarted", "number": 1, "max_rounds": 5, "tools_offered": 2},
        replied(1, first),
        added("AssistantMessage", text="", calls=[first]),
        {"type": "CallStarted", "call_id": "c1", "tool": "read_note", "arguments": '{"path": "a.md"}', **head},
        {"type": "CallFinished", "call_id": "c1", "tool": "read_note", "text": "The colour is teal.", **head}
        | {"is_error": False, "sent": True, "seconds": 0.1, "verdict": "allowed", "about": "", "rule": "access=write"}
        | {"digest": "0123456789abcdef", "definition": 100},
        added("ToolMessage", call_id="c1", text="The colour is teal."),
        {"type": "RoundStarted", "number": 2, "max_rounds": 5, "tools_offered": 2},
        replied(2, second),
        added("AssistantMessage", text="", calls=[second]),
        {"type": "CallStarted", "call_id": "c2", "tool": "write_note", "arguments": '{"path": "b.md"}', **head},
    ]


def keep(shell: Shell, events: list[Event]) -> Path:
    folder = shell.folder / "home" / "runs"
    folder.mkdir(parents=True)
    path = folder / f"{OLD_RUN}.jsonl"
    lines = [json.dumps({"at": "2026-01-01T00:00:00.000+00:00", **event}) for event in events]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


async def test_a_journal_of_an_earlier_version_is_shown_and_can_be_continued(shell: Shell, sim: Simulator) -> None:
    path = keep(notes(shell), old_journal())
    _, before, _ = await shell.run("runs", "show", OLD_RUN, "--json")
    sim.script(MODEL, CallReply(("notes__write_note", {"path": "b.md", "text": "teal"})), DONE)

    code, out, err = await shell.run("continue", OLD_RUN, "--access", "write")
    _, after, _ = await shell.run("runs", "show", OLD_RUN, "--json")

    assert json.loads(before)["failed"] == ["write_note: no result came (it may have had effects)"]
    assert not json.loads(before)["nothing_changed"]
    assert code == 1, err  # what became of the call that was under way is still unknown
    assert "I wrote the colour" in out
    asked = next(each for each in sim.requests if each.path == "/v1/chat/completions").messages
    assert "It may or may not have taken effect." in str(asked)
    assert json.loads(after)["sources"] == ["notes read_note", "notes write_note"]
    told = events_of(read_journal(path), "CallFinished")
    assert [(each.get("writes"), each.get("about")) for each in told] == [(None, ""), (True, "b.md")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs ulimit")
@pytest.mark.attack
async def test_a_run_whose_journal_found_no_room_keeps_its_answer_and_is_never_continued(
    shell: Shell, sim: Simulator
) -> None:
    long = CallReply(("notes__write_note", {"path": "b.md", "text": "teal " * 16_000}))
    full = replace(notes(shell), prefix=("sh", "-c", 'ulimit -f 132 && PYTHONDONTWRITEBYTECODE=1 exec "$@"', "sh"))

    code, out = await do(full, sim, [READ, long, DONE], task=CHANGE)
    run_id = next((shell.folder / "home" / "runs").glob("*.jsonl")).stem
    again, found, _ = await shell.run("continue", run_id)
    further = await shell.run("continue", run_id, "Go on.", "--access", "write")

    assert (code, "The journal cannot be written any more" in out) == (0, True), out
    assert (again, "I wrote the colour into the note." in found) == (0, True)
    assert further[0] == 1
    assert f"Run {run_id} cannot be continued: The journal cannot be written any more" in further[2]
    assert "Check what it has already changed before you start the task again." in further[2]
    assert ran(shell) == ["read_note a.md", "write_note b.md"], "nothing was done twice"
