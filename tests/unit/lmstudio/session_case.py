"""What tests of the session share: a session at a simulator, and its notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.lmstudio.queue import SlotQueue
from lmstudio_bridge.lmstudio.session import DEFAULT_CONTEXT_LENGTH, WATCH_INTERVAL, ModelSession
from lmstudio_bridge.messages import ChatRequest, Completion, Notice
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.clients import QUESTION, QWEN, FakeTime, open_test_client, within

CHAT, LOAD, LIST = "/v1/chat/completions", "/api/v1/models/load", "/api/v1/models"


@dataclass
class Case:
    """A session at a simulator, and its notices."""

    sim: Simulator
    client: LLMClient
    time: FakeTime
    watch_interval: float
    parallel: int | None
    context_length: int
    told: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = SlotQueue(server=self.sim.url)

    async def on_notice(self, notice: Notice) -> None:
        self.told.append(notice)

    async def open(self, name: str = QWEN) -> ModelSession:
        """A session of that model, before it is prepared."""
        return ModelSession(
            self.client,
            await self.client.validator.resolve(name),
            slots=self.slots,
            context_length=self.context_length,
            parallel=self.parallel,
            watch_interval=self.watch_interval,
        )

    async def prepare(self, name: str = QWEN) -> ModelSession:
        session = await self.open(name)
        await session.prepare(on_notice=self.on_notice)
        return session

    async def ask(self, model: ModelSession) -> Completion:
        return await within(model.stream_chat_completion(ChatRequest(QUESTION), on_notice=self.on_notice))

    def seen(self, path: str) -> list[SimRequest]:
        return [request for request in self.sim.requests if request.path == path]


@asynccontextmanager
async def case(
    *models: SimModel,
    native: bool | None = True,
    jit: bool = True,
    timeouts: Timeouts | None = None,
    watch_interval: float = WATCH_INTERVAL,
    parallel: int | None = None,
    context_length: int = DEFAULT_CONTEXT_LENGTH,
) -> AsyncIterator[Case]:
    time = FakeTime()
    given = models or (SimModel(QWEN, loaded=True),)
    async with (
        open_simulator(given, native=native, jit=jit) as sim,
        open_test_client(sim, time=time, timeouts=timeouts) as client,
    ):
        yield Case(sim, client, time, watch_interval, parallel, context_length)


def unload(sim: Simulator) -> None:
    del sim.instances[QWEN]
