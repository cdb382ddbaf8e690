"""Nothing waits without a bound: for a first byte, for the next one, for a slot, for a load, for the whole run."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.contract.recovery.bench import QWEN, Trap, ask, ask_all, chat_models, is_right, open_bench, soon, start
from tests.lmstudio_sim.replies import Stall, TextReply

PARTIAL = "It seems to me that"
SPARE = "spare/model"

SILENCES = {
    "before/headers": Stall(before_headers=True),
    "before/first-token": Stall(),
    "between/tokens": Stall(after_tokens=2),
}


async def test_a_reply_that_does_not_come_in_time_is_probed_reported_and_not_asked_for_again(tmp_path: Path) -> None:
    """The prompt would be read from its beginning in another slot, and never to its end."""
    async with open_bench(tmp_path, chat_models(*SILENCES, SPARE)) as bench:
        for model, stall in SILENCES.items():
            bench.work_on(model, TextReply(f"{PARTIAL} it is 7", faults=(stall,)))
        bench.work_on(SPARE)
        limits = {"LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT": "5", "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT": "5"}
        async with bench.bridge(**limits) as client:
            answers = await ask_all(client, list(SILENCES))
            after = await ask(client, SPARE)

        waited = {model: "5 s in the middle of its reply." if "between" in model else "5 s." for model in SILENCES}
        probed = " The server is running, and the model is still loaded."
        assert {model: answer.text.splitlines()[0] for model, answer in answers.items()} == {
            model: f"LM Studio sent nothing for {waited[model]}{probed}" for model in SILENCES
        }
        assert [answer.is_error for answer in answers.values()] == [True] * 3
        assert {model for model, answer in answers.items() if PARTIAL in answer.told} == {"between/tokens"}
        for model in SILENCES:
            assert [request.outcome for request in bench.chats(model)] == ["completed", "disconnected"]
            assert bench.looked_up(model) == 1
        assert is_right(after, SPARE)


async def test_a_silence_whose_model_is_gone_is_asked_again_once_it_is_back(tmp_path: Path) -> None:
    """The watcher sleeps here: it is the probe at the end of the silence that finds out."""
    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        gone = Trap(partial(bench.sim.instances.pop, QWEN))
        bench.work_on(QWEN, TextReply("never", faults=(Stall(until=gone, before_headers=True),)))
        async with bench.bridge(
            LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT="5", LMSTUDIO_BRIDGE_WATCH_INTERVAL="3600"
        ) as client:
            answer = await ask(client, QWEN)

        assert is_right(answer, QWEN)
        assert f"The model {QWEN} was unloaded." in answer.told
        assert [request.outcome for request in bench.chats()] == ["completed", "disconnected", "completed"]


async def test_the_end_of_the_runs_time_gives_what_there_is_wherever_it_comes(tmp_path: Path) -> None:
    models = chat_models("silent/model", "writing/model", "busy/model", "loading/model", parallel=1)
    models[3].loaded, models[3].load_delay = False, asyncio.Event()
    async with open_bench(tmp_path, models) as bench:
        bench.work_on("silent/model", TextReply("never", faults=(Stall(before_headers=True),)))
        bench.work_on("writing/model", TextReply(f"{PARTIAL} it is 7", faults=(Stall(after_tokens=2),)))
        bench.sim.script_fn("busy/model", lambda request: TextReply("never", faults=(Stall(),)))
        async with bench.bridge(LMSTUDIO_BRIDGE_RUN_TIMEOUT="10") as client:
            numbers = {model: await start(client, model) for model in bench.sim.models}
            waiting = await start(client, "busy/model")
            answers = {model: await client.answer_of(number) for model, number in numbers.items()}
            in_line = await client.answer_of(waiting)

        up = "The run timed out"
        assert {model: (answer.is_error, up in answer.told) for model, answer in answers.items()} == {
            "silent/model": (False, True),
            "writing/model": (False, True),
            "busy/model": (False, True),
            "loading/model": (True, False),
        }
        assert (in_line.is_error, up in in_line.text) == (False, True)
        assert PARTIAL in answers["writing/model"].text
        assert "The run could not start within its 10 s." in answers["loading/model"].told
        assert bench.stops() == ["deadline"] * 4 + ["failed"]
        for request in (bench.chats("silent/model")[1], bench.chats("writing/model")[1], *bench.chats("busy/model")):
            await soon(request.ended)
            assert request.disconnected


async def test_a_prompt_that_is_read_for_long_is_waited_for(tmp_path: Path) -> None:
    """Silence alone is no fault: looks at the model go on, and the reply is taken when it comes."""
    async with open_bench(tmp_path, chat_models("before/headers", "before/first-token")) as bench:
        silences = {model: Trap() for model in bench.sim.models}
        for model, trap in silences.items():
            stall = Stall(until=trap, before_headers=model == "before/headers")
            bench.work_on(model, TextReply("late", faults=(stall,)))
        async with bench.bridge(LMSTUDIO_BRIDGE_WATCH_INTERVAL="0.05") as client:
            numbers = [await start(client, model) for model in bench.sim.models]
            for trap in silences.values():
                await soon(trap.reached)
            looks = sum(request.path == "/api/v1/models" for request in bench.sim.requests)
            await bench.sim.wait_for_request(looks + 3, path="/api/v1/models")
            for trap in silences.values():
                trap.set()
            answers = [await client.answer_of(number) for number in numbers]

        assert [answer.text.splitlines()[0] for answer in answers] == ["late", "late"]
        assert {model: len(bench.chats(model)) for model in silences} == dict.fromkeys(silences, 2)
