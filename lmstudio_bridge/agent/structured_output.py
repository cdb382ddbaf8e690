"""Answers that must fit a JSON Schema of the caller: requested, checked, and requested again with what is wrong.

A schema can be hostile: references that double at every step, patterns that backtrack for ages, references to
the web. So each keyword costs a step of a budget, patterns run on an engine that is linear in the text (Rust's
`regex`, which pydantic brings), and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend, validator_for
from pydantic import Field, TypeAdapter
from pydantic import ValidationError as Mismatch
from pydantic_core import SchemaError as PatternError
from referencing import Registry
from referencing.exceptions import Unresolvable

from lmstudio_bridge.agent.arguments import read_json
from lmstudio_bridge.agent.prompts import STRUCTURED_ANSWER, STRUCTURED_RETRY
from lmstudio_bridge.messages import AssistantMessage, JSONObject, Message, UserMessage, is_deeper

MAX_SCHEMA = 65_536  # characters of a schema as JSON; far more than a local model could read
MAX_LEVELS = 64  # of a schema as JSON
MAX_STEPS = 30_000  # for one value; each takes some microseconds
MAX_PATTERN = 1_000  # characters
MAX_PATTERNS = 50  # in a schema
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "items", "prefixItems")
_MAX_COMPARED = 200  # objects in another list
_REQUESTS = 3  # one, and two repairs
_SHOWN_PROBLEM = 500  # characters of what is wrong with a value
_SHOWN_PATTERN = 100  # characters
_MEMBERS_A_STEP = 50  # members of a keyword's value that count as one step
_TEXT_A_STEP = 1_000  # characters that are matched with a pattern
_CHARACTERS_A_STEP = 10_000  # of the whole value; messages about errors quote it
_NO_FORMATS = FormatChecker(())  # else the format `regex` is checked, in Python's own notation
_INVALID = (
    SchemaError,
    Unresolvable,
    RecursionError,  # a reference to itself
    ArithmeticError,  # `multipleOf` and very large numbers
    ValueError,  # `$schema` and references that are not URLs
    TypeError,  # keywords of the wrong type where no meta-schema checks them
    AttributeError,
    LookupError,
)
"""What jsonschema raises for invalid schemas."""


class StructuredOutputError(ValueError):
    """The model gave no value that fits; the text says what was wrong with the last one."""


async def request_structured_output(
    schema: JSONObject, *, given: str, ask: Callable[[], Awaitable[str]], add: Callable[[Message], Awaitable[None]]
) -> str:
    """The answer as JSON text that fits the schema: the `given` one if it does, else as the model puts it.

    `ask` sends the conversation, `add` appends to it.

    Raises:
        StructuredOutputError: None of the replies fits.
    """
    checked = OutputSchema(schema)
    with suppress(ValueError):
        value = read_json(given)
        if not checked.find_problem(value):
            return json.dumps(value, ensure_ascii=False)
    hint = STRUCTURED_ANSWER.format(schema=json.dumps(schema, ensure_ascii=False))
    problem = ""
    for _ in range(_REQUESTS):
        await add(UserMessage(hint))
        text = await ask()
        await add(AssistantMessage(text))
        try:
            value = read_json(text)
        except ValueError as exc:
            problem = str(exc)
        else:
            problem = checked.find_problem(value) or ""
            if not problem:
                return json.dumps(value, ensure_ascii=False)
        hint = STRUCTURED_RETRY.format(problem=problem)
    raise StructuredOutputError(f"The model's answer does not fit the output_schema: {problem}")


class OutputSchema:
    """A JSON Schema that values are checked against; the draft is the one that it names.

    Raises:
        ValueError: The schema cannot be used; says why, as the end of a sentence.
    """

    def __init__(self, schema: JSONObject) -> None:
        self._steps = 0
        plain = _plain_schema(schema)
        try:
            draft = validator_for(dict(schema), default=Draft202012Validator)
            draft.check_schema(plain, format_checker=_NO_FORMATS)  # type: ignore[call-arg]  # the Protocol lacks it
            rules = {name: self._bounded(name, rule) for name, rule in draft.VALIDATORS.items()}
            rules |= {"pattern": self._pattern, "patternProperties": self._pattern_properties}
            # An empty registry: a reference to a URL must not be fetched.
            self._validator = extend(draft, rules)(plain, registry=Registry())  # type: ignore[no-untyped-call]
        except _INVALID as exc:
            raise ValueError("it is not a valid JSON Schema") from exc
        patterns = dict.fromkeys(_patterns(plain))
        if len(patterns) > MAX_PATTERNS:
            raise ValueError(f"it has more than {MAX_PATTERNS} patterns")
        self._patterns = {pattern: _prepare(pattern) for pattern in patterns}

    def find_problem(self, value: Any) -> str | None:
        """What is wrong with a value, in words; None if it fits."""
        self._step = 1 + len(json.dumps(value, default=str)) // _CHARACTERS_A_STEP
        self._steps = MAX_STEPS
        try:
            error = best_match(self._validator.iter_errors(value))
        except _TooManyStepsError:
            return "it could not be held against the schema: it takes too many steps"
        except _INVALID:
            return None
        if error is None:
            return None
        path = ".".join(map(str, error.absolute_path))
        return (f"{path}: {error.message}" if path else error.message)[:_SHOWN_PROBLEM]

    def _spend(self, steps: int) -> None:
        self._steps -= steps * self._step
        if self._steps < 0:
            raise _TooManyStepsError

    def _bounded(self, name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            self._spend(1 + (len(value) // _MEMBERS_A_STEP if isinstance(value, dict | list) else 0))
            if name == "uniqueItems" and isinstance(instance, list):
                self._spend(len(instance) ** 2 // _MEMBERS_A_STEP)  # each with each, where they cannot be sorted
            if name == "additionalProperties" and isinstance(instance, dict) and schema.get("patternProperties"):
                patterns = schema["patternProperties"]
                instance = {
                    key: item
                    for key, item in instance.items()
                    if not any(self._matches(each, key) for each in patterns)
                }
                schema = {key: each for key, each in schema.items() if key != "patternProperties"}
            return rule(validator, value, instance, schema)

        return check

    def _pattern(self, validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._matches(pattern, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    def _pattern_properties(self, validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        for key, item in instance.items() if isinstance(instance, dict) else ():
            for pattern, subschema in value.items():
                if self._matches(pattern, key):
                    yield from validator.descend(item, subschema, path=key, schema_path=pattern)

    def _matches(self, pattern: str, text: str) -> bool:
        """Whether the pattern occurs in the text."""
        self._spend(1 + len(text) // _TEXT_A_STEP)
        try:
            self._patterns[pattern].validate_python(text)
        except Mismatch:
            return False
        return True


class _TooManyStepsError(Exception):
    """A value could not be checked within the bounds."""


def _prepare(pattern: str) -> TypeAdapter[str]:
    """What tells whether the pattern occurs in a text, in time linear to the text.

    Raises:
        ValueError: It is too long, too large when written out, or one that only backtracking can find.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"it has a pattern of more than {MAX_PATTERN:,} characters")
    try:
        return TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except PatternError as exc:
        raise ValueError(f"its pattern {pattern[:_SHOWN_PATTERN]!r} {_why_invalid(str(exc))}") from exc


def _why_invalid(message: str) -> str:
    if "size limit" in message:
        return "is too large"
    return "can only be checked by backtracking" if "not supported" in message else "is not a valid regular expression"


def _patterns(schema: Any) -> Iterator[str]:
    """The patterns in a schema."""
    children = schema if isinstance(schema, list) else []
    if isinstance(schema, Mapping):
        children = list(schema.values())
        if isinstance(pattern := schema.get("pattern"), str):
            yield pattern
        if isinstance(named := schema.get("patternProperties"), Mapping):
            yield from named
            if "unevaluatedProperties" in schema:  # jsonschema itself would match them, and it backtracks
                raise ValueError("unevaluatedProperties beside patternProperties is not supported")
    for child in children:
        yield from _patterns(child)


def _plain_schema(schema: JSONObject) -> dict[str, Any]:
    """The schema as plain JSON, without the `$schema` of its parts: those would bring unbounded keywords.

    Raises:
        ValueError: It is too large, nested too deeply, or not JSON.
    """
    try:
        text = json.dumps(dict(schema))
    except (TypeError, RecursionError) as exc:
        raise ValueError("it is nested too deeply, or not JSON") from exc
    if len(text) > MAX_SCHEMA:
        raise ValueError(f"it is longer than {MAX_SCHEMA:,} characters")
    plain: dict[str, Any] = json.loads(text, object_hook=_bounded_node)
    if is_deeper(plain, MAX_LEVELS):
        raise ValueError(f"it is nested in more than {MAX_LEVELS} levels")
    return plain


def _bounded_node(node: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node.get("$schema"), str):
        del node["$schema"]
    for key, value in node.items():
        compared = isinstance(value, list) and key not in _LISTS_OF_SCHEMAS  # each with each, in older drafts
        if compared and len(value) > _MAX_COMPARED and any(isinstance(item, dict | list) for item in value):
            raise ValueError(f"a list in it holds more than {_MAX_COMPARED} objects")
    return node
