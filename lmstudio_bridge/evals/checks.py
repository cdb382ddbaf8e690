"""What is wrong with a world: facts in the answer, files, the memory server's file, git. No model is the judge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lmstudio_bridge.evals.sandbox import run_git
from lmstudio_bridge.evals.tasks import REPOSITORY, Check, Task, World

IMPOSSIBLE = "IMPOSSIBLE"
"""The word that tasks ask for if they can't be done."""

_SHOWN = 200  # characters of what is wrong

_CLOCK = re.compile(r"(?<![\d:+-])(\d{1,2}):(\d{2})(?!\d)(?::\d{2}(?!\d))?\s*([ap])?\.?m?", re.IGNORECASE)
_FENCED = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


def find_fault(task: Task, world: World) -> str:
    """What is wrong with the world that a task left, or ""."""
    expected = task.files if task.files_after is None else task.files_after
    return files_are(world.folder, expected) or task.check(world)


def all_of(*checks: Check) -> Check:
    """The first fault that any of the checks finds."""

    def check(world: World) -> str:
        return next(filter(None, (each(world) for each in checks)), "")

    return check


def says(*wanted: object, never: Iterable[object] = ()) -> Check:
    """The answer contains each of these words or numbers, and none of those that would indicate a guess or a mix-up."""
    unwanted = tuple(never)

    def check(world: World) -> str:
        missing = [str(fact) for fact in wanted if not holds(world.answer, fact)]
        wrong = [str(fact) for fact in unwanted if holds(world.answer, fact)]
        if missing:
            return f"the answer does not say {', '.join(missing)}"
        return f"the answer also says {', '.join(wrong)}" if wrong else ""

    return check


def holds(text: str, fact: object) -> bool:
    """Whether a text contains a whole word or number, ignoring case and thousands separators."""
    plain = re.sub(r"(?<=\d)[,\u202f\u00a0](?=\d{3}(?!\d))", "", text.replace("\u2011", "-")).casefold()
    wanted = re.escape(str(fact).casefold())
    return re.search(rf"(?<!\w)(?<!\d[.-]){wanted}(?!\w)(?!\.\d)", plain) is not None


def says_time(minutes: int) -> Check:
    """The answer contains this time of day (minutes since midnight), in 12- or 24-hour format."""
    wanted = divmod(minutes % 1_440, 60)

    def check(world: World) -> str:
        return "" if wanted in _times(world.answer) else f"the answer does not say {wanted[0]:02}:{wanted[1]:02}"

    return check


def says_now(*, offset: int) -> Check:
    """The answer contains a time at which the task was running; `offset` is minutes east of Greenwich."""

    def check(world: World) -> str:
        moment: datetime = world.began.replace(second=0, microsecond=0)
        possible: set[tuple[int, int]] = set()
        while moment <= world.ended:
            local = moment + timedelta(minutes=offset)
            possible.add((local.hour, local.minute))
            moment += timedelta(minutes=1)
        return "" if possible & _times(world.answer) else "the answer does not say the time that it was"

    return check


def _times(text: str) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for hour, minute, half in _CLOCK.findall(text):
        hours = int(hour)
        if half:
            hours = hours % 12 + (12 if half in "pP" else 0)
        found.add((hours, int(minute)))
    return found


def says_json(expected: Any, *, any_order: bool = False) -> Check:
    """The answer is this JSON and nothing else; a code fence around it is allowed, and lists `any_order` if told so."""

    def check(world: World) -> str:
        text = world.answer.strip()
        if fenced := _FENCED.match(text):
            text = fenced[1]
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "the answer is not JSON"
        same = _sorted(found) == _sorted(expected) if any_order else found == expected
        return "" if same else f"the JSON of the answer is not {json.dumps(expected)[:_SHOWN]}"

    return check


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


def called(*, at_least: int = 0, at_most: int | None = None) -> Check:
    """The number of calls that reached a server is within these bounds."""

    def check(world: World) -> str:
        if world.calls < at_least:
            return "it did not look"
        if at_most is not None and world.calls > at_most:
            return f"it made {world.calls} calls, where none was needed"
        return ""

    return check


def has_folder(name: str) -> Check:

    def check(world: World) -> str:
        return "" if (world.folder / name).is_dir() else f"there is no folder {name}"

    return check


def files_are(folder: Path, expected: Mapping[str, str]) -> str:
    """What is wrong with the files of a folder, ignoring its repository and white space at the end of files."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != REPOSITORY
    }
    if missing := sorted(expected.keys() - found.keys()):
        return f"there is no file {', '.join(missing)[:_SHOWN]}"
    if extra := sorted(found.keys() - expected.keys()):
        return f"there is a file too many: {', '.join(extra)[:_SHOWN]}"
    for name, text in expected.items():
        if _plain_text(found[name].read_text(encoding="utf-8", errors="replace")) != _plain_text(text):
            return f"the file {name} does not hold what it should"
    return ""


def _plain_text(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip()


def remembers(name: str, *observations: str) -> Check:
    """The memory has an entity with this name, with observations that contain these words."""

    def check(world: World) -> str:
        for entry in _read_memory(world.memory):
            if entry.get("type") == "entity" and str(entry.get("name")).casefold() == name.casefold():
                known = " ".join(map(str, entry.get("observations", ())))
                missing = [each for each in observations if not holds(known, each)]
                return f"the memory does not say {', '.join(missing)} of {name}" if missing else ""
        return f"the memory does not know {name}"

    return check


def relates(source: str, target: str) -> Check:
    """The memory has a relation from one entity to another."""

    def check(world: World) -> str:
        pairs = {(str(entry.get("from")), str(entry.get("to"))) for entry in _read_memory(world.memory)}
        return "" if (source, target) in pairs else f"the memory has no relation from {source} to {target}"

    return check


def _read_memory(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def last_commit_is(message: str, *, changed: Iterable[str]) -> Check:
    """The newest commit has this message and changed these files."""
    wanted = sorted(changed)

    def check(world: World) -> str:
        repository = world.folder / REPOSITORY
        found = run_git(repository, "log", "-1", "--format=%s").strip()
        if found != message:
            return f"the last commit is {found!r}"
        files = run_git(repository, "show", "--name-only", "--format=", "HEAD").split()
        return "" if sorted(files) == wanted else f"the last commit changed {', '.join(files)}"

    return check


def branch_is(name: str) -> Check:

    def check(world: World) -> str:
        found = run_git(world.folder / REPOSITORY, "branch", "--show-current").strip()
        return "" if found == name else f"the branch is {found!r}"

    return check


def files_only(_: World) -> str:
    """No check besides the comparison of files, which every task has."""
    return ""
