"""Untrusted content: what tools return goes between delimiters that it cannot forge."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmstudio_bridge.agent.prompts import DATA_BEGINS, SERVER_NOTES
from lmstudio_bridge.text import clean_text, one_line, shortened

MAX_INSTRUCTIONS = 2_000  # characters of one server's instructions
_MARK_LENGTH = 8  # letters of a run's mark: 32 bits of chance
_MARK_LETTERS = "ghjkmnpqrstvwxyz"  # no digits, and none of hexadecimal numbers: files are full of those
_LIKE_MARK = re.compile(rf"(?<!\w)[{_MARK_LETTERS}]{{{_MARK_LENGTH - 1},{_MARK_LENGTH + 1}}}(?!\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Delimiter:
    """Goes around all untrusted content of a run. `mark` is a word that no honest text contains; "" leaves it bare."""

    mark: str

    def wrap(self, text: str) -> str:
        """The text between its delimiters; the mark itself is taken out of it.

        The line before it names the mark in a sentence: small models copied a bare line in place of an answer.
        """
        if not self.mark:
            return text
        inside = self._mended(text)  # what looks like the mark would be taken out of an answer as one
        if not self._is_missing(inside):
            inside = re.sub(re.escape(self.mark), "…", inside, flags=re.IGNORECASE)
        return f"{DATA_BEGINS.format(mark=self.mark)}\n{inside}\n{self.mark}"

    def take_out(self, text: str) -> str:
        """A text of the model without the delimiters that it copied into it."""
        text = self._mended(text)
        if self._is_missing(text):
            return text
        mark = re.escape(self.mark)
        pattern = rf"(?:Data, up to the line {mark}:?|^{mark}$)\n?|[ \t]+\(?{mark}[.)]*$|(?<=\w){mark}"
        return re.sub(pattern, "", text, flags=re.IGNORECASE | re.MULTILINE)

    def is_copied(self, text: str) -> bool:
        """Whether a text of the model is nothing but delimiters, or takes one for data."""
        left = self.take_out(text)
        return not left.strip() or not self._is_missing(left)

    def _mended(self, text: str) -> str:
        """The text with the mark where a word differs from it in one letter: small models copy it so."""
        return _LIKE_MARK.sub(
            lambda word: self.mark if _differ_in_one(word[0].casefold(), self.mark) else word[0], text
        )

    def _is_missing(self, text: str) -> bool:
        """Whether the mark does not occur in any letter case, as is nearly always so: then no pattern is needed."""
        return not self.mark or self.mark.casefold() not in text.casefold()


def _differ_in_one(word: str, other: str) -> bool:
    """Whether two words differ in one letter that was left out, added or taken for another, or are the same."""
    start = next((at for at, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    return any(word[start + i :] == other[start + k :] for i, k in ((0, 0), (1, 0), (0, 1), (1, 1)))


NO_DELIMITER = Delimiter("")


def new_delimiter() -> Delimiter:
    """A new delimiter, for one run."""
    return Delimiter("".join(secrets.choice(_MARK_LETTERS) for _ in range(_MARK_LENGTH)))


def without_delimiters(text: str) -> str:
    """A tool's result as it was before it was wrapped, for people."""
    found = re.search(DATA_BEGINS.format(mark=rf"([{_MARK_LETTERS}]{{{_MARK_LENGTH}}})"), text)
    return Delimiter(found[1]).take_out(text) if found else text


def delimiter_of(text: str) -> Delimiter:
    """A delimiter that is the same for the same text."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return Delimiter("".join(_MARK_LETTERS[byte % len(_MARK_LETTERS)] for byte in digest[:_MARK_LENGTH]))


def wrap_instructions(instructions: Mapping[str, str], *, room: int) -> str:
    """What servers say about the use of their tools, by server, each delimited; they share `room` characters.

    The mark follows from the text: with a new one for each run, engines could not reuse the beginning of the prompt.
    """
    shown = {server: cleaned for server, text in instructions.items() if (cleaned := clean_text(text)[0].strip())}
    share = min(MAX_INSTRUCTIONS, room // max(1, len(shown)))
    delimiter = delimiter_of(repr(shown))
    return "\n".join(
        f"{SERVER_NOTES.format(server=one_line(server))}\n{delimiter.wrap(shortened(text, share))}"
        for server, text in shown.items()
    )


@dataclass(frozen=True, slots=True)
class TextFilters:
    """How the text of a run is treated; the functions are those of other packages.

    `redact` takes secrets out of what tools return, and `holds_placeholder` finds what it put in their place.
    `delimiter` goes around tool results. `split_reasoning` separates a model's text from its reasoning.
    """

    redact: Callable[[str], str] = str
    holds_placeholder: Callable[[str], bool] = lambda _: False
    split_reasoning: Callable[[str], tuple[str, str]] = lambda text: (text, "")
    delimiter: Delimiter = NO_DELIMITER
