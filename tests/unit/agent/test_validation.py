"""Schemas of others, also hostile ones: checked within bounds, or said why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmstudio_bridge.agent.tools import PreparedCall, Toolbox
from lmstudio_bridge.agent.validation import (
    MAX_LEVELS,
    MAX_MATCHED,
    MAX_PATTERN,
    MAX_PATTERNS,
    MAX_SCHEMA,
    SchemaChecker,
    UncheckedError,
    check_schema,
    check_value,
)
from lmstudio_bridge.messages import ServerTool, ToolCall

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
        (nested(200_000), "it is nested too deeply, or no JSON"),
        ({"pattern": "x" * (MAX_PATTERN - 1)}, None),
        ({"pattern": "x" * MAX_PATTERN}, None),
        ({"pattern": "x" * (MAX_PATTERN + 1)}, "it has a pattern of more than 1,000 characters"),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS - 1)]}, None),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS)]}, None),
        ({"allOf": [{"pattern": f"{n}"} for n in range(MAX_PATTERNS + 1)]}, "it has more than 50 patterns"),
        ({"pattern": "^(?!a)"}, "its pattern '^(?!a)' can only be checked by backtracking"),
        ({"patternProperties": {"(": {}}}, "its pattern '(' is no regular expression"),
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
def test_a_callers_schema_is_taken_or_refused_in_words(schema: dict[str, Any], problem: str | None) -> None:
    assert check_schema(schema) == problem


@pytest.mark.parametrize(("items", "checked"), [(8, True), (9, True), (10, False)])
def test_a_check_ends_when_its_steps_are_used_up(items: int, checked: bool) -> None:
    """One step for `items` and one for each `type`."""
    checker = SchemaChecker({"items": {"type": "integer"}}, max_steps=10)

    if checked:
        assert checker.problem([1] * items) is None
        assert checker.problem([1] * items) is None  # each value has its own
    else:
        with pytest.raises(UncheckedError, match="too many steps"):
            checker.problem([1] * items)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (DOUBLING, {}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **DOUBLING}, {}),
        ({**DOUBLING, "$ref": "#/$defs/b", "$defs": {"b": {"$schema": "x:", **DOUBLING}, **DOUBLING["$defs"]}}, {}),
        ({"uniqueItems": True}, [{"n": n} for n in range(5_000)]),
        ({"pattern": HOSTILE}, "a" * (MAX_MATCHED + 1)),
        ({"allOf": [{"type": "string"}] * 1_000}, {"a": "x" * 1_000_000}),
    ],
    ids=["doubling", "doubling-draft-7", "doubling-with-an-inner-draft", "unique", "long-text", "long-words"],
)
def test_a_schema_that_would_take_ages_is_given_up(schema: dict[str, Any], value: Any) -> None:
    with pytest.raises(UncheckedError):
        SchemaChecker(schema).problem(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": HOSTILE}, "a" * 5_000 + "!"),
        ({"patternProperties": {HOSTILE: {}}, "additionalProperties": False}, {"a" * 50 + "!": 1}),
        ({"propertyNames": {"pattern": HOSTILE}}, {"a" * 50 + "!": 1}),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"pattern": HOSTILE}]},
            ["a" * 50 + "!"],
        ),
    ],
)
def test_a_hostile_pattern_is_answered_at_once(schema: dict[str, Any], value: Any) -> None:
    assert SchemaChecker(schema).problem(value)


@pytest.mark.parametrize("length", [MAX_MATCHED - 1, MAX_MATCHED])
def test_a_long_text_is_held_against_a_pattern(length: int) -> None:
    assert SchemaChecker({"pattern": "^a+$"}).problem("a" * length) is None


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
    assert (SchemaChecker(schema).problem(value) is None) is fits


def test_an_answer_that_cannot_be_checked_does_not_pass_for_one_that_fits() -> None:
    assert check_value(DOUBLING, {}) == "it could not be held against the schema: it takes too many steps"


@pytest.mark.parametrize("schema", [DOUBLING, {"properties": {"a": {"pattern": "^(?=b)"}}}, padded(MAX_SCHEMA + 1)])
def test_a_call_that_cannot_be_checked_is_for_the_server_to_judge(schema: dict[str, Any]) -> None:
    toolbox = Toolbox([ServerTool("s", "t", input_schema={"type": "object", **schema})])

    assert isinstance(toolbox.prepare_call(ToolCall("1", "s__t", '{"a": "x"}')), PreparedCall)


def test_validators_of_one_draft_share_their_class() -> None:
    """To make one takes longer than most checks, and 20 KB."""
    checkers = [SchemaChecker({"type": "object", "title": title}) for title in "ab"]
    older = SchemaChecker({"$schema": "http://json-schema.org/draft-07/schema#"})

    assert type(checkers[0]._validator) is type(checkers[1]._validator)
    assert type(older._validator) is not type(checkers[0]._validator)


def test_each_check_has_its_own_steps() -> None:
    schema = {"items": {"type": "integer"}}
    poor, rich = SchemaChecker(schema, max_steps=5), SchemaChecker(schema)

    for _ in range(2):
        with pytest.raises(UncheckedError):
            poor.problem([1] * 10)
        assert rich.problem([1] * 10) is None
        assert poor.problem([1]) is None


@pytest.mark.parametrize("form", ["date-time", "regex", ["no"], {}])
def test_formats_are_not_checked(form: Any) -> None:
    """They are notes in JSON Schema 2020-12; no meta-schema looks at the one here."""
    checker = SchemaChecker({"properties": {"a": {"$ref": "#/x"}}, "x": {"type": "string", "format": form}})

    assert checker.problem({"a": "("}) is None
    assert checker.problem({"a": 1}) == "a: 1 is not of type 'string'"
