"""Search in big files: most of them do not fit a small model's context at once."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import says
from lmstudio_bridge.evals.tasks import Maker, Solution, Task, use
from lmstudio_bridge.evals.words import NAMES, WORDS, codes, line_of_words, numbers

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


TASKS: tuple[Maker, ...] = (deep_file, last_line, find_error, which_report, price_of_item)
