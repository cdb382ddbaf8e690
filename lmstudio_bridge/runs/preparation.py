"""What the servers of a run may do: rule files, presets and the workspace made into one policy.

Tools as the model may know them: without the secrets that their server may have put into them.

What a run needs before its first round: the servers open, the model in memory, and room for the task.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from lmstudio_bridge.agent.conversation import CHARS_PER_TOKEN
from lmstudio_bridge.agent.json_calls import MAX_TOOLS_WEAK, Strategy, choose_strategy
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.errors import ContextOverflowError, LLMTimeoutError
from lmstudio_bridge.events import Emit, ModelChosen, Noticed, Warned
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelChoice
from lmstudio_bridge.lmstudio.queue import ModelTurns, SlotQueue
from lmstudio_bridge.lmstudio.session import ModelSession
from lmstudio_bridge.mcp_client.pool import Lease, SessionPool
from lmstudio_bridge.messages import Message, Notice, ServerConfig, ServerTool
from lmstudio_bridge.runs.server_selection import Needs, RunServers, ToolSimilarity, tools_room
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.access import Policy, Rule, preset_rules
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.rule_files import load_rules
from lmstudio_bridge.security.workspace import make_workspace
from lmstudio_bridge.settings import Settings, Surroundings

_LAUNCHER_OPTIONS = frozenset({"--directory", "--project", "--prefix", "--python", "--cwd", "-C", "--with-editable"})
"""Options of uv, npm and node whose folder is where a program is, not where it works."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """The policy of runs with certain servers, and where its rules come from."""

    policy: Policy
    paths: tuple[Path, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """What applies, for a reader."""
        where = " and ".join(map(str, self.paths)) or "no file"
        shown = [rule for rule in self.policy.rules.rules if _is_of(rule, self.paths)]
        listed = [f"{rule.verb} {rule.pattern}" for rule in shown]
        return [f"rules: {'; '.join(listed) or 'none'} (from {where})", f"workspace: {self.policy.workspace}"]


def read_permissions(
    configs: Iterable[ServerConfig], *, project: Path, environ: Mapping[str, str], policy: Policy | None = None
) -> Permissions:
    """What runs with these servers may do; `policy` says what else is decided, such as the access.

    Raises:
        SettingsError: A rule file cannot be used.
    """
    servers = list(configs)
    files = load_rules(project=project, environ=environ)
    folders = [*_launch_folder(project), *files.rules.folders]
    for config in servers:
        folders += _folders_of(config, project=project)
    made = replace(
        policy or Policy(),
        rules=files.rules + preset_rules(servers),
        workspace=make_workspace(folders, home=Surroundings(project, environ).home),
        local={config.name: config.cwd or project for config in servers if _is_here(config)},
    )
    return Permissions(made, files.paths, files.warnings)


def _is_of(rule: Rule, paths: Iterable[Path]) -> bool:
    return rule.source in map(str, paths)


def _launch_folder(project: Path) -> list[Path]:
    """The project; but where a program is started from nowhere in particular, all would be its workspace."""
    real = project.resolve()
    return [] if real == real.parent else [project]


def _folders_of(config: ServerConfig, *, project: Path) -> Iterator[Path]:
    """The folders that the user gave to a server; what a project's file gives to its servers widens nothing."""
    if config.scope == "project" or config.transport != "stdio":
        return
    if config.cwd is not None:
        yield config.cwd
    before = ""
    for argument in config.args:
        option, _, value = argument.partition("=") if argument.startswith("-") else (before, "", argument)
        before = argument
        if not value or option in _LAUNCHER_OPTIONS:
            continue
        folder = (config.cwd or project) / value
        try:
            if (os.sep in value or value.startswith(".")) and folder.is_dir():
                yield folder
        except OSError:  # too long for a name, or not for our eyes
            continue


def _is_here(config: ServerConfig) -> bool:
    """Whether the server's paths are on this machine."""
    if config.transport == "stdio":
        return True
    host = (urlsplit(config.url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(_plain_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    inner = getattr(address, "ipv4_mapped", None) or address
    return inner.is_loopback or inner.is_unspecified  # 0.0.0.0 leads here too


def _plain_address(host: str) -> str:
    """An address in its usual form: 127.1 and 2130706433 are 127.0.0.1."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


_CROWDED = 0.5  # share of the context that tools and task may take before we warn
_HOPELESS = 1.2  # more than all of it, as far as four characters make a token
SMALL_CONTEXT = 8_192  # tokens; below, tools and a few results fill it


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run works with."""

    model: ModelSession
    strategy: Strategy
    tool_set: ToolSet
    tools: Lease
    servers: RunServers


class Preparer:
    """Prepares runs; they share its model loads, its turns between models and its slots."""

    def __init__(
        self,
        client: LLMClient,
        pool: SessionPool,
        *,
        settings: Settings,
        tool_cache: ToolCache,
        redactor: Redactor,
    ) -> None:
        self._client = client
        self._pool = pool
        self._redactor = redactor
        self._tool_cache = tool_cache
        self._similarity = ToolSimilarity(client, folder=settings.home / "catalogues")
        self._slots = SlotQueue(server=settings.root_url, folder=settings.home / "slots")
        self._context_length = settings.context_length
        self._room = tools_room(settings.context_length)  # of most models; a run's own is not known yet
        self._turns = ModelTurns()
        self._parallel = settings.parallel
        self._calls = settings.calls
        self._watch_interval = settings.watch_interval

    async def prepare(
        self,
        configs: list[ServerConfig],
        model_name: str | None,
        tell: Emit,
        held: AsyncExitStack,
        *,
        offers: Callable[[ServerTool], bool],
        needs: Needs,
    ) -> Prepared:
        """Get the model into memory while the servers start; what makes the run impossible is raised at once.

        What must be kept for the whole run is entered into `held`. `offers` says which tools the model
        gets to know of, `needs` how the servers are chosen, and the tools if there are too many.
        """
        lease = held.enter_context(self._pool.lease())
        servers = RunServers(
            configs,
            lease=lease,
            tool_cache=self._tool_cache,
            tell=tell,
            redactor=self._redactor,
            offers=offers,
        )
        if needs.chooses and len(configs) > 1:
            await servers.choose(needs, max_chars=self._room, similarity=self._similarity)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(servers.open)
                model, strategy = await self._pin_model(model_name, tell, held)
        except BaseExceptionGroup as errors:
            raise _first_leaf(errors) from None  # the group only wraps what went wrong
        tool_set = ToolSet(servers.tools())
        if len(tool_set.tools) > MAX_TOOLS_WEAK:
            tool_set.note_similar(await self._similarity.compare(needs.task, servers.tools()))
        return Prepared(model, strategy, tool_set, lease, servers)

    async def _pin_model(self, name: str | None, tell: Emit, held: AsyncExitStack) -> tuple[ModelSession, Strategy]:
        """The model to use, in memory as far as we can bring that about, and everything to know about it told."""

        async def on_notice(notice: Notice) -> None:
            await tell(Noticed(notice))

        async def on_wait(other: str) -> None:
            await on_notice(
                Notice("queue", f"queued until the runs with {other} end: LM Studio keeps one model in memory")
            )

        choice = await self._client.validator.resolve(name)
        if choice.source == "/api/v0/models":  # no load route: models evict each other
            await held.enter_async_context(self._turns.hold(choice.info.key, on_wait=on_wait))
            await self._client.validator.catalog(refresh=True)
            choice = await self._client.validator.resolve(choice.wanted)
        model = ModelSession(
            self._client,
            choice,
            slots=self._slots,
            context_length=self._context_length,
            parallel=self._parallel,
            watch_interval=self._watch_interval,
        )
        choice = await model.prepare(on_notice=on_notice)
        await tell(ModelChosen(choice.name, choice.info.loaded, choice.context_length))
        for warning in _warnings(choice):
            await tell(Warned(warning))
        strategy = choose_strategy(
            choice.info.key, trained_for_tool_use=choice.info.trained_for_tool_use, calls=self._calls
        )
        await on_notice(Notice("strategy", f"{choice.name}: {strategy.calls} tool calls, because {strategy.reason}"))
        return model, strategy


async def check_room(prepared: Prepared, opening: Sequence[Message], tell: Emit, *, tool_chars: int | None) -> None:
    """Say before any work starts that the tools and the task take too much of the context.

    `tool_chars` is the room for the tools that are offered, of which there may be fewer than there are.

    Raises:
        ContextOverflowError: They cannot fit at all.
    """
    choice = prepared.model.choice
    if choice.context_length is None:
        return
    tools_chars = prepared.tool_set.chars
    offered = min(tools_chars, tool_chars) if tool_chars else tools_chars
    needed = (offered + sum(len(message.text) for message in opening)) // CHARS_PER_TOKEN
    count = len(prepared.tool_set.tools)
    tools = f"The task and {count} tools take about {needed:,} of the {choice.context_length:,} tokens"
    remedy = "Reload the model in LM Studio with a larger context length, or name fewer MCP servers."
    if needed > choice.context_length * _HOPELESS:
        raise ContextOverflowError(
            f"{tools} that {choice.name} is loaded with.",
            needed=needed,
            available=choice.context_length,
            remedy=remedy,
            model=choice.name,
        )
    if needed > choice.context_length * _CROWDED:
        await tell(Warned(f"{tools} of {choice.name}'s context. {remedy}"))


@asynccontextmanager
async def time_to_begin(seconds: float) -> AsyncIterator[None]:
    """At most so many seconds until the first round.

    Raises:
        LLMTimeoutError: They are up.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise LLMTimeoutError(
            f"The run could not start within its {seconds:g} s.",
            remedy="Other runs hold the model, or it does not load: look at LM Studio.",
        ) from exc


def _warnings(choice: ModelChoice) -> list[str]:
    """What the user should know about the model before it starts to work."""
    found: list[str] = []
    if choice.info.trained_for_tool_use is False:
        found.append(f"{choice.name} is not trained for tool use; a model that is will do better.")
    if choice.context_length is not None and choice.context_length < SMALL_CONTEXT:
        found.append(
            f"{choice.name} is loaded with a context of only {choice.context_length:,} tokens; "
            "reload it in LM Studio with 16k or more for tasks with several steps."
        )
    return found


def _first_leaf(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
