"""Every error that LM Studio and llama.cpp were seen to send, and what it must become.

Texts and shapes are those of docs/lm-studio.md: sections 1.3 (tokens), 2 (shapes E1 to E9), 6.1 (requests
in flight), 8 (all texts) and 14 (classes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from lmstudio_bridge.errors import (
    AuthError,
    ContextOverflowError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LostToolCallError,
    ModelLoadError,
    ModelLostError,
    ModelNotFoundError,
    ServerBusyError,
    TemplateError,
    ToolSchemaError,
    ToolsUnsupportedError,
    WrongEndpointError,
)
from tests.lmstudio_sim import errors

JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply that must fail; `words` are the server's own, which the user must get to see."""

    name: str
    status: int
    body: bytes
    error: type[LLMError]
    words: str
    content_type: str = JSON
    retryable: bool = False

    @property
    def kind(self) -> str:
        return self.error.kind


Shape = Literal["E1", "E2", "E4", "E6"]


def shaped(shape: Shape, message: str, *, type: str = "", code: Any = None) -> Any:
    """A body of that shape with the shape's usual type, unless another is given."""
    match shape:
        case "E1":
            return errors.plain_error(message)
        case "E2":
            return errors.openai_error(message, type=type or "invalid_request_error", code=code)
        case "E4":
            return errors.native_error(message, type=type or "invalid_request", code=code)
        case "E6":
            return errors.stream_error(message)


def row(
    name: str,
    message: str,
    error: type[LLMError],
    shape: Shape = "E1",
    status: int = 400,
    *,
    type: str = "",
    code: Any = None,
    retryable: bool = False,
) -> Failure:
    body = json.dumps(shaped(shape, message, type=type, code=code), indent=2).encode()
    return Failure(name, status, body, error, message, retryable=retryable)


def raw(
    name: str,
    status: int,
    body: Any,
    error: type[LLMError],
    words: str,
    content_type: str = JSON,
    *,
    retryable: bool = False,
) -> Failure:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Failure(name, status, data, error, words, content_type, retryable)


OVERFLOW_JSON = (
    'Engine protocol predict stream returned an error: {"code":500,"message":"Context size has been exceeded.",'
    '"type":"server_error"}'
)
PARSER_FAILED = (
    'Engine protocol predict request returned 400: {"error":{"code":400,"message":"Unable to generate parser for '
    'this template. Automatic parser generation failed: Jinja Exception: No user query found in messages."}}'
)
OMITTED_CALL = (
    "Failed to generate a tool call (this tool call will be omitted from the response): Failed to parse tool call: "
    "Unexpected end of content."
)

FAILED_AT = (
    'Engine protocol predict stream returned an error: {"code":500,"message":"Failed to parse input at pos 12: '
    '</tool_call>","type":"server_error"}'
)
EMPTY_STACK = "Unexpected empty grammar stack after accepting piece: <|channel|>"

FAILURES: tuple[Failure, ...] = (
    # -- tokens (1.3) --------------------------------------------------------------------------------------------
    row("token missing", errors.TOKEN_REQUIRED, AuthError, "E4", 401, code="invalid_api_key"),
    row("token malformed", errors.malformed_token("22aac52a71bb"), AuthError, "E4", 401),
    raw(
        "permission missing",
        403,
        errors.permission_denied("mcp/playwright"),
        AuthError,
        "Permission denied to use plugin 'mcp/playwright'",
    ),
    row("unknown words with 401", "Nope.", AuthError, status=401),
    row("unknown words with 403", "Nope.", AuthError, status=403),
    raw("a proxy's own 401 page", 401, "<html>Authorization Required</html>", AuthError, "Authorization Required"),
    raw("a bare 401", 401, "", AuthError, ""),
    # -- the wrong address ---------------------------------------------------------------------------------------
    raw(
        "E7: unknown route, with 200",
        200,
        errors.unexpected_endpoint("POST", "/chat/completions"),
        WrongEndpointError,
        "Unexpected endpoint or method. (POST /chat/completions)",
    ),
    raw("another server's 404", 404, {"detail": "Not Found"}, WrongEndpointError, "Not Found"),
    raw("another server's 405", 405, {"detail": "Method Not Allowed"}, WrongEndpointError, "Method Not Allowed"),
    raw("a web page with 200", 200, "<html><h1>Welcome</h1></html>", WrongEndpointError, "Welcome", HTML),
    raw("a web page with 404", 404, "<html>Lost?</html>", WrongEndpointError, "Lost?", HTML),
    raw("plain text with 200", 200, "Ollama is running", WrongEndpointError, "Ollama is running"),
    raw("nothing with 200", 200, "", WrongEndpointError, ""),
    raw("a redirect to a login page", 302, "<html>Found</html>", WrongEndpointError, "Found", HTML),
    raw("JSON without end of nesting", 200, "[" * 100_000, WrongEndpointError, "[["),
    # -- no such model (3.3) -------------------------------------------------------------------------------------
    row("no model loaded", errors.NO_MODELS_LOADED, ModelNotFoundError, "E2"),
    row("no model loaded, older", errors.NO_MODELS_LOADED, ModelNotFoundError, "E2", 404),
    row("no model loaded, as a string", errors.NO_MODELS_LOADED.replace("'", "`"), ModelNotFoundError),
    row(
        "unknown model, several loaded",
        'Invalid model identifier "not-a-model". Please specify a valid downloaded model (e.g., a, b, c).',
        ModelNotFoundError,
        "E2",
        code="model_not_found",
    ),
    row("nothing downloaded", "Invalid model identifier 'x'. There are no downloaded llm models.", ModelNotFoundError),
    row(
        "unknown model, older",
        'Model "x" not found. Please specify a valid model.\n\nYour models:\n\na\nb',
        ModelNotFoundError,
        "E2",
        404,
        code="model_not_found",
    ),
    row("unknown model, by its code only", "Nope.", ModelNotFoundError, "E4", 404, code="model_not_found"),
    # -- loading (8) ---------------------------------------------------------------------------------------------
    row("load failed", 'Failed to load model "X". Error: Error loading model.', ModelLoadError, "E2"),
    row("load failed in the guardrail", errors.LOAD_GUARDRAIL, ModelLoadError),
    row(
        "load failed in the guardrail, native",
        f'Failed to load model "X". Error: {errors.LOAD_GUARDRAIL}',
        ModelLoadError,
        "E4",
        500,
        type="internal_error",
    ),
    row(
        "load failed for its context length",
        'Failed to load model "X". Error: context length 262144 needs too much memory.',
        ModelLoadError,
        "E2",
    ),
    row("load failed for file rights", 'Failed to load model "X". Error: Permission denied.', ModelLoadError, "E2"),
    row("load overtaken", 'Failed to load model "X". Error: Operation canceled.', ModelLostError, "E2"),
    row("load overtaken, in short", "Operation canceled.", ModelLostError),
    # -- models lost in flight (6.1) -----------------------------------------------------------------------------
    row("model unloaded", errors.MODEL_UNLOADED, ModelLostError),
    row("model reloaded", errors.MODEL_RELOADED, ModelLostError),
    row("model is unloaded", "Model is unloaded.", ModelLostError),
    row("model crashed", errors.MODEL_CRASHED, ModelLostError),
    row(
        "model crashed with a large code",
        "The model has crashed without additional information. (Exit code: 18446744072635812000)",
        ModelLostError,
    ),
    row("channel error", errors.CHANNEL_ERROR, ModelLostError),
    row("engine's pipe torn", errors.ENGINE_FETCH_FAILED, ModelLostError),
    row("engine terminated", errors.ENGINE_TERMINATED, ModelLostError),
    row(
        "E3: engine terminated under /v1/responses",
        "terminated",
        ModelLostError,
        "E2",
        500,
        type="internal_error",
        code="unknown",
    ),
    row("model not loaded, native", "Nope.", ModelLostError, "E4", 404, type="model_not_loaded"),
    row("cancelled, native", "Nope.", ModelLostError, "E4", 500, type="cancelled"),
    # -- context overflow (8.1) ----------------------------------------------------------------------------------
    row("overflow", errors.OVERFLOW_PLAIN, ContextOverflowError),
    row(
        "E3: overflow under /v1/responses",
        errors.OVERFLOW_PLAIN,
        ContextOverflowError,
        "E2",
        500,
        type="internal_error",
        code="unknown",
    ),
    row("overflow with numbers", errors.OVERFLOW_NUMBERED.format(needed=5228, available=4096), ContextOverflowError),
    row(
        "overflow of the first tokens",
        errors.OVERFLOW_KEEP_FIRST.format(needed=5228, available=4096),
        ContextOverflowError,
    ),
    row(
        "overflow while truncating", "Cannot truncate prompt with n_keep (12378) >= n_ctx (4096)", ContextOverflowError
    ),
    row("overflow, MLX", errors.OVERFLOW_MLX.format(needed=359277, available=262144), ContextOverflowError),
    row("overflow while generating", OVERFLOW_JSON, ContextOverflowError),
    row("overflow while generating, bare", "Context size has been exceeded.", ContextOverflowError),
    raw(
        "overflow, llama.cpp",
        400,
        {
            "error": {
                "code": 400,
                "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
        ContextOverflowError,
        "request (5000 tokens) exceeds the available context size (4096 tokens)",
    ),
    row(
        "embedding input too large, llama.cpp",
        "input (600 tokens) is too large to process. increase the physical batch size",
        ContextOverflowError,
        "E2",
        500,
        type="server_error",
        code=500,
    ),
    # -- templates (8.2) -----------------------------------------------------------------------------------------
    row("no user query", errors.template_failure(errors.NO_USER_QUERY), TemplateError),
    row("roles must alternate", errors.template_failure(errors.ROLES_MUST_ALTERNATE), TemplateError),
    row("late system message", errors.template_failure(errors.SYSTEM_NOT_FIRST), TemplateError),
    row("content and thinking", "Cannot pass both content and thinking in an assistant message.", TemplateError),
    row("unknown test", errors.template_failure("Unknown test: sequence"), TemplateError),
    row("parser error", "Parser Error: Expected closing statement token. OpenSquareBracket", TemplateError),
    row("no parser for the template", PARSER_FAILED, TemplateError),
    row(
        "template failed while it was applied",
        "Engine protocol applyPromptTemplate request returned 500: Jinja Exception: x",
        TemplateError,
    ),
    # -- tools ---------------------------------------------------------------------------------------------------
    row("no grammar for a tool", errors.GRAMMAR_FAILED, ToolSchemaError),
    row("two types for one argument, MLX", errors.MLX_TYPE_FAILED, ToolSchemaError),
    row("tool format, native", "Nope.", ToolSchemaError, "E4", 500, type="tool_format_generation_error"),
    row("no grammar for a tool, llama.cpp", "JSON schema conversion failed:\nUnrecognized schema: 5", ToolSchemaError),
    row("call left out", OMITTED_CALL, LostToolCallError),
    row("call that the parser cannot read", FAILED_AT, LostToolCallError, "E6", 200),
    row("call that the grammar cannot take", EMPTY_STACK, LostToolCallError),
    row(
        "tools refused, Ollama",
        "registry.ollama.ai/library/deepseek-r1:14b does not support tools",
        ToolsUnsupportedError,
        "E2",
    ),
    row(
        "tools refused, vLLM",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        ToolsUnsupportedError,
        "E2",
    ),
    row(
        "tools refused, llama.cpp",
        "tools param requires --jinja flag",
        ToolsUnsupportedError,
        "E2",
        500,
        type="server_error",
        code=500,
    ),
    row("tools refused", "Tool calling is not supported for this model", ToolsUnsupportedError, "E2"),
    row(
        "call not readable, Ollama",
        "error parsing tool call: raw='{\"path\": }', err=invalid character '}' looking for beginning of value",
        LostToolCallError,
        "E2",
        500,
    ),
    row("call taken back, llama.cpp", "Invalid diff: now finding less tool calls!", LostToolCallError, "E2", 500),
    row("system role refused", "System role not supported", TemplateError, "E2"),
    row(
        "overflow, vLLM",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        ContextOverflowError,
        "E2",
    ),
    row("overflow, Anthropic's words", "prompt is too long: 5000 tokens > 4096 maximum", ContextOverflowError),
    raw("request too large", 413, "<html>413 Request Entity Too Large</html>", ContextOverflowError, "413", HTML),
    row("stream that broke inside", "Error in iterating prediction stream: x", ModelLostError, "E6", 200),
    row("calls in parallel, GLM", "Failed to parse tool call: Extra content after end of tool call", LostToolCallError),
    row(
        "call not readable, llama.cpp",
        "The model produced output that does not match the expected peg-native format",
        LostToolCallError,
        "E2",
        500,
        type="server_error",
        code=500,
    ),
    # -- busy ----------------------------------------------------------------------------------------------------
    row("no slot came free", errors.SLOT_WAIT_FAILED, ServerBusyError, retryable=True),
    row("loading, llama.cpp", "Loading model", ServerBusyError, "E2", 503, code=503, retryable=True),
    row("a server fault without known words", "Oops.", ServerBusyError, "E2", 500, retryable=True),
    raw(
        "E9: Express's own page",
        500,
        errors.EXPRESS_ERROR_PAGE,
        ServerBusyError,
        "Internal Server Error",
        HTML,
        retryable=True,
    ),
    raw("a gateway's own page", 502, "<html>Bad Gateway</html>", ServerBusyError, "Bad Gateway", HTML, retryable=True),
    raw("a gateway that is overloaded", 529, {"message": "overloaded"}, ServerBusyError, "overloaded", retryable=True),
    raw("a gateway's limit", 429, {"error": "Too many"}, LLMRateLimitError, "Too many", retryable=True),
    raw("a gateway's limit in plain text", 429, "Slow down", LLMRateLimitError, "Slow down", retryable=True),
    # -- other requests that are refused -------------------------------------------------------------------------
    row("messages missing", "'messages' field is required", LLMResponseError),
    row(
        "messages malformed",
        "Invalid 'messages' in payload. Please check the structure of your 'messages' and try again",
        LLMResponseError,
    ),
    row(
        "content null", "Invalid 'content': 'content' field must be a string or an array of objects.", LLMResponseError
    ),
    row(
        "tool_choice as an object",
        "Invalid tool_choice type: 'object'. Supported string values: none, auto, required",
        LLMResponseError,
    ),
    row("json_object", "'response_format.type' must be 'json_schema' or 'text'", LLMResponseError),
    row("image by address", "'url' field must be a base64 encoded image.", LLMResponseError),
    row("image unreadable", "Invalid image detected at index 0", LLMResponseError),
    row("image for a text model", f"Model X: {errors.VISION_MISSING}", LLMResponseError),
    row("image for the system", "System message cannot contain images.", LLMResponseError),
    row(
        "E4: native strictness",
        "Unrecognized key(s) in object: 'ttl'",
        LLMResponseError,
        "E4",
        code="unrecognized_keys",
    ),
    raw(
        "E5: Anthropic's shape", 400, errors.anthropic_error("Only text blocks."), LLMResponseError, "Only text blocks."
    ),
    row(
        "unknown previous response",
        "Prediction history node with id 'X' not found while attempting to build chat history chain that includes "
        "this node.",
        LLMResponseError,
        "E2",
        code="previous_response_not_found",
    ),
    row(
        "engine's 400", 'Engine protocol predict stream returned an error: {"code":400,"message":"x"}', LLMResponseError
    ),
    raw("only a message", 400, {"message": "Bad thing."}, LLMResponseError, "Bad thing."),
    raw("an error as an object", 400, {"object": "error", "message": "Bad thing."}, LLMResponseError, "Bad thing."),
)
