"""Bytes of an event stream → frames → chunks → deltas → one Completion. Nothing is awaited here.

What streams look like, oddities included, was recorded from LM Studio 0.4.21 and llama.cpp.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lmstudio_bridge.errors import LLMResponseError
from lmstudio_bridge.json_text import load_or_none, written_items
from lmstudio_bridge.lmstudio.failures import error_from_text, error_text, unreadable_answer
from lmstudio_bridge.lmstudio.tool_call_parsers import recover_calls, split_reasoning
from lmstudio_bridge.lmstudio.wire import CallIn, ChatIn, ChoiceIn, MessageIn, WrittenFloat, as_written
from lmstudio_bridge.messages import (
    CallDelta,
    Completion,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
    Usage,
    resolve_tool_name,
)
from lmstudio_bridge.text import repair_surrogates

MAX_FRAME_BYTES = 16 * 1024 * 1024  # one event of a stream; more is a broken server
MAX_BAD_FRAMES = 100  # unreadable frames of one stream; LM Studio splices a few at times
MAX_REPLY_CHARS = 8 * 1024 * 1024  # text, reasoning and arguments of one reply; more is an endless stream
MAX_CALLS = 1_000  # of one reply; more is an endless stream
_CUT_REASONS = (
    *("max_tokens", "max_length", "max_new_tokens", "token_limit", "model_length"),
    *("maxpredictedtokensreached", "contextlengthreached"),
)
_ENDLESS = "The model repeats itself endlessly: set max_tokens, or use another model."
_ID_LENGTH = 9  # Mistral's templates accept only ids of nine letters and digits
_ENDS_OF_CALLS = (">", "}", "]", ")")  # of a text that ends in one; beside native calls it may only speak of one
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a `text/event-stream`: its `event:` name ("" if none) and its data."""

    event: str
    data: bytes


class FrameDecoder:
    """Bytes of a stream → frames, wherever the bytes are split (WHATWG HTML, "server-sent events").

    Lines end with LF or CRLF; nobody sends a lone CR. A frame that ends with the stream instead of a
    blank line still counts. Older llama.cpp sends errors in a field `error:` instead of `data:`.
    """

    def __init__(self, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()  # of a line that is not whole yet
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that `chunk` completes; consume them before the next call.

        Raises:
            LLMResponseError: A frame grew over the limit.
        """
        *lines, rest = chunk.split(b"\n")
        if not lines:
            self._rest += rest
        else:
            if self._rest:
                lines[0] = bytes(self._rest + lines[0])
            self._rest = bytearray(rest)
            for line in lines:
                if frame := self._take_line(line.removesuffix(b"\r")):
                    yield frame
        self._check_size(len(self._rest))

    def flush(self) -> Iterator[Frame]:
        """What the end of the stream completes."""
        line = bytes(self._rest).removesuffix(b"\r")
        self._rest.clear()
        for last in (line, b""):
            if frame := self._take_line(last):
                yield frame

    def _take_line(self, line: bytes) -> Frame | None:
        """The frame that this line completes, if any."""
        if not line:
            frame = Frame(self._event, b"\n".join(self._data)) if self._data else None
            self._event, self._data, self._data_bytes = "", [], 0
            return frame
        self._check_size(len(line))
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name in (b"data", b"error"):
            self._data.append(value)
            self._data_bytes += len(line)
            self._event = "error" if name == b"error" else self._event
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        return None

    def _check_size(self, more: int) -> None:
        if self._data_bytes + more > self._max_bytes:
            raise LLMResponseError(
                f"An event of the stream is larger than {self._max_bytes:,} bytes.",
                remedy="The server is broken, or it is not LM Studio.",
            )


class ChunkDecoder:
    """Bytes of a chat stream → its chunks. Bad frames are skipped.

    `done` is true once `[DONE]` came; what follows is not read. `foreign` is true if JSON came, but
    no chat completion chunks.
    """

    def __init__(self, *, max_bad_frames: int = MAX_BAD_FRAMES) -> None:
        self._frames = FrameDecoder()
        self._max_bad_frames = max_bad_frames
        self._bad_frames = 0
        self._known = False
        self._other = b""
        self.done = False

    @property
    def foreign(self) -> bool:
        """Whether the stream is some other protocol's."""
        return bool(self._other) and not self._known

    @property
    def other(self) -> str:
        """The beginning of the first frame that was not a chunk."""
        return self._other.decode("utf-8", "replace")

    def feed(self, piece: bytes) -> Iterator[ChatIn]:
        """The chunks that `piece` completes; consume them before the next call.

        Raises:
            LLMError: The stream carries an error, or is not LM Studio's. The caller adds the URL.
        """
        return self._read(self._frames.feed(piece))

    def flush(self) -> Iterator[ChatIn]:
        """What the end of the stream completes."""
        return self._read(self._frames.flush())

    def _read(self, frames: Iterator[Frame]) -> Iterator[ChatIn]:
        for frame in frames:
            if self.done or not (data := frame.data.strip()):
                continue
            if data == b"[DONE]":
                self.done = self._known = True
                continue
            if (chunk := self._read_chunk(frame)) is None:
                continue
            if chunk.choices is not None:
                self._known = True
            else:
                self._other = self._other or data[:200]
            yield chunk

    def _read_chunk(self, frame: Frame) -> ChatIn | None:
        try:
            # Pydantic's JSON reader refuses half of a surrogate pair, and loses how a number was written.
            decoded = json.loads(frame.data, parse_float=WrittenFloat)
            text = error_text(decoded)
            if text is None and frame.event != "error":
                return ChatIn.model_validate(decoded)
        except (ValueError, RecursionError) as exc:  # those of json, pydantic and the UTF-8 decoder are ValueErrors
            if frame.event != "error":
                self._bad_frames += 1
                if self._bad_frames > self._max_bad_frames:
                    raise unreadable_answer(detail=frame.data[:200].decode("utf-8", "replace")) from exc
                return None
            text = None
        raise error_from_text(text or frame.data.decode("utf-8", "replace"), url="")


def new_call_id() -> str:
    """A new id for a call that came without one."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=_ID_LENGTH))


@dataclass(slots=True)
class _Call:
    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class _Text:
    """Pieces of one text. Node splits strings between UTF-16 units: half of a surrogate pair is held back."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Add a piece, which must not be empty; returns the part that is complete, with what was held back."""
        piece = self._half + piece
        self._half = piece[-1] if "\ud800" <= piece[-1] <= "\udbff" else ""
        whole = repair_surrogates(piece.removesuffix(self._half) if self._half else piece)
        if whole:
            self._pieces.append(whole)
        return whole

    def __str__(self) -> str:
        return "".join(self._pieces)


class Accumulator:
    """Adds up the chunks of one reply.

    Accepts what LM Studio and similar servers send: a repeated role, empty names and ids, calls without an index or all
    with the same one, interleaved calls, arguments whole or in pieces, reasoning under either name. The text is
    searched for calls that leaked into it, also beside native ones; only calls of the offered `tools` count.
    """

    def __init__(
        self,
        *,
        tools: Sequence[ToolSpec] = (),
        new_id: Callable[[], str] = new_call_id,
        max_chars: int = MAX_REPLY_CHARS,
    ) -> None:
        self._tools = {tool.name: tool.parameters for tool in tools}
        self._new_id = new_id
        self._max_chars = max_chars
        self._text = _Text()
        self._reasoning = _Text()
        self._calls: list[_Call] = []  # in order of arrival
        self._model = ""
        self.finish_reason = ""  # why the reply ended, in the server's own word
        self._choice: int | None = None  # the index of the choice that counts
        self._usage: Usage | None = None
        self._chars = 0

    @property
    def finished(self) -> bool:
        """Whether a `finish_reason` came."""
        return bool(self.finish_reason)

    @property
    def empty(self) -> bool:
        """Whether nothing of the reply has come yet."""
        return self._chars == 0

    def add(self, chunk: ChatIn) -> list[Delta]:
        """Add one chunk; returns what is new in it.

        Raises:
            LLMResponseError: The reply grew over the limit.
        """
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = chunk.usage.to_usage() or self._usage
        deltas: list[Delta] = []
        if choice := self._own_choice(chunk.choices or []):
            if reason := choice.finish_reason:
                self.finish_reason = "length" if reason.casefold() in _CUT_REASONS else reason
            message = choice.delta or choice.message or MessageIn(content=choice.text)
            deltas += self._add_message(message) if message else []
        if self._chars > self._max_chars:
            raise LLMResponseError(f"The reply did not end within {self._max_chars:,} characters.", remedy=_ENDLESS)
        return deltas

    def _own_choice(self, choices: Sequence[ChoiceIn]) -> ChoiceIn | None:
        """The part of a chunk that belongs to the reply: one is asked for, and of several the first counts."""
        if choices and self._choice is None:
            self._choice = choices[0].index
        return next((each for each in choices if self._choice is None or each.index in (None, self._choice)), None)

    def _add_message(self, message: MessageIn) -> list[Delta]:
        deltas: list[Delta] = []
        thinking, text = message.thinking(), message.text()
        self._chars += len(thinking) + len(text)
        if thinking and (whole := self._reasoning.add(thinking)):
            deltas.append(ReasoningDelta(whole))
        if text and (whole := self._text.add(text)):
            deltas.append(TextDelta(whole))
        return [*deltas, *map(self._add_call, message.calls())]

    def completion(self) -> Completion:
        """The reply so far; `finished` tells whether it is complete."""
        text, thinking = split_reasoning(str(self._text), separate=bool(str(self._reasoning).strip()))
        reasoning = "\n".join(part for part in (str(self._reasoning).strip(), thinking) if part)
        calls = tuple(
            ToolCall(call.id if number == 0 and call.id else self._new_id(), call.name, arguments)
            for call in sorted(self._calls, key=lambda call: call.index)
            if call.name
            for number, arguments in enumerate(_objects(_repair_json_text("".join(call.arguments))))
        )
        if self._tools and (not calls or text.rstrip().endswith(_ENDS_OF_CALLS)):
            text, leaked = recover_calls(text, tools=self._tools)
            if not calls and not leaked and not text.strip():  # all was taken for reasoning, the call too
                reasoning, leaked = recover_calls(reasoning, tools=self._tools)
            in_text = [ToolCall(self._new_id(), call.name, _repair_json_text(call.arguments)) for call in leaked]
            native = {self._meaning(call) for call in calls}  # some servers leave what they parsed in the text, too
            calls = (*(call for call in in_text if self._meaning(call) not in native), *calls)
        return Completion(
            text=text.strip(),
            reasoning=reasoning,
            calls=_with_distinct_ids(calls, self._new_id),
            finish_reason=self.finish_reason,
            model=self._model,
            usage=self._usage,
        )

    def _add_call(self, piece: CallIn) -> CallDelta:
        function = piece.function
        name = (function.name or "") if function else ""
        arguments = (function.arguments or "") if function else ""
        if not isinstance(arguments, str):
            arguments = as_written(arguments)
        call = self._continued(piece, name=name)
        self._chars += len(name) + len(arguments)
        if call is None:
            if len(self._calls) == MAX_CALLS:
                raise LLMResponseError(f"The reply holds more than {MAX_CALLS:,} tool calls.", remedy=_ENDLESS)
            index = max((each.index for each in self._calls), default=-1) + 1 if piece.index is None else piece.index
            call = _Call(index)
            self._calls.append(call)
            self._chars += 1  # so that calls without text are bounded too
        new_name = "" if call.name else name
        call.id = call.id or (piece.id or "")
        if not call.name or (name != call.name and not call.arguments and self._is_name(call.name + name)):
            call.name += name  # a name in two pieces
        if arguments:
            call.arguments.append(arguments)
        return CallDelta(self._calls.index(call), new_name, repair_surrogates(arguments))

    def _continued(self, piece: CallIn, *, name: str) -> _Call | None:
        """The call that this piece continues, or None if it begins a new one."""
        if piece.index is None:
            if name or (piece.id and all(call.id != piece.id for call in self._calls)):
                return None
            candidates = [call for call in self._calls if call.id == piece.id] if piece.id else self._calls
            return candidates[-1] if candidates else None
        newest = next((call for call in reversed(self._calls) if call.index == piece.index), None)
        if newest and name and newest.name and piece.id and newest.id and piece.id != newest.id:
            return None  # a server that gives all its calls the index 0
        if newest and name and newest.name and not piece.id:
            return (
                None if isinstance(load_or_none("".join(newest.arguments)), dict) else newest
            )  # the same, without ids
        return newest

    def _meaning(self, call: ToolCall) -> tuple[str, str]:
        """What a call is, however it is written."""
        try:
            arguments = json.dumps(json.loads(call.arguments or "{}"), sort_keys=True)
        except (ValueError, RecursionError):
            arguments = call.arguments
        return resolve_tool_name(call.name, self._tools) or call.name, arguments

    def _is_name(self, name: str) -> bool:
        """Whether a name is that of a tool, or the beginning of one."""
        return resolve_tool_name(name, self._tools) is not None or any(tool.startswith(name) for tool in self._tools)


def _repair_json_text(text: str) -> str:
    """The same for halves that are spelled as escapes: llama.cpp refuses a history with one of them."""
    if _HALF_ESCAPE.search(text):
        with suppress(ValueError, RecursionError):
            return repair_surrogates(json.dumps(json.loads(text), ensure_ascii=False))
    return repair_surrogates(text)


def _objects(arguments: str) -> list[str]:
    """The arguments of a call; of one that holds several JSON objects, each: they are calls whose marks were lost.

    The same object twice is one: servers send arguments in pieces, and then once more as a whole.
    """
    texts: dict[str, None] = {}
    position = 0
    while position < len(arguments):
        try:
            value, end = json.JSONDecoder().raw_decode(arguments, position)
        except (ValueError, RecursionError):
            return [arguments]
        values = value if isinstance(value, list) else [value]
        if not (values and all(isinstance(each, dict) for each in values)):
            return [arguments]
        written = arguments[position:end]
        texts |= dict.fromkeys(written_items(written) if isinstance(value, list) else [written])
        while arguments[end : end + 1] in (" ", "\n", "\t", "\r", ",", ";") and end < len(arguments):
            end += 1
        position = end
    return list(texts) or [arguments]


def _with_distinct_ids(calls: tuple[ToolCall, ...], new_id: Callable[[], str]) -> tuple[ToolCall, ...]:
    seen: set[str] = set()
    distinct: list[ToolCall] = []
    for call in calls:
        unique = call if call.id not in seen else ToolCall(new_id(), call.name, call.arguments)
        seen.add(unique.id)
        distinct.append(unique)
    return tuple(distinct)
