"""Files of others are read up to a bound; files are written whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
import tracemalloc
from pathlib import Path

import pytest

from lmstudio_bridge.errors import McpConfigError, SettingsError
from lmstudio_bridge.files import MEBIBYTE, make_folder, open_beside, open_private, read_bounded, write_file
from lmstudio_bridge.mcp_client.discovery import load_servers
from lmstudio_bridge.security.rule_files import FILE, MAX_BYTES, load_rules

posix = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


@pytest.mark.parametrize(("size", "fits"), [(9, True), (10, True), (11, False)])
def test_a_file_may_be_as_large_as_its_bound(tmp_path: Path, size: int, fits: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    if fits:
        assert read_bounded(path, max_bytes=10) == b"x" * size
    else:
        with pytest.raises(OSError, match="it is larger than 0 KiB"):
            read_bounded(path, max_bytes=10)


def test_no_more_memory_is_used_than_a_file_needs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000)
    tracemalloc.start()
    read_bounded(path, max_bytes=64 * MEBIBYTE)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < MEBIBYTE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no such files there")
def test_a_file_without_a_size_is_read_whole() -> None:
    path = Path("/proc/self/limits")

    assert path.stat().st_size == 0
    assert read_bounded(path, max_bytes=MEBIBYTE) == path.read_bytes() != b""
    with pytest.raises(OSError, match="it is larger than"):
        read_bounded(path, max_bytes=len(path.read_bytes()) - 1)


@posix
def test_a_link_to_a_device_is_refused_as_a_configuration(tmp_path: Path) -> None:
    """Git keeps links, so a cloned project can hold one."""
    (tmp_path / ".mcp.json").symlink_to("/dev/zero")

    with pytest.raises(McpConfigError, match="cannot be read: it is a device or a pipe"):
        load_servers(explicit=tmp_path / ".mcp.json", project=tmp_path, environ={}, trusted=())


@posix
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="device or a pipe"):
        read_bounded(tmp_path / "pipe", max_bytes=10)


@posix
def test_a_link_is_followed_only_if_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")

    assert read_bounded(tmp_path / "link", max_bytes=10) == b"x"
    with pytest.raises(OSError, match="link"):
        read_bounded(tmp_path / "link", max_bytes=10, follow_links=False)


@pytest.mark.parametrize("follow_links", [True, False])
def test_a_folder_is_an_error(tmp_path: Path, follow_links: bool) -> None:
    with pytest.raises(OSError, match=r"directory|denied"):
        read_bounded(tmp_path, max_bytes=10, follow_links=follow_links)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_written_file_replaces_the_old_one_with_the_given_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    write_file(path, b"new", mode=mode)

    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no descriptors of folders")
def test_a_folder_that_becomes_a_link_does_not_lead_elsewhere(tmp_path: Path) -> None:
    folder, outside = (Path(os.path.realpath(tmp_path)) / name for name in ("folder", "outside"))
    for each in (folder, outside):
        each.mkdir()
        (each / "a").write_text(each.name, encoding="utf-8")

    with open_beside(folder / "a") as (name, opened):
        moved = folder.rename(tmp_path / "moved")
        folder.symlink_to(outside)
        read = read_bounded(Path(name), max_bytes=100, follow_links=False, folder=opened)
        write_file(Path(name), b"new", folder=opened)

    assert read == b"folder"
    assert (moved / "a").read_text(encoding="utf-8") == "new"
    assert [each.name for each in moved.iterdir()] == ["a"]
    assert (outside / "a").read_text(encoding="utf-8") == "outside"
    with pytest.raises(NotADirectoryError), open_beside(folder / "a"):
        pass


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)

    with pytest.raises(OSError, match="folder"):
        write_file(tmp_path / "folder", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "text", ["#" * (MAX_BYTES + 1), "allow = " + "[" * 5_000, "allow = " + "9" * 5_000, "allow = [1979-99-99]"]
)
def test_rules_that_python_cannot_read_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=FILE):
        load_rules(project=tmp_path, environ={})


@posix
@pytest.mark.parametrize(
    ("before", "after"), [(0o777, 0o700), (0o770, 0o700), (0o757, 0o700), (0o755, 0o755), (0o1777, 0o1777)]
)
def test_folder_of_ours_that_others_can_write_to_becomes_private(tmp_path: Path, before: int, after: int) -> None:
    """They could replace the journals and approvals in it; /tmp, where they cannot, stays as it is."""
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(before)
    make_folder(folder)

    assert stat.S_IMODE(folder.stat().st_mode) == after


@posix
def test_file_that_is_made_privately_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with open(tmp_path / "page.html", "w", encoding="utf-8", opener=open_private) as file:
        file.write("x")

    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
