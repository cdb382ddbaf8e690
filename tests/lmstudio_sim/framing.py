"""The bodies and SSE frames of /v1/chat/completions."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.lmstudio_sim.errors import JsonObject, stream_error
from tests.lmstudio_sim.pieces import Piece
from tests.lmstudio_sim.replies import Completion, Usage
from tests.lmstudio_sim.state import Instance

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Ids:
    """Makes ids of the recorded shapes; the same in every run."""

    source: random.Random = field(default_factory=lambda: random.Random(20))

    def digits(self, count: int) -> str:
        return str(self.source.randrange(10 ** (count - 1), 10**count))

    def base36(self, count: int) -> str:
        return "".join(self.source.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=count))

    def hex(self, count: int) -> str:
        return f"{self.source.getrandbits(4 * count):0{count}x}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation: who answers, what, and the facts that all its frames share."""

    instance: Instance
    reply: Completion
    body: JsonObject
    usage: Usage
    created: int
    ids: Ids

    @property
    def model(self) -> str:
        return self.reply.model or self.instance.id


def data_frame(body: object, *, event: str | None = None, line_end: str = "\n") -> bytes:
    """One SSE frame."""
    data = body.encode("utf-8") if isinstance(body, str) else encode_json(body)
    end = line_end.encode()
    name = b"event: " + event.encode() + end if event else b""
    return name + b"data: " + data + end + end


def encode_json(body: object, *, indent: int | None = None) -> bytes:
    """JSON as Node writes it: compact or indented; only lone surrogates are escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        return json.dumps(body, ensure_ascii=False, indent=indent, separators=separators).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(body, indent=indent, separators=separators).encode("ascii")


class ChatFraming:
    """How a turn is written, whole or in frames, as recorded from 0.4.21."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._id = f"chatcmpl-{turn.ids.base36(21)}"
        self._call_ids = [turn.ids.digits(9) if call.id is None else call.id for call in turn.reply.calls]
        self._role_sent = False

    def whole(self) -> JsonObject:
        """The body of a plain reply."""
        reply = self._turn.reply
        message: JsonObject = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        message["tool_calls"] = [
            {
                "type": "function",
                **self._call_id(number),
                "function": {"name": call.name, "arguments": call.argument_text},
            }
            for number, call in enumerate(reply.calls)
        ]
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._turn.created,
            "model": self._turn.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}],
            "usage": render_usage(self._turn.usage),
            "stats": {},
            "system_fingerprint": self._turn.model,
        }

    def piece(self, piece: Piece) -> bytes:
        """The frame of one delta."""
        options = self._turn.reply.stream
        delta: JsonObject = {}
        if not self._role_sent or (options.repeat_role and piece.kind != "call"):
            delta["role"] = "assistant"
            self._role_sent = True
        match piece.kind:
            case "reasoning":
                delta["reasoning_content"] = piece.fragment
            case "text":
                delta["content"] = piece.fragment
            case "call":
                delta["tool_calls"] = [self._call_delta(piece)]
        return self._chunk(delta)

    def closing(self) -> list[bytes]:
        """The frames after the last delta."""
        options = self._turn.reply.stream
        frames = [self._chunk({}, finish_reason=self._turn.reply.finish)]
        asked = (self._turn.body.get("stream_options") or {}).get("include_usage")
        if asked and options.usage_chunk:
            frames.append(self._frame(self._head() | {"choices": [], "usage": render_usage(self._turn.usage)}))
        return [*frames, self._frame("[DONE]")] if options.done else frames

    def failure(self, message: str, *, duplicate: bool = False, done: bool = False) -> list[bytes]:
        """The frames of a failure in mid-stream (E6)."""
        line_end = self._turn.reply.stream.line_end
        frame = data_frame(stream_error(message, duplicate=duplicate), event="error", line_end=line_end)
        return [frame, DONE] if done else [frame]

    def _call_delta(self, piece: Piece) -> JsonObject:
        options = self._turn.reply.stream
        delta: JsonObject = {"index": piece.index}
        function: JsonObject = {"arguments": piece.fragment}
        if piece.opens:
            delta |= self._call_id(piece.index)
            function = {"name": self._turn.reply.calls[piece.index].name} | function
        elif options.empty_later_names:
            function = {"name": ""} | function
        return delta | {"type": "function", "function": function}

    def _call_id(self, number: int) -> JsonObject:
        match self._turn.reply.stream.call_ids:
            case "sent":
                return {"id": self._call_ids[number]}
            case "empty":
                return {"id": ""}
            case "omitted":
                return {}

    def _chunk(self, delta: JsonObject, *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._frame(self._head() | {"choices": [choice]})

    def _head(self) -> JsonObject:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._turn.created,
            "model": self._turn.model,
            "system_fingerprint": self._turn.model,
        }

    def _frame(self, body: object) -> bytes:
        return data_frame(body, line_end=self._turn.reply.stream.line_end)


def render_usage(usage: Usage) -> JsonObject:
    """Usage in the OpenAI shape; all zeros come without details, as recorded for a dropped call."""
    body: JsonObject = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage != Usage():
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return body


def join_frames(frames: Iterable[bytes]) -> bytes:
    """Frames as one piece of the body."""
    return b"".join(frames)
