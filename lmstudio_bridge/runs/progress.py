"""Events → short messages for the person who waits, in the host or at the terminal.

The sink never stalls the run: it keeps only the newest event, and those about recoveries. A task of its own sends them,
at most two per second, and repeats the last one before the host's idle timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import assert_never

import anyio

from lmstudio_bridge import events
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.messages import Notice
from lmstudio_bridge.text import counted, one_line, shortened

logger = logging.getLogger(__name__)

Send = Callable[[float, str], Awaitable[None]]
"""Sends one progress notification: an increasing counter, and a message."""

HEARTBEAT = 15.0  # seconds of silence; Claude Code's idle timeout is far longer, other hosts' may not be
INTERVAL = 0.5  # seconds between two messages; nobody reads faster
END_LIMIT = 10.0  # seconds to send kept messages at the end; the answer follows on the same stream
_CLOSE_TIMEOUT = 1.0  # seconds for the cancelled task to end
_MAX_KEPT = 20  # messages waiting to be sent; older ones are dropped
_SHOWN_CALL = 80  # characters of a call that is over
_IN_ROUND = (events.RoundStarted, events.Generating, events.CallStarted)
_MAX_MESSAGE = 200  # characters; Claude Code shows about as many


@asynccontextmanager
async def open_progress(
    send: Send,
    *,
    heartbeat: float = HEARTBEAT,
    interval: float = INTERVAL,
    end_limit: float = END_LIMIT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    tally: events.Tally | None = None,
) -> AsyncIterator[events.Emit]:
    """A sink for events; a task sends messages about them through `send` until the block ends.

    If `send` fails, nothing more is sent and the run goes on. Leaving the block waits at most `end_limit` seconds for a
    slow host to receive the messages that must not be missed. The figures at the end are those of `tally`, to which
    somebody else adds the events; without it, of the events that come here.
    """
    progress = _Progress(send, clock=clock, tally=tally)
    # No task group: it would wrap the errors of the block.
    task = asyncio.create_task(progress.keep_sending(heartbeat=heartbeat, interval=interval, sleep=sleep))
    try:
        yield progress.emit
        with anyio.move_on_after(end_limit):
            await progress.finish(task)
    finally:
        task.cancel()
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await asyncio.wait([task])


class _Progress:
    """What is still to be said about a run."""

    def __init__(self, send: Send, *, clock: Callable[[], float], tally: events.Tally | None) -> None:
        self._send = send
        self._clock = clock
        self._counter = itertools.count(1)
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()
        self._kept: deque[events.Event] = deque(maxlen=_MAX_KEPT)  # run id, recoveries, end: not replaced by newer ones
        self._newest: events.Event | None = None  # described only when it is sent: most are replaced before
        self._waits = False  # for the model: the servers' messages would hide that
        self._since = clock()
        self._max_rounds = 0
        self._last_call = ""
        self._tally = tally or events.Tally()
        self._adds_up = tally is None

    async def emit(self, event: events.Event) -> None:
        """Take the next event; never waits."""
        if isinstance(event, events.RoundStarted):
            self._max_rounds = event.max_rounds
        elif isinstance(event, events.CallStarted):
            self._last_call = describe_call(event)
        if self._adds_up:
            self._tally.add(event)
        if self._waits and isinstance(event, events.ServerReady | events.ServerFailed):
            return
        self._waits = isinstance(event, events.Noticed) and event.notice.kind in ("queue", "loading")
        if not describe(event):
            return
        self._since = self._clock()
        if _is_kept(event):
            self._kept.append(event)
            self._newest = None
        else:
            self._newest = event
        self._wake.set()

    async def keep_sending(
        self, *, heartbeat: float, interval: float, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Send messages, and the last one again after `heartbeat` seconds of silence; ends when sending fails."""
        shown = ""
        while True:
            try:
                async with asyncio.timeout(heartbeat):
                    await self._wake.wait()
                if self._kept:
                    text = self._words(self._kept.popleft())
                else:
                    text, self._newest = self._words(self._newest), None
                shown = text or shown
            except TimeoutError:
                text = f"{shown} · {self._clock() - self._since:.0f} s".removeprefix(" · ")
            if not (self._kept or self._newest):
                self._wake.clear()
            if text and not await self._send_safely(text):
                return
            await sleep(interval)

    async def finish(self, task: asyncio.Task[None]) -> None:
        """Send what must not be missed, in place of the task that sends otherwise."""
        async with self._sending:  # the message in progress arrives first
            gone = task.done()
            task.cancel()
        while self._kept and not gone:
            gone = not await self._send_safely(self._words(self._kept.popleft()))

    def _words(self, event: events.Event | None) -> str:
        text = describe(event, max_rounds=self._max_rounds, last_call=self._last_call) if event else ""
        if isinstance(event, events.RunFinished):
            text = f"{text} · {self._tally.outcome().figures()}"
        return " ".join(text.split())[:_MAX_MESSAGE]

    async def _send_safely(self, text: str) -> bool:
        try:
            async with self._sending:
                await self._send(next(self._counter), text)
        except Exception as exc:  # noqa: BLE001  # whatever is wrong with the host must not end the run
            logger.debug("progress is no longer sent: %s", exc)
            return False
        return True


def _is_kept(event: events.Event) -> bool:
    """Whether its message must not be missed."""
    if isinstance(event, events.Noticed):
        return event.notice.kind in ("recovery", "strategy")
    return isinstance(event, events.RunStarted | events.RunContinued | events.RunFinished | events.ServersChosen)


def describe(event: events.Event, *, max_rounds: int = 0, last_call: str = "") -> str:
    """The event in a few words, or "" if it is not worth a message.

    The round is shown if `max_rounds` is given; `last_call` stays in view while the model works.
    """
    before = f"{shortened(last_call, _SHOWN_CALL)} → " if last_call else ""
    where = f"round {event.number}/{max_rounds} · " if max_rounds and isinstance(event, _IN_ROUND) else ""
    match event:
        case events.RunStarted(run_id=run_id, servers=servers) | events.RunContinued(run_id=run_id, servers=servers):
            return f"run {run_id} · servers: {', '.join(servers) or 'none'}"
        case events.ServersChosen(left=left):
            others = f"; not {', '.join(left)}" if left else ""
            return f"Starting {', '.join(event.explained())}{others}"
        case events.ServerReady(server=server, tools=tools):
            return f"{server} is ready with {tools} tools"
        case events.ServerFailed(server=server):
            return f"{server} could not be started; going on without it"
        case events.ModelChosen(model=model, loaded=loaded):
            return f"model {model}" + (" (not loaded yet)" if loaded is False else "")
        case events.RoundStarted(tokens=tokens):
            return f"{where}{before}reading {f'{tokens:,} tokens' if tokens else 'the prompt'}"
        case events.Generating(phase=phase, pieces=pieces, seconds=seconds):
            speed = f", {pieces / seconds:.0f} tok/s" if seconds >= 1 else ""
            return f"{where}{before}{phase} ({pieces:,} token{'s' if pieces != 1 else ''}{speed})"
        case events.RoundFinished():
            return ""
        case events.CallStarted(server=server):
            return f"{where}{server}: {describe_call(event)}"
        case events.CallProgress(server=server, tool=tool, text=text):
            return f"{server}: {tool} · {text}"
        case events.CallFinished(server=server, tool=tool, is_error=True, text=text, reason=reason):
            return f"{server}: {tool} failed: {reason or text}"
        case events.RetryScheduled(wait=wait, reason=reason):
            return f"{reason} Trying again in {wait:.0f} s"
        case events.Warned(text=text) | events.JournalCut(reason=text) | events.Noticed(notice=Notice(text=text)):
            return text
        case events.ResultsShrunk(places=places):
            return f"the context is full: {len(places)} earlier results were shortened"
        case events.ItemsListed(items=items, source=source):
            return counted(len(items), "item") + (f" of {source}" if source else "")
        case events.ItemsProgress(done=done, total=total, failed=failed, running=running, doubtful=doubtful):
            parts = [
                f"{done} of {total}",
                failed and f"{failed} failed",
                doubtful and f"{doubtful} with failed calls",
                running and f"{running} at once",
                event.seconds_left and _time_left(event.seconds_left),
            ]
            return " · ".join(part for part in parts if part)
        case events.ItemsCombined(items=items, outcome=None):
            return f"Merging the answers of {counted(items, 'item')}"
        case events.RunFinished(stop=stop):
            return f"done: {events.STATES[stop][0]}"
        case (
            events.CallFinished()
            | events.MessageAdded()
            | events.MessagesDropped()
            | events.AnswerChecked()
            | events.FilesChanged()
        ):
            return ""
        case events.ItemStarted() | events.ItemFinished() | events.ItemsCombined():
            return ""
        case _:
            assert_never(event)


def describe_call(call: events.CallStarted) -> str:
    """The tool, and the argument that says most."""
    return f"{call.tool} {one_line(_first_argument(call.arguments))}".rstrip()


def _time_left(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {max(1.0, seconds):.0f} s left"


def _first_argument(arguments: str) -> str:
    """The value that says most about a call: usually a path or a query."""
    values = load_or_none(arguments)
    return next((value for value in values.values() if isinstance(value, str)), "") if isinstance(values, dict) else ""
