"""What lives as long as the server: the agent, and the tool calls in progress; shutdown on a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

if TYPE_CHECKING:
    from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent
    from lmstudio_bridge.server.approval import HostedRun

logger = logging.getLogger(__name__)

_CANCEL_BUDGET = 0.25  # seconds that runs get to close their journals after a signal; Claude Code kills after 0.6
_KILL_BUDGET = 0.1  # seconds more for runs that were waiting for a server that is now killed
_SHUTDOWN_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # by name: Windows has no SIGHUP, which a closed terminal sends


class App:
    """The state of a running server; use `open_app` to get one."""

    def __init__(self) -> None:
        self.calls: set[asyncio.Task[Any]] = set()
        self.asking: dict[str, HostedRun] = {}  # runs with a question, by the `request_state` that the answer has
        self._agent: asyncio.Future[DynamicAutonomousAgent] = asyncio.get_running_loop().create_future()
        self.closing = asyncio.Event()  # lets the task that owns the agent close it
        self._shutdown: asyncio.Task[None] | None = None

    async def agent(self) -> DynamicAutonomousAgent:
        """The agent, once it is open.

        Raises:
            BridgeError: It could not be imported or opened.
        """
        return await asyncio.shield(self._agent)  # a canceled call must not cancel the future for the others

    async def own_agent(self, settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> None:
        """Open the agent, and close it in the same task when the server ends."""

        def opener() -> AbstractAsyncContextManager[DynamicAutonomousAgent]:
            # Imported here, in a thread: a host lists the tools first, and this takes a third of the start.
            from lmstudio_bridge.runs.autonomous import open_agent

            return open_agent(settings, environ=environ, redactor=redactor)

        try:
            async with await anyio.to_thread.run_sync(opener) as agent:
                self._agent.set_result(agent)
                await self.closing.wait()
        except Exception as exc:  # an incomplete installation can raise anything; every call is told
            if self._agent.done():
                raise
            expected = isinstance(exc, BridgeError)  # for example, an invalid CA file: the user's to fix
            logger.error("the bridge cannot start: %s", exc, exc_info=not expected)
            self._agent.set_exception(exc if expected else incomplete_installation(exc))
            self._agent.exception()  # logged above, so asyncio need not complain that nobody retrieved it

    @contextmanager
    def shutdown_on_signals(self) -> Iterator[None]:
        """On a signal: cancel the runs, let them close their journals, kill the MCP servers, exit.

        The process exits by itself, because the SDK's thread that reads stdin cannot be interrupted. Claude Code
        sends SIGINT, SIGTERM 0.1 s later and SIGKILL 0.5 s after that, and leaves stdin open.
        """
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if self._shutdown is None:
                self._shutdown = loop.create_task(self._exit(128 + number))

        handled: list[int] = []
        for number in (getattr(signal, name) for name in _SHUTDOWN_SIGNALS if hasattr(signal, name)):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
                loop.add_signal_handler(number, on_signal, number)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def _exit(self, code: int) -> None:
        calls = set(self.calls)
        for call in calls:
            call.cancel()
        for budget in (_CANCEL_BUDGET, _KILL_BUDGET):
            if calls:
                _, calls = await asyncio.wait(calls, timeout=budget)
            if self._agent.done() and not self._agent.exception():
                self._agent.result().pool.kill_all()
        os._exit(code)


@asynccontextmanager
async def open_app(settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> AsyncIterator[App]:
    """The app; its agent opens in the background, and is closed when the block is left."""
    app = App()
    # Signals are handled to the very end: MCP servers get a second to exit after EOF, and one may come then.
    with app.shutdown_on_signals():
        async with asyncio.TaskGroup() as tasks:
            owner = tasks.create_task(app.own_agent(settings, environ=environ, redactor=redactor))
            try:
                yield app
            finally:
                with anyio.CancelScope(shield=True):  # bounded by the import and by the pool's own limits
                    for call in app.calls:  # of runs whose question nobody answered; the SDK has ended the others
                        call.cancel()
                    if app.calls:
                        await asyncio.wait(app.calls, timeout=_CANCEL_BUDGET)
                    app.closing.set()
                    await asyncio.wait({owner})


def incomplete_installation(exc: Exception) -> BridgeError:
    """The error to show where a part of the bridge could not be imported."""
    return BridgeError(
        f"The bridge cannot work because part of it could not be loaded: {type(exc).__name__}: {exc}.",
        remedy="Reinstall lmstudio-bridge (with uvx: `uvx --reinstall lmstudio-bridge --version`) and restart it.",
    )
