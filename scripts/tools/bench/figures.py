"""Figures: values of the bridge and of what it is measured against, taken in turns, and whether a bar is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

BRIDGE = "bridge"
FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the quarter points: half of the values lie between `low` and `high`."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured.

    `samples` holds the values of each subject; the n-th values of all were taken in the same pass, one subject after
    the other. With a `reference` what counts is the ratio to that subject in the same pass, else the value itself.
    `bar` is the most that the bridge's median may be.
    """

    key: str
    title: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    reference: str = FLOOR
    bar: float | None = None
    note: str = ""

    def values(self, subject: str) -> list[float]:
        """What counts of a subject: its ratios, or without a reference its values."""
        given = self.samples[subject]
        if not self.reference:
            return given
        return [value / base for value, base in zip(given, self.samples[self.reference], strict=False) if base > 0]

    def spread(self, subject: str) -> Spread:
        """The spread of what counts."""
        return spread_of(self.values(subject))

    @property
    def subjects(self) -> list[str]:
        """All that were measured, the reference apart."""
        return [name for name in self.samples if name != self.reference and self.values(name)]

    @property
    def reached(self) -> bool | None:
        """Whether the bridge keeps below the bar; None if there is none."""
        return None if self.bar is None else self.spread(BRIDGE).median <= self.bar

    def to_json(self) -> dict[str, Any]:
        """Everything, with the medians worked out."""
        spreads = {name: self.spread(name) for name in self.subjects}
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "reference": self.reference,
            "bar": self.bar,
            "reached": self.reached,
            "note": self.note,
            "samples": self.samples,
            "medians": {name: {"median": s.median, "low": s.low, "high": s.high} for name, s in spreads.items()},
        }


def add_sample(figure: Figure, subject: str, value: float) -> None:
    """Take the next value of a subject."""
    figure.samples.setdefault(subject, []).append(value)


def against_best(figure: Figure, peers: Sequence[str], *, key: str, title: str, bar: float) -> Figure | None:
    """The figure again, over the peer with the lowest median; None without peers."""
    measured = [name for name in peers if figure.samples.get(name)]
    if not measured:
        return None
    best = min(measured, key=lambda name: median(figure.samples[name]))
    samples = {BRIDGE: figure.samples[BRIDGE], best: figure.samples[best]}
    return Figure(key, f"{title} ({best})", figure.unit, samples, reference=best, bar=bar)
