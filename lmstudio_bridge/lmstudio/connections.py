"""Connections to one server, kept for its next request: httpcore, on which httpx stands, without the layers above it.

Those layers (cookies, redirects, sign-in, each URL read anew, a pool that looks at all its connections for every
request) are of no use with one address, and take as long as the request itself.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import sys
import zlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from urllib.parse import quote, urlsplit

import anyio
import httpcore
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

KEEPALIVE_EXPIRY = 3.0  # seconds; LM Studio closes idle connections after 5, and must not do so as we use one again
MAX_IDLE = 100  # connections that are kept
_WRITE_TIMEOUT = 30.0  # seconds
_COMPRESSED = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib looks which of the two it is
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError)  # the last ends a TLS connection, too
_PORTS = MappingProxyType({"http": 80, "https": 443})
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"  # besides letters and digits, what stands for itself in a path


class Reply:
    """A reply whose headers have come; its body comes in `pieces`.

    `headers` have their names in lower case. Close it: if the body was read to its end, the connection takes the
    next request, else it is hung up.
    """

    def __init__(
        self,
        response: httpcore.Response,
        connection: httpcore.AsyncHTTPConnection,
        give_back: Callable[[httpcore.AsyncHTTPConnection], Awaitable[None]],
    ) -> None:
        self.status = response.status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        assert isinstance(response.stream, AsyncIterable)
        self.pieces = aiter(response.stream)
        for coding in self.headers.get("content-encoding", "").lower().split(","):
            if coding.strip() in _COMPRESSED:  # others ("utf-8", "none") are mostly a mistake, and the body is as it is
                self.pieces = _decompressed(self.pieces)
        self._response = response
        self._connection = connection
        self._give_back = give_back

    def wait_until(self, deadline: float | None) -> None:
        """The time of the event loop until which more of the body must come, however often it is read."""
        wire = self._response.extensions.get("network_stream")
        if isinstance(wire, _Socket):
            wire.deadline = deadline

    async def aclose(self) -> None:
        """Waits for nothing but the local socket."""
        self.wait_until(None)
        try:
            await self._response.aclose()
        finally:  # also if it was cancelled
            await self._give_back(self._connection)


class _Socket(httpcore.AsyncNetworkStream):
    """A connection as httpcore wants it, on anyio's sockets.

    Httpcore has one of its own, with a time limit that begins anew with each read; here it is a moment, and nothing
    is set up for a piece that is there already.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.deadline: float | None = None  # of reading
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except _BROKEN as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._stream.send(buffer)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(str(exc)) from exc
        except _BROKEN as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        with _as_connect_errors():
            try:
                async with asyncio.timeout(timeout):
                    wrapped = await TLSStream.wrap(
                        self._stream, hostname=server_hostname, ssl_context=ssl_context, standard_compatible=False
                    )
            except BaseException:
                await anyio.aclose_forcefully(self._stream)
                raise
        return _Socket(wrapped)

    def get_extra_info(self, info: str) -> object:
        match info:
            case "ssl_object":
                return self._stream.extra(TLSAttribute.ssl_object, None)
            case "is_readable":  # asked of a connection at rest: was it closed?
                return _is_readable(self._stream.extra(SocketAttribute.raw_socket))
            case _:
                return None


class _Network(httpcore.AsyncNetworkBackend):
    """Makes connections for httpcore."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _as_connect_errors():
            async with asyncio.timeout(timeout):
                return _Socket(await anyio.connect_tcp(host, port))


def _is_readable(connection: socket.socket) -> bool:
    """Whether something has come, if only the end."""
    if connection.fileno() < 0:
        return True
    if sys.platform == "win32":
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()  # as select has no room for large numbers of files
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _as_connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore.ConnectTimeout(str(exc)) from exc
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:  # ssl's own errors among them
        raise httpcore.ConnectError(str(exc)) from exc


class Connections:
    """Connections to the server at `root_url`, one for each request under way and some at rest."""

    def __init__(
        self,
        root_url: str,
        *,
        headers: Mapping[str, str],
        certificates: ssl.SSLContext | None,
        connect_timeout: float,
        max_idle: int = MAX_IDLE,
    ) -> None:
        """`headers` go with every request; `certificates` are what a server with https is checked against.

        Raises:
            ValueError: It is no URL, or its host cannot be a name.
        """
        parts = urlsplit(root_url)
        host = (parts.hostname or "").encode("idna")
        port = parts.port or _PORTS[parts.scheme]
        address = b"[%b]" % host if b":" in host else host
        if port != _PORTS[parts.scheme]:
            address += b":%d" % port
        self._origin = httpcore.Origin(parts.scheme.encode(), host, port)
        self._path = quote(parts.path, safe=_PATH_CHARACTERS).encode()
        self.headers = [(b"Host", address), *((name.encode(), value.encode()) for name, value in headers.items())]
        self._waits = {"timeout": {"connect": connect_timeout, "write": _WRITE_TIMEOUT}}
        self._certificates = certificates
        self._max_idle = max_idle
        self._open: set[httpcore.AsyncHTTPConnection] = set()
        self._idle: deque[httpcore.AsyncHTTPConnection] = deque()  # the last to come is the first to go

    async def send(self, method: str, route: str, body: bytes | None = None) -> Reply:
        """Send a request, with JSON as its body.

        Raises:
            httpcore's exceptions, and so do the pieces of the reply; these TimeoutError, too, where `wait_until` set a
                limit.
        """
        origin, headers = self._origin, self.headers
        if body is not None:
            headers = [*headers, (b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=self._path + route.encode()),
            headers=headers,
            content=body,
            extensions=self._waits,
        )
        connection = await self._take()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:  # cancellation above all
            await self._close(connection)
            raise
        return Reply(response, connection, self._give_back)

    async def aclose(self) -> None:
        """Close all connections, also those that are in use."""
        self._idle.clear()
        with anyio.CancelScope(shield=True):  # else only the first is closed by who is cancelled
            while self._open:
                await self._close(self._open.pop())

    async def _take(self) -> httpcore.AsyncHTTPConnection:
        while self._idle and self._idle[0].has_expired():  # what has not been used since a rush
            await self._close(self._idle.popleft())
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await self._close(connection)
        connection = httpcore.AsyncHTTPConnection(
            self._origin,
            ssl_context=self._certificates,
            keepalive_expiry=KEEPALIVE_EXPIRY,
            network_backend=_Network(),
        )
        self._open.add(connection)
        return connection

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection) -> None:
        if not connection.is_idle() or connection not in self._open:  # its reply was not read to its end
            await self._close(connection)
            return
        self._idle.append(connection)
        if len(self._idle) > self._max_idle:
            await self._close(self._idle.popleft())

    async def _close(self, connection: httpcore.AsyncHTTPConnection) -> None:
        self._open.discard(connection)
        await connection.aclose()  # the socket goes at once, and what there is to wait for may be cancelled


async def _decompressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body that a server compresses although it was asked not to; gzip or deflate, as all of them can."""
    inflating = zlib.decompressobj(_GZIP_OR_ZLIB)
    async for piece in pieces:
        try:
            yield inflating.decompress(piece)
        except zlib.error as exc:
            raise httpcore.RemoteProtocolError(f"The body cannot be decompressed: {exc}") from exc
