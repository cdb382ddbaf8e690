"""Bytes to and from a server: what is sent, what is never followed, how much is read, which connections are kept."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
import httpx
import pytest
import respx

from lmstudio_bridge.errors import LLMConnectionError, LLMError, LLMResponseError, SettingsError, WrongEndpointError
from lmstudio_bridge.lmstudio.http import Transport, open_transport
from tests.unit.lmstudio.clients import within

T = TypeVar("T")

URL = "http://studio.lan:1234"
PATH = "/v1/models"
EVENT = b"data: [DONE]\n\n"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


async def get(transport: Transport) -> bytes:
    return await within(transport.request("GET", PATH))


# -- one request and one reply --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "header"), [("sk-lm-x", "Bearer sk-lm-x"), ("", None), (None, None)])
async def test_token_is_sent_if_there_is_one(
    token: str | None, header: str | None, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.get(URL + PATH).respond(json={})
    async with open_transport(URL, api_token=token) as transport:
        await get(transport)

    assert route.calls.last.request.headers.get("authorization") == header


async def test_token_may_hold_any_character(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.get(URL + PATH).respond(json={})
    async with open_transport(URL, api_token="schlüssel") as transport:
        await get(transport)

    assert (b"Authorization", "Bearer schlüssel".encode()) in route.calls.last.request.headers.raw


async def test_payload_is_sent_as_json_in_utf_8(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.post(URL + "/x").respond(json={})
    async with open_transport(URL) as transport:
        await within(transport.request("POST", "/x", {"text": "größe 📁, half a pair: \ud800"}))

    request = route.calls.last.request
    assert request.headers["content-type"] == "application/json"
    assert "größe 📁".encode() in request.content
    assert json.loads(request.content) == {"text": "größe 📁, half a pair: ?"}


@pytest.mark.parametrize(
    ("address", "host", "path"),
    [
        ("http://studio.lan", "studio.lan", "/v1/models"),
        ("http://Studio.LAN:80", "studio.lan", "/v1/models"),
        ("http://[::1]:1234", "[::1]:1234", "/v1/models"),
        ("http://bücher.local", "xn--bcher-kva.local", "/v1/models"),
        ("https://studio.lan:443/lm/studio", "studio.lan", "/lm/studio/v1/models"),
        ("https://studio.lan:80/ein ü", "studio.lan:80", "/ein%20%C3%BC/v1/models"),
        ("http://studio.lan/a%20b", "studio.lan", "/a%20b/v1/models"),
    ],
)
async def test_address_becomes_host_and_path(address: str, host: str, path: str, respx_mock: respx.MockRouter) -> None:
    route = respx_mock.get().respond(json={})
    async with open_transport(address) as transport:
        await get(transport)

    request = route.calls.last.request
    assert (request.headers["host"], request.url.raw_path.decode()) == (host, path)


@pytest.mark.parametrize("address", ["http://[::1", "http://here..there:1234"])
async def test_unusable_address_is_a_setting_to_check(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        async with open_transport(address):
            pass

    assert address in caught.value.message
    assert "LMSTUDIO_BASE_URL" in caught.value.remedy


@pytest.mark.parametrize(("size", "allowed"), [(99, True), (100, True), (101, False)])
async def test_whole_reply_may_be_as_large_as_the_limit(size: int, allowed: bool, respx_mock: respx.MockRouter) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    respx_mock.get(URL + PATH).respond(content=body)
    async with open_transport(URL, max_body_bytes=100) as transport:
        if allowed:
            assert await get(transport) == body
        else:
            with pytest.raises(LLMResponseError, match="larger than 100 bytes"):
                await get(transport)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed_with_the_token(status: int, respx_mock: respx.MockRouter) -> None:
    respx_mock.post(URL + "/x").respond(status, headers={"Location": f"http://elsewhere.lan{PATH}"}, text="Moved.")
    async with open_transport(URL, api_token="sk-lm-x") as transport:
        with pytest.raises(WrongEndpointError):
            await within(transport.request("POST", "/x", {"secret": "words"}))

    assert len(respx_mock.calls) == 1


async def test_reply_that_a_server_compresses_unasked_is_understood(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.get(URL + PATH).respond(
        content=gzip.compress(b'{"data":[]}'), headers={"Content-Encoding": "gzip"}
    )
    async with open_transport(URL) as transport:
        assert await get(transport) == b'{"data":[]}'

    assert route.calls.last.request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["gzip, gzip", "GZIP,deflate", "br, gzip"])
async def test_reply_that_is_compressed_more_than_once_is_refused(coding: str, respx_mock: respx.MockRouter) -> None:
    twice = gzip.compress(gzip.compress(b" " * 10_000_000))
    respx_mock.get(URL + PATH).mock(
        return_value=httpx.Response(200, stream=Pieces([twice]), headers={"Content-Encoding": coding})
    )
    async with open_transport(URL) as transport:
        with pytest.raises(LLMResponseError, match="is compressed"):
            await get(transport)


@pytest.mark.parametrize(("coding", "read"), [("identity", True), ("gzip", False), ("br", False)])
async def test_stream_that_is_compressed_is_refused(coding: str, read: bool, respx_mock: respx.MockRouter) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "text/event-stream"}
    respx_mock.post(URL + PATH).mock(
        return_value=httpx.Response(200, stream=Pieces([b"data: {}\n\n"]), headers=headers)
    )
    async with open_transport(URL) as transport:
        if read:
            async with transport.stream(PATH, {}) as pieces:
                assert [piece async for piece in pieces] == [b"data: {}\n\n"]
            return
        with pytest.raises(LLMResponseError, match="is compressed"):
            async with transport.stream(PATH, {}):
                pass


class Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize("coding", ["Identity", "", "none", "utf-8"])
async def test_coding_other_than_a_compression_leaves_the_body_as_it_is(
    coding: str, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(URL + PATH).respond(content=b'{"data":[]}', headers={"Content-Encoding": coding})
    async with open_transport(URL) as transport:
        assert await get(transport) == b'{"data":[]}'


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (httpx.ConnectTimeout("x"), "did not accept the connection in time"),
        (httpx.ConnectError("x"), "is not reachable"),
        (httpx.WriteTimeout("x"), "sent nothing for 600 s."),
        (httpx.ReadError("x"), "closed the connection before it answered"),
        (httpx.LocalProtocolError("x"), "closed the connection before it answered"),
        (httpx.RemoteProtocolError("x"), "closed the connection before it answered"),
        (httpx.DecodingError("x"), "closed the connection before it answered"),
        (ssl.SSLError(1, "x"), "closed the connection before it answered"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_failure_of_the_client_library_is_an_error_of_ours(
    raised: Exception, words: str, respx_mock: respx.MockRouter
) -> None:
    respx_mock.post(URL + "/x").mock(side_effect=raised)
    async with open_transport(URL) as transport:
        with pytest.raises(LLMError, match=words) as caught:
            await within(transport.request("POST", "/x", {}, model="m", resend=False))

    assert (caught.value.url, caught.value.model, caught.value.__cause__) == (f"{URL}/x", "m", raised)


async def test_broken_compression_is_a_reply_that_broke_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Encoding: gzip\r\n\r\n"
    async with open_server(head=head, body=b"not gzip") as server, open_transport(server.url) as transport:
        with pytest.raises(LLMError, match="broke in the middle of the reply"):
            await get(transport)


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_server() as proxy, open_server() as server:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(name, proxy.url)
        async with open_transport(server.url) as transport:
            await get(transport)

        assert (len(server.heads), proxy.heads) == (1, [])


# -- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate that nobody signed, for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@asynccontextmanager
async def open_tls_server(certificate: Path) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of a server that answers everything with {}, and what it was sent."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


async def test_server_that_breaks_tls_off_is_an_error_of_ours(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def answer_in_plain_text(listener: socket.socket) -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as encrypted:
            encrypted.recv(65_536)
            with socket.socket(fileno=encrypted.detach()) as plain:
                plain.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = asyncio.create_task(asyncio.to_thread(answer_in_plain_text, listener))
        async with open_transport(f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file=certificate) as transport:
            with pytest.raises(LLMConnectionError) as caught:
                await get(transport)
        await within(answering)

    assert "SSL" in caught.value.detail


async def test_unknown_certificate_is_refused_before_the_token_is_sent(certificate: Path) -> None:
    async with open_tls_server(certificate) as (url, received), open_transport(url, api_token="sk-lm-x") as transport:
        with pytest.raises(LLMConnectionError) as caught:
            await get(transport)

    assert caught.value.message == "LM Studio's certificate is not trusted."
    assert "LMSTUDIO_BRIDGE_CA_FILE" in caught.value.remedy
    assert not caught.value.retryable
    assert received == []


async def test_certificate_in_the_named_file_is_trusted(certificate: Path) -> None:
    async with open_tls_server(certificate) as (url, _), open_transport(url, ca_file=certificate) as transport:
        assert await get(transport) == b"{}"


@pytest.mark.skipif(sys.platform != "linux", reason="only OpenSSL's system store can be moved")
async def test_certificate_that_the_system_trusts_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(certificate))
    async with open_tls_server(certificate) as (url, _), open_transport(url) as transport:
        assert await get(transport) == b"{}"


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_file_without_certificates_is_an_error_with_a_remedy(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")

    with pytest.raises(SettingsError) as caught:
        async with open_transport("https://127.0.0.1:9", ca_file=path):
            pass

    assert str(path) in caught.value.message
    assert "LMSTUDIO_BRIDGE_CA_FILE" in caught.value.remedy


async def test_file_with_certificates_does_not_matter_without_https(
    tmp_path: Path, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(URL + PATH).respond(json={})
    async with open_transport(URL, ca_file=tmp_path / "none.pem") as transport:
        assert await get(transport) == b"{}"


# -- connections ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Server:
    """Answers each request with the number of its connection, or as `answer` says, and notes what it was asked."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    closes_at: set[int] = field(default_factory=set)  # requests, from 1, at which it closes without an answer
    head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    body: bytes = b"%d"
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    happened: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"content-length: 2" in head.lower():
                    await reader.readexactly(2)
                await self._note(self.heads, head)
                await self.hold.wait()
                if len(self.heads) in self.closes_at:
                    return
                writer.write(self.head + (self.body % number if b"%d" in self.body else self.body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await self._note(self.ended, number)
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
async def open_server(*, head: bytes | None = None, body: bytes | None = None) -> AsyncIterator[Server]:
    server = Server()
    server.head, server.body = head or server.head, body or server.body
    server.hold.set()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with open_server() as made:
        yield made


@pytest.fixture
async def transport(server: Server) -> AsyncIterator[Transport]:
    async with open_transport(server.url) as made:
        yield made


async def ask(transport: Transport) -> int:
    """The number of the connection that the request took."""
    return int(await get(transport))


async def ask_at_once(transport: Transport, server: Server, *, requests: int) -> list[int]:
    """The numbers of the connections of so many requests, each under way before the first is answered."""
    server.hold.clear()
    before = len(server.heads)
    tasks = [asyncio.create_task(ask(transport)) for _ in range(requests)]
    await server.until(lambda: len(server.heads) == before + requests)
    server.hold.set()
    return sorted(await asyncio.gather(*tasks))


async def test_requests_one_after_the_other_take_the_same_connection(transport: Transport) -> None:
    assert [await ask(transport) for _ in range(3)] == [0, 0, 0]


async def test_requests_at_once_have_a_connection_each_and_so_have_the_next_ones(
    server: Server, transport: Transport
) -> None:
    for _ in range(2):
        assert await ask_at_once(transport, server, requests=3) == [0, 1, 2]


async def test_connection_that_the_server_closed_while_idle_is_not_used_again(
    server: Server, transport: Transport
) -> None:
    await ask_at_once(transport, server, requests=2)
    for writer in server.writers:
        writer.close()
        await writer.wait_closed()

    assert [await ask(transport), await ask(transport)] == [2, 2]


async def test_unsolicited_reply_does_not_answer_the_next_request(server: Server, transport: Transport) -> None:
    await ask(transport)
    server.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 1\r\n\r\n7")
    await server.writers[0].drain()

    assert await ask(transport) == 1


async def test_request_on_a_stale_connection_is_sent_again_at_once_on_a_fresh_one(
    server: Server, transport: Transport
) -> None:
    """The server closes an idle connection at the very moment at which it is used again."""
    await ask_at_once(transport, server, requests=3)
    server.closes_at = {4}

    assert await ask(transport) == 3
    assert len(server.heads) == 5


async def test_stream_on_a_stale_connection_is_sent_again(server: Server, transport: Transport) -> None:
    await ask(transport)
    server.closes_at = {2}
    server.head, server.body = STREAM_HEAD, CHUNK + END

    assert await within(read_first_piece(transport)) == EVENT
    assert [head.split()[0] for head in server.heads] == [b"GET", b"POST", b"POST"]


@pytest.mark.parametrize(
    ("closes_at", "resend", "requests"),
    [({1}, True, 1), ({2, 3}, True, 3), ({2}, False, 2)],
    ids=["a fresh connection", "the second one, too", "a request that must not be repeated"],
)
async def test_request_is_sent_again_only_once_and_only_for_a_stale_connection(
    closes_at: set[int], resend: bool, requests: int, server: Server, transport: Transport
) -> None:
    if 1 not in closes_at:
        await ask(transport)
    server.closes_at = closes_at

    with pytest.raises(LLMConnectionError, match="closed the connection before it answered"):
        await within(transport.request("GET", PATH, resend=resend))

    assert len(server.heads) == requests


async def test_reply_that_breaks_off_is_not_asked_for_again(server: Server, transport: Transport) -> None:
    await ask(transport)
    server.head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    asking = asyncio.create_task(get(transport))
    await server.until(lambda: len(server.heads) == 2)
    server.writers[0].close()

    with pytest.raises(LLMError, match="broke in the middle of the reply"):
        await within(asking)
    assert len(server.heads) == 2


async def test_canceled_request_closes_its_connection(server: Server, transport: Transport) -> None:
    server.hold.clear()
    task = asyncio.create_task(ask(transport))
    await server.until(lambda: bool(server.heads))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.hold.set()

    assert await ask(transport) == 1
    await server.until(lambda: server.ended == [0])


async def test_body_that_does_not_come_in_time_is_a_timeout_and_closes_the_connection(
    server: Server, transport: Transport
) -> None:
    server.head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    with pytest.raises(LLMError, match=r"sent nothing for 0\.05 s in the middle"):
        await within(transport.request("GET", PATH, timeout=0.05))
    await server.until(lambda: server.ended == [0])


@pytest.mark.parametrize("canceled", [False, True])
async def test_closing_closes_idle_connections(canceled: bool) -> None:
    async with open_server() as server:
        with anyio.CancelScope() as scope:
            async with open_transport(server.url) as transport:
                await ask_at_once(transport, server, requests=2)
                if canceled:
                    scope.cancel()
        await server.until(lambda: len(server.ended) == 2)


async def test_server_that_is_not_there_is_not_reachable() -> None:
    async with open_server() as server:
        url = server.url
    async with open_transport(url) as transport:
        with pytest.raises(LLMConnectionError, match="is not reachable"):
            await get(transport)


# -- streams --------------------------------------------------------------------------------------------------------

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
END = b"0\r\n\r\n"


async def read_first_piece(transport: Transport, *, then: type[Exception] | None = None) -> bytes:
    async with transport.stream("/v1/chat/completions", {}) as pieces:
        first = await anext(pieces)
        if then is not None:
            raise then
        return first


@pytest.mark.parametrize(
    ("end", "then", "connections"),
    [(END, None, 1), (b"", None, 2), (END, LookupError, 2)],
    ids=["read to its end", "does not end", "left by an exception"],
)
async def test_connection_is_kept_after_a_stream_that_ends(
    end: bytes, then: type[Exception] | None, connections: int
) -> None:
    async with open_server(head=STREAM_HEAD, body=CHUNK + end) as server, open_transport(server.url) as transport:
        if then is None:
            await within(read_first_piece(transport))
        else:
            with pytest.raises(then):
                await within(read_first_piece(transport, then=then))
        assert await within(read_first_piece(transport)) == EVENT

        assert len(server.writers) == connections
