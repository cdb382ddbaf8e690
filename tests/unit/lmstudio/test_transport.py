"""Bytes to and from a server: what is sent along, what is never followed, and how much is read."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmstudio_bridge.errors import LLMConnectionError, LLMResponseError, SettingsError, WrongEndpointError
from lmstudio_bridge.lmstudio.http import Transport, open_transport
from tests.lmstudio_sim.replies import HttpReply
from tests.lmstudio_sim.server import open_simulator
from tests.unit.lmstudio.clients import within

PATH = "/v1/models"


@pytest.mark.parametrize(("size", "allowed"), [(99, True), (100, True), (101, False)])
async def test_a_whole_reply_may_be_as_large_as_the_limit(size: int, allowed: bool) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    async with open_simulator() as sim, open_transport(sim.url, max_body_bytes=100) as transport:
        sim.script_path(PATH, HttpReply(200, body))

        if allowed:
            assert await within(transport.request("GET", PATH)) == body
        else:
            with pytest.raises(LLMResponseError, match="larger than 100 bytes"):
                await within(transport.request("GET", PATH))


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    async with open_simulator() as elsewhere, open_simulator() as sim:
        async with open_transport(sim.url, api_token="sk-lm-x") as transport:
            sim.script_path(PATH, HttpReply(307, "Moved.", {"Location": f"{elsewhere.url}{PATH}"}))

            with pytest.raises(WrongEndpointError):
                await within(transport.request("GET", PATH))

        assert elsewhere.requests == []


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_simulator() as proxy, open_simulator() as sim:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with open_transport(sim.url) as transport:
            await within(transport.request("GET", PATH))

        assert (len(sim.requests), proxy.requests) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_kind_of_redirect_is_followed(status: int) -> None:
    async with open_simulator() as elsewhere, open_simulator() as sim:
        async with open_transport(sim.url, api_token="sk-lm-x") as transport:
            sim.script_path(PATH, HttpReply(status, "Moved.", {"Location": f"{elsewhere.url}{PATH}"}))

            with pytest.raises(WrongEndpointError):
                await within(transport.request("POST", PATH, {"secret": "words"}))

        assert elsewhere.requests == []


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


async def test_a_server_that_breaks_tls_off_is_an_error_of_ours(certificate: Path) -> None:
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
                await within(transport.request("GET", PATH))
        await within(answering)

    assert "SSL" in caught.value.detail


async def test_certificate_that_nobody_vouches_for_is_refused_before_the_token_is_sent(certificate: Path) -> None:
    async with open_tls_server(certificate) as (url, received), open_transport(url, api_token="sk-lm-x") as transport:
        with pytest.raises(LLMConnectionError) as caught:
            await within(transport.request("GET", PATH))

    assert caught.value.message == "LM Studio's certificate is not trusted."
    assert "LMSTUDIO_BRIDGE_CA_FILE" in caught.value.remedy
    assert not caught.value.retryable
    assert received == []


async def test_certificate_in_the_named_file_is_trusted(certificate: Path) -> None:
    async with (
        open_tls_server(certificate) as (url, _),
        open_transport(url, ca_file=certificate) as transport,
    ):
        assert await within(transport.request("GET", PATH)) == b"{}"


@pytest.mark.skipif(sys.platform != "linux", reason="only OpenSSL's system store can be put elsewhere")
async def test_certificate_that_the_system_trusts_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(certificate))
    async with open_tls_server(certificate) as (url, _), open_transport(url) as transport:
        assert await within(transport.request("GET", PATH)) == b"{}"


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


async def test_file_with_certificates_does_not_matter_without_https(tmp_path: Path) -> None:
    async with open_simulator() as sim, open_transport(sim.url, ca_file=tmp_path / "none.pem") as transport:
        assert await within(transport.request("GET", PATH))


@pytest.mark.parametrize(("token", "header"), [("sk-lm-x", "Bearer sk-lm-x"), ("", None), (None, None)])
async def test_a_token_is_sent_if_there_is_one(token: str | None, header: str | None) -> None:
    async with open_simulator() as sim, open_transport(sim.url, api_token=token) as transport:
        await within(transport.request("GET", PATH))

        assert sim.requests[0].headers.get("authorization") == header


async def test_a_stream_read_as_far_as_it_is_of_use_leaves_the_connection_for_the_next_request() -> None:
    async with open_stream_server(end=b"0\r\n\r\n") as server, open_transport(server.url) as transport:
        for _ in range(3):
            assert await within(read_first_piece(transport)) == EVENT

        assert server.connections == 1


async def test_a_stream_that_does_not_end_after_its_last_event_is_not_waited_for() -> None:
    async with open_stream_server(end=b"") as server, open_transport(server.url) as transport:
        for _ in range(2):
            assert await within(read_first_piece(transport)) == EVENT

        assert server.connections == 2


async def test_a_stream_that_is_left_by_an_exception_is_hung_up() -> None:
    async with open_stream_server(end=b"0\r\n\r\n") as server, open_transport(server.url) as transport:
        with pytest.raises(LookupError):
            await within(read_first_piece(transport, then=LookupError))
        await within(read_first_piece(transport))

        assert server.connections == 2


EVENT = b"data: [DONE]\n\n"


@dataclass(slots=True)
class StreamServer:
    """Answers every request with one event, and then with `end`, which is to be the end of the body."""

    end: bytes
    url: str = ""
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            while await reader.readuntil(b"\r\n\r\n{}"):
                writer.write(head + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                writer.write(self.end)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def open_stream_server(*, end: bytes) -> AsyncIterator[StreamServer]:
    server = StreamServer(end)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


async def read_first_piece(transport: Transport, *, then: type[Exception] | None = None) -> bytes:
    async with transport.stream("/v1/chat/completions", {}) as pieces:
        first = await anext(pieces)
        if then is not None:
            raise then
        return first


async def test_a_reply_that_a_server_compresses_unasked_is_understood() -> None:
    async with open_simulator() as sim, open_transport(sim.url) as transport:
        sim.script_path(PATH, HttpReply(200, gzip.compress(b'{"data":[]}'), {"Content-Encoding": "gzip"}))

        assert await within(transport.request("GET", PATH)) == b'{"data":[]}'
        assert sim.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["Identity", "", "none", "utf-8"])
async def test_a_coding_that_is_no_compression_leaves_the_body_as_it_is(coding: str) -> None:
    async with open_simulator() as sim, open_transport(sim.url) as transport:
        sim.script_path(PATH, HttpReply(200, b'{"data":[]}', {"Content-Encoding": coding}))

        assert await within(transport.request("GET", PATH)) == b'{"data":[]}'
