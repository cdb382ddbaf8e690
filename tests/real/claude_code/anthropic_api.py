"""The Anthropic API as Claude Code uses it, on the loopback: it says what a test has scripted, and keeps requests.

Claude Code 2.1.332 also asks for titles and the like; those requests have no tools, and get a short text.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Block: TypeAlias = dict[str, Any]

_numbers = itertools.count(1)


def text(words: str) -> Block:
    """A block of text."""
    return {"type": "text", "text": words}


def use(tool: str, **arguments: Any) -> Block:
    """A call of a tool, by its name in Claude Code."""
    return {"type": "tool_use", "id": f"toolu_{next(_numbers):04}", "name": tool, "input": arguments}


@dataclass(slots=True)
class AnthropicAPI:
    """A running server; `turns` are the model's next replies, `requests` the bodies of those that had tools."""

    turns: list[Sequence[Block]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def results(self) -> list[Block]:
        """The results of tool calls in the newest request, in the order of the calls."""
        messages = self.requests[-1]["messages"]
        blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
        return [block for block in blocks if block["type"] == "tool_result"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            _, path, _ = head.split(" ", 2)
            lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else {}
            content_type, answer = self._answer(path.partition("?")[0], body)
            fields = f"Content-Type: {content_type}\r\nContent-Length: {len(answer)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[str, bytes]:
        if path != "/v1/messages":
            return "application/json", json.dumps({"input_tokens": 100}).encode()
        blocks: Sequence[Block] = [text("Fine.")]
        if body.get("tools"):
            self.requests.append(body)
            blocks = self.turns.pop(0) if self.turns else [text("Done.")]
        message = {
            "id": f"msg_{next(_numbers):04}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": list(blocks),
            "stop_reason": "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 10},
        }
        if not body.get("stream"):
            return "application/json", json.dumps(message).encode()
        return "text/event-stream", "".join(_events(message)).encode()


def _events(message: dict[str, Any]) -> list[str]:
    blocks = message["content"]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    ]
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events += [
            {"type": "content_block_start", "index": index, "content_block": start},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ending, "usage": {"output_tokens": 10}}, {"type": "message_stop"}]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


@asynccontextmanager
async def open_api() -> AsyncIterator[AnthropicAPI]:
    """A server on a free port of the loopback."""
    api = AnthropicAPI()
    async with await asyncio.start_server(api.serve, "127.0.0.1", 0) as listening:
        api.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield api
