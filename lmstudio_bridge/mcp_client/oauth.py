"""OAuth for MCP servers: signing in through the browser, and the use of a login in runs.

The protocol is the SDK's `OAuthClientProvider`: discovery, client registration, PKCE, token requests, and the checks of
state and issuer (RFC 7591, 7636, 8414, 8707, 9207, 9728). Only `sign_in` asks a person; runs use and renew a login.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.to_thread
import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, OAuthFlowError, OAuthRegistrationError
from mcp.shared.auth import (
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from pydantic import AnyUrl, BaseModel, ValidationError

from lmstudio_bridge.errors import DownstreamError, SettingsError
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.http import HTTP_TIMEOUT, Answered, BoundedStream, Login, is_loopback, statuses
from lmstudio_bridge.mcp_client.logins import Learn, LoginStore, can_sign_in
from lmstudio_bridge.messages import JSONObject, ServerConfig

logger = logging.getLogger(__name__)

_MAX_ANSWER = 1024 * 1024  # bytes of an answer of an authorization server
_FRACTION = re.compile(rb'("expires_in"\s*:\s*"?\d+)\.\d+(?![\deE])')
_LOCK_POLL = 0.05  # seconds
_SAVING = 10.0  # seconds
_EXPIRED = 1.0  # the SDK takes 0 for "never"
_REFUSALS = (
    *("invalid_grant", "invalid_client", "unauthorized_client"),  # RFC 6749, 5.2
    *("bad_refresh_token", "invalid_refresh_token"),  # GitHub and Slack, with HTTP 200
)
"""Errors after which a login is of no use any more."""
_NOT_RENEWED = "the login has expired and could not be renewed, because its authorization server"
_UNREADABLE = "the login that is kept for it cannot be read (is the keyring locked?)"
_SHOWN = 300  # characters of what an authorization server says
_CALLBACK = "/callback"
_PAGE = "lmstudio-bridge received the reply. You can close this page and return to the terminal."

Show: TypeAlias = Callable[[str], Awaitable[None]]


class StoredLogin(BaseModel):
    """A login to the server at `url`: its tokens, and what renewing them takes. `expires_at` is Unix time.

    `server` is the name that it had.
    """

    server: str
    url: str
    expires_at: float | None = None
    tokens: OAuthToken
    client: OAuthClientInformationFull
    metadata: OAuthMetadata | None = None
    resource: ProtectedResourceMetadata | None = None

    @property
    def expired(self) -> bool:
        """Whether its access token has expired, as far as the authorization server said."""
        return self.expires_at is not None and time.time() >= self.expires_at

    def save_in(self, store: LoginStore) -> bool:
        """Keep it in place of the one before; whether its secrets are in the keyring.

        Raises:
            OSError: It cannot be written.
        """
        self.tell(store.learn)
        secret = self.model_dump(mode="json", exclude_none=True, include={"tokens", "client"})
        public = self.model_dump(mode="json", exclude_none=True, exclude={"tokens", "client"})
        return store.write(self.url, server=self.server, public=public, secret=secret)

    def tell(self, learn: Learn) -> None:
        """Name all that must not be shown anywhere."""
        values = (self.tokens.access_token, self.tokens.refresh_token, self.client.client_secret)
        learn(value for value in values if value)


def load_login(store: LoginStore, url: str) -> StoredLogin | None:
    """The login for that address; None if there is none that can be used."""
    kept = store.read(url)
    if kept is None:
        return None
    try:
        login = StoredLogin.model_validate(kept)
    except ValidationError:  # not logged: it quotes what was kept
        logger.warning("the login to %s is incomplete", urlsplit(url).hostname)
        return None
    login.tell(store.learn)
    return login if login.url == url else None


async def open_login(store: LoginStore, config: ServerConfig, *, patience: float = 20.0) -> Login | None:
    """The login of a server for its requests, which `store` has; None if it has none.

    `patience` is how long the keyring may ask the user (seconds); after that there is no token to send.
    """
    if not store.has(config):
        return None
    login: StoredLogin | None = None
    with anyio.move_on_after(patience):
        login = await _in_thread(load_login, store, config.url)
    return RunLogin(store, config.url, login)


class RunLogin(Login):
    """Adds the access token to requests to one server, and renews it. Never asks a person.

    Runs of other processes may renew the same login, and most servers take a refresh token only once: so whoever
    renews it locks it, and looks first whether another has.
    """

    def __init__(self, store: LoginStore, url: str, login: StoredLogin | None) -> None:
        self.trouble = "" if login else _UNREADABLE
        self._store = store
        self._url = url
        self._login = login
        self._renewing = anyio.Lock()

    def renews(self, response: httpx2.Response) -> bool:
        """Whether the request will be sent again with another token."""
        return response.status_code == 401 and self._can_renew and "renewed" not in response.request.extensions

    @property
    def _can_renew(self) -> bool:
        return self._login is not None and bool(self._login.tokens.refresh_token)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """The request with a token; one more time if the server refuses it and the token can be renewed."""
        if not self._store.keeps(self._url):
            self._login = None
        refused = self._login is not None and self._login.expired
        while True:
            if refused and self._can_renew:
                renewal = self._renewal()
                response: httpx2.Response | None = None
                try:
                    while True:
                        response = yield await renewal.asend(response)
                except StopAsyncIteration:
                    pass
                except GeneratorExit:  # no answer: what the token was for is not sent, or was refused
                    if (noted := statuses.get()) is not None:
                        noted.append(Answered(401))
                    raise
                finally:
                    await renewal.aclose()
            request.headers.pop("Authorization", None)
            if self._login is not None:
                request.headers["Authorization"] = f"Bearer {self._login.tokens.access_token}"
            response = yield request
            if not self.renews(response):
                return
            request.extensions["renewed"] = refused = True

    async def _renewal(self) -> AsyncGenerator[httpx2.Request, httpx2.Response | None]:
        """The requests that renew the token which was refused, unless somebody else has renewed it meanwhile."""
        used = self._login
        async with self._renewing:
            if self._login is not used:
                return
            async with self._locked():
                self._login = await _in_thread(load_login, self._store, self._url)
                if self._login is None or used is None:
                    self.trouble = _UNREADABLE if self._store.keeps(self._url) else ""
                    return
                if self._login.tokens.access_token != used.tokens.access_token and not self._login.expired:
                    return
                self.trouble = f"{_NOT_RENEWED} cannot be reached"  # unless it answers
                provider = _provider_of(self._login, self._save)
                asked = httpx2.Request("GET", self._url, headers=_VERSION)  # never sent
                flow = provider.async_auth_flow(asked)
                outgoing = await anext(flow)
                try:
                    while outgoing is not asked:
                        response = yield _bounded(outgoing)
                        assert response is not None
                        outgoing = await flow.asend(await self._judge(response))
                finally:
                    # Closed before its end, the SDK's flow would leave its lock to another task.
                    with suppress(StopAsyncIteration):
                        while True:
                            made_up = httpx2.Response(200 if outgoing is asked else 503, request=outgoing)
                            outgoing = await flow.asend(made_up)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Waits while another process renews this login, but not forever: it may hang."""
        deadline = time.monotonic() + HTTP_TIMEOUT
        while True:
            with self._store.try_lock(self._url) as locked:
                if locked or time.monotonic() > deadline:
                    yield
                    return
            await anyio.sleep(_LOCK_POLL)

    async def _judge(self, response: httpx2.Response) -> httpx2.Response:
        """The answer for the SDK. Learns new tokens before anything can log them; remembers why there are none."""
        said = await _read_answer(response, self._store.learn)
        status = response.status_code
        self.trouble = ""
        if status == 200 and _is_token(said):
            return response
        if said.get("error") in _REFUSALS:
            self._login = None
            await _in_thread(self._store.forget, self._url)
        else:
            what = "sent no token" if status == 200 else f"answered with HTTP {status}"
            self.trouble = f"{_NOT_RENEWED} {what}"
        return response if status != 200 else httpx2.Response(503, request=response.request)

    async def _save(self, login: StoredLogin) -> None:
        self._login = login if self._store.keeps(self._url) else None
        if self._login is None:
            return
        # A new refresh token that is lost cannot be had again.
        with anyio.move_on_after(_SAVING, shield=True):
            try:
                await _in_thread(login.save_in, self._store)
            except OSError as exc:
                logger.warning("the renewed login of MCP server %s cannot be saved: %s", login.server, exc.strerror)


# -- a new login ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignIn:
    """How to sign in: `show` gets the address to open in a browser.

    `port` and `client_id` are used in place of those in the server's entry; see `ServerConfig`. `patience` is how long
    a person may take (seconds).
    """

    show: Show
    port: int = 0
    client_id: str = ""
    patience: float = 300.0


async def sign_in(config: ServerConfig, store: LoginStore, how: SignIn) -> bool:
    """Sign in to a server, and keep the login; whether its secrets are in the keyring.

    Raises:
        DownstreamError: There is no login: the server or its authorization server refused, or nobody signed in.
    """
    if not can_sign_in(config):
        raise _cannot_sign_in(config)
    if not _is_safe(config.url):
        raise DownstreamError(
            f"MCP server '{config.name}' is not reached over https, so the login could be intercepted.",
            server=config.name,
            remedy="Use its https address.",
        )
    port, client_id = how.port or config.callback_port, how.client_id or config.client_id
    saved: list[bool] = []
    provider: OAuthClientProvider | None = None
    is_open = False  # answers without a login, as servers do that want one for some calls only

    async def save(login: StoredLogin) -> None:
        saved.append(await _in_thread(login.save_in, store))

    try:
        # At services with a form for clients, people enter `localhost`, as Claude Code's documentation says.
        host = "localhost" if client_id else "127.0.0.1"
        async with asyncio.timeout(how.patience), _listen(host, port) as callback:
            client = OAuthClientInformationFull(client_id=client_id) if client_id else None
            provider = _new_provider(config, callback, how.show, _Storage(save, server=config.name, client=client))
            status = await _ask(config, provider, store.learn)
            is_open = status < 400 and not saved
            if is_open:
                status = await _ask(config, provider, store.learn, insist=True)
    except TimeoutError as exc:
        raise DownstreamError(
            f"Nobody signed in to MCP server '{config.name}' within {how.patience:g} seconds.",
            server=config.name,
            remedy=f"Run {failures.login_command(config)} again.",
        ) from exc
    except (OAuthFlowError, ValueError) as exc:  # ValueError: letters that are not of their encoding
        if is_open and provider and provider.context.oauth_metadata is None:
            raise DownstreamError(
                f"MCP server '{config.name}' answers without a login, and offers none.",
                server=config.name,
                remedy="It needs none.",
            ) from exc
        by_hand = ""
        if isinstance(exc, OAuthRegistrationError):  # GitHub, for example, has no dynamic registration
            by_hand = " Register a client at that service and give its ID with --client-id, and its port with --port."
        raise DownstreamError(
            f"Signing in to MCP server '{config.name}' failed: {_said(exc)}.",
            server=config.name,
            remedy=f"Nothing was kept.{by_hand} If that service gives out access tokens, set one as an "
            "`Authorization` header in the server's entry.",
        ) from exc
    except httpx2.HTTPError as exc:
        raise failures.explain_unreachable(str(exc) or type(exc).__name__, config=config).start_error(
            config.name
        ) from exc
    except OSError as exc:
        raise SettingsError(
            f"The login cannot be kept: {exc.strerror or exc}.",
            remedy="Check that you can write to the folder in LMSTUDIO_BRIDGE_HOME.",
        ) from exc
    if saved:
        return saved[-1]
    raise failures.explain_status(status, config=config).start_error(config.name)


async def revoke(login: StoredLogin) -> bool:
    """Tell the authorization server that the login is over (RFC 7009); False if it was not told or did not agree."""
    endpoint = login.metadata.revocation_endpoint if login.metadata else None
    if endpoint is None or not _is_safe(str(endpoint)):
        return False
    token = login.tokens.refresh_token or login.tokens.access_token
    context = _provider_of(login, _ignore).context
    # An empty secret means none (RFC 6749, 2.3.1), and servers made with the SDK (2.3) want the word.
    form = {"token": token, "client_id": login.client.client_id, "client_secret": ""}
    data, headers = context.prepare_token_auth(form, {})
    try:
        async with httpx2.AsyncClient(
            timeout=HTTP_TIMEOUT, follow_redirects=False, trust_env=not is_loopback(str(endpoint))
        ) as client:
            response = await client.post(str(endpoint), data=data, headers=headers)
    except httpx2.HTTPError:
        return False
    return response.status_code == 200


async def _ask(config: ServerConfig, provider: OAuthClientProvider, learn: Learn, *, insist: bool = False) -> int:
    """Send the server one request that needs a login, and return the status of its answer.

    With `insist`, the answer to a request without a login is taken for a refusal.
    """

    async def bound(request: httpx2.Request) -> None:
        _bounded(request)

    async def read(response: httpx2.Response) -> None:
        if str(response.request.url) != config.url:
            await _read_answer(response, learn)
        elif insist and "Authorization" not in response.request.headers:
            response.status_code = 401

    async with httpx2.AsyncClient(
        auth=provider,
        headers=dict(config.headers),
        timeout=httpx2.Timeout(HTTP_TIMEOUT),
        follow_redirects=False,
        trust_env=not is_loopback(config.url),
        event_hooks={"request": [bound], "response": [read]},
    ) as client:
        if config.transport == "sse":
            request = client.build_request("GET", config.url, headers={"Accept": "text/event-stream", **_VERSION})
        else:
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            accept = {"Accept": "application/json, text/event-stream", **_VERSION}
            request = client.build_request("POST", config.url, json=ping, headers=accept)
        response = await client.send(request, stream=True)
        await response.aclose()
        return response.status_code


class _Storage:
    """What the SDK asks for and gives back: the login in use, and each new one with all that was found out."""

    provider: OAuthClientProvider

    def __init__(
        self,
        save: Callable[[StoredLogin], Awaitable[None]],
        *,
        server: str,
        login: StoredLogin | None = None,
        client: OAuthClientInformationFull | None = None,
    ) -> None:
        self.server = server
        self._save = save
        self._login = login
        self._client = login.client if login else client

    async def get_tokens(self) -> OAuthToken | None:
        return self._login.tokens if self._login else None

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Kept with the tokens; without them it is of no use."""

    async def set_tokens(self, tokens: OAuthToken) -> None:
        if not _can_be_sent(tokens.access_token):
            raise OAuthFlowError("its access token cannot be sent in a header")
        context = self.provider.context
        assert context.client_info is not None
        await self._save(
            StoredLogin(
                server=self.server,
                url=context.server_url,
                expires_at=context.token_expiry_time,
                tokens=tokens,
                client=context.client_info,
                metadata=context.oauth_metadata,
                resource=context.protected_resource_metadata,
            )
        )


def _provider_of(login: StoredLogin, save: Callable[[StoredLogin], Awaitable[None]]) -> OAuthClientProvider:
    """A provider that renews this login with its first request, at the server that gave it."""
    storage = _Storage(save, server=login.server, login=login)
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(f"http://127.0.0.1{_CALLBACK}")])
    storage.provider = provider = OAuthClientProvider(login.url, metadata, storage)
    provider.context.token_expiry_time = _EXPIRED
    provider.context.oauth_metadata = login.metadata
    provider.context.protected_resource_metadata = login.resource
    return provider


def _new_provider(config: ServerConfig, callback: _Callback, show: Show, storage: _Storage) -> OAuthClientProvider:
    """A provider that asks a person."""

    async def send_to(address: str) -> None:
        found = provider.context.oauth_metadata
        for each in (address, *([str(found.token_endpoint)] if found else [])):
            if not _is_safe(each):
                raise OAuthFlowError(f"{urlsplit(each).hostname} would get the login unencrypted")
        await show(address)

    metadata = OAuthClientMetadata(
        client_name="lmstudio-bridge",
        redirect_uris=[AnyUrl(callback.address)],
        token_endpoint_auth_method="none",  # a program on the user's machine can keep no secret: RFC 8252, 8.4
    )
    storage.provider = provider = OAuthClientProvider(
        config.url, metadata, storage, redirect_handler=send_to, callback_handler=callback.wait
    )
    return provider


class _Callback:
    """Where the browser brings the answer of the authorization server."""

    def __init__(self) -> None:
        self.host = ""
        self._answered: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    @property
    def address(self) -> str:
        return f"http://{self.host}{_CALLBACK}"

    async def wait(self) -> AuthorizationCodeResult:
        """The answer.

        Raises:
            OAuthFlowError: It is an error.
        """
        return await self._answered

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; what does not look like the answer that we wait for gets a 404."""
        try:
            async with asyncio.timeout(HTTP_TIMEOUT):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = self._take(head)
                status, text = ("200 OK", _PAGE) if found else ("404 Not Found", "Nothing is here.")
                writer.write(
                    f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
                    f"cache-control: no-store\r\nconnection: close\r\n\r\n{text}".encode()
                )
                await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            logger.debug("a connection to the callback address ended early")
        finally:
            writer.close()

    def _take(self, head: str) -> bool:
        first, *lines = head.split("\r\n")
        method, _, rest = first.partition(" ")
        parts = urlsplit(rest.partition(" ")[0])
        hosts = [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.lower() == "host"]
        # Another name for this machine would be a page of somebody else's (DNS rebinding).
        if method != "GET" or parts.path != _CALLBACK or hosts != [self.host]:
            return False
        query = dict(parse_qsl(parts.query))
        if self._answered.done() or not ("code" in query or "error" in query):
            return False
        if "error" in query:
            said = ": ".join(query[key] for key in ("error", "error_description") if key in query)
            self._answered.set_exception(OAuthFlowError(f"the authorization server said {said}"))
        else:
            self._answered.set_result(
                AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))
            )
        return True


@asynccontextmanager
async def _listen(host: str, port: int) -> AsyncIterator[_Callback]:
    callback = _Callback()
    try:
        server = await asyncio.start_server(callback.serve, "127.0.0.1", port)
    except OSError as exc:
        raise SettingsError(
            f"Port {port} on 127.0.0.1 cannot be used for the browser's reply: {os.strerror(exc.errno or 0)}.",
            remedy="Stop the program that uses it, or choose another port with --port.",
        ) from exc
    callback.host = f"{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield callback
    finally:
        server.close()


# -- helpers ----------------------------------------------------------------------------------------------------------

_VERSION = {MCP_PROTOCOL_VERSION_HEADER: LATEST_HANDSHAKE_VERSION}


async def _in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """For the keyring, which may ask the user to unlock it."""
    return await anyio.to_thread.run_sync(work, *args, abandon_on_cancel=True)


async def _ignore(login: StoredLogin) -> None:
    """For a provider that gets no new tokens."""


def _bounded(request: httpx2.Request) -> httpx2.Request:
    """The request with timeouts, which those of the SDK's flows don't have."""
    request.extensions.setdefault("timeout", httpx2.Timeout(HTTP_TIMEOUT).as_dict())
    request.extensions["signs_in"] = True
    return request


async def _read_answer(response: httpx2.Response, learn: Learn) -> dict[str, Any]:
    """What an authorization server says, if it is a JSON object; `learn` gets all that may be a secret."""
    if isinstance(response.stream, httpx2.AsyncByteStream) and not response.is_stream_consumed:
        stream = BoundedStream(response.stream, _MAX_ANSWER)
        try:
            body = b"".join([piece async for piece in stream])
        finally:
            await stream.aclose()
        response.stream = httpx2.ByteStream(_FRACTION.sub(rb"\1", body))  # the SDK takes only whole seconds
    said = load_or_none(await response.aread())
    if not isinstance(said, dict):
        return {}
    learn(
        value
        for key, value in said.items()
        if isinstance(value, str) and (key.endswith("_token") or key == "client_secret")
    )
    return said


def _is_token(said: JSONObject) -> bool:
    """Whether an answer is one of RFC 6749, 5.1."""
    with suppress(ValidationError):
        return _can_be_sent(OAuthToken.model_validate(said).access_token)
    return False


def _can_be_sent(token: str) -> bool:
    """Whether it can be in a header."""
    return bool(token) and token.isascii() and token.isprintable()


def _is_safe(address: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    return urlsplit(address).scheme == "https" or is_loopback(address)


_OWN_WORDS = {
    "State parameter mismatch": "the browser's reply belongs to another login (wrong state)",
    "Invalid token response": "its authorization server sent no valid OAuth 2.0 token",
    "Invalid registration response": "its authorization server sent no valid OAuth 2.0 registration",
}
"""In place of words of the SDK that quote secrets."""


def _said(exc: Exception) -> str:
    words = " ".join(str(exc).split()) or type(exc).__name__
    words = next((own for begin, own in _OWN_WORDS.items() if words.startswith(begin)), words)
    return words[:_SHOWN].rstrip(".")


def _cannot_sign_in(config: ServerConfig) -> DownstreamError:
    where = f" in {config.source}" if config.source else ""
    if config.transport == "stdio":
        return DownstreamError(
            f"MCP server '{config.name}' is started by a command, so the bridge cannot sign in to it.",
            server=config.name,
            remedy="See the documentation of that server for how it signs in.",
        )
    return DownstreamError(
        f"MCP server '{config.name}' has an `Authorization` header{where}, which the bridge uses.",
        server=config.name,
        remedy="Remove that header first if you want to sign in through the browser.",
    )
