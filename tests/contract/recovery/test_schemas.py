"""A tool whose schema the engine cannot use spoils the whole request: simpler schemas, then without that tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.recovery.bench import QWEN, answer_from, ask, chat_models, is_right, look_up, open_bench
from tests.lmstudio_sim.errors import GRAMMAR_FAILED
from tests.lmstudio_sim.replies import Reply, StreamError, TextReply
from tests.lmstudio_sim.requests import SimRequest

REFUSED = TextReply("never", faults=(StreamError(GRAMMAR_FAILED),))


def offered(request: SimRequest) -> list[str]:
    """The ledger's tools on offer, without the bridge's own."""
    names = [tool["function"]["name"] for tool in request.tools]
    return [name.removeprefix("ledger__") for name in names if name.startswith("ledger__")]


def keywords(request: SimRequest) -> set[str]:
    """The keywords of all parameters that are offered."""
    schemas = [tool["function"]["parameters"]["properties"].values() for tool in request.tools]
    return {keyword for each in schemas for parameter in each for keyword in parameter}


async def test_a_schema_that_is_too_rich_is_made_simple_for_the_rest_of_the_run(tmp_path: Path) -> None:
    def reply(request: SimRequest) -> Reply:
        if "minimum" in keywords(request):
            return REFUSED
        return answer_from(request) if request.messages[-1]["role"] == "tool" else look_up(QWEN)

    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        bench.sim.script_fn(QWEN, reply)
        async with bench.bridge() as client:
            answer = await ask(client)

        assert is_right(answer, QWEN)
        assert answer.report["warnings"] == ["The engine rejected the tools' schemas; retrying with simpler ones."]
        assert [offered(request) for request in bench.chats()] == [["look_up", "weigh"]] * 3
        assert bench.looked_up(QWEN) == 1


async def test_the_tool_that_spoils_the_request_is_found_named_and_left_out(tmp_path: Path) -> None:
    def reply(request: SimRequest) -> Reply:
        if "weigh" in offered(request):
            return REFUSED
        if request.json and request.json.get("max_tokens") == 1:
            return TextReply("ok")
        return answer_from(request) if request.messages[-1]["role"] == "tool" else look_up(QWEN)

    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        bench.sim.script_fn(QWEN, reply)
        async with bench.bridge() as client:
            answer = await ask(client)

        note = "Tools left out because the engine rejected their schemas: ledger__weigh."
        assert is_right(answer, QWEN)
        assert note in answer.report["warnings"]
        assert note in answer.progress
        both, one = ["look_up", "weigh"], ["look_up"]
        asked = [offered(request) for request in bench.chats()]
        assert (asked[:2], asked[-2:]) == ([both, both], [one, one]), "twice for the run, before and after"
        assert ["weigh"] in asked[2:-2]
        assert len(asked) <= 9, "a handful of looks"
        assert bench.looked_up(QWEN) == 1


@pytest.mark.parametrize("taken", [[], ["look_up", "weigh"]])
async def test_a_fault_that_no_single_tool_is_to_blame_for_is_reported(tmp_path: Path, taken: list[str]) -> None:
    """With `taken`, each look at the tools goes well, and only the run's own requests fail."""

    def reply(request: SimRequest) -> Reply:
        probe = request.json is not None and request.json.get("max_tokens") == 1
        return TextReply("ok") if probe and set(offered(request)) <= set(taken) else REFUSED

    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        bench.sim.script_fn(QWEN, reply)
        async with bench.bridge() as client:
            failed = await ask(client)
            bench.work_on(QWEN)
            after = await ask(client)

        assert failed.is_error
        assert "The engine could not use the schema of one of the tools." in failed.text
        assert GRAMMAR_FAILED in failed.text
        assert is_right(after, QWEN)
