"""HTTP to one server: whole replies, streamed replies, and httpx's exceptions turned into ours.

The only module that imports an HTTP client. It knows routes and bytes, and no message.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from lmstudio_bridge import __version__
from lmstudio_bridge.errors import (
    LLMConnectionError,
    LLMResponseError,
    LLMTimeoutError,
    ModelLostError,
    SettingsError,
    WrongEndpointError,
)
from lmstudio_bridge.llm.encoding import encode_json
from lmstudio_bridge.llm.failures import error_from_response

# LM Studio closes idle connections after 5 s; one that it closes just as we reuse it would fail.
_KEEPALIVE_EXPIRY = 3.0  # seconds
_KEEPALIVE_CONNECTIONS = 100
_WRITE_TIMEOUT = 30.0  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds to close a connection, also while being cancelled
_END_TIMEOUT = 0.1  # seconds for a body to end after its last event; it mostly came with it
MAX_BODY_BYTES = 64 * 1024 * 1024  # a reply that is no stream; the largest are batches of embeddings

_START_REMEDY = (
    "Start the server in LM Studio (Developer tab, or `lms server start`) and check the address: "
    "LMSTUDIO_BASE_URL, or LMSTUDIO_HOST and LMSTUDIO_PORT."
)

_CERTIFICATE_REMEDY = (
    "If it is your own server, set LMSTUDIO_BRIDGE_CA_FILE (or SSL_CERT_FILE) to a file with its certificate, or with "
    "that of the authority that signed it, in PEM form; and let LMSTUDIO_BASE_URL have the name that it is made out to."
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of waiting: to connect, for the first byte, and between two bytes of a stream.

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
    """One connection pool to `root_url`; a whole reply may have `max_body_bytes`.

    Proxies of the environment are not used and redirects are not followed: the token and the
    conversation go to this address and to no other. With https the server's certificate is checked,
    against those in `ca_file` if there is one.

    Raises:
        SettingsError: That file cannot be used.
    """
    headers = {
        "Accept-Encoding": "identity",  # compressed pieces of a stream would come late
        "User-Agent": f"lmstudio-bridge/{__version__}",
        **({"Authorization": f"Bearer {api_token}"} if api_token else {}),
    }
    # Not httpx's client around it: cookies, redirects and sign-in are of no use here, and take their time.
    async with httpx.AsyncHTTPTransport(
        verify=_certificates(ca_file) if root_url.startswith("https:") else _no_certificates(),
        limits=httpx.Limits(
            max_connections=None,
            max_keepalive_connections=_KEEPALIVE_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_EXPIRY,
        ),
        trust_env=False,
    ) as http:
        yield Transport(http, root_url, timeouts or Timeouts(), headers=headers, max_body_bytes=max_body_bytes)


def _certificates(path: Path | None) -> ssl.SSLContext | bool:
    """What servers are checked against; True is httpx's own choice."""
    if path is None:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as exc:  # ssl's own errors among them
        raise SettingsError(
            f"The file with certificates {path} cannot be used: {exc.strerror or exc}.",
            remedy="Set LMSTUDIO_BRIDGE_CA_FILE (or SSL_CERT_FILE) to a file with certificates in PEM form.",
        ) from exc


class Transport:
    """Requests to one server. Everything that goes wrong comes out as `LLMError`."""

    def __init__(
        self,
        http: httpx.AsyncBaseTransport,
        root_url: str,
        timeouts: Timeouts,
        *,
        headers: Mapping[str, str],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._http = http
        self._timeouts = timeouts
        self._headers = headers
        self._max_body_bytes = max_body_bytes
        waits = httpx.Timeout(None, connect=timeouts.connect, write=_WRITE_TIMEOUT)
        self._extensions = {"timeout": waits.as_dict()}
        self.root_url = root_url

    async def request(
        self,
        method: str,
        route: str,
        payload: Mapping[str, Any] | bytes | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The body of a reply that is a success. `timeout` in seconds, for the whole of it."""
        url = self.root_url + route
        limit = self._timeouts.first_byte if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + limit
        async with self._send(method, url, payload, model=model, deadline=deadline, waited=limit) as response:
            body = await self._read(response, url=url, model=model, deadline=deadline, waited=limit)
            _raise_for_error(response, body, url=url, model=model)
            return body

    @asynccontextmanager
    async def stream(
        self, route: str, payload: Mapping[str, Any] | bytes, *, model: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an event stream, piece by piece as they come.

        Leaving in good order, with all read that is of use, keeps the connection for the next request if the
        stream then ends at once. Leaving by an exception closes it, at which LM Studio stops generating.
        """
        url = self.root_url + route
        limit = self._timeouts.first_byte
        deadline = asyncio.get_running_loop().time() + limit
        async with self._send("POST", url, payload, model=model, deadline=deadline, waited=limit) as response:
            if response.status_code == 200 and _is_event_stream(response):
                async with aclosing(self._pieces(response, url=url, model=model, first_deadline=deadline)) as pieces:
                    yield pieces
                    await _read_end(pieces)
                return
            body = await self._read(response, url=url, model=model, deadline=deadline, waited=limit)
            if response.status_code == 200 and body.lstrip().startswith((b"data:", b"event:", b":")):
                yield _as_pieces(body)  # a stream under another content type
                return
            _raise_for_error(response, body, url=url, model=model)
            yield _as_pieces(b"data: " + b" ".join(body.splitlines()) + b"\n\n")  # `stream` was ignored: one event

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        payload: Mapping[str, Any] | bytes | None,
        *,
        model: str | None,
        deadline: float,
        waited: float,
    ) -> AsyncIterator[httpx.Response]:
        with _translated_errors(url=url, model=model, waited=waited):
            headers, body = _content(payload)
            request = httpx.Request(
                method, url, headers={**self._headers, **headers}, content=body, extensions=self._extensions
            )
            async with asyncio.timeout_at(deadline):
                response = await self._http.handle_async_request(request)
        try:
            yield response
        finally:
            with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await response.aclose()

    async def _read(
        self, response: httpx.Response, *, url: str, model: str | None, deadline: float, waited: float
    ) -> bytes:
        """A whole body. What breaks off once its headers came is a reply that broke off."""
        body = bytearray()
        with _translated_errors(url=url, model=model, waited=waited, mid_reply=True):
            async with asyncio.timeout_at(deadline):
                async for piece in _raw_pieces(response):
                    body += piece
                    if len(body) > self._max_body_bytes:
                        raise LLMResponseError(
                            f"The reply is larger than {self._max_body_bytes:,} bytes.",
                            remedy="The server is broken, or it is not LM Studio.",
                            url=url,
                            model=model,
                            status=response.status_code,
                        )
        return bytes(body)

    async def _pieces(
        self, response: httpx.Response, *, url: str, model: str | None, first_deadline: float
    ) -> AsyncGenerator[bytes, None]:
        clock = asyncio.get_running_loop().time
        deadline, waited, mid_reply = first_deadline, self._timeouts.first_byte, False
        incoming = aiter(_raw_pieces(response))
        while True:
            with _translated_errors(url=url, model=model, waited=waited, mid_reply=mid_reply):
                async with asyncio.timeout_at(deadline):
                    piece = await anext(incoming, None)
            if piece is None:
                return
            yield piece
            waited, mid_reply = self._timeouts.between_bytes, True
            deadline = clock() + waited


async def _read_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what is left of a body: httpx takes back a connection only if all was read."""
    with suppress(ModelLostError, LLMTimeoutError), anyio.move_on_after(_END_TIMEOUT):
        async for _ in pieces:
            pass


def _raw_pieces(response: httpx.Response) -> AsyncIterable[bytes]:
    """The body as it comes; decompressed where a server compresses it unasked."""
    if "content-encoding" in response.headers:
        return response.aiter_bytes()
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


def _no_certificates() -> ssl.SSLContext:
    """What httpx wants for plain HTTP too; to load the certificates of all authorities takes it 25 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _content(payload: Mapping[str, Any] | bytes | None) -> tuple[dict[str, str], bytes | None]:
    """Headers and body of a request: JSON, encoded already or to be encoded."""
    if payload is None:
        return {}, None
    return {"Content-Type": "application/json"}, payload if isinstance(payload, bytes) else encode_json(payload)


def _is_event_stream(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).lower().startswith("text/event-stream")


async def _as_pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _raise_for_error(response: httpx.Response, body: bytes, *, url: str, model: str | None) -> None:
    error = error_from_response(
        response.status_code, body, url=url, model=model, retry_after=response.headers.get("retry-after")
    )
    if error is not None:
        raise error


@contextmanager
def _translated_errors(*, url: str, model: str | None, waited: float, mid_reply: bool = False) -> Iterator[None]:
    """The one seam where httpx's exceptions and our own time limits become ours."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise LLMTimeoutError(
            "LM Studio did not accept the connection in time.",
            remedy=_START_REMEDY,
            url=url,
            model=model,
            retryable=True,
        ) from exc
    except httpx.ConnectError as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise LLMConnectionError(
                "LM Studio's certificate is not trusted.",
                remedy=_CERTIFICATE_REMEDY,
                url=url,
                model=model,
                detail=str(exc),
                retryable=False,
            ) from exc
        raise LLMConnectionError(
            "LM Studio is not reachable.", remedy=_START_REMEDY, url=url, model=model, detail=str(exc)
        ) from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise LLMTimeoutError(
            f"LM Studio sent nothing for {waited:g} s{' in the middle of its reply' if mid_reply else ''}.",
            remedy="Look at LM Studio: is the model still loading or reading the prompt? A smaller task, a smaller "
            "model, or a higher LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT (before the reply) or "
            "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT (within it) helps.",
            url=url,
            model=model,
        ) from exc
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise WrongEndpointError(
            "The address cannot be used.", remedy="Check LMSTUDIO_BASE_URL.", url=url, model=model, detail=str(exc)
        ) from exc
    except httpx.HTTPError as exc:
        if mid_reply:
            raise ModelLostError(
                "The connection broke in the middle of the reply.",
                remedy="LM Studio was probably stopped, or the model crashed; look at its server log.",
                url=url,
                model=model,
                detail=str(exc),
            ) from exc
        raise LLMConnectionError(
            "LM Studio closed the connection before it answered.",
            remedy=_START_REMEDY,
            url=url,
            model=model,
            detail=str(exc),
        ) from exc
