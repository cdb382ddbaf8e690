"""Tasks and tools compared by LM Studio's embeddings, where there is a model for that in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs import server_selection as similarity
from lmstudio_bridge.runs.server_selection import ToolSimilarity
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.clients import QWEN, open_test_client

SAVE = ServerTool("memory", "create_entities", "Saves what is known of somebody.")
READ = ServerTool("fs", "read_file", "Reads a file.")
TOOLS = (READ, SAVE)
TASK = "Remember Ana"
ROUTE = "/v1/embeddings"


@dataclass
class World:
    sim: Simulator
    client: LLMClient
    similarity: ToolSimilarity

    def inputs(self) -> list[list[str]]:
        """What each request for embeddings held."""
        return [json.loads(request.body)["input"] for request in self.sim.requests if request.path == ROUTE]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    meanings = (("remember", "saves"), ("file", "reads"))
    embedder = SimModel("nomic/text-embedding-nomic", type="embedding", loaded=True, meanings=meanings)
    async with open_simulator([SimModel(QWEN, loaded=True), embedder]) as sim, open_test_client(sim) as client:
        yield World(sim, client, ToolSimilarity(client))


def closest(found: Any) -> list[str]:
    return [name for _, name in sorted(found, key=lambda key: -found[key])]


async def test_tools_are_close_that_say_the_same_in_other_words(world: World) -> None:
    found = await world.similarity.compare(TASK, TOOLS)

    assert closest(found) == ["create_entities", "read_file"]
    assert all(0 <= score <= 1.0001 for score in found.values())
    assert world.inputs() == [
        [
            "search_query: Remember Ana",
            "search_document: read file:  Reads a file.",
            "search_document: create entities:  Saves what is known of somebody.",
        ]
    ]


async def test_a_tool_is_sent_once_and_the_task_each_time(world: World) -> None:
    first = await world.similarity.compare(TASK, TOOLS)
    second = await world.similarity.compare(TASK, TOOLS)
    await world.similarity.compare("Read a file", (*TOOLS, ServerTool("fs", "new")))

    assert second == pytest.approx(first)
    assert world.inputs()[1:] == [
        ["search_query: Remember Ana"],
        ["search_query: Read a file", "search_document: new:  "],
    ]


async def test_models_without_that_habit_get_plain_texts(world: World) -> None:
    world.sim.models.pop("nomic/text-embedding-nomic")
    world.sim.instances.pop("nomic/text-embedding-nomic")
    world.sim.models["x/bge"] = SimModel("x/bge", type="embedding")
    await world.sim.state.load(world.sim.models["x/bge"])

    await world.similarity.compare(TASK, (READ,))

    assert world.inputs() == [[TASK, "read file:  Reads a file."]]


@pytest.mark.parametrize("there", [False, True])
async def test_no_model_is_loaded_for_this(world: World, there: bool) -> None:
    """It could evict the chat model, even while that one works (LM Studio reference, 6)."""
    world.sim.instances.pop("nomic/text-embedding-nomic")
    if not there:
        world.sim.models.pop("nomic/text-embedding-nomic")

    assert await world.similarity.compare(TASK, TOOLS) == {}
    assert world.inputs() == []


async def test_a_model_that_has_gone_since_the_list_was_fetched_is_not_asked(world: World) -> None:
    await world.client.validator.catalog()
    world.sim.instances.pop("nomic/text-embedding-nomic")
    await world.client.retry_sleep(1_000_000.0)  # no real one

    assert await world.similarity.compare(TASK, TOOLS) == {}
    assert world.inputs() == []


@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(500, "no"),
        HttpReply(200, "no"),
        HttpReply(200, {"data": []}),
        HttpReply(200, {"data": [{"embedding": [0.0, 0.0]}] * 3}),
        HttpReply(200, {"data": [{"embedding": []}] * 3}),
        HttpReply(200, {"data": [{"embedding": [float("inf"), 1.0]}] * 3}),
    ],
)
async def test_whatever_goes_wrong_is_nobodys_trouble_and_asked_once(world: World, reply: HttpReply) -> None:
    world.sim.script_path(ROUTE, reply)

    assert await world.similarity.compare(TASK, TOOLS) == {}
    assert len(world.inputs()) == 1
    assert closest(await world.similarity.compare(TASK, TOOLS)) == ["create_entities", "read_file"]


async def test_it_takes_no_longer_than_it_may(world: World) -> None:
    assert await ToolSimilarity(world.client, seconds=0.0).compare(TASK, TOOLS) == {}


async def test_so_many_vectors_are_kept_the_newest(world: World) -> None:
    tools = [ServerTool("fs", f"tool{number}", "Reads a file.") for number in range(similarity.MAX_VECTORS + 1)]
    await world.similarity.compare(TASK, tools[:-1])
    await world.similarity.compare(TASK, tools[1:])
    await world.similarity.compare(TASK, tools[1:])
    await world.similarity.compare(TASK, tools[:1])

    most = similarity.MAX_VECTORS
    assert [len(texts) for texts in world.inputs()] == [most + 1, 2, 1, 2]


async def test_no_tools_are_no_request(world: World) -> None:
    assert await world.similarity.compare(TASK, ()) == {}
    assert world.inputs() == []
