"""An output_schema can be hostile: it is checked within bounds, or refused with the reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lmstudio_bridge.agent.structured_output import (
    MAX_LEVELS,
    MAX_PATTERN,
    MAX_PATTERNS,
    MAX_SCHEMA,
    MAX_STEPS,
    OutputSchema,
)

HOSTILE = "^(a+)+$"
DOUBLING: dict[str, Any] = {
    "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
    "$ref": "#/$defs/a0",
}


def padded(length: int) -> dict[str, Any]:
    """A schema of so many characters as JSON."""
    return {"description": "x" * (length - len(json.dumps({"description": ""})))}


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels as JSON."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (padded(MAX_SCHEMA - 1), None),
        (padded(MAX_SCHEMA), None),
        (padded(MAX_SCHEMA + 1), "it is longer than 65,536 characters"),
        (nested(MAX_LEVELS - 1), None),
        (nested(MAX_LEVELS), None),
        (nested(MAX_LEVELS + 1), "it is nested in more than 64 levels"),
        (nested(200_000), "it is nested too deeply, or not JSON"),
        ({"pattern": "x" * (MAX_PATTERN - 1)}, None),
        ({"pattern": "x" * MAX_PATTERN}, None),
        ({"pattern": "x" * (MAX_PATTERN + 1)}, "it has a pattern of more than 1,000 characters"),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS - 1)]}, None),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS)]}, None),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS + 1)]}, "it has more than 50 patterns"),
        ({"pattern": "^(?!a)"}, "its pattern '^(?!a)' can only be checked by backtracking"),
        ({"patternProperties": {"(": {}}}, "its pattern '(' is not a valid regular expression"),
        ({"pattern": r"(?:\w{1,60}){1,60}"}, r"its pattern '(?:\\w{1,60}){1,60}' is too large"),
        (
            {"items": {"patternProperties": {"a": {}}, "unevaluatedProperties": False}},
            "unevaluatedProperties beside patternProperties is not supported",
        ),
        ({"type": "nothing"}, "it is not a valid JSON Schema"),
        ({"enum": [{"n": n} for n in range(200)]}, None),
        ({"enum": [{"n": n} for n in range(201)]}, "a list in it holds more than 200 objects"),
    ],
)
def test_a_schema_is_accepted_or_refused_with_the_reason(schema: dict[str, Any], problem: str | None) -> None:
    if problem is None:
        OutputSchema(schema)
    else:
        with pytest.raises(ValueError, match=re.escape(problem)):
            OutputSchema(schema)


@pytest.mark.parametrize(("items", "more", "fits"), [(564, {}, True), (565, {}, True), (565, {"type": "array"}, False)])
def test_a_check_ends_when_its_steps_are_used_up(items: int, more: dict[str, Any], fits: bool) -> None:
    """With 565 items all of them: two for `allOf`, then 53 times one for `items` and one for each `type`."""
    assert MAX_STEPS == 2 + 53 * (1 + 565)
    schema = OutputSchema({"allOf": [{"items": {"type": "integer"}}] * 53, **more})

    for _ in range(2):  # each value has its own steps
        assert (schema.find_problem([1] * items) is None) is fits


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (DOUBLING, {}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **DOUBLING}, {}),
        ({**DOUBLING, "$ref": "#/$defs/b", "$defs": {"b": {"$schema": "x:", **DOUBLING}, **DOUBLING["$defs"]}}, {}),
        ({"uniqueItems": True}, [{"n": n} for n in range(5_000)]),
        ({"allOf": [{"type": "string"}] * 1_000}, {"a": "x" * 1_000_000}),
    ],
    ids=["doubling", "doubling-draft-7", "doubling-with-an-inner-draft", "unique", "long-words"],
)
def test_a_check_that_would_take_ages_is_given_up(schema: dict[str, Any], value: Any) -> None:
    problem = OutputSchema(schema).find_problem(value)

    assert problem == "it could not be held against the schema: it takes too many steps"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": HOSTILE}, "a" * 5_000 + "!"),
        ({"patternProperties": {HOSTILE: {}}, "additionalProperties": False}, {"a" * 50 + "!": 1}),
        ({"propertyNames": {"pattern": HOSTILE}}, {"a" * 50 + "!": 1}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"pattern": HOSTILE}]}, ["a" * 50 + "!"]),
    ],
)
def test_a_hostile_pattern_is_answered_at_once(schema: dict[str, Any], value: Any) -> None:
    assert OutputSchema(schema).find_problem(value)


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False}, {"n_a": 1}, True),
        ({"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False}, {"n_a": "1"}, False),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": False}, {"a": 1}, False),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": {"type": "null"}}, {"a": None, "n_": 1}, True),
        ({"properties": {"$schema": {"type": "integer"}}}, {"$schema": "x"}, False),
        ({"pattern": r"^https?:\/\/"}, "http://a", True),
        ({"pattern": r"^\d{4}-\d{2}$"}, "2026-1", False),
        ({"pattern": r"^\p{L}+$"}, "\u00e9", True),  # as in JavaScript, and not in Python
        ({"pattern": "b"}, "abc", True),  # found anywhere, as JSON Schema says
    ],
)
def test_bounds_change_nothing_for_honest_schemas(schema: dict[str, Any], value: Any, fits: bool) -> None:
    assert (OutputSchema(schema).find_problem(value) is None) is fits


@pytest.mark.parametrize("form", ["date-time", "regex", ["no"], {}])
def test_formats_are_not_checked(form: Any) -> None:
    """They are annotations in JSON Schema 2020-12; no meta-schema looks at the one here."""
    schema = OutputSchema({"properties": {"a": {"$ref": "#/x"}}, "x": {"type": "string", "format": form}})

    assert schema.find_problem({"a": "("}) is None
    assert schema.find_problem({"a": 1}) == "a: 1 is not of type 'string'"
