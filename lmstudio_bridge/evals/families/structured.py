"""Structured answers: the answer is JSON of a given form, and nothing else."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import says_json
from lmstudio_bridge.evals.tasks import Maker, Solution, Task, object_of, person, use
from lmstudio_bridge.evals.words import NAMES, OFFSETS, TOWNS, WORDS, clock, codes, numbers

_ONLY = "Answer only with JSON like this:"
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}


def name_and_age(rng: Random) -> Task:
    name, age = rng.choice(NAMES), rng.randrange(20, 80)
    return Task(
        f'Read the file person.txt. {_ONLY} {{"name": "...", "age": 0}}',
        ("filesystem",),
        says_json({"name": name, "age": age}),
        Solution((use("filesystem", "read_text_file", path="person.txt"),), f'{{"name": "{name}", "age": {age}}}'),
        files={"person.txt": f"This is {name}. {name} is {age} years old.\n"},
        schema=object_of(name=_TEXT, age=_NUMBER),
    )


def sum_as_json(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        f'Add {a} and {b} with the tool. {_ONLY} {{"sum": 0}}',
        ("everything",),
        says_json({"sum": a + b}),
        Solution((use("everything", "get-sum", a=a, b=b),), f'```json\n{{"sum": {a + b}}}\n```'),
        schema=object_of(sum=_NUMBER),
    )


def time_as_json(rng: Random) -> Task:
    source, target = rng.sample(sorted(OFFSETS), 2)
    minutes = rng.randrange(1_440)
    there = clock(minutes - OFFSETS[source] + OFFSETS[target])
    convert = use("time", "convert_time", source_timezone=source, time=clock(minutes), target_timezone=target)
    return Task(
        f"It is {clock(minutes)} in {source}. What time is it in {target}? "
        f'{_ONLY} {{"zone": "{target}", "time": "HH:MM"}}',
        ("time",),
        says_json({"zone": target, "time": there}),
        Solution((convert,), f'{{"zone": "{target}", "time": "{there}"}}'),
        schema=object_of(zone=_TEXT, time=_TEXT),
    )


def files_as_json(rng: Random) -> Task:
    names = sorted(f"{word}.txt" for word in rng.sample(WORDS, 4))
    listed = ", ".join(f'"{name}"' for name in names)
    return Task(
        f'List the files in the folder box, in the order of the alphabet. {_ONLY} {{"files": ["...", "..."]}}',
        ("filesystem",),
        says_json({"files": names}),
        Solution((use("filesystem", "list_directory", path="box"),), f'{{"files": [{listed}]}}'),
        files={f"box/{name}": f"{code}\n" for name, code in zip(names, codes(rng, 4), strict=True)},
        schema=object_of(files={"type": "array", "items": _TEXT}),
    )


def town_as_json(rng: Random) -> Task:
    names, towns = rng.sample(NAMES, 3), rng.sample(TOWNS, 3)
    return Task(
        f'Look into the memory: where does {names[1]} live? {_ONLY} {{"name": "{names[1]}", "town": "..."}}',
        ("memory",),
        says_json({"name": names[1], "town": towns[1]}),
        Solution((use("memory", "search_nodes", query=names[1]),), f'{{"name": "{names[1]}", "town": "{towns[1]}"}}'),
        memory=tuple(person(name, f"lives in {town}") for name, town in zip(names, towns, strict=True)),
        schema=object_of(name=_TEXT, town=_TEXT),
    )


TASKS: tuple[Maker, ...] = (name_and_age, sum_as_json, time_as_json, files_as_json, town_as_json)
