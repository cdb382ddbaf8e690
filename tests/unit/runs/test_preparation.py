"""The run queue: so many at once, so many waiting, the rest refused."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.runs.preparation import RunQueue


class Run:
    """A run that holds a slot until it is let go."""

    def __init__(self, queue: RunQueue, name: str, order: list[str]) -> None:
        self.told: list[str] = []
        self.may_end = asyncio.Event()
        self.settled = asyncio.Event()  # it has a slot, or knows that it must wait
        self._queue, self._name, self._order = queue, name, order

    async def __call__(self) -> None:
        async with self._queue.slot(on_wait=self._tell):
            self._order.append(self._name)
            self.settled.set()
            await self.may_end.wait()

    async def _tell(self, words: str) -> None:
        self.told.append(words)
        self.settled.set()


async def begin(queue: RunQueue, name: str, order: list[str]) -> tuple[Run, asyncio.Task[None]]:
    run = Run(queue, name, order)
    task = asyncio.create_task(run())
    settling = asyncio.create_task(run.settled.wait())
    await asyncio.wait({task, settling}, return_when=asyncio.FIRST_COMPLETED)
    settling.cancel()
    return run, task


@pytest.mark.parametrize(("number", "running"), [(1, 1), (2, 2), (3, 2)])
async def test_so_many_runs_are_running_at_once(number: int, running: int) -> None:
    queue, order = RunQueue(2), list[str]()
    begun = [await begin(queue, str(n), order) for n in range(number)]

    assert len(order) == running
    for run, task in begun:
        run.may_end.set()
        await task


async def test_who_waits_knows_it_and_comes_in_the_order_of_asking() -> None:
    queue, order = RunQueue(1), list[str]()
    begun = [await begin(queue, name, order) for name in "abcd"]
    cancelled, task = begun.pop(1)
    task.cancel()
    await asyncio.wait([task])
    for run, task in begun:
        run.may_end.set()
        await task

    assert order == ["a", "c", "d"]
    waiting = "Queued: 1 run is already in progress"
    assert cancelled.told == [waiting]
    assert [run.told for run, _ in begun] == [
        [],
        [f"{waiting}, 1 queued before this one"],
        [f"{waiting}, 2 queued before this one"],
    ]


@pytest.mark.parametrize(("number", "refused"), [(2, False), (3, False), (4, True)])
async def test_the_queue_has_a_limit(number: int, refused: bool) -> None:
    queue, order = RunQueue(1, max_queued=2), list[str]()
    begun = [await begin(queue, str(n), order) for n in range(number)]

    last = begun[-1][1]
    assert last.done() is refused
    if refused:
        with pytest.raises(BridgeError, match="1 run is already in progress and 2 are queued"):
            await last
        begun.pop()
    for run, task in begun:
        run.may_end.set()
        await task
    assert not (await begin(queue, "next", order))[0].told  # nothing is left behind
