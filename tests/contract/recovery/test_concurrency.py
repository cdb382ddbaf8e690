"""Many runs at once: as many at a model as it has slots, first come first served, between bridges too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.contract.recovery.bench import (
    QWEN,
    Bench,
    Trap,
    cancel,
    chat_models,
    is_right,
    open_bench,
    soon,
    start,
    work,
)
from tests.lmstudio_sim.replies import Reply, Stall, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator


def crowded(sim: Simulator, slots: int, crowds: list[int]) -> Callable[[SimRequest], Reply]:
    """A model whose first replies come only once `slots` requests are at it; `crowds` tells how many were."""
    full = asyncio.Event()

    def reply(request: SimRequest) -> Reply:
        crowds.append(len(sim.instances[QWEN].flights))  # working or waiting inside LM Studio
        if len(crowds) == slots:
            full.set()
        return work(request).altered(faults=(Stall(until=full),))

    return reply


@pytest.mark.parametrize(
    ("parallel", "setting", "slots", "bridges"), [(1, "", 1, 1), (2, "", 2, 2), (4, "1", 1, 1), (1, "2", 2, 1)]
)
async def test_no_more_requests_are_at_a_model_than_it_has_slots(
    tmp_path: Path, parallel: int, setting: str, slots: int, bridges: int
) -> None:
    """Two bridges of one user share the slots; the setting overrides what LM Studio tells."""
    async with open_simulator(chat_models(QWEN, parallel=max(parallel, slots))) as sim:
        sim.instances[QWEN].parallel = parallel  # what LM Studio tells
        bench = Bench(tmp_path, sim)
        crowds: list[int] = []
        sim.script_fn(QWEN, crowded(sim, slots, crowds))
        async with AsyncExitStack() as stack:
            opening = [bench.bridge(LMSTUDIO_BRIDGE_PARALLEL=setting) for _ in range(bridges)]
            clients = [await stack.enter_async_context(bridge) for bridge in opening]
            numbers = [(client, await start(client)) for client in clients for _ in range(6 // bridges)]
            answers = [await client.answer_of(number) for client, number in numbers]

        assert [is_right(answer, QWEN) for answer in answers] == [True] * 6
        assert (len(crowds), max(crowds)) == (12, slots)


async def test_who_came_first_is_served_first_and_everybody_knows_the_place(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN, parallel=1)) as bench:
        go_on = Trap()

        def reply(request: SimRequest) -> Reply:
            first = len(bench.chats()) == 1
            return work(request).altered(faults=(Stall(until=go_on),) if first else ())

        bench.sim.script_fn(QWEN, reply)
        async with bench.bridge() as client:
            numbers = [await start(client, task="task 0")]
            await soon(go_on.reached)
            told = []
            for place in (1, 2, 3):
                numbers.append(await start(client, task=f"task {place}"))
                told.append(await client.wait_for_progress(numbers[-1], "queued for"))
            go_on.set()
            answers = [await client.answer_of(number) for number in numbers]

        assert told == [f"queued for {QWEN}: position {place}" for place in (1, 2, 3)]
        assert [is_right(answer, QWEN) for answer in answers] == [True] * 4
        first_rounds = [request for request in bench.chats() if request.messages[-1]["role"] == "user"]
        assert [request.messages[-1]["content"] for request in first_rounds] == [f"task {n}" for n in range(4)]


async def test_a_run_too_many_waits_for_a_place_and_says_so(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        go_on = Trap()
        bench.sim.script_fn(QWEN, lambda request: work(request).altered(faults=(Stall(until=go_on),)))
        async with bench.bridge(LMSTUDIO_BRIDGE_MAX_RUNS="1") as client:
            first = await start(client)
            await soon(go_on.reached)
            second, third = await start(client), await start(client)
            told = [await client.wait_for_progress(number, "Queued: 1 run") for number in (second, third)]
            await cancel(client, second)
            go_on.set()
            answers = [await client.answer_of(number) for number in (first, third)]

        waiting = "Queued: 1 run is already in progress"
        assert told == [waiting, f"{waiting}, 1 queued before this one"]
        assert [is_right(answer, QWEN) for answer in answers] == [True] * 2


async def test_a_bridge_that_is_killed_frees_its_slot(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN, parallel=1)) as bench:
        holding = Trap()
        bench.sim.script(QWEN, TextReply("never", faults=(Stall(until=holding),)))
        bench.sim.script_fn(QWEN, work)
        async with bench.bridge() as doomed, bench.bridge() as other:
            await start(doomed)
            await soon(holding.reached)
            number = await start(other)
            told = await other.wait_for_progress(number, "queued for")
            doomed.process.kill()
            answer = await other.answer_of(number)
            await doomed.process.wait()

        assert told == f"queued for {QWEN}: other sessions are using all slots"
        assert is_right(answer, QWEN)


async def test_a_crash_under_several_runs_costs_each_a_request_and_one_load_together(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN, "calm/model")) as bench:
        crashed = Trap(partial(bench.sim.crash, QWEN))

        def reply(request: SimRequest) -> Reply:
            at_work = len(bench.sim.instances[QWEN].flights) if QWEN in bench.sim.instances else 0
            if crashed.reached.is_set():
                return work(request)
            return TextReply("It seems to me", faults=(Stall(until=crashed if at_work == 3 else None),))

        calm = Trap()
        bench.sim.script_fn(QWEN, reply)
        bench.work_on("calm/model", TextReply("calm", faults=(Stall(until=calm, after_tokens=1),)))
        async with bench.bridge() as client:
            calm_number = await start(client, "calm/model")
            await soon(calm.reached)
            numbers = [await start(client, QWEN) for _ in range(3)]
            answers = [await client.answer_of(number) for number in numbers]
            calm.set()
            calm_answer = await client.answer_of(calm_number)

        assert [is_right(answer, QWEN) for answer in answers] == [True] * 3
        assert [len(answer.report["warnings"]) for answer in answers] == [1] * 3
        assert (len(bench.loads()), sorted(bench.sim.instances)) == (1, ["calm/model", QWEN])
        assert calm_answer.said.startswith("calm")
        assert calm_answer.report["warnings"] == [], "a fault of one run does not show in another"
        assert [message for message in calm_answer.progress if "crash" in message] == []
