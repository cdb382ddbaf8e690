"""Tasks with big files, big results, edits to verify, and tasks that are impossible."""

from __future__ import annotations

from random import Random
from typing import Any

from lmstudio_bridge.evals.checks import IMPOSSIBLE, all_of, called, files_only, last_commit_is, says
from lmstudio_bridge.evals.tasks import (
    NAMES,
    REPOSITORY,
    TOWNS,
    WORDS,
    Call,
    Commit,
    Maker,
    Solution,
    Task,
    codes,
    edit_file,
    git,
    line_of_words,
    numbers,
    person,
    read_file,
    use,
)

# -- big files --------------------------------------------------------------------------------------------------------
# Search in big files: most of them do not fit a small model's context at once.

_LOG_LINES = 1_500  # about 80 kB


def find_error(rng: Random) -> Task:
    order, other = numbers(rng, 2, digits=6)
    lines = [f"{number:05} INFO {line_of_words(rng)}" for number in range(_LOG_LINES)]
    place = rng.randrange(_LOG_LINES // 3, 2 * _LOG_LINES // 3)
    lines[place] = f"{place:05} ERROR payment of order {order} failed"
    lines[place + 9] = f"{place + 9:05} INFO payment of order {other} done"
    return Task(
        "The file app.log is long. One line in it is an ERROR. The payment of which order failed? Tell me its number.",
        says(order, never=[other]),
        Solution((read_file("app.log"),), f"Order {order}."),
        files={"app.log": "\n".join(lines) + "\n"},
    )


def last_line(rng: Random) -> Task:
    code, before = codes(rng, 2)
    lines = [line_of_words(rng) for _ in range(_LOG_LINES)]
    lines += [f"closed with {before}", f"closed with {code}"]
    return Task(
        "The file day.log is long. With which word was it closed in its last line?",
        says(code, never=[before]),
        Solution((use("filesystem", "read_text_file", path="day.log", tail=2),), f"With {code}."),
        files={"day.log": "\n".join(lines) + "\n"},
    )


def price_of_item(rng: Random) -> Task:
    items = numbers(rng, 900, digits=5)
    prices = numbers(rng, 900, digits=6)
    place = rng.randrange(300, 600)
    rows = [f"{item},{rng.choice(WORDS)},{price}" for item, price in zip(items, prices, strict=True)]
    return Task(
        f"The file prices.csv has one row for each item. What is the price of item {items[place]}?",
        says(prices[place], never=(prices[place - 1], prices[place + 1])),
        Solution((read_file("prices.csv"),), f"The price is {prices[place]}."),
        files={"prices.csv": "\n".join(["item,name,price", *rows]) + "\n"},
    )


def deep_file(rng: Random) -> Task:
    code, wrong = codes(rng, 2)
    name, *folders = rng.sample(WORDS, 25)
    files = {f"{a}/{b}/note.txt": f"{wrong}\n" for a, b in zip(folders[::2], folders[1::2], strict=True)}
    place = f"{folders[4]}/{folders[5]}/{name}.txt"
    files[place] = f"The code is {code}\n"
    return Task(
        f"Somewhere in the folders here there is a file named {name}.txt. Find it and tell me the code in it.",
        says(code, never=[wrong]),
        Solution(
            (use("filesystem", "search_files", path=".", pattern=f"**/{name}.txt"), read_file(place)),
            f"The code is {code}.",
        ),
        files=files,
    )


BIG_FILES: tuple[Maker, ...] = (deep_file, last_line, find_error, price_of_item)


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


# -- big results ------------------------------------------------------------------------------------------------------
# Big results: a call gives far more than is needed, and more than a small context holds.

_COMMITS = 200
_LINES = 400


def old_commit(rng: Random) -> Task:
    authors = rng.choices(NAMES, k=_COMMITS)
    place = rng.randrange(60, 140)
    names = [name for name in NAMES if name not in authors[place - 1 : place + 2]]
    authors[place] = rng.choice(names)
    words = numbers(rng, _COMMITS)
    commits = [
        Commit(f"Change number {word}: {line_of_words(rng, 12)}", {"list.txt": f"{word}\n"}, author)
        for word, author in zip(words, authors, strict=True)
    ]
    others = {*authors} - {authors[place]}
    return Task(
        f"There is a git repository in the folder {REPOSITORY}, with {_COMMITS} commits. "
        f"Who is the author of the commit with the message that begins with: Change number {words[place]}",
        says(authors[place], never=others),
        Solution((git("git_log", max_count=_COMMITS),), f"It is {authors[place]}."),
        commits=tuple(commits),
    )


def whole_graph(rng: Random) -> Task:
    people = [f"{rng.choice(NAMES)}-{number}" for number in numbers(rng, 250)]
    town = rng.choice(TOWNS)
    others = [name for name in TOWNS if name != town]
    place = rng.randrange(80, 170)
    memory = [
        person(name, f"lives in {town if number == place else rng.choice(others)}", line_of_words(rng, 8))
        for number, name in enumerate(people)
    ]
    near = (people[place - 1], people[place + 1])
    return Task(
        f"The memory knows {len(people)} people. Only one of them lives in {town}. Who is it?",
        says(people[place], never=near),
        Solution((use("memory", "read_graph"),), f"It is {people[place]}."),
        memory=tuple(memory),
    )


def whole_tree(rng: Random) -> Task:
    folders = rng.sample(WORDS, 12)
    names = codes(rng, 30)
    wanted, place = f"plan-{numbers(rng, 1)[0]}.txt", folders[7]
    files = {f"{folder}/{name}-{number}.txt": "x\n" for number, folder in enumerate(folders) for name in names}
    files[f"{place}/{wanted}"] = "x\n"
    return Task(
        f"There are {len(folders)} folders here, with many files. In which folder is the file {wanted}?",
        says(place, never=[folder for folder in folders if folder != place]),
        Solution((use("filesystem", "directory_tree", path="."),), f"It is in the folder {place}."),
        files=files,
    )


def long_diff(rng: Random) -> Task:
    code, old = codes(rng, 2)
    before = [f"{number}: {line_of_words(rng, 4)}" for number in range(_LINES)]
    after = [f"{line} and more" for line in before]
    place = rng.randrange(150, 250)
    before[place], after[place] = f"password: {old}", f"password: {code}"
    return Task(
        f"In the git repository in the folder {REPOSITORY}, the file book.txt has many changes that are not staged. "
        "One of them changes the password. What is the new password?",
        says(code),
        Solution((git("git_diff_unstaged"),), f"It is {code}."),
        commits=(Commit("Begin", {"book.txt": "\n".join(before) + "\n"}),),
        unstaged={"book.txt": "\n".join(after) + "\n"},
    )


BIG_RESULTS: tuple[Maker, ...] = (whole_graph, old_commit, whole_tree, long_diff)
