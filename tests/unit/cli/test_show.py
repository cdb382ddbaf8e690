"""Stored runs as they are shown in a terminal and elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.cli.main import main
from lmstudio_bridge.events import ItemFinished, ItemsListed, Outcome, RunFinished, RunStarted
from lmstudio_bridge.runs.journal import open_journal
from tests.unit.cli.test_terminal import Terminal

ID = "20260101-000000-aaaaa"


def test_the_items_of_a_run_are_a_table_which_a_terminal_formats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_journal(tmp_path / "runs", ID) as journal:
        journal.keep(RunStarted(ID, "Each", (), 8, "2026-01-01T00:00:00+00:00"))
        journal.keep(ItemsListed(("a.md", "b.md"), "", (), "", None, ""))
        journal.keep(ItemFinished(1, Outcome("answered", "Fine.", rests_on=("a.md:1",))))
        journal.keep(ItemFinished(2, Outcome("failed", error="No.")))
        journal.keep(RunFinished("partial", "", "", 1.0))
    monkeypatch.setenv("LMSTUDIO_BRIDGE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    shown: list[str] = []
    for stream in (Terminal(), Terminal()):
        monkeypatch.setattr(stream, "isatty", lambda: bool(shown))
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["runs", "show", ID]) == 0
        shown.append(stream.getvalue())

    plain, formatted = shown
    assert "\n## Items\n\n1 of 2 items done · 1 failed\nFailed: b.md: No.\n" in plain
    assert "\n| a.md | done | Fine. | a.md:1 |\n| b.md | failed |  |  |\n" in plain
    assert plain.partition("1 of 2")[0].strip() == formatted.partition("1 of 2")[0].strip()
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in formatted.splitlines()]
    assert ["a.md", "done", "Fine.", "a.md:1"] in lines
