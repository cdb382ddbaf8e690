"""Answers in a shape that the caller gives: bound by the engine, checked, repaired at most twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lmstudio_sim.errors import plain_error
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, HttpReply, TextReply
from tests.support.desk import MODEL, Desk, assert_names
from tests.support.raw_client import Answer

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string"}, "length": {"type": "integer", "minimum": 1}},
    "required": ["word", "length"],
}
RIGHT = {"word": "heron-42", "length": 8}
TASK = {"mcp_name": "filesystem", "task": "What is the code word?", "output_schema": SCHEMA}


async def ask(desk: Desk, **arguments: Any) -> Answer:
    async with desk.bridge() as client:
        return await client.call("autonomous_with_mcp", **{**TASK, **arguments})


def answer_of(answer: Answer) -> Any:
    return json.loads(answer.said)


async def test_the_last_request_is_bound_to_the_schema_and_the_answer_is_json(desk: Desk) -> None:
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__read_text_file", {"path": desk.notes})),
        TextReply("It is heron-42."),
        TextReply(json.dumps(RIGHT)),
    )

    answer = await ask(desk)

    assert not answer.is_error, answer.text
    assert answer_of(answer) == RIGHT
    *before, last = desk.chat_requests()
    assert all("response_format" not in (request.json or {}) for request in before)
    assert last.json is not None
    assert last.json["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "tools" not in last.json


@pytest.mark.parametrize("slips", [1, 2])
async def test_an_answer_that_does_not_fit_is_repaired_at_most_twice(desk: Desk, slips: int) -> None:
    wrong = [TextReply('{"word": "heron-42"}') for _ in range(slips)]
    desk.sim.script(MODEL, TextReply("It is heron-42."), *wrong, TextReply(f"```json\n{json.dumps(RIGHT)}\n```"))

    answer = await ask(desk)

    assert answer_of(answer) == RIGHT
    told = desk.chat_requests()[-1].messages[-1]["content"]
    assert "'length' is a required property" in told


async def test_an_answer_that_never_fits_is_an_error_with_the_last_text(desk: Desk) -> None:
    desk.sim.script(MODEL, TextReply("It is heron-42."))
    desk.sim.script_fn(MODEL, lambda request: TextReply('{"word": "heron-42", "length": 0}'))

    answer = await ask(desk)

    assert_names(answer, "does not fit the output_schema", "less than the minimum of 1", '"length": 0')
    assert len(desk.chat_requests()) == 4


async def test_an_engine_that_binds_no_replies_is_asked_without(desk: Desk) -> None:
    refusal = HttpReply(400, plain_error("'response_format.type' must be 'json_schema' or 'text'"))
    desk.sim.script(MODEL, TextReply("It is heron-42."), refusal, TextReply(json.dumps(RIGHT)))

    answer = await ask(desk)

    assert answer_of(answer) == RIGHT
    assert "response_format" not in (desk.chat_requests()[-1].json or {})


async def test_a_model_that_is_weak_at_calling_gives_the_shape_too(desk: Desk) -> None:
    weak = "tiny/weak-1b"
    desk.sim.models[weak] = SimModel(weak, context_length=16_384, trained_for_tool_use=False)
    await desk.sim.load(weak)
    call = {"call": "filesystem__read_text_file", "arguments": {"path": desk.notes}}
    desk.sim.script(
        weak, TextReply(json.dumps(call)), TextReply('{"answer": "It is heron-42."}'), TextReply(json.dumps(RIGHT))
    )

    answer = await ask(desk, model=weak)

    assert answer_of(answer) == RIGHT
    assert "heron-42" in str(desk.chat_requests()[1].messages[-1]["content"])


async def test_a_schema_that_is_none_is_refused_before_any_work(desk: Desk) -> None:
    answer = await ask(desk, output_schema={"type": "no such type"})

    assert_names(answer, "output_schema", "not a valid JSON Schema")
    assert desk.chat_requests() == []
