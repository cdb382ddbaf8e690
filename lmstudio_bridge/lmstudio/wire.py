"""LM Studio's JSON, in (pydantic) and out (TypedDict).

Replies are read liberally: unknown keys are ignored, and every key may be missing, null or in another
server's form. What we send is strict: the form that is safe for every template family seen.

The agent loop does not use `/v1/responses`: LM Studio's state there does not hold the results of tools
that we run, and its streaming has known bugs. It is for callers of `LLMClient.create_response`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, assert_never

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from lmstudio_bridge.lmstudio.models import ModelInfo, ModelInstance
from lmstudio_bridge.messages import (
    AssistantMessage,
    ChatRequest,
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

# -- out ----------------------------------------------------------------------------------------


class FunctionOut(TypedDict):
    name: str
    arguments: str


class CallOut(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionOut


class TextPartOut(TypedDict):
    type: Literal["text"]
    text: str


class ImageURLOut(TypedDict):
    url: str


class ImagePartOut(TypedDict):
    type: Literal["image_url"]
    image_url: ImageURLOut


class MessageOut(TypedDict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPartOut | ImagePartOut]
    tool_calls: NotRequired[list[CallOut]]
    tool_call_id: NotRequired[str]


class FunctionSpecOut(TypedDict):
    name: str
    description: str
    parameters: Any


class ToolOut(TypedDict):
    type: Literal["function"]
    function: FunctionSpecOut


class StreamOptionsOut(TypedDict):
    include_usage: bool


class JSONSchemaOut(TypedDict):
    name: str
    strict: bool
    schema: Any


class ResponseFormatOut(TypedDict):
    """LM Studio takes only `json_schema` and `text` here; `json_object` is a 400."""

    type: Literal["json_schema"]
    json_schema: JSONSchemaOut


class ChatRequestOut(TypedDict):
    """`POST /v1/chat/completions`; `max_tokens` in tokens, absent for no limit of ours."""

    model: str
    messages: list[MessageOut]
    stream: bool
    tools: NotRequired[list[ToolOut]]
    stream_options: NotRequired[StreamOptionsOut]
    max_tokens: NotRequired[int]
    temperature: NotRequired[float]
    reasoning_effort: NotRequired[str]
    response_format: NotRequired[ResponseFormatOut]
    tool_choice: NotRequired[ToolChoice]


def message_out(message: Message) -> MessageOut:
    """One message; `content` is a string, for old builds of LM Studio reject null, or parts with images.

    LM Studio takes images as base64 in user messages only, never as the URL of a site.
    """
    match message:
        case SystemMessage(text):
            return {"role": "system", "content": text}
        case UserMessage(text, ()):
            return {"role": "user", "content": text}
        case UserMessage(text, images):
            shown: list[TextPartOut | ImagePartOut] = [{"type": "text", "text": text}]
            shown += [
                {"type": "image_url", "image_url": {"url": f"data:{image.mime_type};base64,{image.data}"}}
                for image in images
                if image.data  # a run that is continued does not have them
            ]
            return {"role": "user", "content": shown}
        case ToolMessage(call_id, text):
            return {"role": "tool", "tool_call_id": call_id, "content": text}
        case AssistantMessage(text, ()):
            return {"role": "assistant", "content": text}
        case AssistantMessage(text, calls):
            return {"role": "assistant", "content": text, "tool_calls": [_call_out(call) for call in calls]}
        case _:
            assert_never(message)


def tool_out(tool: ToolSpec) -> ToolOut:
    """One tool in the nested form of chat completions."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    }


def chat_request_out(request: ChatRequest, *, model: str, stream: bool) -> ChatRequestOut:
    """A chat request; `tool_choice` is sent only with tools."""
    payload: ChatRequestOut = {
        "model": model,
        "messages": [message_out(message) for message in request.messages],
        "stream": stream,
    }
    if stream:
        payload["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        payload["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        payload["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        payload["reasoning_effort"] = request.reasoning_effort
    if request.response_schema is not None:
        schema: JSONSchemaOut = {"name": "reply", "strict": True, "schema": request.response_schema}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        payload["tools"] = [tool_out(tool) for tool in request.tools]
        payload["tool_choice"] = request.tool_choice
    return payload


def _call_out(call: ToolCall) -> CallOut:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# -- in: completions ----------------------------------------------------------------------------


class WireModel(BaseModel):
    """Base of what we read: unknown keys are ignored, and a number will do for a string."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), coerce_numbers_to_str=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _ignore_odd_values(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """An optional field with an odd value is as good as missing: it must not cost the rest of a reply."""
        try:
            return read(value)
        except ValidationError:
            field = cls.model_fields[info.field_name or ""]
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True)


class TokenDetailsIn(WireModel):
    reasoning_tokens: int | None = None


class UsageIn(WireModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: TokenDetailsIn | None = None

    def to_usage(self) -> Usage | None:
        """The counts; None where the server has counted nothing, as in `"usage": {}`."""
        details = self.completion_tokens_details
        if self.prompt_tokens is None and self.completion_tokens is None and details is None:
            return None
        reasoning = details.reasoning_tokens if details else None
        return Usage(self.prompt_tokens or 0, self.completion_tokens or 0, reasoning or 0)


class FunctionIn(WireModel):
    name: str | None = None
    arguments: str | dict[str, Any] | list[Any] | None = None


class CallIn(WireModel):
    index: int | None = None
    id: str | None = None
    function: FunctionIn | None = None


class MessageIn(WireModel):
    """A message or a delta: the same keys. gpt-oss uses `reasoning`, most others `reasoning_content`."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallIn] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(_part_text(part) for part in self.content)
        return self.content or ""

    def thinking(self) -> str:
        return self.reasoning_content or self.reasoning or ""


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""


class ChoiceIn(WireModel):
    delta: MessageIn | None = None
    message: MessageIn | None = None
    text: str | None = None  # /v1/completions
    finish_reason: str | None = None


class ChatIn(WireModel):
    """A chunk of a stream or a whole reply of chat/completions or completions."""

    model: str | None = None
    choices: list[ChoiceIn] | None = None
    usage: UsageIn | None = None


class CompletionIn(ChatIn):
    """A whole reply of chat/completions or completions, which has at least one choice."""

    choices: list[ChoiceIn] = Field(min_length=1)


class EmbeddingIn(WireModel):
    embedding: list[float]
    index: int | None = None


class EmbeddingsIn(WireModel):
    data: list[EmbeddingIn]

    def vectors(self) -> list[list[float]]:
        return [item.embedding for item in sorted(self.data, key=lambda item: item.index or 0)]


# -- in: models ---------------------------------------------------------------------------------


class InstanceConfigIn(WireModel):
    context_length: int | None = None
    parallel: int | None = None


class InstanceIn(WireModel):
    id: str
    config: InstanceConfigIn | None = None


class CapabilitiesIn(WireModel):
    vision: bool | None = None
    trained_for_tool_use: bool | None = None


class NativeModelIn(WireModel):
    key: str
    type: str | None = None
    loaded_instances: list[InstanceIn] | None = None
    max_context_length: int | None = None
    capabilities: CapabilitiesIn | None = None
    variants: list[str] | None = None
    selected_variant: str | None = None
    size_bytes: int | None = None

    def to_info(self) -> ModelInfo:
        chosen = [self.selected_variant] if self.selected_variant else []
        variants = [*chosen, *(variant for variant in self.variants or [] if variant not in chosen)]
        return ModelInfo(
            key=self.key,
            kind="embedding" if (self.type or "").startswith("embedding") else "llm",
            instances=tuple(
                ModelInstance(
                    instance.id,
                    instance.config.context_length if instance.config else None,
                    instance.config.parallel if instance.config else None,
                )
                for instance in self.loaded_instances or []
            ),
            max_context_length=self.max_context_length,
            trained_for_tool_use=self.capabilities.trained_for_tool_use if self.capabilities else None,
            vision=self.capabilities.vision if self.capabilities else None,
            variants=tuple(variants),
            size_bytes=self.size_bytes,
        )


class NativeModelsIn(WireModel):
    """`GET /api/v1/models` (LM Studio 0.4 and later)."""

    models: list[NativeModelIn]

    def to_infos(self) -> tuple[ModelInfo, ...]:
        return tuple(model.to_info() for model in self.models)


class OldNativeModelIn(WireModel):
    id: str
    type: str | None = None
    state: str | None = None
    max_context_length: int | None = None
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None

    def to_info(self) -> ModelInfo:
        # "loading" counts as loaded: a request waits for it, and a second load would make a twin.
        loaded = self.state in ("loaded", "loading")
        return ModelInfo(
            key=self.id,
            kind="embedding" if (self.type or "").startswith("embedding") else "llm",
            instances=(ModelInstance(self.id, self.loaded_context_length),) if loaded else (),
            max_context_length=self.max_context_length,
            trained_for_tool_use=None if self.capabilities is None else "tool_use" in self.capabilities,
            vision=self.type == "vlm",
        )


class OldNativeModelsIn(WireModel):
    """`GET /api/v0/models` (LM Studio 0.3.6 and later)."""

    data: list[OldNativeModelIn]

    def to_infos(self) -> tuple[ModelInfo, ...]:
        return tuple(model.to_info() for model in self.data)


class OpenAIModelIn(WireModel):
    id: str


class OpenAIModelsIn(WireModel):
    """`GET /v1/models`: names only; LM Studio's id prefix tells embedding models."""

    data: list[OpenAIModelIn]

    def to_infos(self) -> tuple[ModelInfo, ...]:
        return tuple(
            ModelInfo(key=model.id, kind="embedding" if model.id.startswith("text-embedding-") else "llm")
            for model in self.data
        )


# -- /v1/responses --------------------------------------------------------------------------------


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
