"""What git says was changed beside the files that the calls named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lmstudio_bridge.events import Outcome
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs.changes import ChangeRecorder, Copies, plan_undo
from lmstudio_bridge.runs.git_status import compare_status, read_status
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.workspace import make_workspace

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a committed, a changed and a new file."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "-q")
    for name in ("a.txt", "dirty.txt", "gone.txt", "sub/b.txt"):
        (folder / name).write_text("one\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "dirty.txt").write_text("mine\n", encoding="utf-8")
    (folder / "new.txt").write_text("mine\n", encoding="utf-8")
    return folder


def git(folder: Path, *words: str) -> None:
    person = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    subprocess.run(["git", *person, *words], cwd=folder, env=ENVIRON, check=True, capture_output=True)


def test_what_changed_between_is_found_and_nothing_else(project: Path) -> None:
    before = read_status(project, ENVIRON)
    (project / "a.txt").write_text("two\n", encoding="utf-8")
    (project / "dirty.txt").write_text("mine and more\n", encoding="utf-8")
    (project / "sub" / "c d.txt").write_text("made\n", encoding="utf-8")
    (project / "gone.txt").unlink()
    git(project, "add", "new.txt")
    after = read_status(project, ENVIRON)

    assert before is not None
    assert after is not None
    changes = {str(path.relative_to(project)): change for path, change in compare_status(before, after).items()}
    assert changes == {"a.txt": "changed", "dirty.txt": "changed", "gone.txt": "deleted", "sub/c d.txt": "created"}


def test_what_was_only_committed_was_not_changed(project: Path) -> None:
    before = read_status(project, ENVIRON)
    git(project, "add", ".")
    git(project, "commit", "-qm", "second")

    assert before
    assert compare_status(before, read_status(project, ENVIRON) or {}) == {}


@pytest.mark.parametrize("where", ["--local", "--global"])
@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.x.clean", "filter.x.process"])
def test_no_command_of_a_configuration_is_run(project: Path, setting: str, where: str, tmp_path: Path) -> None:
    mark, environ = tmp_path / "mark", {**ENVIRON, "HOME": str(tmp_path)}
    subprocess.run(["git", "config", where, setting, f"touch {mark}; cat"], cwd=project, env=environ, check=True)
    (project / ".gitattributes").write_text("* filter=x\n", encoding="utf-8")
    for path in project.glob("*.txt"):
        os.utime(path, (1, 1))

    status = read_status(project, environ)

    assert not mark.exists()
    assert status is not None, "the configuration was read"


@pytest.mark.parametrize("kind", ["no commit", "sha256", "worktree", "ignored in .git/info"])
def test_every_kind_of_repository_is_compared(tmp_path: Path, kind: str) -> None:
    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q", f"--object-format={'sha256' if kind == 'sha256' else 'sha1'}")
    (main / ".git" / "info" / "exclude").write_text("*.log\n", encoding="utf-8")
    (main / "a.txt").write_text("one\n", encoding="utf-8")
    git(main, "add", "a.txt")
    if kind != "no commit":
        git(main, "commit", "-qm", "first")
    if kind == "worktree":
        git(main, "worktree", "add", "-q", str(tmp_path / "tree"))
    folder = tmp_path / "tree" if kind == "worktree" else main
    before = read_status(folder, ENVIRON)
    (folder / "a.txt").write_text("two\n", encoding="utf-8")
    (folder / "b.txt").write_text("new\n", encoding="utf-8")
    (folder / "c.log").write_text("new\n", encoding="utf-8")
    after = read_status(folder, ENVIRON)

    assert before is not None
    assert after is not None
    assert compare_status(before, after) == {folder / "a.txt": "changed", folder / "b.txt": "created"}


def test_git_is_not_asked_where_servers_could_write_what_it_reads(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "tools"
    written.mkdir()
    own = written / "git"
    own.write_text(f"#!/bin/sh\ntouch {tmp_path}/mark\n", encoding="utf-8")
    own.chmod(0o755)
    found = read_status(project, {**ENVIRON, "PATH": f"{written}:{ENVIRON['PATH']}"}, [written])
    monkeypatch.setattr("tempfile.tempdir", str(written))

    assert found is not None
    assert not (tmp_path / "mark").exists()
    assert read_status(project, ENVIRON, [written]) is None


def test_where_there_is_no_repository_and_no_git_of_the_users_nothing_is_known(project: Path, tmp_path: Path) -> None:
    own = project / "git"
    own.write_text("#!/bin/sh\n", encoding="utf-8")
    own.chmod(0o755)

    assert read_status(tmp_path, ENVIRON) is None
    assert read_status(project, {"PATH": "/nonexistent"}) is None
    assert read_status(project, {"PATH": str(project)}) is None
    (tmp_path / "link").symlink_to(project)
    assert read_status(project, {"PATH": str(tmp_path / "link")}) is None
    assert read_status(tmp_path / "link", {"PATH": str(project)}) is None


@pytest.fixture
def recorder(project: Path, tmp_path: Path) -> ChangeRecorder:
    policy = Policy("write", workspace=make_workspace([project]), local={"fs": project})
    return ChangeRecorder(policy, copies=Copies(tmp_path / "copies"), redact=str, environ=ENVIRON)


async def test_the_result_tells_files_that_no_call_named(
    project: Path, recorder: ChangeRecorder, tmp_path: Path
) -> None:
    await recorder.before_call(ServerTool("fs", "write_file"), {"path": "a.txt"})
    (project / "a.txt").write_text("two\n", encoding="utf-8")
    (project / "sub" / "b.txt").write_text("two\n", encoding="utf-8")
    event = await recorder.finish()

    assert event is not None
    assert [(each.path, each.kind) for each in event.changes] == [("a.txt", "changed"), ("sub/b.txt", "beside")]
    outcome = Outcome("answered", "Done.", changes=event.changes)
    assert "\nAlso changed in the meantime, as git says: sub/b.txt (changed)" in RunReport("id", outcome, ()).text()
    assert list(plan_undo([event], copies=Copies(tmp_path / "copies"), redact=str).steps) == [project / "a.txt"]


async def test_where_git_lists_nothing_any_more_it_is_not_said_that_nothing_was_changed(
    project: Path, recorder: ChangeRecorder
) -> None:
    await recorder.before_call(ServerTool("fs", "write_file"), {"path": "a.txt"})
    (project / "sub" / "b.txt").write_text("two\n", encoding="utf-8")
    (project / ".git" / "index").write_text("damaged", encoding="utf-8")
    event = await recorder.finish()

    assert event is not None
    assert (event.is_complete, event.not_kept) == (False, ("files that no call named (git could not list them)",))
