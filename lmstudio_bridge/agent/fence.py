"""What tools return is data: a fence around it that it cannot forge, and nothing in it that nobody can see."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_MARK_LENGTH = 8  # letters of a run's mark: 32 bits of chance
_MARK_LETTERS = "ghjkmnpqrstvwxyz"  # no digits, and none of hexadecimal numbers: files are full of those

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


@dataclass(frozen=True, slots=True)
class Fence:
    """Stands around all that comes from outside in a run. `mark` is a word that no honest text holds."""

    mark: str

    def wrap(self, text: str) -> str:
        """The text with the line that ends it; the mark itself is taken out of it.

        The line before it names the mark in a sentence: small models copied a bare line in place of an answer.
        """
        inside = text if self._is_missing(text) else re.sub(re.escape(self.mark), "…", text, flags=re.IGNORECASE)
        return f"Data, up to the line {self.mark}:\n{inside}\n{self.mark}"

    def take_out(self, text: str) -> str:
        """A text of the model without the fences that it copied into it."""
        if self._is_missing(text):
            return text
        mark = re.escape(self.mark)
        return re.sub(rf"(?:Data, up to the line {mark}:?|^{mark}$)\n?", "", text, flags=re.IGNORECASE | re.MULTILINE)

    def _is_missing(self, text: str) -> bool:
        """Whether the mark stands nowhere, in no spelling: as it nearly always is, so that no pattern is needed."""
        return self.mark.casefold() not in text.casefold()


def new_fence() -> Fence:
    """A fence for one run."""
    return Fence("".join(secrets.choice(_MARK_LETTERS) for _ in range(_MARK_LENGTH)))
