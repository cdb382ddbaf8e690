"""HTTP to LM Studio on one httpx client: whole replies, streamed replies, and httpx's errors as ours.

httpx is imported here only.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from pydantic_core import PydanticSerializationError, to_json

from lmstudio_bridge import __version__, errors
from lmstudio_bridge.lmstudio.failures import error_from_response

MAX_BODY_BYTES = 64 * 1024 * 1024  # a reply that is not streamed; the largest are batches of embeddings
_COMPRESSIONS = ("gzip", "deflate", "br", "zstd")
MAX_IDLE = 100  # connections kept open between requests
KEEPALIVE_EXPIRY = 3.0  # seconds; LM Studio closes an idle connection after 5
_WRITE_TIMEOUT = 30.0  # seconds
_END_TIMEOUT = 0.1  # seconds for a stream to end after its last event; the end mostly comes with it
_CLOSE_TIMEOUT = 1.0  # seconds to close a connection, also while being cancelled

_START_REMEDY = (
    "Start the server in LM Studio (Developer tab, or `lms server start`) and check the address: "
    "LMSTUDIO_BASE_URL, or LMSTUDIO_HOST and LMSTUDIO_PORT."
)
_SILENCE_REMEDY = (
    "Check LM Studio: is the model still loading, or reading the prompt? A smaller task, a smaller model, or a higher "
    "{limit} helps."
)
_FIRST_BYTE, _BETWEEN_BYTES = "LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT", "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT"
_CERTIFICATE_REMEDY = (
    "If it is your own server, set LMSTUDIO_BRIDGE_CA_FILE (or SSL_CERT_FILE) to a PEM file with its certificate or "
    "that of the authority that signed it, and use the host name in the certificate in LMSTUDIO_BASE_URL."
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait: to connect, for the first byte of a reply, and between two bytes of a stream.

    LM Studio sends nothing while it loads a model and reads the prompt, hence the long second one.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    between_bytes: float = 120.0


@asynccontextmanager
async def open_transport(
    root_url: str,
    *,
    api_token: str | None = None,
    ca_file: Path | None = None,
    timeouts: Timeouts | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> AsyncIterator[Transport]:
    """A client for the server at `root_url`; a reply that is not streamed may have `max_body_bytes`.

    Proxies of the environment are not used and redirects are not followed: the token and the
    conversation go to this address and to no other. With https, the server's certificate is checked
    against `ca_file`, or else against the certificates of the system and of certifi.

    Raises:
        SettingsError: The address or the file with certificates cannot be used.
    """
    timeouts = timeouts or Timeouts()
    headers = {
        b"Accept-Encoding": b"identity",  # the pieces of a compressed stream would come late
        b"User-Agent": f"lmstudio-bridge/{__version__}".encode(),
    }
    if api_token:
        headers[b"Authorization"] = f"Bearer {api_token}".encode()
    try:
        url = httpx.URL(root_url)
        url.host.encode("idna")  # getaddrinfo() does this, and raises UnicodeError at the first request
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise errors.SettingsError(
            f"The address {root_url} cannot be used: {exc}.", remedy="Check LMSTUDIO_BASE_URL."
        ) from exc
    client = httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx.Timeout(None, connect=timeouts.connect, write=_WRITE_TIMEOUT),
        transport=_ResendingTransport(_certificates(ca_file, https=url.scheme == "https")),
        trust_env=False,
    )
    async with client:
        yield Transport(client, root_url, timeouts, max_body_bytes=max_body_bytes)


def _certificates(path: Path | None, *, https: bool) -> ssl.SSLContext:
    """The certificates to check a server against; without https none are read."""
    if not https:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if path is None:
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
        return context
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as exc:  # includes SSLError
        raise errors.SettingsError(
            f"The file with certificates {path} cannot be used: {exc.strerror or exc}.",
            remedy="Set LMSTUDIO_BRIDGE_CA_FILE (or SSL_CERT_FILE) to a file with certificates in PEM form.",
        ) from exc


class _ResendingTransport(httpx.AsyncBaseTransport):
    """Sends a request once more, on a fresh connection, if the server had closed the kept-alive one."""

    def __init__(self, certificates: ssl.SSLContext) -> None:
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=MAX_IDLE, keepalive_expiry=KEEPALIVE_EXPIRY
        )
        once = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._kept = httpx.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=limits)
        self._fresh = httpx.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=once)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connected = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal connected
            connected = connected or event == "connection.connect_tcp.started"

        request.extensions["trace"] = trace
        try:
            return await self._kept.handle_async_request(request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if connected or not request.extensions["resend"]:
                raise
        return await self._fresh.handle_async_request(request)

    async def aclose(self) -> None:
        await self._kept.aclose()
        await self._fresh.aclose()


class Transport:
    """Requests to one server. Everything that goes wrong is raised as an `LLMError`."""

    def __init__(self, client: httpx.AsyncClient, root_url: str, timeouts: Timeouts, *, max_body_bytes: int) -> None:
        self._client = client
        self._timeouts = timeouts
        self._max_body_bytes = max_body_bytes
        self.root_url = root_url

    async def request(
        self,
        method: str,
        route: str,
        payload: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        resend: bool = True,
    ) -> bytes:
        """The body of a successful reply. `timeout` in seconds, for all of it.

        Without `resend`, a request is not sent again where the server had closed the kept-alive connection.
        """
        wait = _Wait(self.root_url + route, model, self._timeouts.first_byte if timeout is None else timeout)
        request = self._build(method, route, payload, resend=resend)
        async with wait.limited():
            response = await self._client.send(request, stream=True)
        try:
            _check_coding(response, wait)
            return await self._read_body(response, wait)
        finally:
            await _close(response)

    @asynccontextmanager
    async def stream(
        self,
        route: str,
        payload: Mapping[str, Any],
        *,
        model: str | None = None,
        patient: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an event stream as they come; a reply that is not streamed comes as one event.

        As long as `patient` says so, a pause between two pieces may be as long as that before the first one.

        On a normal exit the connection is kept for the next request if the stream ends at once. An
        exception closes it, and LM Studio stops generating.
        """
        wait = _Wait(self.root_url + route, model, self._timeouts.first_byte)
        request = self._build("POST", route, payload, resend=True)
        async with wait.limited():
            response = await self._client.send(request, stream=True)
        try:
            kind = str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
            is_stream = response.status_code == 200 and kind == "text/event-stream"
            _check_coding(response, wait, is_stream=is_stream)
            if is_stream:
                stream = self._read_stream(response, wait, patient)
            else:
                stream = _as_stream(await self._read_body(response, wait, may_stream=True))
            async with aclosing(stream):
                yield stream
                with suppress(errors.LLMError), anyio.move_on_after(_END_TIMEOUT):
                    async for _ in stream:
                        pass
        finally:
            await _close(response)

    def _build(self, method: str, route: str, payload: Mapping[str, Any] | None, *, resend: bool) -> httpx.Request:
        content, headers = None, {}
        if payload is not None:
            try:  # four times as fast as `json`, which took 2 ms of each round at 1,000 messages
                content = to_json(payload)
            except PydanticSerializationError:
                # Tool results may hold half of a surrogate pair, which UTF-8 cannot encode; it becomes a question mark.
                content = json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
            headers["Content-Type"] = "application/json"
        return self._client.build_request(
            method, route, content=content, headers=headers, extensions={"resend": resend}
        )

    async def _read_body(self, response: httpx.Response, wait: _Wait, *, may_stream: bool = False) -> bytes:
        """The whole body of a success. With `may_stream` it may be an event stream under another content type."""
        body = bytearray()
        wait.mid_reply = True  # once the headers have come, a reply that ends early has broken off
        async with wait.limited():
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > self._max_body_bytes:
                    raise errors.LLMResponseError(
                        f"The reply is larger than {self._max_body_bytes:,} bytes.",
                        remedy="The server is broken, or it is not LM Studio.",
                        url=wait.url,
                        model=wait.model,
                        status=response.status_code,
                    )
        if may_stream and response.status_code == 200 and _is_event_stream(body):
            return bytes(body)
        error = error_from_response(
            response.status_code,
            bytes(body),
            url=wait.url,
            model=wait.model,
            retry_after=response.headers.get("retry-after"),
        )
        if error is not None:
            raise error
        return bytes(body)

    async def _read_stream(
        self, response: httpx.Response, wait: _Wait, patient: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        pieces = response.aiter_bytes()
        while True:
            async with wait.limited():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece
            if all(line[:1] in (b"", b":") for line in piece.splitlines()):  # a keepalive says nothing
                continue
            wait.mid_reply = True
            if patient():
                wait.restart(self._timeouts.first_byte, _FIRST_BYTE)
            else:
                wait.restart(self._timeouts.between_bytes, _BETWEEN_BYTES)


@dataclass(slots=True)
class _Wait:
    """Waiting for one server's reply; what goes wrong meanwhile is raised as an `LLMError`."""

    url: str
    model: str | None
    seconds: float
    limit: str = _FIRST_BYTE  # the setting that `seconds` comes from
    mid_reply: bool = False
    deadline: float = field(init=False)  # in the time of the event loop

    def __post_init__(self) -> None:
        self.restart(self.seconds, self.limit)

    def restart(self, seconds: float, limit: str) -> None:
        self.seconds, self.limit = seconds, limit
        self.deadline = asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """A block that ends at the deadline."""
        try:
            async with asyncio.timeout_at(self.deadline):
                yield
        except (httpx.RequestError, OSError) as exc:  # OSError includes TimeoutError, and SSLError from a broken stream
            error = self._translated(exc)
            error.url, error.model = self.url, self.model
            raise error from exc

    def _translated(self, exc: Exception) -> errors.LLMError:
        match exc:
            case httpx.ConnectTimeout():
                return errors.LLMTimeoutError(
                    "LM Studio did not accept the connection in time.", remedy=_START_REMEDY, retryable=True
                )
            case httpx.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in str(exc):
                return errors.LLMConnectionError(
                    "LM Studio's certificate is not trusted.",
                    remedy=_CERTIFICATE_REMEDY,
                    detail=str(exc),
                    retryable=False,
                )
            case httpx.ConnectError():
                return errors.LLMConnectionError("LM Studio is not reachable.", remedy=_START_REMEDY, detail=str(exc))
            case httpx.TimeoutException() | TimeoutError():
                where = " in the middle of its reply" if self.mid_reply else ""
                return errors.LLMTimeoutError(
                    f"LM Studio sent nothing for {self.seconds:g} s{where}.",
                    remedy=_SILENCE_REMEDY.format(limit=self.limit),
                )
            case _ if self.mid_reply:
                return errors.ModelLostError(
                    "The connection broke in the middle of the reply.",
                    remedy="LM Studio was probably stopped, or the model crashed; look at its server log.",
                    detail=str(exc),
                )
            case _:
                return errors.LLMConnectionError(
                    "LM Studio closed the connection before it answered.", remedy=_START_REMEDY, detail=str(exc)
                )


def _check_coding(response: httpx.Response, wait: _Wait, *, is_stream: bool = False) -> None:
    """Refuse codings of which a few bytes unpack to gigabytes at once: several, or of a stream."""
    coding = str(response.headers.get("content-encoding", "")).strip().lower()
    if ("," in coding or is_stream) and any(known in coding for known in _COMPRESSIONS):
        raise errors.LLMResponseError(
            f"The reply is compressed ({coding[:40]}), which the bridge did not ask for and does not read.",
            remedy="The server is broken, or it is not LM Studio.",
            url=wait.url,
            model=wait.model,
            status=response.status_code,
        )


async def _close(response: httpx.Response) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await response.aclose()


def _is_event_stream(body: bytes | bytearray) -> bool:
    return body.lstrip().startswith((b"data:", b"event:", b":"))


async def _as_stream(body: bytes) -> AsyncGenerator[bytes, None]:
    """A whole body as an event stream: JSON becomes one event, from a server that ignored `stream`."""
    yield body if _is_event_stream(body) else b"data: " + b" ".join(body.splitlines()) + b"\n\n"
