"""Progress: what the person who waits is told, how often, and that it never holds the run up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from lmstudio_bridge import events
from lmstudio_bridge.messages import Notice, UserMessage
from lmstudio_bridge.runs.progress import describe, open_progress
from tests.support.fakes import ManualClock

STARTED = events.RunStarted("r1", "task", ("fs", "web"), 5, "")
NEVER = 3600.0  # seconds


class Host:
    """Takes messages; `sent` counts them, so that a test can wait for the next."""

    def __init__(self, *, error: Exception | None = None, hangs: bool = False) -> None:
        self.got: list[tuple[float, str]] = []
        self.closed = False
        self.reads = asyncio.Event()
        self._error = error
        self._hangs = hangs
        self._arrived = asyncio.Condition()

    async def send(self, counter: float, text: str) -> None:
        self.got.append((counter, text))
        async with self._arrived:
            self._arrived.notify_all()
        if self._error:
            raise self._error
        if self._hangs:
            try:
                await self.reads.wait()
            finally:
                self.closed = True

    async def wait_for(self, count: int) -> list[str]:
        """The texts, as soon as there are `count`."""
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)
        return [text for _, text in self.got]

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.got]


class Pauses:
    """The pauses between messages: each lasts until the test lets it end."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._gate = asyncio.Semaphore(0)
        self._begun = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._begun.release()
        await self._gate.acquire()

    async def begun(self) -> None:
        async with asyncio.timeout(60):
            await self._begun.acquire()

    def end(self) -> None:
        self._gate.release()

    async def next(self) -> None:
        """End this one, and wait for the next."""
        self.end()
        await self.begun()


@asynccontextmanager
async def progress(
    host: Host,
    *,
    heartbeat: float = NEVER,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    end_limit: float = NEVER,
) -> AsyncIterator[events.Emit]:
    async def no_pause(seconds: float) -> None:
        await asyncio.sleep(0)

    async with open_progress(
        host.send,
        heartbeat=heartbeat,
        interval=0.25,
        end_limit=end_limit,
        clock=clock or ManualClock(),
        sleep=sleep or no_pause,
    ) as emit:
        yield emit


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def after_a_message(host: Host, pauses: Pauses) -> AsyncIterator[events.Emit]:
    """The pause after the first message, "one"."""
    async with progress(host, sleep=pauses.sleep) as emit:
        await emit(events.Warned("one"))
        await pauses.begun()
        yield emit


# -- what is sent, and when ---------------------------------------------------------------------


async def test_run_id_is_sent_first_even_if_more_happens_at_once() -> None:
    host = Host()
    async with progress(host) as emit:
        await emit(STARTED)
        await emit(events.ServerReady("fs", 3))
        await emit(events.ServerReady("web", 1))

        texts = await host.wait_for(2)
        await settle()

    assert texts == ["run r1 · servers: fs, web", "web is ready with 1 tools"]
    assert host.texts == texts


async def test_run_id_is_not_sent_twice() -> None:
    host = Host()
    async with progress(host) as emit:
        await emit(STARTED)
        await host.wait_for(1)
        await settle()
        await emit(events.Warned("careful"))
        await host.wait_for(2)
        await settle()

    assert [text for _, text in host.got] == ["run r1 · servers: fs, web", "careful"]
    assert host.got[0][0] < host.got[1][0], "the counter increases"


async def test_only_the_newest_of_an_interval_is_sent() -> None:
    host, pauses = Host(), Pauses()
    async with after_a_message(host, pauses) as emit:
        for text in ("two", "three", "four"):
            await emit(events.Warned(text))
        await settle()
        during = host.texts
        await pauses.next()
        pauses.end()
        await settle()

    assert (during, host.texts) == (["one"], ["one", "four"])
    assert pauses.asked == [0.25, 0.25]


@pytest.mark.parametrize(
    ("event", "text"), [(events.Warned("working"), "working"), (STARTED, "run r1 · servers: fs, web")]
)
async def test_last_message_is_repeated_with_its_age_before_the_host_gives_up(event: events.Event, text: str) -> None:
    host, clock, pauses = Host(), ManualClock(), Pauses()
    async with progress(host, heartbeat=0, clock=clock, sleep=pauses.sleep) as emit:
        await pauses.begun()
        await emit(event)
        await pauses.next()
        clock.now = 15.0
        await pauses.next()

    assert host.texts == ["0 s", text, f"{text} · 15 s"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *(("x" * length, "x" * min(length, 200)) for length in (199, 200, 201, 100_000)),
        ("first\n  second\r\n\tthird", "first second third"),
    ],
    ids=["199", "200", "201", "100,000", "lines"],
)
async def test_message_is_one_line_of_200_characters_at_most(text: str, shown: str) -> None:
    host = Host()
    async with progress(host) as emit:
        await emit(events.Warned(text))
        await host.wait_for(1)

    assert host.texts == [shown]


# -- what must not be missed --------------------------------------------------------------------

RECOVERIES = [events.Noticed(Notice("recovery", f"It was lost and is back, {number}.")) for number in range(3)]


@pytest.mark.parametrize("ends", [False, True])
async def test_recovery_is_never_replaced_by_newer_messages_nor_lost_at_the_end(ends: bool) -> None:
    host, pauses = Host(), Pauses()
    async with after_a_message(host, pauses) as emit:
        for event in RECOVERIES:
            await emit(event)
        for text in ("two", "three"):
            await emit(events.Warned(text))
        for _ in range(0 if ends else 4):
            await pauses.next()

    assert host.texts == ["one", *(event.notice.text for event in RECOVERIES), *([] if ends else ["three"])]


async def test_last_recovery_waits_for_a_host_that_is_slow() -> None:
    host = Host(hangs=True)

    async def block() -> None:
        async with progress(host) as emit:
            await emit(events.Warned("one"))
            await host.wait_for(1)
            for recovery in RECOVERIES:
                await emit(recovery)

    leaving = asyncio.create_task(block())
    await host.wait_for(1)
    await settle()
    before = host.texts
    host.reads.set()
    async with asyncio.timeout(60):
        await leaving

    assert before == ["one"]
    assert host.texts == ["one", *(event.notice.text for event in RECOVERIES)]


async def test_error_leaves_the_block_as_it_is_and_nothing_more_is_sent() -> None:
    host, error = Host(), ValueError("of the block")

    async def block() -> None:
        async with after_a_message(host, Pauses()) as emit:
            await emit(RECOVERIES[0])
            raise error

    with pytest.raises(ValueError, match="of the block") as caught:
        await block()

    assert caught.value is error
    assert host.texts == ["one"]


@pytest.mark.parametrize("kind", ["loading", "queue"])
async def test_what_is_waited_for_is_not_hidden_behind_servers_that_start_meanwhile(
    kind: Literal["loading", "queue"],
) -> None:
    host, pauses = Host(), Pauses()
    async with after_a_message(host, pauses) as emit:
        await emit(events.Noticed(Notice(kind, "wait")))
        await emit(events.ServerReady("fs", 3))
        await emit(events.ServerFailed("web", "No such file."))
        await pauses.next()
        await emit(events.RoundStarted(1, 5, 3))
        await pauses.next()

    assert host.texts == ["one", "wait", "round 1/5 · reading the prompt"]


# -- a host that is slow, gone or wrong ---------------------------------------------------------


async def test_host_that_hangs_holds_nothing_up_and_is_left_at_the_end() -> None:
    host = Host(hangs=True)
    async with asyncio.timeout(60), progress(host, end_limit=0.01) as emit:
        await emit(STARTED)
        await host.wait_for(1)
        for number in range(1_000):
            await emit(events.Warned(f"{number}"))

    assert host.texts == ["run r1 · servers: fs, web"]
    assert host.closed


async def test_nothing_more_is_sent_after_a_failure() -> None:
    host = Host(error=OSError("the pipe is closed"))
    async with progress(host) as emit:
        await emit(STARTED)
        await host.wait_for(1)
        await emit(events.Warned("careful"))
        await settle()

    assert len(host.got) == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_no_task_is_left_behind(cancelled: bool) -> None:
    before = asyncio.all_tasks()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def block() -> int:
        async with progress(Host(hangs=cancelled)) as emit:
            await emit(STARTED)
            inside.set()
            await go_on.wait()
            return len(asyncio.all_tasks())

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel() if cancelled else go_on.set()
    await asyncio.wait([task])

    assert task.cancelled() if cancelled else task.result() == len(before) + 2
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "silent",
    [
        events.MessageAdded(UserMessage("x")),
        events.MessagesDropped(1),
        events.RoundFinished(1, "x", "", (), "stop", "tiny", None, 1.0),
        events.CallFinished(1, "c1", "fs", "read", "x", is_error=False, sent=True, seconds=1),
        events.AnswerChecked((), ("4831",), ""),
        events.FilesChanged("/work", ()),
    ],
)
async def test_event_that_is_not_worth_a_message_takes_no_other_ones_place(silent: events.Event) -> None:
    host, pauses = Host(), Pauses()
    async with after_a_message(host, pauses) as emit:
        await emit(events.Warned("two"))
        await emit(silent)
        pauses.end()
        await host.wait_for(2)

    assert describe(silent, max_rounds=5) == ""
    assert host.texts == ["one", "two"]


async def test_event_after_the_block_is_no_error() -> None:
    host = Host()
    async with progress(host) as emit:
        pass

    await emit(events.Warned("late"))
    await settle()

    assert host.got == []


# -- the words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (STARTED, "run r1 · servers: fs, web"),
        (events.RunStarted("r1", "task", (), 5, ""), "run r1 · servers: none"),
        (
            events.ServersChosen(("new", "odd", "fs"), ("unknown", "unknown", "for read"), ("git", "time")),
            "Starting new, odd (unknown), fs (for read); not git, time",
        ),
        (events.ServersChosen(("fs", "git"), ("for read", "for log"), ()), "Starting fs (for read), git (for log)"),
        (events.ServerReady("fs", 3), "fs is ready with 3 tools"),
        (events.ServerFailed("fs", "No such file."), "fs could not be started; going on without it"),
        (events.ModelChosen("tiny", loaded=True, context_length=None), "model tiny"),
        (events.ModelChosen("tiny", loaded=None, context_length=None), "model tiny"),
        (events.ModelChosen("tiny", loaded=False, context_length=None), "model tiny (not loaded yet)"),
        (events.MessageAdded(UserMessage("x")), ""),
        (events.RoundStarted(2, 5, 3), "round 2/5 · reading the prompt"),
        (events.RoundStarted(2, 5, 3, 2_300), "round 2/5 · reading 2,300 tokens"),
        (events.Generating(2, "thinking", 7, 0.5), "round 2/5 · thinking (7 tokens)"),
        (events.Generating(2, "answering", 100, 2.0), "round 2/5 · answering (100 tokens, 50 tok/s)"),
        (events.RoundFinished(2, "x", "", (), "stop", "tiny", None, 1.0), ""),
        (events.CallStarted(2, "c1", "fs", "read", '{"n": 1, "path": "a.txt"}'), "round 2/5 · fs: read a.txt"),
        (events.CallStarted(2, "c1", "fs", "list", "{}"), "round 2/5 · fs: list"),
        (events.CallStarted(2, "c1", "fs", "list", "no json"), "round 2/5 · fs: list"),
        (events.CallStarted(2, "c1", "fs", "list", "[]"), "round 2/5 · fs: list"),
        (events.CallStarted(2, "c1", "fs", "list", "[" * 100_000), "round 2/5 · fs: list"),
        (events.CallProgress("c1", "fs", "read", "50%"), "fs: read · 50%"),
        (events.CallFinished(2, "c1", "fs", "read", "x", is_error=False, sent=True, seconds=1), ""),
        (
            events.CallFinished(2, "c1", "fs", "read", "ENOENT", is_error=True, sent=True, seconds=1),
            "fs: read failed: ENOENT",
        ),
        (events.RetryScheduled(1, 2.4, "No connection."), "No connection. Trying again in 2 s"),
        (events.Warned("careful"), "careful"),
        (events.Noticed(Notice("queue", "2 requests are before it.")), "2 requests are before it."),
        (events.ResultsShrunk((3, 5), ("shorter", "too")), "the context is full: 2 earlier results were shortened"),
        (events.RunFinished("answered", "x", "", 1.0), "done: answered"),
    ],
)
def test_event_in_a_few_words(event: events.Event, text: str) -> None:
    assert describe(event, max_rounds=5) == text


async def test_last_call_stays_in_view_while_the_model_works() -> None:
    host, pauses = Host(), Pauses()
    long = json.dumps({"path": "x" * 200})
    async with progress(host, sleep=pauses.sleep) as emit:
        await emit(events.RoundStarted(1, 5, 3))
        await pauses.begun()
        for path, number in (('{"path": "a.md"}', 2), (long, 3)):
            await emit(events.CallStarted(number - 1, "c1", "fs", "read", path))
            await emit(events.CallFinished(number - 1, "c1", "fs", "read", "x", False, True, 0.01))
            await emit(events.Generating(number, "thinking", 7, 0.5))
            await pauses.next()

    assert host.texts == [
        "round 1/5 · reading the prompt",
        "round 2/5 · read a.md → thinking (7 tokens)",
        f"round 3/5 · read {'x' * 75}… → thinking (7 tokens)",
    ]


def test_arguments_are_described_by_their_first_text() -> None:
    arguments = json.dumps({"deep": {"x": "no"}, "list": ["no"], "query": "yes", "more": "no"})

    assert describe(events.CallStarted(1, "c", "s", "t", arguments), max_rounds=1) == "round 1/1 · s: t yes"
