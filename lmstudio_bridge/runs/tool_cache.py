"""The tools that each MCP server listed last, and what has changed since.

One small file per server, readable by its owner only. Its name is a digest of the server's name, where it
is configured, and how it is started or reached; secrets of `env` and `headers` are in neither the name nor
the file.

A server may be approved with harmless tools and then change them. New descriptions and arguments are
reported; a tool that was not marked as read-only before goes on to count as writing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lmstudio_bridge.files import make_folder, read_bounded, write_file
from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_entry

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # of one file; the tools of honest servers take a hundredth of it
MAX_FILES = 200  # the oldest are deleted first; an entry that was changed or removed leaves its file behind
MAX_DEPTH = 64  # levels of a schema that is stored
MAX_AGE = 30 * 24 * 3600.0  # seconds; after that the server has probably been updated
REFRESH = 24 * 3600.0  # seconds after which an unchanged listing is written again, so that it does not get old

_SHOWN_TOOLS = 8  # of each kind of change
_SHOWN_NAME = 60  # characters of a tool's name
_NUMBER = re.compile(r"\d+")  # times, dates and counts in a description do not count as a change

_MARKED = "Newly marked as read-only (they count as writing until one of your rules allows them)"
_UNMARKED = "No longer marked as read-only"
_DESCRIPTION = "Different description"
_ARGUMENTS = "Different arguments"
_ANNOTATIONS = "Different annotations"
_NEW = "New"
_ORDER = (_MARKED, _UNMARKED, _DESCRIPTION, _ARGUMENTS, _ANNOTATIONS, _NEW)


@dataclass(frozen=True, slots=True)
class CachedTools:
    """The tools of one server; `gone` are those that it listed once. `listed_at` is seconds since the epoch.

    `read_only` of a tool is what the server said, even if the tool is `doubted`.
    """

    tools: tuple[ServerTool, ...]
    gone: tuple[ServerTool, ...] = ()
    listed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckedTools:
    """The tools as they count in a run, and warnings about their changes."""

    tools: tuple[ServerTool, ...]
    warnings: tuple[str, ...] = ()


class UnreadableCacheError(Exception):
    """The file of a server cannot be used; the text says why."""


class ToolCache:
    """The files in `folder`. `values` are secrets that no file may hold, besides those of each entry."""

    def __init__(self, folder: Path, *, values: Iterable[str] = (), clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._values = tuple(values)
        self._clock = clock

    def path(self, config: ServerConfig) -> Path:
        """The file of this server, whether or not it exists."""
        how = [config.command, *config.args] if config.transport == "stdio" else [config.url]
        identity = [config.name, config.scope, str(config.source), config.transport, *how]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        """The enabled tools that a server listed within the last 30 days; None if there is no such listing."""
        try:
            cached = self.read(config)
        except UnreadableCacheError:
            return None
        if cached is None or not 0 <= self._clock() - cached.listed_at < MAX_AGE:
            return None
        return tuple(tool for tool in cached.tools if config.has_tool(tool.name))

    def check(self, config: ServerConfig, tools: Sequence[ServerTool]) -> CheckedTools:
        """Compare the tools that a server lists now with those that it listed before, and store them."""
        now = self.storable(config, tools)
        warnings: tuple[str, ...] = ()
        try:
            before = self.read(config)
        except UnreadableCacheError as exc:
            before = None
            warnings = (
                f"The last listing of MCP server '{config.name}' cannot be read, "
                f"so changes of its tools go unnoticed: {exc}",
            )
        if before is None:
            self.write(config, CachedTools(now))
            return CheckedTools(tuple(tools), warnings)
        known = {tool.name: tool for tool in (*before.gone, *before.tools)}
        now = tuple(replace(tool, doubted=_is_doubted(known.get(tool.name), tool)) for tool in now)
        names = {tool.name for tool in now}
        gone = tuple(tool for name, tool in known.items() if name not in names)
        fresh = 0 <= self._clock() - before.listed_at < REFRESH
        if not fresh or (now, gone) != (before.tools, before.gone):
            self.write(config, CachedTools(now, gone))
        checked = tuple(
            replace(tool, read_only=False, doubted=True) if stored.doubted else tool
            for tool, stored in zip(tools, now, strict=True)
        )
        return CheckedTools(checked, _warnings(config.name, known, now))

    def read(self, config: ServerConfig) -> CachedTools | None:
        """The stored tools of a server; None if there is no file.

        Raises:
            UnreadableCacheError: the file is damaged, or not one of ours.
        """
        path = self.path(config)
        try:
            stored = _Stored.model_validate_json(read_bounded(path, max_bytes=MAX_BYTES, follow_links=False))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            why = str(exc) if isinstance(exc, OSError) else "it is damaged, or not one of ours"
            logger.warning("the tool cache of MCP server %s in %s cannot be read: %s", config.name, path, why)
            raise UnreadableCacheError(f"{path}: {why}") from exc
        tools = [(tool.gone, ServerTool(config.name, **tool.model_dump(exclude={"gone"}))) for tool in stored.tools]
        return CachedTools(
            tuple(tool for gone, tool in tools if not gone),
            tuple(tool for gone, tool in tools if gone),
            stored.listed_at,
        )

    def storable(self, config: ServerConfig, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """The tools as a file would give them back: without secrets, and without what JSON cannot express."""
        own = secrets_of_entry(env=config.env, headers=config.headers, url=config.url, arguments=config.args)
        redactor = Redactor([*self._values, *own])
        return tuple(
            replace(
                tool,
                name=_plain_text(tool.name, redactor),
                title=_plain_text(tool.title, redactor),
                description=_plain_text(tool.description, redactor),
                input_schema=_plain_schema(tool, redactor),
            )
            for tool in tools
        )

    def write(self, config: ServerConfig, cached: CachedTools) -> None:
        """Replace the file of a server; `cached` must be `storable`. A failing disk is only logged.

        Tools that are gone are dropped if the file would be too large.
        """
        tools = [{**asdict(tool), "gone": False} for tool in cached.tools]
        gone = [{**asdict(tool), "gone": True} for tool in cached.gone]
        data = self._encode(config, [*tools, *gone])
        if len(data) > MAX_BYTES:
            data = self._encode(config, tools)
        if len(data) > MAX_BYTES:
            logger.warning("the tools of MCP server %s are too large to be stored", config.name)
            return
        path = self.path(config)
        try:
            make_folder(self._folder)
            if not path.exists():
                self._delete_oldest()
            write_file(path, data)
        except OSError as exc:
            logger.warning("the tool cache of MCP server %s cannot be written: %s", config.name, exc)

    def _encode(self, config: ServerConfig, tools: list[dict[str, Any]]) -> bytes:
        for tool in tools:
            tool.pop("server", None)
        name = _plain_text(config.name, Redactor(()))
        return json.dumps({"version": 1, "server": name, "listed_at": self._clock(), "tools": tools}).encode()

    def _delete_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)
        for path in files[: max(0, len(files) - MAX_FILES + 1)]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Shown:
    """The tools that the model may know, and how many are left out because their names hold a secret."""

    tools: tuple[ServerTool, ...] = ()
    left_out: int = 0


def shown_tools(tools: Iterable[ServerTool], redactor: Redactor) -> Shown:
    """The tools without secrets. Those named by one are left out: the model would write the name."""
    tools = tuple(tools)
    named = [tool for tool in tools if redactor.redact(tool.name) == tool.name]
    shown = [
        replace(
            tool,
            title=redactor.redact(tool.title),
            description=redactor.redact(tool.description),
            input_schema=redactor.redact_fields(tool.input_schema),
        )
        for tool in named
    ]
    return Shown(tuple(shown), len(tools) - len(named))


class _StoredTool(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool | None
    hints: dict[str, bool]
    doubted: bool
    gone: bool


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Literal[1]
    server: str  # for human readers
    listed_at: float
    tools: list[_StoredTool]


class _TooDeepError(Exception):
    """A schema has more levels than are stored."""


def _plain_text(text: str, redactor: Redactor) -> str:
    return redactor.redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _plain_schema(tool: ServerTool, redactor: Redactor) -> dict[str, Any]:
    """The schema, or a placeholder if it is nested too deeply: all of those look the same."""
    try:
        plain: dict[str, Any] = _plain_value(dict(tool.input_schema), redactor, MAX_DEPTH)
    except _TooDeepError:
        return {"type": "object", "properties": {}, "description": f"more than {MAX_DEPTH} levels"}
    return plain


def _plain_value(value: Any, redactor: Redactor, levels: int) -> Any:
    if not levels:
        raise _TooDeepError
    match value:
        case str():
            return _plain_text(value, redactor)
        case dict():
            return {
                _plain_text(str(key), redactor): _plain_value(each, redactor, levels - 1) for key, each in value.items()
            }
        case list() | tuple():
            return [_plain_value(each, redactor, levels - 1) for each in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value


def _is_doubted(before: ServerTool | None, now: ServerTool) -> bool:
    """Whether a read-only mark is not believed, because the tool existed without it; only a user's rule lifts that."""
    if before is None or now.read_only is not True:
        return False
    return before.doubted or before.read_only is not True


def _warnings(server: str, known: Mapping[str, ServerTool], tools: Iterable[ServerTool]) -> tuple[str, ...]:
    found: dict[str, list[str]] = {}
    for tool in tools:
        for kind in _kinds(known.get(tool.name), tool):
            found.setdefault(kind, []).append(tool.name)
    if not found:
        return ()
    told = [f"{kind}: {_names(found[kind])}." for kind in _ORDER if kind in found]
    advice = "" if set(found) == {_NEW} else " Check whether you still trust it."
    return (f"The tools of MCP server '{server}' have changed. {' '.join(told)}{advice}",)


def _kinds(before: ServerTool | None, now: ServerTool) -> list[str]:
    """What has changed about one tool."""
    if before is None:
        return [_NEW]
    kinds: list[str] = []
    if now.doubted and not before.doubted:
        kinds.append(_MARKED)
    if before.read_only is True and now.read_only is not True:
        kinds.append(_UNMARKED)
    if _words(before) != _words(now):
        kinds.append(_DESCRIPTION)
    if before.input_schema != now.input_schema:
        kinds.append(_ARGUMENTS)
    if before.hints != now.hints:
        kinds.append(_ANNOTATIONS)
    return kinds


def _words(tool: ServerTool) -> str:
    return _NUMBER.sub("0", f"{tool.title}\n{tool.description}")


def _names(names: Sequence[str]) -> str:
    """Names for a reader, quoted: a server chooses them, so they must not look like our own text."""
    shown = ["".join(letter for letter in name if letter.isprintable())[:_SHOWN_NAME] for name in names[:_SHOWN_TOOLS]]
    more = f" and {len(names) - _SHOWN_TOOLS} more" if len(names) > _SHOWN_TOOLS else ""
    return f"{', '.join(map(repr, shown))}{more}"
