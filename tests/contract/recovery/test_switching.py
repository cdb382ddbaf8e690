"""The model changes under a request: unloaded, reloaded, replaced, or wanted away by another run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.contract.recovery.bench import (
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
from tests.lmstudio_sim.replies import Reply, Stall, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator

WATCHFUL = {"LMSTUDIO_BRIDGE_WATCH_INTERVAL": "0.2"}


def unload_quietly(sim: Simulator, model: str) -> None:
    """The instance goes, and the request under way hears nothing of it."""
    del sim.instances[model]


def reload_quietly(sim: Simulator, model: str) -> None:
    sim.instances[model].context_length -= 1


KINDS: dict[str, tuple[Callable[[Simulator, str], None], bool, str]] = {
    "unloaded/in-silence": (unload_quietly, True, "was unloaded."),
    "unloaded/in-mid-stream": (unload_quietly, False, "was unloaded."),
    "reloaded/in-silence": (reload_quietly, True, "was reloaded with a context of 32767 tokens instead of 32768."),
    "reloaded/in-mid-stream": (reload_quietly, False, "was reloaded with a context of 32767 tokens instead of 32768."),
}


def silenced(sim: Simulator, kind: str, model: str) -> Reply:
    """A reply that stops coming for ever when its model changes."""
    change, before_headers, _ = KINDS[kind]
    trap = Trap(partial(change, sim, model))
    stall = Stall(until=trap, before_headers=True) if before_headers else Stall(until=trap, after_tokens=2)
    return TextReply("It seems to me that it is 7", faults=(stall,))


async def test_a_change_that_lm_studio_keeps_quiet_about_is_noticed_and_the_round_starts_again(tmp_path: Path) -> None:
    """Once and twice in a row it costs requests; the third time it ends the run."""
    cases = {f"{kind}/{times}": (kind, times) for kind in KINDS for times in (1, 2, 3)}
    async with open_bench(tmp_path, chat_models(*cases)) as bench:
        for model, (kind, times) in cases.items():
            bench.work_on(model, *(silenced(bench.sim, kind, model) for _ in range(times)))
        async with bench.bridge(**WATCHFUL) as client:
            answers = await ask_all(client, list(cases))

        for model, (kind, times) in cases.items():
            answer, change = answers[model], f"The model {model} {KINDS[kind][2]}"
            if times < 3:
                assert is_right(answer, model), answer.text
            else:
                assert answer.is_error
                assert answer.text.startswith(f"The model {model} was ")
            assert f"{change} Retrying (1 of 2)." in answer.report["warnings"]
            assert f"{change} Retrying (1 of 2)." in answer.progress
            end = ["completed"] if times < 3 else []
            outcomes = [request.outcome for request in bench.chats(model)]
            assert outcomes == ["completed", *["disconnected"] * times, *end]
            assert bench.looked_up(model) == 1
            assert len(bench.loads(model)) == (min(times, 2) if kind.startswith("unloaded") else 0)


async def test_a_model_whose_place_another_took_for_good_ends_the_run_and_not_in_its_words(tmp_path: Path) -> None:
    """LM Studio lets the only loaded model answer for one that it does not have (0.4.25)."""
    async with open_bench(tmp_path, chat_models(QWEN, "thief/model")) as bench:

        def steal() -> None:
            del bench.sim.instances[QWEN], bench.sim.models[QWEN]
            stolen.set()

        stolen = Trap(steal)
        bench.sim.script(QWEN, look_up(QWEN).altered(faults=(Stall(until=stolen),)))
        bench.sim.script_fn(QWEN, lambda request: TextReply("I am somebody else."))
        async with bench.bridge() as client:
            answer = await ask(client, QWEN)

        assert answer.is_error
        assert f"LM Studio has no model named '{QWEN}'" in answer.told
        assert "somebody else" not in answer.text
        assert bench.looked_up(QWEN) == 1


async def test_runs_that_want_different_models_take_turns_where_only_one_fits(tmp_path: Path) -> None:
    """An LM Studio before 0.4 unloads one model for the next, even while it writes (bug-tracker #671)."""
    first_model, second_model = "first/model", "second/model"
    async with open_bench(tmp_path, chat_models(first_model, second_model, loaded=False), native=False) as bench:
        queued = asyncio.Event()

        def reply(request: SimRequest) -> Reply:
            if request.messages[-1]["role"] == "tool":
                return answer_from(request)
            return look_up(request.model).altered(faults=(Stall(until=queued, after_tokens=1),))

        bench.sim.script_fn(first_model, reply)
        bench.sim.script_fn(second_model, work)
        async with bench.bridge(**WATCHFUL) as client:
            first = await start(client, first_model)
            await bench.sim.wait_for_request(path="/v1/chat/completions")
            second = [await start(client, second_model) for _ in range(2)]
            told = await first_told(client, second, "queued until")
            queued.set()
            answers = [await client.answer_of(number) for number in (first, *second)]

        assert told == f"queued until the runs with {first_model} end: LM Studio keeps one model in memory"
        wanted = [first_model, second_model, second_model]
        assert [is_right(answer, model) for answer, model in zip(answers, wanted, strict=True)] == [True] * 3
        assert {request.outcome for request in bench.chats()} == {"completed"}
        assert [request.model for request in bench.chats()] == [first_model] * 2 + [second_model] * 4
