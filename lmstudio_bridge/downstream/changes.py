"""What a server's tools are now against what they were: noticed, told once, and not believed in everything.

A server may be approved with harmless tools and then change them. Descriptions and arguments are only
told of; a tool that was not marked as reading before goes on to count as writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmstudio_bridge.downstream.catalogues import Catalogue, CatalogueStore, UnreadableCatalogueError
from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.messages import ServerTool

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
