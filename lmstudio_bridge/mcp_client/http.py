"""The transports over HTTP: streamable HTTP, and the older SSE."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCRequest

from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.json_size import TOO_MANY, ValueCounter
from lmstudio_bridge.messages import ServerConfig

logger = logging.getLogger(__name__)

MAX_OPEN = 1_000  # replies of one server that have not ended; a cancelled request may leave one
MAX_UNREAD = 100  # requests of a server whose answers it has not taken yet
MAX_EVENT = 8 * 1024 * 1024  # bytes of one event of a stream, of which the SDK holds more copies than of a body
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_PIECE = 64 * 1024  # bytes that are unpacked at once
_SHOWN_CODING = 40  # characters
_WORDS = 2_000  # characters of a refusal
_SHOWN_WORDS = 300
_MAX_REFUSAL = 64 * 1024  # bytes; a longer one is not read
HTTP_TIMEOUT = 30.0  # seconds to connect or to send; reading is bounded by the timeout of each call
_OLDER_REFUSALS = ([400], [404], [405])  # MCP 2025-11-25, basic/transports, "Backwards Compatibility"


@dataclass(frozen=True, slots=True)
class Answered:
    """The HTTP status of an answer; `in_session` where the request named a session.

    `words` are the beginning of the text of a refusal.
    """

    status: int
    in_session: bool = False
    words: str = ""


statuses: ContextVar[list[Answered] | None] = ContextVar("statuses", default=None)
"""The HTTP statuses that answered the current request.

The SDK turns all of them into the same JSON-RPC errors, but it sends each message in the context of
the task that wrote it.
"""


class Login(httpx2.Auth):
    """What signs the requests to one server. `trouble` says why the login could not be used, if that may pass."""

    trouble = ""

    def renews(self, response: httpx2.Response) -> bool:
        """Whether the answer is a refusal after which the request is sent again."""
        raise NotImplementedError


OpenLogin: TypeAlias = Callable[[ServerConfig], Awaitable[Login | None]]


class HttpTransport:
    """Reaches one server; can be opened once. How a server went away is not known here.

    `open_login` looks up the user's login to the server.
    """

    detects_exit = False
    exit_reason = ""
    stderr_tail = ""

    def __init__(self, config: ServerConfig, *, max_event: int, open_login: OpenLogin | None) -> None:
        self._config = config
        self._max_event = max_event
        self._open_login = open_login
        self._login: Login | None = None
        self._unreadable = ""  # why an answer is not read; the SDK tells it only of answers that are no stream
        self._noted: list[Answered] = []  # HTTP statuses while the connection is being opened
        self._unread = 0  # requests of the server, less the messages that it took
        self._open = 0  # replies that have not ended
        self._refused = anyio.Event()  # a message of ours got an HTTP error

    @asynccontextmanager
    async def open_streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Streams to read messages from and to write them to; leaving the block ends the session."""
        statuses.set(self._noted)
        self._login = await self._open_login(self._config) if self._open_login else None
        arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        async with arrived, read, self._connect() as (arriving, write), anyio.create_task_group() as tasks:

            async def receive() -> None:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session has ended
                    async for message in arriving:
                        if isinstance(message, SessionMessage) and isinstance(message.message, JSONRPCRequest):
                            self._unread += 1
                        if self._unread > MAX_UNREAD:  # with each waits a task that answers it
                            logger.warning("MCP server %s sends requests and takes no answers", self._config.name)
                            break
                        await arrived.send(message)
                await arrived.aclose()

            async def end_when_refused() -> None:
                await self._refused.wait()
                await arrived.aclose()

            tasks.start_soon(receive)
            if self._config.transport == "sse":  # the SDK (2.3) only logs it and sends nothing more
                tasks.start_soon(end_when_refused)
            yield read, write
            tasks.cancel_scope.cancel()

    def as_older(self) -> HttpTransport | None:
        """The transport over SSE, if the server refused the first message in the way of older servers."""
        first = [answered.status for answered in self._noted]
        if self._config.transport == "sse" or first not in _OLDER_REFUSALS:
            return None
        return HttpTransport(
            replace(self._config, transport="sse"), max_event=self._max_event, open_login=self._open_login
        )

    def explain(self, exc: BaseException) -> Failure | None:
        """Why the server could not be reached, if the transport knows."""
        config = self._config
        words = str(exc) or type(exc).__name__
        match exc:
            case _ if self._noted and self._noted[-1].status >= 400:
                return self.explain_status(self._noted[-1].status, self._noted[-1].words)
            case httpx2.HTTPStatusError():
                return self.explain_status(exc.response.status_code)
            case _ if self._noted and self._noted[-1].status >= 300:
                return self.explain_status(self._noted[-1].status, words)
            case _ if self._unreadable:
                return failures.explain_answer(self._unreadable, config=config)
            case UnicodeEncodeError():  # nothing else in a request comes from the entry
                return failures.explain_header(config=config)
            case httpx2.SSEError():
                return failures.explain_wrong_url(words, config=config)
            case httpx2.TransportError() | httpx2.InvalidURL():
                return failures.explain_unreachable(words, config=config)
            case _:
                return None

    def explain_status(self, status: int, words: str = "") -> Failure:
        """What an HTTP status means that is an error; `words` are those of the answer."""
        if self._login is not None and status in (401, 403):
            return failures.explain_refused_login(status, self._login.trouble, config=self._config)
        return failures.explain_status(status, config=self._config, words=read_refusal(words))

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[Any, Any]]:
        url = self._config.url
        if self._config.transport == "sse":
            async with sse_client(url, httpx_client_factory=self._make_http_client) as streams:
                yield streams
            return
        async with (
            self._make_http_client() as client,
            streamable_http_client(
                url, http_client=client, max_sse_event_size=min(self._max_event, MAX_EVENT)
            ) as streams,
        ):
            yield streams

    async def _note_status(self, response: httpx2.Response) -> None:
        """Remember a status for the message that it answers; the SDK's own GET and DELETE answer none."""
        request = response.request
        if request.method == "POST":
            self._unread = max(0, self._unread - 1)
        if request.method != "POST" or "signs_in" in request.extensions:
            return
        if self._login is not None and self._login.renews(response):
            return
        noted = statuses.get()
        if noted is not None:
            in_session = MCP_SESSION_ID in request.headers or self._config.transport == "sse"  # in the address there
            answered = Answered(response.status_code, in_session)
            length = response.headers.get("content-length", "")
            is_short = length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= _MAX_REFUSAL
            if answered.status >= 400 and (is_short or (answered.in_session and answered.status in (400, 410))):
                with suppress(httpx2.StreamError):
                    await response.aread()
                    answered = replace(answered, words=response.text[:_WORDS])
            noted.append(answered)
        if response.status_code >= 400:
            self._refused.set()

    def _make_http_client(self, *_: Any, **__: Any) -> httpx2.AsyncClient:
        """A client for one server; the arguments are timeouts that `sse_client` suggests, which are not wanted."""
        return httpx2.AsyncClient(
            auth=self._login,
            headers={"Accept-Encoding": "identity", **self._config.headers},
            timeout=httpx2.Timeout(HTTP_TIMEOUT, read=None),
            follow_redirects=False,
            trust_env=not is_loopback(self._config.url),  # a proxy cannot reach this machine for us
            event_hooks={"response": [self._bound_body, self._note_status]},
        )

    async def _bound_body(self, response: httpx2.Response) -> None:
        """Limit a reply that is not a stream of events, as the SDK reads it whole; each event has its own limit.

        Some servers compress although we ask for plain text. The HTTP client would unpack any size at once.
        """
        is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        coding = response.headers.pop("content-encoding", "identity").strip().lower()
        body = response.stream
        if not isinstance(body, httpx2.AsyncByteStream):
            return
        unpacked = GunzippedStream(body) if coding in ("gzip", "x-gzip") else body
        if coding != "identity" and unpacked is body:
            self._unreadable = f"its answer is compressed ({coding[:_SHOWN_CODING]})"
        elif self._open >= MAX_OPEN:
            self._unreadable = f"more than {MAX_OPEN:,} of its answers do not end"
        else:
            self._open += 1
            bounded = unpacked if is_stream else BoundedStream(unpacked, self._max_event)
            response.stream = CountedStream(bounded, is_stream=is_stream, on_end=self._note_end)
            return
        response.stream = BoundedStream(body, 0, self._unreadable)

    def _note_end(self) -> None:
        self._open -= 1


class _InnerStream(httpx2.AsyncByteStream):
    """The bytes of another stream, with which it is closed."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def aclose(self) -> None:
        await self._inner.aclose()


class BoundedStream(_InnerStream):
    """The bytes of a reply, up to a limit. Raises `StreamError`, which the SDK makes the answer of that request."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int, problem: str = "") -> None:
        super().__init__(inner)
        self._left = limit
        self._problem = problem or f"its answer is larger than {limit // (1024 * 1024)} MiB"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._left -= len(piece)
            if self._left < 0:
                raise httpx2.StreamError(self._problem)
            yield piece


class CountedStream(_InnerStream):
    """The bytes of a reply, as long as it or an event of it holds no more values than a message may."""

    def __init__(self, inner: httpx2.AsyncByteStream, *, is_stream: bool, on_end: Callable[[], None]) -> None:
        super().__init__(inner)
        self._is_stream = is_stream
        self._on_end = on_end
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        counter = ValueCounter()
        error = httpx2.SSEError if self._is_stream else httpx2.StreamError
        async for piece in self._inner:
            first, *rest = _EVENT_END.split(piece) if self._is_stream else (piece,)
            too_many = counter.feed(first)
            for part in rest:
                counter.restart()
                too_many = too_many or counter.feed(part)
            if too_many:
                raise error(f"its answer has {TOO_MANY}")
            yield piece

    async def aclose(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()
        await super().aclose()


class GunzippedStream(_InnerStream):
    """What a gzip file holds, in small pieces. Raises `StreamError` if it is not one, or is cut off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unpacker: Any = None
        try:
            async for piece in self._inner:
                while piece:
                    if unpacker is None or unpacker.eof:  # a file may have several members (RFC 1952)
                        if unpacker is not None and piece[:1] != b"\x1f":
                            break  # padding
                        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
                    yield unpacker.decompress(piece, _PIECE)
                    piece = unpacker.unconsumed_tail or unpacker.unused_data
            if unpacker is not None:
                yield unpacker.flush()
        except zlib.error as exc:
            raise httpx2.StreamError(f"its answer is not valid gzip: {exc}") from exc
        if unpacker is not None and not unpacker.eof:
            raise httpx2.StreamError("its answer is cut off")


def read_refusal(words: str) -> str:
    """What a refusal says, without the JSON around it; a page for browsers says nothing."""
    found = load_or_none(words)
    for key in ("error", "message", "error_description", "detail", "title") * 2:  # `error` may hold a `message`
        if isinstance(found, dict) and key in found:
            found = found[key]
    said = " ".join((found if isinstance(found, str) else words).split())
    return "" if said.startswith("<") else said[:_SHOWN_WORDS]


def is_loopback(address: str) -> bool:
    return urlsplit(address).hostname in {"localhost", "127.0.0.1", "::1"}
