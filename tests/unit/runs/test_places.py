"""Places for runs: so many at once, so many in line, the rest refused."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.runs.autonomous import RunPlaces


class Run:
    """A run that holds a place until it is let go."""

    def __init__(self, places: RunPlaces, name: str, order: list[str]) -> None:
        self.told: list[str] = []
        self.may_end = asyncio.Event()
        self.settled = asyncio.Event()  # it has a place, or knows that it must wait
        self._places, self._name, self._order = places, name, order

    async def __call__(self) -> None:
        async with self._places.hold(on_wait=self._tell):
            self._order.append(self._name)
            self.settled.set()
            await self.may_end.wait()

    async def _tell(self, words: str) -> None:
        self.told.append(words)
        self.settled.set()


async def begin(places: RunPlaces, name: str, order: list[str]) -> tuple[Run, asyncio.Task[None]]:
    run = Run(places, name, order)
    task = asyncio.create_task(run())
    settling = asyncio.create_task(run.settled.wait())
    await asyncio.wait({task, settling}, return_when=asyncio.FIRST_COMPLETED)
    settling.cancel()
    return run, task


@pytest.mark.parametrize(("number", "under_way"), [(1, 1), (2, 2), (3, 2)])
async def test_so_many_runs_are_under_way_at_once(number: int, under_way: int) -> None:
    places, order = RunPlaces(2), list[str]()
    begun = [await begin(places, str(n), order) for n in range(number)]

    assert len(order) == under_way
    for run, task in begun:
        run.may_end.set()
        await task


async def test_who_waits_knows_it_and_comes_in_the_order_of_asking() -> None:
    places, order = RunPlaces(1), list[str]()
    begun = [await begin(places, name, order) for name in "abcd"]
    cancelled, task = begun.pop(1)
    task.cancel()
    await asyncio.wait([task])
    for run, task in begun:
        run.may_end.set()
        await task

    assert order == ["a", "c", "d"]
    waiting = "waiting for a free place: another run is under way"
    assert cancelled.told == [waiting]
    assert [run.told for run, _ in begun] == [
        [],
        [f"{waiting}, 1 in line before this one"],
        [f"{waiting}, 2 in line before this one"],
    ]


@pytest.mark.parametrize(("number", "refused"), [(2, False), (3, False), (4, True)])
async def test_the_line_has_an_end(number: int, refused: bool) -> None:
    places, order = RunPlaces(1, max_waiting=2), list[str]()
    begun = [await begin(places, str(n), order) for n in range(number)]

    last = begun[-1][1]
    assert last.done() is refused
    if refused:
        with pytest.raises(BridgeError, match="another run is under way and 2 wait, so this one was not started"):
            await last
        begun.pop()
    for run, task in begun:
        run.may_end.set()
        await task
    assert not (await begin(places, "next", order))[0].told  # nothing is left behind
