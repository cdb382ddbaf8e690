"""Bytes of an event stream → frames → deltas → one Completion. Pure: nothing is awaited here.

What streams look like, and in which odd ways, was recorded from LM Studio 0.4.21 and llama.cpp.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from lmstudio_bridge.errors import LLMResponseError
from lmstudio_bridge.llm.dialects import recover_calls, split_reasoning
from lmstudio_bridge.llm.wire import CallIn, ChatIn
from lmstudio_bridge.messages import CallDelta, Completion, Delta, ReasoningDelta, TextDelta, ToolCall, Usage

MAX_FRAME_BYTES = 16 * 1024 * 1024  # one event of a stream; more is a broken server
MAX_REPLY_CHARS = 8 * 1024 * 1024  # text, reasoning and arguments of one reply; more is an endless stream
_ID_LENGTH = 9  # Mistral's templates accept only ids of nine letters and digits


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a `text/event-stream`: its `event:` name ("" if none) and its data."""

    event: str
    data: bytes


class FrameDecoder:
    """Bytes of a stream → frames, however the bytes are cut (WHATWG HTML, "server-sent events").

    Bytes are split at line ends before anything is decoded, so a cut inside a character does no
    harm. A frame that ends with the stream instead of a blank line still counts.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes.

        Raises:
            LLMResponseError: A frame grew over `MAX_FRAME_BYTES`.
        """
        searched = len(self._buffer)
        self._buffer += chunk
        frames: list[Frame] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(start, searched))) != -1:
            frames += self._take_line(bytes(self._buffer[start:end]).removesuffix(b"\r"))
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) + self._data_bytes > MAX_FRAME_BYTES:
            raise LLMResponseError(
                f"An event of the stream is larger than {MAX_FRAME_BYTES // 1024 // 1024} MiB.",
                remedy="The server is broken, or it is not LM Studio.",
            )
        return frames

    def flush(self) -> list[Frame]:
        """What the end of the stream completes."""
        frames = [*self._take_line(bytes(self._buffer).removesuffix(b"\r")), *self._take_line(b"")]
        self._buffer.clear()
        return frames

    def _take_line(self, line: bytes) -> Iterator[Frame]:
        if not line:
            if self._data:
                yield Frame(self._event, b"\n".join(self._data))
            self._event, self._data, self._data_bytes = "", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")


def new_call_id() -> str:
    """An id for a call that came without one."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=_ID_LENGTH))


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Accumulator:
    """The chunks of one reply, added up.

    Takes what LM Studio and its relatives send: a repeated role, empty names and ids, calls without
    an index, several calls interleaved, arguments whole or in pieces, reasoning under either name.
    A reply without a native call is searched for calls that leaked into its text; only those of
    tools that were `offered` count.
    """

    def __init__(self, *, offered: Collection[str] = (), new_id: Callable[[], str] = new_call_id) -> None:
        self._offered = frozenset(offered)
        self._new_id = new_id
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._model = ""
        self._finish_reason = ""
        self._usage: Usage | None = None
        self._chars = 0

    @property
    def finished(self) -> bool:
        """Whether the model's end of the reply was seen (`finish_reason`)."""
        return bool(self._finish_reason)

    @property
    def empty(self) -> bool:
        """Whether nothing of a reply has come yet."""
        return self._chars == 0 and not self._calls

    def add(self, chunk: ChatIn) -> list[Delta]:
        """Take one chunk; what of it a reader would want to see at once.

        Raises:
            LLMResponseError: The reply grew over `MAX_REPLY_CHARS`.
        """
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = chunk.usage.to_usage()
        deltas: list[Delta] = []
        for choice in (chunk.choices or [])[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            message = choice.delta or choice.message
            if message is None:
                continue
            if thinking := message.thinking():
                self._reasoning.append(thinking)
                deltas.append(ReasoningDelta(thinking))
            if text := message.text():
                self._text.append(text)
                deltas.append(TextDelta(text))
            deltas += [self._add_call(call) for call in message.tool_calls or []]
        self._chars += sum(len(d.arguments) + len(d.name) if isinstance(d, CallDelta) else len(d.text) for d in deltas)
        if self._chars > MAX_REPLY_CHARS:
            raise LLMResponseError(
                f"The reply did not end within {MAX_REPLY_CHARS:,} characters.",
                remedy="The model repeats itself without end: set max_tokens, or use another model.",
            )
        return deltas

    def completion(self) -> Completion:
        """The reply so far. Whether it may count as whole is the caller's question (`finished`)."""
        text, thinking = split_reasoning("".join(self._text))
        reasoning = "".join(self._reasoning)
        calls = tuple(
            ToolCall(call.id or self._new_id(), call.name, "".join(call.arguments))
            for _, call in sorted(self._calls.items())
            if call.name
        )
        if not calls and self._offered:
            text, leaked = recover_calls(text, offered=self._offered.__contains__)
            calls = tuple(ToolCall(self._new_id(), call.name, call.arguments) for call in leaked)
        return Completion(
            text=text.strip(),
            reasoning="\n".join(part for part in (reasoning.strip(), thinking) if part),
            calls=_with_distinct_ids(calls, self._new_id),
            finish_reason=self._finish_reason,
            model=self._model,
            usage=self._usage,
        )

    def _add_call(self, piece: CallIn) -> CallDelta:
        function = piece.function
        name = (function.name or "") if function else ""
        arguments = (function.arguments or "") if function else ""
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        index = piece.index
        if index is None:  # a new call if it says who it is, else the rest of the last one
            index = len(self._calls) if (piece.id or name) or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, _Call())
        call.id = call.id or (piece.id or "")
        call.name = call.name or name
        call.arguments.append(arguments)
        return CallDelta(index, name, arguments)


def _with_distinct_ids(calls: tuple[ToolCall, ...], new_id: Callable[[], str]) -> tuple[ToolCall, ...]:
    seen: set[str] = set()
    distinct: list[ToolCall] = []
    for call in calls:
        unique = call if call.id not in seen else ToolCall(new_id(), call.name, call.arguments)
        seen.add(unique.id)
        distinct.append(unique)
    return tuple(distinct)
