"""Where a task is done: a folder made for it and removed after it, and the MCP servers that work there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lmstudio_bridge.evals.checks import files_are
from lmstudio_bridge.evals.repository import make_repository
from lmstudio_bridge.evals.tasks import REPOSITORY, Task, World
from lmstudio_bridge.events import Outcome

SERVERS: Mapping[str, tuple[str, ...]] = {
    "filesystem": ("npx", "-y", "@modelcontextprotocol/server-filesystem"),
    "memory": ("npx", "-y", "@modelcontextprotocol/server-memory"),
    "everything": ("npx", "-y", "@modelcontextprotocol/server-everything"),
    "git": ("uvx", "mcp-server-git"),
    "time": ("uvx", "mcp-server-time"),
}
"""How a user starts them; what they need to know of the sandbox is added."""

_ROOT = "lmstudio-bridge-eval"
_MOST_ROOTS = 1_000


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The folders of one task."""

    root: Path

    @property
    def folder(self) -> Path:
        """The task's own files: all that the filesystem server may see."""
        return self.root / "files"

    @property
    def memory(self) -> Path:
        """The file in which the memory server keeps what it knows."""
        return self.root / "memory.jsonl"

    @property
    def mcp_config(self) -> Path:
        """The file that names the task's servers."""
        return self.root / "mcp.json"

    def verdict(self, task: Task, outcome: Outcome, *, began: datetime, ended: datetime) -> str:
        """What is wrong with what the task left here, in words; "" if nothing is."""
        expected = task.files if task.files_after is None else task.files_after
        world = World(self.folder, self.memory, outcome.answer, outcome.calls, began, ended)
        return files_are(self.folder, expected) or task.check(world)


@contextmanager
def claim_root(parent: Path | None = None) -> Iterator[Path]:
    """A folder of our own in `parent` (else among the temporary ones), removed at the end.

    Its name is not random, because it stands in prompts: the same seed is to give the same prompt.
    """
    parent = parent or Path(tempfile.gettempdir()).resolve()  # servers compare real paths, and macOS links its own
    for number in range(1, _MOST_ROOTS):
        root = parent / f"{_ROOT}-{number}"
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            continue
        break
    else:
        raise FileExistsError(f"there are {_MOST_ROOTS - 1} folders {parent / _ROOT}-… already: remove them")
    try:
        yield root
    finally:
        remove_folder(root)


@contextmanager
def open_sandbox(root: Path, task: Task, *, commands: Mapping[str, tuple[str, ...]]) -> Iterator[Sandbox]:
    """The world of a task as it is in the beginning, in `root`, which must not exist; removed at the end.

    Raises:
        OSError: It cannot be made; also without git, where the task needs a repository.
    """
    sandbox = Sandbox(root)
    try:
        sandbox.folder.mkdir(parents=True)
        for name, text in task.files.items():
            (sandbox.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (sandbox.folder / name).write_text(text, encoding="utf-8")
        if task.memory:
            sandbox.memory.write_text("".join(f"{json.dumps(dict(each))}\n" for each in task.memory), encoding="utf-8")
        if "git" in task.servers:
            make_repository(sandbox.folder / REPOSITORY, task.commits, unstaged=task.unstaged)
        servers = {name: _entry(name, commands[name], sandbox) for name in task.servers}
        sandbox.mcp_config.write_text(json.dumps({"mcpServers": servers}, indent=2), encoding="utf-8")
        yield sandbox
    finally:
        remove_folder(root)


def _entry(name: str, command: tuple[str, ...], sandbox: Sandbox) -> dict[str, object]:
    more = {
        "filesystem": [str(sandbox.folder)],
        "git": ["--repository", str(sandbox.folder / REPOSITORY)],
    }
    env = {"memory": {"MEMORY_FILE_PATH": str(sandbox.memory)}}
    return {"command": command[0], "args": [*command[1:], *more.get(name, [])], "env": env.get(name, {})}


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, also what is write-protected, as git's objects are."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and not os.access(path, os.W_OK):
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)  # a file that a server still holds open must not end the eval
