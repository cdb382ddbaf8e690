"""What git says of a project's files before and after a run: a server may change files that no call named.

Nothing of the repository is run. Its configuration could name programs, such as filters and `core.fsmonitor`, and a
server may change it at any time; so `git status` gets a folder of ours in place of `.git`, with the repository's index
and objects, and no configuration of the user or the system. Submodules are left out, and nothing is fetched.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.mcp_client.launch import add_git_safety
from lmstudio_bridge.security.sandbox import find_program, is_in
from lmstudio_bridge.settings import Surroundings

SECONDS = 3.0  # for git to answer; of larger repositories nothing is known
MAX_PATHS = 5_000

Entry: TypeAlias = tuple[str, tuple[int, int] | None]
"""What git says in two letters, and modification time and size; None where nothing is."""

Change: TypeAlias = Literal["created", "changed", "deleted"]

_PASSED_ON = ("PATH", "HOME", "XDG_CONFIG_HOME", "USERPROFILE", "SYSTEMROOT")
_HOMES = ("HOME", "XDG_CONFIG_HOME", "USERPROFILE")
_STATUS = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=all", "--", ".")
_PLACES = ("--git-path", "index", "--git-path", "objects", "--git-path", "info/exclude")
_REPOSITORY = ("rev-parse", "--path-format=absolute", "--show-object-format", *_PLACES, "--revs-only", "HEAD")
_CONFIG = "[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tobjectFormat = {}\n"


def read_status(folder: Path, environ: Mapping[str, str], untrusted: Iterable[Path] = ()) -> dict[Path, Entry] | None:
    """The files that git calls changed or new; None if it is no repository, or git cannot be asked.

    Git itself is not taken from the repository, nor from the `untrusted` folders.
    """
    root = next((each for each in (folder, *folder.parents) if os.path.lexists(each / ".git")), None)
    git = find_program("git", Surroundings(root, environ), untrusted) if root else None
    if root is None or git is None:
        return None
    if any(is_in(Path(tempfile.gettempdir()), each) for each in (root, *untrusted)):
        return None  # a server could write the configuration there
    env = {name: environ[name] for name in _PASSED_ON if name in environ}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "", "GIT_TERMINAL_PROMPT": "0"}
    env = add_git_safety(env)
    try:
        # This runs nothing, whatever the configuration says.
        told = os.fsdecode(_ask([git, *_REPOSITORY], folder, env)).splitlines()
        object_format, index, objects, exclude = told[:4]
        with tempfile.TemporaryDirectory() as own:
            for each in ("refs", "info"):
                Path(own, each).mkdir()
            Path(own, "HEAD").write_text("".join(told[4:]) or "ref: refs/heads/main", encoding="utf-8")
            Path(own, "config").write_text(_CONFIG.format(object_format), encoding="utf-8")
            with suppress(OSError):  # Windows may forbid it
                Path(own, "info", "exclude").symlink_to(exclude)
            # The user's filters name programs, too, and a server may have written what they find on the PATH.
            env = {name: value for name, value in env.items() if name not in _HOMES}  # for git before 2.32
            env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
            env |= {
                "GIT_DIR": own,
                "GIT_WORK_TREE": str(root),
                "GIT_INDEX_FILE": index,
                "GIT_OBJECT_DIRECTORY": objects,
            }
            found = _ask([git, *_STATUS], folder, env).split(b"\0")
    except (OSError, ValueError, subprocess.SubprocessError):
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


def _ask(words: list[str], folder: Path, env: Mapping[str, str]) -> bytes:
    return subprocess.run(
        words,
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=SECONDS,
        check=True,
    ).stdout


def _look(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.lstat()
        return found.st_mtime_ns, found.st_size
    return None
