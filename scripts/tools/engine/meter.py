"""What the engine does for one client: requests, prompt tokens evaluated, tokens generated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

_REQUEST = re.compile(rb"POST /(?:api/v\d+|v1)/(?:chat/completions|completions|responses|messages|chat) HTTP/")
_LONGEST = 64  # bytes of a request line
_CHUNK = 65_536
_REST_SECONDS = 600.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """The totals at one moment; the difference of two is what happened in between."""

    requests: int
    evaluated: int  # prompt tokens, without those that were in the prompt cache
    generated: int

    def __sub__(self, other: Reading) -> Reading:
        return Reading(
            self.requests - other.requests, self.evaluated - other.evaluated, self.generated - other.generated
        )


class Meter:
    """Passes everything on to the engine, and counts the requests by their first lines; `url` is the address to use."""

    def __init__(self, engine_url: str) -> None:
        self._engine_url = engine_url
        self._requests = 0
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""

    async def read(self) -> Reading:
        """The totals so far, once the engine is at rest: it reads on for a while after its client hung up.

        Raises:
            httpx2.HTTPError: The engine does not answer.
            TimeoutError: It is still busy.
        """
        async with asyncio.timeout(_REST_SECONDS), httpx2.AsyncClient(trust_env=False, timeout=None) as client:
            while True:
                text = (await client.get(f"{self._engine_url}/metrics")).raise_for_status().text
                if not _metric(text, "requests_processing"):
                    break
                await asyncio.sleep(_POLL_SECONDS)
        return Reading(self._requests, _metric(text, "prompt_tokens_total"), _metric(text, "tokens_predicted_total"))

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._engine_url)
        try:
            inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.close()
            return
        # Either side that hangs up ends both, so that the engine stops generating when the client is gone.
        ways = [
            asyncio.create_task(self._pass_on(reader, inner_writer, counted=True)),
            asyncio.create_task(self._pass_on(inner_reader, writer, counted=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for side in (writer, inner_writer):
                side.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        tail = b""
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                if counted:
                    # A line that began in the piece before is counted once it is whole.
                    self._requests += len(_REQUEST.findall(tail + data)) - len(_REQUEST.findall(tail))
                    tail = (tail + data)[-_LONGEST:]
                writer.write(data)
                await writer.drain()


def _metric(text: str, name: str) -> int:
    match = re.search(rf"^llamacpp:{name} ([\d.e+]+)$", text, re.MULTILINE)
    return int(float(match[1])) if match else 0


@asynccontextmanager
async def open_meter(engine_url: str) -> AsyncIterator[Meter]:
    """A meter in front of an engine, on a loopback port of its own."""
    meter = Meter(engine_url)
    server = await asyncio.start_server(meter.accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        meter.url = f"http://127.0.0.1:{port}"
        try:
            yield meter
        finally:
            await meter.close()
