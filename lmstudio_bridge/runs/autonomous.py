"""DynamicAutonomousAgent: one delegated task from start to end, RunRequest → RunReport."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import string
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from lmstudio_bridge import errors, events
from lmstudio_bridge.agent.conversation import Conversation, result_limit
from lmstudio_bridge.agent.loop import finish_run, run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.prompts import COMBINE_SYSTEM, WRITING_LEFT_OUT, own_words, system_prompt
from lmstudio_bridge.agent.untrusted import Delimiter, TextFilters, new_delimiter
from lmstudio_bridge.files import make_private
from lmstudio_bridge.intent import asks_for_change
from lmstudio_bridge.lmstudio.client import LLMClient, open_client
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.lmstudio.queue import DEFAULT_PARALLEL
from lmstudio_bridge.lmstudio.retry import RetryPolicy, Sleep
from lmstudio_bridge.lmstudio.session import slot_count
from lmstudio_bridge.lmstudio.tool_call_parsers import split_reasoning
from lmstudio_bridge.mcp_client.discovery import ServerCatalog, servers_of_settings
from lmstudio_bridge.mcp_client.failures import NOT_INSTALLED
from lmstudio_bridge.mcp_client.launch import passed_variables, warn_of_withheld
from lmstudio_bridge.mcp_client.logins import LoginStore
from lmstudio_bridge.mcp_client.oauth import open_login
from lmstudio_bridge.mcp_client.pool import PoolOptions, SessionPool, open_pool
from lmstudio_bridge.messages import (
    Access,
    Approver,
    JSONObject,
    Message,
    Notice,
    ServerConfig,
    SystemMessage,
    UserMessage,
)
from lmstudio_bridge.runs import resume
from lmstudio_bridge.runs.agent_files import AgentFile, find_agent
from lmstudio_bridge.runs.changes import MAX_IN_MEMORY, ChangeRecorder, Copies, lost_changes
from lmstudio_bridge.runs.combine import Combiner
from lmstudio_bridge.runs.for_each import ItemRunner, run_items
from lmstudio_bridge.runs.items import resolve_items
from lmstudio_bridge.runs.items_report import ItemsReport
from lmstudio_bridge.runs.journal import Journal, JournalPruner, check_not_active, copies_folder, open_journal
from lmstudio_bridge.runs.preparation import Plan, Prepared, Preparer
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import DEFAULT_ITEM_ROUNDS, DEFAULT_MAX_ROUNDS, ContinueRequest, ItemRun, RunRequest
from lmstudio_bridge.runs.server_selection import NamedServers, Needs, find_servers, instructions_room
from lmstudio_bridge.runs.telemetry import Telemetry, open_telemetry
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.permissions import Permissions, named_folders, read_permissions
from lmstudio_bridge.security.presets import is_fresh
from lmstudio_bridge.security.protected import Seen, look_at_protected, warn_of_changed
from lmstudio_bridge.security.redact import RedactedStream, Redactor, holds_mark
from lmstudio_bridge.security.sandbox import hint_for
from lmstudio_bridge.security.secrets import secrets_of_entry, secrets_of_environment
from lmstudio_bridge.security.workspace import Workspace
from lmstudio_bridge.settings import Settings

AUTO_MAX_TOKENS = 8_192  # tokens of one reply, where the context allows
_NO_INSTRUCTIONS = "The instructions were not used: a run over many items only does those that are missing or failed."
_AUTO_SHARE = 4  # one reply may take a quarter of the context


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

    `redactor` learns the secrets of everything that the agent uses. `sleep` waits before a request is sent again,
    `make_delimiter` makes the delimiter of one run.
    """
    make_private(settings.home)
    redactor = redactor or Redactor()
    logins = LoginStore(settings.home / "logins", learn=redactor.learn)
    async with (
        open_telemetry(environ) as telemetry,
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
                open_login=partial(open_login, logins),
            )
        ) as pool,
    ):
        yield DynamicAutonomousAgent(
            client,
            pool,
            settings=settings,
            environ=environ,
            redactor=redactor,
            logins=logins,
            make_delimiter=make_delimiter,
            telemetry=telemetry,
        )


class DynamicAutonomousAgent:
    """Works on tasks with a local model and the tools of the user's MCP servers.

    One agent serves many runs at once; they share its client and its servers, and nothing else.
    """

    def __init__(
        self,
        client: LLMClient,
        pool: SessionPool,
        *,
        settings: Settings,
        environ: Mapping[str, str],
        redactor: Redactor,
        logins: LoginStore,
        make_delimiter: Callable[[], Delimiter] = new_delimiter,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.client = client
        self.pool = pool
        self.redactor = redactor
        self.logins = logins
        self.settings = settings
        self._environ = environ
        values = configured_secrets(settings, environ)
        redactor.own_words = own_words()
        redactor.learn(values)
        self.tool_cache = ToolCache(settings.home / "catalogues", values=values, tokens=logins.told)
        self._preparer = Preparer(client, pool, settings=settings, tool_cache=self.tool_cache, redactor=redactor)
        self._pruner = JournalPruner(
            self.runs_folder, max_age=settings.journal_days * 86_400, max_bytes=settings.journal_mb * 1_000_000
        )
        self._make_delimiter = make_delimiter
        self._telemetry = telemetry
        self._is_first = True  # run of this process; one that fails before its model does not count

    @property
    def runs_folder(self) -> Path:
        """The folder of the journals."""
        return self.settings.home / "runs"

    def configured_servers(self) -> ServerCatalog:
        """The MCP servers as the configuration files name them now.

        Raises:
            McpConfigError: A file cannot be used.
        """
        return read_servers(self.settings, environ=self._environ, redactor=self.redactor)

    def permissions(
        self,
        configs: Iterable[ServerConfig],
        *,
        access: Access = "read",
        limit: tuple[str, ...] = (),
        asks: bool = False,
    ) -> Permissions:
        """What a run with these servers may do, by the rule files as they are now, with no tools beyond the limit.

        `asks`: the person can approve more while it runs.

        Raises:
            SettingsError: A rule file cannot be used.
        """
        policy = Policy(access, max_access=self.settings.max_access, limit=limit, asks=asks)
        return read_permissions(configs, project=self.settings.project, environ=self._environ, policy=policy)

    async def run(
        self,
        request: RunRequest | ContinueRequest,
        *,
        emit: events.Emit | None = None,
        item: ItemRun | None = None,
        approver: Approver | None = None,
    ) -> RunReport:
        """Do a new task, or continue an earlier run; `emit` gets the events.

        `approver` can allow calls that need write access, where the settings do. If the task asks for a change, the
        model is then offered all tools.

        A run that has been answered and is continued without instructions returns its answer again. `item` is for the
        runs that a run over many items consists of.

        Raises:
            RunNotFoundError: There is no run to continue.
            RunActiveError: The run to continue is still in progress.
            BridgeError: The run could not start: for example, no such server or model.
        """
        if self._telemetry:
            emit = self._telemetry.watch(emit)
        with self._redacted_errors():
            self._check_request(request)
            if isinstance(request, RunRequest) and request.for_each is not None:
                return await self._run_over_items(request, None, emit)
            if isinstance(request, ContinueRequest):
                stored = self._find_run(request.run_id)
                if stored.items:
                    resume.check_whole(stored)
                    _check_can_go_on(stored.run_id, stored.items, request)
                    if not stored.items.is_done:
                        return await self._run_over_items(request, stored, emit)
                    return ItemsReport(stored.run_id, stored.outcome, stored.servers, items=stored.items)
                answered = stored.finished and stored.outcome.stop == "answered"
                if answered and not request.instructions and (stored.outcome.answer or not stored.cut):
                    return RunReport(stored.run_id, stored.outcome, stored.servers)
                plan = self._plan_continuation(stored, request)
            else:
                plan = self._plan_new_run(request, item)
            if item:
                plan = replace(plan, needs=replace(plan.needs, task=item.tools_for))
            started_at = time.monotonic()
            seconds = min(request.seconds or self.settings.run_timeout, self.settings.run_timeout)
            wants_change = _wants_change(plan.start, item)
            if request.access == "write" or self.settings.max_access == "read":
                approver = None
            permissions = self.permissions(
                plan.servers.configs,
                access=request.access,
                limit=plan.limit,
                asks=wants_change and approver is not None,
            )
            if self.settings.journal != "off":
                await self._pruner.prune()
            async with AsyncExitStack() as held:
                journal = open_journal(self.runs_folder, plan.start.run_id, keep=self.settings.journal)
                recorder = RunRecorder(held.enter_context(journal), emit, plan.earlier, redactor=self.redactor)
                recorder.on_first_call = {
                    config.name: warn_of_withheld(config, self._environ, passed=self.settings.pass_env)
                    for config in plan.servers.configs
                }
                written = permissions.sandboxes.find_written()
                if request.access == "write" or approver is not None or written:
                    await recorder.watch_protected(permissions.policy.workspace, but=written)
                async with _failure_recorded(recorder, started_at):
                    await recorder.tell(replace(plan.start, is_first=self._is_first))
                    for error in plan.servers.refused:
                        await recorder.tell(events.ServerFailed(error.server, error.explain()))
                    for warning in (*plan.servers.warnings, *permissions.warnings):
                        await recorder.tell(events.Warned(warning))
                    prepared = await self._preparer.prepare(
                        plan, permissions=permissions, seconds=seconds, tell=recorder.tell, held=held
                    )
                    self._is_first = False
                recorder.on_failed_call = {
                    config.name: f"A call of {config.name} failed. {hint_for(config, sandbox)}"
                    for config in plan.servers.configs
                    if (sandbox := permissions.sandboxes.find(config)) is not None
                }
                policy, tools = permissions.policy, prepared.tool_set.tools
                unasked = replace(policy, asks=False)
                lacks_tools = any(policy.writes(each.source) and not unasked.may_run(each.source) for each in tools)
                if wants_change and lacks_tools:
                    await recorder.tell(events.Warned(events.READ_ONLY))
                may_change = any(policy.writes(tool.source) and policy.may_run(tool.source) for tool in tools)
                note = WRITING_LEFT_OUT if lacks_tools and not may_change else ""
                await self._add_messages(plan, prepared, recorder, note=note)
                watch = self._watch(plan, permissions)
                try:
                    outcome = await run(
                        plan.conversation,
                        model=prepared.model,
                        tools=prepared.tools,
                        tool_set=prepared.tool_set,
                        policy=permissions.policy,
                        limits=self._limits(request, prepared, seconds=seconds - (time.monotonic() - started_at)),
                        emit=recorder.pass_on,
                        options=RunOptions(
                            strategy=prepared.strategy,
                            output_schema=request.output_schema,
                            unstarted=prepared.servers.unstarted(
                                room=instructions_room(prepared.model.choice.context_length)
                            ),
                            filters=TextFilters(
                                self.redactor.redact,
                                holds_mark,
                                split_reasoning,
                                (item and item.delimiter) or self._make_delimiter(),
                            ),
                            started_at=started_at,
                            watch=watch,
                            approver=approver,
                            tools_for=item.tools_for if item else "",
                            read_first=item.file if item and isinstance(request, RunRequest) else "",
                            earlier_calls=resume.worked_calls(plan.earlier),
                        ),
                        tally=recorder.tally,
                    )
                finally:
                    if recorder.is_whole:  # also if it was cancelled
                        watch.forget()
        return RunReport(
            plan.start.run_id,
            self.redactor.redact_fields(outcome),
            prepared.servers.names,
            kept=self.settings.journal == "full",
            can_undo=self.settings.journal == "full" and recorder.is_whole,
        )

    def _watch(self, plan: Plan, permissions: Permissions) -> ChangeRecorder:
        """What sees the changes of a run. Without a full journal, copies of files do not outlast it."""
        if self.settings.journal == "full":
            copies = Copies(copies_folder(self.runs_folder, plan.start.run_id))
        else:
            copies = Copies(None, max_bytes=MAX_IN_MEMORY)
        goes_on = bool(plan.earlier) and lost_changes(plan.earlier)
        return ChangeRecorder(
            permissions.policy,
            copies=copies,
            redact=self.redactor.redact,
            goes_on=goes_on,
            environ=self._environ,
            untrusted=permissions.sandboxes.untrusted,
            bases={each.name: named_folders(each, permissions.sandboxes.around) for each in plan.servers.configs},
        )

    @contextmanager
    def _redacted_errors(self) -> Iterator[None]:
        try:
            yield
        except errors.BridgeError as exc:
            self.redactor.redact_error(exc)
            raise

    def _check_request(self, request: RunRequest | ContinueRequest) -> None:
        """Raises BridgeError if its access is not allowed, a schema cannot be used, or there is nothing to merge."""
        if request.access == "write" and self.settings.max_access == "read":
            raise errors.BridgeError(
                "Write access is not allowed here: LMSTUDIO_BRIDGE_MAX_ACCESS is read.",
                remedy="Only read, or let the user set LMSTUDIO_BRIDGE_MAX_ACCESS=write for the bridge.",
            )
        new = request if isinstance(request, RunRequest) else None
        for schema in (request.output_schema, new.combine_schema if new else None):
            if schema is not None:
                _check_output_schema(schema)
        if new and ((new.combine and new.for_each is None) or (new.combine_schema and not new.combine)):
            raise errors.BridgeError(
                "combine is for the answers of for_each, and combine_schema for what combine asks for.",
                remedy="Give combine only with for_each, and combine_schema only with combine.",
            )

    async def _run_over_items(
        self, request: RunRequest | ContinueRequest, stored: resume.StoredRun | None, emit: events.Emit | None
    ) -> ItemsReport:
        """A run of its own for each item, or for those that are missing or failed in the stored run."""
        if isinstance(request, ContinueRequest):
            assert stored is not None
            first, task, earlier = _start_of(stored), stored.task, stored.events
            rounds = request.max_rounds or first.max_rounds
            start: events.RunStarted | events.RunContinued = events.RunContinued(
                stored.run_id, "", first.servers, rounds, _timestamp(), request.access
            )
            begin: list[events.Event] = [events.Warned(_NO_INSTRUCTIONS)] if request.instructions else []
        else:
            first, listed = await self._list_items(request)
            start, begin, task, earlier = first, [listed], request.task, ()
        told: set[object] = set()
        is_kept = self.settings.journal == "full"
        started_at = time.monotonic()

        async def do_run(request: RunRequest | ContinueRequest, item: ItemRun) -> RunReport:
            return await self.run(request, emit=emit_of_item, item=item)

        async def emit_of_item(event: events.Event) -> None:
            match event:
                case (
                    events.Warned() | events.ServerFailed()
                ):  # most items have the same, but for times and names of logs
                    same = event if isinstance(event, events.Warned) else (event.server, _DIGITS.sub("", event.reason))
                    if same not in told:
                        told.add(same)
                        await recorder.tell(event)
                case events.Noticed(notice=Notice(kind="loading")) if emit:
                    await emit(event)
                case _:
                    pass

        async def find_obstacle(outcome: events.Outcome) -> str:
            if NOT_INSTALLED in outcome.error:
                return outcome.error
            try:
                await self.client.validator.catalog(refresh=True)
            except (errors.LLMConnectionError, errors.LLMTimeoutError) as exc:
                return exc.explain()
            except errors.LLMError:
                pass
            return ""

        async def at_once() -> int:
            if start.access == "write" or runner.servers is None:
                return 1
            try:
                choice = await self.client.validator.resolve(runner.model)
            except errors.LLMError:
                return 1
            return min(slot_count(choice, self.settings.parallel) or DEFAULT_PARALLEL, self.settings.run_limit)

        async def context_length() -> int:
            with suppress(errors.LLMError):
                choice = await self.client.validator.resolve(runner.model)
                return choice.context_length or self.settings.context_length
            return self.settings.context_length

        if self.settings.journal != "off":
            await self._pruner.prune()
        with open_journal(self.runs_folder, start.run_id, keep=self.settings.journal) as journal:
            recorder = RunRecorder(journal, emit, earlier, redactor=self.redactor)
            async with _failure_recorded(recorder, started_at):
                for event in (replace(start, is_first=self._is_first), *begin):
                    await recorder.tell(event)
                results = recorder.tally.items
                assert results is not None
                await self.client.validator.resolve(request.model or results.listed.model or None)
                self._is_first = False
                runner = ItemRunner(
                    do_run,
                    start=start,
                    task=task,
                    listed=replace(results.listed, max_tokens=request.max_tokens or results.listed.max_tokens),
                    model=request.model,
                    first=first,
                    folder=self.runs_folder if is_kept else None,
                    project=Path(self.settings.project),
                )
                stop, error = await run_items(
                    results,
                    run_item=runner.run,
                    at_once=at_once,
                    seconds=request.seconds,
                    retry=is_kept or start.access == "read",
                    tell=recorder.tell,
                    find_obstacle=find_obstacle,
                )
                answer = ""
                if not error and results.listed.combine:
                    left = request.seconds and request.seconds - (time.monotonic() - started_at)
                    combiner = Combiner(do_run, results=results, start=start, model=runner.model, folder=runner.folder)
                    room = await context_length()
                    answer, error = await combiner.combine(room, at_once=at_once, seconds=left, tell=recorder.tell)
                    stop = "partial" if error else stop
            finished = events.RunFinished(stop, answer, error, time.monotonic() - started_at)
            outcome = await finish_run(recorder.tell, recorder.tally, finished)
        return ItemsReport(
            start.run_id,
            self.redactor.redact_fields(outcome),
            runner.servers or start.servers,
            kept=is_kept,
            can_undo=runner.can_undo,
            items=replace(results, listed=self.redactor.redact_fields(results.listed)),
        )

    async def _list_items(self, request: RunRequest) -> tuple[events.RunStarted, events.ItemsListed]:
        given = request.for_each or ()
        items = await asyncio.to_thread(resolve_items, given, folder=Path(self.settings.project))
        agent = self._find_agent(request.agent)
        servers = self._find_servers(request.servers).within(agent)
        return (
            self._started(request, servers, agent, rounds=DEFAULT_ITEM_ROUNDS),
            events.ItemsListed(
                items,
                given if isinstance(given, str) else "",
                request.servers or (),
                request.model or "",
                request.max_tokens,
                json.dumps(request.output_schema) if request.output_schema else "",
                request.combine or "",
                json.dumps(request.combine_schema) if request.combine_schema else "",
            ),
        )

    def _plan_new_run(self, request: RunRequest, item: ItemRun | None) -> Plan:
        agent = self._find_agent(request.agent)
        if item and item.delimiter:  # it merges answers
            servers = NamedServers([], [], [])
            first: tuple[Message, ...] = SystemMessage(COMBINE_SYSTEM), UserMessage(request.task)
        else:
            servers = self._find_servers(request.servers).within(agent)
            first = self._first_messages(request.task, agent)
        start = self._started(request, servers, agent, rounds=DEFAULT_MAX_ROUNDS, item=item)
        needs = Needs(request.task, chooses=request.servers is None)
        return Plan(start, servers, request.model, Conversation(()), first, needs, limit=start.limit)

    def _started(
        self,
        request: RunRequest,
        servers: NamedServers,
        agent: AgentFile | None,
        *,
        rounds: int,
        item: ItemRun | None = None,
    ) -> events.RunStarted:
        """The start of a new run, which has so many `rounds` where the request does not say."""
        return events.RunStarted(
            item.run_id if item else new_run_id(datetime.now(UTC)),
            request.task,
            servers.names,
            request.max_rounds or rounds,
            _timestamp(),
            request.access,
            str(self.settings.project),
            item.template if item else "",
            agent=agent.name if agent else "",
            limit=(item.limit if item else ()) or (agent.tools if agent else ()),
        )

    def _find_agent(self, name: str | None) -> AgentFile | None:
        return find_agent(name, project=self.settings.project, environ=self._environ) if name else None

    def _find_run(self, run_id: str) -> resume.StoredRun:
        if self.settings.journal == "off":
            raise errors.RunNotFoundError(
                "No run can be continued: LMSTUDIO_BRIDGE_JOURNAL is off.",
                remedy="Start the task again, or let the user turn journals on (full) for the bridge.",
            )
        run_id = run_id.strip()
        if run_id.casefold() == resume.LAST:
            stored = resume.find_last_run(self.runs_folder, project=str(self.settings.project))
        else:
            stored = resume.read_run(self.runs_folder, resume.full_run_id(self.runs_folder, run_id))
        check_not_active(self.runs_folder, stored.run_id)
        return stored

    def _plan_continuation(self, stored: resume.StoredRun, request: ContinueRequest) -> Plan:
        conversation = Conversation(map(self.redactor.redact_fields, resume.rebuild_conversation(stored).messages))
        if conversation.messages:
            added = resume.continuation(stored, conversation, instructions=request.instructions)
        else:  # the run ended while its servers started, before the first message
            task = "\n\n".join(part for part in (stored.task, request.instructions) if part)
            added = self._first_messages(task, self._find_agent(_start_of(stored).agent))
        servers = self._find_servers(stored.servers)
        return Plan(
            events.RunContinued(
                stored.run_id,
                request.instructions,
                servers.names,
                request.max_rounds or DEFAULT_MAX_ROUNDS,
                _timestamp(),
                request.access,
            ),
            servers,
            request.model or stored.outcome.model or None,
            conversation,
            added,
            Needs(
                f"{stored.task}\n{request.instructions}",
                chooses=any(isinstance(event, events.ServersChosen) for event in stored.events),
                used=frozenset(event.server for event in stored.events if isinstance(event, events.ServerReady)),
            ),
            stored.events,
            _start_of(stored).limit,
        )

    def _find_servers(self, names: tuple[str, ...] | None) -> NamedServers:
        """The servers with these names, or all that may be used.

        Raises:
            NestedBridgeError: Another bridge started this one as one of its servers.
            DownstreamError: None of them can be used.
        """
        if self.settings.depth:
            raise errors.NestedBridgeError(
                "This bridge was started by another bridge, as one of its MCP servers, and takes no tasks.",
                remedy="Remove it from the MCP servers that the bridge may use, or disable it there.",
            )
        return find_servers(self.configured_servers(), names)

    def _first_messages(self, task: str, agent: AgentFile | None) -> tuple[Message, ...]:
        prompt = system_prompt(today=datetime.now().astimezone().date(), folder=Path(self.settings.project))
        return SystemMessage(f"{prompt}\n{agent.instructions}" if agent else prompt), UserMessage(task)

    async def _add_messages(self, plan: Plan, prepared: Prepared, recorder: RunRecorder, *, note: str) -> None:
        """Add the first messages to the conversation, without secrets; to the system's, the `note` and the servers'."""
        added = tuple(self.redactor.redact_fields(message) for message in plan.added)
        if added != plan.added:
            await recorder.tell(events.Warned("The task contains a secret; the model got a placeholder instead."))
        servers_notes = prepared.servers.notes(room=instructions_room(prepared.model.choice.context_length))
        notes = "\n".join(filter(None, (note, servers_notes)))
        for message in added:
            if notes and isinstance(message, SystemMessage):
                message = SystemMessage(f"{message.text}\n{notes}")
            plan.conversation.add(message)
            await recorder.tell(events.MessageAdded(message))

    def _limits(self, request: RunRequest | ContinueRequest, prepared: Prepared, *, seconds: float) -> Limits:
        context = prepared.model.choice.context_length
        temperature = 0.0 if prepared.strategy.calls == "grammar" else None  # None: as the user set it in LM Studio
        auto = AUTO_MAX_TOKENS if context is None else min(AUTO_MAX_TOKENS, context // _AUTO_SHARE)
        return Limits(
            max_rounds=request.max_rounds or DEFAULT_MAX_ROUNDS,
            seconds=max(0.1, seconds),
            result_chars=result_limit(context),
            max_tokens=request.max_tokens or auto,
            tool_chars=prepared.tool_chars,
            context_length=context,
            vision=bool(prepared.model.choice.info.vision),
            temperature=temperature if self.settings.temperature is None else self.settings.temperature,
        )


_DIGITS = re.compile(r"\d+")
_COUNT = re.compile(r"[-+.\deinfa]+(?:/[-+.\deinfa]+)?(?: |\Z)")  # as `read_progress` writes it: 1e+06, inf, nan


class RunRecorder:
    """Takes the secrets out of a run's events, writes them to the journal, and passes them on to `emit`.

    `earlier` are the events of a run that goes on. `on_first_call` are warnings about servers, which are told if the
    run uses them; `on_failed_call` if a call fails.
    """

    def __init__(
        self, journal: Journal, emit: events.Emit | None, earlier: Iterable[events.Event] = (), *, redactor: Redactor
    ) -> None:
        self.tally = events.Tally(earlier)
        self.on_first_call: dict[str, str] = {}
        self.on_failed_call: dict[str, str] = {}
        self._journal = journal
        self._emit = emit
        self._redactor = redactor
        self._progress: dict[str, RedactedStream] = {}  # by call: a secret may arrive in pieces
        self._cut = False
        self._workspace = Workspace(())
        self._unwatched: Collection[Path] = ()
        self._protected: Seen = {}

    async def watch_protected(self, workspace: Workspace, *, but: Collection[Path] = ()) -> None:
        """Tell at the end which protected files are not as they are now, without those that `but` names."""
        self._workspace, self._unwatched = workspace, but
        self._protected = await asyncio.to_thread(look_at_protected, workspace, but=but)

    @property
    def is_whole(self) -> bool:
        """Whether the journal has all that was told."""
        return not self._journal.trouble

    async def tell(self, event: events.Event) -> None:
        """Add an event to the tally, and pass it on."""
        self.tally.add(event)
        await self.pass_on(event)

    async def pass_on(self, event: events.Event) -> None:
        """Pass on an event that the agent loop adds to the tally itself."""
        match event:
            case events.Generating(text=text):  # several a second: not for the journal
                if self._emit:
                    end = self._redactor.begins_within(text)
                    await self._emit(replace(event, text=self._redactor.redact(text[:end])) if text else event)
                return
            case events.CallProgress(call_id=call_id, text=text):
                stream = self._progress.setdefault(call_id, self._redactor.open_stream())
                # The count that each message begins with must not stand between two pieces of a secret.
                count = found[0] if (found := _COUNT.match(text)) else ""
                event = replace(event, text=count + stream.feed(text[len(count) :]))
            case events.CallStarted(server=server):
                if warning := self.on_first_call.pop(server, ""):
                    await self.tell(events.Warned(warning))
            case events.CallFinished(call_id=call_id, server=server):
                self._progress.pop(call_id, None)
                if event.sent and event.is_error and (warning := self.on_failed_call.pop(server, "")):
                    await self.tell(events.Warned(warning))
            case events.RunFinished() if self._workspace.folders:
                now = await asyncio.to_thread(look_at_protected, self._workspace, but=self._unwatched)
                if warning := warn_of_changed(self._protected, now):
                    await self.tell(events.Warned(warning))
            case _:
                pass
        event = self._redactor.redact_fields(event)
        self._journal.keep(event)
        if self._emit:
            await self._emit(event)
        if self._journal.trouble and not self._cut:
            self._cut = True
            await self.tell(events.JournalCut(self._journal.trouble))


@asynccontextmanager
async def _failure_recorded(recorder: RunRecorder, started_at: float) -> AsyncIterator[None]:
    """Ends the journal if the block fails or is cancelled, and lets the error go on."""
    try:
        yield
    except BaseException as exc:
        cancelled = isinstance(exc, asyncio.CancelledError)
        error = exc.explain() if isinstance(exc, errors.BridgeError) else str(exc)
        stop: events.Stop = "cancelled" if cancelled else "failed"
        said = "The run was cancelled." if cancelled else error
        finished = events.RunFinished(stop, "", said, time.monotonic() - started_at)
        await finish_run(recorder.tell, recorder.tally, finished)
        raise


def read_servers(settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> ServerCatalog:
    """The MCP servers as the configuration files name them now; the redactor learns the secrets of the approved ones.

    Names of folders on the way to the project are none: without them, no path would be understood.

    Raises:
        McpConfigError: A file cannot be used.
    """
    redactor.own_words = own_words().union(part.casefold() for part in settings.project.parts)
    catalog = servers_of_settings(settings, environ=environ)
    for config in catalog.servers.values():
        redactor.learn(secrets_of_entry(config))
    return catalog


def configured_secrets(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Secrets that no server's entry holds: LM Studio's token, and the variables passed on to servers."""
    token = [settings.api_token.get_secret_value()] if settings.api_token else []
    return [*token, *secrets_of_environment(passed_variables(environ, settings.pass_env))]


def _check_output_schema(schema: JSONObject) -> None:
    """Raises BridgeError if the schema cannot be used."""
    # Imported here because jsonschema takes a tenth of the time in which the bridge starts.
    from lmstudio_bridge.agent.structured_output import OutputSchema

    try:
        OutputSchema(schema)
    except ValueError as exc:
        raise errors.BridgeError(
            f"The output_schema cannot be used: {exc}.", remedy="Give a JSON Schema, or none."
        ) from exc


def _check_can_go_on(run_id: str, items: events.ItemResults, request: ContinueRequest) -> None:
    """Raises BridgeError if missing answers were to differ in form from others, or none is missing and more to do."""
    schema = json.loads(items.listed.output_schema or "null")
    if request.output_schema is not None and request.output_schema != schema:
        raise errors.BridgeError(
            "A run over many items keeps the output_schema with which it began, or none.",
            remedy="Leave out the output_schema, or start the task again with it.",
        )
    if items.is_done and request.instructions:
        raise errors.BridgeError(
            f"All items of run {run_id} are done, and it has no conversation to continue.",
            remedy=f"Leave out the instructions, or give the run id of one item, such as {run_id}-1.",
        )


def _wants_change(start: events.RunStarted | events.RunContinued, item: ItemRun | None) -> bool:
    """Whether a run that only reads is asked to change something."""
    task = start.task if isinstance(start, events.RunStarted) else start.instructions
    return start.access == "read" and asks_for_change(item.template if item else task)


def _start_of(run: resume.StoredRun) -> events.RunStarted:
    return next(event for event in run.events if isinstance(event, events.RunStarted))


def _timestamp() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def new_run_id(now: datetime) -> str:
    """An id that sorts by time and is easy to copy."""
    tail = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))
    return f"{now:%Y%m%d-%H%M%S}-{tail}"
