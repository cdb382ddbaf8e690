"""Big results: a call gives far more than is needed, and more than a small context holds."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import says
from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, Maker, Solution, Task, person, use
from lmstudio_bridge.evals.words import NAMES, TOWNS, WORDS, codes, line_of_words, numbers

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


TASKS: tuple[Maker, ...] = (whole_graph, old_commit, whole_tree, long_diff)
