"""The items of a run over many on its page: each with its calls, as the journal of its own run has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmstudio_bridge.runs.html import Cell, Step, tell_story
from lmstudio_bridge.runs.item_rows import item_rows
from lmstudio_bridge.runs.journal import item_run_id, journal_path, read_timed_events
from lmstudio_bridge.runs.resume import StoredRun
from lmstudio_bridge.text import shortened

_SHOWN_TEXT = 1_000  # characters of a call's result; a page of 1,000 items stays small, and the item's own has all


def item_cells(folder: Path, run: StoredRun) -> list[Cell]:
    """The items of a run over many, in order; none for other runs."""
    rows = item_rows(run.items, access=run.outcome.access) if run.items else []
    slowest = max((row["seconds"] for row in rows), default=0) or 1
    return [
        Cell(run_id, row, _calls(folder, run_id), 100 * row["seconds"] / slowest)
        for row, run_id in ((row, item_run_id(run.run_id, number)) for number, row in enumerate(rows, start=1))
    ]


def _calls(folder: Path, run_id: str) -> tuple[Step, ...]:
    """The calls of one item; none if its journal is gone."""
    try:
        steps = tell_story(read_timed_events(journal_path(folder, run_id))).steps
    except OSError:
        return ()
    calls = [step for step in steps if step.kind == "call"]
    return tuple(
        replace(call, parts=[(name, shortened(text, _SHOWN_TEXT)) for name, text in call.parts]) for call in calls
    )
