"""How a model is asked for tool calls: natively, or as constrained JSON.

Seen on a real engine: the same 0.5B weights make 0 to 16 of 20 right calls with the prompt template
alone, and finish all of them when calls are grammar-bound JSON, whatever the template.

Constrained JSON is for models and templates that fail at native calls. The system text lists the tools, one
line each; every reply is one JSON object that the engine's grammar enforces: a call or the answer. The
prompt template needs neither tools nor tool messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from lmstudio_bridge.agent.prompts import ANSWER_SCHEMA, GOING_ON, JSON_ANSWER, JSON_CALLS
from lmstudio_bridge.agent.repetition import Step
from lmstudio_bridge.json_text import written_json
from lmstudio_bridge.messages import (
    AssistantMessage,
    Completion,
    JSONObject,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from lmstudio_bridge.text import repair_surrogates

CallStyle: TypeAlias = Literal["native", "grammar"]

MAX_TOOLS_WEAK = 16  # tools that a model which is weak at calling can tell apart
SMALL_MODEL = 3.0  # billions of parameters; up to here, native calls mostly fail
_MAX_BRANCHES = 40  # tools that get a branch of the grammar each; more make it slow to build
_DESCRIPTION = 160  # characters of a tool's description
_FIRST_SENTENCE = re.compile(r"(.+?[.!?])(\s|$)", re.DOTALL)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
_CHARACTER = r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))'
_ANSWER_BEGUN = re.compile(rf'\s*\{{\s*"answer"\s*:\s*"({_CHARACTER}*)')
_HALF_PAIR = re.compile(r"[\ud800-\udbff]\Z")  # the first half of a character of which the second is still to come


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the run asks: native tool calls, or constrained JSON; and its first step against repetition."""

    calls: CallStyle
    first_step: Step
    reason: str

    def in_words(self) -> str:
        """Why, and how the model is asked, for a line of output."""
        how = "tool calls as schema-constrained JSON" if self.calls == "grammar" else "native tool calls"
        return f"{self.reason}: {how}"


NATIVE = Strategy("native", Step.REMIND, "Requested")
"""Native tool calls: for models that are good at calling tools."""


def choose_strategy(
    name: str, *, trained_for_tool_use: bool | None, calls: Literal["auto", "native", "grammar"] = "auto"
) -> Strategy:
    """The strategy to begin with: what the user set, else what LM Studio says of the model, else its size."""
    if calls == "grammar":
        return Strategy("grammar", Step.ANSWER_NOW, "Set by LMSTUDIO_BRIDGE_CALLS")
    if calls == "native":
        return Strategy("native", Step.REMIND, "Set by LMSTUDIO_BRIDGE_CALLS")
    if trained_for_tool_use:
        return Strategy("native", Step.REMIND, "Trained for tool use")
    if trained_for_tool_use is False:
        return Strategy("grammar", Step.ANSWER_NOW, "Not trained for tool use")
    size = parameters_in_billions(name)
    if size is not None and size <= SMALL_MODEL:
        return Strategy("grammar", Step.ANSWER_NOW, f"Small model ({size:g}B)")
    return Strategy("native", Step.REMIND, "Tool support unknown")


def parameters_in_billions(name: str) -> float | None:
    """The size in a model's name: 0.5 for qwen2.5-coder-0.5b, None if there is none."""
    sizes = [float(number) / (1000 if unit.lower() == "m" else 1) for number, unit in _SIZE.findall(name)]
    return max(sizes, default=None)


def reply_schema(
    specs: Sequence[ToolSpec], *, must_call: bool = False, answer_schema: JSONObject | None = None
) -> JSONObject:
    """The JSON Schema of a reply: one branch a tool, and one for the answer unless a call is a must.

    `answer_schema` is what the answer must fit; without one it is text.
    """
    answer = _object({"answer": {"type": "string"} if answer_schema is None else answer_schema})
    if not specs:
        return answer
    if len(specs) > _MAX_BRANCHES:
        names = [spec.name for spec in specs]
        calls = [_object({"call": {"type": "string", "enum": names}, "arguments": {"type": "object"}})]
    else:
        closed = [(spec.name, {**_lean(spec.parameters), "additionalProperties": False}) for spec in specs]
        calls = [_object({"call": {"type": "string", "enum": [name]}, "arguments": lean}) for name, lean in closed]
    return {"anyOf": calls if must_call else [*calls, answer]}


def _lean(schema: Any) -> Any:
    """Only what objects require, if they require anything: small models fill in every option that they see."""
    if not isinstance(schema, Mapping):
        return schema
    lean = {key: value for key, value in schema.items() if key not in ("description", "properties", "items")}
    if properties := schema.get("properties"):
        names = [name for name in schema.get("required", ()) if name in properties] or properties
        lean["properties"] = {name: _lean(properties[name]) for name in names}
        if not schema.get("additionalProperties"):
            lean["additionalProperties"] = False
    elif schema.get("type") == "object":
        lean["properties"] = {}
    if "items" in schema:
        lean["items"] = _lean(schema["items"])
    return lean


def json_turns(
    messages: Sequence[Message], specs: Sequence[ToolSpec], *, answer_schema: JSONObject | None = None
) -> list[Message]:
    """The conversation for this way of asking: system text with the tools, then user and assistant in turn."""
    system = describe_tools(specs, answer_schema)
    if messages and isinstance(messages[0], SystemMessage):
        system, messages = f"{messages[0].text}\n{system}", messages[1:]
    # As an answer, what stands for a turn of the model would teach it to answer so.
    said = [message for message in messages if message != AssistantMessage(GOING_ON)]
    return [SystemMessage(system), *as_turns(said, say=_as_json)]


def as_turns(messages: Iterable[Message], *, say: Callable[[AssistantMessage], str]) -> list[Message]:
    """The messages as nothing but user and assistant in turn: results are the user's, and `say` puts calls in words."""
    turns: list[Message] = []
    names: dict[str, str] = {}
    for message in messages:
        match message:
            case SystemMessage(text):
                turn: Message = UserMessage(text)
            case UserMessage():
                turn = message
            case ToolMessage(call_id, text):
                turn = UserMessage(f"Result of {names.get(call_id, 'the call')}:\n{text}")
            case AssistantMessage(calls=calls):
                names |= {call.id: call.name for call in calls}
                turn = AssistantMessage(say(message))
        match turns[-1:], turn:
            case [UserMessage() as last], UserMessage():
                turns[-1] = UserMessage(f"{last.text}\n\n{turn.text}", (*last.images, *turn.images))
            case [AssistantMessage() as last], AssistantMessage():
                turns[-1] = AssistantMessage(f"{last.text}\n\n{turn.text}")
            case _:
                turns.append(turn)
    return turns


def _as_json(message: AssistantMessage) -> str:
    calls = [(json.dumps(call.name), call.arguments.strip() or "{}") for call in message.calls]
    shown = [f'{{"call": {name}, "arguments": {arguments}}}' for name, arguments in calls]
    return "\n".join(shown) or json.dumps({"answer": message.text}, ensure_ascii=False)


def describe_tools(specs: Sequence[ToolSpec], answer_schema: JSONObject | None = None) -> str:
    """How to reply, and the tools in one line each; small models follow few words better than schemas."""
    lines = [JSON_CALLS, *map(tool_line, specs)] if specs else [JSON_ANSWER]
    if answer_schema is not None:
        lines.append(ANSWER_SCHEMA.format(schema=json.dumps(answer_schema, ensure_ascii=False)))
    return "\n".join(lines)


def read_reply(reply: Completion, *, new_id: Callable[[], str], as_json: bool = False) -> Completion | None:
    """The call or the answer in the JSON of a reply; None if it is not such JSON.

    An answer of text is that text; `as_json` keeps it as JSON.
    """
    text = reply.text.strip() or reply.reasoning  # reasoning models put it there at times
    start = text.find("{")
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start if start != -1 else 0)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    match value:
        case {"call": str(name), **rest}:
            arguments = written_json(text[start:end], "arguments") if "arguments" in rest else "{}"
            return replace(reply, text="", calls=(ToolCall(new_id(), repair_surrogates(name), arguments),))
        case {"answer": answer}:
            written = answer if isinstance(answer, str) and not as_json else json.dumps(answer, ensure_ascii=False)
            return replace(reply, text=repair_surrogates(written).strip(), calls=(), is_explicit=True)
        case _:
            return None


def partial_answer(text: str) -> str:
    """The part of the answer that an incomplete reply already holds."""
    match = _ANSWER_BEGUN.match(text)
    if match is None:
        return ""
    begun = str(json.loads(f'"{match[1]}"', strict=False))
    return repair_surrogates(_HALF_PAIR.sub("", begun))


def tool_line(spec: ToolSpec) -> str:
    """A tool as the system text names it: its name, what it requires, and the first sentence of its description."""
    required = spec.parameters.get("required", ())
    properties = spec.parameters.get("properties", {})
    parameters = [_parameter(name, properties[name]) for name in required or properties]
    first = _FIRST_SENTENCE.match(spec.description.strip())
    description = " ".join((first[1] if first else spec.description).split())[:_DESCRIPTION]
    return f"- {spec.name}({', '.join(parameters)}): {description}"


def _parameter(name: str, schema: Any) -> str:
    has_default = isinstance(schema, Mapping) and "default" in schema
    default = f" = {json.dumps(schema['default'], ensure_ascii=False)}" if has_default else ""
    return " ".join(f"{name}: {_type(schema)}{default}".split())


def _type(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "string"
    if choices := schema.get("enum"):
        return "|".join(json.dumps(choice, ensure_ascii=False) for choice in choices[:8])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    if schema.get("type") == "object" and (properties := schema.get("properties")):
        return f"{{{', '.join(f'{name}: {_type(each)}' for name, each in properties.items())}}}"
    return str(schema.get("type", "string"))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
