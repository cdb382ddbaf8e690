"""How one and the same text is spelled in JSON, addresses, base64 and hexadecimal, and a way to read such texts.

Secrets out of texts, before they reach a log, a journal, a result or the model.

Two kinds are found. Secrets that are known, because they stand in the configuration: as they are, and in
JSON, addresses, base64 and hexadecimal, also over line ends. And keys of well-known services, by their shape.
The time is linear to the text.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import quote, quote_plus

from lmstudio_bridge.messages import Image
from lmstudio_bridge.security.secrets import find_keys
from lmstudio_bridge.text import clean_text

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


T = TypeVar("T")

MARK = "[secret]"
MIN_SECRET = 6  # characters; shorter values ("true", "8080") would tear honest text apart
_MIN_PART = 12  # characters; of a longer secret its first half counts too, because texts are cut; and line ends within
_MIN_HALF = 8
_MIN_HELD = 4  # characters of a secret at the end of a piece that make us wait for the next piece
MAX_REMEMBERED_TEXT = 1_000  # characters; names, ids and arguments come again and again within a round
MAX_REMEMBERED = 1_000  # such texts
_DEPTH = 3  # JSON inside JSON inside JSON
_PLACEHOLDER = re.compile(r"\[secret(?::[a-z-]{3,24} …[0-9a-f]{4})?\]")
_WORDS = re.compile("[A-Za-z0-9]+")
_PLAIN = re.compile(r"[A-Za-z0-9._~-]*")  # letters that are never escaped


@dataclasses.dataclass(frozen=True, slots=True)
class _Needle:
    """One spelling of a secret; `head` is as much of it as must be there."""

    text: str
    head: str

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it stands, or the beginning of it."""
        start = text.find(self.head)
        while start >= 0:
            end = start + len(self.head)
            if text.startswith(self.text, start):
                end = start + len(self.text)
            else:
                while text[end] == self.text[end - start] if end < len(text) else False:
                    end += 1
            yield start, end
            start = text.find(self.head, start + 1)


class Redactor:
    """Puts marks in the place of secrets. It may `learn` further ones at any time."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.lessons = 0
        """How often it learned of secrets that it did not know."""
        self._known: frozenset[str] = frozenset()
        self._needles: list[_Needle] = []
        self._long: list[_Needle] = []  # those that are looked for over line ends
        self._escaped: list[_Needle] = []  # those that look different once escapes are read
        self._forget()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these for secrets too, from now on."""
        values = {
            value
            for secret in secrets
            for value in (secret, secret.strip(), secret.partition(" ")[2].strip())  # "Bearer abc" → "abc" too
            if len(value) >= MIN_SECRET
        }
        if values <= self._known:
            return
        self._known |= values
        written = {value: written_forms(value) for value in self._known}
        forms = {_needle(form) for value in self._known for form in (*written[value], *encoded_forms(value))}
        self._needles = sorted(forms, key=lambda needle: needle.text)
        self._long = [_Needle(each.text, each.text) for each in self._needles if len(each.text) >= _MIN_PART]
        self._escaped = [_needle(value) for value in sorted(self._known) if not _PLAIN.fullmatch(value)]
        self._forget()
        self.lessons += 1  # last: what was seen before this is of an earlier lesson

    def redact(self, text: str) -> str:
        """`text` with a mark for every secret. A key that was found by its shape leaves a hint of which it was."""
        if len(text) < MIN_SECRET:
            return text
        redacted = self._search_short(text) if len(text) <= MAX_REMEMBERED_TEXT else self._search(text)
        return text if redacted is None else redacted

    def _search(self, text: str) -> str | None:
        """The redacted text; None if there is nothing to redact."""
        found = [(*span, "") for span in self._known_in(text)]
        found += find_keys(text)
        if not found:
            return None
        found += [(*mark.span(), mark[0]) for mark in _PLACEHOLDER.finditer(text)]
        pieces: list[str] = []
        position = 0
        for start, end, kind in _merged(found):
            pieces += [text[position:start], _mark(kind, text[start:end])]
            position = end
        return "".join([*pieces, text[position:]])

    def redact_fields(self, value: T) -> T:
        """A value with every text in it redacted: in fields of a dataclass, in tuples, lists and mappings."""
        redacted: Any = self._redact_any(value)
        return cast(T, redacted)

    def redact_error(self, error: T) -> T:
        """The same error, with all that it says redacted."""
        for name, value in vars(error).items():
            setattr(error, name, self._redact_any(value))
        if isinstance(error, BaseException):
            error.args = self._redact_any(error.args)
        return error

    def open_stream(self) -> RedactedStream:
        """For a text that comes in pieces."""
        return RedactedStream(self)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where known secrets stand, in order; those that touch or overlap are one."""
        found = [(*span, "") for span in self._known_in(text)]
        return [(start, end) for start, end, _ in _merged(found)] if found else []

    def begins_within(self, text: str) -> int:
        """Where at the end of `text` a known secret may have begun; the length of `text` if none has."""
        return min(
            (
                start
                for needle in self._needles
                for start in range(max(0, len(text) - len(needle.text) + 1), len(text) - _MIN_HELD + 1)
                if needle.text.startswith(text[start:])
            ),
            default=len(text),
        )

    def _redact_any(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if value is None or isinstance(value, int | float | Image):
            return value  # an image is megabytes that say nothing in words
        if isinstance(value, tuple | list):
            items = [self._redact_any(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return tuple(items) if isinstance(value, tuple) else items
        if names := _field_names(type(value)):  # type: ignore[arg-type]  # types can be hashed
            fields = [(name, getattr(value, name)) for name in names]
            changed = {name: new for name, item in fields if (new := self._redact_any(item)) is not item}
            return dataclasses.replace(value, **changed) if changed else value
        if isinstance(value, Mapping):
            pairs = [(self._redact_any(key), self._redact_any(item)) for key, item in value.items()]
            before = value.items()
            same = all(new is key and item is old for (new, item), (key, old) in zip(pairs, before, strict=True))
            return value if same else dict(pairs)
        return value

    def _forget(self) -> None:
        # Not cleared: a search under way, of a thread, would put into it what it found with fewer secrets.
        self._search_short = lru_cache(MAX_REMEMBERED)(self._search)

    def _known_in(self, text: str) -> Iterator[tuple[int, int]]:
        yield from _find(self._needles, text)
        if self._long:
            yield from _find_over_lines(self._long, text)
        if self._escaped:
            yield from self._find_escaped(text, read_backslashes, _DEPTH)
            yield from self._find_escaped(text, read_percents, _DEPTH)

    def _find_escaped(self, text: str, read: Callable[[str], Reading | None], depth: int) -> Iterator[tuple[int, int]]:
        needles = [needle for needle in self._escaped if _longest_word(needle.text) in text]
        reading = read(text) if needles and depth else None
        if reading is None or reading.text == text:
            return
        for span in (*_find(needles, reading.text), *self._find_escaped(reading.text, read, depth - 1)):
            yield reading.source(*span)


@cache
def _field_names(kind: type[Any]) -> tuple[str, ...]:
    """Names of a dataclass's fields; none of any other type."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def holds_mark(text: str) -> bool:
    """Whether something in the text stands for a secret."""
    return bool(_PLACEHOLDER.search(text))


class RedactedStream:
    """A text that comes in pieces. What may be the beginning of a known secret waits for the next piece.

    All but the first three characters of a secret stay here, however it is split.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._gone = ""  # the last characters that went out
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may go out now."""
        text = self._gone + self._held + piece
        return self._let_go(text, self._redactor.begins_within(text))

    def close(self) -> str:
        """The rest."""
        text = self._gone + self._held
        return self._let_go(text, len(text))

    def _let_go(self, text: str, end: int) -> str:
        position = len(self._gone)
        end = max(position, end)
        pieces: list[str] = []
        for start, until in self._redactor.spans(text):
            if until > position and start < end:
                pieces += [text[position:start], MARK]
                position, end = until, max(until, end)
        pieces.append(text[position:end])
        self._gone = text[max(0, end - _MIN_HELD + 1) : end]
        self._held = text[end:]
        return "".join(pieces)


class RedactingFormatter(logging.Formatter):
    """Log lines without secrets, tracebacks included."""

    def __init__(self, form: str, redactor: Redactor) -> None:
        super().__init__(form)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The whole entry, redacted, and without what could move a terminal's cursor."""
        return clean_text(self._redactor.redact(super().format(record)))[0]


def _needle(text: str) -> _Needle:
    if len(text) < _MIN_PART or "://" in text:  # the first half of an address is mostly no secret
        return _Needle(text, text)
    return _Needle(text, text[: max(_MIN_HALF, (len(text) + 1) // 2)])


def _find(needles: Iterable[_Needle], text: str) -> Iterator[tuple[int, int]]:
    for needle in needles:
        yield from needle.find(text)


def _find_over_lines(needles: Iterable[_Needle], text: str) -> Iterator[tuple[int, int]]:
    joined = join_lines(text)
    if joined == text or not any(needle.text in joined for needle in needles):
        return  # to know where everything stands costs ten times as much
    reading = read_over_lines(text)
    for span in _find(needles, reading.text):
        yield reading.source(*span)


def _longest_word(text: str) -> str:
    """As much of a secret as is there in every spelling: letters and digits are never escaped."""
    return max(_WORDS.findall(text), key=len, default="")


def _merged(found: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Places in order; those that overlap are one, of the outer one's kind, or "" where neither is the outer one."""
    places = sorted(found, key=lambda place: (place[0], -place[1], place[2]))
    start, end, kind = places[0]
    for next_start, next_end, next_kind in places[1:]:
        if next_start >= end:
            yield start, end, kind
            start, end, kind = next_start, next_end, next_kind
        elif next_end > end:
            end, kind = next_end, ""
    yield start, end, kind


def _mark(kind: str, secret: str) -> str:
    if not kind or kind.startswith(MARK[:-1]):
        return kind or MARK
    return f"[secret:{kind} …{hashlib.sha256(secret.encode('utf-8', 'surrogatepass')).hexdigest()[:4]}]"
