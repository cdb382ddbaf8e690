"""How many requests may be at a model at once: fair lines, also between processes of one user.

LM Studio serves `parallel` requests of an instance together and queues the rest inside, where they
fail after about 120 s and nobody sees their place. So we queue in front of it: first come, first
served within this process, and one lock file a slot between processes.

Turns between models, where LM Studio keeps only one of them in memory.

An LM Studio without a load route (before 0.4) loads on demand and by default unloads the earlier
model for the next one, even while it is writing (lmstudio-bug-tracker #671, #1796). Two runs that want
different models would kill each other's replies, so runs of one model go together and the others wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

try:
    import fcntl
except ImportError:  # Windows: only the lines within the process
    fcntl = None  # type: ignore[assignment]  # stands for "no locks between processes here"

DEFAULT_PARALLEL = 4  # slots; LM Studio's own default since 0.4
LOWERED_FOR = 60.0  # seconds for which a busy server gets fewer requests at once
_LOCK_POLL = 0.2  # seconds between looks at other processes' locks; flock cannot be awaited

OnWait: TypeAlias = Callable[[int], Awaitable[None]]
"""Told the place in the line, from 1, when it changes; 0: other processes hold all slots."""


@dataclass(slots=True, eq=False)
class _Ticket:
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: bool = False


@dataclass(slots=True)
class _Line:
    """The requests for one model: `held` are at it, the others wait in front of it."""

    slots: int = DEFAULT_PARALLEL
    lowered_to: int = 0
    lowered_until: float = float("-inf")
    held: int = 0
    locked: set[int] = field(default_factory=set)  # numbers of the lock files that this process holds
    waiting: deque[_Ticket] = field(default_factory=deque)


class SlotQueue:
    """The slots of the models of one server.

    `folder` is where processes of one user leave their lock files; None: nobody else is there.
    """

    def __init__(self, *, server: str, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._folder = folder if fcntl is not None else None
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def hold(self, model: str, *, parallel: int | None, on_wait: OnWait | None = None) -> AsyncIterator[None]:
        """One slot of `model` for as long as the block takes, after waiting in line for it.

        `parallel` is the number of slots as far as it is known now.
        """
        line = self._lines.setdefault(model, _Line())
        line.slots = parallel or line.slots
        await self._take(line, on_wait)
        try:
            async with self._lock(model, line, on_wait):
                yield
        finally:
            self._give_back(line)

    def lower(self, model: str) -> int:
        """Send one request less at a time for a while, but one at least; the new number."""
        line = self._lines.setdefault(model, _Line())
        line.lowered_to = max(1, min(self._limit(line), line.held or 1) - 1)
        line.lowered_until = self._clock() + LOWERED_FOR
        return line.lowered_to

    def waiting(self, model: str) -> int:
        """How many requests stand in line for this model."""
        return len(self._lines[model].waiting) if model in self._lines else 0

    def _limit(self, line: _Line) -> int:
        lowered = self._clock() < line.lowered_until
        return min(line.slots, line.lowered_to) if lowered else line.slots

    async def _take(self, line: _Line, on_wait: OnWait | None) -> None:
        ticket = _Ticket()
        line.waiting.append(ticket)
        self._admit(line)  # also others, if there are more slots than before
        try:
            told = 0
            while not ticket.admitted:
                place = line.waiting.index(ticket) + 1
                if on_wait and place != told:
                    told = place
                    await on_wait(place)
                    continue  # the line may have moved meanwhile
                ticket.moved.clear()
                await ticket.moved.wait()
        except BaseException:
            if ticket.admitted:
                self._give_back(line)
            else:
                line.waiting.remove(ticket)
                self._admit(line)
            raise

    def _give_back(self, line: _Line) -> None:
        line.held -= 1
        self._admit(line)

    def _admit(self, line: _Line) -> None:
        while line.waiting and line.held < self._limit(line):
            ticket = line.waiting.popleft()
            ticket.admitted = True
            line.held += 1
            ticket.moved.set()
        for ticket in line.waiting:
            ticket.moved.set()

    @asynccontextmanager
    async def _lock(self, model: str, line: _Line, on_wait: OnWait | None) -> AsyncIterator[None]:
        """One of the model's lock files, which the system frees should we die."""
        if self._folder is None:
            yield
            return
        digest = hashlib.sha256(f"{self._server}\0{model}".encode()).hexdigest()[:16]
        slots, told = self._limit(line), False
        while (lock := _lock_one(self._folder, digest, slots=slots, ours=line.locked)) is None:
            if on_wait and not told:
                told = True
                await on_wait(0)
            await asyncio.sleep(_LOCK_POLL)
        number, file = lock
        line.locked.add(number)
        try:
            yield
        finally:
            if file >= 0:
                os.close(file)
            line.locked.discard(number)


def _lock_one(folder: Path, digest: str, *, slots: int, ours: Collection[int]) -> tuple[int, int] | None:
    """Number and file descriptor of a lock file that was free; None if none is, -1 for both if there can be no locks.

    `ours` are the numbers that this process holds itself, and need not try.
    """
    try:
        for number in range(slots):
            if number in ours:
                continue
            file = _open_lock(folder, f"{digest}-{number}.lock")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            except OSError:
                os.close(file)
                raise
            else:
                return number, file
    except OSError:
        return -1, -1  # no such folder can be made, or its file system has no locks: go on without
    return None


def _open_lock(folder: Path, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    path = os.path.join(folder, name)
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


@dataclass(slots=True, eq=False)
class _Waiter:
    model: str
    may_go: asyncio.Event = field(default_factory=asyncio.Event)


class ModelTurns:
    """Who may use which model now: any number of runs, all with the same model."""

    def __init__(self) -> None:
        self._model = ""
        self._runs = 0
        self._waiting: deque[_Waiter] = deque()

    @asynccontextmanager
    async def hold(self, model: str, *, on_wait: Callable[[str], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """A turn for `model` for as long as the block takes; `on_wait` is told whose turn it is now.

        First come, first served: a run joins the current model's turn only if nobody waits.
        """
        if not self._runs or (self._model == model and not self._waiting):
            self._model = model
            self._runs += 1
        else:
            await self._wait(model, on_wait)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, model: str, on_wait: Callable[[str], Awaitable[None]] | None) -> None:
        waiter = _Waiter(model)
        self._waiting.append(waiter)
        try:
            if on_wait:
                await on_wait(self._model)
            await waiter.may_go.wait()
        except BaseException:
            if waiter.may_go.is_set():
                self._leave()
            else:
                self._waiting.remove(waiter)
                self._admit()  # those behind may now stand in front
            raise

    def _leave(self) -> None:
        self._runs -= 1
        if not self._runs and self._waiting:
            self._model = self._waiting[0].model
        self._admit()

    def _admit(self) -> None:
        """Let those in front of the line go that want the current model."""
        while self._waiting and self._waiting[0].model == self._model:
            self._waiting.popleft().may_go.set()
            self._runs += 1
