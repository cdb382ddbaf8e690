"""Changes one member of a JSON text and keeps every other byte.

Other programs own these files, so their order, indentation and number formats stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lmstudio_bridge.json_text import Child, find_children, skip
from lmstudio_bridge.messages import JSONObject

_FIRST_INDENT = re.compile(r"\n([ \t]+)[^ \t\r\n]")


def read_root(text: str) -> JSONObject:
    """The object that a file holds; an empty file counts as an empty object.

    Raises:
        ValueError: The text is not valid JSON, or not an object.
    """
    if not text.strip():
        return {}
    try:
        root = json.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(root, dict):
        raise ValueError("it is not a JSON object")
    return root


def find_member(root: JSONObject, keys: Sequence[str]) -> object:
    """The value at that path of keys; None if there is none.

    Raises:
        ValueError: A value on the path is not an object.
    """
    value: object = root
    for key in keys:
        if not isinstance(value, dict):
            raise ValueError(f"the parent of {key!r} is not an object")
        if key not in value:
            return None
        value = value[key]
    return value


def set_member(text: str, keys: Sequence[str], value: JSONObject) -> str:
    """The text with `value` at that path of keys; missing objects on the path are created.

    Raises:
        ValueError: The text, or a value on the path, is not a JSON object.
    """
    root = read_root(text)
    find_member(root, keys)
    if not root and not text.strip():
        text = "{}\n"
    opening, rest = skip(text, 0), list(keys)
    while True:
        members, closing = find_children(text, opening)
        key = rest.pop(0)
        member = _last(members, key)
        if member is None:
            for outer in reversed(rest):
                value = {outer: value}
            return _insert(text, opening, closing, members, key, value)
        if not rest:
            indent = _indent_of(text, member.start) if "\n" in text[member.value : member.end] else None
            return text[: member.value] + _render(value, text, indent) + text[member.end :]
        opening = member.value


def remove_member(text: str, keys: Sequence[str]) -> str:
    """The text without the member at that path of keys; the same text if there is none.

    Raises:
        ValueError: The text, or a value on the path, is not a JSON object.
    """
    if find_member(read_root(text), keys) is None:
        return text
    opening = skip(text, 0)
    for key in keys[:-1]:
        member = _last(find_children(text, opening)[0], key)
        assert member is not None
        opening = member.value
    while True:  # an object may have the same key twice
        members, closing = find_children(text, opening)
        member = _last(members, keys[-1])
        if member is None:
            return text
        index = members.index(member)
        if len(members) == 1:
            start, end = opening + 1, closing
        elif index == len(members) - 1:
            start, end = members[index - 1].end, member.end
        else:
            start, end = member.start, members[index + 1].start
        text = text[:start] + text[end:]


def _last(members: Sequence[Child], key: str) -> Child | None:
    """The last member with that key, which is the one that JSON parsers use."""
    return next((member for member in reversed(members) if member.key == key), None)


def _insert(text: str, opening: int, closing: int, members: Sequence[Child], key: str, value: JSONObject) -> str:
    newline = _newline(text)
    name = json.dumps(key, ensure_ascii=False)
    if members:
        indent = _indent_of(text, members[0].start)
        separator = "," + (f"{newline}{indent}" if indent is not None else " ")
        end = members[-1].end
        return f"{text[:end]}{separator}{name}: {_render(value, text, indent)}{text[end:]}"
    if "\n" not in text.strip() and text.strip() != "{}":  # a file on one line stays on one line
        return f"{text[: opening + 1]}{name}: {_render(value, text, None)}{text[closing:]}"
    around = re.compile(r"[ \t]*").match(text, text.rfind("\n", 0, opening) + 1)
    assert around is not None
    indent = around[0] + _unit(text)
    member = f"{newline}{indent}{name}: {_render(value, text, indent)}{newline}{around[0]}"
    return f"{text[: opening + 1]}{member}{text[closing:]}"


def _indent_of(text: str, position: int) -> str | None:
    """The indentation of the line at this position; None on the first line or if there is other text before it."""
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return before if "\n" in text[:position] and not before.strip(" \t") else None


def _unit(text: str) -> str:
    """The indentation of one level; two spaces if the text has none."""
    match = _FIRST_INDENT.search(text)
    return match[1] if match else "  "


def _render(value: JSONObject, text: str, indent: str | None) -> str:
    """The value as JSON in the style of the text: indented over several lines, or on one line if `indent` is None."""
    if indent is None:
        return json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return (_newline(text) + indent).join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
