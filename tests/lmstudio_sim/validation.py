"""The 400s a chat request earns before any model sees it."""

from __future__ import annotations

from typing import Any, NoReturn

from tests.lmstudio_sim.errors import JsonObject, RequestRefusedError, plain_error
from tests.lmstudio_sim.prompts import has_image

INVALID_MESSAGES = "Invalid 'messages' in payload. Please check the structure of your 'messages' and try again"
INVALID_CONTENT = "Invalid 'content': 'content' field must be a string or an array of objects."
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def check_chat(body: JsonObject, *, old_build: bool) -> None:
    """Check a body for /v1/chat/completions; `old_build` rejects null content as LM Studio 0.3 did.

    Raises:
        RequestRefusedError: 400 with the recorded text.
    """
    messages = body.get("messages")
    if messages is None:
        _refuse("'messages' field is required")
    if not isinstance(messages, list) or not messages:
        _refuse(INVALID_MESSAGES)
    for message in messages:
        _check_message(message, old_build=old_build)
    choice = body.get("tool_choice")
    if choice is not None and choice not in ("none", "auto", "required"):
        name = "object" if isinstance(choice, dict) else type(choice).__name__
        _refuse(f"Invalid tool_choice type: '{name}'. Supported string values: none, auto, required")
    wanted = body.get("response_format")
    if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") in ("json_schema", "text")):
        _refuse("'response_format.type' must be 'json_schema' or 'text'")


def _check_message(message: Any, *, old_build: bool) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        _refuse(INVALID_MESSAGES)
    role, content = message["role"], message.get("content")
    if role == "tool":
        if not message.get("tool_call_id") or not isinstance(content, str):
            _refuse(INVALID_MESSAGES)
        return
    if content is None:
        if role != "assistant" or old_build:
            _refuse(INVALID_CONTENT)
    elif isinstance(content, list):
        if role == "system" and has_image(message):
            _refuse("System message cannot contain images.")
        for number, part in enumerate(content):
            _check_part(part, number=number)
    elif not isinstance(content, str):
        _refuse(INVALID_CONTENT)
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not call.get("id") or not function.get("name"):
            _refuse(INVALID_MESSAGES)
        if not isinstance(function.get("arguments"), str):
            _refuse(INVALID_MESSAGES)


def _check_part(part: Any, *, number: int) -> None:
    if not isinstance(part, dict):
        _refuse(INVALID_CONTENT)
    if part.get("type") == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not str(url).startswith("data:"):
            _refuse("'url' field must be a base64 encoded image.")
        if not str(url).startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
            _refuse(f"Invalid image detected at index {number}")
    elif part.get("type") != "text":
        _refuse(INVALID_MESSAGES)


def _refuse(message: str) -> NoReturn:
    raise RequestRefusedError(400, plain_error(message))
