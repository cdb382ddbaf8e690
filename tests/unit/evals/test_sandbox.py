"""Each task gets a folder of its own, and nothing of it stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmstudio_bridge.evals.checks import files_only
from lmstudio_bridge.evals.sandbox import SERVERS, claim_root, open_sandbox
from lmstudio_bridge.evals.tasks import Commit, Solution, Task, person

TASK = Task(
    "Do it.",
    files_only,
    Solution((), ""),
    ("filesystem", "git", "memory"),
    files={"box/a.txt": "one\n"},
    memory=(person("Ana", "likes tea"),),
    commits=(Commit("Begin", {"b.txt": "two\n"}),),
)


def test_a_sandbox_holds_what_its_task_names(tmp_path: Path) -> None:
    with open_sandbox(tmp_path / "box", TASK, commands=SERVERS) as sandbox:
        servers = json.loads(sandbox.mcp_config.read_text(encoding="utf-8"))["mcpServers"]

        assert (sandbox.folder / "box/a.txt").read_text(encoding="utf-8") == "one\n"
        assert (sandbox.folder / "repo/b.txt").read_text(encoding="utf-8") == "two\n"
        assert json.loads(sandbox.memory.read_text(encoding="utf-8")) == person("Ana", "likes tea")
        started = {name: (entry["command"], *entry["args"]) for name, entry in servers.items()}
        assert started == {
            "filesystem": ("npx", "-y", "@modelcontextprotocol/server-filesystem", str(sandbox.folder)),
            "git": ("uvx", "mcp-server-git", "--repository", str(sandbox.folder / "repo")),
            "memory": ("npx", "-y", "@modelcontextprotocol/server-memory"),
        }
        environs = [entry.pop("env") for entry in servers.values()]
        assert environs == [{}, {}, {"MEMORY_FILE_PATH": str(sandbox.memory)}]


def test_a_sandbox_is_removed_with_what_is_write_protected(tmp_path: Path) -> None:
    with open_sandbox(tmp_path / "box", TASK, commands=SERVERS) as sandbox:
        (sandbox.folder / "box/a.txt").chmod(0o400)

    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_is_removed_also_when_its_task_breaks(tmp_path: Path) -> None:
    def break_in_the_middle() -> None:
        with open_sandbox(tmp_path / "box", TASK, commands=SERVERS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_in_the_middle()
    assert list(tmp_path.iterdir()) == []


def test_two_evals_at_once_have_two_roots_and_leave_none(tmp_path: Path) -> None:
    with claim_root(tmp_path) as first, claim_root(tmp_path) as second:
        assert [first.name, second.name] == ["lmstudio-bridge-eval-1", "lmstudio-bridge-eval-2"]
        assert [root.stat().st_mode & 0o777 for root in (first, second)] == [0o700, 0o700]
    assert list(tmp_path.iterdir()) == []


def test_a_root_is_named_alike_each_time(tmp_path: Path) -> None:
    """It stands in prompts, and the same seed is to give the same prompt."""
    with claim_root(tmp_path) as first:
        pass
    with claim_root(tmp_path) as again:
        pass

    assert again == first
