"""The tools that each MCP server listed last, and what has changed since.

One small file per server, readable by its owner only. Its name is a digest of the server's name, where it is
configured, and how it is started or reached; secrets of `env` and `headers` are in neither the name nor the file.

A server may be approved with harmless tools and then change them. New descriptions, arguments and instructions are
reported, each once; a tool that was not marked as read-only before goes on to count as writing. What that takes is a
few bytes for each tool that was ever listed, and is kept however long the listing is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lmstudio_bridge.agent.tools import definition_chars
from lmstudio_bridge.files import make_folder, read_bounded, write_file
from lmstudio_bridge.messages import ServerConfig, ServerTool, is_deeper
from lmstudio_bridge.runs import tool_changes
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_entry

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # of one file; the tools of honest servers take a hundredth of it
MAX_HISTORY = 20_000  # tools that a server ever listed; read-only marks of further ones are not believed
MAX_FILES = 200  # the oldest are deleted first; an entry that was changed or removed leaves its file behind
MAX_DEPTH = 64  # levels of a schema that is stored
MAX_AGE = 30 * 24 * 3600.0  # seconds; after that the server has probably been updated
REFRESH = 24 * 3600.0  # seconds after which an unchanged listing is written again, so that it does not get old

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class CachedTools:
    """The tools of one server; None if they were too large to be stored. `listed_at` is seconds since the epoch.

    `read_only` of a tool is what the server said, even if the tool is `doubted`. `history` has every tool that was
    ever listed, by `tool_key`; unless `complete`, there were more than are kept. `instructions` are what the server
    said last about their use, `seen` has digests of what it ever said.
    """

    tools: tuple[ServerTool, ...] | None
    history: Mapping[str, tool_changes.ToolHistory] = field(default_factory=dict)
    complete: bool = True
    listed_at: float = 0.0
    instructions: str = ""
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedTools:
    """The tools as they count in a run, and warnings about their changes."""

    tools: tuple[ServerTool, ...]
    warnings: tuple[str, ...] = ()


class UnreadableCacheError(Exception):
    """The file of a server cannot be used; the text says why."""


class ToolCache:
    """The files in `folder`.

    `values` and `tokens` are secrets that no file may hold, besides those of each entry; `tokens` may become more.
    """

    def __init__(
        self,
        folder: Path,
        *,
        values: Iterable[str] = (),
        tokens: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._values = tuple(values)
        self._tokens = tokens
        self._clock = clock

    def path(self, config: ServerConfig) -> Path:
        """The file of this server, whether or not it exists."""
        how = [config.command, *config.args] if config.transport == "stdio" else [config.url]
        identity = [_FORMAT, config.name, config.scope, str(config.source), config.transport, *how]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        """The enabled tools that a server listed within the last 30 days; None if there is no such listing."""
        try:
            cached = self.read(config)
        except UnreadableCacheError:
            return None
        if cached is None or cached.tools is None or not 0 <= self._clock() - cached.listed_at < MAX_AGE:
            return None
        return tuple(tool for tool in cached.tools if config.has_tool(tool.name))

    def check(self, config: ServerConfig, tools: Sequence[ServerTool], *, instructions: str = "") -> CheckedTools:
        """Compare the tools and instructions of a server with what it listed and said before, and store them."""
        too_large = sum(map(definition_chars, tools)) > MAX_BYTES
        # Of such tools only digests are stored. To redact them could take a minute.
        now = tuple(tools) if too_large else self.storable(config, tools)
        warnings: list[str] = []
        before, known = None, CachedTools(None)
        try:
            before = self.read(config)
        except UnreadableCacheError as exc:
            known = CachedTools(None, complete=False)
            warnings.append(
                f"The last listing of MCP server '{config.name}' cannot be read, "
                "so changes of its tools go unnoticed, and their read-only marks are not believed until one of your "
                f"rules allows them: {exc}"
            )
        known = before or known
        history, changes = tool_changes.compare_tools(
            dict(zip(map(tool_changes.tool_key, tools), now, strict=True)),
            listed=known.tools or (),
            history=known.history,
            complete=known.complete,
        )
        [said] = self.storable(config, [ServerTool(config.name, "", instructions)])
        seen, is_changed = tool_changes.compare_instructions(said, last=known.instructions, seen=known.seen)
        changes |= {tool_changes.INSTRUCTIONS: []} if is_changed else {}
        complete = known.complete and len(history) <= MAX_HISTORY
        history = dict(islice(history.items(), MAX_HISTORY))
        if before is not None:
            warnings += tool_changes.explain_changes(config.name, changes)
        doubts = [_is_doubted(tool, known, history) for tool in tools]
        stored = tuple(replace(tool, doubted=doubt) for tool, doubt in zip(now, doubts, strict=True))
        cached = CachedTools(None if too_large else stored, history, complete, instructions=said.description, seen=seen)
        fresh = 0 <= self._clock() - known.listed_at < REFRESH
        if (not fresh or cached != replace(known, listed_at=0.0)) and (problem := self.write(config, cached)):
            doubts = [_is_doubted(tool, known, known.history) for tool in tools]
            if any(doubts):
                warnings.append(
                    f"What MCP server '{config.name}' lists could not be recorded, "
                    f"so new read-only marks of its tools do not count: {problem}"
                )
        checked = tuple(
            replace(tool, read_only=False, doubted=True) if doubt else tool
            for tool, doubt in zip(tools, doubts, strict=True)
        )
        return CheckedTools(checked, tuple(warnings))

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
        tools = tuple(ServerTool(config.name, **tool.model_dump()) for tool in stored.tools or ())
        rest = (stored.history, stored.complete, stored.listed_at, stored.instructions, stored.seen)
        return CachedTools(None if stored.tools is None else tools, *rest)

    def storable(self, config: ServerConfig, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """The tools as a file would give them back: without secrets, and without what JSON cannot express."""
        redactor = Redactor([*self._values, *self._tokens, *secrets_of_entry(config)])
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

    def write(self, config: ServerConfig, cached: CachedTools) -> str:
        """Replace the file of a server; `cached` must be `storable`. Returns why it could not be written, or "".

        If the file would be too large, the tools are left out, then what they looked like.
        """
        marks = {key: tool_changes.ToolHistory(unmarked=each.unmarked) for key, each in cached.history.items()}
        for part in (cached, replace(cached, tools=None), replace(cached, tools=None, history=marks)):
            data = self._encode(config, part)
            if len(data) <= MAX_BYTES:
                break
        path = self.path(config)
        try:
            make_folder(self._folder)
            if not path.exists():
                self._delete_oldest()
            write_file(path, data)
        except OSError as exc:
            logger.warning("the tool cache of MCP server %s cannot be written: %s", config.name, exc)
            return str(exc)
        return ""

    def _encode(self, config: ServerConfig, cached: CachedTools) -> bytes:
        tools = None if cached.tools is None else [asdict(tool) for tool in cached.tools]
        for tool in tools or ():
            del tool["server"]
        stored = {
            "version": _FORMAT,
            "server": _plain_text(config.name, Redactor(())),
            "listed_at": self._clock(),
            "complete": cached.complete,
            "instructions": cached.instructions,
            "seen": cached.seen,
            "history": {key: each.model_dump() for key, each in cached.history.items()},
            "tools": tools,
        }
        return json.dumps(stored).encode()

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


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Literal[2]
    server: str  # for human readers
    listed_at: float
    complete: bool
    instructions: str = ""
    seen: tuple[str, ...] = ()
    history: dict[str, tool_changes.ToolHistory]
    tools: list[_StoredTool] | None


def _plain_text(text: str, redactor: Redactor) -> str:
    return redactor.redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _plain_schema(tool: ServerTool, redactor: Redactor) -> dict[str, Any]:
    """The schema, or a placeholder if it is nested too deeply: all of those look the same."""
    if is_deeper(tool.input_schema, MAX_DEPTH - 1):
        return {"type": "object", "properties": {}, "description": f"more than {MAX_DEPTH} levels"}
    plain: dict[str, Any] = _plain_value(dict(tool.input_schema), redactor)
    return plain


def _plain_value(value: Any, redactor: Redactor) -> Any:
    match value:
        case str():
            return _plain_text(value, redactor)
        case dict():
            return {_plain_text(str(key), redactor): _plain_value(each, redactor) for key, each in value.items()}
        case list() | tuple():
            return [_plain_value(each, redactor) for each in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value


def _is_doubted(tool: ServerTool, known: CachedTools, history: Mapping[str, tool_changes.ToolHistory]) -> bool:
    """Whether a read-only mark is not believed; only a user's rule lifts that.

    `known` says whether the tool was ever listed without it, `history` whether it is on record from now on.
    """
    if tool.read_only is not True:
        return False
    key = tool_changes.tool_key(tool)
    past = known.history.get(key)
    return past.unmarked if past is not None else not known.complete or key not in history
