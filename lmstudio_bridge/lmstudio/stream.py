"""Bytes of an event stream → frames → chunks → deltas → one Completion. Pure: nothing is awaited here.

What streams look like, and in which odd ways, was recorded from LM Studio 0.4.21 and llama.cpp.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from lmstudio_bridge.errors import LLMResponseError
from lmstudio_bridge.lmstudio.failures import error_from_text, error_text, unreadable_answer
from lmstudio_bridge.lmstudio.tool_call_parsers import recover_calls, split_reasoning
from lmstudio_bridge.lmstudio.wire import CallIn, ChatIn
from lmstudio_bridge.messages import CallDelta, Completion, Delta, ReasoningDelta, TextDelta, ToolCall, Usage

MAX_FRAME_BYTES = 16 * 1024 * 1024  # one event of a stream; more is a broken server
MAX_BAD_FRAMES = 100  # frames of one stream that may be unreadable; LM Studio spliced a few at times
MAX_REPLY_CHARS = 8 * 1024 * 1024  # text, reasoning and arguments of one reply; more is an endless stream
MAX_CALLS = 1_000  # of one reply; more is an endless stream
_ID_LENGTH = 9  # Mistral's templates accept only ids of nine letters and digits


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a `text/event-stream`: its `event:` name ("" if none) and its data."""

    event: str
    data: bytes


class FrameDecoder:
    """Bytes of a stream → frames, however the bytes are cut (WHATWG HTML, "server-sent events").

    Bytes are split at line ends (LF or CRLF; nobody sends a lone CR) before anything is decoded, so
    a cut inside a character does no harm. A frame that ends with the stream instead of a blank line
    still counts. Older llama.cpp names the field of an error `error:` in place of `data:`.
    """

    def __init__(self, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()  # of a line that is not whole yet
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that `chunk` completes; to be read to the end before the next one.

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
        """The frame that the line ends, if it ends one."""
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
    """Bytes of a chat stream → its chunks. Bad frames between good ones are passed over.

    `done` says whether its `[DONE]` came; what follows it is not read. `foreign` says whether JSON
    came, but nothing of what chat completions stream.
    """

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES, max_bad_frames: int = MAX_BAD_FRAMES) -> None:
        self._frames = FrameDecoder(max_bytes=max_frame_bytes)
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
        """The beginning of the first frame that was no chunk."""
        return self._other.decode("utf-8", "replace")

    def feed(self, piece: bytes) -> Iterator[ChatIn]:
        """The chunks that `piece` completes; to be read to the end before the next one.

        Raises:
            LLMError: The stream carries an error, or is none of LM Studio's. The URL is for the caller to add.
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
        # Nearly all, in half the time: where `error_text` finds an error, this word is a key or a value.
        if not (frame.event or b'"error"' in frame.data):
            try:
                return ChatIn.model_validate_json(frame.data)
            except ValueError:  # for one, pydantic's JSON reader refuses half characters
                pass
        try:
            decoded = json.loads(frame.data)
            text = error_text(decoded)
            if text is None and frame.event != "error":
                return ChatIn.model_validate(decoded)
        except (ValueError, RecursionError) as exc:  # json's, pydantic's and the UTF-8 decoder's are all ValueErrors
            if frame.event != "error":
                self._bad_frames += 1
                if self._bad_frames > self._max_bad_frames:
                    raise unreadable_answer(detail=frame.data[:200].decode("utf-8", "replace")) from exc
                return None
            text = None
        raise error_from_text(text or frame.data.decode("utf-8", "replace"), url="")


def new_call_id() -> str:
    """An id for a call that came without one."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=_ID_LENGTH))


@dataclass(slots=True)
class _Call:
    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class _Text:
    """Pieces of one text. Node cuts strings between UTF-16 units: the half of a character is held back."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Take a piece, which must not be empty; what of it (and of what was held back) is whole."""
        piece = self._half + piece
        self._half = piece[-1] if "\ud800" <= piece[-1] <= "\udbff" else ""
        whole = _mended(piece.removesuffix(self._half) if self._half else piece)
        if whole:
            self._pieces.append(whole)
        return whole

    def __str__(self) -> str:
        return "".join(self._pieces)


class Accumulator:
    """The chunks of one reply, added up.

    Takes what LM Studio and its relatives send: a repeated role, empty names and ids, calls without
    an index or all under the same one, several calls interleaved, arguments whole or in pieces,
    reasoning under either name. A reply without a native call is searched for calls that leaked
    into its text; only those of tools that were `offered` count.
    """

    def __init__(
        self,
        *,
        offered: Collection[str] = (),
        new_id: Callable[[], str] = new_call_id,
        max_chars: int = MAX_REPLY_CHARS,
    ) -> None:
        self._offered = frozenset(offered)
        self._new_id = new_id
        self._max_chars = max_chars
        self._text = _Text()
        self._reasoning = _Text()
        self._calls: list[_Call] = []  # in order of arrival
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
        return self._chars == 0

    def add(self, chunk: ChatIn) -> list[Delta]:
        """Take one chunk; what of it a reader would want to see at once.

        Raises:
            LLMResponseError: The reply grew over the limit.
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
            thinking, text = message.thinking(), message.text()
            self._chars += len(thinking) + len(text)
            if thinking and (whole := self._reasoning.add(thinking)):
                deltas.append(ReasoningDelta(whole))
            if text and (whole := self._text.add(text)):
                deltas.append(TextDelta(whole))
            deltas += [self._add_call(call) for call in message.tool_calls or []]
        if self._chars > self._max_chars:
            raise LLMResponseError(
                f"The reply did not end within {self._max_chars:,} characters.",
                remedy="The model repeats itself without end: set max_tokens, or use another model.",
            )
        return deltas

    def completion(self) -> Completion:
        """The reply so far. Whether it may count as whole is the caller's question (`finished`)."""
        text, thinking = split_reasoning(str(self._text))
        reasoning = "\n".join(part for part in (str(self._reasoning).strip(), thinking) if part)
        calls = tuple(
            ToolCall(call.id or self._new_id(), call.name, _mended("".join(call.arguments)))
            for call in sorted(self._calls, key=lambda call: call.index)
            if call.name
        )
        if not calls and self._offered:
            text, leaked = recover_calls(text, offered=self._offered.__contains__)
            if not leaked and not text.strip():  # all was taken for thinking, the call too
                reasoning, leaked = recover_calls(reasoning, offered=self._offered.__contains__)
            calls = tuple(ToolCall(self._new_id(), call.name, _mended(call.arguments)) for call in leaked)
        return Completion(
            text=text.strip(),
            reasoning=reasoning,
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
        call = self._continued(piece, name=name)
        self._chars += len(name) + len(arguments)
        if call is None:
            if len(self._calls) == MAX_CALLS:
                raise LLMResponseError(
                    f"The reply holds more than {MAX_CALLS:,} tool calls.",
                    remedy="The model repeats itself without end: set max_tokens, or use another model.",
                )
            index = max((each.index for each in self._calls), default=-1) + 1 if piece.index is None else piece.index
            call = _Call(index)
            self._calls.append(call)
            self._chars += 1  # so that calls without a word are bounded too
        new_name = "" if call.name else name
        call.id = call.id or (piece.id or "")
        call.name = call.name or name
        if arguments:
            call.arguments.append(arguments)
        return CallDelta(self._calls.index(call), new_name, _mended(arguments))

    def _continued(self, piece: CallIn, *, name: str) -> _Call | None:
        """The call that this piece goes on with, or None if it opens a new one."""
        if piece.index is None:
            if name or (piece.id and all(call.id != piece.id for call in self._calls)):
                return None
            candidates = [call for call in self._calls if call.id == piece.id] if piece.id else self._calls
            return candidates[-1] if candidates else None
        newest = next((call for call in reversed(self._calls) if call.index == piece.index), None)
        if newest and name and newest.name and piece.id and newest.id and piece.id != newest.id:
            return None  # a server that gives all its calls the index 0
        return newest


def _mended(text: str) -> str:
    """`text` with UTF-16 halves joined, and those that stay alone replaced, so that it can be encoded."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _with_distinct_ids(calls: tuple[ToolCall, ...], new_id: Callable[[], str]) -> tuple[ToolCall, ...]:
    seen: set[str] = set()
    distinct: list[ToolCall] = []
    for call in calls:
        unique = call if call.id not in seen else ToolCall(new_id(), call.name, call.arguments)
        seen.add(unique.id)
        distinct.append(unique)
    return tuple(distinct)
