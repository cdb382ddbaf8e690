"""Small files that are ours alone: read without trust in what stands there, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from lmstudio_bridge.bounded_files import read_at_most

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
