"""The protected files that there are in a workspace, and which of them are new or changed after a run.

The sandbox holds those that exist. It cannot keep a server from making others, so they are looked for at the end.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

from lmstudio_bridge.errors import listed
from lmstudio_bridge.security.workspace import PROTECTED, Workspace, plain_name
from lmstudio_bridge.text import quoted_name

MAX_WALKED = 200_000  # files among which protected ones are looked for; takes 0.5 s
MAX_INSIDE = 2_000  # of a protected folder

Seen: TypeAlias = Mapping[Path, tuple[int, ...]]
_STOPPED = (-1,)  # in place of what a file is: its folder was not searched to the end
_INSIDE = {".git": ("config", "hooks"), ".hg": ("hgrc",), ".jj": (), ".svn": (), ".idea": (), ".yarn": ()}
"""What is looked at in the folders that other programs write to all the time; in others it is all."""


def find_protected(folder: Path, *, most: int = MAX_WALKED) -> Iterator[Path | None]:
    """The protected files, folders and links in a folder, those near to it first; `node_modules` are left out.

    None stands for what cannot be searched: too many files, or a folder of this user's that cannot be read.
    """
    left, walked = deque([(folder, "")]), 0
    while left:
        if walked >= most:
            yield None
            return
        current, above = left.popleft()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError:
            if not _is_of_others(current):
                yield None
            continue
        walked += len(entries)
        for entry in entries:
            name = plain_name(entry.name)
            if name in PROTECTED or f"{above}/{name}" in PROTECTED:
                yield Path(entry.path)
            elif name != "node_modules" and entry.is_dir(follow_symlinks=False):
                is_near = any(each.startswith(f"{name}/") for each in PROTECTED)
                (left.appendleft if is_near else left.append)((Path(entry.path), name))


def _is_of_others(folder: Path) -> bool:
    """Whether only another user can open a folder, as that of a container's database."""
    try:
        return os.stat(folder).st_uid != os.getuid()
    except (OSError, AttributeError):  # Windows has no getuid
        return False


def look_at_protected(workspace: Workspace, *, most: int = MAX_WALKED) -> Seen:
    """Which file each protected one is, and when it was changed; of folders and links, only which they are.

    Nothing of a folder that has the home folder in it, where other programs keep their state.
    """
    found: dict[Path, tuple[int, ...]] = {}
    home = workspace.home and Path(os.path.realpath(workspace.home))
    for folder in (each for each in workspace.folders if not (home and home.is_relative_to(each))):
        for path in find_protected(folder, most=most):
            if path is None:
                found[folder] = _STOPPED
                continue
            for each in chain((path,), islice(_find_inside(path), MAX_INSIDE)):
                with suppress(OSError):
                    state = each.lstat()
                    found[each] = (state.st_dev, state.st_ino)
                    if stat.S_ISREG(state.st_mode):  # ctime cannot be put back; on Windows it is that of creation
                        found[each] += (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found


def _find_inside(folder: Path) -> Iterator[Path]:
    for part in (folder / name for name in _INSIDE.get(plain_name(folder.name), ("",))):
        yield part
        for top, folders, files in os.walk(part) if not os.path.islink(part) else ():
            yield from (Path(top, name) for name in (*folders, *files))


def warn_of_changed(before: Seen, after: Seen) -> str:
    """What to tell about protected files that are new, deleted or not the same any more; "" if there are none."""
    stopped = [path for path, state in {**before, **after}.items() if _STOPPED in (before.get(path), state)]
    changed = [path for path, state in after.items() if before.get(path) != state and path not in stopped]
    told = [quoted_name(str(path)) for path in changed]
    told += [f"{quoted_name(str(path))} (deleted)" for path in before if path not in after and not stopped]
    warning = (
        f"Protected files were created, changed or deleted in the meantime, which no call may name: {listed(told)}. "
        "Unless it was you, look at them before you go on: they can make other programs run commands."
    )
    folders = listed([quoted_name(str(path)) for path in stopped])
    unsure = f"Not all protected files were compared: {folders} has too many files, or a folder that cannot be read."
    return " ".join([*([warning] if told else []), *([unsure] if stopped else [])])
