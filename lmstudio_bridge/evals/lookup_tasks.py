"""Tasks that look something up: find text, compare, notice that it is not there; in big files and big results, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from lmstudio_bridge.evals.answers import says_differences, says_not_there, says_together
from lmstudio_bridge.evals.checks import all_of, called, says
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
    git,
    line_of_words,
    list_files,
    numbers,
    person,
    read_file,
    read_files,
    use,
)


def source_files(rng: Random, count: int) -> dict[str, list[str]]:
    """Python files in the folder src, as lines: each defines two functions that nobody asks for."""
    names = rng.sample(WORDS, count)
    files = {}
    for name in names:
        one, two = rng.sample(range(10, 100), 2)
        files[f"src/{name}.py"] = [
            f"LIMIT = {one}",
            "",
            f"def open_{name}(size):",
            f"    return size + {two}",
            "",
            f"def close_{name}(size):",
            f"    return size - {two}",
        ]
    return files


def joined(files: dict[str, list[str]]) -> dict[str, str]:
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def base(path: str) -> str:
    return path.rpartition("/")[2]


# -- find text --------------------------------------------------------------------------------------------------------
# The folder, file or commit in which something stands, and all that stands there.


def defining_file(rng: Random) -> Task:
    files = source_files(rng, 5)
    right, *others = rng.sample(sorted(files), 5)
    name = f"parse_{numbers(rng, 1)[0]}"
    files[right] += ["", f"def {name}(text):", "    return text.split()"]
    for other in others[:2]:
        files[other] += ["", f"print({name}('{base(other)}'))"]
    return Task(
        f"Which file in the folder src defines the function {name}? Answer with the name of that file only.",
        says(base(right), never=map(base, others)),
        Solution((list_files("src"), read_files(files)), right),
        files=joined(files),
    )


def all_todos(rng: Random) -> Task:
    files = source_files(rng, 5)
    places = rng.sample(sorted(files), 3)
    todos = [f"check the {word} {number}" for word, number in zip(rng.sample(WORDS, 4), numbers(rng, 4), strict=True)]
    for place, todo in zip([*places, places[0]], todos, strict=True):
        files[place] += ["", f"# TODO: {todo}"]
    groups = {place: [todo] for place, todo in zip(places, todos, strict=False)}
    groups[places[0]].append(todos[3])
    return Task(
        "List all TODO comments in the files of the folder src, each with the name of its file.",
        says_together(
            {base(place): found for place, found in groups.items()},
            never=[base(name) for name in files if name not in groups],
        ),
        Solution(
            (list_files("src"), read_files(files)),
            "\n".join(f"- {place}: {todo}" for place, found in groups.items() for todo in found),
        ),
        files=joined(files),
    )


def failed_orders(rng: Random) -> Task:
    orders = numbers(rng, 30, digits=6)
    failed = sorted(rng.sample(orders, 5))
    lines = [
        f"10:{minute:02} {'ERROR' if order in failed else 'INFO'} order {order} "
        + ("failed: " if order in failed else "stored: ")
        + rng.choice(WORDS)
        for minute, order in enumerate(orders)
    ]
    return Task(
        "Five orders failed according to the file shop.log. Give me the numbers of these five orders.",
        says(*failed, never=[order for order in orders if order not in failed]),
        Solution((read_file("shop.log"),), ", ".join(map(str, failed))),
        files={"shop.log": "\n".join(lines) + "\n"},
    )


def setting_in_folder(rng: Random) -> Task:
    names = [f"{word}.ini" for word in rng.sample(WORDS, 5)]
    ports = numbers(rng, 5)
    limit, other = numbers(rng, 2, digits=3)
    files = {f"conf/{name}": f"[main]\nport = {port}\n" for name, port in zip(names, ports, strict=True)}
    files[f"conf/{names[2]}"] += f"retry_limit = {limit}\n"
    files[f"conf/{names[3]}"] += f"retry_delay = {other}\n"
    return Task(
        "One file in the folder conf sets retry_limit. Which file is it, and what is the value?",
        says(names[2], limit, never=[*(name for name in names if name != names[2]), other]),
        Solution((list_files("conf"), read_files(files)), f"{names[2]} sets it to {limit}."),
        files=files,
    )


def introducing_commit(rng: Random) -> Task:
    words = rng.sample(WORDS, 5)
    setting = f"{rng.choice(WORDS)}_size"
    messages = [f"Tune the {word}" for word in words]
    place = rng.randrange(1, 4)
    text = "[main]\n"
    commits = []
    for number, message in enumerate(messages):
        text += f"{setting} = {numbers(rng, 1)[0]}\n" if number == place else f"{words[number]} = {number}\n"
        commits.append(Commit(message, {"app.ini": text}))
    shows = [git("git_show", revision=f"HEAD~{4 - n}") for n in range(place + 1)]
    return Task(
        f"In the git repository in the folder {REPOSITORY}, which commit added the setting {setting} to app.ini? "
        "Answer with the message of that commit only.",
        says(messages[place], never=[each for each in messages if each != messages[place]]),
        Solution((git("git_log"), *shows), messages[place]),
        commits=tuple(commits),
    )


def files_with_customer(rng: Random) -> Task:
    names = [f"{word}.txt" for word in rng.sample(WORDS, 6)]
    wanted, near = (f"K-{number}" for number in numbers(rng, 2))
    places = rng.sample(names, 2)
    files = {f"mail/{name}": f"Dear {rng.choice(NAMES)},\nthe {rng.choice(WORDS)} is here.\n" for name in names}
    for name in names:
        files[f"mail/{name}"] += f"Customer: {wanted if name in places else near}\n"
    return Task(
        f"Which files in the folder mail mention the customer {wanted}? List their names.",
        says(*places, never=[name for name in names if name not in places]),
        Solution((list_files("mail"), read_files(files)), " and ".join(places)),
        files=files,
    )


FIND_TEXT: tuple[Maker, ...] = (
    defining_file, all_todos, failed_orders, setting_in_folder, introducing_commit, files_with_customer,
)  # fmt: skip


# -- compare ----------------------------------------------------------------------------------------------------------
# What differs between two files, and nothing that does not.


def two_configs(rng: Random) -> Task:
    return _differing(rng, ("dev.ini", "prod.ini"), "{key} = {value}", WORDS, "settings")


def two_json_files(rng: Random) -> Task:
    return _differing(rng, ("old.json", "new.json"), '  "{key}": "{value}",', WORDS, "settings")


def changed_prices(rng: Random) -> Task:
    return _differing(rng, ("may.csv", "june.csv"), "{key},{value}", WORDS, "prices")


def _differing(rng: Random, names: tuple[str, str], form: str, words: Sequence[str], things: str) -> Task:
    """Two files with eight entries each, of which three differ."""
    keys = rng.sample(words, 8)
    values = dict(zip(keys, numbers(rng, 8), strict=True))
    others = dict(zip(rng.sample(keys, 3), (number + 1 for number in numbers(rng, 3, digits=5)), strict=True))
    sides = (values, {**values, **others})
    files = {
        name: "\n".join(form.format(key=key, value=value) for key, value in side.items()) + "\n"
        for name, side in zip(names, sides, strict=True)
    }
    if names[0].endswith(".json"):
        files = {name: "{\n" + text.rstrip(",\n") + "\n}\n" for name, text in files.items()}
    found = {key: (values[key], other) for key, other in others.items()}
    return Task(
        f"Compare the files {names[0]} and {names[1]}. Which {things} differ? Give both values of each.",
        says_differences(found, equal=keys - others.keys(), names=names),
        Solution(
            (read_file(names[0]), read_file(names[1])),
            "\n".join(f"- {key}: {a} in {names[0]}, {b} in {names[1]}" for key, (a, b) in found.items()),
        ),
        files=files,
    )


def only_in_first(rng: Random) -> Task:
    names = rng.sample(NAMES, 9)
    gone, new, stay = names[:2], names[2:4], names[4:]
    files = {
        "members-2025.txt": "\n".join(rng.sample([*stay, *gone], 7)) + "\n",
        "members-2026.txt": "\n".join(rng.sample([*stay, *new], 7)) + "\n",
    }
    return Task(
        "Which names are in members-2025.txt but not in members-2026.txt? Answer with these names only.",
        says(*gone, never=[*new, *stay]),
        Solution(tuple(map(read_file, files)), " and ".join(gone)),
        files=files,
    )


def missing_settings(rng: Random) -> Task:
    keys = [f"{word.upper()}_URL" for word in rng.sample(WORDS, 7)]
    missing = sorted(rng.sample(keys, 2))
    files = {
        "example.env": "".join(f"{key}=\n" for key in keys),
        "local.env": "".join(f"{key}={rng.choice(TOWNS)}\n" for key in sorted(keys) if key not in missing),
    }
    return Task(
        "Which settings of example.env are missing in local.env? Answer with their names only.",
        says(*missing, never=[key for key in keys if key not in missing]),
        Solution(tuple(map(read_file, files)), "\n".join(missing)),
        files=files,
    )


def uncommitted_change(rng: Random) -> Task:
    keys = rng.sample(WORDS, 6)
    before = dict(zip(keys, numbers(rng, 6), strict=True))
    key = rng.choice(keys)
    after = {**before, key: numbers(rng, 1, digits=5)[0]}
    old, new = ("".join(f"{name} = {value}\n" for name, value in side.items()) for side in (before, after))
    return Task(
        f"In the git repository in the folder {REPOSITORY}, one setting of app.ini was changed and not committed yet. "
        "Which one, and what are its old and its new value?",
        says_differences({key: (before[key], after[key])}, equal=before.keys() - {key}, names=("old", "new")),
        Solution(
            (git("git_diff_unstaged"),),
            f"The setting {key}: its old value is {before[key]}, its new value is {after[key]}.",
        ),
        commits=(Commit("Begin", {"app.ini": old}),),
        unstaged={"app.ini": new},
    )


COMPARE: tuple[Maker, ...] = (
    two_configs, only_in_first, missing_settings, two_json_files, changed_prices, uncommitted_change,
)  # fmt: skip


# -- not there --------------------------------------------------------------------------------------------------------
# The fact is not there, and something like it is.


def no_fax(rng: Random) -> Task:
    first, second = rng.sample(NAMES, 2)
    phone, other, fax = numbers(rng, 3, digits=6)
    text = f"{first}\n  phone: {phone}\n\n{second}\n  phone: {other}\n  fax: {fax}\n"
    return _absent(
        f"What is the fax number of {first} in the file contacts.txt?",
        "fax",
        (read_file("contacts.txt"),),
        f"The file contacts.txt has no fax number of {first}.",
        never=(phone, other, fax),
        of_others=[second],
        files={"contacts.txt": text},
    )


def no_setting(rng: Random) -> Task:
    limit, retries, port = numbers(rng, 3)
    text = f"[server]\nport = {port}\nmax_connections = {limit}\n\n[client]\nretry_delay = {retries}\n"
    return _absent(
        "Which value does the setting max_retries have in server.ini?",
        "max_retries",
        (read_file("server.ini"),),
        "The setting max_retries is not in server.ini.",
        never=(limit, retries, port),
        files={"server.ini": text},
    )


def no_definition(rng: Random) -> Task:
    files = source_files(rng, 4)
    name = f"render_{numbers(rng, 1)[0]}"
    place = rng.choice(sorted(files))
    files[place] += ["", f"print({name}(4))"]
    return _absent(
        f"Which file in the folder src defines the function {name}?",
        ("defines", "defined", "define", "definition"),
        (list_files("src"), read_files(files)),
        f"No file in src defines {name}; {place} only calls it.",
        never=map(base, files),
        files=joined(files),
    )


def phone_but_no_email(rng: Random) -> Task:
    names = rng.sample(NAMES, 3)
    phones = numbers(rng, 3, digits=6)
    lines = [f"{name}, phone {phone}" for name, phone in zip(names, phones, strict=True)]
    mails = [f"{name.lower()}@example.com" for name in names]
    lines = [line if line.startswith(names[1]) else f"{line}, {mail}" for line, mail in zip(lines, mails, strict=True)]
    return _absent(
        f"Give me the phone number and the email address of {names[1]} from team.txt.",
        ("email", "e-mail", "mail"),
        (read_file("team.txt"),),
        f"The phone number is {phones[1]}. There is no email address.",
        never=mails,
        files={"team.txt": "\n".join(lines) + "\n"},
        says_too=(phones[1],),
    )


def unknown_birthday(rng: Random) -> Task:
    first, second = rng.sample(NAMES, 2)
    badge, year = numbers(rng, 1)[0], rng.randrange(1950, 2000)
    return _absent(
        f"Look into the memory: in which year was {first} born?",
        first,
        (use("memory", "search_nodes", query=first),),
        f"The memory does not say when {first} was born.",
        never=[year],
        memory=(person(first, f"has the badge {badge}"), person(second, f"was born in {year}")),
    )


def no_such_commit(rng: Random) -> Task:
    words = rng.sample(WORDS, 5)
    authors = rng.sample(NAMES, 4)
    commits = [
        Commit(f"Add the {word}", {"list.txt": f"{word}\n"}, author)
        for word, author in zip(words[:4], authors, strict=True)
    ]
    return _absent(
        f"Who made the commit that adds the {words[4]}? The git repository is in the folder {REPOSITORY}.",
        words[4],
        (git("git_log"),),
        f"There is no commit that adds the {words[4]}.",
        never=authors,
        commits=tuple(commits),
    )


def _absent(
    text: str,
    subject: str | tuple[str, ...],
    looks: tuple[Call, ...],
    answer: str,
    *,
    never: Iterable[object],
    of_others: Iterable[str] = (),
    says_too: tuple[object, ...] = (),
    **world: Any,
) -> Task:
    words = (subject,) if isinstance(subject, str) else subject
    absent = says_not_there(*words, never=never, of_others=of_others)
    check = all_of(says(*says_too), absent, called(at_least=1))
    return Task(text, check, Solution(looks, answer), **world)


NOT_THERE: tuple[Maker, ...] = (no_fax, no_setting, no_definition, phone_but_no_email, unknown_birthday, no_such_commit)


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
