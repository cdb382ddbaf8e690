"""The tool calls of one turn: checked, allowed, run, and each answered with something for the model to read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

import anyio

from lmstudio_bridge import events
from lmstudio_bridge.agent import prompts
from lmstudio_bridge.agent.arguments import about_arguments
from lmstudio_bridge.agent.composite_tools import NO_SUCH_PATH, SEARCHING, CompositeTools
from lmstudio_bridge.agent.conversation import holds_nothing, says_failed
from lmstudio_bridge.agent.first_call import asks_to_overwrite
from lmstudio_bridge.agent.grounding import Evidence
from lmstudio_bridge.agent.options import Held, RunOptions
from lmstudio_bridge.agent.result_store import RESULT_TOOLS, ResultStore
from lmstudio_bridge.agent.tools import (
    FIND_TOOLS,
    SEARCHES,
    PreparedCall,
    RefusedCall,
    Tool,
    ToolSelection,
    ToolSet,
    definition_chars,
    read_query,
)
from lmstudio_bridge.errors import DownstreamError, ServerStartError, SessionLostError, ToolTimeoutError
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.messages import (
    Approver,
    CallPolicy,
    Decision,
    JSONObject,
    Notice,
    ServerTool,
    ToolCall,
    ToolResult,
    ToolRunner,
    resolve_tool_name,
)
from lmstudio_bridge.text import clean_text, one_line, shortened

T = TypeVar("T")
_PROGRAM = re.compile(r"command|cmd|query|sql|script|code|expression", re.IGNORECASE)

MAX_CALLS = 16  # calls of one turn that are run; small models can write them without end
_LONG = 250_000  # characters of a result
MAX_PAGED = 2 * 1024 * 1024
"""Characters of a result that the model can page through; to clean and redact as many takes half a second at most, in
which nothing else in the process goes on: Python searches a text in one step."""
_ABOUT_ALL = re.compile(
    r"\b(?:each|every|everywhere|all)\b(?! (?:(?:of )?the )?(?:else|others?|rest)\b)", re.IGNORECASE
)
_SHOWS_DIFF = re.compile(r"^(?:```+diff\b|@@ -\d)", re.MULTILINE)
_READ_OF_REASON = 20_000  # characters of an error, or of an argument, that are read for the few words that are told
_SHOWN_REASON = 200  # characters of why a call failed
_OWN_NAMES = frozenset(spec.name for spec in (*RESULT_TOOLS, FIND_TOOLS))  # servers' tools have longer names
_SHORTER = 2  # searches with fewer words
_INNER_TEXT = 4_000  # characters of the result of an inner call that are told
_DIGEST_LENGTH = 16  # hexadecimal digits of a digest: enough to tell calls from each other
_PATH = re.compile(r"path|file", re.IGNORECASE)
_PLACE = re.compile(r"(?:\w+_)?(?:path|file|filename|folder|dir|directory)", re.IGNORECASE)
_BARE_HEADING = re.compile(r"[^\n:]{1,60}:")  # such as "Staged changes:", with nothing below it
_QUERY = re.compile(r"query|search|text|keyword|term|^q$", re.IGNORECASE)
_WORDS = re.compile(r"[\w@.-]*\w")
_NO_SEARCH = frozenset(["the", "and", "for", "with", "number", "name", "what", "which", "who", "where", "how", "from"])
_EXISTS = re.compile(r"\bEEXIST\b|\balready exists?\b|\bis a directory\b|\bEISDIR\b", re.IGNORECASE)
_MISSING = re.compile(r"\bENOENT\b|\bno such\b|\bnot found\b|\bdoes ?n[o']t exist\b|\bdoes not exist\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a call is answered without running its tool, and what is told of it: `reason` in one short line."""

    text: str
    is_error: bool = True
    source: ServerTool | None = None
    own: bool = False
    decision: Decision = Decision("")  # noqa: RUF009  # frozen
    reason: str = ""
    arguments: JSONObject | None = None


class ToolExecutor:
    """Executes the tool calls of a run."""

    def __init__(
        self,
        tools: ToolRunner,
        *,
        tool_set: ToolSet,
        policy: CallPolicy,
        store: ResultStore,
        selection: ToolSelection,
        composites: CompositeTools,
        evidence: Evidence,
        tell: events.Emit,
        options: RunOptions,
    ) -> None:
        self._tools = tools
        self._evidence = evidence
        self._tool_set = tool_set
        self._policy = policy
        self._store = store
        self._selection = selection
        self._composites = composites
        self._unstarted = options.unstarted
        self._notes = ""  # of servers that were started in the run, which the model has not seen
        self._starting = anyio.Lock()
        self._approver = options.approver
        self._asking = anyio.Lock()  # calls of one turn may run side by side
        self._tell = tell
        self._redact = options.filters.redact
        self._holds_placeholder = options.filters.holds_placeholder
        self._clock = options.clock
        self._watch = options.watch
        self._weak = options.strategy.calls == "grammar"
        self._told: set[str] = set()  # remedies
        self._edits: set[tuple[str, str, str]] = set()  # path, old and new text of each replacement that was made
        self._known_files: set[str] = set()  # names of those that calls wrote, or that were shown before they did
        self._left_in: frozenset[Path] = frozenset()  # files in which an edit left elsewhere what it took away
        self._left_edit = ("", "")  # the old and the new text of that edit
        self._has_looked = False  # whether a call found nothing
        self._has_found = False  # whether any call of this process brought something

    async def execute(self, number: int, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """A result for each call of a turn, in their order; whatever happens, there is something to read.

        Calls that only read run side by side, others one after another. The same call twice in a turn is run once.
        """
        calls = [replace(call, name=self.resolve_name(call.name)) for call in calls]
        first: dict[tuple[str, str], ToolCall] = {}
        for call in calls:
            first.setdefault((call.name, call.arguments), call)
        run = list(first.values())[:MAX_CALLS]
        results: dict[str, ToolResult] = {}

        async def answer(call: ToolCall) -> None:
            results[call.id] = await self._answer(number, call)

        if len(run) > 1 and all(map(self._only_reads, run)):
            async with anyio.create_task_group() as group:
                for call in run:
                    group.start_soon(answer, call)
        else:
            for call in run:
                results[call.id] = await self._answer(number, call)
        for call in calls:
            if call not in run:
                done = first[call.name, call.arguments] in run
                text = prompts.SAME_CALL if done else prompts.TOO_MANY_CALLS.format(most=MAX_CALLS)
                tool = self._tool_set.find(call.name)
                reason = f"more than {MAX_CALLS} calls in one turn"
                refusal = _Refusal(text, is_error=not done, source=tool.source if tool else None, reason=reason)
                results[call.id] = await self._refuse(number, call, refusal)
        return [results[call.id] for call in calls]

    @property
    def names(self) -> frozenset[str]:
        """The names of all tools that servers have, also of those that would have to be started first."""
        unstarted = self._unstarted.tool_names if self._unstarted else ()
        tools = (*self._tool_set.tools, *self._composites.tools)
        return frozenset((*(tool.name for tool in tools), *unstarted))

    def resolve_name(self, name: str) -> str:
        """The name of the tool that the model means; as it is where no tool or more than one can be meant."""
        names = {*(tool.name for tool in (*self._tool_set.tools, *self._composites.tools)), *_OWN_NAMES}
        return resolve_tool_name(name, names) or name

    def _only_reads(self, call: ToolCall) -> bool:
        if call.name in _OWN_NAMES:
            return True
        if composite := self._composites.find(call.name):
            return composite.source.read_only is True
        prepared = self._tool_set.prepare_call(call)
        return isinstance(prepared, PreparedCall) and prepared.tool.read_only is True

    async def _check(self, number: int, call: ToolCall, *, inner: bool) -> tuple[PreparedCall, Decision] | _Refusal:
        """The call ready to run, and the decision that allows it; or why it must not run.

        A person is only asked about a call that else would run.
        """
        problems = await self._start_needed(call)
        prepared = self._prepare(call, problems)
        if isinstance(prepared, _Refusal):
            return prepared
        tool = prepared.tool
        decision = self._policy.check_call(tool, prepared.arguments)
        approver = self._approver if decision.verdict == "needs_write" else None
        if not decision.allowed and approver is None:
            return self._deny(prepared, decision)
        unasked = decision if approver is None else Decision("allowed")  # of a call that fails for another reason
        undoes = (path for path, old, new in find_edits(prepared.arguments) if (path, new, old) in self._edits)
        if self._weak and (undone := next(undoes, "")):  # small models put back what they have just replaced
            text = prompts.UNDOES_EDIT.format(path=undone)
            return _refuse_prepared(prepared, text, unasked, "it would undo an earlier change")
        if tool.read_only is not True and self._holds_placeholder(_as_json(prepared.arguments)):
            reason = "the placeholder of a secret would have been written"
            return _refuse_prepared(prepared, prompts.HOLDS_PLACEHOLDER, unasked, reason)
        if not inner and (refusal := await self._show_before_write(number, call, prepared)):
            return refusal
        if approver is not None:
            decision = await self._ask(approver, prepared, decision)
        return (prepared, decision) if decision.allowed else self._deny(prepared, decision)

    def _deny(self, prepared: PreparedCall, decision: Decision) -> _Refusal:
        text = self._redact(f"Not allowed: {decision.reason} Continue without it.")
        return _refuse_prepared(prepared, text, decision, self._short(decision.reason))

    async def _ask(self, approver: Approver, prepared: PreparedCall, refusal: Decision) -> Decision:
        """Have the person decide about a call that the policy refuses for want of write access."""
        tool = prepared.tool
        # One by one: redacted as a whole, JSON may be JSON no more.
        shown = [(self._redact(name), self._redact(_as_json(value))) for name, value in prepared.arguments.items()]
        async with self._asking:
            await self._tell(events.Noticed(Notice("queue", f"waiting for your approval of {tool.server} {tool.name}")))
            try:
                answer = await approver.approve(tool, shown)
            except anyio.get_cancelled_exc_class():  # the time limit of the run, or the host
                waited = f"The run ended while it waited for approval of {tool.server} {tool.name}."
                await self._tell(events.Warned(waited))
                raise
        if answer == "yes":
            return Decision("allowed", rule=events.APPROVED)
        return replace(refusal, rule=events.NOT_APPROVED if answer == "no" else events.NOT_ASKED)

    def _prepare(self, call: ToolCall, problems: Sequence[str]) -> PreparedCall | _Refusal:
        """The call ready to run, or the answer in its place; `problems` are those of servers started for it."""
        own = self._store.answer(call) or self._selection.answer(call)
        if own is not None:
            text, is_error = own
            return _Refusal("\n".join((text, *problems)) + self._take_notes(), is_error, own=True)
        if problems:
            return _Refusal(f"{prompts.FAILED}{problems[0]}", reason="its server could not be started")
        tool = self._tool_set.find(call.name)
        prepared = self._tool_set.prepare_call(call)
        if self._selection.is_removed(tool.name if tool else call.name):
            arguments = prepared.arguments if isinstance(prepared, PreparedCall) else None
            source, reason = tool.source if tool else None, "its calls repeated each other"
            return _Refusal(prompts.TOOL_REMOVED, source=source, reason=reason, arguments=arguments)
        if isinstance(prepared, RefusedCall):
            text = self._redact(prepared.text)
            if prepared.tool is None:
                return _Refusal(text, decision=Decision("", rule=events.UNKNOWN_TOOL), reason="no such tool")
            problem = self._short(prepared.text.partition(prompts.NOT_CALLED)[2].partition("\n")[0])
            decision, reason = Decision("", rule=events.INVALID_ARGUMENTS), f"{events.INVALID_ARGUMENTS}: {problem}"
            return _Refusal(text, source=prepared.tool, decision=decision, reason=reason)
        return prepared

    async def _start_needed(self, call: ToolCall) -> list[str]:
        """Start the servers that this call needs and that are not started; returns why some failed, for the model."""
        unstarted = self._unstarted
        if unstarted is None or self._tool_set.find(call.name):
            return []
        tools: dict[str, Sequence[ServerTool]] = {}
        problems: dict[str, str] = {}

        async def start(server: str) -> None:
            try:
                tools[server] = await unstarted.start(server)
            except DownstreamError as exc:
                problems[server] = self._store.show(self._redact(clean_text(exc.explain())[0]))

        async with self._starting:  # another call of the turn may start the same server
            servers: Sequence[str] = ()
            if call.name == FIND_TOOLS.name:
                with suppress(ValueError, KeyError):  # the answer to the call will say so
                    servers = unstarted.fitting(read_query(call), self._selection.hidden)
            elif server := unstarted.server_of(call.name):
                servers = (server,)
            async with anyio.create_task_group() as group:
                for server in servers:
                    group.start_soon(start, server)
            for server in servers:
                added = self._tool_set.add(tools.get(server, ()))
                self._selection.add(tuple(tool for tool in added if self._policy.may_run(tool.source)))
            if notes := unstarted.describe(tools):
                self._notes += f"\n{notes}"
        return [problems[server] for server in servers if server in problems]

    def _take_notes(self) -> str:
        notes, self._notes = self._notes, ""
        return notes

    async def _refuse(self, number: int, call: ToolCall, refusal: _Refusal) -> ToolResult:
        source, arguments = refusal.source, refusal.arguments
        if (remedy := refusal.decision.remedy) and remedy not in self._told:
            self._told.add(remedy)
            await self._tell(events.Warned(self._redact(clean_text(remedy)[0])))
        if source is not None and self._policy.writes(source, arguments):
            self._evidence.add_failed_change(call.arguments)
        await self._tell(
            events.CallFinished(
                number,
                call.id,
                source.server if source else events.OWN_SERVER if refusal.own else "",
                source.name if source else call.name,
                refusal.text,
                refusal.is_error,
                sent=False,
                seconds=0,
                verdict=refusal.decision.verdict,
                about=self._about(_arguments_of(call) if arguments is None else arguments),
                rule=refusal.decision.rule,
                digest=_digest(call.arguments if arguments is None else _as_json(arguments)),
                writes=source is not None and self._policy.writes(source, arguments),
                reason=refusal.reason if refusal.is_error else "",
            )
        )
        return ToolResult(refusal.text, is_error=refusal.is_error)

    def _about(self, arguments: JSONObject) -> str:
        """What a call is about in a few words, without secrets: they are taken out before the words are cut."""
        text = next((value for value in arguments.values() if isinstance(value, str)), "")[:_READ_OF_REASON]
        return about_arguments({"": self._redact(clean_text(text)[0])})

    def _short(self, text: str) -> str:
        """The text in one short line, without secrets: they are taken out before it is cut."""
        return shortened(one_line(self._redact(clean_text(text[:_READ_OF_REASON])[0])), _SHOWN_REASON)

    async def _answer(self, number: int, call: ToolCall, *, inner: bool = False) -> ToolResult:
        """The result of one call, or the answer in its place.

        The result of an `inner` call, one of a composite tool, is returned as the server sent it.
        """
        if not inner and self._composites.find(call.name) and not self._selection.is_removed(call.name):
            return await self._run_composite(number, call)
        allowed = await self._check(number, call, inner=inner)
        if isinstance(allowed, _Refusal):
            return await self._refuse(number, call, allowed)
        prepared, decision = allowed
        sent_arguments = _as_json(prepared.arguments)
        server, tool = prepared.tool.server, prepared.tool.name
        writes = self._policy.writes(prepared.tool, prepared.arguments)
        held = await self._watch.before_call(prepared.tool, prepared.arguments) if self._watch and writes else {}
        started_at = self._clock()

        async def on_progress(text: str) -> None:
            await self._tell(events.CallProgress(call.id, server, tool, clean_text(text)[0]))

        if prepared.changes:
            text = f"{server}: {tool} was understood so: {'; '.join(prepared.changes)}"
            await self._tell(events.Noticed(Notice("strategy", text)))
        about = self._about(prepared.arguments)
        if writes and not inner and self._has_looked and not self._has_found:
            self._evidence.add_blind_change(about)
        await self._tell(events.CallStarted(number, call.id, server, tool, sent_arguments, about, writes))
        advice, is_lost, is_server_gone = "", False, False
        try:
            result = await self._tools.call_tool(server, tool, prepared.arguments, on_progress=on_progress)
        except DownstreamError as exc:
            result, advice = ToolResult(exc.explain(), is_error=True), f"\n{prompts.TRY_AGAIN}"
            is_lost = isinstance(exc, SessionLostError | ToolTimeoutError)
            is_server_gone = isinstance(exc, SessionLostError | ServerStartError)
        if result.is_error and writes:
            self._evidence.add_failed_change(sent_arguments)
        if not result.is_error:
            self._edits.update(find_edits(prepared.arguments))
        shorter = ""
        searches = prepared.tool.read_only is True and SEARCHES.search(tool)
        if self._weak and not inner and searches and holds_nothing(result.text):
            shorter, result = await self._search_shorter(number, call, prepared, result)
        if inner:  # what is told is cut only after secrets were taken out: half of one would not be known
            text = (await _off_the_loop(self._redact, result.text))[:_INNER_TEXT]
        else:
            text = await self._shown(call, prepared, result, advice)
            if self._weak and result.is_error and NO_SUCH_PATH.search(result.text):
                text += await self._show_names_near(number, call, prepared)
        text = f"{prompts.SHORTER_SEARCH.format(query=shorter)}\n{text}" if shorter else text
        changes = await self._changes(prepared, held, result, inner=inner)
        is_seen = changes not in ("", f"\n{prompts.CHANGED_NOTHING}")  # the watch of files knows better
        shows_output = any(map(_PROGRAM.fullmatch, prepared.arguments))  # of a command or a query
        failed = writes and not (result.is_error or is_seen or shows_output) and says_failed(result.text)
        await self._tell(
            events.CallFinished(
                number,
                call.id,
                server,
                tool,
                text + changes,
                result.is_error,
                sent=True,
                seconds=self._clock() - started_at,
                verdict=decision.verdict,
                about=about,
                rule=decision.rule,
                digest=_digest(sent_arguments),
                definition=definition_chars(prepared.tool),
                writes=writes,
                reason=self._short(result.text.removeprefix("Error: ")) if result.is_error or failed else "",
                is_lost=is_lost,
                is_server_gone=is_server_gone,
                says_failed=failed,
            )
        )
        return result if inner else ToolResult(text, result.is_error, result.images, changes)

    async def _changes(self, call: PreparedCall, held: Held, result: ToolResult, *, inner: bool) -> str:
        """What to tell the model of the files that a call changed; "" if nothing, or if its result shows it."""
        if self._watch is None or not held or result.is_error:
            return ""
        tool = call.tool
        left = await self._find_left(call, held)
        if left or inner:
            return "" if inner else left
        effect = await self._watch.effect(tool, held)
        if effect == "":
            return f"\n{prompts.CHANGED_NOTHING}"
        if effect is None or _SHOWS_DIFF.search(result.text):
            return ""
        shown = self._redact(clean_text(effect)[0])
        # Not what the call wrote: a model may not take its own words for a source.
        self._evidence.add(tool.name, "\n".join(line[1:] for line in shown.splitlines() if line.startswith("-")))
        return f"\n{self._store.show(shown)}"

    async def _find_left(self, call: PreparedCall, held: Held) -> str:
        """What to tell the model if its edit left elsewhere in the file what it took away, and the task speaks of all.

        What an earlier edit left is looked for again when its file is changed, by whatever call.
        """
        about_all = _ABOUT_ALL.search(self._evidence.task)
        edits = [(old, new) for _, old, new in find_edits(call.arguments) if about_all]
        if again := bool(self._left_in & held.keys()):
            edits.append(self._left_edit)
        found = await self._watch.left(held, edits) if self._watch and edits else None
        if found or again:
            self._evidence.left = found or ("", "")
            self._left_in = frozenset(held if found else ())
            self._left_edit = next((each for each in edits if found and each[0] == found[0]), ("", ""))
        return f"\n{prompts.STILL_THERE.format(text=repr(found[0]), path=found[1])}" if found else ""

    async def _show_before_write(self, number: int, call: ToolCall, prepared: PreparedCall) -> _Refusal | None:
        """The answer to a call that would replace a whole file which the run has not read; None if the call may run.

        Small models write over a file to which they were to add a line. Once a file, they are shown what it holds.
        """
        tool, arguments = prepared.tool, prepared.arguments
        reading = self._composites.reading_call(call.name, arguments)
        if not self._weak or reading is None or self._watch is None or asks_to_overwrite(self._evidence.task):
            return None
        reader, named, path = reading
        name = _last_part(path)
        is_known = name in self._known_files or name in map(_last_part, self._evidence.files)
        self._known_files.add(name)
        if is_known or await self._watch.holds(tool, arguments, "") is not False:
            return None
        found = await self._answer(number, ToolCall(f"{call.id}.1", reader.name, _as_json(named)), inner=True)
        new = "\n".join(value for value in arguments.values() if isinstance(value, str)).splitlines()
        if found.is_error or {*map(str.strip, found.text.splitlines())} <= {*map(str.strip, new), ""}:
            return None  # nothing would be lost
        held = await _off_the_loop(self._redact, (await _off_the_loop(clean_text, found.text))[0])
        self._evidence.add(path, held)
        shown = self._redact(clean_text(path)[0])
        text = prompts.OVERWRITES.format(path=shown, tool=call.name, data=self._store.show(held))
        decision = Decision("allowed", rule=events.UNREAD_FILE)
        return _refuse_prepared(prepared, text, decision, "the file exists, and was not read before")

    async def _search_shorter(
        self, number: int, call: ToolCall, prepared: PreparedCall, result: ToolResult
    ) -> tuple[str, ToolResult]:
        """Search again with fewer of the words: small models search for whole phrases, and repeat them.

        Returns the words that found something and what they found, or "" and the `result` that there was.
        """
        for count, (name, query) in enumerate(islice(shorter_queries(prepared.arguments), _SHORTER), 1):
            arguments = _as_json({**prepared.arguments, name: query})
            found = await self._answer(number, ToolCall(f"{call.id}.{count}", call.name, arguments), inner=True)
            if not (found.is_error or holds_nothing(found.text)):
                return query, found
        return "", result

    async def _show_names_near(self, number: int, call: ToolCall, prepared: PreparedCall) -> str:
        """The names beside a path that is not there: small models try others like it until the last round."""

        async def run_inner(tool: Tool, arguments: JSONObject) -> ToolResult:
            return await self._answer(number, ToolCall(f"{call.id}.0", tool.name, _as_json(arguments)), inner=True)

        named = ((name, each) for name, each in prepared.arguments.items() if isinstance(each, str))
        path = next((each for name, each in named if _PLACE.fullmatch(name)), "")
        near = await self._composites.names_near(path, run_inner, of=prepared.tool) if path else None
        if near is None:
            return ""
        head, names = (self._redact(clean_text(each)[0]) for each in (near.text, near.data))
        for where, _ in near.seen:
            self._evidence.add(where, names)
        return f"\n{head}\n{self._store.show(names)}"

    async def _run_composite(self, number: int, call: ToolCall) -> ToolResult:
        """The result of a call of one of the bridge's own tools that call servers' tools."""
        count = 0
        started_at = self._clock()

        async def run_inner(tool: Tool, arguments: JSONObject) -> ToolResult:
            nonlocal count
            count += 1
            inner = ToolCall(f"{call.id}.{count}", tool.name, _as_json(arguments))
            return await self._answer(number, inner, inner=True)

        async def holds(tool: Tool, arguments: JSONObject, text: str) -> bool | None:
            return await self._watch.holds(tool.source, arguments, text) if self._watch else None

        result = await self._composites.run(call, inner=run_inner, holds=holds)
        own = self._redact(clean_text(result.text)[0])
        data = await _off_the_loop(self._redact, (await _off_the_loop(clean_text, result.data))[0])
        for where, text in result.seen:
            self._evidence.add(where, await _off_the_loop(self._redact, text))
        # Of a search only what was found: the text that was looked for may be nowhere.
        self._evidence.add(call.name, data if call.name in SEARCHING else f"{own}\n{data}")
        self._evidence.add_files(result.looked_at)
        self._evidence.add_found_nowhere(map(self._redact, result.nowhere))
        text = f"{prompts.FAILED}{own}" if result.is_error else own
        if data:
            text += f"\n{self._store.show(data)}"
        self._has_looked |= call.name in SEARCHING and not data
        self._has_found |= bool(data) and not result.is_error
        await self._tell(
            events.CallFinished(
                number,
                call.id,
                events.OWN_SERVER,
                call.name,
                text,
                result.is_error,
                sent=False,
                seconds=self._clock() - started_at,
                about=self._about(_arguments_of(call)),
                digest=_digest(call.arguments),
                writes=False,
                reason=self._short(own) if result.is_error else "",
            )
        )
        return ToolResult(text, result.is_error)

    async def _shown(self, call: ToolCall, prepared: PreparedCall, result: ToolResult, advice: str) -> str:
        """What the model reads of a result: cleaned, redacted, shortened if need be, with a hint where one helps."""
        received, left_out = result.text[:MAX_PAGED], len(result.text) - MAX_PAGED
        if left_out > 0:
            received += f"\n[the last {left_out:,} characters of this result were left out]"
        cleaned, invisible = await _off_the_loop(clean_text, received)
        whole = await _off_the_loop(self._redact, cleaned)
        tool, sent_arguments = prepared.tool, _as_json(prepared.arguments)
        self._evidence.add_call(tool.server, tool.name, sent_arguments, whole, is_error=result.is_error)
        text = self._store.show(whole) + advice
        if invisible:
            text += f"\n{prompts.INVISIBLE.format(count=f'{invisible:,}')}"
        if result.is_error:
            text = prompts.FAILED + text
            if hint := self._hint(call, prepared.arguments, result.text):
                text += f"\n{hint}"
        elif (tool.read_only is True or SEARCHES.search(tool.name)) and holds_nothing(result.text):
            self._has_looked = True
            # Later, a 1.5B model undid what it had done, and began anew.
            if SEARCHES.search(tool.name) and not self._has_found:
                text += f"\n{prompts.FOUND_NOTHING}"
        else:
            self._has_found = True
            is_bare = tool.read_only is True and bool(_BARE_HEADING.fullmatch(whole.strip()))
            siblings = map(self._tool_set.find, self._selection.sibling_tools(call.name) if is_bare else ())
            if others := [each.name for each in siblings if each and each.source.read_only is True]:
                text += f"\n{prompts.NOTHING_BELOW.format(tools=' or '.join(others))}"
        return text + self._take_notes()

    def _hint(self, call: ToolCall, arguments: JSONObject, error: str) -> str:
        """What to tell the model about an error that it can mend; "" if nothing."""
        if _EXISTS.search(error) and (path := path_in_folder(arguments)):
            return prompts.WHOLE_PATH.format(path=self._redact(clean_text(path)[0]))
        if not _MISSING.search(error):
            return ""
        if any(find_edits(arguments)) and (making := self._selection.making_tool(call.name)):
            return prompts.NOT_MADE_YET.format(tool=making)
        listing = self._selection.listing_tool(call.name)
        return prompts.LOOK_FIRST.format(tool=listing) if listing else prompts.NAME_MISSING


def _refuse_prepared(call: PreparedCall, text: str, decision: Decision, reason: str) -> _Refusal:
    return _Refusal(text, source=call.tool, decision=decision, reason=reason, arguments=call.arguments)


async def _off_the_loop(function: Callable[[str], T], text: str) -> T:
    """The function's result; for a long text in a thread, because it takes seconds in which other runs must go on."""
    return function(text) if len(text) < _LONG else await anyio.to_thread.run_sync(function, text)


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def shorter_queries(arguments: JSONObject) -> Iterator[tuple[str, str]]:
    """The argument with the words of a search, and single words instead: names first, then the longest."""
    for name, value in arguments.items():
        if isinstance(value, str) and _QUERY.search(name) and len(words := _WORDS.findall(value)) > 1:
            names = [word for word in words if not word.islower()]
            for word in dict.fromkeys((*names, *sorted(words, key=len, reverse=True))):
                if len(word) > 2 and word.lower() not in _NO_SEARCH:
                    yield name, word
            return


def path_in_folder(arguments: JSONObject) -> str:
    """Where a file goes that is moved or copied to the name of a folder; "" if the arguments are not of such a call.

    Models write `destination: "docs"`, as for the command mv; most tools want `docs/a.txt`.
    """
    source, folder = arguments.get("source"), arguments.get("destination")
    if not (isinstance(source, str) and isinstance(folder, str)):
        return ""
    name = _last_part(source)
    return "" if not name or PurePosixPath(folder).name == name else f"{folder.rstrip('/')}/{name}"


def find_edits(arguments: JSONObject) -> Iterator[tuple[str, str, str]]:
    """Path, old and new text of the replacements in a call's arguments, such as `oldText` and `newText`."""
    path = next((each for name, each in arguments.items() if _PATH.search(name) and isinstance(each, str)), "")
    pending: list[object] = [arguments]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            texts = {name.lower()[:3]: each for name, each in value.items() if isinstance(each, str)}
            if "old" in texts and "new" in texts:
                yield path, texts["old"], texts["new"]
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _arguments_of(call: ToolCall) -> JSONObject:
    """The arguments as the model wrote them; none if they cannot be read."""
    values = load_or_none(call.arguments)
    return values if isinstance(values, dict) else {}


def _digest(arguments: str) -> str:
    return hashlib.sha256(arguments.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
