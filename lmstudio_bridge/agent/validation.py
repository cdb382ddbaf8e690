"""Values held against a JSON Schema that somebody else wrote, within bounds. Pure.

A schema can be hostile: references that double at every step, patterns that backtrack for ages, references to
the web. So every keyword costs steps of a budget, patterns run on an engine that is linear in the text
(Rust's `regex`, which pydantic brings), and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from pydantic import Field, TypeAdapter
from pydantic import ValidationError as Mismatch
from pydantic_core import SchemaError as PatternError
from referencing import Registry
from referencing.exceptions import Unresolvable

from lmstudio_bridge.messages import JSONObject, is_deeper

MAX_SCHEMA = 65_536  # characters of a schema as JSON; far more than a local model could read
MAX_LEVELS = 64  # of a schema as JSON
MAX_STEPS = 30_000  # for one value; each is some microseconds
MAX_PATTERN = 1_000  # characters
MAX_MATCHED = 100_000  # characters of a text that is held against a pattern
MAX_PATTERNS = 50  # in an output_schema
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "items", "prefixItems")
_MAX_COMPARED = 200  # objects in another list
_SHOWN_PROBLEM = 500  # characters of what is wrong with a value
_SHOWN_PATTERN = 100  # characters
_PATTERN_COST = 1_000  # steps to prepare a pattern: up to a third of a second
_MEMBERS_A_STEP = 50  # members of a keyword's value that count as one step
_TEXT_A_STEP = 1_000  # characters that are held against a pattern
_CHARACTERS_A_STEP = 10_000  # of the whole value; words about a fault quote it

_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


_NO_FORMATS = FormatChecker(())  # of them `regex` would be asked, in Python's own notation


class UncheckedError(ValueError):
    """A value could not be held against the schema within the bounds; the message says why."""


class SchemaChecker:
    """Holds values against one schema; the draft is the one that it names.

    Raises:
        ValueError: The schema cannot be used; says why, as the end of a sentence.
    """

    def __init__(self, schema: JSONObject, *, max_steps: int = MAX_STEPS) -> None:
        self._max_steps = max_steps
        self._budget = _Budget()
        plain = _plain_schema(schema)
        try:
            kind = validator_for(dict(schema), default=Draft202012Validator)
            kind.check_schema(plain, format_checker=_NO_FORMATS)  # type: ignore[call-arg]  # the Protocol lacks it
            # An empty registry: a reference to a URL must not make us fetch it.
            self._validator = _bounded_kind(kind)(plain, registry=Registry(), format_checker=self._budget)
        except _BROKEN as exc:
            raise ValueError("it is not a valid JSON Schema") from exc

    def problem(self, value: Any) -> str | None:
        """What the schema says against a value, in words; None also where the schema proves to be broken.

        Raises:
            UncheckedError: It would take too long to tell.
        """
        try:
            self._budget.fill(self._max_steps, step=1 + len(json.dumps(value, default=str)) // _CHARACTERS_A_STEP)
            error = best_match(self._validator.iter_errors(value))
        except UncheckedError:
            raise
        except _BROKEN:
            return None
        return _in_words(error) if error else None


class _Budget(FormatChecker):
    """The steps that a check has left, and the patterns of its schema.

    jsonschema hands its format checker to every keyword, and nothing else of ours: so all validators of a draft can
    share one class, which takes longer to make than most checks.
    """

    def __init__(self) -> None:
        super().__init__(())
        self._left = 0
        self._step = 1
        self._patterns: dict[str, TypeAdapter[str]] = {}

    def check(self, instance: object, format: str) -> None:
        """No format is checked."""

    def fill(self, steps: int, *, step: int) -> None:
        """Have so many steps from now on; each that is spent counts as `step`."""
        self._left, self._step = steps, step

    def spend(self, steps: int) -> None:
        """Take so many steps.

        Raises:
            UncheckedError: There are no more.
        """
        self._left -= steps * self._step
        if self._left < 0:
            raise UncheckedError("it takes too many steps")

    def fits(self, pattern: str, text: str) -> bool:
        """Whether the pattern occurs in the text.

        Raises:
            UncheckedError: It cannot be told within the bounds.
        """
        if len(text) > MAX_MATCHED:
            raise UncheckedError(f"a text for its pattern {pattern[:_SHOWN_PATTERN]!r} is too long")
        if pattern not in self._patterns:
            self.spend(_PATTERN_COST)
            self._patterns[pattern] = _prepare(pattern)
        self.spend(1 + len(text) // _TEXT_A_STEP)
        try:
            self._patterns[pattern].validate_python(text)
        except Mismatch:
            return False
        return True


@cache  # one for each draft
def _bounded_kind(kind: type[Validator]) -> type[Validator]:
    """The validators of a draft with their keywords on the budget that they are given as format checker."""
    keywords = {name: _bounded(name, each) for name, each in kind.VALIDATORS.items()}
    bounded: type[Validator] = extend(kind, keywords)  # type: ignore[no-untyped-call]
    return bounded


def _bounded(name: str, keyword: _Keyword) -> _Keyword:
    judge = {"pattern": _pattern, "patternProperties": _pattern_properties}.get(name, keyword)

    def bounded(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        budget: _Budget = validator.format_checker
        budget.spend(1 + (len(value) // _MEMBERS_A_STEP if isinstance(value, dict | list) else 0))
        if name == "uniqueItems" and isinstance(instance, list):
            budget.spend(len(instance) ** 2 // _MEMBERS_A_STEP)  # each with each, where they cannot be sorted
        if name == "additionalProperties" and isinstance(instance, dict) and schema.get("patternProperties"):
            patterns = schema["patternProperties"]
            instance = {
                key: item for key, item in instance.items() if not any(budget.fits(each, key) for each in patterns)
            }
            schema = {key: each for key, each in schema.items() if key != "patternProperties"}
        return judge(validator, value, instance, schema)

    return bounded


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not validator.format_checker.fits(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, subschema in value.items():
            for key, item in instance.items():
                if validator.format_checker.fits(pattern, key):
                    yield from validator.descend(item, subschema, path=key, schema_path=pattern)


_BROKEN = (
    SchemaError,
    Unresolvable,
    RecursionError,  # a reference to itself
    ArithmeticError,  # `multipleOf` and very large numbers
    ValueError,  # `$schema` and references that are no URLs
    TypeError,  # keywords of the wrong type in places that no meta-schema checks
    AttributeError,
    LookupError,
)
"""What jsonschema raises at schemas that are broken."""


def check_schema(schema: JSONObject) -> str | None:
    """What is wrong with a JSON Schema that a caller gave us, as the end of a sentence; None if it can be used."""
    try:
        SchemaChecker(schema)
        patterns = dict.fromkeys(_patterns(schema))
        if len(patterns) > MAX_PATTERNS:
            return f"it has more than {MAX_PATTERNS} patterns"
        for pattern in patterns:
            _prepare(pattern)
    except ValueError as exc:
        return str(exc)
    return None


def check_value(schema: JSONObject, value: Any) -> str | None:
    """What a JSON Schema that `check_schema` let pass says against a value; None if it fits."""
    try:
        problem = SchemaChecker(schema).problem(value)
    except ValueError as exc:
        return f"it could not be held against the schema: {exc}"
    return problem[:_SHOWN_PROBLEM] if problem else None


def _prepare(pattern: str) -> TypeAdapter[str]:
    """What knows whether the pattern occurs in a text, in time linear to the text.

    Raises:
        UncheckedError: It is too long, too large when written out, or one that only backtracking can find.
    """
    if len(pattern) > MAX_PATTERN:
        raise UncheckedError(f"it has a pattern of more than {MAX_PATTERN:,} characters")
    try:
        return TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except PatternError as exc:
        raise UncheckedError(f"its pattern {pattern[:_SHOWN_PATTERN]!r} {_why(str(exc))}") from exc


def _why(words: str) -> str:
    if "size limit" in words:
        return "is too large"
    return "can only be checked by backtracking" if "not supported" in words else "is no regular expression"


def _patterns(schema: Any) -> Iterator[str]:
    """The patterns in a schema."""
    children = schema if isinstance(schema, list) else []
    if isinstance(schema, Mapping):
        children = list(schema.values())
        if isinstance(pattern := schema.get("pattern"), str):
            yield pattern
        if isinstance(named := schema.get("patternProperties"), Mapping):
            yield from named
            if "unevaluatedProperties" in schema:
                raise ValueError("unevaluatedProperties beside patternProperties is not supported")
    for child in children:
        yield from _patterns(child)


def _plain_schema(schema: JSONObject) -> dict[str, Any]:
    """The schema without what would lead jsonschema out of our bounds.

    Raises:
        ValueError: It is too large, nested too deeply, or no JSON.
    """
    try:
        text = json.dumps(dict(schema))
    except (TypeError, RecursionError) as exc:
        raise ValueError("it is nested too deeply, or no JSON") from exc
    if len(text) > MAX_SCHEMA:
        raise ValueError(f"it is longer than {MAX_SCHEMA:,} characters")
    plain: dict[str, Any] = json.loads(text, object_hook=_bounded_node)
    if is_deeper(plain, MAX_LEVELS):
        raise ValueError(f"it is nested in more than {MAX_LEVELS} levels")
    return plain


def _bounded_node(node: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node.get("$schema"), str):  # a subschema's own draft would come with that draft's keywords
        del node["$schema"]
    if node.get("patternProperties"):  # jsonschema itself would look for them, and it backtracks
        node.pop("unevaluatedProperties", None)
    for key, value in node.items():
        compared = isinstance(value, list) and key not in _LISTS_OF_SCHEMAS  # each with each, in older drafts
        if compared and len(value) > _MAX_COMPARED and any(isinstance(item, dict | list) for item in value):
            raise ValueError(f"a list in it holds more than {_MAX_COMPARED} objects")
    return node


def _in_words(error: ValidationError) -> str:
    place = ".".join(map(str, error.absolute_path))
    return f"{place}: {error.message}" if place else error.message
