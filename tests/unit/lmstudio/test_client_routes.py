"""The routes beside chat, over real sockets: lists of models and embeddings."""

from __future__ import annotations

import pytest

from lmstudio_bridge.errors import WrongEndpointError
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelInfo, ModelInstance
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.clients import GEMMA, NOMIC, QWEN, open_test_client, sent, within

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
    ("told", "loaded"),
    [
        ({"owned_by": "llamacpp", "meta": {"n_ctx_train": 32768}}, True),
        ({"owned_by": "llamacpp", "status": {"value": "loaded"}}, True),
        ({"owned_by": "llamacpp", "status": {"value": "unloaded"}}, None),
        ({"owned_by": "library"}, None),
    ],
)
async def test_a_model_of_llama_cpp_is_loaded(told: dict[str, object], loaded: bool | None) -> None:
    async with open_simulator(MODELS, native=None) as sim, open_test_client(sim) as client:
        sim.script_path("/v1/models", HttpReply(200, {"data": [{"id": "m.gguf", "object": "model", **told}]}))
        (model,) = (await within(client.list_models())).models

    assert (model.loaded, model.instances) == (loaded, None)


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
        vectors = await within(client.embed(["a", "b"], model=NOMIC))

        assert [len(vector) for vector in vectors] == [8, 8]
        assert sent(sim, "/v1/embeddings") == {"model": NOMIC, "input": ["a", "b"]}


async def test_vectors_are_put_into_the_order_of_their_index(client: LLMClient, sim: Simulator) -> None:
    data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]
    sim.script_path("/v1/embeddings", HttpReply(200, {"data": data}))

    assert await within(client.embed(["a", "b"], model=NOMIC)) == [[0.0], [1.0]]


async def test_vectors_without_an_index_keep_their_order(client: LLMClient, sim: Simulator) -> None:
    data = [{"embedding": [1.0], "index": None}, {"embedding": [0.0]}]
    sim.script_path("/v1/embeddings", HttpReply(200, {"data": data}))

    assert await within(client.embed(["a", "b"], model=NOMIC)) == [[1.0], [0.0]]


async def test_fewer_vectors_than_texts_are_refused(client: LLMClient, sim: Simulator) -> None:
    sim.script_path("/v1/embeddings", HttpReply(200, {"data": [{"embedding": [1.0], "index": 0}]}))

    with pytest.raises(WrongEndpointError) as caught:
        await within(client.embed(["a", "b"], model=NOMIC))

    assert caught.value.detail == "1 vectors for 2 texts"
