"""Which protected files there are, and which are new or changed after a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmstudio_bridge.security.protected import find_protected, look_at_protected, warn_of_changed
from lmstudio_bridge.security.workspace import make_workspace


def fill(project: Path) -> None:
    for name in (".git/hooks/a", "a/b/CLAUDE.md", "a/.github/workflows/ci.yml", "node_modules/x/.git/y", "workflows/z"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("", encoding="utf-8")
    (project / "AGENTS.md").symlink_to("a/b/CLAUDE.md")
    (project / "link").symlink_to("a")


def test_protected_files_are_found_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path)

    found = {str(path.relative_to(tmp_path)) for path in find_protected(tmp_path)}

    assert found == {".git", "AGENTS.md", "a/b/CLAUDE.md", "a/.github/workflows"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda project: None, ""),
        (lambda project: (project / "a" / "b" / "notes.md").write_text("new"), ""),
        (lambda project: (project / ".git" / "index").write_text("by git"), ""),
        (lambda project: (project / "a" / "b" / "CLAUDE.md").unlink(), ""),
        (lambda project: (project / "a" / "b" / "CLAUDE.md").write_text("new"), "a/b/CLAUDE.md"),
        (lambda project: (project / "b c" / ".claude").mkdir(parents=True), '"{project}/b c/.claude"'),
        (lambda project: (project / "AGENTS.md").replace(project / "QWEN.md"), "QWEN.md"),
        (lambda project: shutil.copytree(project / "a", project / "c"), "c/.github/workflows"),
    ],
    ids=[
        "nothing",
        "another file",
        "in a folder",
        "deleted",
        "changed",
        "a folder",
        "a link",
        "a folder that holds one",
    ],
)
def test_what_is_new_or_changed_is_told(tmp_path: Path, change: object, told: str) -> None:
    project = tmp_path / "project"
    fill(project)
    workspace = make_workspace([project], home=tmp_path)
    before = look_at_protected(workspace)

    assert callable(change)
    change(project)

    warning = warn_of_changed(before, look_at_protected(workspace))
    assert bool(warning) == bool(told)
    assert told.format(project=project) in warning
    if told:
        assert "Unless it was you, look at them before you go on" in warning


def test_other_programs_keep_their_state_in_the_home_folder(tmp_path: Path) -> None:
    fill(tmp_path)

    assert not look_at_protected(make_workspace([tmp_path], home=tmp_path / "home" / "me"))
