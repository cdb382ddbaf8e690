"""Events ↔ lines of JSON, each with the time at which it was written; and events without the secrets in them."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from lmstudio_bridge.events import Event
from lmstudio_bridge.messages import Image, Message, Notice, ToolCall, Usage

logger = logging.getLogger(__name__)

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(Event), *get_args(Message), Image, ToolCall, Usage, Notice)
}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}
_FIELDS = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in _KINDS.values()}


def _may_hold_text(hint: Any) -> bool:
    """Whether a field of this type may hold words that are not ours (those are a `Literal`)."""
    if get_origin(hint) is Literal:
        return False
    parts = (*get_args(hint), *_HINTS.get(getattr(hint, "__name__", ""), {}).values())
    return hint is str or any(map(_may_hold_text, parts))


_TEXTS = {
    **{kind: tuple(name for name in _FIELDS[kind] if _may_hold_text(_HINTS[kind.__name__][name])) for kind in _FIELDS},
    Image: ("mime_type",),  # the data are megabytes that say nothing in words
}


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and when it was told, with its time zone; None where the line does not say."""

    at: datetime | None
    event: Event


def redact_event(event: Event, redact: Callable[[str], str]) -> Event:
    """The event with its texts passed through `redact`; the very same one if that changes nothing.

    Our own words stay: a secret that is one of them must not spoil the journal.
    """
    return cast(Event, _redacted(event, redact))


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, tuple):
        items = tuple([_redacted(item, redact) for item in value])
        return value if all(map(operator.is_, items, value)) else items
    changed: dict[str, Any] = {}
    for name in _TEXTS.get(type(value), ()):
        old = getattr(value, name)
        new = _redacted(old, redact)
        if new is not old:
            changed[name] = new
    return dataclasses.replace(value, **changed) if changed else value


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
