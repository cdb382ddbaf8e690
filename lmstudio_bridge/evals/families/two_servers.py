"""Two servers: what one of them knows is needed at the other."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import files_only, remembers, says, says_time
from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, Maker, Solution, Task, person, use
from lmstudio_bridge.evals.words import NAMES, OFFSETS, TOWNS, WORDS, clock, numbers


def file_to_memory(rng: Random) -> Task:
    name, town = rng.choice(NAMES), rng.choice(TOWNS)
    entity = {"name": name, "entityType": "person", "observations": [f"lives in {town}"]}
    return Task(
        "The file person.txt tells of a person. Read it, and save in the memory the person and where the person lives.",
        ("filesystem", "memory"),
        remembers(name, town),
        Solution(
            (
                use("filesystem", "read_text_file", path="person.txt"),
                use("memory", "create_entities", entities=[entity]),
            ),
            "It is saved.",
        ),
        files={"person.txt": f"{name} lives in {town}.\n"},
    )


def memory_to_file(rng: Random) -> Task:
    names, towns = rng.sample(NAMES, 3), rng.sample(TOWNS, 3)
    return Task(
        f"Look into the memory for the town where {names[0]} lives. "
        "Write a new file town.txt that holds only the name of the town.",
        ("filesystem", "memory"),
        files_only,
        Solution(
            (
                use("memory", "search_nodes", query=names[0]),
                use("filesystem", "write_file", path="town.txt", content=towns[0]),
            ),
            "The town is in town.txt.",
        ),
        files_after={"town.txt": towns[0]},
        memory=tuple(person(name, f"lives in {town}") for name, town in zip(names, towns, strict=True)),
    )


def add_from_file(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        "The file numbers.txt holds two numbers. Read it, add the numbers with the tool, and tell me the sum.",
        ("everything", "filesystem"),
        says(a + b),
        Solution(
            (use("filesystem", "read_text_file", path="numbers.txt"), use("everything", "get-sum", a=a, b=b)),
            f"The sum is {a + b}.",
        ),
        files={"numbers.txt": f"{a}\n{b}\n"},
    )


def meeting_time(rng: Random) -> Task:
    source, target = rng.sample(sorted(OFFSETS), 2)
    minutes = rng.randrange(1_440)
    there = minutes - OFFSETS[source] + OFFSETS[target]
    convert = use("time", "convert_time", source_timezone=source, time=clock(minutes), target_timezone=target)
    return Task(
        f"The file meeting.txt says when the meeting is. What time is that in {target}?",
        ("filesystem", "time"),
        says_time(there),
        Solution(
            (use("filesystem", "read_text_file", path="meeting.txt"), convert),
            f"It is at {clock(there)}.",
        ),
        files={"meeting.txt": f"The meeting is at {clock(minutes)} in the time zone {source}.\n"},
    )


def commit_to_file(rng: Random) -> Task:
    messages = [f"Add the {word}" for word in rng.sample(WORDS, 3)]
    return Task(
        f"There is a git repository in the folder {REPOSITORY}. Find the message of its last commit. "
        "Write a new file last.txt that holds only this message.",
        ("filesystem", "git"),
        files_only,
        Solution(
            (
                use("git", "git_log", repo_path=REPOSITORY, max_count=1),
                use("filesystem", "write_file", path="last.txt", content=messages[-1]),
            ),
            "The message is in last.txt.",
        ),
        files_after={"last.txt": messages[-1]},
        commits=tuple(Commit(message, {"list.txt": f"{message}\n"}) for message in messages),
    )


TASKS: tuple[Maker, ...] = (file_to_memory, memory_to_file, add_from_file, meeting_time, commit_to_file)
