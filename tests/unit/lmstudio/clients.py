"""What tests of the client share: a clock and a sleep that take no time, and a client of a simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from lmstudio_bridge import messages
from lmstudio_bridge.lmstudio.client import LLMClient, open_client
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.lmstudio.retry import RetryPolicy
from tests.lmstudio_sim.server import Simulator

QWEN = "qwen/qwen3-4b"
GEMMA = "google/gemma-3-1b"
NOMIC = "text-embedding-nomic"
BOUND = 60.0  # seconds that no test should need, not even on a busy machine
SHORT = 0.05  # seconds after which a test's client gives up a server that never answers
NO_JITTER = RetryPolicy(jitter=0.0)

QUESTION: tuple[messages.Message, ...] = (messages.UserMessage("List the files"),)
LIST_FILES = messages.ToolSpec(
    "list_files", "Lists a folder.", {"type": "object", "properties": {"path": {"type": "string"}}}
)

HISTORY: tuple[messages.Message, ...] = (
    messages.SystemMessage("Be brief."),
    messages.UserMessage("List the files"),
    messages.AssistantMessage("", (messages.ToolCall("268992578", "list_files", '{"path":"."}'),)),
    messages.ToolMessage("268992578", "a.txt\nb.txt"),
)
"""A whole round of tools."""

T = TypeVar("T")


@dataclass(slots=True)
class FakeTime:
    """A clock that only moves when something sleeps (or a test says so), and a record of the sleeps in seconds."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    stopped: bool = False  # then a sleep never ends
    asleep: asyncio.Event = field(default_factory=asyncio.Event)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.asleep.set()
        if self.stopped:
            await asyncio.Event().wait()
        self.now += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def open_test_client(
    sim: Simulator,
    *,
    root_url: str | None = None,
    api_token: str | None = None,
    default_model: str | None = None,
    timeouts: Timeouts | None = None,
    policy: RetryPolicy = NO_JITTER,
    time: FakeTime | None = None,
) -> AsyncIterator[LLMClient]:
    """A client whose pauses take no time."""
    time = time or FakeTime()
    async with open_client(
        root_url or sim.url,
        api_token=api_token,
        default_model=default_model,
        timeouts=timeouts,
        retry_policy=policy,
        sleep=time.sleep,
        clock=time.clock,
    ) as client:
        yield client


async def within(awaitable: Awaitable[T]) -> T:
    """The result, or TimeoutError in place of a test that hangs."""
    return await asyncio.wait_for(awaitable, BOUND)


def sent(sim: Simulator, path: str) -> object:
    """The JSON of the only request to that path."""
    [request] = [each for each in sim.requests if each.path == path]
    return request.json
