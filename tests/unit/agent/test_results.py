"""How much of a big result the model reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.conversation import MAX_CHARS, MIN_CHARS, cap_result, holds_nothing, result_limit

_NOTE = 150  # characters of the note about what is missing, numbers included


@pytest.mark.parametrize(
    ("context_length", "limit"),
    [
        (None, MAX_CHARS // 2),
        (0, MIN_CHARS),
        (999, MIN_CHARS),
        (1_000, MIN_CHARS),
        (1_001, MIN_CHARS + 1),
        (8_192, 8_192),
        (39_999, MAX_CHARS - 1),
        (40_000, MAX_CHARS),
        (40_001, MAX_CHARS),
        (1_000_000, MAX_CHARS),
    ],
)
def test_one_result_may_take_a_quarter_of_the_context(context_length: int | None, limit: int) -> None:
    assert result_limit(context_length) == limit


@pytest.mark.parametrize("text", ["", " ", "\n\t \n"])
def test_empty_result_becomes_a_word(text: str) -> None:
    assert cap_result(text, 100) == "(no output)"


@pytest.mark.parametrize("length", [1, 99, 100])
def test_result_within_the_limit_stays_as_it_is(length: int) -> None:
    assert cap_result("x" * length, 100) == "x" * length


def test_result_beyond_the_limit_keeps_its_head_and_tail() -> None:
    text = "h" * 75 + "m" + "t" * 25

    assert cap_result(text, 100) == (
        "h" * 75 + "\n[… 1 of 101 characters left out here; ask for a smaller part if you need them …]\n" + "t" * 25
    )


@pytest.mark.parametrize(("limit", "head", "tail"), [(0, "", ""), (1, "", "z"), (2, "a", "z"), (3, "ab", "z")])
def test_tiny_limit_is_kept_too(limit: int, head: str, tail: str) -> None:
    lines = cap_result("ab" + "m" * 500 + "z", limit).split("\n")

    assert (lines[0], lines[2]) == (head, tail)


def test_numbers_in_the_note_can_be_read() -> None:
    assert "[… 999,000 of 1,000,000 characters left out here;" in cap_result("x" * 1_000_000, 1_000)


@given(st.text(min_size=1, max_size=300), st.integers(0, 200))
def test_result_is_never_longer_than_its_limit_and_a_short_note(text: str, limit: int) -> None:
    capped = cap_result(text, limit)

    assert len(capped) <= limit + _NOTE
    assert capped in (text, "(no output)") or (
        capped.startswith(text[: limit * 3 // 4]) and capped.endswith(text[len(text) - (limit - limit * 3 // 4) :])
    )


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("", True),
        (" \n", True),
        ("[]", True),
        ("{}", True),
        ("null", True),
        ('{\n  "entities": [],\n  "relations": [{}]\n}', True),
        ("No matches found", True),
        ("0 results", True),
        ("Nothing was found.", True),
        ("0", False),
        ("false", False),
        ('{"total": 0}', False),
        ('["a"]', False),
        ("Notes: no matches", False),
        ("No. 5 is the file of Hana. It has matches.", False),
        ("[" * 199, False),
        (" " * 201, False),
    ],
)
def test_a_result_of_a_search_holds_nothing_only_if_it_says_so_alone(text: str, nothing: bool) -> None:
    assert holds_nothing(text) is nothing
