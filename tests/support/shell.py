"""The command line as a process: a folder and an environment to run commands in, and fixtures for them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.fork_server import BRIDGE, BridgeProcess, start_bridge

ROOT = Path(__file__).parents[2]
MODEL = "qwen/qwen3-4b"
LIMIT = 180.0  # seconds until a command that does not end fails the test


@dataclass(frozen=True)
class Shell:
    """A folder and an environment to run commands in."""

    folder: Path
    environ: Mapping[str, str]
    prefix: tuple[str, ...] = ()  # a command that starts the bridge, to limit it

    async def start(self, *arguments: str, stdin: bool = False) -> BridgeProcess:
        return await start_bridge(
            *arguments,
            environ=self.environ,
            cwd=self.folder,
            stdin=stdin,
            command=(*self.prefix, *BRIDGE) if self.prefix else (),
        )

    async def run(self, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
        """Exit code, stdout, stderr; `given` is its stdin."""
        process = await self.start(*arguments, stdin=bool(given))
        if process.stdin and given:
            process.stdin.write(given)
            process.stdin.close()
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def answer(self, answer: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command to which somebody at a terminal says that."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(*BRIDGE, *arguments),
            cwd=self.folder,
            env=dict(self.environ),
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        async with asyncio.timeout(LIMIT):
            out, _ = await process.communicate()
        os.close(ours)
        assert process.returncode is not None
        return process.returncode, out.decode()


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator([SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)]) as sim:
        yield sim


@pytest.fixture
def shell(tmp_path: Path, sim: Simulator) -> Shell:
    (tmp_path / "notes.txt").write_text("The launch code word is heron-42.\n", encoding="utf-8")
    turn_off_sandbox(tmp_path)
    return Shell(tmp_path, environment(tmp_path, sim))


def environment(folder: Path, sim: Simulator) -> dict[str, str]:
    """That of a user without servers of their own."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "LMSTUDIO_BASE_URL": sim.url,
        "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
        "LMSTUDIO_BRIDGE_TRUST": "*",
    }


def turn_off_sandbox(home: Path) -> None:
    """Start a project's servers without it where it is not the point: those of the tests are not in the project."""
    own = home / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
    own.parent.mkdir(parents=True)
    own.write_text("sandbox = false\n", encoding="utf-8")


def configure(shell: Shell, **servers: object) -> None:
    (shell.folder / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
