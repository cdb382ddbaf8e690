"""What a run over many items keeps in memory of each that is finished."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstudio_bridge.events import Event, ItemFinished
from lmstudio_bridge.runs.request import RunRequest
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.server import open_simulator
from tests.unit.lmstudio.clients import within
from tests.unit.runs.test_other_servers import QWEN, open_desk, take_then_tell

WARM, COUNT = 2, 7
LONG = 40_000  # characters of each conversation
KEPT = 40_000  # bytes for each item


@pytest.fixture
def traced() -> Iterator[None]:
    yield
    tracemalloc.stop()


async def test_of_a_finished_item_only_its_row_is_kept(tmp_path: Path, traced: None) -> None:
    kept = 0
    async with open_simulator([SimModel(QWEN, loaded=True, context_length=50_000)], native=None) as sim:
        sim.script_fn("*", take_then_tell)

        async def measure(event: Event) -> None:
            nonlocal kept
            if isinstance(event, ItemFinished):
                sim.requests.clear()
                if event.number >= WARM:
                    gc.collect()  # else what is measured depends on when it last ran
                    if event.number == WARM:
                        tracemalloc.start()
                    kept, _ = tracemalloc.get_traced_memory()

        async with open_desk(sim.url, tmp_path, LMSTUDIO_BRIDGE_CONTEXT_LENGTH="50000") as agent:
            items = tuple(str(number) for number in range(COUNT))
            request = RunRequest(f"Take the nonce for {{item}}.{' x' * (LONG // 2)}", access="write", for_each=items)
            report = await within(agent.run(request, emit=measure))

    assert report.outcome.is_done, report.text()
    assert kept < KEPT * (COUNT - WARM), "a thousand items need some megabytes"
