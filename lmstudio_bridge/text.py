"""TODO."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # terminal: colours, cursor
    r"|\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # terminal: titles, links
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # control characters but tab and line ends
    r"|\r(?!\n)"  # writes over its own line
    r"|[\u202a-\u202e\u2066-\u2069]"  # turn the direction of writing
    r"|[\u200b\u2060-\u2064\u180e\ufeff\ufff9-\ufffb]"  # without width; the joiners of emoji and scripts stay
    r"|[\U000e0000-\U000e007f\U000e0100-\U000e01ef]"  # tags and selectors, which spell hidden text
)


def clean_text(text: str) -> tuple[str, int]:
    """The text without what a reader cannot see but a model or a terminal takes in; and how much that was."""
    if text.isascii() and text.isprintable():
        return text, 0
    return _UNSEEN.subn("", text)


def one_line(text: str) -> str:
    """The text in one line, without what could move the cursor: names are made by others."""
    return " ".join(clean_text(text)[0].split())


def as_utf8(text: str) -> str:
    """The text without halves of characters: UTF-8 cannot say them, and the MCP SDK's writer ends at one.

    They come from JavaScript, which leaves them where it cuts a text: in errors of LM Studio, names, old journals.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def as_shown(text: str) -> str:
    """The same without what nobody sees but a model or a terminal takes in: names of others may hold it."""
    return as_utf8(clean_text(text)[0])
