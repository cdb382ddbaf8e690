"""Facts of a run, in the order in which they happen, and the outcome that they add up to.

`Event` is a closed union: a `match` on it ends in `assert_never`. Events are told to one awaited
sink (`Emit`); `fan_out` makes one sink of several. Sinks never raise and never stall. The outcome of
a run is what its events add up to (`Tally`): it can be rebuilt from a journal alone, also from one that a crash cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from lmstudio_bridge.messages import Access, Message, Notice, ToolCall, Usage, Verdict

Stop: TypeAlias = Literal["answered", "round_limit", "deadline", "context_full", "stuck", "cancelled", "failed"]

Phase: TypeAlias = Literal["thinking", "answering", "calling"]

_STARTED_LATER = "needed on the way"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what it brought.

    `answer` is the model's final text, or the best text so far when `stop` is not "answered".
    `error` says why a run failed, with its remedy. `seconds` is wall time. `needed_write` are the calls
    that were refused because the run could only read, each as a reader would name it. `sources` are the
    tools that were called. `brief` is how long the task was, `kept` how much stayed here that the caller
    would have had to read: the results of its calls and the definitions of the tools, each once (characters).
    Where the servers were chosen for the task, `started` says why each was, `not_started` names the others.
    `rests_on` are the facts of the answer with where each was read, `missing` those that nothing that was read holds,
    `coverage` how much of what the task speaks of was read.
    """

    stop: Stop
    answer: str = ""
    error: str = ""
    model: str = ""
    rounds: int = 0
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    needed_write: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    brief: int = field(default=0, compare=False)  # both follow from the rest of a run
    kept: int = field(default=0, compare=False)
    started: tuple[str, ...] = ()
    not_started: tuple[str, ...] = ()
    rests_on: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    coverage: str = ""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; `servers` are the names that were asked for."""

    run_id: str
    task: str
    servers: tuple[str, ...]
    max_rounds: int
    started_at: str  # ISO 8601, UTC
    access: Access = "write"  # journals that do not say are of a time when every run could write


@dataclass(frozen=True, slots=True)
class RunContinued:
    """A run goes on from what its journal holds; the outcome counts from here on."""

    run_id: str
    instructions: str
    servers: tuple[str, ...]
    max_rounds: int
    started_at: str  # ISO 8601, UTC
    access: Access = "write"  # journals that do not say are of a time when every run could write


@dataclass(frozen=True, slots=True)
class ServersChosen:
    """Which of several servers are started for the task, `reasons` in the same order, and which are left for later."""

    started: tuple[str, ...]
    reasons: tuple[str, ...]
    left: tuple[str, ...]

    def explained(self) -> tuple[str, ...]:
        """Those that are started, with the reasons, for a reader."""
        return _with_reasons(dict(zip(self.started, self.reasons, strict=False)))


@dataclass(frozen=True, slots=True)
class ServerReady:
    """A downstream server is open and has listed its tools."""

    server: str
    tools: int


@dataclass(frozen=True, slots=True)
class ServerFailed:
    """A downstream server cannot be used in this run; the run goes on without it."""

    server: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChosen:
    """The model that will do the work; `context_length` in tokens, where LM Studio tells it."""

    model: str
    loaded: bool | None
    context_length: int | None


@dataclass(frozen=True, slots=True)
class MessageAdded:
    """The conversation grew by one message; the events of this kind are the whole history."""

    message: Message


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A request to the model is about to be sent; `number` counts from 1."""

    number: int
    max_rounds: int
    tools_offered: int


@dataclass(frozen=True, slots=True)
class Generating:
    """The model is writing; told at the first piece, when the phase changes, and some times a second.

    `pieces` counts the stream's pieces so far, which is close to the tokens.
    """

    number: int
    phase: Phase
    pieces: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """The model's reply to one request is whole."""

    number: int
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    usage: Usage | None
    seconds: float


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool call is about to leave for its server; `arguments` is what is really sent, as JSON."""

    number: int
    call_id: str
    server: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallProgress:
    """A downstream server reported progress of a call."""

    call_id: str
    server: str
    tool: str
    text: str


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A tool call has its result, or was answered without being sent (`sent` is False).

    In the journal this is the audit line of a call. `about` is what the call is about in a few words, such as a path,
    where it was refused. `rule` is what decided about it. `digest` is the beginning of the SHA-256 of its arguments, as
    they were sent or else as the model wrote them. `definition`: characters of the tool's name, description and schema.
    """

    number: int
    call_id: str
    server: str
    tool: str
    text: str
    is_error: bool
    sent: bool
    seconds: float
    verdict: Verdict = ""
    about: str = ""
    rule: str = ""
    digest: str = field(default="", compare=False)  # follows from the arguments, which are told elsewhere
    definition: int = field(default=0, compare=False)  # follows from the tool


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed in a way that may pass; it is sent again after `wait` seconds."""

    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something on the way to a reply: a wait, a load, or a fault that was mended."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class ResultsShrunk:
    """Results were folded to win room in the context; the model no longer has them whole.

    `places` are their places in the history, `texts` what stands there now.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessagesDropped:
    """The newest messages were taken out of the history: they only repeated what was there."""

    count: int


@dataclass(frozen=True, slots=True)
class JournalCut:
    """The journal does not hold the whole run: such a run cannot be continued."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the user should know, and that did not end the run."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerChecked:
    """The answer was compared with what the run has read; the last such event of a run counts.

    `sources` are the facts that were found with where each was read, for a reader ("4781 ← notes.txt:3"), `missing`
    those that were found nowhere, `coverage` how much of what the task speaks of was read, "" if it names no such set.
    """

    sources: tuple[str, ...]
    missing: tuple[str, ...]
    coverage: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event of a run, exactly once; `answer` is the model's final text, or the best text so far."""

    stop: Stop
    answer: str
    error: str
    seconds: float


Event: TypeAlias = (
    RunStarted
    | RunContinued
    | ServersChosen
    | ServerReady
    | ServerFailed
    | ModelChosen
    | MessageAdded
    | RoundStarted
    | Generating
    | RoundFinished
    | CallStarted
    | CallProgress
    | CallFinished
    | RetryScheduled
    | Noticed
    | ResultsShrunk
    | MessagesDropped
    | JournalCut
    | Warned
    | AnswerChecked
    | RunFinished
)

Emit: TypeAlias = Callable[[Event], Awaitable[None]]


class Tally:
    """Adds up the events of a run, from its start or from where it last went on."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.last_text = ""
        self._model = ""
        self._rounds = 0
        self._calls = 0
        self._usage = Usage()
        self._warnings: list[str] = []
        self._needed_write: list[str] = []
        self._sources: dict[str, None] = {}
        self._brief = 0
        self._kept: dict[tuple[str, str, str], int] = {}  # by server, tool and digest: the same call counts once
        self._started: dict[str, str] = {}
        self._not_started: dict[str, None] = {}
        self._checked = AnswerChecked((), (), "")
        self._end = RunFinished("failed", "", "The bridge ended before the run did.", 0.0)
        self._ended = False

    def add(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Generating() | MessageAdded() | RoundStarted() | CallStarted():  # the most frequent come first
                pass
            case RunStarted(task=brief) | RunContinued(instructions=brief):
                self._begin()
                self._brief = len(brief)
            case ModelChosen(model=model):
                self._model = model
            case RoundFinished():
                self._rounds = event.number  # a round that was asked again is still one
                self._model = event.model or self._model
                self._usage += event.usage or Usage()
                self.last_text = event.text or self.last_text
            case CallFinished(sent=sent):
                self._calls += sent
                if sent:
                    self._sources[f"{event.server} {event.tool}"] = None
                if sent and not event.is_error:
                    self._kept[event.server, event.tool, ""] = event.definition
                    self._kept[event.server, event.tool, event.digest or event.call_id] = len(event.text)
                if event.verdict == "needs_write":
                    shown = f"{event.server} {event.tool}"
                    self._needed_write.append(f"{shown} ({event.about})" if event.about else shown)
            case Warned(text=text) | JournalCut(reason=text) | Noticed(notice=Notice(kind="recovery", text=text)):
                self._warnings.append(text)
            case ServersChosen():
                self._started = dict(zip(event.started, event.reasons, strict=False))
                self._not_started = dict.fromkeys(event.left)
            case ServerReady(server=server):
                if server in self._not_started:
                    del self._not_started[server]
                    self._started[server] = _STARTED_LATER
            case ServerFailed(server=server, reason=reason):
                self._started.pop(server, None)
                self._not_started.pop(server, None)
                self._warnings.append(f"MCP server {server} was left out: {reason}")
            case AnswerChecked():
                self._checked = event
            case RunFinished():
                self._end, self._ended = event, True
            case CallProgress() | RetryScheduled() | Noticed() | ResultsShrunk() | MessagesDropped():
                pass
            case _:
                assert_never(event)

    @property
    def rounds(self) -> int:
        """The rounds that are finished."""
        return self._rounds

    def outcome(self) -> Outcome:
        """What the events so far amount to; a run without its last event counts as failed."""
        return Outcome(
            stop=self._end.stop,
            answer=self._end.answer if self._ended else self.last_text,
            error=self._end.error,
            model=self._model,
            rounds=self._rounds,
            calls=self._calls,
            usage=self._usage,
            seconds=self._end.seconds,
            warnings=tuple(self._warnings),
            needed_write=tuple(self._needed_write),
            sources=tuple(self._sources),
            brief=self._brief,
            kept=sum(self._kept.values()),
            started=_with_reasons(self._started),
            not_started=tuple(self._not_started),
            rests_on=self._checked.sources,
            missing=self._checked.missing,
            coverage=self._checked.coverage,
        )


def _with_reasons(started: Mapping[str, str]) -> tuple[str, ...]:
    """Servers and why they were started, for a reader; those with the same reason stand together."""
    names: dict[str, list[str]] = {}
    for server, reason in started.items():
        names.setdefault(reason, []).append(server)
    return tuple(f"{', '.join(same)} ({reason})" for reason, same in names.items())


def fan_out(*sinks: Emit) -> Emit:
    """One sink that tells each of `sinks` in turn, in the order given."""

    async def emit(event: Event) -> None:
        for sink in sinks:
            await sink(event)

    return emit
