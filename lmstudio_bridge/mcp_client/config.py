"""Reads one configuration file: its entries become `ServerConfig`s, or reasons why they cannot be used.

One bad entry never spoils the others. `discovery` knows which files there are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lmstudio_bridge.errors import McpConfigError
from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.json_text import load_commented
from lmstudio_bridge.messages import Scope, ServerConfig, Transport
from lmstudio_bridge.settings import Surroundings
from lmstudio_bridge.text import explain_invalid

MAX_BYTES = 64 * 1024 * 1024  # of one file; Claude Code keeps years of history in its own
MIN_TIMEOUT = 1000  # milliseconds; Claude Code ignores less, and other programs write seconds under the same key

_TRANSPORTS: Mapping[str, Transport] = {
    "stdio": "stdio",
    "local": "stdio",  # GitHub Copilot CLI
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "streamable": "http",
    "http-stream": "http",
    "remote": "http",
    "sse": "sse",
}
_UNKNOWN_KEYS = (
    *("envFile", "headersHelper", "environment", "http_headers", "requestOptions"),
    *("tools", "enabledTools", "allowedTools", "enabled_tools", "disabled_tools"),
)
"""Keys that other programs support and we do not, although a server may need them, or they switch something off."""
_PRIVATE = re.compile(
    r"LM_API_TOKEN|LMSTUDIO_API_KEY|LMSTUDIO_BRIDGE_API_TOKEN|ANTHROPIC_.*|CLAUDE(?!_PROJECT_DIR\Z|_PLUGIN_).*",
    re.IGNORECASE,
)
"""Variables of the bridge's and Claude Code's own: a project's file must not hand them to its servers."""
_USER_CONFIG = "user_config."  # begins what Claude Code asks for when a plugin is installed
_ALLOWING_KEYS = ("autoApprove", "alwaysAllow", "trust")
"""Keys with which other programs let tools run without asking."""

_SHAPE = 'It should look like {"mcpServers": {"name": {"command": "...", "args": []}}}.'

_INSTEAD = f"The bridge does not read that. Copy the servers into a JSON file. {_SHAPE}"
_OTHER_SUFFIXES: Mapping[str, str] = {
    ".toml": "Codex (TOML)",
    ".yaml": "Continue or Goose (YAML)",
    ".yml": "Continue or Goose (YAML)",
}
_OTHER_KEYS: Mapping[str, str] = {
    "context_servers": "Zed",
    "mcp": "opencode, or of VS Code's settings.json",
    "mcp_servers": "Codex",
    "amp.mcpServers": "Amp",
}
"""The programs whose files have an object of that name in place of `mcpServers`."""

_BRIDGE = re.compile(r"lmstudio[-_]bridge(\.exe|\.cmd|\.git|/__main__\.py)?([@=<>~!\[;].*)?", re.IGNORECASE)
_BEFORE_BRIDGE = frozenset({"--from", "--directory", "--project", "--with", "--with-editable", "--spec", "-m", "run"})
_BEFORE_SCRIPT = frozenset({"-c", "-lc", "-ic", "/c"})


def starts_bridge(command: str, args: tuple[str, ...]) -> bool:
    """Whether a command line starts this program, which must not delegate tasks to itself.

    A path that ends in our name counts only as a program or a package: a file server may well serve a
    folder of that name. What a wrapper or a copy hides is stopped by `launch.DEPTH_VARIABLE`.
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


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The entries of one file; each name is in `servers` or in `skipped`."""

    path: Path
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_file(path: Path, *, scope: Scope, around: Surroundings) -> ConfigFile:
    """A file with `mcpServers` (Claude Code, Cursor, LM Studio) or `servers` (VS Code) at its root.

    Raises:
        McpConfigError: it cannot be read, is not JSON, or has another shape.
    """
    if (program := _OTHER_SUFFIXES.get(path.suffix.lower())) is not None:
        raise McpConfigError(f"{path} is in the format of {program}.", remedy=_INSTEAD)
    return read_root(read_json(path), path=path, scope=scope, around=around)


def read_root(root: object, *, path: Path, scope: Scope, around: Surroundings) -> ConfigFile:
    """The entries of the decoded file; `{}` has none.

    Raises:
        McpConfigError: it has another shape.
    """
    known = root if isinstance(root, dict) else {}
    found = [known[key] for key in ("mcpServers", "servers") if key in known] or [{} if root == {} else None]
    entries = next(filter(None, found), found[0])  # VS Code's own beside an empty `mcpServers` counts
    if not isinstance(entries, dict):
        for key, program in _OTHER_KEYS.items():
            if entries is None and isinstance(known.get(key), dict):
                raise McpConfigError(f"{path} is in the format of {program}.", remedy=_INSTEAD)
        raise McpConfigError(f"{path} has no object 'mcpServers'.", remedy=_SHAPE)
    servers: dict[str, ServerConfig] = {}
    skipped: dict[str, str] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    for name, entry in entries.items():
        expansion = _Expansion(around, is_own=scope != "project")
        try:
            config = _read_entry(name, entry, expansion, path=path, scope=scope)
        except ValueError as exc:
            skipped[name] = f"its entry in {path} is malformed: {exc}."
            continue
        if starts_bridge(config.command, config.args):
            skipped[name] = f"its entry in {path} starts the bridge itself."
        elif expansion.asked:
            wanted = ", ".join(sorted(expansion.asked))
            program = "Claude Code" if _USER_CONFIG in wanted else "VS Code"
            skipped[name] = f"its entry in {path} uses {wanted}, which only {program} can fill in."
        elif config.disabled:
            skipped[name] = f"it is disabled in {path}."
        else:
            servers[name] = config
            found = [
                *sorted(expansion.warnings),
                *(f"'{key}' is not supported" for key in _UNKNOWN_KEYS if entry.get(key, ["*"]) != ["*"]),
            ]
            if found:
                warnings[name] = tuple(f"MCP server '{name}' in {path}: {warning}" for warning in found)
    return ConfigFile(path, servers, skipped, warnings)


def read_json(path: Path, *, comments: bool = True) -> Any:
    """The decoded file, which may have comments and trailing commas; `Any` because it is someone else's.

    Raises:
        McpConfigError: it cannot be read, or is not JSON.
    """
    try:
        data = read_bounded(path, max_bytes=MAX_BYTES)
        if not (encoding := json.detect_encoding(data)).startswith("utf-8"):
            raise McpConfigError(
                f"{path} is not UTF-8 but {encoding.upper()}.",
                remedy="Save it as UTF-8; PowerShell does so with `Set-Content -Encoding utf8`.",
            )
        return (load_commented if comments else json.loads)(data.decode("utf-8-sig"))
    except FileNotFoundError as exc:
        raise McpConfigError(
            f"The MCP configuration file {path} does not exist.",
            remedy="Create it, or correct the setting that names it.",
        ) from exc
    except OSError as exc:
        raise McpConfigError(
            f"The MCP configuration file {path} cannot be read: {exc.strerror or exc}.",
            remedy="Make it a file that you can read.",
        ) from exc
    except json.JSONDecodeError as exc:
        raise McpConfigError(
            f"{path} is not valid JSON: {exc.msg.removesuffix(' at')} at line {exc.lineno}, column {exc.colno}.",
            remedy="Fix it there.",
        ) from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        column = exc.start - exc.object.rfind(b"\n", 0, exc.start)
        raise McpConfigError(f"{path} is not UTF-8 at line {line}, byte {column}.", remedy="Save it as UTF-8.") from exc
    except (ValueError, RecursionError) as exc:
        problem = "it is nested too deeply" if isinstance(exc, RecursionError) else "a number in it is too long"
        raise McpConfigError(f"{path} is not valid JSON: {problem}.", remedy=_SHAPE) from exc


def read_object(path: Path, *, warnings: list[str], comments: bool = True) -> Mapping[str, Any] | None:
    """The object in a file; None if the file is missing, or cannot be used, which is a warning."""
    try:
        if not path.exists():
            return None
        root = read_json(path, comments=comments)
    except McpConfigError as exc:
        warnings.append(f"{exc.message} {exc.remedy}".rstrip())
        return None
    except OSError as exc:
        warnings.append(f"{path} cannot be read: {exc.strerror}.")
        return None
    if isinstance(root, dict):
        return root
    warnings.append(f"{path} is ignored: it is not a JSON object.")
    return None


def _scalar_to_text(value: object) -> object:
    """Node programs accept numbers and booleans in place of strings, so people write them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


_Text = Annotated[str, BeforeValidator(_scalar_to_text)]
_Texts = Annotated[dict[str, _Text], BeforeValidator(lambda value: {} if value is None else value)]


class _OAuth(BaseModel):
    """Claude Code's key for a client that the user has registered at the service."""

    model_config = ConfigDict(extra="ignore")

    clientId: str = ""
    callbackPort: int = Field(0, ge=0, le=65_535)


class _Entry(BaseModel):
    """An entry as it is in the file; keys that we do not use are ignored.

    Gemini CLI writes `httpUrl`, Windsurf `serverUrl`, Cherry Studio `isActive`, some others `transport`.
    """

    model_config = ConfigDict(extra="ignore", loc_by_alias=False)

    type: str | None = Field(None, validation_alias=AliasChoices("type", "transport", "transportType"))
    command: str | None = None
    args: list[_Text] | None = None
    env: _Texts = {}
    cwd: str | None = None
    url: str | None = Field(None, validation_alias=AliasChoices("httpUrl", "url", "serverUrl"))
    headers: _Texts = {}
    timeout: float | None = None
    disabled: bool | None = None
    enabled: bool | None = Field(None, validation_alias=AliasChoices("enabled", "isActive", "active"))
    disabledTools: list[str] | None = None
    excludeTools: list[str] | None = None
    includeTools: list[str] | None = None
    # Other programs write `"oauth": false`.
    oauth: Annotated[_OAuth | None, BeforeValidator(lambda value: value if isinstance(value, dict) else None)] = None


def _read_entry(name: str, entry: object, expansion: _Expansion, *, path: Path, scope: Scope) -> ServerConfig:
    """Raises ValueError with what is wrong; never with a value, which may be a secret."""
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    try:
        raw = _Entry.model_validate(entry)
    except ValidationError as exc:
        errors = exc.errors(include_input=False)
        problems = [f"'{'.'.join(map(str, error['loc']))}' {explain_invalid(error)}" for error in errors]
        raise ValueError("; ".join(problems)) from exc
    transport = _transport_of(raw)
    decides = raw.model_dump(include={"type", "command", "args", "env", "cwd", "url", "headers"})
    return ServerConfig(
        name=name,
        transport=transport,
        command=expansion.expand(raw.command or "") if transport == "stdio" else "",
        args=tuple(map(expansion.expand, raw.args or ())) if transport == "stdio" else (),
        env={key: expansion.expand(value) for key, value in raw.env.items()},
        cwd=expansion.around.locate(expansion.expand(raw.cwd)) if raw.cwd else None,
        url=_address(expansion.expand(raw.url or "")) if transport != "stdio" else "",
        headers={key: expansion.expand(value) for key, value in raw.headers.items()},
        timeout=expansion.seconds(raw.timeout),
        source=path,
        scope=scope,
        disabled=raw.disabled is True or raw.enabled is False,
        only_tools=None if raw.includeTools is None else tuple(raw.includeTools),
        disabled_tools=(*(raw.disabledTools or ()), *(raw.excludeTools or ())),
        entry_digest=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest(),
        client_id=raw.oauth.clientId if raw.oauth else "",
        callback_port=raw.oauth.callbackPort if raw.oauth else 0,
        notes=tuple(
            f"MCP server '{name}' in {path}: '{key}' is not used; what a run may call is decided by its access and "
            "by lmstudio-bridge.toml."
            for key in _ALLOWING_KEYS
            if entry.get(key)
        ),
    )


def _transport_of(raw: _Entry) -> Transport:
    """The transport of an entry, from its type or its other keys."""
    if not raw.type:
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


def _address(url: str) -> str:
    """The URL. Raises ValueError if it cannot be one of HTTP; where a variable is not set, that is said elsewhere."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # raises, too
    except ValueError as exc:  # http://[::1 and http://host:99999
        raise ValueError("its 'url' is not valid") from exc
    if parts.scheme not in ("http", "https") and "${" not in url:
        raise ValueError("its 'url' does not begin with http:// or https://")
    return url.strip()


class _Expansion:
    """Expands `${VAR}`, `${VAR:-default}`, `${env:VAR}`, `${workspaceFolder}` in one entry; notes problems.

    What only VS Code knows is `asked`: `${input:…}`, `${command:…}`, `${config:…}`, a named `${workspaceFolder:…}`.

    A variable that is not set and has no default is left unexpanded, as in Claude Code 2.1.330. Only in entries of the
    user's own are those that hold the keys of the bridge and of Claude Code set.
    """

    _PATTERN = re.compile(
        r"\$\{(?:(?P<kind>env|input|command|config|workspaceFolder):(?!-))?(?P<name>[^}:]+)(?::-(?P<default>[^}]*))?\}"
    )
    _UNEXPANDED = re.compile(r"\$(\w+)|%(\w+)%")  # of Gemini CLI, and of Windows

    def __init__(self, around: Surroundings, *, is_own: bool) -> None:
        self.around = around
        self._is_own = is_own
        self.asked: set[str] = set()
        self.warnings: set[str] = set()  # about what does not keep the server from being used

    def expand(self, text: str) -> str:
        if (found := self._UNEXPANDED.fullmatch(text)) and found[found.lastindex or 0] in self.around.environ:
            self.warnings.add(f"{text} is passed on as it is; write ${{{text.strip('$%')}}} for the variable")
        return self._PATTERN.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        name: str = match["name"]
        default: str | None = match["default"]
        if match["kind"] not in (None, "env") or name.startswith(_USER_CONFIG):
            self.asked.add(match[0])
            return match[0]
        value = self.around.environ.get(name)
        if value is not None and not self._is_own and _PRIVATE.fullmatch(name):
            self.warnings.add(f"{name} is not given to a project's server")
            return match[0] if default is None else default
        if value is None and not match["kind"]:
            value = self.around.word(name)
        if value is None:
            value = default
        if value is None:
            self.warnings.add(f"the environment variable {name} is not set")
            return match[0]
        return value

    def seconds(self, milliseconds: float | None) -> float | None:
        if milliseconds is None:
            return None
        if milliseconds >= MIN_TIMEOUT:
            return milliseconds / 1000
        self.warnings.add(f"timeout {milliseconds:g} is ignored: it is milliseconds, at least {MIN_TIMEOUT}")
        return None
