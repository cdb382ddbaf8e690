"""Journals: the events of a run as JSON lines on disk, and back; what happened can be rebuilt from the file alone.

One file per run, readable by its owner only, one event per line with its time, flushed at once, so that a crash loses
nothing. Streamed pieces and progress are not kept. Old journals are deleted to keep their folder within an age and a
size; several bridges may do that at once, and only journals that nobody has open are deleted.

Beside an open journal lies a file that takes up room. If the journal can no longer be written, that file is renamed,
which needs no room and marks the run as not whole, and takes the end of the run. Such a run is never continued: the
calls that are missing would be made again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeAlias, get_args, get_origin, get_type_hints

from lmstudio_bridge import events
from lmstudio_bridge.errors import RunActiveError, SettingsError
from lmstudio_bridge.files import make_folder, open_own, open_private
from lmstudio_bridge.messages import Image, Message, Notice, ToolCall, Usage
from lmstudio_bridge.text import shortened

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

Keep: TypeAlias = Literal["off", "audit", "full"]
"""What a journal keeps: nothing; what happened, but no text; everything."""

MAX_BYTES = 64 * 1024 * 1024  # of one journal; a long run takes a tenth of it
MAX_FILES = 10_000  # looked at in one pruning; a larger folder gets smaller with the next ones
RESERVE = 64 * 1024  # bytes for the end of a run, if the journal cannot be written
_RESERVED, _END = ".reserve", ".end"  # the file with that room, and its name once the journal cannot be written
_SHORT_ANSWER, _SHORT_ERROR = 8_000, 1_000  # characters of answer and error that fit into it in any encoding
_LOCK_TRIES = 200  # a millisecond apart
PAUSE = 60.0  # seconds between two prunings: each reads the whole folder
AUDIT_ONLY = "Only audit lines are kept of runs: LMSTUDIO_BRIDGE_JOURNAL is audit."
NOTE_SUFFIX = ".before"
"""Of a file beside the copies: what a run that has not ended is about to change."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_JOURNAL = re.compile(r"(\d{8}-\d{6}-[a-z0-9]{5}(?:-\d{1,4})?)\.jsonl")  # as we name them; other files are not ours
_ITEM = re.compile(r".+-[a-z0-9]{5}-\d{1,4}")

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *get_args(events.Event),
        *get_args(Message),
        Image,
        ToolCall,
        Usage,
        Notice,
        events.FileChange,
        events.Outcome,
    )
}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and when it happened, with a time zone; None if the line has no valid time."""

    at: datetime | None
    event: events.Event


class Journal:
    """An open journal, at `path`. `trouble` says why it no longer holds the whole run; "" while it does."""

    def __init__(
        self, path: Path, *, file: BinaryIO | None, level: Keep, clock: Callable[[], datetime], max_bytes: int
    ) -> None:
        """`file` may grow to `max_bytes`; None keeps nothing."""
        self.path = path
        self.trouble = ""
        self._file = file
        self._level = level
        self._clock = clock
        self._room = max_bytes - (os.fstat(file.fileno()).st_size if file else 0)
        self._max_bytes = max_bytes
        self._end: Path | None = None  # where the end of the run is written, if not into the file

    def keep(self, event: events.Event) -> None:
        """Write an event, which must not hold secrets. Never raises."""
        if isinstance(event, events.Generating | events.CallProgress | events.ItemsProgress):
            return
        if self.trouble and not isinstance(event, events.RunFinished):
            return
        kept = _audit_event(event) if self._level == "audit" else event
        if kept is not None:
            self._write(kept)

    def _write(self, event: events.Event) -> None:
        if self._file is None:
            return
        line = self._line(event)
        if self._end is not None:
            self._write_end(event, line)
            return
        self._room -= len(line)
        if self._room < 0 and not isinstance(event, events.RunFinished | events.JournalCut):
            reason = f"The journal reached its limit of {self._max_bytes:,} bytes; what came after is not in it."
            self._write(events.JournalCut(reason))
            self.trouble = reason
            return
        try:
            self._file.write(line)
            self._file.flush()
        except ValueError as exc:  # it was closed
            logger.warning("the journal %s cannot be written: %s", self.path, exc)
        except OSError as exc:  # a full disk, for example, which may not end the run
            self.mark_cut(exc)
            if isinstance(event, events.RunFinished):
                self._write_end(event, line)

    def mark_cut(self, exc: OSError) -> None:
        """Mark on disk that the journal does not hold the whole run. Never raises."""
        self.trouble = f"The journal cannot be written any more: {exc}."
        logger.warning("the journal %s cannot be written: %s", self.path, exc)
        self._end = self.path.with_suffix(_END)
        try:
            self.path.with_suffix(_RESERVED).replace(self._end)
        except OSError as again:
            logger.warning("the journal %s cannot be marked as not whole: %s", self.path, again)
        self._write_end(None, self._line(events.JournalCut(self.trouble)))

    def _write_end(self, event: events.Event | None, line: bytes) -> None:
        """Write a line over the room that was kept, with less of an answer if there is no more room than that."""
        assert self._end is not None
        lines = [line]
        if isinstance(event, events.RunFinished):
            short = dataclasses.replace(
                event, answer=shortened(event.answer, _SHORT_ANSWER), error=shortened(event.error, _SHORT_ERROR)
            )
            lines.append(self._line(short))
        for each in lines:
            try:
                with open(self._end, "r+b", buffering=0, opener=open_own) as file:
                    used = len(file.read().rstrip(b"\n"))
                    file.seek(used + 1 if used else 0)
                    if file.write(each) == len(each):
                        return
                    file.seek(used)  # it fitted in part
                    file.write(b"\n" * len(each))
            except OSError as exc:
                logger.warning("the end of the journal %s cannot be written: %s", self.path, exc)

    def _line(self, event: events.Event) -> bytes:
        text = _JSON.encode({"at": self._clock().isoformat(timespec="milliseconds"), **_fields_of(event)})
        # A lone surrogate, which UTF-8 cannot encode, becomes \udc80, which is also JSON's escape for it.
        return f"{text}\n".encode("utf-8", "backslashreplace")


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

    An existing journal of the run is continued. The file is locked while it is open (not on Windows), so that
    two processes cannot work on the same run. If the disk fails later, or the file reaches `max_bytes`, only the
    run's last event is still written; the run goes on, but cannot be continued.

    Raises:
        SettingsError: The folder or the file cannot be created, or there is no room for the end of a run.
        RunActiveError: The run is in progress, maybe in another process.
    """
    path = journal_path(folder, run_id)
    clock = now or (lambda: datetime.now(UTC))
    if keep == "off":
        yield Journal(path, file=None, level=keep, clock=clock, max_bytes=0)
        return
    try:
        make_folder(folder)
        file = _open_locked(path, run_id)
        try:
            _reserve(path)
        except BaseException:
            file.close()
            raise
    except OSError as exc:
        raise SettingsError(
            f"The journal of the run cannot be written: {exc}.",
            remedy="Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to, or LMSTUDIO_BRIDGE_JOURNAL=off.",
        ) from exc
    journal = Journal(path, file=file, level=keep, clock=clock, max_bytes=max_bytes)
    try:
        if os.fstat(file.fileno()).st_size and not _ends_in_newline(path):
            file.write(b"\n")  # a crash cut the last line; the next one must not be lost with it
        if keep == "audit":
            journal.keep(events.JournalCut(AUDIT_ONLY))
        yield journal
    finally:
        try:
            file.close()
        except OSError as exc:  # a full disk: what is buffered cannot be written now either
            if not journal.trouble:
                journal.mark_cut(exc)
        with suppress(OSError):
            path.with_suffix(_RESERVED).unlink(missing_ok=True)


def read_timed_events(path: Path, *, lines: int | None = None) -> list[TimedEvent]:
    """The events of a journal with their times; unreadable lines are skipped.

    `JournalCut` stands where a line is missing, unless a crash cut it: the last one, or one before `RunContinued`.
    With `lines`, only so many are read, without the end of a run that could not be written.

    Raises:
        OSError: The file does not exist, or cannot be read.
    """
    found: list[TimedEvent] = []
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))  # a pipe would block
    missing = 0  # the number of a line
    with open(path, encoding="utf-8", errors="replace", opener=open_own) as file:
        for number, line in enumerate(islice(file, lines), start=1):
            try:
                value = json.loads(line) if line.strip() else {"type": ""}
                event = _decode(value) if value["type"] in _KINDS else None  # other versions know other kinds
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                logger.warning("%s, line %d cannot be read: %s", path, number, exc)
                missing = missing or number
                continue
            if not isinstance(event, get_args(events.Event)):
                logger.debug("%s, line %d is not an event", path, number)
                continue
            if missing and not isinstance(event, events.RunContinued):
                found.append(TimedEvent(None, events.JournalCut(f"Line {missing} of its journal cannot be read.")))
            missing = 0
            found.append(TimedEvent(_time(value.get("at")), event))
    if lines is None and path.suffix != _END and (end := path.with_suffix(_END)).is_file():
        not_whole = TimedEvent(None, events.JournalCut("Its journal could not be written to its end."))
        found += read_timed_events(end) or [not_whole]
    return found


def read_events(path: Path) -> list[events.Event]:
    """The events of a journal, as `read_timed_events`.

    Raises:
        OSError: The file does not exist, or cannot be read.
    """
    return [each.event for each in read_timed_events(path)]


def journal_path(folder: Path, run_id: str) -> Path:
    """The file of a run's journal.

    Raises:
        SettingsError: The run id is invalid (and must not become a path).
    """
    if not _RUN_ID.fullmatch(run_id):
        raise SettingsError(f"Not a run id: {run_id[:80]!r}.", remedy="Copy it from the last line of a result.")
    return folder / f"{run_id}.jsonl"


def item_run_id(run_id: str, number: int) -> str:
    """The id of the run of one item of a run over many; `number` counts from 1."""
    return f"{run_id}-{number}"


def is_item_run(run_id: str) -> bool:
    """Whether it is the id of the run of one item, of which its parent tells."""
    return _ITEM.fullmatch(run_id) is not None


def copies_folder(folder: Path, run_id: str) -> Path:
    """The folder beside a run's journal with copies of the files that it changed; it goes when the journal goes.

    Raises:
        SettingsError: The run id is invalid.
    """
    return journal_path(folder, run_id).with_suffix(".files")


def check_not_active(folder: Path, run_id: str) -> None:
    """Check that the run is not in progress.

    Raises:
        RunActiveError: It is, maybe in another process.
        SettingsError: The run id is invalid.
    """
    if is_active(folder, run_id):
        raise _active(run_id)


def is_active(folder: Path, run_id: str) -> bool:
    """Whether the run is in progress, maybe in another process; never so on Windows, where journals are not locked.

    Raises:
        SettingsError: The run id is invalid.
    """
    if sys.platform == "win32":
        return False
    try:
        with journal_path(folder, run_id).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who ask do not see each other
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or a file system without locks
        return False
    return False


@contextmanager
def hold_journal(folder: Path, run_id: str) -> Iterator[Path]:
    """The file of a run, locked against writers for the duration of the block.

    Raises:
        RunActiveError: The run is in progress.
        SettingsError: The run id is invalid.
        OSError: The file does not exist, or cannot be written.
    """
    path = journal_path(folder, run_id)
    with open(path, "r+", encoding="utf-8", opener=open_own) as file:
        _lock(file, run_id)
        yield path


def delete_journal(folder: Path, run_id: str) -> bool:
    """Delete a run's journal, and those of its items; False if there is none.

    Raises:
        RunActiveError: The run is in progress.
        SettingsError: The run id is invalid, or the file cannot be deleted.
    """
    path = journal_path(folder, run_id)
    if not path.is_file():
        return False
    check_not_active(folder, run_id)
    if not is_item_run(run_id):
        for item in folder.glob(f"{run_id}-*.jsonl"):
            delete_journal(folder, item.stem)
    try:
        _remove_others(folder, run_id)
        path.unlink()
    except FileNotFoundError:  # another bridge was faster
        return False
    except OSError as exc:
        raise SettingsError(
            f"The journal {path} can't be deleted: {exc.strerror}.", remedy="Check the permissions of its folder."
        ) from exc
    return True


def list_journals(folder: Path, *, most: int = MAX_FILES) -> list[tuple[float, int, str]]:
    """When each journal was last written to (seconds since the epoch), its bytes, and its run id; oldest first.

    The bytes are with the copies of files.
    """
    journals: list[tuple[float, int, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, most):
            if (name := _JOURNAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # another bridge is deleting it
                    found = entry.stat(follow_symlinks=False)
                    journals.append((found.st_mtime, found.st_size + _copied_bytes(folder, name[1]), name[1]))
    return sorted(journals)


class JournalPruner:
    """Prunes a folder when runs start, at most once per pause.

    `max_age` is seconds. `clock` is monotonic, `now` gives seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_age: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._prune = partial(prune_journals, folder, max_age=max_age, max_bytes=max_bytes)
        self._clock = clock
        self._now = now
        self._due = float("-inf")

    async def prune(self) -> None:
        """As `prune_journals`; does nothing within a pause after the last time."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + PAUSE
        await asyncio.to_thread(self._prune, now=self._now())


def prune_journals(folder: Path, *, max_age: float, max_bytes: int, now: float, most: int = MAX_FILES) -> None:
    """Delete journals not written to for `max_age` seconds, then the oldest until the rest takes at most `max_bytes`.

    `now` is seconds since the epoch. Files that cannot be read or deleted are skipped.
    """
    journals = list_journals(folder, most=most)
    total = sum(size for _, size, _ in journals)
    for written, size, run_id in journals:
        if now - written <= max_age and total <= max_bytes:
            break
        if _delete(folder, run_id):
            total -= size


_TEXTS: Mapping[type, Mapping[str, Any]] = {
    events.RunStarted: {"task": "", "template": ""},
    events.RunContinued: {"instructions": ""},
    events.RoundFinished: {"text": "", "reasoning": "", "calls": ()},
    events.CallStarted: {"arguments": "", "about": ""},
    events.CallFinished: {"text": "", "about": "", "reason": ""},
    events.ServerFailed: {"reason": ""},
    events.RunFinished: {"answer": "", "error": ""},
    events.FilesChanged: {"folder": "", "not_kept": ()},
    events.ItemsListed: {"source": "", "output_schema": "", "combine": "", "combine_schema": ""},
}
_NO_TEXTS: tuple[type, ...] = (
    *(events.ServersChosen, events.ServerReady, events.ModelChosen, events.RoundStarted, events.RetryScheduled),
    *(events.JournalCut, events.ItemStarted, events.ItemFinished, events.ItemsCombined),
)
"""What an audit journal keeps: these, and others without these fields. The rest is all text."""


def _audit_event(event: events.Event) -> events.Event | None:
    """The event without any text of the run; None if nothing is left."""
    if type(event) not in _TEXTS and not isinstance(event, _NO_TEXTS):
        return None
    kept = dataclasses.replace(event, **_TEXTS.get(type(event), {}))
    match kept:
        case events.ServersChosen(reasons=reasons):
            return dataclasses.replace(kept, reasons=("",) * len(reasons))
        case events.FilesChanged(changes=changes):
            counted = (
                events.FileChange("", each.kind, added=each.added, removed=each.removed, kept=False) for each in changes
            )
            return dataclasses.replace(kept, changes=tuple(counted))
        case events.ItemsListed(items=items):
            return dataclasses.replace(kept, items=("",) * len(items))
        case events.ItemFinished(outcome=ended):
            return dataclasses.replace(kept, outcome=_figures(ended))
        case events.ItemsCombined(outcome=events.Outcome() as merged):
            return dataclasses.replace(kept, outcome=_figures(merged))
        case _:
            return kept


def _figures(ended: events.Outcome) -> events.Outcome:
    """How a run ended, without any of its text."""
    return events.Outcome(
        ended.stop,
        model=ended.model,
        rounds=ended.rounds,
        calls=ended.calls,
        usage=ended.usage,
        seconds=ended.seconds,
        failed_writes=ended.failed_writes,
        nothing_changed=ended.nothing_changed,
    )


def _fields_of(value: Any) -> dict[str, Any]:
    """An event, or a message or the like in one, as JSON."""
    if isinstance(value, Image):
        value = Image("", value.mime_type)  # megabytes that nobody reads again
    kind = type(value).__name__
    return {"type": kind, **{name: getattr(value, name) for name in _HINTS[kind]}}


_JSON = json.JSONEncoder(ensure_ascii=False, default=_fields_of)  # json.dumps would make one for each call


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None


def _decode(value: Any) -> Any:
    """The value that `_fields_of` wrote.

    Raises:
        KeyError, TypeError: The value is not such JSON.
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
    """Whether the value is of the annotated type; knows the types that events and messages use."""
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


def _open_locked(path: Path, run_id: str) -> BinaryIO:
    """The file, locked; opened again if it was deleted between opening and locking."""
    while True:
        opener = (
            open_private if path.is_char_device() else open_own
        )  # a link to a device, such as /dev/null, harms none
        file = os.fdopen(opener(os.fspath(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
        try:
            _lock(file, run_id)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[Any], run_id: str) -> None:
    if sys.platform == "win32":
        return
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            try:  # it is in progress, unless only `is_active` has it, which takes microseconds
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _active(run_id) from exc
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as exc:  # a file system without locks
            logger.debug("%s cannot be locked: %s", file.name, exc)
            return
        time.sleep(0.001)
    raise _active(run_id)


def _active(run_id: str) -> RunActiveError:
    return RunActiveError(f"Run {run_id} is still running.", remedy="Try again when it has ended.")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _delete(folder: Path, run_id: str) -> bool:
    try:
        with hold_journal(folder, run_id) as path:
            _remove_others(folder, run_id)
            path.unlink()
    except (RunActiveError, OSError) as exc:
        logger.debug("the journal of run %s was not deleted: %s", run_id, exc)
        return False
    return True


def _reserve(path: Path) -> None:
    """Take up the room for the end of a run; zeros would be none on some file systems."""
    reserved = path.with_suffix(_RESERVED)
    try:
        with open(reserved, "wb", opener=open_own) as file:
            file.write(b"\n" * RESERVE)
    except OSError:
        reserved.unlink(missing_ok=True)
        raise


def _remove_others(folder: Path, run_id: str) -> None:
    """Remove what lies beside a journal."""
    for suffix in (_RESERVED, _END, NOTE_SUFFIX):
        journal_path(folder, run_id).with_suffix(suffix).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(copies_folder(folder, run_id))


def _copied_bytes(folder: Path, run_id: str) -> int:
    with suppress(OSError), os.scandir(copies_folder(folder, run_id)) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return 0
