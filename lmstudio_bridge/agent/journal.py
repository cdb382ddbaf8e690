"""Events of a run → JSON lines on disk, and back. What happened can be rebuilt from the file alone.

One file a run, readable by its owner only, one event a line, written through at once, so that a
crash loses nothing that was told. Streamed pieces and progress are not kept.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeAlias, assert_never

from lmstudio_bridge.agent.event_lines import event_line, read_timed_events, redact_event
from lmstudio_bridge.errors import RunActiveError, SettingsError
from lmstudio_bridge.events import (
    CallFinished,
    CallProgress,
    CallStarted,
    Event,
    Generating,
    JournalCut,
    MessageAdded,
    MessagesDropped,
    ModelChosen,
    Noticed,
    Outcome,
    ResultsShrunk,
    RetryScheduled,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    ServerFailed,
    ServerReady,
    ServersChosen,
    Tally,
    Warned,
)

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

Keep: TypeAlias = Literal["off", "audit", "full"]
"""What of a run is kept: nothing; that something happened, but no text; all."""

MAX_BYTES = 64 * 1024 * 1024  # of one journal; a long run takes a tenth of it
_AUDIT_ONLY = "Only audit lines are kept of runs: LMSTUDIO_BRIDGE_JOURNAL is audit."
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class Journal:
    """An open journal; `path` is its file, if it has one. `trouble` says why it stopped to hold the whole run."""

    def __init__(
        self,
        path: Path,
        *,
        file: BinaryIO | None,
        level: Keep,
        redact: Callable[[str], str],
        clock: Callable[[], datetime],
        max_bytes: int,
    ) -> None:
        """It may have `max_bytes`; without a `file` it keeps nothing."""
        self.path = path
        self.trouble = ""
        self._file = file
        self._level = level
        self._redact = redact
        self._clock = clock
        self._room = max_bytes - (os.fstat(file.fileno()).st_size if file else 0)
        self._max_bytes = max_bytes

    def keep(self, event: Event) -> Event:
        """Write an event down; gives it back without secrets, as it may be told to others. Never raises."""
        event = redact_event(event, self._redact)
        if isinstance(event, Generating | CallProgress):
            return event
        if self.trouble and not isinstance(event, RunFinished):
            return event
        kept = audit_event(event) if self._level == "audit" else event
        if kept is not None:
            self._write(kept)
        return event

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        # A lone surrogate, which UTF-8 cannot say, becomes \udc80: as it happens, JSON's own word for it.
        line = event_line(event, at=self._clock()).encode("utf-8", "backslashreplace")
        self._room -= len(line)
        if self._room < 0 and not isinstance(event, RunFinished | JournalCut):
            reason = f"The journal reached its limit of {self._max_bytes:,} bytes; what came after is not in it."
            self._write(JournalCut(reason))
            self.trouble = reason
            return
        try:
            self._file.write(line)
            self._file.flush()
        except (OSError, ValueError) as exc:  # a full disk; a closed file; a sink must not raise
            self.trouble = f"The journal cannot be written any more: {exc}."
            logger.warning("the journal %s cannot be written: %s", self.path, exc)


@contextmanager
def open_journal(
    folder: Path,
    run_id: str,
    *,
    redact: Callable[[str], str],
    keep: Keep = "full",
    max_bytes: int = MAX_BYTES,
    now: Callable[[], datetime] | None = None,
) -> Iterator[Journal]:
    """A journal at `folder/<run_id>.jsonl`, with every text passed through `redact`.

    An earlier journal of the run is gone on with. The file is locked while it is open (not on
    Windows), so that two processes don't work on one run. A disk that fails later, or a file of more
    than `max_bytes`, ends the journal but for the run's last event, and never the run.

    Raises:
        SettingsError: The folder or the file cannot be made.
        RunActiveError: Somebody else has it open: the run is under way.
    """
    path = journal_path(folder, run_id)
    clock = now or (lambda: datetime.now(UTC))
    if keep == "off":
        yield Journal(path, file=None, level=keep, redact=redact, clock=clock, max_bytes=0)
        return
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        file = _open_locked(path, run_id)
    except OSError as exc:
        raise SettingsError(
            f"The journal of the run cannot be written: {exc}.",
            remedy="Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to, or LMSTUDIO_BRIDGE_JOURNAL=off.",
        ) from exc
    try:
        journal = Journal(path, file=file, level=keep, redact=redact, clock=clock, max_bytes=max_bytes)
        if os.fstat(file.fileno()).st_size and not _ends_in_newline(path):
            file.write(b"\n")  # a crash cut the last line; what comes now must not be lost with it
        if keep == "audit":
            journal.keep(JournalCut(_AUDIT_ONLY))
        yield journal
    finally:
        try:
            file.close()
        except OSError as exc:  # what a full disk did not take before, it does not take now
            logger.warning("the journal %s is not complete: %s", path, exc)


def audit_event(event: Event) -> Event | None:
    """What of an event says that something happened, and not what was said; None if nothing does."""
    match event:
        case RunStarted():
            return dataclasses.replace(event, task="")
        case RunContinued():
            return dataclasses.replace(event, instructions="")
        case RoundFinished():
            return dataclasses.replace(event, text="", reasoning="", calls=())
        case CallStarted():
            return dataclasses.replace(event, arguments="")
        case CallFinished():
            return dataclasses.replace(event, text="", about="")
        case ServerFailed():
            return dataclasses.replace(event, reason="")
        case RunFinished():
            return dataclasses.replace(event, answer="", error="")
        case ServersChosen(reasons=reasons):
            return dataclasses.replace(event, reasons=("",) * len(reasons))
        case ServerReady() | ModelChosen() | RoundStarted() | RetryScheduled() | JournalCut():
            return event
        case (
            MessageAdded() | MessagesDropped() | ResultsShrunk() | Noticed() | Warned() | Generating() | CallProgress()
        ):
            return None
        case _:
            assert_never(event)


def _open_locked(path: Path, run_id: str) -> BinaryIO:
    """The file, locked; another one if somebody deleted the first between opening and locking it."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _FILE_MODE)
        file = os.fdopen(descriptor, "ab")
        try:
            _lock(file, run_id)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(descriptor)):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def check_not_active(folder: Path, run_id: str) -> None:
    """Look whether somebody works on the run.

    Raises:
        RunActiveError: Somebody does.
        SettingsError: It is no run id.
    """
    with suppress(OSError), hold_journal(folder, run_id):
        pass


@contextmanager
def hold_journal(folder: Path, run_id: str) -> Iterator[Path]:
    """The file of a run, of which nobody else writes meanwhile.

    Raises:
        RunActiveError: Somebody works on the run.
        SettingsError: It is no run id.
        OSError: There is no such file, or it is not ours to write.
    """
    path = journal_path(folder, run_id)
    with path.open("r+", encoding="utf-8") as file:
        _lock(file, run_id)
        yield path


def delete_journal(folder: Path, run_id: str) -> bool:
    """Take a run's journal away for good; False where there is none.

    Raises:
        RunActiveError: The run is under way.
        SettingsError: It is no run id, or the file cannot be taken away.
    """
    path = journal_path(folder, run_id)
    if not path.is_file():
        return False
    check_not_active(folder, run_id)
    try:
        path.unlink()
    except FileNotFoundError:  # another bridge was faster
        return False
    except OSError as exc:
        raise SettingsError(
            f"The journal {path} can't be deleted: {exc.strerror}.", remedy="Look at its folder."
        ) from exc
    return True


def _lock(file: IO[Any], run_id: str) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise RunActiveError(
            f"Run {run_id} is still under way.", remedy="Ask for it again with continue_run when it has had time."
        ) from exc
    except OSError as exc:  # a file system without locks
        logger.debug("%s cannot be locked: %s", file.name, exc)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def journal_path(folder: Path, run_id: str) -> Path:
    """Where the journal of this run stands.

    Raises:
        SettingsError: It is no run id (and must not become a path).
    """
    if not _RUN_ID.fullmatch(run_id):
        raise SettingsError(f"Not a run id: {run_id[:80]!r}.", remedy="Copy it from the last line of a result.")
    return folder / f"{run_id}.jsonl"


def read_events(path: Path) -> list[Event]:
    """The events of a journal; lines that cannot be read (cut by a crash, or not ours) are passed over.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    return [each.event for each in read_timed_events(path)]


def rebuild_outcome(events: Iterable[Event]) -> Outcome:
    """How the run ended; "failed" where the journal has no end."""
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally.outcome()
