"""What git says of a project's files before and after a run: a server may change files that no call named.

Nothing of the repository is run: neither hooks nor `core.fsmonitor`, and git is not asked where the repository's own
configuration has filters, which `git status` would start. Submodules are left out, and nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.mcp_client.launch import add_git_safety

SECONDS = 3.0  # for git to answer; of larger repositories nothing is known
MAX_PATHS = 5_000

Entry: TypeAlias = tuple[str, tuple[int, int] | None]
"""What git says in two letters, and modification time and size; None where nothing is."""

Change: TypeAlias = Literal["created", "changed", "deleted"]

_PASSED_ON = ("PATH", "HOME", "XDG_CONFIG_HOME", "USERPROFILE", "SYSTEMROOT")
_STATUS = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=all", "--", ".")
_FILTERS = ("config", "--includes", "--show-scope", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process)$")


def read_status(folder: Path, environ: Mapping[str, str]) -> dict[Path, Entry] | None:
    """The files that git calls changed or new; None if it is no repository, or git cannot be asked."""
    root = next((each for each in (folder, *folder.parents) if os.path.lexists(each / ".git")), None)
    git = shutil.which("git", path=environ.get("PATH", os.defpath))
    if root is None or git is None or not os.path.isabs(git):
        return None
    if Path(os.path.realpath(os.path.dirname(git))).is_relative_to(os.path.realpath(root)):
        return None  # the repository brings it along
    env = {name: environ[name] for name in _PASSED_ON if name in environ}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "", "GIT_TERMINAL_PROMPT": "0"}
    env = add_git_safety(env)
    try:
        scopes = _ask([git, *_FILTERS], folder, env, ends=(0, 1)).splitlines()
        if any(line.startswith((b"local", b"worktree")) for line in scopes):
            return None
        found = _ask([git, *_STATUS], folder, env).split(b"\0")
    except (OSError, subprocess.SubprocessError):
        return None
    entries = [(os.fsdecode(each[:2]), root / os.fsdecode(each[3:])) for each in found if each]
    return None if len(entries) > MAX_PATHS else {path: (letters, _look(path)) for letters, path in entries}


def compare_status(before: Mapping[Path, Entry], after: Mapping[Path, Entry]) -> dict[Path, Change]:
    """The files whose content is not as it was, by path. What was only staged or committed is not among them."""
    changes: dict[Path, Change] = {}
    for path in sorted({*before, *after}):
        earlier = before[path][1] if path in before else None
        now = after[path][1] if path in after else _look(path)
        if path in before and earlier == now:
            continue
        is_new = path in after and after[path][0] in ("??", "A ", "AM") and path not in before
        changes[path] = "deleted" if now is None else "created" if is_new else "changed"
    return changes


def _ask(words: list[str], folder: Path, env: Mapping[str, str], *, ends: tuple[int, ...] = (0,)) -> bytes:
    done = subprocess.run(
        words, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
    )
    if done.returncode not in ends:
        raise subprocess.CalledProcessError(done.returncode, words)
    return done.stdout


def _look(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.lstat()
        return found.st_mtime_ns, found.st_size
    return None
