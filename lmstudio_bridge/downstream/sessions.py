"""Sessions with the user's other MCP servers: opened on first use, shared, and reopened when lost.

The only module that imports the MCP client. What servers send is read by `content`, what goes
wrong is put into words by `failures`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias, assert_never
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx2
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    encode_header_value,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    jsonrpc_message_adapter,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from lmstudio_bridge import __version__
from lmstudio_bridge.downstream import failures
from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.content import plain_arguments, read_progress, read_result, read_tools
from lmstudio_bridge.downstream.failures import Failure
from lmstudio_bridge.downstream.processes import ChildProcess, ChildProcesses, build_environment
from lmstudio_bridge.errors import DownstreamError, ServerNotConfiguredError, ToolTimeoutError
from lmstudio_bridge.messages import ServerTool, ToolResult

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[str], Awaitable[None]]
_Streams: TypeAlias = tuple[Any, Any]
"""What the SDK's transports yield: a stream to read messages from, and one to write them to."""

MAX_PAGES = 100  # pages of one tools/list
MAX_EVENT = 64 * 1024 * 1024  # bytes of one event over HTTP, as in one line over stdio
HTTP_TIMEOUT = 30.0  # seconds to connect or to send; reading is bounded by the timeout of each call
CLOSE_LIMIT = 3.0  # seconds; a child process takes about one, an HTTP server is told with one request
EXIT_GRACE = 0.5  # seconds that a server which closed its output has to end, so that we can say how

_CLIENT_INFO = {"name": "lmstudio-bridge", "version": __version__}

_statuses: ContextVar[list[int] | None] = ContextVar("statuses", default=None)
"""The HTTP statuses that answered the requests of the current call.

The SDK turns them all into the same JSON-RPC errors, but it sends each message in the context of
the task that wrote it.
"""


@asynccontextmanager
async def open_pool(
    *, project: Path, environ: Mapping[str, str], start_timeout: float, call_timeout: float
) -> AsyncIterator[SessionPool]:
    """A pool whose sessions and child processes end when the block is left, within a few seconds.

    Both timeouts are seconds. Enter and leave it in the same task; its methods may be called from any.
    """
    children = ChildProcesses()
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            pool = SessionPool(
                tasks,
                children,
                project=project,
                environ=environ,
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
        except MCPError:  # it died since; what it takes to open it is taken once more
            session = self._session_for(config)
            await session.wait_ready()
            return session.tools

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
                outcomes[config.name] = ()
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
        if timeout is None:
            timeout = known.config.timeout or self._call_timeout
        return await session.call(tool, plain, timeout=timeout, on_progress=on_progress)

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
            self._children,
            project=self._project,
            environ=self._environ,
            start_timeout=self._start_timeout,
            predecessor=current,
        )
        self._sessions[config.name] = session
        self._tasks.start_soon(session.own, name=f"MCP server {config.name}")
        return session


class _Session:
    """One life of one server.

    Its owner task enters and leaves the transport: anyio allows that in one and the same task only.
    Requests may be sent from any task; they end when the session does.
    """

    def __init__(
        self,
        config: ServerConfig,
        children: ChildProcesses,
        *,
        project: Path,
        environ: Mapping[str, str],
        start_timeout: float,
        predecessor: _Session | None,
    ) -> None:
        self.config = config
        self.tools: tuple[ServerTool, ...] = ()
        self._children = children
        self._project = project
        self._environ = environ
        self._start_timeout = start_timeout
        self._predecessor = predecessor
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()  # ready, or failed
        self._stopped = asyncio.Event()
        self._closed = asyncio.Event()
        self._ready = False
        self._retired = False
        self._failure: Failure | None = None
        self._ending = ""  # how a child process ended by itself
        self._child: ChildProcess | None = None
        self._statuses: list[int] = []
        self._dispatcher: JSONRPCDispatcher | None = None
        self._version = LATEST_HANDSHAKE_VERSION
        self._stale = True
        self._listing = asyncio.Lock()
        self._calls = 0  # calls under way

    @property
    def usable(self) -> bool:
        """Whether it is starting or ready, and takes new calls."""
        return not (self._failure or self._ending or self._retired or self._stopped.is_set())

    async def wait_ready(self) -> None:
        """Wait until it is open; a cancelled waiter does not disturb the others, or the start.

        Raises:
            ServerStartError: it did not start.
        """
        await self._settled.wait()
        if not self._ready and self._failure is not None:
            raise self._failure.start_error(self.config.name)

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

    # The owner task.

    async def own(self) -> None:
        """Open the session, keep it, close it; never raises, or it would take the pool down with it."""
        _statuses.set(self._statuses)
        try:
            with self._scope:
                if self._predecessor is not None:
                    await self._predecessor._closed.wait()
                    self._predecessor = None
                await self._run()
        except Exception as exc:  # whatever a server does must end here
            self._failure = self._explain(exc)
            logger.info("MCP server %s %s", self.config.name, self._failure.reason, exc_info=exc)
        finally:
            if self._failure is None:
                self._failure = Failure(self._ending or "was closed")
            self._settled.set()
            self._closed.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        async with (
            asyncio.timeout(self._start_timeout) as limit,
            self._open_streams() as (read, write),
            anyio.create_task_group() as tasks,
        ):
            self._dispatcher = JSONRPCDispatcher(read, write)
            await tasks.start(self._listen, self._dispatcher)
            await self._greet()
            await self.fetch_tools()
            limit.reschedule(None)
            self._ready = True
            self._settled.set()
            await self._stopped.wait()
            limit.reschedule(loop.time() + CLOSE_LIMIT)
            tasks.cancel_scope.cancel()

    async def _listen(
        self, dispatcher: JSONRPCDispatcher, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take what the server sends until its stream ends, and the session with it."""
        await dispatcher.run(self._answer, self._take_notification, task_status=task_status)
        self._stopped.set()

    async def _answer(self, context: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """A request of the server: we declare no capabilities, so only a ping is in order."""
        if method == "ping":
            return {}
        raise MCPError(code=METHOD_NOT_FOUND, message=f"{method} is not supported")

    async def _take_notification(self, context: Any, method: str, params: Mapping[str, Any] | None) -> None:
        if method == "notifications/tools/list_changed":
            self._stale = True

    async def _greet(self) -> None:
        """The handshake, which every server before protocol 2026-07-28 wants and most later ones accept.

        Not `server/discover` first: a server that answers unknown methods with silence would cost 10 s.
        """
        hello = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": _CLIENT_INFO}
        try:
            raw = await self._send("initialize", hello, {"cancel_on_abandon": False})
        except MCPError as exc:
            if exc.code != UNSUPPORTED_PROTOCOL_VERSION:
                raise
            supported = exc.data.get("supported") if isinstance(exc.data, dict) else None
            offered = supported if isinstance(supported, list) else [LATEST_MODERN_VERSION]
            mutual = [version for version in MODERN_PROTOCOL_VERSIONS if version in offered]
            if not mutual:
                raise
            self._version = mutual[-1]
            return
        # A version that we do not know is no reason to refuse: tools/list and tools/call are in all.
        version = raw.get("protocolVersion")
        self._version = version if isinstance(version, str) else LATEST_HANDSHAKE_VERSION
        assert self._dispatcher is not None
        headers = {MCP_PROTOCOL_VERSION_HEADER: self._version}
        await self._dispatcher.notify("notifications/initialized", None, {"headers": headers})

    def _explain(self, exc: Exception) -> Failure:
        """Why the session ended, from the first cause inside of nested exception groups."""
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if self._ready:
            return Failure(self._ending or "closed the connection")
        config = self.config
        tail = self._child.stderr_tail if self._child else ""
        words = cause.error.message if isinstance(cause, MCPError) else str(cause) or type(cause).__name__
        status = max(self._statuses[-1:], default=0)
        if isinstance(cause, httpx2.HTTPStatusError):
            status = cause.response.status_code
        if status >= 300:
            return failures.explain_status(status, config=config, words=words)
        if self._ending:
            return failures.explain_exit(self._ending, config=config, stderr_tail=tail)
        match cause:
            case TimeoutError():
                return failures.explain_silence(self._start_timeout, config=config, stderr_tail=tail)
            case OSError() | ValueError() if config.transport == "stdio" and self._child is None:
                return failures.explain_spawn(cause, config=config, cwd=config.cwd or self._project)
            case httpx2.SSEError():
                return failures.explain_wrong_url(words, config=config)
            case MCPError() if config.transport == "http" and cause.code == INVALID_REQUEST:
                return failures.explain_wrong_url(words, config=config)
            case httpx2.TransportError() | httpx2.InvalidURL():
                return failures.explain_unreachable(words, config=config)
            case _:
                return failures.explain_answer(words, config=config, stderr_tail=tail)

    # Requests, from any task.

    async def fetch_tools(self) -> tuple[ServerTool, ...]:
        """The tools; they are listed again when the server said that they changed.

        Raises:
            MCPError: the session was lost. (While it starts, any error; later the old list serves.)
        """
        async with self._listing:
            if self._stale:
                self._stale = False  # before the request: a change during it must not be overlooked
                try:
                    async with asyncio.timeout(self._start_timeout):
                        self.tools = read_tools(self.config.name, await self._list_pages())
                except (MCPError, TimeoutError) as exc:
                    if not self._ready or not self.usable:
                        raise
                    self._stale = True
                    logger.warning("MCP server %s did not list its changed tools: %s", self.config.name, exc)
            return self.tools

    async def _list_pages(self) -> list[object]:
        """The raw entries of all pages."""
        entries: list[object] = []
        cursors: list[str] = []
        while len(cursors) < MAX_PAGES:
            try:
                page = await self._send("tools/list", {"cursor": cursors[-1]} if cursors else {})
            except MCPError as exc:
                if exc.code == METHOD_NOT_FOUND and not cursors:
                    return []  # a server for prompts or resources only
                raise
            tools = page.get("tools")
            entries += tools if isinstance(tools, list) else []
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or not cursor or cursor in cursors:
                return entries
            cursors.append(cursor)
        logger.warning("MCP server %s has more than %d pages of tools", self.config.name, MAX_PAGES)
        return entries

    async def call(
        self, tool: str, arguments: dict[str, Any], *, timeout: float, on_progress: OnProgress | None
    ) -> ToolResult:
        """See `SessionPool.call_tool`."""
        running = True
        options: CallOptions = {}
        if on_progress is not None:

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                if running:
                    await on_progress(read_progress(progress, total, message))

            options["on_progress"] = tell
        statuses: list[int] = []
        token = _statuses.set(statuses)
        self._calls += 1
        try:
            # Not the dispatcher's own timeout: its error code is one that a server may send as well.
            async with asyncio.timeout(timeout):
                return read_result(await self._send("tools/call", {"name": tool, "arguments": arguments}, options))
        except TimeoutError as exc:
            raise ToolTimeoutError(
                f"Tool '{tool}' of MCP server '{self.config.name}' gave no result within {timeout:g} seconds; "
                "the server was told to cancel it.",
                server=self.config.name,
                remedy="If it needs longer, set `timeout` (milliseconds) in the server's entry.",
            ) from exc
        except MCPError as exc:
            if not self._is_lost(exc, statuses):
                return ToolResult(exc.error.message or f"Error {exc.code}", is_error=True)
            self._retired = True
            reason = self._ending or (f"answered with HTTP {statuses[-1]}" if statuses and statuses[-1] >= 400 else "")
            raise Failure(reason or "closed the connection").lost_error(self.config.name, tool) from exc
        finally:
            running = False
            _statuses.reset(token)
            self._calls -= 1
            if self._retired and not self._calls:
                self.stop()

    def _is_lost(self, exc: MCPError, statuses: list[int]) -> bool:
        """Whether an error means that the session is gone, and not only that this call failed."""
        if self._ending or self._stopped.is_set():
            return True
        if self.config.transport == "stdio" and sys.platform != "win32":
            return False  # our own transport says how it ended before it ends
        if statuses and statuses[-1] >= 400:
            return exc.code != INVALID_PARAMS
        return exc.code == CONNECTION_CLOSED

    async def _send(self, method: str, params: dict[str, Any], options: CallOptions | None = None) -> dict[str, Any]:
        """Send a request and return the raw result: the SDK's types refuse what many servers send.

        Raises:
            MCPError: the server answered with an error, or the session ended.
        """
        assert self._dispatcher is not None
        headers = {} if method == "initialize" else {MCP_PROTOCOL_VERSION_HEADER: self._version}
        if self._version in MODERN_PROTOCOL_VERSIONS:
            headers[MCP_METHOD_HEADER] = method
            if isinstance(name := params.get("name"), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
            meta = {
                PROTOCOL_VERSION_META_KEY: self._version,
                CLIENT_INFO_META_KEY: _CLIENT_INFO,
                CLIENT_CAPABILITIES_META_KEY: {},
            }
            params = {**params, "_meta": meta}
        return await self._dispatcher.send_raw_request(method, params, {**(options or {}), "headers": headers})

    # Transports.

    def _open_streams(self) -> AbstractAsyncContextManager[_Streams]:
        config = self.config
        match config.transport:
            case "stdio" if sys.platform == "win32":
                env = build_environment(self._environ, config.env)
                cwd = config.cwd or self._project
                return stdio_client(
                    StdioServerParameters(command=config.command, args=list(config.args), env=env, cwd=cwd)
                )
            case "stdio":
                return self._open_stdio()
            case "http":
                return self._open_http()
            case "sse":
                return sse_client(config.url, httpx_client_factory=self._make_http_client)
            case _:
                assert_never(config.transport)

    @asynccontextmanager
    async def _open_http(self) -> AsyncIterator[_Streams]:
        async with (
            self._make_http_client() as client,
            streamable_http_client(self.config.url, http_client=client, max_sse_event_size=MAX_EVENT) as streams,
        ):
            yield streams

    def _make_http_client(self, *_: Any, **__: Any) -> httpx2.AsyncClient:
        """A client for one server; the arguments are those that `sse_client` would like."""
        loopback = urlsplit(self.config.url).hostname in {"localhost", "127.0.0.1", "::1"}
        return httpx2.AsyncClient(
            headers=dict(self.config.headers),
            timeout=httpx2.Timeout(HTTP_TIMEOUT, read=None),
            follow_redirects=False,
            trust_env=not loopback,  # a proxy cannot reach this machine for us
            event_hooks={"response": [_note_status]},
        )

    @asynccontextmanager
    async def _open_stdio(self) -> AsyncIterator[_Streams]:
        """The SDK's stdio transport, but with a known process group, stderr kept, and no quadratic buffer."""
        config = self.config
        arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, leaving = anyio.create_memory_object_stream[SessionMessage](0)
        env = build_environment(self._environ, config.env)
        cwd = config.cwd or self._project
        async with (
            arrived,
            read,
            write,
            leaving,
            self._children.open_child(config.command, config.args, env=env, cwd=cwd) as child,
            anyio.create_task_group() as tasks,
        ):
            self._child = child

            async def receive() -> None:
                async for line in child.lines():
                    try:
                        messages = _decode_line(line)
                    except ValueError:
                        child.note(line)
                        continue
                    for message in messages:
                        await arrived.send(SessionMessage(message))
                await finish("closed its output")

            async def send() -> None:
                async for item in leaving:
                    try:
                        await child.write(_encode_message(item.message))
                    except BrokenPipeError:
                        await finish("does not read its input any more")

            async def finish(otherwise: str) -> None:
                # First the reason, then the end: whoever waits for an answer wakes up by the second.
                await child.wait_exited(EXIT_GRACE)
                self._ending = self._ending or child.ending or otherwise
                await arrived.aclose()

            tasks.start_soon(receive)
            tasks.start_soon(send)
            yield read, write
            tasks.cancel_scope.cancel()


async def _note_status(response: httpx2.Response) -> None:
    """Remember a status for the call that it answers; the SDK's own GET and DELETE answer none."""
    statuses = _statuses.get()
    if statuses is not None and response.request.method == "POST":
        statuses.append(response.status_code)


def _encode_message(message: JSONRPCMessage) -> bytes:
    return json.dumps(message.model_dump(by_alias=True, mode="json", exclude_unset=True)).encode() + b"\n"


def _decode_line(line: bytes) -> list[JSONRPCMessage]:
    """The messages in one line: one, or several from a server that sends batches (protocol 2025-03-26).

    Raises:
        ValueError: it is something else, such as a greeting or a log line.
    """
    try:
        return [jsonrpc_message_adapter.validate_json(line, by_name=False)]
    except ValidationError:
        decoded = json.loads(line.decode("utf-8", "replace"))
    return [_mend_message(item) for item in (decoded if isinstance(decoded, list) else [decoded])]


def _mend_message(item: object) -> JSONRPCMessage:
    """A message that is not quite one; an answer that makes no sense becomes an error, so that nobody waits for it."""
    if not isinstance(item, dict):
        raise ValueError("not a JSON-RPC message")
    try:
        return jsonrpc_message_adapter.validate_python({**item, "jsonrpc": "2.0"}, by_name=False)
    except ValidationError:
        number = item.get("id")
        if "method" in item or not isinstance(number, int | str):
            raise
    words = f"The server's answer is malformed: {json.dumps(item)[:500]}"
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=INTERNAL_ERROR, message=words))
