"""LM Studio's JSON, in (pydantic) and out.

Replies are read liberally: unknown keys are ignored, and every key may be missing, null or in another
server's form. What we send is strict: the form that is safe for every template family seen.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, assert_never

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from lmstudio_bridge.lmstudio.models import ModelInfo, ModelInstance
from lmstudio_bridge.messages import (
    AssistantMessage,
    ChatRequest,
    Message,
    SystemMessage,
    ToolMessage,
    Usage,
    UserMessage,
    is_deeper,
)

# -- out ----------------------------------------------------------------------------------------


def message_out(message: Message) -> dict[str, Any]:
    """One message; `content` is a string, for old builds of LM Studio reject null, or parts with images.

    LM Studio takes images as base64 in user messages only, never as the URL of a site.
    """
    match message:
        case ToolMessage():  # the most frequent first: a history of 1,000 messages takes a millisecond
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
        case AssistantMessage():
            turn: dict[str, Any] = {"role": "assistant", "content": message.text}
            if message.calls:
                turn["tool_calls"] = [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in message.calls
                ]
            return turn
        case UserMessage(text, ()):
            return {"role": "user", "content": text}
        case UserMessage(text, images):
            shown: list[dict[str, Any]] = [{"type": "text", "text": text}]
            shown += [
                {"type": "image_url", "image_url": {"url": f"data:{image.mime_type};base64,{image.data}"}}
                for image in images
                if image.data  # a run that is continued does not have them
            ]
            return {"role": "user", "content": shown}
        case SystemMessage():
            return {"role": "system", "content": message.text}
        case _:
            assert_never(message)


def chat_request_out(request: ChatRequest, *, model: str) -> dict[str, Any]:
    """`POST /v1/chat/completions`, for a streamed reply; `tool_choice` is sent only with tools.

    LM Studio answers `tool_choice` as an object and a `response_format` of the type `json_object` with 400.
    """
    payload: dict[str, Any] = {
        "model": model,
        "messages": [message_out(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.max_tokens is not None:
        payload["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        payload["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        payload["reasoning_effort"] = request.reasoning_effort
    if request.response_schema is not None:
        schema = {"name": "reply", "strict": True, "schema": request.response_schema}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        functions = (
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in request.tools
        )
        payload["tools"] = [{"type": "function", "function": function} for function in functions]
        payload["tool_choice"] = "auto"
    return payload


# -- in: numbers ---------------------------------------------------------------------------------


_MAX_NESTING = 200  # levels; no tool takes so many


class WrittenFloat(float):
    """A number of JSON that keeps its digits: 1.10 is not 1.1 where it is the version of something."""

    source: str

    def __new__(cls, source: str) -> WrittenFloat:
        number = super().__new__(cls, source)
        number.source = source
        return number


def as_written(value: Any) -> str:
    """A JSON value as text, its numbers with the digits that they came with unless it is nested too deeply."""
    return json.dumps(value, ensure_ascii=False) if is_deeper(value, _MAX_NESTING) else _written(value)


def _written(value: Any) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{_written(key)}: {_written(each)}' for key, each in value.items())}}}"
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case WrittenFloat():
            return value.source
        case _:
            return json.dumps(value, ensure_ascii=False)


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


class UsageIn(WireModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = Field(
        None, validation_alias=AliasPath("completion_tokens_details", "reasoning_tokens")
    )

    def to_usage(self) -> Usage | None:
        """The counts; None where the server has not counted the reply, as in `"usage": {}`."""
        if self.completion_tokens is None and self.reasoning_tokens is None:
            return None
        return Usage(self.prompt_tokens or 0, self.completion_tokens or 0, self.reasoning_tokens or 0)


class FunctionIn(WireModel):
    name: str | None = None
    arguments: str | dict[str, Any] | list[Any] | None = Field(
        None, validation_alias=AliasChoices("arguments", "parameters", "input")
    )


class CallIn(WireModel):
    index: int | None = None
    id: str | None = None
    function: FunctionIn | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_flat(cls, call: Any) -> Any:
        """Some servers put the name beside the id."""
        return {**call, "function": call} if isinstance(call, dict) and "function" not in call else call


def _dicts(value: Any) -> Any:
    """The objects of a list, also where there is only one without a list: an odd one must not cost the others."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


class MessageIn(WireModel):
    """A message or a delta: the same keys. gpt-oss uses `reasoning`, most others `reasoning_content`."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[CallIn] | None, BeforeValidator(_dicts)] = None
    function_call: FunctionIn | None = None  # its older form

    def calls(self) -> list[CallIn]:
        if self.function_call and not self.tool_calls:
            return [CallIn(index=0, function=self.function_call)]
        return self.tool_calls or []

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
    index: int | None = None
    delta: MessageIn | None = None
    message: MessageIn | None = None
    text: str | None = None
    finish_reason: str | None = None


class ChatIn(WireModel):
    """A chunk of a stream, or a whole reply, which comes from a server that ignores `stream`."""

    model: str | None = None
    choices: Annotated[list[ChoiceIn] | None, BeforeValidator(_dicts)] = None
    usage: UsageIn | None = None


class EmbeddingIn(WireModel):
    embedding: list[float]
    index: int | None = None


class EmbeddingsIn(WireModel):
    data: list[EmbeddingIn]

    def vectors(self) -> list[list[float]]:
        return [item.embedding for item in sorted(self.data, key=lambda item: item.index or 0)]


# -- in: models ---------------------------------------------------------------------------------


class InstanceIn(WireModel):
    id: str
    context_length: int | None = Field(None, validation_alias=AliasPath("config", "context_length"))
    parallel: int | None = Field(None, validation_alias=AliasPath("config", "parallel"))


class NativeModelIn(WireModel):
    key: str
    type: str | None = None
    loaded_instances: list[InstanceIn] = []
    max_context_length: int | None = None
    vision: bool | None = Field(None, validation_alias=AliasPath("capabilities", "vision"))
    trained_for_tool_use: bool | None = Field(None, validation_alias=AliasPath("capabilities", "trained_for_tool_use"))
    variants: list[str] = []
    selected_variant: str | None = None
    size_bytes: int | None = None

    def to_info(self) -> ModelInfo:
        chosen = [self.selected_variant] if self.selected_variant else []
        variants = [*chosen, *(variant for variant in self.variants if variant not in chosen)]
        return ModelInfo(
            key=self.key,
            kind="embedding" if (self.type or "").startswith("embedding") else "llm",
            instances=tuple(
                ModelInstance(each.id, each.context_length, each.parallel) for each in self.loaded_instances
            ),
            max_context_length=self.max_context_length,
            trained_for_tool_use=self.trained_for_tool_use,
            vision=self.vision,
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
        loading = self.state == "loading"
        instance = ModelInstance(self.id, self.loaded_context_length, loading=loading)
        return ModelInfo(
            key=self.id,
            kind="embedding" if (self.type or "").startswith("embedding") else "llm",
            instances=(instance,) if loading or self.state == "loaded" else (),
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
    owned_by: str | None = None
    status: dict[str, Any] | None = None  # of llama.cpp's router

    @property
    def is_served(self) -> bool:
        """Whether llama.cpp's server lists it, which has it in memory; its router says so of each."""
        return self.owned_by == "llamacpp" and (self.status is None or self.status.get("value") == "loaded")


class OpenAIModelsIn(WireModel):
    """`GET /v1/models`: names only; LM Studio's id prefix tells embedding models."""

    data: list[OpenAIModelIn]

    def to_infos(self) -> tuple[ModelInfo, ...]:
        return tuple(
            ModelInfo(
                key=model.id,
                kind="embedding" if model.id.startswith("text-embedding-") else "llm",
                served=model.is_served,
            )
            for model in self.data
        )
