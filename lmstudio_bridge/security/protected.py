"""The protected files that there are in a workspace, and which of them are new or changed after a run.

The sandbox holds those that exist. It cannot keep a server from making others, so they are looked for at the end.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from lmstudio_bridge.errors import listed
from lmstudio_bridge.security.workspace import MAX_PATH, PROTECTED, Workspace, is_protected, plain_name
from lmstudio_bridge.text import quoted_name

MAX_WALKED = 200_000  # files among which protected ones are looked for; takes 0.5 s
MAX_INSIDE = 2_000  # of a protected folder

Seen: TypeAlias = Mapping[Path, tuple[int, ...]]
_STOPPED = (-1,)  # in place of what a file is: its folder was not searched to the end
_INSIDE = {
    ".git": ("config", "config.worktree", "hooks"),
    ".hg": ("hgrc",),
    ".jj": (),
    ".svn": (),
    ".idea": (),
    ".yarn": (),
}
"""What is looked at in the folders that other programs write to all the time; in others it is all."""

_BELOW = {name: (inside,) for name, _, inside in (each.partition("/") for each in PROTECTED) if inside}
"""What is protected only in a folder of that name: `workflows` of `.github`."""


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
                continue
            if entry.is_symlink():
                inside = (Path(entry.path, each) for each in _BELOW.get(name, ()))
                yield from filter(os.path.lexists, inside)
            elif entry.name != "node_modules" and entry.is_dir(follow_symlinks=False):
                (left.appendleft if name in _BELOW else left.append)((Path(entry.path), name))


def find_targets(path: Path, folders: Collection[Path]) -> Iterator[Path]:
    """What a protected link, or a file `.git`, leads to in one of the folders, which are real paths."""
    found = [path]
    if path.name.casefold() == ".git":
        found += [each for each in [_read_path(path, "gitdir:")] if each]
        found += [each for folder in found[1:] if (each := _read_path(folder / "commondir", ""))]
    for each in found:
        with suppress(OSError, ValueError):
            real = Path(os.path.realpath(each))
            if real not in (path, *folders) and not real.is_symlink() and any(map(real.is_relative_to, folders)):
                yield real


def _read_path(file: Path, prefix: str) -> Path | None:
    """The path in a file of git, by its folder; None if there is none."""
    if not os.path.isfile(file):  # a pipe would never end
        return None
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as opened:
            text = opened.read(MAX_PATH)
    except (OSError, ValueError):
        return None
    return file.parent / text[len(prefix) :].strip() if text.startswith(prefix) else None


def _is_of_others(folder: Path) -> bool:
    """Whether only another user can open a folder, as that of a container's database."""
    try:
        return os.stat(folder).st_uid != os.getuid()
    except (OSError, AttributeError):  # Windows has no getuid
        return False


def look_at_protected(workspace: Workspace, *, but: Collection[Path] = (), most: int = MAX_WALKED) -> Seen:
    """Which file each protected one is, and when it was changed; of folders and links, only which they are.

    Nothing of a folder that has the home folder in it, where other programs keep their state, and nothing protected
    that `but` names: the real paths that the user lets servers write.
    """
    pairs = ((path, folder) for path in but for folder in workspace.folders if path.is_relative_to(folder))
    named = [path for path, folder in pairs if is_protected(path.relative_to(folder))]
    found: dict[Path, tuple[int, ...]] = {}
    home = workspace.home and Path(os.path.realpath(workspace.home))
    for folder in (each for each in workspace.folders if not (home and home.is_relative_to(each))):
        for path in find_protected(folder, most=most):
            if path is None:
                found[folder] = _STOPPED
                continue
            name = plain_name(path.name)
            for top in (path, *find_targets(path, workspace.folders)):
                inside = list(islice(_find_inside(top, name), MAX_INSIDE + 1))
                for each in (top, *inside[:MAX_INSIDE]):
                    with suppress(OSError):
                        state = each.lstat()
                        found[each] = (state.st_dev, state.st_ino)
                        if stat.S_ISREG(state.st_mode):  # ctime cannot be put back; on Windows it is that of creation
                            found[each] += (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
                if len(inside) > MAX_INSIDE:
                    found[top] = _STOPPED
    return {path: state for path, state in found.items() if not any(map(path.is_relative_to, named))}


def _find_inside(folder: Path, name: str) -> Iterator[Path]:
    """What is in a protected folder of that name, always in the same order, but not the worktrees of Claude Code."""
    for part in (folder / each for each in _INSIDE.get(name, ("",))):
        yield part
        for top, folders, files in os.walk(part) if not os.path.islink(part) else ():
            at_top = Path(top) == folder and name == ".claude"
            folders[:] = sorted(each for each in folders if not (at_top and each == "worktrees"))
            yield from (Path(top, each) for each in (*sorted(files), *folders))


def warn_of_changed(before: Seen, after: Seen) -> str:
    """What to tell about protected files that are new, deleted or not the same any more; "" if there are none."""
    stopped = [path for path, state in {**before, **after}.items() if _STOPPED in (before.get(path), state)]
    changed = [path for path, state in after.items() if before.get(path) != state and path not in stopped]
    told = [quoted_name(str(path)) for path in changed]
    deleted = [path for path in before if path not in after and not {path, *path.parents} & {*stopped}]
    told += [f"{quoted_name(str(path))} (deleted)" for path in deleted]
    warning = (
        f"Protected files were created, changed or deleted in the meantime, which no call may name: {listed(told)}. "
        "Unless it was you, look at them before you go on: they can make other programs run commands."
    )
    folders = listed([quoted_name(str(path)) for path in stopped])
    unsure = f"Not all protected files were compared: {folders} has too many files, or a folder that cannot be read."
    return " ".join([*([warning] if told else []), *([unsure] if stopped else [])])
