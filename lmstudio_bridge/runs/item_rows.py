"""The rows of a run over many items, one for each, as JSON lines, CSV or a table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lmstudio_bridge.events import STATES, ItemResults, Outcome
from lmstudio_bridge.messages import Access
from lmstudio_bridge.text import clean_text, one_line, shortened

NO_CALLS = "no tool calls"
NONE_WORKED = "no tool call worked"
_LEAST_ITEM = 60  # characters of an item that are always shown: it says what the row is about
_CELLS = (2_000, 1_000, 500, 250, 120, 80, 60, 40, 30, 20, 10)  # characters of a cell, tried until the table fits
_MOST_COLUMNS = 20  # of what answers hold; beyond, a table cannot be read
_RESTS_ON = "rests on"
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also as wide characters
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:e[+-]?\d+)?%?", re.ASCII | re.IGNORECASE)
_MOST_VALUES = 20  # different answers that are counted
_LONGEST_VALUE = 60  # characters
_LONGEST_COUNTS = 1_500  # characters; one property always fits


def item_rows(items: ItemResults, *, access: Access) -> list[dict[str, Any]]:
    """A row for each item, in order, as JSON values.

    `status` is "done", "failed" or "not_done", `reason` says why. An item that is not done has the `answer` null.
    With an output schema an answer is the value that fits it. `sources` are what it rests on, `missing` the facts
    that were not found in anything that was read, `failed_calls` calls that were not made good, `coverage` is how much
    of what the task speaks of was read.
    """
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(items.listed.items, start=1):
        outcome = items.finished.get(number, Outcome("failed"))
        status = "not_done" if number not in items.finished else "done" if outcome.is_done else "failed"
        reasons = [why_not_done(outcome)] if status == "failed" else []
        if status != "done" and (number in items.unsure or (number in items.open and access == "write")):
            reasons.append("it was under way and may have changed something")
        rows.append(
            {
                "item": item,
                "status": status,
                "reason": "; ".join(reasons),
                "answer": _value(outcome.answer, items.listed.output_schema) if status == "done" else None,
                "sources": list(outcome.rests_on),
                "missing": list(outcome.missing),
                "calls": list(outcome.called),
                "failed_calls": list(outcome.failed),
                "coverage": outcome.coverage,
                "notes": list(outcome.notes),
                "seconds": round(outcome.seconds, 3),
            }
        )
    return rows


def why_not_done(outcome: Outcome) -> str:
    """Why an item counts as failed, in one line."""
    if outcome.stop == "answered":
        return outcome.failed[0] if outcome.failed_writes and outcome.failed else "nothing was changed"
    words, reason = STATES[outcome.stop]
    why = [words] if reason or not outcome.error else []
    return ": ".join([*why, *([" ".join(outcome.error.split())] if outcome.error else [])])


def is_doubtful(row: dict[str, Any]) -> bool:
    """Whether an item is done although calls failed and were not made good."""
    return row["status"] == "done" and bool(row["failed_calls"])


def rows_as_json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def rows_as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A table with a head, quoted as RFC 4180 says; what answers to a schema hold has columns of its own.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    columns, cells = _cells(rows, most=None, for_csv=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*map(_without_formula, row)] for row in (columns, *cells))
    return text.getvalue()


def _without_formula(cell: str) -> str:
    begins = clean_text(cell)[0].lstrip()
    return f"'{cell}" if begins.startswith(_FORMULA) and not _NUMBER.fullmatch(begins) else cell


def _value(answer: str, schema: str) -> Any:
    if not schema:
        return answer
    try:
        return json.loads(answer)
    except ValueError:  # a secret in it was replaced
        return answer


def count_items(items: ItemResults) -> dict[str, int]:
    """How many there are, and of each status."""
    failed, ended = len(items.failed()), len(items.finished)
    total = len(items.listed.items)
    merged = {"merged": items.combined.items} if items.combined else {}
    return {"total": total, "done": ended - failed, "failed": failed, "not_done": total - ended, **merged}


def count_answers(rows: Sequence[dict[str, Any]], schema: str = "") -> str:
    """How often each answer was given, where there are few different ones, all short; else "".

    Of answers that are objects, each property is counted for which that is so, or whose values the schema lists, as
    long as there is room.
    """
    answers = [row["answer"] for row in rows]
    if not all(isinstance(answer, dict) for answer in answers):
        return _count_values(answers, most=len(answers) - 1)
    properties = json.loads(schema or "{}").get("properties", {})
    counted: list[str] = []
    for name in dict.fromkeys(name for answer in answers for name in answer):
        values = [answer[name] for answer in answers if name in answer]
        defined = properties.get(name) if isinstance(properties, dict) else None
        is_listed = isinstance(defined, dict) and "enum" in defined
        if counts := _count_values(values, most=len(values) if is_listed else len(values) // 2):
            text = f"{shortened(one_line(name), _LONGEST_VALUE)}: {counts}"
            if len("; ".join([*counted, text])) <= _LONGEST_COUNTS:
                counted.append(text)
    return "; ".join(counted)


def _count_values(values: Sequence[Any], *, most: int) -> str:
    """How often each value is there, if there are at most so many different ones, few and all short; else ""."""
    counts = Counter(one_line("null" if value is None else value_text(value)) for value in values)
    if not counts or len(counts) > min(most, _MOST_VALUES) or max(map(len, counts)) > _LONGEST_VALUE:
        return ""
    return ", ".join(f"{count:,} \N{MULTIPLICATION SIGN} {value}" for value, count in counts.most_common())


def fitting_table(rows: Sequence[dict[str, Any]], room: int | None) -> tuple[str, str]:
    """A table of all rows within that many characters, and what was cut for it.

    All cells are shortened alike; if that is not enough, the last rows are left out. The status says of what is done
    whether calls failed.
    """
    rows = [{**row, "status": "done, calls failed"} if is_doubtful(row) else row for row in rows]
    table = markdown_table(*_cells(rows, most=None))
    if room is None or len(table) <= room:
        return table, ""
    for most in _CELLS:
        table = markdown_table(*_cells(rows, most=most))
        if len(table) <= room:
            return table, f"Cells were cut at {most} characters"
    lines = table[: max(0, room)].split("\n")[:-1]
    shown = max(0, len(lines) - 2)
    return "\n".join(lines), f"Cells were cut at {_CELLS[-1]} characters, and only {shown:,} of {len(rows):,} rows fit"


def _cells(
    rows: Sequence[dict[str, Any]], *, most: int | None, for_csv: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The columns of a table and its rows, whose cells have at most that many characters.

    What the answers hold has columns of its own, unless these are too many to read. In CSV they may be many, but must
    not be mostly empty: where all keys differ, the size of the table would grow with the square of the rows.
    """
    objects = [row["answer"] for row in rows if isinstance(row["answer"], dict)]
    names = list(dict.fromkeys(name for each in objects for name in each))
    is_full = for_csv and len(names) * len(objects) <= 2 * sum(map(len, objects))
    if len(names) > _MOST_COLUMNS and not is_full:
        names = []

    def fit(text: str) -> str:
        return text if most is None else shortened(text, most)

    table = []
    for row in rows:
        answer = row["answer"]
        values = [answer.get(name) for name in names] if names and isinstance(answer, dict) else [answer]
        values += [None] * (len(names) - len(values))
        item = row["item"] if most is None else shortened(row["item"], max(most, _LEAST_ITEM))
        reason = [row["reason"]] if for_csv else []
        table.append([item, row["status"], *reason, *map(fit, map(value_text, values)), fit(_rests_on(row))])
    heads = dict.fromkeys(["item", "status", *(["reason"] if for_csv else [])])
    for name in names or ["answer"]:
        while name in heads or name == _RESTS_ON:
            name = f"answer.{name}"
        heads[name] = None
    return [*heads, _RESTS_ON], table


def value_text(value: Any) -> str:
    """An answer of a row as text: JSON, where it is not text itself."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rests_on(row: dict[str, Any]) -> str:
    """What is known about an answer; first what speaks against it."""
    if row["status"] in ("failed", "not_done"):
        return ""
    parts = [f"not found: {', '.join(row['missing'])}"] if row["missing"] else []
    parts += [f"failed: {', '.join(row['failed_calls'])}"] if row["failed_calls"] else []
    parts += [row["coverage"]] if row["coverage"] else []
    none = NONE_WORKED if row["failed_calls"] else NO_CALLS
    return "; ".join([*parts, *(row["sources"] or row["calls"] or [none])])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head, each row in one line."""
    lines = [[cell.replace("|", "\\|") for cell in map(one_line, row)] for row in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
