"""How the server's process ends when a signal comes: runs cancelled, journals closed, MCP servers killed.

What lives as long as the server: the tool calls under way, and the service, which opens when it is needed.

A host lists the tools of its servers before anybody can ask for anything. Until then only what the list takes is
imported; the rest follows in a thread, or at once for the first call.

What the MCP face offers, done by the agent: runs with their progress, texts to read, names to complete.

Imports all that a run needs; `app` imports it when the tools have been listed, or at first need.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

import anyio
import anyio.to_thread

from lmstudio_bridge.collector import collector_paused
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.runs.progress import Send, open_progress
from lmstudio_bridge.runs.report import MAX_RUNS, RunReport, models_text, newest_runs, run_text, runs_text, servers_text
from lmstudio_bridge.runs.request import ContinueRequest, RunRequest
from lmstudio_bridge.runs.resume import read_run
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor

    # XX
    from lmstudio_bridge.settings import Settings

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


OpenService: TypeAlias = "Callable[..., AbstractAsyncContextManager[Service]]"

logger = logging.getLogger(__name__)

WARM_UP_AFTER = 0.1  # seconds from the tools' list on; until then it is out, and the other lists that a host asks for


class App:
    """The state of a running server; use `open_app` to get one."""

    def __init__(self, ending: Ending, *, warm_up_after: float) -> None:
        self.calls: set[asyncio.Task[Any]] = ending.calls
        self._ending = ending
        self._warm_up_after = warm_up_after
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._service: asyncio.Future[Service] = asyncio.get_running_loop().create_future()

    async def service(self) -> Service:
        """The service; the first one to ask waits until it is imported and open.

        Raises:
            BridgeError: It could not be imported or opened.
        """
        self._wanted.set()
        return await asyncio.shield(self._service)  # a call that is cancelled takes it from no other

    def warm_up(self) -> None:
        """Open the service soon, so that the first call finds it open."""
        if not self._wanted.is_set():
            asyncio.get_running_loop().call_later(self._warm_up_after, self._wanted.set)

    async def own(self, settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> None:
        """Open the service when it is wanted and close it when the server ends: both in this task, as it must be."""
        await self._wanted.wait()
        if self._closing.is_set():
            return
        async with AsyncExitStack() as opened:
            try:
                open_service = await anyio.to_thread.run_sync(_import_service)
                if self._closing.is_set():
                    return
                service = await opened.enter_async_context(open_service(settings, environ=environ, redactor=redactor))
            except Exception as exc:  # whatever an incomplete installation raises: the calls wait for an answer
                # What is the user's to mend, as a file with certificates that is none, needs no traceback.
                reason = exc.explain() if isinstance(exc, BridgeError) else "a part of it could not be loaded"
                logger.error("the bridge cannot work: %s", reason, exc_info=not isinstance(exc, BridgeError))
                self._service.set_exception(exc if isinstance(exc, BridgeError) else explain_import(exc))
                self._service.exception()  # as good as read: it is logged, and told to who asks
                return
            self._ending.kill_servers = service.agent.pool.kill_all
            self._service.set_result(service)
            await self._closing.wait()

    def close(self) -> None:
        """Let the task that owns the service end."""
        self._closing.set()
        self._wanted.set()


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    redactor: Redactor,
    ending: Ending,
    warm_up_after: float = WARM_UP_AFTER,
) -> AsyncIterator[App]:
    """The app, whose service is closed when the block is left; `warm_up_after` is seconds."""
    app = App(ending, warm_up_after=warm_up_after)
    async with asyncio.TaskGroup() as tasks:
        owner = tasks.create_task(app.own(settings, environ=environ, redactor=redactor))
        try:
            yield app
        finally:
            app.close()
            with anyio.CancelScope(shield=True):  # bounded: by the imports, and by the pool's own limits
                await asyncio.wait({owner})


def _import_service() -> OpenService:
    """All that a run needs, and some tenths of a second of work. The one place where that is imported."""
    with collector_paused():
        pass  # XX
    return open_service


def explain_import(exc: Exception) -> BridgeError:
    """What an incomplete installation raised when a part of the bridge was imported, for the user."""
    return BridgeError(
        f"The bridge cannot work, because a part of it could not be loaded: {type(exc).__name__}: {exc}.",
        remedy="Install lmstudio-bridge once more (uvx: `uvx --reinstall lmstudio-bridge --version`), and restart it.",
    )


@dataclass(frozen=True, slots=True)
class Service:
    """An open agent, and what it does for a host."""

    agent: DynamicAutonomousAgent
    heartbeat: float
    """Seconds between two progress messages when nothing new happens."""

    async def run(self, request: RunRequest | ContinueRequest, *, send: Send) -> RunReport:
        """Do what is asked; `send` gets the progress.

        Raises:
            BridgeError: It could not begin or go on.
        """
        async with open_progress(send, heartbeat=self.heartbeat) as emit:
            match request:
                case RunRequest():
                    return await self.agent.execute(request, emit=emit)
                case ContinueRequest():
                    return await self.agent.continue_run(request, emit=emit)
                case _:
                    assert_never(request)

    async def models(self) -> str:
        """The models of LM Studio, as they are right now; raises LLMError."""
        return models_text(await self.agent.client.validator.catalog(refresh=True))

    def servers(self) -> str:
        """The MCP servers, which of them are open, and the rules for them; raises McpConfigError and SettingsError."""
        catalog = self.agent.configured_servers()
        permissions = self.agent.permissions(catalog.servers.values())
        return servers_text(catalog, permissions, self.agent.pool.opened())

    def runs(self) -> str:
        """The newest runs."""
        return runs_text(self.agent.runs_folder, keep=self.agent.keeps)

    def run_report(self, run_id: str) -> str:
        """The whole of one run; raises RunNotFoundError."""
        return run_text(read_run(self.agent.runs_folder, run_id))

    async def names(self, argument: str) -> list[str]:
        """What an argument of a prompt or a resource may be; raises BridgeError."""
        match argument:
            case "model":
                return [model.key for model in (await self.agent.client.validator.catalog()).chat_models()]
            case "server":
                return sorted(self.agent.configured_servers().servers)
            case "run_id":
                return [run.run_id for run in newest_runs(self.agent.runs_folder, most=MAX_RUNS)]
            case _:
                return []


@asynccontextmanager
async def open_service(settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> AsyncIterator[Service]:
    """The service with its agent; enter and leave it in the same task."""
    async with open_agent(settings, environ=environ, redactor=redactor) as agent:
        yield Service(agent, settings.heartbeat)
