"""Files that somebody else may have made, read up to a bound: a link to /dev/zero must not fill the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

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
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes // MEBIBYTE} MiB", os.fspath(path))
    return data
