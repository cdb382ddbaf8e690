"""Events of a run → JSON lines on disk, and back. What happened can be rebuilt from the file alone.

One file a run, readable by its owner only, one event a line, written through at once, so that a
crash loses nothing that was told. Streamed pieces and progress are not kept.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO, get_args, get_origin, get_type_hints

from lmstudio_bridge.errors import RunActiveError, SettingsError
from lmstudio_bridge.events import CallProgress, Emit, Event, Generating, Outcome, Phase, Stop, Tally, Verdict
from lmstudio_bridge.messages import Image, Message, Notice, ToolCall, Usage
from lmstudio_bridge.request import Access

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(Event), *get_args(Message), Image, ToolCall, Usage, Notice)
}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}
# A secret that is such a word must not spoil the journal.
_OUR_WORDS = frozenset((*get_args(Stop), *get_args(Phase), *get_args(Verdict), *get_args(Access)))
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Journal:
    """An open journal; `path` is its file."""

    path: Path
    emit: Emit


@contextmanager
def open_journal(
    folder: Path, run_id: str, *, redact: Callable[[str], str], now: Callable[[], datetime] | None = None
) -> Iterator[Journal]:
    """A sink that writes `folder/<run_id>.jsonl`, with every text passed through `redact`.

    An earlier journal of the run is gone on with. The file is locked while it is open (not on
    Windows), so that two processes don't work on one run. A disk that fails later ends the journal
    with a log line, never the run.

    Raises:
        SettingsError: The folder or the file cannot be made.
        RunActiveError: Somebody else has it open: the run is under way.
    """
    path = journal_path(folder, run_id)
    clock = now or (lambda: datetime.now(UTC))
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        # A lone surrogate, which UTF-8 cannot say, becomes \udc80: as it happens, JSON's own word for it.
        file = os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _FILE_MODE),
            "a",
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as exc:
        raise SettingsError(
            f"The journal of the run cannot be written: {exc}.",
            remedy="Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to.",
        ) from exc
    try:
        _lock(file, run_id)
        if not _ends_in_newline(path):
            file.write("\n")  # a crash cut the last line; what comes now must not be lost with it
        yield Journal(path, _sink(file, path, redact, clock))
    finally:
        try:
            file.close()
        except OSError as exc:  # what a full disk did not take before, it does not take now
            logger.warning("the journal %s is not complete: %s", path, exc)


def _sink(file: TextIO, path: Path, redact: Callable[[str], str], clock: Callable[[], datetime]) -> Emit:
    failed = False

    async def emit(event: Event) -> None:
        nonlocal failed
        if failed or isinstance(event, Generating | CallProgress):
            return
        line = {"at": clock().isoformat(timespec="milliseconds"), **_encode(event, redact)}
        try:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
        except (OSError, ValueError) as exc:  # a full disk; a closed file; a sink must not raise
            failed = True
            logger.warning("the journal %s cannot be written: %s", path, exc)

    return emit


def check_not_active(folder: Path, run_id: str) -> None:
    """Look whether somebody works on the run.

    Raises:
        RunActiveError: Somebody does.
        SettingsError: It is no run id.
    """
    with suppress(OSError), journal_path(folder, run_id).open("a", encoding="utf-8") as file:
        _lock(file, run_id)


def _lock(file: TextIO, run_id: str) -> None:
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
        size = file.seek(0, os.SEEK_END)
        if not size:
            return True
        file.seek(size - 1)
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
    events: list[Event] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                event = _decode(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                logger.warning("%s, line %d cannot be read: %s", path, number, exc)
                continue
            if isinstance(event, get_args(Event)):
                events.append(event)
            else:
                logger.warning("%s, line %d is no event", path, number)
    return events


def rebuild_outcome(events: Iterable[Event]) -> Outcome:
    """How the run ended; "failed" where the journal has no end."""
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally.outcome()


def _encode(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, Image):
        value = Image("", value.mime_type)  # megabytes that nobody would read
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encode(getattr(value, field.name), redact) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, str):
        return value if value in _OUR_WORDS else redact(value)
    if isinstance(value, tuple):
        return [_encode(item, redact) for item in value]
    return value


def _decode(value: Any) -> Any:
    """The value that `_encode` wrote.

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
