"""The simulated LM Studio keeps to the recorded wire: routes, resolution, faults, and what it notices.

Where a test names no source, the rule is from recordings of LM Studio 0.4.21 to 0.4.25.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.lmstudio_sim import errors
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import Call, CallReply, DroppedCallReply, Fault, StreamError, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator

QWEN = "qwen/qwen3-4b"
GEMMA = "google/gemma-3-1b"
NOMIC = "text-embedding-nomic"
BOUND_SECONDS = 60.0

T = TypeVar("T")


@asynccontextmanager
async def open_client(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(
        base_url=sim.url, timeout=BOUND_SECONDS, limits=limits, trust_env=False, verify=False
    ) as c:
        yield c


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator() as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(sim) as made:
        yield made


def chat_body(model: str = QWEN, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "List the files"}], **more}


async def post_chat(client: httpx.AsyncClient, model: str = QWEN, **more: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(model, **more))


async def stream_chat(client: httpx.AsyncClient, model: str = QWEN, **more: Any) -> list[Any]:
    return read_frames((await post_chat(client, model, stream=True, **more)).text)


def read_frames(text: str) -> list[Any]:
    """The data of every frame: decoded JSON, or the text as it is."""
    found: list[Any] = []
    for frame in text.replace("\r\n", "\n").split("\n\n"):
        for line in frame.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                try:
                    found.append(json.loads(data))
                except ValueError:
                    found.append(data)
    return found


def deltas(frames: list[Any]) -> list[dict[str, Any]]:
    return [frame["choices"][0]["delta"] for frame in frames if isinstance(frame, dict) and frame.get("choices")]


async def within(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, BOUND_SECONDS)


# -- transport and discovery ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/chat/completions"), ("GET", "/v1/tokenize"), ("DELETE", "/v1/models")]
)
async def test_unknown_paths_and_methods_are_answered_with_status_200(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    reply = await client.request(method, path, json={})
    assert (reply.status_code, reply.json()) == (200, {"error": f"Unexpected endpoint or method. ({method} {path})"})


async def test_old_lm_studio_has_no_native_api() -> None:
    async with open_simulator(native=False) as sim, open_client(sim) as client:
        assert (await client.get("/api/v1/models")).json() == errors.unexpected_endpoint("GET", "/api/v1/models")
        assert (await client.get("/api/v0/models")).json()["data"][0]["id"] == QWEN
        assert (await client.get("/lmstudio-greeting")).json() == {"lmstudio": True}


async def test_another_server_has_neither_native_api_nor_greeting() -> None:
    async with open_simulator(native=None) as sim, open_client(sim) as client:
        for path in ("/api/v1/models", "/api/v0/models", "/lmstudio-greeting", "/nothing"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == QWEN
        assert (await post_chat(client)).status_code == 200


# -- authentication ------------------------------------------------------------------------------------------------

TOKEN = "sk-lm-abcd1234:abcdefghij0123456789"


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/models", "/api/v0/models", "/v1/chat/completions"])
async def test_without_the_token_every_route_answers_401(path: str) -> None:
    async with open_simulator(token=TOKEN) as sim, open_client(sim) as client:
        reply = await client.get(path)
    assert reply.status_code == 401
    assert reply.json()["error"] == {
        "message": errors.TOKEN_REQUIRED,
        "type": "invalid_request",
        "code": "invalid_api_key",
        "param": None,
    }


async def test_a_malformed_token_is_quoted_by_its_first_ten_characters() -> None:
    async with open_simulator(token=TOKEN) as sim, open_client(sim) as client:
        reply = await client.get("/v1/models", headers={"Authorization": "Bearer 22aac52a71fedcba"})
    assert reply.status_code == 401
    assert reply.json()["error"]["message"] == (
        "Malformed LM Studio API token provided: 22aac52a71****** Ensure you are using a valid token."
    )


async def test_the_right_token_opens_and_another_one_does_not() -> None:
    async with open_simulator(token=TOKEN) as sim, open_client(sim) as client:
        right = await client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
        wrong = await client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN[:-1]}0"})
    assert (right.status_code, wrong.status_code) == (200, 401)


# -- lists of models -----------------------------------------------------------------------------------------------


def three_models() -> list[SimModel]:
    return [
        SimModel(QWEN, loaded=True, context_length=4096, trained_for_tool_use=True, reasoning=True),
        SimModel(GEMMA, vision=True, format="mlx"),
        SimModel(NOMIC, type="embedding", context_length=16),
    ]


async def test_openai_list_has_all_models_with_jit_and_loaded_ones_without() -> None:
    for jit, wanted in ((True, [QWEN, GEMMA, NOMIC]), (False, [QWEN])):
        async with open_simulator(three_models(), jit=jit) as sim, open_client(sim) as client:
            reply = (await client.get("/v1/models")).json()
        assert [entry["id"] for entry in reply["data"]] == wanted
        assert reply["data"][0] == {"id": QWEN, "object": "model", "owned_by": "organization_owner"}


async def test_v0_list_tells_state_type_and_loaded_context() -> None:
    async with open_simulator(three_models()) as sim, open_client(sim) as client:
        entries = (await client.get("/api/v0/models")).json()["data"]
    assert [(e["id"], e["type"], e["state"], e.get("loaded_context_length")) for e in entries] == [
        (QWEN, "llm", "loaded", 4096),
        (GEMMA, "vlm", "not-loaded", None),
        (NOMIC, "embeddings", "not-loaded", None),
    ]
    assert entries[0]["capabilities"] == ["tool_use"]


async def test_native_list_has_instances_with_their_config() -> None:
    async with open_simulator(three_models()) as sim, open_client(sim) as client:
        models = (await client.get("/api/v1/models")).json()["models"]
    assert [model["key"] for model in models] == [QWEN, GEMMA, NOMIC]
    config = {
        "context_length": 4096,
        "eval_batch_size": 512,
        "parallel": 4,
        "flash_attention": True,
        "offload_kv_cache_to_gpu": True,
    }
    assert models[0]["loaded_instances"] == [{"id": QWEN, "config": config}]
    assert models[0]["capabilities"] == {
        "vision": False,
        "trained_for_tool_use": True,
        "reasoning": {"allowed_options": ["off", "on"], "default": "on"},
    }
    assert models[1]["loaded_instances"] == []
    assert "capabilities" not in models[2]


# -- loading and unloading -----------------------------------------------------------------------------------------


async def test_loading_a_loaded_model_makes_a_second_instance(client: httpx.AsyncClient, sim: Simulator) -> None:
    for wanted in (f"{QWEN}:2", f"{QWEN}:3"):
        reply = (await client.post("/api/v1/models/load", json={"model": QWEN, "context_length": 1000})).json()
        assert (reply["type"], reply["instance_id"], reply["status"]) == ("llm", wanted, "loaded")
    assert [i.context_length for i in sim.instances.values()] == [8192, 1000, 1000]
    assert (await post_chat(client, f"{QWEN}:2")).json()["model"] == f"{QWEN}:2"


async def test_load_takes_more_context_than_the_model_has_and_echoes_it(client: httpx.AsyncClient) -> None:
    body = {"model": QWEN, "context_length": 999_999, "echo_load_config": True}
    reply = await client.post("/api/v1/models/load", json=body)
    assert (reply.status_code, reply.json()["load_config"]["context_length"]) == (200, 999_999)


async def test_native_routes_refuse_keys_they_do_not_know(client: httpx.AsyncClient) -> None:
    reply = await client.post("/api/v1/models/load", json={"model": QWEN, "ttl": 5})
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "message": "Unrecognized key(s) in object: 'ttl'",
        "type": "invalid_request",
        "code": "unrecognized_keys",
        "param": None,
    }
    assert (await client.post("/api/v1/models/unload", json={"model": QWEN})).status_code == 400
    assert (await client.post("/api/v1/models/load", json={})).json()["error"]["code"] == "missing_required_parameter"


@pytest.mark.parametrize(
    ("path", "body"), [("load", {"model": "no-such"}), ("unload", {"instance_id": "no-such"})], ids=["load", "unload"]
)
async def test_native_routes_answer_404_for_names_they_do_not_know(
    client: httpx.AsyncClient, path: str, body: dict[str, str]
) -> None:
    reply = await client.post(f"/api/v1/models/{path}", json=body)
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "model_not_found")


async def test_memory_guardrail_fails_manual_and_jit_loads() -> None:
    model = SimModel(QWEN, context_length=4097, guardrail_context_length=4096)
    async with open_simulator([model]) as sim, open_client(sim) as client:
        manual = await client.post("/api/v1/models/load", json={"model": QWEN})
        jit = await post_chat(client)
        fits = await client.post("/api/v1/models/load", json={"model": QWEN, "context_length": 4096})
    assert (manual.status_code, jit.status_code, fits.status_code) == (500, 400, 200)
    text = f'Failed to load model "{QWEN}". Error: {errors.LOAD_GUARDRAIL}'
    assert (manual.json()["error"]["message"], jit.json()["error"]["message"]) == (text, text)


# -- from a name to an instance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [QWEN, QWEN.upper(), "qwen3-4b", f"{QWEN}@q4_k_m"])
async def test_a_model_answers_to_its_key_in_any_case_to_its_name_and_variant(name: str) -> None:
    models = [SimModel(QWEN, loaded=True), SimModel(GEMMA, loaded=True)]
    async with open_simulator(models) as sim, open_client(sim) as client:
        assert (await post_chat(client, name)).json()["model"] == QWEN


async def test_a_model_under_its_own_identifier_answers_to_both_and_tells_the_identifier() -> None:
    models = [SimModel(QWEN, loaded=True, identifier="my-qwen"), SimModel(GEMMA, loaded=True)]
    async with open_simulator(models) as sim, open_client(sim) as client:
        assert [(await post_chat(client, name)).json()["model"] for name in ("my-qwen", QWEN)] == ["my-qwen"] * 2
        assert (await post_chat(client, "MY-QWEN")).status_code == 400


async def test_a_downloaded_model_is_loaded_on_demand() -> None:
    async with open_simulator([SimModel(QWEN), SimModel(GEMMA, loaded=True)]) as sim, open_client(sim) as client:
        assert (await post_chat(client)).json()["model"] == QWEN
        assert (sim.instances[QWEN].lane, sim.instances[QWEN].ttl_seconds) == ("jit", 3600)


async def test_the_only_loaded_chat_model_answers_for_an_unknown_name() -> None:
    async with open_simulator(three_models()) as sim, open_client(sim) as client:
        reply = await post_chat(client, "not-a-model")
    assert (reply.status_code, reply.json()["model"]) == (200, QWEN)


async def test_with_two_chat_models_an_unknown_name_is_refused_with_the_list() -> None:
    models = [SimModel(QWEN, loaded=True), SimModel(GEMMA, loaded=True)]
    async with open_simulator(models) as sim, open_client(sim) as client:
        reply = await post_chat(client, "not-a-model")
    text = f'Invalid model identifier "not-a-model". Please specify a valid downloaded model (e.g., {QWEN}, {GEMMA}).'
    assert (reply.status_code, reply.json()) == (400, errors.openai_error(text, param="model", code="model_not_found"))


async def test_without_any_chat_model_every_name_is_refused() -> None:
    async with open_simulator([SimModel(NOMIC, type="embedding")]) as sim, open_client(sim) as client:
        reply = await post_chat(client, "x")
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "Invalid model identifier 'x'. There are no downloaded llm models."


@pytest.mark.parametrize(("jit", "name"), [(False, QWEN), (True, "")], ids=["jit-off", "empty-name"])
async def test_with_nothing_loaded_and_no_jit_the_request_is_refused(jit: bool, name: str) -> None:
    async with open_simulator([SimModel(QWEN)], jit=jit) as sim, open_client(sim) as client:
        reply = await post_chat(client, name)
    assert (reply.status_code, reply.json()) == (400, errors.openai_error(errors.NO_MODELS_LOADED, param="model"))


async def test_older_builds_answer_404_to_an_unknown_name() -> None:
    models = [SimModel(QWEN, loaded=True), SimModel(GEMMA, loaded=True)]
    async with open_simulator(models, native=False) as sim, open_client(sim) as client:
        reply = await post_chat(client, "x")
    assert reply.status_code == 404
    assert reply.json()["error"]["message"].startswith('Model "x" not found. Please specify a valid model.')


async def test_ttl_counts_only_for_the_request_that_loads() -> None:
    async with open_simulator([SimModel(QWEN), SimModel(GEMMA)]) as sim, open_client(sim) as client:
        await post_chat(client, ttl=77)
        await post_chat(client, ttl=88)
        assert sim.instances[QWEN].ttl_seconds == 77
        await post_chat(client, GEMMA, ttl=-5)
        assert sim.instances[GEMMA].ttl_seconds == 3600


async def test_an_idle_jit_model_is_unloaded_when_its_ttl_is_over() -> None:
    async with open_simulator([SimModel(QWEN)], jit=True) as sim, open_client(sim) as client:
        await post_chat(client, ttl=0.05)

        async def wait_until_gone() -> None:
            while (await client.get("/api/v0/models")).json()["data"][0]["state"] == "loaded":
                pass

        await within(wait_until_gone())
        assert sim.instances == {}


# -- chat completions ----------------------------------------------------------------------------------------------


async def test_a_plain_reply_carries_calls_reasoning_and_nine_digit_ids(
    client: httpx.AsyncClient, sim: Simulator
) -> None:
    sim.script(QWEN, CallReply(("list_files", {"path": "."}), ("stat", {}), text="\n\n", reasoning="I should"))
    choice = (await post_chat(client)).json()["choices"][0]
    message = choice["message"]
    assert (choice["finish_reason"], message["content"], message["reasoning_content"]) == (
        "tool_calls",
        "\n\n",
        "I should",
    )
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "list_files", "arguments": '{"path": "."}'},
        {"name": "stat", "arguments": "{}"},
    ]
    assert all(len(call["id"]) == 9 and call["id"].isdigit() for call in message["tool_calls"])


async def test_a_stream_comes_in_the_recorded_order(client: httpx.AsyncClient, sim: Simulator) -> None:
    sim.script(
        QWEN, CallReply(Call("list_files", {"path": "."}, id="268992578"), text="\n\n", reasoning="I should look")
    )
    reply = await post_chat(client, stream=True, stream_options={"include_usage": True})
    *frames, usage, done = read_frames(reply.text)
    assert reply.headers["content-type"] == "text/event-stream"
    assert deltas(frames) == [
        {"role": "assistant", "reasoning_content": "I should loo"},
        {"reasoning_content": "k"},
        {"content": "\n\n"},
        {
            "tool_calls": [
                {"index": 0, "id": "268992578", "type": "function", "function": {"name": "list_files", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": '{"path": "."}'}}]},
        {},
    ]
    assert [frame["choices"][0]["finish_reason"] for frame in frames] == [None] * 5 + ["tool_calls"]
    assert (usage["choices"], usage["usage"]["prompt_tokens"], done) == ([], 4, "[DONE]")


async def test_a_dropped_call_leaves_a_preface_and_a_usage_of_zeros(client: httpx.AsyncClient, sim: Simulator) -> None:
    """The most damaging quirk: lmstudio-bug-tracker #942."""
    sim.script(QWEN, DroppedCallReply(), DroppedCallReply())
    reply = (await post_chat(client)).json()
    assert reply["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "I'll look at the file first.", "tool_calls": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert reply["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    frames = await stream_chat(client, stream_options={"include_usage": True})
    assert frames[-2]["usage"] == reply["usage"]


async def test_embeddings_have_zero_usage_and_cut_long_text_silently() -> None:
    async with open_simulator(three_models()) as sim, open_client(sim) as client:
        texts = ["a" * 64, "a" * 64 + "beyond the context"]
        reply = (await client.post("/v1/embeddings", json={"model": NOMIC, "input": texts})).json()
        unknown = await client.post("/v1/embeddings", json={"model": "none", "input": "x"})
    assert [entry["index"] for entry in reply["data"]] == [0, 1]
    assert reply["data"][0]["embedding"] == reply["data"][1]["embedding"]
    assert (reply["model"], reply["usage"]) == (NOMIC, {"prompt_tokens": 0, "total_tokens": 0})
    assert unknown.status_code == 400


# -- checks before generation --------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
INVALID_MESSAGES = "Invalid 'messages' in payload. Please check the structure of your 'messages' and try again"


def calling(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"messages": None}, "'messages' field is required"),
        ({"messages": []}, INVALID_MESSAGES),
        (
            {"tool_choice": {"type": "function"}},
            "Invalid tool_choice type: 'object'. Supported string values: none, auto, required",
        ),
        ({"response_format": {"type": "json_object"}}, "'response_format.type' must be 'json_schema' or 'text'"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": [IMAGE]}]}, INVALID_MESSAGES),
        ({"messages": [{"role": "tool", "tool_call_id": "", "content": "x"}]}, INVALID_MESSAGES),
        ({"messages": [{"role": "tool", "content": "x"}]}, INVALID_MESSAGES),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "'url' field must be a base64 encoded image."),
        (
            {"messages": [{"role": "user", "content": [{**IMAGE, "image_url": {"url": "data:image/webp;base64,A"}}]}]},
            "Invalid image detected at index 0",
        ),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "System message cannot contain images."),
        (
            {"messages": [{"role": "user", "content": None}]},
            "Invalid 'content': 'content' field must be a string or an array of objects.",
        ),
        ({"messages": [calling(name="f", arguments={"a": 1})]}, INVALID_MESSAGES),
        ({"messages": [calling(arguments="{}")]}, INVALID_MESSAGES),
    ],
)
async def test_malformed_chat_requests_are_refused_with_the_recorded_text(
    client: httpx.AsyncClient, sim: Simulator, change: dict[str, Any], text: str
) -> None:
    sim.script(QWEN, TextReply("kept"))
    for stream in (False, True):
        reply = await client.post("/v1/chat/completions", json=chat_body(stream=stream) | change)
        assert (reply.status_code, reply.json()) == (400, {"error": text})
    assert sim.unused_replies(QWEN) == 1


async def test_null_content_is_refused_by_older_builds_only() -> None:
    message = {**calling(name="f", arguments="{}"), "content": None}
    messages = [{"role": "user", "content": "x"}, message, {"role": "tool", "tool_call_id": "1", "content": "y"}]
    for native, status in ((True, 200), (False, 400)):
        async with open_simulator(native=native) as sim, open_client(sim) as client:
            assert (await post_chat(client, messages=messages)).status_code == status


@pytest.mark.parametrize(("chars", "fits"), [(396, True), (400, True), (401, False)])
async def test_a_prompt_longer_than_the_context_fails_at_the_token(chars: int, fits: bool) -> None:
    messages = [{"role": "user", "content": "x" * chars}]
    async with open_simulator([SimModel(QWEN, loaded=True, context_length=100)]) as sim, open_client(sim) as client:
        plain = await post_chat(client, messages=messages)
        stream = await post_chat(client, messages=messages, stream=True)
    assert (plain.status_code, stream.status_code) == ((200, 200) if fits else (400, 200))
    if not fits:
        assert plain.json() == {"error": errors.OVERFLOW_PLAIN}
        assert stream.text == (
            'event: error\ndata: {"error":{"message":"The number of tokens to keep from the initial prompt is greater '
            "than the context length (n_keep: 101>= n_ctx: 100). Try to load the model with a larger context length, "
            'or provide a shorter input."}}\n\n'
        )


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (StreamError("boom"), 'event: error\ndata: {"error":{"message":"boom"}}\n\n'),
        (StreamError("boom", done=True), 'event: error\ndata: {"error":{"message":"boom"}}\n\ndata: [DONE]\n\n'),
        (StreamError("boom", duplicate=True), 'event: error\ndata: {"error":{"message":"boom"},"message":"boom"}\n\n'),
    ],
    ids=["bare", "with-done", "with-duplicate"],
)
async def test_an_error_frame_replaces_the_first_token(
    client: httpx.AsyncClient, sim: Simulator, fault: Fault, wanted: str
) -> None:
    sim.script(QWEN, TextReply("never", faults=(fault,)), TextReply("never", faults=(fault,)))
    streamed = await post_chat(client, stream=True)
    plain = await post_chat(client)
    assert (streamed.status_code, streamed.text) == (200, wanted)
    assert (plain.status_code, plain.json()) == (400, {"error": "boom"})


# -- records, load, process ----------------------------------------------------------------------------------------


async def test_the_simulator_runs_as_its_own_process(tmp_path: Path) -> None:
    script, record = tmp_path / "script.json", tmp_path / "record.jsonl"
    data = {
        "models": [{"key": QWEN, "loaded": True, "context_length": 2048}],
        "settings": {"jit": False},
        "replies": {
            QWEN: [
                {"calls": [["f", {"a": 1}]], "stream": {"usage_chunk": False}},
                {"text": "x", "usage": {"prompt": 5}, "faults": [{"fault": "StreamError", "message": "boom"}]},
                {"status": 429, "body": {"error": "busy"}, "headers": {"Retry-After": "1"}},
            ]
        },
    }
    script.write_text(json.dumps(data), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.lmstudio_sim", "--script", str(script), "--record", str(record)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await within(process.stdout.readline())).decode().strip()
        async with httpx.AsyncClient(base_url=url, timeout=BOUND_SECONDS, trust_env=False) as client:
            statuses = [(await post_chat(client)).status_code for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        code = await within(process.wait())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    recorded = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert (statuses, code) == ([200, 400, 429, 200], 0)
    assert [(each["path"], each["status"]) for each in recorded] == [("/v1/chat/completions", s) for s in statuses]
