"""What composite tools do with the texts of files: find, compare, replace, add up, calculate. Pure functions.

Errors are `ValueError` with a sentence for the model.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from lmstudio_bridge.agent.line_diff import differing_ranges, span
from lmstudio_bridge.text import one_line, shortened

MAX_COMPARED = 20_000  # lines of a text
_YEAR = re.compile(r"\s*(?:19|20)\d\d\s*")
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,]*\s*")
_LINE = 240  # characters of a line that is shown
_MAX_EXPRESSION = 500  # characters
_ITEM = 60  # characters of an item of a list
_SHOWN_VALUES = 20
_CELL = 60  # characters of a cell that is shown
_NO_CONDITION = ("true", "all", "any", "none", "*", "1=1", "1 = 1")  # as small models say it
_MIN_COMPARED = 3  # files whose highest and lowest numbers are told
_MAX_NAMES = 3  # of such numbers, and of files with the same one
_UNIT = re.compile(r"[^\d.,\s+-]")
_MAX_DIGITS = 100  # of a number in a table
_MAX_POWER = 4_000  # digits of a result; Python writes 4,300
_WORD = re.compile(r"\w+")
_SETTING = re.compile(r"(?:export\s+)?[\"']?([\w.-]+)[\"']?\s*[=:](.*)")
_COMMENT = ("#", ";", "//")
_HEADING = re.compile(r"\[\[?([^\[\]]+)\]?\]")
_EXCEPT = re.compile(r"\b(?:except|but|not|without|other|others|unless)\b|n['\u2019]t\b", re.IGNORECASE)
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
    return shortened(line, _LINE)


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
    """Replace a text everywhere; a word only where it is a whole one, if it is one anywhere.

    Line ends of `old` and `new` are those of the text.
    """
    if text.count("\r\n") == text.count("\n") > 0:
        old, new = (re.sub(r"\r?\n", "\r\n", each) for each in (old, new))
    total = text.count(old)
    if _WORD.fullmatch(old):
        replaced, whole = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, text)
        if whole:
            return Replaced(replaced, whole, total - whole)
    return Replaced(text.replace(old, new), total)


def replace_where(text: str, old: str, new: str, task: str) -> Replaced | None:
    """Replace a text in the one line that the task's words single out, as `debug` does in "set debug to false".

    None if they single out none, or the text stands there more than once.
    """
    if _EXCEPT.search(task):
        return None
    wanted = {word for word in _WORD.findall(task.casefold()) if len(word) > 2}
    wanted -= set(_WORD.findall(f"{old} {new}".casefold()))
    lines = text.splitlines(keepends=True)
    words = {number: wanted & {*_WORD.findall(line.casefold())} for number, line in enumerate(lines) if old in line}
    common = set.intersection(*words.values()) if words else set()
    named = [number for number, found in words.items() if found - common]
    if len(named) != 1 or lines[named[0]].count(old) != 1:
        return None
    lines[named[0]] = lines[named[0]].replace(old, new)
    return Replaced("".join(lines), 1)


def add_at_end(text: str, lines: str) -> str:
    """The text with these lines after its last one, with the line ends that it has."""
    end = "\r\n" if text.count("\r\n") == text.count("\n") > 0 else "\n"
    lines = re.sub(r"\r?\n", end, lines.strip("\r\n"))
    return f"{text}{lines}{end}" if not text or text.endswith(end) else f"{text}{end}{lines}"


def show_changes(path: str, old: str, new: str) -> str:
    """The changed lines, as in a unified diff without context."""
    lines, others = old.splitlines(), new.splitlines()
    shown = [f"+++ {path}"]
    for a, b, c, d in differing_ranges(lines, others):
        shown.append(f"@@ -{span(a, b)} +{span(c, d)} @@")
        shown += [f"-{line}" for line in lines[a:b]]
        shown += [f"+{line}" for line in others[c:d]]
    return "\n".join(map(cut_line, shown)) if len(shown) > 1 else ""


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences of two texts: how many, and lines that tell all of them.

    `left_out` is what was not compared, "" if the texts do not differ in it.
    """

    count: int
    lines: Sequence[str]
    left_out: str = ""


def find_differences(first: tuple[str, str], second: tuple[str, str]) -> Differences:
    """The differences of two files, given as path and text.

    JSON objects, and lines such as `name = value` below headings, are compared by their names.
    """
    one, other = _settings(first[1]), _settings(second[1])
    left_out = "comments" if _comments(first[1]) != _comments(second[1]) else ""
    if one is None or other is None:
        one, other, left_out = _table(first[1]), _table(second[1]), ""
    if first[1] == second[1]:
        return Differences(0, ())
    if one is not None and other is not None:
        found = list(_differing_settings((first[0], one), (second[0], other)))
        return Differences(len(found), found, left_out or ("" if found else "order or spacing"))
    lines, others = first[1].splitlines(), second[1].splitlines()
    if _is_list(lines) and _is_list(others):
        left, right = _only_in(lines, others), _only_in(others, lines)
        told = [f"in {first[0]} but not in {second[0]}: {', '.join(left)}"] if left else []
        told += [f"in {second[0]} but not in {first[0]}: {', '.join(right)}"] if right else []
        return Differences(len(left) + len(right), told, "" if told else "order or spacing")
    if max(len(lines), len(others)) > MAX_COMPARED:
        raise ValueError(f"A file has more than {MAX_COMPARED:,} lines, which is too long to compare.")
    found = list(_differing_lines((first[0], lines), (second[0], others)))
    return Differences(len(found), found, "" if found else "line ends")


def find_missing(first: str, second: str) -> list[str]:
    """What the first of two texts has and the second has not: settings by their names, else lines."""
    one, other = _settings(first), _settings(second)
    if one is not None and other is not None:
        return [f"{name} = {value}" if value else name for name, value in one.items() if name not in other]
    return list(map(cut_line, _only_in(first.splitlines(), second.splitlines())))


def _differing_settings(first: tuple[str, Mapping[str, str]], second: tuple[str, Mapping[str, str]]) -> Iterator[str]:
    (path, one), (other_path, other) = first, second
    for name in dict.fromkeys((*one, *other)):
        if name not in other:
            yield f"{name}: in {path} but not in {other_path} ({one[name]})"
        elif name not in one:
            yield f"{name}: in {other_path} but not in {path} ({other[name]})"
        elif one[name] != other[name]:
            yield f"{name}: {one[name]} in {path}, {other[name]} in {other_path}"


def _only_in(lines: Sequence[str], others: Sequence[str]) -> list[str]:
    """The lines that only the first of two lists has."""
    known = {line.strip() for line in others}
    return [line.strip() for line in lines if line.strip() and line.strip() not in known]


def _is_list(lines: Sequence[str]) -> bool:
    """Whether a text is a list of short items, each once, in which the order tells nothing."""
    items = [line.strip() for line in lines if line.strip()]
    return len(set(items)) == len(items) and all(len(item) <= _ITEM and not item.endswith((".", ":")) for item in items)


def _table(text: str) -> dict[str, str] | None:
    """The cells of a CSV text by the first cell of their row and the heading; None if it is none with unique rows.

    A first row with a number in it that is no year is no heading.
    """
    if "," not in text and ";" not in text and "\t" not in text:
        return None
    try:
        heading, *rows = _rows(text, whole=True)
    except ValueError:
        return None
    if any(_NUMBER.fullmatch(cell) and not _YEAR.fullmatch(cell) for cell in heading):
        rows = [heading, *rows]
        heading = [f"in column {number}" if len(heading) > 2 else "" for number in range(1, len(heading) + 1)]
    if len({row[0] for row in rows}) < len(rows) or len(heading) < 2:
        return None
    return {f"{row[0]} {name}".rstrip(): cell for row in rows for name, cell in zip(heading[1:], row[1:], strict=True)}


def _differing_lines(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> Iterator[str]:
    (path, lines), (other_path, others) = first, second
    for a, b, c, d in differing_ranges(lines, others):
        old = [(number + 1, cut_line(lines[number])) for number in range(a, b)]
        new = [(number + 1, cut_line(others[number])) for number in range(c, d)]
        for (left, line), (right, other) in zip(old, new, strict=False):
            yield f"{path}:{left}: {line}\n  {other_path}:{right}: {other}"
        yield from (f"in {path} but not in {other_path}: line {left}: {line}" for left, line in old[len(new) :])
        yield from (f"in {other_path} but not in {path}: line {right}: {other}" for right, other in new[len(old) :])


def _settings(text: str) -> dict[str, str] | None:
    """The settings in a text by name; None if it holds anything else."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text, object_pairs_hook=_without_duplicates)
        if value is not None:
            return dict(_flat(value)) if isinstance(value, dict) else None
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        plain = line.strip()
        if not plain or plain.startswith(_COMMENT):
            continue
        if heading := _HEADING.fullmatch(plain):
            section = f"{heading[1].strip()}."
        elif (setting := _SETTING.fullmatch(plain)) and line[:1].strip() and section + setting[1] not in found:
            found[section + setting[1]] = setting[2].strip().removesuffix(",").rstrip()
        else:
            return None
    return found or None


def _comments(text: str) -> list[str]:
    return [plain for line in text.splitlines() if (plain := line.strip()).startswith(_COMMENT)]


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, child in value.items():
        whole = prefix + (json.dumps(name, ensure_ascii=False) if "." in name else name)
        if isinstance(child, dict) and child:
            yield from _flat(child, f"{whole}.")
        else:
            yield whole, json.dumps(child, ensure_ascii=False)


def join_settings(texts: Mapping[str, str]) -> str:
    """One CSV text of files that hold the same settings, one row each.

    Raises:
        ValueError: They do not; the message names the first that does not fit.
    """
    records = {path: _settings(text) or {} for path, text in texts.items()}
    names = next(iter(records.values())).keys()
    if odd := next((path for path, record in records.items() if not record or record.keys() != names), ""):
        raise ValueError(f"{odd} does not hold the same `name: value` lines as the others. Name one file.")
    text = io.StringIO()
    rows = [[path, *(record[name] for name in names)] for path, record in records.items()]
    csv.writer(text, lineterminator="\n").writerows([["file", *names], *rows])
    return text.getvalue()


def find_extremes(texts: Mapping[str, str]) -> list[str]:
    """The highest and the lowest of each number that files hold under one name, with their paths, a line each.

    For at least three files with the same `name: value` lines, a few of them numbers. Left out are numbers in different
    units, and with different decimals, which may be versions. Names and paths are those of the files: untrusted.
    """
    records = [_settings(text) or {} for text in texts.values()]
    if len(records) < _MIN_COMPARED or any(record.keys() != records[0].keys() for record in records):
        return []
    told: list[str] = []
    for name in records[0]:
        numbers = [number for record in records if (number := _decimal(record[name])) is not None]
        if len(numbers) < len(records):
            continue
        units = [_UNIT.findall(record[name]) for record in records]
        if len({(number.as_tuple().exponent, *unit) for number, unit in zip(numbers, units, strict=True)}) > 1:
            continue
        ends = (("highest", max(numbers)), ("lowest", min(numbers)))
        paths = {word: [path for path, each in zip(texts, numbers, strict=True) if each == end] for word, end in ends}
        shown = (f"{word} {end:f} in {_some(paths[word])}" for word, end in ends)
        told.append(f"{_cell(name)}: {', '.join(shown)}")
    return told if len(told) <= _MAX_NAMES else []


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths) if len(paths) <= _MAX_NAMES else f"{len(paths)} files"


def add_up(text: str, column: str, where: str = "") -> str:
    """The total of a column of a CSV text in words; `where` is `column=value`, for the rows that count.

    Without a heading the columns are named 1, 2 …; if there is but one, it is taken whatever `column` says.
    Without a `column` the rows are counted; small models name the wrong one, so for one without numbers the totals of
    those that have them come with the count. Totals of all rows come with those by the values of other columns.
    """
    with localcontext() as context:
        context.prec = 3 * _MAX_DIGITS  # exact, whatever the numbers and however many
        rows = _rows(text)
        if _find_column(rows[0], column) is None and all(_decimal(cell) is not None for cell in rows[0]):
            rows = [[str(number) for number, _ in enumerate(rows[0], 1)], *rows]
            column = column if len(rows[0]) > 1 else rows[0][0]
        return _add_up(rows, column, "" if where.strip().casefold() in _NO_CONDITION else where)


def _add_up(rows: Sequence[Sequence[str]], column: str, where: str) -> str:
    taken = rows[1:]
    named = column.strip().casefold()
    is_word = bool(named) and _decimal(named) is None
    holding = {key for row in taken for key, cell in enumerate(row) if is_word and cell.strip().casefold() == named}
    if not where.strip() and _find_column(rows[0], column) is None and len(holding) == 1:
        where = f"{rows[0][holding.pop()]}={column}"  # small models name a value, as of a customer
    if where.strip():
        key, wanted = _condition_of(rows, where)
        taken = [row for row in taken if row[key].strip().casefold() == wanted]
        if not taken:
            known = ", ".join(sorted({_cell(row[key]) for row in rows[1:]})[:_SHOWN_VALUES])
            raise ValueError(f"No row has {where.strip()}. The values of {_cell(rows[0][key])} are: {known}")
        where = f"{_cell(rows[0][key])}={_cell(taken[0][key])}"
    number = _find_column(rows[0], column) if column.strip() else None
    if column.strip() and number is None and not where.strip():
        raise ValueError(f"There is no column {column.strip()!r}; the columns are: {', '.join(map(_cell, rows[0]))}")
    numbers = [] if number is None else [each for row in taken if (each := _decimal(row[number])) is not None]
    if number is None or not numbers:
        counted = f"{len(taken)} of {len(rows) - 1} rows{_condition(where)}"
        totals = ", ".join(_totals_of_numbers(rows[0], taken)) if where.strip() and column.strip() else ""
        return f"{counted}. Totals: {totals}" if totals else counted
    without = len(taken) - len(numbers)
    skipped = f"; {without} without a number left out" if without else ""
    counted = f"{len(numbers)} of {len(rows) - 1} rows{skipped}"
    total = f"Total of {_cell(rows[0][number])}{_condition(where)}: {sum(numbers, Decimal(0)):f} ({counted})"
    return "\n".join([total, *([] if where.strip() else _totals_by_value(rows, number))])


def _totals_of_numbers(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The totals of the columns that hold nothing but numbers."""
    for key, name in enumerate(heading):
        numbers = [_decimal(row[key]) for row in rows]
        if None not in numbers:
            yield f"{_cell(name)} {sum((each for each in numbers if each is not None), Decimal(0)):f}"


def _cell(text: str) -> str:
    """A cell as it is shown in the bridge's own words: short and in one line, because others wrote it."""
    return shortened(one_line(text), _CELL)


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
            yield f"By {_cell(name)}: {', '.join(f'{_cell(value)} {total:f}' for value, total in ordered)}"


def _rows(text: str, *, whole: bool = False) -> list[list[str]]:
    """The rows of a CSV text, the heading first, all of its length; with `whole` they have to be so in the text."""
    lines = text.strip().splitlines()
    heading = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    delimiter = max(",;\t|", key=heading.count)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [row for row in reader if any(row)]
    except csv.Error as exc:  # such as a cell above the module's limit
        raise ValueError(f"The file could not be read as CSV: {exc}.") from exc
    if len(rows) < 2:
        raise ValueError("The file has no rows with a heading above them.")
    width = len(rows[0])
    if whole and any(len(row) != width for row in rows):
        raise ValueError("The rows differ in length.")
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
    is_comparison = bool(re.search(r"[<>!]", name or where))  # never taken for `=`
    if len(holding) != 1 or is_comparison:
        known = ", ".join(map(_cell, rows[0]))
        if name.strip() and not is_comparison:
            raise ValueError(f"There is no column {name.strip()!r}; the columns are: {known}")
        what = f"{where.strip()!r} is not column=value; the columns are: {known}"
        raise ValueError(f"{what}. Leave where empty to take all rows.")
    return holding[0], wanted


def _find_column(heading: Sequence[str], name: str) -> int | None:
    """The number of the column of that name; None if there is none."""
    names = [each.strip().casefold() for each in heading]
    wanted = name.strip().strip("'\"`").casefold()
    return names.index(wanted) if wanted in names else None


def _decimal(text: str) -> Decimal | None:
    plain = re.sub(r"[\s$€£¥%_]", "", text)
    if len(plain) > _MAX_DIGITS:
        return None
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", plain):
        plain = plain.replace(",", "")
    try:
        value = Decimal(plain.replace(",", "."))
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) <= _MAX_DIGITS else None


def calculate(expression: str) -> str:
    """An arithmetic expression and its value."""
    # Imported here because few runs calculate anything.
    from simpleeval import DEFAULT_OPERATORS, InvalidExpression, SimpleEval

    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression) if "(" not in expression else expression
    plain = plain.translate(_SIGNS).strip().removesuffix("=").strip()
    if len(plain) > _MAX_EXPRESSION or re.search(r"[\"'\[{]", plain):
        raise ValueError("Only numbers, + - * / ** % and parentheses can be calculated, in a short expression.")
    operators = {**DEFAULT_OPERATORS, ast.Pow: _power}
    evaluator = SimpleEval(operators=operators, functions=dict(_FUNCTIONS), names={})
    try:
        value = evaluator.eval(plain)
    except (InvalidExpression, ArithmeticError, SyntaxError, TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"{expression!r} could not be calculated: {exc}") from exc
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{expression!r} is not a number.")
    return f"{plain} = {value if isinstance(value, int) else f'{value:.15g}'}"


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) * base.bit_length() > _MAX_POWER * 3:
        raise ValueError("the result is too large")
    return base**exponent
