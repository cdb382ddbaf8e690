"""The routes beside chat, over real sockets: lists of models, embeddings and responses."""

from __future__ import annotations

import pytest

from lmstudio_bridge.errors import LLMResponseError, ModelLostError, ModelNotFoundError, WrongEndpointError
from lmstudio_bridge.lmstudio.client import Response
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelInfo, ModelInstance
from lmstudio_bridge.messages import AssistantMessage, Completion, ToolCall, ToolMessage
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, HttpReply, TextReply
from tests.lmstudio_sim.server import open_simulator
from tests.unit.lmstudio.clients import (
    GEMMA,
    HISTORY,
    LIST_FILES,
    NOMIC,
    QUESTION,
    QWEN,
    open_test_client,
    sent,
    within,
)

# -- list_models ----------------------------------------------------------------------------------------------------

MODELS = [
    SimModel(QWEN, loaded=True, identifier="my-qwen", context_length=16384, trained_for_tool_use=True, vision=True),
    SimModel(GEMMA),
    SimModel(NOMIC, type="embedding"),
]


async def test_a_server_with_native_routes_tells_all_about_its_models() -> None:
    async with open_simulator(MODELS) as sim, open_test_client(sim) as client:
        url = f"{sim.url}/api/v1/models"
        size = 2_500_000_000

        assert await within(client.list_models()) == ModelCatalog(
            (
                ModelInfo(
                    QWEN, "llm", (ModelInstance("my-qwen", 16384, 4),), 131072, True, True, (f"{QWEN}@q4_k_m",), size
                ),
                ModelInfo(GEMMA, "llm", (), 131072, False, False, (f"{GEMMA}@q4_k_m",), size),
                ModelInfo(NOMIC, "embedding", (), 131072, None, None, (f"{NOMIC}@q4_k_m",), size),
            ),
            "/api/v1/models",
            url,
        )


async def test_a_server_before_0_4_tells_what_is_loaded() -> None:
    async with open_simulator(MODELS, native=False) as sim, open_test_client(sim) as client:
        assert await within(client.list_models()) == ModelCatalog(
            (
                ModelInfo(QWEN, "llm", (ModelInstance(QWEN, 16384),), 131072, True, True),
                ModelInfo(GEMMA, "llm", (), 131072, None, False),
                ModelInfo(NOMIC, "embedding", (), 131072, None, False),
            ),
            "/api/v0/models",
            f"{sim.url}/api/v0/models",
        )


async def test_another_server_tells_names_only() -> None:
    async with open_simulator(MODELS, native=None) as sim, open_test_client(sim) as client:
        assert await within(client.list_models()) == ModelCatalog(
            (ModelInfo(QWEN), ModelInfo(GEMMA), ModelInfo(NOMIC, "embedding")), "/v1/models", f"{sim.url}/v1/models"
        )


@pytest.mark.parametrize(
    "reply",
    [HttpReply(200, "<html>hello</html>"), HttpReply(200, {"data": []}), HttpReply(501, {"error": "Not yet."})],
    ids=["a web page", "other JSON", "501"],
)
async def test_whatever_answers_in_place_of_a_native_route_is_passed_over(reply: HttpReply) -> None:
    async with open_simulator(MODELS, native=None) as sim, open_test_client(sim) as client:
        sim.script_path("/api/v1/models", reply)

        assert (await within(client.list_models())).source == "/v1/models"


# -- embeddings -----------------------------------------------------------------------------------------------------


async def test_texts_become_vectors_in_their_order() -> None:
    async with open_simulator(MODELS) as sim, open_test_client(sim) as client:
        vectors = await within(client.generate_embeddings(["a", "b"]))

        assert [len(vector) for vector in vectors] == [8, 8]
        assert sent(sim, "/v1/embeddings") == {"model": NOMIC, "input": ["a", "b"]}


async def test_vectors_are_put_into_the_order_of_their_index() -> None:
    data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script_path("/v1/embeddings", HttpReply(200, {"data": data}))

        assert await within(client.generate_embeddings(["a", "b"], model=NOMIC)) == [[0.0], [1.0]]


async def test_vectors_without_an_index_keep_their_order() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        data = [{"embedding": [1.0], "index": None}, {"embedding": [0.0]}]
        sim.script_path("/v1/embeddings", HttpReply(200, {"data": data}))

        assert await within(client.generate_embeddings(["a", "b"], model=NOMIC)) == [[1.0], [0.0]]


async def test_fewer_vectors_than_texts_are_refused() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script_path("/v1/embeddings", HttpReply(200, {"data": [{"embedding": [1.0], "index": 0}]}))

        with pytest.raises(WrongEndpointError) as caught:
            await within(client.generate_embeddings(["a", "b"], model=NOMIC))

        assert caught.value.detail == "1 vectors for 2 texts"


async def test_an_embedding_model_that_is_loaded_goes_first() -> None:
    models = [SimModel(NOMIC, type="embedding"), SimModel("text-embedding-bge", type="embedding", loaded=True)]
    async with open_simulator(models) as sim, open_test_client(sim) as client:
        await within(client.generate_embeddings(["a"]))

        assert sim.requests[-1].model == "text-embedding-bge"


async def test_an_embedding_model_that_was_just_downloaded_is_found() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        await within(client.validator.catalog())
        sim.models[NOMIC] = SimModel(NOMIC, type="embedding")

        assert len(await within(client.generate_embeddings(["a"]))) == 1


async def test_without_an_embedding_model_the_user_is_told_to_get_one() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        with pytest.raises(ModelNotFoundError, match="no embedding model"):
            await within(client.generate_embeddings(["a"]))


# -- responses ------------------------------------------------------------------------------------------------------


async def test_a_response_goes_on_with_the_result_of_its_call() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script(QWEN, CallReply(("list_files", {"path": "."}), reasoning="Hm."), TextReply("Two files."))

        first = await within(client.create_response(QUESTION, model=QWEN, tools=[LIST_FILES], max_tokens=99))
        [call] = first.completion.calls
        second = await within(
            client.create_response([ToolMessage(call.id, "a.txt")], model=QWEN, previous_response_id=first.id)
        )

        assert first == Response(
            first.id,
            Completion(
                "",
                "Hm.",
                (ToolCall(call.id, "list_files", '{"path": "."}'),),
                "completed",
                QWEN,
                first.completion.usage,
            ),
        )
        assert (second.completion.text, second.id != first.id) == ("Two files.", True)
        assert [request.json for request in sim.requests] == [
            {
                "model": QWEN,
                "input": [{"role": "user", "content": "List the files"}],
                "stream": False,
                "max_output_tokens": 99,
                "tools": [
                    {
                        "type": "function",
                        "name": "list_files",
                        "description": "Lists a folder.",
                        "parameters": LIST_FILES.parameters,
                    }
                ],
                "tool_choice": "auto",
            },
            {
                "model": QWEN,
                "input": [{"type": "function_call_output", "call_id": call.id, "output": "a.txt"}],
                "stream": False,
                "previous_response_id": first.id,
            },
        ]


async def test_a_whole_history_goes_to_responses_as_items() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        await within(client.create_response([*HISTORY, AssistantMessage("Two files.")], model=QWEN))

        assert sim.requests[0].json == {
            "model": QWEN,
            "stream": False,
            "input": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "List the files"},
                {
                    "type": "function_call",
                    "call_id": "268992578",
                    "name": "list_files",
                    "arguments": '{"path":"."}',
                },
                {"type": "function_call_output", "call_id": "268992578", "output": "a.txt\nb.txt"},
                {"role": "assistant", "content": "Two files."},
            ],
        }


async def test_a_response_may_hold_its_text_as_a_string() -> None:
    output = [
        {"type": "reasoning", "content": None},
        {"type": "message", "content": "Yes"},
        {"type": "message", "content": [{"type": "output_text", "text": "."}, {"type": "refusal"}]},
    ]
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script_path("/v1/responses", HttpReply(200, {"id": "resp_x", "output": output, "error": None}))

        reply = await within(client.create_response(QUESTION, model=QWEN))

        assert reply == Response("resp_x", Completion("Yes."))


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_response_that_failed_without_a_word_is_no_answer(status: str) -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        sim.script_path("/v1/responses", HttpReply(200, {"id": "resp_x", "status": status, "output": []}))

        with pytest.raises(ModelLostError, match=f"The response {status}"):
            await within(client.create_response(QUESTION, model=QWEN))


async def test_an_unknown_previous_response_is_refused_with_the_servers_words() -> None:
    async with open_simulator() as sim, open_test_client(sim) as client:
        with pytest.raises(LLMResponseError, match="refused the request") as caught:
            await within(client.create_response(QUESTION, model=QWEN, previous_response_id="resp_x"))

        assert "resp_x" in caught.value.detail
        assert len(sim.requests) == 1
