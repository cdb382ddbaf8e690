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

MAX_WALKED = 200_000  # files among which protected ones are looked for; takes 0.8 s
MAX_INSIDE = 2_000  # of a protected folder

Seen: TypeAlias = Mapping[Path, tuple[int, ...]]
_STOPPED = (-1,)  # in place of what a file is: its folder was not searched to the end
_INSIDE = {".git": ("config", "hooks/*"), ".hg": ("hgrc",), ".jj": (), ".svn": (), ".idea": (), ".yarn": ()}
"""What is looked at in the folders that other programs write to all the time; in others it is all."""


def find_protected(folder: Path, *, most: int = MAX_WALKED) -> Iterator[Path | None]:
    """The protected files, folders and links in a folder, those near to it first; `node_modules` are left out.

    None comes last if there is too much to search.
    """
    left, walked = deque([(folder, "")]), 0
    while left:
        if walked >= most:
            yield None
            return
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
                is_near = any(each.startswith(f"{name}/") for each in PROTECTED)
                (left.appendleft if is_near else left.append)((Path(entry.path), name))


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
            inside = chain(*(path.glob(each) for each in _INSIDE.get(plain_name(path.name), ("**/*",))))
            for each in chain((path,), islice(inside, MAX_INSIDE)):
                with suppress(OSError):
                    state = each.lstat()
                    changed = (state.st_ctime_ns,) if stat.S_ISREG(state.st_mode) else ()
                    found[each] = (state.st_dev, state.st_ino, *changed)
    return found


def warn_of_changed(before: Seen, after: Seen) -> str:
    """What to tell about protected files that are new, deleted or not the same any more; "" if there are none."""
    stopped = [str(path) for path in after if _STOPPED in (before.get(path), after[path])]
    changed = [quoted_name(str(path)) for path in after if before.get(path) != after[path] and str(path) not in stopped]
    changed += [f"{quoted_name(str(path))} (deleted)" for path in before.keys() - after.keys() if not stopped]
    said = []
    if changed:
        said.append(
            f"Protected files were created, changed or deleted in the meantime, which no call may name: "
            f"{listed(changed)}. "
            "Unless it was you, look at them before you go on: they can make other programs run commands."
        )
    if stopped:
        said.append(f"Not all protected files were compared: {listed(stopped)} has too many files.")
    return " ".join(said)
