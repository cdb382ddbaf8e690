"""Stored runs as they are shown in a terminal and elsewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmstudio_bridge.cli.main import main
from lmstudio_bridge.events import (
    Event,
    FileChange,
    FilesChanged,
    ItemFinished,
    ItemsListed,
    JournalCut,
    Outcome,
    RunFinished,
    RunStarted,
)
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs.changes import ChangeRecorder, Copies, look_at
from lmstudio_bridge.runs.journal import copies_folder
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.workspace import make_workspace
from tests.support.fakes import keep_events
from tests.unit.cli.test_terminal import Terminal

ID = "20260101-000000-aaaaa"
START, END = RunStarted(ID, "Each", (), 8, "2026-01-01T00:00:00+00:00"), RunFinished("answered", "", "", 1.0)


@pytest.mark.parametrize(
    ("columns", "error", "is_table"),
    [("80", "No.", True), ("40", "No.", True), ("30", "No.", False), ("80", "No. " * 100 + "End.", False)],
)
def test_the_items_of_a_run_are_a_table_in_a_terminal_where_nothing_is_cut_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: str, error: str, is_table: bool
) -> None:
    ends = [Outcome("answered", "Fine.", rests_on=("a.md:1",)), Outcome("failed", error=error)]
    items = [ItemFinished(number, each) for number, each in enumerate(ends, start=1)]
    listed = ItemsListed(("a.md", "b.md"), "", (), "", None, "")
    keep_events(tmp_path / "runs", ID, START, listed, *items, RunFinished("partial", "", "", 1.0))
    monkeypatch.setenv("LMSTUDIO_BRIDGE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    shown: list[str] = []
    for stream in (Terminal(), Terminal()):
        monkeypatch.setattr(stream, "isatty", lambda: bool(shown))
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["runs", "show", ID]) == 0
        shown.append(stream.getvalue())

    plain, formatted = shown
    row = f'{{"item": "b.md", "status": "failed", "reason": "{error.strip()}", "answer": null'
    assert f"\n{row}" in plain
    assert (row in formatted) is not is_table
    assert "1 of 2 items done" not in plain
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in formatted.splitlines()]
    assert (["a.md", "done", "Fine.", "a.md:1"] in lines) is is_table
    assert ("\n1 of 2 items done · 1 failed\nFailed: b.md: No.\n" in formatted) is is_table


def test_only_an_undo_says_what_it_does_not_cover_not_its_revert(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMSTUDIO_BRIDGE_HOME", str(tmp_path / "home"))
    runs, project = tmp_path / "home" / "runs", tmp_path / "project"
    project.mkdir()
    (project / "new.md").write_text("new", encoding="utf-8")
    state, _ = look_at(project / "new.md", max_bytes=100)
    told: dict[str, Event] = {
        ID: ItemsListed(("a", "b"), "", (), "", None, ""),
        f"{ID}-1": FilesChanged(str(project), (), ("what git commit did",)),
        f"{ID}-2": FilesChanged(str(project), (FileChange("new.md", "created", "", state),)),
    }
    for name, event in told.items():
        keep_events(runs, name, replace(START, run_id=name), event, END)

    assert [main(["runs", "undo", ID, "--yes"]) for _ in range(3)] == [1, 0, 1]
    assert not (project / "new.md").exists()


@pytest.mark.parametrize(("number", "is_known"), [("", True), ("-1", True), ("-1", False)])
async def test_an_undo_says_where_a_journal_that_is_not_whole_leaves_changes_unknown(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: str,
    is_known: bool,
) -> None:
    monkeypatch.setenv("LMSTUDIO_BRIDGE_HOME", str(tmp_path / "home"))
    runs, project = tmp_path / "home" / "runs", tmp_path / "project"
    project.mkdir()
    (project / "new.md").write_text("old", encoding="utf-8")
    policy = Policy("write", workspace=make_workspace([project]), local={"fs": project})
    recorder = ChangeRecorder(policy, copies=Copies(copies_folder(runs, ID + number)), redact=str)
    await recorder.before_call(ServerTool("fs", "write_file"), {"path": "new.md"})
    (project / "new.md").write_text("new", encoding="utf-8")
    if not is_known:
        recorder.forget()
    state, _ = look_at(project, max_bytes=100)
    told: dict[str, Event] = {ID + number: JournalCut("The disk is full.")}
    if number:
        (project / "made").mkdir()
        told[ID] = ItemsListed(("a", "b"), "", (), "", None, "")
        told[f"{ID}-2"] = FilesChanged(str(project), (FileChange("made", "created", "", state),))
    for name, event in told.items():
        keep_events(runs, name, replace(START, run_id=name, access="write"), event, END)

    assert main(["runs", "undo", ID, "--yes"]) == 1
    assert (project / "new.md").read_text(encoding="utf-8") == ("old" if is_known else "new")
    assert not (project / "made").exists()
    known = "The disk is full. What came after that is not known and was left alone."
    unknown = f"Left alone: what run {ID}-1 changed is not known: The disk is full."
    assert (known if is_known else unknown) in capsys.readouterr().err
    assert main(["runs", "undo", ID, "--yes"]) == 0, "that is taken back"
    assert (project / "new.md").read_text(encoding="utf-8") == "new"
    assert (project / "made").exists() is bool(number)
