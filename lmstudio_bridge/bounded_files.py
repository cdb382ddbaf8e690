"""Files that somebody else may have made, read up to a bound: a link to /dev/zero must not fill the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

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
