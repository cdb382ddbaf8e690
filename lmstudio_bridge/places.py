"""Places for runs: so many are under way at once, some more wait in line, and the rest is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from lmstudio_bridge.errors import BridgeError

MAX_WAITING = 100  # runs in line; who comes later would wait longer than anybody does


class RunPlaces:
    """The places of one process."""

    def __init__(self, places: int, *, max_waiting: int = MAX_WAITING) -> None:
        self._places = places
        self._max_waiting = max_waiting
        self._waiting = 0
        self._free = anyio.Semaphore(places)  # first come, first served

    @asynccontextmanager
    async def hold(self, *, on_wait: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
        """A place for as long as the block takes; `on_wait` is told once, in words, if none is free.

        Raises:
            BridgeError: The line is full.
        """
        try:
            self._free.acquire_nowait()
        except anyio.WouldBlock:
            await self._wait(on_wait)
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self, on_wait: Callable[[str], Awaitable[None]]) -> None:
        if self._waiting >= self._max_waiting:
            raise BridgeError(
                f"{self._under_way()} and {self._waiting} wait, so this one was not started.",
                remedy="Ask again when some have ended. LMSTUDIO_BRIDGE_MAX_RUNS sets how many may be under way.",
            )
        self._waiting += 1
        try:
            before = f", {self._waiting - 1} in line before this one" if self._waiting > 1 else ""
            await on_wait(f"waiting for a free place: {self._under_way()}{before}")
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def _under_way(self) -> str:
        return f"{self._places} runs are under way" if self._places > 1 else "another run is under way"
