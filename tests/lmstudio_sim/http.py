"""HTTP/1.1 by hand on asyncio streams, so that a reply can be split, torn or withheld anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import zlib
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from tests.lmstudio_sim.requests import Outcome, SimRequest

HEAD_BYTES = 64 * 1024
BODY_BYTES = 64 * 1024 * 1024
READ_BYTES = 64 * 1024
REQUEST_SECONDS = 30.0
"""A request that began to arrive has this long to arrive in full."""
WRITE_SECONDS = 60.0
"""A client that reads nothing for this long is given up."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class BadRequestError(Exception):
    """The bytes are no HTTP request, or one too large."""


class CutError(Exception):
    """The connection was closed in mid-reply, on purpose."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request off the wire; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Connection:
    """One client's socket. Bytes of a next request that come early wait in a buffer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def read_request(self, *, idle_seconds: float) -> RawRequest | None:
        """The next request, or None if the client left or sent nothing for `idle_seconds`.

        Raises:
            BadRequestError: what came is no request.
        """
        try:
            async with asyncio.timeout(idle_seconds):
                while not self._buffer:
                    if not await self._fill():
                        return None
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._read_whole_request()
        except (TimeoutError, ConnectionError, EOFError):
            return None

    async def _read_whole_request(self) -> RawRequest:
        head = (await self._take_until(b"\r\n\r\n", limit=HEAD_BYTES)).decode("latin-1")
        first, *lines = head.split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequestError(f"not an HTTP request: {first[:80]!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequestError(f"not a header: {line[:80]!r}")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._read_body(headers)
        wish = headers.get("connection", "").lower()
        keep_alive = wish != "close" if words[2] == "HTTP/1.1" else wish == "keep-alive"
        return RawRequest(words[0], words[1], headers, body, keep_alive)

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = bytearray()
            while size := self._parse_size(await self._take_until(b"\r\n", limit=1024), base=16):
                body += await self._take(size)
                await self._take_until(b"\r\n", limit=2)
                if len(body) > BODY_BYTES:
                    raise BadRequestError("body too large")
            while await self._take_until(b"\r\n", limit=HEAD_BYTES):
                pass  # trailers
            return bytes(body)
        return await self._take(self._parse_size(headers.get("content-length", "0").encode(), base=10))

    def _parse_size(self, text: bytes, *, base: int) -> int:
        try:
            size = int(text.split(b";")[0], base)
        except ValueError:
            raise BadRequestError(f"not a size: {text[:40]!r}") from None
        if not 0 <= size <= BODY_BYTES:
            raise BadRequestError("body too large")
        return size

    async def _fill(self) -> bool:
        data = await self._reader.read(READ_BYTES)
        self._buffer += data
        return bool(data)

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._fill():
                raise EOFError
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _take_until(self, mark: bytes, *, limit: int) -> bytes:
        searched = 0
        while (at := self._buffer.find(mark, searched)) < 0:
            searched = max(len(self._buffer) - len(mark), 0)
            if len(self._buffer) > limit + len(mark):
                raise BadRequestError("head too large")
            if not await self._fill():
                raise EOFError
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return taken

    async def watch_hangup(self) -> None:
        """Return when the client is gone; bytes that come meanwhile are kept for the next request."""
        with contextlib.suppress(ConnectionError):
            while len(self._buffer) <= BODY_BYTES and await self._fill():
                pass

    async def write(self, data: bytes) -> None:
        """Write and let the socket take it.

        Raises:
            ConnectionError: the client is gone, or reads nothing.
        """
        if self._writer.transport.is_closing():
            raise ConnectionResetError("client hung up")
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() == 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._writer.drain()
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("client reads nothing") from None

    def write_now(self, data: bytes) -> None:
        """Queue bytes without waiting, for what must stand whole even if the task is being cancelled."""
        if not self._writer.transport.is_closing():
            self._writer.write(data)

    def close(self) -> None:
        """Close after the bytes written so far."""
        self._writer.close()

    def abort(self, *, reset: bool = False) -> None:
        """Close at once; `reset` makes it RST."""
        if reset:
            sock: socket.socket | None = self._writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Exchange:
    """One request and the reply to it; keeps the record up to date."""

    def __init__(
        self, request: SimRequest, connection: Connection, *, keep_alive: bool, keep_alive_seconds: float
    ) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.headers_sent = False
        self._connection = connection
        self._keep_alive_seconds = keep_alive_seconds

    async def send(self, status: int, body: bytes, *, content_type: str, headers: dict[str, str] | None = None) -> None:
        """Send a whole reply with its length."""
        data = self._whole(status, body, content_type=content_type, headers=headers)
        self.request.finish("completed")
        await self._connection.write(data)

    async def send_torn(self, status: int, body: bytes, *, content_type: str, reset: bool) -> None:
        """Promise the whole reply, send the first half of its body, and close."""
        data = self._whole(status, body, content_type=content_type, headers=None)
        await self._connection.write(data[: len(data) - max(len(body) // 2, 1)])
        self.cut(reset=reset)

    def _whole(self, status: int, body: bytes, *, content_type: str, headers: dict[str, str] | None) -> bytes:
        length = {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "ETag": f'W/"{len(body):x}-{zlib.crc32(body):08x}"',
        }
        head = self._head(status, {**length, **(headers or {})})
        return head if self.request.method == "HEAD" else head + body

    async def open_stream(self) -> None:
        """Send the head of an SSE reply."""
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "Transfer-Encoding": "chunked",
        }
        await self._connection.write(self._head(200, headers))

    async def send_frame(self, frame: bytes, *, write_bytes: int | None = None, last: Outcome | None = None) -> None:
        """Send a piece of an SSE body, in chunks of `write_bytes`; `last` ends the body and settles the outcome."""
        size = write_bytes or max(len(frame), 1)
        chunks = [frame[at : at + size] for at in range(0, len(frame), size)]
        coded = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
        if last is not None:
            self.request.finish(last)
            coded = [*coded[:-1], b"".join([*coded[-1:], b"0\r\n\r\n"])]
        sent = 0
        try:
            for chunk in coded:
                sent += 1
                await self._connection.write(chunk)
        except asyncio.CancelledError:
            # The instance died in mid-frame: the error frame that follows must not land inside this one.
            self._connection.write_now(b"".join(coded[sent:]))
            raise

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection in mid-reply."""
        self.keep_alive = False
        self.request.finish("cut")
        if reset:
            self._connection.abort(reset=True)
        else:
            self._connection.close()

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        self.headers_sent = True
        self.request.status = status
        reason = _PHRASES.get(status, "Unknown")
        lines = {"X-Powered-By": "Express", **headers, "Date": formatdate(usegmt=True)}
        if self.keep_alive:
            lines |= {"Connection": "keep-alive", "Keep-Alive": f"timeout={self._keep_alive_seconds:g}"}
        else:
            lines |= {"Connection": "close"}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {status} {reason}\r\n{text}\r\n".encode("latin-1")
