"""Loading a model: once, with a context that fits, never a twin, and never a failure without advice."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import LLMError, ModelLoadError
from lmstudio_bridge.lmstudio.models import ModelChoice
from lmstudio_bridge.messages import Notice
from tests.lmstudio_sim.errors import native_error, unexpected_endpoint
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply
from tests.unit.lmstudio.clients import GEMMA, QWEN, within
from tests.unit.lmstudio.session_case import LOAD, Case, case


async def load(given: Case) -> ModelChoice:
    return (await given.prepare()).choice


def loads(given: Case) -> list[object]:
    return [request.json for request in given.seen(LOAD)]


async def test_a_model_that_is_loaded_is_left_alone() -> None:
    async with case(SimModel(QWEN, loaded=True)) as given:
        choice = await load(given)

        assert (choice.name, choice.context_length) == (QWEN, 8_192)
        assert (loads(given), given.told) == ([], [])


@pytest.mark.parametrize(("most", "context"), [(16_383, 16_383), (16_384, 16_384), (16_385, 16_384)])
async def test_the_context_is_what_was_wanted_or_the_most_that_the_model_has(most: int, context: int) -> None:
    async with case(SimModel(QWEN, max_context_length=most)) as given:
        choice = await load(given)

        assert loads(given) == [{"model": QWEN, "context_length": context}]
        assert (choice.name, choice.context_length, choice.info.loaded) == (QWEN, context, True)
        assert given.told == [Notice("loading", f"loading {QWEN}")]


async def test_a_load_that_is_cancelled_hangs_up_and_lets_the_next_run_load() -> None:
    loading = asyncio.Event()
    async with case(SimModel(QWEN, load_delay=loading)) as given:
        first = asyncio.create_task(load(given))
        request = await given.sim.wait_for_request(path=LOAD)
        second = asyncio.create_task(load(given))

        first.cancel()
        await within(request.ended.wait())
        assert request.disconnected
        loading.set()

        assert (await within(second)).info.loaded


@pytest.mark.parametrize(
    ("other", "advice"),
    [
        (SimModel(GEMMA, size_bytes=999), f"{GEMMA} is smaller: pass model='{GEMMA}'."),
        (SimModel(GEMMA, size_bytes=1_000), ""),
        (SimModel(GEMMA, size_bytes=1_001), ""),
        (SimModel(GEMMA, size_bytes=1_001, loaded=True), f"{GEMMA} is already loaded: pass model='{GEMMA}'."),
        (SimModel(GEMMA, size_bytes=1, type="embedding"), ""),
    ],
)
async def test_a_refused_load_names_what_would_do(other: SimModel, advice: str) -> None:
    async with case(SimModel(QWEN, guardrail_context_length=1, size_bytes=1_000), other) as given:
        with pytest.raises(ModelLoadError) as caught:
            await load(given)

        assert caught.value.remedy.partition("other models.")[2].strip() == advice
        assert "guardrails" in caught.value.detail


@pytest.mark.parametrize("refusal", [HttpReply(200, unexpected_endpoint("POST", LOAD)), HttpReply(404, {})])
async def test_a_server_without_the_route_loads_at_the_first_request(refusal: HttpReply) -> None:
    async with case(SimModel(QWEN)) as given:
        given.sim.script_path(LOAD, refusal)

        choice = await load(given)

        assert (choice.info.loaded, len(loads(given))) == (False, 1)


async def test_another_server_tells_nothing_and_is_asked_nothing() -> None:
    async with case(SimModel(QWEN), native=None) as given:
        choice = await load(given)

        assert (choice.info.loaded, loads(given), given.told) == (None, [], [])


async def test_a_failure_of_another_kind_comes_out_as_it_is() -> None:
    async with case(SimModel(QWEN)) as given:
        given.sim.script_path(LOAD, HttpReply(400, native_error("Expected string", code="invalid_value")))

        with pytest.raises(LLMError) as caught:
            await load(given)

        assert caught.value.detail.startswith("Expected string")
