"""A user's desk for end-to-end tests: a project with files, MCP servers, a simulated LM Studio, the bridge."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.npm_servers import config_entry, npm_server
from tests.support.raw_client import Answer, Era, RawClient, open_raw_client

MODEL = "qwen/qwen3-4b"


@dataclass
class Desk:
    """A project folder with files and a .mcp.json, LM Studio, and the bridge's settings."""

    project: Path
    home: Path
    sim: Simulator
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> str:
        return str(self.project / "notes.txt")

    def configure(self, **servers: dict[str, Any]) -> None:
        (self.project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")

    def chat_requests(self) -> list[SimRequest]:
        return [request for request in self.sim.requests if request.path == "/v1/chat/completions"]

    def journals(self) -> list[Path]:
        """The journals of all runs, the oldest first: that which was written to last is the last, by its file's time.

        Names only tell the second in which a run began.
        """
        return sorted((self.home / "runs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    @asynccontextmanager
    async def bridge(
        self, era: Era, *, checked: bool = True, options: Mapping[str, Any] | None = None, **environ: str
    ) -> AsyncIterator[RawClient]:
        """The bridge as a process; `checked`: that it wrote nothing but protocol to stdout.

        `options` are those of `open_raw_client`.
        """
        async with open_raw_client(era=era, environ={**self.environ, **environ}, **(options or {})) as client:
            yield client
        if checked:
            assert client.stray == [], "stdout belongs to the protocol"
            assert self.sim.failures == []


@asynccontextmanager
async def open_desk(folder: Path) -> AsyncIterator[Desk]:
    """A desk in `folder`: notes.txt with a code word, the filesystem and memory servers, one loaded model."""
    project = folder / "project"
    project.mkdir()
    (project / "notes.txt").write_text("The launch code word is heron-42.\n", encoding="utf-8")
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    async with open_simulator([model]) as sim:
        desk = Desk(project, folder / "home", sim)
        desk.environ = {
            "LMSTUDIO_BASE_URL": f"{sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(project),
            "LMSTUDIO_BRIDGE_HOME": str(desk.home),
            "LMSTUDIO_BRIDGE_TRUST": "*",
            "HOME": str(folder),  # a user without servers of their own
        }
        desk.configure(
            filesystem=config_entry(npm_server("filesystem"), str(project)),
            memory=config_entry(npm_server("memory"), env={"MEMORY_FILE_PATH": str(folder / "memory.jsonl")}),
        )
        yield desk


def assert_names(answer: Answer, *fragments: str) -> None:
    """It is an error that contains all the fragments."""
    assert answer.is_error, answer.text
    missing = [fragment for fragment in fragments if fragment not in answer.text]
    assert not missing, answer.text


def unfenced(text: object) -> str:
    """A text that the model read, without the fences in it."""
    return re.sub(r"Data, up to the line (\w{8}):\n(.*?)\n\1\b", r"\2", str(text), flags=re.DOTALL)
