"""Chat requests → bytes. What stood in the last request of a conversation is not encoded again.

HTTP to one server: whole replies, streamed replies, and httpcore's exceptions turned into ours.

It knows routes and bytes, and no message.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpcore

from lmstudio_bridge import __version__
from lmstudio_bridge.errors import (
    LLMConnectionError,
    LLMError,
    LLMResponseError,
    LLMTimeoutError,
    ModelLostError,
    SettingsError,
)
from lmstudio_bridge.lmstudio.connections import Connections, Reply
from lmstudio_bridge.lmstudio.failures import error_from_response
from lmstudio_bridge.lmstudio.wire import ChatOptionsOut, message_out, tool_out
from lmstudio_bridge.messages import Message, ToolSpec

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # made once: json.dumps makes one for each call


class ChatEncoder:
    """The requests of one conversation. Keeps the bytes of its last one: messages one by one, tools as a whole."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._encoded: list[bytes] = []  # the messages, one by one
        self._tools: tuple[Sequence[ToolSpec], bytes] = ((), b"[]")

    def encode(self, options: ChatOptionsOut, *, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bytes:
        """The body of a request, a JSON object in UTF-8. Same messages give same bytes, in any request."""
        same = len(self._messages)
        if [*messages[:same]] != self._messages:  # else the history only grew, as nearly always
            same = next(n for n, (a, b) in enumerate(zip_longest(self._messages, messages)) if a != b)
        self._messages[same:] = messages[same:]
        self._encoded[same:] = [encode_json(message_out(message)) for message in messages[same:]]
        history = b",".join(self._encoded)
        parts = [encode_json(options)[:-1], b',"messages":[', history, b"]"]
        if tools:
            parts += [b',"tools":', self._encode_tools(tools)]
        return b"".join([*parts, b"}"])

    def _encode_tools(self, tools: Sequence[ToolSpec]) -> bytes:
        known, encoded = self._tools
        if len(known) != len(tools) or any(one is not other for one, other in zip(known, tools, strict=True)):
            encoded = encode_json([tool_out(tool) for tool in tools])
            self._tools = (tuple(tools), encoded)
        return encoded


def encode_json(value: Any) -> bytes:
    """Compact JSON. Half characters, which tools' output may hold, become question marks."""
    return _JSON.encode(value).encode("utf-8", "replace")


_END_TIMEOUT = 0.1  # seconds for a body to end after its last event; it mostly came with it
MAX_BODY_BYTES = 64 * 1024 * 1024  # a reply that is no stream; the largest are batches of embeddings

FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, TimeoutError)
"""What sending and reading raise: httpcore's exceptions, and that of our own time limits."""

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
        SettingsError: That file cannot be used, or the address.
    """
    timeouts = timeouts or Timeouts()
    headers = {
        "Accept-Encoding": "identity",  # compressed pieces of a stream would come late
        "User-Agent": f"lmstudio-bridge/{__version__}",
        **({"Authorization": f"Bearer {api_token}"} if api_token else {}),
    }
    try:
        connections = Connections(
            root_url,
            headers=headers,
            certificates=_certificates(ca_file) if root_url.startswith("https:") else None,
            connect_timeout=timeouts.connect,
        )
    except ValueError as exc:
        raise SettingsError(
            f"The address {root_url} cannot be used: {exc}.", remedy="Check LMSTUDIO_BASE_URL."
        ) from exc
    try:
        yield Transport(connections, root_url, timeouts, max_body_bytes=max_body_bytes)
    finally:
        await connections.aclose()


def _certificates(path: Path | None) -> ssl.SSLContext:
    """What servers are checked against: those authorities, or else those that httpcore trusts."""
    if path is None:
        return httpcore.default_ssl_context()
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
        connections: Connections,
        root_url: str,
        timeouts: Timeouts,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._connections = connections
        self._timeouts = timeouts
        self._max_body_bytes = max_body_bytes
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
        waited = self._timeouts.first_byte if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + waited
        reply = await self._send(method, route, payload, model=model, deadline=deadline, waited=waited)
        try:
            body = await self._read(reply, url=url, model=model, deadline=deadline, waited=waited)
        finally:
            await reply.aclose()
        _raise_for_error(reply, body, url=url, model=model)
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
        waited = self._timeouts.first_byte
        deadline = asyncio.get_running_loop().time() + waited
        reply = await self._send("POST", route, payload, model=model, deadline=deadline, waited=waited)
        try:
            if reply.status == 200 and _is_event_stream(reply):
                yield _Pieces(reply, url=url, model=model, timeouts=self._timeouts, deadline=deadline)
                await _read_end(reply)
                return
            body = await self._read(reply, url=url, model=model, deadline=deadline, waited=waited)
            if reply.status == 200 and body.lstrip().startswith((b"data:", b"event:", b":")):
                yield _as_pieces(body)  # a stream under another content type
                return
            _raise_for_error(reply, body, url=url, model=model)
            yield _as_pieces(b"data: " + b" ".join(body.splitlines()) + b"\n\n")  # `stream` was ignored: one event
        finally:
            await reply.aclose()

    async def _send(
        self,
        method: str,
        route: str,
        payload: Mapping[str, Any] | bytes | None,
        *,
        model: str | None,
        deadline: float,
        waited: float,
    ) -> Reply:
        body = payload if payload is None or isinstance(payload, bytes) else encode_json(payload)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connections.send(method, route, body)
        except FAILURES as exc:
            raise _translated(exc, url=self.root_url + route, model=model, waited=waited, mid_reply=False) from exc

    async def _read(self, reply: Reply, *, url: str, model: str | None, deadline: float, waited: float) -> bytes:
        """A whole body. What breaks off once its headers came is a reply that broke off."""
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for piece in reply.pieces:
                    body += piece
                    if len(body) > self._max_body_bytes:
                        raise LLMResponseError(
                            f"The reply is larger than {self._max_body_bytes:,} bytes.",
                            remedy="The server is broken, or it is not LM Studio.",
                            url=url,
                            model=model,
                            status=reply.status,
                        )
        except FAILURES as exc:
            raise _translated(exc, url=url, model=model, waited=waited, mid_reply=True) from exc
        return bytes(body)


class _Pieces:
    """The body of a stream; a piece has to come by `deadline` at first, and then within `between` seconds.

    No generator: those that are left before their end cost the event loop a task each.
    """

    def __init__(self, reply: Reply, *, url: str, model: str | None, timeouts: Timeouts, deadline: float) -> None:
        reply.wait_until(deadline)
        self._reply = reply
        self._url = url
        self._model = model
        self._waited = timeouts.first_byte
        self._between = timeouts.between_bytes
        self._mid_reply = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._mid_reply:
            self._waited = self._between
            self._reply.wait_until(asyncio.get_running_loop().time() + self._between)
        try:
            piece = await anext(self._reply.pieces)
        except FAILURES as exc:
            raise _translated(
                exc, url=self._url, model=self._model, waited=self._waited, mid_reply=self._mid_reply
            ) from exc
        self._mid_reply = True
        return piece


async def _read_end(reply: Reply) -> None:
    """Read what is left of a body: a connection is kept only if all was read."""
    reply.wait_until(asyncio.get_running_loop().time() + _END_TIMEOUT)
    with suppress(*FAILURES):
        async for _ in reply.pieces:
            pass


def _is_event_stream(reply: Reply) -> bool:
    return reply.headers.get("content-type", "").lower().startswith("text/event-stream")


async def _as_pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _raise_for_error(reply: Reply, body: bytes, *, url: str, model: str | None) -> None:
    error = error_from_response(reply.status, body, url=url, model=model, retry_after=reply.headers.get("retry-after"))
    if error is not None:
        raise error


def _translated(exc: Exception, *, url: str, model: str | None, waited: float, mid_reply: bool) -> LLMError:
    """What one of `FAILURES` means for who asked; `waited` are the seconds of our own limit."""
    if isinstance(exc, httpcore.ConnectTimeout):
        return LLMTimeoutError(
            "LM Studio did not accept the connection in time.",
            remedy=_START_REMEDY,
            url=url,
            model=model,
            retryable=True,
        )
    if isinstance(exc, httpcore.ConnectError):
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return LLMConnectionError(
                "LM Studio's certificate is not trusted.",
                remedy=_CERTIFICATE_REMEDY,
                url=url,
                model=model,
                detail=str(exc),
                retryable=False,
            )
        return LLMConnectionError(
            "LM Studio is not reachable.", remedy=_START_REMEDY, url=url, model=model, detail=str(exc)
        )
    if isinstance(exc, httpcore.TimeoutException | TimeoutError):
        return LLMTimeoutError(
            f"LM Studio sent nothing for {waited:g} s{' in the middle of its reply' if mid_reply else ''}.",
            remedy="Look at LM Studio: is the model still loading or reading the prompt? A smaller task, a smaller "
            "model, or a higher LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT (before the reply) or "
            "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT (within it) helps.",
            url=url,
            model=model,
        )
    if mid_reply:
        return ModelLostError(
            "The connection broke in the middle of the reply.",
            remedy="LM Studio was probably stopped, or the model crashed; look at its server log.",
            url=url,
            model=model,
            detail=str(exc),
        )
    return LLMConnectionError(
        "LM Studio closed the connection before it answered.",
        remedy=_START_REMEDY,
        url=url,
        model=model,
        detail=str(exc),
    )
