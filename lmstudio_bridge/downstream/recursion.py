"""How the bridge keeps from starting itself: command lines that name it, and how deep it stands.

A wrapper may hide the name, a copy may bear another one: that is what the depth is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

DEPTH_VARIABLE = "LMSTUDIO_BRIDGE_DEPTH"
"""How many bridges stand above a process; it stops a bridge that starts itself through a wrapper."""

_BRIDGE = re.compile(r"lmstudio[-_]bridge(\.exe|\.cmd|\.git|/__main__\.py)?([@=<>~!\[;].*)?", re.IGNORECASE)
_BEFORE_BRIDGE = frozenset({"--from", "--directory", "--project", "--with", "--with-editable", "--spec", "-m", "run"})
_BEFORE_SCRIPT = frozenset({"-c", "-lc", "-ic", "/c"})


def starts_bridge(command: str, args: tuple[str, ...]) -> bool:
    """Whether a command line starts this program, which must not hand tasks to itself.

    A path that ends in our name counts only where a program or a package stands: the same path as
    the folder that a file server may see is harmless.
    """
    if _names_bridge(command):
        return True
    words = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    # The program is the first word that is neither an option nor a variable, as in `env -i DEBUG=1 program`.
    program = next((word for word in words if not re.match(r"-|\w+=", word)), None)
    for before, word in zip(("", *words), words, strict=False):
        if before in _BEFORE_SCRIPT and any(map(_names_bridge, re.split(r"[\s;&|\"']+", word))):
            return True
        in_place = word is program or before in _BEFORE_BRIDGE or PurePath(word).name == word
        if in_place and _names_bridge(word):
            return True
    return False


def read_depth(environ: Mapping[str, str]) -> int:
    """How many bridges stand above us; 0 where nobody says, or says something that is no number."""
    text = environ.get(DEPTH_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _names_bridge(word: str) -> bool:
    """Whether a program, module, package or repository is us, whatever its folder and version."""
    word = word.replace("\\", "/").rstrip("/")
    start = max(word.lower().rfind("/lmstudio-bridge"), word.lower().rfind("/lmstudio_bridge")) + 1
    return _BRIDGE.fullmatch(word, start) is not None
