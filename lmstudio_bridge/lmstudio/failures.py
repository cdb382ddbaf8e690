"""LM Studio's error bodies and texts → our errors, each with a remedy.

Sources: the error shapes and texts that LM Studio 0.3 and 0.4 and llama.cpp's server were seen to
send. Texts change between versions, so rules match fragments, ignoring case, in order.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from lmstudio_bridge import errors
from lmstudio_bridge.json_text import load_or_none

MAX_DETAIL = 600  # characters of the server's message that an error keeps
_MAX_MATCHED = 20_000  # characters of it that rules are matched against; some messages quote a whole template


class _Rule(NamedTuple):
    pattern: str
    error: type[errors.LLMResponseError]
    message: str
    remedy: str


_RELOAD_REMEDY = (
    "Load the model by hand in LM Studio (a hand-loaded model has no idle limit and is not evicted), "
    'or turn off "Only Keep Last JIT Loaded Model".'
)

_NOT_PERMITTED = _Rule(
    r"permission denied",
    errors.AuthError,
    "LM Studio does not permit this request.",
    "Allow it in LM Studio under Developer → Server Settings, and give the token in LM_API_TOKEN the permission.",
)
_TOKEN_REFUSED = _Rule(
    r"api token|invalid_api_key|invalid api key|unauthorized|forbidden",
    errors.AuthError,
    "LM Studio refused the API token.",
    "Create a token in LM Studio under Developer → Server Settings → Manage Tokens, and set LM_API_TOKEN to it.",
)
_NO_SUCH_ROUTE = _Rule(
    r"unexpected endpoint or method",
    errors.WrongEndpointError,
    "LM Studio does not know this route.",
    "Check LMSTUDIO_BASE_URL (usually http://127.0.0.1:1234/v1), and update LM Studio if it is old.",
)
_TOO_LARGE = _Rule(
    r"n_keep|context length|context size|n_ctx|exceed_context_size|context window|too large to process"
    r"|(?:payload|entity) too large|longer than the maximum model length|prompt is too long",
    errors.ContextOverflowError,
    "The conversation does not fit into the context that the model is loaded with.",
    "Reload the model in LM Studio with a larger context length (16k or more), or give a smaller task.",
)
_BUSY = _Rule(
    r"\"code\": ?50\d|\[50\d\b|engine protocol predict stream(?!.*\"code\": ?4\d\d)|loading model|slot unavailable"
    r"|overloaded",
    errors.ServerBusyError,
    "The engine was too busy, or failed for a moment.",
    "Try again; if it persists, run fewer tasks at once or restart the model in LM Studio.",
)

# The order matters: a failed load may quote any cause, and an engine's message may wrap an overflow or
# a template error; llama.cpp's server that takes no tools names the template engine.
_RULES: tuple[_Rule, ...] = (
    _Rule(
        r"operation cancell?ed|load(ing)? (was )?cancel",
        errors.ModelLostError,
        "Another load canceled loading the model.",
        _RELOAD_REMEDY,
    ),
    _Rule(
        r"insufficient system resources|guardrail|requires approximately",
        errors.ModelLoadError,
        "LM Studio did not load the model because there is not enough memory.",
        "Choose a smaller model or quantization, lower its context length, or unload other models.",
    ),
    _Rule(
        r"failed to load model|error loading model|failed to load",
        errors.ModelLoadError,
        "LM Studio could not load the model.",
        "Try loading it in LM Studio by hand to see why; update the runtime, or choose another quantization.",
    ),
    _TOO_LARGE,
    _Rule(
        r"does not support tools|enable-auto-tool-choice|tool-call-parser|tool use (?:is )?not supported"
        r"|tools? (?:is|are) not supported|does not support (?:function|tool) calling"
        r"|tools param requires|(?:tool|function) calling is not supported",
        errors.ToolsUnsupportedError,
        "The server does not accept tools for this model.",
        "Use a model that is trained for tool use, or turn tool calls on in the server.",
    ),
    _Rule(
        r"jinja|unable to generate parser|no user query found|roles must alternate|system message must be"
        r"|both content and thinking|parser error: expected|unknown test:|system role (?:is )?not supported",
        errors.TemplateError,
        "The model's prompt template refused the conversation.",
        "Use another build of the model (lmstudio-community has fixed templates), or override its "
        "prompt template in LM Studio under My Models.",
    ),
    _Rule(
        r"failed to parse grammar|'type' must be a string|tool_format_generation_error|failed to initialize samplers"
        r"|schema conversion failed|unrecognized schema",
        errors.ToolSchemaError,
        "The engine could not use the schema of one of the tools.",
        "Leave out the MCP server whose tool has the unusual schema, or use a GGUF build of the model.",
    ),
    _Rule(
        r"failed to parse (?:tool call|input at pos)|failed to generate a tool call|does not match the expected"
        r"|unexpected empty grammar stack|error parsing tool call|invalid diff: ",
        errors.LostToolCallError,
        "The model wrote a tool call that the server could not parse.",
        "Try again; if it happens often, use a model that LM Studio marks as trained for tool use.",
    ),
    _NOT_PERMITTED,
    _TOKEN_REFUSED,
    _Rule(
        r"no models? loaded|invalid model identifier|model_not_found|no downloaded llm|multiple models are loaded"
        r"|model \S+ not found",
        errors.ModelNotFoundError,
        "LM Studio has no such model loaded or downloaded.",
        "Load a model in LM Studio, turn on just-in-time loading, or pass model= with a name that it lists.",
    ),
    _Rule(
        r"model (is )?(unloaded|reloaded|not loaded)|model_not_loaded|has crashed|channel error|fetch failed"
        r"|predict request failed|error in iterating prediction stream|^terminated\.?( \[|$)|\[cancelled\]$",
        errors.ModelLostError,
        "The model was unloaded, reloaded or crashed while it worked.",
        _RELOAD_REMEDY,
    ),
    _NO_SUCH_ROUTE,
    _BUSY,
    _Rule(
        r"vision add-on|image",
        errors.LLMResponseError,
        "The model did not accept an image.",
        "Use a vision model for tasks with images.",
    ),
)

# Where the status says more than the text. 5xx without a known text is often transient.
_BY_STATUS: Mapping[int, _Rule] = {
    401: _TOKEN_REFUSED,
    403: _NOT_PERMITTED,
    404: _NO_SUCH_ROUTE,
    405: _NO_SUCH_ROUTE,
    413: _TOO_LARGE,
    **dict.fromkeys((500, 502, 503, 504), _BUSY),
}

_OVERFLOW_NUMBERS = (
    re.compile(r"n_(?:keep|prompt_tokens)\D{0,3}(?P<needed>\d+)\D{1,8}n_ctx\D{0,3}(?P<available>\d+)", re.IGNORECASE),
    re.compile(r"\((?P<needed>\d+) tokens\).*?\((?P<available>\d+) tokens\)", re.IGNORECASE | re.DOTALL),
    re.compile(r"first (?P<needed>\d+) tokens.*?only (?P<available>\d+) tokens", re.IGNORECASE | re.DOTALL),
    re.compile(r"has (?P<needed>\d+) tokens.*?supports (?P<available>\d+) tokens", re.IGNORECASE | re.DOTALL),
)


def error_text(body: Any) -> str | None:
    """The server's message in a decoded JSON body, or None if it reports no error.

    Understands a string or an object under `error`, a bare `message` beside `type: error` or `object: error`, and
    appends the error's `code` and `type`, and llama.cpp's counts of tokens, so that rules can match them.
    """
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, Mapping):
        message = error.get("message") or body.get("message") or json.dumps(error)
        tags = [str(error[key]) for key in ("code", "type") if error.get(key) not in (None, "", "unknown")]
        tags += [f"{key} {error[key]}" for key in ("n_prompt_tokens", "n_ctx") if key in error]
        return f"{message} [{', '.join(tags)}]" if tags else str(message)
    if error:
        return str(error)
    if "error" in (body.get("type"), body.get("object")):
        return str(body.get("message") or "unknown error")
    return None


def error_from_text(text: str, *, url: str, model: str | None = None, status: int | None = None) -> errors.LLMError:
    """The error for a message of the server, and for the HTTP status if there is one."""
    detail = text.strip()[:MAX_DETAIL]
    text = text[:_MAX_MATCHED]
    rule = next((rule for rule in _RULES if re.search(rule.pattern, text, re.IGNORECASE)), None)
    refused = status in (401, 403) and not (rule and rule.error is errors.AuthError)
    if status is not None and (rule is None or refused):
        rule = _BY_STATUS.get(status, rule)
    if rule is None:
        error = errors.LLMResponseError(
            "LM Studio refused the request.",
            remedy="This is probably a bug in the bridge or the server; the server's message is above.",
        )
    else:
        error = rule.error(rule.message, remedy=rule.remedy)
    if isinstance(error, errors.ContextOverflowError):
        found = next(filter(None, (pattern.search(text) for pattern in _OVERFLOW_NUMBERS)), None)
        if found is not None:
            error.needed, error.available = int(found["needed"]), int(found["available"])
    error.url, error.model, error.status, error.detail = url, model, status, detail
    return error


def error_from_response(
    status: int,
    body: bytes,
    *,
    url: str,
    model: str | None = None,
    retry_after: str | None = None,
    now: datetime | None = None,
) -> errors.LLMError | None:
    """The error for a whole HTTP reply, or None if it is a success.

    A 200 can carry an error, too: LM Studio answers unknown routes with 200 and a body of
    `{"error": "Unexpected endpoint or method. (…)"}`.
    """
    decoded = load_or_none(body)
    text = error_text(decoded)
    if text is None and status >= 400 and isinstance(decoded, Mapping):
        text = next((str(decoded[key]) for key in ("message", "detail") if decoded.get(key)), None)
    if status == 429:
        return errors.LLMRateLimitError(
            "The server is limiting the rate of requests.",
            remedy="A gateway in front of LM Studio limits requests: wait, or raise its limit.",
            url=url,
            model=model,
            status=status,
            detail=text[:MAX_DETAIL] if text else _plain_text(body),
            retry_after=parse_retry_after(retry_after, now=now),
        )
    if (decoded is None and status < 500 and status not in (401, 403, 413)) or 300 <= status < 400:
        return errors.WrongEndpointError(
            "The server at this address does not answer like LM Studio's API.",
            remedy="Check LMSTUDIO_BASE_URL (usually http://127.0.0.1:1234/v1).",
            url=url,
            model=model,
            status=status,
            detail=_plain_text(body),
        )
    if text is None and 200 <= status < 300:
        return None
    error = error_from_text(text if text is not None else _plain_text(body), url=url, model=model, status=status)
    if error.retryable:  # RFC 9110 allows Retry-After with 503, too
        error.retry_after = parse_retry_after(retry_after, now=now)
    return error


def unreadable_answer(*, url: str = "", model: str | None = None, detail: str = "") -> errors.WrongEndpointError:
    """The error for an answer that is not in the format of LM Studio's API."""
    return errors.WrongEndpointError(
        "The server's answer is not in the format of LM Studio's API.",
        remedy="Check LMSTUDIO_BASE_URL (usually http://127.0.0.1:1234/v1).",
        url=url,
        model=model,
        detail=detail,
    )


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait, from `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _plain_text(body: bytes) -> str:
    """The text of a body that is not JSON, such as Express's HTML error page."""
    text = re.sub(r"<[^>]*>", " ", body[:4096].decode("utf-8", "replace"))
    return re.sub(r"\s+", " ", text).strip()[:MAX_DETAIL]
