"""Servers of the same protocol that are not LM Studio: what each says on the wire, and a small HTTP server to say it.

The shapes are those of llama.cpp's server, vLLM, Ollama, and a gateway that lets nothing but /v1 through.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server: its refusal of unknown routes, its list of models, and what is odd in its streams."""

    name: str
    model: str
    refusal: tuple[int, str, str] = (404, JSON, '{"detail":"Not Found"}')
    """Status, content type and body."""
    listed: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in a model's entry."""
    answers_as: str | None = None
    """The `model` of replies, where it is not the one asked for."""
    chunk: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in a chunk."""
    content_type: str = "text/event-stream"
    comments: bool = False
    """Comments between the events of a stream, to keep it alive."""


LLAMA_CPP = Dialect(
    "llama.cpp",
    "/models/qwen3-4b-q4_k_m.gguf",
    refusal=(404, JSON, '{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'),
    listed={"owned_by": "llamacpp", "meta": {"n_ctx_train": 40960}},
    answers_as="gpt-3.5-turbo",
    chunk={"timings": {"predicted_n": 3}},
)
VLLM = Dialect("vLLM", "Qwen/Qwen3-4B", listed={"max_model_len": 40960, "root": "Qwen/Qwen3-4B", "permission": []})
OLLAMA = Dialect(
    "Ollama", "qwen3:4b", refusal=(404, "text/plain", "404 page not found"), listed={"owned_by": "library"}
)
GUARDED = Dialect(
    "a gateway that guards its routes",
    "team/qwen",
    refusal=(403, "text/html", "<html><body><h1>403 Forbidden</h1></body></html>"),
    answers_as="hosted_vllm/Qwen/Qwen3-4B",
    comments=True,
)
REDIRECTING = Dialect("a web server in front", "qwen", refusal=(302, "text/html", "<html>Found</html>"))
DIALECTS = (LLAMA_CPP, VLLM, OLLAMA, GUARDED, REDIRECTING)


@dataclass(slots=True)
class OpenAIServer:
    """A running server; `replies` are the messages of the model in their order."""

    dialect: Dialect
    replies: list[dict[str, Any]]
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the chat requests."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            self.asked.append((method, path))
            status, content_type, text = self._answer(method, path, body)
            answer = text.encode()
            fields = f"Content-Type: {content_type}\r\nContent-Length: {len(answer)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + answer)
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, str, str]:
        match method, path:
            case "GET", "/v1/models":
                entry = {"id": self.dialect.model, "object": "model", "created": 1, **self.dialect.listed}
                return 200, JSON, json.dumps({"object": "list", "data": [entry]})
            case "POST", "/v1/chat/completions":
                self.bodies.append(json.loads(body))
                return 200, self.dialect.content_type, "".join(self._events(self.replies.pop(0)))
            case _:
                return self.dialect.refusal

    def _events(self, message: dict[str, Any]) -> list[str]:
        calls = [{"index": number, **call} for number, call in enumerate(message.get("tool_calls", ()))]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, {"content": message.get("content", "")}]
        deltas += [{"tool_calls": [call]} for call in calls]
        finish = "tool_calls" if calls else "stop"
        choices: list[list[dict[str, Any]]] = [[{"index": 0, "delta": delta}] for delta in deltas]
        choices.append([{"index": 0, "delta": {}, "finish_reason": finish}])
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        events = [self._event(choice) for choice in choices]
        events += [self._event([], usage=usage), "data: [DONE]\n\n"]
        return [f": keep-alive\n\n{event}" if self.dialect.comments else event for event in events]

    def _event(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> str:
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.dialect.answers_as or self.dialect.model,
            "choices": choices,
            **self.dialect.chunk,
            **more,
        }
        return f"data: {json.dumps(chunk)}\n\n"


@asynccontextmanager
async def open_server(dialect: Dialect, *replies: dict[str, Any]) -> AsyncIterator[OpenAIServer]:
    """A server on a free port of the loopback."""
    server = OpenAIServer(dialect, list(replies))
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A message with one tool call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
