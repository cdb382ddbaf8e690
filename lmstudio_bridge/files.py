"""Bounded reads of files that others may have made (a link to /dev/zero must not fill memory), and atomic writes."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from lmstudio_bridge.errors import SettingsError

MEBIBYTE = 1024 * 1024
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
SHARED_FILE = 0o644
_OTHERS_WRITE = 0o022
_NAMED = 40  # characters of a file's name that its temporary file has: a name can have no more than 255 bytes
_MAX_TEXT_BYTES = 64 * MEBIBYTE  # Claude Code keeps its history in its configuration file, too


@contextmanager
def open_beside(path: Path) -> Iterator[tuple[str, int | None]]:
    """The name of a file and its opened folder, for `dir_fd`: what becomes a link meanwhile leads nowhere else.

    Where the system has no such thing, as Windows, the whole path and None.

    Raises:
        OSError: The folder cannot be opened, or a link leads to it.
    """
    if os.open not in os.supports_dir_fd:
        yield os.fspath(path), None
        return
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
    opened = os.open(path.anchor, flags)
    try:
        for part in path.parts[1:-1]:
            above, opened = opened, os.open(part, flags, dir_fd=opened)
            os.close(above)
        yield path.name, opened
    finally:
        os.close(opened)


def read_bounded(path: Path, *, max_bytes: int, follow_links: bool = True, folder: int | None = None) -> bytes:
    """The content of a regular file; of `folder`, if the path is the name of a file in it.

    Raises:
        OSError: It cannot be read, is a device or a pipe, is larger than `max_bytes`, or is a link that must not be
            followed.
    """
    if follow_links:  # look before opening: to open a device may have effects
        _check_regular(path.stat().st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would block
    flags |= 0 if follow_links else getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, dir_fd=folder), "rb") as file:
        _check_regular(os.fstat(file.fileno()).st_mode, path)
        data = read_at_most(file, max_bytes)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes // 1024:,} KiB", os.fspath(path))
    return data


def read_at_most(file: BinaryIO, max_bytes: int) -> bytes:
    """The content of an open file; of a longer one, the first `max_bytes` bytes and one more.

    Python allocates as much as it is asked to read, so the size of the file is asked for first.
    """
    size = os.fstat(file.fileno()).st_size
    data = file.read(min(size, max_bytes) + 1)
    if len(data) > size:  # it has grown, or, as in /proc, has no size
        data += file.read(max_bytes + 1 - len(data))
    return data


def read_text(path: Path) -> str | None:
    """The text of a file with its line ends and byte order mark unchanged; None if there is no file.

    Raises:
        SettingsError: It cannot be read, or is not valid UTF-8.
    """
    try:
        return read_bounded(path, max_bytes=_MAX_TEXT_BYTES).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read: {exc}.", remedy="It was not changed.") from exc


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner can read; if it exists, nobody else can write to it from now on.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    make_private(folder)


def make_private(folder: Path) -> None:
    """Make a folder private to its owner, that is us, if others may write to it: they could replace what is in it.

    One in which each may only touch their own files, such as /tmp, stays as it is.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return
    with suppress(OSError):
        found = folder.stat()
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid == os.geteuid() and mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            folder.chmod(PRIVATE_FOLDER)


def open_private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that is made is readable by its owner only."""
    return os.open(path, flags, PRIVATE_FILE)


def open_own(path: str, flags: int) -> int:
    """An `opener` as `open_private` that follows no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE)


def write_file(
    path: Path,
    data: bytes,
    *,
    mode: int = PRIVATE_FILE,
    owner: tuple[int, int] | None = None,
    flush: bool = False,
    folder: int | None = None,
) -> None:
    """Write a file in one step: after a crash, or with a second bridge, it is either the old or the new one.

    `owner` is a user id and a group id. With `flush`, the content is on the disk before the name refers to it. With
    `folder`, the path is the name of a file in it.

    Raises:
        OSError: It cannot be written; then the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name[:_NAMED]}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, PRIVATE_FILE, dir_fd=folder)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            if hasattr(os, "fchmod"):  # not on Windows
                made = os.fstat(file.fileno())
                if owner is not None and owner != (made.st_uid, made.st_gid):
                    os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), mode)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def replace_with_backup(
    path: Path, *, before: str | None, after: str, now: datetime, shared: bool = False
) -> Path | None:
    """Replace a file whose text is `before` with `after`; returns the path of the backup, if there was a file.

    A symbolic link stays: its target is replaced. Mode and owner stay. A new file is private unless `shared`.

    Raises:
        SettingsError: The file has changed or cannot be written; then it is left as it is.
    """
    target = Path(os.path.realpath(path))
    if read_text(target) != before:
        raise SettingsError(f"{path} was changed by another program just now.", remedy="Try again.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if before is None:
            write_file(target, after.encode("utf-8"), mode=SHARED_FILE if shared else PRIVATE_FILE, flush=True)
            return None
        backup = back_up(target, before, now=now)
        _write_like(target, target, after)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    return backup


def back_up(path: Path, text: str | None, *, now: datetime) -> Path | None:
    """A copy of a file with this text beside it, with its mode and owner; None if there is no file.

    Raises:
        SettingsError: It cannot be written.
    """
    if text is None:
        return None
    target = Path(os.path.realpath(path))
    try:
        backup = _unused_name(target, now)
        _write_like(target, backup, text)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    return backup


def _write_like(known: Path, path: Path, text: str) -> None:
    """Write a file with the mode and the owner of another one."""
    state = known.stat()
    mode, owner = stat.S_IMODE(state.st_mode), (state.st_uid, state.st_gid)
    write_file(path, text.encode("utf-8"), mode=mode, owner=owner, flush=True)


def _unwritable(path: Path, exc: OSError) -> SettingsError:
    return SettingsError(
        f"{path} cannot be written: {exc.strerror or exc}.",
        remedy="It was not changed. Check that you own its folder and that the disk has space left.",
    )


def _check_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe", os.fspath(path))


def _unused_name(path: Path, now: datetime) -> Path:
    first = path.with_name(f"{path.name}.backup-{now:%Y%m%d-%H%M%S}")
    more = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([first], more) if not name.exists())
