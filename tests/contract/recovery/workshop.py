"""What the tests of weak models share: one bridge with a simulated LM Studio, for all tests of a module."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.scripts import ReplyFunction
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.desk import unfenced
from tests.support.journals import Event, events_of, read_journal, stop_of
from tests.support.raw_client import Answer, RawClient, open_raw_client

SERVER = Path(__file__).with_name("workshop_server.py")
STRONG, WEAK, TIGHT = "strong/model-8b", "weak/model-8b", "tight/model-8b"


@dataclass(frozen=True)
class Worked:
    """One run: what the host got, what LM Studio was asked, what the journal says, which calls really ran."""

    answer: Answer
    requests: list[SimRequest]
    events: list[Event]
    ran: list[str]

    @property
    def stop(self) -> str:
        return stop_of(self.events)

    def notices(self, kind: str) -> list[str]:
        notices = [event["notice"] for event in events_of(self.events, "Noticed")]
        return [notice["text"] for notice in notices if notice["kind"] == kind]


@dataclass
class Workshop:
    """A bridge, the MCP servers `shop` and `crowd` (60 tools more), and three models."""

    folder: Path
    sim: Simulator
    client: RawClient

    async def run(
        self, model: str, *replies: Reply, function: ReplyFunction | None = None, server: str = "shop", **arguments: Any
    ) -> Worked:
        """Have a task done by a model that gives these replies, then those of the function."""
        ledger = self.folder / "ledger.txt"
        ledger.write_text("", encoding="utf-8")
        seen = len(self.sim.requests)
        self.sim.script(model, *replies)
        self.sim.script_fn(model, function or (lambda _: TextReply("There was nothing more in the script.")))
        given = {
            "task": "Look up the value of heron.",
            "model": model,
            "mcp_names": [server],
            **arguments,
        }
        answer = await self.client.call("autonomous_with_write_access", **given)
        assert self.sim.unused_replies(model) == 0, answer.text
        events = read_journal(self.folder / "home" / "runs" / f"{answer.run_id}.jsonl")
        requests = [each for each in self.sim.requests[seen:] if each.path == "/v1/chat/completions"]
        return Worked(answer, requests, events, ledger.read_text(encoding="utf-8").splitlines())


@asynccontextmanager
async def open_workshop(folder: Path) -> AsyncIterator[Workshop]:
    """A workshop in `folder`, with its bridge as a process."""
    ledger = str(folder / "ledger.txt")
    servers = {
        name: {"command": sys.executable, "args": [str(SERVER), ledger, count]}
        for name, count in (("shop", "0"), ("crowd", "60"))
    }
    (folder / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    models = [
        SimModel(STRONG, loaded=True, context_length=32_768, trained_for_tool_use=True),
        SimModel(WEAK, loaded=True, context_length=32_768, trained_for_tool_use=False),
        SimModel(TIGHT, loaded=True, context_length=8_192, trained_for_tool_use=True),
    ]
    async with open_simulator(models) as sim:
        environ = {
            "LMSTUDIO_BASE_URL": f"{sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(folder),
            "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(folder / ".mcp.json"),
        }
        async with open_raw_client(era="2025-11-25", environ=environ) as client:
            yield Workshop(folder, sim, client)
        assert client.stray == [], "stdout belongs to the protocol"
        assert b"Traceback" not in client.stderr, client.stderr.decode()
        assert sim.failures == []


def schema_of(request: SimRequest) -> dict[str, Any] | None:
    """The schema that a reply is bound to, if any."""
    wanted = (request.json or {}).get("response_format")
    schema: dict[str, Any] | None = wanted["json_schema"]["schema"] if wanted else None
    return schema


def may_answer(request: SimRequest) -> bool:
    """Whether a bound reply may be an answer."""
    schema = schema_of(request) or {}
    return any("answer" in form.get("properties", {}) for form in schema.get("anyOf", [schema]))


def offered(request: SimRequest) -> list[str]:
    """The names of the tools that the request offers natively."""
    return [tool["function"]["name"] for tool in request.tools]


def said(request: SimRequest) -> str:
    """The newest message of the user's side, without the fences in it."""
    return unfenced(request.messages[-1]["content"])
