"""The server itself goes away in mid-reply and comes back, or stays away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.recovery.bench import (
    QWEN,
    Trap,
    answer_from,
    ask,
    chat_models,
    is_right,
    look_up,
    open_bench,
    soon,
    start,
)
from tests.lmstudio_sim.replies import Stall, TextReply

PARTIAL = "It seems to me that"


def stalled(trap: Trap, *, before_headers: bool) -> TextReply:
    stall = Stall(until=trap, before_headers=True) if before_headers else Stall(until=trap, after_tokens=2)
    return TextReply(f"{PARTIAL} the value might be this", faults=(stall,))


BEFORE, WITHIN = "before/headers", "within/stream"


@pytest.mark.parametrize("outages", [1, 2])
async def test_a_server_that_is_restarted_in_mid_reply_costs_each_run_a_request(tmp_path: Path, outages: int) -> None:
    async with open_bench(tmp_path, chat_models(BEFORE, WITHIN)) as bench:
        traps = {model: [Trap() for _ in range(outages)] for model in bench.sim.models}
        for model in bench.sim.models:
            bench.work_on(model, *(stalled(trap, before_headers=model == BEFORE) for trap in traps[model]))
        async with bench.bridge() as client:
            numbers = {model: await start(client, model) for model in bench.sim.models}
            for before, within in zip(traps[BEFORE], traps[WITHIN], strict=True):
                await soon(before.reached)
                await soon(within.reached)
                await bench.sim.stop()
                await bench.sim.start()
            answers = {model: await client.answer_of(number) for model, number in numbers.items()}

        again = {BEFORE: "The request was retried.", WITHIN: "Retrying (1 of 2)."}
        for model, answer in answers.items():
            assert is_right(answer, model)
            outcomes = [request.outcome for request in bench.chats(model)]
            assert outcomes == ["completed", *["cut"] * outages, "completed"]
            assert bench.looked_up(model) == 1
            if model == BEFORE and outages == 1:
                continue  # a request on a kept-alive connection is sent again at once, and nobody needs to know
            assert again[model] in answer.told
            assert [message for message in answer.progress if again[model] in message]
        assert bench.loads() == []


async def test_a_server_that_stays_away_ends_the_run_with_the_text_so_far(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        trap = Trap()
        bench.sim.script(QWEN, look_up(QWEN), stalled(trap, before_headers=False))
        bench.sim.script_fn(QWEN, answer_from)
        async with bench.bridge() as client:
            number = await start(client)
            await soon(trap.reached)
            await bench.sim.stop()
            failed = await client.answer_of(number)
            await bench.sim.start()
            bench.work_on(QWEN)
            after = await ask(client)

        assert failed.is_error
        assert "LM Studio is not reachable." in failed.text
        assert "lms server start" in failed.text
        assert f"The model's text so far:\n{PARTIAL}" in failed.text
        assert is_right(after, QWEN)
        assert bench.stops() == ["answered", "failed"]
