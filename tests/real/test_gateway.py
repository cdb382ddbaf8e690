"""The configuration of docs/gateway.md, word for word: a LiteLLM proxy in front of two LM Studios, and the bridge.

A tier of its own, for it needs 750 MB: scripts/test-gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent
from lmstudio_bridge.runs.items_report import ItemsReport
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import RunRequest
from tests.lmstudio_sim import errors
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import (
    CallReply,
    CutSocket,
    EndEarly,
    HtmlErrorReply,
    HttpReply,
    RateLimitReply,
    Reply,
    Stall,
    StreamError,
    TextReply,
)
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.npm_servers import config_entry, npm_server
from tests.unit.runs.test_other_servers import checks_of, open_desk, run_task, take_then_tell

pytestmark = pytest.mark.gateway

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
LITELLM = ROOT / ".gateway" / "bin" / "litellm"
KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"
MODEL = "qwen/qwen3-4b"
START_LIMIT = 120.0  # seconds; it imports for ten of them on a machine that is not busy
END_LIMIT = 20.0  # seconds
FIRST, AGAIN = (("tokens__take", {"run": "one", "step": step}) for step in (1, 2))
RUNS = 12  # so many, spread at random, that none comes to one of two by a chance of 1 in 8 million


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running proxy, with the two LM Studios behind it."""

    url: str
    sims: tuple[Simulator, Simulator]

    def chats(self) -> list[int]:
        """How many chat requests each LM Studio has got."""
        return [len(_chats(sim)) for sim in self.sims]


def environment(sims: tuple[Simulator, Simulator]) -> dict[str, str]:
    """The variables that the document exports, with the values of this test."""
    values = {
        "LM_STUDIO_A": f"{sims[0].url}/v1",
        "LM_STUDIO_B": f"{sims[1].url}/v1",
        "LITELLM_MASTER_KEY": KEY,
    }
    told = dict(re.findall(r"(\w+)=(\S+)", "\n".join(re.findall(r"^export (.*)$", DOCUMENT, flags=re.MULTILINE))))
    assert set(values) <= set(told)
    return {**os.environ, **told, **values, "NO_PROXY": "127.0.0.1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


@asynccontextmanager
async def open_gateway(folder: Path) -> AsyncIterator[Gateway]:
    assert LITELLM.exists(), "there is no LiteLLM: run scripts/test-gateway"
    (config,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    (folder / "gateway.yaml").write_text(config, encoding="utf-8")
    (command,) = re.findall(r"^litellm/bin/litellm (.*)$", DOCUMENT, flags=re.MULTILINE)
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    async with open_simulator([model]) as one, open_simulator([model]) as two:
        port = free_port()
        options = [str(port) if word == "4000" else word for word in command.split()]
        process = await asyncio.create_subprocess_exec(
            LITELLM,
            *options,
            cwd=folder,
            env=environment((one, two)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.TaskGroup() as readers:
            lines: list[bytes] = []
            started = asyncio.Event()
            readers.create_task(read_lines(process, lines, started))
            try:
                async with asyncio.timeout(START_LIMIT):
                    await started.wait()
                assert process.returncode is None, b"".join(lines).decode()
                yield Gateway(f"http://127.0.0.1:{port}/v1", (one, two))
            finally:
                await end(process)
        assert one.failures + two.failures == []


async def read_lines(process: asyncio.subprocess.Process, lines: list[bytes], started: asyncio.Event) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        lines.append(line)
        if b"running on" in line:
            started.set()
    started.set()  # it ended before


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(END_LIMIT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def open_bridge(gateway: Gateway, folder: Path) -> AbstractAsyncContextManager[DynamicAutonomousAgent]:
    return open_desk(gateway.url, folder, LM_API_TOKEN=KEY)


async def answers(agent: DynamicAutonomousAgent, runs: int) -> list[str]:
    """How several runs, one after the other, ended."""
    return [(await run_task(agent))[0].stop for _ in range(runs)]


async def test_two_machines_share_the_runs_and_one_that_goes_down_is_not_missed(tmp_path: Path) -> None:
    async with open_gateway(tmp_path) as gateway:
        for sim in gateway.sims:
            sim.script_fn("*", take_then_tell)
        async with open_bridge(gateway, tmp_path) as agent:
            checks = {check.name: check.found for check in await checks_of(agent)}
            assert checks["Model"] == "local (load state unknown)"
            assert "answers (/v1/models: another OpenAI-compatible server" in checks["LM Studio"]
            assert checks["LM Studio"].endswith(", 1 chat model")

            assert await answers(agent, RUNS) == ["answered"] * RUNS
            assert min(gateway.chats()) > 0

            await gateway.sims[1].stop()
            before = gateway.chats()
            assert await answers(agent, RUNS) == ["answered"] * RUNS
            assert [now - then for now, then in zip(gateway.chats(), before, strict=True)] == [2 * RUNS, 0]


FAULTS: dict[str, Reply] = {
    "ended early": CallReply(AGAIN, faults=(EndEarly(1),)),
    "failed in the stream": CallReply(AGAIN, faults=(StreamError(errors.SLOT_WAIT_FAILED, after_tokens=1),)),
    "cut off": CallReply(AGAIN, faults=(CutSocket(1),)),
    "lost in the stream": CallReply(AGAIN, faults=(StreamError(errors.MODEL_UNLOADED),)),
    "unloaded": HttpReply(400, errors.plain_error(errors.MODEL_UNLOADED)),
    "overflow": HttpReply(400, errors.plain_error(errors.OVERFLOW_PLAIN)),
    "overflow in the stream": CallReply(AGAIN, faults=(StreamError(errors.OVERFLOW_PLAIN),)),
    "template": HttpReply(400, errors.plain_error(errors.template_failure(errors.NO_USER_QUERY))),
    "busy": HttpReply(503, errors.plain_error("Loading model")),
    "a server fault": HtmlErrorReply(),
    "limited": RateLimitReply(1),
}
"""What one request in the middle of a run meets, at whichever LM Studio it comes to."""


def in_turn(*replies: Reply) -> Callable[[SimRequest], Reply]:
    """These replies in turn, wherever they are asked for, and then an answer."""
    left = iter(replies)
    return lambda request: next(left, TextReply("All done."))


async def test_faults_behind_the_gateway_are_recovered_from(tmp_path: Path) -> None:
    ended: dict[str, tuple[str, str]] = {}
    async with open_gateway(tmp_path) as gateway, open_bridge(gateway, tmp_path) as agent:
        for name, fault in FAULTS.items():
            reply = in_turn(CallReply(FIRST), fault)
            for sim in gateway.sims:
                sim.script_fn("*", reply)
            outcome, _ = await run_task(agent)
            ended[name] = outcome.stop, outcome.answer or outcome.error

    assert ended == dict.fromkeys(FAULTS, ("answered", "All done."))


SLOTS = 4  # of each LM Studio
ITEMS = 200
AT_ONCE = 16  # as the document says: twice as many as there are slots, for the proxy deals them at random
ITEMS_LIMIT = 300.0  # seconds; the proxy takes a third of one for a request on a busy machine
POLL = 0.01  # seconds between two looks at what has arrived
GOES_DOWN_AT = 5  # ticks


class Machines:
    """Both LM Studios, all of whose replies take one tick: at its end, whatever has a slot is answered."""

    def __init__(self, gateway: Gateway) -> None:
        self._sims = gateway.sims
        self._held: list[tuple[SimRequest, asyncio.Event]] = []
        self.ticks = 0
        self.at_once = AT_ONCE  # requests that are waited for before a tick ends
        for sim in gateway.sims:
            sim.script_fn("*", self._answer)

    def _answer(self, request: SimRequest) -> Reply:
        go = asyncio.Event()
        self._held.append((request, go))
        return TextReply("Fine.", faults=(Stall(until=go),))

    async def tick(self, run: asyncio.Task[RunReport]) -> None:
        """Wait until as many requests have arrived as can be there at once, and answer those that have a slot."""
        while not (run.done() or self._is_full()):  # noqa: ASYNC110  # no event tells of both simulators and the run
            await asyncio.sleep(POLL)
        held, self._held = self._held, []
        for _, go in held:
            go.set()
        await asyncio.gather(*(request.ended.wait() for request, _ in held))
        self.ticks += bool(held)

    def _is_full(self) -> bool:
        waiting = [[each for each in _chats(sim) if each.outcome == "pending"] for sim in self._sims]
        left = ITEMS - sum(each.completed for sim in self._sims for each in _chats(sim))
        in_slots = sum(min(SLOTS, len(each)) for each in waiting)
        held = sum(request.outcome == "pending" for request, _ in self._held)
        return held == in_slots > 0 and sum(map(len, waiting)) >= min(self.at_once, left)


def _chats(sim: Simulator) -> list[SimRequest]:
    return [request for request in sim.requests if request.path == "/v1/chat/completions"]


@pytest.mark.parametrize("goes_down", [False, True])
async def test_one_run_over_many_items_uses_both_machines_and_outlives_one(tmp_path: Path, goes_down: bool) -> None:
    config = json.dumps({"mcpServers": {"filesystem": config_entry(npm_server("filesystem"), str(tmp_path))}})
    (tmp_path / "files.json").write_text(config, encoding="utf-8")
    environ = {"LMSTUDIO_BRIDGE_PARALLEL": str(AT_ONCE), "LMSTUDIO_BRIDGE_MCP_CONFIG": str(tmp_path / "files.json")}
    names = tuple(f"item {number}" for number in range(1, ITEMS + 1))
    request = RunRequest("Say fine to", ("filesystem",), for_each=names)
    async with (
        open_gateway(tmp_path) as gateway,
        open_desk(gateway.url, tmp_path, asyncio.sleep, LM_API_TOKEN=KEY, **environ) as agent,
        asyncio.timeout(ITEMS_LIMIT),
        asyncio.TaskGroup() as group,
    ):
        machines = Machines(gateway)
        run = group.create_task(agent.run(request))
        while not run.done():
            await machines.tick(run)
            if goes_down and machines.ticks == GOES_DOWN_AT:
                await gateway.sims[1].stop()
                machines.at_once = 1  # the bridge sends fewer to a server that refuses some
        report = await run

    assert isinstance(report, ItemsReport)
    assert report.items is not None
    assert report.text().startswith(f"{ITEMS} of {ITEMS} items done")
    assert [report.items.finished[number].answer for number in range(1, ITEMS + 1)] == ["Fine."] * ITEMS
    if not goes_down:
        of_one = ITEMS / SLOTS
        assert of_one / machines.ticks >= 1.8
        assert min(gateway.chats()) > ITEMS / 4
