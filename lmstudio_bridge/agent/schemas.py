"""JSON Schemas of tools, made safe to send to a local engine.

LM Studio's engines turn schemas into grammars and fail the whole request at one that they cannot
read: llama.cpp at look-arounds in `pattern`, huge `maxLength` or `maxItems` and odd formats, MLX at a
list in `type`; references are not resolved. What is left out here is checked by the tool's own server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from lmstudio_bridge.messages import JSONObject, ToolSpec
from lmstudio_bridge.text import clean_text, shortened

MAX_NODES = 2_000  # schemas in one schema; each costs the model's context, and references can multiply without end
MAX_WORK = 200_000  # schemas looked at for all tools of a run; honest ones have some thousand
_MAX_HOPS = 16  # references that lead to nothing but the next one
_DEPTHS = (12, 8, 6, 4, 3, 2, 1)  # of nesting, references followed; deeper becomes "anything"
_MAX_ENUM = 4_000  # characters of an enum's values; a longer list is left out
_MAX_DEFAULT = 200  # characters of a default value as JSON; a longer one is not shown
_MAX_NUMBER = 2**53  # beyond, engines disagree about what a number is
_MAX_DESCRIPTION = 1_024  # characters
_MAX_RAW_DESCRIPTION = 16_384  # characters, before what cannot be seen is taken out
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_UNIONS = ("anyOf", "oneOf")
_COMBINING = frozenset((*_UNIONS, "allOf"))
_OBJECTS = (dict, Mapping)  # nearly all are dicts, and isinstance is much faster for those


@dataclass(slots=True)
class SchemaWork:
    """How many schemas may still be looked at, for all tools of a run together."""

    left: int = MAX_WORK


@dataclass(frozen=True, slots=True)
class ObjectSchema:
    """A tool's parameters in the form that every engine takes: a plain object schema.

    `chars` is its length as JSON. `nodes` is how many schemas it was made of. With `is_closed`, the tool takes no
    other arguments than these. With `takes_null`, "or null" was left out somewhere. Without `is_exact`, it
    may refuse what the tool takes, so arguments cannot be checked against it.
    """

    parameters: dict[str, Any]
    chars: int
    nodes: int = 1
    is_closed: bool = False
    takes_null: bool = False
    is_exact: bool = True


def object_schema(schema: JSONObject, *, work: SchemaWork | None = None) -> ObjectSchema:
    """The same parameters in the form that every engine takes.

    Never more than about `MAX_NODES` schemas: one that would be larger is cut at a smaller depth. Where no
    `work` is left, it takes any arguments.
    """
    cleaned: dict[str, Any] = {}
    work = work or SchemaWork()
    cleaner = _Cleaner(schema, 0)
    for depth in _DEPTHS:
        if work.left <= 0:
            cleaned = {}
            break
        cleaner = _Cleaner(schema, depth)
        cleaned = cleaner.clean(schema)
        work.left -= cleaner.nodes
        if cleaner.nodes <= MAX_NODES:
            break
    is_closed = cleaned.get("additionalProperties") is False
    properties, required = cleaned.get("properties", {}), cleaned.get("required", [])
    if not properties and "anyOf" in cleaned:  # a choice between several forms: every name is offered, none required
        properties = {name: each for form in cleaned["anyOf"] for name, each in form.get("properties", {}).items()}
    result = _tidy({"type": "object", "properties": properties, "required": required})
    text = json.dumps(result)
    if "\\ud" in text:  # perhaps lone surrogates, which JavaScript leaves where it cuts a text
        result = json.loads(json.dumps(result, ensure_ascii=False).encode("utf-8", "replace"))
        text = json.dumps(result)
    return ObjectSchema(result, len(text), cleaner.nodes, is_closed, cleaner.dropped_null, cleaner.is_exact)


class _Cleaner:
    """Cleans one tool's schema down to a depth, and counts the schemas that it makes."""

    def __init__(self, root: JSONObject, max_depth: int) -> None:
        self._root = root
        self._max_depth = max_depth
        self.nodes = 0
        self.dropped_null = False
        self.is_exact = True

    def clean(self, schema: Any, depth: int = 0, path: frozenset[str] = frozenset({"#"})) -> dict[str, Any]:
        """`schema` with the references that do not lead back to themselves; `path` are those on the way here.

        The schemas below it are tidy; it may become a part of another before it is.
        """
        self.nodes += 1
        if not isinstance(schema, _OBJECTS) or depth > self._max_depth or self.nodes > MAX_NODES:
            return {}
        if "$ref" in schema:
            schema, path = self._resolve(schema, path)
        cleaned: dict[str, Any] = {}
        for key, value in schema.items():
            if read := _READERS.get(key):
                if (plain := read(value)) is not None:
                    cleaned["enum" if key == "const" else key] = plain
            elif key == "properties" and isinstance(value, _OBJECTS):
                cleaned[key] = {
                    str(name): _tidy(self.clean(each, depth + 1, path))
                    for name, each in value.items()
                    if self.nodes <= MAX_NODES and not clean_text(str(name))[1]  # a name must be sent as it is
                }
                self.is_exact = self.is_exact and len(cleaned[key]) == len(value)
            elif key == "items" and isinstance(value, list | tuple) and value:  # the tuple form of older drafts
                cleaned[key] = _tidy(self.clean(value[0], depth + 1, path))
                self.is_exact = False
            elif key == "patternProperties":
                self.is_exact = False
            elif key in ("items", "additionalProperties") and isinstance(value, _OBJECTS):
                cleaned[key] = _tidy(self.clean(value, depth + 1, path))
            elif key == "additionalProperties" and isinstance(value, bool):
                cleaned[key] = value
            elif key in _COMBINING and isinstance(value, list | tuple):
                cleaned[key] = [self.clean(each, depth + 1, path) for each in value if self.nodes <= MAX_NODES]
        if isinstance(cleaned.get("type"), list):
            self.dropped_null = self.dropped_null or "null" in cleaned["type"]
            cleaned = _single_type(cleaned)
        if any(choice.get("type") == "null" for union in _UNIONS for choice in cleaned.get(union, ())):
            self.dropped_null = True
        if cleaned.get("required"):
            self._release_defaulted(schema.get("properties"), cleaned, path)
        return cleaned if _COMBINING.isdisjoint(cleaned) else _flatten(cleaned)

    def _release_defaulted(self, properties: Any, cleaned: dict[str, Any], path: frozenset[str]) -> None:
        """Show the defaults of required parameters, and require those no more.

        Zod 4 lists parameters with a default as required, because its schemas describe what it makes of the input;
        the servers accept calls without them.
        """
        if not isinstance(properties, _OBJECTS):
            return
        defaulted = set()
        for name in dict.fromkeys(cleaned["required"]):
            given = properties.get(name)
            given = self._resolve(given, path)[0] if isinstance(given, _OBJECTS) else {}
            if "default" not in given:
                continue
            defaulted.add(name)
            if name in cleaned.get("properties", {}) and _is_plain_default(given["default"]):
                cleaned["properties"][name]["default"] = given["default"]
        cleaned["required"] = [name for name in cleaned["required"] if name not in defaulted]

    def _resolve(self, schema: JSONObject, path: frozenset[str]) -> tuple[JSONObject, frozenset[str]]:
        """The schema that a local `$ref` points to, with the reference's own siblings on top."""
        for _ in range(_MAX_HOPS):
            if not isinstance(reference := schema.get("$ref"), str):
                break
            self.nodes += 1
            siblings = {key: value for key, value in schema.items() if key != "$ref"}
            target = None if reference in path else self._target(reference)
            schema = {**target, **siblings} if isinstance(target, Mapping) else siblings
            path |= {reference}
        return schema, path

    def _target(self, reference: str) -> Any:
        target: Any = self._root if reference.startswith("#/") else None
        for step in unquote(reference).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            match target:
                case Mapping():
                    target = target.get(name)
                case list() if name.isdecimal() and len(name) < 10 and int(name) < len(target):
                    target = target[int(name)]
                case _:
                    return None
        return target


def _plain_type(value: Any) -> str | list[str] | None:
    if isinstance(value, str):
        return value if value in _TYPES else None
    if isinstance(value, list | tuple):
        return [kind for kind in value if isinstance(kind, str) and kind in _TYPES]
    return None


def _plain_description(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return shortened(clean_text(value[:_MAX_RAW_DESCRIPTION])[0], _MAX_DESCRIPTION)


def _plain_number(value: Any) -> int | float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
    return value if plain else None


def _plain_names(value: Any) -> list[str] | None:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else None


def _plain_values(values: list[Any]) -> list[Any] | None:
    """The values of an `enum`; None where they are too many, or JSON has no word for one, or a reader does not see it.

    They are not cleaned: a call must send them as they are.
    """
    try:
        size = len(json.dumps(values, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        return None
    plain = all(value is None or isinstance(value, str | int | float) for value in values)
    plain = plain and not any(clean_text(value)[1] for value in values if isinstance(value, str))
    return values if values and plain and size <= _MAX_ENUM else None


def _is_plain_default(value: Any) -> bool:
    """Whether a default can be shown: short, and without anything that a reader does not see."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return len(text) <= _MAX_DEFAULT and not clean_text(text)[1]


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "type": _plain_type,
    "description": _plain_description,
    "enum": lambda value: _plain_values(list(value)) if isinstance(value, list | tuple) else None,
    "const": lambda value: _plain_values([value]),
    "minimum": _plain_number,
    "maximum": _plain_number,
    "required": _plain_names,
}
"""For each keyword that holds no schema: its value as it is kept, or None where it is not."""


def _single_type(schema: dict[str, Any]) -> dict[str, Any]:
    """`type: [string, null]` → `type: string`; several real types → anyOf."""
    kinds: list[str] = schema["type"]
    real = [kind for kind in dict.fromkeys(kinds) if kind != "null"]
    rest = {key: value for key, value in schema.items() if key != "type"}
    if len(real) == 1 or (kinds and not real):
        return {**rest, "type": real[0] if real else "null"}
    return {**rest, "anyOf": [{"type": kind} for kind in real]} if real and "anyOf" not in rest else rest


def _flatten(schema: dict[str, Any]) -> dict[str, Any]:
    """Unions with null, and unions and `allOf` of one, become what is left of them."""
    for union in _UNIONS:
        if union in schema:
            choices = [choice for choice in schema[union] if choice.get("type") != "null"]
            rest = {key: value for key, value in schema.items() if key != union}
            only = choices[0] if choices else {"type": "null"} if schema[union] else {}
            schema = {**rest, "anyOf": choices} if len(choices) > 1 else {**only, **rest}
    parts = schema.pop("allOf", [])
    for part in parts:
        properties = {**part.get("properties", {}), **schema.get("properties", {})}
        required = [*part.get("required", []), *schema.get("required", [])]
        schema = {**part, **schema}
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = required
    return schema


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """The same dict, now without what says nothing, and with `required` naming only properties that there are.

    What it holds in `properties`, `items` and `additionalProperties` must be tidy.
    """
    if choices := schema.get("anyOf"):
        schema["anyOf"] = list(map(_tidy, choices))
    if not all(schema.get("anyOf", ())):  # one without a word allows anything
        del schema["anyOf"]
    if "required" in schema:
        properties = schema.get("properties", {})
        schema["required"] = [name for name in dict.fromkeys(schema["required"]) if name in properties]
        if not schema["required"]:
            del schema["required"]
    return schema


def own_spec(name: str, description: str, **parameters: JSONObject) -> ToolSpec:
    """A tool of the bridge itself; parameters without a default are required."""
    required = [each for each in parameters if "default" not in parameters[each]]
    return ToolSpec(name, description, {"type": "object", "properties": parameters, "required": required})


def text_parameter(description: str) -> JSONObject:
    """A parameter that is a text."""
    return {"type": "string", "description": description}


def simple_spec(spec: ToolSpec) -> ToolSpec:
    """The tool with each parameter reduced to its type and description."""
    properties = spec.parameters.get("properties", {})
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {str(name): _simple_property(each) for name, each in properties.items()},
    }
    if required := spec.parameters.get("required"):
        parameters["required"] = required
    return ToolSpec(spec.name, spec.description, parameters)


def _simple_property(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        return {"type": "string"}
    kind = schema.get("type")
    simple: dict[str, Any] = {"type": kind if isinstance(kind, str) else "string"}
    if isinstance(description := schema.get("description"), str):
        simple["description"] = description
    if simple["type"] == "array":
        simple["items"] = {"type": _simple_property(schema.get("items"))["type"]}
    return simple
