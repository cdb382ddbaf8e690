"""Chat requests → bytes. What stood in the last request of a conversation is not encoded again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from lmstudio_bridge.llm.wire import ChatOptionsOut, message_out, tool_out
from lmstudio_bridge.messages import Message, ToolSpec

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # made once: json.dumps makes one for each call


class ChatEncoder:
    """The requests of one conversation. Keeps the bytes of its last one: messages one by one, tools as a whole."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._encoded: list[bytes] = []  # the messages, one by one
        self._tools: tuple[Sequence[ToolSpec], bytes] = ((), b"[]")

    def encode(self, options: ChatOptionsOut, *, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bytes:
        """The body of a request, a JSON object in UTF-8. Same messages give same bytes, in any request."""
        same = len(self._messages)
        if [*messages[:same]] != self._messages:  # else the history only grew, as nearly always
            same = next(n for n, (a, b) in enumerate(zip_longest(self._messages, messages)) if a != b)
        self._messages[same:] = messages[same:]
        self._encoded[same:] = [encode_json(message_out(message)) for message in messages[same:]]
        history = b",".join(self._encoded)
        parts = [encode_json(options)[:-1], b',"messages":[', history, b"]"]
        if tools:
            parts += [b',"tools":', self._encode_tools(tools)]
        return b"".join([*parts, b"}"])

    def _encode_tools(self, tools: Sequence[ToolSpec]) -> bytes:
        known, encoded = self._tools
        if len(known) != len(tools) or any(one is not other for one, other in zip(known, tools, strict=True)):
            encoded = encode_json([tool_out(tool) for tool in tools])
            self._tools = (tuple(tools), encoded)
        return encoded


def encode_json(value: Any) -> bytes:
    """Compact JSON. Half characters, which tools' output may hold, become question marks."""
    return _JSON.encode(value).encode("utf-8", "replace")
