"""The environment, read once, as one frozen value.

Nothing below `cli` reads environment variables; it is given plain values from here.
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

from lmstudio_bridge.errors import (
    SettingsError,
)
from lmstudio_bridge.messages import Access

DEFAULT_HOST = "127.0.0.1"  # not "localhost": that may resolve to ::1, where LM Studio does not listen
DEFAULT_PORT = 1234  # LM Studio's own default

_PORT_DIGITS = 5  # Python refuses to read numbers of thousands of digits
_API_SUFFIXES = ("/api/v1", "/api/v0", "/v1")
_HOST = re.compile(r"[^\s/\\<>\"'`{}|^]+")
_LABEL_LENGTH = 63  # characters between the dots of a host name (RFC 1035)

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _from_env(*names: str) -> dict[str, Any]:
    return {"env": list(names)}


class Settings(BaseModel):
    """Everything that a user can set, with the variable that sets it in `json_schema_extra`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root_url: str = Field(
        f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
        description="LM Studio's address, without /v1. With or without /v1 in the variable, any path, http or https.",
        json_schema_extra=_from_env("LMSTUDIO_BASE_URL"),
    )
    api_token: SecretStr | None = Field(
        None,
        description="API token, needed when LM Studio's «Require Authentication» is on.",
        json_schema_extra=_from_env("LM_API_TOKEN", "LMSTUDIO_API_KEY"),
    )
    ca_file: Path | None = Field(
        None,
        description="File with the certificates (PEM) that an https address of LM Studio is checked against.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_CA_FILE", "SSL_CERT_FILE"),
    )
    default_model: str | None = Field(
        None,
        description="Model to use when a call names none.",
        json_schema_extra=_from_env("DEFAULT_MODEL"),
    )
    project: Path = Field(
        description="Folder of the project: .mcp.json is looked for there and upwards.",
        json_schema_extra=_from_env("CLAUDE_PROJECT_DIR"),
    )
    mcp_config: Path | None = Field(
        None,
        description="File with MCP servers to use instead of those of Claude Code and LM Studio.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_MCP_CONFIG", "MCP_JSON_PATH"),
    )
    trust: tuple[str, ...] = Field(
        (),
        description="Servers of the project's .mcp.json that may start without Claude Code's approval: names with "
        "commas, or * for all.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_TRUST"),
    )
    pass_env: tuple[str, ...] = Field(
        (),
        description="Variables that MCP servers get on top of a small base: names with commas, AWS_* for several.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_PASS_ENV"),
    )
    max_access: Access = Field(
        "write",
        description="Most that a call may ask for with its argument access: write, or read, so that no run changes "
        "anything.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_MAX_ACCESS"),
    )
    depth: int = Field(
        0,
        ge=0,
        description="Bridges above this one. Set by the bridge for its servers, so that it never works for itself.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_DEPTH"),
    )
    home: Path = Field(
        description="Folder for the journals of runs, and for what is known of each server's tools.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_HOME"),
    )
    journal: Literal["off", "audit", "full"] = Field(
        "full",
        description="What is kept of runs: full; audit, which is what was done but no texts; or off. Only a full one "
        "can be continued.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_JOURNAL"),
    )
    journal_days: float = Field(
        30,
        gt=0,
        le=36_500,
        description="Days after which a journal is deleted.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_JOURNAL_DAYS"),
    )
    journal_mb: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description="Megabytes that all journals may take; the oldest go first.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_JOURNAL_MB"),
    )
    connect_timeout: Seconds = Field(
        5.0,
        description="Seconds to connect to LM Studio.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_CONNECT_TIMEOUT"),
    )
    first_byte_timeout: Seconds = Field(
        600.0,
        description="Seconds of silence allowed while LM Studio loads the model and reads the prompt.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT"),
    )
    between_bytes_timeout: Seconds = Field(
        120.0,
        description="Seconds of silence allowed in the middle of a reply.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT"),
    )
    retry_attempts: int = Field(
        3,
        ge=1,
        le=10,
        description="Tries of a request that failed in a passing way (429: up to 5).",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_RETRY_ATTEMPTS", "LMS_MAX_RETRIES"),
    )
    model_ttl: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="Seconds for which the list of models is taken as current.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_MODEL_TTL"),
    )
    context_length: int = Field(
        16_384,
        ge=512,
        description="Tokens of context with which a model is loaded that is not in memory yet, where it allows that.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_CONTEXT_LENGTH"),
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sampling temperature; else 0 for small models, and LM Studio's own for the others.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_TEMPERATURE"),
    )
    calls: Literal["auto", "native", "grammar"] = Field(
        "auto",
        description="How models are asked for tool calls: native, grammar (JSON bound by a grammar), or auto.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_CALLS"),
    )
    parallel: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="Requests at a model at once; else as many as the slots that LM Studio tells, or 4.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_PARALLEL"),
    )
    max_runs: int = Field(
        20,
        ge=1,
        le=1_000,
        description="Runs at once; more wait in line, of which the progress tells, and with 100 in line they are "
        "refused.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_MAX_RUNS"),
    )
    watch_interval: Seconds = Field(
        5.0,
        description="Seconds between looks at whether the model is still the same while it works.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_WATCH_INTERVAL"),
    )
    server_start_timeout: Seconds = Field(
        30.0,
        description="Seconds for an MCP server to start and list its tools.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT"),
    )
    server_idle: float = Field(
        600.0,
        ge=0,
        le=86_400,
        description="Seconds for which an MCP server stays open when no run uses it; 0 closes it with its last run.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_SERVER_IDLE"),
    )
    max_servers: int = Field(
        20,
        ge=1,
        le=1_000,
        description="MCP servers open at once; of those that no run uses, the one left longest ago makes room.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_MAX_SERVERS"),
    )
    fresh: tuple[str, ...] | None = Field(
        None,
        description="Servers that every run starts for itself: names with commas, or * for all; else browsers.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_FRESH"),
    )
    tool_timeout: Seconds = Field(
        120.0,
        description="Seconds for one tool call, where the server's own entry sets no timeout.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_TOOL_TIMEOUT"),
    )
    run_timeout: Seconds = Field(
        3600.0,
        description="Seconds for a whole run; at the end of it the answer so far is given.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_RUN_TIMEOUT"),
    )
    heartbeat: Seconds = Field(
        15.0,
        description="Seconds between two progress messages when nothing new happens; a host may give up on silence.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_HEARTBEAT"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning",
        description="How much is logged to stderr.",
        json_schema_extra=_from_env("LMSTUDIO_BRIDGE_LOG_LEVEL"),
    )


def read_settings(environ: Mapping[str, str], *, cwd: Path) -> Settings:
    """The settings that `environ` asks for; an empty variable counts as not set.

    Raises:
        SettingsError: A variable has a value that cannot be used; the message names it.
    """
    values: dict[str, Any] = {"project": cwd, "home": _default_home(environ)}
    named_by: dict[str, str] = {}
    for name in Settings.model_fields:
        for variable in _variables(name):
            if value := environ.get(variable, "").strip():
                values[name], named_by[name] = value, variable
                break
    if "root_url" in values:
        values["root_url"] = normalise_root_url(values["root_url"], variable=named_by["root_url"])
    elif environ.get("LMSTUDIO_HOST", "").strip() or environ.get("LMSTUDIO_PORT", "").strip():
        values["root_url"] = _root_url_of_host(environ)
    for name in ("trust", "pass_env", "fresh"):
        if name in values:
            values[name] = tuple(filter(None, map(str.strip, values[name].split(","))))
    for name in ("project", "mcp_config", "home", "ca_file"):
        if name in values:
            values[name] = cwd / _expanded(values[name], variable=named_by.get(name, _variable(name)))
    if not all("!" <= character <= "~" for character in values.get("api_token", "")):
        raise SettingsError(
            f"{named_by['api_token']} holds characters that no API token has.",
            remedy=f"Copy the token from LM Studio once more into {named_by['api_token']}, without anything around it.",
        )
    for name in ("log_level", "max_access", "journal"):
        if name in values:
            values[name] = values[name].lower()
    try:
        return Settings.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = str(first["loc"][0])
        shown = named_by.get(name, _variable(name))
        raise SettingsError(
            f"The environment variable {shown} has a value that can't be used: {first['msg']}.",
            remedy=f"{shown}: {Settings.model_fields[name].description} Correct it or remove it.",
        ) from exc


def normalise_root_url(text: str, *, variable: str = "LMSTUDIO_BASE_URL") -> str:
    """LM Studio's address without `/v1`, `/api/v1`, query or trailing slash.

    Raises:
        SettingsError: It is no http(s) URL, or it holds a user name or password.
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
            f"{variable} holds a user name or a password.",
            remedy="Put the token into LM_API_TOKEN and leave the address without it.",
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
    """Whether it can be sent as the name of a host.

    Raises:
        ValueError: It holds characters that no name has.
    """
    labels = text.removesuffix(".").split(".")
    named = text.isascii() or text.encode("idna")  # a codec that takes long to import, and that most do without
    return bool(_HOST.fullmatch(text) and named and all(0 < len(label) <= _LABEL_LENGTH for label in labels))


def _root_url_of_host(environ: Mapping[str, str]) -> str:
    host = environ.get("LMSTUDIO_HOST", "").strip() or DEFAULT_HOST
    port = environ.get("LMSTUDIO_PORT", "").strip() or str(DEFAULT_PORT)
    if not (port.isdecimal() and len(port) <= _PORT_DIGITS and 0 < int(port) < 65_536):
        raise SettingsError(
            f"LMSTUDIO_PORT is not a port number: {port!r}.",
            remedy=f"Set it to the port that LM Studio shows in its Developer tab (usually {DEFAULT_PORT}).",
        )
    if host.count(":") > 1 and "[" not in host and "://" not in host:
        host = f"[{host}]"  # a bare IPv6 address
    address = normalise_root_url(host, variable="LMSTUDIO_HOST")  # people put the whole address here
    parts = urlsplit(address)
    if parts.port is not None:
        return address
    return urlunsplit(parts._replace(netloc=f"{parts.netloc}:{port}"))


def _variables(name: str) -> list[str]:
    """The variables that set a field, in order of rank."""
    extra = Settings.model_fields[name].json_schema_extra
    variables = extra["env"] if isinstance(extra, dict) else []
    assert isinstance(variables, list)
    return [str(variable) for variable in variables]


def _variable(name: str) -> str:
    return _variables(name)[0]


def _expanded(path: str | Path, *, variable: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:  # no such user, or no home folder
        raise SettingsError(
            f"{variable}: the home folder in {str(path)!r} can't be found.",
            remedy=f"Set {variable} to a full path.",
        ) from exc


def _default_home(environ: Mapping[str, str]) -> Path:
    if state := environ.get("XDG_STATE_HOME", "").strip():
        return Path(state) / "lmstudio-bridge"
    if sys.platform == "win32" and (local := environ.get("LOCALAPPDATA", "").strip()):
        return Path(local) / "lmstudio-bridge"
    return Path("~/.local/state/lmstudio-bridge")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the texts of an entry may refer to: the project's folder, the home folder, the environment."""

    project: Path
    environ: Mapping[str, str]

    @property
    def home(self) -> Path | None:
        """The home folder of that environment; None where it does not say."""
        variable = "USERPROFILE" if os.name == "nt" and not self.environ.get("HOME") else "HOME"
        return Path(home) if (home := self.environ.get(variable, "")) else None

    def locate(self, text: str) -> Path:
        """A path as people write it: below the home folder with `~`, else as seen from the project."""
        first, *rest = Path(text).parts or (".",)
        if first == "~" and self.home is not None:
            return self.home.joinpath(*rest)
        return self.project / text

    def word(self, name: str) -> str | None:
        """What Cursor and VS Code put for a `${name}` of theirs."""
        match name:
            case "workspaceFolder":
                return str(self.project)
            case "workspaceFolderBasename":
                return self.project.name
            case "userHome":
                return str(self.home) if self.home else None
            case "pathSeparator" | "/":
                return os.sep
            case _:
                return None
