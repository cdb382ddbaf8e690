"""What fails between a valid request and the first token: context overflow, chat templates, schemas, images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.lmstudio_sim.errors import (
    GRAMMAR_FAILED,
    MLX_TYPE_FAILED,
    NO_USER_QUERY,
    ROLES_MUST_ALTERNATE,
    SYSTEM_NOT_FIRST,
    VISION_MISSING,
    JsonObject,
    PredictionFailedError,
    template_failure,
)
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.state import Instance


def check_prompt(
    instance: Instance,
    messages: Sequence[JsonObject],
    *,
    schemas: Sequence[JsonObject],
    prompt_tokens: int,
    streams: bool,
) -> None:
    """Let the model's template, grammar and context have their say.

    Raises:
        PredictionFailedError: with the recorded text of the first objection.
    """
    model = instance.model
    _check_template(model, messages)
    if not model.vision and any(has_image(message) for message in messages):
        raise PredictionFailedError(VISION_MISSING)
    nodes = [node for schema in schemas for node in _walk_schema(schema)]
    if model.rejects_patterns and any("pattern" in node for node in nodes):
        raise PredictionFailedError(GRAMMAR_FAILED)
    if model.format == "mlx" and any(isinstance(node.get("type"), list) for node in nodes):
        raise PredictionFailedError(MLX_TYPE_FAILED)
    if prompt_tokens > instance.context_length:
        text = model.stream_overflow_text if streams else model.overflow_text
        raise PredictionFailedError(
            text.replace("{needed}", str(prompt_tokens)).replace("{available}", str(instance.context_length))
        )


def has_image(message: JsonObject) -> bool:
    """Whether a message has an image part."""
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "image_url" for part in content
    )


def _check_template(model: SimModel, messages: Sequence[JsonObject]) -> None:
    roles = [message.get("role") for message in messages]
    if model.system_first and "system" in roles[1:]:
        raise PredictionFailedError(template_failure(SYSTEM_NOT_FIRST))
    if model.requires_user and not any(
        message.get("role") == "user" and message.get("content") for message in messages
    ):
        raise PredictionFailedError(template_failure(NO_USER_QUERY))
    if model.alternate_roles:
        turns = [
            message.get("role")
            for message in (messages[1:] if roles[:1] == ["system"] else messages)
            if message.get("role") != "tool" and not message.get("tool_calls")
        ]
        if any(role != ("user", "assistant")[n % 2] for n, role in enumerate(turns)):
            raise PredictionFailedError(template_failure(ROLES_MUST_ALTERNATE))


def _walk_schema(schema: Any) -> Iterator[JsonObject]:
    # Only keywords count: a property may well be named "pattern" or "type".
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword in ("properties", "$defs", "definitions", "patternProperties"):
        named = schema.get(keyword)
        for inner in named.values() if isinstance(named, dict) else ():
            yield from _walk_schema(inner)
    for keyword in ("items", "additionalProperties", "not", "contains"):
        yield from _walk_schema(schema.get(keyword))
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        listed = schema.get(keyword)
        for inner in listed if isinstance(listed, list) else ():
            yield from _walk_schema(inner)
