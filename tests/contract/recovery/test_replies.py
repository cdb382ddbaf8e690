"""Replies that look like answers and are none, and calls that must reach the tool as they were meant."""

from __future__ import annotations

import json

import pytest

from tests.contract.recovery.workshop import STRONG, WEAK, Worked, Workshop, schema_of
from tests.contract.recovery.workshop_server import value_of
from tests.lmstudio_sim.errors import openai_error
from tests.lmstudio_sim.replies import CallReply, EndlessReply, HttpReply, LengthReply, ReasoningReply, TextReply

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUE = value_of("heron")
RIGHT = f"It is {VALUE}."
LOOK_UP = CallReply(("shop__look_up", {"key": "heron"}))
HINT = "The name may be wrong; use it exactly as the task gives it."
LEAKS = {
    "prose and bare JSON": 'I look.\n\n{"name": "shop__look_up", "arguments": {"key": "heron"}}',
    "a code block": 'I look.\n```json\n{"tool": "look_up", "args": {"key": "heron"}}\n```',
    "an invented notation": 'First this.\n\u00a7\u00a7shop__look_up\u00a7 {"key": "heron"} \u00a7\u00a7',
    "an action": "Action: shop__look_up\nAction Input: heron",
}


def bound(**reply: object) -> TextReply:
    return TextReply(json.dumps(reply))


def history_is_valid(worked: Worked) -> bool:
    """Whether all arguments that were replayed are valid JSON objects."""
    replayed = [
        call["function"]["arguments"]
        for request in worked.requests
        for message in request.messages
        for call in message.get("tool_calls") or ()
    ]
    return bool(replayed) and all(isinstance(json.loads(text), dict) for text in replayed)


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
async def test_a_call_in_the_text_is_asked_for_again_then_as_bound_json(workshop: Workshop, leak: str) -> None:
    text = TextReply(leak)

    once = await workshop.run(STRONG, text, LOOK_UP, TextReply(RIGHT))
    twice = await workshop.run(
        STRONG, text, text, bound(call="shop__look_up", arguments={"key": "heron"}), bound(answer=RIGHT)
    )

    for worked in (once, twice):
        assert (worked.stop, worked.ran) == ("answered", ["look_up heron"])
        assert worked.answer.said.startswith(RIGHT)


async def test_the_arguments_of_a_call_alone_are_asked_for_as_bound_json(workshop: Workshop) -> None:
    bare = '{"key": "heron"}'
    called = bound(call="shop__look_up", arguments={"key": "heron"})

    lost = await workshop.run(STRONG, TextReply(bare), called, bound(answer=RIGHT))
    wanted = await workshop.run(STRONG, TextReply(bare), task="What is the heron's entry? As JSON.")

    assert (lost.stop, lost.ran, lost.answer.said.startswith(RIGHT)) == ("answered", ["look_up heron"], True)
    assert (wanted.stop, wanted.answer.said.startswith(bare)) == ("answered", True)


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("model", [STRONG, WEAK])
async def test_a_call_in_the_text_is_never_the_answer_of_the_last_round(
    workshop: Workshop, leak: str, model: str
) -> None:
    def reply(request: object) -> TextReply:
        return bound(answer=leak) if schema_of(request) else TextReply(leak)  # type: ignore[arg-type]

    worked = await workshop.run(model, function=reply, max_rounds=1)

    assert worked.stop == "stuck"
    assert worked.answer.text.startswith("The model got stuck.")
    assert "look_up" not in worked.answer.text.partition("\n[")[0]


HEAD = "1 line in 1 file; 1 file searched in the working folder:"


A_TOOL = "- shop__look_up(key: string): Gives the value of a key."


@pytest.mark.parametrize("words", [HINT, HEAD, A_TOOL])
async def test_the_words_of_the_bridge_are_never_the_answer(workshop: Workshop, words: str) -> None:
    task = "What is the code of the heron in birds.txt?"

    again = await workshop.run(STRONG, LOOK_UP, TextReply(words), TextReply(RIGHT), task=task)
    stuck = await workshop.run(STRONG, LOOK_UP, function=lambda _: TextReply(words), task=task)

    assert (again.stop, again.answer.said.startswith(RIGHT)) == ("answered", True)
    assert stuck.stop == "stuck"
    assert "only repeated the task or the bridge's own words" in stuck.answer.text
    assert words not in stuck.answer.text


async def test_an_answer_that_is_only_in_the_reasoning_is_given_with_a_note(workshop: Workshop) -> None:
    worked = await workshop.run(STRONG, LOOK_UP, function=lambda _: ReasoningReply(f"So {RIGHT}", finish_reason="stop"))

    assert worked.stop == "stuck"
    assert worked.answer.said.startswith(f"So {RIGHT}")
    assert "all reasoning" in worked.answer.told


async def test_a_call_that_was_cut_off_gets_more_room(workshop: Workshop) -> None:
    half = LengthReply("", ("shop__look_up", '{"key": "her'))

    worked = await workshop.run(STRONG, half, LOOK_UP, TextReply(RIGHT), max_tokens=500)

    assert (worked.stop, worked.ran) == ("answered", ["look_up heron"])
    assert [(request.json or {})["max_tokens"] for request in worked.requests] == [500, 1000, 1000]


@pytest.mark.parametrize("half", ["", '{"key": "her'])
async def test_half_a_call_is_never_run(workshop: Workshop, half: str) -> None:
    replies = [LengthReply("", ("shop__look_up", half))] * 2

    worked = await workshop.run(STRONG, *replies, TextReply("I could not."), max_tokens=8_192)

    assert (worked.ran, history_is_valid(worked)) == ([], True)


@pytest.mark.parametrize(
    "message",
    [
        "registry.ollama.ai/library/some-model does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    ],
)
async def test_a_server_that_takes_no_tools_is_asked_for_bound_json(workshop: Workshop, message: str) -> None:
    refusal = HttpReply(400, openai_error(message))

    worked = await workshop.run(
        STRONG, refusal, bound(call="shop__look_up", arguments={"key": "heron"}), bound(answer=RIGHT)
    )

    assert (worked.stop, worked.ran) == ("answered", ["look_up heron"])
    assert any("does not accept tools" in text for text in worked.notices("strategy"))


@pytest.mark.parametrize("sent", ["", "{'key': 'heron'}", '{"key": "her', '{"key": "a"} {"key"', "null"])
async def test_the_history_holds_only_valid_arguments(workshop: Workshop, sent: str) -> None:
    worked = await workshop.run(STRONG, CallReply(("shop__look_up", sent)), LOOK_UP, TextReply(RIGHT))

    assert worked.stop == "answered"
    assert history_is_valid(worked)


@pytest.mark.parametrize("written", ["1.10", "1e5", "true", '{"a":  1.10}', "[1, 2.0]"])
async def test_a_value_for_a_string_reaches_the_tool_as_it_was_written(workshop: Workshop, written: str) -> None:
    worked = await workshop.run(STRONG, CallReply(("functions.look_up:0", f'{{"key":{written}}}')), TextReply("Done."))

    assert (worked.stop, worked.ran) == ("answered", [f"look_up {written}"])


async def test_a_model_that_repeats_a_word_without_end_is_stopped_asked_again_and_then_given_up(
    workshop: Workshop,
) -> None:
    lantern = EndlessReply("lantern ")
    once = await workshop.run(STRONG, LOOK_UP, lantern, TextReply(RIGHT))
    twice = await workshop.run(STRONG, lantern, lantern)

    assert (once.stop, once.answer.said.startswith(RIGHT)) == ("answered", True)
    assert twice.stop == "stuck"
    assert "repeated the same words without end" in twice.answer.text
    assert "lantern" not in twice.answer.text
    assert [request.disconnected for request in twice.requests] == [True, True]
    assert all(request.tokens_sent < 5_000 for request in twice.requests)
