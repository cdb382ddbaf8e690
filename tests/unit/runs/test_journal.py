"""The journal, and the law: what a run amounts to can be rebuilt from its journal alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.loop import finish_run, run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.errors import ContextOverflowError, LLMError, SettingsError
from lmstudio_bridge.events import (
    AnswerChecked,
    CallFinished,
    CallProgress,
    CallStarted,
    Emit,
    Event,
    FileChange,
    FilesChanged,
    Generating,
    ItemFinished,
    ItemsCombined,
    ItemsListed,
    ItemsProgress,
    ItemStarted,
    JournalCut,
    MessageAdded,
    MessagesDropped,
    ModelChosen,
    Noticed,
    Outcome,
    ResultsShrunk,
    RetryScheduled,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    ServerFailed,
    ServerReady,
    ServersChosen,
    Tally,
    Warned,
)
from lmstudio_bridge.messages import (
    Access,
    AssistantMessage,
    Notice,
    ServerTool,
    SystemMessage,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolResult,
    Usage,
    UserMessage,
)
from lmstudio_bridge.runs.autonomous import RunRecorder
from lmstudio_bridge.runs.journal import (
    hold_journal,
    is_active,
    journal_path,
    open_journal,
    read_events,
)
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.redact import Redactor
from tests.support.fakes import (
    NEVER,
    FakeTools,
    ManualClock,
    Recorder,
    Reply,
    ScriptedModel,
    Streamed,
    call,
    keep_events,
    say,
)

LOST = "The bridge ended before the run did."
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

ALL_KINDS: list[Event] = [
    RunStarted("r1", "do\nit", ("fs", "memory"), 5, "2026-01-02T12:00:00+00:00"),
    RunContinued("r1", "and then?", ("fs",), 7, "2026-01-02T12:30:00+00:00", "read"),
    ServersChosen(("fs",), ("for read",), ("memory",)),
    ServerReady("fs", 3),
    ServerFailed("memory", "No such file: “x”"),
    ModelChosen("tiny", None, 4096),
    ModelChosen("tiny", loaded=False, context_length=None),
    MessageAdded(SystemMessage("be good")),
    MessageAdded(UserMessage("naïve ☂ \u2028 \x85 \r")),
    RoundStarted(1, 5, 3),
    RoundFinished(1, "I look.", "hm", (ToolCall("c1", "fs__read", "{}"),), "tool_calls", "tiny:2", Usage(9, 2, 1), 1.5),
    MessageAdded(AssistantMessage("I look.", (ToolCall("c1", "fs__read", "{}"),))),
    CallStarted(1, "c1", "fs", "read", "{}"),
    CallFinished(1, "c1", "fs", "read", "half a pair: \ud83d", is_error=True, sent=True, seconds=2),
    CallFinished(1, "c2", "fs", "write", "Not allowed", True, False, 0, verdict="needs_write", about="a.txt"),
    MessageAdded(ToolMessage("c1", "hello")),
    RetryScheduled(1, 2.0, "busy"),
    MessagesDropped(3),
    Noticed(Notice("loading", "It is being loaded.")),
    Noticed(Notice("recovery", "It was lost and is back.")),
    ResultsShrunk((3, 5), ("shorter", "too")),
    JournalCut("The disk is full."),
    Warned("careful"),
    RoundFinished(2, "", "", (), "stop", "", None, 0.25),
    AnswerChecked(("4781 ← notes.txt:3",), ("4831", "x"), "read 3 of 7 files in docs/"),
    FilesChanged("/work", (FileChange("a.txt", "moved", "x", "y", 1, 2, "+x", "b.txt", False),), ("c",), True),
    ItemsListed(("a.txt", "b"), "*.txt", ("fs",), "tiny", None, '{"type": "object"}'),
    ItemStarted(1),
    ItemFinished(1, Outcome("answered", "x", usage=Usage(1, 2), changes=(FileChange("a.txt", "changed"),))),
    ItemsCombined(2),
    ItemsCombined(2, Outcome("answered", "xy")),
    RunFinished("stuck", "I look.", "", 4.0),
]


def write(folder: Path, events: list[Event]) -> Path:
    return keep_events(folder, "r1", *events, now=lambda: NOON)


# -- what is kept -------------------------------------------------------------------------------


def test_every_kind_of_event_comes_back_as_it_was_told(tmp_path: Path) -> None:
    assert {type(event) for event in ALL_KINDS} == set(get_args(Event)) - {Generating, CallProgress, ItemsProgress}
    assert read_events(write(tmp_path, ALL_KINDS)) == ALL_KINDS


@pytest.mark.parametrize(
    ("told", "new", "before"),
    [
        (
            CallFinished(1, "c1", "fs", "w", "x", True, True, 1, about="a", writes=True, reason="no", is_lost=True),
            ("writes", "reason", "is_lost"),
            CallFinished(1, "c1", "fs", "w", "x", True, True, 1, about="a", writes=None, reason="", is_lost=False),
        ),
        (
            CallStarted(1, "c1", "fs", "w", "{}", "a.txt", writes=True),
            ("about", "writes"),
            CallStarted(1, "c1", "fs", "w", "{}", "", writes=None),
        ),
    ],
)
def test_what_became_of_a_call_comes_back_and_a_line_of_an_earlier_version_says_less(
    tmp_path: Path, told: Event, new: tuple[str, ...], before: Event
) -> None:
    path = write(tmp_path, [told])
    line = json.loads(path.read_text(encoding="utf-8"))
    old = tmp_path / "old.jsonl"
    old.write_text(json.dumps({key: line[key] for key in line if key not in new}), encoding="utf-8")

    assert (read_events(path), read_events(old)) == ([told], [before])


def test_one_event_is_one_line_of_json_with_its_time_and_type(tmp_path: Path) -> None:
    path = write(tmp_path, [ServerReady("fs", 3)])

    assert (
        path.read_bytes()
        == b'{"at": "2026-01-02T12:00:00.000+00:00", "type": "ServerReady", "server": "fs", "tools": 3}\n'
    )


def test_pieces_and_progress_are_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path, [Generating(1, "thinking", 1, 0.5), CallProgress("c1", "fs", "read", "50%")])

    assert path.read_bytes() == b""


async def test_event_is_on_disk_before_the_next_thing_happens(tmp_path: Path) -> None:
    with open_journal(tmp_path, "r1") as journal:
        journal.keep(Warned("careful"))

        assert read_events(journal.path) == [Warned("careful")]


async def test_secrets_do_not_reach_the_disk(tmp_path: Path) -> None:
    secret = 'hun"ter22é'
    end = RunFinished("cancelled", "", "", 1.0)
    with open_journal(tmp_path, "r1") as journal:
        run_recorder = RunRecorder(journal, None, redactor=Redactor([secret, "cancelled"]))
        for event in (
            Warned(f"bad key {secret}"),
            CallStarted(1, "c1", "fs", "login", json.dumps({"password": secret})),
            MessageAdded(AssistantMessage(secret, (ToolCall("c1", "fs__login", json.dumps({"p": secret})),))),
            RunStarted("r1", "task", (secret,), 5, ""),
            end,
        ):
            await run_recorder.tell(event)

    assert b"hun" not in journal.path.read_bytes()
    assert read_events(journal.path) == [
        Warned("bad key [secret]"),
        CallStarted(1, "c1", "fs", "login", '{"password": "[secret]"}'),
        MessageAdded(AssistantMessage("[secret]", (ToolCall("c1", "fs__login", '{"p": "[secret]"}'),))),
        RunStarted("r1", "task", ("[secret]",), 5, ""),
        end,  # its word for how it ended is ours, although it is a secret, too
    ]


# -- files --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="links are followed there")
def test_journal_that_is_a_link_is_neither_written_nor_read(tmp_path: Path) -> None:
    """In a folder that others can write to, it would lead anywhere."""
    target = tmp_path / "mine.txt"
    target.write_text("precious", encoding="utf-8")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "r1.jsonl").symlink_to(target)

    with pytest.raises(SettingsError, match="cannot be written"), open_journal(runs, "r1"):
        pass
    with pytest.raises(OSError, match=r"symbolic links|link"):
        read_events(runs / "r1.jsonl")
    assert target.read_text(encoding="utf-8") == "precious"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_only_the_owner_can_read_a_journal(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = write(tmp_path / "home" / "runs", [Warned("careful")])
    finally:
        os.umask(old)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "run_id",
    ["", ".", "..", "../r1", "a/b", "a\\b", "/etc/passwd", "C:x", "-r", ".r", "r1.jsonl", "r1\n", "r\0", "é", "a" * 65],
)
def test_run_id_that_could_be_a_path_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(SettingsError, match="Not a run id"), open_journal(tmp_path, run_id):
        pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run_id", ["r", "20260102-120000-ab1cd", "a" * 64])
def test_run_id_names_its_file(run_id: str) -> None:
    assert journal_path(Path("runs"), run_id) == Path("runs") / f"{run_id}.jsonl"


def test_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(SettingsError) as caught, open_journal(tmp_path / "file" / "runs", "r1"):
        pass

    assert caught.value.remedy == (
        "Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to, or LMSTUDIO_BRIDGE_JOURNAL=off."
    )


async def test_event_after_the_journal_was_closed_is_no_error(tmp_path: Path) -> None:
    with open_journal(tmp_path, "r1") as journal:
        pass

    journal.keep(Warned("late"))

    assert read_events(journal.path) == []


# -- hostile lines ------------------------------------------------------------------------------

OF_OTHER_VERSIONS = [
    b"",
    b'{"type": 5}',
    b'{"type": "Nonsense"}',
    b'{"type": "Usage"}',
    b'{"type": "UserMessage", "text": "no event"}',
]
HOSTILE = [
    *OF_OTHER_VERSIONS,
    b"not json",
    b"\xff\xfe\x00",
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'{"type": []}',
    b'{"type": {}}',
    b'{"type": "Warned"}',
    b'{"type": "Warned", "text": 5}',
    b'{"type": "Warned", "text": null}',
    b'{"type": "Warned", "text": ["a"]}',
    b'{"type": "ServerReady", "server": "fs", "tools": true}',
    b'{"type": "ServerReady", "server": "fs", "tools": "3"}',
    b'{"type": "MessageAdded", "message": "text"}',
    b'{"type": "MessageAdded", "message": {"type": "Warned", "text": "x"}}',
    b'{"type": "RunFinished", "stop": "won", "answer": "", "error": "", "seconds": 1}',
    b'{"type": "RunFinished", "stop": [], "answer": "", "error": "", "seconds": 1}',
    b'{"type": "RunFinished", "stop": "answered", "answer": "", "error": "", "seconds": "1"}',
    b'{"type": "RoundFinished", "number": 1, "text": "", "reasoning": "", "calls": [], "finish_reason": "", '
    b'"model": "", "usage": "x", "seconds": 1}',
    b'{"type": "RoundFinished", "number": 1, "text": "", "reasoning": "", "calls": ["x"], "finish_reason": "", '
    b'"model": "", "usage": null, "seconds": 1}',
    b'{"type": "ServerReady", "server": "fs", "tools": ' + b"9" * 5_000 + b"}",
    b"[" * 100_000,
    b'{"type":' * 100_000,
    b'{"type": "Warned", "text": ' + b"[" * 900 + b"]" * 900 + b"}",
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_line_that_is_no_event_is_passed_over_and_told(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, [Warned("before")])
    with path.open("ab") as file:
        file.write(line + b'\n{"type": "Warned", "text": "after", "unknown": 1}\n')

    events = read_events(path)

    missing = [] if line in OF_OTHER_VERSIONS else [JournalCut("Line 2 of its journal cannot be read.")]
    assert events == [Warned("before"), *missing, Warned("after")]
    assert Tally(events).outcome().warnings == ("before", *(each.reason for each in missing), "after")


def test_line_that_a_crash_cut_is_not_missed_by_the_run_that_went_on(tmp_path: Path) -> None:
    path = write(tmp_path, [Warned("before")])
    with path.open("ab") as file:
        file.write(b'{"type": "Warn')
    continued = RunContinued("r1", "", ("fs",), 5, "2026-01-02T12:00:00+00:00")
    keep_events(tmp_path, "r1", continued)

    assert read_events(path) == [Warned("before"), continued]


def test_huge_line_is_read(tmp_path: Path) -> None:
    event = Warned("x" * 5_000_000)

    assert read_events(write(tmp_path, [event])) == [event]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_no_file_makes_reading_raise(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r1.jsonl"
        path.write_bytes(content)

        Tally(read_events(path)).outcome()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(range(len(ALL_KINDS))), st.data())
def test_event_with_a_wrong_value_is_left_out_or_harmless(index: int, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder), [ALL_KINDS[index]])
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
        path.write_text(json.dumps(fields), encoding="utf-8")

        Tally(read_events(path)).outcome()


def test_missing_journal_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_events(tmp_path / "r1.jsonl")


# -- the law ------------------------------------------------------------------------------------

READ_A = '{"path": "a.txt"}'
LOOK = call(("fs__read", READ_A), text="I look.")
HELLO = ToolResult("hello")


async def run_with(
    emit: Emit,
    *replies: Reply,
    result: ToolResult | BaseException | None = HELLO,
    rounds: int = 10,
    seconds: float = 3600,
    cancel: bool = False,
    access: Access = "write",
) -> Outcome:
    """One run from its first event to its last; what it amounted to, also where it was cancelled or failed."""
    tally = Tally()

    async def tell(event: Event) -> None:
        tally.add(event)
        await emit(event)

    await tell(RunStarted("r1", "task", ("fs", "memory"), rounds, "2026-01-02T12:00:00+00:00"))
    await tell(ServerReady("fs", 1))
    await tell(ServerFailed("memory", "It is not there."))
    await tell(ModelChosen("tiny", loaded=True, context_length=4096))
    conversation = Conversation([SystemMessage("Use tools."), UserMessage("What is in a.txt?")])
    model = ScriptedModel(*replies)
    task = asyncio.create_task(
        run(
            conversation,
            model=model,
            tools=FakeTools({("fs", "read"): result}, progress=["half"]),
            tool_set=ToolSet([ServerTool("fs", "read")]),
            policy=Policy(access),
            limits=Limits(max_rounds=rounds, seconds=seconds, result_chars=1_000),
            emit=emit,
            tally=tally,
            options=RunOptions(clock=ManualClock(step=0.125)),
        )
    )
    if cancel:
        await model.waiting.wait()
        task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        assert task.result() == tally.outcome()
    return tally.outcome()


async def fail_before_the_loop(emit: Emit) -> Outcome:
    """A run that ends while its servers are opened."""
    tally = Tally()

    async def tell(event: Event) -> None:
        tally.add(event)
        await emit(event)

    await tell(RunStarted("r1", "task", (), 5, ""))
    return await finish_run(tell, tally, RunFinished("failed", "", "No such model.", 1.0))


STREAM = Streamed((TextDelta("It says hel"),))
ENDS: dict[str, Callable[[Emit], Awaitable[Outcome]]] = {
    "answered": lambda emit: run_with(emit, LOOK, say("It says hello.")),
    "answered, cut off": lambda emit: run_with(emit, say("It says hello. It also says", finish_reason="length")),
    "answered, tool failed": lambda emit: run_with(emit, LOOK, say("No."), result=ToolResult("ENOENT", is_error=True)),
    "answered, calls refused": lambda emit: run_with(emit, call(("fs__no", "{}"), ("fs__read", "[")), say("No.")),
    "answered, access refused": lambda emit: run_with(emit, LOOK, say("No."), access="read"),
    "answered with a secret": lambda emit: run_with(emit, say("The key is hunter22.")),
    "round_limit": lambda emit: run_with(emit, LOOK, LOOK, say("So far: hello."), rounds=3),
    "round_limit without a word": lambda emit: run_with(emit, LOOK, say(""), rounds=2),
    "stuck": lambda emit: run_with(emit, LOOK, say(""), say(""), say("")),
    "deadline in a call": lambda emit: run_with(emit, LOOK, result=None, seconds=0),
    "deadline in a reply": lambda emit: run_with(emit, LOOK, STREAM, seconds=0),
    "cancelled": lambda emit: run_with(emit, LOOK, NEVER, cancel=True),
    "cancelled in a reply": lambda emit: run_with(emit, LOOK, STREAM, cancel=True),
    "context_full": lambda emit: run_with(emit, LOOK, *[ContextOverflowError("Too long.") for _ in range(9)]),
    "failed": lambda emit: run_with(emit, LOOK, LLMError("No answer.", url="http://h", remedy="Look there.")),
    "failed by a fault": lambda emit: run_with(emit, LOOK, result=ZeroDivisionError()),
    "failed before the loop": fail_before_the_loop,
}


async def record(folder: Path, end: str) -> tuple[Path, Outcome, list[Event]]:
    recorder, redactor = Recorder(), Redactor(["hunter22"])
    with open_journal(folder, "r1", now=lambda: NOON) as journal:

        async def emit(event: Event) -> None:
            journal.keep(redactor.redact_fields(event))
            await recorder.emit(event)

        outcome = await ENDS[end](emit)
    return journal.path, redactor.redact_fields(outcome), recorder.events


@pytest.mark.parametrize("end", ENDS)
async def test_outcome_is_rebuilt_from_the_journal_alone(tmp_path: Path, end: str) -> None:
    path, outcome, _ = await record(tmp_path, end)

    assert outcome.stop == end.partition(",")[0].partition(" ")[0]
    assert Tally(read_events(path)).outcome() == outcome


def finished_calls(events: list[Event]) -> list[CallFinished]:
    return [event for event in events if isinstance(event, CallFinished) and event.sent and not event.is_error]


@pytest.mark.parametrize("end", ENDS)
async def test_journal_without_its_end_counts_as_failed_with_the_text_so_far(tmp_path: Path, end: str) -> None:
    path, outcome, events = await record(tmp_path, end)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    assert b'"type": "RunFinished"' in last
    path.write_bytes(b"".join(lines))

    rebuilt = Tally(read_events(path)).outcome()

    texts = [event.text for event in events if isinstance(event, RoundFinished) and event.text]
    text = Redactor(["hunter22"]).redact(texts[-1]) if texts else ""
    sources = tuple(dict.fromkeys(f"{event.server} {event.tool}" for event in finished_calls(events)))
    assert rebuilt == replace(outcome, stop="failed", answer=text, error=LOST, seconds=0.0, sources=sources)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The journal of a run that was answered."""
    path, _, _ = asyncio.run(record(tmp_path_factory.mktemp("runs"), "answered"))
    return path.read_bytes()


def read_bytes(content: bytes) -> list[Event]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r1.jsonl"
        path.write_bytes(content)
        return read_events(path)


def test_last_line_cut_at_any_byte_counts_as_not_written(answered: bytes) -> None:
    whole = read_bytes(answered)
    start = answered.rindex(b"\n", 0, -1) + 1

    cuts = [read_bytes(answered[:end]) for end in range(start, len(answered) - 1)]

    assert all(events == whole[:-1] for events in cuts)
    assert read_bytes(answered[:-1]) == whole, "only the end of the line is missing"


@given(st.data())
def test_journal_cut_at_any_byte_gives_what_was_told_until_then(answered: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(answered)))
    whole = read_bytes(answered)
    cut = answered[:end]

    events = read_bytes(cut)

    complete = cut.count(b"\n") + (answered[end : end + 1] == b"\n")
    assert events == whole[:complete]
    assert Tally(events).outcome() == Tally(whole[:complete]).outcome()


@pytest.mark.skipif(sys.platform == "win32", reason="journals are not locked there")
def test_whoever_asks_whether_a_run_is_in_progress_does_not_make_it_so(tmp_path: Path) -> None:
    with open_journal(tmp_path, "r1"):
        assert is_active(tmp_path, "r1")
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            is_active(tmp_path, "r1")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3_000):
            with hold_journal(tmp_path, "r1"):
                pass
    finally:
        done.set()
        asking.join()
