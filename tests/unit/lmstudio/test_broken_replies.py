"""Servers that are gone, stall, cut, refuse or ignore: what is sent again, what is an answer, what is an error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lmstudio_bridge.errors import LLMConnectionError, LLMError, ModelLostError, WrongEndpointError
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.messages import ChatRequest, Completion, Delta, Retry, ToolCall
from tests.lmstudio_sim.replies import (
    BadFrame,
    CallReply,
    CutSocket,
    EndEarly,
    EndlessReply,
    HttpReply,
    StreamError,
    StreamOptions,
    TextReply,
)
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.chunks import DONE, chunk, encode
from tests.unit.lmstudio.clients import QUESTION, QWEN, FakeTime, open_test_client, within

CHAT = "/v1/chat/completions"
LONG = 60.0  # seconds; a limit that no test reaches


async def ask(client: LLMClient, **more: Any) -> Completion:
    return await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN, **more))


def script_stream(sim: Simulator, *frames: bytes) -> None:
    sim.script_path(CHAT, HttpReply(200, b"".join(frames), content_type="text/event-stream"))


# -- a server that is not there -------------------------------------------------------------------------------------


async def test_a_server_that_is_off_is_tried_three_times(client: LLMClient, sim: Simulator, time: FakeTime) -> None:
    await sim.stop()

    with pytest.raises(LLMConnectionError, match="not reachable") as caught:
        await ask(client)

    assert time.slept == [1.0, 2.0]
    assert (caught.value.url, caught.value.retryable) == (f"{sim.url}{CHAT}", False)
    assert "Start the server in LM Studio" in caught.value.explain()


async def test_a_server_that_comes_back_is_found(client: LLMClient, sim: Simulator) -> None:
    retries: list[Retry] = []
    await sim.stop()

    async def on_retry(retry: Retry) -> None:
        retries.append(retry)
        await sim.start()

    assert (await ask(client, on_retry=on_retry)).text == "Hello from the simulator."
    assert [(retry.attempt, retry.wait, type(retry.error)) for retry in retries] == [(1, 1.0, LLMConnectionError)]


# -- connections that are cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cut",
    [CutSocket(before_headers=True), CutSocket(before_headers=True, reset=True), CutSocket()],
    ids=["closed before the headers", "reset before the headers", "before the first byte"],
)
async def test_a_stream_cut_before_its_first_byte_is_sent_again(
    cut: CutSocket, client: LLMClient, sim: Simulator, time: FakeTime
) -> None:
    sim.script(QWEN, TextReply("No.", faults=(cut,)), TextReply("Yes."))

    assert (await ask(client)).text == "Yes."
    assert (len(sim.requests), time.slept) == (2, [1.0])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        *((CutSocket(after_tokens=number), "broke") for number in (1, 2)),
        *((EndEarly(number), "broke off before its end") for number in (0, 1, 2)),
    ],
    ids=lambda each: each if isinstance(each, str) else str(each)[:9] + str(each.after_tokens),
)
async def test_a_stream_that_breaks_off_or_ends_without_a_word_is_no_answer_and_not_sent_again(
    fault: CutSocket | EndEarly, message: str, client: LLMClient, sim: Simulator
) -> None:
    """docs/lm-studio.md, section 3.5: an unload, a crash or LM Link."""
    sim.script(QWEN, TextReply("A long answer.", stream=StreamOptions(fragment_chars=4), faults=(fault,)))

    with pytest.raises(ModelLostError, match=message) as caught:
        await ask(client)

    assert (len(sim.requests), caught.value.url, caught.value.model) == (1, f"{sim.url}{CHAT}", QWEN)


@pytest.mark.parametrize("end", ["server stops", "unloaded with an error", "unloaded without a word"])
async def test_a_server_or_model_that_goes_in_mid_stream_has_lost_the_reply(end: str) -> None:
    async with (
        open_simulator(lost_stream="error" if end == "unloaded with an error" else "end") as sim,
        open_test_client(sim) as client,
    ):
        sim.script(QWEN, EndlessReply())
        first = asyncio.Event()

        async def on_delta(delta: Delta) -> None:
            first.set()

        asking = asyncio.create_task(ask(client, on_delta=on_delta))
        await within(first.wait())
        if end == "server stops":
            await sim.stop()
        else:
            sim.unload(QWEN)

        with pytest.raises(ModelLostError):
            await within(asking)
        assert len(sim.requests) == 1


# -- streams that end in other ways ---------------------------------------------------------------------------------


async def test_a_call_without_its_end_is_no_answer(client: LLMClient, sim: Simulator) -> None:
    sim.script(QWEN, CallReply(("list_files", {"path": "."}), faults=(EndEarly(2),)))

    with pytest.raises(ModelLostError):
        await ask(client)


@pytest.mark.parametrize("reason", ["error", "abort", "timeout", "insufficient_system_resource", "modelUnloaded"])
async def test_a_reply_that_the_server_gave_up_is_no_answer(reason: str, client: LLMClient, sim: Simulator) -> None:
    script_stream(sim, encode([chunk({"content": "Yes,"}), chunk(finish=reason)]), DONE)

    with pytest.raises(ModelLostError, match="gave up on the reply"):
        await ask(client)


@pytest.mark.parametrize(
    "end",
    [[], [DONE], [b"event: error\n", encode([{"error": "Model unloaded."}])], [b'data: {"choi']],
    ids=["nothing", "DONE", "model lost", "half a frame"],
)
async def test_a_finish_reason_makes_an_answer_whatever_follows(
    end: list[bytes], client: LLMClient, sim: Simulator
) -> None:
    script_stream(sim, encode([chunk({"content": "Yes."}), chunk(finish="stop")]), *end)

    assert await ask(client) == Completion("Yes.", finish_reason="stop", model="m")
    assert len(sim.requests) == 1


async def test_a_stream_without_done_is_an_answer(client: LLMClient, sim: Simulator) -> None:
    sim.script(QWEN, TextReply("Yes.", stream=StreamOptions(done=False, usage_chunk=False)))

    assert (await ask(client)).text == "Yes."


async def test_an_answer_whose_connection_is_cut_after_its_finish_is_an_answer(
    client: LLMClient, sim: Simulator
) -> None:
    body = encode([chunk({"content": "Yes."}), chunk(finish="stop")])
    # The simulator tears the body in its middle, so an equal length of comment comes after it.
    torn = body + b": " + b"x" * len(body)
    sim.script_path(CHAT, HttpReply(200, torn, content_type="text/event-stream", faults=(CutSocket(),)))

    assert await ask(client) == Completion("Yes.", finish_reason="stop", model="m")


async def test_done_without_a_finish_reason_ends_a_reply_that_has_something(client: LLMClient, sim: Simulator) -> None:
    script_stream(sim, encode([chunk({"content": "Yes."})]), DONE)

    assert await ask(client) == Completion("Yes.", model="m")


async def test_done_alone_is_no_answer(client: LLMClient, sim: Simulator) -> None:
    script_stream(sim, encode([chunk({"role": "assistant"})]), DONE)

    with pytest.raises(ModelLostError):
        await ask(client)


async def test_bad_frames_on_the_way_are_passed_over(client: LLMClient, sim: Simulator) -> None:
    faults = (BadFrame(), BadFrame(after_tokens=1), BadFrame(after_tokens=2))
    sim.script(QWEN, TextReply("A long answer.", stream=StreamOptions(fragment_chars=8), faults=faults))

    assert (await ask(client)).text == "A long answer."


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (StreamError("Engine protocol predict stream returned an error", after_tokens=0), 2),
        (StreamError("Engine protocol predict stream returned an error", after_tokens=0, done=True), 2),
        (StreamError("Engine protocol predict stream returned an error", after_tokens=0, duplicate=True), 2),
        (StreamError("Engine protocol predict stream returned an error", after_tokens=1), 1),
        (StreamError("Model unloaded.", after_tokens=0), 1),
    ],
)
async def test_an_error_in_the_stream_is_sent_again_only_before_the_first_token(
    fault: StreamError, requests: int, client: LLMClient, sim: Simulator
) -> None:
    sim.script(QWEN, TextReply("No.", faults=(fault,)), TextReply("Yes."))

    got: Completion | LLMError
    try:
        got = await ask(client)
    except LLMError as exc:
        got = exc

    assert isinstance(got, Completion) is (requests == 2)
    assert len(sim.requests) == requests


WHOLE = {
    "model": "m",
    "choices": [
        {
            "message": {
                "content": "",
                "tool_calls": [{"id": "111111111", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "tool_calls",
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_server_that_ignores_stream_is_understood(
    indent: int | None, client: LLMClient, sim: Simulator
) -> None:
    sim.script_path(CHAT, HttpReply(200, json.dumps(WHOLE, indent=indent), content_type="application/json"))

    assert await ask(client) == Completion(
        "", calls=(ToolCall("111111111", "f", "{}"),), finish_reason="tool_calls", model="m"
    )


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "Text/Event-Stream; charset=utf-8"])
async def test_a_stream_under_another_content_type_is_understood(
    content_type: str, client: LLMClient, sim: Simulator
) -> None:
    body = encode([chunk({"content": "Yes."}, finish="stop")]) + DONE
    sim.script_path(CHAT, HttpReply(200, body, content_type=content_type))

    assert (await ask(client)).text == "Yes."


async def test_json_of_another_protocol_in_a_stream_is_named(client: LLMClient, sim: Simulator) -> None:
    script_stream(sim, b'data: {"type":"message_start"}\n\ndata: {"type":"message_stop"}\n\n')

    with pytest.raises(WrongEndpointError) as caught:
        await ask(client)

    assert caught.value.detail == '{"type":"message_start"}'
