"""One request, mended: what is sent again, in which form, how often, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lmstudio_bridge import errors
from lmstudio_bridge.agent.arguments import is_readable
from lmstudio_bridge.agent.conversation import Compactor, Conversation
from lmstudio_bridge.agent.json_calls import NATIVE, Strategy
from lmstudio_bridge.agent.model_request import ModelRequester
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.prompts import FAILED, FOUND_NOTHING
from lmstudio_bridge.agent.repetition import Step
from lmstudio_bridge.agent.reply_checks import ENDLESS, LOST_CALL, classify_reply, plain_turns
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.events import Noticed, ResultsShrunk, RoundFinished, RoundStarted
from lmstudio_bridge.lmstudio.tool_call_parsers import split_reasoning
from lmstudio_bridge.messages import (
    AssistantMessage,
    CallDelta,
    ChatModel,
    ChatRequest,
    Completion,
    Delta,
    Message,
    Notice,
    OnNotice,
    OnRetry,
    ReasoningDelta,
    SystemMessage,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Usage,
    UserMessage,
)
from tests.support.fakes import Asked, ManualClock, Recorder, Reply, ScriptedModel, Streamed, call, say

READ = ToolSpec("fs__read", "Reads.", {"type": "object", "properties": {"path": {"type": "string", "enum": ["a"]}}})
OPENING: tuple[Message, ...] = (SystemMessage("Use tools."), UserMessage("What is in the file?"))
WEAK = Strategy("grammar", Step.ANSWER_NOW, "for these tests")
CALLED = AssistantMessage("", (ToolCall("c1", "fs__read", "{}"),))
ANSWER = say("Hello.")
ANNOUNCED = say("Let me read it first:")
LOST = Completion("I'll look.", finish_reason="stop", model="tiny", usage=Usage())
THOUGHT = Completion("", "Hm", finish_reason="stop", model="tiny", usage=Usage(10, 1, 1))
CUT_THOUGHT = Completion("", "Hm", finish_reason="length", model="tiny", usage=Usage(10, 1, 1))


@dataclass
class Case:
    """A requester with its model, its conversation, and what it told."""

    model: ChatModel
    max_tokens: int | None = None
    strategy: Strategy = NATIVE
    history: Sequence[Message] = OPENING
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.history)
        self.requester = ModelRequester(
            self.model,
            compactor=Compactor(self.conversation, store=ResultStore(10_000), tell=self.recorder.emit),
            tell=self.recorder.emit,
            limits=Limits(5, 3_600, 10_000, max_tokens=self.max_tokens),
            options=RunOptions(
                strategy=self.strategy, filters=TextFilters(split_reasoning=split_reasoning), clock=ManualClock()
            ),
        )

    async def ask(self, number: int = 1, *, offered: Sequence[ToolSpec] = (READ,)) -> Completion:
        return await self.requester.request(number, self.conversation, offered)

    def told(self) -> list[str]:
        return [event.notice.text for event in self.recorder.of(Noticed)]


def case(*replies: Reply, **settings: object) -> tuple[Case, list[Asked]]:
    """The case, and the requests as the model got them."""
    model = ScriptedModel(*replies)
    return Case(model, **settings), model.asked  # type: ignore[arg-type]  # as the fields say


async def test_a_good_reply_costs_one_request_and_is_told_once() -> None:
    given, asked = case(ANSWER)

    assert await given.ask() == ANSWER
    assert asked == [Asked(OPENING, (READ,))]
    assert given.recorder.events == [
        RoundStarted(1, 5, 1),
        RoundFinished(1, "Hello.", "", (), "stop", "tiny", Usage(10, 1, 0), 0.0),
    ]


@pytest.mark.parametrize(
    ("text", "requests"),
    [('{"tool": "fs__read", "calls": 3}', 1), ('{"name": "fs__read", "arguments": {"path": "a"}}', 2)],
)
async def test_json_about_tools_is_an_answer_and_a_call_as_json_is_asked_for_again(text: str, requests: int) -> None:
    history = (SystemMessage("Use tools."), UserMessage("Which tool was called most? As JSON."))
    given, asked = case(say(text), say('{"answer": "It is 5."}'), history=history)

    await given.requester.request(1, given.conversation, (READ,), names=[READ.name])

    assert len(asked) == requests


@pytest.mark.parametrize(
    ("text", "must"), [(f"{FAILED}ENOENT", True), (f"[]\n{FOUND_NOTHING}", True), ("It is 5.", False)]
)
async def test_a_model_that_is_asked_for_json_must_call_again_while_nothing_came_of_its_calls(
    text: str, must: bool
) -> None:
    history = (*OPENING, CALLED, ToolMessage("c1", text))
    given, asked = case(say('{"call": "fs__read", "arguments": {}}'), history=history, strategy=WEAK)

    await given.ask(2)

    assert ('"answer"' in json.dumps(asked[0].response_schema)) is not must


# -- lost calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [LOST, ANNOUNCED, errors.LostToolCallError("It does not match the expected format.")])
async def test_a_lost_call_is_asked_for_again_unchanged(fault: Reply) -> None:
    given, asked = case(fault, call(("fs__read", "{}")))

    reply = await given.ask()

    assert [each.name for each in reply.calls] == ["fs__read"]
    assert asked == [Asked(OPENING, (READ,))] * 2
    assert len(given.told()) == 1


async def test_a_server_that_never_counts_tokens_has_its_second_answer_taken() -> None:
    uncounted = Completion("It is 5.", usage=Usage(0, 0, 0), finish_reason="stop")
    given, asked = case(uncounted, uncounted)

    assert (await given.ask(), len(asked)) == (Completion("It is 5.", finish_reason="stop"), 2)


async def test_a_call_that_is_lost_however_it_is_asked_for_counts_as_lost_and_not_as_an_error() -> None:
    error = errors.LostToolCallError("It does not match the expected format.")
    given, asked = case(error, error, say("No JSON."), error)

    assert (await given.ask(), len(asked)) == (Completion("", finish_reason=LOST_CALL), 4)


async def test_each_round_has_its_own_second_try() -> None:
    given, asked = case(LOST, ANSWER, LOST, ANSWER)

    assert [await given.ask(number) for number in (1, 2)] == [ANSWER, ANSWER]
    assert len(asked) == 4


SAID = Completion("The colour is teal.", finish_reason="tool_calls", model="tiny", usage=Usage(10, 5))
LEAKED = say('I will read it.\n@@fs__read {"path": "a"}')


async def test_a_reply_that_ends_in_calls_without_one_is_asked_for_again_once() -> None:
    given, asked = case(SAID, ANSWER)

    assert (await given.ask(), len(asked)) == (ANSWER, 2)


async def test_a_server_that_says_calls_of_every_reply_has_its_second_answer_taken() -> None:
    given, asked = case(SAID, SAID)

    reply = await given.ask()

    assert (reply.text, reply.finish_reason, len(asked)) == ("The colour is teal.", "stop", 2)


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_server_that_takes_no_tools_is_asked_for_bound_json_at_once(refused: int) -> None:
    error = errors.ToolsUnsupportedError("The server does not accept tools for this model.")
    given, asked = case(error, say('{"answer": "Teal."}')) if refused == 1 else case(error, error)

    if refused == 1:
        assert (await given.ask()).text == "Teal."
        assert given.told() == ["The server does not accept tools for this model; using schema-constrained JSON"]
    else:
        with pytest.raises(errors.ToolsUnsupportedError):
            await given.ask()
    assert [bool(each.tools) for each in asked] == [True, False]


# -- calls that are cut off -------------------------------------------------------------------------------------------


def cut(arguments: str, *before: ToolCall) -> Completion:
    """A reply that reached the limit of tokens in the arguments of its last call."""
    calls = (*before, ToolCall("c9", "fs__read", arguments))
    return Completion("", calls=calls, finish_reason="length", model="tiny", usage=Usage(10, 100))


@pytest.mark.parametrize("arguments", ["", "{", '{"path": "a', '{"path": "a"}{"pa', "{'path': 'a'"])
async def test_a_call_that_was_cut_off_gets_more_tokens_until_it_is_whole(arguments: str) -> None:
    whole = call(("fs__read", '{"path": "a"}'))
    given, asked = case(cut(arguments), cut(arguments), whole, max_tokens=100)

    assert await given.ask() == whole
    assert [each.max_tokens for each in asked] == [100, 200, 400]


@pytest.mark.parametrize(
    ("limit", "asked_with"),
    [(8_191, [8_191, 16_382, 16_384]), (8_192, [8_192, 16_384]), (8_193, [8_193, 16_384]), (16_384, [16_384])],
)
async def test_a_call_that_stays_cut_off_is_refused_at_the_cap_and_never_run(limit: int, asked_with: list[int]) -> None:
    given, asked = case(*[cut("", *CALLED.calls)] * 3, max_tokens=limit)

    reply = await given.ask()

    assert [each.max_tokens for each in asked] == asked_with
    assert reply.calls[0] == CALLED.calls[0], "the calls before it are whole"
    assert not is_readable(reply.calls[1].arguments)


async def test_a_whole_call_at_the_limit_of_tokens_is_taken() -> None:
    given, asked = case(cut('{"path": "a"}'), max_tokens=100)

    assert (await given.ask(), len(asked)) == (cut('{"path": "a"}'), 1)


async def test_a_call_that_was_cut_off_in_bound_json_gets_more_tokens() -> None:
    begun = Completion('{"call": "fs__read", "argum', finish_reason="length", model="tiny", usage=Usage(10, 100))
    given, asked = case(begun, say('{"call": "fs__read", "arguments": {}}'), max_tokens=100, strategy=WEAK)

    assert [each.name for each in (await given.ask()).calls] == ["fs__read"]
    assert [each.max_tokens for each in asked] == [100, 200]


# -- all thinking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "raised", "effort"),
    [
        (100, 200, None),
        (8_191, 16_382, None),
        (8_192, 16_384, None),
        (8_193, 16_384, None),
        (16_383, 16_384, None),
        (16_384, 16_384, "low"),
        (16_385, 16_385, "low"),
        (None, None, "low"),
    ],
)
async def test_a_thought_that_was_cut_off_gets_more_tokens_up_to_a_limit(
    limit: int | None, raised: int | None, effort: str | None
) -> None:
    given, asked = case(CUT_THOUGHT, ANSWER, max_tokens=limit)

    assert await given.ask() == ANSWER
    assert asked[1] == Asked(OPENING, (READ,), raised, effort)


async def test_a_thought_that_ended_by_itself_is_asked_for_less() -> None:
    given, asked = case(THOUGHT, THOUGHT, ANSWER, max_tokens=100)

    assert await given.ask() == THOUGHT
    assert await given.ask(2) == ANSWER
    assert [each.reasoning_effort for each in asked] == [None, "low", "low"]


# -- a full context -------------------------------------------------------------------------------------------------


def read_much(*sizes: int) -> tuple[Message, ...]:
    turns: list[Message] = []
    for size in sizes:
        turns += [CALLED, ToolMessage("c1", "x" * size)]
    return (*OPENING, *turns)


@pytest.mark.parametrize(
    ("error", "room"),
    [
        (errors.ContextOverflowError("Full.", needed=9_000, available=1_000), 1_800),
        (errors.ContextOverflowError("Full."), None),
    ],
)
async def test_a_full_context_is_made_room_in_once(error: errors.ContextOverflowError, room: int | None) -> None:
    given, asked = case(error, ANSWER, history=read_much(4_000, 1_000))
    before = given.conversation.size()

    assert await given.ask() == ANSWER
    assert given.conversation.size() <= (room or before * 0.6)
    assert asked[1].messages == given.conversation.messages != asked[0].messages
    assert [event.places for event in given.recorder.of(ResultsShrunk)] == [(3,)]
    assert len(given.told()) == 1


async def test_a_full_context_without_anything_to_shorten_is_never_sent_again() -> None:
    given, asked = case(errors.ContextOverflowError("Full."))

    with pytest.raises(errors.ContextOverflowError):
        await given.ask()

    assert (len(asked), given.told()) == (1, [])


# -- templates ------------------------------------------------------------------------------------------------------


async def test_a_template_that_refuses_the_messages_gets_plain_turns_from_then_on() -> None:
    given, asked = case(errors.TemplateError("No."), ANSWER, ANSWER, history=read_much(5))

    assert [await given.ask(number) for number in (1, 2)] == [ANSWER, ANSWER]
    plain = tuple(plain_turns(given.conversation.messages))
    assert [each.messages for each in asked] == [given.conversation.messages, plain, plain]


# -- schemas --------------------------------------------------------------------------------------------------------


@dataclass
class PickyModel:
    """A model that refuses a request with one of the `bad` tools, or with more than `most` of them."""

    bad: Collection[str] = ()
    most: int = 1_000
    rich: bool = True  # takes enums
    asked: list[list[str]] = field(default_factory=list)

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: Callable[[Delta], Awaitable[None]] | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        names = [tool.name for tool in request.tools]
        self.asked.append(names)
        if set(self.bad) & set(names) or len(names) > self.most or not (self.rich or "enum" not in str(request.tools)):
            raise errors.ToolSchemaError("Failed to parse grammar.")
        return ANSWER


def tools(count: int) -> list[ToolSpec]:
    return [ToolSpec(f"fs__t{number}", "A tool.", READ.parameters) for number in range(count)]


@pytest.mark.parametrize("bad", [["fs__t0"], ["fs__t31"], ["fs__t3", "fs__t17"], ["fs__t4", "fs__t5", "fs__t6"]])
async def test_bad_tools_are_found_by_halving_named_and_left_out_from_then_on(bad: list[str]) -> None:
    given = Case(model := PickyModel(bad=bad))
    offered = tools(32)

    assert [await given.ask(number, offered=offered) for number in (1, 2)] == [ANSWER, ANSWER]
    good = [spec.name for spec in offered if spec.name not in bad]
    assert model.asked[-2:] == [good, good]
    assert len(model.asked) <= 4 + 40
    assert given.told()[-1] == f"Tools left out because the engine rejected their schemas: {', '.join(sorted(bad))}."


@pytest.mark.parametrize(
    "model", [PickyModel(bad=[f"fs__t{number}" for number in range(4)]), PickyModel(bad=["fs__t0"], most=0)]
)
async def test_where_every_tool_is_bad_the_error_comes_out(model: PickyModel) -> None:
    with pytest.raises(errors.ToolSchemaError):
        await Case(model).ask(offered=tools(4))


async def test_where_no_single_tool_is_bad_the_error_comes_out() -> None:
    with pytest.raises(errors.ToolSchemaError):
        await Case(PickyModel(most=3)).ask(offered=tools(4))


async def test_the_search_for_bad_tools_has_an_end() -> None:
    model = PickyModel(bad=[f"fs__t{number}" for number in range(0, 400, 2)])
    given = Case(model)

    with pytest.raises(errors.ToolSchemaError):
        async with asyncio.timeout(60):
            await given.ask(offered=tools(400))

    assert len(model.asked) <= 3 + 40  # twice for the round, once more without those found


# -- what cannot be mended here -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelLostError("Gone."),
        errors.ModelLoadError("Too large."),
        errors.ServerBusyError("Busy."),
        errors.LLMTimeoutError("Silent."),
    ],
)
async def test_an_error_that_a_changed_request_does_not_help_comes_out_at_once(error: errors.LLMError) -> None:
    given, asked = case(error)

    with pytest.raises(errors.LLMError) as caught:
        await given.ask()

    assert caught.value is error
    assert (len(asked), given.told()) == (1, [])


# -- the text so far ------------------------------------------------------------------------------------------------


async def test_the_text_so_far_is_that_of_the_newest_reply_without_its_thinking() -> None:
    pieces = (ReasoningDelta("Hm"), TextDelta("<think>well</think>It "), TextDelta("is "))
    given, _ = case(Streamed(pieces, errors.ModelLostError("Gone.")))

    with pytest.raises(errors.ModelLostError):
        await given.ask()

    assert given.requester.partial_text() == "It is"


async def test_a_whole_reply_leaves_no_text_under_way() -> None:
    given, _ = case(Streamed((TextDelta("Hel"), TextDelta("lo.")), ANSWER))

    await given.ask()

    assert given.requester.partial_text() == ""


class BreakingModel(ScriptedModel):
    """A model that breaks off after each of its texts, says so, and goes on; in the end it fails."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self._texts = texts

    async def stream_chat_completion(self, request: ChatRequest, **given: Any) -> Completion:
        for text in self._texts:
            if text:
                await given["on_delta"](TextDelta(text))
            await given["on_notice"](Notice("recovery", "Lost."))
        raise errors.ModelLoadError("It cannot be loaded any more.")


@pytest.mark.parametrize(
    ("texts", "so_far"), [(["It is"], "It is"), (["It is", ""], "It is"), (["It is", "They are"], "They are")]
)
async def test_a_broken_text_is_kept_until_the_next_one_comes(texts: list[str], so_far: str) -> None:
    """It may be the last: the model may not be got back."""
    given = Case(BreakingModel(*texts))

    with pytest.raises(errors.ModelLoadError):
        await given.ask()

    assert given.requester.partial_text() == so_far
    assert given.told() == ["Lost."] * len(texts)


async def test_an_engine_that_ignores_the_grammar_is_insisted_on_a_call_only_once_a_round() -> None:
    answer = say('{"answer": "Blue."}')
    history = (SystemMessage("Use tools."), UserMessage("What is in notes.txt?"))
    given, asked = case(answer, answer, strategy=WEAK, history=history)

    assert (await given.ask()).text == "Blue."
    assert len(asked) == 2


# -- replies that repeat themselves without end ------------------------------------------------------------------------

ENDLESS_TEXT = "It is teal. " + "lantern " * 2_000


def streamed(text: str, kind: type[TextDelta] | type[ReasoningDelta] = TextDelta, *, size: int = 8) -> Streamed:
    """The text in pieces, and then nothing: a reader that goes on would wait for ever."""
    return Streamed(tuple(kind(text[at : at + size]) for at in range(0, len(text), size)))


@pytest.mark.parametrize("kind", [TextDelta, ReasoningDelta])
@pytest.mark.parametrize("size", [1, 8, 333, 100_000])
async def test_a_reply_that_repeats_itself_is_not_read_to_its_end_and_asked_for_once_more(
    kind: type[TextDelta] | type[ReasoningDelta], size: int
) -> None:
    given, asked = case(streamed(ENDLESS_TEXT, kind, size=size), ANSWER, max_tokens=500)

    assert await given.ask() == ANSWER
    assert [(each.max_tokens, each.temperature) for each in asked] == [(500, None), (500, 0.8)]
    assert given.told() == ["The model repeated the same words without end; retrying the request."]
    told = [event.text for event in given.recorder.of(RoundFinished)]
    assert told == ["It is teal." if kind is TextDelta else "", "Hello."]


async def test_a_reply_that_repeats_itself_again_is_given_up() -> None:
    arguments = Streamed((CallDelta(0, "fs__read", '{"path": "'), *[CallDelta(0, "", "../" * 100)] * 9))
    given, asked = case(streamed("no " * 999), arguments)

    reply = await given.ask()

    assert (reply.text, reply.calls, reply.finish_reason, len(asked)) == ("", (), ENDLESS, 2)
    assert classify_reply(reply, tools_offered=True) == "endless"


@pytest.mark.parametrize(
    "cut",
    [
        Completion(ENDLESS_TEXT.strip(), finish_reason="length"),
        Completion("", "Wait, no. " * 200, finish_reason="length"),
        Completion("", calls=(ToolCall("c1", "fs__read", '{"path": "' + "a/" * 2_000),), finish_reason="length"),
    ],
)
async def test_a_cut_reply_that_repeats_itself_gets_no_more_room(cut: Completion) -> None:
    given, asked = case(cut, ANSWER, max_tokens=500)

    assert await given.ask() == ANSWER
    assert [each.max_tokens for each in asked] == [500, 500]


@pytest.mark.parametrize(("rows", "is_copy"), [(120, True), (121, False)])
async def test_equal_rows_that_were_read_may_be_copied(rows: int, is_copy: bool) -> None:
    row = "| closed | no service |\n"
    log = row * 120
    reply = Completion("", calls=(ToolCall("c1", "fs__read", '{"path": "' + row.replace("\n", "\\n") * rows),))
    cut = replace(reply, finish_reason="length")
    history = (SystemMessage("Use tools."), UserMessage(f"Copy it:\n{log}"))
    given, _ = case(cut, ANSWER, history=history, max_tokens=16_384)

    assert bool((await given.ask()).calls) is is_copy


async def test_bound_json_that_repeats_itself_is_known_too() -> None:
    text = json.dumps({"answer": ENDLESS_TEXT}).removesuffix('"}')
    given, asked = case(streamed(text), Completion(text, finish_reason="length"), strategy=WEAK, max_tokens=500)

    reply = await given.ask()

    assert (reply.text, reply.finish_reason, len(asked)) == ("It is teal.", ENDLESS, 2)
