"""An MCP server over HTTP with its own authorization server, both made with the MCP SDK.

It has habits; what is left out is as it should be:

- `lifetimes`: seconds for which the first access tokens are valid; the others are for an hour
- `tells_lifetime`: whether it says so
- `transport`: "http", or "sse"
- `state`, `iss`, `metadata_issuer`: wrong values
- `denies`: the user says no
- `moves_token_endpoint`, `moves_server`: a URL to which they redirect
- `broken`: the token endpoint answers with 503
- `answers`: what the token endpoint answers in place of tokens: a status, and the text
- `gossips`: the description of a tool holds the token that was sent first
- `opens`: requests without a token get an answer, too
- `hides`: there is no metadata, and no registration
- `registers`: whether clients may register themselves; KNOWN_CLIENT is registered with `known_redirect`

A refresh token is valid once. `POST /test/set` changes habits.
`POST /test/revoke?what=access&what=refresh` ends tokens. `GET /test/seen` says which grants and
tokens there were, and how often a client revoked one.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KNOWN_CLIENT = "registered-by-hand"


class Authorization(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """Agrees to everything, except where its habits say otherwise."""

    def __init__(self, habits: dict[str, Any]) -> None:
        self.habits = habits
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.on_first_token: Callable[[str], None] = lambda token: None
        self.seen: dict[str, Any] = {"grants": [], "tokens": [], "revoked": 0}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        if client_id == KNOWN_CLIENT and client_id not in self.clients:
            known = {"client_id": client_id, "redirect_uris": [self.habits["known_redirect"]]}
            self.clients[client_id] = OAuthClientInformationFull.model_validate(
                {**known, "token_endpoint_auth_method": "none"}
            )
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        if self.habits.get("denies"):
            raise AuthorizeError("access_denied", "the user said no")
        code = secrets.token_urlsafe(24)
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        state = self.habits.get("state", params.state)
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=state, iss=self.habits.get("iss"))

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        return self._issue("authorization_code", client, authorization_code.resource)

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self.refresh[refresh_token.token]
        return self._issue("refresh_token", client, None)

    async def load_access_token(self, token: str) -> AccessToken | None:
        found = self.access.get(token)
        if found and self.habits.pop("gossips", False):
            self.on_first_token(token)
        return found if found and (found.expires_at is None or found.expires_at > time.time()) else None

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.seen["revoked"] += 1
        self.access.clear()
        self.refresh.clear()

    def _issue(self, grant: str, client: OAuthClientInformationFull, resource: str | None) -> OAuthToken:
        access, refresh = (f"{kind}-{secrets.token_urlsafe(24)}" for kind in ("acc", "ref"))
        lifetimes = self.habits.get("lifetimes")
        lifetime = lifetimes.pop(0) if lifetimes else 3600
        self.access[access] = AccessToken(
            token=access, client_id=client.client_id, scopes=[], expires_at=int(time.time() + lifetime)
        )
        self.refresh[refresh] = RefreshToken(token=refresh, client_id=client.client_id, scopes=[])
        self.seen["grants"].append({"grant": grant, "resource": resource})
        self.seen["tokens"] += [access, refresh]
        told = lifetime if self.habits.get("tells_lifetime", True) else None
        return OAuthToken(access_token=access, refresh_token=refresh, expires_in=told)


def add_gossip(server: MCPServer, token: str) -> None:
    """A tool that tells the token of whoever listed the tools."""
    server.add_tool(lambda: "", name="gossip", description=f"For {token} only.", structured_output=False)


class Deviating:
    """The app with the redirects, the outage and the metadata that the habits want."""

    def __init__(self, app: ASGIApp, habits: dict[str, Any]) -> None:
        self.app = app
        self.habits = habits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        for habit, where in (("moves_token_endpoint", "/token"), ("moves_server", "/mcp")):
            if path == where and habit in self.habits:
                await RedirectResponse(self.habits[habit], status_code=307)(scope, receive, send)
                return
        with_token = any(name == b"authorization" for name, _ in scope.get("headers", ()))
        if self.habits.get("opens") and path == "/mcp" and not with_token:
            await JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {}})(scope, receive, send)
            return
        if self.habits.get("hides") and path.startswith(("/.well-known/", "/register")):
            await Response(status_code=404)(scope, receive, send)
            return
        if path == "/token" and (answer := self.habits.get("answers")):
            await Response(answer[1], status_code=answer[0])(scope, receive, send)
            return
        if path == "/token" and self.habits.get("broken"):
            await Response("try again later", status_code=503)(scope, receive, send)
            return

        async def send_changed(message: Message) -> None:
            wrong = self.habits.get("metadata_issuer")
            if wrong and path.startswith("/.well-known/oauth-authorization-server"):
                if message["type"] == "http.response.start":
                    headers = [each for each in message["headers"] if each[0] != b"content-length"]
                    message = {**message, "headers": headers}
                elif message.get("body"):
                    message = {**message, "body": json.dumps({**json.loads(message["body"]), "issuer": wrong}).encode()}
            await send(message)

        await self.app(scope, receive, send_changed)


def build(habits: dict[str, Any], port: int) -> ASGIApp:
    base = f"http://127.0.0.1:{port}"
    authorization = Authorization(habits)
    server = MCPServer(
        "guarded",
        log_level="ERROR",
        auth_server_provider=authorization,
        auth=AuthSettings.model_validate(
            {
                "issuer_url": base,
                "resource_server_url": f"{base}/{'sse' if habits.get('transport') == 'sse' else 'mcp'}",
                "validate_token_resource": False,
                "client_registration_options": ClientRegistrationOptions(enabled=habits.get("registers", True)),
                "revocation_options": RevocationOptions(enabled=True),
            }
        ),
    )

    authorization.on_first_token = partial(add_gossip, server)

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        return text

    @server.tool(structured_output=False)
    async def whoami() -> str:
        """Says the token that it was called with, which no server should."""
        token = get_access_token()
        return f"called with {token.token if token else 'nothing'}"

    async def revoke(request: Request) -> Response:
        for what in request.query_params.getlist("what"):
            getattr(authorization, what).clear()
        return Response()

    async def change(request: Request) -> Response:
        habits.update(await request.json())
        return Response()

    async def seen(request: Request) -> Response:
        return JSONResponse(authorization.seen)

    for path, method, answer in (("revoke", "POST", revoke), ("set", "POST", change), ("seen", "GET", seen)):
        server.custom_route(f"/test/{path}", methods=[method])(answer)
    app = server.sse_app() if habits.get("transport") == "sse" else server.streamable_http_app()
    return Deviating(app, habits)


@contextmanager
def serving(habits: dict[str, Any]) -> Iterator[int]:
    """Let the server answer in a thread; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        config = uvicorn.Config(build(habits, port), ws="none", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
