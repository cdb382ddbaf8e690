"""What a run needs before its first round: a slot, its servers, the model in memory, and room for the task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from lmstudio_bridge.agent.conversation import CHARS_PER_TOKEN, Conversation
from lmstudio_bridge.agent.json_calls import MAX_TOOLS_WEAK, Strategy, choose_strategy
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.errors import BridgeError, ContextOverflowError, LLMTimeoutError
from lmstudio_bridge.events import Emit, Event, ModelChosen, Noticed, RunContinued, RunStarted, Warned
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelChoice
from lmstudio_bridge.lmstudio.queue import ModelTurns, SlotQueue
from lmstudio_bridge.lmstudio.session import ModelSession
from lmstudio_bridge.mcp_client.pool import Lease, SessionPool
from lmstudio_bridge.messages import Message, Notice
from lmstudio_bridge.runs.server_selection import NamedServers, Needs, RunServers, ToolSimilarity, tools_room
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.permissions import Permissions
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

SMALL_CONTEXT = 8_192  # tokens; below, tools and a few results fill it
MAX_QUEUED = 100  # runs; nobody waits for more
_CROWDED = 0.5  # share of the context that tools and task may take before we warn
_HOPELESS = 1.2  # more than all of it, because four characters per token is an estimate


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do.

    `added` are the messages that come first in the conversation, `earlier` the events of a run that is continued,
    `limit` the only tools that the run may use; empty: no limit.
    """

    start: RunStarted | RunContinued
    servers: NamedServers
    model: str | None
    conversation: Conversation
    added: tuple[Message, ...]
    needs: Needs
    earlier: tuple[Event, ...] = ()
    limit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run works with."""

    model: ModelSession
    strategy: Strategy
    tool_set: ToolSet
    tools: Lease
    servers: RunServers

    @property
    def tool_chars(self) -> int | None:
        """How many characters the offered tools may take; None if the context length is not known."""
        context = self.model.choice.context_length
        return None if context is None else tools_room(context)


class Preparer:
    """Prepares runs; they share its queue, its model loads, its turns between models and its slots."""

    def __init__(
        self, client: LLMClient, pool: SessionPool, *, settings: Settings, tool_cache: ToolCache, redactor: Redactor
    ) -> None:
        self._client = client
        self._pool = pool
        self._settings = settings
        self._tool_cache = tool_cache
        self._redactor = redactor
        self._queue = RunQueue(settings.run_limit)
        self._similarity = ToolSimilarity(client)
        self._slots = SlotQueue(server=settings.root_url, folder=settings.home / "slots")
        self._turns = ModelTurns()

    async def prepare(
        self, plan: Plan, *, permissions: Permissions, seconds: float, tell: Emit, held: AsyncExitStack
    ) -> Prepared:
        """Wait for a slot, then start the servers and get the model into memory at the same time.

        `permissions` say which tools the model may know about and use, `seconds` is the time for all of it. What the
        run keeps until its end is entered into `held`.

        Raises:
            LLMTimeoutError: The time is up.
            ContextOverflowError: The tools and the task do not fit into the context.
            NoToolMayRunError: A new run could call no tool at all.
            BridgeError: The queue is full; or no server or no model can be used.
        """

        async def on_wait(text: str) -> None:
            await tell(Noticed(Notice("queue", text)))

        async def open_servers() -> None:
            await servers.open()
            if isinstance(plan.start, RunStarted):  # who asks about an earlier run may need no tool
                permissions.check_usable(servers.known_tools())
            for warning in [] if plan.needs.chooses else permissions.find_unusable(servers.tools()):
                await tell(Warned(warning))

        async with _time_limit(seconds):
            await held.enter_async_context(self._queue.slot(on_wait=on_wait))
            lease = held.enter_context(self._pool.lease(permissions.sandboxes.confine))
            servers = RunServers(
                plan.servers.configs,
                lease=lease,
                tool_cache=self._tool_cache,
                tell=tell,
                redactor=self._redactor,
                permissions=permissions,
            )
            if plan.needs.chooses and len(plan.servers.configs) > 1:
                room = tools_room(self._settings.context_length)  # of most models; the run's own is not known yet
                await servers.choose(plan.needs, max_chars=room, similarity=self._similarity)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(open_servers)
                    model, strategy = await self._prepare_model(plan.model, tell, held)
            except BaseExceptionGroup as errors:
                raise _first_leaf(errors) from None  # the group only wraps what went wrong
            tool_set = ToolSet(servers.tools())
            if len(tool_set.tools) > MAX_TOOLS_WEAK:
                tool_set.note_similar(await self._similarity.compare(plan.needs.task, servers.tools()))
        prepared = Prepared(model, strategy, tool_set, lease, servers)
        await _check_room(prepared, plan.added, tell)
        return prepared

    async def _prepare_model(self, name: str | None, tell: Emit, held: AsyncExitStack) -> tuple[ModelSession, Strategy]:
        """The model to use, loaded if possible; everything that the user should know about it is told."""

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
            context_length=self._settings.context_length,
            parallel=self._settings.parallel,
            watch_interval=self._settings.watch_interval,
        )
        choice = await model.prepare(on_notice=on_notice)
        await tell(ModelChosen(choice.name, choice.info.loaded, choice.context_length))
        for warning in _warnings(choice):
            await tell(Warned(warning))
        strategy = choose_strategy(
            choice.info.key, trained_for_tool_use=choice.info.trained_for_tool_use, calls=self._settings.calls
        )
        await on_notice(Notice("strategy", strategy.in_words()))
        return model, strategy


class RunQueue:
    """The queue of one process: `max_running` at once, `max_queued` waiting, the rest refused."""

    def __init__(self, max_running: int, *, max_queued: int = MAX_QUEUED) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._queued = 0
        self._slots = anyio.Semaphore(max_running)  # first come, first served

    @asynccontextmanager
    async def slot(self, *, on_wait: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
        """A slot for the duration of the block; `on_wait` is told once if none is free.

        Raises:
            BridgeError: The queue is full.
        """
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._wait(on_wait)
        try:
            yield
        finally:
            self._slots.release()

    async def _wait(self, on_wait: Callable[[str], Awaitable[None]]) -> None:
        running = f"{self._max_running} runs are" if self._max_running > 1 else "1 run is"
        if self._queued >= self._max_queued:
            raise BridgeError(
                f"{running} already in progress and {self._queued} are queued, so this one was not started.",
                remedy="Try again when some have finished. LMSTUDIO_BRIDGE_MAX_RUNS sets how many may run at once.",
            )
        before = f", {self._queued} queued before this one" if self._queued else ""
        self._queued += 1
        try:
            await on_wait(f"Queued: {running} already in progress{before}")
            await self._slots.acquire()
        finally:
            self._queued -= 1


async def _check_room(prepared: Prepared, added: Sequence[Message], tell: Emit) -> None:
    """Warn if the tools and the first messages take much of the context.

    Raises:
        ContextOverflowError: They cannot fit at all.
    """
    choice = prepared.model.choice
    if choice.context_length is None or prepared.tool_chars is None:
        return
    offered = min(prepared.tool_set.chars, prepared.tool_chars)
    needed = (offered + sum(len(message.text) for message in added)) // CHARS_PER_TOKEN
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
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """At most so many seconds for the block.

    Raises:
        LLMTimeoutError: The time is up.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise LLMTimeoutError(
            f"The run could not start within its {seconds:g} s.",
            remedy="Other runs are using the model, or it does not load: check LM Studio.",
        ) from exc


def _warnings(choice: ModelChoice) -> list[str]:
    """What the user should know about the model before the run starts."""
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
