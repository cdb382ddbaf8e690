"""What the simulator answers: texts, tool calls, plain HTTP errors, how they are streamed, and the faults on the way.

A fault's `after_tokens` counts delta frames already sent; a request without `stream` meets the nearest equivalent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Literal, TypedDict, Unpack

from tests.lmstudio_sim.errors import EXPRESS_ERROR_PAGE, JsonObject, openai_error
from tests.lmstudio_sim.leaks import LeakFormat, render_leak


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing for `seconds`, or until `until` is set; with neither, until the client hangs up."""

    seconds: float | None = None
    until: asyncio.Event | None = None
    after_tokens: int = 0
    before_headers: bool = False


@dataclass(frozen=True, slots=True)
class StreamError:
    """E6: an `event: error` frame in a 200 stream; a plain request gets 400 `{"error": message}` instead."""

    message: str
    after_tokens: int = 0
    done: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class CutSocket:
    """Close the connection in mid-reply: a torn chunked body or a body shorter than its Content-Length.

    `reset` sends RST in place of FIN; the client may then lose bytes that it had not read yet.
    """

    after_tokens: int = 0
    before_headers: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class EndEarly:
    """End the stream cleanly with neither finish_reason, `[DONE]` nor error; a plain request gets 400 `terminated`."""

    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Put one `data:` frame that is no JSON between the good ones."""

    after_tokens: int = 0
    data: str = '{"id":"chatcmpl-'


Fault = Stall | StreamError | CutSocket | EndEarly | BadFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How a reply is cut into frames and frames into writes."""

    fragment_chars: int = 12
    """Characters of text or reasoning in one delta."""
    argument_fragment_chars: int | None = None
    """Characters of tool arguments in one delta; None sends them whole."""
    interleave_calls: bool = False
    """Open all calls first, then send one fragment of each in turn."""
    repeat_role: bool = False
    """Send `role` in every delta that is no call, as 0.4.21 does when the kind of content changes."""
    call_ids: Literal["sent", "omitted", "empty"] = "sent"
    empty_later_names: bool = False
    """Send `name: ""` in the later fragments of a call, as builds before 0.3.16 did."""
    usage_chunk: bool = True
    """Send the usage chunk when the request asks for it."""
    done: bool = True
    write_bytes: int | None = None
    """Bytes in one HTTP chunk and TCP write; 1 splits inside every multi-byte character."""
    line_end: Literal["\n", "\r\n"] = "\n"
    token_delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts in place of the computed ones."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` as a string is sent as it is, however broken. `id` None makes a 9-digit one."""

    name: str
    arguments: JsonObject | str = field(default_factory=dict)
    id: str | None = None

    @property
    def argument_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


CallLike = Call | tuple[str, JsonObject | str]


class CompletionOptions(TypedDict, total=False):
    """The keyword arguments that every completion-like reply takes; see `Completion`."""

    finish_reason: str | None
    usage: Usage | None
    model: str | None
    stream: StreamOptions
    faults: tuple[Fault, ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A generated reply. `finish_reason` None means `tool_calls` or `stop`; `model` None means the instance's id."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    endless: bool = False
    """Repeat `text` until the client hangs up; a plain request never gets an answer."""
    stream: StreamOptions = StreamOptions()
    faults: tuple[Fault, ...] = ()

    def altered(self, **changes: Any) -> Completion:
        """The same reply with some fields replaced."""
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        return Completion(**(kept | changes))

    @property
    def finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")


class TextReply(Completion):
    """A final answer, perhaps after some thinking."""

    def __init__(self, text: str, /, *, reasoning: str = "", **options: Unpack[CompletionOptions]) -> None:
        super().__init__(text=text, reasoning=reasoning, **options)


class CallReply(Completion):
    """One or several tool calls, in order; `text="\\n\\n"` puts the usual whitespace before them."""

    def __init__(
        self, *calls: CallLike, text: str = "", reasoning: str = "", **options: Unpack[CompletionOptions]
    ) -> None:
        made = tuple(call if isinstance(call, Call) else Call(*call) for call in calls)
        super().__init__(calls=made, text=text, reasoning=reasoning, **options)


class ReasoningReply(Completion):
    """Thinking and no answer; `length` unless said otherwise, as when the token budget went into thinking."""

    def __init__(self, reasoning: str, /, **options: Unpack[CompletionOptions]) -> None:
        options.setdefault("finish_reason", "length")
        super().__init__(reasoning=reasoning, **options)


class LengthReply(Completion):
    """An answer, or a call, cut off by the token limit: `finish_reason` is `length`."""

    def __init__(self, text: str, /, *calls: CallLike, **options: Unpack[CompletionOptions]) -> None:
        options.setdefault("finish_reason", "length")
        made = tuple(call if isinstance(call, Call) else Call(*call) for call in calls)
        super().__init__(text=text, calls=made, **options)


class LeakReply(Completion):
    """A tool call that stayed in the text (or in the reasoning) in one of the models' own notations."""

    def __init__(
        self,
        format: LeakFormat,
        call: CallLike,
        /,
        *,
        preface: str = "",
        in_reasoning: bool = False,
        **options: Unpack[CompletionOptions],
    ) -> None:
        made = call if isinstance(call, Call) else Call(*call)
        leak = preface + render_leak(format, name=made.name, arguments=json.loads(made.argument_text or "{}"))
        super().__init__(text="" if in_reasoning else leak, reasoning=leak if in_reasoning else "", **options)


class DroppedCallReply(Completion):
    """The call that LM Studio could not parse and left out: a preface, `stop`, and a usage of zeros (bt#942)."""

    def __init__(self, preface: str = "I'll look at the file first.", /, **options: Unpack[CompletionOptions]) -> None:
        options.setdefault("usage", Usage())
        super().__init__(text=preface, **options)


LONG_TEXT = " ".join(map(str, range(2_000)))


class EndlessReply(Completion):
    """A stream that repeats `text` until the client hangs up; as it is, too long to be noticed as a repetition."""

    def __init__(self, text: str = LONG_TEXT, /, **options: Unpack[CompletionOptions]) -> None:
        super().__init__(text=text, endless=True, **options)


@dataclass(frozen=True)
class HttpReply:
    """A whole HTTP answer. A dict or list body is sent as JSON, a string as HTML unless `content_type` says other."""

    status: int
    body: JsonObject | list[Any] | str | bytes = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    faults: tuple[Fault, ...] = ()


class HtmlErrorReply(HttpReply):
    """E9: Express's own error page."""

    def __init__(self, status: int = 500) -> None:
        super().__init__(status, EXPRESS_ERROR_PAGE)


class RateLimitReply(HttpReply):
    """429 with `Retry-After` as seconds, as an HTTP date, or as any given string."""

    def __init__(self, retry_after: float | datetime | str | None = None) -> None:
        headers: dict[str, str] = {}
        if isinstance(retry_after, datetime):
            headers["Retry-After"] = format_datetime(retry_after, usegmt=True)
        elif retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        body = openai_error("Too many requests.", type="rate_limit_error", code="rate_limit_exceeded")
        super().__init__(429, body, headers)


Reply = Completion | HttpReply
