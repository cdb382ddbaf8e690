"""What fails between a valid request and the first token: context overflow, images."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lmstudio_sim.errors import (
    VISION_MISSING,
    JsonObject,
    PredictionFailedError,
)
from tests.lmstudio_sim.state import Instance


def check_prompt(
    instance: Instance,
    messages: Sequence[JsonObject],
    *,
    prompt_tokens: int,
    streams: bool,
) -> None:
    """Refuse images for a model that sees none, and what does not fit into the context.

    Raises:
        PredictionFailedError: with the recorded text of the first objection.
    """
    model = instance.model
    if not model.vision and any(has_image(message) for message in messages):
        raise PredictionFailedError(VISION_MISSING)
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
