"""Paths in the arguments of a tool call, and whether they stay in the workspace."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lmstudio_bridge.messages import JSONObject

PATH_WORDS = frozenset((
    "path", "paths", "filepath", "filepaths", "file", "files", "filename", "filenames", "dir", "dirs", "directory",
    "directories", "folder", "folders", "root", "roots", "cwd", "source", "sources", "src", "destination", "dest",
    "dst", "target", "uri", "uris", "url",
))  # fmt: skip
"""An argument is a path if its name ends in such a word: `file_path`, `sourceDirectory`, `path2`.

If its value is an ordinary URL, it counts as a relative path, which does no harm.
"""

TEXT_WORDS = frozenset((
    "content", "contents", "text", "texts", "body", "message", "messages", "query", "queries", "sql", "code",
    "pattern", "patterns", "regex", "regexp", "search", "title", "description", "prompt", "question", "thought",
    "comment", "comments", "summary", "note", "notes", "payload", "headers", "header", "data", "rows", "cells",
    "selector", "xpath", "expression", "formula", "separator", "delimiter", "sep", "replacement", "observations",
    "task", "instructions",
))  # fmt: skip
"""An argument is text, whatever it looks like, if its name ends in such a word: `content`, `old_text`, `sqlQuery`."""

PROTECTED = frozenset((
    ".git", ".gitmodules", ".gitconfig", ".husky", ".github/workflows", ".claude", ".claude.json", ".claude-plugin",
    ".mcp.json", "mcp.json", ".cursor", ".codex", ".gemini", "claude.md", "claude.local.md", "agents.md", "gemini.md",
    ".cursorrules", ".windsurfrules", ".windsurf", ".zed", ".opencode", "opencode.json", "opencode.jsonc",
    ".continue", ".roo", ".kiro", ".clinerules", ".vscode", ".idea", ".devcontainer", ".devcontainer.json", ".envrc",
    ".npmrc", ".yarnrc.yml", ".ripgreprc", ".bashrc", ".bash_profile", ".profile", ".zshrc", ".zprofile", ".zshenv",
    ".zlogin", ".ssh", "lmstudio-bridge.toml", "copilot-instructions.md", ".zlogout", ".bash_login", ".bash_logout",
    ".bash_aliases", ".vimrc", ".exrc", ".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml", "mise.toml",
    ".mise.toml", ".pnpmfile.cjs", ".yarnrc", ".yarn", "bunfig.toml", ".hg", ".jj", ".svn", "git~1", ".circleci",
    ".gitlab-ci.yml", ".junie", ".amazonq", ".goosehints", ".aider.conf.yml", "warp.md", "qwen.md", ".qwen",
    "crush.md", "crush.json", ".crush.json", ".agents", ".kilocode", ".factory", ".augment", ".githooks", ".huskyrc",
    ".huskyrc.json", "lefthook.yaml", ".lefthook.yaml", "lefthook-local.yml", ".pnp.cjs", "mise.local.toml",
    ".mise.local.toml", ".gitea/workflows", "jenkinsfile", ".forgejo/workflows", ".woodpecker.yml", ".travis.yml",
    ".buildkite", "azure-pipelines.yml", "bitbucket-pipelines.yml",
))  # fmt: skip
"""What makes other programs run commands, instructs agents, or decides what a run may do: it is read, not changed."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ENDINGS = ("path", "paths", "file", "files", "dir", "dirs", "folder", "folders", "directory", "directories")
_BEGINNINGS = ("file", "path", "folder")
_NOT_PATHS = frozenset({"xpath"})
_MEMBER = "name"  # what a path is called inside a path argument: {"files": [{"name": "a.txt"}]}
_AROUND = "".join(each for each in map(chr, range(0x3001)) if each.isspace() or each < " ") + "\ufeff\"'"
"""What servers and browsers strip from both sides."""
_IGNORED = re.compile(r"[\t\r\n]")  # inside a URL, by browsers and Node
_FILE_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*:)*?file:(.*)", re.IGNORECASE | re.DOTALL)  # also view-source:file:
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://[^/\s]", re.IGNORECASE)  # with a host, so not a file
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+:)*([a-z][a-z0-9+.-]+):(/.*)", re.IGNORECASE | re.DOTALL)
_DATABASE = re.compile(r"sql|db|redis|mongo", re.IGNORECASE)  # sqlite:///a.db is relative, sqlite:////a.db is not
_ROUTE = re.compile(r"(/[\w-][\w.-]*)/[^\\%\s]*")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NO_PATH = re.compile(r"~(?![A-Za-z_/\\]|\Z)|\\[^\\]|\$(?!\{?\w+\}?[/\\])|%(?!\w+%[/\\]|2[EFef])")
"""How text begins that only looks like a path: `~10 items`, `\\d+`, `$5`, `100 %`."""
_INSIDE = re.compile(r"[`<(\[{@!]+(.*?)[`>)\]}]*|-{0,2}[\w-]+=(.+)|-\w([/~.].*)", re.DOTALL)
"""A path in brackets, behind the name of an option, or as `@/a.txt`, as curl reads it."""
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_HIDDEN_GLOB = re.compile(r"\.\w.*[*?\[].*", re.DOTALL)
MAX_PATH = 4_096  # characters; the system takes no longer path
_VARIABLE = re.compile(r"\$\{?[A-Z_]|%[A-Za-z_]+%")  # at the start, as in $HOME/.ssh
CRITERIA = frozenset(
    ("filter", "filters", "match", "query", "where", "projection", "selector", "criteria", "sort", "pipeline")
)
"""Names of arguments whose members are the fields of records."""
OPTION = re.compile(
    r"(?<!\S)(--(?:out[\w-]*|(?:save|download)(?:-?(?:to|as|path|file|dir|folder|name))?|local-path|filename))"
    r"(?:=|\s+(?!-\w))(\S+)"
)
"""In a value, for the program behind the tool: git diff --output=a.txt"""
NO_FILE_WORDS = frozenset((
    "format", "formats", "mode", "type", "types", "schema", "style", "language", "lang", "encoding", "unit", "units",
    "limit", "size", "length", "level", "fields", "columns", "count", "tokens", "detail", "id", "ids", "url", "urls",
    "date", "order", "by", "currency", "timezone", "locale", "version", "verbosity",
))  # fmt: skip
"""Ends of names such as `output_format` and `download_url`, which name no file."""
MAX_DEPTH = 32  # levels of nested arguments; deeper ones are refused


class TooDeepError(ValueError):
    """Arguments are nested too deeply to be checked."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders that tools may work in, with all symbolic links resolved."""

    folders: tuple[Path, ...]
    home: Path | None = None

    def locate(self, text: str, *, base: Path) -> list[Path] | None:
        """The path relative to the workspace folder that contains it, in every way to read it; None if one leads out.

        The server resolves relative paths against `base`. Servers differ in how they read a path (white space and
        quotation marks around it, `~`, file: URLs), so every way to read it must stay inside.
        """
        found: list[Path] = []
        for full in self._forms(text, base=base):
            try:
                real = Path(os.path.realpath(full))
            except (ValueError, OSError):  # a null byte; a loop of links
                return None
            folder = self._folder_of(real)
            if folder is None:
                return None
            found.append(real.relative_to(folder))
        return found

    def places(self, text: str, *, base: Path) -> Iterator[Path]:
        """Where on disk a path can be, in every way to read it; of a link also its own place. Only what is inside."""
        for full in self._forms(text, base=base):
            with suppress(ValueError, OSError):
                real, folder = Path(os.path.realpath(full)), Path(os.path.realpath(os.path.dirname(full)))
                link = [folder / os.path.basename(full)] if os.path.islink(full) else []
                yield from (each for each in (real, *link) if self._folder_of(each) is not None)

    def _forms(self, text: str, *, base: Path) -> Iterator[str]:
        for reading in _readings(text, home=self.home):
            bases = (base, *self.folders) if ".." not in Path(reading).parts else (base,)
            for each in bases:
                full = os.fspath(each / reading)
                yield from dict.fromkeys((full, os.path.normpath(full)))  # Node removes `..` before it follows links

    def _folder_of(self, real: Path) -> Path | None:
        return next((folder for folder in self.folders if real.is_relative_to(folder)), None)

    def __str__(self) -> str:
        """The folders, for messages."""
        return ", ".join(map(str, self.folders)) or "no folder"


def make_workspace(folders: Iterable[Path], *, home: Path | None = None) -> Workspace:
    """A workspace of these folders."""
    return Workspace(tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders)), home)


def is_protected(path: Path) -> bool:
    """Whether this path, which is relative to a workspace folder, is only to be read."""
    parts = list(map(plain_name, path.parts))
    pairs = (f"{one}/{two}" for one, two in pairwise(parts))
    globs = (part.casefold() for part in path.parts if _HIDDEN_GLOB.fullmatch(part))
    return not PROTECTED.isdisjoint((*parts, *pairs)) or any(fnmatch.filter(PROTECTED, each) for each in globs)


def plain_name(name: str) -> str:
    """The name of a file as `PROTECTED` has it.

    Windows takes `.git.`, `.git ` and `.git::$DATA` for `.git`, and macOS does not see characters that nobody sees.
    Some servers take `.mcp.json#L3` and `.mcp.json?raw=1` for `.mcp.json`.
    """
    return re.split("[:#?]", _UNSEEN.sub("", name))[0].rstrip(" .").casefold()


def find_paths(
    arguments: JSONObject,
    *,
    names: frozenset[str] | None,
    more: frozenset[str],
    by_value: bool = False,
    reads: bool = False,
) -> Iterator[str]:
    """All paths in the arguments, at any depth.

    `names` are the arguments that are paths; None decides by the usual names. `more` are paths in any case. Where no
    `names` are given, `by_value` also yields whatever a server could read as a path, unless the argument is text by
    its name, and the parts of lists that are written as JSON or with commas. Where the call only `reads`, a value such
    as `/api/users` counts as a relative path, if this disk has no folder `/api`.

    Raises:
        TooDeepError: The arguments are nested too deeply.
    """

    def is_path(name: str) -> bool:
        if name in more:
            return True
        return name in names if names is not None else names_path(name)

    def walk(value: Any, named: bool, text: bool, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise TooDeepError("the arguments are nested too deeply")
        if isinstance(value, str):
            yield from read(value, named, text, depth)
        elif isinstance(value, dict):
            for key, item in value.items():
                name = str(key)
                if named:
                    yield name  # {"files": {"a.txt": "its text"}}
                elif depth and by_value and names is None and not text and _may_be_path(name):
                    yield name
                path = is_path(name) or (named and key == _MEMBER)
                if by_value and not path and isinstance(item, str) and last_word(name) in CRITERIA:
                    inside = walk(_parts(item, named=False)[0], False, True, depth + 1)  # an object as text
                    yield from (each if _is_on_disk(each) else each.lstrip("/") for each in inside)
                yield from walk(item, path, not path and (text or last_word(name) in TEXT_WORDS), depth + 1)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from walk(item, named, text, depth + 1)

    def read(value: str, named: bool, text: bool, depth: int) -> Iterator[str]:
        if by_value and names and not text:
            yield from (each for _, each in OPTION.findall(value))
        if named or ((names is None or not text) and _file_url(_bare(value)) is not None):
            yield value
        elif not by_value or names is not None or text:
            return
        elif _may_be_path(value):
            yield value.lstrip("/") if reads and _is_route(value) else value
        if by_value:
            inner, parts = _parts(value, named=named)
            yield from parts
            yield from (each for _, each in OPTION.findall(value))
            yield from walk(inner, named, text, depth + 1)

    yield from walk(dict(arguments), False, False, 0)


def _parts(value: str, *, named: bool) -> tuple[Any, list[str]]:
    """What a text holds as JSON, and the parts of a list with commas or lines, also without what is around them."""
    if value.lstrip()[:1] in ("[", "{", '"'):
        try:
            return json.loads(value), []
        except (ValueError, RecursionError):
            pass
    if not named and len(value) > MAX_PATH:
        return None, []
    parts = [part.strip() for part in re.split(r"[,;|\n\t]|\s(?=[/~])" if named else r"[,;|\n\t]", value)]
    if not named and any(len(part.split()) > 1 for part in parts):
        return None, []  # a sentence is no list
    inner = [text for part in parts if (found := _INSIDE.fullmatch(part)) for text in found.groups() if text]
    if not named and re.search(r"[|\n\t]", value):  # perhaps no list
        parts, inner = [], parts + inner
    parts = parts if len(parts) > 1 else []
    inner = [text for text in inner if _may_be_path(text) and _is_on_disk(text)]
    return None, [part for part in parts if part and (named or _may_be_path(part))] + inner


def _is_route(text: str) -> bool:
    """Whether an absolute path can only be one of a web server or another store, because nothing on disk is there."""
    found = _ROUTE.fullmatch(text)
    return found is not None and ".." not in text and not os.path.lexists(found[1])


def _is_on_disk(text: str) -> bool:
    """Whether a path is relative or begins with something that is there: else it is more likely a name or pattern."""
    first = re.match(r"/+[^/]+", text)
    return first is None or ".." in text or os.path.lexists(first[0])


def _may_be_path(text: str) -> bool:
    """Whether a server could read a text as a path; a relative one that stays inside does no harm."""
    bare = _bare(text)
    return 0 < len(bare) <= MAX_PATH and "\n" not in bare and not _NO_PATH.match(bare)


def names_path(name: str) -> bool:
    """Whether an argument of this name is usually a path: `file_path`, `pathname`, `file_list`, but not `file_type`."""
    words = words_of(name)
    if words[-1] in PATH_WORDS or (words[-1].endswith(_ENDINGS) and words[-1] not in _NOT_PATHS):
        return True
    return words[-1] not in TEXT_WORDS | NO_FILE_WORDS | _NOT_PATHS and any(
        word.startswith(_BEGINNINGS) or word in _ENDINGS for word in words
    )


def words_of(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)] or [""]


def last_word(name: str) -> str:
    return words_of(name)[-1]


def is_address(text: str) -> bool:
    """Whether it is a URL with a host, which names no file: `https://example.com/.git/config`."""
    bare = _bare(text)
    return _ADDRESS.match(bare) is not None and _file_url(bare) is None and ".." not in re.split(r"[/\\]", bare)


def _bare(text: str) -> str:
    return text.strip(_AROUND)


def _file_url(text: str) -> str | None:
    """The text after `file:`, with slashes as Node and browsers read them; None if it is not a file URL."""
    found = _FILE_URL.match(_IGNORED.sub("", text))
    return found[1].replace("\\", "/") if found else None


def _readings(text: str, *, home: Path | None) -> Iterator[str]:
    """The ways servers read a path."""
    bare = _bare(text)
    readings = [text, bare, bare.replace("\\", "/"), *([unquote(bare)] if "%2" in bare else [])]
    if (url := _file_url(bare)) is not None:
        # Some servers parse it, others only strip the prefix.
        rest = url.removeprefix("//")
        _, slash, path = rest.partition("/") if url.startswith("//") else ("", "", url)
        readings += [rest, unquote(rest), unquote(re.split("[?#]", slash + path)[0])]
    elif found := _SCHEME.fullmatch(bare):
        scheme, rest = found.groups()
        slashes = len(rest) - len(rest.lstrip("/"))
        if slashes != 2:  # there is no host: the path in `sqlite:////a.db` or `app:/a`
            readings.append(rest[slashes:] if slashes == 3 and _DATABASE.search(scheme) else rest)
    if _DRIVE.match(bare) and os.name != "nt":
        yield os.sep  # the system has no drives
    for reading in dict.fromkeys(readings):
        yield reading
        first, *parts = Path(reading).parts or (".",)
        if first.startswith("~"):
            # Never another user's home folder, wherever it is.
            yield str(home.joinpath(*parts)) if first == "~" and home is not None else os.sep
        if _VARIABLE.match(reading):
            yield os.sep  # it may lead anywhere
