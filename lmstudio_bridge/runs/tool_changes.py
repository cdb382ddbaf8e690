"""What has changed about the tools that a server lists: what a reader would call a change, and each only once.

What a server writes anew at each start is none: times, counts, IDs, and the order of what may come from a set.
"""

from __future__ import annotations

import hashlib
import json
import re
from calendar import day_abbr, day_name, month_abbr, month_name
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from lmstudio_bridge.agent.schemas import SchemaWork, object_schema
from lmstudio_bridge.agent.tools import MAX_DESCRIPTION, definition_chars
from lmstudio_bridge.agent.untrusted import MAX_INSTRUCTIONS
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.text import clean_text

_SHOWN_TOOLS = 8  # of each kind of change
_SHOWN_NAME = 60  # characters of a tool's name
_MAX_WORK = 20_000  # schemas looked at to compare the tools of a server; honest ones have some hundred
_SEEN = 32  # digests of what a tool once looked like
_ITEM = re.compile(r"[^\s,;|\"{}()\[\]]+")  # of a list in a default
_BLANKS = re.compile(r"[^\S\n]+")
_QUOTED = re.compile(r"`[^`\n]*`|\"[^\"\n]*\"|(?<!\w)'[^'\n]*'(?!\w)")
_BRACKETS = re.compile(r"[{\[](?:[^{}\[\]()]++|\([^{}\[\]()]*+\))*+[}\]]")
_PARENTHESES = re.compile(r"\([^()]*\)")
_MAX_BRACKETS = 16  # levels
_SLASHES = re.compile(r"(?<![^\s,;|])\w++(?:(?:/|\s/\s)\w++)+(?![/\w]|\.\w)")  # csv/json, but no path
_LINES = re.compile(r"\s*\n\s*(?:[-*•+]\s+)?")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_SEPARATOR = re.compile(r"[,;|]\s*+(?:(?:and|or)\b\s*+)?|(?<!\s)\s++(?:and|or)\s++")
_TOKEN = re.compile(rf"({_SEPARATOR.pattern}|\n\s*(?:[-*•+]\s+)?)|\w+|[^\w\s]")
_LEADS = re.compile(r"\b(?:never|not|no|don|only|without|unless|except|avoid|cannot|first)\b", re.IGNORECASE)
_TAILS = re.compile(r"\b(?:never|not|no|cannot)\b", re.IGNORECASE)
"""Words that mean something else where another item is beside them: `Never delete files, ask`."""
_MAX_LEAD = 6  # words that the first items, or the last ones, of both lists may have in common
_MAX_CHANGED = 20  # lines
_GLUE = {ord(letter): 0xE000 + ord(letter) for letter in " \t\n,;|/:.(){}[]"}  # to what separates nothing
_MADE_UP = re.compile(r"(?=.*[\d/\\_-]|.*[a-z][A-Z]).{1,200}")  # by a program: paths, IDs, names such as happy-panda
_MAX_MADE_UP = 16
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")  # their keys are names of others
_MAX_WHOLE = 50_000  # characters of a tool of which all is compared: takes 50 ms
_ZONES = "UTC|GMT|BST|[ECMP][SD]T|[CEW]ES?T"
_DATES = "|".join(filter(None, (*month_name, *month_abbr, *day_name, *day_abbr, "AM", "PM", _ZONES)))
_UNIT = (
    r"(?:[kKMGT]?i?B|bytes?|ms|(?:milli)?s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?"
    r"|(?:week|month|year)s?)\b"
)
_AMOUNT = rf"(?:(?<![\w.,])\d[\d.,]*+|\b(?:an?|one)(?=\s))\s?{_UNIT}"
_AMOUNTS = rf"{_AMOUNT}(?:,?(?: and)? {_AMOUNT}){{0,3}}"
_PASSED = re.compile(
    rf"(\b(?i:up|uptime|running)\b:?(?: for| is)? ){_AMOUNTS}|{_AMOUNTS}(?= (?i:ago|left|remaining|free)\b)"
)
"""Amounts whose unit may change, too: `Up for 2 hours`, but not `up to 5 seconds`."""
_VARYING = re.compile(rf"(?<!\w)[^\W\d]*+\d(?:[\w.:+-]*\w)?|\b(?:{_DATES})\b")
"""Times, dates, counts and IDs: no change."""
_MEASURED = re.compile(rf"(\d[\d.]*)({_UNIT})")
_IN_WORDS = re.compile(rf"(?<![^\W\d_])(?!(?:[a-fA-F]+|{_DATES})(?![^\W\d_]))[^\W\d_]{{4}}")
"""What is no number, but a word: not so in hexadecimal digits and dates."""
_MAX_NUMBER = 72  # characters
_ZEROS = re.compile(  # 1 h 2 min; 1 note, 2 notes
    r"\b0(?:,?(?: and)? 0){1,3}\b|(?<=\b0 )(?P<noun>\w{2,}?)(?:ies|s|(?<![aeiou])y)?\b"
)

_MARKED = "Newly marked as read-only (they count as writing until one of your rules allows them)"
_UNMARKED = "No longer marked as read-only"
_DESCRIPTION = "Different description"
_ARGUMENTS = "Different arguments"
_ANNOTATIONS = "Different annotations"
INSTRUCTIONS = "Different instructions for their use"
_NEW = "New"
_ORDER = (_MARKED, _UNMARKED, _DESCRIPTION, _ARGUMENTS, _ANNOTATIONS, INSTRUCTIONS, _NEW)


class ToolHistory(BaseModel):
    """What is remembered of a tool for as long as the file exists.

    `unmarked` says that it was, or may have been, listed without a read-only mark at least once, `seen` has digests of
    what it looked like.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    unmarked: bool
    seen: tuple[str, ...] = ()


def tool_key(tool: ServerTool) -> str:
    """What stands for a tool in the history: of the same length for every name."""
    return _digest(tool.name)


def compare_tools(
    now: Mapping[str, ServerTool], *, listed: Iterable[ServerTool], history: Mapping[str, ToolHistory], complete: bool
) -> tuple[dict[str, ToolHistory], dict[str, list[str]]]:
    """The history with the tools as they are now, and the names of the tools for each kind of change.

    `now` has the tools by `tool_key`, `listed` are those of the last listing; unless `complete`, there were more tools
    than the `history` has.
    """
    history = dict(history)
    changes: dict[str, list[str]] = {}
    work = SchemaWork(_MAX_WORK)
    last = {tool_key(tool): tool for tool in listed}
    for key, tool in now.items():
        past = history.get(key)
        looks = _looks(tool, past, last.get(key), work)
        kinds = [_NEW] if past is None else _kinds(past, tool, looks)
        for kind in kinds:
            changes.setdefault(kind, []).append(tool.name)
        current = list(dict.fromkeys(look for each in looks.values() for look in each))
        seen = [look for look in past.seen if look not in current] if past else []
        history[key] = ToolHistory(
            unmarked=tool.read_only is not True or (not complete if past is None else past.unmarked),
            seen=(*seen, *current)[-_SEEN:],
        )
    return history, changes


def compare_instructions(said: ServerTool, *, last: str, seen: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The digests with that of the instructions as they are now, and whether those are new: as a tool's description."""
    key = tool_key(said)
    past = {key: ToolHistory(unmarked=True, seen=seen)} if seen else {}
    history, changes = compare_tools({key: said}, listed=[replace(said, description=last)], history=past, complete=True)
    return history[key].seen, _DESCRIPTION in changes


def explain_changes(server: str, changes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A warning for the user; none if nothing has changed."""
    if not changes:
        return ()
    told = [
        f"{kind}: {_names(names)}." if (names := changes[kind]) else f"{kind}." for kind in _ORDER if kind in changes
    ]
    advice = "" if set(changes) == {_NEW} else " Check whether you still trust it."
    return (f"The tools of MCP server '{server}' have changed. {' '.join(told)}{advice}",)


def _names(names: Sequence[str]) -> str:
    """Names for a reader, quoted: a server chooses them, so they must not look like our own text."""
    shown = ["".join(letter for letter in name if letter.isprintable())[:_SHOWN_NAME] for name in names[:_SHOWN_TOOLS]]
    more = f" and {len(names) - _SHOWN_TOOLS} more" if len(names) > _SHOWN_TOOLS else ""
    return f"{', '.join(map(repr, shown))}{more}"


def _looks(
    tool: ServerTool, past: ToolHistory | None, last: ServerTool | None, work: SchemaWork
) -> Mapping[str, Sequence[str]]:
    """For each kind of change, digests that must all be new for it.

    The first is of what the model is shown. If that is new, the second is of all that the server says without the IDs
    that have changed; or it is the last one again, if only the order of a list is new. Such a list may be cut for the
    model, so all of it is compared.
    """
    shown = _unordered(object_schema(tool.input_schema, work=work).parameters) if work.left > 0 else tool.input_schema
    looks = {
        _DESCRIPTION: ["F" + _digest(_description(tool))],
        _ARGUMENTS: ["C" + _digest(json.dumps(shown, sort_keys=True))],
        _ANNOTATIONS: ["h" + _digest(json.dumps(dict(tool.hints), sort_keys=True))],
        _MARKED if tool.read_only is True else _UNMARKED: ["m1" if tool.read_only is True else "m0"],
    }
    if last is None or definition_chars(tool) > _MAX_WHOLE:
        return looks
    for kind, parts in (
        (_DESCRIPTION, [{"title": each.title, "description": each.description} for each in (tool, last)]),
        (_ARGUMENTS, [each.input_schema for each in (tool, last)]),
    ):
        if past and looks[kind][0] not in past.seen:
            rest = _without_made_up(*(json.dumps(_unordered(part), sort_keys=True) for part in parts))
            looks[kind] += [looks[kind][0][0] + _digest(rest)] if rest else []
            looks[kind] += [look for look in past.seen if look[0] == looks[kind][0][0]] if _same(*parts) else []
    return looks


def _kinds(past: ToolHistory, tool: ServerTool, looks: Mapping[str, Sequence[str]]) -> list[str]:
    """What has changed about a tool since it was listed before; nothing that it has been before."""
    if not past.seen:  # the file was too large for it
        return [_MARKED] if tool.read_only is True and past.unmarked else []
    compared = {look[0] for look in past.seen}  # earlier versions made other digests
    return [kind for kind, each in looks.items() if each[0][0] in compared and not set(each) & set(past.seen)]


def _description(tool: ServerTool) -> str:
    text = clean_text(tool.description)[0]
    shown = text[:MAX_DESCRIPTION] if tool.name else text.strip()[:MAX_INSTRUCTIONS]  # which are of no tool
    return f"{_unordered_text(tool.title)}\n{_unordered_text(shown)}"


def _without_made_up(text: str, before: str) -> str:
    """The text without the words that changed, if only a few did and all look as if a program made them up; or ""."""
    words, old = (each.replace("\\n", " ").split() for each in (text, before))  # a line break is two letters in JSON
    changed = [number for number, pair in enumerate(zip(words, old, strict=False)) if len(set(pair)) > 1]
    if (
        len(words) != len(old)
        or not 0 < len(changed) <= _MAX_MADE_UP
        or not all(_MADE_UP.fullmatch(each[number]) for number in changed for each in (words, old))
    ):
        return ""
    return " ".join("" if number in changed else word for number, word in enumerate(words))


def _unordered(schema: Any) -> Any:
    """The schema without the order of what may come from a Python set, and without times and IDs."""
    match schema:
        case dict():
            return {key: _unordered_value(key, value) for key, value in schema.items()}
        case list():
            return sorted(map(_unordered, schema), key=lambda each: json.dumps(each, sort_keys=True))
        case _:
            return schema


def _unordered_value(key: str, value: Any) -> Any:
    match key, value:
        case "description" | "title", str():
            return _unordered_text(value)
        case "default", _:
            text = _without_numbers(json.dumps(value).replace("\\n", " "))
            return sorted(filter(None, (item.strip(".:'") for item in _ITEM.findall(text))))
        case _, dict() if key in _BY_NAME:
            return {name: _unordered(each) for name, each in value.items()}
        case _:
            return _unordered(value)


def _unordered_text(text: str) -> str:
    """The text with its lines in one order, and what is in brackets and between slashes."""
    text = _ZEROS.sub(lambda found: found["noun"] or "0", _without_numbers(_BLANKS.sub(" ", text)))
    text = _QUOTED.sub(lambda found: found[0].translate(_GLUE), text)
    for _ in range(_MAX_BRACKETS):
        text, count = _BRACKETS.subn(_sorted_brackets, text)
        if not count:
            break
    return "\n".join(sorted(_LINES.split(_SLASHES.sub(lambda found: _glued(found[0].split("/")), text))))


def _without_numbers(text: str) -> str:
    """The text with zeros in their place, and with their units; but for amounts that change while a server runs."""
    return _VARYING.sub(_zero, _PASSED.sub(lambda found: f"{found[1] or ''}0", text))


def _zero(found: re.Match[str]) -> str:
    number = found[0]
    if measured := _MEASURED.fullmatch(number):
        return f"0 {measured[2]}"
    return number if len(number) > _MAX_NUMBER or _IN_WORDS.search(number) else "0"


def _sorted_brackets(found: re.Match[str]) -> str:
    inner = _PARENTHESES.sub(lambda each: each[0].translate(_GLUE), found[0][1:-1])
    return _glued(_SEPARATOR.split(inner.replace("\n", ",")))


def _glued(items: Iterable[str]) -> str:
    return " ".join(sorted(filter(None, (item.strip() for item in items)))).translate(_GLUE)


def _same(one: Any, other: Any, key: str = "") -> bool:
    """Whether two schemas differ at most in the order of what may come from a set; words stay in their items."""
    match one, other:
        case str(), str() if key in ("description", "title"):
            return _is_reordered(_unordered_text(one), _unordered_text(other))
        case dict(), dict():
            return one.keys() == other.keys() and all(
                _same(value, other[name], "" if key in _BY_NAME else name) for name, value in one.items()
            )
        case list(), list():
            return _unordered(one) == _unordered(other) or (len(one) == len(other) and all(map(_same, one, other)))
        case _:
            return bool(_unordered_value(key, one) == _unordered_value(key, other))


def _is_reordered(one: str, other: str, splits: Sequence[re.Pattern[str]] = (_LINES, _SENTENCES)) -> bool:
    """Whether one text has the same lists as the other, perhaps in another order."""
    if one == other or _is_permuted(one, other):
        return True
    if not splits:
        return False
    old, new = Counter(splits[0].split(one)), Counter(splits[0].split(other))
    left, right = list((old - new).elements()), list((new - old).elements())
    if len(left) != len(right) or len(left) > _MAX_CHANGED:
        return False
    for part in left:
        partner = next((each for each in right if _is_reordered(part, each, splits[1:])), None)
        if partner is None:
            return False
        right.remove(partner)
    return True


def _is_permuted(one: str, other: str) -> bool:
    """Whether the texts are equal but for the order of the items of one list."""
    old, new = _tokens(one), _tokens(other)
    if old == new:
        return True  # but for white space
    if Counter(old) != Counter(new):
        return False
    start = next(number for number, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
    end = next(number for number, pair in enumerate(zip(old[::-1], new[::-1], strict=True)) if pair[0] != pair[1])
    for begin in range(start, max(start - _MAX_LEAD, 0) - 1, -1):
        for rest in range(end, max(end - _MAX_LEAD, 0) - 1, -1):
            stop = len(old) - rest
            if sorted(_items(old[begin:stop])) == sorted(_items(new[begin:stop])):
                lead = " ".join(_items(old[:begin])[-1]).rpartition(":")[2]
                tail = " ".join(_items(old[stop:])[0])
                return not (_LEADS.search(lead) or _TAILS.search(tail))
    return False


def _tokens(text: str) -> list[str]:
    return ["," if found[1] else found[0] for found in _TOKEN.finditer(text)]


def _items(tokens: Iterable[str]) -> list[list[str]]:
    items: list[list[str]] = [[]]
    for token in tokens:
        if token == ",":
            items.append([])
        else:
            items[-1].append(token)
    return items


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
