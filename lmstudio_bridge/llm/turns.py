"""Turns between models, where LM Studio keeps only one of them in memory.

An LM Studio without a load route (before 0.4) loads on demand and by default unloads the earlier
model for the next one, even while it is writing (lmstudio-bug-tracker #671, #1796). Two runs that want
different models would kill each other's replies, so runs of one model go together and the others wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


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
