"""Tasks over many files, rows or places, as people delegate them: read all, edit everywhere, add up, give as JSON.

The last family does one task for each of many files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from lmstudio_bridge.evals.answers import says_number, says_together
from lmstudio_bridge.evals.checks import all_of, files_only, says, says_json
from lmstudio_bridge.evals.tasks import (
    NAMES,
    NUMBER,
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
    codes,
    edit_file,
    git,
    line_of_words,
    list_files,
    numbers,
    object_of,
    read_file,
    read_files,
)
from lmstudio_bridge.messages import JSONObject

# -- all files --------------------------------------------------------------------------------------------------------
# Something of every file, none left out.


def three_into_table(rng: Random) -> Task:
    files, rows = _people(rng, 3)
    return Task(
        f"Read {', '.join(files)}. Make one table of them with the columns name, town and badge.",
        says_together({name: [town, badge] for name, town, badge in rows}),
        Solution(
            (read_files(files),),
            "\n".join(["| name | town | badge |", "|---|---|---|", *(f"| {n} | {t} | {b} |" for n, t, b in rows)]),
        ),
        files=files,
    )


def _people(rng: Random, count: int) -> tuple[dict[str, str], list[tuple[str, str, int]]]:
    """A file for each person, and what is in them: name, town and badge."""
    names, towns = rng.sample(NAMES, count), rng.sample(TOWNS, count)
    rows = list(zip(names, towns, numbers(rng, count), strict=True))
    files = rng.sample(WORDS, count)
    texts = [f"name: {name}\nbadge: {badge}\nphone: {badge * 7}\ntown: {town}\n" for name, town, badge in rows]
    return {f"{file}.txt": text for file, text in zip(files, texts, strict=True)}, rows


def status_of_each(rng: Random) -> Task:
    names = [f"{word}.txt" for word in rng.sample(WORDS, 5)]
    states = dict(zip(names, codes(rng, 5), strict=True))
    files = {f"jobs/{name}": f"started by {rng.choice(NAMES)}\nstatus: {state}\n" for name, state in states.items()}
    return _told_of_each(
        "What is the status in each of the files in the folder jobs? Give me every file with its status.",
        states,
        list_files("jobs"),
        read_files(files),
        files=files,
    )


def count_by_extension(rng: Random) -> Task:
    counts = dict(zip(rng.sample(("csv", "log", "css", "xml", "sql"), 3), rng.sample(range(3, 9), 3), strict=True))
    words = iter(rng.sample(WORDS, sum(counts.values())))
    files = {f"data/{next(words)}.{ext}": "x\n" for ext, count in counts.items() for _ in range(count)}
    return Task(
        "Count the files in the folder data by extension: how many are there of each?",
        says_together({ext: [count] for ext, count in counts.items()}),
        Solution((list_files("data"),), ", ".join(f"{count} .{ext} files" for ext, count in counts.items())),
        files=files,
    )


def owner_of_each_folder(rng: Random) -> Task:
    folders, owners = rng.sample(WORDS, 4), rng.sample(NAMES, 4)
    owner_of = dict(zip(folders, owners, strict=True))
    files = {f"{folder}/README.md": f"# {folder}\n\nOwner: {owner}\n" for folder, owner in owner_of.items()}
    return _told_of_each(
        "Each folder here has a README.md that names its owner. Who owns which folder? List all.",
        owner_of,
        list_files("."),
        read_files(files),
        files=files,
        bullet="- ",
    )


def highest_of_all(rng: Random) -> Task:
    names = [f"{word}.txt" for word in rng.sample(WORDS, 6)]
    scores = numbers(rng, 6)
    files = {f"scores/{name}": f"score: {score}\n" for name, score in zip(names, scores, strict=True)}
    best = max(zip(scores, names, strict=True))
    return Task(
        "Which file in the folder scores has the highest score? Answer with that file and its score only.",
        says(*best, never=[name for name in names if name != best[1]]),
        Solution((list_files("scores"), read_files(files)), f"{best[1]} with {best[0]}"),
        files=files,
    )


def follow_references(rng: Random) -> Task:
    names = [f"{word}.conf" for word in rng.sample(WORDS, 5)]
    port, wrong = numbers(rng, 2)
    texts = [f"include = {name}\n" for name in names[1:4]]
    files = dict(zip(names, [*texts, f"port = {port}\n", f"port = {wrong}\n"], strict=True))
    return Task(
        f"The file {names[0]} includes another file, and so on. Follow the includes. Which port is set at the end?",
        says(port, never=[wrong]),
        Solution(tuple(map(read_file, names[:4])), f"The port is {port}."),
        files=files,
    )


def _told_of_each(text: str, found: Mapping[str, str], *looks: Call, bullet: str = "", **world: Any) -> Task:
    """The answer says what was found of each."""
    answer = "\n".join(f"{bullet}{name}: {fact}" for name, fact in found.items())
    return Task(text, says_together({name: [fact] for name, fact in found.items()}), Solution(looks, answer), **world)


ALL_FILES: tuple[Maker, ...] = (
    three_into_table, count_by_extension, status_of_each, follow_references, owner_of_each_folder, highest_of_all,
)  # fmt: skip


# -- edit everywhere --------------------------------------------------------------------------------------------------
# Every place changed, and nothing that only looks like it.


def rename_constant(rng: Random) -> Task:
    old, new, other = (f"MAX_{word.upper()}" for word in rng.sample(WORDS, 3))
    size, more = numbers(rng, 2)
    text = (
        f"{old} = {size}\n{old}_AGE = {more}\n{other} = {more}\n\n\ndef check(size):\n"
        f"    if size > {old}:\n        raise ValueError({old})\n    return {old} - size\n"
    )
    return _edited(
        f"In the file limits.py, rename the constant {old} to {new} everywhere. Leave {old}_AGE as it is.",
        {"limits.py": text},
        (f"{old} =", f"{new} ="),
        (f"> {old}", f"> {new}"),
        (f"({old})", f"({new})"),
        (f"{old} -", f"{new} -"),
    )


def rename_in_all_files(rng: Random) -> Task:
    old, new, other = (f"{word.upper()}_LIMIT" for word in rng.sample(WORDS, 3))
    size = numbers(rng, 1)[0]
    names = rng.sample(WORDS, 4)
    files = {
        f"src/{names[0]}.py": f"{old} = {size}\n{other} = {size}\n",
        f"src/{names[1]}.py": f"from {names[0]} import {old}\n\nprint({old})\n",
        f"src/{names[2]}.py": f"from {names[0]} import {other}\n\nprint({other})\n",
        f"src/{names[3]}.py": f"import {names[0]}\n\nprint({names[0]}.{old})\n",
    }
    return _edited(f"Rename the constant {old} to {new} in all files of the folder src.", files, (old, new))


def change_host(rng: Random) -> Task:
    old, new, other = (f"{word}.example.com" for word in rng.sample(WORDS, 3))
    port, wait = numbers(rng, 2)
    files = {
        "conf/app.ini": f"[server]\nhost = {old}\nport = {port}\n",
        "conf/app.json": f'{{\n  "url": "https://{old}:{port}/",\n  "wait": {wait}\n}}\n',
        "conf/app.env": f"HOST={old}\nMIRROR={other}\n",
    }
    return _edited(
        f"Our host has moved. Replace {old} by {new} in all files of the folder conf.", files, (f"{old}", f"{new}")
    )


def change_year(rng: Random) -> Task:
    names = rng.sample(WORDS, 3)
    holder = rng.choice(NAMES)
    year = rng.randrange(2001, 2020)
    files = {
        f"{name}.md": f"# The {name}\n\nSince {year - number}.\n\nCopyright {year} {holder}\n"
        for number, name in enumerate(names)
    }
    return _edited(
        f"In each .md file here, change the copyright year from {year} to {year + 7}. Leave all else as it is.",
        files,
        (f"Copyright {year}", f"Copyright {year + 7}"),
    )


def remove_debug_lines(rng: Random) -> Task:
    words = rng.sample(WORDS, 3)
    lines = [f'    debug("{word} {number}")\n' for word, number in zip(words, numbers(rng, 3), strict=True)]
    text = (
        f"def load(path):\n{lines[0]}    data = open(path).read()\n{lines[1]}    return data\n\n\n"
        f"def store(path, data):\n    print(path)\n{lines[2]}    open(path, 'w').write(data)\n"
    )
    return _edited(
        "Remove all lines that call debug from the file store.py. Leave all else as it is.",
        {"store.py": text},
        *((line, "") for line in lines),
    )


def switch_all_off(rng: Random) -> Task:
    names = rng.sample(WORDS, 5)
    on = {name: number % 2 == 0 for number, name in enumerate(names)}
    rows = [f"{name}:\n  enabled: {str(value).lower()}\n  owner: {rng.choice(NAMES)}\n" for name, value in on.items()]
    return _edited(
        "In the file features.yaml, set enabled to false for all features. Leave all else as it is.",
        {"features.yaml": "".join(rows)},
        *((f"{name}:\n  enabled: true", f"{name}:\n  enabled: false") for name, value in on.items() if value),
    )


def _edited(text: str, files: dict[str, str], *edits: tuple[str, str]) -> Task:
    """The text of each edit is replaced wherever it stands, but not at the beginning of a longer name."""
    after = dict(files)
    calls: list[Call] = []
    for name, before in files.items():
        made: list[tuple[str, str]] = []
        for old, new in edits:
            while old in after[name]:
                after[name] = after[name].replace(old, new, 1)
                made.append((old, new))
        if after[name] != before:
            calls.append(edit_file(name, *made))
    looks = (list_files(next(iter(files)).partition("/")[0]),) if all("/" in name for name in files) else ()
    return Task(
        text,
        files_only,
        Solution((*looks, read_files(files), *calls), "It is changed everywhere."),
        files=files,
        files_after=after,
    )


EDIT_EVERYWHERE: tuple[Maker, ...] = (
    rename_constant, rename_in_all_files, change_host, change_year, switch_all_off, remove_debug_lines,
)  # fmt: skip


# -- totals -----------------------------------------------------------------------------------------------------------
# Sums and counts over rows.

_HEADING = "date,customer,amount"


def _orders(rng: Random, names: Sequence[str], rows: int) -> list[tuple[str, str, int]]:
    """Rows of date, customer and amount; each customer has at least two."""
    customers = [*names, *names, *rng.choices(names, k=rows - 2 * len(names))]
    rng.shuffle(customers)
    return [
        (f"2026-{1 + number // 3:02}-{1 + number * 9 % 28:02}", name, amount)
        for number, (name, amount) in enumerate(zip(customers, numbers(rng, rows, digits=3), strict=True))
    ]


def _csv(rows: Sequence[tuple[str, str, int]]) -> str:
    return "\n".join([_HEADING, *(f"{date},{name},{amount}" for date, name, amount in rows)]) + "\n"


def _sum(rows: Sequence[tuple[str, str, int]], name: str) -> int:
    return sum(amount for _, customer, amount in rows if customer == name)


def customer_total(rng: Random) -> Task:
    names = rng.sample(NAMES, 4)
    rows = _orders(rng, names, 14)
    total, *others = (_sum(rows, name) for name in names)
    return _totalled(
        f"What is the total amount of the customer {names[0]} in orders.csv?",
        total,
        never=[sum(others) + total],
        files={"orders.csv": _csv(rows)},
    )


def column_total(rng: Random) -> Task:
    days = rng.sample(range(1, 29), 10)
    quarters = [rng.randrange(3, 36) for _ in days]
    hours = [Decimal(quarter) / 4 for quarter in quarters]
    rows = [f"2026-05-{day:02},{rng.choice(NAMES)},{hour}" for day, hour in zip(sorted(days), hours, strict=True)]
    return _totalled(
        "How many hours are in timesheet.csv in total?",
        sum(hours, Decimal(0)),
        files={"timesheet.csv": "\n".join(["date,name,hours", *rows]) + "\n"},
    )


def rows_with_state(rng: Random) -> Task:
    count = rng.randrange(4, 13)
    states = rng.sample(["solved"] * count + ["closed"] * (17 - count) + ["unsolved"] * 2, 19)
    rows = [f"T-{number},{state}" for number, state in zip(numbers(rng, 19), states, strict=True)]
    return _totalled(
        "How many tickets in the file tickets.csv are solved? Say only how many.",
        count,
        never=(17 - count, count + 2, 2),
        files={"tickets.csv": "\n".join(["ticket,state", *rows]) + "\n"},
    )


def sum_over_files(rng: Random) -> Task:
    names = [f"{word}.txt" for word in rng.sample(WORDS, 4)]
    totals = numbers(rng, 4)
    files = {
        f"bills/{name}": f"from: {rng.choice(NAMES)}\nnumber: {10_000 + total * 3}\ntotal: {total}\n"
        for name, total in zip(names, totals, strict=True)
    }
    return _totalled(
        "Add up the totals of all bills in the folder bills. What is the sum?",
        sum(totals),
        files=files,
        looks=(list_files("bills"), read_files(files)),
    )


def difference_of_two(rng: Random) -> Task:
    names = rng.sample(NAMES, 3)
    rows = _orders(rng, names, 9)
    more, less = sorted(names[:2], key=lambda name: -_sum(rows, name))
    total, other = _sum(rows, more), _sum(rows, less)
    return _totalled(
        f"How much higher is the total amount of {more} than that of {less} in orders.csv?",
        total - other,
        never=[total + other],
        files={"orders.csv": _csv(rows)},
    )


def best_customer(rng: Random) -> Task:
    names = rng.sample(NAMES, 4)
    rows = _orders(rng, names, 12)
    best, *others = sorted(names, key=lambda name: -_sum(rows, name))
    return _totalled(
        "Which customer has the highest total amount in orders.csv, and what is it? Name that customer only.",
        _sum(rows, best),
        files={"orders.csv": _csv(rows)},
        names=([best], others),
    )


def _totalled(
    text: str,
    total: Decimal | int,
    *,
    files: dict[str, str],
    never: Sequence[Decimal | int] = (),
    looks: tuple[Call, ...] = (),
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Task:
    """The answer is a number, and the first of `names` but none of the second."""
    return Task(
        text,
        all_of(says_number(total, never=never), says(*names[0], never=names[1])),
        Solution(looks or (read_file(next(iter(files))),), " ".join([*names[0], f"It is {total:,}."])),
        files=files,
    )


TOTALS: tuple[Maker, ...] = (
    customer_total, rows_with_state, sum_over_files, column_total, difference_of_two, best_customer,
)  # fmt: skip


# -- schema -----------------------------------------------------------------------------------------------------------
# What several lines or files hold, as JSON of a given schema.


def config_as_json(rng: Random) -> Task:
    host, other = (f"{word}.example.com" for word in rng.sample(WORDS, 2))
    port, wait = numbers(rng, 2)
    debug = rng.choice((True, False))
    text = (
        f"[server]\nhost = {host}\nbackup = {other}\nport = {port}\nwait = {wait}\ndebug = {'on' if debug else 'off'}\n"
    )
    return _as_json(
        f'Read app.ini. {ONLY_JSON} {{"host": "...", "port": 0, "debug": true}}',
        {"host": host, "port": port, "debug": debug},
        object_of(host=TEXT, port=NUMBER, debug={"type": "boolean"}),
        read_file("app.ini"),
        files={"app.ini": text},
    )


def people_as_json(rng: Random) -> Task:
    files, rows = _people(rng, 3)
    people = [{"name": name, "town": town} for name, town, _ in rows]
    return _as_json(
        f'Read {", ".join(files)}. {ONLY_JSON} {{"people": [{{"name": "...", "town": "..."}}]}}',
        {"people": people},
        object_of(people=_list_of(object_of(name=TEXT, town=TEXT))),
        read_files(files),
        files=files,
    )


def todos_as_json(rng: Random) -> Task:
    files = {
        f"src/{word}.py": f"LIMIT = {number}\n"
        for word, number in zip(rng.sample(WORDS, 4), numbers(rng, 4), strict=True)
    }
    places = rng.sample(sorted(files), 2)
    todos = [f"check the {word}" for word in rng.sample(WORDS, 3)]
    found = [(place.partition("/")[2], todo) for place, todo in zip([*places, places[0]], todos, strict=True)]
    for name, todo in found:
        files[f"src/{name}"] += f"# TODO: {todo}\n"
    return _as_json(
        'List what stands after each "TODO:" in the folder src. '
        f'{ONLY_JSON} {{"todos": [{{"file": "name.py", "text": "..."}}]}}',
        {"todos": [{"file": name, "text": todo} for name, todo in found]},
        object_of(todos=_list_of(object_of(file=TEXT, text=TEXT))),
        list_files("src"),
        read_files(files),
        files=files,
    )


def order_as_json(rng: Random) -> Task:
    name, seller = rng.sample(NAMES, 2)
    number, other = numbers(rng, 2, digits=6)
    items = dict(zip(rng.sample(WORDS, 2), rng.sample(range(2, 30), 2), strict=True))
    wanted = "".join(f"- {item}: {count}\n" for item, count in items.items())
    return _as_json(
        "Read mail.txt. Give me the order in it. "
        f'{ONLY_JSON} {{"customer": "...", "order": 0, "items": [{{"item": "...", "count": 0}}]}}',
        {"customer": name, "order": number, "items": [{"item": item, "count": count} for item, count in items.items()]},
        object_of(customer=TEXT, order=NUMBER, items=_list_of(object_of(item=TEXT, count=NUMBER))),
        read_file("mail.txt"),
        files={
            "mail.txt": f"Dear {seller},\n\nplease send me:\n{wanted}\nThe order number is {number} "
            f"(the last one was {other}).\n\nYours, {name}\n"
        },
    )


def counts_as_json(rng: Random) -> Task:
    counts = dict(zip(("csv", "log", "xml"), rng.sample(range(2, 7), 3), strict=True))
    words = iter(rng.sample(WORDS, sum(counts.values())))
    files = {f"data/{next(words)}.{ext}": "x\n" for ext, count in counts.items() for _ in range(count)}
    return _as_json(
        f'How many files of each kind are in the folder data? {ONLY_JSON} {{"csv": 0, "log": 0, "xml": 0}}',
        counts,
        object_of(csv=NUMBER, log=NUMBER, xml=NUMBER),
        list_files("data"),
        files=files,
    )


def commits_as_json(rng: Random) -> Task:
    messages = [f"Add the {word}" for word in rng.sample(WORDS, 5)]
    authors = rng.choices(NAMES, k=5)
    commits = [
        Commit(message, {"list.txt": f"{message}\n"}, author) for message, author in zip(messages, authors, strict=True)
    ]
    last = [{"author": commit.author, "message": commit.message} for commit in commits[-3:]]
    return _as_json(
        f"Give me the last three commits of the git repository in the folder {REPOSITORY}. "
        f'{ONLY_JSON} {{"commits": [{{"author": "...", "message": "..."}}]}}',
        {"commits": last},
        object_of(commits=_list_of(object_of(author=TEXT, message=TEXT))),
        git("git_log", max_count=3),
        commits=tuple(commits),
    )


def _list_of(items: JSONObject) -> JSONObject:
    return {"type": "array", "items": items}


def _as_json(text: str, answer: JSONObject, schema: JSONObject, *looks: Call, **world: Any) -> Task:
    check = says_json(answer, any_order=True)
    return Task(text, check, Solution(looks, json.dumps(answer)), schema=schema, **world)


SCHEMA: tuple[Maker, ...] = (
    config_as_json, people_as_json, todos_as_json, order_as_json, counts_as_json, commits_as_json,
)  # fmt: skip


# -- for each ---------------------------------------------------------------------------------------------------------
# The same small task for many files: the bridge does it with `for_each`, the plain loop in one conversation.

_LABELS = {
    "bug": "It crashes as soon as I press save. The error says that a file is missing.",
    "question": "How do I change the color of the lines? Where is that described?",
    "praise": "I like the new version very much. Thank you all for the good work!",
}


def code_in_each(rng: Random) -> Task:
    names = sorted(f"{word}.txt" for word in rng.sample(WORDS, 20))
    found = dict(zip(names, codes(rng, 20), strict=True))
    files = {
        f"notes/{name}": f"{line_of_words(rng)}\ncode: {code}\n{line_of_words(rng)}\n" for name, code in found.items()
    }
    return _about_each_file("Which code is in", "notes/*.txt", files, found)


def owner_in_each(rng: Random) -> Task:
    names = sorted(f"{word}.toml" for word in rng.sample(WORDS, 14))
    found = {name: rng.choice(NAMES) for name in names}
    files = {
        f"conf/{name[0]}/{name}": f'port = {rng.randrange(1_000, 9_000)}\nowner = "{found[name]}"\n' for name in names
    }
    return _about_each_file("Who is the owner in", "conf/**/*.toml", files, found)


def label_of_each(rng: Random) -> Task:
    names = sorted(f"{word}.txt" for word in rng.sample(WORDS, 12))
    found = {name: rng.choice(tuple(_LABELS)) for name in names}
    files = {f"mail/{name}": f"From: {rng.choice(NAMES)}\n\n{_LABELS[label]}\n" for name, label in found.items()}
    return _about_each_file("Which label (bug, question or praise) fits", "mail/*.txt", files, found)


def replace_in_each(rng: Random) -> Task:
    names = sorted(f"docs/{word}.txt" for word in rng.sample(WORDS, 8))
    files = {name: f"{line_of_words(rng)}\nstate: draft\n{line_of_words(rng)}\n" for name in names}
    task = "Replace the word draft by final in"
    return Task(
        f"{task} each of the files in the folder docs.",
        files_only,
        Solution(tuple(edit_file(name, ("state: draft", "state: final")) for name in names), "Done."),
        files=files,
        files_after={name: text.replace("draft", "final") for name, text in files.items()},
        for_each="docs/*.txt",
        item_text=f"{task} the file {{item}}.",
    )


def _about_each_file(question: str, glob: str, files: Mapping[str, str], found: Mapping[str, str]) -> Task:
    """Something about each file; `found` has it by the file's name."""
    return _told_of_each(
        f"{question} each of the files in the folder {glob.partition('/')[0]}? Give me every file with its answer.",
        found,
        *map(read_file, files),
        files=files,
        for_each=glob,
        item_text=f"{question} the file {{item}}? Answer with that only.",
    )


FOR_EACH: tuple[Maker, ...] = (code_in_each, label_of_each, replace_in_each, owner_in_each)
