"""One life of one server: a task that opens the connection, keeps it and leaves it.

Who may use it, and for how long it stays open, is up to `sessions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import anyio

from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.connections import Connection, OnProgress
from lmstudio_bridge.downstream.failures import Failure
from lmstudio_bridge.errors import SessionLostError, ToolTimeoutError
from lmstudio_bridge.messages import ServerTool, ToolResult

logger = logging.getLogger(__name__)

CLOSE_LIMIT = 3.0  # seconds; a child process takes about one, an HTTP server is told with one request
SILENCE = 60.0  # seconds without a sign of life, after which a server is asked for one before it is used again
PING_LIMIT = 5.0  # seconds for that


class Session:
    """One life of one server.

    Its owner task opens and leaves the connection, because anyio wants both in the same task. Calls
    go straight to the connection, from any task.
    """

    def __init__(
        self,
        config: ServerConfig,
        connection: Connection,
        *,
        start_timeout: float,
        ping_limit: float,
        clock: Callable[[], float],
        predecessors: Collection[Session],
    ) -> None:
        self.config = config
        self.closed = asyncio.Event()
        self._connection = connection
        self._start_timeout = start_timeout
        self._ping_limit = ping_limit
        self._clock = clock
        self._predecessors = predecessors
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()  # ready, or failed
        self._stopped = asyncio.Event()
        self._retired = False
        self._failure: Failure | None = None  # why it did not start
        self._calls = 0  # calls under way
        self._heard_at = clock()  # when the server last showed that it lives
        self._checking = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """Whether it is starting or ready, and takes new calls."""
        return not (self._failure or self._retired or self._stopped.is_set() or self._connection.lost)

    async def wait_ready(self) -> None:
        """Wait until it is open; a cancelled waiter disturbs neither the others nor the start.

        Raises:
            ServerStartError: it did not start.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure.start_error(self.config.name)

    async def fetch_tools(self) -> tuple[ServerTool, ...]:
        """See `Connection.fetch_tools`; a server that has been silent for long must show first that it lives.

        Raises:
            SessionLostError: the server has gone, or does not answer any more.
        """
        try:
            await self._check()
            return await self._connection.fetch_tools(seconds=self._start_timeout)
        except SessionLostError:
            self.retire()
            raise

    async def call_tool(
        self, tool: str, arguments: Mapping[str, Any], *, seconds: float, on_progress: OnProgress | None
    ) -> ToolResult:
        """See `Lease.call_tool`."""
        self._calls += 1
        try:
            # Not the SDK's own timeout: its error code is one that a server may send as well.
            async with asyncio.timeout(seconds):
                result = await self._connection.call_tool(tool, arguments, on_progress=on_progress)
            self._heard_at = self._clock()
            return result
        except TimeoutError as exc:
            raise ToolTimeoutError(
                f"Tool '{tool}' of MCP server '{self.config.name}' gave no result within {seconds:g} seconds; "
                "the server was told to cancel it.",
                server=self.config.name,
                remedy="If it needs longer, set `timeout` (milliseconds) in the server's entry.",
            ) from exc
        except SessionLostError:
            self._retired = True
            raise
        finally:
            self._calls -= 1
            if self._retired and not self._calls:
                self.stop()

    def retire(self) -> None:
        """Take no more calls, and end after those that are under way."""
        self._retired = True
        if not self._calls:
            self.stop()

    def stop(self) -> None:
        """End now."""
        self._stopped.set()
        if not self._settled.is_set():
            self._scope.cancel()

    async def own(self, on_end: Callable[[], None]) -> None:
        """Open the connection, keep it, close it; never raises, or it would take the whole pool down."""
        try:
            with self._scope:
                await self._wait_for_predecessors()
                await self._keep_open()
        except Exception as exc:  # whatever a server does must end here
            if self._settled.is_set():
                logger.info("MCP server %s %s", self.config.name, self._connection.loss.reason, exc_info=exc)
            else:
                self._failure = self._explain(exc)
                logger.info("MCP server %s %s", self.config.name, self._failure.reason, exc_info=exc)
        finally:
            if not self._settled.is_set():
                self._failure = self._failure or Failure("was closed before it was ready")
            self._stopped.set()
            self._settled.set()
            self.closed.set()
            on_end()

    async def _check(self) -> None:
        """Ask for a sign of life after a long silence; a server with calls under way may be too busy for one."""
        async with self._checking:
            if self._calls or self._clock() - self._heard_at < SILENCE:
                return
            if await self._connection.ping(seconds=self._ping_limit) or self._calls:
                self._heard_at = self._clock()
                return
        raise Failure("does not answer any more").lost_error(self.config.name, "ping")

    def _explain(self, exc: Exception) -> Failure:
        try:
            return self._connection.explain(exc, seconds=self._start_timeout)
        except Exception:  # nothing may leave the owner task, not even a fault in our search for words
            logger.exception("the failure of MCP server %s cannot be explained", self.config.name)
            return Failure(f"could not be started ({type(exc).__name__})")

    async def _wait_for_predecessors(self) -> None:
        """Two processes of one server would fight for its files; but calls under way may take their time."""
        with anyio.move_on_after(CLOSE_LIMIT):
            for predecessor in self._predecessors:
                await predecessor.closed.wait()
        self._predecessors = ()

    async def _keep_open(self) -> None:
        async with asyncio.timeout(self._start_timeout) as limit, self._connection.open():
            limit.reschedule(None)
            self._heard_at = self._clock()
            self._settled.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_when_lost)
                await self._stopped.wait()
                tasks.cancel_scope.cancel()
            limit.reschedule(asyncio.get_running_loop().time() + CLOSE_LIMIT)

    async def _stop_when_lost(self) -> None:
        await self._connection.ended.wait()
        self._stopped.set()
