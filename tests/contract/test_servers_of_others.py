"""Other people's MCP servers through the whole bridge: sloppy ones, unapproved ones, the bridge itself."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.desk import unfenced
from tests.support.home import sloppy
from tests.support.processes import SLOPPY, is_running, until_dead
from tests.support.raw_client import RawClient, open_raw_client
from tests.support.shell import ROOT, Shell, turn_off_sandbox

MODEL = "qwen/qwen3-4b"
CANARY = "canary-51c0ffee"
BIG = 5_000_000  # characters of one result


@dataclass
class Desk:
    """A user with a clean home folder, a project, and LM Studio."""

    home: Path
    project: Path
    sim: Simulator
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, content: object) -> Path:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    def bridge(self, **environ: str) -> AbstractAsyncContextManager[RawClient]:
        return open_raw_client(era="2025-11-25", environ={**self.environ, **environ})

    async def doctor(self) -> tuple[int, str, str]:
        return await Shell(self.project, {**self.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}).run(
            "doctor"
        )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    project = tmp_path / "project"
    project.mkdir()
    turn_off_sandbox(tmp_path)
    model = SimModel(MODEL, loaded=True, context_length=131_072, trained_for_tool_use=True)
    async with open_simulator([model]) as sim:
        environ = {
            "HOME": str(tmp_path),
            "LMSTUDIO_BRIDGE_TRUST": "",  # as for a user who has not set it
            "LMSTUDIO_BASE_URL": sim.url,
            "CLAUDE_PROJECT_DIR": str(project),
            "LMSTUDIO_BRIDGE_HOME": str(tmp_path / "bridge"),
        }
        yield Desk(tmp_path, project, sim, environ)


def calls_in_turn(desk: Desk, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    """A model that makes these calls, named by the ends of the tools' names, then answers; gives what it is told."""
    told: list[str] = []

    def reply(request: SimRequest) -> CallReply | TextReply:
        results = [message for message in request.messages if message["role"] == "tool"]
        told[:] = [unfenced(message["content"]) for message in results]
        if len(results) == len(calls):
            return TextReply("I am done.")
        tool, arguments = calls[len(results)]
        (name,) = [name for name in offered(request) if name.endswith(f"__{tool}")]
        return CallReply((name, arguments))

    desk.sim.script_fn(MODEL, reply)
    return told


def offered(request: SimRequest) -> list[str]:
    """The servers' tools on offer, without the bridge's own."""
    names = [tool["function"]["name"] for tool in request.tools]
    return [name for name in names if "__" in name]


def text_result(text: str) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": text}]}}


def tools_named(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "description": f"The tool {name}.", "inputSchema": {}, **more} for name in names]


async def test_server_with_every_bad_habit_is_used_to_the_end_and_leaves_nothing_behind(desk: Desk) -> None:
    """What MCP servers really do: `inputSchema: {}`, no structured content, text on stdout, silence, death, …"""
    must_have = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    pages = [
        {"tools": [None, {"description": "no name"}, {"name": 7}, *tools_named("Odd.Name with Spaces")]},
        {"tools": tools_named(*(f"filler-{number}" for number in range(200)))},
        {"tools": tools_named("raw", outputSchema=must_have)},
        {"tools": tools_named("big", "change", "spawn", "pid", "die", "raw")},
    ]
    bad = sloppy(pages=pages, chatty=True, silent=True, stubborn=True, no_jsonrpc=True, version="1999-01-01")
    desk.write(
        ".claude.json",
        {"mcpServers": {"My Sloppy.Server": bad, "hangs": sloppy(hang=True, stubborn=True), "exits": sloppy(exit=4)}},
    )
    told = calls_in_turn(
        desk,
        ("odd_name_with_spaces", {}),
        ("raw", text_result("plain words")),
        ("big", {"size": BIG}),
        ("change", {"name": "added"}),
        ("spawn", {}),
        ("die", {"code": 3}),
        ("raw", text_result("back again")),
        ("spawn", {}),
        ("pid", {}),
    )
    async with desk.bridge(LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT="6") as client:
        answer = await client.call("autonomous_with_write_access", task="Use everything.", max_rounds=20)
        first_grandchild, second_grandchild, server = (int(told[number]) for number in (4, 7, 8))
        await until_dead(first_grandchild)
        assert is_running(server)
        assert is_running(second_grandchild)

    await until_dead(server)
    await until_dead(second_grandchild)
    assert client.stray == []
    assert not answer.is_error
    assert "I am done." in answer.text
    assert "MCP server hangs was left out" in answer.text
    assert "MCP server exits was left out" in answer.text
    assert len(offered(chat_requests(desk.sim)[0])) == 207
    assert told[0].endswith("unknown tool Odd.Name with Spaces")
    assert told[1] == "plain words"
    assert "x" * 1000 in told[2]
    assert len(told[2]) < BIG / 10
    assert told[3] == "changed"
    assert "exited with code 3" in told[5]
    assert "may or may not" in told[5]
    assert told[6] == "back again"


def chat_requests(sim: Simulator) -> list[SimRequest]:
    return [request for request in sim.requests if request.path == "/v1/chat/completions"]


# Leave.


async def test_discovery_goes_on_without_an_unapproved_server_and_names_it(desk: Desk) -> None:
    file = desk.write("project/.mcp.json", {"mcpServers": {"theirs": touching(desk)}})
    desk.write(".claude.json", {"mcpServers": {"mine": sloppy()}})
    calls_in_turn(desk)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_write_access", task="Anything.")

    assert not answer.is_error
    assert "I am done." in answer.text
    assert f"'theirs' is not approved yet: its command comes from {file}" in answer.text
    assert not (desk.home / "touched").exists()
    assert {name.partition("__")[0] for name in offered(chat_requests(desk.sim)[0])} == {"mine"}


def touching(desk: Desk) -> dict[str, Any]:
    """A server that leaves a trace when it is started."""
    return {"command": sys.executable, "args": ["-c", f"open({str(desk.home / 'touched')!r}, 'w')"]}


async def test_unapproved_server_is_refused_with_the_way_to_approve_it(desk: Desk) -> None:
    desk.write("project/.mcp.json", {"mcpServers": {"theirs": touching(desk)}})
    async with desk.bridge() as client:
        answers = [
            await client.call("autonomous_with_mcp", mcp_name="theirs", task="Anything."),
            await client.call("autonomous_with_write_access", mcp_names=["theirs"], task="Anything."),
            await client.call("autonomous_discover_and_execute", task="Anything."),
        ]

    for answer in answers:
        assert answer.is_error
        assert "'theirs' is not approved yet" in answer.text
        assert "Approve it in Claude Code" in answer.text
        assert "LMSTUDIO_BRIDGE_TRUST=theirs" in answer.text
    assert not (desk.home / "touched").exists()


@pytest.mark.parametrize("name", ["plugin:kit:tools", "plugin_kit_tools"])
async def test_server_of_an_enabled_plugin_is_used_by_the_names_that_claude_code_shows(desk: Desk, name: str) -> None:
    folder = desk.home / "kit"
    (desk.home / "kit").mkdir()
    (folder / "server.py").symlink_to(SLOPPY)
    entry = {"command": sys.executable, "args": ["${CLAUDE_PLUGIN_ROOT}/server.py", "{}"]}
    desk.write("kit/.mcp.json", {"tools": entry})
    installed = {"plugins": {"kit@market": [{"scope": "user", "installPath": str(folder)}]}}
    desk.write(".claude/plugins/installed_plugins.json", installed)
    desk.write(".claude/settings.json", {"enabledPlugins": {"kit@market": True}})
    calls_in_turn(desk)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", mcp_name=name, task="Anything.")

    assert not answer.is_error
    assert "plugin_kit_tools__pid" in offered(chat_requests(desk.sim)[0])


async def test_broken_file_and_variables_that_a_server_does_not_get_are_told_in_the_result(desk: Desk) -> None:
    (desk.home / ".claude.json").write_text('{"mcpServers": {},}', encoding="utf-8")
    desk.write(".lmstudio/mcp.json", {"mcpServers": {"mine": sloppy()}})
    calls_in_turn(desk, ("pid", {}))
    async with desk.bridge(MINE_CLUSTER=CANARY, MINE_TOKEN=CANARY, OTHER_CLUSTER=CANARY) as client:
        answer = await client.call("autonomous_with_mcp", mcp_name="mine", task="Anything.")

    assert not answer.is_error
    assert "does not get MINE_CLUSTER. " in answer.text
    assert CANARY not in answer.text
    assert f"{desk.home / '.claude.json'} is not valid JSON" in answer.text
    assert "line 1, column" in answer.text


async def test_doctor_tells_where_each_server_comes_from_and_which_wait_for_leave(desk: Desk) -> None:
    file = desk.write("project/.mcp.json", {"mcpServers": {"theirs": touching(desk), "approved": sloppy()}})
    state = desk.write(
        ".claude.json",
        {
            "mcpServers": {"mine": sloppy(), "off": sloppy()},
            "projects": {
                str(desk.project): {"enabledMcpjsonServers": ["approved"], "disabledMcpServers": ["off"]},
            },
        },
    )
    code, out, err = await desk.doctor()

    assert code == 0, out + err
    out = " ".join(out.split())
    told = "12 tools, 1 marked read-only, 0 as writing, 11 unmarked (treated as writing)"
    assert f"MCP server mine: {told} (user scope, {state}; started in " in out
    assert f"MCP server approved: {told} (project scope, {file}; started in " in out
    assert f"MCP server theirs: left out: MCP server 'theirs' is not approved yet: its command comes from {file}" in out
    assert "LMSTUDIO_BRIDGE_TRUST=theirs" in out
    assert f"MCP server off: left out: it is disabled for this project in {state}." in out
    assert not (desk.home / "touched").exists()


@pytest.mark.attack
async def test_local_settings_that_a_project_ships_start_nothing_not_even_in_doctor(desk: Desk) -> None:
    desk.write("project/.mcp.json", {"mcpServers": {"theirs": touching(desk)}})
    desk.write("project/.claude/settings.local.json", {"enableAllProjectMcpServers": True})
    desk.write(".claude.json", {"projects": {str(desk.project): {"hasTrustDialogAccepted": True}}})
    _, out, _ = await desk.doctor()
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", mcp_name="theirs", task="Anything.")

    assert answer.is_error
    assert "may have come with the project" in answer.text
    assert "may have come with the project" in " ".join(out.split())
    assert not (desk.home / "touched").exists()


@pytest.mark.attack
async def test_approved_name_does_not_start_another_command_after_a_pull_until_that_is_approved(desk: Desk) -> None:
    desk.write("project/.mcp.json", {"mcpServers": {"theirs": sloppy()}})
    desk.write(".claude.json", {"projects": {str(desk.project): {"enabledMcpjsonServers": ["theirs"]}}})
    calls_in_turn(desk)
    async with desk.bridge() as client:
        before = await client.call("autonomous_with_write_access", mcp_names=["theirs"], task="Anything.")
        file = desk.write("project/.mcp.json", {"mcpServers": {"theirs": touching(desk)}})
        after = await client.call("autonomous_with_write_access", mcp_names=["theirs"], task="Anything.")

    assert not before.is_error
    assert after.is_error
    assert f"'theirs' is held back: its entry in {file} has changed" in after.text
    assert "lmstudio-bridge servers --approve theirs" in after.text
    shell = Shell(desk.project, {**desk.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    _, listed, _ = await shell.run("servers")
    assert "changed, held back" in listed
    assert not (desk.home / "touched").exists()

    code, shown, _ = await shell.run("servers", "--approve", "theirs")
    assert code == 2, "there is nobody to ask"
    assert "touched" in shown, "it shows what would be started"
    code, _, said = await shell.run("servers", "--approve", "theirs", "--yes")
    assert (code, said.strip()) == (0, "Approved until its entry changes.")
    _, listed, _ = await shell.run("servers")
    assert "usable" in listed


# Never itself.


async def test_second_copy_of_the_bridge_under_another_name_takes_no_task(desk: Desk) -> None:
    """Its command line does not name us: only the depth in its environment tells."""
    script = desk.home / "helper.py"
    script.write_text("from lmstudio_bridge.cli.main import main; raise SystemExit(main(['serve']))", encoding="utf-8")
    copy = {
        "command": sys.executable,
        "args": [str(script)],
        "env": {"PYTHONPATH": str(Path(__file__).parents[2]), "LMSTUDIO_BRIDGE_DEPTH": "0", **desk.environ},
    }
    desk.write(".claude.json", {"mcpServers": {"helper": copy}})
    told = calls_in_turn(desk, ("autonomous_discover_and_execute", {"task": "Do it for me."}))
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_write_access", mcp_names=["helper"], task="Anything.")

    assert "I am done." in answer.text
    assert len(told) == 1
    assert "started by another bridge" in told[0]
    assert len(chat_requests(desk.sim)) == 2, "only the outer bridge talks to the model"


# Secrets.


@pytest.mark.attack
async def test_entry_that_is_not_approved_changes_no_result(desk: Desk) -> None:
    """Its values are not secrets of the user: `os.system` would be blanked in every result."""
    env = {"A_TOKEN": "os.system", "B_TOKEN": "answer", "C_TOKEN": "import"}
    desk.write("project/.mcp.json", {"mcpServers": {"theirs": {**touching(desk), "env": env}}})
    desk.write(".claude.json", {"mcpServers": {"mine": {**sloppy(), "env": {"MY_TOKEN": "answer"}}}})
    text = "The answer: import os; os.system('ls')"
    told = calls_in_turn(desk, ("raw", text_result(text)))
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_write_access", mcp_names=["mine"], task="Say the answer.")

    assert told == [text]
    assert "I am done." in answer.text
    assert "secret" not in answer.text


async def test_no_value_of_env_or_headers_is_ever_shown(desk: Desk) -> None:
    secret = {"SETTING": CANARY, "API_KEY": f"key-{CANARY}"}
    words = f"import os, sys; print('SETTING is', os.environ['SETTING'], file=sys.stderr); sys.exit('{CANARY}')"
    speaks = {"command": sys.executable, "args": ["-c", words], "env": secret}
    nowhere = {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": f"Bearer {CANARY}", "X-Key": CANARY}}
    desk.write(
        ".claude.json", {"mcpServers": {"speaks": speaks, "nowhere": nowhere, "works": {**sloppy(), "env": secret}}}
    )
    calls_in_turn(desk, ("fail", {"error": {"code": -1, "message": f"bad key key-{CANARY}"}}))
    async with desk.bridge(LMSTUDIO_BRIDGE_LOG_LEVEL="debug") as client:
        answer = await client.call("autonomous_with_write_access", task="Anything.")

    assert "I am done." in answer.text
    assert "SETTING is ***" in answer.text
    journals = "".join(path.read_text(encoding="utf-8") for path in (desk.home / "bridge").rglob("*.jsonl"))
    assert journals
    assert CANARY not in json.dumps(client.lines) + journals
    assert CANARY not in client.stderr.decode()
