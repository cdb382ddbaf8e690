"""Paths in the arguments of a call, and whether they stay in the workspace."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lmstudio_bridge.messages import JSONObject

PATH_WORDS = frozenset(
    (
        *("path", "paths", "filepath", "filepaths", "file", "files", "filename", "filenames"),
        *("dir", "dirs", "directory", "directories", "folder", "folders", "root", "roots", "cwd"),
        *("source", "sources", "src", "destination", "dest", "dst", "target", "uri", "uris", "url"),
    )
)
"""An argument is taken for a path if its name ends in such a word: `file_path`, `sourceDirectory`, `path2`.

Also an ordinary address may stand there; as a path it would be a relative one, which harms nothing.
"""

PROTECTED = frozenset(
    (".git", ".claude", ".claude.json", ".cursor", ".mcp.json", "mcp.json", ".vscode", "lmstudio-bridge.toml")
)
"""What makes other programs run commands, or says what a run may do: only reading tools may name it."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ENDINGS = ("path", "paths", "file", "files", "dir", "dirs", "folder", "folders", "directory", "directories")
_NO_PATHS = frozenset({"xpath"})
_MEMBER = "name"  # what a path is called inside of an argument for one: {"files": [{"name": "a.txt"}]}
_AROUND = "".join(each for each in map(chr, range(0x3001)) if each.isspace() or each < " ") + "\ufeff\"'"
"""What servers and browsers take off on both sides."""
_PASSED_OVER = re.compile(r"[\t\r\n]")  # inside of an address, as browsers and Node read it
_FILE_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*:)*?file:(.*)", re.IGNORECASE | re.DOTALL)  # also view-source:file:
_VARIABLE = re.compile(r"\$\{?[A-Z_]|%[A-Za-z_]+%")  # at the beginning, as in $HOME/.ssh
MAX_DEPTH = 32  # of nested arguments; what lies deeper is refused


class TooDeepError(ValueError):
    """Arguments are nested so deeply that they were not looked through."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders that tools may work in, with all links resolved."""

    folders: tuple[Path, ...]
    home: Path | None = None

    def places_of(self, text: str, *, base: Path) -> list[Path] | None:
        """Where below one of the folders a path is, seen from that folder; None if it leaves them.

        `base` is the folder from which the server sees relative paths. Servers differ in how they read
        a path (white space and quotation marks around it, `~`, file: URLs), so every reading must stay.
        """
        places: list[Path] = []
        for reading in _readings(text, home=self.home):
            bases = (base, *self.folders) if ".." not in Path(reading).parts else (base,)
            for full in (spelled for each in bases for spelled in _ways_up(each / reading)):
                try:
                    real = Path(os.path.realpath(full))
                except (ValueError, OSError):  # a null byte; a circle of links
                    return None
                folder = next((folder for folder in self.folders if real.is_relative_to(folder)), None)
                if folder is None:
                    return None
                places.append(real.relative_to(folder))
        return places

    def __str__(self) -> str:
        """The folders, for a reader."""
        return ", ".join(map(str, self.folders)) or "no folder"


def make_workspace(folders: Iterable[Path], *, home: Path | None = None) -> Workspace:
    """A workspace of these folders, links resolved."""
    return Workspace(tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders)), home)


def is_protected(place: Path) -> bool:
    """Whether a place in the workspace is one that only reading tools may name.

    Windows takes `.git.`, `.git ` and `.git::$DATA` for `.git`.
    """
    return any(part.partition(":")[0].rstrip(" .").casefold() in PROTECTED for part in place.parts)


def find_paths(arguments: JSONObject, *, names: frozenset[str] | None, more: frozenset[str]) -> Iterator[str]:
    """The texts in the arguments that are paths, wherever they stand.

    `names` are the arguments that are paths; None goes by their usual names. `more` are paths as well.

    Raises:
        TooDeepError: They are nested too deeply.
    """

    def is_path(name: str) -> bool:
        if name in more:
            return True
        return name in names if names is not None else _names_path(name)

    def walk(value: Any, named: bool, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise TooDeepError("the arguments are nested too deeply")
        if isinstance(value, str):
            if named or (names is None and _file_address(_bare(value)) is not None):
                yield value
        elif isinstance(value, dict):
            for key, item in value.items():
                if named:
                    yield str(key)  # {"files": {"a.txt": "its text"}}
                yield from walk(item, is_path(str(key)) or (named and key == _MEMBER), depth + 1)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from walk(item, named, depth + 1)

    yield from walk(dict(arguments), False, 0)


def _names_path(name: str) -> bool:
    """Whether an argument of this name is taken for a path."""
    word = (_WORD.findall(name) or [""])[-1].lower()
    return word in PATH_WORDS or (word.endswith(_ENDINGS) and word not in _NO_PATHS)


def _bare(text: str) -> str:
    return text.strip(_AROUND)


def _file_address(text: str) -> str | None:
    """What stands behind `file:`, with slashes as Node and browsers read them; None if it is no such address."""
    found = _FILE_ADDRESS.match(_PASSED_OVER.sub("", text))
    return found[1].replace("\\", "/") if found else None


def _ways_up(path: Path) -> tuple[str, ...]:
    """A path as the system reads it, and with its `..` taken out first: Node does that, and passes over links."""
    return tuple(dict.fromkeys((os.fspath(path), os.path.normpath(path))))


def _readings(text: str, *, home: Path | None) -> Iterator[str]:
    """The ways in which servers read a path."""
    bare = _bare(text)
    spelled = [text, bare, bare.replace("\\", "/")]
    if (address := _file_address(bare)) is not None:
        # Some servers parse it, others only cut off its beginning.
        rest = address.removeprefix("//")
        _, slash, path = rest.partition("/") if address.startswith("//") else ("", "", address)
        spelled += [rest, unquote(rest), unquote(re.split("[?#]", slash + path)[0])]
    for reading in dict.fromkeys(spelled):
        yield reading
        first, *parts = Path(reading).parts or (".",)
        if first.startswith("~"):
            # Another user's home folder is none of ours, wherever it is.
            yield str(home.joinpath(*parts)) if first == "~" and home is not None else os.sep
        if _VARIABLE.match(reading):
            yield os.sep  # wherever it leads to
