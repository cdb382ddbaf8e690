"""Which protected files there are, and which are new or changed after a run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.security.protected import (
    MAX_INSIDE,
    find_protected,
    find_targets,
    look_at_protected,
    warn_of_changed,
)
from lmstudio_bridge.security.workspace import make_workspace
from tests.support.deep_folder import make_unreadable

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say when a file was changed last")


def fill(project: Path) -> None:
    for name in (".git/hooks/a", "a/b/CLAUDE.md", "a/.github/workflows/ci.yml", "node_modules/x/.git/y", "workflows/z"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("", encoding="utf-8")
    (project / ".envrc").write_text("good", encoding="utf-8")
    (project / "AGENTS.md").symlink_to("a/b/CLAUDE.md")
    (project / "link").symlink_to("a")


def rewrite(file: Path) -> None:
    before = file.stat()
    file.write_text("evil", encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_protected_files_are_found_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path)

    found = {str(path.relative_to(tmp_path)) for path in find_protected(tmp_path) if path}

    assert found == {".git", ".envrc", "AGENTS.md", "a/b/CLAUDE.md", "a/.github/workflows"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda project: None, ""),
        (lambda project: (project / "a" / "b" / "notes.md").write_text("new"), ""),
        (lambda project: (project / ".git" / "index").write_text("by git"), ""),
        (lambda project: (project / ".git" / "config.worktree").write_text("new"), ".git/config.worktree"),
        (lambda project: (project / ".git" / "config").write_text("new"), ".git/config"),
        (lambda project: (project / ".git" / "hooks" / "post-checkout").write_text("new"), ".git/hooks/post-checkout"),
        (lambda project: (project / "a" / ".github" / "workflows" / "b.yml").write_text("new"), "workflows/b.yml"),
        pytest.param(lambda project: rewrite(project / ".envrc"), ".envrc", marks=posix),
        (lambda project: (project / "a" / "b" / "CLAUDE.md").unlink(), "a/b/CLAUDE.md (deleted)"),
        (lambda project: (project / "a" / "b" / "CLAUDE.md").write_text("new"), "a/b/CLAUDE.md"),
        (lambda project: (project / "b c" / ".claude").mkdir(parents=True), '"{project}/b c/.claude"'),
        (lambda project: (project / "AGENTS.md").replace(project / "QWEN.md"), "QWEN.md"),
        (lambda project: shutil.copytree(project / "a", project / "c"), "c/.github/workflows"),
    ],
    ids=[
        "nothing",
        "another file",
        "in a folder",
        "the configuration of a worktree",
        "the configuration of git",
        "a hook",
        "a workflow",
        "of equal size and time",
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


def test_a_stopped_search_is_told_and_finds_what_is_named_by_two_parts(tmp_path: Path) -> None:
    project = tmp_path / "project"
    fill(project)
    (project / ".github" / "workflows").mkdir(parents=True)
    (project / "!").mkdir()
    (project / "!" / "file").touch()
    workspace = make_workspace([project], home=tmp_path)
    many = len(list(project.iterdir())) + 1

    found = [*find_protected(project, most=many)]

    assert found[-1] is None
    assert project / ".github" / "workflows" in found
    before = look_at_protected(workspace, most=many)
    after = look_at_protected(workspace)
    for states in ((before, after), (after, before), (before, before)):
        assert "Not all protected files were compared" in warn_of_changed(*states)
        assert "(deleted)" not in warn_of_changed(*states)
    assert None not in find_protected(project)


@pytest.mark.skipif(sys.platform == "win32", reason="paths are not opened piece by piece")
def test_what_cannot_be_searched_is_told(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    for folder in (tmp_path, tmp_path / ".claude"):
        make_unreadable(folder)

    assert [*find_protected(tmp_path)] == [tmp_path / ".claude", None]
    seen = look_at_protected(make_workspace([tmp_path], home=tmp_path.parent))
    assert "not all protected" in warn_of_changed(seen, seen).lower()


def test_what_links_and_git_files_lead_to_is_looked_at(tmp_path: Path) -> None:
    project, shared = tmp_path / "project", tmp_path / "shared"
    for name in ("hooks", "gh/workflows", "bare/hooks", "bare/objects"):
        (shared / name).mkdir(parents=True)
    project.mkdir()
    (project / ".git").write_text("gitdir: ../shared/bare\n", encoding="utf-8")
    (project / ".husky").symlink_to(shared / "hooks")
    (project / ".github").symlink_to(shared / "gh")
    workspace = make_workspace([project, shared], home=tmp_path)
    before = look_at_protected(workspace)

    for name in ("hooks/a", "gh/workflows/b", "bare/config", "bare/objects/c"):
        (shared / name).touch()

    warning = warn_of_changed(before, look_at_protected(workspace))
    for told in ("hooks/a", "gh/workflows/b", "bare/config"):
        assert str(shared / told) in warning
    assert "objects" not in warning


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes among files")
def test_no_pipe_is_read_in_place_of_a_file_of_git(tmp_path: Path) -> None:
    for name in ("a", "b", "git"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / ".git").write_text("gitdir: ../git\n", encoding="utf-8")
    for pipe in ("git/commondir", "b/.git"):
        os.mkfifo(tmp_path / pipe)

    assert [*find_targets(tmp_path / "a" / ".git", [tmp_path])] == [tmp_path / "git"]
    assert not [*find_targets(tmp_path / "b" / ".git", [tmp_path])]


def test_worktrees_of_claude_code_and_what_write_names_are_not_looked_at(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in (".claude/worktrees/w", ".claude/hooks/worktrees", ".git/hooks"):
        (project / name).mkdir(parents=True)
    workspace = make_workspace([project], home=tmp_path)
    before = look_at_protected(workspace)

    for name in (".claude/worktrees/w/a", ".claude/hooks/worktrees/b", ".git/config"):
        (project / name).touch()

    warning = warn_of_changed(before, look_at_protected(workspace))
    assert "worktrees/b" in warning
    assert ".git/config" in warning
    assert "worktrees/w" not in warning
    named = look_at_protected(workspace, but=[project, project / ".git"])
    assert project / ".git" / "config" not in named
    assert project / ".claude" in named, "of a whole folder, what is protected in it is not named"


def test_of_a_folder_with_too_many_files_none_is_told_as_deleted(tmp_path: Path) -> None:
    claude = tmp_path / ".claude"
    claude.mkdir()
    for number in range(MAX_INSIDE):
        (claude / f"f{number}").touch()
    (tmp_path / ".envrc").touch()
    workspace = make_workspace([tmp_path])
    before = look_at_protected(workspace)

    (claude / "a").touch()
    (tmp_path / ".envrc").unlink()

    warning = warn_of_changed(before, look_at_protected(workspace))
    assert f"{tmp_path / '.envrc'} (deleted)" in warning
    assert warning.count("(deleted)") == 1
    assert f"Not all protected files were compared: {claude}" in warning
