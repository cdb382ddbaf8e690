"""Tasks that need a few small calls, or none, or that are impossible; edits to verify, and structured answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from lmstudio_bridge.evals.checks import (
    IMPOSSIBLE,
    all_of,
    branch_is,
    called,
    files_only,
    has_folder,
    last_commit_is,
    relates,
    remembers,
    says,
    says_json,
    says_now,
    says_time,
)
from lmstudio_bridge.evals.tasks import (
    NAMES,
    NUMBER,
    OFFSETS,
    ONLY_JSON,
    REPOSITORY,
    TEXT,
    TOWNS,
    WORDS,
    Call,
    Commit,
    Maker,
    Solution,
    Task,
    clock,
    codes,
    edit_file,
    git,
    line_of_words,
    list_files,
    numbers,
    object_of,
    person,
    read_file,
    use,
    write_file,
)

# -- one call ---------------------------------------------------------------------------------------------------------
# One call is enough: read, write, rename, list, add, convert, remember, recall.


def read_code(rng: Random) -> Task:
    code, old = codes(rng, 2)
    text = f"Notes of the meeting\nThe launch is on Thursday.\nThe launch code is {code}.\nBring cake.\n"
    return Task(
        "Read the file notes.txt and tell me the launch code.",
        says(code, never=[old]),
        Solution((read_file("notes.txt"),), f"The launch code is {code}."),
        files={"notes.txt": text, "old.txt": f"The launch code is {old}.\n"},
    )


def add_numbers(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        f"Add the numbers {a} and {b}. Use the tool for it, and tell me the sum.",
        says(a + b),
        Solution((use("everything", "get-sum", a=a, b=b),), f"The sum is {a + b:,}."),
    )


def convert_time(rng: Random) -> Task:
    source, target, minutes, there, convert = _conversion(rng)
    return Task(
        f"It is {clock(minutes)} in {source}. What time is it then in {target}?",
        says_time(there),
        Solution((convert,), f"It is {clock(there)} there."),
    )


def _conversion(rng: Random) -> tuple[str, str, int, int, Call]:
    """Two time zones, a time of day in each as minutes, and the call that converts it."""
    source, target = rng.sample(sorted(OFFSETS), 2)
    minutes = rng.randrange(1_440)
    call = use("time", "convert_time", source_timezone=source, time=clock(minutes), target_timezone=target)
    return source, target, minutes, minutes - OFFSETS[source] + OFFSETS[target], call


def time_now(rng: Random) -> Task:
    zone = rng.choice(sorted(OFFSETS))
    return Task(
        f"What time is it now in {zone}?",
        says_now(offset=OFFSETS[zone]),
        Solution((use("time", "get_current_time", timezone=zone),), "{result}"),
    )


def write_line(rng: Random) -> Task:
    line = line_of_words(rng)
    return Task(
        f"Write a new file named hello.txt that holds this line: {line}",
        files_only,
        Solution((write_file("hello.txt", line),), "The file is written."),
        files_after={"hello.txt": line},
    )


def remember_person(rng: Random) -> Task:
    name, word = rng.choice(NAMES), rng.choice(WORDS)
    return Task(
        f"Save this in the memory: there is a person named {name}, who likes {word}.",
        remembers(name, word),
        Solution((_save_people({name: f"likes {word}"}),), f"I have saved {name}."),
        changes=True,
    )


def _save_people(people: Mapping[str, str]) -> Call:
    entities = [{"name": name, "entityType": "person", "observations": [each]} for name, each in people.items()]
    return use("memory", "create_entities", entities=entities)


def recall_badge(rng: Random) -> Task:
    names = rng.sample(NAMES, 4)
    badges = numbers(rng, 4)
    return Task(
        f"Look into the memory. What is the badge number of {names[0]}?",
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
        says(inside, never=[outside]),
        Solution((list_files("box"),), f"It is {inside}."),
        files={f"box/{inside}": "x\n", outside: "y\n"},
    )


def rename_file(rng: Random) -> Task:
    old, new = (f"{word}.txt" for word in rng.sample(WORDS, 2))
    text = line_of_words(rng)
    return Task(
        f"Rename the file {old} to {new}.",
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
        says(messages[-1], never=messages[:-1]),
        Solution((git("git_log", max_count=1),), f"It is: {messages[-1]}"),
        commits=tuple(commits),
    )


ONE_CALL: tuple[Maker, ...] = (
    read_code, add_numbers, convert_time, time_now, write_line, remember_person, recall_badge, list_folder, rename_file,
    last_commit,
)  # fmt: skip


# -- several calls ----------------------------------------------------------------------------------------------------
# Several calls, one after the other, some of which need what the one before gave.


def join_files(rng: Random) -> Task:
    a, b = line_of_words(rng, 4), line_of_words(rng, 4)
    both = f"{a}\n{b}\n"
    return Task(
        "Read the files a.txt and b.txt. Write a new file both.txt: first the line of a.txt, then the line of b.txt.",
        files_only,
        Solution((read_file("a.txt"), read_file("b.txt"), write_file("both.txt", both)), "Both lines are in both.txt."),
        files={"a.txt": f"{a}\n", "b.txt": f"{b}\n"},
        files_after={"a.txt": f"{a}\n", "b.txt": f"{b}\n", "both.txt": both},
    )


def tidy_up(rng: Random) -> Task:
    folder, first, second, stays = rng.sample(WORDS, 4)
    names = (f"{first}.txt", f"{second}.txt")
    return Task(
        f"Make a folder named {folder}. Move the files {names[0]} and {names[1]} into it.",
        has_folder(folder),
        Solution(
            (
                use("filesystem", "create_directory", path=folder),
                *(use("filesystem", "move_file", source=name, destination=f"{folder}/{name}") for name in names),
            ),
            "Both files are in the folder.",
        ),
        files={**dict.fromkeys(names, "x\n"), f"{stays}.txt": "y\n"},
        files_after={**{f"{folder}/{name}": "x\n" for name in names}, f"{stays}.txt": "y\n"},
    )


def add_three(rng: Random) -> Task:
    a, b, c = numbers(rng, 3)
    return Task(
        f"Add {a} and {b} with the tool. Then add {c} to the sum, with the tool too. Tell me the last sum.",
        says(a + b + c),
        Solution(
            (use("everything", "get-sum", a=a, b=b), use("everything", "get-sum", a=a + b, b=c)),
            f"The last sum is {a + b + c}.",
        ),
    )


def two_friends(rng: Random) -> Task:
    first, second = rng.sample(NAMES, 2)
    likes, paints = rng.sample(WORDS, 2)
    relation = {"from": first, "to": second, "relationType": "knows"}
    return Task(
        f"Save two people in the memory: {first}, who likes {likes}, and {second}, who paints {paints}. "
        f"Then save the relation that {first} knows {second}.",
        all_of(remembers(first, likes), remembers(second, paints), relates(first, second)),
        Solution(
            (
                _save_people({first: f"likes {likes}", second: f"paints {paints}"}),
                use("memory", "create_relations", relations=[relation]),
            ),
            "Both are saved.",
        ),
        changes=True,
    )


def new_branch(rng: Random) -> Task:
    name = rng.choice(WORDS)
    return Task(
        f"In the git repository in the folder {REPOSITORY}, make a new branch named {name} and switch to it.",
        branch_is(name),
        Solution(
            (git("git_create_branch", branch_name=name), git("git_checkout", branch_name=name)),
            f"The branch is {name}.",
        ),
        commits=(Commit("Begin", {"list.txt": "x\n"}),),
        changes=True,
    )


SEVERAL_CALLS: tuple[Maker, ...] = (join_files, tidy_up, add_three, two_friends, new_branch)


# -- two servers ------------------------------------------------------------------------------------------------------
# Two servers: what one of them knows is needed at the other.


def file_to_memory(rng: Random) -> Task:
    name, town = rng.choice(NAMES), rng.choice(TOWNS)
    return Task(
        "The file person.txt tells of a person. Read it, and save in the memory the person and where the person lives.",
        remembers(name, town),
        Solution((read_file("person.txt"), _save_people({name: f"lives in {town}"})), "It is saved."),
        files={"person.txt": f"{name} lives in {town}.\n"},
        changes=True,
    )


def memory_to_file(rng: Random) -> Task:
    names, towns = rng.sample(NAMES, 3), rng.sample(TOWNS, 3)
    return Task(
        f"Look into the memory for the town where {names[0]} lives. "
        "Write a new file town.txt that holds only the name of the town.",
        files_only,
        Solution(
            (use("memory", "search_nodes", query=names[0]), write_file("town.txt", towns[0])),
            "The town is in town.txt.",
        ),
        files_after={"town.txt": towns[0]},
        memory=tuple(person(name, f"lives in {town}") for name, town in zip(names, towns, strict=True)),
    )


def add_from_file(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        "The file numbers.txt holds two numbers. Read it, add the numbers with the tool, and tell me the sum.",
        says(a + b),
        Solution((read_file("numbers.txt"), use("everything", "get-sum", a=a, b=b)), f"The sum is {a + b}."),
        files={"numbers.txt": f"{a}\n{b}\n"},
    )


def meeting_time(rng: Random) -> Task:
    source, target, minutes, there, convert = _conversion(rng)
    return Task(
        f"The file meeting.txt says when the meeting is. What time is that in {target}?",
        says_time(there),
        Solution((read_file("meeting.txt"), convert), f"It is at {clock(there)}."),
        files={"meeting.txt": f"The meeting is at {clock(minutes)} in the time zone {source}.\n"},
    )


def commit_to_file(rng: Random) -> Task:
    messages = [f"Add the {word}" for word in rng.sample(WORDS, 3)]
    return Task(
        f"There is a git repository in the folder {REPOSITORY}. Find the message of its last commit. "
        "Write a new file last.txt that holds only this message.",
        files_only,
        Solution((git("git_log", max_count=1), write_file("last.txt", messages[-1])), "The message is in last.txt."),
        files_after={"last.txt": messages[-1]},
        commits=tuple(Commit(message, {"list.txt": f"{message}\n"}) for message in messages),
    )


TWO_SERVERS: tuple[Maker, ...] = (file_to_memory, memory_to_file, add_from_file, meeting_time, commit_to_file)


# -- nothing to do ----------------------------------------------------------------------------------------------------
# Nothing to do: the answer is known without a tool, and no call may be made.


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
    check = all_of(says(*facts, never=never), called(at_most=0))
    return Task(text, check, Solution((), answer), servers=(server,))


NOTHING_TO_DO: tuple[Maker, ...] = (repeat_word, badge_in_task, small_sum, say_hello, town_in_task)


# -- impossible -------------------------------------------------------------------------------------------------------
# Impossible: it can't be done, and the answer must say so, after a look where only a look can tell.

_OTHERWISE = f"If that cannot be done, answer with the one word {IMPOSSIBLE}."


def missing_file(rng: Random) -> Task:
    there, missing = (f"{code}.txt" for code in codes(rng, 2))
    return _impossible(
        f"Read the file {missing} and tell me the code in it.",
        read_file(missing),
        files={there: "The code is not here.\n"},
    )


def unknown_person(rng: Random) -> Task:
    first, second, third = rng.sample(NAMES, 3)
    a, b = numbers(rng, 2)
    return _impossible(
        f"Look into the memory and tell me the badge number of {third}.",
        use("memory", "search_nodes", query=third),
        memory=(person(first, f"has the badge number {a}"), person(second, f"has the badge number {b}")),
    )


def no_such_tool(rng: Random) -> Task:
    return _impossible(
        f'Send {rng.choice(NAMES)} an e-mail with this line: "{line_of_words(rng, 3)}".', servers=("time",)
    )


def no_such_zone(rng: Random) -> Task:
    return _impossible(
        f"Use the tool to get the time now in the time zone Moon/{rng.choice(NAMES)}.",
        use("time", "get_current_time", timezone="Moon/Crater"),
    )


def _impossible(text: str, *looks: Call, **world: Any) -> Task:
    check = all_of(says(IMPOSSIBLE), called(at_least=1 if looks else 0))
    return Task(f"{text} {_OTHERWISE}", check, Solution(looks, IMPOSSIBLE), **world)


IMPOSSIBLE_TASKS: tuple[Maker, ...] = (missing_file, unknown_person, no_such_tool, no_such_zone)


# -- edit and verify --------------------------------------------------------------------------------------------------
# Edit and verify: change what was asked for, nothing else, and look whether it is done.


def change_port(rng: Random) -> Task:
    old, new = numbers(rng, 2)
    before = f"[server]\nhost = localhost\nport = {old}\ntimeout = 30\n"
    after = before.replace(str(old), str(new))
    return Task(
        f"In the file config.ini, change the port from {old} to {new}. Then read the file and check that it is right.",
        files_only,
        Solution(
            (edit_file("config.ini", (f"port = {old}", f"port = {new}")), read_file("config.ini")),
            f"The port is {new} now.",
        ),
        files={"config.ini": before},
        files_after={"config.ini": after},
    )


def add_line(rng: Random) -> Task:
    lines = [f"- {line_of_words(rng, 3)}" for _ in range(4)]
    new = f"- {line_of_words(rng, 3)}"
    before = "\n".join(lines) + "\n"
    return Task(
        f"Add this line at the end of the file todo.md: {new}",
        files_only,
        Solution((edit_file("todo.md", (lines[-1], f"{lines[-1]}\n{new}")),), "The line is added."),
        files={"todo.md": before},
        files_after={"todo.md": f"{before}{new}\n"},
    )


def turn_off(rng: Random) -> Task:
    size = numbers(rng, 1)[0]
    change = '"debug": true', '"debug": false'
    before = f'{{\n  "debug": true,\n  "verbose": true,\n  "size": {size}\n}}\n'
    return Task(
        "In the file settings.json, set debug to false. Leave all else as it is. Tell me which size stands there.",
        says(size),
        Solution((read_file("settings.json"), edit_file("settings.json", change)), f"The size is {size}."),
        files={"settings.json": before},
        files_after={"settings.json": before.replace(*change)},
    )


def commit_change(rng: Random) -> Task:
    word = rng.choice(WORDS)
    message = f"Add {word} to the list"
    return Task(
        f"In the git repository in the folder {REPOSITORY}, the file list.txt has changed. "
        f"Stage it and commit it with this message: {message}",
        last_commit_is(message, changed=["list.txt"]),
        Solution((git("git_add", files=["list.txt"]), git("git_commit", message=message)), "It is committed."),
        commits=(Commit("Begin", {"list.txt": "bread\n", "other.txt": "x\n"}),),
        unstaged={"list.txt": f"bread\n{word}\n"},
        changes=True,
    )


EDIT_AND_VERIFY: tuple[Maker, ...] = (change_port, add_line, turn_off, commit_change)


# -- structured -------------------------------------------------------------------------------------------------------
# Structured answers: the answer is JSON of a given form, and nothing else.


def sum_as_json(rng: Random) -> Task:
    a, b = numbers(rng, 2, digits=5)
    return Task(
        f'Add {a} and {b} with the tool. {ONLY_JSON} {{"sum": 0}}',
        says_json({"sum": a + b}),
        Solution((use("everything", "get-sum", a=a, b=b),), f'```json\n{{"sum": {a + b}}}\n```'),
        schema=object_of(sum=NUMBER),
    )


def time_as_json(rng: Random) -> Task:
    source, target, minutes, later, convert = _conversion(rng)
    there = clock(later)
    return Task(
        f"It is {clock(minutes)} in {source}. What time is it in {target}? "
        f'{ONLY_JSON} {{"zone": "{target}", "time": "HH:MM"}}',
        says_json({"zone": target, "time": there}),
        Solution((convert,), f'{{"zone": "{target}", "time": "{there}"}}'),
        schema=object_of(zone=TEXT, time=TEXT),
    )


def files_as_json(rng: Random) -> Task:
    names = sorted(f"{word}.txt" for word in rng.sample(WORDS, 4))
    listed = ", ".join(f'"{name}"' for name in names)
    return Task(
        f'List the files in the folder box, in the order of the alphabet. {ONLY_JSON} {{"files": ["...", "..."]}}',
        says_json({"files": names}),
        Solution((list_files("box"),), f'{{"files": [{listed}]}}'),
        files={f"box/{name}": f"{code}\n" for name, code in zip(names, codes(rng, 4), strict=True)},
        schema=object_of(files={"type": "array", "items": TEXT}),
    )


def town_as_json(rng: Random) -> Task:
    names, towns = rng.sample(NAMES, 3), rng.sample(TOWNS, 3)
    return Task(
        f'Look into the memory: where does {names[1]} live? {ONLY_JSON} {{"name": "{names[1]}", "town": "..."}}',
        says_json({"name": names[1], "town": towns[1]}),
        Solution((use("memory", "search_nodes", query=names[1]),), f'{{"name": "{names[1]}", "town": "{towns[1]}"}}'),
        memory=tuple(person(name, f"lives in {town}") for name, town in zip(names, towns, strict=True)),
        schema=object_of(name=TEXT, town=TEXT),
    )


STRUCTURED: tuple[Maker, ...] = (sum_as_json, time_as_json, files_as_json, town_as_json)
