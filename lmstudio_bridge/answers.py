"""What goes out over MCP: text that the SDK's writer can say, and the result of a tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mcp.types import CallToolResult, TextContent

from lmstudio_bridge.agent.fence import clean_text


def as_utf8(text: str) -> str:
    """The text without halves of characters: UTF-8 cannot say them, and the MCP SDK's writer ends at one.

    They come from JavaScript, which leaves them where it cuts a text: in errors of LM Studio, names, old journals.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def as_shown(text: str) -> str:
    """The same without what nobody sees but a model or a terminal takes in: names of others may hold it."""
    return as_utf8(clean_text(text)[0])


def tool_result(text: str, *, is_error: bool, meta: Mapping[str, Any] | None = None) -> CallToolResult:
    """A result that is text only; `meta` is for programs, no model reads it."""
    return CallToolResult(
        content=[TextContent(type="text", text=as_shown(text))],
        is_error=is_error,
        _meta=json.loads(as_utf8(json.dumps(meta, ensure_ascii=False))) if meta else None,
    )
