"""Several calls, one after the other, some of which need what the one before gave."""

from __future__ import annotations

from random import Random

from lmstudio_bridge.evals.checks import all_of, branch_is, files_only, has_folder, relates, remembers, says
from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, Maker, Solution, Task, use
from lmstudio_bridge.evals.words import NAMES, WORDS, codes, line_of_words, numbers


def three_words(rng: Random) -> Task:
    words = codes(rng, 3)
    files = dict(zip(("one.txt", "two.txt", "three.txt"), words, strict=True))
    return Task(
        "Read the files one.txt, two.txt and three.txt. Each holds one word. Tell me the three words.",
        ("filesystem",),
        says(*words),
        Solution(tuple(use("filesystem", "read_text_file", path=name) for name in files), ", ".join(words)),
        files=files,
    )


def follow_trail(rng: Random) -> Task:
    first, second, treasure, wrong = codes(rng, 4)
    return Task(
        "Read the file start.txt. It names another file. Go on until you find the treasure word, and tell me the word.",
        ("filesystem",),
        says(treasure, never=[wrong]),
        Solution(
            tuple(use("filesystem", "read_text_file", path=f"{name}.txt") for name in ("start", first, second)),
            f"The treasure word is {treasure}.",
        ),
        files={
            "start.txt": f"Go on in the file {first}.txt\n",
            f"{first}.txt": f"Go on in the file {second}.txt\n",
            f"{second}.txt": f"The treasure word is {treasure}\n",
            "other.txt": f"The treasure word is not {wrong}\n",
        },
    )


def join_files(rng: Random) -> Task:
    a, b = line_of_words(rng, 4), line_of_words(rng, 4)
    both = f"{a}\n{b}\n"
    return Task(
        "Read the files a.txt and b.txt. Write a new file both.txt: first the line of a.txt, then the line of b.txt.",
        ("filesystem",),
        files_only,
        Solution(
            (
                use("filesystem", "read_text_file", path="a.txt"),
                use("filesystem", "read_text_file", path="b.txt"),
                use("filesystem", "write_file", path="both.txt", content=both),
            ),
            "Both lines are in both.txt.",
        ),
        files={"a.txt": f"{a}\n", "b.txt": f"{b}\n"},
        files_after={"a.txt": f"{a}\n", "b.txt": f"{b}\n", "both.txt": both},
    )


def tidy_up(rng: Random) -> Task:
    folder, first, second, stays = rng.sample(WORDS, 4)
    names = (f"{first}.txt", f"{second}.txt")
    return Task(
        f"Make a folder named {folder}. Move the files {names[0]} and {names[1]} into it.",
        ("filesystem",),
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
        ("everything",),
        says(a + b + c),
        Solution(
            (use("everything", "get-sum", a=a, b=b), use("everything", "get-sum", a=a + b, b=c)),
            f"The last sum is {a + b + c}.",
        ),
    )


def two_friends(rng: Random) -> Task:
    first, second = rng.sample(NAMES, 2)
    likes, paints = rng.sample(WORDS, 2)
    people = [
        {"name": first, "entityType": "person", "observations": [f"likes {likes}"]},
        {"name": second, "entityType": "person", "observations": [f"paints {paints}"]},
    ]
    relation = {"from": first, "to": second, "relationType": "knows"}
    return Task(
        f"Save two people in the memory: {first}, who likes {likes}, and {second}, who paints {paints}. "
        f"Then save the relation that {first} knows {second}.",
        ("memory",),
        all_of(remembers(first, likes), remembers(second, paints), relates(first, second)),
        Solution(
            (
                use("memory", "create_entities", entities=people),
                use("memory", "create_relations", relations=[relation]),
            ),
            "Both are saved.",
        ),
    )


def new_branch(rng: Random) -> Task:
    name = rng.choice(WORDS)
    return Task(
        f"In the git repository in the folder {REPOSITORY}, make a new branch named {name} and switch to it.",
        ("git",),
        branch_is(name),
        Solution(
            (
                use("git", "git_create_branch", repo_path=REPOSITORY, branch_name=name),
                use("git", "git_checkout", repo_path=REPOSITORY, branch_name=name),
            ),
            f"The branch is {name}.",
        ),
        commits=(Commit("Begin", {"list.txt": "x\n"}),),
    )


TASKS: tuple[Maker, ...] = (three_words, follow_trail, join_files, tidy_up, add_three, two_friends, new_branch)
