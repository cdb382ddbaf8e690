"""One call is enough: read, write, rename, list, add, convert, remember, recall."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import files_only, remembers, says, says_now, says_time
from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, Maker, Solution, Task, person, use
from lmstudio_bridge.evals.words import NAMES, OFFSETS, WORDS, clock, codes, line_of_words, numbers


def read_code(rng: Random) -> Task:
    code, old = codes(rng, 2)
    text = f"Notes of the meeting\nThe launch is on Thursday.\nThe launch code is {code}.\nBring cake.\n"
    return Task(
        "Read the file notes.txt and tell me the launch code.",
        ("filesystem",),
        says(code, never=[old]),
        Solution((use("filesystem", "read_text_file", path="notes.txt"),), f"The launch code is {code}."),
        files={"notes.txt": text, "old.txt": f"The launch code is {old}.\n"},
    )


def add_numbers(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        f"Add the numbers {a} and {b}. Use the tool for it, and tell me the sum.",
        ("everything",),
        says(a + b),
        Solution((use("everything", "get-sum", a=a, b=b),), f"The sum is {a + b:,}."),
    )


def convert_time(rng: Random) -> Task:
    source, target = rng.sample(sorted(OFFSETS), 2)
    minutes = rng.randrange(1_440)
    there = minutes - OFFSETS[source] + OFFSETS[target]
    return Task(
        f"It is {clock(minutes)} in {source}. What time is it then in {target}?",
        ("time",),
        says_time(there),
        Solution(
            (use("time", "convert_time", source_timezone=source, time=clock(minutes), target_timezone=target),),
            f"It is {clock(there)} there.",
        ),
    )


def time_now(rng: Random) -> Task:
    zone = rng.choice(sorted(OFFSETS))
    return Task(
        f"What time is it now in {zone}?",
        ("time",),
        says_now(offset=OFFSETS[zone]),
        Solution((use("time", "get_current_time", timezone=zone),), "{result}"),
    )


def write_line(rng: Random) -> Task:
    line = line_of_words(rng)
    return Task(
        f"Write a new file named hello.txt that holds this line: {line}",
        ("filesystem",),
        files_only,
        Solution((use("filesystem", "write_file", path="hello.txt", content=line),), "The file is written."),
        files_after={"hello.txt": line},
    )


def remember_person(rng: Random) -> Task:
    name, word = rng.choice(NAMES), rng.choice(WORDS)
    entity = {"name": name, "entityType": "person", "observations": [f"likes {word}"]}
    return Task(
        f"Save this in the memory: there is a person named {name}, who likes {word}.",
        ("memory",),
        remembers(name, word),
        Solution((use("memory", "create_entities", entities=[entity]),), f"I have saved {name}."),
    )


def recall_badge(rng: Random) -> Task:
    names = rng.sample(NAMES, 4)
    badges = numbers(rng, 4)
    return Task(
        f"Look into the memory. What is the badge number of {names[0]}?",
        ("memory",),
        says(badges[0], never=badges[1:]),
        Solution((use("memory", "search_nodes", query=names[0]),), f"{names[0]} has the badge {badges[0]}."),
        memory=tuple(
            person(name, f"has the badge number {badge}") for name, badge in sorted(zip(names, badges, strict=True))
        ),
    )


def list_folder(rng: Random) -> Task:
    inside, outside = (f"{code}.txt" for code in codes(rng, 2))
    return Task(
        "There is one file in the folder box. What is its name?",
        ("filesystem",),
        says(inside, never=[outside]),
        Solution((use("filesystem", "list_directory", path="box"),), f"It is {inside}."),
        files={f"box/{inside}": "x\n", outside: "y\n"},
    )


def rename_file(rng: Random) -> Task:
    old, new = (f"{word}.txt" for word in rng.sample(WORDS, 2))
    text = line_of_words(rng)
    return Task(
        f"Rename the file {old} to {new}.",
        ("filesystem",),
        files_only,
        Solution((use("filesystem", "move_file", source=old, destination=new),), "It is renamed."),
        files={old: text},
        files_after={new: text},
    )


def last_commit(rng: Random) -> Task:
    messages = [f"Add the {word}" for word in rng.sample(WORDS, 3)]
    commits = [Commit(message, {"list.txt": f"{message}\n"}) for message in messages]
    return Task(
        f"There is a git repository in the folder {REPOSITORY}. What is the message of its last commit?",
        ("git",),
        says(messages[-1], never=messages[:-1]),
        Solution((use("git", "git_log", repo_path=REPOSITORY, max_count=1),), f"It is: {messages[-1]}"),
        commits=tuple(commits),
    )


TASKS: tuple[Maker, ...] = (
    read_code,
    add_numbers,
    convert_time,
    time_now,
    write_line,
    remember_person,
    recall_badge,
    list_folder,
    rename_file,
    last_commit,
)
