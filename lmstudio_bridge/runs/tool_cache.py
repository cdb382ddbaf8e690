"""What each MCP server offered when its tools were last listed: one small file a server, its owner's alone.

A file is found by a digest of the server's name, where it is configured, and how it is started or
reached; what is secret in `env` and `headers` is in neither the digest nor the file.

What a server's tools are now against what they were: noticed, told once, and not believed in everything.

A server may be approved with harmless tools and then change them. Descriptions and arguments are only
told of; a tool that was not marked as reading before goes on to count as writing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lmstudio_bridge.files import make_folder, read_bounded, write_file
from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_entry

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # of one file; the tools of honest servers take a hundredth of it
MAX_FILES = 200  # the oldest go first; an entry that was changed or removed leaves its file behind
MAX_KEPT = 50  # catalogues in memory
MAX_KEPT_BYTES = 256 * 1024  # of the file of one of them
MAX_DEPTH = 64  # levels of a schema that is kept
MAX_AGE = 30 * 24 * 3600.0  # seconds; then a server has probably had an update


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tools of one server; `gone` are those that it offered once. `listed_at` is seconds since the epoch.

    `read_only` of a tool is what the server said of it, also where it is `doubted`.
    """

    tools: tuple[ServerTool, ...]
    gone: tuple[ServerTool, ...] = ()
    listed_at: float = 0.0


class UnreadableCatalogueError(Exception):
    """There is a file, and it cannot be used; the text says why."""


class CatalogueStore:
    """The catalogues in `folder`. `values` are secrets that no file may hold, besides those of each entry."""

    def __init__(self, folder: Path, *, values: Iterable[str] = (), clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._values = tuple(values)
        self._clock = clock
        self._last_read: dict[Path, tuple[bytes, Catalogue]] = {}  # with the digest of what stood in the file

    def path(self, config: ServerConfig) -> Path:
        """Where the catalogue of this server is, if there is one."""
        how = [config.command, *config.args] if config.transport == "stdio" else [config.url]
        identity = [config.name, config.scope, str(config.source), config.transport, *how]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        """The tools of a server as far as that is known without starting it; None where it is not, or not any more."""
        try:
            catalogue = self.read(config)
        except UnreadableCatalogueError:
            return None
        if catalogue is None or not 0 <= self._clock() - catalogue.listed_at < MAX_AGE:
            return None
        return catalogue.tools

    def read(self, config: ServerConfig) -> Catalogue | None:
        """The catalogue of a server, mostly the very same one while its file says the same; None if there is none.

        Raises:
            UnreadableCatalogueError: Its file is not one that we would write.
        """
        path = self.path(config)
        try:
            data = read_bounded(path, max_bytes=MAX_BYTES, follow_links=False)
            digest = hashlib.sha256(data).digest()
            before, catalogue = self._last_read.get(path, (b"", Catalogue(())))
            if digest == before:
                return catalogue
            stored = _Stored.model_validate_json(data)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            why = str(exc) if isinstance(exc, OSError) else "it is damaged, or not one of ours"
            logger.warning("the catalogue of MCP server %s in %s cannot be read: %s", config.name, path, why)
            raise UnreadableCatalogueError(f"{path}: {why}") from exc
        tools = [(tool, tool.as_tool(config.name)) for tool in stored.tools]
        catalogue = Catalogue(
            tuple(made for tool, made in tools if not tool.gone),
            tuple(made for tool, made in tools if tool.gone),
            stored.listed_at,
        )
        if len(data) <= MAX_KEPT_BYTES:
            self._last_read[path] = digest, catalogue
            if len(self._last_read) > MAX_KEPT:
                del self._last_read[next(iter(self._last_read))]
        return catalogue

    def plain_tools(self, config: ServerConfig, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """The tools as a file would give them back: without secrets, and without what JSON cannot say."""
        own = secrets_of_entry(env=config.env, headers=config.headers, url=config.url, arguments=config.args)
        redactor = Redactor([*self._values, *own])
        return tuple(
            ServerTool(
                tool.server,
                _plain_text(tool.name, redactor),
                _plain_text(tool.description, redactor),
                _plain_schema(tool, redactor),
                tool.read_only,
                _plain_text(tool.title, redactor),
                dict(tool.hints),
                tool.doubted,
            )
            for tool in tools
        )

    def write(self, config: ServerConfig, catalogue: Catalogue) -> None:
        """Keep it in place of what was there; `catalogue` must be of `plain_tools`. A disk that fails is only logged.

        Of tools that are gone, as many are kept as there is room for.
        """
        tools = [_stored_tool(tool, gone=False) for tool in catalogue.tools]
        gone = [_stored_tool(tool, gone=True) for tool in catalogue.gone]
        data = self._encode(config, [*tools, *gone])
        if len(data) > MAX_BYTES:
            data = self._encode(config, tools)
        if len(data) > MAX_BYTES:
            logger.warning("the tools of MCP server %s take too much room to be kept", config.name)
            return
        path = self.path(config)
        try:
            make_folder(self._folder)
            if not path.exists():
                self._drop_oldest()
            write_file(path, data)
        except OSError as exc:
            logger.warning("the catalogue of MCP server %s cannot be written: %s", config.name, exc)

    def _encode(self, config: ServerConfig, tools: list[_StoredTool]) -> bytes:
        stored = _Stored(version=1, server=_plain_text(config.name, Redactor(())), listed_at=self._clock(), tools=tools)
        return json.dumps(stored.model_dump()).encode()

    def _drop_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)
        for path in files[: max(0, len(files) - MAX_FILES + 1)]:
            path.unlink(missing_ok=True)


class _TooDeepError(Exception):
    """A schema has more levels than we keep."""


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

    def as_tool(self, server: str) -> ServerTool:
        return ServerTool(
            server,
            self.name,
            self.description,
            self.input_schema,
            self.read_only,
            self.title,
            self.hints,
            self.doubted,
        )


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Literal[1]
    server: str  # for a reader
    listed_at: float
    tools: list[_StoredTool]


def _stored_tool(tool: ServerTool, *, gone: bool) -> _StoredTool:
    return _StoredTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        read_only=tool.read_only,
        hints=dict(tool.hints),
        doubted=tool.doubted,
        gone=gone,
    )


def _plain_text(text: str, redactor: Redactor) -> str:
    return redactor.redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _plain_schema(tool: ServerTool, redactor: Redactor) -> dict[str, Any]:
    """The schema, or one that says that it was too deep to be kept: then every such schema is like the other."""
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


_SHOWN_TOOLS = 8  # of each kind of change
_SHOWN_NAME = 60  # characters of a tool's name
_NUMBER = re.compile(r"\d+")  # times, dates and counts in a description are no news, and give no orders

_MARKED = "Marked as reading now and not before (they count as writing until a rule of yours allows them)"
_UNMARKED = "Not marked as reading any more"
_DESCRIPTION = "Another description"
_ARGUMENTS = "Other arguments"
_ANNOTATIONS = "Other annotations"
_NEW = "New"


@dataclass(frozen=True, slots=True)
class TakenTools:
    """The tools as they count in a run, and what the user should know about them, if anything."""

    tools: tuple[ServerTool, ...]
    warnings: tuple[str, ...] = ()


def take_tools(store: CatalogueStore, config: ServerConfig, tools: Sequence[ServerTool]) -> TakenTools:
    """Compare the tools that a server lists with those that it had, and keep them for the next time."""
    now = store.plain_tools(config, tools)
    warnings: tuple[str, ...] = ()
    try:
        before = store.read(config)
    except UnreadableCatalogueError as exc:
        before = None
        warnings = (
            f"What MCP server '{config.name}' offered before cannot be read, so no change of its tools is seen: {exc}",
        )
    if before is None:
        store.write(config, Catalogue(now))
        return TakenTools(tuple(tools), warnings)
    known = {tool.name: tool for tool in (*before.gone, *before.tools)}
    now = tuple(replace(tool, doubted=_is_doubted(known.get(tool.name), tool)) for tool in now)
    names = {tool.name for tool in now}
    store.write(config, Catalogue(now, tuple(tool for name, tool in known.items() if name not in names)))
    taken = tuple(
        replace(tool, read_only=False, doubted=True) if plain.doubted else tool
        for tool, plain in zip(tools, now, strict=True)
    )
    return TakenTools(taken, _warnings(config.name, known, now))


class ToolTaker:
    """Takes the tools of servers as `take_tools` does, but not the very list that a session gave before."""

    def __init__(self, store: CatalogueStore) -> None:
        self.store = store
        self._taken: dict[Path, tuple[tuple[ServerTool, ...], TakenTools]] = {}

    def take(self, config: ServerConfig, tools: tuple[ServerTool, ...]) -> TakenTools:
        """The tools as they count; what is to be told of them is told once."""
        path = self.store.path(config)
        before = self._taken.get(path)
        if before is not None and before[0] is tools:  # the server is still open, and has said of no change
            return before[1]
        taken = take_tools(self.store, config, tools)
        self._taken[path] = tools, TakenTools(taken.tools)
        return taken


def _is_doubted(before: ServerTool | None, now: ServerTool) -> bool:
    """Whether a mark is not believed: the tool was there without it. Only a rule of the user lifts that."""
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
    trust = "" if set(found) == {_NEW} else " Look whether you still trust it."
    return (f"The tools of MCP server '{server}' are not what they were. {' '.join(told)}{trust}",)


_ORDER = (_MARKED, _UNMARKED, _DESCRIPTION, _ARGUMENTS, _ANNOTATIONS, _NEW)


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
    """Names for a reader: a server chooses them, so nothing in them may look like words of ours."""
    shown = ["".join(letter for letter in name if letter.isprintable())[:_SHOWN_NAME] for name in names[:_SHOWN_TOOLS]]
    more = f" and {len(names) - _SHOWN_TOOLS} more" if len(names) > _SHOWN_TOOLS else ""
    return f"{', '.join(map(repr, shown))}{more}"


@dataclass(frozen=True, slots=True)
class Shown:
    """The tools of a server that the model may know, and how many it must not, as their names hold a secret."""

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
