"""How one and the same text is spelled in JSON, addresses, base64 and hexadecimal, and a way to read such texts."""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

_MIN_CORE = 6  # characters of base64; fewer would stand in other texts by chance

_ESCAPED = (("%2B", "%2F"), ("%2b", "%2f"))

_BACKSLASHED = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}"
    r"|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|[^uUx])",
    re.DOTALL,
)
_PERCENTED = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_LINE_ENDS = re.compile(r"(?:[\r\n]|\\{1,8}[rn])+[ \t]*+")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


def written_forms(text: str) -> set[str]:
    """The text as it stands, in JSON, and in an address."""
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    raw = text.encode("utf-8", "surrogatepass")
    return forms | {quote(raw), quote(raw, safe=""), quote_plus(raw)}


def encoded_forms(text: str) -> set[str]:
    """The parts of base64 that say the text wherever in the encoded bytes it stands, and its hexadecimal."""
    forms: set[str] = set()
    for plain in {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}:
        raw = plain.encode("utf-8", "surrogatepass")
        for before in range(3):
            # Six bits a character: those that also hold bits of what stands around the text are left out.
            begin, end = (8 * before + 5) // 6, 8 * (before + len(raw)) // 6
            core = base64.b64encode(b"\0" * before + raw).decode()[begin:end]
            for spelled in {core, core.replace("+", "-").replace("/", "_")}:
                forms |= {spelled, spelled.replace("/", "\\/")}
                forms |= {spelled.replace("+", plus).replace("/", slash) for plus, slash in _ESCAPED}
        forms |= {raw.hex(), raw.hex().upper()}
    return {form for form in forms if len(form) >= _MIN_CORE}


@dataclass(frozen=True, slots=True)
class Reading:
    """A text with its escapes read, and where everything in it stands in the original.

    `starts[i]` is a place in `text`, `sources[i]` the same place in the original; between two places
    both go on by one character each.
    """

    text: str
    starts: list[int]
    sources: list[int]

    def source(self, start: int, end: int) -> tuple[int, int]:
        """Where a part of `text` stands in the original."""
        first = bisect_right(self.starts, start) - 1
        last = bisect_left(self.starts, end)
        if last == len(self.starts) or self.starts[last] != end:
            last -= 1
        return self.sources[first] + start - self.starts[first], self.sources[last] + end - self.starts[last]


def read_backslashes(text: str) -> Reading | None:
    """Escapes of JSON and of most programming languages read once; None where there are none."""
    return _read(text, _BACKSLASHED, _read_backslash) if "\\" in text else None


def read_percents(text: str) -> Reading | None:
    """Escapes of addresses and forms read once; None where there are none."""
    return _read(text, _PERCENTED, _read_percent) if "%" in text else None


def join_lines(text: str) -> str:
    """The lines as one, also those inside of JSON."""
    return _LINE_ENDS.sub("", text)


def read_over_lines(text: str) -> Reading:
    """The same, with where everything stands."""
    return _read(text, _LINE_ENDS, lambda _: iter(()))


def _read(text: str, escape: re.Pattern[str], decode: Callable[[str], Iterator[tuple[str, int]]]) -> Reading:
    """`decode` gives the characters of one escape, and how long each is spelled."""
    pieces: list[str] = []
    starts, sources = [0], [0]
    position = length = 0
    for match in escape.finditer(text):
        begin, end = match.span()
        pieces.append(text[position:begin])
        length += begin - position
        starts.append(length)
        sources.append(begin)
        for character, width in decode(match[0]):
            pieces.append(character)
            length += 1
            begin += width
            starts.append(length)
            sources.append(begin)
        if begin != end:  # an escape that says nothing
            starts.append(length)
            sources.append(end)
        position = end
    pieces.append(text[position:])
    return Reading("".join(pieces), starts, sources)


def _read_backslash(escape: str) -> Iterator[tuple[str, int]]:
    match escape[1]:
        case "u" if len(escape) == 12:
            pair = int(escape[2:6], 16), int(escape[8:], 16)
            yield chr(0x10000 + ((pair[0] - 0xD800) << 10) + pair[1] - 0xDC00), 12
        case "u" | "U" | "x":
            yield chr(int(escape[2:], 16)), len(escape)
        case letter:
            yield _LETTERS.get(letter, letter), 2


def _read_percent(escape: str) -> Iterator[tuple[str, int]]:
    for character in bytes.fromhex(escape.replace("%", "")).decode("utf-8", "surrogateescape"):
        yield character, 3 * len(character.encode("utf-8", "surrogateescape"))
