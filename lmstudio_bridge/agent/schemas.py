"""JSON Schemas of tools, made safe to send to a local engine. Pure.

LM Studio's engines turn schemas into grammars and fail the whole request at one that they cannot
read: llama.cpp at look-arounds in `pattern`, huge `maxLength` or `maxItems` and odd formats, MLX at a
list in `type`; references are not resolved. What is left out here is still checked before a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmstudio_bridge.messages import JSONObject

# fmt: off
_LEFT_OUT = frozenset((
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "examples", "default", "pattern", "format",
    "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
    "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "if", "then", "else", "not",
    "contains", "minContains", "maxContains", "contentEncoding", "contentMediaType", "unevaluatedProperties",
    "unevaluatedItems", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "deprecated", "readOnly",
    "writeOnly",
))
# fmt: on
_MAX_DEPTH = 12  # of nesting, references followed; deeper becomes "anything"
_UNIONS = ("anyOf", "oneOf")


def object_schema(schema: JSONObject) -> dict[str, Any]:
    """The same parameters in the form that every engine takes: a plain object schema."""
    cleaned = _clean(schema, schema, 0)
    properties = cleaned.get("properties")
    names = properties if isinstance(properties, dict) else {}
    required = cleaned.get("required")
    result: dict[str, Any] = {"type": "object", "properties": names}
    if isinstance(required, list) and (kept := [name for name in required if name in names]):
        result["required"] = kept
    return result


def _clean(schema: Any, root: JSONObject, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return {}
    schema = _resolve(schema, root)
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LEFT_OUT or key == "$ref":
            continue
        if key == "properties" and isinstance(value, Mapping):
            cleaned[key] = {str(name): _clean(each, root, depth + 1) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            cleaned[key] = _clean(value, root, depth + 1)
        elif key == "items" and isinstance(value, list):  # the tuple form of older drafts
            cleaned[key] = _clean(value[0], root, depth + 1) if value else {}
        elif key in (*_UNIONS, "allOf") and isinstance(value, list):
            cleaned[key] = [_clean(each, root, depth + 1) for each in value]
        elif key == "const":
            cleaned["enum"] = [value]
        elif key not in ("properties", *_UNIONS, "allOf"):
            cleaned[key] = value
    return _flatten(_single_type(cleaned))


def _resolve(schema: JSONObject, root: JSONObject) -> JSONObject:
    """The schema that a local `$ref` points to, with the reference's own siblings on top."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference.startswith("#") and reference not in seen:
        seen.add(reference)
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **siblings} if isinstance(target, Mapping) else siblings
    return schema


def _single_type(schema: dict[str, Any]) -> dict[str, Any]:
    """`type: [string, null]` → `type: string`; several real types → anyOf."""
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return schema
    real = [kind for kind in kinds if kind != "null"]
    rest = {key: value for key, value in schema.items() if key != "type"}
    if len(real) == 1:
        return {**rest, "type": real[0]}
    return {**rest, "anyOf": [{"type": kind} for kind in real]} if real and "anyOf" not in rest else rest


def _flatten(schema: dict[str, Any]) -> dict[str, Any]:
    """Unions with null, and unions and `allOf` of one, become what is left of them."""
    for union in _UNIONS:
        if union in schema:
            choices = [choice for choice in schema[union] if choice.get("type") != "null"]
            rest = {key: value for key, value in schema.items() if key != union}
            only = choices[0] if choices else {}
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
