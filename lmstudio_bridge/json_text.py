"""JSON as people write it, with comments; and its parts as they are written, kept byte for byte."""

from __future__ import annotations

import json
import re
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


def written_json(source: str, *path: str | int) -> str:
    """The value at a path of valid JSON as it is written there; of two members of one name, the last one counts."""
    position = _skip(source, 0)
    for step in path:
        position = _find_child(source, position, step)
    _, end = _DECODER.raw_decode(source, position)
    return source[position:end]


def written_items(source: str) -> list[str]:
    """The elements of a valid JSON list, each as it is written."""
    items: list[str] = []
    position = _skip(source, _skip(source, 0) + 1)
    while source[position] != "]":
        _, end = _DECODER.raw_decode(source, position)
        items.append(source[position:end])
        position = _skip(source, end)
    return items


def _find_child(source: str, position: int, step: str | int) -> int:
    """Where a member or an element of the object or list at `position` begins."""
    found = position
    position += 1
    number = 0
    while True:
        position = _skip(source, position)
        if source[position] in "}]":
            return found
        key, position = _DECODER.raw_decode(source, position) if isinstance(step, str) else (number, position)
        position = _skip(source, position)
        if key == step:
            found = position
        _, position = _DECODER.raw_decode(source, position)
        number += 1


def _skip(source: str, position: int) -> int:
    match = _BETWEEN.match(source, position)
    assert match is not None  # it matches the empty text
    return match.end()
