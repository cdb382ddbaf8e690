"""Before the first round: the model is in memory, once, with room for the work, or the user hears why not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.contract.recovery.bench import (
    CHAT,
    LOAD,
    QWEN,
    Trap,
    answer_from,
    ask,
    ask_all,
    chat_models,
    first_told,
    is_right,
    look_up,
    open_bench,
    start,
    work,
)
from tests.lmstudio_sim.errors import LOAD_BROKEN, LOAD_CANCELED, LOAD_GUARDRAIL, native_error
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply, Stall
from tests.support.journals import read_journal

SMALL, BIG = "small/model", "big/model"


@pytest.mark.parametrize(("setting", "roomy", "tight"), [("", 16_384, 9_000), ("32768", 32_768, 9_000)])
async def test_a_model_that_is_not_in_memory_is_loaded_with_room_for_the_work(
    tmp_path: Path, setting: str, roomy: int, tight: int
) -> None:
    models = chat_models(BIG, SMALL, loaded=False)
    models[0].load_delay = loading = asyncio.Event()
    models[1].max_context_length = 9_000
    async with open_bench(tmp_path, models) as bench:
        for model in (BIG, SMALL):
            bench.work_on(model)
        async with bench.bridge(LMSTUDIO_BRIDGE_CONTEXT_LENGTH=setting) as client:
            big, small = await start(client, BIG), await start(client, SMALL)
            await client.wait_for_progress(big, f"loading {BIG}")
            small_answer = await client.answer_of(small)  # a load holds up nobody else
            loading.set()
            big_answer = await client.answer_of(big)

        assert (is_right(big_answer, BIG), is_right(small_answer, SMALL)) == (True, True)
        assert [request.json for request in bench.loads(BIG)] == [{"model": BIG, "context_length": roomy}]
        assert [request.json for request in bench.loads(SMALL)] == [{"model": SMALL, "context_length": tight}]


async def test_ten_runs_in_two_bridges_load_a_cold_model_once(tmp_path: Path) -> None:
    (model,) = chat_models(QWEN, loaded=False)
    model.load_delay = loading = asyncio.Event()
    async with open_bench(tmp_path, [model]) as bench:
        bench.sim.script_fn(QWEN, work)
        async with bench.bridge() as one, bench.bridge() as other:
            numbers = [(client, await start(client)) for client in (one, other) for _ in range(5)]
            told = [await client.wait_for_progress(number, QWEN) for client, number in numbers]
            loading.set()
            answers = [await client.answer_of(number) for client, number in numbers]

        assert [is_right(answer, QWEN) for answer in answers] == [True] * 10
        waiting = f"waiting for {QWEN}: another task is loading it"
        assert sorted(told) == sorted([f"loading {QWEN}", *[waiting] * 9])
        assert len(bench.loads()) == 1
        assert list(bench.sim.instances) == [QWEN]
        assert [request for request in bench.sim.requests if request.path.endswith("/unload")] == []


async def test_a_load_that_fails_says_what_lm_studio_said_and_names_a_smaller_model(tmp_path: Path) -> None:
    big, broken, small = chat_models(BIG, "broken/model", SMALL, loaded=False)
    big.guardrail_context_length, big.size_bytes = 8_192, 9_000_000_000
    broken.load_failure, broken.size_bytes = LOAD_BROKEN, 9_000_000_000
    async with open_bench(tmp_path, [big, broken, small]) as bench:
        bench.work_on(SMALL)
        async with bench.bridge() as client:
            answers = await ask_all(client, [BIG, "broken/model"])
            small.size_bytes = 9_000_000_000
            nothing_smaller = await ask(client, BIG)
            after = await ask(client, SMALL)
            beside_a_loaded_one = await ask(client, BIG)

        refused = [answers[BIG], answers["broken/model"], nothing_smaller, beside_a_loaded_one]
        assert [answer.is_error for answer in refused] == [True] * 4
        assert "there is not enough memory" in answers[BIG].told
        assert LOAD_GUARDRAIL in answers[BIG].told
        assert LOAD_BROKEN in answers["broken/model"].told
        advice = f"{SMALL} is smaller: pass model='{SMALL}'."
        assert [advice in answer.told for answer in refused] == [True, True, False, False]
        assert f"{SMALL} is already loaded: pass model='{SMALL}'." in beside_a_loaded_one.text
        assert is_right(after, SMALL)
        assert (bench.chats(BIG), bench.chats("broken/model")) == ([], [])


CANCELED = HttpReply(500, native_error(f'Failed to load model "{QWEN}". Error: {LOAD_CANCELED}', code="unknown"))


async def test_a_load_that_was_cancelled_by_another_is_tried_once_more(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN, loaded=False)) as bench:
        bench.work_on(QWEN)
        async with bench.bridge() as client:
            bench.sim.script_path(LOAD, CANCELED, CANCELED)
            twice = await ask(client)
            loads_after_two = len(bench.loads())
            bench.sim.script_path(LOAD, CANCELED)
            once = await ask(client)

        assert (twice.is_error, loads_after_two) == (True, 2)
        assert "Another load canceled" in twice.text
        assert is_right(once, QWEN)
        assert once.report["warnings"] == ["Another load canceled loading the model. The load was retried."]
        assert len(bench.loads()) == 4


async def test_a_load_that_was_overtaken_by_one_of_the_same_model_makes_no_twin(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN, loaded=False)) as bench:
        bench.work_on(QWEN)
        done = Trap(lambda: loads.append(asyncio.create_task(load_by_hand())))
        loads: list[asyncio.Task[None]] = []

        async def load_by_hand() -> None:
            await bench.sim.load(QWEN)
            done.set()

        bench.sim.script_path(LOAD, HttpReply(CANCELED.status, CANCELED.body, faults=(Stall(until=done),)))
        async with bench.bridge() as client:
            answer = await ask(client)

        assert is_right(answer, QWEN)
        assert (len(bench.loads()), list(bench.sim.instances)) == (1, [QWEN])


async def test_an_lm_studio_without_the_load_route_loads_once_and_the_silence_is_explained(tmp_path: Path) -> None:
    """Several first requests to a cold model would load an instance each (lmstudio-bug-tracker #1751)."""
    (model,) = chat_models(QWEN, loaded=False)
    model.load_delay = loading = asyncio.Event()
    async with open_bench(tmp_path, [model], native=False, duplicate_jit=True) as bench:
        bench.sim.script_fn(QWEN, work)
        async with bench.bridge(LMSTUDIO_BRIDGE_PARALLEL="4") as one, bench.bridge() as other:
            first = [await start(one, QWEN) for _ in range(3)]
            await bench.sim.wait_for_request(path=CHAT)
            told = await first_told(one, first, "on the first request")
            await first_told(one, first, "position 2")
            second = [await start(other, QWEN) for _ in range(3)]
            await first_told(other, second, "other sessions are using all slots")
            loading.set()
            answers = [await one.answer_of(number) for number in first]
            answers += [await other.answer_of(number) for number in second]

        assert told == f"{QWEN} is not loaded yet; LM Studio will load it on the first request"
        assert [is_right(answer, QWEN) for answer in answers] == [True] * 6
        assert list(bench.sim.instances) == [QWEN]


async def test_a_model_that_vanishes_between_two_rounds_is_loaded_again(tmp_path: Path) -> None:
    """Its idle time is up while a tool runs; without just-in-time loading the request is refused."""
    async with open_bench(tmp_path, chat_models(QWEN), jit=False) as bench:

        def vanish() -> None:
            del bench.sim.instances[QWEN]  # and the reply under way goes on
            gone.set()

        gone = Trap(vanish)
        bench.sim.script(QWEN, look_up(QWEN).altered(faults=(Stall(until=gone),)))
        bench.sim.script_fn(QWEN, answer_from)
        async with bench.bridge() as client:
            answer = await ask(client, QWEN)

        assert is_right(answer, QWEN)
        assert [request.json for request in bench.loads()] == [{"model": QWEN, "context_length": 16_384}]
        assert bench.looked_up(QWEN) == 1


async def test_what_makes_a_model_unfit_is_said_before_any_work(tmp_path: Path) -> None:
    tight, untrained, tiny = chat_models("tight/model", "untrained/model", "tiny/model")
    tight.loaded = untrained.loaded = tiny.loaded = False
    tight.max_context_length, tiny.max_context_length, untrained.trained_for_tool_use = 4_096, 100, False
    embedding = SimModel("text-embedding-nomic", type="embedding", loaded=True)
    async with open_bench(tmp_path, [tight, untrained, tiny, embedding]) as bench:
        for model in bench.sim.models:
            bench.work_on(model)
        async with bench.bridge() as client:
            answers = await ask_all(client, list(bench.sim.models))

        assert {model: (answers[model].is_error, len(bench.chats(model))) for model in answers} == {
            "tight/model": (False, 2),
            "untrained/model": (False, 3),  # it does not heed the JSON that it is asked for
            "tiny/model": (True, 0),
            "text-embedding-nomic": (True, 0),
        }
        assert "a context of only 4,096 tokens" in answers["tight/model"].told
        assert "not trained for tool use" in answers["untrained/model"].told
        assert "of the 100 tokens that tiny/model is loaded with" in answers["tiny/model"].told
        assert "is an embedding model; it cannot chat" in answers["text-embedding-nomic"].told
        for path in (bench.home / "runs").glob("*.jsonl"):
            kinds = [event["type"] for event in read_journal(path)]
            assert "RoundStarted" not in kinds or kinds.index("Warned") < kinds.index("RoundStarted")
