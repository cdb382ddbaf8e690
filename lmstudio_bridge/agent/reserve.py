"""Servers that are not started for a run, and their tools as they were listed before: found, and started then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from lmstudio_bridge.agent.choice import FITS
from lmstudio_bridge.agent.known_tools import KnownTools, Offer
from lmstudio_bridge.agent.ranking import Index
from lmstudio_bridge.agent.selection import FIND_TOOLS, Selection
from lmstudio_bridge.agent.toolbox import Toolbox
from lmstudio_bridge.messages import ServerTool, ToolSpec

_MOST_AT_ONCE = 3  # servers that one search starts
_SHOWN_SERVERS = 10  # that the description of find_tools names

StartServer: TypeAlias = Callable[[str], Awaitable[tuple[ServerTool, ...]]]
"""Starts the server of that name and gives its tools. Raises `DownstreamError`."""


class Reserve:
    """The servers that a run could start yet; each is started at most once. `known` is what a toolbox takes."""

    def __init__(
        self, tools: Mapping[str, Sequence[ServerTool]], *, start: StartServer, known: KnownTools | None = None
    ) -> None:
        self._known = known
        self._tools = dict(tools)
        self._start = start
        self._toolbox = self._fill()

    @property
    def servers(self) -> tuple[str, ...]:
        """The names of those that are not started."""
        return tuple(self._tools)

    def fitting(self, query: str, others: Sequence[Offer]) -> tuple[str, ...]:
        """The servers to start for a search: those of the tools that fit best, `others` of the run counted in."""
        offers = (*self._toolbox.offers, *others)
        scores = Index(offers).scores(query)
        enough = FITS * max(scores, default=0.0)
        ranked = sorted(range(len(offers)), key=lambda number: -scores[number])
        fitting = [offers[number].name for number in ranked if scores[number] > 0 and scores[number] >= enough]
        servers = [tool.server for name in fitting if (tool := self._toolbox.find_tool(name))]
        return tuple(dict.fromkeys(servers))[:_MOST_AT_ONCE]

    def server_of(self, name: str) -> str | None:
        """The server of a tool that the model calls by this name."""
        tool = self._toolbox.find_tool(name)
        return tool.server if tool else None

    async def start(self, server: str) -> tuple[ServerTool, ...]:
        """Start it; its tools as they are now.

        Raises:
            DownstreamError: It cannot be started.
        """
        del self._tools[server]
        self._toolbox = self._fill()
        return await self._start(server)

    def _fill(self) -> Toolbox:
        return Toolbox((tool for tools in self._tools.values() for tool in tools), known=self._known)


def finding_specs(selection: Selection, reserve: Reserve | None) -> tuple[ToolSpec, ...]:
    """`find_tools` where there is something to find; it says of which servers that are not started it finds tools."""
    servers = reserve.servers if reserve else ()
    if not servers:
        return (FIND_TOOLS,) if selection.left_out else ()
    more = ", …" if len(servers) > _SHOWN_SERVERS else ""
    named = f"{FIND_TOOLS.description} Also those of {', '.join(servers[:_SHOWN_SERVERS])}{more}."
    return (replace(FIND_TOOLS, description=named),)
