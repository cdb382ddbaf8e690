"""The loop, with a scripted model and fake tools: what is asked, what is run, and how a run ends."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from lmstudio_bridge import events
from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import ChangeWatch, Held, Limits, RunOptions
from lmstudio_bridge.agent.prompts import ANSWER_IN_FORM, ANSWER_NOW, EMPTY_TURN, GOING_ON, NOT_CHANGED, NOT_IN_RESULTS
from lmstudio_bridge.agent.result_store import RESULT_TOOLS
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import LLMConnectionError, LLMError, SessionLostError, ToolTimeoutError
from lmstudio_bridge.lmstudio.tool_call_parsers import split_reasoning
from lmstudio_bridge.messages import (
    Access,
    Approval,
    Approver,
    AssistantMessage,
    CallDelta,
    ChatRequest,
    Completion,
    Delta,
    JSONObject,
    Message,
    OnNotice,
    OnRetry,
    ReasoningDelta,
    Retry,
    ServerTool,
    SystemMessage,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolResult,
    ToolRunner,
    Usage,
    UserMessage,
)
from lmstudio_bridge.security.access import Policy
from tests.support.fakes import NEVER, FakeTools, ManualClock, Recorder, Reply, ScriptedModel, Sent, Streamed, call, say

READ = ServerTool(
    "fs",
    "read",
    "Reads a file.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    read_only=True,
)
WRITE = ServerTool("fs", "write", "Writes a file.", {"type": "object", "properties": {"path": {"type": "string"}}})

OPENING = (SystemMessage("Use tools."), UserMessage("What is in the file?"))

HELLO = ToolResult("hello")

READ_A = '{"path": "a.txt"}'
CALLED = call(("fs__read", READ_A))
LOOK = call(("fs__read", READ_A), text="I look.")
PLANNED = Completion("", "I need to read the file.", finish_reason="stop", model="tiny", usage=Usage(10, 5, 5))
LEAKED = 'Now the note.\n<<run fs__read>> {"path": "a.txt"} <</run>>'


@dataclass
class Case:
    """A run put together from fakes; `go` runs it."""

    model: ScriptedModel
    tools: ToolRunner = field(default_factory=FakeTools)
    limits: Limits = field(default_factory=lambda: limits(10))
    policy: Policy = field(default_factory=lambda: Policy("write"))
    redact: Callable[[str], str] = str
    sink: events.Emit | None = None
    clock: ManualClock = field(default_factory=ManualClock)
    finish_timeout: float = 3600
    watch: ChangeWatch | None = None
    approver: Approver | None = None

    def __post_init__(self) -> None:
        self.conversation = Conversation(OPENING)
        self.tool_set = ToolSet([READ, WRITE])
        self.recorder = Recorder()
        self.tally = events.Tally()

    async def go(self) -> events.Outcome:
        return await run(
            self.conversation,
            model=self.model,
            tools=self.tools,
            tool_set=self.tool_set,
            policy=self.policy,
            limits=self.limits,
            emit=self.sink or self.recorder.emit,
            tally=self.tally,
            options=RunOptions(
                filters=TextFilters(redact=self.redact, split_reasoning=split_reasoning),
                clock=self.clock,
                finish_timeout=self.finish_timeout,
                watch=self.watch,
                approver=self.approver,
            ),
        )

    def results(self) -> list[str]:
        """What the model read as results, in their order."""
        return [message.text for message in self.conversation.messages if isinstance(message, ToolMessage)]

    def ends(self) -> list[events.Event]:
        return self.recorder.of(events.RunFinished)


def case(*replies: Reply, **settings: object) -> Case:
    return Case(ScriptedModel(*replies), **settings)  # type: ignore[arg-type]  # as the fields say


def limits(rounds: int, *, seconds: float = 3600, chars: int = 10_000, tokens: int | None = None) -> Limits:
    return Limits(max_rounds=rounds, seconds=seconds, result_chars=chars, max_tokens=tokens)


def bound_answer(text: str) -> Completion:
    return say(json.dumps({"answer": text}))


def read_tools(result: ToolResult | BaseException | None = HELLO) -> FakeTools:
    return FakeTools({("fs", "read"): result})


# -- what is asked, and what is told ------------------------------------------------------------


async def test_plain_answer_ends_the_run_after_one_round() -> None:
    given = case(say("Nothing is in it."), clock=ManualClock(step=1))

    outcome = await given.go()

    assert outcome == events.Outcome("answered", "Nothing is in it.", "", "tiny", 1, 0, Usage(10, 1, 0), seconds=3)
    assert [asked.messages for asked in given.model.asked] == [OPENING]
    assert given.recorder.events == [
        events.RoundStarted(1, 10, 4),
        events.RoundFinished(1, "Nothing is in it.", "", (), "stop", "tiny", Usage(10, 1, 0), 1),
        events.MessageAdded(AssistantMessage("Nothing is in it.")),
        events.RunFinished("answered", "Nothing is in it.", "", 3),
    ]


async def test_call_is_run_and_its_result_is_read_in_the_next_round() -> None:
    given = case(LOOK, say("It says hello."), tools=read_tools())

    outcome = await given.go()

    turn = AssistantMessage("I look.", (ToolCall("c1", "fs__read", READ_A),))
    assert outcome == events.Outcome(
        "answered", "It says hello.", "", "tiny", 2, 1, Usage(20, 3, 1), sources=("fs read",)
    )
    assert [asked.messages for asked in given.model.asked] == [OPENING, (*OPENING, turn, ToolMessage("c1", "hello"))]
    assert given.conversation.messages == (
        *OPENING,
        turn,
        ToolMessage("c1", "hello"),
        AssistantMessage("It says hello."),
    )
    assert given.tools.sent == [Sent("fs", "read", {"path": "a.txt"})]  # type: ignore[attr-defined]
    assert given.recorder.events == [
        events.RoundStarted(1, 10, 4),
        events.RoundFinished(1, "I look.", "", turn.calls, "tool_calls", "tiny", Usage(10, 2, 1), 0),
        events.MessageAdded(turn),
        events.CallStarted(1, "c1", "fs", "read", READ_A),
        events.CallFinished(
            1, "c1", "fs", "read", "hello", False, True, 0, "allowed", about="a.txt", rule="readOnlyHint"
        ),
        events.MessageAdded(ToolMessage("c1", "hello")),
        events.RoundStarted(2, 10, 4),
        events.RoundFinished(2, "It says hello.", "", (), "stop", "tiny", Usage(10, 1, 0), 0),
        events.MessageAdded(AssistantMessage("It says hello.")),
        events.RunFinished("answered", "It says hello.", "", 0),
    ]


async def test_requests_only_grow_and_offer_the_very_same_tools() -> None:
    """The engine's prompt cache lives on an unchanged beginning (LM Studio reference, 9)."""
    replies = [call(("fs__read", f'{{"path": "{n}.txt"}}', f"c{n}")) for n in range(4)]
    given = case(*replies, say(""), say("Done."), tools=read_tools())

    await given.go()

    asked = given.model.asked
    assert len(asked) == 6
    for before, after in itertools.pairwise(asked):
        assert after.messages[: len(before.messages)] == before.messages
        assert all(new is old for new, old in zip(after.messages, before.messages, strict=False))
        assert after.tools == (*given.tool_set.specs, *RESULT_TOOLS)


async def test_arguments_are_replayed_as_the_model_wrote_them() -> None:
    odd = '{ "path" :\t"a.txt" }'
    given = case(call(("fs__read", odd)), say("Done."), tools=read_tools())

    await given.go()

    assert given.model.asked[1].messages[2] == AssistantMessage("", (ToolCall("c1", "fs__read", odd),))
    assert given.recorder.of(events.CallStarted) == [events.CallStarted(1, "c1", "fs", "read", READ_A)]


async def test_limit_of_tokens_goes_with_each_request() -> None:
    given = case(CALLED, say("Done."), tools=read_tools(), limits=limits(2, tokens=77))

    await given.go()

    assert [asked.max_tokens for asked in given.model.asked] == [77, 77]


async def test_pieces_retries_and_progress_are_told_as_they_come() -> None:
    error = LLMConnectionError("No connection.")
    pieces = (ReasoningDelta("hm"), TextDelta("I look."), CallDelta(0, "fs__read", "{}"))
    tools = FakeTools({("fs", "read"): ToolResult("hello")}, progress=["half", "whole"])
    given = case(Streamed(pieces, CALLED, retries=(Retry(1, 2.5, error),)), say("Done."), tools=tools)

    await given.go()

    assert given.recorder.of(events.RetryScheduled, events.Generating, events.CallProgress) == [
        events.RetryScheduled(1, 2.5, "No connection."),
        events.Generating(1, "thinking", 1, 0),
        events.Generating(1, "answering", 2, 0),
        events.Generating(1, "calling", 3, 0),
        events.CallProgress("c1", "fs", "read", "half"),
        events.CallProgress("c1", "fs", "read", "whole"),
    ]


async def test_speed_is_measured_from_the_first_piece_of_the_reply_under_way() -> None:
    """A long prompt takes minutes to be read, and the time of a reply that broke off is none of the next one's."""
    broken_off = Retry(1, 2.5, LLMConnectionError("No connection."))
    pieces = (TextDelta("It"), TextDelta(" is"), broken_off, TextDelta("It"), TextDelta(" was"))
    given = case(Streamed(pieces, say("It was.")))

    async def sink(event: events.Event) -> None:
        await given.recorder.emit(event)
        given.clock.now += 10

    given.sink = sink
    await given.go()

    assert given.recorder.of(events.Generating) == [
        events.Generating(1, "answering", 1, 0),
        events.Generating(1, "answering", 2, 10),
        events.Generating(1, "answering", 1, 0),
        events.Generating(1, "answering", 2, 10),
    ]


class SlowWriter(ScriptedModel):
    """Five pieces, with a pause after each."""

    def __init__(self, clock: ManualClock, *, pause: float) -> None:
        super().__init__()
        self._clock = clock
        self._pause = pause

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: Callable[[Delta], Awaitable[None]] | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        assert on_delta is not None
        for _ in range(5):
            await on_delta(TextDelta("so "))
            self._clock.now += self._pause
        return say("It is so.")


@pytest.mark.parametrize(("pause", "told"), [(0.0615, [1, 4]), (0.0625, [1, 3, 5]), (0.0635, [1, 3, 5])])
async def test_reply_under_way_is_told_of_eight_times_a_second_at_most(pause: float, told: list[int]) -> None:
    given = case()
    given.model = SlowWriter(given.clock, pause=pause)

    await given.go()

    assert [event.pieces for event in given.recorder.of(events.Generating)] == told


# -- calls that are answered without being run, and calls that fail ------------------------------


async def test_error_of_a_tool_is_a_result_that_says_so() -> None:
    given = case(CALLED, say("Done."), tools=read_tools(ToolResult("out of memory", is_error=True)))

    outcome = await given.go()

    assert given.results() == ["The call failed: out of memory"]
    assert outcome.stop == "answered"
    assert given.recorder.of(events.CallFinished) == [
        events.CallFinished(
            1,
            "c1",
            "fs",
            "read",
            "The call failed: out of memory",
            True,
            True,
            0,
            verdict="allowed",
            about="a.txt",
            rule="readOnlyHint",
        )
    ]


@pytest.mark.parametrize("kind", [SessionLostError, ToolTimeoutError])
async def test_trouble_with_a_server_is_a_result_with_advice(
    kind: type[SessionLostError] | type[ToolTimeoutError],
) -> None:
    error = kind("fs went away.", server="fs", remedy="Look at its log.")
    given = case(CALLED, say("Done."), tools=read_tools(error))

    outcome = await given.go()

    failed = ("read a.txt: fs went away. Look at its log",)
    assert outcome == events.Outcome("answered", "Done.", "", "tiny", 2, 1, Usage(20, 3, 1), failed=failed)
    assert given.results() == [
        "The call failed: fs went away.\nLook at its log.\n"
        "Try again once if that may help. Otherwise, continue without this tool."
    ]


# -- limits of a run ----------------------------------------------------------------------------


async def test_one_round_is_asked_without_tools_and_its_text_is_the_answer() -> None:
    given = case(say("I know it."), limits=limits(1))

    assert await given.go() == events.Outcome("answered", "I know it.", "", "tiny", 1, 0, Usage(10, 1, 0))
    assert [(asked.messages, asked.tools) for asked in given.model.asked] == [(OPENING, ())]


@pytest.mark.parametrize("rounds", [2, 3, 7])
async def test_last_round_is_asked_for_an_answer_without_tools(rounds: int) -> None:
    calls = [call(("fs__read", f'{{"path": "{n}.txt"}}', f"c{n}")) for n in range(rounds - 1)]
    given = case(*calls, say("So far: hello."), tools=read_tools(), limits=limits(rounds))

    outcome = await given.go()

    assert (outcome.stop, outcome.answer, outcome.error) == ("round_limit", "So far: hello.", "")
    assert (outcome.rounds, outcome.calls) == (rounds, rounds - 1)
    assert [len(asked.tools) for asked in given.model.asked] == [4] * (rounds - 1) + [0]
    assert given.model.asked[-1].messages[-3:] == (
        ToolMessage(f"c{rounds - 2}", "hello"),
        AssistantMessage(GOING_ON),
        UserMessage(ANSWER_NOW),
    )


CALL_AS_TEXT = (
    "The model wrote a tool call as text, also when it was asked again. The call was not run, and there is no answer."
)
ENDS: dict[str, tuple[list[Reply], Limits, tuple[str, str, str, int]]] = {
    "an answer one round before the limit": ([CALLED, say("Hello.")], limits(3), ("answered", "Hello.", "", 2)),
    "a call between empty turns, which starts their count again": (
        [say(""), say(""), CALLED, say(""), say(""), say("Hello.")],
        limits(10),
        ("answered", "Hello.", "", 6),
    ),
    "a deadline in a reply, of which the pieces are kept": (
        [LOOK, Streamed((TextDelta("<think>Hm.</think>"), TextDelta("It says "), TextDelta("hel")))],
        limits(5, seconds=0),
        ("deadline", "It says hel", "The run reached its limit of 0 s.", 1),
    ),
    "a deadline in a reply without text, before which there was some": (
        [LOOK, Streamed((ReasoningDelta("Hm."),))],
        limits(5, seconds=0),
        ("deadline", "I look.", "The run reached its limit of 0 s.", 1),
    ),
    "a failed request, of which the pieces are kept": (
        [Streamed((TextDelta("It says hel"),), LLMError("Cut off."))],
        limits(10),
        ("failed", "It says hel", "Cut off.", 0),
    ),
    "a call in text in the last round, before which there was an answer": (
        [call(("fs__read", READ_A), text="I think it is teal."), say(LEAKED), say(LEAKED), bound_answer(LEAKED)],
        limits(2),
        ("stuck", "I think it is teal.", CALL_AS_TEXT, 2),
    ),
    "reasoning that plans a call, which it is reminded to make": (
        [PLANNED, PLANNED, CALLED, say("It says hello.")],
        limits(10),
        ("answered", "It says hello.", "", 3),
    ),
}


@pytest.mark.parametrize(("replies", "limit", "end"), ENDS.values(), ids=ENDS)
async def test_run_ends_with(replies: list[Reply], limit: Limits, end: tuple[str, str, str, int]) -> None:
    outcome = await case(*replies, tools=read_tools(), limits=limit).go()

    assert (outcome.stop, outcome.answer, outcome.error, outcome.rounds) == end


@pytest.mark.parametrize("rounds", [1, 2])
async def test_calls_in_the_last_round_are_not_run(rounds: int) -> None:
    tools = read_tools()
    replies = [call(("fs__read", READ_A, f"c{n}"), text=f"Look {n}.") for n in range(rounds)]
    outcome = await case(*replies, tools=tools, limits=limits(rounds)).go()

    assert len(tools.sent) == rounds - 1
    assert outcome.stop == ("answered" if rounds == 1 else "round_limit")
    assert outcome.answer == f"Look {rounds - 1}."


async def test_last_round_without_a_word_keeps_the_best_text_so_far() -> None:
    given = case(LOOK, say(""), tools=read_tools(), limits=limits(2))

    outcome = await given.go()

    assert (outcome.stop, outcome.answer) == ("round_limit", "I look.")
    assert given.conversation.messages[-1] == UserMessage(ANSWER_NOW)


@pytest.mark.parametrize("empty", [1, 2])
async def test_empty_turn_is_answered_with_a_nudge(empty: int) -> None:
    given = case(*[say("")] * empty, say("Hello."))

    outcome = await given.go()

    nudge = (AssistantMessage(GOING_ON), UserMessage(EMPTY_TURN))
    assert (outcome.stop, outcome.answer, outcome.rounds) == ("answered", "Hello.", empty + 1)
    assert [asked.messages for asked in given.model.asked] == [(*OPENING, *nudge * n) for n in range(empty + 1)]


async def test_third_empty_turn_counts_as_stuck() -> None:
    given = case(say(""), say(""), say(""))

    outcome = await given.go()

    reminded = "The model's reply held neither a call nor an answer. It was reminded to go on."
    assert outcome == events.Outcome("stuck", "", "", "tiny", 3, 0, Usage(30, 3, 0), warnings=(reminded, reminded))
    assert len(given.model.asked) == 3


async def test_empty_turn_before_the_last_round_gets_one_hint_and_not_two() -> None:
    given = case(say(""), say("Hello."), limits=limits(2))

    await given.go()

    assert given.model.asked[1].messages == (*OPENING, AssistantMessage(GOING_ON), UserMessage(ANSWER_NOW))


@pytest.mark.parametrize(
    "replies",
    [
        [say(""), say(""), say("x")],
        [CALLED, say(""), say("x")],
        [CALLED, CALLED, say("x")],
        [say(""), CALLED, say("x")],
    ],
)
async def test_user_and_assistant_take_turns_in_every_request(replies: Sequence[Completion]) -> None:
    """Mistral's and Gemma's templates refuse anything else (LM Studio reference, 8.2)."""
    given = case(*replies, tools=read_tools(), limits=limits(3))

    await given.go()

    for asked in given.model.asked:
        turns = [message for message in asked.messages[1:] if _is_turn(message)]
        assert [type(turn) for turn in turns] == ([UserMessage, AssistantMessage] * len(turns))[: len(turns)]
        assert isinstance(turns[-1], UserMessage)


def _is_turn(message: Message) -> bool:
    return not isinstance(message, ToolMessage) and not (isinstance(message, AssistantMessage) and message.calls)


async def test_answer_cut_at_the_limit_of_tokens_is_an_answer_with_a_warning() -> None:
    given = case(say("It says hel", finish_reason="length"))

    outcome = await given.go()

    warning = "The answer was cut off at the limit of tokens for one reply."
    assert outcome == events.Outcome("answered", "It says hel", "", "tiny", 1, 0, Usage(10, 1, 0), warnings=(warning,))
    assert given.recorder.of(events.Warned) == [events.Warned(warning)]


# -- the other ends -----------------------------------------------------------------------------


async def test_deadline_in_a_call_keeps_the_text_so_far() -> None:
    given = case(LOOK, tools=read_tools(None), limits=limits(5, seconds=0))

    outcome = await given.go()

    assert outcome == events.Outcome(
        "deadline", "I look.", "The run reached its limit of 0 s.", "tiny", 1, 0, Usage(10, 2, 1)
    )
    assert given.ends() == [events.RunFinished("deadline", "I look.", "The run reached its limit of 0 s.", 0)]


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


@dataclass
class SlowPerson:
    """Takes an hour for each answer."""

    loop: SkippingLoop
    answers: list[Approval]

    async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
        self.loop.skipped += 3600
        for _ in range(5):  # in which a deadline that has passed would end the run
            await anyio.lowlevel.checkpoint()
        return self.answers.pop(0)


@pytest.mark.parametrize(("model_takes", "stop"), [(500, "answered"), (700, "deadline")])
def test_the_time_in_which_a_person_thinks_is_not_that_of_the_run(model_takes: float, stop: str) -> None:
    loop = SkippingLoop()

    class SlowModel(ScriptedModel):
        async def stream_chat_completion(self, request: ChatRequest, **options: Any) -> Completion:
            reply = await super().stream_chat_completion(request, **options)
            if len(self.asked) == 2:
                loop.skipped += model_takes
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
            return reply

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        given = Case(
            SlowModel(call(("fs__write", READ_A), ("fs__write", READ_A.replace("a.txt", "b.txt"))), say("Done."))
        )
        given.limits = limits(5, seconds=600)
        given.policy = Policy("read", asks=True)
        given.tools = FakeTools({("fs", "write"): HELLO})
        given.approver = SlowPerson(loop, ["yes", "no"])
        outcome = runner.run(given.go())

    assert outcome.stop == stop
    assert given.approver.answers == []


async def test_timeout_that_is_not_the_deadline_is_not_taken_for_it() -> None:
    given = case(TimeoutError("someone else's"))

    with pytest.raises(TimeoutError, match="someone else's"):
        await given.go()

    assert given.ends() == [events.RunFinished("failed", "", "The bridge has a fault; its log on stderr says more.", 0)]


async def test_failed_request_ends_the_run_with_its_explanation() -> None:
    error = LLMError("No answer.", url="http://h/v1", model="tiny", status=500, detail="boom", remedy="Look there.")
    given = case(LOOK, error, tools=read_tools())

    outcome = await given.go()

    assert outcome == events.Outcome(
        "failed", "I look.", error.explain(), "tiny", 1, 1, Usage(10, 2, 1), sources=("fs read",)
    )
    assert given.ends() == [events.RunFinished("failed", "I look.", error.explain(), 0)]


async def test_unexpected_exception_goes_on_after_the_end_was_told() -> None:
    given = case(LOOK, tools=read_tools(ZeroDivisionError("a fault")))

    with pytest.raises(ZeroDivisionError, match="a fault"):
        await given.go()

    assert given.ends() == [
        events.RunFinished("failed", "I look.", "The bridge has a fault; its log on stderr says more.", 0)
    ]
    assert given.recorder.events[-1:] == given.ends()


@pytest.mark.parametrize("where", ["reply", "call"])
async def test_cancellation_goes_on_after_the_end_was_told_once(where: str) -> None:
    tools = read_tools(None)
    first = LOOK if where == "call" else NEVER
    given = case(first, tools=tools)
    task = asyncio.create_task(given.go())
    async with asyncio.timeout(60):
        await (tools if where == "call" else given.model).waiting.wait()

    task.cancel()
    await asyncio.wait([task])

    text = "I look." if where == "call" else ""
    assert task.cancelled()
    assert given.ends() == [events.RunFinished("cancelled", text, "The run was cancelled.", 0)]
    assert given.recorder.events[-1:] == given.ends()


async def test_end_is_told_inside_a_cancelled_scope() -> None:
    """The MCP SDK cancels with anyio's scopes, which cancel every later await as well."""
    told: list[events.Event] = []

    async def slow_sink(event: events.Event) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(event)

    given = case(NEVER, sink=slow_sink)
    async with anyio.create_task_group() as group:
        group.start_soon(given.go)
        await given.model.waiting.wait()
        group.cancel_scope.cancel()

    assert told[1:] == [events.RunFinished("cancelled", "", "The run was cancelled.", 0)]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_sink_that_hangs_at_the_end_is_left_behind(cancelled: bool) -> None:
    left = False

    async def sink(event: events.Event) -> None:
        nonlocal left
        if isinstance(event, events.RunFinished):
            try:
                await asyncio.Event().wait()
            finally:
                left = True

    given = case(NEVER if cancelled else say("Hello."), sink=sink, finish_timeout=0)
    task = asyncio.create_task(given.go())
    if cancelled:
        await given.model.waiting.wait()
        task.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([task])

    assert (left, task.cancelled()) == (True, cancelled)
    assert given.tally.outcome().stop == ("cancelled" if cancelled else "answered")


async def test_events_told_before_the_loop_count_in_the_outcome() -> None:
    given = case(say("Hello."), clock=ManualClock(step=0.5))
    given.tally.add(events.Warned("The model is small."))

    outcome = await run(
        given.conversation,
        model=given.model,
        tools=given.tools,
        tool_set=given.tool_set,
        policy=given.policy,
        limits=given.limits,
        emit=given.recorder.emit,
        tally=given.tally,
        options=RunOptions(clock=given.clock, started_at=-10.0),
    )

    assert outcome == events.Outcome(
        "answered", "Hello.", "", "tiny", 1, 0, Usage(10, 1, 0), seconds=11.5, warnings=("The model is small.",)
    )


# -- what an answer rests on --------------------------------------------------------------------

CODE = ToolResult("first\ncode juniper-4781")
WRONG = say("It is juniper-1111.")


async def test_facts_of_the_answer_are_told_with_the_line_where_they_were_read() -> None:
    given = case(CALLED, say("It is juniper-4781."), tools=read_tools(CODE))

    outcome = await given.go()

    assert given.recorder.of(events.AnswerChecked) == [events.AnswerChecked(("juniper-4781 \u2190 a.txt:2",), (), "")]
    assert (outcome.rests_on, outcome.missing) == (("juniper-4781 \u2190 a.txt:2",), ())
    assert outcome.rounds == 2


async def test_model_is_asked_once_about_a_fact_that_was_not_read() -> None:
    given = case(CALLED, WRONG, say("It is juniper-4781."), tools=read_tools(CODE))

    outcome = await given.go()

    assert given.model.asked[2].messages[-1] == UserMessage(NOT_IN_RESULTS.format(facts="juniper-1111"))
    assert (outcome.stop, outcome.answer, outcome.missing) == ("answered", "It is juniper-4781.", ())


@pytest.mark.parametrize(
    ("replies", "limit", "rounds"),
    [
        pytest.param([CALLED, WRONG, WRONG], 10, 3, id="the same again"),
        pytest.param([CALLED, WRONG, WRONG], 3, 3, id="asked about in the last round"),
        pytest.param([CALLED, WRONG, WRONG], 2, 2, id="not asked about, because the last round gave it"),
        pytest.param([CALLED, WRONG, say(""), say(""), say("")], 10, 5, id="no other answer came"),
        pytest.param([WRONG], 10, 1, id="not asked about before any call"),
    ],
)
async def test_fact_that_was_not_read_is_reported_with_the_answer(
    replies: list[Reply], limit: int, rounds: int
) -> None:
    outcome = await case(*replies, tools=read_tools(CODE), limits=limits(limit)).go()

    assert outcome.stop == ("round_limit" if rounds == limit else "answered")
    assert (outcome.answer, outcome.rounds, outcome.missing) == ("It is juniper-1111.", rounds, ("juniper-1111",))


# -- what the task wants and the answer has not ---------------------------------------------------


@pytest.mark.parametrize(
    ("task", "access", "first", "asked"),
    [
        ("Set debug to false in a.json, and tell me the size.", "write", "The size is 7.", True),
        ("Set debug to false in a.json, and tell me the size.", "read", "The size is 7.", False),
        ("Set debug to false in a.json, and tell me the size.", "write", "There is no a.json.", False),
        ("Set debug to false in a.json, and tell me the size.", "write", "It is false already.", False),
        ("Tell me the size in a.json.", "write", "The size is 7.", False),
    ],
)
async def test_a_model_that_stops_without_the_change_is_asked_for_it_once(
    task: str, access: Access, first: str, asked: bool
) -> None:
    given = case(say(first), say(first))
    given.tally.add(events.RunStarted("r", task, (), 10, "2026-01-01T00:00:00Z", access=access))

    outcome = await given.go()

    assert (outcome.stop, outcome.answer) == ("answered", first)
    assert [turn.messages[-1] for turn in given.model.asked[1:]] == [UserMessage(NOT_CHANGED)] * asked


RULED = "What is the code in b.txt? If it is not there, answer with the one word ABSENT."


@pytest.mark.parametrize(
    ("first", "asked"), [("There is no such file.", True), ("ABSENT", False), ("The code is juniper-4781.", False)]
)
async def test_an_answer_that_denies_in_other_words_than_the_task_wants_is_asked_for_those(
    first: str, asked: bool
) -> None:
    given = case(say(first), say("ABSENT"))
    given.conversation = Conversation((OPENING[0], UserMessage(RULED)))

    assert (await given.go()).answer == ("ABSENT" if asked else first)
    rule = "If it is not there, answer with the one word ABSENT."
    assert [turn.messages[-1].text for turn in given.model.asked[1:]] == [ANSWER_IN_FORM.format(rule=rule)] * asked


async def test_fact_in_the_part_of_a_result_that_was_cut_is_found() -> None:
    long = ToolResult("x" * 5_000 + "\njuniper-4781\n" + "y" * 5_000)
    given = case(CALLED, say("juniper-4781"), tools=read_tools(long), limits=limits(5, chars=500))

    assert (await given.go()).rests_on == ("juniper-4781 \u2190 a.txt:2",)


# -- replies that are no answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [READ_A, f"Here:\n{READ_A}", f"```json\n{READ_A}\n```"])
@pytest.mark.parametrize("access", ["read", "write"])
async def test_arguments_without_a_call_are_asked_for_as_bound_json(bare: str, access: Access) -> None:
    def given(*replies: object, first: Sequence[Completion] = (), rounds: int = 10) -> Case:
        then = [say(json.dumps(each)) for each in replies]
        made = case(*first, say(bare), *then, tools=read_tools(), limits=limits(rounds))
        made.tally.add(events.RunStarted("r", "Sum up a.txt.", (), 10, "2026-01-01T00:00:00Z", access=access))
        return made

    called = await given({"call": "fs__read", "arguments": {"path": "a.txt"}}, {"answer": "It is teal."}).go()
    meant = given({"answer": bare}, first=[CALLED])
    last = given({"answer": "It is unknown."}, rounds=1)
    lost = await given(*[{"path": "a.txt"}] * 8).go()

    assert (called.stop, called.answer, called.calls) == ("answered", "It is teal.", 1)
    assert ((await meant.go()).answer, len(meant.model.asked)) == (bare, 3)
    assert ((await last.go()).answer, len(last.model.asked)) == ("It is unknown.", 2)
    assert (lost.stop, lost.answer) == ("stuck", "")
    assert "a tool call as text" in lost.error


@pytest.mark.parametrize("rounds", [1, 2, 3, 10])
async def test_a_model_that_only_gives_back_the_words_of_the_bridge_is_stuck(rounds: int) -> None:
    outcome = await case(*[say(f"{EMPTY_TURN} {ANSWER_NOW}")] * 3, limits=limits(rounds)).go()

    assert (outcome.stop, outcome.answer) == ("stuck", "")
    assert outcome.error == "The model only repeated the task or the bridge's own words, so there is no answer."


async def test_a_sentence_of_a_result_that_sounds_like_a_plan_is_an_answer() -> None:
    note = "I will read the file tomorrow."
    given = case(CALLED, say(note), tools=FakeTools({("fs", "read"): ToolResult(f"Dear Ada, {note}")}))

    outcome = await given.go()

    assert (outcome.stop, outcome.answer) == ("answered", note)


async def test_reasoning_without_an_answer_is_asked_for_once_more_and_no_reminders_follow() -> None:
    thought = Completion("", "So it is teal.", finish_reason="stop", model="tiny", usage=Usage(10, 5, 5))
    given = case(thought, thought)

    outcome = await given.go()

    assert (outcome.stop, outcome.answer, len(given.model.asked)) == ("stuck", "So it is teal.", 2)


@pytest.mark.parametrize("rounds", [1, 2])
async def test_the_words_before_a_call_in_the_last_round_are_no_answer(rounds: int) -> None:
    read = Completion(
        "Let me read it.", calls=(ToolCall("c1", "fs__read", READ_A),), finish_reason="tool_calls", model="tiny"
    )
    tools = FakeTools({("fs", "read"): HELLO})
    assert (await case(*[read] * 4, tools=tools, limits=limits(rounds)).go()).stop == "stuck"
    assert len(tools.sent) == rounds - 1


# -- changes ----------------------------------------------------------------------------------------------------


class Watch:
    """A `ChangeWatch` that notes what it saw; if it hangs, its comparison never comes to an end."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.seen: list[tuple[str, object]] = []
        self._hangs = hangs

    async def before_call(self, tool: ServerTool, arguments: JSONObject) -> Held:
        self.seen.append((tool.name, arguments))
        return {}

    async def holds(self, tool: ServerTool, arguments: JSONObject, text: str) -> None: ...

    async def effect(self, tool: ServerTool, held: Held) -> None: ...

    async def left(self, held: Held, edits: Collection[tuple[str, str]]) -> None: ...

    async def finish(self) -> events.FilesChanged | None:
        if self._hangs:
            await asyncio.Event().wait()
        return events.FilesChanged("/work", ())


async def test_only_calls_that_write_are_watched_and_what_changed_is_told_before_the_end() -> None:
    watch = Watch()
    tools = FakeTools({("fs", "read"): HELLO, ("fs", "write"): HELLO})
    calls = call(("fs__read", '{"path": "a"}'), ("fs__write", '{"path": "b"}'))
    given = case(calls, say("Done."), tools=tools, watch=watch)

    await given.go()

    assert watch.seen == [("write", {"path": "b"})]
    assert [type(event) for event in given.recorder.events[-2:]] == [events.FilesChanged, events.RunFinished]


async def test_what_changed_is_told_when_the_run_is_cancelled() -> None:
    given = case(Streamed(()), watch=Watch())

    task = asyncio.create_task(given.go())
    await given.model.waiting.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert [type(event) for event in given.recorder.events[-2:]] == [events.FilesChanged, events.RunFinished]


async def test_comparison_that_takes_too_long_is_said_and_does_not_hold_up_the_end() -> None:
    got = await case(say("Done."), watch=Watch(hangs=True), finish_timeout=0.01).go()

    assert got.stop == "answered"
    assert "took too long to compare" in got.notes[0]
