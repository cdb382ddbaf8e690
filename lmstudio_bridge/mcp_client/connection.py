"""MCP with one server: handshake, tools/list, tools/call, notifications.

It works on raw JSON, because the types of the SDK refuse what many servers send: one tool with
`inputSchema: {}` would hide all the others. `pool` decides how long a connection is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import anyio.abc
from mcp import types
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, MCP_PROTOCOL_VERSION_HEADER, encode_header_value
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS

from lmstudio_bridge import __version__, errors
from lmstudio_bridge.mcp_client import failures, repair
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.http import Answered, HttpTransport, read_refusal, statuses
from lmstudio_bridge.mcp_client.stdio import StdioTransport
from lmstudio_bridge.messages import ServerConfig, ServerTool, ToolResult

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[str], Awaitable[None]]

MAX_PAGES = 100  # pages of one tools/list

_NO_SESSION = re.compile(
    r"\W*(?:(?:error|detail|message)\W+)?(?:bad request: )?"
    r"(?:(?:(?:the|your) )?(?:mcp[- ])?session(?:[- ]?id)?(?: header)?(?: with)?(?: (?:the )?(?:given )?id)?"
    r"(?::? ?['\"(]?[\w-]*\d[\w-]*['\")]?)?:?(?: (?:is|was|has|been|could|be))*"
    r" (?:not found|expired|terminated|does not exist|invalid|unknown)\b"
    r"|(?:no(?: valid| active| such)?|invalid|unknown|expired|missing|could not find|cannot find)(?: or \w+)?"
    r" (?:mcp[- ])?session(?:[- ]?id)?(?: header)?(?::? ?['\"(]?[\w-]*\d[\w-]*|:? (?:was )?(?:provided|found|given))?"
    r"(?=['\").}\s]*\Z|['\".}]\W)"
    r"|server not initialized\b)",
    re.IGNORECASE,
)
"""With HTTP 400, what examples of the SDKs answer after a restart: "Bad Request: No valid session ID provided".

Others say it in plain text, or in JSON of their own. A tool's own words must not fit: "The session date is invalid" can
come from a call that was executed.
"""
_FORGOT_SESSION = re.compile(
    r"(?:bad request: )?(?:mcp )?session(?: id)?(?::? \S{8,})? (?:was )?(?:not found|(?:has )?expired|terminated)\W*",
    re.IGNORECASE,
)
"""With HTTP 200, what servers behind a gateway answer: "Session not found"."""
_SESSION_CODES = (-32000, -32001, -32600)  # a tool's own error has another
_REFUSALS = {
    401: errors.CallRefusedError,
    402: errors.DownstreamError,
    403: errors.CallRefusedError,
    413: errors.DownstreamError,
    429: errors.DownstreamError,
}
_CLIENT_INFO = {"name": "lmstudio-bridge", "version": __version__}


class Connection:
    """A connection with one server, to be opened once, and left by the task that opened it.

    Requests may be sent from any task. If one of them is canceled, the server is told, and the others go on.
    """

    def __init__(self, config: ServerConfig, transport: StdioTransport | HttpTransport) -> None:
        self.ended = asyncio.Event()
        self.instructions = ""  # of the server, about the use of its tools
        self._config = config
        self._transport = transport
        self._dispatcher: JSONRPCDispatcher | None = None
        self._opened = False
        self._version = LATEST_HANDSHAKE_VERSION
        self._tools: tuple[ServerTool, ...] = ()
        self._tools_changed = True
        self._listing = asyncio.Lock()

    @property
    def lost(self) -> bool:
        """Whether the server has gone, as far as is known."""
        return self.ended.is_set() or bool(self._transport.exit_reason)

    @property
    def loss(self) -> Failure:
        """How an open connection was lost."""
        return Failure(self._transport.exit_reason or "closed the connection")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start or reach the server, initialize, and list its tools; has no timeout of its own.

        A server that refuses the first message over streamable HTTP is tried as an older one, over SSE.
        What it raises is the SDK's, often in nested exception groups: see `explain`.
        """
        try:
            async with self._open_once(self._transport):
                yield
            return
        except Exception:
            older = self._transport.as_older() if isinstance(self._transport, HttpTransport) else None
            if self._opened or older is None:
                raise
        newer, self._transport = self._transport, older
        try:
            async with self._open_once(older):
                yield
        finally:
            if not self._opened:
                self._transport = newer  # that it is no older server explains nothing

    @asynccontextmanager
    async def _open_once(self, transport: StdioTransport | HttpTransport) -> AsyncIterator[None]:
        ended = asyncio.Event()  # that of this attempt, after which another may follow
        async with transport.open_streams() as (read, write), anyio.create_task_group() as tasks:
            self._dispatcher = JSONRPCDispatcher(read, write)
            await tasks.start(self._receive, self._dispatcher, ended)
            await self._initialize()
            await self._list_tools()
            self.ended, self._opened = ended, True
            try:
                yield
            finally:
                ended.set()  # before the streams end and wake up those who wait for an answer
            tasks.cancel_scope.cancel()

    def explain(self, exc: Exception, *, seconds: float) -> Failure:
        """Why `open` failed; `seconds` is the limit that a TimeoutError stands for."""
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if (known := self._transport.explain(cause)) is not None:
            return known
        tail = self._transport.stderr_tail
        if isinstance(cause, TimeoutError):
            return failures.explain_silence(seconds, config=self._config, stderr_tail=tail)
        if not isinstance(cause, MCPError):
            return failures.explain_answer(str(cause) or type(cause).__name__, config=self._config, stderr_tail=tail)
        # What the SDK makes of an HTML page, and pydantic's words in the SDK's transport.
        if cause.code == types.INVALID_REQUEST and self._config.transport == "http":
            return failures.explain_wrong_url(cause.message, config=self._config)
        if cause.code == types.PARSE_ERROR and "validation error" in cause.message:
            return failures.explain_wrong_url("what it answers is not MCP", config=self._config)
        return failures.explain_answer(cause.message, config=self._config, stderr_tail=tail)

    async def fetch_tools(self, *, seconds: float) -> tuple[ServerTool, ...]:
        """The tools, listed again if the server has said that they changed.

        A server that does not list them in time keeps its old list.

        Raises:
            SessionLostError: the server has gone.
            CallRefusedError: it does not take our credentials any more.
        """
        async with self._listing:
            if self._tools_changed:
                try:
                    async with asyncio.timeout(seconds):
                        await self._list_tools()
                except (errors.SessionLostError, errors.CallRefusedError):
                    raise
                except (MCPError, TimeoutError, errors.DownstreamError) as exc:
                    self._tools_changed = True
                    logger.warning("MCP server %s did not list its changed tools: %s", self._config.name, exc)
            return self._tools

    async def ping(self, *, seconds: float) -> bool:
        """Whether the server answers in time; an error is an answer, too, unless it ends the session."""
        try:
            async with asyncio.timeout(seconds):
                await self._send("ping", {})
        except (TimeoutError, errors.SessionLostError, errors.CallRefusedError):
            return False
        except (MCPError, errors.DownstreamError):
            return True
        return True

    async def call_tool(
        self, tool: str, arguments: dict[str, Any], *, seconds: float, on_progress: OnProgress | None
    ) -> ToolResult:
        """Call a tool; an error that the tool or the server reports is a result.

        Raises:
            SessionExpiredError: the server does not know the session any more, and did not execute the call.
            DownstreamError: the server refused the call, and did not execute it.
            SessionLostError: the server went away; the call may or may not have had effects.
            ToolTimeoutError: no result in time; the server was told to cancel.
        """
        finished = False
        options: CallOptions = {}
        if on_progress is not None:

            async def report(progress: float, total: float | None, message: str | None) -> None:
                if not finished:
                    await on_progress(repair.read_progress(progress, total, message))

            options["on_progress"] = report
        try:
            # Not the SDK's own timeout: a server may send the same error code.
            async with asyncio.timeout(seconds):
                return repair.read_result(
                    await self._send("tools/call", {"name": tool, "arguments": arguments}, options)
                )
        except TimeoutError as exc:
            raise errors.ToolTimeoutError(
                f"Tool '{tool}' of MCP server '{self._config.name}' gave no result within {seconds:g} seconds; "
                "the server was told to cancel it.",
                server=self._config.name,
                remedy="If it needs longer, set `timeout` (milliseconds) in the server's entry.",
            ) from exc
        except MCPError as exc:
            return repair.read_error(exc.message, exc.code, exc.data)
        finally:
            finished = True

    async def _receive(
        self,
        dispatcher: JSONRPCDispatcher,
        ended: asyncio.Event,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await dispatcher.run(self._answer, self._take_notification, task_status=task_status)
        finally:
            ended.set()

    async def _answer(self, context: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Answer a request of the server: we declare no capabilities, so only a ping is valid."""
        if method == "ping":
            return {}
        raise MCPError(code=types.METHOD_NOT_FOUND, message=f"{method} is not supported")

    async def _take_notification(self, context: Any, method: str, params: Mapping[str, Any] | None) -> None:
        if method == "notifications/tools/list_changed":
            self._tools_changed = True

    async def _initialize(self) -> None:
        """The handshake, which every server before protocol 2026-07-28 wants and most later ones accept.

        Not `server/discover` first: a server that ignores unknown methods would cost 10 s.
        """
        params = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": _CLIENT_INFO}
        try:
            raw = await self._send("initialize", params, {"cancel_on_abandon": False})
        except MCPError as exc:
            if exc.code != types.UNSUPPORTED_PROTOCOL_VERSION:
                raise
            supported = exc.data.get("supported") if isinstance(exc.data, dict) else None
            offered = supported if isinstance(supported, list) else [LATEST_MODERN_VERSION]
            mutual = [version for version in MODERN_PROTOCOL_VERSIONS if version in offered]
            if not mutual:
                raise
            self._version = mutual[-1]  # from 2026-07-28 on there is no handshake: each request says it all
            return
        # A version that we do not know is accepted: tools/list and tools/call are in all of them.
        version = raw.get("protocolVersion")
        self._version = version if isinstance(version, str) else LATEST_HANDSHAKE_VERSION
        self.instructions = repair.read_instructions(raw)
        assert self._dispatcher is not None
        headers = {MCP_PROTOCOL_VERSION_HEADER: self._version}
        await self._dispatcher.notify("notifications/initialized", None, {"headers": headers})

    async def _list_tools(self) -> None:
        """List all pages; each is read before the next is requested, so that none is held raw."""
        self._tools_changed = False  # before the request: a change during it must not be missed
        found: dict[str, ServerTool] = {}
        cursors: list[str] = []
        while len(cursors) < MAX_PAGES and len(found) <= repair.MAX_TOOLS:
            try:
                page = await self._send("tools/list", {"cursor": cursors[-1]} if cursors else {})
            except MCPError as exc:
                if exc.code == types.METHOD_NOT_FOUND and not cursors:
                    break  # a server for prompts or resources only
                raise
            tools = page.get("tools")
            for tool in repair.read_tools(self._config.name, tools if isinstance(tools, list) else []):
                found.setdefault(tool.name, tool)
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or not cursor or cursor in cursors:
                break
            cursors.append(cursor)
        else:
            logger.warning(
                "MCP server %s has more than %d tools, or %d pages of them",
                self._config.name,
                repair.MAX_TOOLS,
                MAX_PAGES,
            )
        self._tools = tuple(found.values())[: repair.MAX_TOOLS]

    async def _send(self, method: str, params: dict[str, Any], options: CallOptions | None = None) -> dict[str, Any]:
        """Send a request and return the raw result.

        Raises:
            MCPError: the server answered with an error, or the connection ended before it was open.
            SessionExpiredError, SessionLostError: the connection had been open, and was lost.
            DownstreamError: the request was refused by its HTTP status.
        """
        assert self._dispatcher is not None
        headers = {} if method == "initialize" else {MCP_PROTOCOL_VERSION_HEADER: self._version}
        target = params.get("name")
        if self._version in MODERN_PROTOCOL_VERSIONS:
            headers[MCP_METHOD_HEADER] = method
            if isinstance(target, str):
                headers[MCP_NAME_HEADER] = encode_header_value(target)
            meta = {
                types.PROTOCOL_VERSION_META_KEY: self._version,
                types.CLIENT_INFO_META_KEY: _CLIENT_INFO,
                types.CLIENT_CAPABILITIES_META_KEY: {},
            }
            params = {**params, "_meta": meta}
        options = {**(options or {}), "headers": headers}
        if not self._opened:
            return await self._dispatcher.send_raw_request(method, params, options)
        answered: list[Answered] = []
        token = statuses.set(answered)
        try:
            return await self._dispatcher.send_raw_request(method, params, options)
        except MCPError as exc:
            if (error := self._explain_error(exc, answered, target or method)) is not None:
                raise error from exc
            raise
        finally:
            statuses.reset(token)

    def _explain_error(self, exc: MCPError, answered: list[Answered], what: str) -> errors.DownstreamError | None:
        """What an error in a request that got these HTTP statuses means; None if it is only the request's answer."""
        server = self._config.name
        match answered[-1:]:
            case [Answered(status=status, in_session=True, words=words)] if _forgot_session(status, exc, words):
                failure = Failure(f"does not know the session any more (HTTP {status})")
                return failure.refused_error(server, what, errors.SessionExpiredError)
            case [Answered(status=status, words=words)] if status in _REFUSALS and isinstance(
                self._transport, HttpTransport
            ):
                return self._transport.explain_status(status, words).refused_error(server, what, _REFUSALS[status])
            case _ if not self._is_lost(exc, answered):
                return None
            case [Answered(status=404)]:
                return Failure("answered with HTTP 404").lost_error(server, what)
            case [Answered(status=status, words=words)] if status >= 400 and isinstance(self._transport, HttpTransport):
                return self._transport.explain_status(status, words).lost_error(server, what)
            case _:
                return self.loss.lost_error(server, what)

    def _is_lost(self, exc: MCPError, answered: list[Answered]) -> bool:
        """Whether an error means that the connection is gone, and not only that one request failed."""
        if self.lost:
            return True
        if self._transport.detects_exit:
            return False  # a server may send the code CONNECTION_CLOSED as well
        if answered and answered[-1].status >= 400:
            return exc.code != types.INVALID_PARAMS
        return exc.code == types.CONNECTION_CLOSED


def _forgot_session(status: int, exc: MCPError, words: str) -> bool:
    """Whether the server does not know the session that the request named, and so did not execute it."""
    if status == 200:
        return exc.code in _SESSION_CODES and _FORGOT_SESSION.fullmatch(exc.message) is not None
    # 404 is the specification's word for it (2025-11-25, Session Management).
    said = any(map(_NO_SESSION.match, (exc.message, read_refusal(words))))
    return status == 404 or (status in (400, 410) and said)
