"""Which tools the model is offered when all of them would take too much of its context. Pure.

They are ranked by the task; the others can be found later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.ranking import Index
from lmstudio_bridge.messages import ToolCall, ToolSpec

_OLD = re.compile(r"\bdeprecated\b", re.IGNORECASE)
_LISTING = ("list", "tree", "ls", "search", "find")  # words in the names of tools that show what there is, best first
_FOUND_AT_ONCE = 5  # tools that one search brings in
_SHOWN_DESCRIPTION = 200  # characters of a found tool's description

FIND_TOOLS = ToolSpec(
    "find_tools",
    "Find more tools by what they do.",
    {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What the tool should do, in a few words"}},
        "required": ["query"],
    },
)


class Selection:
    """The tools on offer: all that fit, else the best for the task, in the order of the toolbox.

    `max_chars` is the room for their names, descriptions and schemas, `max_tools` their number; None
    is no limit. `best_first` orders them by the task: small models take what stands first. `similar` says
    of tools how close they are to the task in meaning.
    """

    def __init__(
        self,
        specs: Sequence[ToolSpec],
        task: str,
        *,
        max_chars: int | None = None,
        max_tools: int | None = None,
        best_first: bool = False,
        similar: Mapping[str, float] | None = None,
    ) -> None:
        self._specs = tuple(specs)
        self._taken_away: set[str] = set()
        self._ranking: Index | None = None
        room = math.inf if max_chars is None else max_chars
        sizes = {spec.name: _size(spec) for spec in self._specs} if max_chars is not None else {}
        most = len(self._specs) if max_tools is None else max_tools
        self.offered: tuple[ToolSpec, ...] = self._specs
        if not best_first and len(self._specs) <= most and sum(sizes.values()) <= room:
            return
        ranked = sorted(self._index.rank(task, similar=similar), key=lambda spec: bool(_OLD.search(spec.description)))
        chosen: set[str] = set()
        for spec in ranked:
            size = sizes.get(spec.name, 0)
            if len(chosen) >= most or (chosen and size > room):
                continue
            chosen.add(spec.name)
            room -= size
        order = ranked if best_first else self._specs
        self.offered = tuple(spec for spec in order if spec.name in chosen)

    @property
    def _index(self) -> Index:
        """Made when it is first needed: most runs offer all of their tools and never search."""
        if self._ranking is None:
            self._ranking = Index(self._specs)
        return self._ranking

    def add(self, specs: Sequence[ToolSpec]) -> None:
        """Know of more tools from now on, without offering them."""
        self._specs += tuple(specs)
        self._ranking = None

    @property
    def hidden(self) -> tuple[ToolSpec, ...]:
        """The tools that a search may bring in."""
        offered = {spec.name for spec in self.offered}
        return tuple(spec for spec in self._specs if spec.name not in offered | self._taken_away)

    @property
    def left_out(self) -> int:
        """How many tools are not on offer."""
        return len(self._specs) - len(self.offered)

    def find(self, query: str) -> tuple[ToolSpec, ...]:
        """Bring in the tools that fit the query best; gives those that are new.

        They come after the others, so that the beginning of the list stays as it was.
        """
        known = self._taken_away | {spec.name for spec in self.offered}
        fitting = [spec for spec in self._index.rank(query, only_hits=True) if spec.name not in known]
        found = tuple(fitting[:_FOUND_AT_ONCE])
        if found:
            self.offered = (*self.offered, *found)
        return found

    def answer(self, call: ToolCall) -> tuple[str, bool] | None:
        """The answer to a call of `find_tools`, and whether it is an error; None if it is of another tool."""
        if call.name != FIND_TOOLS.name:
            return None
        try:
            found = self.find(read_query(call))
        except (ValueError, KeyError) as exc:
            return f"find_tools was not done: it needs a query ({exc}).", True
        if not found:
            return "No other tool fits that. Use the ones that you have.", False
        lines = [f"- {spec.name}: {spec.description[:_SHOWN_DESCRIPTION]}" for spec in found]
        return "\n".join(["These can be called now:", *lines]), False

    def listing_tool(self, name: str) -> str:
        """The tool on offer that shows which names there are for this one of the same server; "" if there is none."""
        server, _, _ = name.partition("__")
        own = set(next((_required(spec) for spec in self.offered if spec.name == name), ()))
        found = [
            (place, spec.name)
            for spec in self.offered
            for place, word in enumerate(_LISTING)
            if spec.name.startswith(f"{server}__")
            and word in spec.name.partition("__")[2].split("_")
            and _required(spec)
            and own.issuperset(_required(spec))
        ]
        best = min(found, default=(0, ""))[1]
        return "" if name in {each for _, each in found} else best

    def is_taken_away(self, name: str) -> bool:
        """Whether the tool must not be called any more."""
        return name in self._taken_away

    def take_away(self, names: Collection[str]) -> None:
        """Offer these no more, whatever is looked for."""
        self._taken_away |= set(names)
        self.offered = tuple(spec for spec in self.offered if spec.name not in names)


def read_query(call: ToolCall) -> str:
    """What a call of `find_tools` looks for.

    Raises:
        ValueError, KeyError: It does not say.
    """
    return str(read_arguments(call.arguments, FIND_TOOLS.parameters).values["query"])


def _required(spec: ToolSpec) -> Sequence[str]:
    names: Sequence[str] = spec.parameters.get("required", ())
    return names


def _size(spec: ToolSpec) -> int:
    return len(spec.name) + len(spec.description) + len(json.dumps(spec.parameters))
