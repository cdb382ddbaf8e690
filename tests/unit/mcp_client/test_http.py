"""Sessions over streamable HTTP and SSE, with real servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from lmstudio_bridge import errors
from lmstudio_bridge.mcp_client.http import BoundedStream, GunzippedStream, Login
from lmstudio_bridge.mcp_client.pool import SILENCE
from lmstudio_bridge.messages import ServerConfig, ToolResult, Transport
from tests.support.processes import PATIENCE
from tests.unit.mcp_client.pools import assert_start_fails, open_test_pool, start_failure

SCRIPT = Path(__file__).with_name("http_server.py")


class Servers:
    """An MCP server of each kind in a process of its own, started when a test first asks for it."""

    def __init__(self) -> None:
        self._ports: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def port(self, kind: str = "http") -> int:
        """Where the server of this kind listens; always the same port."""
        if kind not in self._processes:
            command = [sys.executable, str(SCRIPT), kind, str(self._ports.get(kind, 0))]
            process = self._processes[kind] = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            self._ports[kind] = int(process.stdout.readline())
        return self._ports[kind]

    def stop(self, kind: str = "http") -> None:
        """End the server of this kind; the next `port` starts another."""
        with self._processes.pop(kind) as process:
            process.kill()

    def restart(self, kind: str = "http") -> None:
        self.stop(kind)
        self.port(kind)

    def stop_all(self) -> None:
        for kind in list(self._processes):
            self.stop(kind)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.stop_all()


@asynccontextmanager
async def answering(response: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of an HTTP server that answers everything alike (None: never), and the heads that it got."""
    heads: list[bytes] = []
    finished = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if response is None:
            await finished.wait()
        else:
            writer.write(response)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        finished.set()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def failing_in_calls(
    status: str,
    transport: Transport,
    *,
    forgets: int = 0,
    executed: list[str] | None = None,
    gzips: str = "",
    words: str | bytes = "",
) -> AsyncIterator[int]:
    """The port of an MCP server that opens and lists its tool, but answers tools/call with that HTTP status.

    `words` are the error in its body, or its whole body. `gzips` is the kind of answers that it packs. With `forgets`,
    it has sessions: it answers calls in so many of them with the status, and executes the next.
    """
    sessions: list[str] = []
    events: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not head.startswith("POST"):
            if transport == "sse":
                events.append(writer)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: endpoint\ndata: /m\n\n")
                return
            writer.write(respond("405 Method Not Allowed"))
        else:
            length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
            message = json.loads(await reader.readexactly(length))
            extra = ""
            if forgets and message["method"] == "initialize":
                sessions.append(f"s{len(sessions)}")
                extra = f"mcp-session-id: {sessions[-1]}\r\n"
            result = {
                "initialize": {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "x"}},
                "tools/list": {"tools": [{"name": "act"}]},
            }.get(message["method"])
            text = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result})
            if message["method"] == "tools/call" and forgets and len(sessions) > forgets:
                assert executed is not None
                executed.append(message["params"]["name"])
                text = text.replace("null", '{"content": [{"type": "text", "text": "done"}]}')
                writer.write(respond("200 OK", text, "application/json"))
            elif message["method"] in ("tools/call", "ping"):
                number = message["id"] if status == "200 OK" else None
                error = {"jsonrpc": "2.0", "id": number, "error": {"code": -32000, "message": words}}
                body = words if isinstance(words, bytes) else json.dumps(error, default=str)
                kind = "text/plain" if body is words else "application/json"
                writer.write(respond(status, body, kind) if words else respond(status))
            elif result is None or transport == "sse":
                writer.write(respond("202 Accepted"))
                if result is not None:
                    events[-1].write(f"event: message\ndata: {text}\n\n".encode())
            else:
                coding = "content-encoding: gzip\r\n" if gzips else ""
                text = f"data: {text}\n\n" if gzips == "text/event-stream" else text
                packed = gzip.compress(text.encode(), mtime=0) if gzips else text
                writer.write(respond("200 OK", packed, gzips or "application/json", extra + coding))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in events:
            writer.close()
        server.close()
        await server.wait_closed()


def respond(status: str, body: str | bytes = "", kind: str = "text/plain", extra: str = "") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{extra}\r\n"
    )
    return head.encode() + body


def configure_url(port: int, transport: Transport = "http", **headers: str) -> ServerConfig:
    path = "sse" if transport == "sse" else "mcp"
    return ServerConfig("web", transport, url=f"http://127.0.0.1:{port}/{path}?key=secret", headers=headers)


def configure_kind(servers: Servers, kind: str) -> ServerConfig:
    return configure_url(servers.port(kind), "sse" if kind == "sse" else "http")


class Pieces(httpx2.AsyncByteStream):
    """A body that comes in pieces of so many bytes."""

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize("kind", ["http", "json", "sse"])
async def test_tools_are_listed_and_called_at_the_same_time(servers: Servers, kind: str) -> None:
    async with open_test_pool() as pool:
        tools = await pool.open_server(configure_kind(servers, kind))
        results = await asyncio.gather(*(pool.call_tool("web", "meet", {"count": 20}) for _ in range(20)))
        wrong = await pool.call_tool("web", "echo", {})

    assert [tool.name for tool in tools] == ["echo", "meet", "hold", "release", "was_cancelled", "big", "die"]
    assert results == [ToolResult("met")] * 20
    assert wrong.is_error
    assert "text" in wrong.text


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_progress_and_cancelling_pass(servers: Servers, kind: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with open_test_pool() as pool:
        await pool.open_server(configure_kind(servers, kind))
        calls = [
            asyncio.create_task(pool.call_tool("web", "hold", {"number": number}, on_progress=told.put))
            for number in range(2)
        ]
        assert [await told.get(), await told.get()] == ["1/2 holding"] * 2
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        while "0" not in (await pool.call_tool("web", "was_cancelled", {})).text.split():
            pass
        await pool.call_tool("web", "release", {"number": 1})
        assert await calls[1] == ToolResult("released 1")


@pytest.mark.parametrize("kind", ["http", "json"])
async def test_result_above_the_sdks_own_cap_passes(servers: Servers, kind: str) -> None:
    """The SDK refuses events of more than 1 MiB unless told otherwise."""
    async with open_test_pool() as pool:
        await pool.open_server(configure_url(servers.port(kind)))
        result = await pool.call_tool("web", "big", {"size": 1_100_000})

    assert len(result.text) == 1_100_000


async def test_result_above_our_own_cap_is_an_error_that_says_so(servers: Servers) -> None:
    async with open_test_pool(max_event=2 * 1024 * 1024) as pool:
        await pool.open_server(configure_url(servers.port("json")))
        result = await pool.call_tool("web", "big", {"size": 2 * 1024 * 1024})
        back = await pool.call_tool("web", "echo", {"text": "back"})

    assert result.is_error
    assert "its answer is larger than 2 MiB" in result.text
    assert back == ToolResult("back")


@pytest.mark.parametrize(("size", "fits"), [(9, True), (10, True), (11, False)])
async def test_an_answer_is_read_up_to_the_bound(size: int, fits: bool) -> None:
    stream = BoundedStream(Pieces(b"x" * size, 1), 10)
    if fits:
        assert [piece async for piece in stream] == [b"x"] * size
    else:
        with pytest.raises(httpx2.StreamError):
            [piece async for piece in stream]


@pytest.mark.parametrize(
    ("coding", "kind", "body", "reason"),
    [
        ("gzip", "application/json", b"not gzip at all", "its answer is not valid gzip"),
        ("gzip", "application/json", gzip.compress(b'{"a": 1}', mtime=0)[:-9], "its answer is cut off"),
        (
            "gzip, gzip",
            "application/json",
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            r"is compressed \(gzip, gzip\)",
        ),
        ("br", "application/json", b"anything", r"is compressed \(br\)"),
        ("br", "text/event-stream", b"anything", r"is compressed \(br\)"),
    ],
)
async def test_compressed_answer_that_cannot_be_read_within_bounds_is_refused(
    coding: str, kind: str, body: bytes, reason: str
) -> None:
    async with (
        answering(respond("200 OK", body, kind, f"content-encoding: {coding}\r\n")) as (port, heads),
        open_test_pool() as pool,
    ):
        with pytest.raises(errors.ServerStartError, match=reason):
            await pool.open_server(configure_url(port))

    assert b"accept-encoding: identity" in heads[0].lower()


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_answer_that_is_gzipped_although_we_asked_for_plain_is_read(kind: str) -> None:
    async with failing_in_calls("500 Unused", "http", gzips=kind) as port, open_test_pool() as pool:
        assert [tool.name for tool in await pool.open_server(configure_url(port))] == ["act"]


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (gzip.compress(b"hello ") + gzip.compress(b"world"), b"hello world"),
        (gzip.compress(b"hello") + bytes(9), b"hello"),
        (b"", b""),
    ],
    ids=["two members", "zeros behind", "none"],  # a member holds the time
)
async def test_gzipped_answer_may_have_several_members_or_none(packed: bytes, text: bytes) -> None:
    assert b"".join([piece async for piece in GunzippedStream(Pieces(packed, 7))]) == text


@pytest.mark.parametrize(("size", "fits"), [(999_999, True), (1_000_000, True), (1_000_001, False)])
async def test_gzipped_answer_is_bounded_by_what_it_unpacks_to(size: int, fits: bool) -> None:
    """In pieces that are small, however much a piece of the packed answer holds."""
    packed = Pieces(gzip.compress(b"x" * size, mtime=0), 100)
    sizes: list[int] = []

    async def read() -> None:
        async for piece in BoundedStream(GunzippedStream(packed), 1_000_000):
            sizes.append(len(piece))

    if fits:
        await read()
        assert sum(sizes) == size
    else:
        with pytest.raises(httpx2.StreamError, match="larger"):
            await read()
    assert max(sizes) <= 65_536


async def test_result_above_the_cap_of_sse_loses_the_session_but_not_the_server(servers: Servers) -> None:
    """The SDK's transport for the older SSE servers takes no other cap than 1 MiB."""
    async with open_test_pool() as pool:
        await pool.open_server(configure_url(servers.port("sse"), "sse"))
        with pytest.raises(errors.SessionLostError):
            await pool.call_tool("web", "big", {"size": 1_100_000})
        assert await pool.call_tool("web", "echo", {"text": "back"}) == ToolResult("back")


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_server_that_dies_in_a_call_and_returns_is_reached_again(servers: Servers, kind: str) -> None:
    async with open_test_pool() as pool:
        config = configure_kind(servers, kind)
        await pool.open_server(config)
        with pytest.raises(errors.SessionLostError, match="may or may not have had effects"):
            await pool.call_tool("web", "die", {})
        with pytest.raises(errors.ServerStartError, match="cannot be reached"):
            await pool.call_tool("web", "echo", {"text": "too early"})
        servers.restart(kind)
        result = await pool.call_tool("web", "echo", {"text": "back"})
        tools = await pool.open_server(config)

    assert result == ToolResult("back")
    assert len(tools) == 7


async def test_server_that_was_restarted_is_reached_again(servers: Servers) -> None:
    """It does not know the old session any more and says so with HTTP 404, also after a long silence."""
    now = 0.0
    async with open_test_pool(clock=lambda: now) as pool:
        await pool.open_server(configure_url(servers.port()))
        servers.restart()
        back = await pool.call_tool("web", "echo", {"text": "back"})

        servers.restart()
        now = SILENCE
        await pool.open_server(configure_url(servers.port()))
        first = await pool.call_tool("web", "echo", {"text": "first"})

    assert (back, first) == (ToolResult("back"), ToolResult("first"))


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (respond("401 Unauthorized"), "requires sign-in (HTTP 401)"),
        (respond("403 Forbidden"), "requires sign-in (HTTP 403)"),
        (respond("403 Forbidden", '{"message": "Your address is blocked"}'), "(HTTP 403): Your address is blocked."),
        (respond("404 Not Found"), "is not an MCP endpoint: HTTP 404"),
        (respond("405 Method Not Allowed"), "is not an MCP endpoint: HTTP 405"),
        (respond("429 Too Many Requests"), "received too many requests (HTTP 429)"),
        (respond("500 Internal Server Error"), "failed with HTTP 500"),
        (respond("302 Found", extra="location: http://127.0.0.1:9/other\r\n"), "answered with HTTP 302"),
        (respond("200 OK", "<html>welcome</html>", "text/html"), "is not an MCP endpoint"),
    ],
)
async def test_answer_that_is_not_mcp_is_told_apart(transport: Transport, response: bytes, reason: str) -> None:
    async with answering(response) as (port, _):
        failure = await start_failure(configure_url(port, transport))

    if transport == "sse":  # the SDK closes the answer before it can be read
        reason = reason.partition("): ")[0]
    assert reason in failure.message
    assert f"http://127.0.0.1:{port}/" in failure.message
    assert "secret" not in failure.explain()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        ("400 Bad Request", '{"error": {"code": 7, "message": "Set  X-Key"}}', "answered with HTTP 400: Set X-Key."),
        ("400 Bad Request", '{"error": "no key", "message": "m"}', "answered with HTTP 400: no key."),
        ("400 Bad Request", "<html>Cloudflare</html>", "answered with HTTP 400."),
        ("402 Payment Required", "Plan has ended", "requires payment (HTTP 402): Plan has ended."),
        ("404 Not Found", '{"detail": "no such tenant"}', "is not an MCP endpoint: HTTP 404: no such tenant."),
        ("410 Gone", "moved to /v2/mcp", "is not an MCP endpoint: HTTP 410: moved to /v2/mcp."),
        ("422 Unprocessable", "x" * 400, f"answered with HTTP 422: {'x' * 300}."),
        ("503 Unavailable", '["down"]', 'failed with HTTP 503: ["down"].'),
        ("503 Unavailable", "x" * 70_000, "failed with HTTP 503."),
        ("403 Forbidden", "abcdef is not a key", "(HTTP 403): *** is not a key."),
        ("200 OK", '{"error": "no key"}', "is not an MCP endpoint: what it answers is not MCP."),
    ],
)
async def test_words_of_a_refusal_are_told(status: str, body: str, told: str) -> None:
    kind = "application/json" if status == "200 OK" else "text/plain"
    async with answering(respond(status, body, kind)) as (port, _):
        failure = await start_failure(configure_url(port, Authorization="abcdef"))

    assert told in failure.message
    assert "pydantic" not in failure.message


async def test_older_server_is_reached_over_sse_whatever_its_entry_says(servers: Servers) -> None:
    async with open_test_pool() as pool:
        config = replace(configure_url(servers.port("sse"), "sse"), transport="http")
        tools = await pool.open_server(config)
        result = await pool.call_tool("web", "echo", {"text": "there"})
        with pytest.raises(errors.SessionLostError):
            await pool.call_tool("web", "die", {})
        servers.restart("sse")
        back = await pool.call_tool("web", "echo", {"text": "back"})

    assert len(tools) == 7
    assert (result, back) == (ToolResult("there"), ToolResult("back"))


@pytest.mark.parametrize(
    ("status", "methods"),
    [
        (400, "POST GET"),
        (401, "POST"),
        (403, "POST"),
        (404, "POST GET"),
        (405, "POST GET"),
        (406, "POST"),
        (500, "POST"),
    ],
)
async def test_sse_is_tried_after_the_refusals_that_the_specification_names(status: int, methods: str) -> None:
    async with answering(respond(f"{status} No")) as (port, heads):
        await assert_start_fails(configure_url(port), f"HTTP {status}")

    assert [head.split()[0].decode() for head in heads] == methods.split()


async def test_refusal_explains_a_server_whose_events_are_not_those_of_sse() -> None:
    """A newer server streams events, too, and never says where messages go."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            writer.write(respond("400 Bad Request"))
            writer.close()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            await reader.read()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        await assert_start_fails(
            configure_url(server.sockets[0].getsockname()[1]), "answered with HTTP 400", start_timeout=3.0
        )


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_refused_credentials_are_told_apart_from_missing_ones(transport: Transport) -> None:
    async with answering(respond("401 Unauthorized")) as (port, heads):
        await assert_start_fails(
            configure_url(port, transport, Authorization="Bearer abcdef"), r"refused our credentials \(HTTP 401\)"
        )

    assert b"authorization: bearer abcdef" in heads[0].lower()


@pytest.mark.parametrize(
    ("transport", "status", "reason"),
    [
        ("http", "500 Internal Server Error", r"failed with HTTP 500 during the call of 'act'"),
        ("sse", "500 Internal Server Error", r"failed with HTTP 500 during the call of 'act'"),
        ("http", "404 Not Found", r"answered with HTTP 404 during the call of 'act'"),
    ],
)
async def test_status_of_a_call_is_told_apart(transport: Transport, status: str, reason: str) -> None:
    """As where a token expires, or the server's own backend fails."""
    async with failing_in_calls(status, transport) as port, open_test_pool() as pool:
        config = configure_url(port, transport, Authorization="Bearer abcdef")
        assert [tool.name for tool in await pool.open_server(config)] == ["act"]
        with pytest.raises(errors.SessionLostError, match=reason):
            await pool.call_tool("web", "act", {})
        assert [tool.name for tool in await pool.open_server(config)] == ["act"]


@pytest.mark.parametrize(
    ("transport", "status", "words", "kind"),
    [
        ("http", "401 Unauthorized", "requires sign-in|`lmstudio-bridge login web`", errors.CallRefusedError),
        ("sse", "401 Unauthorized", "requires sign-in|`lmstudio-bridge login web`", errors.CallRefusedError),
        ("http", "403 Forbidden", "requires sign-in", errors.CallRefusedError),
        ("http", "413 Content Too Large", "HTTP 413", errors.DownstreamError),
        ("http", "429 Too Many Requests", "Wait a few minutes", errors.DownstreamError),
    ],
)
async def test_call_that_was_refused_before_it_ran_is_said_to_have_had_no_effects(
    transport: Transport, status: str, words: str, kind: type[errors.DownstreamError]
) -> None:
    async with failing_in_calls(status, transport) as port, open_test_pool() as pool:
        config = configure_url(port, transport)
        await pool.open_server(config)
        with pytest.raises(errors.DownstreamError) as caught:
            await pool.call_tool("web", "act", {})
        assert [tool.name for tool in await pool.open_server(config)] == ["act"]

    assert type(caught.value) is kind
    assert "during the call of 'act'. The call was not executed." in caught.value.message
    assert all(each in caught.value.explain() for each in words.split("|"))


@pytest.mark.parametrize(
    ("status", "words"),
    [("401 Unauthorized", "has expired or was revoked"), ("403 Forbidden", "accepts the login, but does not allow")],
)
async def test_login_that_is_refused_in_a_call_is_looked_up_again_for_the_next(status: str, words: str) -> None:
    class Kept(Login):
        def renews(self, response: httpx2.Response) -> bool:
            return False

    looked_up: list[str] = []

    async def open_login(config: ServerConfig) -> Login:
        looked_up.append(config.name)
        return Kept()

    now = 0.0
    async with (
        failing_in_calls(status, "http") as port,
        open_test_pool(open_login=open_login, clock=lambda: now) as pool,
    ):
        await pool.open_server(configure_url(port))
        for _ in range(2):
            with pytest.raises(errors.CallRefusedError, match=words) as caught:
                await pool.call_tool("web", "act", {})
        await pool.open_server(configure_url(port))
        now = SILENCE  # after which the server is pinged, and refuses that, too
        await pool.open_server(configure_url(port))

    assert "`lmstudio-bridge login web`" in caught.value.remedy
    assert looked_up == ["web"] * 4


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("404 Not Found", ""),
        ("200 OK", "Session not found"),
        ("200 OK", "Session 0a1b2c3d-4e5f has expired."),
        ("400 Bad Request", "Session not found"),
        ("400 Bad Request", "Bad Request: No valid session ID provided"),
        ("400 Bad Request", "Bad Request: Server not initialized"),
        ("400 Bad Request", b"Invalid session ID\n"),
        ("400 Bad Request", b"Invalid or missing session ID"),
        ("400 Bad Request", b"No active session found"),
        ("410 Gone", b'{"detail": "Session 7 does not exist"}'),
        ("400 Bad Request", b'{"error": {"code": 7, "message": "Session has expired, please reconnect"}}'),
        ("400 Bad Request", b"Bad Request: Mcp-Session-Id header is invalid"),
        ("400 Bad Request", b"Could not find session 7"),
        ("400 Bad Request", b'{"error": "Invalid session ID. Please reconnect"}'),
        ("400 Bad Request", b"Session with id 7a-b was not found"),
    ],
)
async def test_call_in_an_expired_session_is_sent_again_in_a_new_one(status: str, words: str | bytes) -> None:
    executed: list[str] = []
    async with (
        failing_in_calls(status, "http", forgets=1, executed=executed, words=words) as port,
        open_test_pool() as pool,
    ):
        await pool.open_server(configure_url(port))
        result = await pool.call_tool("web", "act", {})

    assert (result, executed) == (ToolResult("done"), ["act"])


@pytest.mark.parametrize(
    ("transport", "status", "words", "kind", "text"),
    [
        ("http", "404 Not Found", "", errors.DownstreamError, "The call was not executed"),
        ("sse", "404 Not Found", "", errors.DownstreamError, "The call was not executed"),  # as behind a load balancer
        ("http", "200 OK", "Session not found", errors.DownstreamError, "The call was not executed"),
        ("http", "500 Internal Server Error", "", errors.SessionLostError, "may or may not have had effects"),
        *(
            ("http", status, words, errors.SessionLostError, "may or may not have had effects")
            for status, words in (
                ("400 Bad Request", ""),
                ("400 Bad Request", "Your session was booked; coupon invalid"),
                ("410 Gone", b"The session was saved, but the date is invalid"),
                ("400 Bad Request", b"No session available on Friday"),
                ("400 Bad Request", b"No session found; the booking was made"),
                ("400 Bad Request", "The session date is invalid"),
            )
        ),
    ],
)
async def test_call_is_sent_twice_at_most_and_only_where_it_was_not_executed(
    transport: Transport, status: str, words: str | bytes, kind: type[errors.DownstreamError], text: str
) -> None:
    executed: list[str] = []
    async with (
        failing_in_calls(status, transport, forgets=2, executed=executed, words=words) as port,
        open_test_pool() as pool,
    ):
        await pool.open_server(configure_url(port, transport))
        with pytest.raises(kind, match=text) as caught:
            await pool.call_tool("web", "act", {})

    assert type(caught.value) is kind
    assert executed == []


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_silent_server_is_bounded(transport: Transport) -> None:
    silent = r"did not answer within 0\.3 seconds"
    async with answering(None) as (port, _), asyncio.timeout(PATIENCE):
        await assert_start_fails(configure_url(port, transport), silent, start_timeout=0.3)


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_nothing_that_listens_is_said_so(transport: Transport) -> None:
    async with answering(None) as (port, _):
        pass
    await assert_start_fails(configure_url(port, transport), "cannot be reached")


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(
    "url", ["${NOT_SET}/mcp", "http://[::1/mcp", "http://127.0.0.1:99999/mcp", "ftp://web/mcp", ""]
)
async def test_url_that_is_none_is_said_so_and_spoils_no_other_server(
    servers: Servers, transport: Transport, url: str
) -> None:
    async with open_test_pool() as pool:
        with pytest.raises(errors.ServerStartError, match="'web'"):
            await pool.open_server(ServerConfig("web", transport, url=url))
        assert len(await pool.open_server(configure_url(servers.port()))) == 7


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_header_that_cannot_be_sent_is_an_error_that_hides_its_value(
    servers: Servers, transport: Transport
) -> None:
    async with open_test_pool() as pool:
        for value in ("Bearer hunter22\nX: y", "Bearer hunter22→"):
            with pytest.raises(errors.ServerStartError, match="'web'") as caught:
                await pool.open_server(configure_url(servers.port(), transport, Authorization=value))
            assert "hunter22" not in caught.value.explain()
            assert "header" in caught.value.explain()


async def test_proxy_of_the_environment_is_not_asked_for_loopback(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with open_test_pool() as pool:
        assert len(await pool.open_server(configure_url(servers.port()))) == 7
