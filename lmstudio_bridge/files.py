"""Files that somebody else may have made, read up to a bound: a link to /dev/zero must not fill the memory.

Small files that are ours alone: read without trust in what stands there, written whole or not at all.

Writes a changed file in one step: all of it or nothing, with what was there kept beside it.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from lmstudio_bridge.errors import SettingsError

MEBIBYTE = 1024 * 1024


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """The whole file.

    Raises:
        OSError: It cannot be read, is a device or a pipe, or is larger than that.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder has an error of its own; a pipe would be waited for
        raise OSError(errno.EINVAL, "it is a device or a pipe", os.fspath(path))
    with path.open("rb") as file:
        data = read_at_most(file, most=max_bytes)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes // MEBIBYTE} MiB", os.fspath(path))
    return data


def read_at_most(file: BinaryIO, *, most: int) -> bytes:
    """The whole of an open file; of one that is longer than `most` bytes, one more than that.

    Python makes room for as much as it is asked to read, so it is asked for what the file says that it has.
    """
    size = os.fstat(file.fileno()).st_size
    data = file.read(min(size, most) + 1)
    if len(data) > size:  # it has grown, or never says its size
        data += file.read(most + 1 - len(data))
    return data


_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


def read_plain_file(path: Path, *, most: int) -> bytes:
    """The content of a plain file of at most so many bytes.

    Raises:
        OSError: It is something else, too long, or cannot be read.
    """
    # A link could lead to a secret, and a pipe would keep us waiting.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a plain file")
        data = read_at_most(file, most=most)
    if len(data) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return data


def make_folder(folder: Path) -> None:
    """Make a folder for such files, if it is not there.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: a crash or a second bridge must not leave half of one.

    Raises:
        OSError: It cannot be written.
    """
    beside = path.with_suffix(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(beside, flags, _FILE_MODE), "wb") as file:
            file.write(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


_MAX_BYTES = 64 * MEBIBYTE  # Claude Code keeps its history in there, too
_OWN_MODE = 0o600  # these files may hold tokens
_SHARED_MODE = 0o644


def read_text(path: Path) -> str | None:
    """The text of a file, line ends and byte order mark as they are; None where there is no file.

    Raises:
        SettingsError: It cannot be read, or is no UTF-8.
    """
    try:
        return read_bounded(path, max_bytes=_MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read: {exc}.", remedy="It was left as it is.") from exc


def replace_with_backup(
    path: Path, *, before: str | None, after: str, now: datetime, shared: bool = False
) -> Path | None:
    """Put `after` in the place of `before`, and give the path of the copy that was made of it, if there was a file.

    A link stays a link: the file that it leads to is replaced. Mode and owner stay. A new file is
    the owner's alone unless it is `shared`.

    Raises:
        SettingsError: The file is not as it was, or it cannot be written; then it is left as it is.
    """
    real = Path(os.path.realpath(path))
    if read_text(real) != before:
        raise SettingsError(f"{path} was changed by somebody else just now.", remedy="Try again.")
    new: Path | None = None
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = _SHARED_MODE if shared else _OWN_MODE
        copy = None
        if before is not None:
            known = real.stat()
            mode = known.st_mode & 0o7777
            copy = _write_beside(real, before, mode=mode, owner=(known.st_uid, known.st_gid))
            copy = copy.replace(_free_name(real, now))
        owner = (known.st_uid, known.st_gid) if before is not None else None
        new = _write_beside(real, after, mode=mode, owner=owner)
        os.replace(new, real)
    except OSError as exc:
        if new is not None:
            with suppress(OSError):
                new.unlink()
        raise SettingsError(
            f"{path} cannot be written: {exc.strerror or exc}.",
            remedy="It was left as it is. Look whether its folder is yours and has room.",
        ) from exc
    return copy


def _free_name(path: Path, now: datetime) -> Path:
    """A name for a copy that no earlier copy has."""
    first = path.with_name(f"{path.name}.backup-{now:%Y%m%d-%H%M%S}")
    more = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([first], more) if not name.exists())


def _write_beside(path: Path, text: str, *, mode: int, owner: tuple[int, int] | None) -> Path:
    """A new file in the same folder, whole on the disk before its name is used."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            if hasattr(os, "fchown") and owner is not None:  # not on Windows
                made = os.fstat(file.fileno())
                if (made.st_uid, made.st_gid) != owner:
                    os.fchown(file.fileno(), *owner)
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.unlink(name)
        raise
    return Path(name)
