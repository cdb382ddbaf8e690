"""Unified diffs of what others wrote: bounded in time and length, without secrets, line ends as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lmstudio_bridge.agent.line_diff import Range, differing_ranges, span
from lmstudio_bridge.text import one_line

MAX_TEXT = 1_000_000  # bytes of a file; longer ones are not compared by line
MAX_LINES = 100_000  # of a file; each takes a hundred bytes of memory
MAX_DIFF = 50_000  # characters of the diff of one file
_CONTEXT = 3  # lines
_NO_NEWLINE = "\\ No newline at end of file"


@dataclass(frozen=True, slots=True)
class Diff:
    """The lines that were added and removed, and the text for a reader."""

    added: int
    removed: int
    text: str


def make_diff(path: str, old: bytes | None, new: bytes | None, *, redact: Callable[[str], str]) -> Diff:
    """The difference between two contents of a file, of which None stands for no file."""
    if old == new:
        return Diff(0, 0, "")
    name = one_line(path)
    head = f"--- {'/dev/null' if old is None else name}\n+++ {'/dev/null' if new is None else name}\n"
    if any(len(each) > MAX_TEXT or each.count(b"\n") > MAX_LINES for each in (old or b"", new or b"")):
        return Diff(0, 0, f"{head}Too long to be compared by line.")
    texts = [decode_text(each or b"") for each in (old, new)]
    if texts[0] is None or texts[1] is None:
        return Diff(0, 0, f"{head}Not text: {len(old or b''):,} bytes before, {len(new or b''):,} now.")
    # Secrets first: between the marks of a diff, those of several lines would not be found.
    before, after = _lines(redact(texts[0])), _lines(redact(texts[1]))
    ranges = differing_ranges(before, after)
    if not ranges and old and new:
        return Diff(0, 0, f"{head}Only secrets differ, which are not shown.")
    shown = list(_hunks(before, after, ranges))
    added, removed = sum(d - c for _, _, c, d in ranges), sum(b - a for a, b, _, _ in ranges)
    return Diff(added, removed, head + cut_lines(shown, MAX_DIFF, lambda left: f"… {left:,} more lines"))


def decode_text(data: bytes) -> str | None:
    """The text of a file; None if it holds something else."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _lines(text: str) -> list[str]:
    """The lines with their ends. Only a line feed ends one, as in git."""
    *lines, last = text.split("\n")
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]


def _hunks(old: Sequence[str], new: Sequence[str], ranges: Sequence[Range]) -> Iterator[str]:
    hunks: list[list[Range]] = []
    for each in ranges:
        if hunks and each[0] - hunks[-1][-1][1] <= 2 * _CONTEXT:
            hunks[-1].append(each)
        else:
            hunks.append([each])
    for hunk in hunks:
        before = min(_CONTEXT, hunk[0][0])
        start, end = hunk[0][0] - before, min(len(old), hunk[-1][1] + _CONTEXT)
        new_start = hunk[0][2] - before
        new_end = hunk[-1][3] + end - hunk[-1][1]
        yield f"@@ -{span(start, end)} +{span(new_start, new_end)} @@"
        for a, b, c, d in hunk:
            yield from (line for each in old[start:a] for line in _marked(" ", each))
            yield from (line for each in old[a:b] for line in _marked("-", each))
            yield from (line for each in new[c:d] for line in _marked("+", each))
            start = b
        yield from (line for each in old[start:end] for line in _marked(" ", each))


def _marked(mark: str, line: str) -> Iterator[str]:
    """The line behind its mark. A carriage return stays visible, because it may be all that differs."""
    text = line.removesuffix("\n")
    yield mark + text.replace("\r", "\N{SYMBOL FOR CARRIAGE RETURN}")
    if text == line:
        yield _NO_NEWLINE


def cut_lines(lines: Sequence[str], room: int, more: Callable[[int], str], *, most: int | None = None) -> str:
    """The lines, as many as `room` characters hold and at most `most`; `more` says how many are left out."""
    for number, line in enumerate(lines):
        room -= len(line) + 1
        if number == most or room < 0:
            return "\n".join([*lines[:number], more(len(lines) - number)])
    return "\n".join(lines)
