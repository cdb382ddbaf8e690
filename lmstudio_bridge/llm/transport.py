"""HTTP to one server: whole replies, streamed replies, and httpx's exceptions turned into ours.

The only module that imports an HTTP client. It knows routes and bytes, and no message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from lmstudio_bridge.errors import (
    LLMConnectionError,
    LLMTimeoutError,
    ModelLostError,
    WrongEndpointError,
)
from lmstudio_bridge.llm.failures import error_from_response

# LM Studio closes idle connections after 5 s; one that it closes just as we reuse it would fail.
_KEEPALIVE_EXPIRY = 3.0  # seconds
_KEEPALIVE_CONNECTIONS = 32
_WRITE_TIMEOUT = 30.0  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds to close a connection, also while being cancelled

_START_REMEDY = (
    "Start the server in LM Studio (Developer tab, or `lms server start`) and check the address: "
    "LMSTUDIO_BASE_URL, or LMSTUDIO_HOST and LMSTUDIO_PORT."
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
    root_url: str, *, api_token: str | None = None, timeouts: Timeouts | None = None
) -> AsyncIterator[Transport]:
    """One connection pool to `root_url`.

    Proxies of the environment are not used and redirects are not followed: the token and the
    conversation go to this address and to no other.
    """
    limits = timeouts or Timeouts()
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {api_token}"} if api_token else {},
        timeout=httpx.Timeout(None, connect=limits.connect, write=_WRITE_TIMEOUT),
        limits=httpx.Limits(
            max_connections=None,
            max_keepalive_connections=_KEEPALIVE_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_EXPIRY,
        ),
        follow_redirects=False,
        trust_env=False,
    ) as http:
        yield Transport(http, root_url, limits)


class Transport:
    """Requests to one server. Everything that goes wrong comes out as `LLMError`."""

    def __init__(self, http: httpx.AsyncClient, root_url: str, timeouts: Timeouts) -> None:
        self._http = http
        self._timeouts = timeouts
        self.root_url = root_url

    async def request(
        self,
        method: str,
        route: str,
        payload: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The body of a reply that is a success. `timeout` in seconds, for the whole of it."""
        url = self.root_url + route
        limit = self._timeouts.first_byte if timeout is None else timeout
        with _translated_errors(url=url, model=model, waited=limit):
            async with asyncio.timeout(limit):
                response = await self._http.request(method, url, json=payload)
        _raise_for_error(response, response.content, url=url, model=model)
        return response.content

    @asynccontextmanager
    async def stream(
        self, route: str, payload: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an event stream, piece by piece as they come.

        Leaving closes the connection unless the stream was read to its end.
        """
        url = self.root_url + route
        limits = self._timeouts
        request = self._http.build_request("POST", url, json=payload)
        deadline = asyncio.get_running_loop().time() + limits.first_byte
        with _translated_errors(url=url, model=model, waited=limits.first_byte):
            async with asyncio.timeout_at(deadline):
                response = await self._http.send(request, stream=True)
        try:
            if response.status_code == 200 and _is_event_stream(response):
                yield self._pieces(response, url=url, model=model, first_deadline=deadline)
                return
            with _translated_errors(url=url, model=model, waited=limits.first_byte):
                async with asyncio.timeout_at(deadline):
                    body = await response.aread()
            _raise_for_error(response, body, url=url, model=model)
            yield _as_pieces(body)
        finally:
            with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await response.aclose()

    async def _pieces(
        self, response: httpx.Response, *, url: str, model: str | None, first_deadline: float
    ) -> AsyncIterator[bytes]:
        incoming = response.aiter_bytes()
        clock = asyncio.get_running_loop().time
        deadline, waited, mid_reply = first_deadline, self._timeouts.first_byte, False
        while True:
            with _translated_errors(url=url, model=model, waited=waited, mid_reply=mid_reply):
                async with asyncio.timeout_at(deadline):
                    piece = await anext(incoming, None)
            if piece is None:
                return
            yield piece
            waited, mid_reply = self._timeouts.between_bytes, True
            deadline = clock() + waited


def _is_event_stream(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


async def _as_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A reply that came whole although a stream was asked for, as the one event of a stream."""
    if body.lstrip().startswith((b"data:", b"event:", b":")):  # a stream under another content type
        yield body
    else:
        yield b"data: " + b" ".join(body.splitlines()) + b"\n\n"


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
