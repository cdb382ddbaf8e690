"""The protected files that there are in a workspace, and which of them are new or changed after a run.

The sandbox holds those that exist. It cannot keep a server from making others, so they are looked for at the end.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from lmstudio_bridge.errors import listed
from lmstudio_bridge.security.workspace import PROTECTED, Workspace, plain_name
from lmstudio_bridge.text import quoted_name

MAX_WALKED = 50_000  # files among which protected ones are looked for; takes 0.2 s

Seen: TypeAlias = Mapping[Path, tuple[int, ...]]


def find_protected(folder: Path) -> Iterator[Path]:
    """The protected files, folders and links in a folder, those near to it first; `node_modules` are left out."""
    left, walked = deque([(folder, "")]), 0
    while left and walked < MAX_WALKED:
        current, above = left.popleft()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue
        walked += len(entries)
        for entry in entries:
            name = plain_name(entry.name)
            if name in PROTECTED or f"{above}/{name}" in PROTECTED:
                yield Path(entry.path)
            elif name != "node_modules" and entry.is_dir(follow_symlinks=False):
                left.append((Path(entry.path), name))


def look_at_protected(workspace: Workspace) -> Seen:
    """Which file each protected one is, and when it was changed; of folders and links, only which they are.

    Nothing of a folder that has the home folder in it, where other programs keep their state.
    """
    found: dict[Path, tuple[int, ...]] = {}
    home = workspace.home and Path(os.path.realpath(workspace.home))
    folders = (each for each in workspace.folders if not (home and home.is_relative_to(each)))
    for path in (path for folder in folders for path in find_protected(folder)):
        with suppress(OSError):
            state = path.lstat()
            content = (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else ()
            found[path] = (state.st_dev, state.st_ino, *content)
    return found


def warn_of_changed(before: Seen, after: Seen) -> str:
    """What to tell about protected files that are new or not the same any more; "" if there are none."""
    changed = [quoted_name(str(path)) for path, state in after.items() if before.get(path) != state]
    if not changed:
        return ""
    return (
        f"Protected files were created or changed in the meantime, which no call may do: {listed(changed)}. "
        "Unless it was you, look at them before you go on: they can make other programs run commands."
    )
