"""A canary in every place where a secret may stand, searched for in every byte that leaves the bridge."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, HttpReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support import leaky_server
from tests.support.desk import MODEL, Desk, open_desk
from tests.support.leaky_server import FORMS, spell
from tests.support.raw_client import RawClient, open_raw_client

ENV = 'canary-env/"7f3a+9c2e<4b1d>8é'
ARGUMENT = "canaryargument5d9e2b7c1f"
PASSED = "canarypassed81c3f0a6e4"
OTHER = "canaryother2f8b6d4c0a"
HEADER = "canaryheader6a1e9d3b7c"
LOGIN = "canarylogin%2F3e7a1c9b5d"
TOKEN = "sk-lm-canarytoken:4c8e0a2f6b"
KEY = "ghp_canaryKeyInAFile0123456789abcdefAB"
IN_URL = "canaryurl9b3d7f1a5e"
PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\ncanaryPrivateKeyMIIEpAIBAAKCAQEA0\n-----END RSA PRIVATE KEY-----"
CANARIES = {
    "env": ENV,
    "argument": ARGUMENT,
    "passed": PASSED,
    "other server": OTHER,
    "header": HEADER,
    "login": LOGIN,
    "login decoded": LOGIN.replace("%2F", "/"),
    "token": TOKEN,
    "key in a file": KEY,
    "password in a file": IN_URL,
    "private key": "canaryPrivateKeyMIIEpAIBAAKCAQEA0",
}
FILE = f"GITHUB={KEY}\nDB=postgres://me:{IN_URL}@db/main\n{PRIVATE}\n"
TASK = "Call everything."


def found_in(text: str) -> list[str]:
    """The canaries in a text, in any form; also inside the strings of its JSON lines, and over its line ends."""
    whole = "\n".join([text, *_strings_of_lines(text)])
    joined = whole.replace("\r", "").replace("\n", "")
    return [
        f"{name} ({form})"
        for name, canary in CANARIES.items()
        for form in FORMS
        if any(each in whole or each in joined for each in _needles(form, canary))
    ]


def _needles(form: str, canary: str) -> list[str]:
    match form:
        case "base64" | "base64 in lines":  # at each place that a byte may have, without what others share
            return [spell("base64", "x" * shift + canary)[4:-8] for shift in range(3)]
        case "json" | "json in json":
            return [json.dumps(canary)[1:-1], json.dumps(json.dumps(canary))[3:-3]]
        case _:
            return [spell(form, canary)]


def _strings_of_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        try:
            yield from _strings(json.loads(line))
        except ValueError:
            continue


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(each)


def test_a_canary_is_found_in_every_form() -> None:
    for name, canary in CANARIES.items():
        for form in FORMS:
            said = json.dumps({"text": f"before {spell(form, canary)} after"})
            assert any(each.startswith(f"{name} (") for each in found_in(said)), (name, form)


class Echo(BaseHTTPRequestHandler):
    """An MCP server over HTTP whose only tool tells the headers of the request."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = json.dumps(dict(self.headers.items()))
        match message.get("method"):
            case "initialize":
                result: dict[str, Any] = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": told, "version": "1"},
                }
            case "tools/list":
                tool = {"name": "headers", "description": told, "inputSchema": {"type": "object"}}
                result = {"tools": [{**tool, "annotations": {"readOnlyHint": True}}]}
            case "tools/call":
                result = {"content": [{"type": "text", "text": f"{told} {HEADER} {LOGIN}"}]}
            case _:
                self.send_response(202)
                self.end_headers()
                return
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(405)

    do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def echo_server() -> Iterator[int]:
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        (desk.project / "keys.txt").write_text(FILE, encoding="utf-8")
        with echo_server() as port:
            leaky = [sys.executable, leaky_server.__file__]
            desk.configure(
                leaky=_entry(*leaky, str(tmp_path / "leaky.jsonl"), "--api-key", ARGUMENT, env={"LEAKY_KEY": ENV}),
                other=_entry(*leaky, str(tmp_path / "other.jsonl"), env={"OTHER_PASSWORD": OTHER}),
                broken=_entry(*leaky, "broken", env={"BROKEN_KEY": ENV}),
                remote={"type": "http", "url": f"http://127.0.0.1:{port}/", "headers": {"X-Key": f"Bearer {HEADER}"}},
                login={"type": "http", "url": f"http://me:{LOGIN}@127.0.0.1:{port}/"},
            )
            desk.environ |= {
                "LM_API_TOKEN": TOKEN,
                "PASSED_TOKEN": PASSED,
                "LMSTUDIO_BRIDGE_PASS_ENV": "PASSED_TOKEN",
                "LMSTUDIO_BRIDGE_LOG_LEVEL": "debug",
                "PYTHONWARNINGS": "default",
            }
            yield desk


def _entry(command: str, *arguments: str, env: dict[str, str]) -> dict[str, Any]:
    return {"command": command, "args": list(arguments), "env": env}


def compliant(request: SimRequest) -> Reply:
    """A model that calls everything, hands all that it has read to another server, and says it all at the end."""
    done = sum(len(message.get("tool_calls") or ()) for message in request.messages)
    read = " ".join(str(message["content"]) for message in request.messages) + json.dumps(request.tools)
    calls = [
        *(("leaky__leak", {"form": form}) for form in FORMS),
        ("leaky__fail", {"form": "json"}),
        ("leaky__refuse", {"form": "address"}),
        ("remote__headers", {}),
        ("login__headers", {}),
        ("other__leak", {"text": read}),
        ("leaky__leak", {"text": read}),
        ("leaky__die", {}),
    ]
    if done < len(calls):
        return CallReply(calls[done])
    return TextReply(said(request))


def said(request: SimRequest) -> str:
    """All results in the words of an answer: the bridge takes its own words, and calls as text, for no answer."""
    results = " ".join(str(message["content"]) for message in request.messages if message["role"] in ("tool", "user"))
    return f"This is all that I have read, and all that I was told: {results} There is nothing else."


def telling(request: SimRequest) -> Reply:
    """A model that makes one call and says what it brought."""
    if "tool" in str(request.messages[-1]["role"]):
        return TextReply(said(request))
    return CallReply(("filesystem__leak", {}))


def answers_of(client: RawClient) -> str:
    """All that came out of the bridge's stdout and stderr."""
    lines = "\n".join(json.dumps(line, ensure_ascii=False) for line in client.lines)
    stray = b"".join(client.stray).decode("utf-8", "replace")
    return f"{lines}\n{stray}\n{client.stderr.decode('utf-8', 'replace')}"


def requests_of(desk: Desk) -> str:
    """All that LM Studio was sent, but for the header that the token is meant for."""
    parts: list[str] = []
    for request in desk.sim.requests:
        assert request.headers.pop("authorization") == f"Bearer {TOKEN}"
        parts += [request.path, request.query, json.dumps(request.headers), request.body.decode()]
    return "\n".join(parts)


def files_of(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file())


async def run_command(desk: Desk, *arguments: str) -> str:
    """What a command of the shell wrote to stdout and stderr."""
    async with open_raw_client(era="2026-07-28", environ=desk.environ, arguments=arguments, opened=False) as client:
        await asyncio.wait_for(client.process.wait(), 60)
    assert client.stray or client.lines or client.stderr
    return answers_of(client)


@pytest.mark.npm
async def test_no_canary_leaves_the_bridge(desk: Desk, tmp_path: Path) -> None:
    desk.sim.script_fn(MODEL, compliant)
    async with desk.bridge("2025-11-25", checked=False) as client:
        names = ["leaky", "other", "broken", "remote", "login"]
        answer = await client.call("autonomous_with_multiple_mcps", mcp_names=names, task=f"{TASK} {FILE}")
        assert "[secret]" in answer.text
        assert "[secret:github-token" in answer.text
        run_id = answer.run_id
        await client.call("continue_run", run_id=run_id, instructions=f"Again: {ENV}")
        failed = await client.call("autonomous_with_mcp", mcp_name="broken", task=TASK)
        assert failed.is_error
        desk.sim.script(MODEL, HttpReply(401, {"error": {"message": f"Malformed LM Studio API token: {TOKEN}"}}))
        refused = await client.call("autonomous_with_mcp", mcp_name="other", task=TASK)
        assert "Malformed LM Studio API token: [secret]" in refused.text
        for uri in ("lmstudio://runs", f"lmstudio://runs/{run_id}", "lmstudio://servers", "lmstudio://models"):
            await client.request("resources/read", {"uri": uri})
    doctor = await run_command(desk, "doctor")
    others = [
        await run_command(desk, *words)
        for words in (("runs",), ("runs", "show", run_id), ("servers",), ("servers", "--json"))
    ]
    desk.sim.script_path("/api/v1/models", HttpReply(401, {"error": {"message": f"No such token: {TOKEN}"}}))
    others.append(await run_command(desk, "models"))
    assert "No such token: [secret]" in others[-1]
    shell = await run_command(desk, "run", f"{TASK} {KEY}", "--mcp", "leaky", "--mcp", "other", "--mcp", "broken")

    left = {
        "the server's output": answers_of(client),
        "LM Studio": requests_of(desk),
        "files": files_of(desk.home),
        "the server that leaks": (tmp_path / "leaky.jsonl").read_text(encoding="utf-8"),
        "another server": (tmp_path / "other.jsonl").read_text(encoding="utf-8"),
        "doctor": doctor,
        "run": shell,
        "other commands": "\n".join(others),
    }
    assert {place: found_in(text) for place, text in left.items()} == {place: [] for place in left}


async def test_no_canary_leaves_an_eval(desk: Desk, tmp_path: Path) -> None:
    desk.sim.script_fn(MODEL, telling)
    server = f"filesystem={sys.executable} {leaky_server.__file__} {tmp_path / 'eval.jsonl'} --api-key {ARGUMENT}"
    words = ("--model", MODEL, "--family", "one-call", "--tasks", "1", "--max-rounds", "3", "--seconds", "30", "--json")

    told = await run_command(desk, "eval", *words, "--server", server, "--output", str(tmp_path / "results"))

    left = {"output": told, "LM Studio": requests_of(desk), "results": files_of(tmp_path / "results")}
    assert {place: found_in(text) for place, text in left.items()} == {place: [] for place in left}
    assert all("[secret]" in text for text in left.values())
