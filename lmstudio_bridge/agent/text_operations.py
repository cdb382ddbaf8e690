"""What composite tools do with the texts of files: find, compare, replace, add up, calculate. Pure functions.

Errors are `ValueError` with a sentence for the model.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_COMPARED = 20_000  # lines of a text; comparing takes time in proportion to their product
_EXACTLY_COMPARED = 1_000_000  # lines times lines; above, lines that are very frequent are taken less exactly
_LINE = 240  # characters of a line that is shown
_MAX_EXPRESSION = 500  # characters
_ITEM = 60  # characters of an item of a list
_SHOWN_VALUES = 20
_WORD = re.compile(r"\w+")
_SETTING = re.compile(r"(?:export\s+)?[\"']?([\w.-]+)[\"']?\s*[=:]\s*(.*?)\s*,?")
_HEADING = re.compile(r"\[\[?([^\[\]]+)\]?\]")
_DEFINES = r"\b(?:def|class|function|func|fn|const|let|var|type|struct|enum|interface)\s+"
_SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "^": "**"})
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "avg": lambda *values: sum(values) / len(values),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "round": round,
    "sum": lambda *values: sum(values),
}


@dataclass(frozen=True, slots=True)
class Replaced:
    """A text with places replaced: how many, and how many were left because they are parts of longer words."""

    text: str
    count: int
    left: int = 0


def cut_line(line: str) -> str:
    """The line, at most as long as is shown of one."""
    return line if len(line) <= _LINE else f"{line[:_LINE]}…"


def holds_any(wanted: Sequence[str]) -> Callable[[str], bool]:
    """The test whether a line holds one of the texts, in any letter case."""
    folded = [each.casefold() for each in wanted]
    return lambda line: any(each in line.casefold() for each in folded)


def find_lines(text: str, matches: Callable[[str], bool]) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of the lines that pass a test."""
    for number, line in enumerate(text.splitlines(), 1):
        if matches(line):
            yield number, cut_line(line.strip())


def looser_searches(text: str) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """What to look for where a text is nowhere, as written: in words for a reader, and the test of a line.

    All of its words in one line; then those that look like names out of code, as TODO in `// TODO` and in "the TODOs".
    """
    words = [word for word in _WORD.findall(text) if len(word) > 2]
    if words and words != [text]:
        yield " and ".join(map(repr, words)), lambda line: all(word.casefold() in line.casefold() for word in words)
    names = [word for word in words if (not word.islower() and not word.istitle()) or "_" in word]
    stems = [name[:-1] if name.endswith("s") and name[:-1].isupper() else name for name in names]
    if stems and stems != words:
        yield " or ".join(map(repr, stems)), lambda line: any(stem.casefold() in line.casefold() for stem in stems)


def defines(line: str, wanted: Iterable[str]) -> bool:
    """Whether a line of code seems to define one of these names."""
    names = "|".join(map(re.escape, wanted))
    return bool(re.search(rf"{_DEFINES}(?:{names})\b|^\s*(?:{names})\s*[:=]", line, re.IGNORECASE))


def replace_all(text: str, old: str, new: str) -> Replaced:
    """Replace a text everywhere; a word only where it is a whole one, if it is one anywhere."""
    total = text.count(old)
    if _WORD.fullmatch(old):
        replaced, whole = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, text)
        if whole:
            return Replaced(replaced, whole, total - whole)
    return Replaced(text.replace(old, new), total)


def show_changes(path: str, old: str, new: str) -> str:
    """The changed lines, as in a unified diff without context."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="", n=0)
    return "\n".join(cut_line(line) for line in lines if not line.startswith("---"))


def find_differences(first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Each difference of two files, given as path and text.

    JSON objects, and lines such as `name = value` below headings, are compared by their names.
    """
    one, other = _settings(first[1]), _settings(second[1])
    if one is None or other is None:
        one, other = _table(first[1]), _table(second[1])
    if one is not None and other is not None:
        return list(_differing_settings((first[0], one), (second[0], other)))
    lines, others = first[1].splitlines(), second[1].splitlines()
    if _is_list(lines) and _is_list(others):
        return [*_only_in((first[0], lines), (second[0], others)), *_only_in((second[0], others), (first[0], lines))]
    if max(len(lines), len(others)) > MAX_COMPARED:
        raise ValueError(f"A file has more than {MAX_COMPARED:,} lines, which is too long to compare.")
    return list(_differing_lines((first[0], lines), (second[0], others)))


def _differing_settings(first: tuple[str, Mapping[str, str]], second: tuple[str, Mapping[str, str]]) -> Iterator[str]:
    (path, one), (other_path, other) = first, second
    for name in dict.fromkeys((*one, *other)):
        if name not in other:
            yield f"{name}: in {path} but not in {other_path} ({one[name]})"
        elif name not in one:
            yield f"{name}: in {other_path} but not in {path} ({other[name]})"
        elif one[name] != other[name]:
            yield f"{name}: {one[name]} in {path}, {other[name]} in {other_path}"


def _only_in(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> Iterator[str]:
    """The lines that only the first of two lists has."""
    known = {line.strip() for line in second[1]}
    if only := [line.strip() for line in first[1] if line.strip() and line.strip() not in known]:
        yield f"in {first[0]} but not in {second[0]}: {', '.join(only)}"


def _is_list(lines: Sequence[str]) -> bool:
    """Whether a text is a list of short items, each once, in which the order tells nothing."""
    items = [line.strip() for line in lines if line.strip()]
    return len(set(items)) == len(items) and all(len(item) <= _ITEM and not item.endswith((".", ":")) for item in items)


def _table(text: str) -> dict[str, str] | None:
    """The cells of a CSV text by the first cell of their row and the heading; None if it is none with unique rows."""
    if "," not in text and ";" not in text and "\t" not in text:
        return None
    try:
        heading, *rows = _rows(text)
    except ValueError:
        return None
    if len({row[0] for row in rows}) < len(rows) or len(heading) < 2:
        return None
    if any(len(line) != len(heading) for line in csv.reader(io.StringIO(text)) if line):
        return None
    return {f"{row[0]} {name}": cell for row in rows for name, cell in zip(heading[1:], row[1:], strict=True)}


def _differing_lines(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> Iterator[str]:
    (path, lines), (other_path, others) = first, second
    long = len(lines) * len(others) > _EXACTLY_COMPARED
    for kind, a, b, c, d in difflib.SequenceMatcher(None, lines, others, autojunk=long).get_opcodes():
        if kind == "equal":
            continue
        for number in range(max(b - a, d - c)):
            left, right = a + number, c + number
            if left < b and right < d:
                yield f"{path}:{left + 1}: {cut_line(lines[left])}"
                yield f"  {other_path}:{right + 1}: {cut_line(others[right])}"
            elif left < b:
                yield f"in {path} but not in {other_path}: line {left + 1}: {cut_line(lines[left])}"
            else:
                yield f"in {other_path} but not in {path}: line {right + 1}: {cut_line(others[right])}"


def _settings(text: str) -> dict[str, str] | None:
    """The settings in a text by name; None if it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if value is not None:
        return dict(_flat(value)) if isinstance(value, dict) else None
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        plain = line.strip()
        if not plain or plain.startswith(("#", ";", "//")):
            continue
        if heading := _HEADING.fullmatch(plain):
            section = f"{heading[1].strip()}."
        elif (setting := _SETTING.fullmatch(plain)) and line[:1].strip() and section + setting[1] not in found:
            found[section + setting[1]] = setting[2]
        else:
            return None
    return found or None


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, child in value.items():
        if isinstance(child, dict) and child:
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(child, ensure_ascii=False)


def add_up(text: str, column: str, where: str = "") -> str:
    """The total of a column of a CSV text in words; `where` is `column=value`, for the rows that count.

    Without a `column` the rows are counted. Totals of all rows come with those by the values of other columns.
    """
    rows = _rows(text)
    taken = rows[1:]
    if where.strip():
        key, wanted = _condition_of(rows, where)
        taken = [row for row in taken if row[key].strip().casefold() == wanted]
        if not taken:
            known = ", ".join(sorted({row[key].strip() for row in rows[1:]})[:_SHOWN_VALUES])
            raise ValueError(f"No row has {where.strip()}. The values of {rows[0][key]} are: {known}")
        where = f"{rows[0][key].strip()}={taken[0][key].strip()}"
    number = _find_column(rows[0], column) if column.strip() else None
    if column.strip() and number is None and not where.strip():
        raise ValueError(f"There is no column {column.strip()!r}; the columns are: {', '.join(rows[0])}")
    numbers = [] if number is None else [each for row in taken if (each := _decimal(row[number])) is not None]
    if number is None or not numbers:
        return f"{len(taken)} of {len(rows) - 1} rows{_condition(where)}"
    without = len(taken) - len(numbers)
    skipped = f"; {without} without a number left out" if without else ""
    counted = f"{len(numbers)} of {len(rows) - 1} rows{skipped}"
    total = f"Total of {rows[0][number]}{_condition(where)}: {sum(numbers, Decimal(0)):f} ({counted})"
    return "\n".join([total, *([] if where.strip() else _totals_by_value(rows, number))])


def _condition(where: str) -> str:
    return f" where {where.strip()}" if where.strip() else ""


def _totals_by_value(rows: Sequence[Sequence[str]], number: int) -> Iterator[str]:
    """The totals for each value of the columns that have few values."""
    for key, name in enumerate(rows[0]):
        totals: dict[str, Decimal] = {}
        for row in rows[1:]:
            value = row[key].strip()
            totals[value] = totals.get(value, Decimal(0)) + (_decimal(row[number]) or Decimal(0))
        if key != number and len(totals) <= min(_SHOWN_VALUES, (len(rows) - 1) * 2 // 3):
            ordered = sorted(totals.items(), key=lambda item: -item[1])
            yield f"By {name.strip()}: {', '.join(f'{value} {total:f}' for value, total in ordered)}"


def _rows(text: str) -> list[list[str]]:
    """The rows of a CSV text, the heading first, all of its length."""
    lines = text.strip().splitlines()
    try:
        dialect: Any = csv.Sniffer().sniff("\n".join(lines[:20]), delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    rows = [row for row in csv.reader(io.StringIO("\n".join(lines)), dialect, skipinitialspace=True) if any(row)]
    if len(rows) < 2:
        raise ValueError("The file has no rows with a heading above them.")
    width = len(rows[0])
    return [(row + [""] * width)[:width] for row in rows]


def _condition_of(rows: Sequence[Sequence[str]], where: str) -> tuple[int, str]:
    """The column and the value, in small letters, that `column=value` means.

    A column that is not there is found by the value, if only one column holds it: small models guess its name.
    """
    name, equals, value = where.partition("=")
    if not equals:
        name, value = "", where
    wanted = value.strip("= ").strip("'\"").casefold()
    if (key := _find_column(rows[0], name)) is not None:
        return key, wanted
    holding = [key for key in range(len(rows[0])) if any(row[key].strip().casefold() == wanted for row in rows[1:])]
    if len(holding) != 1:
        raise ValueError(f"There is no column {name.strip()!r}; the columns are: {', '.join(rows[0])}")
    return holding[0], wanted


def _find_column(heading: Sequence[str], name: str) -> int | None:
    """The number of the column of that name; None if there is none."""
    names = [each.strip().casefold() for each in heading]
    wanted = name.strip().strip("'\"`").casefold()
    return names.index(wanted) if wanted in names else None


def _decimal(text: str) -> Decimal | None:
    plain = re.sub(r"[\s$€£¥%_]", "", text)
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", plain):
        plain = plain.replace(",", "")
    try:
        value = Decimal(plain.replace(",", "."))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def calculate(expression: str) -> str:
    """An arithmetic expression and its value."""
    # Imported here because few runs calculate anything.
    from simpleeval import DEFAULT_OPERATORS, InvalidExpression, SimpleEval

    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression) if "(" not in expression else expression
    plain = plain.translate(_SIGNS).strip().removesuffix("=").strip()
    if len(plain) > _MAX_EXPRESSION or re.search(r"[\"'\[{]", plain):
        raise ValueError("Only numbers, + - * / ** % and parentheses can be calculated, in a short expression.")
    evaluator = SimpleEval(operators=DEFAULT_OPERATORS, functions=dict(_FUNCTIONS), names={})
    try:
        value = evaluator.eval(plain)
    except (InvalidExpression, ArithmeticError, SyntaxError, TypeError, ValueError) as exc:
        raise ValueError(f"{expression!r} could not be calculated: {exc}") from exc
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{expression!r} is not a number.")
    return f"{plain} = {value if isinstance(value, int) else f'{value:.12g}'}"
