"""The tools of a run: found by the names under which the model sees them, and its arguments checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.fence import clean_text
from lmstudio_bridge.agent.known_tools import KnownTool, KnownTools, Offer
from lmstudio_bridge.agent.prompts import NOT_CALLED
from lmstudio_bridge.agent.schemas import SchemaWork
from lmstudio_bridge.agent.tool_names import free_name, plain_name
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolSpec

MAX_DESCRIPTION = 1_024  # characters of a tool's description that the model reads
_SHOWN_ARGUMENTS = 300  # characters of bad arguments that are quoted back
_SHOWN_PROBLEM = 500  # characters of what is wrong with them; a validator's words can quote all of them
_SHOWN_NAME = 100  # characters of a name that is not there
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that fits its tool's schema; `changes` says what was done to its arguments for that."""

    tool: ServerTool
    arguments: JSONObject
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that must not run; `text` tells the model why and what to do instead."""

    tool: ServerTool | None
    text: str


class Toolbox:
    """The tools that may be offered, in a stable order. `known` is what earlier runs know of them: `known_offers()`."""

    def __init__(self, tools: Iterable[ServerTool], *, known: KnownTools | None = None) -> None:
        self.known = known_offers() if known is None else known
        self._tools: dict[str, ServerTool] = {}
        self._offers: dict[str, Offer] = {}
        self.similar: Mapping[str, float] = {}
        self._work = SchemaWork()
        self.add(tools)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The tools as a selection takes them."""
        return tuple(self._offers.values())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """All tools as the model would see them; where not all are offered, that is more work than is needed."""
        return tuple(offer.spec for offer in self._offers.values())

    def add(self, tools: Iterable[ServerTool]) -> tuple[Offer, ...]:
        """Take in more tools, behind those that are there, which keep their names; gives what can be offered."""
        distinct = {(tool.server, tool.name): tool for tool in tools}
        added: list[Offer] = []
        for _, tool in sorted(distinct.items()):
            known = self.known.find(tool)
            if known.name in self._tools:
                known = _offered_as(free_name(tool, taken=self._tools), tool)  # not kept: in another run it may be free
            self._tools[known.name] = tool
            self._offers[known.name] = offer = Offer(known, self._work)
            added.append(offer)
        return tuple(added)

    def note_similar(self, similar: Mapping[tuple[str, str], float]) -> None:
        """Remember how close tools are to the task in meaning, by server and name, for those that rank them."""
        named = {name: similar.get((tool.server, tool.name)) for name, tool in self._tools.items()}
        self.similar = {name: score for name, score in named.items() if score is not None}

    def find_tool(self, name: str) -> ServerTool | None:
        """The tool that the model means by a name, if there is one."""
        known = self.known_name(name)
        return None if known is None else self._tools[known]

    def prepare_call(self, call: ToolCall) -> PreparedCall | RefusedCall:
        """Find the tool and check the arguments; nothing is guessed and nothing left out."""
        name = self.known_name(call.name)
        if name is None:
            return RefusedCall(None, self._unknown_tool(call.name))
        tool = self._tools[name]
        try:
            arguments = read_arguments(call.arguments, self._offers[name].spec.parameters)
        except ValueError as exc:
            return RefusedCall(tool, self._bad_arguments(name, call, str(exc)))
        if problem := self._offers[name].known.problem(arguments.values):
            return RefusedCall(tool, self._bad_arguments(name, call, problem))
        return PreparedCall(tool, arguments.values, arguments.changes)

    def definition_size(self, tool: ServerTool) -> int:
        """How long the tool's name, description and schema are, as its server gave them (characters)."""
        return len(tool.name) + len(tool.description) + self.known.find(tool).schema_chars()

    def known_name(self, name: str) -> str | None:
        """The offered name that is meant: as it stands, or without regard to case and separators."""
        if name in self._tools:
            return name
        plain = plain_name(name)
        return plain if plain in self._tools else None

    def _unknown_tool(self, name: str) -> str:
        shown = name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}…"
        plain = plain_name(name[:_SHOWN_NAME])
        near = [offered for offered in self._tools if offered.endswith(f"__{plain}")]
        near = near or get_close_matches(plain, self._tools, n=3, cutoff=0.5)
        names = ", ".join(near or list(self._tools)[:_SHOWN_NAMES])
        advice = f"{'Did you mean' if near else 'The tools are'}: {names}. Call one of them."
        return f"There is no tool {shown!r}, so nothing was done. {advice if names else 'There are no tools at all.'}"

    def _bad_arguments(self, name: str, call: ToolCall, problem: str) -> str:
        parameters = self._offers[name].spec.parameters
        shown = problem if len(problem) <= _SHOWN_PROBLEM else f"{problem[:_SHOWN_PROBLEM]}…"
        lines = [
            f"{name}{NOT_CALLED}{shown}",
            f"You sent: {call.arguments[:_SHOWN_ARGUMENTS]}",
            f"They must fit this schema: {json.dumps(parameters, ensure_ascii=False)}",
        ]
        example = _example(parameters)
        if self._offers[name].known.problem(example) is None:
            lines.append(f"Call it again with arguments like: {json.dumps(example, ensure_ascii=False)}")
        return "\n".join(lines)


def known_offers() -> KnownTools:
    """Keeps from run to run what is made of tools for the model."""
    return KnownTools(lambda tool: _offered_as(free_name(tool), tool))


def _offered_as(name: str, tool: ServerTool) -> KnownTool:
    return KnownTool(name, clean_text(tool.description)[0][:MAX_DESCRIPTION], tool.input_schema)


def _example(parameters: JSONObject) -> dict[str, Any]:
    """A small example of arguments: the required ones, else the first."""
    properties = parameters["properties"]
    names = parameters.get("required") or list(properties)[:1]
    return {name: _example_value(properties[name]) for name in names}


def _example_value(schema: Mapping[str, Any]) -> Any:
    match schema:
        case {"enum": [first, *_]}:
            return first
        case {"anyOf": [first, *_]}:
            return _example_value(first)
        case {"type": "integer" | "number"}:
            most = min(1, schema.get("maximum", 1))
            return max(most, schema.get("minimum", most))
        case {"type": "boolean"}:
            return True
        case {"type": "null"}:
            return None
        case {"type": "array"}:
            return [_example_value(schema["items"])] if schema.get("items") else []
        case {"type": "object"}:
            properties = schema.get("properties", {})
            return {name: _example_value(properties[name]) for name in schema.get("required", ())}
        case _:
            return "..."
