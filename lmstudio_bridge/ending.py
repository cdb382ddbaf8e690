"""How the server's process ends when a signal comes: runs cancelled, journals closed, MCP servers killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_CANCEL_BUDGET = 0.25  # seconds that runs get to close their journals after a signal; Claude Code kills after 0.6
_KILLED_BUDGET = 0.1  # seconds more for runs that hung on a server, once it is killed
_END_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # by name: Windows has no SIGHUP, which a closed terminal sends


@dataclass(slots=True)
class Ending:
    """What the process must see to before it ends: the tool calls under way, and the servers that it started."""

    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    kill_servers: Callable[[], None] = lambda: None
    begun: bool = False


@contextlib.contextmanager
def signals_end(ending: Ending) -> Iterator[None]:
    """On a signal: cancel the runs, let them close their journals, kill the servers, go.

    The SDK's reader thread cannot be unblocked while stdin is open, so the process ends itself.
    Claude Code sends SIGINT, SIGTERM 0.1 s later and SIGKILL 0.5 s after that.
    """
    loop = asyncio.get_running_loop()
    enders: set[asyncio.Task[None]] = set()  # keeps the task alive; the process ends with it

    async def end(number: int) -> None:
        calls = set(ending.calls)
        for call in calls:
            call.cancel()
        for budget in (_CANCEL_BUDGET, _KILLED_BUDGET):
            if calls:
                _, calls = await asyncio.wait(calls, timeout=budget)
            ending.kill_servers()
        os._exit(128 + number)

    def on_signal(number: int) -> None:
        if not ending.begun:
            ending.begun = True
            enders.add(loop.create_task(end(number)))

    handled: list[int] = []
    for number in (getattr(signal, name) for name in _END_SIGNALS if hasattr(signal, name)):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(number, on_signal, number)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
