"""The same small task for many files: the bridge does it with `for_each`, the plain loop in one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from lmstudio_bridge.evals.answers import says_together
from lmstudio_bridge.evals.checks import files_only
from lmstudio_bridge.evals.tasks import (
    NAMES,
    WORDS,
    Maker,
    Solution,
    Task,
    codes,
    line_of_words,
    read_file,
    use,
)

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
    return _told_of_each("Which code is in", "notes/*.txt", files, found)


def owner_in_each(rng: Random) -> Task:
    names = sorted(f"{word}.toml" for word in rng.sample(WORDS, 14))
    found = {name: rng.choice(NAMES) for name in names}
    files = {
        f"conf/{name[0]}/{name}": f'port = {rng.randrange(1_000, 9_000)}\nowner = "{found[name]}"\n' for name in names
    }
    return _told_of_each("Who is the owner in", "conf/**/*.toml", files, found)


def label_of_each(rng: Random) -> Task:
    names = sorted(f"{word}.txt" for word in rng.sample(WORDS, 12))
    found = {name: rng.choice(tuple(_LABELS)) for name in names}
    files = {f"mail/{name}": f"From: {rng.choice(NAMES)}\n\n{_LABELS[label]}\n" for name, label in found.items()}
    return _told_of_each("Say which one fits: bug, question or praise. Read", "mail/*.txt", files, found)


def replace_in_each(rng: Random) -> Task:
    names = sorted(f"docs/{word}.txt" for word in rng.sample(WORDS, 8))
    files = {name: f"{line_of_words(rng)}\nstate: draft\n{line_of_words(rng)}\n" for name in names}
    edits = [{"oldText": "state: draft", "newText": "state: final"}]
    task = "Replace the word draft by final in"
    return Task(
        f"{task} each of the files in the folder docs.",
        files_only,
        Solution(tuple(use("filesystem", "edit_file", path=name, edits=edits) for name in names), "Done."),
        files=files,
        files_after={name: text.replace("draft", "final") for name, text in files.items()},
        for_each="docs/*.txt",
        item_text=f"{task} the file {{item}}.",
    )


def _told_of_each(question: str, glob: str, files: Mapping[str, str], found: Mapping[str, str]) -> Task:
    """Something about each file; `found` has it by the file's name."""
    folder = glob.partition("/")[0]
    return Task(
        f"{question} each of the files in the folder {folder}? Give me every file with its answer.",
        says_together({name: [fact] for name, fact in found.items()}),
        Solution(tuple(map(read_file, files)), "\n".join(f"{name}: {fact}" for name, fact in found.items())),
        files=files,
        for_each=glob,
        item_text=f"{question} the file {{item}}? Answer with that only.",
    )


FOR_EACH: tuple[Maker, ...] = (code_in_each, label_of_each, replace_in_each, owner_in_each)
