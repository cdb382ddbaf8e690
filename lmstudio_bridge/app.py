"""What lives as long as the server: the tool calls under way, and the service, which opens when it is needed.

A host lists the tools of its servers before anybody can ask for anything. Until then only what the list takes is
imported; the rest follows in a thread, or at once for the first call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread

from lmstudio_bridge.collector import collector_paused
from lmstudio_bridge.ending import Ending
from lmstudio_bridge.errors import BridgeError

if TYPE_CHECKING:
    from lmstudio_bridge.redaction import Redactor
    from lmstudio_bridge.service import Service
    from lmstudio_bridge.settings import Settings

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
        from lmstudio_bridge.service import open_service
    return open_service


def explain_import(exc: Exception) -> BridgeError:
    """What an incomplete installation raised when a part of the bridge was imported, for the user."""
    return BridgeError(
        f"The bridge cannot work, because a part of it could not be loaded: {type(exc).__name__}: {exc}.",
        remedy="Install lmstudio-bridge once more (uvx: `uvx --reinstall lmstudio-bridge --version`), and restart it.",
    )
