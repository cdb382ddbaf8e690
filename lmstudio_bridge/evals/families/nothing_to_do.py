"""Nothing to do: the answer is known without a tool, and no call may be made."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from lmstudio_bridge.evals.checks import all_of, called, says
from lmstudio_bridge.evals.tasks import Maker, Solution, Task
from lmstudio_bridge.evals.words import NAMES, TOWNS, codes, numbers


def repeat_word(rng: Random) -> Task:
    code = codes(rng, 1)[0]
    return _without_tools(f"No tool is needed. Answer with this one word: {code}", "time", code)


def badge_in_task(rng: Random) -> Task:
    first, second = rng.sample(NAMES, 2)
    a, b = numbers(rng, 2)
    text = f"{first} has the badge {a}. {second} has the badge {b}. Which badge does {second} have?"
    return _without_tools(text, "filesystem", b, never=[a])


def small_sum(rng: Random) -> Task:
    a, b = rng.randrange(2, 6), rng.randrange(2, 5)
    return _without_tools(f"How many are {a} apples and {b} apples? Answer with a number.", "filesystem", a + b)


def say_hello(rng: Random) -> Task:
    name = rng.choice(NAMES)
    return _without_tools(f"Say hello to {name}.", "memory", "hello", name)


def town_in_task(rng: Random) -> Task:
    name = rng.choice(NAMES)
    old, new = rng.sample(TOWNS, 2)
    text = f"{name} lived in {old}, then moved to {new}, and lives there now. Where does {name} live now? One word."
    return _without_tools(text, "time", new, never=[old])


def _without_tools(text: str, server: str, *facts: object, never: Iterable[object] = ()) -> Task:
    answer = " ".join(map(str, facts))
    return Task(text, (server,), all_of(says(*facts, never=never), called(at_most=0)), Solution((), answer))


TASKS: tuple[Maker, ...] = (repeat_word, badge_in_task, small_sum, say_hello, town_in_task)
