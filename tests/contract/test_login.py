"""Signing in to MCP servers with OAuth and a real authorization server: login, renewal, refusals, secrecy."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.lmstudio_sim.replies import CallReply, Completion, Stall, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator
from tests.support.oauth_server import serving
from tests.support.shell import LIMIT, MODEL, Shell, configure

NO_KEYRING = "keyring.backends.fail.Keyring"


@dataclass(frozen=True)
class Guarded:
    """An MCP server that wants a login."""

    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def tell(self, path: str, body: object = None) -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            (await client.post(f"{self.base}/test/{path}", json=body)).raise_for_status()

    async def seen(self) -> dict[str, Any]:
        async with httpx2.AsyncClient(trust_env=False) as client:
            seen: dict[str, Any] = (await client.get(f"{self.base}/test/seen")).json()
        return seen

    async def grants(self) -> list[str]:
        return [each["grant"] for each in (await self.seen())["grants"]]


Guard = Callable[..., Guarded]


@pytest.fixture
def guard(shell: Shell) -> Iterator[Guard]:
    """Starts the server with these habits, and configures it as `web`."""
    with ExitStack() as started:

        def start(**habits: Any) -> Guarded:
            server = Guarded(started.enter_context(serving(habits)))
            path = "sse" if habits.get("transport") == "sse" else "mcp"
            configure(shell, web={"type": habits.get("transport", "http"), "url": f"{server.base}/{path}"})
            return server

        yield start


@pytest.fixture(autouse=True)
def keyring_free(shell: Shell) -> None:
    """Not the keyring of whoever runs the tests."""
    assert isinstance(shell.environ, dict)
    shell.environ["PYTHON_KEYRING_BACKEND"] = NO_KEYRING


async def log_in(shell: Shell, *options: str) -> tuple[int, str]:
    """Log in as a user does who opens the printed address in a browser; exit code and stderr."""
    process = await shell.start("login", "web", "--no-browser", *options)
    async with asyncio.timeout(LIMIT):
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        if address:
            async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
                await browser.get(address)
        _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


async def ask(shell: Shell, sim: Simulator, tool: str = "echo", **arguments: str) -> tuple[int, str, str]:
    """A run that calls one tool of the server."""

    def reply(request: SimRequest) -> Completion:
        assert request.json is not None
        called = any(message["role"] == "tool" for message in request.json["messages"])
        return TextReply("Done.") if called else CallReply((f"web__{tool}", arguments))

    sim.script_fn(MODEL, reply)
    return await shell.run("run", f"Call {tool}.", "--mcp", "web", "--access", "write")


def login_files(shell: Shell) -> list[Path]:
    return sorted((shell.folder / "home" / "logins").glob("*.json"))


async def state_of_server(shell: Shell) -> str:
    _, out, _ = await shell.run("servers", "--json")
    return str(json.loads(out)[0]["state"])


@asynccontextmanager
async def other_host() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that must not be asked: its address, and the requests that it got."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/elsewhere", heads


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_login_is_used_in_runs(shell: Shell, sim: Simulator, guard: Guard, transport: str) -> None:
    """It is bound to the server, and kept in a private file where there is no keyring."""
    server = guard(transport=transport)

    before = await ask(shell, sim)
    state_before = await state_of_server(shell)
    code, said = await log_in(shell)
    after = await ask(shell, sim, text="hello")

    assert before[0] == 1
    assert "lmstudio-bridge login web" in before[2]
    assert "requires sign-in (HTTP 401)" in before[2]
    assert "logged in" not in state_before
    assert code == 0, said
    assert "The server offers 2 tools." in said
    assert "in a file that only you can read" in said
    assert after[0] == 0, after[2]
    assert "logged in" in await state_of_server(shell)
    [file] = login_files(shell)
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    seen = await server.seen()
    assert seen["tokens"][0] in file.read_text(encoding="utf-8")
    path = "sse" if transport == "sse" else "mcp"
    assert seen["grants"] == [{"grant": "authorization_code", "resource": f"{server.base}/{path}"}]


async def test_tokens_are_shown_nowhere(shell: Shell, sim: Simulator, guard: Guard) -> None:
    server = guard(gossips=True)
    _, said = await log_in(shell)
    shell_debug = Shell(shell.folder, {**shell.environ, "LMSTUDIO_BRIDGE_LOG_LEVEL": "debug"})

    doctor = await shell_debug.run("doctor")
    listed = await shell_debug.run("servers")
    await server.tell("revoke?what=access")  # so that the run gets new ones
    code, out, err = await ask(shell_debug, sim, "whoami")

    assert code == 0, err
    seen = await server.seen()
    assert [each["grant"] for each in seen["grants"]] == ["authorization_code", "refresh_token"]
    requests = "".join(json.dumps(request.json) for request in sim.requests)
    assert "called with [secret]" in requests
    assert "For [secret] only." in requests
    texts = [said, out, err, requests, *map(str, (*doctor, *listed))]
    home = shell.folder / "home"
    texts += [
        path.read_text(encoding="utf-8") for each in ("runs", "catalogues") for path in (home / each).rglob("*.json*")
    ]
    assert [token for token in seen["tokens"] for text in texts if token in text] == []
    assert "logged in" in doctor[1]


async def test_keyring_holds_the_tokens(shell: Shell, sim: Simulator, guard: Guard) -> None:
    server, kept = guard(), shell.folder / "keyring.json"
    backend = {"PYTHON_KEYRING_BACKEND": "tests.support.file_keyring.FileKeyring", "TEST_KEYRING": str(kept)}
    with_keyring = Shell(shell.folder, {**shell.environ, **backend})

    _, said = await log_in(with_keyring)
    await server.tell("revoke?what=access")
    run = await ask(with_keyring, sim, text="hello")

    tokens = (await server.seen())["tokens"]
    [file] = login_files(shell)
    assert "in the system's keyring" in said
    assert run[0] == 0, run[2]
    assert [token for token in tokens if token in file.read_text(encoding="utf-8")] == []
    assert [token for token in tokens if token in kept.read_text(encoding="utf-8")] == tokens[2:]
    assert (await with_keyring.run("logout", "web"))[0] == 0
    assert json.loads(kept.read_text(encoding="utf-8")) == {}


async def test_expired_token_is_renewed_before_it_is_sent(shell: Shell, guard: Guard) -> None:
    server = guard(lifetimes=[0])

    code, said = await log_in(shell)

    assert code == 0, said
    assert await server.grants() == ["authorization_code", "refresh_token"]


async def test_token_of_unknown_lifetime_is_renewed_when_it_is_refused(
    shell: Shell, sim: Simulator, guard: Guard
) -> None:
    server = guard(tells_lifetime=False)
    await log_in(shell)
    await server.tell("revoke?what=access")

    first = await ask(shell, sim, text="hello")
    second = await ask(shell, sim, text="hello")

    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert await server.grants() == ["authorization_code", "refresh_token"]


async def test_token_that_is_refused_in_the_middle_of_a_session_is_renewed(
    shell: Shell, sim: Simulator, guard: Guard
) -> None:
    server = guard()
    await log_in(shell)

    revoked = asyncio.Event()
    sim.script(MODEL, CallReply(("web__echo", {"text": "hello"}), faults=(Stall(until=revoked),)), TextReply("hello"))
    process = await shell.start("run", "Call echo.", "--mcp", "web", "--access", "write")
    async with asyncio.timeout(LIMIT):
        await sim.wait_for_request(1, path="/v1/chat/completions")  # the session is open now
        await server.tell("revoke?what=access")
        revoked.set()
        _, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert await server.grants() == ["authorization_code", "refresh_token"]


async def test_processes_renew_a_login_only_once(shell: Shell, guard: Guard) -> None:
    server = guard()
    await log_in(shell)
    await server.tell("revoke?what=access")

    checked = await asyncio.gather(*(shell.run("doctor", "--json") for _ in range(3)))

    states = [
        check["state"]
        for _, out, _ in checked
        for check in json.loads(out)["checks"]
        if check["name"] == "MCP server web" and "tools" in check["found"]
    ]
    assert states == ["ok"] * 3
    assert await server.grants() == ["authorization_code", "refresh_token"]


async def test_revoked_login_names_the_command(shell: Shell, sim: Simulator, guard: Guard) -> None:
    server = guard()
    await log_in(shell)
    await server.tell("revoke?what=access&what=refresh")

    code, _, err = await ask(shell, sim)

    assert code == 1
    assert "does not accept the login any more (HTTP 401): it has expired or was revoked" in err
    assert "Run `lmstudio-bridge login web` again." in err
    assert "logged in" not in await state_of_server(shell)


@pytest.mark.parametrize("when", ["at the start", "in a call"])
async def test_an_authorization_server_that_is_down_is_named_and_nothing_was_executed(
    shell: Shell, sim: Simulator, guard: Guard, when: str
) -> None:
    server = guard()
    await log_in(shell)
    results: list[str] = []

    def lose() -> None:
        httpx2.post(f"{server.base}/test/revoke?what=access", trust_env=False)
        [path] = login_files(shell)
        login = json.loads(path.read_text(encoding="utf-8"))
        login["metadata"]["token_endpoint"] = "http://127.0.0.1:1/token"
        path.write_text(json.dumps(login), encoding="utf-8")

    def reply(request: SimRequest) -> Completion:
        assert request.json is not None
        results.extend(message["content"] for message in request.json["messages"] if message["role"] == "tool")
        if results:
            return TextReply("Done.")
        lose()
        return CallReply(("web__echo", {"text": "hello"}))

    if when == "at the start":
        lose()
    sim.script_fn(MODEL, reply)
    code, _, err = await shell.run("run", "Call echo.", "--mcp", "web", "--access", "write")

    assert code == 1
    told = err if when == "at the start" else results[0]
    assert "could not be renewed, because its authorization server cannot be reached" in told
    assert when == "at the start" or "The call was not executed." in told


async def test_outage_of_the_authorization_server_does_not_end_the_login(
    shell: Shell, sim: Simulator, guard: Guard
) -> None:
    server = guard()
    await log_in(shell)
    await server.tell("revoke?what=access")
    await server.tell("set", {"broken": True})

    code, _, err = await ask(shell, sim)
    await server.tell("set", {"broken": False})
    later = await ask(shell, sim, text="hello")

    assert code == 1
    assert "its authorization server answered with HTTP 503" in err
    assert later[0] == 0, later[2]


@pytest.mark.parametrize(
    ("habits", "reason"),
    [
        ({"state": "another"}, "wrong state"),
        ({"iss": "https://evil.example"}, "Authorization response iss mismatch: https://evil.example"),
        ({"metadata_issuer": "https://evil.example"}, "metadata issuer mismatch: https://evil.example"),
        ({"denies": True}, "the authorization server said access_denied: the user said no"),
        ({"registers": False}, "Register a client at that service and give its ID with --client-id"),
        ({"broken": True}, "Token exchange failed (503)"),
        ({"answers": (200, "access_token=tok-7&token_type=bearer")}, "sent no valid OAuth 2.0 token"),
        ({"answers": (400, b"\xff")}, "can't decode byte 0xff"),
    ],
)
async def test_login_that_must_fail_keeps_nothing(
    shell: Shell, guard: Guard, habits: dict[str, Any], reason: str
) -> None:
    server = guard(**habits)

    code, said = await log_in(shell)

    assert code == 1
    assert reason in said
    assert "Traceback" not in said
    assert "tok-7" not in said
    assert await server.grants() == []
    assert login_files(shell) == []


@pytest.mark.parametrize(
    ("moves", "told"),
    [
        ("moves_token_endpoint", "its authorization server answered with HTTP 307"),
        ("moves_server", "answered with HTTP 307"),
    ],
)
async def test_no_token_follows_to_another_host(
    shell: Shell, sim: Simulator, guard: Guard, moves: str, told: str
) -> None:
    """Neither at the login, nor at its renewal, nor with a call."""
    server = guard()
    await log_in(shell)
    async with other_host() as (address, heads):
        if moves == "moves_token_endpoint":
            await server.tell("revoke?what=access")
        await server.tell("set", {moves: address})
        code, _, err = await ask(shell, sim)
        refused, said = await log_in(shell) if moves == "moves_token_endpoint" else (1, "Token exchange failed (307)")

    assert (code, refused) == (1, 1)
    assert told in err
    assert "mcp.client" not in err, "the SDK's own log"
    assert "Token exchange failed (307)" in said
    assert heads == []


async def test_a_server_that_wants_a_login_for_some_calls_only_can_be_signed_in_to(shell: Shell, guard: Guard) -> None:
    server = guard(opens=True)
    code, said = await log_in(shell)
    assert code == 0, said
    assert "The server offers 2 tools." in said

    await server.tell("set", {"hides": True})
    await shell.run("logout", "web")
    code, said = await log_in(shell)
    assert (code, "answers without a login, and offers none" in said) == (1, True), said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
async def test_a_login_that_nobody_finishes_can_be_interrupted_and_says_which_port_it_needs(
    shell: Shell, guard: Guard
) -> None:
    guard()
    process = await shell.start("login", "web", "--no-browser")
    async with asyncio.timeout(LIMIT):
        assert process.stdout is not None
        address = httpx2.URL((await process.stdout.readline()).decode().strip())
        port = str(httpx2.URL(address.params["redirect_uri"]).port)
        second = await log_in(shell, "--port", port)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert second[0] == 2
    assert f"Port {port} on 127.0.0.1 cannot be used" in second[1]
    assert (process.returncode, err) == (130, b"")
    assert login_files(shell) == []


async def test_other_requests_do_not_disturb_a_login(shell: Shell, guard: Guard) -> None:
    guard()
    process = await shell.start("login", "web", "--no-browser")
    async with asyncio.timeout(LIMIT):
        assert process.stdout is not None
        address = httpx2.URL((await process.stdout.readline()).decode().strip())
        back = httpx2.URL(address.params["redirect_uri"])
        _, writer = await asyncio.open_connection("127.0.0.1", back.port)
        writer.write(b"GET http://[ HTTP/1.1\r\n\r\n")  # no address
        async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
            strays = [
                await browser.get(back.copy_with(path="/favicon.ico")),
                await browser.get(back),
                await browser.post(back, params={"code": "x", "state": "y"}),
                await browser.get(back, params={"code": "x"}, headers={"Host": "evil.example"}),
            ]
            answer = await browser.get(address)
        _, err = await process.communicate()
        writer.close()

    assert b"Traceback" not in err
    assert [stray.status_code for stray in strays] == [404] * 4
    assert answer.status_code == 200
    assert process.returncode == 0, err.decode()


async def test_login_opens_a_browser(shell: Shell, guard: Guard) -> None:
    guard()
    visit = shell.folder / "visit.py"
    visit.write_text(
        "import sys, httpx2\nhttpx2.Client(follow_redirects=True, trust_env=False).get(sys.argv[1])\n", encoding="utf-8"
    )
    with_browser = Shell(shell.folder, {**shell.environ, "BROWSER": f"{sys.executable} {visit} %s"})

    code, _, err = await with_browser.run("login", "web")

    assert code == 0, err
    assert "Sign in to web in the browser." in err


@pytest.mark.parametrize("named_in", ["entry", "options"])
async def test_client_that_was_registered_by_hand(shell: Shell, guard: Guard, named_in: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = guard(registers=False, known_redirect=f"http://localhost:{port}/callback")
    options = ["--client-id", "registered-by-hand", "--port", str(port)]
    if named_in == "entry":
        oauth = {"clientId": "registered-by-hand", "callbackPort": port}
        configure(shell, web={"type": "http", "url": f"{server.base}/mcp", "oauth": oauth})
        options = []

    code, said = await log_in(shell, *options)

    assert code == 0, said
    assert "not supported" not in said


async def test_header_of_the_entry_is_used_as_it_is(shell: Shell, sim: Simulator, guard: Guard) -> None:
    server = guard()
    await log_in(shell)
    url = f"{server.base}/mcp"
    configure(shell, web={"type": "http", "url": url, "headers": {"Authorization": "Bearer not-a-token-123"}})

    run = await ask(shell, sim)
    login = await shell.run("login", "web", "--no-browser")

    assert "refused our credentials (HTTP 401)" in run[2]
    assert await server.grants() == ["authorization_code"]
    assert login[0] == 1
    assert "has an `Authorization` header" in login[2]
    assert "logged in" not in await state_of_server(shell)


async def test_login_does_not_go_to_another_address(shell: Shell, sim: Simulator, guard: Guard) -> None:
    guard()
    await log_in(shell)
    async with other_host() as (address, heads):
        configure(shell, web={"type": "http", "url": address})
        await ask(shell, sim)

    assert heads
    assert [head for head in heads if b"authorization" in head.lower()] == []


async def test_logout_deletes_and_revokes(shell: Shell, sim: Simulator, guard: Guard) -> None:
    server = guard()
    await log_in(shell)
    [path] = login_files(shell)

    first = await shell.run("logout", "web")
    second = await shell.run("logout", "web")

    assert first == (0, "", "Logged out of web.\n")
    assert ((await server.seen())["revoked"], login_files(shell)) == (1, [])
    assert second[0] == 1
    assert "There is no login for web." in second[2]
    assert "requires sign-in" in (await ask(shell, sim))[2]

    path.mkdir()
    code, _, err = await shell.run("logout", "web")
    assert (code, f"Delete {path}." in err) == (2, True), err


async def test_logout_from_a_server_that_was_removed(shell: Shell, guard: Guard) -> None:
    server = guard()
    await log_in(shell)
    configure(shell, other={"command": sys.executable})

    assert await shell.run("logout", "web") == (0, "", "Logged out of web.\n")
    assert "No MCP server named 'web'" in (await shell.run("logout", "web"))[2]
    assert ((await server.seen())["revoked"], login_files(shell)) == (1, [])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("local", "is started by a command"),
        ("plain", "is not reached over https"),
        ("nothing", "No MCP server named 'nothing'"),
    ],
)
async def test_what_needs_no_login_is_said(shell: Shell, name: str, told: str) -> None:
    plain = {"type": "http", "url": "http://example.com/mcp"}
    configure(shell, local={"command": sys.executable}, plain=plain)
    code, _, err = await shell.run("login", name)

    assert (code, told in err) == (1, True), err
