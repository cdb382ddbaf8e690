"""How a model is asked, by what it is good for; and what helps it with big results and many tools."""

from __future__ import annotations

import json

import pytest

from tests.contract.recovery.workshop import (
    STRONG,
    TIGHT,
    WEAK,
    Worked,
    Workshop,
    may_answer,
    offered,
    said,
    schema_of,
)
from tests.contract.recovery.workshop_server import NEEDLE, big_text, value_of
from tests.lmstudio_sim.errors import plain_error
from tests.lmstudio_sim.leaks import LEAK_FORMATS, LeakFormat, render_leak
from tests.lmstudio_sim.replies import CallReply, HttpReply, LeakReply, TextReply
from tests.support.desk import unfenced
from tests.support.journals import events_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUE = value_of("heron")
ANSWER = TextReply(f"It is {VALUE}.")
HERON = {"key": "heron"}
LOOK_UP = CallReply(("shop__look_up", HERON))
LOOK = "The model answered without calling a tool; retrying with a tool call required."
ANNOUNCED = "The model announced a tool call but made none; retrying the request."
WRITTEN = "The model wrote a tool call as text; retrying the request."
REFUSED = "'response_format.type' must be 'json_schema' or 'text'"


def bound(**reply: object) -> TextReply:
    return TextReply(json.dumps(reply))


BOUND_LOOK_UP = bound(call="shop__look_up", arguments=HERON)
BOUND_ANSWER = bound(answer=f"It is {VALUE}.")


def is_right(worked: Worked) -> bool:
    return worked.answer.said.startswith(f"It is {VALUE}.") and worked.stop == "answered"


def is_told(worked: Worked, strategy: str) -> bool:
    """Whether the way of asking stands in the journal, and reached the host."""
    told = [text for text in worked.notices("strategy") if strategy in text]
    return len(told) == 1 and told[0] in worked.answer.progress


# -- strong models ----------------------------------------------------------------------------------------------------


async def test_a_strong_model_gets_the_plain_loop_with_the_same_tools_byte_for_byte(workshop: Workshop) -> None:
    more = [CallReply(("shop__look_up", {"key": key})) for key in "abc"]

    worked = await workshop.run(STRONG, LOOK_UP, *more, ANSWER)

    assert is_right(worked)
    assert is_told(worked, "Trained for tool use: native tool calls")
    assert [schema_of(request) for request in worked.requests] == [None] * 5
    assert "temperature" not in (worked.requests[0].json or {})
    tools = {request.body[request.body.index(b'"tools":') :].split(b'"stream')[0] for request in worked.requests}
    assert len(tools) == 1
    assert offered(worked.requests[0])[:2] == ["shop__big", "shop__fail"]


# -- calls that leak --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_reasoning", [False, True])
@pytest.mark.parametrize("notation", LEAK_FORMATS)
async def test_a_call_that_leaked_in_any_notation_is_made(
    workshop: Workshop, notation: LeakFormat, in_reasoning: bool
) -> None:
    worked = await workshop.run(
        STRONG, LeakReply(notation, ("shop__look_up", HERON), in_reasoning=in_reasoning), ANSWER
    )

    assert is_right(worked)
    assert worked.ran == ["look_up heron"]
    assert "look_up" not in str(worked.requests[1].messages[-2].get("content"))


@pytest.mark.parametrize("notation", [each for each in LEAK_FORMATS if each not in ("bare_json", "harmony_name")])
async def test_a_call_that_is_only_quoted_is_not_made(workshop: Workshop, notation: LeakFormat) -> None:
    leak = render_leak(notation, name="shop__look_up", arguments=HERON)

    worked = await workshop.run(STRONG, TextReply(f"One would write it so:\n```\n{leak}\n```\nThat is all."))

    assert worked.ran == []
    assert worked.answer.said.startswith("One would write it so:")


@pytest.mark.parametrize("notation", LEAK_FORMATS)
async def test_a_leaked_call_of_a_tool_that_is_not_offered_is_not_made(
    workshop: Workshop, notation: LeakFormat
) -> None:
    worked = await workshop.run(STRONG, LeakReply(notation, ("crowd__look_up", HERON)))

    assert worked.ran == []
    assert not events_of(worked.events, "CallFinished")


async def test_a_model_that_writes_its_calls_into_code_is_asked_for_json_from_then_on(workshop: Workshop) -> None:
    fenced = TextReply('```json\n{"name": "shop__look_up", "arguments": {"key": "heron"}}\n```')

    worked = await workshop.run(STRONG, fenced, BOUND_LOOK_UP, BOUND_ANSWER)

    assert is_right(worked)
    assert worked.ran == ["look_up heron"]
    assert [bool(schema_of(request)) for request in worked.requests] == [False, True, True]
    assert is_told(worked, "The model writes its tool calls as text; using schema-constrained JSON")


# -- weak models ------------------------------------------------------------------------------------------------------


async def test_a_weak_model_is_asked_for_json_at_once(workshop: Workshop) -> None:
    worked = await workshop.run(WEAK, BOUND_LOOK_UP, BOUND_ANSWER)

    assert is_right(worked)
    assert worked.ran == ["look_up heron"]
    assert is_told(worked, "Not trained for tool use: tool calls as schema-constrained JSON")
    assert [may_answer(request) for request in worked.requests] == [True, True]
    assert all("tools" not in (request.json or {}) for request in worked.requests)
    assert [(request.json or {}).get("temperature") for request in worked.requests] == [0.0, 0.0]
    system, task, *rest = worked.requests[1].messages
    assert [system["role"], task["role"]] == ["system", "user"]
    assert "- shop__look_up(key: string): Gives the value of a key." in system["content"]
    assert [{**message, "content": unfenced(message["content"])} for message in rest] == [
        {"role": "assistant", "content": '{"call": "shop__look_up", "arguments": {"key": "heron"}}'},
        {"role": "user", "content": f"Result of shop__look_up:\nThe value is {VALUE}."},
    ]
    assert worked.requests[1].messages[:2] == worked.requests[0].messages


@pytest.mark.parametrize(
    ("made_up", "told"),
    [
        *((text, LOOK) for text in ("It is 4711.", "It is heron_value.txt.", "That is impossible.", "I have looked.")),
        ("Let me look it up.", ANNOUNCED),
        ("shop__look_up", WRITTEN),
    ],
)
async def test_what_a_weak_model_cannot_know_without_a_call_is_asked_for_again_as_a_call(
    workshop: Workshop, made_up: str, told: str
) -> None:
    worked = await workshop.run(WEAK, bound(answer=made_up), BOUND_LOOK_UP, BOUND_ANSWER)

    assert is_right(worked)
    assert worked.ran == ["look_up heron"]
    assert [may_answer(request) for request in worked.requests] == [True, False, True]
    assert worked.requests[0].messages == worked.requests[1].messages
    assert told in worked.notices("recovery")


async def test_a_model_that_gave_up_may_say_so_again_after_a_look_that_failed(workshop: Workshop) -> None:
    no = bound(answer="That is impossible.")

    worked = await workshop.run(WEAK, no, bound(call="shop__fail", arguments=HERON), no)

    assert worked.answer.said.startswith("That is impossible.")
    assert worked.ran == ["fail heron"]
    assert [may_answer(request) for request in worked.requests] == [True, False, True]


@pytest.mark.parametrize("answer", ["Hello, heron!", "Milo has badge 6218.", "Six, or 6."])
async def test_what_the_task_itself_says_is_answered_without_a_call(workshop: Workshop, answer: str) -> None:
    """A forced call would change something, or make an answer of something else."""
    worked = await workshop.run(WEAK, bound(answer=answer), task="Say hello to heron. Milo has badge 6218.")

    assert worked.answer.said.startswith(answer)
    assert (worked.ran, len(worked.requests)) == ([], 1)


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_weak_model_must_call_until_a_call_brought_something(workshop: Workshop, failures: int) -> None:
    failing = [bound(call="shop__fail", arguments={"key": str(number)}) for number in range(failures)]

    worked = await workshop.run(WEAK, *failing, BOUND_LOOK_UP, BOUND_ANSWER)

    assert is_right(worked)
    assert [may_answer(request) for request in worked.requests] == [True, *[False] * failures, True]


async def test_a_call_that_was_refused_for_its_arguments_brought_nothing(workshop: Workshop) -> None:
    worked = await workshop.run(WEAK, bound(call="shop__look_up", arguments={}), BOUND_LOOK_UP, BOUND_ANSWER)

    assert is_right(worked)
    assert [may_answer(request) for request in worked.requests] == [True, False, True]


async def test_a_weak_model_may_answer_after_three_rounds_without_a_result(workshop: Workshop) -> None:
    failing = [bound(call="shop__fail", arguments={"key": str(number)}) for number in range(2)]
    unknown = bound(call="shop__fail", arguments={})

    worked = await workshop.run(WEAK, *failing, unknown, BOUND_ANSWER, BOUND_ANSWER)

    assert is_right(worked)
    assert [may_answer(request) for request in worked.requests] == [True, False, False, True, True]


async def test_an_engine_that_takes_no_response_format_is_asked_natively(workshop: Workshop) -> None:
    worked = await workshop.run(WEAK, HttpReply(400, plain_error(REFUSED)), LOOK_UP, ANSWER)

    assert is_right(worked)
    assert [bool(schema_of(request)) for request in worked.requests] == [True, False, False]
    assert [bool(request.tools) for request in worked.requests] == [False, True, True]
    assert is_told(worked, "Server ignores JSON schemas; using native tool calls")


async def test_an_engine_that_does_not_keep_to_the_json_is_asked_natively(workshop: Workshop) -> None:
    worked = await workshop.run(WEAK, *[TextReply("Sure, I can do that!")] * 2, LOOK_UP, ANSWER)

    assert is_right(worked)
    assert [bool(schema_of(request)) for request in worked.requests] == [True, True, False, False]
    assert is_told(worked, "Server ignores JSON schemas; using native tool calls")


async def test_one_reply_that_is_not_the_json_is_asked_for_again_and_the_way_of_asking_kept(workshop: Workshop) -> None:
    sure = TextReply("Sure, I can do that!")

    worked = await workshop.run(WEAK, sure, BOUND_LOOK_UP, sure, BOUND_ANSWER)

    assert is_right(worked)
    assert [bool(schema_of(request)) for request in worked.requests] == [True] * 4
    assert worked.notices("strategy") == ["Not trained for tool use: tool calls as schema-constrained JSON"]


async def test_an_engine_that_cannot_bind_to_rich_schemas_is_given_simple_ones(workshop: Workshop) -> None:
    worked = await workshop.run(
        WEAK, HttpReply(400, plain_error("Failed to parse grammar")), BOUND_LOOK_UP, BOUND_ANSWER
    )

    assert is_right(worked)
    assert [bool(schema_of(request)) for request in worked.requests] == [True] * 3


async def test_a_bound_answer_that_was_cut_off_is_given_as_far_as_it_came(workshop: Workshop) -> None:
    cut = TextReply('{"answer": "It is ' + VALUE + ". And \\u00", finish_reason="length")

    worked = await workshop.run(WEAK, BOUND_LOOK_UP, cut)

    assert is_right(worked)
    assert "Note: The answer was cut off at the limit of tokens for one reply." in worked.answer.told


async def test_arguments_that_were_understood_otherwise_are_told(workshop: Workshop) -> None:
    worked = await workshop.run(STRONG, CallReply(("shop__look_up", "{'Key': 5}")), ANSWER)

    assert worked.ran == ["look_up 5"]
    assert is_told(
        worked, "shop: look_up was understood so: the JSON was repaired; Key was taken as key; key was given"
    )


async def test_the_tools_for_long_results_come_to_a_weak_model_with_the_first_such_result(workshop: Workshop) -> None:
    big = bound(call="shop__big", arguments={"key": "x"})
    read = bound(call="search_result", arguments={"id": "r1", "text": "code word"})

    worked = await workshop.run(WEAK, BOUND_LOOK_UP, big, read, BOUND_ANSWER)

    assert is_right(worked)
    assert ["read_result" in str(schema_of(request)) for request in worked.requests] == [False, False, True, True]
    assert worked.requests[0].messages[0] == worked.requests[1].messages[0]


# -- big results, many tools, calls at once ---------------------------------------------------------------------------


async def test_a_big_result_is_read_on_and_searched(workshop: Workshop) -> None:
    place = big_text().index(NEEDLE)

    worked = await workshop.run(
        STRONG,
        CallReply(("shop__big", {"key": "x"})),
        CallReply(("search_result", {"id": "r1", "text": "Code Word"})),
        CallReply(("read_result", {"id": "r1", "offset": place})),
        ANSWER,
        ANSWER,
    )

    assert is_right(worked)
    assert worked.ran == ["big x"]
    shown, found, page = [said(request) for request in worked.requests[1:4]]
    assert NEEDLE not in shown
    assert len(shown) < 33_000
    assert 'Read on with read_result(id="r1", offset=' in shown
    assert found.startswith(f"at {place + NEEDLE.index('code word')}: …")
    assert NEEDLE in found
    assert page.startswith(NEEDLE)


async def test_of_many_tools_only_those_for_the_task_are_offered_and_others_are_found(workshop: Workshop) -> None:
    """60 tools of which the context would take a part only."""
    worked = await workshop.run(
        TIGHT,
        CallReply(("find_tools", {"query": "shelf 42"})),
        CallReply(("crowd__shelf_42", HERON)),
        ANSWER,
        server="crowd",
        task="Sort and count the stock by number and colour.",
    )

    assert is_right(worked)
    assert worked.ran == ["shelf_42 heron"]
    before, after = offered(worked.requests[0]), offered(worked.requests[1])
    assert 1 < len(before) < 30
    assert "crowd__shelf_42" not in before
    assert before[-1] == "find_tools"
    assert after[: len(before)] == before
    assert "crowd__shelf_42" in after[len(before) :]
    assert [request.tools for request in worked.requests[1:]] == [worked.requests[1].tools] * 2


async def test_calls_that_only_read_are_under_way_at_the_same_time(workshop: Workshop) -> None:
    """Each waits in the server for the other, and fails if it stays alone."""
    meet = [("shop__meet", {"key": key}) for key in ("one", "two")]

    worked = await workshop.run(STRONG, CallReply(*meet), TextReply("Both met."))

    assert (worked.answer.said, worked.stop) == ("Both met.", "answered")
    assert [unfenced(message["content"]) for message in worked.requests[1].messages[-2:]] == [
        "one met somebody",
        "two met somebody",
    ]
