"""A model that repeats itself comes to an end, with the best answer that there is."""

from __future__ import annotations

import json

import pytest

from tests.contract.recovery.workshop import STRONG, WEAK, Workshop, may_answer, offered, said, schema_of
from tests.contract.recovery.workshop_server import value_of
from tests.lmstudio_sim.replies import CallReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support.journals import events_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What the model is told.
ANSWER_NOW = (
    "Answer the task now in plain text, with the facts from the results above. "
    "If a fact is missing there, say which. You can no longer call tools."
)
CALL_LOST = "No tool call arrived. If you meant to call a tool, call it now. Otherwise, answer the task in plain text."
TOOL_REMOVED = "Not done: this tool can no longer be called, because its calls kept repeating. Continue without it."

VALUE = value_of("heron")
ANSWER = TextReply(f"It is {VALUE}.")


def look_up(key: str = "heron", tool: str = "look_up") -> CallReply:
    return CallReply((f"shop__{tool}", {"key": key}))


def bound(**reply: object) -> TextReply:
    return TextReply(json.dumps(reply))


async def test_the_same_call_for_ever_is_reminded_of_pruned_taken_away_and_asked_for_otherwise(
    workshop: Workshop,
) -> None:
    def never_stops(request: SimRequest) -> Reply:
        return bound(answer=f"It is {VALUE}.") if schema_of(request) else look_up()

    worked = await workshop.run(STRONG, function=never_stops, max_rounds=20)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    assert worked.stop == "answered"
    assert worked.ran == ["look_up heron"] * 4
    assert ["shop__look_up" in offered(request) for request in worked.requests] == [True] * 4 + [False] * 3
    assert [bool(schema_of(request)) for request in worked.requests] == [False] * 6 + [True]
    again = "You called shop__look_up again with the same arguments, and the result was the same."
    assert [said(request).startswith(again) for request in worked.requests[2:5]] == [True] * 3
    assert [len(request.messages) for request in worked.requests[2:4]] == [8, 6], "the repeated turns are gone"
    assert [event["count"] for event in events_of(worked.events, "MessagesDropped")] == [6]
    assert said(worked.requests[5]) == TOOL_REMOVED
    assert worked.notices("recovery") == ["The model repeated itself: shop__look_up, with the same outcome."] * 4
    assert "The model repeated itself: shop__look_up, with the same outcome." in worked.answer.progress


async def test_a_repetition_of_two_calls_is_named_and_the_model_finds_out(workshop: Workshop) -> None:
    worked = await workshop.run(STRONG, *[look_up("heron"), look_up("crane")] * 2, ANSWER)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    assert worked.ran == ["look_up heron", "look_up crane"] * 2
    hint = "You repeated these calls: shop__look_up, with the same arguments and the same results."
    assert [said(request).startswith(hint) for request in worked.requests] == [False] * 4 + [True]


async def test_the_same_error_again_is_named_whatever_the_arguments(workshop: Workshop) -> None:
    worked = await workshop.run(STRONG, *[look_up(key, "fail") for key in "abc"], look_up(), ANSWER)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    hint = "shop__fail has failed 3 times in a row with the same error."
    assert [said(request).startswith(hint) for request in worked.requests] == [False] * 3 + [True, False]


async def test_calls_that_differ_are_left_alone_however_many(workshop: Workshop) -> None:
    worked = await workshop.run(STRONG, *[look_up(f"k{number}") for number in range(8)], TextReply("All looked up."))

    assert worked.answer.said == "All looked up."
    assert len(worked.ran) == 8
    assert worked.notices("recovery") == []
    assert all("user" not in [m["role"] for m in request.messages[2:]] for request in worked.requests)


async def test_a_plan_that_is_announced_and_not_acted_on_is_asked_for_and_then_reminded_of(workshop: Workshop) -> None:
    plan = TextReply("Let me look that up:")

    worked = await workshop.run(STRONG, plan, plan, look_up(), ANSWER)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    assert [CALL_LOST in said(request) for request in worked.requests] == [False, False, True, False]


async def test_a_weak_model_that_repeats_itself_is_asked_for_the_answer_at_once(workshop: Workshop) -> None:
    def never_stops(request: SimRequest) -> Reply:
        calls = {"call": "shop__look_up", "arguments": {"key": "heron"}}
        only_answer = "anyOf" not in (schema_of(request) or {})
        return bound(answer=f"It is {VALUE}.") if only_answer else bound(**calls)

    worked = await workshop.run(WEAK, function=never_stops, max_rounds=20)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    assert worked.stop == "answered"
    assert worked.ran == ["look_up heron"] * 2
    assert [may_answer(request) for request in worked.requests] == [True, True, True]
    assert said(worked.requests[2]).endswith(ANSWER_NOW)


async def test_a_tool_that_only_fails_is_taken_from_a_weak_model_so_that_it_tries_another(workshop: Workshop) -> None:
    """Asked for the answer at once, it could only say that it knows nothing."""

    def fails_while_it_can(request: SimRequest) -> Reply:
        if "shop__fail" in str(schema_of(request)):
            return bound(call="shop__fail", arguments={"key": "heron"})
        known = VALUE in said(request)
        look_up = {"call": "shop__look_up", "arguments": {"key": "heron"}}
        return bound(answer=f"It is {VALUE}.") if known else bound(**look_up)

    worked = await workshop.run(WEAK, function=fails_while_it_can, max_rounds=20)

    assert worked.answer.said.startswith(f"It is {VALUE}.")
    assert worked.ran == ["fail heron", "fail heron", "look_up heron"]
