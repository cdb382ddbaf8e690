"""Replacing a file that belongs to another program."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.files import replace_with_backup

NOW = datetime(2026, 11, 23, 9, 0, 0)


def write(path: Path, root: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(root if isinstance(root, str) else json.dumps(root, indent=2), encoding="utf-8")
    return path


def test_a_link_stays_a_link_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    real = write(tmp_path / "dotfiles" / "mcp.json", "{}")
    link = tmp_path / "mcp.json"
    link.symlink_to(real)

    copy = replace_with_backup(link, before="{}", after='{"a": 1}', now=NOW)

    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == '{"a": 1}'
    assert copy == real.with_name("mcp.json.backup-20261123-090000")
    again = replace_with_backup(link, before='{"a": 1}', after="{}", now=NOW)
    assert again == real.with_name("mcp.json.backup-20261123-090000-2")  # the first copy is the one that matters
    assert copy.read_text(encoding="utf-8") == "{}"


def test_a_file_that_was_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '{"theirs": 1}')

    with pytest.raises(SettingsError, match="changed by another program"):
        replace_with_backup(file, before="{}", after="x", now=NOW)

    assert (json.loads(file.read_text(encoding="utf-8")), list(tmp_path.iterdir())) == ({"theirs": 1}, [file])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said_as_ordinary_user(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", "{}")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SettingsError, match="cannot be written"):
            replace_with_backup(file, before="{}", after="x", now=NOW)
    finally:
        tmp_path.chmod(0o700)


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="cannot be"):
        replace_with_backup(tmp_path / "file" / "a.json", before=None, after="x", now=NOW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_of_a_file_stays_its_owner(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", "{}")
    os.chown(file, 12345, 12346)

    copy = replace_with_backup(file, before="{}", after="x", now=NOW)

    assert copy is not None
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (file, copy)] == [(12345, 12346)] * 2
