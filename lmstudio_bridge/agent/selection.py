"""Which tools the model is offered when all of them would take too much of its context. Pure.

They are ranked by the task; the others can be found later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.known_tools import Offer, chars_of
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
        offers: Sequence[Offer],
        task: str,
        *,
        max_chars: int | None = None,
        max_tools: int | None = None,
        best_first: bool = False,
        similar: Mapping[str, float] | None = None,
    ) -> None:
        self._offers = tuple(offers)
        self._taken_away: set[str] = set()
        self._ranking: Index[Offer] | None = None
        room = math.inf if max_chars is None else max_chars
        most = len(self._offers) if max_tools is None else max_tools
        chosen = self._offers
        if best_first or len(chosen) > most or (max_chars is not None and chars_of(chosen, most=room) > room):
            ranked = sorted(self._index.rank(task, similar=similar), key=_is_old)
            chosen = tuple(_best(ranked, room=room, most=most))
            if not best_first:
                names = {offer.name for offer in chosen}
                chosen = tuple(offer for offer in self._offers if offer.name in names)
        self.offered: tuple[ToolSpec, ...] = tuple(offer.spec for offer in chosen)

    @property
    def _index(self) -> Index[Offer]:
        """Made when it is first needed: most runs offer all of their tools and never search."""
        if self._ranking is None:
            self._ranking = Index(self._offers)
        return self._ranking

    def add(self, offers: Sequence[Offer]) -> None:
        """Know of more tools from now on, without offering them."""
        self._offers += tuple(offers)
        self._ranking = None

    @property
    def hidden(self) -> tuple[Offer, ...]:
        """The tools that a search may bring in."""
        not_hidden = self._taken_away | {spec.name for spec in self.offered}
        return tuple(offer for offer in self._offers if offer.name not in not_hidden)

    @property
    def left_out(self) -> int:
        """How many tools are not on offer."""
        return len(self._offers) - len(self.offered)

    def find(self, query: str) -> tuple[ToolSpec, ...]:
        """Bring in the tools that fit the query best; gives those that are new.

        They come after the others, so that the beginning of the list stays as it was.
        """
        known = self._taken_away | {spec.name for spec in self.offered}
        fitting = [offer for offer in self._index.rank(query, only_hits=True) if offer.name not in known]
        found = tuple(offer.spec for offer in fitting[:_FOUND_AT_ONCE])
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


def _is_old(offer: Offer) -> bool:
    # Most descriptions do not hold the word at all, and that is told ten times as fast.
    return "deprecated" in offer.description.lower() and _OLD.search(offer.description) is not None


def _best(ranked: Sequence[Offer], *, room: float, most: int) -> list[Offer]:
    """The first that have room, but at least the first, and `most` at most. Schemas without a chance stay unread."""
    chosen: list[Offer] = []
    for offer in ranked:
        if len(chosen) == most:
            break
        if chosen and (offer.least_chars > room or offer.chars > room):
            continue
        chosen.append(offer)
        room -= offer.chars
    return chosen
