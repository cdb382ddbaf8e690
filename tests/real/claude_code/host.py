"""The real Claude Code as the host, with a scripted API: where it is, and how it is started."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.claude_code.anthropic_api import AnthropicAPI, open_api, use
from tests.support.desk import Desk, open_desk

PACKAGES = Path(__file__).parent / "node_modules" / "@anthropic-ai"
CLAUDE = next(iter(sorted(PACKAGES.glob("claude-code-*/claude"))), None)
LIMIT = 120.0  # seconds until a session that does not end fails the test
KEY = "dummy-key-not-real"
BRIDGE = "mcp__lmstudio-bridge__"
READING = ("autonomous_with_mcp", "autonomous_with_multiple_mcps", "autonomous_discover_and_execute", "continue_run")
WRITING = "autonomous_with_write_access"

NEEDED = [
    pytest.mark.npm,
    pytest.mark.claude_code,
    pytest.mark.skipif(CLAUDE is None, reason="Claude Code is not installed: scripts/claude-code does it"),
]


@dataclass(slots=True)
class Host:
    """Claude Code in a home of its own, whose only model is scripted."""

    desk: Desk
    api: AnthropicAPI
    path: str = os.environ.get("PATH", "")

    @property
    def environ(self) -> dict[str, str]:
        """All of its environment."""
        return {
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
            "PATH": self.path,
            "HOME": self.desk.environ["HOME"],
            "ANTHROPIC_BASE_URL": self.api.url,
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "MCP_CONNECTION_NONBLOCKING": "false",  # waits for the servers
            "CLAUDE_CODE_MCP_STARTUP_WAIT_MS": "60000",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
        }

    async def ask(
        self, prompt: str, *, allowed: tuple[str, ...] = READING, prefix: str = BRIDGE
    ) -> list[dict[str, Any]]:
        """One session with `-p`; the events that it printed. `prefix` begins the names of the bridge's tools."""
        out = await self.run(
            *("-p", prompt, "--output-format", "stream-json", "--verbose", "--permission-mode", "default"),
            *("--allowedTools", ",".join(prefix + name for name in allowed)),
        )
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    async def run(self, *arguments: str) -> str:
        """What `claude` prints with these arguments; it must succeed."""
        assert CLAUDE is not None
        process = await asyncio.create_subprocess_exec(
            CLAUDE,
            *arguments,
            cwd=self.desk.project,
            env=self.environ,
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
        return out.decode()


@asynccontextmanager
async def open_host(folder: Path, *, with_bridge: bool = True) -> AsyncIterator[Host]:
    """Claude Code with the MCP servers of a desk in a folder, and the bridge, whose command line names the folder."""
    async with open_desk(folder) as desk, open_api() as api:
        file = Path(desk.environ["HOME"]) / ".claude.json"
        root = json.loads(file.read_text(encoding="utf-8"))
        entry = {"type": "stdio", "command": sys.executable, "args": ["-X", f"at={folder}", "-m", "lmstudio_bridge"]}
        if with_bridge:
            root["mcpServers"]["lmstudio-bridge"] = {**entry, "env": desk.environ}  # as `claude mcp add` writes it
        root |= {
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
            "projects": {str(desk.project): {"hasTrustDialogAccepted": True}},
        }
        file.write_text(json.dumps(root), encoding="utf-8")
        yield Host(desk, api)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path) as host:
        yield host


def read(task: str) -> dict[str, Any]:
    """A call of a reading tool."""
    return use(f"{BRIDGE}autonomous_with_mcp", mcp_name="filesystem", task=task)
