"""A model's text for the arguments of a call → values that fit the tool's schema, or a clear refusal.

Parsed strictly first; then repaired, but only if the text is complete; then coerced by the schema; then checked
against it. Nothing is guessed: truncated text is refused, because half a file's content is worse than none. Where the
schema wants a string, any other value is the text that the model wrote for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lmstudio_bridge.agent.schemas import ObjectSchema
from lmstudio_bridge.json_text import written_json
from lmstudio_bridge.messages import JSONObject, is_deeper
from lmstudio_bridge.text import shortened

MAX_NESTING = 64  # levels in arguments; far below what JSON encoders on the way can take
MAX_CHECKS = 200_000  # schemas times values that they are held against; each takes a few microseconds
_CHARACTERS_A_STEP = 10_000  # messages about errors quote the values
MAX_REPAIR = 50_000  # characters; the repairer takes time in proportion
_MAX_PARENTHESES = 200  # that begin what may be a tuple of Python's, for each of which the repairer reads on to its end
_SHOWN_ABOUT = 60  # characters of the argument by which a call is told from others
_TRUE = ("true", "yes", "1")
_FALSE = ("false", "no", "0")

_FENCE = re.compile(r"```(?:json)?[ \t\r]*\n(.*?)```", re.DOTALL)
_TUPLE = re.compile(r"\(\s*[^\w\s]")
_AFTER_STRING = re.compile(r"\s*+(?:\Z|[,:}\]])")
_APOSTROPHE = re.compile(r"'[^'\"]*\w'\w")  # inside a text in single quotes
_NUMBER = re.compile(r"(?<=[:,\[])(\s*+)(-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?)(?=\s*+[,}\]])")
_ODD_NUMBER = re.compile(r"(?<=[:,\[])(\s*+)([-+]?\.?\d[\w.]*+)(?=\s*+[,}\]])")  # 007, 1_000, +5: kept as text
_ESCAPE = re.compile(r"\\u[0-9a-f]{4}|\\.", re.IGNORECASE)
_MARK = "\ue0d5"  # a private character; stands before a number while its text is repaired
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')

_ALIASES: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "path filepath filename file pathname filename absolutepath",
        "path dir directory folder dirpath folderpath directorypath",
        "query q search searchquery pattern keyword keywords term",
        "content contents text body data filecontent",
        "command cmd",
        "url uri link",
        "timezone tz",
        "id identifier",
        "message msg",
        "limit max maxresults count",
    )
)
"""Names that models use for one another; compared without case and separators."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Values to send, and what was changed to get them, in words."""

    values: dict[str, Any]
    changes: tuple[str, ...] = ()


def read_arguments(text: str, parameters: JSONObject) -> Arguments:
    """The arguments that `text` means for a tool with these parameters; none at all counts as `{}`.

    They are not checked against the schema; `find_problem` does that.

    Raises:
        ValueError: They cannot be read without guessing; says why.
    """
    changes: list[str] = []
    values, source = _read_object(text, changes)
    meant = _rename(values, parameters, changes)
    properties = parameters.get("properties", {})
    reader = _Coercion(source, changes)
    coerced = {}
    for name, value in values.items():
        known = meant.get(name, name)
        coerced[known] = reader.coerce(value, properties.get(known, {}), known, (name,))
    try:  # numbers out of range may have become strings, as with the hash 12e4567; else they cannot be sent
        json.dumps(coerced, allow_nan=False)
    except ValueError as exc:
        raise ValueError(f"they are not valid JSON ({exc}).") from None
    required = parameters.get("required", ())
    return Arguments(
        {name: value for name, value in coerced.items() if not _is_empty_option(name, value, properties, required)},
        tuple(changes),
    )


def replayable_arguments(text: str) -> str:
    """The arguments of a call as the history must hold them: one valid JSON object.

    Engines answer a history with anything else with an error, in every round (seen with llama.cpp). Valid text is
    returned byte for byte, broken text as the object that was read from it, and unreadable text as `{}`.
    """
    if _is_valid_object(text):
        return text
    try:
        values, source = _read_object(text, [])
        if _is_valid_object(source):
            return source
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return "{}"


def is_readable(text: str) -> bool:
    """Whether the text holds arguments, whole, perhaps after a repair."""
    try:
        _read_object(text, [])
    except ValueError:
        return False
    return bool(text.strip())


def find_problem(values: Mapping[str, Any], schema: ObjectSchema) -> str | None:
    """What is wrong with arguments by the schema that the model was shown; None if nothing is.

    None also where it would take too long to tell, or where the schema may refuse what the tool takes: then the
    tool's server decides.
    """
    work = schema.nodes * _count_nodes(values) * (1 + len(json.dumps(values, default=str)) // _CHARACTERS_A_STEP)
    if not schema.is_exact or work > MAX_CHECKS:
        return None
    # Imported here because it takes a tenth of the time in which the bridge starts.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from jsonschema.validators import extend

    validator = Draft202012Validator
    if schema.takes_null:
        rules = {name: _or_null(validator.VALIDATORS[name]) for name in ("type", "enum")}
        validator = extend(validator, rules)  # type: ignore[no-untyped-call]
    closed = {"additionalProperties": False} if schema.is_closed else {}
    error = best_match(validator({**schema.parameters, **closed}).iter_errors(values))
    if error is None:
        return None
    path = ".".join(map(str, error.absolute_path))
    return f"{path}: {error.message}" if path else error.message


def about_arguments(arguments: Mapping[str, Any]) -> str:
    """The first argument that is a text, in a few words: mostly a path or a name."""
    text = next((value for value in arguments.values() if isinstance(value, str)), "")
    return shortened(" ".join(text.split()), _SHOWN_ABOUT)


def read_json(text: str) -> Any:
    """The JSON value that a reply holds, perhaps in a code fence or with slips that a repair mends for sure.

    Raises:
        ValueError: There is none.
    """
    inside = _FENCE.search(text)
    candidate = (inside[1] if inside else text).strip()
    try:
        return _load(candidate)
    except ValueError as exc:
        return _load(_repair(candidate, exc))


def _or_null(rule: Callable[..., Any]) -> Callable[..., Any]:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        return rule(validator, value, instance, schema) if instance is not None else None

    return check


def _count_nodes(value: Any) -> int:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count_nodes, children))


def _read_object(text: str, changes: list[str]) -> tuple[dict[str, Any], str]:
    """The object, and the JSON text that it was read from."""
    if not text.strip():
        return {}, "{}"
    try:
        value = _load(text, finite=False)
    except ValueError as exc:
        text = _repair(text, exc)
        value = _load(text)
        changes.append("the JSON was repaired")
    if isinstance(value, str):  # encoded twice, as small models do
        with suppress(ValueError):
            value, text = _load(value, finite=False), value
    if value is None:
        return {}, "{}"
    if not isinstance(value, dict):
        raise ValueError("they must be one JSON object.")
    return value, text


def _load(text: str, *, finite: bool = True, strict: bool = False) -> Any:
    """The value that can be sent on as it is: Python reads more than JSON allows.

    Raises:
        ValueError: It cannot; also for NaN and numbers that are too large, unless they need not be `finite`.
    """
    try:
        value = json.loads(text, strict=strict)  # line breaks inside strings are plain enough
        json.dumps(value, ensure_ascii=False, allow_nan=not finite).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    if is_deeper(value, MAX_NESTING):
        raise ValueError("nested too deeply")
    return value


def _is_valid_object(text: str) -> bool:
    """Whether strict parsers take the text as one JSON object."""
    try:
        return isinstance(_load(text, strict=True), dict)
    except ValueError:
        return False


def _repair(text: str, error: ValueError) -> str:
    """The object that a slightly wrong text means, as JSON: other quotes, stray commas, words around it.

    Raises:
        ValueError: It is cut off, there is more than one, or no object comes of it.
    """
    refusal = f"they are not valid JSON ({error})."
    start = text.find("{")
    if start == -1 or len(text) > MAX_REPAIR or not isinstance(error, json.JSONDecodeError):
        raise ValueError(refusal)
    if len(_TUPLE.findall(text)) > _MAX_PARENTHESES:
        raise ValueError(refusal)
    strings: list[tuple[int, int]] = []
    end = _end_of_object(text, start, strings)
    if end is None:
        raise ValueError(f"they are not valid JSON: the text was cut off before the object's end ({error}).")
    rest = text[end:].strip()
    if "{" in rest and rest != text[start:end]:
        raise ValueError(f"they hold more than one JSON object ({error}).")
    outside = text[start:end]
    for first, last in reversed(strings):
        outside = outside[: first - start] + outside[last - start :]
    if "escape" in error.msg or "`" in outside or "undefined" in outside or _APOSTROPHE.search(text):
        raise ValueError(refusal)  # a path's \\n or an apostrophe as a quote: a repair would change the text
    from json_repair import repair_json  # few texts need it

    try:
        value = repair_json(_mark_numbers(text, start, end, strings), return_objects=True, skip_json_loads=True)
        repaired = _MARKED.sub(r"\1", json.dumps(value, ensure_ascii=False))
        _load(repaired)
    except (ValueError, RecursionError):
        raise ValueError(refusal) from None
    if not isinstance(value, dict) or (not value and text[start + 1 : end - 1].strip()):
        raise ValueError(refusal)
    if not any(mark in text for mark in ("//", "/*", "#", "\\u")) and _letters(text[start:end]) != _letters(repaired):
        raise ValueError(refusal)  # a part was left out: `'it''s'`
    return repaired


def _letters(text: str) -> str:
    """The letters and digits of JSON, also of what is nearly JSON, without its escapes."""
    return re.sub(r"[\W_]", "", _ESCAPE.sub("", text).casefold().replace("none", "null"))


def _mark_numbers(text: str, start: int, end: int, strings: list[tuple[int, int]]) -> str:
    """The object with its numbers as marked strings, so that a repair keeps their digits."""
    if _MARK in text:
        return text[start:end]
    pieces: list[str] = []
    position = start
    for first, last in [*strings, (end, end)]:
        marked = _NUMBER.sub(rf'\1"{_MARK}\2"', text[position:first])
        pieces += _ODD_NUMBER.sub(r'\1"\2"', marked), text[first:last]
        position = last
    return "".join(pieces)


def _end_of_object(text: str, start: int, strings: list[tuple[int, int]]) -> int | None:
    """Where the object that begins at `start` is closed; None if it is not, also inside an open string.

    The strings in it are added to `strings`, as where they begin and end.
    """
    depth = 0
    quote = ""
    opened = start
    escaped = False
    for position in range(start, len(text)):
        char = text[position]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = bool(quote)
        elif quote:
            if char == quote and (quote == '"' or _AFTER_STRING.match(text, position + 1)):  # an apostrophe does not
                quote = ""
                strings.append((opened, position + 1))
        elif char == '"' or (char == "'" and not text[position - 1].isalnum()):
            quote, opened = char, position
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return position + 1
    return None


def _rename(values: Mapping[str, Any], parameters: JSONObject, changes: list[str]) -> dict[str, str]:
    """The parameters that other usual names or spellings mean, where exactly one fits."""
    properties = parameters.get("properties", {})
    unknown = [name for name in values if name not in properties]
    if not unknown or not properties or parameters.get("additionalProperties"):
        return {}
    free = [name for name in properties if name not in values]
    meant: dict[str, str] = {}
    for matches in (_same_spelling, _same_meaning):
        for name in unknown:
            fitting = [other for other in free if matches(name, other)]
            rivals = [other for other in unknown if other not in meant and fitting and matches(other, fitting[0])]
            if name not in meant and len(fitting) == 1 and rivals == [name]:
                meant[name] = fitting[0]
                free.remove(fitting[0])
    changes += [f"{name} was taken as {other}" for name, other in meant.items()]
    return meant


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _same_spelling(name: str, other: str) -> bool:
    return _key(name) == _key(other)


def _same_meaning(name: str, other: str) -> bool:
    return any(_key(name) in group and _key(other) in group for group in _ALIASES)


class _Coercion:
    """Brings values into the types of a schema, where that is the same value beyond doubt.

    `source` is the JSON text of the values: a string is made of what stands there. Changes are added to `changes`.
    """

    def __init__(self, source: str, changes: list[str]) -> None:
        self._source = source
        self._changes = changes

    def coerce(self, value: Any, schema: Any, name: str, path: tuple[str | int, ...]) -> Any:
        """The value by its schema; `name` is for the reader, `path` leads to it in the source."""
        if not isinstance(schema, Mapping):
            return value
        kinds = _kinds(schema)
        if not kinds or any(kind in _IS_KIND and _IS_KIND[kind](value) for kind in kinds):
            return self._coerce_inside(value, schema, name, path)
        for kind in kinds:
            if kind == "string":
                converted = value if value is None else written_json(self._source, *path)
            else:
                converted = _TO_KIND[kind](value) if kind in _TO_KIND else value
            if converted is not value:
                self._changes.append(f"{name} was given as {type(value).__name__}")
                if kind != "string" and isinstance(value, str):
                    return _Coercion(value, self._changes)._coerce_inside(converted, schema, name, ())
                return self._coerce_inside(converted, schema, name, path)
        return value

    def _coerce_inside(self, value: Any, schema: Mapping[str, Any], name: str, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict) and isinstance(properties := schema.get("properties"), Mapping):
            return {
                key: self.coerce(item, properties.get(key, {}), f"{name}.{key}", (*path, key))
                for key, item in value.items()
            }
        if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
            return [self.coerce(item, items, f"{name}[{number}]", (*path, number)) for number, item in enumerate(value)]
        return value


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return [each for each in kind if isinstance(each, str)]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, list):
        return [each["type"] for each in choices if isinstance(each, Mapping) and isinstance(each.get("type"), str)]
    values = schema.get("enum")
    return ["string"] if isinstance(values, list) and values and all(isinstance(each, str) for each in values) else []


_IS_KIND: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _to_integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?(\d{1,18}|\d{1,3}(_\d{3}){1,5})(\.0+)?\s*", value):
        return int(float(value)) if "." in value else int(value)
    return value


def _to_number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?\s*", value):
        return float(value) if re.search(r"[.eE]", value) else int(value)
    return value


def _to_boolean(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
        return value.strip().lower() in _TRUE
    return bool(value) if value in (0, 1) and isinstance(value, int) else value


def _to_array(value: Any) -> Any:
    decoded = _decoded(value, list)
    is_item = decoded is value and isinstance(value, str) and value and not value.lstrip().startswith("[")
    return [value] if is_item else decoded


def _decoded(value: Any, kind: type) -> Any:
    """What a text holds as JSON, if it is of that type; else the value itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            if isinstance(decoded := _load(value), kind):
                return decoded
    return value


_TO_KIND: Mapping[str, Callable[[Any], Any]] = {
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "array": _to_array,
    "object": lambda value: _decoded(value, dict),
}


def _is_empty_option(name: str, value: Any, properties: Mapping[str, Any], required: Any) -> bool:
    """Whether it is null for an optional parameter that does not take null: the same as leaving it out."""
    schema = properties.get(name)
    takes_null = not isinstance(schema, Mapping) or not _kinds(schema) or "null" in _kinds(schema)
    return value is None and name not in required and not takes_null
