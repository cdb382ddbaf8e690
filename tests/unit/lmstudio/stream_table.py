"""The errors of `failure_table` as they come in the middle of a stream, and the token counts in overflow texts."""

from __future__ import annotations

import json
from typing import Any

from lmstudio_bridge.errors import ContextOverflowError, LLMError, LLMResponseError, ModelLostError, ServerBusyError
from tests.lmstudio_sim import errors
from tests.unit.lmstudio.failure_table import FAILURES, OVERFLOW_JSON, Failure

EVENTS = "text/event-stream"


def frame(data: Any, *, event: str = "error") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def stream(
    name: str, data: Any, error: type[LLMError], words: str, *, event: str = "error", retryable: bool = False
) -> Failure:
    return Failure(name, 200, frame(data, event=event), error, words, EVENTS, retryable)


STREAMED_FAILURES: tuple[Failure, ...] = (
    *(
        stream(f"E6: {each.name}", errors.stream_error(each.words), each.error, each.words, retryable=each.retryable)
        for each in FAILURES
        if each.status == 400 and each.words and b'"error": "' in each.body
    ),
    stream(
        "E6: with its message twice",
        errors.stream_error(errors.MODEL_UNLOADED, duplicate=True),
        ModelLostError,
        errors.MODEL_UNLOADED,
    ),
    stream("E6: without its event", errors.stream_error(errors.MODEL_UNLOADED), ModelLostError, "unloaded", event=""),
    stream(
        "E8: native", errors.native_stream_error(errors.OVERFLOW_PLAIN), ContextOverflowError, errors.OVERFLOW_PLAIN
    ),
    stream("an error that is no JSON", "Model unloaded.", ModelLostError, "Model unloaded."),
    stream("an error of unknown words", {"code": "x"}, LLMResponseError, "x"),
    stream(
        "llama.cpp's overflow",
        {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "x"}},
        ContextOverflowError,
        "exceeds the available context size",
        event="",
    ),
    stream(
        "llama.cpp's own fault",
        {"error": {"code": 500, "message": "Compute error.", "type": "server_error"}},
        ServerBusyError,
        "Compute error.",
        event="",
        retryable=True,
    ),
    Failure(
        "older llama.cpp's field",
        200,
        b'error: {"code":500,"message":"Compute error.","type":"server_error"}\n\n',
        ServerBusyError,
        "Compute error.",
        EVENTS,
        retryable=True,
    ),
)

OVERFLOW_TOKENS: tuple[tuple[str, int | None, int | None], ...] = (
    (errors.OVERFLOW_PLAIN, None, None),
    (errors.OVERFLOW_NUMBERED.format(needed=4166, available=4096), 4166, 4096),
    (errors.OVERFLOW_NUMBERED.format(needed="5228 ", available=4096), 5228, 4096),
    (errors.OVERFLOW_KEEP_FIRST.format(needed=5228, available=4096), 5228, 4096),
    (errors.OVERFLOW_TRUNCATE.format(needed=12378, available=4096), 12378, 4096),
    (errors.OVERFLOW_EXCEEDS.format(needed=5000, available=4096), 5000, 4096),
    (errors.OVERFLOW_MLX.format(needed=359277, available=262144), 359277, 262144),
    ("the request exceeds the available context size [400, n_prompt_tokens 5000, n_ctx 4096]", 5000, 4096),
    (OVERFLOW_JSON, None, None),
)
"""Overflow texts with the tokens that were needed and available."""
