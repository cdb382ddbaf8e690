"""Environment variables → one frozen `Settings`, the only place for defaults.

Nothing else reads the environment of the process; everything is given plain values from here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.messages import Access
from lmstudio_bridge.text import explain_invalid

DEFAULT_HOST = "127.0.0.1"  # not "localhost": that may resolve to ::1, where LM Studio does not listen
DEFAULT_PORT = 1234  # LM Studio's own default

_PORT_DIGITS = 5  # Python refuses to read numbers of thousands of digits
_API_SUFFIXES = ("/api/v1", "/api/v0", "/v1")
_HOST = re.compile(r"[^\s/\\<>\"'`{}|^]+")
_LABEL_LENGTH = 63  # characters between the dots of a host name (RFC 1035)

_MAX_RUNS = 20

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _setting(default: Any, description: str, *variables: str, **bounds: Any) -> Any:
    """A field set by the first of these environment variables that is not empty; without `default`, computed."""
    return Field(default, description=description, json_schema_extra={"env": list(variables)}, **bounds)


class Settings(BaseModel):
    """Everything a user can set, each with its default and the environment variables that set it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root_url: str = _setting(
        f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
        "Address of LM Studio.",
        "LMSTUDIO_BASE_URL",
        "LMSTUDIO_BRIDGE_BASE_URL",  # set by the plugin, to nothing where the user gave no address
    )
    api_token: SecretStr | None = _setting(
        None,
        'API token; needed if "Require Authentication" is on in LM Studio.',
        "LM_API_TOKEN",
        "LMSTUDIO_API_KEY",
        "LMSTUDIO_BRIDGE_API_TOKEN",
    )
    ca_file: Path | None = _setting(
        None, "CA certificates (PEM file) for an https address.", "LMSTUDIO_BRIDGE_CA_FILE", "SSL_CERT_FILE"
    )
    default_model: str | None = _setting(None, "Model to use if a call names none.", "DEFAULT_MODEL")
    project: Path = _setting(
        ..., "Project folder; .mcp.json is looked up there and in its parents.", "CLAUDE_PROJECT_DIR"
    )
    mcp_config: Path | None = _setting(
        None,
        "File with MCP servers, instead of those of Claude Code and LM Studio.",
        "LMSTUDIO_BRIDGE_MCP_CONFIG",
        "MCP_JSON_PATH",
    )
    trust: tuple[str, ...] = _setting(
        (),
        "Servers of the project's .mcp.json that need no approval: comma-separated names, or * for all; PATH:NAME for "
        "a file in another folder.",
        "LMSTUDIO_BRIDGE_TRUST",
    )
    pass_env: tuple[str, ...] = _setting(
        (),
        "More variables to pass to MCP servers: comma-separated names or patterns such as AWS_*.",
        "LMSTUDIO_BRIDGE_PASS_ENV",
    )
    max_access: Access = _setting(
        "write", "Highest access of a run; with read, no run can change anything.", "LMSTUDIO_BRIDGE_MAX_ACCESS"
    )
    depth: int = _setting(
        0, "Set by the bridge for its servers, so that it never delegates to itself.", "LMSTUDIO_BRIDGE_DEPTH", ge=0
    )
    home: Path = _setting(..., "Folder for journals, logins and caches.", "LMSTUDIO_BRIDGE_HOME")
    journal: Literal["off", "audit", "full"] = _setting(
        "full",
        "What to keep of runs; audit records what was done, but no text. Only full journals can be continued.",
        "LMSTUDIO_BRIDGE_JOURNAL",
    )
    journal_days: float = _setting(
        30, "Days after which a journal is deleted.", "LMSTUDIO_BRIDGE_JOURNAL_DAYS", gt=0, le=36_500
    )
    journal_mb: int = _setting(
        500,
        "Megabytes of all journals together; the oldest are deleted first.",
        "LMSTUDIO_BRIDGE_JOURNAL_MB",
        ge=1,
        le=1_000_000,
    )
    connect_timeout: Seconds = _setting(5.0, "Seconds to connect to LM Studio.", "LMSTUDIO_BRIDGE_CONNECT_TIMEOUT")
    first_byte_timeout: Seconds = _setting(
        600.0,
        "Seconds without data while LM Studio loads the model and reads the prompt.",
        "LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT",
    )
    between_bytes_timeout: Seconds = _setting(
        120.0, "Seconds without data in the middle of a reply.", "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT"
    )
    retry_attempts: int = _setting(
        3,
        "Attempts at a request that fails with a transient error (429: up to 5).",
        "LMSTUDIO_BRIDGE_RETRY_ATTEMPTS",
        "LMS_MAX_RETRIES",
        ge=1,
        le=10,
    )
    model_ttl: float = _setting(
        60.0, "Seconds for which the list of models is cached.", "LMSTUDIO_BRIDGE_MODEL_TTL", ge=0, le=86_400
    )
    context_length: int = _setting(
        16_384, "Tokens of context to load a model with.", "LMSTUDIO_BRIDGE_CONTEXT_LENGTH", ge=512
    )
    temperature: float | None = _setting(
        None,
        "Sampling temperature; defaults to 0 for small models, to LM Studio's own for others.",
        "LMSTUDIO_BRIDGE_TEMPERATURE",
        ge=0,
        le=2,
    )
    calls: Literal["auto", "native", "grammar"] = _setting(
        "auto", "How to ask for tool calls; grammar is JSON constrained by a schema.", "LMSTUDIO_BRIDGE_CALLS"
    )
    parallel: int | None = _setting(
        None,
        "Concurrent requests per model; defaults to the number of slots that LM Studio reports, or 4.",
        "LMSTUDIO_BRIDGE_PARALLEL",
        ge=1,
        le=1_000,
    )
    max_runs: int | None = _setting(
        None,
        f"Concurrent runs; defaults to {_MAX_RUNS}, or LMSTUDIO_BRIDGE_PARALLEL if that is more. Up to 100 more are "
        "queued.",
        "LMSTUDIO_BRIDGE_MAX_RUNS",
        ge=1,
        le=1_000,
    )
    watch_interval: Seconds = _setting(
        5.0, "Seconds between checks that the model is still loaded.", "LMSTUDIO_BRIDGE_WATCH_INTERVAL"
    )
    server_start_timeout: Seconds = _setting(
        30.0, "Seconds for an MCP server to start and list its tools.", "LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT"
    )
    server_idle: float = _setting(
        600.0,
        "Seconds for which an unused MCP server stays open; 0 closes it with its last run.",
        "LMSTUDIO_BRIDGE_SERVER_IDLE",
        ge=0,
        le=86_400,
    )
    max_servers: int = _setting(20, "MCP servers open at the same time.", "LMSTUDIO_BRIDGE_MAX_SERVERS", ge=1, le=1_000)
    fresh: tuple[str, ...] | None = _setting(
        None,
        "Servers that every run starts for itself: comma-separated names, or * for all; defaults to browsers.",
        "LMSTUDIO_BRIDGE_FRESH",
    )
    tool_timeout: Seconds = _setting(
        120.0, "Seconds for one tool call, unless the server's entry sets a timeout.", "LMSTUDIO_BRIDGE_TOOL_TIMEOUT"
    )
    run_timeout: Seconds = _setting(
        3600.0, "Seconds for a whole run; then it returns the answer so far.", "LMSTUDIO_BRIDGE_RUN_TIMEOUT"
    )
    heartbeat: Seconds = _setting(
        15.0, "Seconds between progress messages when nothing new happens.", "LMSTUDIO_BRIDGE_HEARTBEAT"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "warning", "How much is logged to stderr.", "LMSTUDIO_BRIDGE_LOG_LEVEL"
    )

    @property
    def run_limit(self) -> int:
        """How many runs there may be at once."""
        return self.max_runs or max(_MAX_RUNS, self.parallel or 0)


def read_settings(environ: Mapping[str, str], *, cwd: Path) -> Settings:
    """The settings in `environ`; an empty variable counts as not set. Relative paths start at `cwd`.

    Raises:
        SettingsError: A variable has an invalid value; the message names it.
    """
    values: dict[str, Any] = {"project": cwd, "home": _default_home(environ)}
    named_by: dict[str, str] = {}
    for name in Settings.model_fields:
        for variable in variables_of(name):
            if value := environ.get(variable, "").strip():
                values[name], named_by[name] = value, variable
                break
    if "root_url" in values:
        values["root_url"] = normalize_root_url(values["root_url"], variable=named_by["root_url"])
    elif environ.get("LMSTUDIO_HOST", "").strip() or environ.get("LMSTUDIO_PORT", "").strip():
        values["root_url"] = _root_url_of_host(environ)
    for name in ("trust", "pass_env", "fresh"):
        if name in values:
            values[name] = tuple(filter(None, map(str.strip, values[name].split(","))))
    for name in ("project", "mcp_config", "home", "ca_file"):
        if name in values:
            values[name] = cwd / _expanded(values[name], variable=named_by.get(name, variables_of(name)[0]))
    if not all("!" <= character <= "~" for character in values.get("api_token", "")):
        raise SettingsError(
            f"{named_by['api_token']} contains characters that are invalid in an API token.",
            remedy=f"Copy the token from LM Studio into {named_by['api_token']} again, with nothing around it.",
        )
    for name in ("log_level", "max_access", "journal"):
        if name in values:
            values[name] = values[name].lower()
    try:
        return Settings.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = str(first["loc"][0])
        shown = named_by.get(name, variables_of(name)[0])
        raise SettingsError(
            f"The environment variable {shown} has an invalid value: it {explain_invalid(first)}.",
            remedy=f"Correct or remove {shown}. It sets: {Settings.model_fields[name].description}",
        ) from exc


def variables_of(field: str) -> list[str]:
    """The environment variables that set a field, in order of precedence."""
    extra = Settings.model_fields[field].json_schema_extra
    variables = extra["env"] if isinstance(extra, dict) else []
    assert isinstance(variables, list)
    return [str(variable) for variable in variables]


def normalize_root_url(text: str, *, variable: str = "LMSTUDIO_BASE_URL") -> str:
    """LM Studio's address without `/v1`, `/api/v1`, query or trailing slash.

    Raises:
        SettingsError: It is not an http or https URL, or it contains a user name or a password.
    """
    candidate = text.strip()
    if "://" not in candidate:
        candidate = f"http://{candidate}"
    try:
        parts = urlsplit(candidate)
        valid = parts.scheme in ("http", "https") and _is_host(parts.hostname or "") and parts.port != 0
        valid = valid and not parts.netloc.endswith(":")  # http:/… would make a host of the scheme
    except ValueError:
        valid = False
    if "@" in candidate.partition("://")[2].partition("/")[0]:
        raise SettingsError(
            f"{variable} contains a user name or a password.",
            remedy="Put the token into LM_API_TOKEN and remove it from the address.",
        )
    if not valid:
        raise SettingsError(
            f"{variable} is not an http or https address: {text!r}.",
            remedy=f"Set {variable} to something like http://{DEFAULT_HOST}:{DEFAULT_PORT}/v1.",
        )
    path = parts.path.rstrip("/")
    for suffix in _API_SUFFIXES:
        if path.endswith(suffix):
            path = path.removesuffix(suffix).rstrip("/")
            break
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _is_host(text: str) -> bool:
    """Whether it is a valid host name.

    Raises:
        ValueError: It contains invalid characters.
    """
    labels = text.removesuffix(".").split(".")
    named = text.isascii() or text.encode("idna")  # the codec is slow to import, and rarely needed
    return bool(_HOST.fullmatch(text) and named and all(0 < len(label) <= _LABEL_LENGTH for label in labels))


def _root_url_of_host(environ: Mapping[str, str]) -> str:
    host = environ.get("LMSTUDIO_HOST", "").strip() or DEFAULT_HOST
    port = environ.get("LMSTUDIO_PORT", "").strip() or str(DEFAULT_PORT)
    if not (port.isdecimal() and len(port) <= _PORT_DIGITS and 0 < int(port) < 65_536):
        raise SettingsError(
            f"LMSTUDIO_PORT is not a port number: {port!r}.",
            remedy=f"Set it to the port shown in LM Studio's Developer tab (usually {DEFAULT_PORT}).",
        )
    if host.count(":") > 1 and "[" not in host and "://" not in host:
        host = f"[{host}]"  # a bare IPv6 address
    address = normalize_root_url(host, variable="LMSTUDIO_HOST")  # some put a whole address here
    parts = urlsplit(address)
    if parts.port is not None:
        return address
    return urlunsplit(parts._replace(netloc=f"{parts.netloc}:{port}"))


def _expanded(path: str | Path, *, variable: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:  # no such user, or no home folder
        raise SettingsError(
            f"{variable}: the home folder in {str(path)!r} was not found.",
            remedy=f"Set {variable} to an absolute path.",
        ) from exc


def _default_home(environ: Mapping[str, str]) -> Path:
    if state := environ.get("XDG_STATE_HOME", "").strip():
        return Path(state) / "lmstudio-bridge"
    if sys.platform == "win32" and (local := environ.get("LOCALAPPDATA", "").strip()):
        return Path(local) / "lmstudio-bridge"
    return Path("~/.local/state/lmstudio-bridge")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What paths and variables in configuration files refer to: the project, the home folder, the environment."""

    project: Path
    environ: Mapping[str, str]

    @property
    def home(self) -> Path | None:
        """The home folder of that environment, if it has one."""
        variable = "USERPROFILE" if os.name == "nt" and not self.environ.get("HOME") else "HOME"
        return Path(home) if (home := self.environ.get(variable, "")) else None

    @property
    def claude_folder(self) -> Path | None:
        """The folder with the user's settings of Claude Code, which `CLAUDE_CONFIG_DIR` moves; None without a home."""
        if moved := self.environ.get("CLAUDE_CONFIG_DIR", "").strip():
            return self.locate(moved)
        return self.home / ".claude" if self.home else None

    def locate(self, text: str) -> Path:
        """The path: below the home folder if it starts with `~`, else relative to the project."""
        first, *rest = Path(text).parts or (".",)
        if first == "~" and self.home is not None:
            return self.home.joinpath(*rest)
        return self.project / text

    def word(self, name: str) -> str | None:
        """The value of a `${name}` of Cursor, VS Code and Claude Code; None if the name is unknown."""
        match name:
            case "workspaceFolder" | "CLAUDE_PROJECT_DIR":
                return str(self.project)
            case "workspaceFolderBasename":
                return self.project.name
            case "userHome":
                return str(self.home) if self.home else None
            case "pathSeparator" | "/":
                return os.sep
            case _:
                return None
