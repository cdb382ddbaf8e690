"""A user's home folder in which everything but LM Studio is in place, for tests of `doctor`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lmstudio_sim.models import SimModel
from tests.support.processes import SLOPPY

MODEL = "qwen/qwen3-4b"
GOOD = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)


@dataclass
class Home:
    """A home folder with a project in it, where everything but LM Studio is in place."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def write(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def servers(self, **entries: object) -> Path:
        """The user's own MCP servers, beside the bridge."""
        bridge = {"command": "lmstudio-bridge", "args": []}
        return self.write(".claude.json", {"mcpServers": {"lmstudio-bridge": bridge, **entries}})


def make_home(tmp_path: Path) -> Home:
    """A home folder below `tmp_path`, with `lmstudio-bridge` on its PATH and in its Claude Code."""
    (tmp_path / "project").mkdir()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "lmstudio-bridge").symlink_to(sys.executable)
    made = Home(
        tmp_path,
        {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(tmp_path), "LMSTUDIO_BRIDGE_HOME": str(tmp_path / "state")},
    )
    made.servers(notes=sloppy())
    return made


def sloppy(**habits: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(SLOPPY), json.dumps(habits)]}


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """The address of a server that says the same to all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(reply)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def http(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


async def nothing_listens() -> str:
    async with answering(b"") as url:
        pass
    return url
