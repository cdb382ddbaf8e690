"""Reads `lmstudio-bridge.toml`: the user's own file, and the project's, which can only tighten the rules.

allow = ["git/git_log"]             # may run even with read access
deny = ["*/delete_*"]               # never runs
hide = ["browser/*"]                # is not offered to the model
sandbox = true                      # servers start in a sandbox; or, for single servers:

[sandbox]
git = true
tickets = { network = true, read = ["~/.ticketsrc"], write = [] }

[paths]
folders = ["~/notes"]               # part of the workspace, in addition to the project

[paths.arguments]
"tickets/*" = []                    # which arguments are paths, instead of those with the usual names
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmstudio_bridge import DOCS
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.security.access import Rule, Rules, Verb
from lmstudio_bridge.security.sandbox import EVERY, Sandbox
from lmstudio_bridge.settings import Surroundings

FILE = "lmstudio-bridge.toml"
MAX_BYTES = 1024 * 1024  # of one file
_VERBS: tuple[Verb, ...] = ("hide", "deny", "allow")
_SHOWN = 80  # characters of an invalid value
_POSITION = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")
_OWN = "It can only tighten the rules; put this into your own file."
_HELP = f"See {DOCS}/security.md for what it can contain."


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """The rules of all files; `paths` are the files, and `warnings` say what in them was ignored."""

    rules: Rules = field(default_factory=Rules)
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def load_rules(*, project: Path, environ: Mapping[str, str]) -> RuleFiles:
    """The rules of the user, then those of the nearest file in the project's folder or its parents.

    Raises:
        SettingsError: A file cannot be read or is invalid. Nothing must run then.
    """
    around = Surroundings(project, environ)
    rules, paths, warnings = Rules(), [], []
    own = user_file(around)
    if own is not None and _is_there(own):
        rules += _read(own, around=around)
        paths.append(own)
    found = next((folder / FILE for folder in (project, *project.parents) if _is_there(folder / FILE)), None)
    if found is not None and found not in paths:
        stated = _read(found, around=around)
        tight = tuple(rule for rule in stated.rules if rule.verb != "allow")
        if len(tight) < len(stated.rules):
            warnings.append(f"{found}: allow is ignored in a project's file. {_OWN}")
        if stated.folders:
            warnings.append(f"{found}: folders are ignored in a project's file. {_OWN}")
        if any(each != Sandbox() for each in stated.sandboxes.values()):
            warnings.append(f"{found}: of sandbox, only true counts in a project's file. {_OWN}")
        sandboxes = {name: each for name, each in stated.sandboxes.items() if each == Sandbox()}
        rules += Rules(tight, more_arguments=stated.arguments, sandboxes=sandboxes)
        paths.append(found)
    return RuleFiles(rules, tuple(paths), tuple(warnings))


def user_file(around: Surroundings) -> Path | None:
    """The path of the user's own file; None if there is no home folder."""
    if config := around.environ.get("XDG_CONFIG_HOME", "").strip():
        return Path(config) / "lmstudio-bridge" / FILE
    if sys.platform == "win32" and (roaming := around.environ.get("APPDATA", "").strip()):
        return Path(roaming) / "lmstudio-bridge" / FILE
    return around.home / ".config" / "lmstudio-bridge" / FILE if around.home else None


def _is_there(path: Path) -> bool:
    """Whether there is anything: a dead link, a folder or a pipe is no file, but somebody meant it to be one."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.is_symlink() and not path.parent.exists()
    except OSError:
        return True  # the error in reading it says why
    return True


def _read(path: Path, *, around: Surroundings) -> Rules:
    try:
        text = read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8-sig")
        root = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        found = _POSITION.search(str(exc))
        line = found[1] if found and found[1] else len(text.splitlines())
        problem = _POSITION.sub("", str(exc)).strip()
        raise SettingsError(f"{path}, line {line}: not valid TOML: {problem}.", remedy=_HELP) from exc
    except (OSError, ValueError, RecursionError) as exc:  # not UTF-8; numbers or nesting beyond what Python reads
        raise SettingsError(f"{path} cannot be read: {exc}.", remedy="Correct or remove it.") from exc
    return _Reader(path, text, around).read(root)


class _Reader:
    """Validates one file, and names the line of what is invalid in it."""

    def __init__(self, path: Path, text: str, around: Surroundings) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._around = around

    def read(self, root: Mapping[str, Any]) -> Rules:
        self._check_keys(root, (*_VERBS, "paths", "sandbox"))
        rules = tuple(
            Rule(verb, self._pattern(pattern), str(self._path))
            for verb in _VERBS
            for pattern in self._strings(verb, root.get(verb, []))
        )
        paths = self._table("paths", root.get("paths", {}))
        self._check_keys(paths, ("folders", "arguments"))
        folders = tuple(self._folder(text) for text in self._strings("folders", paths.get("folders", [])))
        arguments = self._table("arguments", paths.get("arguments", {}))
        named = {self._pattern(key): frozenset(self._strings(key, value)) for key, value in arguments.items()}
        chosen = root.get("sandbox", {})
        sandboxes = {EVERY: chosen} if isinstance(chosen, bool) else self._table("sandbox", chosen)
        return Rules(
            rules, folders, named, sandboxes={name: self._sandbox(name, sandboxes[name]) for name in sandboxes}
        )

    def _sandbox(self, name: str, value: object) -> Sandbox | None:
        if isinstance(value, bool):
            return Sandbox() if value else None
        table = self._table(name, value)
        self._check_keys(table, ("network", "read", "write"))
        if not isinstance(network := table.get("network", False), bool):
            raise self._error("network", "network must be true or false")
        read, write = (tuple(map(self._folder, self._strings(key, table.get(key, [])))) for key in ("read", "write"))
        return Sandbox(network, read, write)

    def _check_keys(self, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise self._error(key, f"unknown setting {key[:_SHOWN]!r}; expected one of {', '.join(known)}")

    def _table(self, key: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._error(key, f"{key} must be a table")
        return value

    def _strings(self, key: str, value: object) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(key, f'{key} must be a list of strings, such as ["a", "b"]')
        return value

    def _pattern(self, text: str) -> str:
        server, slash, tool = text.partition("/")
        if not (server and slash and tool):
            raise self._error(text, f'{text[:_SHOWN]!r} must be a server, a "/" and a tool, such as "files/write_*"')
        return text

    def _folder(self, text: str) -> Path:
        first, *rest = Path(text).parts or (".",)
        if first == "~" and self._around.home is not None:
            return self._around.home.joinpath(*rest)
        if not os.path.isabs(text):
            raise self._error(text, f"the folder {text[:_SHOWN]!r} must be an absolute path or start with ~/")
        return Path(text)

    def _error(self, fragment: str, problem: str) -> SettingsError:
        numbered = list(enumerate(self._lines, start=1))
        quoted_first = (f'"{fragment}"', f"'{fragment}'", fragment)  # a word may also be part of another one
        lines = (number for form in quoted_first for number, line in numbered if form in line)
        return SettingsError(f"{self._path}, line {next(lines, 1)}: {problem}.", remedy=_HELP)
