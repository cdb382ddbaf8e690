"""Impossible: it can't be done, and the answer must say so, after a look where only a look can tell."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from lmstudio_bridge.evals.checks import IMPOSSIBLE, all_of, called, is_impossible
from lmstudio_bridge.evals.tasks import Call, Maker, Solution, Task, person, use
from lmstudio_bridge.evals.words import NAMES, codes, line_of_words, numbers

_OTHERWISE = f"If that cannot be done, answer with the one word {IMPOSSIBLE}."


def missing_file(rng: Random) -> Task:
    there, missing = (f"{code}.txt" for code in codes(rng, 2))
    return _impossible(
        f"Read the file {missing} and tell me the code in it.",
        ("filesystem",),
        use("filesystem", "read_text_file", path=missing),
        files={there: "The code is not here.\n"},
    )


def missing_fact(rng: Random) -> Task:
    first, second, third = rng.sample(NAMES, 3)
    a, b = numbers(rng, 2, digits=6)
    return _impossible(
        f"Read the file phones.txt and tell me the phone number of {third}.",
        ("filesystem",),
        use("filesystem", "read_text_file", path="phones.txt"),
        files={"phones.txt": f"{first}: {a}\n{second}: {b}\n"},
    )


def unknown_person(rng: Random) -> Task:
    first, second, third = rng.sample(NAMES, 3)
    a, b = numbers(rng, 2)
    return _impossible(
        f"Look into the memory and tell me the badge number of {third}.",
        ("memory",),
        use("memory", "search_nodes", query=third),
        memory=(person(first, f"has the badge number {a}"), person(second, f"has the badge number {b}")),
    )


def no_such_tool(rng: Random) -> Task:
    return _impossible(f"Send {rng.choice(NAMES)} an e-mail with this line: «{line_of_words(rng, 3)}».", ("time",))


def no_such_zone(rng: Random) -> Task:
    return _impossible(
        f"Use the tool to get the time now in the time zone Moon/{rng.choice(NAMES)}.",
        ("time",),
        use("time", "get_current_time", timezone="Moon/Crater"),
    )


def _impossible(
    text: str,
    servers: tuple[str, ...],
    *looks: Call,
    files: dict[str, str] | None = None,
    memory: tuple[Mapping[str, Any], ...] = (),
) -> Task:
    return Task(
        f"{text} {_OTHERWISE}",
        servers,
        all_of(is_impossible(), called(at_least=1 if looks else 0)),
        Solution(looks, IMPOSSIBLE),
        files=files or {},
        memory=memory,
    )


TASKS: tuple[Maker, ...] = (missing_file, missing_fact, unknown_person, no_such_tool, no_such_zone)
