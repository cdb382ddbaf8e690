"""Chunks of chat streams, as LM Studio writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lmstudio_bridge.messages import Completion, ToolCall, Usage

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def call(name: str | None = None, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    """One item of `tool_calls` with just the keys that are given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"type": "function", "function": function, **more}


def calls(*items: dict[str, Any]) -> dict[str, Any]:
    return chunk({"tool_calls": list(items)})


def encode(chunks: Iterable[dict[str, Any]], *, line_end: str = "\n") -> bytes:
    frames = [f"data: {json.dumps(each, ensure_ascii=False)}{line_end}{line_end}" for each in chunks]
    return "".join(frames).encode()


RECORDED = [
    chunk({"role": "assistant", "reasoning_content": "\n"}),
    chunk({"reasoning_content": "Ich müßte 📁"}),
    chunk({"role": "assistant", "content": "\n\n"}),
    calls(call("list_files", "", index=0, id="268992578")),
    calls(call(arguments='{"path":', index=0)),
    calls(call(arguments='"./größe 📁"}', index=0)),
    chunk(finish="tool_calls"),
    {
        "model": "m",
        "choices": [],
        "usage": {
            "prompt_tokens": 24,
            "completion_tokens": 53,
            "total_tokens": 77,
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
    },
]
"""As recorded from LM Studio 0.4.21, with letters of two and four bytes."""

RECORDED_REPLY = Completion(
    text="",
    reasoning="Ich müßte 📁",
    calls=(ToolCall("268992578", "list_files", '{"path":"./größe 📁"}'),),
    finish_reason="tool_calls",
    model="m",
    usage=Usage(24, 53, 7),
)
