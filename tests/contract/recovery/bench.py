"""What the tests of this folder share: a simulated LM Studio, a real MCP server with a ledger, and the bridge."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.contract.recovery.ledger_server import value_of
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.journals import read_journal, stop_of
from tests.support.raw_client import Answer, RawClient, open_raw_client

LEDGER_SERVER = Path(__file__).with_name("ledger_server.py")
CHAT = "/v1/chat/completions"
LOAD = "/api/v1/models/load"
QWEN = "qwen/qwen3-4b"
PATIENCE = 60.0  # seconds, for what happens within a few on a machine that is not busy

ReplyMaker = Callable[[], Reply]


class Trap(asyncio.Event):
    """What a stall waits for: the moment in which the reply has come that far, and `action` is done."""

    def __init__(self, action: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self._action = action

    async def wait(self) -> Literal[True]:
        self.reached.set()
        if self._action is not None:
            self._action()
        return await super().wait()


@dataclass
class Bench:
    """A folder with a `.mcp.json` that names the ledger server, the simulator, and the bridge's settings."""

    folder: Path
    sim: Simulator

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @asynccontextmanager
    async def bridge(self, **environ: str) -> AsyncIterator[RawClient]:
        """A bridge in a process of its own."""
        entry = {"command": sys.executable, "args": [str(LEDGER_SERVER), str(self.folder / "ledger.txt")]}
        (self.folder / ".mcp.json").write_text(json.dumps({"mcpServers": {"ledger": entry}}), encoding="utf-8")
        settings = {
            "LMSTUDIO_BASE_URL": f"{self.sim.url}/v1",
            "CLAUDE_PROJECT_DIR": str(self.folder),
            "LMSTUDIO_BRIDGE_HOME": str(self.home),
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(self.folder / ".mcp.json"),
        }
        async with open_raw_client(era="2025-11-25", environ={**settings, **environ}) as client:
            yield client
        assert client.stray == [], "stdout belongs to the protocol"
        assert b"Traceback" not in client.stderr, client.stderr.decode()
        assert self.sim.failures == []

    def looked_up(self, key: str) -> int:
        """How often the tool really ran for this key."""
        path = self.folder / "ledger.txt"
        return path.read_text(encoding="utf-8").splitlines().count(key) if path.exists() else 0

    def chats(self, model: str | None = None) -> list[SimRequest]:
        """The chat requests that LM Studio saw, of one model or of all."""
        return [each for each in self.sim.requests if each.path == CHAT and model in (None, each.model)]

    def loads(self, model: str | None = None) -> list[SimRequest]:
        """The loads that were asked for, of one model or of all."""
        return [each for each in self.sim.requests if each.path == LOAD and model in (None, each.model)]

    def stops(self) -> list[str]:
        """How the runs ended, as their journals say."""
        paths = sorted((self.home / "runs").glob("*.jsonl"))
        return sorted(stop_of(read_journal(path)) for path in paths)

    def work_on(self, model: str, *replies: Reply, padding: int = 0, for_good: ReplyMaker | None = None) -> None:
        """Let a model look its own name up, then give `replies`, then the right answer (or `for_good`)."""
        self.sim.script(model, look_up(model, padding=padding), *replies)

        def reply(request: SimRequest) -> Reply:
            return for_good() if for_good else answer_from(request)

        self.sim.script_fn(model, reply)


@asynccontextmanager
async def open_bench(folder: Path, models: Sequence[SimModel], **habits: Any) -> AsyncIterator[Bench]:
    """A bench whose LM Studio has these models; `habits` are those of `open_simulator`."""
    async with open_simulator(models, **habits) as sim:
        yield Bench(folder, sim)


def work(request: SimRequest) -> TextReply | CallReply:
    """A model that looks its own name up and answers with what it was given, in any number of runs at once."""
    return answer_from(request) if request.messages[-1]["role"] == "tool" else look_up(request.model)


def look_up(key: str, *, padding: int = 0) -> CallReply:
    return CallReply(("ledger__look_up", {"key": key, "padding": padding}))


def answer_from(request: SimRequest) -> TextReply:
    """The right answer, made of what the tool gave; another one if the conversation does not hold it."""
    results = [str(each["content"]) for each in request.messages if "The value is " in str(each["content"])]
    return TextReply(results[-1].rpartition("The value is ")[2].partition(". ")[0] if results else "I don't know.")


def is_right(answer: Answer, key: str) -> bool:
    return not answer.is_error and value_of(key) in answer.said.splitlines()[0]


def chat_models(*keys: str, loaded: bool = True, parallel: int = 4) -> list[SimModel]:
    return [
        SimModel(key, loaded=loaded, context_length=32_768, trained_for_tool_use=True, parallel=parallel)
        for key in keys
    ]


async def ask(client: RawClient, model: str | None = None) -> Answer:
    """Have a task done with the ledger."""
    return await client.answer_of(await start(client, model))


async def start(client: RawClient, model: str | None = None, *, task: str = "Look it up.") -> int:
    """Hand a task over without waiting for its end."""
    named = {"model": model} if model else {}
    return await client.start_call("autonomous_with_write_access", mcp_names=["ledger"], task=task, **named)


async def ask_all(client: RawClient, models: Sequence[str]) -> dict[str, Answer]:
    """Have a task done by each model, all at once."""
    numbers = {model: await start(client, model) for model in models}
    return {model: await client.answer_of(number) for model, number in numbers.items()}


async def cancel(client: RawClient, number: int) -> None:
    """Cancel a call as a host does."""
    params = {"requestId": number, "reason": "the user"}
    await client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


async def first_told(client: RawClient, numbers: Sequence[int], fragment: str) -> str:
    """The first progress message of any of these calls that contains the fragment."""
    waiting = [asyncio.create_task(client.wait_for_progress(number, fragment)) for number in numbers]
    try:
        done, _ = await asyncio.wait(waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def soon(event: asyncio.Event) -> None:
    """Wait for what must happen."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()
