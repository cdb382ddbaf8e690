"""A user's desk for end-to-end tests: a project with files, MCP servers, a simulated LM Studio, the bridge."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.npm_servers import config_entry, npm_server
from tests.support.processes import processes_that_name, until_dead
from tests.support.raw_client import ERAS, Answer, Era, RawClient, open_raw_client

MODEL = "qwen/qwen3-4b"


@dataclass
class SharedBridges:
    """The bridges that the tests of a module share, one for each era, started when a test first asks for it.

    Every test has a simulator of its own, on the same port; MCP servers stay open from test to test.
    """

    folder: Path
    stack: AsyncExitStack
    port: int = 0
    environ: dict[str, str] = field(default_factory=dict)
    clients: dict[Era, RawClient] = field(default_factory=dict)

    async def client(self, era: Era) -> RawClient:
        if era not in self.clients:
            opening = open_raw_client(era=era, environ=self.environ)
            self.clients[era] = await self.stack.enter_async_context(opening)
        return self.clients[era]


@dataclass
class Desk:
    """A project folder with files, a user with MCP servers, LM Studio, and the bridge's settings."""

    project: Path
    home: Path
    sim: Simulator
    environ: dict[str, str] = field(default_factory=dict)
    shared: SharedBridges | None = None

    @property
    def notes(self) -> str:
        return str(self.project / "notes.txt")

    def configure(self, **servers: dict[str, Any]) -> None:
        """The user's own servers; a project's are not believed what they mark as reading."""
        file = Path(self.environ["HOME"]) / ".claude.json"
        file.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")

    def write_rules(self, text: str) -> Path:
        """The user's own rules; their file."""
        own = Path(self.environ["HOME"]) / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(text, encoding="utf-8")
        return own

    def results(self) -> list[str]:
        """The results of tools in the newest request."""
        return [str(message["content"]) for message in self.chat_requests()[-1].messages if message["role"] == "tool"]

    def script_reading(self, answer: str = "It is heron-42.") -> None:
        """A model that reads the notes and then says that."""
        self.sim.script(MODEL, CallReply(("filesystem__read_text_file", {"path": self.notes})), TextReply(answer))

    def chat_requests(self) -> list[SimRequest]:
        return [request for request in self.sim.requests if request.path == "/v1/chat/completions"]

    def journals(self) -> list[Path]:
        """The journals of all runs, the oldest first: that which was written to last is the last, by its file's time.

        Names only tell the second in which a run began.
        """
        return sorted((self.home / "runs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    @asynccontextmanager
    async def bridge(
        self,
        era: Era = ERAS[-1],
        *,
        fresh: bool = False,
        checked: bool = True,
        options: Mapping[str, Any] | None = None,
        **environ: str,
    ) -> AsyncIterator[RawClient]:
        """The bridge as a process; `checked`: that it wrote nothing but protocol to stdout.

        It is a shared one if there are such and nothing else is asked for: `fresh`, settings in `environ`, or
        `options` of `open_raw_client`.
        """
        shared, settings = self.shared, {**self.environ, **environ}
        if shared and settings == shared.environ and not (fresh or options):
            yield (client := await shared.client(era))
        else:
            async with open_raw_client(era=era, environ=settings, **(options or {})) as client:
                yield client
        if checked:
            assert client.stray == [], "stdout belongs to the protocol"
            assert self.sim.failures == []


@asynccontextmanager
async def open_desk(folder: Path, *, port: int = 0, context_length: int = 32_768) -> AsyncIterator[Desk]:
    """A desk in `folder`: notes.txt with a code word, the filesystem and memory servers, one loaded model."""
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "notes.txt").write_text("The launch code word is heron-42.\n", encoding="utf-8")
    model = SimModel(MODEL, loaded=True, context_length=context_length, trained_for_tool_use=True)
    async with open_simulator([model], port=port) as sim:
        desk = Desk(project, folder / "home", sim)
        desk.environ = {
            "LMSTUDIO_BASE_URL": f"{sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(project),
            "LMSTUDIO_BRIDGE_HOME": str(desk.home),
            "LMSTUDIO_BRIDGE_TRUST": "*",
            "HOME": str(folder),
        }
        desk.configure(
            filesystem=config_entry(npm_server("filesystem"), str(project)),
            memory=config_entry(npm_server("memory"), env={"MEMORY_FILE_PATH": str(folder / "memory.jsonl")}),
        )
        yield desk


# -- fixtures: a desk for each test of a module, and bridges for all of them ---------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_bridges(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedBridges]:
    """Every server that a test starts names its folder, or is a child of the bridge; none may survive the module."""
    folder = tmp_path_factory.mktemp("desk")
    async with AsyncExitStack() as stack:
        yield SharedBridges(folder, stack)
    for pid in processes_that_name(folder):
        await until_dead(pid)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(shared_bridges: SharedBridges) -> AsyncIterator[Desk]:
    """A desk without anything of earlier tests. The module's tests need `pytest.mark.asyncio(loop_scope="module")`."""
    for path in shared_bridges.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    async with open_desk(shared_bridges.folder, port=shared_bridges.port) as desk:
        shared_bridges.port = desk.sim.port
        shared_bridges.environ = dict(desk.environ)
        desk.shared = shared_bridges
        yield desk


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    value: Era = request.param
    return value


def assert_names(answer: Answer, *fragments: str) -> None:
    """It is an error that contains all the fragments."""
    assert answer.is_error, answer.text
    missing = [fragment for fragment in fragments if fragment not in answer.text]
    assert not missing, answer.text


def unfenced(text: object) -> str:
    """A text that the model read, without the fences in it."""
    return re.sub(r"Data, up to the line (\w{8}):\n(.*?)\n\1\b", r"\2", str(text), flags=re.DOTALL)
