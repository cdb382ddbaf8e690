"""JSON as people write it, with comments; and its parts as they are written, kept byte for byte."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # models write raw line breaks in strings
_BETWEEN = re.compile(r"[\s,:]*+")  # two values of valid JSON
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_COMMENT = re.compile(rf"({_STRING})|//[^\r\n]*+|/\*.*?\*/|(/\*.*)", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING}|[\[{{,]\s*+,)|,(?=\s*+[}}\]])", re.DOTALL)  # not that of `[,]`
_IN_LINE = re.compile(r"[^\r\n]")


def load_commented(text: str) -> Any:
    """The value of JSON that may have comments and trailing commas, as many editors allow them (JSONC).

    Raises:
        json.JSONDecodeError: It is something else; the position is that in `text`.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass  # blanks take the place of what plain JSON does not have, so that positions stay
    plain = _COMMENT.sub(lambda match: match[1] or _IN_LINE.sub(" ", match[0]), text)
    plain = _TRAILING_COMMA.sub(lambda match: match[1] or " ", plain)
    try:
        return json.loads(plain)
    except json.JSONDecodeError as exc:
        unclosed = next((match.start() for match in _COMMENT.finditer(text) if match[2]), None)
        if unclosed is None or exc.pos < len(plain[:unclosed].rstrip()):
            raise
        raise json.JSONDecodeError("Unclosed comment starting", text, unclosed) from exc


def load_or_none(text: str | bytes) -> Any:
    """The value of JSON; None also where the text is something else, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Child:
    """A member of an object or an element of a list, by its place in the text; an element begins with its value."""

    key: str | int
    start: int
    value: int
    end: int


def find_children(source: str, opening: int) -> tuple[list[Child], int]:
    """What is in the object or list that opens there, and where it closes. The text is valid JSON."""
    found: list[Child] = []
    position = skip(source, opening + 1)
    while source[position] not in "}]":
        start = position
        key: str | int = len(found)
        if source[opening] == "{":
            key, position = _DECODER.raw_decode(source, start)
            position = skip(source, position)
        _, end = _DECODER.raw_decode(source, position)
        found.append(Child(key, start, position, end))
        position = skip(source, end)
    return found, position


def written_json(source: str, *path: str | int) -> str:
    """The value at a path of valid JSON as it is written there; of two members of one name, the last one counts."""
    position = skip(source, 0)
    for step in path:
        found = (child.value for child in reversed(find_children(source, position)[0]) if child.key == step)
        position = next(found, position)
    _, end = _DECODER.raw_decode(source, position)
    return source[position:end]


def written_items(source: str) -> list[str]:
    """The elements of a valid JSON list, each as it is written."""
    return [source[child.value : child.end] for child in find_children(source, skip(source, 0))[0]]


def skip(source: str, position: int) -> int:
    """Where the next value, or the end of what holds it, begins in valid JSON."""
    match = _BETWEEN.match(source, position)
    assert match is not None  # it matches the empty text
    return match.end()
