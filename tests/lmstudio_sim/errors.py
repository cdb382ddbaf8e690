"""Error texts and bodies of LM Studio, in the nine shapes it uses (E1 to E9), and the exceptions that carry them.

The texts are the recorded ones of LM Studio 0.4.21 to 0.4.25; a client classifies most failures by them alone.
"""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

MODEL_UNLOADED = "Model unloaded."
MODEL_RELOADED = "Model reloaded."
MODEL_CRASHED = "The model has crashed without additional information. (Exit code: null)"
CHANNEL_ERROR = "Channel Error"
ENGINE_FETCH_FAILED = "Engine protocol predict request failed: fetch failed"
ENGINE_TERMINATED = "terminated"
SLOT_WAIT_FAILED = (
    'Engine protocol predict stream returned an error: {"code":500,'
    '"message":"Timed out while waiting for a free slot.","type":"server_error"}'
)
LOAD_CANCELED = "Operation canceled."
LOAD_BROKEN = "Error loading model."
LOAD_GUARDRAIL = (
    "Model loading was stopped due to insufficient system resources. Continuing to load the model would likely "
    "overload your system and cause it to freeze. If you think this is incorrect, you can adjust the model loading "
    "guardrails in settings."
)
NO_MODELS_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."

OVERFLOW_PLAIN = (
    "The number of tokens to keep from the initial prompt is greater than the context length. "
    "Try to load the model with a larger context length, or provide a shorter input"
)
OVERFLOW_NUMBERED = (
    "The number of tokens to keep from the initial prompt is greater than the context length "
    "(n_keep: {needed}>= n_ctx: {available}). "
    "Try to load the model with a larger context length, or provide a shorter input."
)
OVERFLOW_KEEP_FIRST = (
    "Trying to keep the first {needed} tokens when context the overflows. However, the model is loaded with context "
    "length of only {available} tokens, which is not enough. "
    "Try to load the model with a larger context length, or provide a shorter input"
)
OVERFLOW_TRUNCATE = "Cannot truncate prompt with n_keep ({needed}) >= n_ctx ({available})"
OVERFLOW_EXCEEDS = (
    "request ({needed} tokens) exceeds the available context size ({available} tokens), try increasing it"
)
OVERFLOW_MLX = (
    "Input does not fit in context length. The input has {needed} tokens, "
    "but the context length only supports {available} tokens."
)
CONTEXT_EXCEEDED = (
    'Engine protocol predict stream returned an error: {"code":500,'
    '"message":"Context size has been exceeded.","type":"server_error"}'
)

GRAMMAR_FAILED = "Failed to initialize samplers: failed to parse grammar"
MLX_TYPE_FAILED = "Error in iterating prediction stream: ValueError: 'type' must be a string"
VISION_MISSING = "Vision add-on is not loaded, but images were provided for processing"

NO_USER_QUERY = "No user query found in messages."
ROLES_MUST_ALTERNATE = (
    "After the optional system message, conversation roles must alternate user and assistant roles "
    "except for tool calls and results."
)
SYSTEM_NOT_FIRST = "System message must be at the beginning."

TOKEN_REQUIRED = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the "
    "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). "
    "Learn more at: https://lmstudio.ai/docs/developer/core/authentication."
)

EXPRESS_ERROR_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
    "<body>\n<pre>Internal Server Error</pre>\n</body>\n</html>\n"
)
"""E9: what Express itself sends with status 500."""


class RequestRefusedError(Exception):
    """The request is answered with an error before any generation: `status` and JSON `body`."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class PredictionFailedError(Exception):
    """The generation dies with LM Studio's `message`; each route has its own shape for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InstanceLostError(PredictionFailedError):
    """The instance was unloaded, reloaded or crashed under the generation."""


def plain_error(message: str) -> JsonObject:
    """E1: prediction and validation failures of the chat, completions and embeddings routes (400)."""
    return {"error": message}


def openai_error(
    message: str, *, param: str | None = None, code: str | None = None, type: str = "invalid_request_error"
) -> JsonObject:
    """E2: model resolution and load failures of the OpenAI routes (400, older builds 404)."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def native_error(
    message: str, *, type: str = "invalid_request", code: str | None = None, param: str | None = None
) -> JsonObject:
    """E4: every failure of /api/v1."""
    return {"error": {"message": message, "type": type, "code": code, "param": param}}


def anthropic_error(message: str, *, type: str = "invalid_request_error") -> JsonObject:
    """E5: a failure of /v1/messages."""
    return {"type": "error", "error": {"type": type, "message": message}}


def stream_error(message: str, *, duplicate: bool = False) -> JsonObject:
    """E6: the data of an `event: error` frame; `duplicate` repeats the message at the top level."""
    body: JsonObject = {"error": {"message": message}}
    return {**body, "message": message} if duplicate else body


def unexpected_endpoint(method: str, path: str) -> JsonObject:
    """E7: an unknown path or a wrong method, sent with status 200."""
    return {"error": f"Unexpected endpoint or method. ({method} {path})"}


def native_stream_error(message: str, *, type: str = "internal_error") -> JsonObject:
    """E8: the data of an `event: error` frame of the native chat stream."""
    return {"type": "error", "error": {"type": type, "message": message, "code": "unknown", "param": None}}


def template_failure(message: str) -> str:
    """Frame a chat template's own `message` the way LM Studio does."""
    return (
        f'Error rendering prompt with jinja template: "{message}".\n\n'
        "This is usually an issue with the model's prompt template. If you are using a popular model, you can try to "
        "search the model under lmstudio-community, which will have fixed prompt templates. Otherwise, "
        "you can override the prompt template in My Models > model settings > Prompt Template."
    )


def malformed_token(token: str) -> str:
    """The text for a token of the wrong shape: its first ten characters are kept."""
    return (
        f"Malformed LM Studio API token provided: {token[:10]}{'*' * max(len(token) - 10, 0)} "
        "Ensure you are using a valid token."
    )


def permission_denied(plugin: str) -> JsonObject:
    """The 403 body for a plugin (`mcp/playwright`) that server or token does not allow."""
    return native_error(
        f"Permission denied to use plugin '{plugin}'. Ensure that the server configuration allows plugin usage and, "
        "if using an API token, it has the necessary permissions.",
        param="integrations",
    )
