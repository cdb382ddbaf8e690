"""Reads `lmstudio-bridge.toml`: the user's own, which counts, and the project's, which can only tighten it.

allow = ["git/git_log"]             # runs also where a run may only read
deny = ["*/delete_*"]               # never runs
hide = ["browser/*"]                # is not even offered

[paths]
folders = ["~/notes"]               # may be worked in besides the project

[paths.arguments]
"tickets/*" = []                    # which arguments are paths, in place of the usual names
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

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.security.access import Rule, Rules, Verb
from lmstudio_bridge.settings import Surroundings

FILE = "lmstudio-bridge.toml"
MAX_BYTES = 1024 * 1024  # of one file
_VERBS: tuple[Verb, ...] = ("hide", "deny", "allow")
_SHOWN = 80  # characters of a bad value that are quoted
_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")
_OWN = "It can only tighten; put it into your own."
_LOOK = "docs/security.md says what it can hold."


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """What the files add up to; `paths` are those that were read, `warnings` what of them does not count."""

    rules: Rules = field(default_factory=Rules)
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def load_rules(*, project: Path, environ: Mapping[str, str]) -> RuleFiles:
    """The rules of the user and of the project.

    Raises:
        SettingsError: A file cannot be read or says something that is no rule: nothing must run then.
    """
    around = Surroundings(project, environ)
    rules, paths, warnings = Rules(), [], []
    own = user_file(around)
    if own is not None and own.is_file():
        rules += _read(own, around=around)
        paths.append(own)
    found = next((folder / FILE for folder in (project, *project.parents) if (folder / FILE).is_file()), None)
    if found is not None and found not in paths:
        stated = _read(found, around=around)
        tight = tuple(rule for rule in stated.rules if rule.verb != "allow")
        if len(tight) < len(stated.rules):
            warnings.append(f"{found}: allow does not count in a project's file. {_OWN}")
        if stated.folders:
            warnings.append(f"{found}: folders do not count in a project's file. {_OWN}")
        rules += Rules(tight, more_arguments=stated.arguments)
        paths.append(found)
    return RuleFiles(rules, tuple(paths), tuple(warnings))


def user_file(around: Surroundings) -> Path | None:
    """Where the user's own rules are; None where there is no home folder."""
    if config := around.environ.get("XDG_CONFIG_HOME", "").strip():
        return Path(config) / "lmstudio-bridge" / FILE
    if sys.platform == "win32" and (roaming := around.environ.get("APPDATA", "").strip()):
        return Path(roaming) / "lmstudio-bridge" / FILE
    return around.home / ".config" / "lmstudio-bridge" / FILE if around.home else None


def _read(path: Path, *, around: Surroundings) -> Rules:
    try:
        text = read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8")
        root = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        place = _LINE.search(str(exc))
        line = place[1] if place and place[1] else len(text.splitlines())
        problem = _LINE.sub("", str(exc)).strip()
        raise SettingsError(f"{path}, line {line}: it is no TOML: {problem}.", remedy=_LOOK) from exc
    except (OSError, ValueError, RecursionError) as exc:  # no UTF-8; numbers or nesting beyond what Python reads
        raise SettingsError(f"{path} cannot be read: {exc}.", remedy="Correct it or take it away.") from exc
    return _Reader(path, text, around).read(root)


class _Reader:
    """Reads one file's TOML, and knows the lines of what is wrong in it."""

    def __init__(self, path: Path, text: str, around: Surroundings) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._around = around

    def read(self, root: Mapping[str, Any]) -> Rules:
        self._check_keys(root, (*_VERBS, "paths"))
        rules = tuple(
            Rule(verb, self._pattern(pattern), str(self._path))
            for verb in _VERBS
            for pattern in self._texts(verb, root.get(verb, []))
        )
        paths = self._table("paths", root.get("paths", {}))
        self._check_keys(paths, ("folders", "arguments"))
        folders = tuple(self._folder(text) for text in self._texts("folders", paths.get("folders", [])))
        arguments = self._table("arguments", paths.get("arguments", {}))
        named = {self._pattern(key): frozenset(self._texts(key, value)) for key, value in arguments.items()}
        return Rules(rules, folders, named)

    def _check_keys(self, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise self._error(key, f"there is no setting {key[:_SHOWN]!r}; it can be {', '.join(known)}")

    def _table(self, key: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._error(key, f"{key} must be a table")
        return value

    def _texts(self, key: str, value: object) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(key, f'{key} must be a list of texts, as in ["a", "b"]')
        return value

    def _pattern(self, text: str) -> str:
        server, slash, tool = text.partition("/")
        if not (server and slash and tool):
            raise self._error(text, f'{text[:_SHOWN]!r} must be a server, a "/" and a tool, as in "files/write_*"')
        return text

    def _folder(self, text: str) -> Path:
        first, *rest = Path(text).parts or (".",)
        if first == "~" and self._around.home is not None:
            return self._around.home.joinpath(*rest)
        if not os.path.isabs(text):
            raise self._error(text, f"the folder {text[:_SHOWN]!r} must be a full path, or begin with ~/")
        return Path(text)

    def _error(self, fragment: str, problem: str) -> SettingsError:
        spellings = (f'"{fragment}"', f"'{fragment}'", fragment)  # a word may also be a part of another
        numbered = list(enumerate(self._lines, start=1))
        found = (number for spelling in spellings for number, line in numbered if spelling in line)
        line = next(found, 1)
        return SettingsError(f"{self._path}, line {line}: {problem}.", remedy=_LOOK)
