"""Where two lists of lines differ: everything is told, also of texts that `difflib` takes minutes for."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from lmstudio_bridge.agent.line_diff import Range, differing_ranges


def applied(old: Sequence[str], new: Sequence[str], ranges: Sequence[Range]) -> list[str]:
    """The new lines, made of the old ones and the ranges; what is between the ranges has to be the same."""
    made: list[str] = []
    at = 0
    for a, b, c, d in ranges:
        made += [*old[at:a], *new[c:d]]
        at = b
    return [*made, *old[at:]]


@pytest.mark.parametrize("seed", range(50))
def test_the_ranges_make_the_old_lines_the_new_ones(seed: int) -> None:
    random = Random(seed)
    for letters in ("ab", "abcdefghijkl"):
        old, new = ([random.choice(letters) for _ in range(random.randrange(12))] for _ in range(2))
        ranges = differing_ranges(old, new)
        assert applied(old, new, ranges) == new
        assert bool(ranges) is (old != new)


def test_few_lines_are_told_of_a_small_change() -> None:
    old = [f"line {number % 50}" for number in range(1_000)]
    assert differing_ranges(old, [*old[:500], "new", *old[500:]]) == [(500, 500, 500, 501)]


@pytest.mark.parametrize("lines", [300, 20_000])
def test_repetitive_lines_are_compared_in_bounded_time(lines: int) -> None:
    old, new = ([f"line {number % every}" for number in range(lines)] for every in (2, 3))
    assert applied(old, new, differing_ranges(old, new)) == new
