"""The context as a budget: how much of a result the model reads, and when old ones must make room."""

from __future__ import annotations

import json
import re

CHARS_PER_TOKEN = 4  # a rough average over English text and code
MAX_CHARS = 40_000  # of one result, where the context is large or unknown
MIN_CHARS = 1_000  # of one result, however small the context
_SHARE = 4  # one result may take a quarter of the context
_FULL = 0.8  # share of the context at which old results are shortened
_ROOMY = 0.5  # share of it that is taken afterwards

_NOTHING = 200  # characters; what is longer holds something
_NO_MATCH = re.compile(
    r"(?:no|0|nothing)\b[^.\n]{0,60}\b(?:match|matches|results?|found|hits?|entries|files?)\b[^.\n]{0,60}\.?",
    re.IGNORECASE,
)


def result_limit(context_length: int | None) -> int:
    """Characters of one result for a model with this context length in tokens."""
    if context_length is None:
        return MAX_CHARS // 2
    return max(MIN_CHARS, min(MAX_CHARS, context_length * CHARS_PER_TOKEN // _SHARE))


def room_to_keep(context_length: int | None, *, counted: tuple[int, int] | None, size: int) -> int | None:
    """Characters that the history may keep so that the next request fits; None if it may keep all.

    `counted` is what the engine counted of the last request and its reply (tokens), and the history's
    size then; `size` is its size now (characters). One big step, because each costs the prompt cache.
    """
    if context_length is None or counted is None:
        return None
    tokens, size_then = counted
    expected = tokens + (size - size_then) // CHARS_PER_TOKEN
    if expected <= context_length * _FULL:
        return None
    too_many = expected - int(context_length * _ROOMY)
    return max(0, size - too_many * CHARS_PER_TOKEN)


def holds_nothing(text: str) -> bool:
    """Whether a result of a search says that there was none: blank, JSON without a value in it, or a few such words."""
    if len(text) > _NOTHING:
        return False
    try:
        return _is_hollow(json.loads(text))
    except (ValueError, RecursionError):
        return not text.strip() or bool(_NO_MATCH.fullmatch(text.strip()))


def _is_hollow(value: object) -> bool:
    match value:
        case dict():
            return all(map(_is_hollow, value.values()))
        case list():
            return all(map(_is_hollow, value))
        case _:
            return value in (None, "")


def cap_result(text: str, limit: int) -> str:
    """`text`, or its head and tail within `limit` characters and a line that says what is missing."""
    if not text.strip():
        return "(no output)"  # an empty tool message upsets some templates
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    tail = limit - head
    left_out = len(text) - head - tail
    return (
        f"{text[:head]}\n[… {left_out:,} of {len(text):,} characters left out here; ask for a smaller part "
        f"if you need them …]\n{text[len(text) - tail :]}"
    )
