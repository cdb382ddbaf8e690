"""Stored runs, read from their journals: finding them, their outcome, and how to continue their conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.prompts import GO_ON, GOING_ON, MAY_HAVE_HAPPENED, NOT_RUN
from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    ItemResults,
    JournalCut,
    MessageAdded,
    MessagesDropped,
    Outcome,
    ResultsShrunk,
    RunContinued,
    RunFinished,
    RunStarted,
    State,
    Tally,
)
from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from lmstudio_bridge.runs import journal
from lmstudio_bridge.text import first_line, local_time

MAX_RUNS = 50  # the newest ones, in a list of runs
LAST = "last"  # in place of a run id
_FIRST_LINES = 2  # of a journal: one that keeps no text says so first
_SHORT_ID = re.compile(r"[a-z0-9]{5}(-\d{1,4})?")  # the last part of a run id
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as its journal describes it.

    If it is not `finished`, it is `running` now, or the bridge stopped before the run ended. `began` is when it was
    started or continued last, `written` when its last event happened.
    """

    run_id: str
    task: str
    servers: tuple[str, ...]
    started_at: str
    outcome: Outcome
    finished: bool
    events: tuple[Event, ...]
    cut: str = ""  # why the journal does not hold the whole run
    project: str = ""  # the folder for which it works; "" in journals of earlier versions
    running: bool = False
    began: datetime = _NEVER
    written: datetime = _NEVER
    items: ItemResults | None = None  # of a run over many

    @property
    def state(self) -> State:
        """How it ended, "running", or "interrupted"."""
        if self.finished:
            return self.outcome.stop
        return "running" if self.running else "interrupted"

    @property
    def time(self) -> str:
        """When it was started, in local time."""
        return local_time(self.started_at)


def read_run(folder: Path, run_id: str) -> StoredRun:
    """The stored run with this id.

    Raises:
        RunNotFoundError: There is no journal of it, or its first event is missing.
        SettingsError: The run id is invalid.
    """
    path = journal.journal_path(folder, run_id)
    try:
        timed = journal.read_timed_events(path)
        began, finished = _last_part(timed)
        running = not finished and journal.is_active(folder, run_id)
        if not finished and not running:  # it may have ended between the two
            timed = journal.read_timed_events(path)
            began, finished = _last_part(timed)
    except OSError as exc:
        raise RunNotFoundError(
            f"There is no run {run_id} (no journal {path}).",
            remedy="Copy the id from the last line of a result, or read the resource lmstudio://runs.",
        ) from exc
    events = [each.event for each in timed]
    start = next((event for event in events if isinstance(event, RunStarted)), None)
    if start is None:
        raise RunNotFoundError(
            f"The journal of run {run_id} does not say what the run was ({path}).", remedy="Start the task again."
        )
    tally = Tally(events)
    outcome = tally.outcome()
    cut = next((event.reason for event in events if isinstance(event, JournalCut)), "")
    if cut not in ("", journal.AUDIT_ONLY):  # calls may be missing
        outcome = replace(outcome, nothing_changed=False)
    return StoredRun(
        run_id,
        start.task,
        start.servers,
        start.started_at,
        replace(outcome, error="") if running else outcome,
        finished,
        tuple(events),
        cut,
        start.project,
        running,
        began,
        max((each.at for each in timed if each.at), default=_NEVER),
        tally.items,
    )


def _last_part(timed: Sequence[journal.TimedEvent]) -> tuple[datetime, bool]:
    """When a run was started or continued last, and whether it has ended since."""
    began, finished = _NEVER, False
    for each in timed:
        if isinstance(each.event, RunStarted | RunContinued):
            began, finished = each.at or _NEVER, False
        elif isinstance(each.event, RunFinished):
            finished = True
    return began, finished


def find_run(folder: Path, name: str) -> StoredRun:
    """The run that a person names in a shell: by its id, by the last part of that, or as "last", the newest one.

    "last-7" is the run of its seventh item.

    Raises:
        RunNotFoundError: There is none, or several have that last part.
        SettingsError: It is not a run id.
    """
    last, _, item = name.partition("-")
    if last != LAST:
        run_id = full_run_id(folder, name)
        if not journal.journal_path(folder, run_id).exists():
            raise RunNotFoundError(f"There is no run {name} in {folder}.", remedy="To list runs: lmstudio-bridge runs")
        return read_run(folder, run_id)
    run = next(iter(newest_runs(folder, most=MAX_RUNS)), None)
    if run is None:
        raise RunNotFoundError(f"There are no runs in {folder}.", remedy="Run a task first: lmstudio-bridge run …")
    return find_run(folder, f"{run.run_id}-{item}") if item else run


def worked_calls(events: Iterable[Event]) -> tuple[str, ...]:
    """The arguments of the calls that worked, as JSON."""
    arguments: dict[str, str] = {}
    worked: list[str] = []
    for event in events:
        if isinstance(event, CallStarted):
            arguments[event.call_id] = event.arguments
        elif isinstance(event, CallFinished) and event.sent and not event.is_error and event.call_id in arguments:
            worked.append(arguments[event.call_id])
    return tuple(worked)


def full_run_id(folder: Path, name: str) -> str:
    """The id of the run whose id ends in this last part; the name as it is where there is none.

    Raises:
        RunNotFoundError: Several runs have that last part.
    """
    found = sorted(folder.glob(f"*-{name}.jsonl")) if _SHORT_ID.fullmatch(name) else []
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise RunNotFoundError(f"Several runs end in {name}: {names}.", remedy="Name one of them in full.")
    return found[0].stem if found else name


def find_last_run(folder: Path, *, project: str) -> StoredRun:
    """The run of a project that was started or continued last.

    Raises:
        RunNotFoundError: There is none, or others were in progress at the same time; the message lists them.
    """
    runs = [run for run in newest_runs(folder, most=MAX_RUNS, first=project) if run.project == project]
    if not runs:
        raise RunNotFoundError(
            "There is no earlier run of this project.", remedy="The resource lmstudio://runs lists all runs."
        )
    last = max(runs, key=lambda run: run.began)
    candidates = [run for run in runs if run is last or run.written >= last.began]
    if len(candidates) > 1:
        lines = [f"- {run.run_id} ({run.state}, {run.time}): {first_line(run.task)}" for run in candidates]
        raise RunNotFoundError(
            "\n".join(["Several runs were in progress at the same time:", *lines]),
            remedy="Say with run_id which one is meant.",
        )
    return last


def newest_runs(folder: Path, *, most: int, first: str | None = None) -> Iterable[StoredRun]:
    """The newest runs whose journals can be read, newest first; but those of the project `first` before all others."""
    journals = _newest_journals(folder)
    if first is not None:
        own = {path for path, start in _starts(journals) if start.project == first}
        journals.sort(key=lambda path: path not in own)
    for path in journals[:most]:
        try:
            yield read_run(folder, path.stem)
        except BridgeError:
            continue


def running_runs(folder: Path) -> Iterator[StoredRun]:
    """Those of the newest runs that are in progress, newest first; no other journal is read. None on Windows."""
    for path in _newest_journals(folder)[:MAX_RUNS]:
        with suppress(BridgeError):
            if journal.is_active(folder, path.stem) and (run := read_run(folder, path.stem)).running:
                yield run


def newest_starts(folder: Path, *, project: str, most: int) -> list[RunStarted]:
    """How the newest runs of a project began, newest first; of each journal, only the first lines are read."""
    starts = (start for _, start in _starts(_newest_journals(folder)) if start.project == project)
    return list(islice(starts, most))


def _starts(journals: Iterable[Path]) -> Iterator[tuple[Path, RunStarted]]:
    for path in journals:
        with suppress(OSError):
            events = [each.event for each in journal.read_timed_events(path, lines=_FIRST_LINES)]
            yield from ((path, each) for each in events if isinstance(each, RunStarted))


def _newest_journals(folder: Path) -> list[Path]:
    """Those of runs, not of single items."""
    paths = folder.glob("*.jsonl") if folder.is_dir() else ()
    return sorted((path for path in paths if not journal.is_item_run(path.stem)), key=_recency, reverse=True)


def _recency(path: Path) -> tuple[str, int, str]:
    """Greater for a newer run. A name tells the second; of the runs of one, that which was written to last is newer."""
    try:
        written = path.stat().st_mtime_ns
    except OSError:  # another bridge deletes it right now
        written = 0
    return path.name[: len("yyyymmdd-hhmmss")], written, path.name


def item_runs(folder: Path, run: StoredRun) -> list[StoredRun]:
    """The runs of the items of a run over many, as far as their journals can be read; none for other runs."""
    found: list[StoredRun] = []
    for number in range(1, len(run.items.listed.items) + 1 if run.items else 1):
        with suppress(RunNotFoundError):
            found.append(read_run(folder, journal.item_run_id(run.run_id, number)))
    return found


def check_whole(run: StoredRun) -> None:
    """Check that the journal holds all of the run.

    Raises:
        RunNotFoundError: It does not.
    """
    if run.cut:
        raise RunNotFoundError(
            f"Run {run.run_id} cannot be continued: {run.cut}",
            remedy="Check what it has already changed before you start the task again.",
        )


def rebuild_conversation(run: StoredRun) -> Conversation:
    """The conversation as far as the journal has it; empty if the run ended before its first message.

    Raises:
        RunNotFoundError: The journal is incomplete or damaged.
    """
    check_whole(run)
    conversation = Conversation(())
    try:
        for event in run.events:
            if isinstance(event, MessageAdded):
                conversation.add(event.message)
            elif isinstance(event, ResultsShrunk):
                for place, text in zip(event.places, event.texts, strict=True):
                    conversation.replace_result(place, text)
            elif isinstance(event, MessagesDropped):
                conversation.drop_last(event.count)
    except ValueError as exc:
        raise RunNotFoundError(
            f"The journal of run {run.run_id} is damaged: {exc}.", remedy="Start the task again."
        ) from exc
    return conversation


def continuation(run: StoredRun, conversation: Conversation, *, instructions: str) -> tuple[Message, ...]:
    """The messages to add so that a conversation with at least one message can continue.

    A call that was in progress when the bridge stopped is not repeated; the model is told that it may have happened.
    """
    added: list[Message] = [ToolMessage(call_id, _fate(run.events, call_id)) for call_id in conversation.open_calls()]
    last: Message = added[-1] if added else conversation.messages[-1]
    match last:
        case SystemMessage():  # the bridge stopped between the first two messages
            return (UserMessage("\n\n".join(part for part in (run.task, instructions) if part)),)
        case UserMessage() if not instructions:
            return tuple(added)  # the model had not replied yet
        case AssistantMessage(calls=()):
            pass
        case _:
            added.append(AssistantMessage(GOING_ON))  # strict templates want user and assistant in turn
    return (*added, UserMessage(instructions or GO_ON))


def _fate(events: Sequence[Event], call_id: str) -> str:
    """The result to add for a call that has none in the conversation."""
    for event in reversed(events):
        if isinstance(event, CallFinished) and event.call_id == call_id:
            return event.text
        if isinstance(event, CallStarted) and event.call_id.partition(".")[0] == call_id:
            return MAY_HAVE_HAPPENED  # also where it is a call that a composite tool made
        if isinstance(event, MessageAdded) and isinstance(event.message, AssistantMessage) and event.message.calls:
            break  # the turn that made the call; events before it are about other calls
    return NOT_RUN
