"""Slots of a model, and turns between models: fair queues in front of LM Studio.

LM Studio handles `parallel` requests of an instance together and queues the rest inside, where they
fail after about 120 s and nobody sees their position. So requests queue here: first come, first
served within this process, and one lock file per slot between the processes of one user.

An LM Studio without a load route (before 0.4) loads on demand and by default unloads the earlier
model for the next one, even while it is writing (lmstudio-bug-tracker #671, #1796). Two runs that want
different models would end each other's replies, so runs of one model go together and the others wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import filelock

DEFAULT_PARALLEL = 4  # slots; LM Studio's own default since 0.4
LOWERED_FOR = 60.0  # seconds for which a busy server gets fewer requests at once
_LOCK_POLL = 0.2  # seconds between attempts to lock a file that another process holds

OnWait: TypeAlias = Callable[[int], Awaitable[None]]
"""Gets the position in the queue, from 1, when it changes; 0 means that other processes hold all slots."""


@dataclass(slots=True, eq=False)
class _Request:
    """A request that waits for a slot."""

    moved: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: bool = False


@dataclass(slots=True)
class _Line:
    """The requests for one model: `held` have a slot, the others wait."""

    slots: int = DEFAULT_PARALLEL
    lowered_to: int = 0
    lowered_until: float = float("-inf")
    held: int = 0
    waiting: deque[_Request] = field(default_factory=deque)
    locks: list[filelock.BaseFileLock] = field(default_factory=list)  # of the files, by number


class SlotQueue:
    """The slots of the models of one server.

    `folder` holds the lock files that the processes of one user share; None means that there are none.
    """

    def __init__(self, *, server: str, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._folder = folder
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def hold(self, model: str, *, parallel: int | None, on_wait: OnWait | None = None) -> AsyncIterator[None]:
        """Hold one slot of `model` during the block, after waiting for it.

        `parallel` is the number of slots as far as it is known now.
        """
        line = self._lines.setdefault(model, _Line())
        line.slots = parallel or line.slots
        await self._acquire(line, on_wait)
        try:
            lock = await self._lock_file(model, line, on_wait)
            try:
                yield
            finally:
                if lock is not None:
                    lock.release()
        finally:
            self._release(line)

    def lower(self, model: str) -> int:
        """Allow one request less at a time for a while, but at least one; returns the new number."""
        line = self._lines.setdefault(model, _Line())
        line.lowered_to = max(1, min(self._limit(line), line.held or 1) - 1)
        line.lowered_until = self._clock() + LOWERED_FOR
        return line.lowered_to

    def waiting(self, model: str) -> int:
        return len(self._lines[model].waiting) if model in self._lines else 0

    def _limit(self, line: _Line) -> int:
        lowered = self._clock() < line.lowered_until
        return min(line.slots, line.lowered_to) if lowered else line.slots

    async def _acquire(self, line: _Line, on_wait: OnWait | None) -> None:
        request = _Request()
        line.waiting.append(request)
        self._admit(line)  # others too, if there are more slots than before
        try:
            told = 0
            while not request.admitted:
                position = line.waiting.index(request) + 1
                if on_wait and position != told:
                    told = position
                    await on_wait(position)
                    continue  # the queue may have moved meanwhile
                request.moved.clear()
                await request.moved.wait()
        except BaseException:
            if request.admitted:
                self._release(line)
            else:
                line.waiting.remove(request)
                self._admit(line)
            raise

    def _release(self, line: _Line) -> None:
        line.held -= 1
        self._admit(line)

    def _admit(self, line: _Line) -> None:
        while line.waiting and line.held < self._limit(line):
            request = line.waiting.popleft()
            request.admitted = True
            line.held += 1
            request.moved.set()
        for request in line.waiting:
            request.moved.set()

    async def _lock_file(self, model: str, line: _Line, on_wait: OnWait | None) -> filelock.BaseFileLock | None:
        """Lock one of the model's files, which the system unlocks should this process die.

        None means that there can be no locks: the folder cannot be made, or its file system has none.
        """
        if self._folder is None:
            return None
        digest = hashlib.sha256(f"{self._server}\0{model}".encode()).hexdigest()[:16]
        told = False
        while True:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for number in range(self._limit(line)):
                    if number == len(line.locks):  # made once: it takes half a millisecond
                        path = self._folder / f"{digest}-{number}.lock"
                        # A soft lock would stay behind if this process died.
                        line.locks.append(
                            filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)
                        )
                    lock = line.locks[number]
                    if lock.is_locked:  # by another request of this process
                        continue
                    with suppress(filelock.Timeout):
                        lock.acquire(blocking=False)
                        return lock
            except (OSError, NotImplementedError):
                return None
            if on_wait and not told:
                told = True
                await on_wait(0)
            await asyncio.sleep(_LOCK_POLL)


@dataclass(slots=True, eq=False)
class _Run:
    """A run that waits for its model's turn."""

    model: str
    may_go: asyncio.Event = field(default_factory=asyncio.Event)


class ModelTurns:
    """Which model runs may use now: any number of runs, all with the same model."""

    def __init__(self) -> None:
        self._model = ""
        self._runs = 0
        self._waiting: deque[_Run] = deque()

    @asynccontextmanager
    async def hold(self, model: str, *, on_wait: Callable[[str], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Hold a turn for `model` during the block; `on_wait` gets the model whose turn it is now.

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
        run = _Run(model)
        self._waiting.append(run)
        try:
            if on_wait:
                await on_wait(self._model)
            await run.may_go.wait()
        except BaseException:
            if run.may_go.is_set():
                self._leave()
            else:
                self._waiting.remove(run)
                self._admit()  # the next may now be first
            raise

    def _leave(self) -> None:
        self._runs -= 1
        if not self._runs and self._waiting:
            self._model = self._waiting[0].model
        self._admit()

    def _admit(self) -> None:
        """Admit the first in the queue as long as they want the current model."""
        while self._waiting and self._waiting[0].model == self._model:
            self._waiting.popleft().may_go.set()
            self._runs += 1
