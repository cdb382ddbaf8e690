"""The report of a run over many items: how many are done, which failed, and a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmstudio_bridge.events import ItemResults
from lmstudio_bridge.runs.item_rows import count_answers, count_items, fitting_table, is_doubtful, item_rows
from lmstudio_bridge.runs.report import RunReport, quoted, run_uri
from lmstudio_bridge.text import inert, one_line, shortened

_SHOWN_FAILED = 20  # items with their reasons, a line each before the table
_SHOWN_REASON = 400  # characters
_SHOWN_ITEM = 200
_SHOWN_CHANGES = 20
_SHOWN_NOTES = 10
_LONGEST = 1_000  # characters of a line before the table
_LEAST_TABLE = 4_000  # characters for the table, and for what stands around a merged answer
_LEFT_OUT = " was left out: "


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsReport(RunReport):
    """How a run over many items went, with a row for each."""

    items: ItemResults

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each item."""
        return item_rows(self.items, access=self.outcome.access)

    def text(self, *, limit: int | None = None) -> str:
        """The report for a reader: how many items are done, those that failed, and a table of all in their order.

        With a `limit` in characters all cells are shortened alike until the whole fits; if that is not enough, the
        last rows are left out. The report says so.
        """
        rows = self.rows
        head, foot = "\n".join(self._items_head(rows)), self._footer()
        merged = self._merged(rows, most=None if limit is None else min(limit // 2, limit - len(head) - _LEAST_TABLE))
        room = None if limit is None else limit - len(head) - len(merged) - len(foot) - 300  # for what is said of cuts
        table, cut = fitting_table(rows, room)
        where = f"all is in the resource {run_uri(self.run_id)}" if self.kept else "journals are off"
        return "\n\n".join(part for part in (head, table, f"[{cut}; {where}.]" if cut else "", merged, foot) if part)

    def around_answer(self) -> tuple[str, str, str]:
        """The text before the table, the table, and the text after it."""
        table, _ = fitting_table(self.rows, None)
        return self.text().partition(table)

    def structure(self) -> dict[str, Any]:
        """As for one run, with how many items there are."""
        # `super()` does not know the class where it has slots.
        return {**RunReport.structure(self), "items": count_items(self.items)}

    def as_json(self) -> dict[str, Any]:
        """The report and all rows."""
        return {**RunReport.as_json(self), "rows": self.rows}

    def as_lines(self) -> str:
        """Each item that is done with its answer, in a line."""
        return "\n".join(one_line(f"{row['item']}: {row['answer']}") for row in self.rows if row["status"] == "done")

    def _merged(self, rows: Sequence[dict[str, Any]], *, most: int | None) -> str:
        """What the answers were merged into, after what the bridge knows about it; "" if they were not."""
        answer, combined = quoted(self.outcome.answer.strip()), self.items.combined
        if not (answer and combined):
            return ""
        lines = [f"Merged from the answers of {combined.items:,} of {len(rows):,} items:"]
        done = [row for row in rows if row["status"] == "done"]
        if counts := count_answers(done, self.items.listed.output_schema):
            lines.append(f"Counted by the bridge: {counts}")
        if self.outcome.missing:
            lines.append(f"Not found in any answer: {shortened(one_line(', '.join(self.outcome.missing)), _LONGEST)}")
        if most is not None and len(answer) > most:
            answer = f"{answer[:most]}…\n\n[The merged answer was cut here.]"
        return inert("\n".join([*lines, "", answer]))

    def _footer(self) -> str:
        return self._signed() if self.outcome.model else f"[run {self.run_id}]"

    def _items_head(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        items, counts = self.items, count_items(self.items)
        numbers = [f"{counts['done']:,} of {counts['total']:,} items done"]
        numbers += [f"{counts[name]:,} {name.replace('_', ' ')}" for name in ("failed", "not_done") if counts[name]]
        made_up = sum(row["status"] == "done" and bool(row["missing"]) for row in rows)
        numbers += [f"{made_up:,} with facts that were not found in anything read"] if made_up else []
        doubtful = sum(map(is_doubtful, rows))
        numbers += [f"{doubtful:,} with calls that failed"] if doubtful else []
        error = one_line(self.outcome.error)
        earlier = [number for number in items.finished if number not in items.now]
        of_earlier = (note for number in earlier for note in items.finished[number].notes)
        notes = [
            note
            for note in dict.fromkeys((*self.outcome.notes, *of_earlier))
            if one_line(note).partition(_LEFT_OUT)[2] not in error or _LEFT_OUT not in note
        ]
        lines = [
            " · ".join(numbers),
            *(f"Note{_about(note, rows)}: {shortened(one_line(note), _LONGEST)}" for note in notes[:_SHOWN_NOTES]),
        ]
        lines += [f"and {len(notes) - _SHOWN_NOTES:,} more notes"] if len(notes) > _SHOWN_NOTES else []
        lines += [shortened(error, _LONGEST)] if error else []
        if kept := len(set(earlier) - set(items.to_do())):
            again = f"{kept:,} items were done before and are not done again"
            names = ", ".join(one_line(items.listed.items[number - 1]) for number in sorted(set(items.now)))
            lines.append(f"{again}; this time: {shortened(names, _LONGEST) or 'none'}")
        bad = [row for row in rows if row["status"] != "done" and row["reason"]]
        alike: dict[str, list[str]] = {}  # items by why they failed
        for row in bad[:_SHOWN_FAILED]:
            alike.setdefault(one_line(row["reason"]), []).append(shortened(one_line(row["item"]), _SHOWN_ITEM))
        for reason, those in alike.items():
            why = "" if reason in error else f": {shortened(reason, _SHOWN_REASON)}"  # it stands above
            lines.append(f"Failed: {', '.join(those)}{why}")
        lines += [f"and {len(bad) - _SHOWN_FAILED:,} more"] if len(bad) > _SHOWN_FAILED else []
        if not items.is_done and self.kept:
            tool = "autonomous_with_write_access" if self.outcome.access == "write" else "continue_run"
            lines.append(f"{tool} with run_id {self.run_id} does what is missing or failed.")
        changes = [each for each in self.outcome.changes if each.kind not in ("unchanged", "beside") and each.path]
        changed = list(dict.fromkeys(each.path for each in changes))
        if changed:
            more = f" and {len(changed) - _SHOWN_CHANGES:,} more" if len(changed) > _SHOWN_CHANGES else ""
            shown = ", ".join(shortened(one_line(each), _SHOWN_ITEM) for each in changed[:_SHOWN_CHANGES])
            undone = self.outcome.undone
            lines.append(f"{'Undone since' if undone else 'Changed'}: {shown}{more}")
            undo = [f"Undo with: lmstudio-bridge runs undo {self.run_id}"]
            lines += undo if self.can_undo and self.kept and not undone else []
        return lines


def _about(note: str, rows: Sequence[dict[str, Any]]) -> str:
    """Which items a note is about, if not all."""
    those = [shortened(one_line(row["item"]), _SHOWN_ITEM) for row in rows if note in row["notes"]]
    if not those or len(those) == sum(row["status"] != "not_done" for row in rows):
        return ""
    more = f" and {len(those) - _SHOWN_FAILED:,} more" if len(those) > _SHOWN_FAILED else ""
    return f" on {shortened(', '.join(those[:_SHOWN_FAILED]), _LONGEST // 2)}{more}"
