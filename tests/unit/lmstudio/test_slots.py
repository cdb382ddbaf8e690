"""Slots of a model: lines that are fair, bounded, and right whoever is cancelled where."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.lmstudio.queue import DEFAULT_PARALLEL, LOWERED_FOR, SlotQueue
from tests.support.fakes import ManualClock
from tests.unit.lmstudio.clients import within

MODEL = "m"
URL = "http://127.0.0.1:1234"


@dataclass
class Holder:
    """A task that holds a slot until it is told to let it go."""

    queue: SlotQueue
    parallel: int | None
    model: str = MODEL
    places: list[int] = field(default_factory=list)
    inside: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self.hold())

    async def hold(self) -> None:
        async def on_wait(place: int) -> None:
            self.places.append(place)
            await asyncio.sleep(0)  # a place to be cancelled at

        async with self.queue.hold(self.model, parallel=self.parallel, on_wait=on_wait):
            self.inside.set()
            await self.let_go.wait()

    @property
    def holds(self) -> bool:
        return self.inside.is_set() and not self.task.done()

    async def release(self) -> None:
        self.let_go.set()
        await within(asyncio.wait([self.task]))

    async def cancel(self) -> None:
        self.task.cancel()
        await within(asyncio.wait([self.task]))


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def holders(queue: SlotQueue, count: int, *, parallel: int | None) -> list[Holder]:
    made = [Holder(queue, parallel) for _ in range(count)]
    await settle()
    return made


async def end(made: list[Holder]) -> None:
    for each in made:
        await each.cancel()


@pytest.mark.parametrize("parallel", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_as_many_hold_as_there_are_slots_and_the_next_waits(parallel: int, more: int) -> None:
    queue = SlotQueue(server=URL)
    made = await holders(queue, parallel + more, parallel=parallel)

    assert sum(each.holds for each in made) == min(parallel, parallel + more)
    assert queue.waiting(MODEL) == max(0, more)
    await end(made)


async def test_a_server_that_tells_no_slots_gets_as_many_as_lm_studio_has_by_default() -> None:
    made = await holders(SlotQueue(server=URL), DEFAULT_PARALLEL + 1, parallel=None)

    assert [each.holds for each in made] == [True] * DEFAULT_PARALLEL + [False]
    await end(made)


async def test_who_waits_hears_each_place_once() -> None:
    first, second, third, fourth = made = await holders(SlotQueue(server=URL), 4, parallel=1)

    await first.release()
    await third.cancel()
    await settle()
    await second.release()
    await settle()

    assert [each.places for each in made] == [[], [1], [2, 1], [3, 2, 1]]
    assert fourth.holds
    await end(made)


async def test_who_is_cancelled_in_the_moment_of_being_served_passes_the_slot_on() -> None:
    first, second, third = made = await holders(SlotQueue(server=URL), 3, parallel=1)

    first.let_go.set()
    await asyncio.sleep(0)  # the first has let go; the second has the slot, but does not know it yet
    second.task.cancel()
    await settle()

    assert [each.holds for each in made] == [False, False, True]
    await end([third])


async def test_one_model_does_not_wait_for_another() -> None:
    queue = SlotQueue(server=URL)
    made = [Holder(queue, 1), Holder(queue, 1, model="other")]
    await settle()

    assert [each.holds for each in made] == [True, True]
    await end(made)


async def test_slots_that_are_added_while_some_wait_are_used() -> None:
    queue = SlotQueue(server=URL)
    made = await holders(queue, 3, parallel=1)

    made += await holders(queue, 1, parallel=4)

    assert [each.holds for each in made] == [True] * 4
    await end(made)


# -- a busy server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "slots"), [(LOWERED_FOR - 1, 2), (LOWERED_FOR, 3), (LOWERED_FOR + 1, 3)])
async def test_a_busy_server_gets_one_less_for_a_while(age: float, slots: int) -> None:
    clock = ManualClock()
    queue = SlotQueue(server=URL, clock=clock)
    made = await holders(queue, 3, parallel=3)

    lowered = queue.lower(MODEL)
    await end(made)
    clock.now += age
    made = await holders(queue, 4, parallel=3)

    assert (lowered, sum(each.holds for each in made)) == (2, slots)
    await end(made)


async def test_a_busy_server_is_still_asked_one_thing_at_a_time() -> None:
    queue = SlotQueue(server=URL)
    made = await holders(queue, 2, parallel=2)

    assert [queue.lower(MODEL) for _ in range(3)] == [1, 1, 1]
    await end(made)
    made = await holders(queue, 2, parallel=2)

    assert [each.holds for each in made] == [True, False]
    await end(made)


async def test_what_was_lowered_takes_no_slot_from_those_who_hold_one() -> None:
    queue = SlotQueue(server=URL)
    first, second, third = made = await holders(queue, 3, parallel=2)

    queue.lower(MODEL)
    await first.release()
    await settle()
    assert [each.holds for each in made] == [False, True, False]

    await second.release()
    await within(third.inside.wait())
    await end(made)


# -- between processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [0, 1, 2])
async def test_two_processes_share_the_slots(tmp_path: Path, mine: int) -> None:
    """Each queue stands for a process; locks of files are per open file."""
    one, other = (SlotQueue(server=URL, folder=tmp_path / "slots") for _ in range(2))
    first = await holders(one, mine, parallel=2)
    second = await holders(other, 2, parallel=2)

    assert [each.holds for each in second] == [number < 2 - mine for number in range(2)]
    assert [each.places for each in second] == [[] if number < 2 - mine else [0] for number in range(2)]

    for each in first:
        await each.release()
    for each in second:
        await within(each.inside.wait())
    await end(second)


async def test_servers_and_models_have_locks_of_their_own(tmp_path: Path) -> None:
    queues = [SlotQueue(server=url, folder=tmp_path) for url in (URL, "http://127.0.0.1:9")]
    made = [Holder(queue, 1, model=model) for queue in queues for model in ("a", "b")]
    await settle()

    assert [each.holds for each in made] == [True] * 4
    await end(made)


async def test_who_is_cancelled_while_other_processes_hold_all_slots_gives_the_place_back(tmp_path: Path) -> None:
    one, other = (SlotQueue(server=URL, folder=tmp_path) for _ in range(2))
    (holding,) = await holders(one, 1, parallel=1)
    first, second = made = await holders(other, 2, parallel=1)
    assert (first.places, second.places) == ([0], [1])

    await first.cancel()
    await holding.release()

    await within(second.inside.wait())
    await end(made)


async def test_a_folder_that_cannot_be_made_means_no_locks_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    made = await holders(SlotQueue(server=URL, folder=tmp_path / "file" / "slots"), 2, parallel=1)

    assert [each.holds for each in made] == [True, False]
    await end(made)


# -- whoever is cancelled, wherever ---------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.sampled_from(["hold", "release", "cancel", "step"]), st.integers(0, 9)), max_size=40)


@given(parallel=st.integers(1, 3), steps=STEPS)
def test_counts_are_right_after_any_interleaving(parallel: int, steps: list[tuple[str, int]]) -> None:
    asyncio.run(interleave(parallel, steps))


async def interleave(parallel: int, steps: list[tuple[str, int]]) -> None:
    """Slots are full while anybody waits, never overfull, and given in the order of arrival."""
    queue = SlotQueue(server=URL)
    made: list[Holder] = []
    for action, number in steps:
        chosen = made[number % len(made)] if made else None
        if action == "hold":
            made.append(Holder(queue, parallel))
        elif action == "step":
            await asyncio.sleep(0)  # the next step meets tasks between two awaits
        elif chosen is not None and action == "release":
            chosen.let_go.set()
        elif chosen is not None:
            chosen.task.cancel()
        assert sum(each.holds for each in made) <= parallel
    await settle()
    alive = [each for each in made if not each.task.done()]
    assert [each.holds for each in alive] == [number < parallel for number in range(len(alive))]
    assert queue.waiting(MODEL) == max(0, len(alive) - parallel)
    await end(made)
    last = await holders(queue, parallel, parallel=parallel)
    assert ([each.holds for each in last], queue.waiting(MODEL)) == ([True] * parallel, 0)
    await end(last)
