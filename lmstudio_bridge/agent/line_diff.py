"""Where two lists of lines differ, in bounded time: repetitive files take minutes with `difflib` alone."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeAlias

Range: TypeAlias = tuple[int, int, int, int]  # first and last + 1 of the old lines, and of the new ones in their place

_EXACT_GAP = 90_000  # lines times lines between two anchors; a second in the worst case
_EXACT_IN_ALL = 1_000_000  # of all gaps


def differing_ranges(old: Sequence[str], new: Sequence[str]) -> list[Range]:
    """The ranges that differ, in their order: all differences, though not always the fewest lines."""
    room = _EXACT_IN_ALL
    found: list[Range] = []
    for a, b, c, d in _gaps(old, new):
        size = (b - a) * (d - c)
        if 0 < size <= min(_EXACT_GAP, room):
            room -= size
            matcher = SequenceMatcher(None, old[a:b], new[c:d], autojunk=False)
            opcodes = [each for each in matcher.get_opcodes() if each[0] != "equal"]
            found += [(a + i, a + j, c + k, c + m) for _, i, j, k, m in opcodes]
        elif b - a == d - c:  # as after a replacement within lines
            found += [(a + n, a + n + 1, c + n, c + n + 1) for n in range(b - a) if old[a + n] != new[c + n]]
        else:
            found.append((a, b, c, d))
    return _joined(found)


def span(start: int, end: int) -> str:
    """A range of lines as unified diffs write it."""
    count = end - start
    return str(end) if count == 1 else f"{start + 1 if count else start},{count}"


def _gaps(old: Sequence[str], new: Sequence[str]) -> Iterator[Range]:
    """What is between the lines that are the same for sure: those next to an anchor, and both ends of the texts."""
    a = c = 0
    for left, right in (*_anchors(old, new), (len(old), len(new))):
        while a < left and c < right and old[a] == new[c]:
            a, c = a + 1, c + 1
        b, d = left, right
        while a < b and c < d and old[b - 1] == new[d - 1]:
            b, d = b - 1, d - 1
        if a < b or c < d:
            yield a, b, c, d
        a, c = left, right


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Numbers of lines that stand once in both, as many as follow each other in both (a patience diff)."""
    counts, others = Counter(old), Counter(new)
    places = {line: number for number, line in enumerate(new) if others[line] == 1}
    pairs = [(number, places[line]) for number, line in enumerate(old) if counts[line] == 1 and line in places]
    ends: list[int] = []  # the last line of the best row of each length
    rows: list[int] = []  # the pairs that these end with
    before: list[int] = []
    for index, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        before.append(rows[length - 1] if length else -1)
        ends[length : length + 1] = [place]
        rows[length : length + 1] = [index]
    found: list[tuple[int, int]] = []
    index = rows[-1] if rows else -1
    while index >= 0:
        found.append(pairs[index])
        index = before[index]
    return found[::-1]


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """The ranges, with those that touch each other as one."""
    joined: list[Range] = []
    for a, b, c, d in ranges:
        if joined and joined[-1][1::2] == (a, c):
            a, _, c, _ = joined.pop()
        joined.append((a, b, c, d))
    return joined
