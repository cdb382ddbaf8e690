"""Which MCP servers the user has configured: finds, reads and checks `.mcp.json` and its relatives.

Nothing here starts anything. A file is someone else's data: it is read with pydantic and becomes
our dataclasses at once. One bad entry never spoils the others.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lmstudio_bridge.errors import McpConfigError, ServerNotConfiguredError

Transport: TypeAlias = Literal["stdio", "http", "sse"]

PROJECT_FILE = ".mcp.json"
MIN_TIMEOUT = 1000  # milliseconds; Claude Code ignores less, and other programs write seconds under the same key

_TRANSPORTS: Mapping[str, Transport] = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "sse": "sse",
}
_SHAPE = 'It should look like {"mcpServers": {"name": {"command": "...", "args": []}}}.'


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One configured server, ready to be opened: variables are expanded, the transport is known.

    `timeout` is seconds for each call, None where the file does not say. `source` is the file it
    stands in, `scope` how that file was found ("explicit" or "project").
    """

    name: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    source: Path | None = None
    scope: str = ""
    disabled: bool = False

    def __repr__(self) -> str:
        """Arguments, URL, env and headers may hold secrets: only their number or their names are shown."""
        return (
            f"ServerConfig(name={self.name!r}, transport={self.transport!r}, command={self.command!r}, "
            f"args={len(self.args)}, env={sorted(self.env)}, headers={sorted(self.headers)}, "
            f"source={str(self.source or '')!r}, scope={self.scope!r})"
        )


@dataclass(frozen=True, slots=True)
class ServerCatalog:
    """What the files add up to.

    `skipped` says for each server that cannot be used why, as a sentence. `paths` are the files
    that were read; none means that no `.mcp.json` was found in `project` or above.
    """

    project: Path
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    def require(self, name: str) -> ServerConfig:
        """The server of that name.

        Raises:
            ServerNotConfiguredError: there is none, or it was skipped.
        """
        if name in self.servers:
            return self.servers[name]
        known = sorted(self.servers)
        listed = f"Configured: {', '.join(known)}." if known else "No server is configured."
        if name in self.skipped:
            raise ServerNotConfiguredError(
                f"MCP server '{name}' cannot be used: {self.skipped[name]}",
                server=name,
                configured=known,
                remedy=listed,
            )
        lower = {candidate.lower(): candidate for candidate in known}
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
        hint = f"Did you mean {' or '.join(repr(match) for match in near)}? " if near else ""
        if self.paths:
            looked = f"in {' or '.join(str(path) for path in self.paths)}"
        else:
            looked = f"because no {PROJECT_FILE} was found in {self.project} or above it"
        raise ServerNotConfiguredError(
            f"No MCP server named '{name}' is configured {looked}.",
            server=name,
            configured=known,
            remedy=f"{hint}{listed}",
        )


def load_servers(*, explicit: Path | None, project: Path, environ: Mapping[str, str]) -> ServerCatalog:
    """Read the explicit file if there is one, else the `.mcp.json` of the project or the nearest folder above.

    Raises:
        McpConfigError: the explicit file is missing, or a file cannot be read or has the wrong shape.
    """
    if explicit is not None:
        path = explicit.expanduser()
        return merge_files([read_file(path, scope="explicit", project=project, environ=environ)], project=project)
    found = find_project_file(project)
    files = [read_file(found, scope="project", project=project, environ=environ)] if found else []
    return merge_files(files, project=project)


def find_project_file(project: Path) -> Path | None:
    """The nearest `.mcp.json`, from the project upwards, as Claude Code 2.1.330 finds it."""
    folders = (project, *project.parents)
    return next((folder / PROJECT_FILE for folder in folders if (folder / PROJECT_FILE).is_file()), None)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What one file says, before precedence; a name stands in `servers` or in `skipped`."""

    path: Path
    servers: Mapping[str, ServerConfig]
    skipped: Mapping[str, str]
    warnings: tuple[str, ...]


def merge_files(files: list[ConfigFile], *, project: Path) -> ServerCatalog:
    """One catalog of several files; the first that mentions a name decides about it."""
    servers: dict[str, ServerConfig] = {}
    skipped: dict[str, str] = {}
    for file in files:
        decided = {*servers, *skipped}
        servers |= {name: config for name, config in file.servers.items() if name not in decided}
        skipped |= {name: reason for name, reason in file.skipped.items() if name not in decided}
    warnings = tuple(warning for file in files for warning in file.warnings)
    return ServerCatalog(project, servers, skipped, tuple(file.path for file in files), warnings)


def read_file(path: Path, *, scope: str, project: Path, environ: Mapping[str, str]) -> ConfigFile:
    """A file with `mcpServers` (Claude Code, Cursor, LM Studio) or `servers` (VS Code) at its root.

    Raises:
        McpConfigError: it cannot be read, is no JSON, or has another shape.
    """
    root = _read_json(path)
    entries = root.get("mcpServers", root.get("servers")) if isinstance(root, dict) else None
    if not isinstance(entries, dict):
        raise McpConfigError(f"{path} has no object 'mcpServers'.", path=str(path), remedy=_SHAPE)
    servers: dict[str, ServerConfig] = {}
    skipped: dict[str, str] = {}
    warnings: list[str] = []
    for name, entry in entries.items():
        expansion = _Expansion(environ)
        try:
            config = _read_entry(name, entry, expansion, path=path, scope=scope, project=project)
        except ValueError as exc:
            skipped[name] = f"its entry in {path} is malformed: {exc}."
            continue
        if expansion.inputs:
            wanted = ", ".join(f"${{input:{wish}}}" for wish in sorted(expansion.inputs))
            skipped[name] = f"its entry in {path} asks for {wanted}, which only VS Code can ask its user for."
        elif config.disabled:
            skipped[name] = f"it is disabled in {path}."
        elif starts_bridge(config.command, config.args):
            skipped[name] = f"its entry in {path} starts the bridge itself."
        else:
            servers[name] = config
            warnings += [f"MCP server '{name}' in {path}: {warning}" for warning in expansion.warnings()]
    return ConfigFile(path, servers, skipped, tuple(warnings))


def _read_json(path: Path) -> Any:
    """The decoded file; `Any` because it is someone else's."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise McpConfigError(
            f"The MCP configuration file {path} does not exist.",
            path=str(path),
            remedy="Create it, or correct the setting that names it.",
        ) from exc
    except OSError as exc:
        raise McpConfigError(
            f"The MCP configuration file {path} cannot be read: {exc.strerror or exc}.",
            path=str(path),
            remedy="It must be a file that you may read.",
        ) from exc
    except json.JSONDecodeError as exc:
        raise McpConfigError(
            f"{path} is not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}.",
            path=str(path),
            remedy="Correct it there; JSON knows no comments and no comma after the last item.",
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise McpConfigError(
            f"{path} is not valid JSON: it is no UTF-8 text, or nested too deeply.", path=str(path), remedy=_SHAPE
        ) from exc


def _scalar_to_text(value: object) -> object:
    """Node programs take numbers and booleans where texts belong, so people write them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _null_to_nothing(value: object) -> object:
    return {} if value is None else value


_Text = Annotated[str, BeforeValidator(_scalar_to_text)]
_Texts = Annotated[dict[str, _Text], BeforeValidator(_null_to_nothing)]


class _Entry(BaseModel):
    """An entry as it stands in the file; keys that we do not use are let pass."""

    model_config = ConfigDict(extra="ignore")

    type: str | None = None
    command: str | None = None
    args: list[_Text] | None = None
    env: _Texts = {}
    cwd: str | None = None
    url: str | None = None
    headers: _Texts = {}
    timeout: float | None = None
    disabled: bool | None = None


def _read_entry(
    name: str, entry: object, expansion: _Expansion, *, path: Path, scope: str, project: Path
) -> ServerConfig:
    """Raises ValueError with what is wrong; never with a value, which may be a secret."""
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    try:
        raw = _Entry.model_validate(entry)
    except ValidationError as exc:
        problems = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_input=False)]
        raise ValueError("; ".join(problems)) from exc
    transport = _transport_of(raw)
    cwd = None
    if raw.cwd:
        cwd = project / Path(expansion.expand(raw.cwd)).expanduser()
    return ServerConfig(
        name=name,
        transport=transport,
        command=expansion.expand(raw.command or "") if transport == "stdio" else "",
        args=tuple(map(expansion.expand, raw.args or ())) if transport == "stdio" else (),
        env={key: expansion.expand(value) for key, value in raw.env.items()},
        cwd=cwd,
        url=expansion.expand(raw.url or "") if transport != "stdio" else "",
        headers={key: expansion.expand(value) for key, value in raw.headers.items()},
        timeout=expansion.seconds(raw.timeout),
        source=path,
        scope=scope,
        disabled=raw.disabled is True,
    )


def _transport_of(raw: _Entry) -> Transport:
    """The transport that an entry means, be it said or to be guessed."""
    if raw.type is None:
        if not raw.command and not raw.url:
            raise ValueError("it has neither 'command' nor 'url'")
        return "stdio" if raw.command else "http"
    transport = _TRANSPORTS.get(raw.type.lower())
    if transport is None:
        raise ValueError(f"type '{raw.type}' is not one of stdio, http, sse")
    if transport == "stdio" and not raw.command:
        raise ValueError("a stdio server needs a 'command'")
    if transport != "stdio" and not raw.url:
        raise ValueError(f"a server of type '{raw.type}' needs a 'url'")
    return transport


class _Expansion:
    """Expands `${VAR}`, `${VAR:-default}` and `${env:VAR}` in one entry, and remembers what it met.

    A variable that is not set and has no default stays as it stands, as in Claude Code 2.1.330.
    """

    _PATTERN = re.compile(r"\$\{(?:(?P<kind>env|input):)?(?P<name>[^}:]+)(?::-(?P<default>[^}]*))?\}")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._unset: set[str] = set()
        self._ignored_timeout: float | None = None
        self.inputs: set[str] = set()

    def expand(self, text: str) -> str:
        return self._PATTERN.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        name: str = match["name"]
        default: str | None = match["default"]
        if match["kind"] == "input":
            self.inputs.add(name)
            return match[0]
        value = self._environ.get(name)
        if value is None:
            value = default
        if value is None:
            self._unset.add(name)
            return match[0]
        return value

    def seconds(self, milliseconds: float | None) -> float | None:
        if milliseconds is None:
            return None
        if milliseconds >= MIN_TIMEOUT:
            return milliseconds / 1000
        self._ignored_timeout = milliseconds
        return None

    def warnings(self) -> list[str]:
        """What the user should know, although the server can be used."""
        found = [f"the environment variable {name} is not set" for name in sorted(self._unset)]
        if self._ignored_timeout is not None:
            found.append(f"timeout {self._ignored_timeout:g} is ignored: it is milliseconds, at least {MIN_TIMEOUT}")
        return found


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


def _names_bridge(word: str) -> bool:
    """Whether a program, module, package or repository is us, whatever its folder and version."""
    word = word.replace("\\", "/").rstrip("/")
    start = max(word.lower().rfind("/lmstudio-bridge"), word.lower().rfind("/lmstudio_bridge")) + 1
    return _BRIDGE.fullmatch(word, start) is not None
