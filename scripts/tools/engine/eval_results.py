"""The results of scripts/evals: one line of JSON for each attempt, appended as it ends, and the tables made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from lmstudio_bridge.evals.results import Attempt
from lmstudio_bridge.evals.suite import FAMILIES
from lmstudio_bridge.evals.tasks import Task

ALL = "all"
_FIGURES = ("requests", "evaluated", "generated", "version", "date", "digest")


@dataclass(frozen=True, slots=True)
class Cell:
    """What does tasks, and which: one row of the table."""

    model: str
    template: str
    strategy: str
    subject: str
    family: str


@dataclass(frozen=True, slots=True)
class Key:
    """What makes an attempt another one; with the same key, the later one counts."""

    cell: Cell
    seed: int
    task: str


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt. `requests`, `evaluated` and `generated` (tokens) are the engine's own figures.

    `digest` stands for the task: one that was changed since is another one under the same name.
    """

    key: Key
    attempt: Attempt
    requests: int
    evaluated: int
    generated: int
    version: str
    date: str
    digest: str

    def to_json(self) -> str:
        values = {**asdict(self.key.cell), "seed": self.key.seed, **asdict(self.attempt), "right": self.attempt.right}
        figures = {name: getattr(self, name) for name in _FIGURES}
        return json.dumps(values | figures, ensure_ascii=False)


Lines: TypeAlias = Mapping[Key, Line]


def read_lines(path: Path) -> dict[Key, Line]:
    """The attempts of a file, which need not exist; a last line that was cut is left out."""
    if not path.exists():
        return {}
    lines = (_read_line(text) for text in path.read_text(encoding="utf-8").splitlines())
    return {line.key: line for line in lines if line is not None}


def _read_line(text: str) -> Line | None:
    try:
        values: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    cell = Cell(**{name: values[name] for name in Cell.__slots__})
    attempt = Attempt(**{name: values[name] for name in Attempt.__slots__} | {"flags": tuple(values["flags"])})
    figures = {name: values.get(name, "") for name in _FIGURES}
    return Line(Key(cell, values["seed"], values["task"]), attempt, **figures)


def digest_of(task: Task) -> str:
    """A short hash of what a task asks for, of its world and of what is right."""
    parts = (task.text, task.files, task.files_after, task.memory, task.commits, task.unstaged, task.solution)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def append_line(path: Path, line: Line) -> None:
    """Add an attempt to a file, which is made if need be; a cut last line is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(f"{line.to_json()}\n".encode())


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """What some attempts add up to: counts, and means per attempt."""

    attempts: int
    right: int
    wrong_as_success: int
    requests: float
    evaluated: float
    generated: float
    seconds: float

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Figures:
        def mean(number: Callable[[Line], float]) -> float:
            return sum(map(number, lines)) / max(1, len(lines))

        return cls(
            len(lines),
            sum(line.attempt.right for line in lines),
            sum(line.attempt.wrong_as_success for line in lines),
            mean(lambda line: line.requests),
            mean(lambda line: line.evaluated),
            mean(lambda line: line.generated),
            mean(lambda line: line.attempt.seconds),
        )

    def quality(self) -> str:
        return f"{self.right} of {self.attempts} ({self.wrong_as_success})"

    def cost(self) -> str:
        return f"{self.requests:.1f} · {self.evaluated:,.0f} · {self.generated:,.0f} · {self.seconds:.0f}"

    def shown(self) -> tuple[str, ...]:
        return (
            f"{self.right} ({self.right / max(1, self.attempts):.0%})",
            str(self.wrong_as_success),
            f"{self.requests:.1f}",
            f"{self.evaluated:,.0f}",
            f"{self.generated:,.0f}",
            f"{self.seconds:.0f}",
        )


COLUMNS = ("right", "wrong as success", "requests", "evaluated", "generated", "seconds")
_HEADING = ("model", "template", "calls", "by", "family", "attempts")


def table(lines: Lines) -> list[list[str]]:
    """A row for each cell, and one for all families of the same model, template, strategy and subject."""
    rows = [[*_HEADING, *COLUMNS]]
    for cell, group in _by_cell(lines):
        figures = Figures.of(group)
        rows.append([*_names(cell), str(figures.attempts), *figures.shown()])
    return rows


def compare(before: Lines, after: Lines) -> list[list[str]]:
    """The same with both figures in each column, of the attempts that both files have."""
    both = _in_both(before, after)
    old = dict(_by_cell({key: before[key] for key in both}))
    rows = [[*_HEADING, *COLUMNS]]
    for cell, group in _by_cell({key: after[key] for key in both}):
        first, second = Figures.of(old[cell]), Figures.of(group)
        pairs = zip(first.shown(), second.shown(), strict=True)
        rows.append([*_names(cell), str(second.attempts), *(f"{one} → {two}" for one, two in pairs)])
    return rows


def changes(before: Lines, after: Lines) -> list[str]:
    """The attempts that are right in one of two files and wrong in the other, a line for each."""
    found = []
    for key in sorted(_in_both(before, after), key=lambda key: (_order(key.cell), key.task, key.seed)):
        one, two = before[key].attempt, after[key].attempt
        if one.right != two.right:
            place = " ".join((*_names(key.cell)[:4], key.task, f"seed {key.seed}"))
            found.append(f"{'won ' if two.right else 'lost'}  {place}{'' if two.right else f': {two.wrong}'}")
    return found


def _in_both(before: Lines, after: Lines) -> list[Key]:
    return [key for key, line in after.items() if key in before and before[key].digest == line.digest]


def side_by_side(lines: Lines, shown: Callable[[Figures], str]) -> list[list[str]]:
    """A row for each model, template and family, and a column for each subject with its strategy."""
    cells = dict(_by_cell(lines))
    subjects = sorted({(cell.subject, cell.strategy) for cell in cells}, key=lambda each: (each[0] != "bridge", each))
    rows: dict[tuple[str, str, str], dict[tuple[str, str], str]] = {}
    for cell, group in cells.items():
        row = rows.setdefault((cell.model, cell.template, cell.family), {})
        row[cell.subject, cell.strategy] = shown(Figures.of(group))
    names = [subject if subject != "bridge" else f"{subject}, {strategy}" for subject, strategy in subjects]
    heading = ["model", "template", "family", *names]
    return [heading, *([*row, *(found.get(each, "") for each in subjects)] for row, found in rows.items())]


def as_markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as a Markdown table."""
    heading, *others = rows
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others)]


def _by_cell(lines: Lines) -> list[tuple[Cell, list[Line]]]:
    groups: dict[Cell, list[Line]] = {}
    for key, line in lines.items():
        for cell in (key.cell, replace(key.cell, family=ALL)):
            groups.setdefault(cell, []).append(line)
    return sorted(groups.items(), key=lambda item: _order(item[0]))


def _order(cell: Cell) -> tuple[str, str, str, str, int]:
    families = [*FAMILIES, ALL]
    place = families.index(cell.family) if cell.family in families else len(families)
    return cell.model, cell.template, cell.strategy, cell.subject, place


def _names(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.template, cell.strategy, cell.subject, cell.family
