"""DynamicAutonomousAgent: one request from start to end, RunRequest → RunReport."""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.journal import open_journal
from lmstudio_bridge.agent.loop import Limits, finish_run, run
from lmstudio_bridge.agent.policy import Policy
from lmstudio_bridge.agent.prompts import system_prompt
from lmstudio_bridge.agent.results import result_limit
from lmstudio_bridge.agent.toolbox import Toolbox
from lmstudio_bridge.downstream.config import ServerCatalog, ServerConfig, load_servers
from lmstudio_bridge.downstream.sessions import SessionPool, open_pool
from lmstudio_bridge.errors import BridgeError, DownstreamError, ServerNotConfiguredError, ServerStartError
from lmstudio_bridge.events import (
    Emit,
    Event,
    MessageAdded,
    ModelChosen,
    Outcome,
    RunStarted,
    ServerFailed,
    ServerReady,
    Tally,
    Warned,
    fan_out,
)
from lmstudio_bridge.llm.client import LLMClient, open_client
from lmstudio_bridge.llm.models import ModelChoice
from lmstudio_bridge.llm.transport import Timeouts
from lmstudio_bridge.messages import Message, ServerTool, SystemMessage, UserMessage
from lmstudio_bridge.redaction import Redactor, secrets_of_environment
from lmstudio_bridge.retry import RetryPolicy
from lmstudio_bridge.settings import Settings

DEFAULT_MAX_ROUNDS = 50
MAX_TASK = 10_000  # characters
_AUTO_MAX_TOKENS = 8_192  # tokens of one reply, where the context allows
_AUTO_SHARE = 4  # one reply may take a quarter of the context
_SMALL_CONTEXT = 8_192  # tokens; below, tools and a few results fill it


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants done.

    `servers` are names of configured MCP servers; None means all that can be used. `max_tokens` is
    for one reply of the model; None lets us choose by its context.
    """

    task: str
    servers: tuple[str, ...] | None = None
    max_rounds: int = DEFAULT_MAX_ROUNDS
    max_tokens: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a request went; `servers` are those whose tools were offered."""

    run_id: str
    outcome: Outcome
    servers: tuple[str, ...]

    def text(self) -> str:
        """The report for a reader: the answer, what to know about it, and one line of figures."""
        outcome = self.outcome
        notes = [f"Note: {warning}" for warning in outcome.warnings]
        match outcome.stop:
            case "answered":
                parts = [outcome.answer, *notes]
            case "failed" | "cancelled":
                so_far = f"The model's text so far:\n{outcome.answer}" if outcome.answer else ""
                parts = [outcome.error, so_far, *notes]
            case _:
                parts = [outcome.answer or "The model gave no answer.", *notes, f"Note: {_STOP_NOTES[outcome.stop]}"]
        return "\n\n".join([*(part for part in parts if part), self.figures()])

    def figures(self) -> str:
        """One line: run id, model, rounds, calls, tokens, seconds."""
        outcome, usage = self.outcome, self.outcome.usage
        return (
            f"[run {self.run_id} · {outcome.model or 'no model'} · {_count(outcome.rounds, 'round')} · "
            f"{_count(outcome.calls, 'call')} · {usage.prompt_tokens + usage.completion_tokens:,} tokens · "
            f"{outcome.seconds:.1f} s]"
        )


_STOP_NOTES = {
    "round_limit": "the limit of rounds was reached; the answer is from what was known by then. A higher max_rounds "
    "or a smaller task helps.",
    "deadline": "the time for the run was up; this is the text so far. A smaller task helps.",
    "context_full": "the model's context was full; this is the text so far. Load the model with a larger context.",
    "stuck": "the model got stuck; this is the text so far. A smaller task or another model helps.",
}


@dataclass(frozen=True, slots=True)
class _Prepared:
    choice: ModelChoice
    tools: tuple[ServerTool, ...]
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
        yield DynamicAutonomousAgent(client, pool, settings=settings, environ=environ)


class DynamicAutonomousAgent:
    """Works on tasks with a local model and the tools of the user's MCP servers.

    One agent serves many runs at once; they share its client and its servers and nothing else.
    """

    def __init__(self, client: LLMClient, pool: SessionPool, *, settings: Settings, environ: Mapping[str, str]) -> None:
        self.client = client
        self.pool = pool
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
        with open_journal(self._settings.home / "runs", run_id, redact=redactor.redact) as journal:
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
                prepared = await self._prepare(configs, request.model, tell, redactor)
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
            for message in self._opening(request.task):
                conversation.add(message)
                await tell(MessageAdded(message))
            outcome = await run(
                conversation,
                model=self.client.pinned(prepared.choice),
                tools=self.pool,
                toolbox=Toolbox(prepared.tools),
                policy=Policy(),
                limits=self._limits(request, prepared.choice, spent=time.monotonic() - started_at),
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
        self, configs: list[ServerConfig], model: str | None, tell: Emit, redactor: Redactor
    ) -> _Prepared:
        """Choose the model while the servers start; the first thing that makes the run impossible is raised."""
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
                choice = await self.client.validator.resolve(model)
                await tell(ModelChosen(choice.name, choice.info.loaded, choice.context_length))
        except BaseExceptionGroup as errors:
            raise _first_leaf(errors) from None  # the group only wraps what went wrong with the model
        if not opened:
            raise _none_left(failed, redactor)
        for warning in _warnings(choice):
            await tell(Warned(warning))
        servers = tuple(config.name for config in configs if config.name in opened)
        return _Prepared(choice, tuple(tool for name in servers for tool in opened[name]), servers)

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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
