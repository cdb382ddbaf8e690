"""The tools of a run: their names for the model, which of them are offered, and the servers that can still be started.

The model sees a tool as `server__tool`, of `[a-z0-9_]`, at most 64 characters, and unique: LM Studio normalizes other
names on their way to the model, and dots, hyphens and long names get lost there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeAlias

from lmstudio_bridge.agent import prompts
from lmstudio_bridge.agent.arguments import find_problem, read_arguments
from lmstudio_bridge.agent.schemas import ObjectSchema, SchemaWork, object_schema, own_spec, text_parameter
from lmstudio_bridge.agent.tool_ranking import FITS, Index, tool_words
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolSpec, resolve_tool_name
from lmstudio_bridge.text import clean_text, shortened

MAX_NAME = 64  # characters
MAX_DESCRIPTION = 1_024  # characters of a tool's description that the model reads
_SHOWN_ARGUMENTS = 300  # characters of invalid arguments that are quoted back
_SHOWN_PROBLEM = 500  # characters of the reason; a validator's message can quote all of the arguments
_SHOWN_NAME = 100  # characters of an unknown name
_SHOWN_NAMES = 20
_OTHERS = re.compile(r"[^a-z0-9_]+")
_NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PATH_NAME = re.compile(r"path|file|folder|dir(?:ectory)?s?$|^(?:source|destination)$", re.IGNORECASE)
_DEPRECATED = re.compile(r"\bdeprecated\b", re.IGNORECASE)
_MAKES = re.compile(r"_(?:write|create|new)_(?:text_)?file$")
SEARCHES = re.compile(r"search|find|query|look_?up", re.IGNORECASE)
_LISTING = ("list", "tree", "ls", "search", "find")  # words in the names of tools that list names, best first
_FOUND_AT_ONCE = 5  # tools that one search brings in
_SHOWN_DESCRIPTION = 200  # characters of a found tool's description
_MOST_AT_ONCE = 3  # servers that one search starts
_SHOWN_SERVERS = 10  # that the description of find_tools names

FIND_TOOLS = own_spec(
    "find_tools",
    "Find more tools by what they do.",
    query=text_parameter("What the tool should do, in a few words"),
)


@dataclass(frozen=True, eq=False)
class Tool:
    """A server's tool as the model sees it."""

    source: ServerTool
    spec: ToolSpec
    schema: ObjectSchema

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_deprecated(self) -> bool:
        """Whether its description says so."""
        return _DEPRECATED.search(self.spec.description) is not None

    @property
    def takes_path(self) -> bool:
        """Whether one of its arguments is a path."""
        return takes_path(self.spec)

    @property
    def chars(self) -> int:
        """How long its name, description and schema are (characters)."""
        return len(self.spec.name) + len(self.spec.description) + self.schema.chars

    @cached_property
    def words(self) -> Sequence[str]:
        """The words that it is ranked by."""
        return tool_words(self.spec.name, self.spec.description, self.spec.parameters["properties"])


def takes_path(spec: ToolSpec) -> bool:
    """Whether one of the tool's arguments is a path, by its name."""
    return any(map(_PATH_NAME.search, spec.parameters["properties"]))


def make_tool(source: ServerTool, *, name: str, description: str, work: SchemaWork) -> Tool:
    """The tool under this name and with this description; all tools of a run share `work`."""
    schema = object_schema(source.input_schema, work=work)
    return Tool(source, ToolSpec(name, description, schema.parameters), schema)


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that fits its tool's schema; `changes` says how its arguments were changed for that."""

    tool: ServerTool
    arguments: JSONObject
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that must not run; `text` tells the model why and what to do instead."""

    tool: ServerTool | None
    text: str


class ToolSet:
    """The tools that may be offered in a run, in a stable order."""

    def __init__(self, tools: Iterable[ServerTool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._work = SchemaWork()
        self.similar: Mapping[str, float] = {}
        self.add(tools)

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(self._tools.values())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """All of them, as the model sees them."""
        return tuple(tool.spec for tool in self._tools.values())

    @property
    def chars(self) -> int:
        """How long the names, descriptions and schemas are together (characters)."""
        return sum(tool.chars for tool in self._tools.values())

    def add(self, tools: Iterable[ServerTool]) -> tuple[Tool, ...]:
        """Add tools behind those that are there, which keep their names; returns them as the model sees them."""
        distinct = {(tool.server, tool.name): tool for tool in tools}
        added: list[Tool] = []
        for _, source in sorted(distinct.items()):
            name = _free_name(source, taken=self._tools)
            description = shortened(clean_text(source.description)[0], MAX_DESCRIPTION)
            self._tools[name] = make_tool(source, name=name, description=description, work=self._work)
            added.append(self._tools[name])
        return tuple(added)

    def note_similar(self, similar: Mapping[tuple[str, str], float]) -> None:
        """Remember how close tools are to the task in meaning, by server and name; it helps to rank them."""
        named = {name: similar.get((tool.source.server, tool.source.name)) for name, tool in self._tools.items()}
        self.similar = {name: score for name, score in named.items() if score is not None}

    def find(self, name: str) -> Tool | None:
        """The tool that the model means by a name, where it can mean only one."""
        meant = resolve_tool_name(name, self._tools)
        return None if meant is None else self._tools[meant]

    def prepare_call(self, call: ToolCall) -> PreparedCall | RefusedCall:
        """Find the tool and check the arguments; nothing is guessed and nothing left out."""
        tool = self.find(call.name)
        if tool is None:
            return RefusedCall(None, self._unknown_tool(call.name))
        try:
            arguments = read_arguments(call.arguments, tool.spec.parameters)
        except ValueError as exc:
            return RefusedCall(tool.source, _invalid_arguments(tool, call, str(exc)))
        if problem := find_problem(arguments.values, tool.schema):
            return RefusedCall(tool.source, _invalid_arguments(tool, call, problem))
        return PreparedCall(tool.source, arguments.values, arguments.changes)

    def _unknown_tool(self, name: str) -> str:
        plain = _plain_name(name[:_SHOWN_NAME])
        near = [offered for offered in self._tools if offered.endswith(f"__{plain}")]
        near = near or get_close_matches(plain, self._tools, n=3, cutoff=0.5)
        names = ", ".join(near or list(self._tools)[:_SHOWN_NAMES])
        advice = (prompts.DID_YOU_MEAN if near else prompts.TOOLS_ARE).format(names=names)
        advice = advice if names else "There are no tools at all."
        return prompts.NO_SUCH_TOOL.format(name=repr(shortened(name, _SHOWN_NAME)), advice=advice)


def definition_chars(tool: ServerTool) -> int:
    """How long the tool's name, description and schema are as its server lists them (characters)."""
    return len(tool.name) + len(tool.description) + len(json.dumps(tool.input_schema))


class ToolSelection:
    """The tools on offer: all that fit, else the best for the task, in the order of the tool set.

    `max_chars` limits their names, descriptions and schemas together, `max_tools` their number; None is no limit, and
    each server has its share. `best_first` orders them by the task: small models take the first; `paths_first` puts
    those that take a path before the others. `similar` says of tools how close they are to the task in meaning.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        task: str,
        *,
        max_chars: int | None = None,
        max_tools: int | None = None,
        best_first: bool = False,
        paths_first: bool = False,
        similar: Mapping[str, float] | None = None,
    ) -> None:
        self._tools = tuple(tools)
        self._removed: set[str] = set()
        room = math.inf if max_chars is None else max_chars
        most = len(self._tools) if max_tools is None else max_tools
        chosen = self._tools
        if best_first or len(chosen) > most or sum(tool.chars for tool in chosen) > room:
            ranked = sorted(
                Index(self._tools).rank(task, similar=similar),
                key=lambda tool: (tool.is_deprecated, paths_first and not tool.takes_path),
            )
            names = {tool.name for tool in _best(_fairly(ranked, most, task=task), room=room, most=most)}
            chosen = tuple(tool for tool in (ranked if best_first else self._tools) if tool.name in names)
        self.offered: tuple[ToolSpec, ...] = tuple(tool.spec for tool in chosen)

    def add(self, tools: Sequence[Tool]) -> None:
        """Know of more tools from now on, without offering them."""
        self._tools += tuple(tools)

    @property
    def schemas(self) -> dict[str, ObjectSchema]:
        """The schemas of the offered tools by their names."""
        offered = {spec.name for spec in self.offered}
        return {tool.name: tool.schema for tool in self._tools if tool.name in offered}

    @property
    def hidden(self) -> tuple[Tool, ...]:
        """The tools that a search may bring in."""
        not_hidden = self._removed | {spec.name for spec in self.offered}
        return tuple(tool for tool in self._tools if tool.name not in not_hidden)

    @property
    def left_out(self) -> int:
        """How many tools are not on offer."""
        return len(self._tools) - len(self.offered)

    def find(self, query: str) -> tuple[ToolSpec, ...]:
        """Offer the tools that fit the query best; returns those that are new.

        They come after the others, so that the beginning of the list stays as it was.
        """
        hidden = {tool.name for tool in self.hidden}
        fitting = [tool for tool in Index(self._tools).rank(query, only_hits=True) if tool.name in hidden]
        found = tuple(tool.spec for tool in fitting[:_FOUND_AT_ONCE])
        self.offered = (*self.offered, *found)
        return found

    def answer(self, call: ToolCall) -> tuple[str, bool] | None:
        """The answer to a call of `find_tools`, and whether it is an error; None for a call of another tool."""
        if call.name != FIND_TOOLS.name:
            return None
        try:
            found = self.find(read_query(call))
        except (ValueError, KeyError) as exc:
            return f"find_tools was not done: it needs a query ({exc}).", True
        if not found:
            return prompts.NO_OTHER_TOOL, False
        lines = [f"- {spec.name}: {spec.description[:_SHOWN_DESCRIPTION]}" for spec in found]
        return "\n".join(["These can be called now:", *lines]), False

    def listing_tool(self, name: str) -> str:
        """The offered tool of the same server that lists the names which this tool needs; "" if there is none."""
        own = set(next((required(spec) for spec in self.offered if spec.name == name), ()))
        fitting = [spec.name for spec in self._beside(name) if required(spec) and own.issuperset(required(spec))]
        found = [
            (rank, each)
            for each in fitting
            for rank, word in enumerate(_LISTING)
            if word in each.partition("__")[2].split("_")
        ]
        best = min(found, default=(0, ""))[1]
        return "" if name in {each for _, each in found} else best

    def sibling_tools(self, name: str) -> list[str]:
        """The offered tools that are named as this one but for the last word, as git_diff_staged and git_diff are."""
        stem = name.rpartition("_")[0]
        known = (spec.name for spec in self.offered if spec.name != name)
        return [each for each in known if stem in (each, each.rpartition("_")[0]) and "_" in stem.partition("__")[2]]

    def making_tool(self, name: str) -> str:
        """The offered tool of the same server that makes a file; "" if there is none."""
        return next((spec.name for spec in self._beside(name) if _MAKES.search(spec.name)), "")

    def _beside(self, name: str) -> list[ToolSpec]:
        """The offered tools of the same server."""
        server, _, _ = name.partition("__")
        return [spec for spec in self.offered if spec.name.startswith(f"{server}__")]

    def is_removed(self, name: str) -> bool:
        """Whether the tool must not be called any more."""
        return name in self._removed

    def remove(self, names: Collection[str]) -> None:
        """Stop offering these tools; no search brings them back."""
        self._removed |= set(names)
        self.offered = tuple(spec for spec in self.offered if spec.name not in names)


def read_query(call: ToolCall) -> str:
    """The query of a call of `find_tools`.

    Raises:
        ValueError, KeyError: It has none.
    """
    return str(read_arguments(call.arguments, FIND_TOOLS.parameters).values["query"])


StartServer: TypeAlias = Callable[[str], Awaitable[tuple[ServerTool, ...]]]
"""Starts the server of that name and returns its tools. Raises `DownstreamError`."""


class UnstartedServers:
    """The servers that a run can still start, each at most once, with the tools that they last listed.

    `describe` makes a text for the model of what some of them, once started, say about the use of their tools.
    """

    def __init__(
        self,
        tools: Mapping[str, Sequence[ServerTool]],
        *,
        start: StartServer,
        describe: Callable[[Collection[str]], str] = lambda servers: "",
    ) -> None:
        self.describe = describe
        self._listed = dict(tools)
        self._start = start
        self._tools = self._make_tools()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._listed)

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of their tools for the model."""
        return tuple(tool.name for tool in self._tools.tools)

    def fitting(self, query: str, others: Sequence[Tool]) -> tuple[str, ...]:
        """The servers to start for a search: those of the tools that fit best, compared with the run's `others`."""
        tools = (*self._tools.tools, *others)
        scores = Index(tools).scores(query)
        enough = FITS * max(scores, default=0.0)
        ranked = sorted(zip(scores, tools, strict=True), key=lambda scored: -scored[0])
        fitting = [tool.source.server for score, tool in ranked if 0 < score >= enough]
        return tuple(dict.fromkeys(server for server in fitting if server in self._listed))[:_MOST_AT_ONCE]

    def server_of(self, name: str) -> str | None:
        """The server of a tool that the model calls by this name."""
        tool = self._tools.find(name)
        return tool.source.server if tool else None

    async def start(self, server: str) -> tuple[ServerTool, ...]:
        """Start the server; returns its tools as they are now.

        Raises:
            DownstreamError: It cannot be started.
        """
        del self._listed[server]
        self._tools = self._make_tools()
        return await self._start(server)

    def _make_tools(self) -> ToolSet:
        return ToolSet(tool for tools in self._listed.values() for tool in tools)


def finding_specs(selection: ToolSelection, unstarted: UnstartedServers | None) -> tuple[ToolSpec, ...]:
    """`find_tools` if there is something to find; its description names the servers that are not started."""
    servers = unstarted.names if unstarted else ()
    if not servers:
        return (FIND_TOOLS,) if selection.left_out else ()
    more = ", …" if len(servers) > _SHOWN_SERVERS else ""
    named = f"{FIND_TOOLS.description} Also those of {', '.join(servers[:_SHOWN_SERVERS])}{more}."
    return (replace(FIND_TOOLS, description=named),)


def _plain_name(name: str) -> str:
    """A name in the allowed characters; letters of other scripts become those that sound like them."""
    if not name.isascii():
        from anyascii import anyascii  # few names need it

        name = _NEW_WORD.sub("_", anyascii(name))  # ideographs become words that begin with a capital letter
    return _OTHERS.sub("_", name.strip().lower())


def _free_name(tool: ServerTool, *, taken: Container[str]) -> str:
    """The name of a tool; truncated or taken names end in a digest of the real one."""
    server, plain_tool = _plain_name(tool.server).strip("_") or "server", _plain_name(tool.name).strip("_") or "tool"
    name = f"{server}__{plain_tool}"
    if len(name) <= MAX_NAME and name not in taken:
        return name
    free, key = name, f"{tool.server}\0{tool.name}".encode("utf-8", "surrogatepass")
    while len(free) > MAX_NAME or free in taken:
        key = hashlib.sha256(key).digest()
        digest = key.hex()[:8]
        free = f"{name[: MAX_NAME - len(digest) - 1]}_{digest}"
    return free


def required(spec: ToolSpec) -> Sequence[str]:
    """The names of the arguments that the tool requires."""
    names: Sequence[str] = spec.parameters.get("required", ())
    return names


def _fairly(ranked: Sequence[Tool], most: int, *, task: str) -> list[Tool]:
    """The same tools, but first the best few of each server: half of the places are shared among the servers.

    A server that the task names has its searching tool besides: the words of a task rank it last.
    """
    servers = {tool.source.server for tool in ranked}
    share = max(1, most // (2 * len(servers))) if servers else 0
    named = {server for server in servers if re.search(rf"(?<![\w./-]){re.escape(server)}(?![\w./-]\w)", task, re.I)}
    searching = {t.source.server for t in ranked if t.source.server in named and SEARCHES.search(t.source.name)}
    taken: Counter[str] = Counter()
    first: list[Tool] = []
    others: list[Tool] = []
    for tool in ranked:
        server = tool.source.server
        if server in named and SEARCHES.search(tool.source.name):
            named.remove(server)
            first.append(tool)
            continue
        taken[server] += 1
        (first if taken[server] <= share - (server in searching) else others).append(tool)
    return [*first, *others]


def _best(ranked: Sequence[Tool], *, room: float, most: int) -> list[Tool]:
    """The first that have room, but at least the first, and `most` at most."""
    chosen: list[Tool] = []
    for tool in ranked:
        if len(chosen) == most:
            break
        if chosen and tool.chars > room:
            continue
        chosen.append(tool)
        room -= tool.chars
    return chosen


def _invalid_arguments(tool: Tool, call: ToolCall, problem: str) -> str:
    lines = [
        f"{tool.name}{prompts.NOT_CALLED}{shortened(problem, _SHOWN_PROBLEM)}",
        f"You sent: {call.arguments[:_SHOWN_ARGUMENTS]}",
        prompts.MUST_FIT_SCHEMA.format(schema=json.dumps(tool.spec.parameters, ensure_ascii=False)),
    ]
    example = _example(tool.spec.parameters)
    if find_problem(example, tool.schema) is None:
        lines.append(prompts.CALL_LIKE.format(example=json.dumps(example, ensure_ascii=False)))
    return "\n".join(lines)


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
