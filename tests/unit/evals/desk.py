"""What the tests of this folder share: the suite's servers as installed here, and a model that knows the solutions."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lmstudio_bridge.evals.tasks import Solution, Task
from lmstudio_bridge.settings import Settings, read_settings
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.npm_servers import npm_server

MODEL = "qwen/qwen3-4b"
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Desk:
    """A simulated LM Studio with one model, and the settings to use it."""

    sim: Simulator
    settings: Settings
    environ: Mapping[str, str]

    def follow(self, tasks: Iterable[Task]) -> None:
        """Let the model do each of these tasks by its solution."""
        known = list(tasks)
        self.sim.script_fn(MODEL, lambda request: next_step(request, known))

    def answer(self, text: str) -> None:
        """Let the model do nothing but answer so."""
        self.sim.script_fn(MODEL, lambda _: TextReply(text))


@asynccontextmanager
async def open_desk(folder: Path) -> AsyncIterator[Desk]:
    model = SimModel(MODEL, loaded=True, context_length=131_072, trained_for_tool_use=True, parallel=SLOTS)
    async with open_simulator([model]) as sim:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LMSTUDIO_BASE_URL": sim.url,
            "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
        }
        yield Desk(sim, read_settings(environ, cwd=folder), environ)
        assert sim.failures == []


def next_step(request: SimRequest, tasks: Iterable[Task]) -> Reply:
    """The next call of the solution of the task that the request is about, or its answer."""
    tasks = [each for task in tasks for each in (task, *_items(task))]
    texts = [str(message.get("content")) for message in request.messages]
    task, place = next((task, place) for task in tasks for place, text in enumerate(texts) if text.endswith(task.text))
    results = [text for text, message in zip(texts, request.messages, strict=True) if message["role"] == "tool"]
    results = [text for text in results if texts.index(text) > place]
    if len(results) < len(task.solution.calls):
        call = task.solution.calls[len(results)]
        return CallReply((f"{call.server}__{call.tool.replace('-', '_')}", dict(call.arguments)))
    return TextReply(task.solution.answer.replace("{result}", results[-1] if results else ""))


def _items(task: Task) -> Iterable[Task]:
    """A task for each item, whose solution is its part of the whole."""
    for call in task.solution.calls if task.for_each else ():
        path = str(call.arguments["path"])
        lines = [line for line in task.solution.answer.splitlines() if line.startswith(f"{Path(path).name}: ")]
        solution = Solution((call,), lines[0].partition(": ")[2] if lines else task.solution.answer)
        yield dataclasses.replace(task, text=task.item_text.replace("{item}", path), solution=solution)


def installed_servers() -> dict[str, tuple[str, ...]]:
    """The suite's servers as scripts/setup installs them."""
    commands = {name: tuple(npm_server(name)) for name in ("filesystem", "memory", "everything")}
    for name in ("git", "time"):
        script = shutil.which(f"mcp-server-{name}", path=str(Path(sys.executable).parent))
        assert script, f"mcp-server-{name} is missing: run scripts/setup"
        commands[name] = (script,)
    return commands


def server_options() -> list[str]:
    """The same for the command line."""
    return [f"--server={name}={' '.join(command)}" for name, command in installed_servers().items()]
