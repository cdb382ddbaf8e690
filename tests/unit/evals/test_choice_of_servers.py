"""The servers that are started for the tasks of the suite, chosen among the real ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.evals.suite import make_suite
from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.runs.server_selection import choose_servers
from lmstudio_bridge.settings import read_settings
from tests.support.npm_servers import npm_server
from tests.unit.mcp_client.pools import open_test_pool

ROOM = read_settings({}, cwd=Path.cwd()).context_length  # characters: a quarter of the context
BESIDE = str(Path(sys.executable).parent)


def configs(folder: Path) -> list[ServerConfig]:
    lines = {
        "filesystem": [*npm_server("filesystem"), str(folder)],
        "memory": npm_server("memory"),
        "everything": npm_server("everything"),
        "git": [shutil.which("mcp-server-git", path=BESIDE) or "mcp-server-git"],
        "time": [shutil.which("mcp-server-time", path=BESIDE) or "mcp-server-time"],
    }
    return [ServerConfig(name, "stdio", command=line[0], args=tuple(line[1:])) for name, line in lines.items()]


@pytest.mark.npm
async def test_what_a_task_needs_is_started_and_not_much_more(tmp_path: Path) -> None:
    async with open_test_pool(tmp_path, start_timeout=60) as pool:
        opened = await pool.open_servers(configs(tmp_path))
    known = {name: tools for name, tools in opened.items() if isinstance(tools, tuple)}
    assert len(known) == len(opened), opened

    tasks = [task for seed in range(2) for task in make_suite(seed=seed)]
    chosen = [set(choose_servers(task.text, known, max_chars=ROOM).started) for task in tasks]
    needed = [{call.server for call in task.solution.calls} for task in tasks]
    missed = [task.text for task, got, need in zip(tasks, chosen, needed, strict=True) if not need <= got]

    assert missed == []
    assert sum(map(len, chosen)) / len(tasks) <= 3
