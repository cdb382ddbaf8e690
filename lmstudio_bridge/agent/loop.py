"""The agent loop: the model is asked, its calls are run, until it answers or a limit is reached.

Knows the model, the tools and the policy only as Protocols, and tells everything to one awaited sink.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import assert_never

import anyio

from lmstudio_bridge import events
from lmstudio_bridge.agent import prompts, reply_checks
from lmstudio_bridge.agent.announcements import LONGEST, announces_call
from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.composite_tools import SEARCHING, CompositeTools, usable_tools
from lmstudio_bridge.agent.conversation import Compactor, Conversation, room_to_keep
from lmstudio_bridge.agent.first_call import (
    answers_from,
    asks_to_delete,
    deletes,
    first_tools,
    is_done_by,
    names_file,
    reading_tool,
)
from lmstudio_bridge.agent.grounding import Evidence, Grounding, denies, paths_in
from lmstudio_bridge.agent.json_calls import MAX_TOOLS_WEAK
from lmstudio_bridge.agent.leaked_calls import holds_bare_arguments, holds_leaked_call, is_like_arguments
from lmstudio_bridge.agent.model_request import ModelRequester
from lmstudio_bridge.agent.options import FINISH_TIMEOUT, Limits, RunOptions
from lmstudio_bridge.agent.repetition import MadeCall, Repetition, RepetitionDetector, Step
from lmstudio_bridge.agent.result_store import RESULT_TOOLS, ResultStore
from lmstudio_bridge.agent.schemas import ObjectSchema, object_schema
from lmstudio_bridge.agent.tool_executor import ToolExecutor
from lmstudio_bridge.agent.tools import ToolSelection, ToolSet, finding_specs
from lmstudio_bridge.errors import ContextOverflowError, LLMError
from lmstudio_bridge.messages import (
    Approval,
    Approver,
    AssistantMessage,
    CallPolicy,
    ChatModel,
    Completion,
    Image,
    JSONObject,
    Message,
    Notice,
    ServerTool,
    ToolCall,
    ToolMessage,
    ToolResult,
    ToolRunner,
    ToolSpec,
    UserMessage,
)
from lmstudio_bridge.text import clean_text

_FIRST_ID = "c00000000"  # of the call that the bridge makes itself; those of the model count from 1
_SEEN_TYPES = ("image/png", "image/jpeg")  # what LM Studio takes
_MAX_IMAGE = 8 * 1024 * 1024  # characters of one image in base64
_MAX_IMAGES = 4  # images of one turn
_ASKED_FILES = 5  # files that the model is asked to read
_ASKED_TO_CHANGE = 2
_SHORT_TASK = 1_000  # characters; a small model is given it again behind the results
_LONGEST_DENIAL = 200  # characters of an answer that says nothing but no
_ASKED_FACTS = 3  # facts without a source that the model is asked about
_LONG_EVIDENCE = 200_000  # characters; more are searched in a thread
_POOR_TURNS = 2  # replies without a call or an answer that are answered with a hint before the run counts as stuck
_NO_ANSWER: Mapping[reply_checks.ReplyKind, str] = {
    "leaked_call": "The model wrote a tool call as text, also when it was asked again. The call was not run, and there "
    "is no answer.",
    "own_words": "The model only repeated the task or the bridge's own words, so there is no answer.",
    "announced": "The model only said what it would do next, also when it was asked again. There is no answer.",
    "nothing": "The model's reply held no answer, also when it was asked again.",
    "endless": "The model repeated the same words without end, also when it was asked again. There is no answer.",
    "filtered": "The server's content filter stopped the reply; what came before is not a whole answer.",
}
"""Replies whose text is no answer, also in the last round, and why."""
_NOT_COMPARED = "It took too long to compare the files that the run may have changed, so its changes are not listed."
_POOR_TURN = {
    prompts.CALL_LOST: "The model's tool call did not arrive.",
    prompts.EMPTY_TURN: "The model's reply held neither a call nor an answer.",
}


async def run(
    conversation: Conversation,
    *,
    model: ChatModel,
    tools: ToolRunner,
    tool_set: ToolSet,
    policy: CallPolicy,
    limits: Limits,
    emit: events.Emit,
    options: RunOptions | None = None,
    tally: events.Tally | None = None,
) -> events.Outcome:
    """Work on the conversation until there is an answer or a limit is reached.

    `tally` may hold the events that were told before `run` began. Secrets in the events and in the outcome are
    for the caller to take out; tool results are redacted here. Every way to end is an outcome, except
    cancellation, which goes on after `RunFinished` was told.
    """
    options = options or RunOptions()
    began = options.clock() if options.started_at is None else options.started_at
    deadline = asyncio.timeout(limits.seconds)
    if options.approver:
        options = dataclasses.replace(options, approver=_PausingApprover(options.approver, deadline))
    this = _Run(conversation, model, tools, tool_set, policy, limits, options, emit, tally or events.Tally())
    stop: events.Stop = "failed"
    error = "The bridge has a fault; its log on stderr says more."
    outside = False
    try:
        async with deadline:
            if options.read_first:
                await this.read_first(options.read_first)
            for number in range(1, limits.max_rounds + 1):
                offered = await this.begin_round(number)
                reply = await this.requester.request(
                    number, conversation, offered, names=this.names(), schemas=this.schemas()
                )
                kind = this.classify(reply, offered)
                if kind in ("calls", "cut_call") and reply.calls and not this.last:
                    await this.add(AssistantMessage(reply.text, reply.calls))
                    results = await this.executor.execute(number, reply.calls)
                    await this.take_results(reply.calls, results)
                elif ended := await this.take_text(number, reply, kind):
                    stop, error = ended
                    break
            else:
                stop, error = "round_limit", ""
            if options.output_schema is not None and stop in ("answered", "round_limit"):
                stop, error = await this.structure_answer(options.output_schema, stop)
            if stop in ("answered", "round_limit"):
                await this.report_sources()
    except TimeoutError:
        if not deadline.expired():
            raise
        stop, error = "deadline", f"The run reached its limit of {limits.seconds:g} s."
    except asyncio.CancelledError:
        stop, error = "cancelled", "The run was cancelled."
        raise
    except LLMError as exc:
        full = isinstance(exc, ContextOverflowError) and this.text_so_far()
        stop, error = "context_full" if full else "failed", exc.explain()
        outside = not isinstance(exc, ContextOverflowError)
    finally:
        await this.report_changes(options)
        finished = events.RunFinished(stop, this.final_text(), error, options.clock() - began, outside)
        outcome = await finish_run(this.tell, this.tally, finished, timeout=options.finish_timeout)
    return outcome


@dataclasses.dataclass(frozen=True, slots=True)
class _PausingApprover:
    """An approver whose person may think without using up the time of the run."""

    _approver: Approver
    _deadline: asyncio.Timeout

    async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
        end = self._deadline.when()
        if end is None or self._deadline.expired():
            return await self._approver.approve(tool, arguments)
        clock = asyncio.get_running_loop().time
        left = end - clock()
        self._deadline.reschedule(None)
        try:
            return await self._approver.approve(tool, arguments)
        finally:
            self._deadline.reschedule(clock() + left)


async def finish_run(
    emit: events.Emit, tally: events.Tally, finished: events.RunFinished, *, timeout: float = FINISH_TIMEOUT
) -> events.Outcome:
    """Tell the end of a run, whatever else is being cancelled, and add up the outcome.

    `timeout` is how many seconds the sinks get.
    """
    with anyio.move_on_after(timeout, shield=True):
        await emit(finished)
    return tally.outcome()


class _Run:
    """One run in progress."""

    def __init__(
        self,
        conversation: Conversation,
        model: ChatModel,
        tools: ToolRunner,
        tool_set: ToolSet,
        policy: CallPolicy,
        limits: Limits,
        options: RunOptions,
        emit: events.Emit,
        tally: events.Tally,
    ) -> None:
        self.conversation = conversation
        self.limits = limits
        self.emit = emit
        self.tally = tally
        self.last = False  # whether this round is for the answer only
        self._delimiter = options.filters.delimiter
        self._redact = options.filters.redact
        self._answer_now = False  # the next round is the last, whatever the limit
        self._answer_first = False  # the first round is for the answer only, but not the last
        self._hint = ""  # for the model, before the next request
        self._last_hint = prompts.ANSWER_NOW  # before the request whose reply is the answer
        self._said = prompts.GOING_ON  # what the model said before the hint
        self._poor_turns = 0  # replies in a row without a call or an answer
        self._reasoning = ""  # of the newest replies, if they were nothing else
        self._weak = options.strategy.calls == "grammar"
        offered_for = options.tools_for or conversation.task()
        self._output_schema = options.output_schema
        usable = usable_tools(tool_set.tools, may_run=policy.may_run)
        if self._weak and not asks_to_delete(offered_for):  # they delete what they have just made
            usable = tuple(tool for tool in usable if not deletes(tool.source.name)) or usable
        composites = CompositeTools(usable, task=conversation.task() if self._weak else "")
        self._selection = ToolSelection(
            composites.add_to(usable),
            offered_for,
            max_chars=limits.tool_chars,
            max_tools=MAX_TOOLS_WEAK if self._weak else None,
            best_first=self._weak,
            paths_first=self._weak and names_file(offered_for),
            similar=tool_set.similar,
        )
        self._first = frozenset(spec.name for spec in self._selection.offered)
        self._finding = finding_specs(self._selection, options.unstarted)
        self._detector = RepetitionDetector(first_step=options.strategy.first_step)
        self._store = ResultStore(
            limits.result_chars, history=[message.text for message in conversation.messages], delimiter=self._delimiter
        )
        compactor = Compactor(conversation, store=self._store, tell=self.tell, delimiter=self._delimiter)
        self._compactor = compactor
        self.requester = ModelRequester(model, compactor=compactor, tell=self.tell, limits=limits, options=options)
        given = [message.text for message in conversation.messages] + [tool.name for tool in tool_set.tools]
        self._evidence = Evidence("\n".join(given), conversation.task())
        for arguments in options.earlier_calls:
            self._evidence.add_earlier_call(arguments)
        self._seen_lines: set[str] = set()  # of all results
        self._seen_files: frozenset[str] = frozenset()  # before the last turn
        self._asked_to_read = False  # about files that were not read; that is done once
        self._asked_to_change = 0  # times; the second is about the change that was tried then and failed
        self._asked_for_form = False  # that is done once
        self._unchecked = ""  # the answer that was given then
        self._questioned = ""  # the answer about whose facts the model was asked; that is done once
        self.executor = ToolExecutor(
            tools,
            evidence=self._evidence,
            tool_set=tool_set,
            policy=policy,
            store=self._store,
            selection=self._selection,
            composites=composites,
            tell=self.tell,
            options=options,
        )

    async def read_first(self, path: str) -> None:
        """Read a file as if the model had called for it, with all checks of a call.

        Small models read it again in other ways, and lose what they had: where a task that only reads needs no more
        than this file, and all of it was read, they are asked for the answer at once.
        """
        task, offered = self.conversation.task(), self.offered()
        if found := reading_tool(task, offered):
            tool, argument = found
            call = ToolCall(_FIRST_ID, tool, json.dumps({argument: path}))
            await self.add(AssistantMessage("", (call,)))
            results = await self.executor.execute(0, (call,))
            await self.take_results((call,), results)
            is_whole = self._store.is_empty and not results[0].is_error
            only_reads = self.tally.outcome().access == "read"
            if self._weak and only_reads and is_whole and answers_from(task, results[0].text):
                self.requester.describe(offered)
                self._answer_first, self._hint = True, task  # the file has made them forget it

    def text_so_far(self) -> str:
        """The newest text of the model that may be shown, also that of a reply that was cut off."""
        partial = self.requester.partial_text()
        return partial if partial and self.is_presentable(partial, whole=False) else self.tally.last_text

    def final_text(self) -> str:
        """The newest text for a reader: without delimiters and invisible characters."""
        return self._delimiter.take_out(clean_text(self.text_so_far())[0])

    def is_presentable(self, text: str, *, whole: bool = True) -> bool:
        """Whether a text is the model's own and not a call that nobody ran; half a sentence is if it was cut off."""
        messages = self.conversation.messages
        return not (
            holds_leaked_call(text, self.names(), messages=messages)
            or holds_bare_arguments(text, self.schemas(), messages=messages)
            or reply_checks.is_bridge_text(text, messages)
            or self.copies_tools(text)
            or (whole and self.names() and reply_checks.says_nothing(text, messages))
        )

    def names(self) -> Collection[str]:
        """The tools that the model may know of; none if the run has none."""
        if not (self.executor.names or self._finding):
            return ()
        return {*self.executor.names, *(spec.name for spec in (*RESULT_TOOLS, *self._finding))}

    def schemas(self) -> dict[str, ObjectSchema]:
        """The schemas of the tools whose arguments alone are no answer: not those that the output schema takes, too.

        None if what the output schema requires looks like them.
        """
        wanted = self._output_schema or {}
        is_open = "properties" in wanted and not wanted.get("required")
        if self._output_schema is not None and not is_open and is_like_arguments(wanted.get("properties", ())):
            return {}
        own = {spec.name: object_schema(spec.parameters) for spec in (*RESULT_TOOLS, *self._finding)}
        keys = set(wanted.get("properties", ()))
        return {
            name: schema
            for name, schema in {**own, **self._selection.schemas}.items()
            if not keys.issuperset(schema.parameters.get("required") or ("",))
        }

    async def tell(self, event: events.Event) -> None:
        before = self.tally.last_text
        self.tally.add(event)
        if isinstance(event, events.RoundFinished):
            if event.text and not self.is_presentable(event.text):
                self.tally.last_text = before
            self._reasoning = "" if event.text or event.calls else event.reasoning or self._reasoning
        await self.emit(event)

    async def begin_round(self, number: int) -> Sequence[ToolSpec]:
        """Give the model what it has to be told first; returns the tools to offer: none in the last round."""
        self.last = self._answer_now or number == self.limits.max_rounds
        if self.last and number > 1:
            self._hint = self._last_hint
            task = self.conversation.task()
            only_reads = self.tally.outcome().access == "read"  # after a change, small models give the task back
            again = self.conversation.only_task() if self._weak and only_reads and len(task) <= _SHORT_TASK else ""
            if self._hint == prompts.ANSWER_NOW and again:
                self._hint = f"{prompts.ANSWER_NOW}\n\n{again}"
            elif self._hint == prompts.ANSWER_NOW and (rule := reply_checks.rule_for_failure(task)):
                self._hint = f"{prompts.ANSWER_NOW} {rule[1]}"
        if self._hint:
            await self.remind(self._hint, said=self._said)
        self._said = prompts.GOING_ON
        await self.make_room()
        return () if self.last or (self._answer_first and number == 1) else self.offered()

    def classify(self, reply: Completion, offered: Sequence[ToolSpec]) -> reply_checks.ReplyKind:
        if self.last:  # calls cannot be made any more: what the text is without them counts
            reply = dataclasses.replace(reply, calls=())
        names, schemas, messages = self.names(), self.schemas(), self.conversation.messages
        kind = reply_checks.classify_reply(
            reply, tools_offered=bool(offered), names=names, schemas=schemas, messages=messages
        )
        is_copy = kind == "answer" and (
            self._delimiter.is_copied(reply.text)  # small models stop there, or count it among the lines
            or reply_checks.repeats_task(reply.text, self.conversation.task())
            or self.copies_tools(reply.text)
        )
        return "own_words" if is_copy else kind

    def copies_tools(self, text: str) -> bool:
        """Whether a text is little more than lines from the list of tools."""
        specs = (*self._selection.offered, *RESULT_TOOLS, *self._finding)
        return reply_checks.copies_tools(text, specs, self.conversation.messages)

    async def take_text(
        self, number: int, reply: Completion, kind: reply_checks.ReplyKind
    ) -> tuple[events.Stop, str] | None:
        """Take a reply whose calls are not run; returns how the run ended, and why without an answer, if it did."""
        if kind == "answer" and number < self.limits.max_rounds:
            asks = (self.question_coverage, self.question_change, self.question_form, self.question_sources)
            for ask in asks[2:] if self.last else asks:  # nothing can be read or changed any more
                if question := await ask(reply.text):
                    self._hint, self._said = question, reply.text
                    return None
        if kind == "answer" or (self.last and reply.text and kind not in (*_NO_ANSWER, "empty")):
            await self.add(AssistantMessage(reply.text))
            self.tally.last_text = reply.text
            if number == self.limits.max_rounds and number > 1 and not self._answer_now:
                return "round_limit", ""
            if reply.finish_reason == "length":
                await self.tell(events.Warned("The answer was cut off at the limit of tokens for one reply."))
            return "answered", ""
        if self._answer_now or (self.last and kind in _NO_ANSWER) or self.is_final(kind, reply):
            return await self.give_up(kind)
        self._poor_turns += 1
        if self._poor_turns > _POOR_TURNS:
            return await self.give_up(kind)
        says_nothing = kind in ("empty", "nothing", "thought_only", "own_words")
        self._hint = prompts.EMPTY_TURN if says_nothing else prompts.CALL_LOST
        await self.notice(f"{_POOR_TURN[self._hint]} It was reminded to go on.")
        return None

    def is_final(self, kind: reply_checks.ReplyKind, reply: Completion) -> bool:
        """Whether a reminder would bring nothing: the server refuses, or the model only thinks or repeats itself."""
        if kind == "thought_only":
            end = reply.reasoning[-LONGEST:]
            is_plan = not self.is_presentable(reply.reasoning) or announces_call(end, self.names())
            return reply.finish_reason != "length" and not is_plan
        return kind in ("endless", "filtered")

    async def give_up(self, kind: reply_checks.ReplyKind) -> tuple[events.Stop, str]:
        """End a run whose model says no more: an answer that was questioned stands, and reasoning beats nothing."""
        if answer := self._questioned or self._unchecked:
            self.tally.last_text = answer
            return "answered", ""
        if self._reasoning and kind in ("thought_only", "empty") and self.is_presentable(self._reasoning):
            self.tally.last_text = self._reasoning
            await self.tell(events.Warned("The reply was all reasoning; the model gave no answer outside it."))
        return "stuck", _NO_ANSWER.get(kind, "")

    async def question_coverage(self, answer: str) -> str:
        """What to ask the model about files that the task is about and that were not read; "" if there are none.

        Only where some were read: a model that reads none may have its reasons, and the result will say so.
        """
        unread = self._evidence.unread(self.conversation.task()) if self._evidence.files else ()
        if self._asked_to_read or not unread:
            return ""
        self._asked_to_read = True
        self._unchecked = answer
        shown = ", ".join(unread[:_ASKED_FILES])
        await self.notice(f"Not read yet: {shown}. The model was asked to read that first.")
        self.requester.require_call()
        return prompts.NOT_READ.format(files=shown)

    async def question_change(self, answer: str) -> str:
        """What to ask the model that stops without the change that its task asks for; "" if it need not be asked."""
        declines = reply_checks.gives_up(answer) or denies(answer) or reply_checks.says_already(answer)
        if self._asked_to_change >= _ASKED_TO_CHANGE or declines:
            return ""
        if self._evidence.left[0] and not self._asked_to_change:
            self._asked_to_change = _ASKED_TO_CHANGE
            self._unchecked = self._unchecked or answer
            await self.notice("Not all was changed. The model was asked to change the rest.")
            self.requester.require_call(changing=True)
            text, path = self._evidence.left
            return prompts.STILL_THERE.format(text=repr(text), path=path)
        so_far = self.tally.outcome()
        if so_far.access != "write" or not so_far.nothing_changed or bool(so_far.failed) != bool(self._asked_to_change):
            return ""
        self._asked_to_change += 1
        self._unchecked = self._unchecked or answer
        await self.notice("Nothing was changed yet. The model was asked to make the change.")
        self.requester.require_call(changing=True)
        return prompts.NOT_CHANGED

    async def question_form(self, answer: str) -> str:
        """What to ask the model whose answer denies in other words than the task wants; "" if it need not be asked."""
        found = reply_checks.rule_for_failure(self.conversation.task())
        is_denial = denies(answer) and len(answer) <= _LONGEST_DENIAL
        if self._asked_for_form or not is_denial or found is None or found[0] in answer:
            return ""
        word, rule = found
        self._asked_for_form = True
        self._unchecked = self._unchecked or answer
        await self.notice(f"The task wants {word} in place of such an answer; the model was asked for it.")
        self._answer_now, self._last_hint = True, prompts.ANSWER_IN_FORM.format(rule=rule)
        return self._last_hint

    async def question_sources(self, answer: str) -> str:
        """What to ask the model about facts of its answer that were not read; "" if there are none, or it was asked."""
        if self._questioned or self._evidence.empty:
            return ""
        found = await self.check_facts(answer)
        missing, is_absent = found.missing, self._weak and self._output_schema is None and bool(found.absent)
        if not missing or (self.last and not is_absent):
            return ""
        self._questioned = answer
        await self.notice(f"Not in any result: {', '.join(missing[:_ASKED_FACTS])}. The model was asked about it once.")
        if is_absent:  # asked to look it up, small models read the same again and repeat the answer
            self._answer_now = True
            self._last_hint = prompts.NOT_THERE.format(facts=", ".join(found.absent[:_ASKED_FACTS]))
            return self._last_hint
        return prompts.NOT_IN_RESULTS.format(facts=", ".join(missing[:_ASKED_FACTS]))

    async def check_facts(self, answer: str) -> Grounding:
        """Look up the facts of an answer in what the run has seen."""
        answer = self._redact(self._delimiter.take_out(clean_text(answer)[0]))  # results were redacted, too
        if self._evidence.size < _LONG_EVIDENCE:
            return self._evidence.check(answer)
        return await anyio.to_thread.run_sync(self._evidence.check, answer)

    async def report_sources(self) -> None:
        """Tell what the final text rests on, and what of it was read nowhere."""
        grounding = await self.check_facts(self.text_so_far())
        doubts = self._evidence.doubts(self.final_text(), grounding.sources)
        coverage = "; ".join(part for part in (self._evidence.coverage(self.conversation.task()), *doubts) if part)
        if grounding.sources or grounding.missing or coverage:
            await self.tell(events.AnswerChecked(tuple(map(str, grounding.sources)), grounding.missing, coverage))

    async def report_changes(self, options: RunOptions) -> None:
        """Tell what the run changed, whatever else is being cancelled."""
        if options.watch is None:
            return
        with anyio.move_on_after(options.finish_timeout, shield=True) as limit:
            if changed := await options.watch.finish():
                await self.tell(changed)
        if limit.cancelled_caught:
            await self.tell(events.Warned(_NOT_COMPARED))

    def offered(self) -> tuple[ToolSpec, ...]:
        """The tools of the next request. What comes later stands last: the engine has read the rest."""
        first = [spec for spec in self._selection.offered if spec.name in self._first]
        found = [spec for spec in self._selection.offered if spec.name not in self._first]
        # Weak models take any tool that they see: those for long results come with the first such result.
        reading = () if self._weak and self._store.is_empty else RESULT_TOOLS
        return (*first, *reading, *self._finding, *found)

    async def take_results(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> None:
        """Show the model the results of its calls, and take a step if they repeat earlier ones."""
        self._hint, self._poor_turns = "", 0
        for call, result in zip(calls, results, strict=True):
            await self.add(ToolMessage(call.id, result.text + result.changes))
        await self.show_images([image for result in results for image in result.images])
        made = [
            MadeCall(
                self.executor.resolve_name(call.name),
                call.arguments,
                result.text,
                result.is_error,
                prompts.FOUND_NOTHING in result.text or (call.name in SEARCHING and "\n" not in result.text),
                self.is_known(call, result),
            )
            for call, result in zip(calls, results, strict=True)
        ]
        for call, result in zip(calls, results, strict=True):
            lines = result.text.splitlines()
            if call.name == "read_files":  # short files have their name before each line
                lines += [line.partition(": ")[2] for line in lines]
            self._seen_lines.update(map(str.strip, lines))
        self._seen_files = self._evidence.files
        if repetition := self._detector.add_turn(made):
            await self.break_repetition(repetition)
        elif self._weak and len(self._detector.turns) == 1 and len(made) == 1 and self.is_done_by(made[0]):
            self._answer_now = True

    def is_done_by(self, call: MadeCall) -> bool:
        """Whether the first call, which the words of the task chose, has brought all that was asked for."""
        task = self.conversation.task()
        if call.is_error or (call.name in SEARCHING and "\n" not in call.result and not _is_in(call.arguments, task)):
            return False  # what was not found may have been looked for in other words
        return [spec.name for spec in first_tools(task, self.offered())] == [call.name] and is_done_by(
            task, call.name, call.result
        )

    def is_known(self, call: ToolCall, result: ToolResult) -> bool:
        """Whether a call read only files that were read before, and its result has no line that was not seen."""
        paths = paths_in(call.arguments)
        known = bool(paths) and self._seen_files.issuperset(paths)
        return known and self._seen_lines.issuperset(map(str.strip, result.text.splitlines()))

    async def show_images(self, images: Sequence[Image]) -> None:
        """Show the images of a turn's results to a model that sees; others have read what they are."""
        shown = [image for image in images if image.mime_type in _SEEN_TYPES and len(image.data) <= _MAX_IMAGE]
        if self.limits.vision and shown:
            await self.add(AssistantMessage(prompts.GOING_ON))  # images go into a user's turn, and turns must alternate
            await self.add(UserMessage(prompts.IMAGES, tuple(shown[-_MAX_IMAGES:])))

    async def make_room(self) -> None:
        """Shorten old results in one big step before the context is full: each step costs the prompt cache."""
        room = room_to_keep(self.limits.context_length, counted=self.requester.counted, size=self.conversation.size())
        if room is None:
            return
        if compacted := await self._compactor.compact(to_chars=room):
            await self.notice(f"The model's context was nearly full; {compacted} earlier results were shortened.")

    async def break_repetition(self, repetition: Repetition) -> None:
        """Take the step against the repetition, and leave a hint for the next round."""
        self._hint = f"{repetition.text} {prompts.TRY_ANOTHER_WAY}"
        insists = self.requester.gave_up or repetition.step == Step.ANSWER_NOW
        if insists and not self.requester.asks_natively and (question := await self.question_change("")):
            self._hint = f"{repetition.text} {question}"
            return
        if insists and not self.requester.asks_natively:
            await self.notice("The model repeated itself; it was asked to answer from what it knew.")
            self._answer_now = True
            return
        await self.notice(f"The model repeated itself: {', '.join(repetition.tools)}, with the same outcome.")
        match repetition.step:
            case Step.REMIND:
                pass
            case Step.PRUNE:
                await self.prune(repetition.turns)
            case Step.REMOVE_TOOL:
                self._selection.remove(repetition.tools)
            case Step.ANSWER_NOW:
                await self.requester.use_json_calls("The model repeats its calls")
            case _:
                assert_never(repetition.step)

    async def prune(self, turns: int) -> None:
        """Take the newest turns with calls out of the history, with their results and all between them."""
        starts = [
            number
            for number, message in enumerate(self.conversation.messages)
            if isinstance(message, AssistantMessage) and message.calls
        ]
        count = len(self.conversation.messages) - starts[-turns]
        self.conversation.drop_last(count)
        self._detector.forget_turns(turns)
        await self.tell(events.MessagesDropped(count))

    async def remind(self, hint: str, *, said: str = prompts.GOING_ON) -> None:
        """Give the model a hint after what it said."""
        # Strict templates want user and assistant in turn, and don't count calls and results.
        await self.add(AssistantMessage(said))
        await self.add(UserMessage(hint))

    async def structure_answer(self, schema: JSONObject, stop: events.Stop) -> tuple[events.Stop, str]:
        """Get the answer in the form of the schema; returns how the run ends then, and the error if it failed."""
        # Imported here because jsonschema takes a tenth of the time in which the bridge starts.
        from lmstudio_bridge.agent.structured_output import StructuredOutputError, request_structured_output

        async def ask() -> str:
            return await self.requester.request_bound(self.tally.rounds + 1, self.conversation, schema)

        try:
            self.tally.last_text = await request_structured_output(
                schema, given=self.text_so_far(), ask=ask, add=self.add
            )
        except StructuredOutputError as exc:
            return "failed", str(exc)
        return stop, ""

    async def notice(self, text: str) -> None:
        await self.tell(events.Noticed(Notice("recovery", text)))

    async def add(self, message: Message) -> None:
        self.conversation.add(message)
        await self.tell(events.MessageAdded(message))


def _is_in(arguments: str, task: str) -> bool:
    """Whether the text that was searched for stands in the task."""
    try:
        return str(read_arguments(arguments, {"type": "object"}).values.get("text")).casefold() in task.casefold()
    except ValueError:
        return False
