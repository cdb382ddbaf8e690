"""The bridge's own entry in a host's file: what it says, and the file's text with it and without it.

Nothing here writes. What is shown to a person has no secret in it, not the bridge's and not that of
another entry in the same file.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from lmstudio_bridge.cli.files import find_member, read_root, remove_member, set_member
from lmstudio_bridge.cli.hosts import NAMES, Place
from lmstudio_bridge.errors import McpConfigError, SettingsError
from lmstudio_bridge.messages import JSONObject
from lmstudio_bridge.security.secrets import secrets_of_environment

NAME = "lmstudio-bridge"
HIDDEN = "…"  # in place of a text that may be a secret
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{[^}]+\}")
_STRING = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?')  # with a colon it is a key


@dataclass(frozen=True, slots=True)
class Program:
    """The command line that starts the bridge."""

    command: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it is and as it is to be; `before` is None where there is none yet.

    `old` and `new` are the bridge's entry in it, None where it has none.
    """

    place: Place
    before: str | None
    after: str
    old: JSONObject | None
    new: JSONObject | None

    @property
    def needed(self) -> bool:
        """Whether there is anything to do; what others have added to our entry is let be."""
        if self.new is None or self.old is None:
            return self.new is not self.old
        known = {"type": "stdio", "args": [], **self.old}
        return (known.get("env") != self.new.get("env") and bool(known.get("env") or self.new.get("env"))) or any(
            known.get(key) != value for key, value in self.new.items()
        )

    def diff(self) -> str:
        """The change as a unified diff, with every text hidden that is not known to be harmless."""
        shown = set(_harmless(self.old)) | set(_harmless(self.new))
        before, after = (self.before or "").removeprefix("\ufeff"), self.after.removeprefix("\ufeff")
        if max(map(len, (*before.splitlines(), *after.splitlines())), default=0) > 300:  # all on one line
            before, after = (json.dumps(read_root(text), indent=2, ensure_ascii=False) for text in (before, after))
        lines = difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            fromfile=str(self.place.path) if self.before is not None else "/dev/null",
            tofile=str(self.place.path),
            lineterm="",
        )
        head = [next(lines, ""), next(lines, "")]
        return "\n".join([*head, *(_without_secrets(line, shown) for line in lines)])


def own_program(*, argv0: str, prefix: str, scripts: str, python: str) -> Program:
    """How this bridge can be started again: through uvx if it was, else by its installed command.

    `prefix` is that of the running Python: uvx makes it below `archive-v…` in uv's cache, and may
    clean it away at any time.
    """
    if any(part.startswith("archive-v") for part in PurePath(prefix).parts):
        return Program("uvx", (NAME,))
    for path in (Path(argv0), Path(scripts, NAME), Path(scripts, f"{NAME}.exe")):
        if path.is_absolute() and path.stem == NAME and path.is_file():
            return Program(str(path))
    return Program(python, ("-m", NAME.replace("-", "_")))


def make_entry(program: Program, env: Mapping[str, str], place: Place) -> JSONObject:
    """The entry for that place, as its host writes one itself."""
    entry: dict[str, object] = {"command": program.command, "args": list(program.args)}
    if place.host in ("claude-code", "vscode"):
        entry = {"type": "stdio", **entry}
    if env:
        entry["env"] = dict(env)
    if place.host == "claude-code":
        entry["alwaysLoad"] = True  # its four small tools are in front of the model at once (docs/claude-code.md)
    return entry


def read_variables(options: Iterable[str], *, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `K=V` options; a bare `K` takes its value from the environment.

    Raises:
        SettingsError: An option names no variable, or one that is not set.
    """
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise SettingsError(
                "An --env does not begin with the name of a variable.", remedy="Write it as NAME=VALUE."
            )
        if not equals:
            if name not in environ:
                raise SettingsError(
                    f"--env {name}: there is no such variable here to take the value from.",
                    remedy=f"Set it in this shell first, or write --env {name}=VALUE.",
                )
            value = environ[name]
        found[name] = value
    return found


def check_shareable(env: Mapping[str, str], place: Place) -> None:
    """Look that no secret goes into a file that others get, too.

    Raises:
        SettingsError: One would.
    """
    if place.scope != "project":
        return
    for name, value in env.items():
        if value and secrets_of_environment({name: value}) and not _REFERENCE.search(value):
            raise SettingsError(
                f"{name} looks like a secret, and {place.path} is for all who work on the project.",
                remedy=f"Write --env '{name}=${{{name}}}' and set {name} in your shell, or choose another scope.",
            )


def plan_entry(place: Place, text: str | None, entry: JSONObject | None) -> Change:
    """The change that puts `entry` into the file's text, or takes ours out where it is None.

    Raises:
        McpConfigError: The text is no JSON, or of another shape; the remedy has what to paste.
    """
    keys = (*place.keys, NAME)
    mark = "\ufeff" if (text or "").startswith("\ufeff") else ""  # of byte order; some editors on Windows write it
    plain = (text or "").removeprefix(mark)
    try:
        old = find_member(read_root(plain), keys)
        after = set_member(plain, keys, entry) if entry is not None else remove_member(plain, keys)
        if find_member(read_root(after), keys) != entry:
            raise ValueError("it has a shape that is not understood")
    except ValueError as exc:
        raise _unusable(place, exc, entry) from exc
    return Change(place, text, mark + after, old if isinstance(old, dict) or old is None else {}, entry)


def snippet(entry: JSONObject, place: Place) -> str:
    """What to paste into the file by hand; secrets are left to be filled in."""
    env = {
        name: f"<{name}>" if name in hidden_variables(entry) else value for name, value in entry.get("env", {}).items()
    }
    shown = {**entry, "env": env} if env else entry
    return json.dumps({place.keys[-1]: {NAME: shown}}, indent=2, ensure_ascii=False)


def hidden_variables(entry: JSONObject) -> list[str]:
    """The variables of an entry whose values are for no eye."""
    env = entry.get("env")
    return [name for name, value in _texts_of(env) if not _is_harmless_variable(name, value)]


def _texts_of(env: object) -> Iterator[tuple[str, str]]:
    for name, value in env.items() if isinstance(env, dict) else ():
        yield str(name), str(value)


_SHOWN_VARIABLES = frozenset({"LMSTUDIO_BASE_URL", "LMSTUDIO_HOST", "LMSTUDIO_PORT", "DEFAULT_MODEL"})


def _is_harmless_variable(name: str, value: str) -> bool:
    """Whether a value may be shown: a setting of the bridge that is no secret, or a reference to a variable."""
    if _REFERENCE.fullmatch(value):
        return True
    ours = name in _SHOWN_VARIABLES or name.startswith("LMSTUDIO_BRIDGE_")
    return ours and not secrets_of_environment({name: value})


def _harmless(entry: JSONObject | None) -> Iterator[str]:
    """The texts of the bridge's own entry that may be shown, as they stand in JSON."""
    for key, value in (entry or {}).items():
        match value:
            case str() if key in ("type", "command"):
                yield _quoted(value)
            case list() if key == "args" and all(isinstance(item, str) for item in value):
                if (entry or {}).get("command") == "uvx" or len(value) < 3:
                    yield from map(_quoted, value)
            case dict() if key == "env":
                yield from (_quoted(text) for name, text in _texts_of(value) if _is_harmless_variable(name, text))
            case _:
                pass


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _without_secrets(line: str, shown: set[str]) -> str:
    return _STRING.sub(lambda match: match[0] if match[2] or match[1] in shown else f'"{HIDDEN}"', line)


def _unusable(place: Place, exc: ValueError, entry: JSONObject | None) -> McpConfigError:
    if isinstance(exc, json.JSONDecodeError):
        what = f"is not plain JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
    else:
        what = f"cannot be changed: {exc}"
    comments = " (with comments, as it allows them)" if place.host in ("vscode", "cursor") else ""
    remedy = f"It was left as it is{comments}. "
    if entry is None:
        remedy += f"Take {NAME!r} out of {'.'.join(place.keys)!r} by hand."
    else:
        remedy += f"Put this into it by hand:\n{snippet(entry, place)}"
    return McpConfigError(f"{NAMES[place.host]}'s file {place.path} {what}.", path=str(place.path), remedy=remedy)
