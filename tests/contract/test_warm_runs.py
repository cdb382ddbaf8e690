"""Runs one after another and at the same time, and the servers that they find open: the bridge as a process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.recovery.bench import CHAT, LOAD, QWEN, chat_models
from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.processes import PATIENCE, SLOPPY, until_dead
from tests.support.raw_client import RawClient, open_raw_client

PID = CallReply(("one__pid", {}))
DONE = TextReply("done")


@dataclass
class House:
    """A project with the sloppy servers `one` and `two`, and an LM Studio."""

    folder: Path
    sim: Simulator

    @asynccontextmanager
    async def bridge(self, wait_for: str | None = None, **environ: str) -> AsyncIterator[RawClient]:
        """The bridge as a process; after it nothing that it started is left."""
        servers = {
            name: {
                "command": sys.executable,
                "args": [str(SLOPPY), json.dumps({"log": str(self.log(name)), "wait_for": wait_for})],
            }
            for name in ("one", "two")
        }
        (self.folder / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
        settings = {
            "LMSTUDIO_BASE_URL": f"{self.sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(self.folder),
            "LMSTUDIO_BRIDGE_HOME": str(self.folder / "home"),
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(self.folder / ".mcp.json"),
            "HOME": str(self.folder),
        }
        async with open_raw_client(era="2025-11-25", environ={**settings, **environ}) as client:
            yield client
        for name in ("one", "two"):
            for pid in self.starts(name):
                await until_dead(pid)
        assert client.stray == [], "stdout belongs to the protocol"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def noted(self, name: str) -> list[dict[str, Any]]:
        log = self.log(name)
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []

    def starts(self, name: str) -> list[int]:
        return [message["pid"] for message in self.noted(name) if "pid" in message]

    def offered(self) -> list[list[str]]:
        """The tools that each request to the model offered."""
        chats = [request for request in self.sim.requests if request.path == CHAT]
        return [[tool["function"]["name"] for tool in request.tools] for request in chats]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_simulator(chat_models(QWEN)) as sim:
        yield House(tmp_path, sim)
        assert sim.failures == []


async def start(client: RawClient, *names: str) -> int:
    return await client.start_call("autonomous_with_write_access", mcp_names=list(names), task="Do something.")


async def run(client: RawClient, *names: str) -> str:
    return (await client.answer_of(await start(client, *names))).text.splitlines()[0]


async def servers_shown(client: RawClient) -> str:
    told = await client.request("resources/read", {"uri": "lmstudio://servers"})
    text: str = told["contents"][0]["text"]
    return text


async def test_a_second_run_with_the_same_server_starts_none_unless_it_must_be_fresh(house: House) -> None:
    async with house.bridge(LMSTUDIO_BRIDGE_FRESH="two") as client:
        house.sim.script(QWEN, PID, DONE, PID, DONE)
        first, second = [await client.answer_of(await start(client, "one")) for _ in range(2)]
        shown = await servers_shown(client)
        unused = house.starts("two")
        house.sim.script(QWEN, DONE, DONE)
        assert [await run(client, "two") for _ in range(2)] == ["done", "done"]

    assert (first.text.partition("\n")[0], second.text.partition("\n")[0]) == ("done", "done")
    spent = [answer.report["saved"]["spent"] for answer in (first, second)]
    assert spent[0] - spent[1] == 1_575, "the definitions of our tools are read once in a session"
    assert (len(house.starts("one")), unused, len(house.starts("two"))) == (1, [], 2)
    assert "| one | stdio | usable; open, unused for " in shown
    assert "| two | stdio | usable |" in shown


async def test_without_idle_time_every_run_starts_its_servers(house: House) -> None:
    async with house.bridge(LMSTUDIO_BRIDGE_SERVER_IDLE="0") as client:
        house.sim.script(QWEN, DONE, DONE)
        assert [await run(client, "one") for _ in range(2)] == ["done", "done"]
        assert "| one | stdio | usable |" in await servers_shown(client)

    assert len(house.starts("one")) == 2


async def test_cold_servers_start_side_by_side_while_the_model_loads(house: House) -> None:
    """None of the three can be ready before all have begun."""
    model = house.sim.models[QWEN]
    house.sim.instances.clear()
    model.load_delay = loading = asyncio.Event()
    gate = house.folder / "gate"
    house.sim.script(QWEN, DONE)
    async with house.bridge(wait_for=str(gate)) as client:
        number = await start(client, "one", "two")
        await house.sim.wait_for_request(path=LOAD)
        async with asyncio.timeout(PATIENCE):
            while not all(len(house.noted(name)) == 2 for name in ("one", "two")):  # noqa: ASYNC110  # a file
                await asyncio.sleep(0.01)
        assert [house.noted(name)[1]["method"] for name in ("one", "two")] == ["initialize", "initialize"]
        loading.set()
        gate.touch()
        answer = await client.answer_of(number)

    assert answer.said.startswith("done")


async def test_a_run_keeps_its_list_of_tools_and_the_next_gets_the_new_one(house: House) -> None:
    """Another list in mid-run would throw away what the model has read so far."""
    async with house.bridge() as client:
        house.sim.script(QWEN, CallReply(("one__change", {"name": "added", "times": 3})), DONE, DONE)
        await run(client, "one")
        await run(client, "one")

    before, during, after = house.offered()
    assert before == during
    assert [name for name in after if name not in before] == ["one__added"]


async def test_a_run_that_finds_all_places_taken_says_so_and_waits_for_its_turn(house: House) -> None:
    go_on = asyncio.Event()
    house.sim.script(QWEN, DONE.altered(faults=(Stall(until=go_on, seconds=PATIENCE),)), DONE)
    async with house.bridge(LMSTUDIO_BRIDGE_MAX_SERVERS="1") as client:
        first = await start(client, "one")
        await house.sim.wait_for_request(path=CHAT)
        assert "| one | stdio | usable; open, used by 1 |" in await servers_shown(client)
        second = await start(client, "two")
        await client.wait_for_progress(second, "queued: MCP server two waits for one of the 1 server slots")
        assert house.starts("two") == []
        go_on.set()
        answers = [await client.answer_of(number) for number in (first, second)]

    assert [answer.text.splitlines()[0] for answer in answers] == ["done", "done"]
    assert (len(house.starts("one")), len(house.starts("two"))) == (1, 1)
