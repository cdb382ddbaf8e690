"""`POST /v1/responses`: its JSON, in and out.

The loop does not use it (LM Studio's state there does not hold tool results that we run, and
streaming has known faults); it is for callers of `LLMClient.create_response`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, assert_never

from lmstudio_bridge.llm.wire import TokenDetailsIn, WireModel
from lmstudio_bridge.messages import (
    AssistantMessage,
    Completion,
    Message,
    SystemMessage,
    ToolCall,
    ToolChoice,
    ToolMessage,
    ToolSpec,
    Usage,
    UserMessage,
)


class MessageItemOut(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


class CallItemOut(TypedDict):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutputItemOut(TypedDict):
    type: Literal["function_call_output"]
    call_id: str
    output: str


ItemOut: TypeAlias = MessageItemOut | CallItemOut | CallOutputItemOut


class FlatToolOut(TypedDict):
    """A tool for `/v1/responses`, which refuses the nested form (400, param `tools.0.name`)."""

    type: Literal["function"]
    name: str
    description: str
    parameters: Any


class ResponseRequestOut(TypedDict):
    """`POST /v1/responses`."""

    model: str
    input: list[ItemOut]
    stream: bool
    previous_response_id: NotRequired[str]
    max_output_tokens: NotRequired[int]
    tools: NotRequired[list[FlatToolOut]]
    tool_choice: NotRequired[ToolChoice]


def response_request_out(
    messages: Iterable[Message],
    *,
    model: str,
    previous_response_id: str | None = None,
    tools: Sequence[ToolSpec] = (),
    tool_choice: ToolChoice = "auto",
    max_tokens: int | None = None,
) -> ResponseRequestOut:
    """A request for `/v1/responses`; tool results go as `function_call_output` items."""
    request: ResponseRequestOut = {
        "model": model,
        "input": [item for message in messages for item in _items_out(message)],
        "stream": False,
    }
    if previous_response_id is not None:
        request["previous_response_id"] = previous_response_id
    if max_tokens is not None:
        request["max_output_tokens"] = max_tokens
    if tools:
        request["tools"] = [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in tools
        ]
        request["tool_choice"] = tool_choice
    return request


def _items_out(message: Message) -> Iterator[ItemOut]:
    match message:
        case SystemMessage(text):
            yield {"role": "system", "content": text}
        case UserMessage(text):
            yield {"role": "user", "content": text}
        case ToolMessage(call_id, text):
            yield {"type": "function_call_output", "call_id": call_id, "output": text}
        case AssistantMessage(text, calls):
            if text:
                yield {"role": "assistant", "content": text}
            for call in calls:
                yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        case _:
            assert_never(message)


class ResponsePartIn(WireModel):
    text: str | None = None


class ResponseItemIn(WireModel):
    """An item of a response's output: a message, a reasoning or a function call."""

    type: str | None = None
    content: str | list[ResponsePartIn] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content or [])


class ResponseUsageIn(WireModel):
    input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: TokenDetailsIn | None = None

    def to_usage(self) -> Usage:
        details = self.output_tokens_details
        reasoning = details.reasoning_tokens if details else None
        return Usage(self.input_tokens or 0, self.output_tokens or 0, reasoning or 0)


class ResponseIn(WireModel):
    """`/v1/responses`: note that a reply cut off by max_output_tokens still says "completed"."""

    id: str
    model: str | None = None
    status: str | None = None
    output: list[ResponseItemIn] | None = None
    usage: ResponseUsageIn | None = None

    def to_completion(self) -> Completion:
        items = self.output or []
        return Completion(
            text="".join(item.text() for item in items if item.type == "message"),
            reasoning="".join(item.text() for item in items if item.type == "reasoning"),
            calls=tuple(
                ToolCall(item.call_id or f"call_{number}", item.name or "", item.arguments or "")
                for number, item in enumerate(items)
                if item.type == "function_call"
            ),
            finish_reason=self.status or "",
            model=self.model or "",
            usage=self.usage.to_usage() if self.usage else None,
        )
