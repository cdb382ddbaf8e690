"""The line about runs in progress."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lmstudio_bridge.cli.main import main
from lmstudio_bridge.cli.status import running_line, show_status
from lmstudio_bridge.events import ItemFinished, ItemsListed, Outcome, RoundFinished, RunStarted
from lmstudio_bridge.messages import Usage
from lmstudio_bridge.runs.journal import open_journal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="journals are not locked there")

ID, OTHER, MANY = "20260101-000000-aaaaa", "20260101-000001-bbbbb", "20260101-000002-ccccc"


def started(run_id: str, task: str) -> RunStarted:
    return RunStarted(run_id, task, (), 50, "2026-01-01T00:00:00+00:00")


def test_the_run_in_progress_is_named_with_its_round_tokens_and_speed(tmp_path: Path) -> None:
    with open_journal(tmp_path, ID, keep="full") as journal:
        journal.keep(started(ID, "Read \x1b[31mall notes\nand more"))
        journal.keep(RoundFinished(1, "", "", (), "stop", "m", Usage(1_000, 200), 4.0))
        line = running_line(tmp_path)
    after = running_line(tmp_path)

    assert line == "local model: Read all notes - round 2, 1,200 tokens, 50 tokens/s"
    assert after == ""


def test_of_several_runs_the_newest_is_named(tmp_path: Path) -> None:
    with open_journal(tmp_path, ID, keep="full") as first, open_journal(tmp_path, OTHER, keep="full") as second:
        first.keep(started(ID, "First"))
        second.keep(started(OTHER, "Second"))

        assert running_line(tmp_path) == "local model: Second - round 1, 0 tokens (+1)"


def test_a_run_over_many_items_says_how_many_are_done(tmp_path: Path) -> None:
    with open_journal(tmp_path, MANY, keep="full") as journal:
        journal.keep(started(MANY, "Each"))
        journal.keep(ItemsListed(("a", "b", "c"), "", (), "", None, ""))
        journal.keep(ItemFinished(1, Outcome("answered", "x")))

        assert running_line(tmp_path) == "local model: Each - 1 of 3 items"


@pytest.mark.parametrize("bare", [True, False])
def test_without_a_run_the_line_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str], bare: bool) -> None:
    assert show_status({"HOME": str(tmp_path)}, cwd=tmp_path, bare=bare) == 0
    assert capsys.readouterr().out == ("" if bare else "No run is in progress.\n")


def test_a_status_line_never_shows_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_BRIDGE_MAX_RUNS", "many")

    assert (main(["status", "--line"]), *capsys.readouterr()) == (0, "", "")
    assert main(["status"]) == 2
    assert "LMSTUDIO_BRIDGE_MAX_RUNS" in capsys.readouterr().err
