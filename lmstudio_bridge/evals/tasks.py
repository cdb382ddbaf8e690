"""A task of the suite as a value: what is asked, over which servers, in what world, and how it is checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from lmstudio_bridge.messages import JSONObject

REPOSITORY = "repo"
"""The folder of a task's git repository, inside the task's folder."""


@dataclass(frozen=True, slots=True)
class World:
    """What is there when a task has ended, to be checked.

    `calls` counts the tool calls that reached a server, `began` and `ended` are in UTC.
    """

    folder: Path
    memory: Path  # the memory server's file; missing if nothing was ever saved
    answer: str
    calls: int
    began: datetime
    ended: datetime


Check: TypeAlias = Callable[[World], str]
"""Gives what is wrong with a world, in words; "" if nothing is."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a task's repository: its message, and files by name with their whole text."""

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
    """One right way to do a task, by which the task itself is tested. `{result}` is the last call's result."""

    calls: tuple[Call, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do. `name` and `family` are given by the suite.

    `files` are there at the beginning, by their path in the task's folder. They must be the same in
    the end, or `files_after` if that is given; nothing else may have appeared. `schema` is the form
    of the answer where the task wants JSON; the bridge is given it, the plain loop has only the text.
    """

    text: str
    servers: tuple[str, ...]
    check: Check
    solution: Solution
    files: Mapping[str, str] = field(default_factory=dict)
    files_after: Mapping[str, str] | None = None
    memory: tuple[Mapping[str, Any], ...] = ()  # entities and relations, as the memory server keeps them
    commits: tuple[Commit, ...] = ()
    unstaged: Mapping[str, str] = field(default_factory=dict)  # files of the repository changed after its last commit
    schema: JSONObject | None = None
    name: str = ""
    family: str = ""


Maker: TypeAlias = Callable[[random.Random], Task]
"""Makes a task with names and numbers of its own; its function name becomes the task's name."""


def person(name: str, *observations: str) -> Mapping[str, Any]:
    """A person as the memory server keeps one."""
    return {"type": "entity", "name": name, "entityType": "person", "observations": list(observations)}


def object_of(**properties: JSONObject) -> JSONObject:
    """The JSON Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def use(server: str, tool: str, **arguments: Any) -> Call:
    """A call, written short."""
    return Call(server, tool, arguments)
