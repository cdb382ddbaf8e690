"""Stored runs, read from their journals: finding them, their outcome, and how to continue their conversation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.prompts import GO_ON, GOING_ON, MAY_HAVE_HAPPENED, NOT_RUN
from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    JournalCut,
    MessageAdded,
    MessagesDropped,
    Outcome,
    ResultsShrunk,
    RunContinued,
    RunFinished,
    RunStarted,
)
from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from lmstudio_bridge.runs.journal import journal_path, read_events, rebuild_outcome

MAX_RUNS = 50  # the newest ones, in a list of runs


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as its journal describes it; `finished` is False if the bridge stopped before the run ended."""

    run_id: str
    task: str
    servers: tuple[str, ...]
    started_at: str
    outcome: Outcome
    finished: bool
    events: tuple[Event, ...]
    cut: str = ""  # why the journal does not hold the whole run


def read_run(folder: Path, run_id: str) -> StoredRun:
    """The stored run with this id.

    Raises:
        RunNotFoundError: There is no journal of it, or its first event is missing.
        SettingsError: The run id is invalid.
    """
    path = journal_path(folder, run_id)
    try:
        events = read_events(path)
    except OSError as exc:
        raise RunNotFoundError(
            f"There is no run {run_id} (no journal {path}).",
            remedy="Copy the id from the last line of a result, or read the resource lmstudio://runs.",
        ) from exc
    start = next((event for event in events if isinstance(event, RunStarted)), None)
    if start is None:
        raise RunNotFoundError(
            f"The journal of run {run_id} does not say what the run was ({path}).", remedy="Start the task anew."
        )
    begins = [number for number, event in enumerate(events) if isinstance(event, RunStarted | RunContinued)]
    finished = any(isinstance(event, RunFinished) for event in events[begins[-1] :])
    cut = next((event.reason for event in events if isinstance(event, JournalCut)), "")
    return StoredRun(
        run_id, start.task, start.servers, start.started_at, rebuild_outcome(events), finished, tuple(events), cut
    )


def find_run(folder: Path, name: str) -> StoredRun:
    """The run of that id; "last" is the newest one.

    Raises:
        RunNotFoundError: There is none.
        SettingsError: It is no run id.
    """
    if name != "last":
        return read_run(folder, name)
    run = next(iter(newest_runs(folder, most=MAX_RUNS)), None)
    if run is None:
        raise RunNotFoundError(f"There are no runs in {folder}.", remedy="Do one first: lmstudio-bridge run …")
    return run


def newest_runs(folder: Path, *, most: int) -> Iterable[StoredRun]:
    """The newest runs whose journals can be read, newest first."""
    paths = sorted(folder.glob("*.jsonl"), key=_recency, reverse=True) if folder.is_dir() else []
    for path in paths[:most]:
        try:
            yield read_run(folder, path.stem)
        except BridgeError:
            continue


def _recency(journal: Path) -> tuple[str, int, str]:
    """Greater for a newer run. A name tells the second; of the runs of one, that which was written to last is newer."""
    try:
        written = journal.stat().st_mtime_ns
    except OSError:  # another bridge deletes it right now
        written = 0
    return journal.name[: len("yyyymmdd-hhmmss")], written, journal.name


def rebuild_conversation(run: StoredRun) -> Conversation:
    """The conversation as far as the journal has it; empty if the run ended before its first message.

    Raises:
        RunNotFoundError: The journal is incomplete or damaged.
    """
    if run.cut:
        raise RunNotFoundError(f"Run {run.run_id} cannot be continued: {run.cut}", remedy="Start the task anew.")
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
            f"The journal of run {run.run_id} is damaged: {exc}.", remedy="Start the task anew."
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
