"""Which of the configured MCP servers a run works with: found, chosen for the task, and started now or later.

The choice is made by the tools that the servers listed when they were last started.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio

from lmstudio_bridge import errors
from lmstudio_bridge.agent.conversation import CHARS_PER_TOKEN
from lmstudio_bridge.agent.schemas import SchemaWork
from lmstudio_bridge.agent.tool_ranking import FITS, Index
from lmstudio_bridge.agent.tools import UnstartedServers, make_tool
from lmstudio_bridge.agent.untrusted import wrap_instructions
from lmstudio_bridge.events import Emit, Noticed, ServerFailed, ServerReady, ServersChosen, Warned
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.mcp_client.discovery import ServerCatalog
from lmstudio_bridge.mcp_client.pool import Lease
from lmstudio_bridge.messages import Notice, ServerConfig, ServerTool
from lmstudio_bridge.runs.agent_files import AgentFile
from lmstudio_bridge.runs.tool_cache import ToolCache, shown_tools
from lmstudio_bridge.security.host_rules import server_within
from lmstudio_bridge.security.permissions import Permissions
from lmstudio_bridge.security.redact import Redactor

logger = logging.getLogger(__name__)

CLOSEST = 3  # tools that count as fitting because of what they mean
_READ = 1_024  # characters of a description, as many as the model reads
_SHOWN_TOOLS = 2  # that a reason names
_SHOWN_NAME = 40  # characters of a tool's name in a reason
_LONGEST = 300  # characters of a word that can be a path or an address
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_PATH = re.compile(r"[~.]{0,2}/.+|.+/|.*/.*/.*|.{2,}\.[A-Za-z]\w{0,4}")

UNKNOWN = "its tools are not known yet"
USED = "it was used before"
NAMED = "the task names it"
CANNOT_TELL = "nothing in the task tells which server it needs"

_TOOLS_SHARE = 4  # the tools may take a quarter of the context
_INSTRUCTIONS_SHARE = 16  # what servers say about their tools may take a sixteenth
_INSTRUCTIONS = 2_000  # characters, where the context length is not known
MAX_VECTORS = 500  # of one model that are kept; those not used for longest go first
_MAX_AGE = 2.0  # seconds for which the list of models is believed: a model that has gone would be loaded again
_TIME = 3.0  # seconds; loaded embedding models need a tenth of it
_MAX_TEXT = 1_000  # characters of a tool or a task; models cut longer ones without a word
_PREFIXES = {"nomic": ("search_query: ", "search_document: ")}  # what these models were trained with


Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class NamedServers:
    """The servers that a run may use; those that it asked for and may not; and warnings about the files."""

    configs: list[ServerConfig]
    refused: list[errors.DownstreamError]
    warnings: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(config.name for config in self.configs)

    def within(self, agent: AgentFile | None) -> NamedServers:
        """Those of the servers that the agent may use; all where there is none. The agent's note is a warning.

        Raises:
            NoToolMayRunError: It may use none of them.
        """
        if agent is None:
            return self
        usable = [config for config in self.configs if server_within(config.name, agent.tools)]
        if self.configs and not usable:
            raise errors.NoToolMayRunError(
                f"The tools that {agent.path} lists are of none of these servers: {', '.join(self.names)}.",
                remedy="Name a server whose tools it lists, or add mcp__SERVER to its tools.",
            )
        left = [config.name for config in self.configs if config not in usable]
        without = [f"Not started, because the agent lists none of their tools: {', '.join(left)}."] if left else []
        return replace(self, configs=usable, warnings=[*self.warnings, agent.note, *without])


def find_servers(catalog: ServerCatalog, names: tuple[str, ...] | None) -> NamedServers:
    """The servers with these names, or all that may be used.

    Raises:
        DownstreamError: None of them can be used.
    """
    found: dict[str, ServerConfig] = {}  # two spellings of one name are one server
    refused: list[errors.DownstreamError] = []
    for name in dict.fromkeys((*catalog.servers, *catalog.unapproved) if names is None else names):
        try:
            config = catalog.require(name)
            found[config.name] = config
        except (errors.ServerNotConfiguredError, errors.ServerNotTrustedError) as exc:
            refused.append(exc)
    configs = [*found.values()]
    if not configs:
        raise _joined(refused, "used") if refused else _nothing_configured(catalog)
    about = [warning for config in configs for warning in catalog.server_warnings.get(config.name, ())]
    return NamedServers(configs, refused, [*catalog.warnings, *about])


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs servers and tools for.

    If it `chooses`, only the servers that the task needs are started, and those that a continued run `used` before.
    """

    task: str
    chooses: bool
    used: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """`started` maps each server to start to the reason, the best first; `left` are the others."""

    started: Mapping[str, str]
    left: tuple[str, ...]


def choose_servers(
    task: str,
    known: Mapping[str, Sequence[ServerTool] | None],
    *,
    max_chars: int,
    used: Collection[str] = (),
    similar: Mapping[tuple[str, str], float] | None = None,
) -> ServerChoice:
    """The servers to start for a task: at least one, and all of them if nothing in the task tells them apart.

    `known` maps each server to its tools, or to None if they are not known: such a server is started. So are servers
    that the task names, by their own name or a tool's, and those `used` before. Others follow, best first, if one of
    their tools fits about as well as the best of all, until the fitting tools have `max_chars` characters. `similar`
    maps tools, by server and name, to how close they are to the task in meaning; the closest also count as fitting.
    """
    work = SchemaWork()
    tools = [tool for each in known.values() for tool in each or ()]
    candidates = [
        make_tool(
            tool, name=f"{tool.server}__{tool.name}", description=f"{tool.title} {tool.description}"[:_READ], work=work
        )
        for tool in tools
    ]
    scores = Index(candidates).scores(_with_kinds(task))
    best = max(scores, default=0.0)
    fitting: dict[str, list[int]] = {}
    for number in sorted(range(len(tools)), key=lambda number: -scores[number]):
        if scores[number] > 0 and scores[number] >= best * FITS:
            fitting.setdefault(tools[number].server, []).append(number)
    for number in _closest(tools, similar or {}) if fitting else ():
        if number not in fitting.setdefault(tools[number].server, []):
            fitting[tools[number].server].append(number)
    started = {name: reason for name in known if (reason := _certain(task, name, known[name], used))}
    room = max_chars - sum(candidates[number].chars for name in started for number in fitting.get(name, ()))
    for name, numbers in fitting.items():
        if name not in started and (room > 0 or not started):
            started[name] = f"for {_names(tools[number] for number in numbers[:_SHOWN_TOOLS])}"
            room -= sum(candidates[number].chars for number in numbers)
    if set(started.values()) <= {UNKNOWN} and not fitting:
        started |= {name: CANNOT_TELL for name in known if name not in started}
    return ServerChoice(started, tuple(name for name in known if name not in started))


def tools_room(context_length: int) -> int:
    """How many characters the tools may take of a context with this many tokens."""
    return context_length * CHARS_PER_TOKEN // _TOOLS_SHARE


def instructions_room(context_length: int | None) -> int:
    """How many characters the instructions of servers may take of a context with this many tokens."""
    return _INSTRUCTIONS if context_length is None else context_length * CHARS_PER_TOKEN // _INSTRUCTIONS_SHARE


class RunServers:
    """The servers that one run may use; `permissions` say which of their tools the model may know about."""

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        *,
        lease: Lease,
        tool_cache: ToolCache,
        tell: Emit,
        redactor: Redactor,
        permissions: Permissions,
    ) -> None:
        self._configs = {config.name: config for config in configs}
        self._lease = lease
        self._tool_cache = tool_cache
        self._tell = tell
        self._redactor = redactor
        self._permissions = permissions
        self._offers = permissions.policy.offers
        self._left: dict[str, tuple[ServerTool, ...]] = {}
        self._opened: dict[str, tuple[ServerTool, ...]] = {}
        self._failed: list[errors.DownstreamError] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The open servers, in the order of the configuration."""
        return tuple(name for name in self._configs if name in self._opened)

    def tools(self) -> tuple[ServerTool, ...]:
        """The tools of the open servers that the model may know about."""
        return tuple(tool for name in self.names for tool in self._opened[name])

    def known_tools(self) -> tuple[ServerTool, ...]:
        """The same, and those of the servers that are not started."""
        return (*self.tools(), *(tool for tools in self._left.values() for tool in tools))

    def notes(self, names: Collection[str] | None = None, *, room: int) -> str:
        """What open servers, or those with these names, say about the use of their tools, for the model.

        Without secrets; only of those with such tools; within `room` characters.
        """
        open_servers = [name for name in self.names if self._opened[name] and (names is None or name in names)]
        told = {name: self._redactor.redact(self._lease.instructions(name)) for name in open_servers}
        return wrap_instructions(told, room=room)

    def unstarted(self, *, room: int) -> UnstartedServers | None:
        """The servers that were not started, to be found and started later; None if there are none."""
        describe = partial(self.notes, room=room)
        return UnstartedServers(self._left, start=self._start_later, describe=describe) if self._left else None

    async def choose(self, needs: Needs, *, max_chars: int, similarity: ToolSimilarity) -> None:
        """Decide which servers the task does not need; `open` does not start those.

        Servers are chosen until their fitting tools have `max_chars` characters.
        """
        known = {name: self._known_tools(config) for name, config in self._configs.items()}
        tools = [tool for each in known.values() for tool in each or ()]
        choice = choose_servers(
            needs.task, known, max_chars=max_chars, used=needs.used, similar=await similarity.compare(needs.task, tools)
        )
        self._left = {name: known[name] or () for name in choice.left}
        await self._tell(ServersChosen(tuple(choice.started), tuple(choice.started.values()), choice.left))

    async def open(self) -> None:
        """Start all that were chosen; if none of them starts, the others too.

        Raises:
            DownstreamError: None could be started.
        """
        await self._open_all(name for name in self._configs if name not in self._left)
        if not self._opened and self._left:
            left, self._left = self._left, {}
            await self._open_all(left)
        if self._failed and not self._opened:
            error = _joined(self._failed, "started")
            raise error from (None if error in self._failed else self._failed[-1])

    async def _open_all(self, names: Iterable[str]) -> None:
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(self._open, self._configs[name])

    async def _open(self, config: ServerConfig) -> None:
        try:
            is_new = self._tool_cache.known_tools(config) is None
            tools = await self._lease.open_server(config, on_wait=self._on_wait, is_new=is_new)
            checked = self._tool_cache.check(config, tools, instructions=self._lease.instructions(config.name))
            shown = shown_tools(checked.tools, self._redactor)
            offered = tuple(filter(self._offers, shown.tools))
            if not offered:
                raise _no_tools(config, listed=len(checked.tools))
        except errors.DownstreamError as exc:
            self._failed.append(exc)
            await self._tell(ServerFailed(config.name, exc.explain()))
            return
        self._opened[config.name] = offered
        await self._tell(ServerReady(config.name, len(checked.tools)))
        secret = shown.left_out
        told = (f"{config.name}: {secret} of its tools left out, because their names hold a secret.",) if secret else ()
        for warning in (*checked.warnings, *told, *self._permissions.find_unused(config.name, checked.tools)):
            await self._tell(Warned(warning))

    async def _on_wait(self, text: str) -> None:
        await self._tell(Noticed(Notice("queue", text)))

    async def _start_later(self, name: str) -> tuple[ServerTool, ...]:
        await self._open(self._configs[name])
        if name not in self._opened:
            raise next(error for error in reversed(self._failed) if error.server == name)
        return self._opened[name]

    def _known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        tools = self._tool_cache.known_tools(config)
        return None if tools is None else tuple(filter(self._offers, shown_tools(tools, self._redactor).tools))


class ToolSimilarity:
    """Compares tasks with tools by embeddings, if LM Studio has an embedding model in memory.

    It only improves a ranking, so failures are only logged at debug level. The vectors of tools are kept, those of
    tasks are not.
    """

    def __init__(self, client: LLMClient, *, seconds: float = _TIME) -> None:
        self._client = client
        self._seconds = seconds
        self._kept: dict[str, dict[str, Vector]] = {}  # by model and text

    async def compare(self, task: str, tools: Sequence[ServerTool]) -> Mapping[tuple[str, str], float]:
        """The cosine of the task with each tool, by server and name; empty where it cannot be computed."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._compare(task, tools)
        except (errors.LLMError, TimeoutError, OSError, ValueError, OverflowError) as exc:
            logger.debug("tools are ranked without embeddings: %s", exc)
            return {}

    async def _compare(self, task: str, tools: Sequence[ServerTool]) -> Mapping[tuple[str, str], float]:
        model = await self._model()
        if model is None or not tools:
            return {}
        query, document = next((both for name, both in _PREFIXES.items() if name in model.casefold()), ("", ""))
        texts = {(tool.server, tool.name): document + _words(tool) for tool in tools}
        kept = self._kept.get(model, {})
        missing = list(dict.fromkeys(text for text in texts.values() if text not in kept))[:MAX_VECTORS]
        asked = [query + task[:_MAX_TEXT], *missing]
        wanted, *new = map(_unit, await self._client.embed(asked, model=model))
        known = {**kept, **dict(zip(missing, new, strict=True))}
        used = {text: known[text] for text in texts.values() if text in known}
        others = {text: vector for text, vector in kept.items() if text not in used}
        self._kept[model] = dict([*others.items(), *used.items()][-MAX_VECTORS:])
        return {key: _cosine(wanted, used[text]) for key, text in texts.items() if text in used}

    async def _model(self) -> str | None:
        """An embedding model that is in memory: a request for another would load it, and might evict the chat model."""
        for age in (None, _MAX_AGE):
            catalog = await self._client.validator.catalog(max_age=age)
            loaded = [model.key for model in catalog.models if model.kind == "embedding" and model.loaded]
            if not loaded or catalog.source != "/api/v1/models":
                return None
        return loaded[0]


def _words(tool: ServerTool) -> str:
    return f"{tool.name.replace('_', ' ')}: {tool.title} {tool.description}"[:_MAX_TEXT]


def _unit(vector: Sequence[float]) -> Vector:
    """The vector with length 1, so that a product is a cosine.

    Raises:
        ValueError: It has no direction.
    """
    length = math.hypot(*vector)
    if not (vector and 0 < length < math.inf):
        raise ValueError("a vector has no direction")
    return tuple(number / length for number in vector)


def _cosine(one: Vector, other: Vector) -> float:
    """The cosine of two unit vectors; 0.0 if they cannot be of one model."""
    return sum(map(float.__mul__, one, other)) if len(one) == len(other) else 0.0


def _closest(tools: Sequence[ServerTool], similar: Mapping[tuple[str, str], float]) -> list[int]:
    """The tools that are closest to the task in meaning, if that is known."""
    scores = [similar.get((tool.server, tool.name), 0.0) for tool in tools]
    ranked = sorted(range(len(tools)), key=lambda number: -scores[number])
    return [number for number in ranked[:CLOSEST] if scores[number] > 0]


def _certain(task: str, name: str, tools: Sequence[ServerTool] | None, used: Collection[str]) -> str:
    """Why this server is started in any case; "" if it is not."""
    if tools is None:
        return UNKNOWN
    if name in used:
        return USED
    # One-word names of tools (search, fetch) are ordinary words: those count as such.
    names = [name, *(tool.name for tool in tools if re.search(r"\w[_-]\w", tool.name))]
    names_it = (re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", task, re.IGNORECASE) for each in names)
    return NAMED if any(names_it) else ""


def _with_kinds(task: str) -> str:
    """The task, with "url" or "file" added if it holds an address or a path: descriptions of tools use those words."""
    kinds = set()
    for word in task.split():
        plain = word.strip("\"'`()[]{}<>\u00ab\u00bb,;:!?.")
        if _ADDRESS.match(plain):
            kinds.add("url")
        elif len(plain) <= _LONGEST and _PATH.fullmatch(plain):
            kinds.add("file")
    return " ".join((task, *sorted(kinds)))


def _names(tools: Iterable[ServerTool]) -> str:
    """Names for a reader; a server chooses them."""
    return ", ".join("".join(filter(str.isprintable, tool.name))[:_SHOWN_NAME] for tool in tools)


def _no_tools(config: ServerConfig, *, listed: int) -> errors.DownstreamError:
    """The error for a server with which a run would only answer from the model's memory."""
    if listed:
        return errors.DownstreamError(
            f"MCP server '{config.name}' has no tool for the model: your rules hide them, "
            "the agent's file does not list them, or their names hold secrets.",
            server=config.name,
            remedy="Change the rules in lmstudio-bridge.toml or the agent's file, or leave this server out.",
        )
    disabled = " that is enabled in its entry" if config.disabled_tools or config.only_tools is not None else ""
    return errors.DownstreamError(
        f"MCP server '{config.name}' offers no tool{disabled}.",
        server=config.name,
        remedy="Check its settings and its documentation: a model can use only tools, not resources or prompts.",
    )


def _nothing_configured(catalog: ServerCatalog) -> errors.ServerNotConfiguredError:
    reasons = (f"{name} was skipped: {reason}" for name, reason in catalog.skipped.items())
    skipped = errors.listed(["", *reasons], between=" ")
    return errors.ServerNotConfiguredError(
        f"There is no MCP server to work with. {catalog.looked}{skipped}",
        server="",
        remedy="Add one to Claude Code, for example: claude mcp add --scope user filesystem -- npx -y "
        "@modelcontextprotocol/server-filesystem . (those of a project's .mcp.json need your approval). Or name a file "
        "with LMSTUDIO_BRIDGE_MCP_CONFIG.",
    )


def _joined(refusals: Sequence[errors.DownstreamError], done: str) -> errors.DownstreamError:
    """One error for several; `done` is what could not be done with any server."""
    if len(refusals) == 1:
        return refusals[0]
    reasons = errors.listed([f"- {error.explain()}" for error in refusals], between="\n")
    kind = errors.ServerStartError if done == "started" else errors.DownstreamError
    return kind(f"None of the MCP servers could be {done}:\n{reasons}", server=refusals[0].server)
