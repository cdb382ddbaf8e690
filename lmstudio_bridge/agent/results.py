"""Big results: how much of one the model reads."""

from __future__ import annotations

CHARS_PER_TOKEN = 4  # a rough average over English text and code
MAX_CHARS = 40_000  # of one result, where the context is large or unknown
MIN_CHARS = 1_000  # of one result, however small the context
_SHARE = 4  # one result may take a quarter of the context


def result_limit(context_length: int | None) -> int:
    """Characters of one result for a model with this context length in tokens."""
    if context_length is None:
        return MAX_CHARS // 2
    return max(MIN_CHARS, min(MAX_CHARS, context_length * CHARS_PER_TOKEN // _SHARE))


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
