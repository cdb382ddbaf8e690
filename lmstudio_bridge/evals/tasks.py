"""A task of the suite: what is asked, over which servers, in what world, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from lmstudio_bridge.messages import Access, JSONObject

REPOSITORY = "repo"
"""The folder of a task's git repository, inside the task's folder."""


@dataclass(frozen=True, slots=True)
class World:
    """The state after a task, to be checked.

    `calls` counts the tool calls that reached a server, `began` and `ended` are in UTC.
    """

    folder: Path
    memory: Path  # the memory server's file; missing if nothing was ever saved
    answer: str
    calls: int
    began: datetime
    ended: datetime


Check: TypeAlias = Callable[[World], str]
"""Returns what is wrong with a world, or ""."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a task's repository: its message, and the changed files with their full text."""

    message: str
    files: Mapping[str, str]
    author: str = "Ana"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call, with the names that the server itself uses."""

    server: str
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Solution:
    """One correct way to do a task, which tests the task itself. `{result}` is the last call's result."""

    calls: tuple[Call, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do. The suite sets `name` and `family`, and `servers` to those of the solution if none are given.

    `files` exist at the start, by their path in the task's folder. At the end, the files must be the same, or
    `files_after` if given, with no others. `changes` if it changes something else, such as the memory. `schema`
    describes the answer if the task wants JSON; the bridge gets it, the plain loop has only the text. Likewise,
    the bridge does `item_text` for each file of the glob `for_each`, and the plain loop has `text` for all of them.
    """

    text: str
    check: Check
    solution: Solution
    servers: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    files_after: Mapping[str, str] | None = None
    memory: tuple[Mapping[str, Any], ...] = ()  # entities and relations, as the memory server keeps them
    commits: tuple[Commit, ...] = ()
    unstaged: Mapping[str, str] = field(default_factory=dict)  # files of the repository changed after its last commit
    changes: bool = False
    schema: JSONObject | None = None
    for_each: str = ""
    item_text: str = ""
    name: str = ""
    family: str = ""

    @property
    def access(self) -> Access:
        """What a run of this task must be allowed to do."""
        return "write" if self.changes or self.files_after is not None else "read"


Maker: TypeAlias = Callable[[Random], Task]
"""Makes a task with random names and numbers; the function's name becomes the task's name."""


def person(name: str, *observations: str) -> Mapping[str, Any]:
    """A person in the format of the memory server."""
    return {"type": "entity", "name": name, "entityType": "person", "observations": list(observations)}


ONLY_JSON = "Answer only with JSON like this:"
TEXT = {"type": "string"}
NUMBER = {"type": "integer"}


def object_of(**properties: JSONObject) -> JSONObject:
    """The JSON Schema of an object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def use(server: str, tool: str, **arguments: Any) -> Call:
    return Call(server, tool, arguments)


def list_files(folder: str) -> Call:
    return use("filesystem", "list_directory", path=folder)


def read_file(path: str) -> Call:
    return use("filesystem", "read_text_file", path=path)


def read_files(paths: Iterable[str]) -> Call:
    return use("filesystem", "read_multiple_files", paths=sorted(paths))


def write_file(path: str, content: str) -> Call:
    return use("filesystem", "write_file", path=path, content=content)


def edit_file(path: str, *edits: tuple[str, str]) -> Call:
    """The call that replaces texts in a file by others."""
    return use("filesystem", "edit_file", path=path, edits=[{"oldText": old, "newText": new} for old, new in edits])


def git(tool: str, **arguments: Any) -> Call:
    """A call about the task's repository."""
    return use("git", tool, repo_path=REPOSITORY, **arguments)


# -- words and numbers --------------------------------------------------------------------------------------------
# They make every seed different, so that nothing can be guessed.

NAMES = ("Ana", "Bo", "Chen", "Dora", "Emil", "Faye", "Goran", "Hana", "Ivo", "Jana", "Kofi", "Lena", "Milo", "Nora")
# fmt: off
WORDS = (
    "heron", "marmalade", "juniper", "walnut", "lantern", "cobalt", "osprey", "saffron", "pebble", "thistle",
    "anchor", "biscuit", "candle", "ember", "falcon", "ginger", "hazel", "indigo", "jasper", "kettle", "lemon",
    "maple", "nutmeg", "olive", "pepper", "quartz", "raven", "spruce", "tulip", "velvet",
)
# fmt: on
TOWNS = ("Bergen", "Cadiz", "Durban", "Erfurt", "Fargo", "Genoa", "Hobart", "Izmir", "Jaipur", "Kyoto", "Lyon", "Malmo")
OFFSETS = {"Asia/Tokyo": 540, "Asia/Kolkata": 330, "Asia/Dubai": 240, "Africa/Lagos": 60, "America/Bogota": -300}
"""Time zones without daylight saving time, with their minutes east of Greenwich."""


def codes(rng: Random, count: int) -> list[str]:
    """Codes like heron-4821; no two have a part in common."""
    words = rng.sample(WORDS, count)
    numbers = rng.sample(range(1_000, 10_000), count)
    return [f"{word}-{number}" for word, number in zip(words, numbers, strict=True)]


def numbers(rng: Random, count: int, *, digits: int = 4) -> list[int]:
    """Different numbers with this many digits."""
    return rng.sample(range(10 ** (digits - 1), 10**digits), count)


def line_of_words(rng: Random, count: int = 6) -> str:
    """A line without meaning."""
    return " ".join(rng.choices(WORDS, k=count))


def clock(minutes: int) -> str:
    """Minutes since midnight, modulo a day, as HH:MM."""
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"
