"""The MCP that we speak with one server: handshake, tools/list, tools/call, and what the server says unasked.

It works on raw JSON, because the types of the SDK refuse what many servers send: one tool with
`inputSchema: {}` would hide all the others. How long a connection lives is up to `sessions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.abc
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    encode_header_value,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS

from lmstudio_bridge import __version__
from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.http import ServerTransport, statuses
from lmstudio_bridge.mcp_client.repair import MAX_TOOLS, read_progress, read_result, read_tools
from lmstudio_bridge.mcp_client.stdio import ChildProcesses
from lmstudio_bridge.messages import ServerConfig, ServerTool, ToolResult

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[str], Awaitable[None]]

MAX_PAGES = 100  # pages of one tools/list

_CLIENT_INFO = {"name": "lmstudio-bridge", "version": __version__}


class Connection:
    """One connection with one server, to be opened once, and left by the task that opened it.

    Requests may be sent from any task. Whoever cancels a request lets the server know; the others
    do not notice.
    """

    def __init__(
        self, config: ServerConfig, *, children: ChildProcesses, project: Path, environ: Mapping[str, str]
    ) -> None:
        self.ended = asyncio.Event()
        self._config = config
        self._transport = ServerTransport(config, children=children, project=project, environ=environ)
        self._dispatcher: JSONRPCDispatcher | None = None
        self._version = LATEST_HANDSHAKE_VERSION
        self._tools: tuple[ServerTool, ...] = ()
        self._tools_changed = True
        self._listing = asyncio.Lock()

    @property
    def lost(self) -> bool:
        """Whether the server has gone, as far as we know."""
        return self.ended.is_set() or bool(self._transport.ending)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start or reach the server, shake hands, list its tools; without a limit of its own.

        What is raised is the SDK's, often in nested exception groups: `explain` puts it into words.
        """
        async with self._transport.open_streams() as (read, write), anyio.create_task_group() as tasks:
            self._dispatcher = JSONRPCDispatcher(read, write)
            await tasks.start(self._listen, self._dispatcher)
            await self._greet()
            await self._list_tools()
            try:
                yield
            finally:
                self.ended.set()  # before the end of the streams wakes up those who wait for an answer
            tasks.cancel_scope.cancel()

    def explain(self, exc: Exception, *, seconds: float) -> Failure:
        """Why `open` failed; `seconds` is the limit that a TimeoutError stands for."""
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        known = self._transport.explain(cause)
        if known is not None:
            return known
        tail = self._transport.stderr_tail
        if isinstance(cause, TimeoutError):
            return failures.explain_silence(seconds, config=self._config, stderr_tail=tail)
        if not isinstance(cause, MCPError):
            return failures.explain_answer(str(cause) or type(cause).__name__, config=self._config, stderr_tail=tail)
        if cause.code == INVALID_REQUEST and self._config.transport == "http":  # so the SDK says of an HTML page
            return failures.explain_wrong_url(cause.message, config=self._config)
        return failures.explain_answer(cause.message, config=self._config, stderr_tail=tail)

    @property
    def loss(self) -> Failure:
        """How a connection that had been open was lost."""
        return Failure(self._transport.ending or "closed the connection")

    async def fetch_tools(self, *, seconds: float) -> tuple[ServerTool, ...]:
        """The tools; they are listed again after the server said that they changed.

        However often it says so, that is once, when somebody wants them. A server that does not manage
        to list them in time keeps its old list.

        Raises:
            SessionLostError: the server has gone.
        """
        async with self._listing:
            if self._tools_changed:
                answered: list[int] = []
                token = statuses.set(answered)
                try:
                    async with asyncio.timeout(seconds):
                        await self._list_tools()
                except (MCPError, TimeoutError) as exc:
                    self._tools_changed = True
                    if isinstance(exc, MCPError) and self._is_lost(exc, answered):
                        raise self.loss.lost_error(self._config.name, "tools/list") from exc
                    logger.warning("MCP server %s did not list its changed tools: %s", self._config.name, exc)
                finally:
                    statuses.reset(token)
            return self._tools

    async def ping(self, *, seconds: float) -> bool:
        """Whether the server answers in time; that it has no ping is an answer, too."""
        answered: list[int] = []
        token = statuses.set(answered)
        try:
            async with asyncio.timeout(seconds):
                await self._send("ping", {})
        except TimeoutError:
            return False
        except MCPError as exc:
            return not self._is_lost(exc, answered)
        finally:
            statuses.reset(token)
        return True

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, on_progress: OnProgress | None) -> ToolResult:
        """Call a tool; an error that the tool or the server reports is a result.

        Raises:
            SessionLostError: the server went away; the call may or may not have had effects.
        """
        running = True
        options: CallOptions = {}
        if on_progress is not None:

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                if running:
                    await on_progress(read_progress(progress, total, message))

            options["on_progress"] = tell
        answered: list[int] = []
        token = statuses.set(answered)
        try:
            return read_result(await self._send("tools/call", {"name": tool, "arguments": dict(arguments)}, options))
        except MCPError as exc:
            if self._is_lost(exc, answered):
                raise self._loss_by(answered).lost_error(self._config.name, tool) from exc
            return ToolResult(exc.message or f"Error {exc.code}", is_error=True)
        finally:
            running = False
            statuses.reset(token)

    async def _listen(
        self, dispatcher: JSONRPCDispatcher, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take what the server sends until its stream ends."""
        try:
            await dispatcher.run(self._answer, self._take_notification, task_status=task_status)
        finally:
            self.ended.set()

    async def _answer(self, context: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """A request of the server: we declare no capabilities, so only a ping is in order."""
        if method == "ping":
            return {}
        raise MCPError(code=METHOD_NOT_FOUND, message=f"{method} is not supported")

    async def _take_notification(self, context: Any, method: str, params: Mapping[str, Any] | None) -> None:
        if method == "notifications/tools/list_changed":
            self._tools_changed = True

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
            self._version = mutual[-1]  # from 2026-07-28 on there is no handshake: each request says it all
            return
        # A version that we do not know is no reason to refuse: tools/list and tools/call are in all.
        version = raw.get("protocolVersion")
        self._version = version if isinstance(version, str) else LATEST_HANDSHAKE_VERSION
        assert self._dispatcher is not None
        headers = {MCP_PROTOCOL_VERSION_HEADER: self._version}
        await self._dispatcher.notify("notifications/initialized", None, {"headers": headers})

    async def _list_tools(self) -> None:
        self._tools_changed = False  # before the request: a change during it must not be overlooked
        self._tools = await self._list_pages()

    async def _list_pages(self) -> tuple[ServerTool, ...]:
        """The tools of all pages; each page is read before the next one is asked for, so that none is held raw."""
        found: dict[str, ServerTool] = {}
        cursors: list[str] = []
        while len(cursors) < MAX_PAGES and len(found) <= MAX_TOOLS:
            try:
                page = await self._send("tools/list", {"cursor": cursors[-1]} if cursors else {})
            except MCPError as exc:
                if exc.code == METHOD_NOT_FOUND and not cursors:
                    return ()  # a server for prompts or resources only
                raise
            tools = page.get("tools")
            for tool in read_tools(self._config.name, tools if isinstance(tools, list) else []):
                found.setdefault(tool.name, tool)
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or not cursor or cursor in cursors:
                return tuple(found.values())[:MAX_TOOLS]
            cursors.append(cursor)
        logger.warning(
            "MCP server %s has more than %d tools, or %d pages of them", self._config.name, MAX_TOOLS, MAX_PAGES
        )
        return tuple(found.values())[:MAX_TOOLS]

    def _is_lost(self, exc: MCPError, answered: list[int]) -> bool:
        """Whether an error means that the connection is gone, and not only that one request failed."""
        if self.lost:
            return True
        if self._transport.knows_its_end:
            return False  # CONNECTION_CLOSED is a code that a server may send as well
        if answered and answered[-1] >= 400:
            return exc.code != INVALID_PARAMS
        return exc.code == CONNECTION_CLOSED

    def _loss_by(self, answered: list[int]) -> Failure:
        """How the connection was lost in a call that the server answered with these HTTP statuses."""
        match answered[-1:]:
            case [404]:  # so says a server that was restarted and does not know our session any more
                return Failure("answered with HTTP 404")
            case [status] if status >= 400:
                return failures.explain_status(status, config=self._config)
            case _:
                return self.loss

    async def _send(self, method: str, params: dict[str, Any], options: CallOptions | None = None) -> dict[str, Any]:
        """Send a request and return the raw result.

        Raises:
            MCPError: the server answered with an error, or the connection ended.
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
