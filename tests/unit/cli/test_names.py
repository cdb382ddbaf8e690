"""Names for the shells: of runs, servers and models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmstudio_bridge.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LMSTUDIO_BRIDGE_HOME", str(tmp_path))
    monkeypatch.setenv("LMSTUDIO_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_newest_runs_come_first_and_items_are_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs").mkdir()
    for number in range(40):
        (home / "runs" / f"20260101-0000{number:02}-aaaaa.jsonl").touch()
    (home / "runs" / "20260101-000039-aaaaa-1.jsonl").touch()

    assert main(["completion", "--names", "runs"]) == 0

    last, newest, *others = capsys.readouterr().out.splitlines()
    assert (last, newest, len(others)) == ("last", "20260101-000039-aaaaa", 29)


def test_names_that_a_shell_would_run_are_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = {name: {"command": "true"} for name in ("fs", "a.b-c", "$(touch x)", "`id`", "a b", "x;y")}
    (home / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")

    assert main(["completion", "--names", "servers"]) == 0

    assert sorted(capsys.readouterr().out.split("\n")) == ["", "a.b-c", "fs"]


def test_no_models_where_nobody_answers_and_no_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "--names", "models"]) == 0

    assert capsys.readouterr() == ("", "")


def test_without_a_shell_the_shells_are_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 2

    assert capsys.readouterr().err == "Name a shell: bash, zsh, fish.\n"
