"""Fakes for what the loop and its sinks need: a model, tools, a sink, a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from lmstudio_bridge.events import Event
from lmstudio_bridge.messages import (
    ChatRequest,
    Completion,
    Delta,
    JSONObject,
    Message,
    OnNotice,
    OnRetry,
    Retry,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)
from lmstudio_bridge.runs.journal import open_journal


@dataclass(frozen=True, slots=True)
class Streamed:
    """A reply that comes in pieces: the deltas, then the whole, an error, or (with None) nothing any more.

    A retry among the deltas: the reply broke off there and begins anew.
    """

    deltas: tuple[Delta | Retry, ...]
    end: Completion | BaseException | None = None
    retries: tuple[Retry, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the model got it."""

    messages: tuple[Message, ...]
    tools: Sequence[ToolSpec]
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    response_schema: JSONObject | None = None
    temperature: float | None = field(default=None, compare=False)  # a matter of the settings


def asked_of(request: ChatRequest) -> Asked:
    """The request as it is compared."""
    return Asked(
        tuple(request.messages),
        request.tools,
        request.max_tokens,
        request.reasoning_effort,
        request.response_schema,
        request.temperature,
    )


E = TypeVar("E", bound=Event)
Reply: TypeAlias = Completion | BaseException | Streamed


class ScriptedModel:
    """A `ChatModel` that gives the replies of a script in their order, and keeps what it was asked.

    `waiting` is set once it has come to a reply that never ends.
    """

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.asked: list[Asked] = []
        self.waiting = asyncio.Event()

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: Callable[[Delta], Awaitable[None]] | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        self.asked.append(asked_of(request))
        reply = self._replies.pop(0)
        if isinstance(reply, Streamed):
            for each in (*reply.retries, *reply.deltas):
                assert on_delta is not None
                assert on_retry is not None
                await (on_retry(each) if isinstance(each, Retry) else on_delta(each))
            if reply.end is None:
                self.waiting.set()
                await asyncio.Event().wait()
            assert reply.end is not None
            reply = reply.end
        if isinstance(reply, BaseException):
            raise reply
        return reply


NEVER = Streamed(())
"""A reply that never comes."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One tool call as the tools got it."""

    server: str
    tool: str
    arguments: Mapping[str, Any]


class FakeTools:
    """A `ToolRunner` with an answer for each `(server, tool)`; None is an answer that never comes."""

    def __init__(
        self,
        answers: Mapping[tuple[str, str], ToolResult | BaseException | None] | None = None,
        *,
        progress: Sequence[str] = (),
    ) -> None:
        self._answers = dict(answers or {})
        self._progress = progress
        self.sent: list[Sent] = []
        self.waiting = asyncio.Event()

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: Callable[[str], Awaitable[None]] | None = None,
    ) -> ToolResult:
        self.sent.append(Sent(server, tool, arguments))
        for text in self._progress:
            assert on_progress is not None
            await on_progress(text)
        answer = self._answers[server, tool]
        if answer is None:
            self.waiting.set()
            await asyncio.Event().wait()
        if isinstance(answer, BaseException):
            raise answer
        assert answer is not None
        return answer


@dataclass(slots=True)
class Recorder:
    """A sink that keeps what it was told."""

    events: list[Event] = field(default_factory=list)

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, *kinds: type[E]) -> list[E]:
        """The events of these kinds."""
        return [event for event in self.events if isinstance(event, kinds)]


class ManualClock:
    """A clock that stands still until it is told to go on; each reading moves it by `step` seconds."""

    def __init__(self, *, step: float = 0.0) -> None:
        self.now = 0.0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def say(text: str, *, finish_reason: str = "stop", tokens: int = 1) -> Completion:
    """A reply in plain text."""
    return Completion(text, finish_reason=finish_reason, model="tiny", usage=Usage(10, tokens, 0))


def call(*calls: tuple[str, str] | tuple[str, str, str], text: str = "") -> Completion:
    """A reply with calls: `(name, arguments)` or `(name, arguments, id)` each; ids are c1, c2, … otherwise."""
    made = tuple(ToolCall(each[2] if len(each) == 3 else f"c{n}", each[0], each[1]) for n, each in enumerate(calls, 1))
    return Completion(text, calls=made, finish_reason="tool_calls", model="tiny", usage=Usage(10, 2, 1))


def keep_events(folder: Path, run_id: str, *events: Event, **options: Any) -> Path:
    """A journal of these events, made with these options of `open_journal`; its path."""
    with open_journal(folder, run_id, **options) as journal:
        for event in events:
            journal.keep(event)
        return journal.path
