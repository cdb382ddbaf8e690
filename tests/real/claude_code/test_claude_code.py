"""The real Claude Code as the host, with `-p` and a scripted API; scripts/claude-code installs it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.real.claude_code.anthropic_api import AnthropicAPI, open_api, text, use
from tests.support.desk import MODEL, Desk, open_desk

PACKAGES = Path(__file__).parent / "node_modules" / "@anthropic-ai"
CLAUDE = next(iter(sorted(PACKAGES.glob("claude-code-*/claude"))), None)
LIMIT = 120.0  # seconds until a session that does not end fails the test
KEY = "dummy-key-not-real"
BRIDGE = "mcp__lmstudio-bridge__"
READING = ("autonomous_with_mcp", "autonomous_with_multiple_mcps", "autonomous_discover_and_execute", "continue_run")
WRITING = "autonomous_with_write_access"

pytestmark = [
    pytest.mark.npm,
    pytest.mark.claude_code,
    pytest.mark.skipif(CLAUDE is None, reason="Claude Code is not installed: scripts/claude-code does it"),
]


@dataclass(slots=True)
class Host:
    """Claude Code in a home of its own, whose only model is scripted."""

    desk: Desk
    api: AnthropicAPI

    async def ask(self, prompt: str, *, allowed: tuple[str, ...] = READING) -> list[dict[str, Any]]:
        """One session with `-p`; the events that it printed."""
        assert CLAUDE is not None
        process = await asyncio.create_subprocess_exec(
            CLAUDE,
            *("-p", prompt, "--output-format", "stream-json", "--verbose", "--permission-mode", "default"),
            *("--allowedTools", ",".join(BRIDGE + name for name in allowed)),
            cwd=self.desk.project,
            env={
                **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
                "HOME": self.desk.environ["HOME"],
                "ANTHROPIC_BASE_URL": self.api.url,
                "ANTHROPIC_API_KEY": KEY,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "MCP_CONNECTION_NONBLOCKING": "false",  # waits for the servers
                "DISABLE_TELEMETRY": "1",
                "DISABLE_AUTOUPDATER": "1",
                "DISABLE_ERROR_REPORTING": "1",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(LIMIT):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, out.decode()
        return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_desk(tmp_path) as desk, open_api() as api:
        file = Path(desk.environ["HOME"]) / ".claude.json"
        root = json.loads(file.read_text(encoding="utf-8"))
        entry = {"type": "stdio", "command": sys.executable, "args": ["-m", "lmstudio_bridge"]}
        root["mcpServers"]["lmstudio-bridge"] = {**entry, "env": desk.environ}  # as `claude mcp add` writes it
        root |= {
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        }
        file.write_text(json.dumps(root), encoding="utf-8")
        yield Host(desk, api)


def read(task: str) -> dict[str, Any]:
    return use(f"{BRIDGE}autonomous_with_mcp", mcp_name="filesystem", task=task)


async def test_all_tools_are_in_the_request_and_small(host: Host) -> None:
    """Not deferred, though nothing in the entry says so."""
    host.api.turns = [[read("Warm up.")]]
    host.desk.sim.script(MODEL, TextReply("Warm."))
    await host.ask("Say hello.")

    tools = [tool for tool in host.api.requests[-1]["tools"] if tool["name"].startswith(BRIDGE)]
    assert {tool["name"] for tool in tools} == {BRIDGE + name for name in (*READING, WRITING)}
    assert all(tool["input_schema"]["properties"] for tool in tools)
    assert len(json.dumps(tools, ensure_ascii=False).encode()) < 6_500


async def test_two_reading_runs_of_one_turn_overlap(host: Host) -> None:
    both = asyncio.Event()
    host.desk.sim.script(
        MODEL, TextReply("Warm."), *[TextReply("It is heron-42.", faults=(Stall(until=both),)) for _ in range(2)]
    )
    host.api.turns = [[read("Warm up.")], [read("Look here."), read("Look there.")], [text("Both are done.")]]
    session = asyncio.create_task(host.ask("Look at both."))
    await host.desk.sim.wait_for_request(3, path="/v1/chat/completions")  # the last comes while the other waits
    both.set()
    events = await session

    assert events[-1]["result"] == "Both are done."
    assert ["It is heron-42." in str(result["content"]) for result in host.api.results()][1:] == [True, True]


async def test_the_writing_tool_asks_although_the_reading_ones_are_allowed(host: Host) -> None:
    host.desk.sim.script(MODEL, TextReply("It is heron-42."))
    host.api.turns = [
        [read("What is the code word?")],
        [use(f"{BRIDGE}{WRITING}", mcp_names=["filesystem"], task="Write it.")],
    ]
    await host.ask("Read, then write.")

    reading, writing = host.api.results()
    assert "It is heron-42." in str(reading["content"])
    assert not reading.get("is_error")
    assert writing["is_error"]
    assert "permission" in str(writing["content"])
    assert len(host.desk.journals()) == 1, "nothing was started"


async def test_the_rules_for_a_servers_tools_hold_in_its_runs(host: Host) -> None:
    settings = host.desk.project / ".claude" / "settings.json"
    settings.parent.mkdir()
    rules = {"deny": ["mcp__filesystem__write_file", "Read(./notes.txt)"]}
    settings.write_text(json.dumps({"permissions": rules}), encoding="utf-8")
    path = host.desk.project / "a.txt"
    host.desk.sim.script(
        MODEL,
        CallReply(("filesystem__write_file", {"path": str(path), "content": "x"})),
        CallReply(("filesystem__read_text_file", {"path": host.desk.notes})),
        TextReply("Done."),
    )
    host.api.turns = [[use(f"{BRIDGE}{WRITING}", mcp_names=["filesystem"], task="Write it.")]]
    await host.ask("Write.", allowed=(WRITING,))

    assert not path.exists()
    assert "heron-42" not in str([request.messages for request in host.desk.chat_requests()])


async def test_a_lost_run_goes_on_without_its_id(host: Host) -> None:
    host.desk.sim.script(MODEL, TextReply("It is heron-42."))
    host.api.turns = [[read("What is the code word?")]]
    await host.ask("Read.")
    host.api.turns = [[use(f"{BRIDGE}continue_run")]]
    await host.ask("Fetch it again.")

    assert "It is heron-42." in str(host.api.results()[-1]["content"])
    assert len(host.desk.chat_requests()) == 1


async def test_the_words_after_the_prompt_reach_the_model_whole(host: Host) -> None:
    await host.ask("/mcp__lmstudio-bridge__delegate Summarize every note in here")

    said = json.dumps(host.api.requests[-1]["messages"])
    assert "what I wrote after this command" in said
    assert "Summarize every note in here" in said
