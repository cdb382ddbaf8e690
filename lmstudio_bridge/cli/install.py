"""`lmstudio-bridge install` and `uninstall`: the bridge's entry in a host's file.

Nothing that is shown contains a secret, neither from the bridge's entry nor from another entry in the same file.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path, PurePath

from lmstudio_bridge import DOCS, REPOSITORY
from lmstudio_bridge.cli.arguments import EXIT_OK, NAMES, SCOPES, HostScope, current_folder
from lmstudio_bridge.cli.files import find_member, read_root, remove_member, set_member
from lmstudio_bridge.cli.hosts import SERVERS_VARIABLE, Location, find_location
from lmstudio_bridge.cli.terminal import refusal
from lmstudio_bridge.errors import BridgeError, McpConfigError, SettingsError
from lmstudio_bridge.files import back_up, read_text, replace_with_backup
from lmstudio_bridge.mcp_client.config import starts_bridge
from lmstudio_bridge.messages import JSONObject
from lmstudio_bridge.security.secrets import secrets_of_environment
from lmstudio_bridge.settings import Surroundings, read_settings
from lmstudio_bridge.text import clean_text

NAME = "lmstudio-bridge"

_HIDDEN = "…"  # shown instead of a text that may be a secret
_SHOWN_VARIABLES = frozenset({"LMSTUDIO_BASE_URL", "LMSTUDIO_HOST", "LMSTUDIO_PORT", "DEFAULT_MODEL"})
_MAX_DIFF_LINE = 300  # characters; a file with longer lines is shown reformatted
_CLAUDE_TIMEOUT = 60.0  # seconds for one `claude mcp …`; it takes about two
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{[^}]+\}")
_STRING = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?')  # followed by a colon, it is a key


@dataclass(frozen=True, slots=True)
class Program:
    """The command line that starts the bridge."""

    command: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """The text of a file before and after; `before` is None if the file does not exist.

    `old` and `new` are the bridge's entry in it, None if there is none.
    """

    location: Location
    before: str | None
    after: str
    old: JSONObject | None
    new: JSONObject | None

    @property
    def needed(self) -> bool:
        """Whether there is anything to do; keys that others added to the bridge's entry are kept."""
        if self.new is None or self.old is None:
            return self.new is not self.old
        known = {"type": "stdio", "args": [], **self.old}
        return (known.get("env") != self.new.get("env") and bool(known.get("env") or self.new.get("env"))) or any(
            known.get(key) != value for key, value in self.new.items()
        )

    def diff(self) -> str:
        """The change as a unified diff; every text that may be a secret is hidden."""
        shown = set(_harmless(self.old)) | set(_harmless(self.new))
        before, after = (self.before or "").removeprefix("\ufeff"), self.after.removeprefix("\ufeff")
        if max(map(len, (*before.splitlines(), *after.splitlines())), default=0) > _MAX_DIFF_LINE:
            before, after = (json.dumps(read_root(text), indent=2, ensure_ascii=False) for text in (before, after))
        lines = difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            fromfile=str(self.location.path) if self.before is not None else "/dev/null",
            tofile=str(self.location.path),
            lineterm="",
        )
        head = [next(lines, ""), next(lines, "")]
        return "\n".join([*head, *(_without_secrets(line, shown) for line in lines)])


def install(args: argparse.Namespace) -> int:
    """Show the change, ask, and write; the exit code."""
    location = _location(args, args.scope or "user")
    env = _entry_variables(args)
    check_shareable(env, location)
    text = read_text(location.path)
    old = {} if args.print else _own_entry(location, text)
    env = {**dict(_texts_of(old.get("env"))), **env}
    if location.should_be_named(env):
        env[SERVERS_VARIABLE] = str(location.path)
    program = own_program(
        argv0=sys.argv[0],
        prefix=sys.prefix,
        scripts=sysconfig.get_path("scripts"),
        python=sys.executable,
        source=read_source(),
    )
    if location.scope == "project":
        program = uvx_program(read_source())  # a path of this machine is useless to the others
    elif program.command == "uvx" and location.host != "claude-code":
        # A program that is started from a desktop often has a PATH without uvx.
        program = Program(shutil.which("uvx") or "uvx", program.args)
    entry = {**old, **make_entry(program, env, location)}  # an update keeps what it is not told to change
    if args.print:
        print(snippet(entry, location))
        for name in hidden_variables(entry):
            _say(f"Replace <{name}> with the value of {name}.")
        return EXIT_OK
    change = plan_change(location, text, entry)
    title = NAMES[location.host]
    if not change.needed:
        _say(f"The bridge is already registered in {title}: {location.path}")
        return EXIT_OK
    if not location.path.parent.is_dir():
        _say(f"The folder {location.path.parent} does not exist and will be created. Is {title} installed?")
    if location.host == "lm-studio":
        _say(
            "This makes the bridge available in LM Studio's own chat: a model there hands tasks to a model of the "
            "same LM Studio, which then keeps two models loaded or unloads the one that is waiting. The bridge skips "
            "its own entry, so it never calls itself."
        )
    if env.get(SERVERS_VARIABLE) == str(location.path):
        _say(
            "The bridge will use the servers in this file. "
            f"With --env {SERVERS_VARIABLE}= it uses those of Claude Code and LM Studio instead."
        )
    elif location.is_unknown and location.scope == "project":
        _say(
            "The bridge will use your servers of Claude Code and LM Studio, and not those in this file, which everyone "
            "who works on the project can change."
        )
    if "archive-v" in sys.prefix or program.command == "uvx":
        line = shlex.join(["uvx", *uvx_program(read_source()).args, "--version"])
        _say(f"The first start with uvx can be slow. Run `{line}` once to speed up later starts.")
    question = "Replace the existing entry?" if change.old is not None else "Write this entry?"
    code = _apply(change, args, question=question)
    if code == EXIT_OK and not args.dry_run:
        _say(_next_step(location))
    return code


def uninstall(args: argparse.Namespace) -> int:
    """Show the change, ask, and write; the exit code."""
    scopes = (args.scope,) if args.scope else SCOPES[args.host]
    locations = [_location(args, scope) for scope in scopes]
    changes = [plan_change(location, read_text(location.path), None) for location in locations]
    found = [change for change in changes if change.needed]
    if not found:
        searched = ", ".join(dict.fromkeys(str(location.path) for location in locations))
        _say(f"The bridge is not registered in {NAMES[args.host]}. Looked in: {searched}.")
        return EXIT_OK
    if len(found) > 1:
        listed = ", ".join(f"{change.location.scope} ({change.location.path})" for change in found)
        raise SettingsError(f"The bridge is registered in several scopes: {listed}.", remedy="Choose one with --scope.")
    code = _apply(found[0], args, question="Remove this entry?")
    if code == EXIT_OK and not args.dry_run:
        _say(f"Journals of runs stay on disk; see {DOCS}/uninstall.md.")
    return code


# -- the entry ---------------------------------------------------------------------------------------------------


def own_program(*, argv0: str, prefix: str, scripts: str, python: str, source: str = "") -> Program:
    """How to start this bridge again: with uvx if it runs under uvx, otherwise with its installed command.

    `source` is as `read_source` gives it. `prefix` is `sys.prefix`; for uvx it is
    below `archive-v…` in uv's cache, which may be cleaned at any time.
    """
    if any(part.startswith("archive-v") for part in PurePath(prefix).parts):
        return uvx_program(source)
    for path in (Path(argv0), Path(scripts, NAME), Path(scripts, f"{NAME}.exe")):
        if path.is_absolute() and path.stem == NAME and path.is_file():
            return Program(str(path))
    return Program(python, ("-m", NAME.replace("-", "_")))


def uvx_program(source: str) -> Program:
    """The bridge under uvx, from the package index or from `source`."""
    return Program("uvx", ("--from", source, NAME) if source else (NAME,))


def read_source(*, read: Callable[[str], str | None] | None = None) -> str:
    """The repository of this bridge, as uvx and pip take it; "" if it was installed from a package index.

    An installer records the source in `direct_url.json` of the package (PEP 610). A folder or file of this machine is
    useless to others and may be gone tomorrow: instead of it, the project's own repository counts.
    """
    text = (read or distribution(NAME).read_text)("direct_url.json")
    if not text:
        return ""
    direct = json.loads(text)
    vcs = direct.get("vcs_info")
    if not vcs:
        return f"git+{REPOSITORY}"
    revision = f"@{vcs['requested_revision']}" if vcs.get("requested_revision") else ""
    return f"{vcs['vcs']}+{direct['url']}{revision}"


def make_entry(program: Program, env: Mapping[str, str], location: Location) -> JSONObject:
    """The entry for that location, in the form that its host writes."""
    entry: dict[str, object] = {"command": program.command, "args": list(program.args)}
    if location.host in ("claude-code", "vscode"):
        entry = {"type": "stdio", **entry}
    if env:
        entry["env"] = dict(env)
    return entry


def read_variables(options: Iterable[str], *, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `NAME=VALUE` options; a `NAME` alone takes its value from the environment.

    Raises:
        SettingsError: An option has no valid name, or names a variable that is not set.
    """
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise SettingsError("--env needs the name of a variable.", remedy="Write it as NAME=VALUE.")
        if not equals:
            if name not in environ:
                raise SettingsError(
                    f"--env {name}: this variable is not set in this shell.",
                    remedy=f"Set it first, or write --env {name}=VALUE.",
                )
            value = environ[name]
        found[name] = value
    return found


def check_shareable(env: Mapping[str, str], location: Location) -> None:
    """Refuse secrets in a file that is shared with others.

    Raises:
        SettingsError: A value looks like a secret.
    """
    if location.scope != "project":
        return
    for name, value in env.items():
        if value and secrets_of_environment({name: value}) and not _REFERENCE.search(value):
            raise SettingsError(
                f"{name} looks like a secret, and {location.path} is shared with everyone who works on the project.",
                remedy=f"Write --env '{name}=${{{name}}}' and set {name} in your shell, or choose another scope.",
            )


def plan_change(location: Location, text: str | None, entry: JSONObject | None) -> Change:
    """The change that puts `entry` into the file's text, or removes the bridge's entry if it is None.

    Raises:
        McpConfigError: The text is not valid JSON, or not of the expected shape; the remedy has what to paste.
    """
    keys = (*location.keys, NAME)
    mark = "\ufeff" if (text or "").startswith("\ufeff") else ""  # byte order mark of some editors on Windows
    plain = (text or "").removeprefix(mark)
    try:
        old = find_member(read_root(plain), keys)
        after = set_member(plain, keys, entry) if entry is not None else remove_member(plain, keys)
        if find_member(read_root(after), keys) != entry:
            raise ValueError("its structure is not supported")
    except ValueError as exc:
        raise _unusable(location, exc, entry) from exc
    return Change(location, text, mark + after, old if isinstance(old, dict) or old is None else {}, entry)


def _own_entry(location: Location, text: str | None) -> JSONObject:
    """The bridge's entry in the file's text; empty if there is none, or another program's of that name."""
    try:
        entry = find_member(read_root((text or "").removeprefix("\ufeff")), (*location.keys, NAME))
    except ValueError:  # `plan_change` says so
        return {}
    return entry if isinstance(entry, dict) and is_own(entry) else {}


def is_own(entry: Mapping[str, object]) -> bool:
    """Whether a server's entry starts the bridge."""
    args = entry.get("args")
    words = tuple(map(str, args)) if isinstance(args, list) else ()
    return starts_bridge(str(entry.get("command") or ""), words)


def snippet(entry: JSONObject, location: Location) -> str:
    """JSON to paste into the file by hand, with placeholders for secrets."""
    hidden = hidden_variables(entry)
    env = {name: f"<{name}>" if name in hidden else value for name, value in entry.get("env", {}).items()}
    shown = {**entry, "env": env} if env else entry
    return json.dumps({location.keys[-1]: {NAME: shown}}, indent=2, ensure_ascii=False)


def hidden_variables(entry: JSONObject) -> list[str]:
    """The variables of an entry whose values must not be shown."""
    return [name for name, value in _texts_of(entry.get("env")) if not _is_harmless_variable(name, value)]


def _texts_of(env: object) -> Iterator[tuple[str, str]]:
    for name, value in env.items() if isinstance(env, dict) else ():
        yield str(name), str(value)


def _is_harmless_variable(name: str, value: str) -> bool:
    """Whether a value may be shown: a setting of the bridge that is not secret, or a reference to a variable."""
    if _REFERENCE.fullmatch(value):
        return True
    ours = name in _SHOWN_VARIABLES or name.startswith("LMSTUDIO_BRIDGE_")
    return ours and not secrets_of_environment({name: value})


def _harmless(entry: JSONObject | None) -> Iterator[str]:
    """The texts of the bridge's entry that may be shown, encoded as JSON."""
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
    return _STRING.sub(lambda match: match[0] if match[2] or match[1] in shown else f'"{_HIDDEN}"', line)


def _unusable(location: Location, exc: ValueError, entry: JSONObject | None) -> McpConfigError:
    if isinstance(exc, json.JSONDecodeError):
        what = f"is not plain JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
    else:
        what = f"cannot be changed: {exc}"
    if location.host in ("vscode", "cursor"):
        remedy = "The file was not changed (it may contain comments). By hand, "
    else:
        remedy = "The file was not changed. Fix it and try again, or by hand, "
    if entry is None:
        remedy += f"remove {NAME!r} from {'.'.join(location.keys)!r}."
    else:
        remedy += f"add this:\n{snippet(entry, location)}"
    message = f"{NAMES[location.host]}'s file {location.path} {what}."
    return McpConfigError(message, remedy=remedy)


# -- the commands ------------------------------------------------------------------------------------------------


def _location(args: argparse.Namespace, scope: HostScope) -> Location:
    return find_location(args.host, scope, around=Surroundings(current_folder(), os.environ), platform=sys.platform)


def _entry_variables(args: argparse.Namespace) -> dict[str, str]:
    """The variables for the entry, validated as the bridge will validate them when it starts."""
    named = {
        "LMSTUDIO_BASE_URL": args.base_url,
        "DEFAULT_MODEL": args.model,
        "LMSTUDIO_BRIDGE_MAX_ACCESS": args.max_access,
    }
    env = {name: value for name, value in named.items() if value is not None}
    env |= read_variables(args.env, environ=os.environ)
    read_settings({name: value for name, value in env.items() if "${" not in value}, cwd=current_folder())
    return env


def _apply(change: Change, args: argparse.Namespace, *, question: str) -> int:
    """Show the change and make it if the user agrees; the exit code."""
    print(clean_text(change.diff())[0])
    if args.dry_run:
        _say("Nothing was written (--dry-run).")
        return EXIT_OK
    if not args.yes and (refused := refusal(question, done="written", use="write without asking")):
        return refused
    location = change.location
    if location.host == "claude-code" and (claude := shutil.which("claude")):
        backup = back_up(location.path, change.before, now=datetime.now())
        if _change_with_claude(claude, change):
            _say(f"Written with `claude mcp`: {location.path}{_kept_as(backup)}")
            return EXIT_OK
        change = plan_change(location, read_text(location.path), change.new)
        if not change.needed:
            return EXIT_OK
    shared = location.scope == "project"
    backup = replace_with_backup(
        location.path, before=change.before, after=change.after, now=datetime.now(), shared=shared
    )
    _say(f"Written: {location.path}{_kept_as(backup)}")
    return EXIT_OK


def _kept_as(backup: Path | None) -> str:
    return f" (backup: {backup})" if backup else ""


def _change_with_claude(claude: str, change: Change) -> bool:
    """Let Claude Code change its own file; whether the file is then as wanted.

    Not with a secret in the entry, because other users can read command lines, and `claude mcp add-json` (2.1.197)
    takes the JSON only from there. It does not replace an entry, so an old one is removed first.
    """
    if change.new is not None and hidden_variables(change.new):
        return False
    scope = ("--scope", change.location.scope)
    steps: list[Sequence[str]] = []
    if change.old is not None:
        steps.append(("mcp", "remove", *scope, NAME))
    if change.new is not None:
        steps.append(("mcp", "add-json", *scope, NAME, json.dumps(change.new)))
    for step in steps:
        try:
            done = subprocess.run(
                [claude, *step],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_CLAUDE_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            _say(f"`claude mcp` could not be run ({type(exc).__name__}); its file is changed directly instead.")
            return False
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            _say(f"`claude mcp` failed ({said}); its file is changed directly instead.")
            return False
    location = change.location
    try:
        return not plan_change(location, read_text(location.path), change.new).needed
    except BridgeError:
        return False


def _next_step(location: Location) -> str:
    if location.host != "claude-code":
        return f"Restart {NAMES[location.host]}. `lmstudio-bridge doctor` checks the rest."
    approve = "approve the server when it asks, " if location.scope == "project" else ""
    return (
        f"Restart Claude Code, {approve}and ask it to use lmstudio-bridge with one of your MCP servers. "
        "`lmstudio-bridge doctor` checks the rest."
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
