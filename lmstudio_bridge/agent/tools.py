"""The names under which the model sees tools: `server__tool`, of `[a-z0-9_]`, at most 64 long, and unique.

LM Studio normalises other names on their way to the model, and dots, hyphens and long names get lost there.

What is made of a tool: each part once, when it is first needed, and kept from run to run.

Which tools the model is offered when all of them would take too much of its context. Pure.

They are ranked by the task; the others can be found later.

The tools of a run: found by the names under which the model sees them, and its arguments checked.

Servers that are not started for a run, and their tools as they were listed before: found, and started then.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.prompts import NOT_CALLED
from lmstudio_bridge.agent.schemas import EMPTY_CHARS, SchemaWork, parameter_names, sized_schema
from lmstudio_bridge.agent.tool_ranking import FITS, Index, tool_words
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolSpec
from lmstudio_bridge.text import clean_text

if TYPE_CHECKING:
    from lmstudio_bridge.agent.validation import SchemaChecker

MAX_NAME = 64  # characters
_OTHERS = re.compile(r"[^a-z0-9_]+")


def plain_name(name: str) -> str:
    """A name in the allowed characters, as a model may mean it."""
    return _OTHERS.sub("_", name.split("<|", 1)[0].strip().lower())


def free_name(tool: ServerTool, *, taken: Container[str] = ()) -> str:
    """The name of a tool; cut or taken names end in a digest of the real one."""
    server, plain_tool = plain_name(tool.server).strip("_") or "server", plain_name(tool.name).strip("_") or "tool"
    name = f"{server}__{plain_tool}"
    if len(name) <= MAX_NAME and name not in taken:
        return name
    free, key = name, f"{tool.server}\0{tool.name}".encode("utf-8", "surrogatepass")
    while len(free) > MAX_NAME or free in taken:
        key = hashlib.sha256(key).digest()
        digest = key.hex()[:8]
        free = f"{name[: MAX_NAME - len(digest) - 1]}_{digest}"
    return free


MAX_KNOWN = 1_000  # tools; those of some dozen servers
MAX_KEPT_WORDS = 1_000  # of one tool; names of parameters could make it fifty times as many


@dataclass(frozen=True, slots=True)
class SizedSpec:
    """A tool as the model sees it, and how long its name, description and schema are (characters)."""

    spec: ToolSpec
    chars: int


@dataclass(slots=True, eq=False)
class KnownTool:
    """A tool under the name and with the words by which it is offered, and what was made of it so far."""

    name: str
    description: str
    schema: JSONObject
    _sized: SizedSpec | None = None
    _words: Sequence[str] = ()
    _checker: SchemaChecker | None = None
    _has_checker: bool = False
    _definition_chars: int = 0

    def sized(self, work: SchemaWork) -> SizedSpec:
        """The tool as the model sees it; takes `work` only where it was not made before."""
        if self._sized is not None:
            return self._sized
        parameters, chars = sized_schema(self.schema, work=work)
        sized = SizedSpec(
            ToolSpec(self.name, self.description, parameters), len(self.name) + len(self.description) + chars
        )
        if work.left > 0:  # else it may have been cut short for this run
            self._sized = sized
        return sized

    def words(self, work: SchemaWork) -> Sequence[str]:
        """What it is ranked by."""
        if not self._words:
            names = parameter_names(self.schema)
            if names is None:
                names = self.sized(work).spec.parameters["properties"]
            words = tool_words(self.name, self.description, names)
            if work.left <= 0 or len(words) > MAX_KEPT_WORDS:
                return words
            self._words = words
        return self._words

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """What the schema says against arguments, in words.

        None also where it cannot be used, or where it would take too long to tell: their server judges them itself.
        """
        from lmstudio_bridge.agent.validation import SchemaChecker, UncheckedError

        if not self._has_checker:
            try:
                self._checker = SchemaChecker(self.schema)
            except ValueError:
                self._checker = None
            self._has_checker = True
        try:
            return self._checker.problem(arguments) if self._checker else None
        except UncheckedError:
            return None

    def schema_chars(self) -> int:
        """How long the schema is as its server gave it (characters)."""
        if not self._definition_chars:
            self._definition_chars = len(json.dumps(self.schema))
        return self._definition_chars


@dataclass(slots=True, eq=False)
class Offer:
    """A tool that one run may offer, cleaned only when it is looked at; all offers of a run share its `work`."""

    known: KnownTool
    _work: SchemaWork
    _sized: SizedSpec | None = None

    @property
    def name(self) -> str:
        """The name under which the model sees it."""
        return self.known.name

    @property
    def description(self) -> str:
        """What the model reads of it, apart from its schema."""
        return self.known.description

    @property
    def words(self) -> Sequence[str]:
        """What it is ranked by."""
        return self.known.words(self._work)

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it; the same one each time."""
        return self._make().spec

    @property
    def chars(self) -> int:
        """How long its name, description and schema are (characters)."""
        return self._make().chars

    @property
    def least_chars(self) -> int:
        """What `chars` is at least, known without a look at the schema."""
        return len(self.known.name) + len(self.known.description) + EMPTY_CHARS

    def _make(self) -> SizedSpec:
        if self._sized is None:
            self._sized = self.known.sized(self._work)
        return self._sized


class KnownTools:
    """Knows the tools of earlier runs again: an open session gives each run the very same schemas.

    A tool that has changed is made anew, and so is one that others have pushed out.
    """

    def __init__(self, make: Callable[[ServerTool], KnownTool]) -> None:
        self._make = make
        self._known: dict[tuple[str, str], tuple[ServerTool, KnownTool]] = {}

    def find(self, tool: ServerTool) -> KnownTool:
        """What is known of the tool."""
        key = (tool.server, tool.name)
        before, known = self._known.get(key, (None, None))
        if known is None or before is None or not _is_same(before, tool):
            known = self._make(tool)
            self._known[key] = (tool, known)
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known


def chars_of(offers: Sequence[Offer], *, most: float) -> int:
    """How many characters they take together; if it is more than `most`, only that it is more."""
    taken = sum(offer.least_chars for offer in offers)
    for offer in offers:
        if taken > most:
            break
        taken += offer.chars - offer.least_chars
    return taken


def _is_same(one: ServerTool, other: ServerTool) -> bool:
    return one.input_schema is other.input_schema and one.description == other.description and one.title == other.title


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


MAX_DESCRIPTION = 1_024  # characters of a tool's description that the model reads
_SHOWN_ARGUMENTS = 300  # characters of bad arguments that are quoted back
_SHOWN_PROBLEM = 500  # characters of what is wrong with them; a validator's words can quote all of them
_SHOWN_NAME = 100  # characters of a name that is not there
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that fits its tool's schema; `changes` says what was done to its arguments for that."""

    tool: ServerTool
    arguments: JSONObject
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that must not run; `text` tells the model why and what to do instead."""

    tool: ServerTool | None
    text: str


class Toolbox:
    """The tools that may be offered, in a stable order. `known` is what earlier runs know of them: `known_offers()`."""

    def __init__(self, tools: Iterable[ServerTool], *, known: KnownTools | None = None) -> None:
        self.known = known_offers() if known is None else known
        self._tools: dict[str, ServerTool] = {}
        self._offers: dict[str, Offer] = {}
        self.similar: Mapping[str, float] = {}
        self._work = SchemaWork()
        self.add(tools)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The tools as a selection takes them."""
        return tuple(self._offers.values())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """All tools as the model would see them; where not all are offered, that is more work than is needed."""
        return tuple(offer.spec for offer in self._offers.values())

    def add(self, tools: Iterable[ServerTool]) -> tuple[Offer, ...]:
        """Take in more tools, behind those that are there, which keep their names; gives what can be offered."""
        distinct = {(tool.server, tool.name): tool for tool in tools}
        added: list[Offer] = []
        for _, tool in sorted(distinct.items()):
            known = self.known.find(tool)
            if known.name in self._tools:
                known = _offered_as(free_name(tool, taken=self._tools), tool)  # not kept: in another run it may be free
            self._tools[known.name] = tool
            self._offers[known.name] = offer = Offer(known, self._work)
            added.append(offer)
        return tuple(added)

    def note_similar(self, similar: Mapping[tuple[str, str], float]) -> None:
        """Remember how close tools are to the task in meaning, by server and name, for those that rank them."""
        named = {name: similar.get((tool.server, tool.name)) for name, tool in self._tools.items()}
        self.similar = {name: score for name, score in named.items() if score is not None}

    def find_tool(self, name: str) -> ServerTool | None:
        """The tool that the model means by a name, if there is one."""
        known = self.known_name(name)
        return None if known is None else self._tools[known]

    def prepare_call(self, call: ToolCall) -> PreparedCall | RefusedCall:
        """Find the tool and check the arguments; nothing is guessed and nothing left out."""
        name = self.known_name(call.name)
        if name is None:
            return RefusedCall(None, self._unknown_tool(call.name))
        tool = self._tools[name]
        try:
            arguments = read_arguments(call.arguments, self._offers[name].spec.parameters)
        except ValueError as exc:
            return RefusedCall(tool, self._bad_arguments(name, call, str(exc)))
        if problem := self._offers[name].known.problem(arguments.values):
            return RefusedCall(tool, self._bad_arguments(name, call, problem))
        return PreparedCall(tool, arguments.values, arguments.changes)

    def definition_size(self, tool: ServerTool) -> int:
        """How long the tool's name, description and schema are, as its server gave them (characters)."""
        return len(tool.name) + len(tool.description) + self.known.find(tool).schema_chars()

    def known_name(self, name: str) -> str | None:
        """The offered name that is meant: as it stands, or without regard to case and separators."""
        if name in self._tools:
            return name
        plain = plain_name(name)
        return plain if plain in self._tools else None

    def _unknown_tool(self, name: str) -> str:
        shown = name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}…"
        plain = plain_name(name[:_SHOWN_NAME])
        near = [offered for offered in self._tools if offered.endswith(f"__{plain}")]
        near = near or get_close_matches(plain, self._tools, n=3, cutoff=0.5)
        names = ", ".join(near or list(self._tools)[:_SHOWN_NAMES])
        advice = f"{'Did you mean' if near else 'The tools are'}: {names}. Call one of them."
        return f"There is no tool {shown!r}, so nothing was done. {advice if names else 'There are no tools at all.'}"

    def _bad_arguments(self, name: str, call: ToolCall, problem: str) -> str:
        parameters = self._offers[name].spec.parameters
        shown = problem if len(problem) <= _SHOWN_PROBLEM else f"{problem[:_SHOWN_PROBLEM]}…"
        lines = [
            f"{name}{NOT_CALLED}{shown}",
            f"You sent: {call.arguments[:_SHOWN_ARGUMENTS]}",
            f"They must fit this schema: {json.dumps(parameters, ensure_ascii=False)}",
        ]
        example = _example(parameters)
        if self._offers[name].known.problem(example) is None:
            lines.append(f"Call it again with arguments like: {json.dumps(example, ensure_ascii=False)}")
        return "\n".join(lines)


def known_offers() -> KnownTools:
    """Keeps from run to run what is made of tools for the model."""
    return KnownTools(lambda tool: _offered_as(free_name(tool), tool))


def _offered_as(name: str, tool: ServerTool) -> KnownTool:
    return KnownTool(name, clean_text(tool.description)[0][:MAX_DESCRIPTION], tool.input_schema)


def _example(parameters: JSONObject) -> dict[str, Any]:
    """A small example of arguments: the required ones, else the first."""
    properties = parameters["properties"]
    names = parameters.get("required") or list(properties)[:1]
    return {name: _example_value(properties[name]) for name in names}


def _example_value(schema: Mapping[str, Any]) -> Any:
    match schema:
        case {"enum": [first, *_]}:
            return first
        case {"anyOf": [first, *_]}:
            return _example_value(first)
        case {"type": "integer" | "number"}:
            most = min(1, schema.get("maximum", 1))
            return max(most, schema.get("minimum", most))
        case {"type": "boolean"}:
            return True
        case {"type": "null"}:
            return None
        case {"type": "array"}:
            return [_example_value(schema["items"])] if schema.get("items") else []
        case {"type": "object"}:
            properties = schema.get("properties", {})
            return {name: _example_value(properties[name]) for name in schema.get("required", ())}
        case _:
            return "..."


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
