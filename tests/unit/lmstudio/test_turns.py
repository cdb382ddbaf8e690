"""Turns between models: one model at a time, in order, whoever is cancelled where."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.lmstudio.queue import ModelTurns
from tests.unit.lmstudio.clients import within


@dataclass
class Run:
    """A task that has its model's turn until it is told to end."""

    turns: ModelTurns
    model: str
    waited_for: list[str] = field(default_factory=list)
    inside: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        async def on_wait(model: str) -> None:
            self.waited_for.append(model)
            await asyncio.sleep(0)

        async with self.turns.hold(self.model, on_wait=on_wait):
            self.inside.set()
            await self.let_go.wait()

    @property
    def works(self) -> bool:
        return self.inside.is_set() and not self.task.done()

    async def end(self) -> None:
        self.let_go.set()
        await within(asyncio.wait([self.task]))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def runs(*models: str) -> list[Run]:
    turns = ModelTurns()
    made = [Run(turns, model) for model in models]
    await settle()
    return made


async def cancel(made: list[Run]) -> None:
    for each in made:
        each.task.cancel()
    if made:
        await within(asyncio.wait([each.task for each in made]))


async def test_runs_of_one_model_go_together() -> None:
    made = await runs("a", "a", "a")

    assert [each.works for each in made] == [True] * 3
    await cancel(made)


async def test_another_model_waits_for_all_of_them_and_knows_for_whom() -> None:
    first, second, other = made = await runs("a", "a", "b")
    assert other.waited_for == ["a"]

    await first.end()
    await settle()
    assert not other.works
    await second.end()

    await within(other.inside.wait())
    await cancel(made)


async def test_nobody_overtakes_who_waits() -> None:
    first, other, late, later = made = await runs("a", "b", "a", "b")
    assert [each.works for each in made] == [True, False, False, False]

    await first.end()
    await settle()
    assert [each.works for each in made] == [False, True, False, False]
    await other.end()

    await within(late.inside.wait())
    assert not later.works
    await cancel(made)


async def test_who_gives_up_the_line_lets_the_current_model_go_on() -> None:
    _, other, late = made = await runs("a", "b", "a")

    other.task.cancel()

    await within(late.inside.wait())
    await cancel(made)


STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "end", "cancel", "step"]), st.integers(0, 9)), max_size=40)


@given(steps=STEPS)
def test_turns_are_right_after_any_interleaving(steps: list[tuple[str, int]]) -> None:
    asyncio.run(interleave(steps))


async def interleave(steps: list[tuple[str, int]]) -> None:
    """Only one model works at a time, the first in line always does, and nobody overtakes."""
    turns = ModelTurns()
    made: list[Run] = []
    for action, number in steps:
        chosen = made[number % len(made)] if made else None
        if action in ("a", "b", "c"):
            made.append(Run(turns, action))
        elif action == "step":
            await asyncio.sleep(0)
        elif chosen is not None and action == "end":
            chosen.let_go.set()
        elif chosen is not None:
            chosen.task.cancel()
        assert len({each.model for each in made if each.works}) <= 1
    await settle()
    alive = [each for each in made if not each.task.done()]
    together = next((n for n, each in enumerate(alive) if each.model != alive[0].model), len(alive))
    assert [each.works for each in alive] == [number < together for number in range(len(alive))]
    await cancel(made)
    last = Run(turns, "d")
    await within(last.inside.wait())
    await cancel([last])
