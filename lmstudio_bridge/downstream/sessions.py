"""Sessions with the user's other MCP servers: opened on first use, shared, and reopened when lost.

Here is how long a session lives and who may use it; `connections` speaks MCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.connections import Connection, OnProgress
from lmstudio_bridge.downstream.content import plain_arguments
from lmstudio_bridge.downstream.environment import build_environment
from lmstudio_bridge.downstream.failures import Failure
from lmstudio_bridge.downstream.processes import ChildProcesses
from lmstudio_bridge.errors import DownstreamError, ServerNotConfiguredError, SessionLostError, ToolTimeoutError
from lmstudio_bridge.messages import ServerTool, ToolResult

logger = logging.getLogger(__name__)

CLOSE_LIMIT = 3.0  # seconds; a child process takes about one, an HTTP server is told with one request


@asynccontextmanager
async def open_pool(
    *,
    project: Path,
    environ: Mapping[str, str],
    start_timeout: float,
    call_timeout: float,
    pass_env: Iterable[str] = (),
) -> AsyncIterator[SessionPool]:
    """A pool whose sessions and child processes end when the block is left, within a few seconds.

    Both timeouts are seconds. Of `environ` the servers get a small base, and what `pass_env` names.
    Enter and leave it in the same task; its methods may be called from any.
    """
    children = ChildProcesses()
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            pool = SessionPool(
                tasks,
                children,
                project=project,
                environ=build_environment(environ, passed=pass_env),
                start_timeout=start_timeout,
                call_timeout=call_timeout,
            )
            try:
                yield pool
            except Exception as exc:  # noqa: BLE001  # raised again below: the task group would wrap it
                failure = exc
            finally:
                pool.close()
    finally:
        children.kill_all()
    if failure is not None:
        raise failure


class SessionPool:
    """At most one session for each configured server; use `open_pool` to get one."""

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        children: ChildProcesses,
        *,
        project: Path,
        environ: Mapping[str, str],
        start_timeout: float,
        call_timeout: float,
    ) -> None:
        self._tasks = tasks
        self._children = children
        self._project = project
        self._environ = environ
        self._start_timeout = start_timeout
        self._call_timeout = call_timeout
        self._sessions: dict[str, _Session] = {}
        self._closing = False

    async def open_server(self, config: ServerConfig) -> tuple[ServerTool, ...]:
        """The server's tools; it is started first if it does not run, or runs with another configuration.

        Raises:
            ServerStartError: it did not start, or did not list its tools within the start timeout.
        """
        session = self._session_for(config)
        await session.wait_ready()
        try:
            return await session.fetch_tools()
        except SessionLostError:  # nobody had noticed yet: to list tools again has no effects
            session = self._session_for(config)
            await session.wait_ready()
            return await session.fetch_tools()

    async def open_servers(
        self, configs: Iterable[ServerConfig]
    ) -> dict[str, tuple[ServerTool, ...] | DownstreamError]:
        """The tools of each server, or why it cannot be used; all are opened at the same time."""
        outcomes: dict[str, tuple[ServerTool, ...] | DownstreamError] = {}

        async def open_one(config: ServerConfig) -> None:
            try:
                outcomes[config.name] = await self.open_server(config)
            except DownstreamError as exc:
                outcomes[config.name] = exc

        async with anyio.create_task_group() as tasks:
            for config in configs:
                outcomes[config.name] = ()  # keeps the order of the configurations
                tasks.start_soon(open_one, config)
        return outcomes

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> ToolResult:
        """Call a tool of a server that `open_server` has opened; a lost session is opened again first.

        `timeout` is seconds; without one the server's own applies, else the pool's. A call is never
        sent twice. An error that the tool or the server reports is a result with `is_error`.

        Raises:
            SessionLostError: the server went away; the call may or may not have had effects.
            ToolTimeoutError: no result in time; the server was told to cancel.
            ServerStartError: the session was lost before, and the server did not start again.
        """
        known = self._sessions.get(server)
        if known is None:
            raise ServerNotConfiguredError(
                f"MCP server '{server}' has not been opened.", server=server, configured=tuple(self._sessions)
            )
        try:
            plain = plain_arguments(arguments)
        except (TypeError, ValueError) as exc:
            return ToolResult(f"These arguments cannot be sent as JSON: {exc}", is_error=True)
        session = self._session_for(known.config)
        await session.wait_ready()
        seconds = timeout or known.config.timeout or self._call_timeout
        return await session.call_tool(tool, plain, seconds=seconds, on_progress=on_progress)

    def kill_all(self) -> None:
        """Kill all child processes at once, for a signal handler; the pool starts nothing any more."""
        self._closing = True
        self._children.kill_all()

    def close(self) -> None:
        """Let all sessions end; `open_pool` waits for them."""
        self._closing = True
        for session in self._sessions.values():
            session.stop()

    def _session_for(self, config: ServerConfig) -> _Session:
        """The session to use for this configuration: the one that there is, or a new one."""
        current = self._sessions.get(config.name)
        if current is not None and current.usable and current.config == config:
            return current
        if self._closing:
            raise Failure("was not started: the bridge is shutting down").start_error(config.name)
        if current is not None:
            current.retire()
        session = _Session(
            config,
            Connection(config, children=self._children, project=self._project, environ=self._environ),
            start_timeout=self._start_timeout,
            predecessor=current,
        )
        self._sessions[config.name] = session
        self._tasks.start_soon(session.own, name=f"MCP server {config.name}")
        return session


class _Session:
    """One life of one server.

    Its owner task opens and leaves the connection, because anyio wants both in the same task. Calls
    go straight to the connection, from any task.
    """

    def __init__(
        self, config: ServerConfig, connection: Connection, *, start_timeout: float, predecessor: _Session | None
    ) -> None:
        self.config = config
        self.closed = asyncio.Event()
        self._connection = connection
        self._start_timeout = start_timeout
        self._predecessor = predecessor
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()  # ready, or failed
        self._stopped = asyncio.Event()
        self._retired = False
        self._failure: Failure | None = None  # why it did not start
        self._calls = 0  # calls under way

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
        """See `Connection.fetch_tools`.

        Raises:
            SessionLostError: the server has gone.
        """
        try:
            return await self._connection.fetch_tools(seconds=self._start_timeout)
        except SessionLostError:
            self.retire()
            raise

    async def call_tool(
        self, tool: str, arguments: Mapping[str, Any], *, seconds: float, on_progress: OnProgress | None
    ) -> ToolResult:
        """See `SessionPool.call_tool`."""
        self._calls += 1
        try:
            # Not the SDK's own timeout: its error code is one that a server may send as well.
            async with asyncio.timeout(seconds):
                return await self._connection.call_tool(tool, arguments, on_progress=on_progress)
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

    async def own(self) -> None:
        """Open the connection, keep it, close it; never raises, or it would take the whole pool down."""
        try:
            with self._scope:
                await self._wait_for_predecessor()
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

    def _explain(self, exc: Exception) -> Failure:
        try:
            return self._connection.explain(exc, seconds=self._start_timeout)
        except Exception:  # nothing may leave the owner task, not even a fault in our search for words
            logger.exception("the failure of MCP server %s cannot be explained", self.config.name)
            return Failure(f"could not be started ({type(exc).__name__})")

    async def _wait_for_predecessor(self) -> None:
        """Two processes of one server would fight for its files; but calls under way may take their time."""
        if self._predecessor is not None:
            with anyio.move_on_after(CLOSE_LIMIT):
                await self._predecessor.closed.wait()
            self._predecessor = None

    async def _keep_open(self) -> None:
        async with asyncio.timeout(self._start_timeout) as limit, self._connection.open():
            limit.reschedule(None)
            self._settled.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_when_lost)
                await self._stopped.wait()
                tasks.cancel_scope.cancel()
            limit.reschedule(asyncio.get_running_loop().time() + CLOSE_LIMIT)

    async def _stop_when_lost(self) -> None:
        await self._connection.ended.wait()
        self._stopped.set()
