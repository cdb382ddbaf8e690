"""The results of an eval: attempts, sums by family and loop, pairs; as JSON, as a table and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from lmstudio_bridge.evals.suite import FAMILIES
from lmstudio_bridge.events import Stop
from lmstudio_bridge.files import write_file
from lmstudio_bridge.runs.html import Figure, render_template
from lmstudio_bridge.text import local_time

Loop: TypeAlias = str
"""What does the tasks: "bridge", "baseline", or another one that is compared with them."""

ALL = "all"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One task, done by one loop. `wrong` is what its check found, "" if the task was done right.

    `flags` is what the result said about its own answer before it, such as facts that were read nowhere.
    """

    task: str
    family: str
    loop: Loop
    wrong: str
    stop: Stop
    rounds: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    answer: str
    error: str = ""
    run_id: str = ""  # names the journal, where there is one
    flags: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return not self.wrong

    @property
    def wrong_as_success(self) -> bool:
        """Whether it was wrong and looked right: answered, and nothing said that it may be wrong."""
        return bool(self.wrong) and self.stop == "answered" and not self.flags


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters that affect the figures. `seconds` is the limit per attempt."""

    model: str
    seed: int
    loops: tuple[Loop, ...]
    max_rounds: int
    max_tokens: int
    seconds: float
    parallel: int
    tasks: int
    began: str  # ISO 8601, UTC
    version: str


@dataclass(slots=True)
class Results:
    """A plan and its attempts so far; `skipped` maps tasks that could not be tried to the reason."""

    plan: Plan
    attempts: list[Attempt] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def families(self) -> list[str]:
        """The families with at least one attempt, in the order of the suite."""
        places = {family: place for place, family in enumerate(FAMILIES)}
        found = {attempt.family for attempt in self.attempts}
        return sorted(found, key=lambda family: (places.get(family, len(places)), family))

    def sum(self, family: str, loop: Loop) -> Sum:
        """The figures of one family, or of `ALL`."""
        return Sum.of(each for each in self.attempts if each.loop == loop and family in (each.family, ALL))

    def pairs(self, family: str) -> Pairs:
        """The tasks that both loops tried, counted by which did them right."""
        by_task: dict[str, dict[Loop, Attempt]] = {}
        for each in self.attempts:
            if family in (each.family, ALL):
                by_task.setdefault(each.task, {})[each.loop] = each
        both = [pair for pair in by_task.values() if len(pair) == 2]
        outcomes = [(pair["bridge"].right, pair["baseline"].right) for pair in both]
        return Pairs(
            both=outcomes.count((True, True)),
            bridge_only=outcomes.count((True, False)),
            baseline_only=outcomes.count((False, True)),
            neither=outcomes.count((False, False)),
        )

    def to_json(self) -> dict[str, Any]:
        paired = "baseline" in self.plan.loops
        families = [
            {
                "family": family,
                **{loop: asdict(self.sum(family, loop)) for loop in self.plan.loops},
                **({"pairs": asdict(self.pairs(family))} if paired else {}),
            }
            for family in [*self.families(), ALL]
        ]
        return {
            "plan": asdict(self.plan),
            "families": families,
            "attempts": [{**asdict(each), "right": each.right} for each in self.attempts],
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class Sum:
    """Figures of several attempts: how many were right, how many wrong ones looked right, and means per attempt."""

    tasks: int
    right: int
    wrong_as_success: int
    rounds: float
    tokens: float  # prompt and completion of all rounds
    seconds: float

    @classmethod
    def of(cls, attempts: Iterable[Attempt]) -> Sum:
        each = list(attempts)
        if not each:
            return cls(0, 0, 0, 0.0, 0.0, 0.0)
        return cls(
            len(each),
            sum(one.right for one in each),
            sum(one.wrong_as_success for one in each),
            round(fmean(one.rounds for one in each), 2),
            round(fmean(one.prompt_tokens + one.completion_tokens for one in each), 1),
            round(fmean(one.seconds for one in each), 2),
        )

    @property
    def share(self) -> float:
        """The share that was right, from 0 to 1."""
        return self.right / self.tasks if self.tasks else 0.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many tasks were done right by both, one or neither of the loops."""

    both: int
    bridge_only: int
    baseline_only: int
    neither: int


def table_rows(results: Results) -> list[list[str]]:
    """The table as cells: the heading, one row per family, and one for all."""
    loops = results.plan.loops
    paired = "baseline" in loops
    heading = ["family", "tasks"]
    for loop in loops:
        heading += [loop, "wrong as success", "rounds", "tokens", "seconds"]
    rows = [[*heading, *(["only bridge", "only baseline"] if paired else [])]]
    for family in [*results.families(), ALL]:
        sums = [results.sum(family, loop) for loop in loops]
        row = [family, str(max(each.tasks for each in sums))]
        for each in sums:
            row += [
                f"{each.right} ({each.share:.0%})",
                str(each.wrong_as_success),
                f"{each.rounds:.1f}",
                f"{each.tokens:,.0f}",
                f"{each.seconds:.1f}",
            ]
        if paired:
            pairs = results.pairs(family)
            row += [str(pairs.bridge_only), str(pairs.baseline_only)]
        rows.append(row)
    return rows


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned lines; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def save_results(results: Results, folder: Path) -> None:
    """Write results.json and results.html into a folder, which is made if need be.

    Raises:
        OSError: They can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.to_json(), indent=2, ensure_ascii=False)
    for name, content in (("results.json", f"{text}\n"), ("results.html", render_page(results))):
        write_file(folder / name, content.encode("utf-8", "replace"))


def render_page(results: Results) -> str:
    """The whole page as HTML; its heading says the score."""
    plan = results.plan
    sums = [(loop, results.sum(ALL, loop)) for loop in plan.loops]
    first = sums[0][1]
    scores = [f"{each.right:,} of {each.tasks:,} tasks right ({each.share:.0%})" for _, each in sums]
    return render_template(
        "results.html.j2",
        title=f"{plan.model}: {', baseline '.join(scores)}",
        plan=plan,
        facts=f"{local_time(plan.began)} · lmstudio-bridge {plan.version} · seed {plan.seed} · at most "
        f"{plan.max_rounds} rounds, {plan.max_tokens:,} tokens a reply and {plan.seconds:g} s a task · "
        f"{plan.parallel} at once",
        numbers=[
            Figure("Right", f"{first.share:.0%}"),
            Figure("Attempts", f"{len(results.attempts):,} of {plan.tasks * len(plan.loops):,}"),
            Figure("Wrong as success", f"{first.wrong_as_success:,}"),
            Figure("Rounds a task", f"{first.rounds:.1f}"),
            Figure("Tokens a task", f"{first.tokens:,.0f}"),
            Figure("Seconds a task", f"{first.seconds:.1f}"),
        ],
        bars=[
            (family, loop, results.sum(family, loop)) for family in [*results.families(), ALL] for loop in plan.loops
        ],
        pairs=results.pairs(ALL) if len(sums) > 1 else None,
        skipped=results.skipped,
        attempts=results.attempts,
    )
