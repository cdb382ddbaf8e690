"""Diffs of what others wrote: right, and bounded."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmstudio_bridge.runs.diffs import MAX_DIFF, MAX_LINES, MAX_TEXT, make_diff

LINES = st.lists(st.sampled_from(["a", "b", "c\r", "", "--", "\u2028x"]), max_size=30)


def diff_of(old: bytes | None, new: bytes | None) -> str:
    return make_diff("a.txt", old, new, redact=str).text


@pytest.mark.parametrize("data", [b"a" * MAX_TEXT, b"\n" * MAX_LINES])
@pytest.mark.parametrize(("more", "compared"), [(-1, True), (0, True), (1, False)])
def test_long_texts_are_not_compared(data: bytes, more: int, compared: bool) -> None:
    data = data[:-1] if more < 0 else data + data[:more]

    assert ("Too long" not in diff_of(data, b"")) == compared


@pytest.mark.parametrize(("more", "whole"), [(-1, True), (0, True), (1, False)])
def test_diff_is_cut_at_a_line(more: int, whole: bool) -> None:
    head = "@@ -0,0 +1,2 @@"
    room = MAX_DIFF - len(f"{head}\n+last\n+\n")

    text = diff_of(None, b"a" * (room + more) + b"\nlast\n")

    assert text.endswith("\n+last" if whole else "a\n… 1 more lines")


@pytest.mark.parametrize("count", [1_000, 1_001])
def test_replacements_in_many_lines_are_told_line_by_line(count: int) -> None:
    old = [f"{number} old" if number % 10 == 0 else f"{number}" for number in range(count * 10 + 1)]

    found = make_diff("a", "\n".join(old).encode(), "\n".join(old).replace("old", "new").encode(), redact=str)

    assert (found.added, found.removed) == (count + 1, count + 1)


@settings(max_examples=60)
@given(LINES, LINES, st.booleans(), st.booleans())
def test_git_can_apply_each_diff(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], old_ends: bool, new_ends: bool
) -> None:
    before = ("\n".join(old) + "\n" * old_ends).encode()
    after = ("\n".join(new) + "\n" * new_ends).encode()
    text = make_diff("a.txt", before, after, redact=str).text
    if not text:
        assert before == after
        return
    folder: Path = tmp_path_factory.mktemp("git")
    (folder / "a.txt").write_bytes(before)
    patch = text.replace("\N{SYMBOL FOR CARRIAGE RETURN}", "\r").encode() + b"\n"

    done = subprocess.run(
        ["git", "apply", "-p0", "--whitespace=nowarn", "-"], cwd=folder, input=patch, capture_output=True, check=False
    )

    assert done.returncode == 0, (done.stderr, text)
    assert (folder / "a.txt").read_bytes() == after
