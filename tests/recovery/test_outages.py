"""The server itself goes away in mid-reply and comes back, or stays away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.lmstudio_sim.replies import Stall, TextReply
from tests.lmstudio_sim.server import open_simulator
from tests.recovery.bench import QWEN, Bench, Trap, answer_from, ask, chat_models, is_right, look_up, soon, start

PARTIAL = "It seems to me that"


def stalled(trap: Trap, *, before_headers: bool) -> TextReply:
    stall = Stall(until=trap, before_headers=True) if before_headers else Stall(until=trap, after_tokens=2)
    return TextReply(f"{PARTIAL} the value might be this", faults=(stall,))


@pytest.mark.parametrize("outages", [1, 2])
@pytest.mark.parametrize("before_headers", [False, True])
async def test_a_server_that_is_restarted_in_mid_reply_costs_a_request(
    tmp_path: Path, outages: int, before_headers: bool
) -> None:
    async with open_simulator(chat_models(QWEN)) as sim:
        bench = Bench(tmp_path, sim)
        traps = [Trap() for _ in range(outages)]
        bench.work_on(QWEN, *(stalled(trap, before_headers=before_headers) for trap in traps))
        async with bench.bridge() as client:
            number = await start(client)
            for trap in traps:
                await soon(trap.reached)
                await sim.stop()
                await sim.start()
            answer = await client.answer_of(number)

        assert is_right(answer, QWEN)
        assert [request.outcome for request in bench.chats()] == ["completed", *["cut"] * outages, "completed"]
        assert bench.looked_up(QWEN) == 1
        assert bench.loads() == []
        again = "It was asked again." if before_headers else "Asking again (1 of 2)."
        assert [message for message in answer.progress if again in message]
        assert again in answer.text


async def test_a_server_that_stays_away_ends_the_run_with_the_text_so_far(tmp_path: Path) -> None:
    async with open_simulator(chat_models(QWEN)) as sim:
        bench = Bench(tmp_path, sim)
        trap = Trap()
        sim.script(QWEN, look_up(QWEN), stalled(trap, before_headers=False))
        sim.script_fn(QWEN, answer_from)
        async with bench.bridge() as client:
            number = await start(client)
            await soon(trap.reached)
            await sim.stop()
            failed = await client.answer_of(number)
            await sim.start()
            bench.work_on(QWEN)
            after = await ask(client)

        assert failed.is_error
        assert "LM Studio is not reachable." in failed.text
        assert "lms server start" in failed.text
        assert f"The model's text so far:\n{PARTIAL}" in failed.text
        assert is_right(after, QWEN)
        assert bench.stops() == ["answered", "failed"]


async def test_an_outage_ends_every_run_for_itself_and_no_other_later(tmp_path: Path) -> None:
    async with open_simulator(chat_models("first/model", "second/model")) as sim:
        bench = Bench(tmp_path, sim)
        traps = {model: Trap() for model in sim.models}
        for model, trap in traps.items():
            bench.work_on(model, stalled(trap, before_headers=False))
        async with bench.bridge() as client:
            numbers = {model: await start(client, model) for model in traps}
            await asyncio.gather(*(soon(trap.reached) for trap in traps.values()))
            await sim.stop()
            await sim.start()
            answers = {model: await client.answer_of(number) for model, number in numbers.items()}

        assert {model: is_right(answer, model) for model, answer in answers.items()} == dict.fromkeys(traps, True)
        assert {model: bench.looked_up(model) for model in traps} == dict.fromkeys(traps, 1)
