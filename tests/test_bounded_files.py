"""Files of others are read up to a bound."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.bounded_files import read_bounded
from lmstudio_bridge.downstream.discovery import load_servers
from lmstudio_bridge.errors import McpConfigError, SettingsError
from lmstudio_bridge.rule_files import FILE, MAX_BYTES, load_rules

posix = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


@pytest.mark.parametrize(("size", "fits"), [(9, True), (10, True), (11, False)])
def test_a_file_may_be_so_large(tmp_path: Path, size: int, fits: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    if fits:
        assert read_bounded(path, max_bytes=10) == b"x" * size
    else:
        with pytest.raises(OSError, match="it is larger than 0 MiB"):
            read_bounded(path, max_bytes=10)


@posix
def test_a_link_to_a_device_is_no_configuration(tmp_path: Path) -> None:
    """Git keeps links, so a cloned project can hold one."""
    (tmp_path / ".mcp.json").symlink_to("/dev/zero")

    with pytest.raises(McpConfigError, match="cannot be read: it is a device or a pipe"):
        load_servers(explicit=tmp_path / ".mcp.json", project=tmp_path, environ={}, trusted=())


@posix
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="device or a pipe"):
        read_bounded(tmp_path / "pipe", max_bytes=10)


@pytest.mark.parametrize(
    "text", ["#" * (MAX_BYTES + 1), "allow = " + "[" * 5_000, "allow = " + "9" * 5_000, "allow = [1979-99-99]"]
)
def test_rules_that_python_cannot_read_stop_the_run_with_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=FILE):
        load_rules(project=tmp_path, environ={})
