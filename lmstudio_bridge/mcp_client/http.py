"""The way to one MCP server: streams of messages over stdio, HTTP or SSE, and what is known when they end.

The only module that imports an HTTP client for MCP, and the transports of the MCP SDK. What the
messages say is the business of `connections`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, TypeAlias, assert_never
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.stdio import ChildProcess, ChildProcesses, add_own
from lmstudio_bridge.messages import ServerConfig

Streams: TypeAlias = tuple[Any, Any]
"""What the SDK's transports yield: a stream to read messages from, and one to write them to."""

MAX_EVENT = 64 * 1024 * 1024  # bytes of one event over HTTP, as in one line over stdio
HTTP_TIMEOUT = 30.0  # seconds to connect or to send; reading is bounded by the timeout of each call
EXIT_GRACE = 0.5  # seconds that a server which closed its output has to end, so that we can say how

statuses: ContextVar[list[int] | None] = ContextVar("statuses", default=None)
"""The HTTP statuses that answered the requests of the current call.

The SDK turns them all into the same JSON-RPC errors, but it sends each message in the context of
the task that wrote it.
"""


class ServerTransport:
    """One transport, to be opened once.

    `ending` says how a server went away, as the end of a sentence. Over stdio it is set before the
    streams end, so whoever waits for an answer wakes up knowing it; otherwise it stays empty.
    """

    def __init__(
        self, config: ServerConfig, *, children: ChildProcesses, project: Path, environ: Mapping[str, str]
    ) -> None:
        self.ending = ""
        self._config = config
        self._children = children
        self._cwd = config.cwd or project
        self._environ = environ
        self._child: ChildProcess | None = None
        self._noted: list[int] = []  # HTTP statuses while the connection is being opened
        self._refused = anyio.Event()  # a message of ours got an HTTP error

    @property
    def knows_its_end(self) -> bool:
        """Whether `ending` can be relied upon."""
        return self._config.transport == "stdio" and sys.platform != "win32"

    @property
    def stderr_tail(self) -> str:
        """The last words of a stdio server."""
        return self._child.stderr_tail if self._child else ""

    def open_streams(self) -> AbstractAsyncContextManager[Streams]:
        """Start or reach the server; leaving the block ends it.

        What is raised inside is the SDK's, often in nested exception groups: see `explain`.
        """
        config = self._config
        statuses.set(self._noted)
        match config.transport:
            case "stdio" if sys.platform == "win32":  # where processes end by job objects, which the SDK knows
                env = add_own(self._environ, config.env)
                return stdio_client(
                    StdioServerParameters(command=config.command, args=list(config.args), env=env, cwd=self._cwd)
                )
            case "stdio":
                return self._open_stdio()
            case "http":
                return self._open_http()
            case "sse":
                return self._open_sse()
            case _:
                assert_never(config.transport)

    def explain(self, exc: BaseException) -> Failure | None:
        """Why the streams could not be opened, as far as the transport itself is to blame."""
        config = self._config
        words = str(exc) or type(exc).__name__
        if isinstance(exc, httpx2.HTTPStatusError):
            return failures.explain_status(exc.response.status_code, config=config)
        if self._noted and self._noted[-1] >= 300:
            return failures.explain_status(self._noted[-1], config=config, words=words)
        if self.ending:
            return failures.explain_exit(self.ending, config=config, stderr_tail=self.stderr_tail)
        match exc:
            case OSError() | ValueError() if self.knows_its_end and self._child is None:
                return failures.explain_spawn(exc, config=config, cwd=self._cwd)
            case UnicodeEncodeError() if config.transport != "stdio":  # nothing else of a request comes from the entry
                return failures.explain_header(config=config)
            case httpx2.SSEError():
                return failures.explain_wrong_url(words, config=config)
            case httpx2.TransportError() | httpx2.InvalidURL():
                return failures.explain_unreachable(words, config=config)
            case _:
                return None

    @asynccontextmanager
    async def _open_http(self) -> AsyncIterator[Streams]:
        async with (
            self._make_http_client() as client,
            streamable_http_client(self._config.url, http_client=client, max_sse_event_size=MAX_EVENT) as streams,
        ):
            yield streams

    @asynccontextmanager
    async def _open_sse(self) -> AsyncIterator[Streams]:
        """Like the SDK's, but a refused message ends the connection: its answer would be waited for in vain.

        The SDK (2.3) logs the HTTP error, and from then on it sends nothing more.
        """
        arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        async with (
            arrived,
            read,
            sse_client(self._config.url, httpx_client_factory=self._make_http_client) as (arriving, write),
            anyio.create_task_group() as tasks,
        ):

            async def receive() -> None:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody listens any more
                    async for message in arriving:
                        await arrived.send(message)
                await arrived.aclose()

            async def end_when_refused() -> None:
                await self._refused.wait()
                await arrived.aclose()

            tasks.start_soon(receive)
            tasks.start_soon(end_when_refused)
            yield read, write
            tasks.cancel_scope.cancel()

    async def _note_refusal(self, response: httpx2.Response) -> None:
        if response.request.method == "POST" and response.status_code >= 400:
            self._refused.set()

    def _make_http_client(self, *_: Any, **__: Any) -> httpx2.AsyncClient:
        """A client for one server; the arguments are what `sse_client` would like, timeouts that we do not want."""
        loopback = urlsplit(self._config.url).hostname in {"localhost", "127.0.0.1", "::1"}
        return httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **self._config.headers},  # a bomb is small until it is unpacked
            timeout=httpx2.Timeout(HTTP_TIMEOUT, read=None),
            follow_redirects=False,
            trust_env=not loopback,  # a proxy cannot reach this machine for us
            event_hooks={"response": [_note_status, self._note_refusal, _bound_body]},
        )

    @asynccontextmanager
    async def _open_stdio(self) -> AsyncIterator[Streams]:
        """Like the SDK's, but with a known process group, stderr kept, and a buffer that is not quadratic.

        Whoever writes a message writes it to the pipe, and whoever reads one reads its line: no tasks in between.
        """
        config = self._config
        env = add_own(self._environ, config.env)
        async with self._children.open_child(config.command, config.args, env=env, cwd=self._cwd) as child:
            self._child = child

            async def receive() -> AsyncGenerator[SessionMessage, None]:
                async for line in child.lines():
                    try:
                        messages = decode_line(line)
                    except ValueError:
                        child.note(line)
                        continue
                    for message in messages:
                        yield SessionMessage(message)
                await finish("closed its output")

            async def send(item: SessionMessage) -> None:
                try:
                    data = _encode_message(item.message)
                except (ValueError, RecursionError) as exc:
                    raise MCPError(code=INVALID_PARAMS, message="This is nested too deeply to be sent.") from exc
                try:
                    await child.write(data)
                except BrokenPipeError as exc:
                    with anyio.CancelScope(shield=True):
                        await finish("does not read its input any more")
                    child.stop_reading()
                    raise anyio.BrokenResourceError from exc

            async def finish(otherwise: str) -> None:
                await child.wait_exited(EXIT_GRACE)
                self.ending = self.ending or child.ending or otherwise

            yield _Incoming(receive()), _Outgoing(send)


class _Incoming:
    """The messages of a generator, as a stream that the SDK can read."""

    def __init__(self, messages: AsyncGenerator[SessionMessage, None]) -> None:
        self._messages = messages

    def __aiter__(self) -> AsyncGenerator[SessionMessage, None]:
        return self._messages

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._messages.aclose()


class _Outgoing:
    """A stream that the SDK can write to: `send` raises `anyio.BrokenResourceError` where nobody reads any more."""

    def __init__(self, send: Callable[[SessionMessage], Awaitable[None]]) -> None:
        self.send = send

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def _note_status(response: httpx2.Response) -> None:
    """Remember a status for the call that it answers; the SDK's own GET and DELETE answer none."""
    noted = statuses.get()
    if noted is not None and response.request.method == "POST":
        noted.append(response.status_code)


async def _bound_body(response: httpx2.Response) -> None:
    """Let a reply that is no stream of events end at the bound: the SDK reads it whole."""
    if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return  # each event has the bound
    if isinstance(response.stream, httpx2.AsyncByteStream):
        packed = response.headers.get("content-encoding", "identity").lower() != "identity"
        response.stream = BoundedStream(response.stream, 0 if packed else MAX_EVENT)


class BoundedStream(httpx2.AsyncByteStream):
    """The bytes of a reply, up to a limit. Raises `StreamError`, which the SDK makes the answer of that request."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._left = limit
        self._problem = f"its answer is larger than {limit // (1024 * 1024)} MiB" if limit else "its answer is packed"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._left -= len(piece)
            if self._left < 0:
                raise httpx2.StreamError(self._problem)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def _encode_message(message: JSONRPCMessage) -> bytes:
    return json.dumps(message.model_dump(by_alias=True, mode="json", exclude_unset=True)).encode() + b"\n"


def decode_line(line: bytes) -> list[JSONRPCMessage]:
    """The messages in one line: one, or several from a server that sends batches (protocol 2025-03-26).

    Raises:
        ValueError: it is something else, such as a greeting or a log line.
    """
    try:
        return [jsonrpc_message_adapter.validate_json(line, by_name=False)]
    except ValidationError:
        try:
            decoded = json.loads(line.decode("utf-8", "replace"))
            return [_mend_message(item) for item in (decoded if isinstance(decoded, list) else [decoded])]
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc


def _mend_message(item: object) -> JSONRPCMessage:
    """A message that is not quite one; an answer without sense becomes an error, so that nobody waits for it."""
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
