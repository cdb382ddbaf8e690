"""Events ↔ lines of JSON, each with the time at which it was written.

Events of a run → JSON lines on disk, and back. What happened can be rebuilt from the file alone.

One file a run, readable by its owner only, one event a line, written through at once, so that a
crash loses nothing that was told. Streamed pieces and progress are not kept.

Old journals go, so that their folder keeps within an age and a size.

Several bridges may do it at once, and the folder may hold files of others: only journals that nobody
has open are deleted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeAlias, assert_never, get_args, get_origin, get_type_hints

from lmstudio_bridge.errors import RunActiveError, SettingsError
from lmstudio_bridge.events import (
    AnswerChecked,
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
from lmstudio_bridge.messages import Image, Message, Notice, ToolCall, Usage

logger = logging.getLogger(__name__)

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(Event), *get_args(Message), Image, ToolCall, Usage, Notice)
}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}
_FIELDS = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in _KINDS.values()}


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and when it was told, with its time zone; None where the line does not say."""

    at: datetime | None
    event: Event


def event_line(event: Event, *, at: datetime) -> str:
    """The event as one line."""
    return _JSON.encode({"at": at.isoformat(timespec="milliseconds"), **_fields_of(event)}) + "\n"


def _fields_of(value: Any) -> dict[str, Any]:
    """An event, or a message or the like in one, as JSON."""
    if isinstance(value, Image):
        value = Image("", value.mime_type)  # megabytes that nobody would read
    kind = type(value)
    return {"type": kind.__name__, **{name: getattr(value, name) for name in _FIELDS[kind]}}


_JSON = json.JSONEncoder(ensure_ascii=False, default=_fields_of)  # made once: json.dumps makes one for each call


def read_timed_events(path: Path) -> list[TimedEvent]:
    """The events of a file; lines that cannot be read (cut by a crash, or not ours) are passed over.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    events: list[TimedEvent] = []
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))  # a pipe would be waited for
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
                event = _decode(value)
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                logger.warning("%s, line %d cannot be read: %s", path, number, exc)
                continue
            if isinstance(event, get_args(Event)):
                events.append(TimedEvent(_time(value.get("at")), event))
            else:
                logger.warning("%s, line %d is no event", path, number)
    return events


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None


def _decode(value: Any) -> Any:
    """The value that `_fields_of` wrote.

    Raises:
        KeyError, TypeError: It wrote no such value.
    """
    if isinstance(value, dict):
        kind = _KINDS[value["type"]]
        hints = _HINTS[value["type"]]
        fields = {name: _decode(item) for name, item in value.items() if name in hints}
        for name, item in fields.items():
            if not _fits(item, hints[name]):
                raise TypeError(f"{kind.__name__}.{name} cannot be {type(item).__name__}")
        return kind(**fields)
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is of the annotated type; the types are those that events and messages use."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:  # tuple[X, ...]
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if arguments:  # a union
        return any(_fits(value, each) for each in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


if sys.platform != "win32":
    import fcntl


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
        clock: Callable[[], datetime],
        max_bytes: int,
    ) -> None:
        """It may have `max_bytes`; without a `file` it keeps nothing."""
        self.path = path
        self.trouble = ""
        self._file = file
        self._level = level
        self._clock = clock
        self._room = max_bytes - (os.fstat(file.fileno()).st_size if file else 0)
        self._max_bytes = max_bytes

    def keep(self, event: Event) -> None:
        """Write an event, which must be without secrets. Never raises."""
        if isinstance(event, Generating | CallProgress):
            return
        if self.trouble and not isinstance(event, RunFinished):
            return
        kept = audit_event(event) if self._level == "audit" else event
        if kept is not None:
            self._write(kept)

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
    keep: Keep = "full",
    max_bytes: int = MAX_BYTES,
    now: Callable[[], datetime] | None = None,
) -> Iterator[Journal]:
    """A journal at `folder/<run_id>.jsonl`.

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
        yield Journal(path, file=None, level=keep, clock=clock, max_bytes=0)
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
        journal = Journal(path, file=file, level=keep, clock=clock, max_bytes=max_bytes)
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
            MessageAdded()
            | MessagesDropped()
            | ResultsShrunk()
            | Noticed()
            | Warned()
            | Generating()
            | CallProgress()
            | AnswerChecked()
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
            f"Run {run_id} is still in progress.", remedy="Ask for it again with continue_run when it has had time."
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


PAUSE = 60.0  # seconds in which nothing is pruned again: a look costs time for each journal that there is
MAX_FILES = 10_000  # that are looked at; a folder with more gets smaller by the next runs
_JOURNAL = re.compile(r"(\d{8}-\d{6}-[a-z0-9]{5})\.jsonl")  # what `new_run_id` gives; other files are not ours


class JournalPruner:
    """Prunes a folder for runs that begin, but not for each of many.

    `max_age` and `pause` are seconds. `clock` is monotonic, `now` gives seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_age: float,
        max_bytes: int,
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._pause = pause
        self._clock = clock
        self._now = now
        self._due = float("-inf")

    async def prune(self) -> None:
        """As `prune_journals`, unless somebody began with it less than a pause ago."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + self._pause
        await asyncio.to_thread(
            prune_journals, self._folder, max_age=self._max_age, max_bytes=self._max_bytes, now=self._now()
        )


def prune_journals(folder: Path, *, max_age: float, max_bytes: int, now: float, most: int = MAX_FILES) -> None:
    """Delete the journals that nobody wrote to for `max_age` seconds, then the oldest until all take `max_bytes`.

    `now` is seconds since the epoch. What cannot be read or deleted is let be.
    """
    journals = list_journals(folder, most=most)
    total = sum(size for _, size, _ in journals)
    for written, size, run_id in journals:
        if now - written <= max_age and total <= max_bytes:
            break
        if _delete(folder, run_id):
            total -= size


def list_journals(folder: Path, *, most: int = MAX_FILES) -> list[tuple[float, int, str]]:
    """When each was last written to (seconds since the epoch), its bytes, and its run; the oldest first."""
    journals: list[tuple[float, int, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, most):
            if (name := _JOURNAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # another bridge deletes it right now
                    found = entry.stat(follow_symlinks=False)
                    journals.append((found.st_mtime, found.st_size, name[1]))
    return sorted(journals)


def _delete(folder: Path, run_id: str) -> bool:
    try:
        with hold_journal(folder, run_id) as path:
            path.unlink()
    except (RunActiveError, OSError) as exc:
        logger.debug("the journal of run %s stays: %s", run_id, exc)
        return False
    return True
