"""Logins to MCP servers in runs: renewal, its cancellation, what is kept. tests/contract/test_login.py has the rest."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from lmstudio_bridge.errors import DownstreamError
from lmstudio_bridge.mcp_client.http import Login
from lmstudio_bridge.mcp_client.logins import LoginStore
from lmstudio_bridge.mcp_client.oauth import SignIn, StoredLogin, load_login, open_login, sign_in
from lmstudio_bridge.messages import ServerConfig
from tests.support.oauth_server import serving

URL = "https://mcp.example/mcp"
TOKENS = "https://login.example/oauth/token"
WEB = ServerConfig("web", "http", url=URL)

Answer = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


@pytest.fixture
def learned() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, learned: list[str]) -> LoginStore:
    """A store without a keyring."""
    import keyring
    from keyring.backends.fail import Keyring

    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]
    return LoginStore(tmp_path / "logins", learn=learned.extend)


def keep(store: LoginStore, *, expires_at: float | None = None, **tokens: str) -> None:
    login = {
        "server": "web",
        "url": URL,
        "expires_at": expires_at,
        "tokens": {"access_token": "access-1", "refresh_token": "refresh-1", **tokens},
        "client": {"client_id": "client-1", "token_endpoint_auth_method": "none"},
        "metadata": {
            "issuer": "https://login.example",
            "authorization_endpoint": "https://login.example/oauth/authorize",
            "token_endpoint": TOKENS,
        },
    }
    StoredLogin.model_validate(login).save_in(store)


class Site:
    """A server that accepts one access token, and its authorization server; keeps the requests."""

    def __init__(self, *, accepts: str = "access-2") -> None:
        self.requests: list[httpx2.Request] = []
        self.accepts = accepts
        self.renew: Answer = self.give_token

    async def give_token(self, request: httpx2.Request) -> httpx2.Response:
        tokens = {"access_token": "access-2", "refresh_token": "refresh-2", "token_type": "Bearer", "expires_in": 60}
        return httpx2.Response(200, json=tokens)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if str(request.url) == TOKENS:
            return await self.renew(request)
        good = request.headers.get("Authorization") == f"Bearer {self.accepts}"
        return httpx2.Response(200 if good else 401)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


async def client_of(store: LoginStore, site: Site) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(auth=await login_of(store), transport=httpx2.MockTransport(site))


async def login_of(store: LoginStore) -> Login:
    login = await open_login(store, WEB)
    assert login is not None
    return login


async def test_renewal_goes_to_the_server_that_gave_the_login(store: LoginStore) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async with await client_of(store, site) as client:
        response = await client.post(URL)

    assert response.status_code == 200
    assert site.paths == ["/oauth/token", "/mcp"]
    assert b"refresh_token=refresh-1" in site.requests[0].content
    kept = load_login(store, URL)
    assert kept is not None
    assert (kept.tokens.access_token, kept.tokens.refresh_token) == ("access-2", "refresh-2")


@pytest.mark.parametrize("seconds", [b"3600.5", b'"3600.5"', b"3.6e3"])
async def test_a_lifetime_with_a_fraction_of_a_second_is_understood(store: LoginStore, seconds: bytes) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"access_token": "access-2", "token_type": "Bearer", "exp'
        yield b'ires_in": ' + seconds + b"}"

    async def give_token(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=pieces())

    site.renew = give_token
    async with await client_of(store, site) as client:
        response = await client.post(URL)

    assert response.status_code == 200
    kept = load_login(store, URL)
    assert kept is not None
    assert kept.tokens.expires_in == 3600


async def test_token_that_another_process_renewed_is_used(store: LoginStore) -> None:
    keep(store)
    site = Site()

    async with await client_of(store, site) as client:
        keep(store, access_token="access-2")
        response = await client.post(URL)

    assert response.status_code == 200
    assert site.paths == ["/mcp", "/mcp"]


async def test_requests_at_once_renew_once(store: LoginStore) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async with await client_of(store, site) as client:
        responses = await asyncio.gather(*(client.post(URL) for _ in range(5)))

    assert [response.status_code for response in responses] == [200] * 5
    assert site.paths.count("/oauth/token") == 1


async def test_token_that_cannot_be_renewed_is_sent_once(store: LoginStore) -> None:
    keep(store, refresh_token="")
    site = Site()

    async with await client_of(store, site) as client:
        response = await client.post(URL)

    assert response.status_code == 401
    assert site.paths == ["/mcp"]


async def test_logging_out_ends_the_login_also_where_it_is_in_use(store: LoginStore) -> None:
    keep(store)
    site = Site(accepts="access-1")
    async with await client_of(store, site) as client:
        before = await client.post(URL)
        store.forget(URL)
        after = await client.post(URL)

    assert (before.status_code, after.status_code) == (200, 401)
    assert "Authorization" not in site.requests[-1].headers


async def test_logging_out_during_a_renewal_keeps_nothing(store: LoginStore) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async def log_out(request: httpx2.Request) -> httpx2.Response:
        store.forget(URL)
        return await site.give_token(request)

    site.renew = log_out
    async with await client_of(store, site) as client:
        response = await client.post(URL)

    assert response.status_code == 401
    assert not store.has(WEB)


async def test_cancelled_renewal_holds_up_no_other(store: LoginStore) -> None:
    keep(store, expires_at=1.0)
    site = Site()
    asked = asyncio.Event()

    async def hang(request: httpx2.Request) -> httpx2.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    site.renew = hang
    async with await client_of(store, site) as client:
        first = asyncio.create_task(client.post(URL))
        await asked.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        site.renew = site.give_token
        response = await client.post(URL)

    assert response.status_code == 200
    with store.try_lock(URL) as free:
        assert free


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (httpx2.Response(400, json={"error": "invalid_grant"}), False),
        (httpx2.Response(401, json={"error": "invalid_client"}), False),
        (httpx2.Response(400, json={"error": "invalid_request"}), True),
        (httpx2.Response(500, text="<html>"), True),
        (httpx2.Response(200, json={"refresh_token": "refresh-9"}), True),
        (httpx2.Response(200, text="[]"), True),
        (httpx2.Response(200, json={"error": "bad_refresh_token"}), False),
        (httpx2.Response(200, json={"access_token": "access-9", "token_type": "mac"}), True),
        (httpx2.Response(200, json={"access_token": "äccess", "token_type": "Bearer"}), True),
        (httpx2.Response(200, json={"access_token": "access\r\nX: y", "token_type": "Bearer"}), True),
    ],
)
async def test_login_is_forgotten_only_where_it_is_of_no_use(
    store: LoginStore, answer: httpx2.Response, is_kept: bool
) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async def refuse(request: httpx2.Request) -> httpx2.Response:
        return answer

    site.renew = refuse
    async with await client_of(store, site) as client:
        response = await client.post(URL)

    assert response.status_code == 401
    assert store.has(WEB) is is_kept


async def test_tokens_are_learned_before_a_bad_answer_is_logged(
    store: LoginStore, learned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    keep(store, expires_at=1.0)
    site = Site()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"refresh_token": "refresh-9", "id_token": "identity-9"})

    site.renew = answer
    with caplog.at_level(logging.DEBUG):
        async with await client_of(store, site) as client:
            await client.post(URL)

    assert {"access-1", "refresh-1", "refresh-9", "identity-9"} <= set(learned)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"tokens": {"access_token": "access-7"}}', '{"keyring_entry": 7}']
)
async def test_damaged_login_is_none_and_not_quoted(
    store: LoginStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    keep(store)
    [file] = (tmp_path / "logins").glob("*.json")
    file.write_text(content, encoding="utf-8")

    login = await login_of(store)
    async with httpx2.AsyncClient(auth=login, transport=httpx2.MockTransport(Site())) as client:
        response = await client.post(URL)
    assert "Authorization" not in response.request.headers
    assert "the login that is kept for it cannot be read" in login.trouble
    assert "access-7" not in caplog.text
    assert caplog.records


async def test_a_keyring_that_is_locked_is_told(store: LoginStore) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    class Locked(KeyringBackend):
        priority = 1.0
        kept = ""
        answered = threading.Event()

        def get_password(self, service: str, username: str) -> str:
            self.answered.wait()
            if not self.kept:
                raise RuntimeError
            return self.kept

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept = password

        def delete_password(self, service: str, username: str) -> None:
            raise RuntimeError

    Locked.answered.set()
    backend = Locked()  # type: ignore[no-untyped-call]
    keyring.set_keyring(backend)
    keep(store)
    assert (await login_of(store)).trouble == ""

    backend.kept = ""
    assert "is the keyring locked?" in (await login_of(store)).trouble
    backend.answered.clear()  # it asks the user
    waiting = await open_login(store, WEB, patience=0.05)
    backend.answered.set()
    assert waiting is not None
    assert "is the keyring locked?" in waiting.trouble
    assert store.forget(URL)
    assert await open_login(store, WEB) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_a_file_that_others_can_read_is_closed_to_them(store: LoginStore, tmp_path: Path) -> None:
    keep(store)
    [file] = (tmp_path / "logins").glob("*.json")
    file.chmod(0o644)

    assert load_login(store, URL) is not None
    assert file.stat().st_mode & 0o777 == 0o600


async def test_nobody_signs_in(store: LoginStore) -> None:
    with serving({}) as port:
        shown: list[str] = []

        async def show(address: str) -> None:
            shown.append(address)

        web = ServerConfig("web", "http", url=f"http://127.0.0.1:{port}/mcp")
        with pytest.raises(DownstreamError, match=r"Nobody signed in to MCP server 'web' within 2 seconds"):
            await sign_in(web, store, SignIn(show, patience=2))
    assert not store.has(web)


def test_login_is_for_one_address(store: LoginStore) -> None:
    keep(store)

    has = [store.has(ServerConfig("web", "http", url=url)) for url in (URL, f"{URL}/", "https://other.example/mcp")]
    with_header = ServerConfig("web", "http", url=URL, headers={"authorization": "Bearer x"})

    assert has == [True, False, False]
    assert not store.has(with_header)
