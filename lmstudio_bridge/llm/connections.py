"""Connections to one server, kept for its next request: httpcore, on which httpx stands, without the layers above it.

Those layers (cookies, redirects, sign-in, each URL read anew, a pool that looks at all its connections for every
request) are of no use with one address, and take as long as the request itself.
"""

from __future__ import annotations

import ssl
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote, urlsplit

import anyio
import httpcore

_KEEPALIVE_EXPIRY = 3.0  # seconds; LM Studio closes idle connections after 5, and must not do so as we use one again
_MAX_IDLE = 100  # connections that are kept
_WRITE_TIMEOUT = 30.0  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds to close a connection while being cancelled
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib looks which of the two it is
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
        keep: Callable[[httpcore.AsyncHTTPConnection], Awaitable[None]],
    ) -> None:
        self.status = response.status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        pieces = response.aiter_stream()
        self.pieces = (
            _decompressed(pieces) if self.headers.get("content-encoding", "identity") != "identity" else pieces
        )
        self._response = response
        self._connection = connection
        self._keep = keep

    async def aclose(self) -> None:
        """Waits for nothing but the local socket."""
        await self._response.aclose()
        await self._keep(self._connection)


class Connections:
    """Connections to the server at `root_url`, one for each request under way and some at rest."""

    def __init__(
        self,
        root_url: str,
        *,
        headers: Mapping[str, str],
        certificates: ssl.SSLContext | None,
        connect_timeout: float,
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
        self._headers = [(b"Host", address), *((name.encode(), value.encode()) for name, value in headers.items())]
        self._waits = {"timeout": {"connect": connect_timeout, "write": _WRITE_TIMEOUT}}
        self._certificates = certificates
        self._idle: deque[httpcore.AsyncHTTPConnection] = deque()  # the last to come is the first to go

    async def send(self, method: str, route: str, body: bytes | None = None) -> Reply:
        """Send a request, with JSON as its body.

        Raises:
            httpcore's exceptions, and so do the pieces of the reply.
        """
        origin, headers = self._origin, self._headers
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
            with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await connection.aclose()
            raise
        return Reply(response, connection, self._keep)

    async def aclose(self) -> None:
        """Close the connections that are at rest."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _take(self) -> httpcore.AsyncHTTPConnection:
        while self._idle and self._idle[0].has_expired():  # what has not been used since a rush
            await self._idle.popleft().aclose()
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            self._origin, ssl_context=self._certificates, keepalive_expiry=_KEEPALIVE_EXPIRY
        )

    async def _keep(self, connection: httpcore.AsyncHTTPConnection) -> None:
        if connection.is_idle():  # else it was closed, because its reply was not read to its end
            self._idle.append(connection)
            if len(self._idle) > _MAX_IDLE:
                await self._idle.popleft().aclose()


async def _decompressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body that a server compresses although it was asked not to; gzip or deflate, as all of them can."""
    inflating = zlib.decompressobj(_GZIP_OR_ZLIB)
    async for piece in pieces:
        try:
            yield inflating.decompress(piece)
        except zlib.error as exc:
            raise httpcore.RemoteProtocolError(f"The body cannot be decompressed: {exc}") from exc
