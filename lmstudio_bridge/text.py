"""Text made by others, made safe to show: invisible characters, terminal codes, lone surrogates."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # terminal: colors, cursor
    r"|\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # terminal: titles, links
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # control characters except tab and line breaks
    r"|\r(?!\n)"  # writes over its own line
    r"|[\u202a-\u202e\u2066-\u2069]"  # change the direction of writing
    r"|[\u200b\u2060-\u2064\u180e\ufeff\ufff9-\ufffb]"  # zero width; the joiners of emoji and scripts stay
    r"|[\U000e0000-\U000e007f\U000e0100-\U000e01ef]"  # tags and variation selectors, which can hide text
)


def clean_text(text: str) -> tuple[str, int]:
    """The text without what is invisible to a reader but read by a model or a terminal; and the number of removals."""
    if text.isascii() and text.isprintable():
        return text, 0
    return _UNSEEN.subn("", text)


def one_line(text: str) -> str:
    """The text in one line, without anything that could move the cursor."""
    return " ".join(clean_text(text)[0].split())


def shortened(text: str, most: int) -> str:
    """The text, cut after that many characters if it is longer; an ellipsis says so."""
    return text if len(text) <= most else f"{text[:most]}…"


def first_line(text: str, most: int = 80) -> str:
    """The first line of a text, as its title in a list."""
    return shortened(text.strip().partition("\n")[0], most)


def repair_surrogates(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced, so that it can be encoded."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def as_utf8(text: str) -> str:
    """The text with "?" for lone surrogates: UTF-8 cannot encode them, and the MCP SDK's writer would fail.

    They come from JavaScript programs that truncate text: in errors of LM Studio, in names, in old journals.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def as_shown(text: str) -> str:
    """The text cleaned and safe to encode."""
    return as_utf8(clean_text(text)[0])
