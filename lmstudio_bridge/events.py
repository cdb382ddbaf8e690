"""Facts of a run, in the order in which they happen, and the outcome that they add up to.

`Event` is a closed union: a `match` on it ends in `assert_never`. Events are told to one awaited
sink (`Emit`). Sinks never raise and never stall. The outcome of
a run is what its events add up to (`Tally`): it can be rebuilt from a journal alone, also from one that a crash cut.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, assert_never

from lmstudio_bridge.intent import may_ask_for_change, only_reads_by_name
from lmstudio_bridge.messages import Access, Message, Notice, ToolCall, Usage, Verdict
from lmstudio_bridge.text import counted, one_line, quoted_name, quoted_words, shortened

Stop: TypeAlias = Literal[
    "answered", "round_limit", "deadline", "context_full", "stuck", "cancelled", "failed", "partial"
]
"""How a run ended; "partial" is a run over many items of which some are not done."""

State: TypeAlias = Stop | Literal["running", "interrupted"]

STATES: Mapping[State, tuple[str, str]] = {
    "answered": ("answered", ""),
    "running": ("in progress", ""),
    "interrupted": ("interrupted", ""),
    "round_limit": (
        "hit the round limit",
        "Hit the round limit; the answer may be incomplete. Raise max_rounds or give a smaller task.",
    ),
    "deadline": (
        "the run timed out",
        "The run timed out; the answer may be incomplete. Give it more time or a smaller task.",
    ),
    "context_full": (
        "the model's context is full",
        "The model's context is full. Load the model with a larger context.",
    ),
    "stuck": ("the model got stuck", "The model got stuck. Try a smaller task or another model."),
    "partial": ("partly done", ""),
    "cancelled": ("cancelled", ""),
    "failed": ("failed", ""),
}
"""Each state of a run in words; and what a report begins with, where its error does not say enough."""

Phase: TypeAlias = Literal["thinking", "answering", "calling"]

ChangeKind: TypeAlias = Literal["created", "changed", "moved", "deleted", "unchanged", "beside"]

OWN_SERVER = "lmstudio-bridge"  # the server name of the bridge's own tools
INVALID_ARGUMENTS = "invalid arguments"  # the rule of a call that did not fit its tool's schema
APPROVED = "approved during the run"  # the rule of a call that a person allowed in a run with read access
NOT_APPROVED = "not approved"  # the rule of one about which the person was asked, and which they did not allow
NOT_ASKED = "limit of questions"  # the rule of one about which nobody was asked, after too many questions
UNREAD_FILE = "unread file"  # the rule of a call that would have replaced a file which the run had not read
UNKNOWN_TOOL = "unknown tool"  # the rule of a call of a tool that there is not
OWN_TOOLS = 6_300  # characters of our own tool definitions; tests/contract/test_server.py holds them below 7,000
_UNAPPROVED = {NOT_APPROVED: ", and was not approved", NOT_ASKED: ", and the run may ask the user no more questions"}
_SHOWN_NAME = 64  # characters of a tool's name
_SHOWN_REASON = 120  # characters of why a call failed


@dataclass(frozen=True, slots=True)
class FileChange:
    """What became of one file or folder that a writing call named; or "beside" them, as git says: `source` is how.

    `path` is relative to the folder of its `FilesChanged` if it is below it, as is `source`, from where it was moved.
    `before` and `after` are what was there, as `runs.changes` writes it. `added` and `removed` count lines of text.
    `diff` is unified and may be cut. `kept`: what was there before can be put back.
    """

    path: str
    kind: ChangeKind
    before: str = ""
    after: str = ""
    added: int = 0
    removed: int = 0
    diff: str = ""
    source: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what it brought.

    `answer` is the model's final text, or the best text so far when `stop` is not "answered". `error` says why a run
    failed, with its remedy. `seconds` is wall time. `needed_write` are the calls that were refused because the run
    could only read, each as a reader would name it. `sources` are the tools of which a call worked, `called` those
    calls for a reader, grouped by tool. `failed` are the calls that failed or were refused and were not made good
    later, each with the reason in one line; `failed_writes`: one of them was to change something.
    `nothing_changed`: a change was tried or asked for, and nothing was changed. `notes` are those of the `warnings`
    that a reader of the answer must know. `access` is what the run was allowed to do. `changes` are the files that its
    writing calls named, `not_kept` what an undo does not cover; `undone`: they were put back. `brief` is how much the
    caller wrote and read before it began: the task, and in the first run of a session the definitions of our tools;
    `kept` is how much stayed here that it would have had to read: the results of its calls and the definitions of the
    tools, each once (characters). Where the servers were chosen for the task, `started` says why
    each was, `not_started` names the others. `rests_on` are the facts of the answer with where each was read,
    `missing` those that nothing that was read holds, `coverage` how much of what the task speaks of was read.
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
    called: tuple[str, ...] = field(default=(), compare=False)  # as sources and warnings, in other words
    failed: tuple[str, ...] = ()
    failed_writes: bool = False
    nothing_changed: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)
    access: Access = field(default="write", compare=False)
    changes: tuple[FileChange, ...] = ()
    not_kept: tuple[str, ...] = ()
    undone: bool = False
    continued: bool = field(default=False, compare=False)
    outside: bool = field(default=False, compare=False)  # it failed because of LM Studio or a server
    gone: str = field(default="", compare=False)  # why no call worked, if that is because their server is gone

    @property
    def is_done(self) -> bool:
        """Whether there is an answer, and no change that was wanted is missing."""
        return self.stop == "answered" and not self.nothing_changed and not self.failed_writes

    def figures(self) -> str:
        """Rounds, calls, tokens of the local model and seconds, in a few words."""
        rounds, calls = counted(self.rounds, "round"), counted(self.calls, "call")
        return f"{rounds} · {calls} · {self.usage.total:,} tokens · {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; `servers` are the names that were asked for, `project` the folder for which it works.

    `template` is the task without its item, where it is the run of an item: what an item says is not asked for.
    `agent` is the subagent as whom the model works, `limit` the only tools that it may use, as its file lists them.
    `is_first`: it is the first run of this process, for which the caller read the definitions of our tools.
    """

    run_id: str
    task: str
    servers: tuple[str, ...]
    max_rounds: int
    started_at: str  # ISO 8601, UTC
    access: Access = "write"  # journals that do not say are of a time when every run could write
    project: str = ""
    template: str = ""
    agent: str = ""
    limit: tuple[str, ...] = ()
    is_first: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class RunContinued:
    """A run goes on from what its journal holds; the outcome counts from here on."""

    run_id: str
    instructions: str
    servers: tuple[str, ...]
    max_rounds: int
    started_at: str  # ISO 8601, UTC
    access: Access = "write"  # journals that do not say are of a time when every run could write
    is_first: bool = field(default=True, compare=False)  # as in RunStarted


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
    """A request to the model is about to be sent; `number` counts from 1, `tokens` is about how many it will read."""

    number: int
    max_rounds: int
    tools_offered: int
    tokens: int = field(default=0, compare=False)  # an estimate


@dataclass(frozen=True, slots=True)
class Generating:
    """The model is writing; told at the first piece, when the phase changes, and some times a second.

    `pieces` counts the stream's pieces so far, which is close to the tokens; `text` is the answer so far.
    """

    number: int
    phase: Phase
    pieces: int
    seconds: float
    text: str = field(default="", compare=False)  # of the pieces


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
    """A tool call is about to leave for its server; `arguments` is what is really sent, as JSON.

    `about` and `writes` are as in `CallFinished`: they tell what may have happened where that never comes.
    """

    number: int
    call_id: str
    server: str
    tool: str
    arguments: str
    about: str = field(default="", compare=False)  # follows from the arguments
    writes: bool | None = field(default=None, compare=False)  # follows from the tool


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

    In the journal this is the audit line of a call. `about` is what the call is about in a few words, such as a path.
    `writes`: it counts as changing something; None in journals that do not say. `reason` is why it failed or was
    refused, in one short line. `is_lost`: it was sent, and whether it had effects is unknown. `is_server_gone`: its
    server died or did not start again. `says_failed`: its server reports no error, but its text says that the change
    failed. `rule` is what decided about it. `digest` is the beginning of the SHA-256 of its arguments, as they were or
    would have been sent, or else as the model wrote them. `definition`: characters of the tool's name, description and
    schema.
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
    writes: bool | None = field(default=None, compare=False)
    reason: str = field(default="", compare=False)  # follows from the text
    is_lost: bool = False
    is_server_gone: bool = False
    says_failed: bool = False


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


WITH_WRITE_ACCESS = "autonomous_with_write_access (in a shell: --access write)"
READ_ONLY = f"The task asks for a change, but this run could only read: {WITH_WRITE_ACCESS} allows changes."
"""A warning at the start of a run; left out of an outcome that says that nothing was changed."""


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
class FilesChanged:
    """What the writing calls of a run changed, told before its end; or what an undo put back, after it (`is_undo`).

    `folder` is the absolute path of the project. `not_kept` are calls and files that an undo does not cover, for a
    reader. `is_complete`: each of the calls was about files, and all that they named were compared. `is_partial`: an
    undo that left alone what somebody had changed; the next one tries that again. `undone` are the numbers of the items
    whose changes are all put back now, in the journal of a run over many; None was written by earlier versions.
    """

    folder: str
    changes: tuple[FileChange, ...]
    not_kept: tuple[str, ...] = ()
    is_complete: bool = False
    is_undo: bool = False
    is_partial: bool = False
    undone: tuple[int, ...] | None = None

    def left_all(self) -> bool:
        """Whether the calls left every file as it was, for all that is known."""
        return (
            self.is_complete
            and bool(self.changes)
            and all(each.kind in ("unchanged", "beside") for each in self.changes)
        )


@dataclass(frozen=True, slots=True)
class ItemsListed:
    """What a run over many items works on, told after its start. Each item has a run and a journal of its own.

    `source` is the glob that named them, "" for a list. The rest is as in the request, so that the run can go on:
    `servers` is empty where they are chosen for the task, the schemas are JSON, "" for none. `combine` says how the
    answers are merged at the end, "" not at all.
    """

    items: tuple[str, ...]
    source: str
    servers: tuple[str, ...]
    model: str
    max_tokens: int | None
    output_schema: str
    combine: str = ""
    combine_schema: str = ""


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """The run of one item is about to begin, or to go on; `number` counts from 1."""

    number: int


@dataclass(frozen=True, slots=True)
class ItemFinished:
    """The run of one item ended; the last such event of an item counts."""

    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ItemsCombined:
    """The answers of so many items are about to be merged by the model, or were: then the `outcome` has the answer."""

    items: int
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class ItemsProgress:
    """How far a run over many items is; `running` are at work now, `seconds_left` is an estimate.

    `doubtful` are done although calls failed.
    """

    done: int
    total: int
    failed: int
    running: int
    seconds_left: float | None
    doubtful: int = 0


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event of a run, exactly once; `answer` is the model's final text, or the best text so far.

    `outside`: the run failed because LM Studio or a server did, not the model's work.
    """

    stop: Stop
    answer: str
    error: str
    seconds: float
    outside: bool = field(default=False, compare=False)


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
    | FilesChanged
    | ItemsListed
    | ItemStarted
    | ItemFinished
    | ItemsCombined
    | ItemsProgress
    | RunFinished
)

Emit: TypeAlias = Callable[[Event], Awaitable[None]]


@dataclass(slots=True)
class ItemResults:
    """What is known of the items of a run over many, by their numbers, which count from 1.

    `open` are those that were started and have not ended, `now` those that ended since the run last went on. `unsure`
    are those that were cut off while they could write, when the run had not gone on yet, and are not done since.
    `combined` is what their answers were merged into; None if that has not happened since the last of them ended.
    """

    listed: ItemsListed
    finished: dict[int, Outcome] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    now: list[int] = field(default_factory=list)
    unsure: set[int] = field(default_factory=set)
    combined: ItemsCombined | None = None

    @property
    def is_done(self) -> bool:
        """Whether every item is done, and the answers are merged if they are to be."""
        return not self.to_do() and bool(self.combined or not self.listed.combine)

    def to_do(self) -> list[int]:
        """The items that are missing or failed."""
        numbers = range(1, len(self.listed.items) + 1)
        return [number for number in numbers if number not in self.finished or not self.finished[number].is_done]

    def failed(self) -> list[int]:
        """The items that ended and are not done."""
        return [number for number in sorted(self.finished) if not self.finished[number].is_done]

    def finish(self, number: int, outcome: Outcome) -> None:
        self.finished[number] = outcome
        self.open.discard(number)
        self.now.append(number)
        if outcome.is_done:  # its own journal tells what became of the calls
            self.unsure.discard(number)
        self.combined = None

    def undo(self, undone: Collection[int] | None) -> bool:
        """What these items changed was put back, and what others did stands again; returns whether none of it does.

        None stands for all of them, or none if that had been put back.
        """
        changed = {number for number, each in self.finished.items() if each.changes}
        if undone is None:
            undone = changed if any(not self.finished[number].undone for number in changed) else ()
        self.finished.update({number: replace(self.finished[number], undone=number in undone) for number in changed})
        return bool(undone) and changed.issubset(undone)

    def go_on(self, *, earlier: Access) -> None:
        """The run goes on, after a part with that access."""
        if earlier == "write":
            self.unsure |= self.open
        self.open.clear()
        self.now.clear()


class Tally:
    """Adds up the events of a run, from its start or from where it last went on.

    `items` are the results of a run over many items, None for other runs.
    """

    def __init__(self, told: Iterable[Event] = ()) -> None:
        self.items: ItemResults | None = None
        self._task = ""
        self._access: Access = "write"
        self._made = _MadeCalls()
        self._begin()
        for event in told:
            self.add(event)

    def _begin(self) -> None:
        self.last_text = ""
        self._model = ""
        self.rounds = 0  # that are finished
        self._calls = 0
        self._usage = Usage()
        self._warnings: list[str] = []
        self._notes: list[str] = []
        self._needed_write: list[str] = []
        self._brief = 0
        self._kept: dict[tuple[str, str, str], int] = {}  # by server, tool and digest: the same call counts once
        self._started: dict[str, str] = {}
        self._not_started: dict[str, None] = {}
        self._checked = AnswerChecked((), (), "")
        self._files = FilesChanged("", ())
        self._undone = False
        self._end = RunFinished("failed", "", "The bridge ended before the run did.", 0.0)
        self._ended = False
        self._continued = False
        if self.items:
            self.items.go_on(earlier=self._access)

    def add(self, event: Event) -> None:
        match event:
            case Generating() | MessageAdded() | RoundStarted():  # the most frequent come first
                pass
            case CallStarted():
                self._made.start(event)
            case RunStarted(task=brief) | RunContinued(instructions=brief):
                was_undone = self._undone and not self._files.not_kept  # a mail cannot be put back
                self._begin()
                self._continued = isinstance(event, RunContinued)
                self._brief = len(brief) + OWN_TOOLS * event.is_first
                self._access = event.access
                self._made.end_open()
                if was_undone:
                    self._made.undo_writes()
                if brief or isinstance(event, RunStarted):  # else the same task goes on
                    self._task, self._made = brief, _MadeCalls()
                if isinstance(event, RunStarted):
                    self._task = event.template or brief
            case ModelChosen(model=model):
                self._model = model
            case RoundFinished():
                self.rounds = event.number  # a round that was asked again is still one
                self._model = event.model or self._model
                self._usage += event.usage or Usage()
                self.last_text = event.text or self.last_text
                self._made.begin_turn()
            case CallFinished(sent=sent):
                self._calls += sent
                self._made.add(event)
                if sent and not event.is_error:
                    self._kept[event.server, event.tool, ""] = event.definition
                    self._kept[event.server, event.tool, event.digest or event.call_id] = len(event.text)
                if event.verdict == "needs_write":
                    shown = f"{event.server} {event.tool}"
                    self._needed_write.append(f"{shown} ({event.about})" if event.about else shown)
            case Warned(text=text) | JournalCut(reason=text):
                self._warn(text)
            case Noticed(notice=Notice(kind="recovery", text=text)):
                self._warnings.append(text)
            case ServersChosen():
                self._started = dict(zip(event.started, event.reasons, strict=False))
                self._not_started = dict.fromkeys(event.left)
            case ServerReady(server=server):
                if server in self._not_started:
                    del self._not_started[server]
                    self._started[server] = "needed on the way"
            case ServerFailed(server=server, reason=reason):
                self._started.pop(server, None)
                self._not_started.pop(server, None)
                self._warn(f"MCP server {server} was left out: {reason}")
            case AnswerChecked():
                self._checked = event
            case FilesChanged(is_undo=True):
                self._undone ^= not event.is_partial
                if self.items:
                    self._undone = self.items.undo(event.undone)
            case FilesChanged():
                self._files = event
            case ItemsListed():
                self.items = ItemResults(event)
            case ItemStarted(number=number):
                if self.items:
                    self.items.open.add(number)
            case ItemFinished(number=number, outcome=outcome):
                if self.items:
                    self.items.finish(number, outcome)
                self._add_work(outcome)
                self._kept["", "", str(number)] = outcome.kept
            case ItemsCombined(outcome=outcome):
                if self.items and outcome:
                    self.items.combined = event if outcome.is_done else None
                    self._checked = AnswerChecked((), outcome.missing, "")
                    self._notes += outcome.notes
                    self._add_work(outcome)
            case RunFinished():
                self._made.end_open()
                self._end, self._ended = event, True
            case CallProgress() | RetryScheduled() | Noticed() | ResultsShrunk() | MessagesDropped() | ItemsProgress():
                pass
            case _:
                assert_never(event)

    def _add_work(self, outcome: Outcome) -> None:
        self._model = outcome.model or self._model
        self.rounds += outcome.rounds
        self._calls += outcome.calls
        self._usage += outcome.usage

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._notes.append(text)

    def outcome(self) -> Outcome:
        """What the events so far amount to; a run without its last event counts as failed."""
        made = self._made if self._ended else self._made.ended()
        asked = self._access == "write" and may_ask_for_change(self._task)
        nothing_changed = not self.items and (self._files.left_all() or made.changed_nothing(asked=asked))
        of_items = self.items.finished.values() if self.items else ()

        # A call may have been approved; and that nothing was changed says it, too.
        untrue = {READ_ONLY} if made.may_have_written else set()
        said = {READ_ONLY} if nothing_changed else set()
        return Outcome(
            stop=self._end.stop,
            answer=self._end.answer if self._ended else self.last_text,
            error=self._end.error,
            model=self._model,
            rounds=self.rounds,
            calls=self._calls,
            usage=self._usage,
            seconds=self._end.seconds,
            warnings=tuple(text for text in self._warnings if text not in untrue),
            needed_write=tuple(self._needed_write),
            sources=(*made.sources(), *dict.fromkeys(source for each in of_items for source in each.sources)),
            brief=self._brief,
            kept=sum(self._kept.values()),
            started=_with_reasons(self._started),
            not_started=tuple(self._not_started),
            rests_on=self._checked.sources,
            missing=self._checked.missing,
            coverage=self._checked.coverage,
            called=made.called(),
            failed=made.failed(),
            failed_writes=made.failed_writes(),
            nothing_changed=nothing_changed,
            notes=tuple(text for text in self._notes if text not in untrue | said),
            access=self._access,
            changes=(
                *self._files.changes,
                *(change for each in of_items if each.undone == self._undone for change in each.changes),
            ),
            not_kept=self._files.not_kept,
            undone=self._undone,
            continued=self._continued,
            outside=self._end.outside,
            gone=made.server_gone(),
        )


class _MadeCalls:
    """What became of the calls of a run: those that worked, and those that failed and were not made good."""

    def __init__(self) -> None:
        self._turn = 0
        self._worked: dict[tuple[str, str], list[str]] = {}  # by server and tool: what each call was about
        self._failed: dict[tuple[str, str, str], tuple[int, CallFinished]] = {}  # by server, tool and what it is about
        self._done: set[tuple[str, str, str]] = set()  # server, tool and digest of the arguments
        self._open: dict[str, CallStarted] = {}  # by id: sent, and without a result yet
        self._tried_to_write = False
        self.may_have_written = False

    def begin_turn(self) -> None:
        """The model has replied; the calls that follow are later than those before."""
        self._turn += 1

    def start(self, call: CallStarted) -> None:
        self._open[call.call_id] = call

    def end_open(self) -> None:
        """No more results come: calls that were to change something may have done it or not."""
        for call in list(self._open.values()):
            if call.writes is False or (call.writes is None and only_reads_by_name(call.tool)):
                continue
            self.add(
                CallFinished(
                    call.number,
                    call.call_id,
                    call.server,
                    call.tool,
                    "",
                    is_error=True,
                    sent=True,
                    seconds=0,
                    about=call.about,
                    writes=True,
                    reason="no result came",
                    is_lost=True,
                )
            )
        self._open.clear()

    def add(self, call: CallFinished) -> None:
        self._open.pop(call.call_id, None)
        if not call.sent and (call.server == OWN_SERVER or not call.is_error):
            return  # a tool of the bridge; a call that stands twice in a turn
        tool = (call.server, call.tool)
        self.may_have_written |= call.says_failed  # that is likely, and not certain
        if call.is_error or call.says_failed:
            self._tried_to_write |= bool(call.writes) or (call.writes is None and call.verdict == "needs_write")
            self.may_have_written |= call.is_lost and call.writes is not False
            if call.sent or (*tool, call.digest) not in self._done:  # else it was only made again
                self._failed.pop((*tool, call.about), None)
                self._failed[*tool, call.about] = self._turn, call
            return
        self.may_have_written |= call.writes is not False
        self._done.add((*tool, call.digest))
        self._worked.setdefault(tool, []).append(call.about)
        self._failed.pop((*tool, call.about), None)
        if self._failed:
            good = [key for key, (turn, failed) in self._failed.items() if turn < self._turn and _mends(call, failed)]
            for key in good:
                del self._failed[key]

    def undo_writes(self) -> None:
        """What the calls so far changed was put back."""
        self._tried_to_write |= self.may_have_written
        self.may_have_written = False

    def ended(self) -> _MadeCalls:
        """The same if no more results come."""
        copied = copy.deepcopy(self)
        copied.end_open()
        return copied

    def sources(self) -> tuple[str, ...]:
        """The tools of which a call worked, with their servers."""
        return tuple(f"{server} {tool}" for server, tool in self._worked)

    def called(self) -> tuple[str, ...]:
        """The calls that worked, grouped by tool."""
        return tuple(f"{self._name(*tool)} {_first_and_last(abouts)}".strip() for tool, abouts in self._worked.items())

    def failed(self) -> tuple[str, ...]:
        """The calls that were not made good, each in one line."""
        return tuple(
            f"{' '.join(part for part in (self._name(call.server, call.tool), quoted_name(call.about)) if part)}: "
            f"{_why(call)}"
            for _, call in self._failed.values()
        )

    def failed_writes(self) -> bool:
        """Whether one of those was to change something."""
        return any(call.writes for _, call in self._failed.values())

    def server_gone(self) -> str:
        """Why no call worked, if all that were sent failed because their server is gone; else ""."""
        sent = [call for _, call in self._failed.values() if call.sent]
        if self._worked or not all(call.is_server_gone for call in sent):
            return ""
        return next((_why(call) for call in sent), "")

    def changed_nothing(self, *, asked: bool) -> bool:
        """Whether no call can have changed anything, although one tried to or it was `asked` for."""
        return not self.may_have_written and (self._tried_to_write or asked)

    def _name(self, server: str, tool: str) -> str:
        """The tool's name, with its server's where several servers have a tool of that name."""
        servers = {key[0] for key in (*self._worked, *self._failed) if key[1] == tool}
        names = (server, tool) if len(servers) > 1 else (tool,)
        return shortened(" ".join(map(quoted_name, names)), _SHOWN_NAME)


def _mends(good: CallFinished, failed: CallFinished) -> bool:
    """Whether a call that worked in a later turn is what the failed one, which could not be sent, was meant to be."""
    if failed.rule == INVALID_ARGUMENTS:  # they may say something else first now
        return (good.server, good.tool) == (failed.server, failed.tool)
    if failed.rule == UNKNOWN_TOOL:
        return good.about == failed.about and (good.writes is True or only_reads_by_name(failed.tool))
    return failed.rule == UNREAD_FILE and good.about == failed.about and good.writes is True


def _why(call: CallFinished) -> str:
    if call.verdict == "needs_write":
        return "needs write access" + _UNAPPROVED.get(call.rule, "")
    reason = shortened(one_line(call.reason).rstrip("."), _SHOWN_REASON)
    reason = quoted_words(reason) if reason and call.sent and not call.is_lost else reason or "failed"
    return f"{reason} (it may have had effects)" if call.is_lost and call.writes else reason


def _first_and_last(abouts: Sequence[str]) -> str:
    """What the first and the last of these calls were about, after the number of all."""
    times = f"\N{MULTIPLICATION SIGN}{len(abouts)}" if len(abouts) > 1 else ""
    shown = list(dict.fromkeys(quoted_name(about) for about in (abouts[0], abouts[-1]) if about))
    between = " … " if len(abouts) > len(shown) else ", "
    return f"{times} ({between.join(shown)})".strip() if shown else times


def _with_reasons(started: Mapping[str, str]) -> tuple[str, ...]:
    """Servers and why they were started, for a reader; those with the same reason stand together."""
    names: dict[str, list[str]] = {}
    for server, reason in started.items():
        names.setdefault(reason, []).append(server)
    return tuple(f"{', '.join(same)} ({reason})" for reason, same in names.items())
