"""Journals of runs as the lines of JSON that they are, for tests that look at the bridge from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read_journal(path: Path) -> list[Event]:
    """The events of one journal, the oldest first; a last line that is not yet whole is left out."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def events_of(events: list[Event], *types: str) -> list[Event]:
    """The events of these types."""
    return [event for event in events if event["type"] in types]


def stop_of(events: list[Event]) -> str:
    """How the run ended; "failed" where the journal has no end."""
    last = events_of(events, "RunStarted", "RunContinued", "RunFinished")[-1]
    return str(last.get("stop", "failed"))


def write_journal(folder: Path, run_id: str, *, task: str = "Do it.", servers: list[str] | None = None) -> Path:
    """A journal of a run that began and has no end; its path."""
    event = {
        "type": "RunStarted",
        "run_id": run_id,
        "task": task,
        "servers": servers or [],
        "max_rounds": 5,
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_id}.jsonl"
    path.write_text(json.dumps(event, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
