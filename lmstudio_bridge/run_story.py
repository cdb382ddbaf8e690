"""What happened in a run, put in order for a picture: its rounds, their calls, and when each of them was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lmstudio_bridge.agent.event_lines import TimedEvent
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    MessageAdded,
    ModelChosen,
    Noticed,
    RetryScheduled,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunStarted,
    ServerFailed,
    Warned,
)
from lmstudio_bridge.messages import Usage, UserMessage

_PAUSE = 1.0  # seconds that stand for the time between a run's end and its going on


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when something took, in seconds from the run's beginning."""

    start: float
    end: float


@dataclass(slots=True)
class CallStory:
    """One call; `arguments` as JSON text, "" where it was not sent."""

    finished: CallFinished
    arguments: str
    span: Span


@dataclass(slots=True)
class RoundStory:
    """One request to the model with what came of it; `told` is what the bridge said to the model before it."""

    number: int
    span: Span
    tools_offered: int = 0
    text: str = ""
    reasoning: str = ""
    usage: Usage | None = None
    calls: list[CallStory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Story:
    """A whole run. `instructions` are those of each time it was gone on with, "" for none; `seconds` its length."""

    rounds: list[RoundStory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    context_length: int | None = None
    seconds: float = 0.0

    def servers(self) -> list[str]:
        """The servers that were called, in the order of their first calls."""
        return list(dict.fromkeys(call.finished.server for each in self.rounds for call in each.calls))


def tell_story(events: Sequence[TimedEvent]) -> Story:
    """The story of a run's journal. What has no time, or an end that is missing, takes no time."""
    story = Story()
    clock = _Clock()
    under_way: dict[str, tuple[float, str]] = {}  # calls by id: when they began, and with what
    began = 0.0
    offered = 0
    told: list[str] = []
    for timed in events:
        now = clock.seconds(timed)
        story.seconds = max(story.seconds, now)
        current = story.rounds[-1] if story.rounds else None
        match timed.event:
            case RunContinued(instructions=instructions):
                story.instructions.append(instructions)
            case ModelChosen(context_length=context_length):
                story.context_length = context_length
            case RoundStarted(tools_offered=tools_offered):
                began, offered = now, tools_offered
            case RoundFinished(number=number, text=text, reasoning=reasoning, usage=usage):
                story.rounds.append(RoundStory(number, Span(began, now), offered, text, reasoning, usage, told=told))
                told, began = [], now
            case CallStarted(call_id=call_id, arguments=arguments):
                under_way[call_id] = now, arguments
            case CallFinished(call_id=call_id) as finished if current is not None:
                start, arguments = under_way.pop(call_id, (now, ""))
                current.calls.append(CallStory(finished, arguments, Span(start, now)))
            case MessageAdded(message=UserMessage(text)) if current is not None:
                told.append(text)
            case Warned(text=text) | ServerFailed(reason=text) | RetryScheduled(reason=text):
                (current.notes if current else story.notes).append(text)
            case Noticed(notice=notice):
                (current.notes if current else story.notes).append(f"{notice.kind}: {notice.text}")
            case _:
                pass
    return story


class _Clock:
    """Seconds of a run at each of its events; the time between an end and its going on is not one of the run."""

    def __init__(self) -> None:
        self._zero: datetime | None = None
        self._offset = 0.0
        self._last = 0.0

    def seconds(self, timed: TimedEvent) -> float:
        if timed.at is None:
            return self._last
        if self._zero is None or isinstance(timed.event, RunContinued | RunStarted):
            self._offset = self._last + _PAUSE if self._zero else 0.0
            self._zero = timed.at
        self._last = max(self._last, self._offset + (timed.at - self._zero).total_seconds())
        return self._last
