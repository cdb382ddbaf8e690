"""A run's model: looked at before a request, got back at most twice, and never another one."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import ModelLoadError, ModelNotFoundError
from lmstudio_bridge.messages import Notice
from tests.lmstudio_sim.errors import MODEL_UNLOADED, NO_MODELS_LOADED, openai_error, plain_error
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.unit.lmstudio.clients import GEMMA, QWEN, within
from tests.unit.lmstudio.session_case import CHAT, LIST, LOAD, case, unload

LOST = HttpReply(400, plain_error(MODEL_UNLOADED))
NOT_FOUND = HttpReply(400, openai_error(NO_MODELS_LOADED, param="model"))
ANSWER = TextReply("Four files.")
REFUSED = HttpReply(400, plain_error("not now"))


# -- lost and got back ----------------------------------------------------------------------------------------------


async def test_a_model_that_another_server_does_not_find_is_not_asked_for_again() -> None:
    async with case(native=None) as given:
        given.sim.script(QWEN, NOT_FOUND, ANSWER)
        model = await given.prepare()

        with pytest.raises(ModelNotFoundError):
            await given.ask(model)

        assert len(given.seen(CHAT)) == 1


async def test_a_model_that_cannot_be_got_back_says_what_had_happened_first() -> None:
    async with case() as given:
        model = await given.prepare()
        given.sim.models[QWEN].guardrail_context_length = 1

        def lose(request: SimRequest) -> Reply:
            unload(given.sim)
            return LOST

        given.sim.script_fn(QWEN, lose)

        with pytest.raises(ModelLoadError) as caught:
            await given.ask(model)

        message = caught.value.message
        assert message == (
            "The model was unloaded, reloaded or crashed while it worked. The model could not be reloaded: "
            "LM Studio did not load the model because there is not enough memory."
        )


async def test_a_load_by_the_request_itself_that_fails_names_a_smaller_model() -> None:
    models = SimModel(QWEN, guardrail_context_length=1), SimModel(GEMMA, loaded=True)
    async with case(*models, native=False) as given:
        model = await given.prepare()

        with pytest.raises(ModelLoadError) as caught:
            await given.ask(model)

        assert caught.value.remedy.endswith(f"{GEMMA} is already loaded: pass model='{GEMMA}'.")
        assert len(given.seen(CHAT)) == 1


# -- looked at before a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "looks"), [(0.9, 0), (1.0, 1), (1.1, 1)])
async def test_the_model_is_looked_at_before_each_request_unless_it_just_was(age: float, looks: int) -> None:
    async with case() as given:
        given.sim.script(QWEN, ANSWER)
        model = await given.prepare()
        before = len(given.seen(LIST))

        given.time.now += age
        await given.ask(model)

        assert len(given.seen(LIST)) - before == looks
        assert given.told == []


async def test_a_model_whose_idle_time_was_up_is_loaded_with_the_wanted_context_and_not_by_the_request() -> None:
    async with case() as given:
        given.sim.script(QWEN, ANSWER)
        model = await given.prepare()
        del given.sim.instances[QWEN]
        given.time.now += 60

        assert ((await given.ask(model)).text, len(given.seen(CHAT))) == ("Four files.", 1)
        assert [request.json for request in given.seen(LOAD)] == [{"model": QWEN, "context_length": 16_384}]
        assert (model.choice.context_length, given.sim.instances[QWEN].lane) == (16_384, "manual")
        assert given.told == [
            Notice("recovery", f"The model {QWEN} was unloaded."),
            Notice("loading", f"loading {QWEN}"),
        ]


async def test_a_list_of_old_does_not_pass_for_the_model_being_there() -> None:
    async with case() as given:
        await given.client.validator.catalog()
        del given.sim.instances[QWEN]
        given.time.now += 30

        assert ((await given.prepare()).choice.context_length, len(given.seen(LOAD))) == (16_384, 1)


async def test_an_instance_that_was_asked_for_by_its_id_stays_the_one() -> None:
    async with case() as given:
        await given.sim.load(QWEN, context_length=4_096)
        given.sim.script(QWEN, ANSWER)
        given.sim.script_fn("*", lambda request: ANSWER)

        model = await given.prepare(f"{QWEN}:2")
        given.time.now += 60
        await given.ask(model)

        assert (model.choice.name, model.choice.context_length) == (f"{QWEN}:2", 4_096)
        assert [request.model for request in given.seen(CHAT)] == [f"{QWEN}:2"]


async def test_a_look_that_fails_does_not_hold_up_the_request() -> None:
    async with case() as given:
        given.sim.script(QWEN, ANSWER)
        model = await given.prepare()
        given.time.now += 60
        given.sim.script_path(LIST, REFUSED)

        assert (await given.ask(model)).text == "Four files."
        assert given.told == []


@pytest.mark.parametrize("parallel", [None, 1, 4])
async def test_a_cold_model_of_an_older_lm_studio_gets_one_request_at_a_time(parallel: int | None) -> None:
    loading = asyncio.Event()
    async with case(SimModel(QWEN, load_delay=loading), native=False, parallel=parallel) as given:
        model = await given.prepare()
        asking = [asyncio.create_task(given.ask(model)) for _ in range(3)]
        await given.sim.wait_for_request(path=CHAT)
        assert (len(given.seen(CHAT)), given.slots.waiting(QWEN)) == (1, 2)

        loading.set()

        assert [reply.model for reply in await within(asyncio.gather(*asking))] == [QWEN] * 3
        assert list(given.sim.instances) == [QWEN]
