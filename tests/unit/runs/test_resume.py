"""The law for runs whose history shrank: the conversation is rebuilt from the journal, cut at any event."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import Limits
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.errors import ContextOverflowError, RunNotFoundError
from lmstudio_bridge.events import (
    Event,
    MessageAdded,
    MessagesDropped,
    ResultsShrunk,
    RunContinued,
    RunFinished,
    RunStarted,
    Tally,
)
from lmstudio_bridge.messages import Message, ServerTool, SystemMessage, ToolResult, UserMessage
from lmstudio_bridge.runs import resume
from lmstudio_bridge.runs.journal import Keep, open_journal, read_events
from lmstudio_bridge.security.access import Policy
from tests.support.fakes import FakeTools, Reply, ScriptedModel, call, keep_events, say

OPENING = (SystemMessage("Use tools."), UserMessage("What is in the files?"))
START = RunStarted("r1", "What is in the files?", ("fs",), 30, "2026-01-02T12:00:00+00:00")
READ = ServerTool("fs", "read", "Reads a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
FULL = ContextOverflowError("Full.")


def look(path: str) -> Reply:
    """A call whose id is that of all others: ids are unique in a turn only."""
    return call(("fs__read", f'{{"path": "{path}"}}'))


async def record(*replies: Reply, result_chars: int = 3_000) -> list[tuple[Event, tuple[Message, ...]]]:
    """Each event of a run, with the conversation as it was when the event was told."""
    conversation = Conversation(())
    told: list[tuple[Event, tuple[Message, ...]]] = []

    async def emit(event: Event) -> None:
        told.append((event, conversation.messages))

    await emit(START)
    for message in OPENING:
        conversation.add(message)
        await emit(MessageAdded(message))
    await run(
        conversation,
        model=ScriptedModel(*replies, *[say("Done.")] * 9),
        tools=FakeTools({("fs", "read"): ToolResult("x" * 2_000)}),
        tool_set=ToolSet([READ]),
        policy=Policy("write"),
        limits=Limits(30, 3_600, result_chars),
        emit=emit,
    )
    assert isinstance(told[-1][0], RunFinished)
    return told


async def rebuilt(folder: Path, events: Sequence[Event]) -> tuple[Message, ...]:
    """The conversation as a journal of these events gives it."""
    (folder / "r1.jsonl").unlink(missing_ok=True)
    keep_events(folder, "r1", *events)
    return resume.rebuild_conversation(resume.read_run(folder, "r1")).messages


async def check(folder: Path, told: list[tuple[Event, tuple[Message, ...]]]) -> None:
    for number in range(2, len(told) + 1):
        assert await rebuilt(folder, [event for event, _ in told[:number]]) == told[number - 1][1]


RUNS: dict[str, list[Reply]] = {
    "pruned": [look("a"), look("a"), look("a")],
    "shrunk": [look("a"), look("b"), look("c"), FULL],
    "shrunk, the newest in part": [look("a"), FULL],
    "shrunk twice": [look("a"), look("b"), FULL, look("c"), FULL],
    "shrunk, then pruned": [look("a"), FULL, look("a"), look("b"), look("b"), FULL, look("b"), look("c")],
    "pruned, then shrunk": [look("a"), look("a"), look("a"), look("b"), FULL, look("c"), look("d"), FULL],
}


@pytest.mark.parametrize("name", RUNS)
async def test_a_history_that_shrank_is_rebuilt_as_it_was_at_any_event(tmp_path: Path, name: str) -> None:
    told = await record(*RUNS[name])

    kinds = {type(event) for event, _ in told}
    assert (MessagesDropped in kinds, ResultsShrunk in kinds) == ("pruned" in name, "shrunk" in name)
    await check(tmp_path, told)


@settings(max_examples=25)
@given(replies=st.lists(st.sampled_from([look("a"), look("b"), FULL, say("")]), max_size=12))
async def test_any_run_is_rebuilt_from_its_end(tmp_path_factory: pytest.TempPathFactory, replies: list[Reply]) -> None:
    told = await record(*replies)

    assert await rebuilt(tmp_path_factory.mktemp("runs"), [event for event, _ in told]) == told[-1][1]


async def test_a_run_that_ended_between_its_first_two_messages_goes_on_with_its_task(tmp_path: Path) -> None:
    keep_events(tmp_path, "r1", START, MessageAdded(OPENING[0]))

    stored = resume.read_run(tmp_path, "r1")
    conversation = resume.rebuild_conversation(stored)
    for message in resume.continuation(stored, conversation, instructions="Be short."):
        conversation.add(message)

    assert conversation.messages == (OPENING[0], UserMessage("What is in the files?\n\nBe short."))


def start_of(number: int, project: str = "/p") -> RunStarted:
    return RunStarted(f"r{number}", f"Task {number}", ("fs",), 30, "2026-01-02T12:00:00+00:00", project=project)


def keep(folder: Path, number: int, *events: Event, at: int = 0) -> None:
    """A journal of these events, one a minute."""
    clock = count(at)
    keep_events(folder, f"r{number}", *events, now=lambda: datetime(2026, 1, 2, 12, next(clock), tzinfo=UTC))


DONE = RunFinished("answered", "Teal.", "", 1.0)


def test_the_last_run_of_a_project_is_the_one_that_began_or_was_continued_last(tmp_path: Path) -> None:
    keep(tmp_path, 1, start_of(1), DONE)
    keep(tmp_path, 2, start_of(2), DONE, at=2)
    keep(tmp_path, 3, start_of(3, "/other"), DONE, at=9)
    assert resume.find_last_run(tmp_path, project="/p").run_id == "r2"

    keep(tmp_path, 1, RunContinued("r1", "Again.", ("fs",), 30, ""), DONE, at=5)
    assert resume.find_last_run(tmp_path, project="/p").run_id == "r1"


def test_many_newer_runs_of_other_projects_hide_none_of_this_one(tmp_path: Path) -> None:
    for number in range(resume.MAX_RUNS + 2):
        keep(tmp_path, number, start_of(number, "/other" if number else "/p"), DONE, at=number)

    assert resume.find_last_run(tmp_path, project="/p").run_id == "r0"
    assert [each.run_id for each in resume.newest_starts(tmp_path, project="/p", most=9)] == ["r0"]
    assert next(iter(resume.newest_runs(tmp_path, most=resume.MAX_RUNS, first="/p"))).run_id == "r0"


def test_a_run_that_was_under_way_beside_the_last_one_makes_it_ambiguous(tmp_path: Path) -> None:
    keep(tmp_path, 1, start_of(1), MessageAdded(OPENING[0]))
    keep(tmp_path, 2, start_of(2), at=1)

    with pytest.raises(RunNotFoundError, match=r"- r2 \(interrupted, .*\): Task 2") as caught:
        resume.find_last_run(tmp_path, project="/p")
    assert "- r1 (interrupted, " in caught.value.message


def test_a_run_whose_journal_is_open_is_running(tmp_path: Path) -> None:
    with open_journal(tmp_path, "r1") as journal:
        journal.keep(START)
        running = resume.read_run(tmp_path, "r1")
        journal.keep(DONE)
        done = resume.read_run(tmp_path, "r1")
    keep(tmp_path, 2, start_of(2))

    assert (running.state, running.outcome.error) == ("running", "")
    assert done.state == "answered"
    assert resume.read_run(tmp_path, "r2").state == "interrupted"
    assert resume.read_run(tmp_path, "r2").outcome.error == "The bridge ended before the run did."


@pytest.mark.parametrize("keep_level", ["full", "audit"])
def test_the_newest_starts_are_those_of_one_project(tmp_path: Path, keep_level: Keep) -> None:
    for number, project in ((1, "/p"), (2, "/other"), (3, "/p"), (4, "/p")):
        keep_events(tmp_path, f"r{number}", start_of(number, project), keep=keep_level)
    (tmp_path / "r5.jsonl").write_text("{", encoding="utf-8")

    assert sorted(each.run_id for each in resume.newest_starts(tmp_path, project="/p", most=9)) == ["r1", "r3", "r4"]
    assert len(resume.newest_starts(tmp_path, project="/p", most=2)) == 2


OK = ToolResult("The colour is teal.")
LEAK = say('{"name": "fs__read", "arguments": {"path": "a"}}')
ENDS: dict[str, list[Reply]] = {
    "answered": [look("a"), say("It is teal.")],
    "a change that failed": [call(("fs__write", '{"path": "b"}')), say("I wrote it.")],
    "invalid arguments, then right ones": [call(("fs__write", "{")), look("a"), say("It is teal.")],
    "an unknown tool": [call(("fs__open", '{"path": "a"}')), say("It is teal.")],
    "a call in the text": [look("a"), *[LEAK] * 15],
    "a plan": [look("a"), *[say("Let me read b.")] * 9],
    "facts that were not read": [look("a"), say("It is 48312."), say("It is 48312.")],
    "a change without a result": [look("a"), call(("fs__write", '{"path": "never"}'))],
}


@pytest.mark.parametrize("name", ENDS)
async def test_stored_events_add_up_to_the_outcome_that_was_told(tmp_path: Path, name: str) -> None:
    answers = {("fs", "read"): OK, ("fs", "write"): None if "without" in name else ToolResult("No.", is_error=True)}
    write = ServerTool("fs", "write", "Writes.", {"type": "object", "properties": {"path": {"type": "string"}}})
    tally = Tally()
    with open_journal(tmp_path, "r1") as journal:

        async def keep(event: Event) -> None:
            journal.keep(event)

        tally.add(START)
        await keep(START)
        outcome = await run(
            Conversation(OPENING),
            model=ScriptedModel(*ENDS[name]),
            tools=FakeTools(answers),
            tool_set=ToolSet([READ, write]),
            policy=Policy("write"),
            limits=Limits(9, 0 if "without" in name else 3_600, 3_000),
            emit=keep,
            tally=tally,
        )

    rebuilt = Tally(read_events(tmp_path / "r1.jsonl")).outcome()

    assert dataclasses.asdict(rebuilt) == dataclasses.asdict(outcome)
    assert bool(outcome.failed) is ("change" in name or "unknown" in name or "invalid" in name)
