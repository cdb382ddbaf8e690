"""What a run changed in files: kept before its writing calls, compared at its end, put back by an undo."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.agent.options import Held
from lmstudio_bridge.events import CallStarted, Event, FileChange, FilesChanged, RunContinued, RunFinished, RunStarted
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs import changes
from lmstudio_bridge.runs.changes import (
    ChangeRecorder,
    Copies,
    Undo,
    apply_undo,
    list_below,
    lost_changes,
    may_have_changed,
    plan_undo,
    recall_changes,
    standing_changes,
)
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.workspace import make_workspace

WRITE = ServerTool("fs", "write_file")
MOVE = ServerTool("fs", "move_file")
DELETE = ServerTool("fs", "delete_path")
MAKE = ServerTool("fs", "create_directory")


class Run:
    """A run in a project folder, with copies beside it."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 1_000, max_file: int = 100, kept: bool = True, goes_on: bool = False
    ) -> None:
        self.project = folder / "project"
        self.project.mkdir(exist_ok=True)
        self.copies = Copies(folder / "copies" if kept else None, max_bytes=max_bytes, max_file=max_file)
        self.redact: Callable[[str], str] = lambda text: text.replace("sekret", "[secret]")
        policy = Policy("write", workspace=make_workspace([self.project]), local={"fs": self.project})
        bases = {"fs": [folder / "vault", self.project]}
        self._recorder = ChangeRecorder(policy, copies=self.copies, redact=self.redact, goes_on=goes_on, bases=bases)
        self.forget = self._recorder.forget
        self.events: list[FilesChanged] = []

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    async def before(self, tool: ServerTool, **arguments: Any) -> Held:
        return await self._recorder.before_call(tool, arguments)

    async def effect(self, tool: ServerTool, held: Held) -> str | None:
        return await self._recorder.effect(tool, held)

    async def left(self, held: Held, edits: list[tuple[str, str]]) -> tuple[str, str] | None:
        return await self._recorder.left(held, edits)

    async def effect_of(self, name: str, content: str | bytes) -> str | None:
        """What is told of a call that writes a file."""
        held = await self.before(WRITE, path=name)
        self.write(name, content)
        return await self.effect(WRITE, held)

    async def holds(self, name: str, text: str) -> bool | None:
        return await self._recorder.holds(WRITE, {"path": name}, text)

    async def edit(self, name: str, content: str | bytes) -> None:
        """A call that writes a file."""
        await self.before(WRITE, path=name)
        self.write(name, content)

    async def change(self, name: str, before: str | bytes, after: str | bytes) -> Path:
        """A file that is there, and a call that changes it; its path."""
        path = self.write(name, before)
        await self.edit(name, after)
        return path

    async def delete(self, name: str) -> None:
        await self.before(DELETE, path=name)
        path = self.project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    async def move(self, name: str, to: str) -> None:
        await self.before(MOVE, source=name, destination=to)
        (self.project / name).rename(self.project / to)

    async def end(self) -> FilesChanged:
        changed = await self._recorder.finish()
        assert changed is not None
        self.events.append(changed)
        return changed

    async def changed(self) -> list[tuple[str, str, int, int]]:
        return [(each.path, each.kind, each.added, each.removed) for each in (await self.end()).changes]

    def plan(self) -> Undo:
        return plan_undo(self.events, copies=self.copies, redact=self.redact)

    def undo(self) -> FilesChanged:
        done = apply_undo(self.plan(), copies=self.copies, redact=self.redact)
        self.events.append(done)
        return done

    def tree(self) -> dict[str, bytes | str]:
        """All that is in the project: contents of files, targets of links."""

        def content(path: Path) -> bytes | str:
            return f"-> {os.readlink(path)}" if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"

        return {str(path.relative_to(self.project)): content(path) for path in self.project.rglob("*")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# -- what is seen -----------------------------------------------------------------------------------------------


async def test_run_without_a_writing_call_changed_nothing_that_is_told(tmp_path: Path) -> None:
    policy = Policy("write", workspace=make_workspace([tmp_path]), local={"fs": tmp_path})

    assert await ChangeRecorder(policy, copies=Copies(None), redact=str).finish() is None


@pytest.mark.parametrize(
    ("content", "text", "held"),
    [
        ("a\r\n", "a\r\n", True),
        ("\ufeffa\n", "a\n", False),
        ("a\n", "a", False),
        ("a", "1\ta", False),
        (b"caf\xe9", "caf\ufffd", False),
        ("long", "lo", False),
    ],
)
async def test_a_file_holds_only_its_very_text(run: Run, content: str | bytes, text: str, held: bool) -> None:
    run.write("a.txt", content)
    assert await run.holds("a.txt", text) is held


async def test_what_a_file_holds_that_is_not_here_is_unknown(run: Run) -> None:
    assert await run.holds("a.txt", "") is None


async def test_each_kind_of_change_is_told_with_its_lines(run: Run) -> None:
    run.write("changed.txt", "a\nb\nc\n")
    run.write("same.txt", "same\n")
    run.write("gone.txt", "one\ntwo\n")
    run.write("moved.txt", "moved\n")
    await run.edit("changed.txt", "a\nB\nc\nd\n")
    await run.edit("same.txt", "same\n")
    await run.edit("new.txt", "x\n")
    await run.delete("gone.txt")
    await run.move("moved.txt", "there.txt")

    told = await run.end()

    assert [(each.path, each.kind, each.added, each.removed, each.source) for each in told.changes] == [
        ("changed.txt", "changed", 2, 1, ""),
        ("gone.txt", "deleted", 0, 2, ""),
        ("new.txt", "created", 1, 0, ""),
        ("same.txt", "unchanged", 0, 0, ""),
        ("there.txt", "moved", 0, 0, "moved.txt"),
    ]
    assert told.changes[0].diff == "--- changed.txt\n+++ changed.txt\n@@ -1,3 +1,4 @@\n a\n-b\n+B\n c\n+d"
    assert (told.folder, told.not_kept, told.is_complete, told.left_all()) == (str(run.project), (), True, False)


async def test_only_what_was_there_before_the_first_call_counts(run: Run) -> None:
    await run.change("a.txt", "first\n", "second\n")
    await run.edit("a.txt", "first\n")

    told = await run.end()

    assert [each.kind for each in told.changes] == ["unchanged"]
    assert told.left_all()


async def test_writes_that_may_have_changed_something_else_are_no_reason_to_say_that_nothing_was(run: Run) -> None:
    await run.change("a.txt", "same\n", "same\n")
    await run.before(ServerTool("fs", "upload_file"), path="a.txt")

    assert not (await run.end()).left_all()


async def test_a_file_of_the_same_name_below_another_base_of_the_server_may_have_been_changed(run: Run) -> None:
    run.write("README.md", "of the project\n")
    held = await run.before(WRITE, path="README.md")
    vault = run.project.parent / "vault"
    vault.mkdir()
    assert await run.effect(WRITE, held) == "", "it is not there"
    (vault / "README.md").write_text("of the vault", encoding="utf-8")

    assert await run.effect(WRITE, held) is None
    assert not (await run.end()).left_all()


async def test_path_that_is_nowhere_here_may_be_one_of_the_server(run: Run) -> None:
    await run.before(WRITE, path="vault/note.md")

    told = await run.end()

    assert (told.changes, told.left_all()) == ((), False)


@pytest.mark.parametrize("path", ["x" * 300, "a.txt/b.txt", "", ".", "\n", "\ud83d"])
async def test_path_that_cannot_be_looked_at_stops_nothing(run: Run, path: str) -> None:
    run.write("a.txt", "a")
    await run.before(WRITE, path=path)

    assert (await run.end()).changes == ()


async def test_source_of_a_copy_is_not_told(run: Run) -> None:
    run.write("a.txt", "a")
    await run.before(ServerTool("fs", "copy_file"), source="a.txt", destination="b.txt")
    run.write("b.txt", "a")

    assert await run.changed() == [("b.txt", "created", 1, 0)]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (ServerTool("github", "create_issue"), {"path": "a.txt"}),
        (ServerTool("fs", "create_entities"), {"entities": []}),
        (ServerTool("fs", "git_commit"), {"repo_path": "."}),
    ],
)
async def test_calls_that_name_no_file_here_are_told(run: Run, tool: ServerTool, arguments: dict[str, Any]) -> None:
    run.write("a.txt", "a")
    await run.before(tool, **arguments)

    told = await run.end()

    assert told.not_kept == (f"what {tool.server} {tool.name} did",)
    assert not told.is_complete


async def test_moved_and_deleted_folders_are_told_with_their_files(run: Run) -> None:
    run.write("old/a.txt", "a\n")
    run.write("old/b/c.txt", "c\n")
    run.write("gone/d.txt", "d\n")
    before = run.tree()
    await run.move("old", "new")
    await run.delete("gone")

    told = await run.end()

    files = {each.path: each.kind for each in told.changes if each.before != "folder" and each.after != "folder"}
    assert files == {"gone/d.txt": "deleted", "new/a.txt": "moved", "new/b/c.txt": "moved"}
    assert (told.not_kept, told.is_complete) == ((), True)
    changed = run.tree()
    run.undo()
    assert run.tree() == before
    run.undo()
    assert run.tree() == changed


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no mode")
@pytest.mark.parametrize("tool", [MOVE, ServerTool("fs", "copy_directory"), MAKE])
async def test_a_file_that_is_edited_in_a_folder_that_the_run_made_goes_with_it(run: Run, tool: ServerTool) -> None:
    source = run.write("a/b/x.txt", "x").parents[1]
    run.write("a/y.txt", "y")
    before = run.tree()
    await run.before(tool, source="a", path="c")
    if tool is MOVE:
        source.rename(run.project / "c")
    else:
        shutil.copytree(source, run.project / "c")
    await run.edit("c/b/x.txt", "X")
    after = run.tree()
    await run.end()

    assert run.undo().not_kept == ()
    assert run.tree() == before
    assert run.undo().not_kept == ()
    assert run.tree() == after


@pytest.mark.parametrize("mode", [0o700, 0o750])
async def test_a_private_folder_that_was_deleted_is_private_again(run: Run, mode: int) -> None:
    private = run.write("private/a.txt", "a\n").parent
    private.chmod(mode)
    held = run.write("open/b.txt", "b\n").parent.stat().st_mode
    for name in ("private", "open"):
        await run.delete(name)
    await run.end()

    run.undo()

    assert private.stat().st_mode & 0o777 == 0o700
    assert (run.project / "open").stat().st_mode == held


async def test_new_folders_above_a_new_file_go_with_it(run: Run) -> None:
    await run.before(MAKE, path="x")
    (run.project / "x").mkdir()
    await run.edit("x/y/z.txt", "z")
    await run.end()

    run.undo()

    assert run.tree() == {}


# -- content of every kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (b"a\r\nb\r\n", b"a\r\nB\r\n", ["-b\N{SYMBOL FOR CARRIAGE RETURN}", "+B\N{SYMBOL FOR CARRIAGE RETURN}"]),
        (b"a\r\n", b"a\n", ["-a\N{SYMBOL FOR CARRIAGE RETURN}", "+a"]),
        (b"a\n", b"a", ["-a", "+a", "\\ No newline at end of file"]),
        (b"a\xff", b"b", ["Not text: 2 bytes before, 1 now."]),
        (b"a\0", b"b", ["Not text: 2 bytes before, 1 now."]),
        (b"a sekret\n", b"b sekret\n", ["-a [secret]", "+b [secret]"]),
        (
            b"sekret",
            b"sekretsekret".replace(b"sekretsekret", b"[secret]"),
            ["Only secrets differ, which are not shown."],
        ),
        ("\u2028\u00e4\n".encode(), "\u2028\u00fc\n".encode(), ["-\u2028\u00e4", "+\u2028\u00fc"]),
    ],
)
async def test_diff_shows_what_differs_and_undo_puts_back_every_byte(
    run: Run, old: bytes, new: bytes, lines: list[str]
) -> None:
    path = run.write("a.txt", old)
    path.chmod(0o750)
    await run.edit("a.txt", new)

    [change] = (await run.end()).changes

    assert [line for line in change.diff.split("\n")[2:] if line[:1] not in ("@", " ")] == lines
    run.undo()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (old, 0o750)


async def test_mode_is_a_change_and_is_put_back(run: Run) -> None:
    path = run.write("a.sh", "x")
    path.chmod(0o644)
    await run.before(ServerTool("fs", "change_mode"), path="a.sh")
    path.chmod(0o755)

    assert await run.changed() == [("a.sh", "changed", 0, 0)]
    run.undo()
    assert path.stat().st_mode & 0o777 == 0o644


# -- links -------------------------------------------------------------------------------------------------------


async def test_nothing_outside_is_read_through_a_link(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("private", encoding="utf-8")
    (run.project / "link").symlink_to(outside)
    (run.project / "folder").symlink_to(tmp_path)
    await run.before(DELETE, path="folder")
    await run.before(WRITE, path="folder/outside.txt")
    await run.before(WRITE, path="link")

    told = await run.end()

    assert told.changes == ()
    assert not list((tmp_path / "copies").glob("*"))


async def test_deleted_link_is_put_back_and_its_target_left_alone(run: Run) -> None:
    run.write("target.txt", "x")
    (run.project / "link").symlink_to("target.txt")
    before = run.tree()
    await run.delete("link")

    assert ("link", "deleted", 0, 0) in await run.changed()
    run.undo()
    assert run.tree() == before


async def test_link_whose_target_is_redacted_is_not_made_anew(run: Run) -> None:
    (run.project / "link").symlink_to("sekret/file")
    await run.delete("link")
    [change] = (await run.end()).changes
    run.events = [replace(run.events[0], changes=(replace(change, before=run.redact(change.before)),))]

    assert not change.kept
    assert run.undo().not_kept == ("link (no copy was kept)",)
    assert run.tree() == {}


async def test_a_file_that_became_a_folder_with_folders_is_put_back_and_the_folder_too(run: Run) -> None:
    run.write("a", "old")
    await run.delete("a")
    await run.edit("a/b/c.txt", "new")
    after = run.tree()
    await run.end()

    run.undo()
    assert run.tree() == {"a": b"old"}
    run.undo()
    assert run.tree() == after


async def test_a_file_with_the_longest_name_is_put_back(run: Run) -> None:
    await run.change("n" * 255, "old", "new")
    await run.end()

    run.undo()

    assert run.tree() == {"n" * 255: b"old"}


async def test_undo_follows_no_link_that_was_put_in_a_folders_place(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    gone = run.write("sub/a.txt", "mine")
    await run.delete("sub/a.txt")
    await run.end()
    gone.parent.rmdir()
    gone.parent.symlink_to(outside)

    done = run.undo()

    assert (done.changes, done.not_kept) == ((), ("sub/a.txt (changed since)",))
    assert list(outside.iterdir()) == []


# -- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kept"), [(99, True), (100, True), (101, False)])
async def test_a_file_is_kept_up_to_a_size(run: Run, size: int, kept: bool) -> None:
    path = await run.change("a.txt", "x" * size, "y")

    told = await run.end()

    assert [each.kept for each in told.changes] == [kept]
    assert told.not_kept == (() if kept else ("a.txt (too large)",))
    assert bool(run.undo().changes) == kept
    assert path.read_text(encoding="utf-8") == ("x" * size if kept else "y")


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize(("last", "kept"), [(49, True), (50, True), (51, False)])
async def test_files_of_all_parts_of_a_run_are_kept_up_to_a_size(
    tmp_path: Path, last: int, kept: bool, goes_on: bool
) -> None:
    run = Run(tmp_path, max_bytes=150)
    await run.change("a.txt", "a" * 100, "")
    if goes_on:
        run = Run(tmp_path, max_bytes=150)
    await run.change("b.txt", "b" * last, "")

    assert [each.kept for each in (await run.end()).changes] == [True, kept][goes_on:]


@pytest.mark.parametrize(("more", "listed"), [(-1, True), (0, True), (1, False)])
def test_folder_is_listed_up_to_a_number_of_files(tmp_path: Path, more: int, listed: bool) -> None:
    for number in range(changes.MAX_FILES + more):
        (tmp_path / str(number)).touch()

    assert (list_below(tmp_path) is not None) == listed


async def test_large_file_that_is_left_as_it_was_counts_as_unchanged_but_not_as_nothing_changed(run: Run) -> None:
    run.write("a.txt", "x" * 101)
    await run.before(WRITE, path="a.txt")

    told = await run.end()

    assert ([each.kind for each in told.changes], told.left_all()) == (["unchanged"], False)


async def test_new_file_that_is_too_large_to_keep_is_not_taken_away(run: Run) -> None:
    await run.edit("a.txt", "x" * 101)
    await run.end()

    assert run.undo().not_kept == ("a.txt (too large to keep a copy of what is there now)",)
    assert (run.project / "a.txt").exists()


async def test_full_disk_keeps_nothing_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("no folder", encoding="utf-8")
    run = Run(tmp_path)
    await run.change("a.txt", "a", "b")

    assert ([(each.kind, each.kept) for each in (await run.end()).changes]) == [("changed", False)]


async def test_without_a_folder_for_copies_the_change_is_seen_and_nothing_is_written(tmp_path: Path) -> None:
    run = Run(tmp_path, kept=False)
    await run.change("a.txt", "a\n", "b\n")

    assert await run.changed() == [("a.txt", "changed", 1, 1)]
    assert not (tmp_path / "copies").exists()


async def test_names_of_copies_say_nothing(run: Run, tmp_path: Path) -> None:
    await run.change("password-hunter2.txt", "a", "b")

    [copy] = (tmp_path / "copies").iterdir()

    assert len(copy.name) == 64
    assert copy.stat().st_mode & 0o777 == 0o600


# -- undo --------------------------------------------------------------------------------------------------------


async def test_what_was_changed_since_is_named_and_left_alone(run: Run) -> None:
    await run.change("a.txt", "a", "A")
    await run.change("b.txt", "b", "B")
    await run.end()
    run.write("a.txt", "mine")

    done = run.undo()

    assert ([each.path for each in done.changes], done.not_kept) == (["b.txt"], ("a.txt (changed since)",))
    assert run.tree() == {"a.txt": b"mine", "b.txt": b"b"}


async def test_undo_says_what_it_does_not_cover(run: Run) -> None:
    await run.before(ServerTool("github", "create_issue"), title="x")
    await run.end()

    assert (run.plan().steps, run.plan().left) == ({}, ("what github create_issue did",))


async def test_a_file_with_a_secret_in_its_name_is_left_alone_with_the_reason(run: Run) -> None:
    run.write("sekret.txt", "a")
    run.write("from-sekret.txt", "moved")
    await run.edit("sekret.txt", "A")
    await run.edit("new-sekret.txt", "A")
    await run.move("from-sekret.txt", "to.txt")
    tree = run.tree()
    run.events = [Redactor(["sekret"]).redact_fields(await run.end())]
    reasons = {f"{name}.txt (its name holds a secret)" for name in ("[secret]", "new-[secret]", "from-[secret]")}

    assert {each.kept for each in run.events[0].changes} == {False}
    assert {*run.events[0].not_kept} == reasons
    assert {*run.undo().not_kept} == {*reasons, "to.txt (its name holds a secret)"}
    assert run.tree() == tree


async def test_undo_that_could_do_nothing_is_not_what_the_next_one_takes_back(run: Run) -> None:
    await run.change("a.txt", "a", "A")
    await run.end()
    run.write("a.txt", "mine")
    run.undo()
    run.write("a.txt", "A")

    run.undo()

    assert run.tree() == {"a.txt": b"a"}


async def test_what_an_undo_left_alone_comes_before_it_is_taken_back(run: Run) -> None:
    before = {name: run.write(name, "a").read_bytes() for name in ("a.txt", "b.txt")}
    await run.edit("a.txt", "A")
    await run.edit("b.txt", "B")
    await run.edit("new/c.txt", "C")
    after = run.tree()
    await run.end()

    run.write("b.txt", "mine")
    run.write("new/mine.txt", "mine")
    assert {*run.undo().not_kept} == {"b.txt (changed since)", "new (Directory not empty)"}
    assert run.tree().keys() == {"a.txt", "b.txt", "new", "new/mine.txt"}, "a new folder that is in use stays"
    assert [each.path for each in standing_changes(run.events)] == ["a.txt", "b.txt", "new", "new/c.txt"]
    assert (run.plan().is_revert, run.plan().left) == (True, ()), "nothing else can be done"
    run.undo()
    run.undo()
    run.write("b.txt", "B")
    (run.project / "new" / "mine.txt").unlink()

    assert run.undo().not_kept == ()
    assert run.tree() == before
    assert standing_changes(run.events) == ()
    run.undo()
    assert run.tree() == after


async def test_what_changes_between_the_question_and_the_answer_is_left_alone(run: Run) -> None:
    await run.change("a.txt", "a", "A")
    await run.end()
    plan = run.plan()
    run.write("a.txt", "mine")

    done = apply_undo(plan, copies=run.copies, redact=run.redact)

    assert (done.changes, done.not_kept) == ((), ("a.txt (changed since)",))
    assert run.tree() == {"a.txt": b"mine"}


@pytest.mark.parametrize(
    ("between", "undone"),
    [(None, [b"1", b"3", b"1"]), ("mine", [b"mine", b"3", b"mine"])],
    ids=["all parts together", "but not what others wrote between them"],
)
async def test_undo_takes_all_parts_of_a_run_together_and_each_undo_can_be_undone(
    tmp_path: Path, between: str | None, undone: list[bytes]
) -> None:
    run, continued = Run(tmp_path), Run(tmp_path)
    path = await run.change("a.txt", "1", "2")
    await run.end()
    if between:
        path.write_text(between, encoding="utf-8")
    continued.events = run.events
    await continued.edit("a.txt", "3")
    await continued.end()

    for content in undone:
        continued.undo()
        assert continued.tree() == {"a.txt": content}


async def test_damaged_copy_is_not_put_back(run: Run, tmp_path: Path) -> None:
    await run.change("a.txt", "a", "A")
    await run.end()
    [copy] = (tmp_path / "copies").iterdir()
    copy.write_text("forged", encoding="utf-8")

    assert run.undo().not_kept == ("a.txt (no copy was kept)",)
    assert run.tree() == {"a.txt": b"A"}


def test_journal_without_names_undoes_nothing(run: Run) -> None:
    run.events = [FilesChanged("", (FileChange("", "changed", added=1, kept=False),))]

    assert run.plan().steps == {}


# -- after a crash ----------------------------------------------------------------------------------------------


async def test_what_a_run_changed_before_a_crash_is_known_and_undone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write("a.txt", "one\n")
    before = run.tree()
    await run.edit("a.txt", "two\n")
    await run.edit("made/b.txt", "new\n")
    await run.before(WRITE, path="never.txt")  # the crash came before the call

    after = Run(tmp_path)  # another process
    recalled = recall_changes(after.copies, redact=after.redact)
    assert recalled is not None
    after.events.append(recalled)
    assert [(each.path, each.kind) for each in recalled.changes] == [
        ("a.txt", "changed"),
        ("made", "created"),
        ("made/b.txt", "created"),
    ]
    assert not recalled.is_complete
    assert after.undo().not_kept == ()
    assert after.tree() == before


async def test_continued_run_tells_what_was_changed_before_the_crash_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    await run.change("a.txt", "one\n", "two\n")

    continued = Run(tmp_path, goes_on=True)
    await continued.edit("a.txt", "three\n")
    told = await continued.end()
    continued.forget()

    assert [(each.path, each.diff.splitlines()[-2:]) for each in told.changes] == [("a.txt", ["-one", "+three"])]
    assert recall_changes(continued.copies, redact=str) is None


@pytest.mark.parametrize("note", ["", "{", "[]", '{"folder": "/", "states": []}', '{"states": {"/a": ""}}'])
def test_note_that_cannot_be_read_says_nothing(run: Run, note: str) -> None:
    run.copies.write_note(note)

    assert recall_changes(run.copies, redact=str) is None


START = RunStarted("r1", "task", (), 5, "")
AGAIN = RunContinued("r1", "", (), 5, "")
CHANGED = FilesChanged("/p", ())


@pytest.mark.parametrize(
    ("events", "lost"),
    [
        ((START,), True),
        ((START, CHANGED), False),
        ((START, CHANGED, RunFinished("answered", "", "", 1.0)), False),
        ((START, CHANGED, AGAIN), True),
        ((START, AGAIN, CHANGED), False),
    ],
)
def test_changes_are_lost_unless_they_were_told_since_the_run_went_on(events: tuple[Any, ...], lost: bool) -> None:
    assert lost_changes(events) is lost


# -- what the model is told of one call -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("a\nb\nc\n", "a\nB\nc\n", "+++ a.txt\n@@ -2 +2 @@\n-b\n+B"),
        ("a", "a\nb", "+++ a.txt\n@@ -1,0 +2 @@\n+b"),
        ("a\r\nb\r\n", "a\r\nB\r\n", "+++ a.txt\n@@ -2 +2 @@\n-b\n+B"),
        ("key: sekret\nx\n", "key: sekret\nsekret\x1b[2J\u200b\n", "+++ a.txt\n@@ -2 +2 @@\n-x\n+[secret]"),
        ("a\r\n", "a\n", "a.txt: changed only in line ends or hidden text"),
        ("", "a\n", "+++ a.txt\n@@ -0,0 +1 @@\n+a"),
        (None, "a\nb", "a.txt: created, 2 lines"),
        (None, "", "a.txt: created, 0 lines"),
        ("a\n", "a\n", ""),
        (b"\0a", b"\0a", None),
        (b"\0a", b"\0b", None),
        (b"caf\xe9", "caf\u00e9", None),
        (None, b"\0", None),
    ],
)
async def test_effect_of_a_call_is_told(
    run: Run, before: str | bytes | None, after: str | bytes, told: str | None
) -> None:
    if before is not None:
        run.write("a.txt", before)
    assert await run.effect_of("a.txt", after) == told


async def test_effect_of_a_call_is_that_since_the_call_before(run: Run) -> None:
    await run.change("a.txt", "one\n", "two\n")

    assert await run.effect_of("a.txt", "three\n") == "+++ a.txt\n@@ -1 +1 @@\n-two\n+three"
    assert await run.effect_of("a.txt", "three\n") == ""


@pytest.mark.parametrize(
    ("after", "edit", "left"),
    [
        ("off\non\n", ("on", "off"), ("on", "a.txt")),
        ("off\noff\n", ("on", "off"), None),
        ("onward\n", ("on", "onward"), None),
        ("off\non\n", (" ", ""), None),
        ("\u9ed2\u72ac \u767d\u732b\n", ("\u732b", "\u72ac"), ("\u732b", "a.txt")),
        ("v1.2 x v1.2\n", ("v1", "v1.2"), None),
        ("off\nonly\n", ("on", "off"), None),
        ("y xy\n", ("x", "y"), None),
    ],
)
async def test_a_text_that_an_edit_left_elsewhere_is_found(
    run: Run, after: str, edit: tuple[str, str], left: tuple[str, str] | None
) -> None:
    run.write("a.txt", "on\non\n")
    held = await run.before(WRITE, path="a.txt")
    run.write("a.txt", after)

    assert await run.left(held, [edit]) == left


async def test_effect_of_a_move_and_a_deletion_is_told(run: Run) -> None:
    path = run.write("a.txt", "one\n")
    held = await run.before(MOVE, source="a.txt", destination="b.txt")
    path.rename(run.project / "b.txt")
    assert await run.effect(MOVE, held) == "b.txt: moved from a.txt"

    held = await run.before(DELETE, path="b.txt")
    (run.project / "b.txt").unlink()
    assert await run.effect(DELETE, held) == "b.txt: deleted"


@pytest.mark.parametrize("tool", ["run_tests", "git_add", "upload_file"])
async def test_only_a_tool_that_changes_files_is_said_to_have_changed_nothing(run: Run, tool: str) -> None:
    run.write("a.txt", "one\n")
    other = ServerTool("fs", tool)
    assert await run.effect(other, await run.before(other, path="a.txt")) is None


@pytest.mark.parametrize("path", ["nowhere.txt", "folder", "../outside.txt", "link.txt"])
async def test_no_effect_is_told_where_there_is_no_file_of_the_workspace(run: Run, path: str) -> None:
    (run.project / "folder").mkdir()
    outside = run.project.parent / "outside.txt"
    outside.write_text("one", encoding="utf-8")
    (run.project / "link.txt").symlink_to(outside)
    held = await run.before(WRITE, path=path)
    outside.write_text("two", encoding="utf-8")

    assert await run.effect(WRITE, held) is None


@pytest.mark.parametrize(
    ("added", "lines", "last"),
    [
        (["x"] * 10, 12, "+x"),
        (["x"] * 11, 13, "… 1 line more"),
        (["x" * 200] * 4, 6, "+" + "x" * 200),
        (["x" * 200] * 5, 7, "… 1 line more"),
        (["x" * 10_000], 3, "+" + "x" * 239 + "…"),
    ],
)
async def test_what_is_told_of_a_call_is_short(run: Run, added: list[str], lines: int, last: str) -> None:
    run.write("a.txt", "")
    told = await run.effect_of("a.txt", "\n".join(added))
    assert told is not None
    assert (len(told.split("\n")), told.split("\n")[-1]) == (lines, last)


@pytest.mark.parametrize(("more", "told"), [(0, ""), (1, None)])
async def test_effect_is_told_of_files_up_to_a_size(run: Run, more: int, told: str | None) -> None:
    content = "x" * (changes.MAX_TOLD_FILE + more)
    run.write("a.txt", content)
    assert await run.effect_of("a.txt", content) == told


@pytest.mark.parametrize(("more", "told"), [(0, ""), (1, None)])
async def test_effect_is_told_of_a_few_files(run: Run, more: int, told: str | None) -> None:
    paths = [f"{number}.txt" for number in range(changes.MAX_TOLD_FILES + more)]
    for path in paths:
        run.write(path, "x")
    assert await run.effect(WRITE, await run.before(WRITE, paths=paths)) == told


WRITES, READS = (RunContinued("r", "", (), 8, "", access) for access in ("write", "read"))
CALLED, ENDED = CallStarted(1, "c", "fs", "write", "{}", writes=True), RunFinished("failed", "", "", 0)
FIRST, SECOND = (FilesChanged("/p", (FileChange(name, "created"),)) for name in ("a", "b"))
UNDONE = FilesChanged("/p", (FileChange("a", "deleted"),), is_undo=True)
PARTLY = replace(UNDONE, is_partial=True)


@pytest.mark.parametrize(
    ("told", "may_have", "standing"),
    [
        ([WRITES, ENDED], False, ""),
        ([WRITES, FIRST, ENDED], True, "a"),
        ([WRITES, FIRST, ENDED, READS, ENDED], True, "a"),
        ([WRITES, FIRST, ENDED, WRITES, SECOND, ENDED], True, "ab"),
        ([WRITES, FIRST, ENDED, UNDONE], True, ""),
        ([WRITES, FIRST, ENDED, UNDONE, UNDONE], True, "a"),
        ([WRITES, FIRST, ENDED, UNDONE, UNDONE, UNDONE], True, ""),
        ([WRITES, CALLED, UNDONE, UNDONE, UNDONE], True, ""),
        ([WRITES, FIRST, ENDED, PARTLY], True, "a"),
        ([WRITES, FIRST, ENDED, PARTLY, UNDONE], True, ""),
        ([WRITES, FIRST, ENDED, UNDONE, WRITES, SECOND, ENDED], True, "b"),
        ([WRITES, CALLED], True, ""),
        ([WRITES, CALLED, READS], True, ""),
        ([WRITES, CALLED, UNDONE], True, ""),
        ([WRITES, CALLED, UNDONE, UNDONE], True, "a"),
        ([WRITES, CALLED, READS, ENDED], True, ""),
        ([WRITES, CALLED, READS, replace(FIRST, changes=()), ENDED], False, ""),
        ([WRITES, replace(CALLED, writes=False)], False, ""),
        ([WRITES, replace(CALLED, writes=None)], True, ""),
        ([READS, replace(CALLED, writes=None)], False, ""),
    ],
)
def test_what_any_turn_of_a_run_changed_is_known(told: list[Event], may_have: bool, standing: str) -> None:
    assert may_have_changed(told) is may_have
    assert "".join(each.path for each in standing_changes(told)) == standing
