"""What is not LM Studio, but speaks the same protocol: everything that LM Studio alone can tell is done without."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.cli.doctor.command import check_chain
from lmstudio_bridge.errors import LLMConnectionError, ModelNotFoundError
from lmstudio_bridge.events import Event, ModelChosen, Outcome
from lmstudio_bridge.lmstudio.retry import Sleep
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.runs.report import Savings, report_of
from lmstudio_bridge.runs.request import RunRequest
from lmstudio_bridge.runs.resume import newest_runs
from lmstudio_bridge.settings import read_settings
from scripts.tools.soak import tool_server
from tests.lmstudio_sim.errors import MODEL_UNLOADED
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, EndEarly, Stall, StreamError, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.desk import unfenced
from tests.support.home import nothing_listens
from tests.support.openai_server import DIALECTS, GUARDED, LLAMA_CPP, Dialect, call, open_server
from tests.unit.lmstudio.clients import FakeTime, within

QWEN, GEMMA = "qwen3:4b", "gemma3:1b"
TAKE = ("tokens__take", {"run": "one", "step": 1})


@asynccontextmanager
async def open_desk(
    url: str, folder: Path, sleep: Sleep | None = None, /, **environ: str
) -> AsyncIterator[DynamicAutonomousAgent]:
    """An agent with one MCP server that gives out nonces, and pauses that take no time unless there is a `sleep`."""
    script, ledger = Path(tool_server.__file__), folder / "ledger.jsonl"
    tokens = {"command": sys.executable, "args": [str(script), str(ledger)]}
    config = folder / "servers.json"
    config.write_text(json.dumps({"mcpServers": {"tokens": tokens}}), encoding="utf-8")
    given = {
        "LMSTUDIO_BASE_URL": url,
        "LMSTUDIO_BRIDGE_MCP_CONFIG": str(config),
        "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
        **environ,
    }
    settings = read_settings(given, cwd=folder)
    async with open_agent(settings, environ={**os.environ, **given}, sleep=sleep or FakeTime().sleep) as agent:
        yield agent


async def run_task(agent: DynamicAutonomousAgent, *, model: str | None = None) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []

    async def emit(event: Event) -> None:
        events.append(event)

    report = await within(agent.run(RunRequest("Take the nonce.", model=model, access="write"), emit=emit))
    return report.outcome, events


def nonce_of(folder: Path) -> str:
    """The nonce of the one call that was made."""
    (line,) = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    nonce: str = json.loads(line)["nonce"]
    return nonce


def take_then_tell(request: SimRequest) -> CallReply | TextReply:
    if request.messages[-1]["role"] == "tool":
        return TextReply(f"I got: {unfenced(request.messages[-1]['content']).splitlines()[0]}")
    return CallReply(TAKE)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator([SimModel(QWEN, loaded=True)], native=None) as sim:
        sim.script_fn("*", take_then_tell)
        yield sim
        assert sim.failures == []


def paths(sim: Simulator) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sim.requests]


# -- kinds of servers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_run_works_on_every_kind_of_server(dialect: Dialect, tmp_path: Path) -> None:
    replies = call("tokens__take", run="one", step=1), {"content": "The nonce is taken."}
    async with open_server(dialect, *replies) as server, open_desk(f"{server.url}/v1", tmp_path) as agent:
        outcome, events = await run_task(agent)

    assert (outcome.stop, outcome.answer, outcome.calls) == ("answered", "The nonce is taken.", 1), outcome
    assert outcome.warnings == ()
    loaded = True if dialect is LLAMA_CPP else None
    assert ModelChosen(dialect.model, loaded, None) in events
    assert [body["model"] for body in server.bodies] == [dialect.model] * 2
    result = server.bodies[1]["messages"][-1]
    assert (result["role"], nonce_of(tmp_path) in result["content"]) == ("tool", True)


async def test_a_server_that_guards_every_route_is_no_server_without_native_routes(tmp_path: Path) -> None:
    closed = Dialect("closed", "m", refusal=(401, "text/html", "<html>401</html>"))
    async with open_server(closed) as server, open_desk(server.url, tmp_path) as agent:
        checks = await checks_of(agent)

    assert [check.state for check in checks if check.area == "lm_studio"] == ["failed"]
    assert server.asked == [("GET", "/api/v1/models")]


async def test_many_items_end_as_one_run_does_where_nothing_listens(tmp_path: Path) -> None:
    request = RunRequest("Take the nonce.", access="write", for_each=("one", "two"))
    async with open_desk(await nothing_listens(), tmp_path) as agent:
        with pytest.raises(LLMConnectionError) as caught:
            await within(agent.run(request))
        (stored,) = newest_runs(agent.runs_folder, most=9)

    assert caught.value.remedy
    assert stored.outcome.error == caught.value.explain()
    assert report_of(stored).text().count(caught.value.message) == 1
    assert report_of(stored).savings() == Savings(0, 0)
    assert not (tmp_path / "ledger.jsonl").exists()


async def test_failures_of_a_server_that_differ_only_in_numbers_are_told_once(sim: Simulator, tmp_path: Path) -> None:
    async with open_desk(sim.url, tmp_path) as agent:
        script = "import sys, time; sys.exit(f'log {time.time_ns()}')"
        (tmp_path / "servers.json").write_text(
            json.dumps({"mcpServers": {"tokens": {"command": sys.executable, "args": ["-c", script]}}}),
            encoding="utf-8",
        )
        report = await within(agent.run(RunRequest("Take the nonce.", access="write", for_each=("one", "two"))))

    assert len([note for note in report.outcome.notes if "tokens was left out" in note]) == 1


async def test_the_doctor_counts_the_model_of_llama_cpp_as_loaded(tmp_path: Path) -> None:
    async with open_server(LLAMA_CPP) as server, open_desk(server.url, tmp_path) as agent:
        found = {check.name: check.found for check in await checks_of(agent)}

    assert found["LM Studio"].endswith("llama.cpp's server; it reports no context length), 1 chat model, 1 loaded")
    assert found["Model"] == f"{LLAMA_CPP.model} (loaded)"


async def test_the_doctor_is_content_with_what_there_is(sim: Simulator, tmp_path: Path) -> None:
    async with open_desk(sim.url, tmp_path) as agent:
        checks = await checks_of(agent)

    unhappy = [check.found for check in checks if check.state != "ok"]
    assert unhappy == ["No tool of tokens may run with read access: none is marked as read-only."]
    found = {check.name: check.found for check in checks}
    assert found["LM Studio"].startswith(f"{sim.url} answers (/v1/models: another OpenAI-compatible server; ")
    assert found["LM Studio"].endswith("reports no context length), 1 chat model")
    assert found["Model"] == f"{QWEN} (load state unknown)"


async def checks_of(agent: DynamicAutonomousAgent) -> list[Check]:
    settings = read_settings({"LMSTUDIO_BASE_URL": agent.client.root_url}, cwd=Path("/"))
    return [check async for check in check_chain(agent, settings, environ={})]


# -- models ---------------------------------------------------------------------------------------------------------


async def test_no_load_and_no_look_at_the_load_state_is_tried(sim: Simulator, tmp_path: Path) -> None:
    async with open_desk(sim.url, tmp_path, LMSTUDIO_BRIDGE_WATCH_INTERVAL="0.01") as agent:
        outcome, events = await run_task(agent)

    assert (outcome.stop, outcome.warnings) == ("answered", ())
    assert nonce_of(tmp_path) in outcome.answer
    assert ModelChosen(QWEN, None, None) in events
    looks = [("GET", "/api/v1/models"), ("GET", "/api/v0/models"), ("GET", "/v1/models")]
    assert paths(sim) == [*looks, *[("POST", "/v1/chat/completions")] * 2]


async def test_several_models_need_a_name_and_the_error_lists_them(sim: Simulator, tmp_path: Path) -> None:
    sim.models[GEMMA] = SimModel(GEMMA)
    async with open_desk(sim.url, tmp_path) as agent:
        with pytest.raises(ModelNotFoundError) as caught:
            await run_task(agent)

    assert f"DEFAULT_MODEL, or pass model= one of: {QWEN}, {GEMMA}" in caught.value.explain()


@pytest.mark.parametrize("by", ["call", "DEFAULT_MODEL"])
async def test_a_named_model_is_used(by: str, sim: Simulator, tmp_path: Path) -> None:
    sim.models[GEMMA] = SimModel(GEMMA)
    environ = {"DEFAULT_MODEL": GEMMA} if by == "DEFAULT_MODEL" else {}
    async with open_desk(sim.url, tmp_path, **environ) as agent:
        outcome, _ = await run_task(agent, model=GEMMA if by == "call" else None)

    assert (outcome.stop, outcome.model) == ("answered", GEMMA)


async def test_a_reply_under_another_name_is_taken_as_it_is(sim: Simulator, tmp_path: Path) -> None:
    """A gateway names the model behind it; only LM Studio's native routes tell which names belong together."""
    sim.script("*", CallReply(TAKE, model="hosted/x"), TextReply("Taken.", model="hosted/y"))
    async with open_desk(sim.url, tmp_path) as agent:
        outcome, _ = await run_task(agent)

    assert (outcome.stop, outcome.answer, outcome.warnings) == ("answered", "Taken.", ())


# -- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [EndEarly(1), StreamError(MODEL_UNLOADED, after_tokens=1)], ids=["end", "error"])
async def test_a_reply_that_breaks_off_is_asked_for_again(
    fault: EndEarly | StreamError, sim: Simulator, tmp_path: Path
) -> None:
    sim.script("*", CallReply(TAKE, faults=(fault,)))
    async with open_desk(sim.url, tmp_path) as agent:
        outcome, _ = await run_task(agent)

    assert (outcome.stop, outcome.calls) == ("answered", 1)
    assert "Retrying (1 of 2)" in outcome.warnings[0]
    assert nonce_of(tmp_path) in outcome.answer
    assert ("POST", "/api/v1/models/load") not in paths(sim)


async def test_a_silent_server_is_said_to_be_up_and_nothing_of_its_model(sim: Simulator, tmp_path: Path) -> None:
    sim.script("*", CallReply(TAKE, faults=(Stall(before_headers=True),)))
    async with open_desk(sim.url, tmp_path, LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT="0.2") as agent:
        outcome, _ = await run_task(agent)

    assert outcome.stop == "failed"
    assert "sent nothing for 0.2 s. The server is running." in outcome.error
    assert "loaded" not in outcome.error.partition("\n")[0]


async def test_a_gateway_that_guards_the_native_routes_is_asked_on_the_open_ones(tmp_path: Path) -> None:
    async with open_server(GUARDED) as server, open_desk(server.url, tmp_path) as agent:
        choice = await agent.client.validator.resolve(None)

    assert (choice.name, choice.source) == (GUARDED.model, "/v1/models")
    assert server.asked == [("GET", route) for route in ("/api/v1/models", "/api/v0/models", "/v1/models")]
