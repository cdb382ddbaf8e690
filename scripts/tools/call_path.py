"""Prints which of our functions stand between a tool call of the host and httpx, and between it and the MCP client SDK.

`python -m scripts.tools.call_path` runs one task against the simulator, in this process. Exits with 1 if a path is
longer than `LIMIT`. Tasks are followed to the code that started them; wrappers that a decorator made do not count.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any

from mcp import Client

from lmstudio_bridge.server.tools import build_server
from lmstudio_bridge.settings import read_settings
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.lmstudio_sim.server import open_simulator

TOOL_SERVER = Path(__file__).with_name("bench") / "tool_server.py"
MODEL = "qwen/qwen3-4b"
LIMIT = 8  # of our frames on each way
PACKAGE = "lmstudio_bridge."
ENTRY = f"{PACKAGE}server.tools"  # where the host's call arrives
BORDERS = {"httpx": ("httpx", "httpcore"), "MCP client SDK": ("mcp",)}
"""What a path ends in: packages of others, by name."""
WRAPPERS = ("retry_with_backoff.<locals>.retried",)
SENDS = {"build_request", "call_tool", "handle_async_request", "request", "send", "send_raw_request", "send_request"}
"""Functions of theirs that a path may end in."""
TaskWork = Coroutine[Any, Any, Any] | Generator[Any, None, Any]


class PathRecorder:
    """Listens to every call of a function, and keeps the shortest path from `ENTRY` through the loop to each border.

    Others are longer: looking up the model, for one.
    """

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}
        self._starts: dict[asyncio.Task[Any], list[str]] = {}

    def make_task(self, loop: asyncio.AbstractEventLoop, work: TaskWork, **options: Any) -> asyncio.Task[Any]:
        """A task factory that keeps who started each task."""
        started_by = self._path(sys._getframe())
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        self._starts[task] = started_by
        return task

    def on_call(self, frame: FrameType, event: str, _: Any) -> None:
        """For `sys.setprofile`."""
        caller = frame.f_back
        if event != "call" or caller is None or not module_of(caller).startswith(PACKAGE):
            return
        package = module_of(frame).partition(".")[0]
        for border, packages in BORDERS.items():
            if package in packages and frame.f_code.co_name in SENDS:
                path = [*self._path(caller), name_of(frame)]
                through_loop = any(name.startswith(f"{PACKAGE}agent.") for name in path)
                known = self.paths.get(border)
                if path[0].startswith(ENTRY) and through_loop and (known is None or len(path) < len(known)):
                    self.paths[border] = path

    def _path(self, frame: FrameType | None) -> list[str]:
        """Our functions on the stack, the outermost first, after those that started the task."""
        found = []
        while frame is not None:
            name = name_of(frame)
            if name.startswith(PACKAGE) and not (frame.f_code.co_name.startswith("<") or name.endswith(WRAPPERS)):
                found.append(name)
            frame = frame.f_back
        task = asyncio.current_task()
        path = [*(self._starts.get(task, []) if task else []), *reversed(found)]
        arrivals = [at for at, name in enumerate(path) if name.startswith(ENTRY)]
        return path[arrivals[0] :] if arrivals else path


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def name_of(frame: FrameType) -> str:
    return f"{module_of(frame)}.{frame.f_code.co_qualname}"


async def record_paths(folder: Path) -> dict[str, list[str]]:
    """The path to each border in one run of two rounds and one call."""
    recorder = PathRecorder()
    loop = asyncio.get_running_loop()
    servers = {"bench": {"command": sys.executable, "args": [str(TOOL_SERVER)]}}
    (folder / ".claude.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    async with open_simulator([model]) as sim:
        sim.script(MODEL, CallReply(("bench__echo", {"text": "a step"})), TextReply("Done."))
        environ = {
            "LMSTUDIO_BASE_URL": f"{sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(folder),
            "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
            "HOME": str(folder),
        }
        server = build_server(read_settings(environ, cwd=folder), environ=environ)
        async with Client(server) as client:
            loop.set_task_factory(recorder.make_task)
            sys.setprofile(recorder.on_call)
            try:
                result = await client.call_tool("autonomous_with_mcp", {"mcp_name": "bench", "task": "Take a step."})
            finally:
                sys.setprofile(None)
                loop.set_task_factory(None)
            if result.is_error:
                raise RuntimeError(f"the run failed: {result.content}")
    return recorder.paths


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        paths = asyncio.run(record_paths(Path(folder)))
    for border in BORDERS:
        path = paths.get(border, [])
        print(f"To {border}: {max(len(path) - 1, 0)} of our functions")
        for name in path:
            print(f"  {name}")
    return int(any(not 0 < len(paths.get(border, [])) - 1 <= LIMIT for border in BORDERS))


if __name__ == "__main__":
    sys.exit(main())
