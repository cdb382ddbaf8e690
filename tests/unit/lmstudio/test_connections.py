"""Connections to a server that are kept: which request gets which, and what is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import httpcore
import pytest

from lmstudio_bridge.lmstudio.connections import Connections
from tests.unit.lmstudio.clients import within

T = TypeVar("T")


@dataclass(slots=True)
class Server:
    """Answers each request with the number of its connection, and notes what it was asked."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    happened: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        try:
            while True:
                await self._note(self.heads, await reader.readuntil(b"\r\n\r\n"))
                await self.hold.wait()
                writer.write(self.head + b"%d" % number)
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._note(self.ended, number)
        finally:
            writer.close()

    async def _note(self, notes: list[T], note: T) -> None:
        async with self.happened:
            notes.append(note)
            self.happened.notify_all()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for this; it is looked at whenever a request comes or a connection ends."""
        async with self.happened:
            await within(self.happened.wait_for(is_so))


@asynccontextmanager
async def open_server() -> AsyncIterator[Server]:
    server = Server()
    server.hold.set()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


@asynccontextmanager
async def open_connections(url: str, *, max_idle: int = 10) -> AsyncIterator[Connections]:
    connections = Connections(url, headers={}, certificates=None, connect_timeout=10.0, max_idle=max_idle)
    try:
        yield connections
    finally:
        await connections.aclose()


async def ask(connections: Connections) -> int:
    """The number of the connection that the request took."""
    reply = await within(connections.send("GET", "/"))
    body = b"".join([piece async for piece in reply.pieces])
    await reply.aclose()
    return int(body)


async def ask_at_once(connections: Connections, server: Server, *, requests: int) -> list[int]:
    """The numbers of the connections of so many requests, each under way before the first is answered."""
    server.hold.clear()
    before = len(server.heads)
    tasks = [asyncio.create_task(ask(connections)) for _ in range(requests)]
    await server.until(lambda: len(server.heads) == before + requests)
    server.hold.set()
    return sorted(await asyncio.gather(*tasks))


async def test_requests_one_after_the_other_take_the_same_connection() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        assert [await ask(connections) for _ in range(3)] == [0, 0, 0]


async def test_requests_at_once_have_a_connection_each_and_so_have_the_next_ones() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        for _ in range(2):
            assert await ask_at_once(connections, server, requests=3) == [0, 1, 2]


@pytest.mark.parametrize(("requests", "closed"), [(1, 0), (2, 0), (3, 1), (4, 2)])
async def test_only_so_many_connections_are_kept(requests: int, closed: int) -> None:
    async with open_server() as server, open_connections(server.url, max_idle=2) as connections:
        await ask_at_once(connections, server, requests=requests)
        await server.until(lambda: len(server.ended) == closed)

        again = await ask_at_once(connections, server, requests=min(requests, 2))
        assert not set(again) & set(server.ended)
        assert max(again) < requests


async def test_a_connection_that_the_server_closed_at_rest_is_not_used_again() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        await ask_at_once(connections, server, requests=2)
        for writer in server.writers:
            writer.close()
            await writer.wait_closed()

        assert [await ask(connections), await ask(connections)] == [2, 2]


async def test_words_that_nobody_asked_for_are_no_answer_to_the_next_request() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        await ask(connections)
        server.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 1\r\n\r\n7")
        await server.writers[0].drain()

        assert await ask(connections) == 1


async def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        server.hold.clear()
        task = asyncio.create_task(connections.send("GET", "/"))
        await server.until(lambda: bool(server.heads))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.hold.set()

        assert await ask(connections) == 1
        assert server.ended == [0]


@pytest.mark.parametrize("steps", range(4))
async def test_a_reply_whose_closing_is_cancelled_is_hung_up_all_the_same(steps: int) -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        server.head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        reply = await within(connections.send("GET", "/"))
        closing = asyncio.create_task(reply.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await connections.aclose()

        await server.until(lambda: server.ended == [0])


async def test_a_time_limit_ends_with_its_reply() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        reply = await within(connections.send("GET", "/"))
        assert [piece async for piece in reply.pieces] == [b"0"]
        reply.wait_until(asyncio.get_running_loop().time() - 1.0)
        await reply.aclose()

        assert await ask(connections) == 0


async def test_a_body_that_does_not_come_in_time_is_a_timeout() -> None:
    async with open_server() as server, open_connections(server.url) as connections:
        server.head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        reply = await within(connections.send("GET", "/"))
        reply.wait_until(asyncio.get_running_loop().time())
        with pytest.raises(TimeoutError):
            assert [piece async for piece in reply.pieces] == [b"0"]
        await reply.aclose()
        await server.until(lambda: server.ended == [0])


async def test_closing_closes_what_is_at_rest() -> None:
    async with open_server() as server:
        async with open_connections(server.url) as connections:
            await ask_at_once(connections, server, requests=2)
        await server.until(lambda: len(server.ended) == 2)


async def test_who_is_cancelled_closes_all_that_is_at_rest() -> None:
    async with open_server() as server:
        with anyio.CancelScope() as scope:
            async with open_connections(server.url) as connections:
                await ask_at_once(connections, server, requests=2)
                scope.cancel()
        await server.until(lambda: len(server.ended) == 2)


async def test_nobody_there_is_told_as_such() -> None:
    async with open_server() as server:
        url = server.url
    async with open_connections(url) as connections:
        with pytest.raises(httpcore.ConnectError):
            await within(connections.send("GET", "/"))


@pytest.mark.parametrize(
    ("path", "target"),
    [("", b"/x"), ("/lm/studio", b"/lm/studio/x"), ("/ein ü", b"/ein%20%C3%BC/x"), ("/a%20b", b"/a%20b/x")],
)
async def test_the_address_may_have_a_path(path: str, target: bytes) -> None:
    async with open_server() as server, open_connections(server.url + path) as connections:
        reply = await within(connections.send("POST", "/x", b"{}"))
        await reply.aclose()

    assert server.heads[0].startswith(b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (target, server.url[7:].encode()))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://[::1]:1234", b"[::1]:1234"),
        ("http://bücher.local:80", b"xn--bcher-kva.local"),
        ("http://Studio.LAN", b"studio.lan"),
        ("https://studio.lan:443", b"studio.lan"),
        ("https://studio.lan:80", b"studio.lan:80"),
    ],
)
def test_the_host_is_named_as_http_wants_it(url: str, host: bytes) -> None:
    connections = Connections(url, headers={}, certificates=None, connect_timeout=1.0)

    assert connections.headers[0] == (b"Host", host)
