"""Where a task is done: a temporary folder, its git repository, and the MCP servers that work there."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, Task

SERVERS: Mapping[str, tuple[str, ...]] = {
    "filesystem": ("npx", "-y", "@modelcontextprotocol/server-filesystem"),
    "memory": ("npx", "-y", "@modelcontextprotocol/server-memory"),
    "everything": ("npx", "-y", "@modelcontextprotocol/server-everything"),
    "git": ("uvx", "mcp-server-git"),
    "time": ("uvx", "mcp-server-time"),
}
"""How users start them; arguments for the sandbox are added."""

_ROOT = "lmstudio-bridge-eval"
_MAX_ROOTS = 1_000
_GIT_SECONDS = 60.0
_FIRST_COMMIT = 1_750_000_000  # Unix time; commits are an hour apart


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The folders of one task."""

    root: Path

    @property
    def folder(self) -> Path:
        """The task's files: all that the filesystem server may access."""
        return self.root / "files"

    @property
    def memory(self) -> Path:
        return self.root / "memory.jsonl"

    @property
    def mcp_config(self) -> Path:
        return self.root / "mcp.json"


@contextmanager
def claim_root(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in `parent` (default: the temporary folder), removed at the end.

    Its name is not random because it appears in prompts, and the same seed must give the same prompts.
    """
    parent = parent or Path(tempfile.gettempdir()).resolve()  # servers compare real paths; on macOS this one is a link
    for number in range(1, _MAX_ROOTS):
        root = parent / f"{_ROOT}-{number}"
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            continue
        break
    else:
        raise FileExistsError(f"there are already {_MAX_ROOTS - 1} folders {parent / _ROOT}-…; remove them")
    try:
        yield root
    finally:
        remove_folder(root)


@contextmanager
def open_sandbox(root: Path, task: Task, *, commands: Mapping[str, tuple[str, ...]]) -> Iterator[Sandbox]:
    """The initial world of a task, in `root`, which must not exist; removed at the end.

    Raises:
        OSError: It cannot be created, or git is missing and the task needs a repository.
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
    more = {"filesystem": [str(sandbox.folder)], "git": ["--repository", str(sandbox.folder / REPOSITORY)]}
    env = {"memory": {"MEMORY_FILE_PATH": str(sandbox.memory)}}
    return {"command": command[0], "args": [*command[1:], *more.get(name, [])], "env": env.get(name, {})}


def remove_folder(folder: Path) -> None:
    """Remove a folder and its contents, including write-protected files such as git's objects."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and not os.access(path, os.W_OK):
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)  # a file that a server still holds open must not end the eval


# -- git ---------------------------------------------------------------------------------------------------------


def make_repository(folder: Path, commits: Iterable[Commit], *, unstaged: Mapping[str, str]) -> None:
    """Create a repository with these commits on branch main, and with unstaged changes.

    Raises:
        OSError: git is not installed.
        subprocess.CalledProcessError: git failed.
    """
    folder.mkdir()
    run_git(folder, "init", "--quiet")
    run_git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
    for name, value in (("user.name", "Eval"), ("user.email", "eval@localhost"), ("commit.gpgsign", "false")):
        run_git(folder, "config", name, value)
    if stream := b"".join(_stream(commits)):
        run_git(folder, "fast-import", "--quiet", stdin=stream)
        run_git(folder, "reset", "--quiet", "--hard")
    for name, text in unstaged.items():
        (folder / name).write_text(text, encoding="utf-8")


def run_git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """The output of git, run without the user's settings.

    Raises:
        OSError: git is not installed.
        subprocess.CalledProcessError: git failed.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environ, input=stdin, capture_output=True, timeout=_GIT_SECONDS, check=True
    )
    return done.stdout.decode("utf-8", "replace")


def _stream(commits: Iterable[Commit]) -> Iterable[bytes]:
    """The commits in the format of `git fast-import`, so that one process makes them all."""
    for number, commit in enumerate(commits):
        who = f"{commit.author} <{commit.author.lower()}@localhost> {_FIRST_COMMIT + number * 3_600} +0000"
        yield f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n".encode()
        yield _data(commit.message)
        for name, text in commit.files.items():
            yield f"M 100644 inline {name}\n".encode()
            yield _data(text)


def _data(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return b"data %d\n%b\n" % (len(encoded), encoded)
