"""A model's text for the arguments of a call → values that fit the tool's schema, or a clear refusal.

Parsed strictly first; then repaired, but only if the text is complete; then coerced by the schema; then checked
against it. Nothing is guessed: truncated text is refused, because half a file's content is worse than none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lmstudio_bridge.agent.schemas import ObjectSchema
from lmstudio_bridge.messages import JSONObject, is_deeper

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
    values = _read_object(text, changes)
    values = _rename(values, parameters, changes)
    properties = parameters.get("properties", {})
    coerced = {name: _coerce(value, properties.get(name, {}), name, changes) for name, value in values.items()}
    required = parameters.get("required", ())
    return Arguments(
        {name: value for name, value in coerced.items() if not _is_empty_option(name, value, properties, required)},
        tuple(changes),
    )


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
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_ABOUT else f"{words[:_SHOWN_ABOUT]}…"


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
        return _repair(candidate, exc)


def _or_null(rule: Callable[..., Any]) -> Callable[..., Any]:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        return rule(validator, value, instance, schema) if instance is not None else None

    return check


def _count_nodes(value: Any) -> int:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count_nodes, children))


def _read_object(text: str, changes: list[str]) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = _load(text)
    except ValueError as exc:
        value = _repair(text, exc)
        changes.append("the JSON was repaired")
    if isinstance(value, str):  # encoded twice, as small models do
        with suppress(ValueError):
            value = _load(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("they must be one JSON object.")
    return value


def _load(text: str) -> Any:
    """The value that can be sent on as it is: Python reads more than JSON allows.

    Raises:
        ValueError: It cannot.
    """
    try:
        value = json.loads(text, strict=False)  # line breaks inside strings are plain enough
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    if is_deeper(value, MAX_NESTING):
        raise ValueError("nested too deeply")
    return value


def _repair(text: str, error: ValueError) -> dict[str, Any]:
    """The object that a slightly wrong text means: other quotes, stray commas, words around it.

    Raises:
        ValueError: It is cut off, or no object comes of it.
    """
    refusal = f"they are not valid JSON ({error})."
    start = text.find("{")
    if start == -1 or len(text) > MAX_REPAIR or not isinstance(error, json.JSONDecodeError):
        raise ValueError(refusal)
    if len(_TUPLE.findall(text)) > _MAX_PARENTHESES:
        raise ValueError(refusal)
    end = _end_of_object(text, start)
    if end is None:
        raise ValueError(f"they are not valid JSON: the text was cut off before the object's end ({error}).")
    if "escape" in error.msg or _APOSTROPHE.search(text):
        raise ValueError(refusal)  # a path's \\n or an apostrophe as a quote: a repair would change the text
    from json_repair import repair_json  # few texts need it

    try:
        value = _load(json.dumps(repair_json(text[start:end], return_objects=True, skip_json_loads=True)))
    except (ValueError, RecursionError):
        raise ValueError(refusal) from None
    if not isinstance(value, dict) or (not value and text[start + 1 : end - 1].strip()):
        raise ValueError(refusal)
    return value


def _end_of_object(text: str, start: int) -> int | None:
    """Where the object that begins at `start` is closed; None if it is not, also inside an open string."""
    depth = 0
    quote = ""
    escaped = False
    for position in range(start, len(text)):
        char = text[position]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = bool(quote)
        elif quote:
            if char == quote and (quote == '"' or _closes(text, position)):
                quote = ""
        elif char == '"' or (char == "'" and not text[position - 1].isalnum()):
            quote = char
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return position + 1
    return None


def _closes(text: str, position: int) -> bool:
    """Whether a single quote ends a string here: an apostrophe has a letter after it."""
    return _AFTER_STRING.match(text, position + 1) is not None


def _rename(values: dict[str, Any], parameters: JSONObject, changes: list[str]) -> dict[str, Any]:
    """Parameters under another usual name or spelling get their own, where exactly one fits."""
    properties = parameters.get("properties", {})
    unknown = [name for name in values if name not in properties]
    if not unknown or not properties or parameters.get("additionalProperties"):
        return values
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
    return {meant.get(name, name): value for name, value in values.items()}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _same_spelling(name: str, other: str) -> bool:
    return _key(name) == _key(other)


def _same_meaning(name: str, other: str) -> bool:
    return any(_key(name) in group and _key(other) in group for group in _ALIASES)


def _coerce(value: Any, schema: Any, name: str, changes: list[str]) -> Any:
    """The value in the type that the schema names, where that is the same value beyond doubt."""
    if not isinstance(schema, Mapping):
        return value
    kinds = _kinds(schema)
    if not kinds or any(_IS_KIND.get(kind, _never)(value) for kind in kinds):
        return _coerce_inside(value, schema, name, changes)
    for kind in kinds:
        converted = _TO_KIND.get(kind, _same)(value)
        if converted is not value:
            changes.append(f"{name} was given as {type(value).__name__}")
            return _coerce_inside(converted, schema, name, changes)
    return value


def _coerce_inside(value: Any, schema: Mapping[str, Any], name: str, changes: list[str]) -> Any:
    if isinstance(value, dict) and isinstance(properties := schema.get("properties"), Mapping):
        return {key: _coerce(item, properties.get(key, {}), f"{name}.{key}", changes) for key, item in value.items()}
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        return [_coerce(item, items, f"{name}[{number}]", changes) for number, item in enumerate(value)]
    return value


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    choices = schema.get("anyOf")
    if isinstance(choices, list):
        return [each["type"] for each in choices if isinstance(each, Mapping) and isinstance(each.get("type"), str)]
    return []


def _never(_: Any) -> bool:
    return False


def _same(value: Any) -> Any:
    return value


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
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}(\.0+)?\s*", value):
        return int(float(value)) if "." in value else int(value)
    return value


def _to_number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(\.\d+)?([eE][+-]?\d{1,2})?\s*", value):
        return float(value) if re.search(r"[.eE]", value) else int(value)
    return value


def _to_boolean(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
        return value.strip().lower() in _TRUE
    return bool(value) if value in (0, 1) and isinstance(value, int) else value


def _to_string(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _to_array(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            if isinstance(decoded := _load(value), list):
                return decoded
        return [value] if value and not value.lstrip().startswith("[") else value
    return value


def _to_object(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            if isinstance(decoded := _load(value), dict):
                return decoded
    return value


_TO_KIND: Mapping[str, Callable[[Any], Any]] = {
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "string": _to_string,
    "array": _to_array,
    "object": _to_object,
}


def _is_empty_option(name: str, value: Any, properties: Mapping[str, Any], required: Any) -> bool:
    """Whether it is null for an optional parameter that does not take null: the same as leaving it out."""
    schema = properties.get(name)
    takes_null = not isinstance(schema, Mapping) or not _kinds(schema) or "null" in _kinds(schema)
    return value is None and name not in required and not takes_null
