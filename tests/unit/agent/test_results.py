"""How much of a big result the model reads."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.conversation import MAX_CHARS, MIN_CHARS, holds_nothing, result_limit


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
