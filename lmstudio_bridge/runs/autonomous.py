"""What happens in a run, told without secrets to its journal and to who waits, and added up.

The run queue: so many runs at once, some more waiting, the rest refused.

Which of the configured MCP servers a run works with.

DynamicAutonomousAgent: one request from start to end, RunRequest → RunReport.
"""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import assert_never

import anyio

from lmstudio_bridge.agent.conversation import Conversation, result_limit
from lmstudio_bridge.agent.loop import finish_run, run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.prompts import system_prompt
from lmstudio_bridge.agent.untrusted import Delimiter, TextFilters, new_delimiter
from lmstudio_bridge.errors import (
    BridgeError,
    DownstreamError,
    NestedBridgeError,
    RunNotFoundError,
    ServerNotConfiguredError,
    ServerNotTrustedError,
    listed,
)
from lmstudio_bridge.events import (
    CallFinished,
    CallProgress,
    Emit,
    Event,
    Generating,
    JournalCut,
    MessageAdded,
    Noticed,
    RunContinued,
    RunStarted,
    ServerFailed,
    ServerReady,
    ServersChosen,
    Tally,
    Warned,
)
from lmstudio_bridge.lmstudio.client import LLMClient, open_client
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.lmstudio.retry import RetryPolicy, Sleep
from lmstudio_bridge.lmstudio.tool_call_parsers import split_reasoning
from lmstudio_bridge.mcp_client.discovery import ServerCatalog, load_servers
from lmstudio_bridge.mcp_client.pool import PoolOptions, SessionPool, open_pool
from lmstudio_bridge.mcp_client.stdio import passed_variables
from lmstudio_bridge.messages import Access, JSONObject, Message, Notice, ServerConfig, SystemMessage, UserMessage
from lmstudio_bridge.runs.journal import Journal, JournalPruner, check_not_active, open_journal
from lmstudio_bridge.runs.preparation import (
    Permissions,
    Prepared,
    Preparer,
    check_room,
    read_permissions,
    time_to_begin,
)
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import ContinueRequest, RunRequest
from lmstudio_bridge.runs.resume import StoredRun, continuation, read_run, rebuild_conversation
from lmstudio_bridge.runs.server_selection import Needs, tools_room
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.access import Policy, is_fresh
from lmstudio_bridge.security.redact import RedactedStream, Redactor, holds_mark
from lmstudio_bridge.security.secrets import secrets_of_entry, secrets_of_environment
from lmstudio_bridge.settings import Settings


class Record:
    """Where a run's events go, without secrets: to the journal first, then to `emit`."""

    def __init__(self, journal: Journal, emit: Emit | None, *, redactor: Redactor) -> None:
        self.tally = Tally()
        self._journal = journal
        self._emit = emit
        self._redactor = redactor
        self._progress: dict[str, RedactedStream] = {}  # by call: a secret may come in pieces
        self._cut = False

    async def tell(self, event: Event) -> None:
        """Add an event up, and pass it on."""
        self.tally.add(event)
        await self.pass_on(event)

    async def pass_on(self, event: Event) -> None:
        """Pass on an event that somebody else adds up to the tally."""
        match event:
            case Generating():  # several a second, and without any text: for who waits only
                if self._emit:
                    await self._emit(event)
                return
            case CallProgress(call_id=call_id, text=text):
                stream = self._progress.setdefault(call_id, self._redactor.open_stream())
                event = replace(event, text=stream.feed(text))
            case CallFinished(call_id=call_id):
                self._progress.pop(call_id, None)
            case _:
                pass
        event = self._redactor.redact_fields(event)
        self._journal.keep(event)
        if self._emit:
            await self._emit(event)
        if self._journal.trouble and not self._cut:
            self._cut = True
            await self.tell(JournalCut(self._journal.trouble))


MAX_QUEUED = 100  # runs; a longer queue would keep its last one waiting for longer than anybody does


class RunQueue:
    """The queue of one process: so many runs at once, so many waiting, the rest refused."""

    def __init__(self, most: int, *, max_queued: int = MAX_QUEUED) -> None:
        self._most = most
        self._max_queued = max_queued
        self._queued = 0
        self._slots = anyio.Semaphore(most)  # first come, first served

    @asynccontextmanager
    async def slot(self, *, on_wait: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
        """A slot for as long as the block takes; `on_wait` is told once if none is free.

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
        running = f"{self._most} runs are" if self._most > 1 else "1 run is"
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


@dataclass(frozen=True, slots=True)
class NamedServers:
    """The servers to open, those that were meant and cannot be, and what the user should know about the files."""

    configs: list[ServerConfig]
    refused: list[DownstreamError]
    warnings: list[str]


def find_servers(catalog: ServerCatalog, names: tuple[str, ...] | None) -> NamedServers:
    """The servers of these names, or all that may be used.

    Raises:
        DownstreamError: None can be used.
    """
    configs: list[ServerConfig] = []
    refused: list[DownstreamError] = []
    for name in dict.fromkeys((*catalog.servers, *catalog.unapproved) if names is None else names):
        try:
            configs.append(catalog.require(name))
        except (ServerNotConfiguredError, ServerNotTrustedError) as exc:
            refused.append(exc)
    if not configs:
        raise _none_of(refused) if refused else _nothing_configured(catalog)
    about = [warning for config in configs for warning in catalog.server_warnings.get(config.name, ())]
    return NamedServers(configs, refused, [*catalog.warnings, *about])


def _none_of(refused: list[DownstreamError]) -> DownstreamError:
    if len(refused) == 1:
        return refused[0]
    reasons = listed([f"- {error.explain()}" for error in refused], between="\n")
    return DownstreamError(f"None of the MCP servers can be used:\n{reasons}", server=refused[0].server)


def _nothing_configured(catalog: ServerCatalog) -> ServerNotConfiguredError:
    looked = ", ".join(map(str, catalog.paths)) or f".mcp.json in {catalog.project} and above it"
    skipped = listed(["", *(f"{name} was skipped: {reason}" for name, reason in catalog.skipped.items())], between=" ")
    return ServerNotConfiguredError(
        f"There is no MCP server to work with. Looked in: {looked}.{skipped}",
        server="",
        remedy="Add one in Claude Code, for example: claude mcp add filesystem -- npx -y "
        "@modelcontextprotocol/server-filesystem . (a server in the project's .mcp.json must be approved there first), "
        "or name a file with LMSTUDIO_BRIDGE_MCP_CONFIG.",
    )


AUTO_MAX_TOKENS = 8_192  # tokens of one reply, where the context allows
_AUTO_SHARE = 4  # one reply may take a quarter of the context


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is about to be done: `added` are the messages that go to the conversation first."""

    start: RunStarted | RunContinued
    servers: NamedServers
    model: str | None
    conversation: Conversation
    added: tuple[Message, ...]
    needs: Needs


@asynccontextmanager
async def open_agent(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    redactor: Redactor | None = None,
    sleep: Sleep = asyncio.sleep,
    make_delimiter: Callable[[], Delimiter] = new_delimiter,
) -> AsyncIterator[DynamicAutonomousAgent]:
    """An agent with its HTTP client and its pool of MCP servers; leaving closes both.

    `redactor` learns the secrets of all that the agent uses. `sleep` makes the pauses before a request is sent
    again, `make_delimiter` what stands around results in one run.
    """
    async with (
        open_client(
            settings.root_url,
            api_token=settings.api_token.get_secret_value() if settings.api_token else None,
            ca_file=settings.ca_file,
            default_model=settings.default_model,
            timeouts=Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.between_bytes_timeout),
            retry_policy=RetryPolicy(attempts=settings.retry_attempts),
            model_ttl=settings.model_ttl,
            sleep=sleep,
        ) as client,
        open_pool(
            PoolOptions(
                project=settings.project,
                environ=environ,
                start_timeout=settings.server_start_timeout,
                call_timeout=settings.tool_timeout,
                idle_limit=settings.server_idle,
                max_servers=settings.max_servers,
                pass_env=settings.pass_env,
                is_fresh=partial(is_fresh, named=settings.fresh),
            )
        ) as pool,
    ):
        yield DynamicAutonomousAgent(
            client,
            pool,
            settings=settings,
            environ=environ,
            redactor=redactor or Redactor(),
            make_delimiter=make_delimiter,
        )


class DynamicAutonomousAgent:
    """Works on tasks with a local model and the tools of the user's MCP servers.

    One agent serves many runs at once; they share its client and its servers and nothing else.
    """

    def __init__(
        self,
        client: LLMClient,
        pool: SessionPool,
        *,
        settings: Settings,
        environ: Mapping[str, str],
        redactor: Redactor,
        make_delimiter: Callable[[], Delimiter] = new_delimiter,
    ) -> None:
        self.client = client
        self.pool = pool
        self.redactor = redactor
        self._queue = RunQueue(settings.max_runs)
        self.settings = settings
        self._environ = environ
        secrets = self._secrets()
        redactor.learn(secrets)
        self.tool_cache = ToolCache(settings.home / "catalogues", values=secrets)
        self._preparer = Preparer(client, pool, settings=settings, tool_cache=self.tool_cache, redactor=redactor)
        self._pruner = JournalPruner(
            self.runs_folder, max_age=settings.journal_days * 86_400, max_bytes=settings.journal_mb * 1_000_000
        )
        self._new_delimiter = make_delimiter

    def configured_servers(self) -> ServerCatalog:
        """The MCP servers as the files name them right now.

        Raises:
            McpConfigError: A file cannot be used.
        """
        catalog = load_servers(
            explicit=self.settings.mcp_config,
            project=self.settings.project,
            environ=self._environ,
            trusted=self.settings.trust,
        )
        for config in (*catalog.servers.values(), *catalog.unapproved.values()):
            self.redactor.learn(
                secrets_of_entry(env=config.env, headers=config.headers, url=config.url, arguments=config.args)
            )
        return catalog

    def permissions(self, configs: Iterable[ServerConfig], *, access: Access = "read") -> Permissions:
        """What a run with these servers may do, as the rule files stand right now.

        Raises:
            SettingsError: A rule file cannot be used.
        """
        return read_permissions(configs, project=self.settings.project, environ=self._environ, policy=Policy(access))

    async def run(self, request: RunRequest | ContinueRequest, *, emit: Emit | None = None) -> RunReport:
        """Do a new task, or continue an earlier run; `emit` is told what happens.

        A finished run that is continued without instructions gives its answer again.

        Raises:
            RunNotFoundError: There is no run to continue.
            RunActiveError: The run to continue is still in progress.
            BridgeError: The run could not start: no such server or model, nothing to work with.
        """
        with self._redacted_errors():
            self._check_access(request.access)
            match request:
                case RunRequest():
                    plan = self._plan_new_run(request)
                case ContinueRequest():
                    stored = self._find_run(request.run_id)
                    answered = stored.finished and stored.outcome.stop == "answered"
                    if answered and not request.instructions and (stored.outcome.answer or not stored.cut):
                        return RunReport(stored.run_id, stored.outcome, stored.servers)
                    plan = self._plan_continuation(stored, request)
                case _:
                    assert_never(request)
            return await self._work(plan, request, emit)

    def _plan_new_run(self, request: RunRequest) -> _Plan:
        servers = self._select(request.servers)
        names = tuple(config.name for config in servers.configs)
        return _Plan(
            RunStarted(
                new_run_id(datetime.now(UTC)), request.task, names, request.max_rounds, _timestamp(), request.access
            ),
            servers,
            request.model,
            Conversation(()),
            self._opening(request.task),
            Needs(request.task, chooses=request.servers is None),
        )

    def _find_run(self, run_id: str) -> StoredRun:
        if self.settings.journal == "off":
            raise RunNotFoundError(
                "No run can be continued: LMSTUDIO_BRIDGE_JOURNAL is off.",
                remedy="Start the task anew, or let the user turn journals on (full) for the bridge.",
            )
        stored = read_run(self.runs_folder, run_id)
        check_not_active(self.runs_folder, run_id)
        return stored

    def _plan_continuation(self, stored: StoredRun, request: ContinueRequest) -> _Plan:
        conversation = Conversation(map(self.redactor.redact_fields, rebuild_conversation(stored).messages))
        if conversation.messages:
            added = continuation(stored, conversation, instructions=request.instructions)
        else:  # the run ended while its servers started: its task is all that there is
            added = self._opening("\n\n".join(part for part in (stored.task, request.instructions) if part))
        servers = self._select(stored.servers)
        names = tuple(config.name for config in servers.configs)
        return _Plan(
            RunContinued(stored.run_id, request.instructions, names, request.max_rounds, _timestamp(), request.access),
            servers,
            request.model or stored.outcome.model or None,
            conversation,
            added,
            Needs(
                f"{stored.task}\n{request.instructions}",
                chooses=any(isinstance(event, ServersChosen) for event in stored.events),
                used=frozenset(event.server for event in stored.events if isinstance(event, ServerReady)),
            ),
        )

    @property
    def runs_folder(self) -> Path:
        """Where the journals of runs are."""
        return self.settings.home / "runs"

    async def _work(self, plan: _Plan, request: RunRequest | ContinueRequest, emit: Emit | None) -> RunReport:
        """Carry out a plan, with its journal open."""
        if request.output_schema is not None:
            _check_output_schema(request.output_schema)
        started_at = time.monotonic()
        run_id = plan.start.run_id
        redactor = self.redactor
        permissions = self.permissions(plan.servers.configs, access=request.access)
        if self.settings.journal != "off":
            await self._pruner.prune()
        async with AsyncExitStack() as held:
            journal = held.enter_context(open_journal(self.runs_folder, run_id, keep=self.settings.journal))
            record = Record(journal, emit, redactor=redactor)
            tell, tally = record.tell, record.tally

            async def notice_wait(words: str) -> None:
                await tell(Noticed(Notice("queue", words)))

            await tell(plan.start)
            try:
                for error in plan.servers.refused:
                    await tell(ServerFailed(error.server, error.explain()))
                for warning in (*plan.servers.warnings, *permissions.warnings):
                    await tell(Warned(warning))
                seconds = min(request.seconds or self.settings.run_timeout, self.settings.run_timeout)
                async with time_to_begin(seconds):
                    await held.enter_async_context(self._queue.slot(on_wait=notice_wait))
                    prepared = await self._preparer.prepare(
                        plan.servers.configs,
                        plan.model,
                        tell,
                        held,
                        offers=permissions.policy.offers,
                        needs=plan.needs,
                    )
                await check_room(prepared, plan.added, tell, tool_chars=_tool_chars(prepared))
            except BaseException as exc:  # the journal must have its end; the error goes on
                cancelled = isinstance(exc, asyncio.CancelledError)
                error_text = exc.explain() if isinstance(exc, BridgeError) else str(exc)
                await finish_run(
                    tell,
                    tally,
                    stop="cancelled" if cancelled else "failed",
                    error="The run was cancelled." if cancelled else error_text,
                    seconds=time.monotonic() - started_at,
                )
                raise
            added = tuple(redactor.redact_fields(message) for message in plan.added)
            if added != plan.added:
                await tell(Warned("The task holds a secret; the model was given a placeholder in its place."))
            for message in added:
                plan.conversation.add(message)
                await tell(MessageAdded(message))
            outcome = await run(
                plan.conversation,
                model=prepared.model,
                tools=prepared.tools,
                tool_set=prepared.tool_set,
                policy=permissions.policy,
                limits=self._limits(request, prepared, seconds=seconds - (time.monotonic() - started_at)),
                emit=record.pass_on,
                options=RunOptions(
                    strategy=prepared.strategy,
                    output_schema=request.output_schema,
                    unstarted=prepared.servers.unstarted(),
                    filters=TextFilters(redactor.redact, holds_mark, split_reasoning, self._new_delimiter()),
                    started_at=started_at,
                ),
                tally=tally,
            )
        return RunReport(
            run_id, redactor.redact_fields(outcome), prepared.servers.names, kept=self.settings.journal == "full"
        )

    def _select(self, names: tuple[str, ...] | None) -> NamedServers:
        """The servers of these names, or all that may be used.

        Raises:
            NestedBridgeError: We were started by a bridge, as one of its servers.
            DownstreamError: None can be used.
        """
        if self.settings.depth:
            raise NestedBridgeError(
                "This bridge was started by another bridge, as one of its MCP servers, and takes no tasks.",
                remedy="Take it out of the MCP servers that the bridge may use, or disable it there.",
            )
        return find_servers(self.configured_servers(), names)

    def _check_access(self, wanted: Access) -> None:
        """Look whether a run may have that access.

        Raises:
            BridgeError: It is more than the settings allow.
        """
        if wanted == "write" and self.settings.max_access == "read":
            raise BridgeError(
                "access=write is not allowed here: LMSTUDIO_BRIDGE_MAX_ACCESS is read.",
                remedy="Ask with access=read, or let the user set LMSTUDIO_BRIDGE_MAX_ACCESS=write for the bridge.",
            )

    def _opening(self, task: str) -> tuple[Message, ...]:
        prompt = system_prompt(today=datetime.now().astimezone().date(), folder=Path(self.settings.project))
        return SystemMessage(prompt), UserMessage(task)

    def _limits(self, request: RunRequest | ContinueRequest, prepared: Prepared, *, seconds: float) -> Limits:
        context = prepared.model.choice.context_length
        careful = 0.0 if prepared.strategy.calls == "grammar" else None  # None: as the user set it in LM Studio
        auto = AUTO_MAX_TOKENS if context is None else min(AUTO_MAX_TOKENS, context // _AUTO_SHARE)
        return Limits(
            max_rounds=request.max_rounds,
            seconds=max(0.1, seconds),
            result_chars=result_limit(context),
            max_tokens=request.max_tokens or auto,
            tool_chars=_tool_chars(prepared),
            context_length=context,
            vision=bool(prepared.model.choice.info.vision),
            temperature=careful if self.settings.temperature is None else self.settings.temperature,
        )

    def _secrets(self) -> list[str]:
        """What is secret whatever servers there are: LM Studio's token, and what is passed on to servers."""
        token = self.settings.api_token
        found = [token.get_secret_value()] if token else []
        return [*found, *secrets_of_environment(passed_variables(self._environ, self.settings.pass_env))]

    @contextmanager
    def _redacted_errors(self) -> Iterator[None]:
        try:
            yield
        except BridgeError as exc:
            self.redactor.redact_error(exc)
            raise


def _check_output_schema(schema: JSONObject) -> None:
    """Raises `BridgeError` if the schema cannot be used."""
    # Imported here because jsonschema takes a tenth of the time in which the bridge starts.
    from lmstudio_bridge.agent.structured_output import OutputSchema

    try:
        OutputSchema(schema)
    except ValueError as exc:
        raise BridgeError(f"The output_schema cannot be used: {exc}.", remedy="Give a JSON Schema, or none.") from exc


def _tool_chars(prepared: Prepared) -> int | None:
    context = prepared.model.choice.context_length
    return None if context is None else tools_room(context)


def _timestamp() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def new_run_id(now: datetime) -> str:
    """A name for a run that sorts by time and is easy to copy."""
    tail = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))
    return f"{now:%Y%m%d-%H%M%S}-{tail}"
