"""The tools of a run: the names under which the model sees them, and its arguments checked.

Names are `server__tool`, of `[a-z0-9_]`, at most 64 long, unique, and mapped back: LM Studio
normalises other names on their way to the model, and dots, hyphens and long names get lost there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from lmstudio_bridge.agent.schemas import object_schema
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolSpec

MAX_NAME = 64  # characters
MAX_DESCRIPTION = 1_024  # characters of a tool's description that the model reads
_SHOWN_ARGUMENTS = 300  # characters of bad arguments that are quoted back
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that fits its tool's schema."""

    tool: ServerTool
    arguments: JSONObject


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that must not run; `text` tells the model why and what to do instead."""

    tool: ServerTool | None
    text: str


class Toolbox:
    """The tools on offer, in a stable order."""

    def __init__(self, tools: Iterable[ServerTool]) -> None:
        self._tools: dict[str, ServerTool] = {}
        for tool in sorted(tools, key=lambda each: (each.server, each.name)):
            self._tools[_free_name(tool, self._tools)] = tool
        self.specs = tuple(
            ToolSpec(name, tool.description[:MAX_DESCRIPTION], object_schema(tool.input_schema))
            for name, tool in self._tools.items()
        )
        self._validators: dict[str, Validator | None] = {}

    def prepare_call(self, call: ToolCall) -> PreparedCall | RefusedCall:
        """Find the tool and check the arguments; nothing is guessed and nothing left out."""
        name = self._known_name(call.name)
        if name is None:
            return RefusedCall(None, self._unknown_tool(call.name))
        tool = self._tools[name]
        try:
            arguments = _read_arguments(call.arguments)
        except ValueError as exc:
            return RefusedCall(tool, self._bad_arguments(name, call, str(exc)))
        if problem := self._problem(name, arguments):
            return RefusedCall(tool, self._bad_arguments(name, call, problem))
        return PreparedCall(tool, arguments)

    def _known_name(self, name: str) -> str | None:
        """The offered name that is meant: as it stands, or without regard to case and separators."""
        if name in self._tools:
            return name
        plain = _plain(name)
        return plain if plain in self._tools else None

    def _unknown_tool(self, name: str) -> str:
        near = [offered for offered in self._tools if offered.endswith(f"__{_plain(name)}")]
        near = near or get_close_matches(_plain(name), self._tools, n=3, cutoff=0.5)
        shown = near or list(self._tools)[:_SHOWN_NAMES]
        label = "Did you mean" if near else "The tools are"
        return f"There is no tool {name!r}, so nothing was done. {label}: {', '.join(shown)}. Call one of them."

    def _bad_arguments(self, name: str, call: ToolCall, problem: str) -> str:
        schema = json.dumps(object_schema(self._tools[name].input_schema), ensure_ascii=False)
        return (
            f"{name} was not called, because its arguments are not right: {problem}\n"
            f"You sent: {call.arguments[:_SHOWN_ARGUMENTS]}\n"
            f"They must fit this schema: {schema}\n"
            f"Call it again with arguments like: {json.dumps(_example(self._tools[name].input_schema))}"
        )

    def _problem(self, name: str, arguments: JSONObject) -> str | None:
        """What the tool's own schema says against the arguments; None also where it cannot be used."""
        if name not in self._validators:
            self._validators[name] = _validator(self._tools[name].input_schema)
        validator = self._validators[name]
        if validator is None:
            return None
        try:
            error = best_match(validator.iter_errors(arguments))
        except (Unresolvable, re.error, RecursionError):
            return None  # the server's schema is broken; it will judge the arguments itself
        return _in_words(error) if error else None


def _validator(schema: JSONObject) -> Validator | None:
    """A validator of the draft that the schema names; None where the schema itself is broken."""
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except (SchemaError, re.error, RecursionError):
        return None
    # An empty registry: a reference to a URL must not make us fetch it.
    return kind(dict(schema), registry=Registry())


def _in_words(error: ValidationError) -> str:
    place = ".".join(map(str, error.absolute_path))
    return f"{place}: {error.message}" if place else error.message


def _read_arguments(text: str) -> dict[str, Any]:
    """The arguments as an object; none at all counts as `{}`, as LM Studio sends it.

    Raises:
        ValueError: It is no JSON, or no object.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("they are nested too deeply.") from None
    except ValueError as exc:
        raise ValueError(f"they are not valid JSON ({exc}).") from exc
    if isinstance(value, str):  # encoded twice, as small models do
        with suppress(ValueError):
            value = json.loads(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("they must be one JSON object.")
    return value


def _example(schema: JSONObject) -> dict[str, Any]:
    """A small example of arguments: the required ones, else the first."""
    properties = object_schema(schema)["properties"]
    required = schema.get("required")
    names = [name for name in required if name in properties] if isinstance(required, list) else []
    return {name: _example_value(properties[name]) for name in (names or list(properties)[:1])}


def _example_value(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    examples: dict[Any, Any] = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    return examples.get(schema.get("type"), "...")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", name.split("<|", 1)[0].strip().lower())


def _free_name(tool: ServerTool, taken: Mapping[str, ServerTool]) -> str:
    """`server__tool` in the allowed characters; cut or taken names end in a digest of the real one."""
    server, plain_tool = _plain(tool.server).strip("_") or "server", _plain(tool.name).strip("_") or "tool"
    name = f"{server}__{plain_tool}"
    if len(name) <= MAX_NAME and name not in taken:
        return name
    digest = hashlib.sha256(f"{tool.server}\0{tool.name}".encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1]}_{digest}"
