"""Replies to a prompt, over real sockets: what is sent, what comes back, from which model and which server."""

from __future__ import annotations

import json

import pytest

from lmstudio_bridge.errors import AuthError, ModelSubstitutedError, WrongEndpointError
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.messages import ChatRequest, Completion, Delta, TextDelta, ToolCall, Usage
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, HttpReply, StreamOptions, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.clients import GEMMA, HISTORY, LIST_FILES, QUESTION, QWEN, open_test_client, sent, within

TOKEN = "sk-lm-abcdefgh:abcdefghijklmnopqrst"
# -- one reply ------------------------------------------------------------------------------------------------------


async def test_a_chat_request_is_sent_in_the_safe_form(client: LLMClient, sim: Simulator) -> None:
    """docs/lm-studio.md, section 13."""
    await within(
        client.stream_chat_completion(
            ChatRequest(HISTORY, tools=[LIST_FILES], max_tokens=4096, temperature=0.2), model=QWEN
        )
    )

    assert sent(sim, "/v1/chat/completions") == {
        "model": QWEN,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 4096,
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "List the files"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "268992578",
                        "type": "function",
                        "function": {"name": "list_files", "arguments": '{"path":"."}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "268992578", "content": "a.txt\nb.txt"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "list_files",
                    "description": "Lists a folder.",
                    "parameters": LIST_FILES.parameters,
                },
            }
        ],
        "tool_choice": "auto",
    }


async def test_a_reply_comes_whole(client: LLMClient, sim: Simulator) -> None:
    sim.script(QWEN, CallReply(("list_files", {"path": "./größe 📁"}), text="\n\n", reasoning="I müßte 📁 look."))

    reply = await within(client.stream_chat_completion(ChatRequest(QUESTION, tools=[LIST_FILES]), model=QWEN))

    [call] = reply.calls
    assert reply == Completion(
        text="",
        reasoning="I müßte 📁 look.",
        calls=(ToolCall(call.id, "list_files", '{"path": "./größe 📁"}'),),
        finish_reason="tool_calls",
        model=QWEN,
        usage=reply.usage,
    )
    assert reply.usage is not None
    assert (reply.usage.reasoning_tokens, len(call.id), call.id.isdecimal()) == (4, 9, True)


async def test_half_a_character_in_a_whole_reply_does_not_break_it(client: LLMClient, sim: Simulator) -> None:
    """Node escapes the half of a character that a cut left over; strict JSON readers refuse it."""
    body = json.dumps({"choices": [{"message": {"content": "a\ud83d"}, "finish_reason": "length"}]})
    sim.script_path("/v1/chat/completions", HttpReply(200, body, content_type="application/json"))

    reply = await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))

    assert reply == Completion("a", finish_reason="length")


@pytest.mark.parametrize("write_bytes", [None, 1, 7])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_a_stream_is_told_piece_by_piece(
    write_bytes: int | None, line_end: str, client: LLMClient, sim: Simulator
) -> None:
    deltas: list[Delta] = []

    async def on_delta(delta: Delta) -> None:
        deltas.append(delta)

    options = StreamOptions(fragment_chars=4, write_bytes=write_bytes, line_end="\r\n" if line_end != "\n" else "\n")
    sim.script(QWEN, TextReply("Grüße, 📁!", stream=options))

    reply = await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN, on_delta=on_delta))

    assert deltas == [TextDelta("Grüß"), TextDelta("e, 📁"), TextDelta("!")]
    assert (reply.text, reply.finish_reason) == ("Grüße, 📁!", "stop")


# -- which model ----------------------------------------------------------------------------------------------------


async def test_a_reply_of_another_model_is_refused() -> None:
    async with open_simulator([SimModel(QWEN, loaded=True)]) as sim, open_test_client(sim) as client:
        choice = await within(client.validator.resolve(QWEN))
        sim.unload(QWEN)
        del sim.models[QWEN]
        sim.models[GEMMA] = SimModel(GEMMA)
        await sim.load(GEMMA)

        with pytest.raises(ModelSubstitutedError) as caught:
            await within(
                client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN, accepts_model=choice.answers_as)
            )

        assert caught.value.message == f"Another model answered: {GEMMA} instead of {QWEN}."
        assert (caught.value.model, caught.value.url) == (QWEN, f"{sim.url}/v1/chat/completions")
        assert len(sim.requests) == 2


async def test_a_reply_of_a_second_instance_is_accepted(client: LLMClient, sim: Simulator) -> None:
    choice = await within(client.validator.resolve(QWEN))
    sim.script(QWEN, TextReply("Yes.", model=f"{QWEN}:2"))

    reply = await within(
        client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN, accepts_model=choice.answers_as)
    )

    assert reply.model == f"{QWEN}:2"


# -- which server ---------------------------------------------------------------------------------------------------


async def test_a_wrong_base_url_is_named() -> None:
    async with open_simulator() as sim, open_test_client(sim, root_url=f"{sim.url}/v1") as client:
        with pytest.raises(WrongEndpointError) as caught:
            await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))

        assert "Unexpected endpoint or method. (POST /v1/v1/chat/completions)" in caught.value.explain()
        assert "LMSTUDIO_BASE_URL" in caught.value.remedy
        assert len(sim.requests) == 1


async def test_a_wrong_base_url_is_named_when_models_are_listed() -> None:
    async with open_simulator() as sim, open_test_client(sim, root_url=f"{sim.url}/lm") as client:
        with pytest.raises(WrongEndpointError) as caught:
            await within(client.list_models())

        assert caught.value.url == f"{sim.url}/lm/v1/models"


@pytest.mark.parametrize(
    ("token", "words"), [(None, "API token is required"), ("lm-studio", "Malformed LM Studio API token")]
)
async def test_a_missing_or_wrong_token_is_told_at_once(token: str | None, words: str) -> None:
    async with open_simulator(token=TOKEN) as sim, open_test_client(sim, api_token=token) as client:
        with pytest.raises(AuthError) as caught:
            await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))

        assert words in caught.value.detail
        assert (caught.value.status, len(sim.requests)) == (401, 1)


async def test_a_usage_of_zeros_is_kept_for_the_loop_to_see() -> None:
    """A call that LM Studio dropped shows only in that (docs/lm-studio.md, section 9)."""
    body = {
        "choices": [{"message": {"content": "I'll look.", "tool_calls": []}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script_path("/v1/chat/completions", HttpReply(200, body))
        reply = await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))

    assert reply == Completion("I'll look.", finish_reason="stop", usage=Usage())
