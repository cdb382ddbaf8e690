"""Edit and verify: change what was asked for, nothing else, and look whether it is done."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import files_only, last_commit_is, says
from lmstudio_bridge.evals.tasks import REPOSITORY, Call, Commit, Maker, Solution, Task, use
from lmstudio_bridge.evals.words import NAMES, WORDS, line_of_words, numbers


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
    )


def _edit(path: str, old: str, new: str) -> Call:
    return use("filesystem", "edit_file", path=path, edits=[{"oldText": old, "newText": new}])


TASKS: tuple[Maker, ...] = (change_port, add_line, turn_off, change_name, rename_function, commit_change)
