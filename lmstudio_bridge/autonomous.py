"""DynamicAutonomousAgent: one request from start to end, RunRequest → RunReport."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.journal import open_journal
from lmstudio_bridge.agent.loop import Limits, finish_run, run
from lmstudio_bridge.agent.policy import Policy
from lmstudio_bridge.agent.prompts import system_prompt
from lmstudio_bridge.agent.results import CHARS_PER_TOKEN, result_limit
from lmstudio_bridge.agent.toolbox import Toolbox
from lmstudio_bridge.downstream.config import ServerCatalog, ServerConfig, load_servers
from lmstudio_bridge.downstream.sessions import SessionPool, open_pool
from lmstudio_bridge.errors import (
    BridgeError,
    ContextOverflowError,
    DownstreamError,
    LLMTimeoutError,
    ServerNotConfiguredError,
    ServerStartError,
)
from lmstudio_bridge.events import (
    Emit,
    Event,
    MessageAdded,
    ModelChosen,
    Noticed,
    RunStarted,
    ServerFailed,
    ServerReady,
    Tally,
    Warned,
    fan_out,
)
from lmstudio_bridge.llm.client import LLMClient, open_client
from lmstudio_bridge.llm.loading import ModelLoader
from lmstudio_bridge.llm.models import ModelChoice
from lmstudio_bridge.llm.pinned import PinnedModel
from lmstudio_bridge.llm.slots import SlotQueue
from lmstudio_bridge.llm.transport import Timeouts
from lmstudio_bridge.llm.turns import ModelTurns
from lmstudio_bridge.messages import Message, Notice, ServerTool, SystemMessage, UserMessage
from lmstudio_bridge.redaction import Redactor, secrets_of_environment
from lmstudio_bridge.report import RunReport, RunRequest
from lmstudio_bridge.retry import RetryPolicy
from lmstudio_bridge.settings import Settings

_AUTO_MAX_TOKENS = 8_192  # tokens of one reply, where the context allows
_AUTO_SHARE = 4  # one reply may take a quarter of the context
_CROWDED = 0.5  # share of the context that tools and task may take before we warn
_HOPELESS = 1.2  # more than all of it, as far as four characters make a token
_SMALL_CONTEXT = 8_192  # tokens; below, tools and a few results fill it


@dataclass(frozen=True, slots=True)
class _Prepared:
    model: PinnedModel
    toolbox: Toolbox
    servers: tuple[str, ...]


@asynccontextmanager
async def open_agent(settings: Settings, *, environ: Mapping[str, str]) -> AsyncIterator[DynamicAutonomousAgent]:
    """An agent with its HTTP client and its pool of MCP servers; leaving closes both."""
    async with (
        open_client(
            settings.root_url,
            api_token=settings.api_token.get_secret_value() if settings.api_token else None,
            default_model=settings.default_model,
            timeouts=Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.between_bytes_timeout),
            retry_policy=RetryPolicy(attempts=settings.retry_attempts),
            model_ttl=settings.model_ttl,
        ) as client,
        open_pool(
            project=settings.project,
            environ=environ,
            start_timeout=settings.server_start_timeout,
            call_timeout=settings.tool_timeout,
        ) as pool,
    ):
        slots = SlotQueue(server=settings.root_url, folder=settings.home / "slots")
        yield DynamicAutonomousAgent(client, pool, slots=slots, settings=settings, environ=environ)


class DynamicAutonomousAgent:
    """Works on tasks with a local model and the tools of the user's MCP servers.

    One agent serves many runs at once; they share its client and its servers and nothing else.
    """

    def __init__(
        self,
        client: LLMClient,
        pool: SessionPool,
        *,
        slots: SlotQueue,
        settings: Settings,
        environ: Mapping[str, str],
    ) -> None:
        self.client = client
        self.pool = pool
        self._slots = slots
        self._loader = ModelLoader(client, slots, context_length=settings.context_length)
        self._turns = ModelTurns()
        self._settings = settings
        self._environ = environ

    def configured_servers(self) -> ServerCatalog:
        """The MCP servers as the files name them right now.

        Raises:
            McpConfigError: A file cannot be used.
        """
        return load_servers(explicit=self._settings.mcp_config, project=self._settings.project, environ=self._environ)

    async def execute(self, request: RunRequest, *, emit: Emit | None = None) -> RunReport:
        """Do what is asked; `emit` is told what happens.

        Raises:
            BridgeError: The run could not begin: no such server or model, nothing to work with.
        """
        started_at = time.monotonic()
        configs, unknown = self._select(request)
        redactor = Redactor(self._secrets(configs))
        run_id = new_run_id(datetime.now(UTC))
        async with AsyncExitStack() as held:
            journal = held.enter_context(open_journal(self._settings.home / "runs", run_id, redact=redactor.redact))
            tally = Tally()
            told = fan_out(journal.emit, emit) if emit else journal.emit

            async def sink(event: Event) -> None:
                await told(redactor.redact_fields(event))

            async def tell(event: Event) -> None:
                tally.add(event)
                await sink(event)

            names = tuple(config.name for config in configs)
            await tell(
                RunStarted(run_id, request.task, names, request.max_rounds, datetime.now(UTC).isoformat("T", "seconds"))
            )
            try:
                for error in unknown:
                    await tell(ServerFailed(error.server, error.explain()))
                async with _time_to_begin(self._settings.run_timeout):
                    prepared = await self._prepare(configs, request.model, tell, redactor, held)
                opening = self._opening(request.task)
                await _check_room(prepared, opening, tell)
            except BaseException as exc:  # the journal must have its end; the error goes on
                cancelled = isinstance(exc, asyncio.CancelledError)
                error_text = redactor.redact(exc.explain()) if isinstance(exc, BridgeError) else str(exc)
                await finish_run(
                    tell,
                    tally,
                    stop="cancelled" if cancelled else "failed",
                    error="The run was cancelled." if cancelled else error_text,
                    seconds=time.monotonic() - started_at,
                )
                raise
            conversation = Conversation(())
            for message in opening:
                conversation.add(message)
                await tell(MessageAdded(message))
            outcome = await run(
                conversation,
                model=prepared.model,
                tools=self.pool,
                toolbox=prepared.toolbox,
                policy=Policy(),
                limits=self._limits(request, prepared.model.choice, spent=time.monotonic() - started_at),
                emit=sink,
                tally=tally,
                redact=redactor.redact,
                started_at=started_at,
            )
        return RunReport(run_id, redactor.redact_fields(outcome), prepared.servers)

    def _select(self, request: RunRequest) -> tuple[list[ServerConfig], list[ServerNotConfiguredError]]:
        """The servers to open, and those that were asked for and are not there."""
        catalog = self.configured_servers()
        if request.servers is None:
            if not catalog.servers:
                raise _nothing_configured(catalog)
            return list(catalog.servers.values()), []
        configs: list[ServerConfig] = []
        unknown: list[ServerNotConfiguredError] = []
        for name in dict.fromkeys(request.servers):
            try:
                configs.append(catalog.require(name))
            except ServerNotConfiguredError as exc:
                unknown.append(exc)
        if not configs:
            raise unknown[0]
        return configs, unknown

    async def _prepare(
        self, configs: list[ServerConfig], model_name: str | None, tell: Emit, redactor: Redactor, held: AsyncExitStack
    ) -> _Prepared:
        """Get the model into memory while the servers start; what makes the run impossible is raised at once.

        What must be kept for the whole run is entered into `held`.
        """
        opened: dict[str, tuple[ServerTool, ...]] = {}
        failed: list[DownstreamError] = []

        async def open_one(config: ServerConfig) -> None:
            try:
                opened[config.name] = await self.pool.open_server(config)
            except DownstreamError as exc:
                failed.append(exc)
                await tell(ServerFailed(config.name, redactor.redact(exc.explain())))
            else:
                await tell(ServerReady(config.name, len(opened[config.name])))

        try:
            async with anyio.create_task_group() as group:
                for config in configs:
                    group.start_soon(open_one, config)
                model = await self._pin_model(model_name, tell, held)
        except BaseExceptionGroup as errors:
            raise _first_leaf(errors) from None  # the group only wraps what went wrong with the model
        if not opened:
            raise _none_left(failed, redactor)
        servers = tuple(config.name for config in configs if config.name in opened)
        toolbox = Toolbox(tool for name in servers for tool in opened[name])
        return _Prepared(model, toolbox, servers)

    async def _pin_model(self, name: str | None, tell: Emit, held: AsyncExitStack) -> PinnedModel:
        """The model to use, in memory as far as we can bring that about, and everything to know about it told."""

        async def on_notice(notice: Notice) -> None:
            await tell(Noticed(notice))

        async def on_wait(other: str) -> None:
            await on_notice(Notice("queue", f"waiting for the runs with {other} to end: LM Studio holds one model"))

        choice = await self.client.validator.resolve(name)
        if choice.source == "/api/v0/models":  # no load route: models evict each other
            await held.enter_async_context(self._turns.hold(choice.info.key, on_wait=on_wait))
            await self.client.validator.catalog(refresh=True)
            choice = await self.client.validator.resolve(choice.wanted)
        model = PinnedModel(
            self.client,
            choice,
            loader=self._loader,
            slots=self._slots,
            parallel=self._settings.parallel,
            watch_interval=self._settings.watch_interval,
        )
        choice = await model.prepare(on_notice=on_notice)
        await tell(ModelChosen(choice.name, choice.info.loaded, choice.context_length))
        for warning in _warnings(choice):
            await tell(Warned(warning))
        return model

    def _opening(self, task: str) -> tuple[Message, ...]:
        prompt = system_prompt(today=datetime.now().astimezone().date(), folder=Path(self._settings.project))
        return SystemMessage(prompt), UserMessage(task)

    def _limits(self, request: RunRequest, choice: ModelChoice, *, spent: float) -> Limits:
        context = choice.context_length
        auto = _AUTO_MAX_TOKENS if context is None else min(_AUTO_MAX_TOKENS, context // _AUTO_SHARE)
        return Limits(
            max_rounds=request.max_rounds,
            seconds=max(1.0, self._settings.run_timeout - spent),
            result_chars=result_limit(context),
            max_tokens=request.max_tokens or auto,
        )

    def _secrets(self, configs: list[ServerConfig]) -> list[str]:
        token = self._settings.api_token
        found = [token.get_secret_value()] if token else []
        for config in configs:
            found += [*config.headers.values(), *secrets_of_environment(config.env)]
        return found


def new_run_id(now: datetime) -> str:
    """A name for a run that sorts by time and is easy to copy."""
    tail = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))
    return f"{now:%Y%m%d-%H%M%S}-{tail}"


def _warnings(choice: ModelChoice) -> list[str]:
    """What the user should know about the model before it starts to work."""
    found: list[str] = []
    if choice.info.trained_for_tool_use is False:
        found.append(f"{choice.name} is not trained for tool use; a model that is will do better.")
    if choice.context_length is not None and choice.context_length < _SMALL_CONTEXT:
        found.append(
            f"{choice.name} is loaded with a context of only {choice.context_length:,} tokens; "
            "reload it in LM Studio with 16k or more for tasks with several steps."
        )
    return found


async def _check_room(prepared: _Prepared, opening: Sequence[Message], tell: Emit) -> None:
    """Say before any work starts that the tools and the task take too much of the context.

    Raises:
        ContextOverflowError: They cannot fit at all.
    """
    choice = prepared.model.choice
    if choice.context_length is None:
        return
    specs = [(spec.name, spec.description, spec.parameters) for spec in prepared.toolbox.specs]
    needed = (len(json.dumps(specs)) + sum(len(message.text) for message in opening)) // CHARS_PER_TOKEN
    tools = f"The task and {len(specs)} tools take about {needed:,} of the {choice.context_length:,} tokens"
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
async def _time_to_begin(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise LLMTimeoutError(
            f"The run could not begin within its {seconds:g} s.",
            remedy="Other runs hold the model, or it does not load: look at LM Studio.",
        ) from exc


def _nothing_configured(catalog: ServerCatalog) -> ServerNotConfiguredError:
    looked = ", ".join(map(str, catalog.paths)) or f".mcp.json in {catalog.project} and above it"
    skipped = "".join(f" {name} was skipped: {reason}" for name, reason in catalog.skipped.items())
    return ServerNotConfiguredError(
        f"There is no MCP server to work with. Looked in: {looked}.{skipped}",
        server="",
        remedy="Add one to .mcp.json, for example "
        '{"mcpServers": {"filesystem": {"command": "npx", '
        '"args": ["-y", "@modelcontextprotocol/server-filesystem", "."]}}}, '
        "or name another file with LMSTUDIO_BRIDGE_MCP_CONFIG.",
    )


def _none_left(failed: list[DownstreamError], redactor: Redactor) -> DownstreamError:
    if len(failed) == 1:
        return failed[0]
    reasons = "\n".join(f"- {redactor.redact(error.explain())}" for error in failed)
    return ServerStartError(f"None of the MCP servers could be started:\n{reasons}", server=failed[0].server)


def _first_leaf(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
