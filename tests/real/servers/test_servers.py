"""Each of these servers through the whole bridge: what a run offers, what it refuses, what the model reads.

A tier of its own, for the servers take about 1.5 GB: scripts/test-servers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scripts.tools.servers_page import reading, recorded
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.real.servers.catalogue import SERVERS, Call, filled
from tests.support.bubblewrap import needs_bubblewrap
from tests.support.desk import MODEL, Desk, open_desk, unfenced
from tests.support.home import answering, http
from tests.support.raw_client import Answer, RawClient

pytestmark = pytest.mark.servers

CONTEXT = 1_000_000  # tokens: room for all tools of every server
TASK = "Find the code word."
TOOLS = recorded()


@dataclass(frozen=True, slots=True)
class Seen:
    """A run: its answer, the server's tools that it offered, and what the model read of each call."""

    answer: Answer
    offered: set[str]
    results: list[str]


@pytest.mark.parametrize(
    "confined", [pytest.param(False, id="free"), pytest.param(True, id="sandbox", marks=needs_bubblewrap)]
)
@pytest.mark.parametrize("name", SERVERS)
async def test_server_works_and_changes_nothing_with_read_access(name: str, confined: bool, tmp_path: Path) -> None:
    server, marks = SERVERS[name], TOOLS[name]
    may_run = set(reading(name, marks)) - {*server.not_offered}
    async with answering(http("200 OK", server.web)) as web, open_desk(tmp_path, context_length=CONTEXT) as desk:
        server.prepare(desk.project)
        desk.configure()
        own = {"mcpServers": {name: server.entry(desk.project, web)}}
        (tmp_path / ".claude.json").write_text(json.dumps(own), encoding="utf-8")
        if confined:
            needs = server.sandbox.replace("~/project", str(desk.project))
            write_rules(tmp_path, f"[sandbox]\n{name} = {needs}\n")

        def calls(given: Sequence[Call]) -> list[Call]:
            fill = filled([dict(call.arguments) for call in given], project=desk.project, web=web)
            return [replace(call, arguments=arguments) for call, arguments in zip(given, fill, strict=True)]

        async with desk.bridge(fresh=True, LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT="120") as client:
            await run(desk, client, name, [])  # a server may make its files when it starts
            before = files_of(desk)
            refused = await run(desk, client, name, calls((*server.writes, *server.refused)))
            after = files_of(desk)
            written = await run(desk, client, name, calls(server.writes), writes=True)
            read = await run(desk, client, name, calls(server.reads))

    assert after == before
    assert written.offered == {model_name(name, tool) for tool in marks} - model_names(name, server.not_offered)
    assert_results(written, server.writes)
    if may_run:
        assert refused.offered == read.offered == model_names(name, may_run)
        assert all(result.startswith("Not allowed: ") for result in refused.results), refused.results
        assert len(refused.results) == len(server.writes) + len(server.refused)
        assert_results(read, server.reads)
    else:
        assert refused.offered == set(), "no model was asked"
        assert f"No tool of {name} may run with read access" in refused.answer.text


def write_rules(home: Path, text: str) -> None:
    own = home / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
    own.parent.mkdir(parents=True)
    own.write_text(text, encoding="utf-8")


def assert_results(seen: Seen, calls: Sequence[Call]) -> None:
    assert len(seen.results) == len(calls)
    assert [result for call, result in zip(calls, seen.results, strict=True) if call.result not in result] == []
    assert seen.answer.report["failed"] == []


def model_names(server: str, tools: Iterable[str]) -> set[str]:
    return {model_name(server, tool) for tool in tools}


def model_name(server: str, tool: str) -> str:
    """What the model calls a tool."""
    return f"{server}__{tool}".replace("-", "_").lower()


async def run(desk: Desk, client: RawClient, name: str, calls: Sequence[Call], *, writes: bool = False) -> Seen:
    """A run in which the model makes these calls and says that it is done."""
    first = len(desk.chat_requests())
    replies = [CallReply((model_name(name, call.tool), dict(call.arguments))) for call in calls]
    turn = iter([*replies, TextReply("Done.")])
    desk.sim.script_fn(MODEL, lambda request: next(turn))
    if writes:
        answer = await client.call("autonomous_with_write_access", mcp_names=[name], task=TASK)
    else:
        answer = await client.call("autonomous_with_mcp", mcp_name=name, task=TASK)
    requests = desk.chat_requests()[first:]
    offered = {tool["function"]["name"] for tool in requests[0].tools} if requests else set()
    results = (
        [unfenced(each["content"]) for each in requests[-1].messages if each["role"] == "tool"] if requests else []
    )
    return Seen(answer, {tool for tool in offered if "__" in tool}, results)


def files_of(desk: Desk) -> dict[Path, bytes]:
    """Everything in the project, but what git keeps for itself."""
    files = (path for path in desk.project.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {path: path.read_bytes() for path in files}
