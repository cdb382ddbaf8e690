"""The results of one bench as JSON, as a table for a terminal, and as Markdown for docs/contributing/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.tools.bench.figures import BRIDGE, Figure, Spread
from scripts.tools.bench.profile_table import Profile

BEGIN, END = "<!-- figures: scripts/bench --document writes what follows -->", "<!-- end of figures -->"


@dataclass(slots=True)
class Results:
    """Figures, where and when they were taken, and what could not be measured."""

    machine: str
    date: str
    versions: dict[str, str]
    scale: str
    """How much was measured: `full`, `quick` or `smallest`."""
    figures: list[Figure] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "machine": self.machine,
            "date": self.date,
            "versions": self.versions,
            "scale": self.scale,
            "figures": [figure.to_json() for figure in self.figures],
            "profiles": [profile.to_json() for profile in self.profiles],
            "left_out": self.left_out,
        }


def number(value: float, unit: str) -> str:
    """A value as it is shown."""
    if unit == "bytes" or (value == int(value) and not unit):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def shown_spread(figure: Figure, spread: Spread) -> str:
    """A median with its quarter points, as a ratio or with its unit."""
    unit = "x" if figure.reference else figure.unit
    text = number(spread.median, unit)
    if spread.low != spread.high:
        text += f" ({number(spread.low, unit)}-{number(spread.high, unit)})"
    return f"{text} x" if figure.reference else f"{text} {figure.unit}".strip()


def verdict(figure: Figure) -> str:
    """Whether the bar is reached, for a reader."""
    match figure.reached:
        case None:
            return ""
        case True:
            return "reached"
        case False:
            return "not reached"


def rows(results: Results) -> list[list[str]]:
    """One row a figure, the heading first: the bridge, what it is measured against, and the bar."""
    found = [["figure", "bridge", "against", "bridge, absolute", "goal", "", "others"]]
    for figure in results.figures:
        absolute = Figure(figure.key, figure.title, figure.unit, figure.samples, reference="")
        unit = f" {figure.unit}".rstrip()
        base = ""
        if figure.reference:
            base = f"{figure.reference} {number(absolute.spread(figure.reference).median, figure.unit)}{unit}"
        found.append(
            [
                figure.title,
                shown_spread(figure, figure.spread(BRIDGE)),
                base,
                f"{number(absolute.spread(BRIDGE).median, figure.unit)}{unit}" if figure.reference else "",
                "" if figure.bar is None else f"≤ {figure.bar:g}",
                verdict(figure),
                others(figure),
            ]
        )
    return found


def others(figure: Figure) -> str:
    """The medians of the other subjects."""
    unit = " x" if figure.reference else f" {figure.unit}".rstrip()
    found = [(name, figure.spread(name).median) for name in figure.subjects if name != BRIDGE]
    return ", ".join(f"{name} {number(value, unit.strip())}{unit}" for name, value in found)


def render_table(results: Results) -> str:
    """The table for a terminal, with what stands around it."""
    table = rows(results)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += ["", *facts(results)]
    for profile in results.profiles:
        lines += ["", *profile.lines()]
    return "\n".join(lines)


def facts(results: Results) -> list[str]:
    """Where, when, with what, and what is missing."""
    found = [f"{results.date}, {results.machine}; {results.scale}; medians, in brackets the quarter points."]
    found += [f"{name}: {versions}" for name, versions in results.versions.items()]
    found += [f"left out: {name}: {reason}" for name, reason in results.left_out.items()]
    return found


def render_markdown(results: Results) -> str:
    """The region of docs/contributing/performance.md: the figures that have a goal."""
    heading, *body = (row[:-1] for row in rows(results))
    lines = [f"{results.date}, {results.machine} ({results.scale}). Medians; in brackets the quarter points.", ""]
    lines += [_markdown_row(heading), _markdown_row(["---"] * len(heading))]
    lines += [_markdown_row(row) for figure, row in zip(results.figures, body, strict=True) if figure.bar is not None]
    lines += ["", "Versions:", ""]
    lines += [f"- {name}: {versions}" for name, versions in results.versions.items()]
    if results.left_out:
        lines += ["", "Left out:", ""]
        lines += [f"- {name}: {reason}" for name, reason in results.left_out.items()]
    for profile in results.profiles:
        lines += ["", *profile.markdown()]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_document(document: Path, results: Results) -> None:
    """Put the figures between the marks of a document."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    document.write_text(f"{before}{BEGIN}\n\n{render_markdown(results)}\n\n{END}{after}", encoding="utf-8")
