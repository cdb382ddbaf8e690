"""A simulated LM Studio and a client of it whose pauses take no time, for tests that need nothing special of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lmstudio_bridge.lmstudio.client import LLMClient
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.clients import FakeTime, open_test_client


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator() as simulator:
        yield simulator


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def client(sim: Simulator, time: FakeTime) -> AsyncIterator[LLMClient]:
    async with open_test_client(sim, time=time) as client:
        yield client
