"""How much a message takes once it is parsed, counted in its bytes before that.

A parsed value takes up to some 300 bytes, so that megabytes of small ones become gigabytes; text takes up to four times
its bytes.
"""

from __future__ import annotations

import re

MAX_MESSAGE = 16 * 1024 * 1024  # bytes: far above any useful result
MAX_VALUES = 200_000  # in one message
TOO_MANY = f"more than {MAX_VALUES:,} values"

_IN_STRING = re.compile(rb'(?:[^"\\\n]++|\\.)*+')


class ValueCounter:
    """Counts the values of JSON that arrives in pieces; what is not valid JSON counts as something, too."""

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self._limit = limit
        self._count = 0
        self._in_string = False
        self._escaped = False

    def feed(self, piece: bytes) -> bool:
        """Whether there are too many values so far."""
        place = int(self._escaped)
        self._escaped = False
        while place < len(piece) and self._count <= self._limit:
            if self._in_string:
                found = _IN_STRING.match(piece, place)
                place = found.end() if found else place
                if place == len(piece):
                    break
                if piece[place] == ord("\\"):  # what is escaped comes with the next piece
                    self._escaped = True
                    break
                self._in_string = False  # also at the end of a line, which no string holds
                place += 1
                continue
            end = piece.find(b'"', place)
            self._in_string = end >= 0
            end = end if end >= 0 else len(piece)
            self._count += self._in_string + sum(piece.count(mark, place, end) for mark in (b",", b"{", b"["))
            place = end + 1
        return self._count > self._limit

    def restart(self) -> None:
        """Begin to count anew, with the next message."""
        self._count, self._in_string, self._escaped = 0, False, False


def has_too_many_values(message: bytes) -> bool:
    """Whether a message must not be parsed."""
    return ValueCounter().feed(message)
