"""Writes a changed file in one step: all of it or nothing, with what was there kept beside it."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from lmstudio_bridge.bounded_files import MEBIBYTE, read_bounded
from lmstudio_bridge.errors import SettingsError

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


def replace_file(path: Path, *, before: str | None, after: str, now: datetime, shared: bool = False) -> Path | None:
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
