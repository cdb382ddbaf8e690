"""Tasks with big files, big results, edits to verify, and tasks that are impossible."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from lmstudio_bridge.evals.checks import (
    IMPOSSIBLE,
    all_of,
    called,
    files_only,
    is_impossible,
    last_commit_is,
    says,
)
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
    line_of_words,
    numbers,
    person,
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
        ("filesystem",),
        says(order, never=[other]),
        Solution((use("filesystem", "read_text_file", path="app.log"),), f"Order {order}."),
        files={"app.log": "\n".join(lines) + "\n"},
    )


def last_line(rng: Random) -> Task:
    code, before = codes(rng, 2)
    lines = [line_of_words(rng) for _ in range(_LOG_LINES)]
    lines += [f"closed with {before}", f"closed with {code}"]
    return Task(
        "The file day.log is long. With which word was it closed in its last line?",
        ("filesystem",),
        says(code, never=[before]),
        Solution((use("filesystem", "read_text_file", path="day.log", tail=2),), f"With {code}."),
        files={"day.log": "\n".join(lines) + "\n"},
    )


def which_report(rng: Random) -> Task:
    names = [f"report-{word}.txt" for word in rng.sample(WORDS, 5)]
    customer = f"{rng.choice(NAMES)}-{numbers(rng, 1)[0]}"
    right = rng.choice(names)
    files: dict[str, str] = {}
    for name in names:
        lines = [line_of_words(rng) for _ in range(200)]
        if name == right:
            lines[rng.randrange(50, 150)] = f"customer {customer} paid"
        files[name] = "\n".join(lines) + "\n"
    return Task(
        f"One of the report files names the customer {customer}. Which file is it? Tell me only its name.",
        ("filesystem",),
        says(right, never=[name for name in names if name != right]),
        Solution(
            (
                use("filesystem", "list_directory", path="."),
                use("filesystem", "read_multiple_files", paths=sorted(names)),
            ),
            right,
        ),
        files=files,
    )


def price_of_item(rng: Random) -> Task:
    items = numbers(rng, 900, digits=5)
    prices = numbers(rng, 900, digits=6)
    place = rng.randrange(300, 600)
    rows = [f"{item},{rng.choice(WORDS)},{price}" for item, price in zip(items, prices, strict=True)]
    return Task(
        f"The file prices.csv has one row for each item. What is the price of item {items[place]}?",
        ("filesystem",),
        says(prices[place], never=(prices[place - 1], prices[place + 1])),
        Solution((use("filesystem", "read_text_file", path="prices.csv"),), f"The price is {prices[place]}."),
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
        ("filesystem",),
        says(code, never=[wrong]),
        Solution(
            (
                use("filesystem", "search_files", path=".", pattern=f"**/{name}.txt"),
                use("filesystem", "read_text_file", path=place),
            ),
            f"The code is {code}.",
        ),
        files=files,
    )


BIG_FILES: tuple[Maker, ...] = (deep_file, last_line, find_error, which_report, price_of_item)


# -- edit and verify --------------------------------------------------------------------------------------------------
# Edit and verify: change what was asked for, nothing else, and look whether it is done.


def change_port(rng: Random) -> Task:
    old, new = numbers(rng, 2)
    before = f"[server]\nhost = localhost\nport = {old}\ntimeout = 30\n"
    after = before.replace(str(old), str(new))
    return Task(
        f"In the file config.ini, change the port from {old} to {new}. Then read the file and check that it is right.",
        ("filesystem",),
        files_only,
        Solution(
            (
                _edit("config.ini", f"port = {old}", f"port = {new}"),
                use("filesystem", "read_text_file", path="config.ini"),
            ),
            f"The port is {new} now.",
        ),
        files={"config.ini": before},
        files_after={"config.ini": after},
    )


def change_name(rng: Random) -> Task:
    old, new = rng.sample(NAMES, 2)
    before = f"Dear {old},\n\nthank you for the cake. It was good, {old}.\n\nSee you soon, {old}!\n"
    return Task(
        f"In the file letter.txt, change the name {old} to {new} everywhere. Leave all else as it is.",
        ("filesystem",),
        files_only,
        Solution(
            (
                _edit("letter.txt", f"Dear {old}", f"Dear {new}"),
                _edit("letter.txt", f"good, {old}", f"good, {new}"),
                _edit("letter.txt", f"soon, {old}", f"soon, {new}"),
            ),
            "The name is changed in three places.",
        ),
        files={"letter.txt": before},
        files_after={"letter.txt": before.replace(old, new)},
    )


def add_line(rng: Random) -> Task:
    lines = [f"- {line_of_words(rng, 3)}" for _ in range(4)]
    new = f"- {line_of_words(rng, 3)}"
    before = "\n".join(lines) + "\n"
    return Task(
        f"Add this line at the end of the file todo.md: {new}",
        ("filesystem",),
        files_only,
        Solution((_edit("todo.md", lines[-1], f"{lines[-1]}\n{new}"),), "The line is added."),
        files={"todo.md": before},
        files_after={"todo.md": f"{before}{new}\n"},
    )


def turn_off(rng: Random) -> Task:
    size = numbers(rng, 1)[0]
    before = f'{{\n  "debug": true,\n  "verbose": true,\n  "size": {size}\n}}\n'
    return Task(
        "In the file settings.json, set debug to false. Leave all else as it is. Tell me which size stands there.",
        ("filesystem",),
        says(size),
        Solution(
            (
                use("filesystem", "read_text_file", path="settings.json"),
                _edit("settings.json", '"debug": true', '"debug": false'),
            ),
            f"The size is {size}.",
        ),
        files={"settings.json": before},
        files_after={"settings.json": before.replace('"debug": true', '"debug": false')},
    )


def rename_function(rng: Random) -> Task:
    old, new = (f"make_{word}" for word in rng.sample(WORDS, 2))
    files = {
        "shop.py": f"def {old}(size):\n    return size * 2\n",
        "main.py": f"from shop import {old}\n\nprint({old}(4))\n",
    }
    return Task(
        f"In the files shop.py and main.py, rename the function {old} to {new} everywhere.",
        ("filesystem",),
        files_only,
        Solution(
            (
                _edit("shop.py", f"def {old}", f"def {new}"),
                _edit("main.py", f"import {old}", f"import {new}"),
                _edit("main.py", f"print({old}", f"print({new}"),
            ),
            "The function is renamed.",
        ),
        files=files,
        files_after={name: text.replace(old, new) for name, text in files.items()},
    )


def commit_change(rng: Random) -> Task:
    word = rng.choice(WORDS)
    message = f"Add {word} to the list"
    return Task(
        f"In the git repository in the folder {REPOSITORY}, the file list.txt has changed. "
        f"Stage it and commit it with this message: {message}",
        ("git",),
        last_commit_is(message, changed=["list.txt"]),
        Solution(
            (
                use("git", "git_add", repo_path=REPOSITORY, files=["list.txt"]),
                use("git", "git_commit", repo_path=REPOSITORY, message=message),
            ),
            "It is committed.",
        ),
        commits=(Commit("Begin", {"list.txt": "bread\n", "other.txt": "x\n"}),),
        unstaged={"list.txt": f"bread\n{word}\n"},
        changes=True,
    )


def _edit(path: str, old: str, new: str) -> Call:
    return use("filesystem", "edit_file", path=path, edits=[{"oldText": old, "newText": new}])


EDIT_AND_VERIFY: tuple[Maker, ...] = (change_port, add_line, turn_off, change_name, rename_function, commit_change)


# -- impossible -------------------------------------------------------------------------------------------------------
# Impossible: it can't be done, and the answer must say so, after a look where only a look can tell.

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


IMPOSSIBLE_TASKS: tuple[Maker, ...] = (missing_file, missing_fact, unknown_person, no_such_tool, no_such_zone)


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
        ("git",),
        says(authors[place], never=others),
        Solution((use("git", "git_log", repo_path=REPOSITORY, max_count=_COMMITS),), f"It is {authors[place]}."),
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
        ("memory",),
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
        ("filesystem",),
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
        ("git",),
        says(code),
        Solution((use("git", "git_diff_unstaged", repo_path=REPOSITORY),), f"It is {code}."),
        commits=(Commit("Begin", {"book.txt": "\n".join(before) + "\n"}),),
        unstaged={"book.txt": "\n".join(after) + "\n"},
    )


BIG_RESULTS: tuple[Maker, ...] = (whole_graph, old_commit, whole_tree, long_diff)
