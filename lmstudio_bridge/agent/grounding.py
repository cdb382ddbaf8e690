"""What an answer rests on: each fact in it is looked up in what the run has seen.

Facts are what can be looked up to the letter: numbers, dates, times, URLs, e-mail addresses, paths, identifiers and
quotations. Both sides are normalized (case, white space, quotes, Markdown, thousands separators). Nothing is asked of a
model, and nothing is inferred: an answer that says something wrong with the words of its sources is not noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from functools import cached_property, reduce
from itertools import chain, groupby, islice, permutations
from operator import add, mul, sub, truediv
from pathlib import PurePosixPath
from typing import TypeAlias, TypeVar

from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.text import one_line, shortened

K = TypeVar("K")
_Day: TypeAlias = tuple[int | None, int, int]  # year (None if it is not said), month, day

MAX_FACTS = 200  # facts of one answer that are looked up; more are a table that was copied
MAX_EVIDENCE = 4 * 1024 * 1024  # characters of all results that are searched; the newest go first
_SHORT_QUOTE = 12  # characters; a shorter quotation of one word is a word in quotes, not a quotation
_MAX_CALCULATED = 10_000  # characters of a text in which numbers to calculate with are looked for
_MAX_RESULTS = 5_000  # of calculations that one number is compared with
_MAX_DIGITS = 15  # of a number that may be one
_MAX_TABLE = 100_000  # characters of a text in which columns are looked for
_MAX_WORDS = 30  # of a task by which rows of a table are chosen
_SHOWN_LEFT = 60  # characters of a text that an edit left elsewhere
_SHOWN_FILES = 5  # files that the task names and that were not opened
_MAX_WORD = 1_000  # characters; a longer one is a model that goes on and on
_MAX_PATH = 500  # characters; a longer text in the arguments of a call is content
_SMALL = 10  # whole numbers below are left aside: they are counts, and stand everywhere
_MAX_QUOTE = 400  # characters; a longer one is looked up by its beginning

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = r"(?P<month>" + "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS) + r")\.?"
_DATES = (
    re.compile(r"(?<!\d)(?P<year>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)"),
    re.compile(rf"(?<!\w)(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?(?: of)? {_MONTH}(?:,? (?P<year>\d{{4}}))?(?!\w)", re.I),
    re.compile(rf"(?<!\w){_MONTH} (?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?(?!\w)", re.I),
    re.compile(r"(?<![\d.])(?P<a>\d{1,2})[/.](?P<b>\d{1,2})[/.](?P<year>\d{4})(?![\d])"),
)
_TIME = re.compile(
    r"(?<![\d:.])(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::[0-5]\d(?:[.,]\d+)?)?(?:\s?(?P<half>[ap])\.?m\b\.?)?", re.I
)
_URL = re.compile(r"\b(?:https?|ftp|file|git|ssh)://[^\s<>\"'`)\]}]+", re.I)
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"\d+(?:[,._'\u2019\u00a0\u202f ]\d{3}(?!\d))*(?:[.,]\d+)*")
_PLAIN_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_\u00c0-\u024f.])(?<!\d,)[-+\u2212]?[$€£¥]?\d+(?:[,._'\u2019\u00a0\u202f]\d{3}(?!\d))*(?:[.,]\d+)*"
)
_SPACED_NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?![\w.,]*\d)")
_SCALES: Mapping[str, int] = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ROUNDED_NUMBER = re.compile(rf"(?<![\w.,])(?P<number>\d+(?:\.\d+)?) (?P<scale>{'|'.join(_SCALES)})\b", re.I)
_UNIT = re.compile(r"(?:[kmgt]?i?b|[kmg]?hz|[mnu]?s|min|h|d|w|v|x|px|[kcm]?m|k?g|k|%|usd|eur|gbp|[ap]m)?", re.I)
_ORDINAL = re.compile(r"^[ \t>]*(?:\d{1,3}[.)]|#+)(?=\s)", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])\s+\S|^[ \t]*\|(?![ \t]*:?-)", re.MULTILINE)
_SUM = re.compile(
    r"(?<![\d.,])(?P<left>[-+]?[\d.,]{0,40}\d(?:\s{0,3}[-+*/\u00d7\u00f7\u2212]\s{0,3}[\d.,]{0,40}\d){1,50})"
    r"\s{0,3}(?:=|is|equals)\s{0,3}\*{0,3}(?P<right>[-+]?[\d.,]{0,40}\d)"
)
_QUOTED = re.compile(r"\u201c([^\u201c\u201d\n]+)\u201d|(?<![\w=])\"([^\"\n]+)\"(?!\w)|(?<!`)`+([^`\n]+)`+")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::)[A-Za-z_]\w*)+")
_CALLED = re.compile(r"((?:[A-Za-z_]\w*(?:\.|::))*[A-Za-z_]\w*)\(((?:[A-Za-z_]\w*(?:=[A-Za-z_]\w*)?(?:, ?|(?=\))))*)\)")
_WORD = re.compile(r"(?:[^\s,;+|\"\u201c\u201d`<>{}()\[\]:=]|:(?=[/\\]))+")
_FORM = re.compile(r"\{[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)*\}")  # the form of an answer in JSON
_ASKED_NAME = re.compile(r"(?<![\w./\\-])(?:[A-Za-z]+_\w+|[a-z]+[A-Z]\w*|[A-Za-z]+-\d{2,}\w*)(?![\w./\\-]\w|[\w/\\])")
_OF_WHOM = re.compile(
    r"\b(?:of|for|does|did|has|is)\s+(?P<of>[A-Z][a-z]{2,})\b"
    r"(?: (?P<surname>[A-Z][a-z]{2,})\b)?(?![\w./-]*[\w/]|\s+#?\d)"
    r"|(?<=[a-z,] )(?P<whose>[A-Z][a-z]{2,})['\u2019]s\b"
)
_NO_PERSON = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|January|February|March|April|May|June|July|August"
    r"|September|October|November|December|English|German|French|Spanish|Claude|Markdown|Python"
    r"|Windows|Linux|Docker|Kubernetes|Java|Node|Github|Project|Team|Server|Service|Section|Chapter|Table|Appendix|Room"
    r"|Mount|Lake|Doctor|Professor|The|This|That|These|All|Any|Each",
    re.I,
)
_CAPITALIZED = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_ASKS_FOR_DEFINITION = re.compile(
    r"\b(?:where|file|line|module|folder|package)\b[^.?!\n]{0,80}\b(?:defin(?:e[sd]?|ition)|declare[sd]?|implement(?:s|ed))\b",
    re.I,
)
_DEFINING = (
    "def|defun|defp|function|func|fn|fun|sub|proc|procedure|class|struct|interface|type|typedef|enum|trait|module|const"
    "|let|var|val|static|define|macro|table|view|object|message|service|package|namespace|record|union|impl|void|int"
)
_DATED = (
    r"\s(?:\w+\s)?(?:change|commit|edit|entry|event|invoice|issue|item|log|meeting|message|note|one|order|payment|post"
    r"|record|release|row|run|update|version|visit)\b"
)
_NEWEST = re.compile(rf"\b(?:last|latest|newest|most recent){_DATED}", re.I)
_OLDEST = re.compile(rf"\b(?:first|oldest|earliest){_DATED}", re.I)
_STAMP = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?")
_KEY_VALUE = re.compile(r"^[ \t]*[A-Za-z][\w -]{0,40}:[ \t]+(\S[^\n]{3,400})$", re.MULTILINE)
_CALCULATES = re.compile(r"\b(?:add|sum|plus|subtract|minus|multipl(?:y|ied)|times|divided?|product|total)\b", re.I)
_HASH = re.compile(r"[0-9a-f]{7,64}")
_BUT_NOT_IN = re.compile(
    r"\bin (?:the )?(?:file )?[\w./-]+,? (?:but|and) (?:is |are )?not in (?:the )?(?:file )?([\w-]+\.\w+)", re.I
)
_BLANK_LINES = re.compile(r"\n[ \t]*\n")
_RECORD = 12  # lines of a record; longer parts are prose
_DENIES = re.compile(
    r"\b(?:no|not|none|never|nothing|nowhere|cannot|unknown|missing|impossible)\b|n['\u2019]t\b", re.IGNORECASE
)
_EDGE = "*_~'\u2019\u2018.:!?…=#"
_ABBREVIATIONS = frozenset({"e.g", "i.e", "etc", "a.m", "p.m", "u.s", "vs", "no", "n/a", "and/or", "a.k.a"})
_LISTS = re.compile(r"list|tree|glob|find|search|(?:^|_)ls(?:_|$)", re.I)
_READS = re.compile(r"read|get|cat|open|view|show|load", re.I)
_LISTED = re.compile(r"(?:^|\n)[^\w./\n]{0,80}(?:\[FILE\]\s*|[-*]\s+)?(?:[^\s/]*/)*([\w.\-]+\.[A-Za-z]\w{0,5})(?=\s|$)")
_FILE_NAME = re.compile(
    r"(?<![\w.:/@-])(?:[\w.-]+/)*([A-Za-z0-9_][\w-]*\.[A-Za-z][A-Za-z0-9_]{0,4})(?![A-Za-z0-9_/(-]|\.\w)"
)
_MADE = re.compile(
    r"\b(?:new (?:text )?file|create|write(?: \w+){0,3} (?:to|into|in)|save(?: \w+){0,3} (?:to|as|in|into)"
    r"|(?:rename|move|copy)(?: \w+){0,3}(?: [\w./-]{1,80}) (?:to|as))"
    r"(?: (?:an?|the|file|called|named)){0,3}[ '\"`]*\Z",
    re.I,
)
"""What stands before the name of a file that is still to be made."""
_CONTENT_KEY = re.compile(r"content|text|body|data|message|value|observation", re.I)
_NO_FILE = re.compile(r"^(?:e\.g|i\.e)$|\.(?:com|org|net|io)$|^[A-Z][a-z]+\.js$")
_PATH_KEY = re.compile(r"path|file|uri|folder|dir", re.I)
_WANTS_CONTENT = re.compile(r"\b(?:read|summar|translat|compar|explain|what (?:does|do) .{1,60}\bsay)", re.I)
_ALL_FILES = re.compile(
    r"\b(?:alle dateien|tous les fichiers|todos los archivos|todos os arquivos|tutti i file|wszystkie pliki)\b"
    r"|все файлы|所有(?:的)?文件|(?:すべて|全て)のファイル|모든 파일|"
    r"\b(?:all|each|every)\b[^.?!\n]{0,40}\b(?:files?|notes?|documents?|docs|configs?|modules?|pages?|texts?)\b",
    re.I,
)
_NO_WORDS = re.compile(  # headings of diffs, placeholders of secrets, tags, LaTeX
    r"@@(?: [-+]\d{1,9}(?:,\d{1,9})?){0,2}(?: @@)?|\[secret[^\[\]]{0,60}\]|</?[A-Za-z][\w:-]{0,40}/?>|\\[a-z]+(?=\{)"
)
_OPERATIONS: Mapping[str, Callable[[Decimal, Decimal], Decimal]] = {"+": add, "-": sub, "*": mul, "/": truediv}
_SPACE = re.compile(r"[ \t\r\f\v\u00a0\u2007\u202f]+")
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-"),  # gpt-oss writes U+2011
        "\\": "/",
    }
)
_ESCAPES = re.compile(r"\\+([nrt\"'/\\])")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fact of the answer was found: a file or a call, and the line in what it gave (from 1)."""

    fact: str
    where: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.fact} ← {self.where}" + ("" if self.line is None else f":{self.line}")


@dataclass(frozen=True, slots=True)
class Grounding:
    """The facts of an answer, in its order: those with a source, and those that were found nowhere.

    What the task itself says has no source and is not missing. Of the missing, `absent` are names that the task asks
    about, and values with the name of somebody else's record: such an answer is about what is not there.
    """

    sources: tuple[Source, ...] = ()
    missing: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass
class _Text:
    """One text that the run has seen, searchable; made so only when it is searched."""

    where: str
    raw: str

    @cached_property
    def normal(self) -> str:
        return _normalize(self.raw)

    @cached_property
    def flat(self) -> str:
        return _flatten(self.normal)

    @cached_property
    def numbers(self) -> dict[Decimal, int]:
        # Also those in words; where a separator can mean two things, both values.
        found = ((value, match.start()) for match in _NUMBER.finditer(self.raw) for value in _readings(match[0]))
        return _first_lines(found, self.raw)

    @cached_property
    def dates(self) -> dict[_Day, int]:
        matches = sorted(_date_matches(self.raw), key=lambda match: match[0])
        return _first_lines(((day, start) for start, _, days in matches for day in days), self.raw)

    @cached_property
    def times(self) -> dict[int, int]:
        found = ((_minutes(match), match.start()) for match in _TIME.finditer(self.raw))
        return _first_lines(((minutes, place) for minutes, place in found if minutes is not None), self.raw)


_Find: TypeAlias = Callable[[_Text], int | None]
"""Gives the line of a fact in a text; None if it is not there."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something to look up."""

    text: str
    find: _Find
    start: int


def denies(answer: str) -> bool:
    """Whether an answer has a word of denial."""
    return bool(_DENIES.search(answer))


@dataclass(slots=True)
class Evidence:
    """What a run has seen. `given` is all that was there before the first call, `task` the task in it.

    `left` is a text that the newest edit took away and that still stands elsewhere in a file, and that file.
    """

    given: str
    task: str = ""
    _results: list[_Text] = field(default_factory=list)
    _arguments: list[str] = field(default_factory=list)  # of calls that worked: what is in them exists
    _listed: dict[str, set[str]] = field(default_factory=dict)  # names of files by the folder that was listed
    _read: set[str] = field(default_factory=set)  # paths of files that were read
    _named: set[str] = field(default_factory=set)  # last parts of the texts that calls which worked were given
    _tried: set[str] = field(default_factory=set)  # the same of all calls, also those that failed
    _contents: list[str] = field(default_factory=list)  # results of calls that worked and list no names
    _blind: list[str] = field(default_factory=list)
    _nowhere: list[str] = field(default_factory=list)  # texts that a search of all commits did not find
    left: tuple[str, str] = ("", "")

    def add(self, where: str, text: str) -> None:
        """Add the whole text of a result; `where` is the file or the call that it came from."""
        self._results.append(_Text(where, text))

    def add_call(self, server: str, tool: str, arguments: str, text: str, *, is_error: bool = False) -> None:
        """Add a call with the whole text of its result; `arguments` is JSON, as it was sent."""
        self.add(where_of(server, tool, arguments), text)
        self._tried.update(_names_in(arguments))
        if is_error:
            return
        self._arguments.append(arguments)
        self._named.update(_names_in(arguments))
        paths = paths_in(arguments)
        if _LISTS.search(tool):
            names = {match[1] for match in _LISTED.finditer(text[:MAX_EVIDENCE])}
            self._listed.setdefault(paths[0] if paths else ".", set()).update(names)
            return
        self._contents.append(text[:MAX_EVIDENCE])
        if _READS.search(tool):
            self._read.update(paths)

    def add_earlier_call(self, arguments: str) -> None:
        """Add a call that worked before the run was continued: what it was about was opened then."""
        names = _names_in(arguments)
        self._tried.update(names)
        self._named.update(names)

    def add_blind_change(self, about: str) -> None:
        """Add a change that was made after calls of which none found anything; what it was about in a few words."""
        self._blind.append(about)

    def add_found_nowhere(self, texts: Iterable[str]) -> None:
        """Add texts for which all commits were searched without a hit."""
        self._nowhere.extend(texts)

    def add_failed_change(self, arguments: str) -> None:
        """Add a call that was to change something and failed: what it was about is told elsewhere, not as unread."""
        self._named.update(_names_in(arguments))

    def add_files(self, paths: Iterable[str]) -> None:
        """Add files that were read whole, whether or not the model was shown them."""
        for path in paths:
            self._read.add(path)
            self._named.add(PurePosixPath(path).name.casefold())
            self._tried.add(PurePosixPath(path).name.casefold())

    @property
    def files(self) -> frozenset[str]:
        """The paths of the files that were read."""
        return frozenset(self._read)

    def unread(self, task: str) -> tuple[str, ...]:
        """Names of files that the task is about and that no call tried to read: named ones, or all of a folder."""
        opened = "\n".join(self._contents).casefold()
        named = dict.fromkeys(found[1] for found in _FILE_NAME.finditer(task) if not _is_made(found))
        names = [name for name in named if not (name.casefold() in opened or _NO_FILE.search(name))]
        if _ALL_FILES.search(task):
            read = self._read_names()
            names += [name for listed in self._listed.values() if listed & read for name in sorted(listed - read)]
        return tuple(dict.fromkeys(name for name in names if name.casefold() not in self._tried))

    def _read_names(self) -> set[str]:
        return {PurePosixPath(path.replace("\\", "/")).name for path in self._read}

    def coverage(self, task: str) -> str:
        """What the task names and no call that worked was about; "" if there is nothing.

        Files that the task names, and files of a folder where the task is about all of them.
        """
        opened = "\n".join(self._contents).casefold()
        named = {match[1]: _is_made(match) for match in _FILE_NAME.finditer(task)}
        unopened = [name for name in named if not (name.casefold() in self._named or _NO_FILE.search(name))]
        unopened = [name for name in unopened if named[name] or name.casefold() not in opened]
        parts = [f"did not open {', '.join(unopened[:_SHOWN_FILES])}"] if unopened else []
        if _ALL_FILES.search(task):
            read = self._read_names()
            parts += [
                f"read {len(names & read)} of {len(names)} files in {folder}"
                for folder, names in self._listed.items()
                if names - read and (names & read or _WANTS_CONTENT.search(task))
            ]
        return "; ".join(parts)

    def doubts(self, answer: str, sources: Sequence[Source]) -> tuple[str, ...]:
        """What speaks against an answer whose facts were read, in a few words each: it may be the wrong one of them."""
        blind = (f"changed {each} though nothing was found before" for each in self._blind[:_SHOWN_FILES])
        left = [
            f"{shortened(one_line(text), _SHOWN_LEFT)!r} still stands in {path}" for text, path in [self.left] if text
        ]
        return (*left, *blind, *self._misdated(answer), *self._left_out(answer, sources), *self._not_excluded(answer))

    def _misdated(self, answer: str) -> Iterator[str]:
        """A value of a record that is not the newest, or the oldest, as the task asks for. Records have dates."""
        newest = bool(_NEWEST.search(self.task))
        said = _flatten(_normalize(answer))
        for text in self._results if newest or _OLDEST.search(self.task) else ():
            parts = [part for part in _BLANK_LINES.split(text.raw) if _KEY_VALUE.search(part)]
            dated = {part: stamp[0] for part in parts if (stamp := _STAMP.search(part))}
            if not 1 < len(dated) == len(parts) == len(set(dated.values())):
                continue
            values = {part: {_flatten(_normalize(each)) for each in _KEY_VALUE.findall(part)} for part in parts}
            wanted = (max if newest else min)(dated, key=dated.__getitem__)
            others = set().union(*(values[part] for part in parts if part != wanted))
            if not any(value in said for value in values[wanted] - others):
                order = "newest" if newest else "oldest"
                yield from [
                    f"not of the {order}: {value}" for value in sorted(others - values[wanted]) if value in said
                ]

    def _left_out(self, answer: str, sources: Sequence[Source]) -> Iterator[str]:
        """Numbers that the task gives for a calculation and no call was given, where the answer is what calls gave."""
        numbers = [value for value in _numbers_in(self.task) if value >= _SMALL]
        used = {value for arguments in self._arguments for value in _numbers_in(arguments)}
        read = {source.fact for source in sources}
        said = [fact.text for fact in _facts(answer) if _counted(fact.text) is not None]
        if _CALCULATES.search(self.task) and said and read.issuperset(said) and len(used.intersection(numbers)) > 1:
            yield from (f"did not calculate with {value.normalize():f}" for value in numbers if value not in used)

    def _not_excluded(self, answer: str) -> Iterator[str]:
        """Items of an answer that stand in the file in which, as the task says, they must not."""
        match = _BUT_NOT_IN.search(self.task)
        if match is None or match[1] in answer:
            return
        lines = {
            line.strip().casefold()
            for text in self._results
            if text.where.endswith(match[1])
            for line in text.raw.splitlines()
        }
        items = [item.strip(" *`\"'.-") for item in re.split(r"[,;\n]| and ", answer)]
        if wrong := [item for item in items if item and item.casefold() in lines]:
            yield f"also in {match[1]}: {', '.join(wrong[:_SHOWN_FILES])}"

    @property
    def empty(self) -> bool:
        """Whether no result was added."""
        return not self._results

    @property
    def size(self) -> int:
        """Characters of all results."""
        return sum(len(text.raw) for text in self._results)

    def check(self, answer: str) -> Grounding:
        """Look up the facts of an answer. Takes time in proportion to what was seen."""
        given = _Text("", "\n".join((self.given, *self._arguments)))
        seen, room = list[_Text](), MAX_EVIDENCE
        for text in reversed(self._results):
            if room > 0:
                seen.append(_Text(text.where, text.raw[:room]) if len(text.raw) > room else text)
                room -= len(text.raw)
        seen.reverse()
        counts = self._counts(answer)
        sources: dict[str, Source] = {}
        missing: dict[str, None] = {}
        for fact in _facts(answer):
            if fact.text in sources or fact.text in missing:
                continue
            found = next(((text.where, line) for text in seen if (line := fact.find(text)) is not None), None)
            if found is not None:
                sources[fact.text] = Source(fact.text, *found)
            elif fact.find(given) is None and not _is_count(fact.text, counts):
                missing[fact.text] = None
        absent = tuple(dict.fromkeys((*self._unread_names(answer), *self._misplaced(sources, seen))))
        missing |= dict.fromkeys((*absent, *self._unread_persons(answer)))
        calculated = _Calculated(self.task or self.given, [text.raw for text in seen] if missing else [])
        nowhere = [f for f in missing if not (_is_shown_sum(f, answer) or calculated.holds(f))]
        return Grounding(tuple(sources.values()), tuple(nowhere), absent)

    def _unread_names(self, answer: str) -> Iterator[str]:
        """Names out of code, codes, and what was looked for in commits, that the task has and that stand in no result.

        A value that an answer gives for such a name is that of another. So is a place where a name is only used, if the
        task asks for its definition. None if the answer denies, or nothing was read.
        """
        if not self.task or not self._results or denies(answer):
            return
        for name in dict.fromkeys(_ASKED_NAME.findall(_FORM.sub(" ", self.task))):
            find = _finder(name)
            lines = [text.raw for text in self._results if find(text) is not None]
            if not lines and name not in "\n".join(self._arguments):
                yield name
            elif lines and _ASKS_FOR_DEFINITION.search(self.task) and not _defines(name, "\n".join(lines)):
                yield f"a definition of {name}"
        read = "\n".join([*(text.raw for text in self._results), *self._arguments]).casefold()
        for text in self._nowhere:
            asked = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", self.task, re.IGNORECASE)
            if asked and text.casefold() not in read:
                yield text

    def _unread_persons(self, answer: str) -> Iterator[str]:
        """Whom or what the task asks a number of and who stands in no result, such as `Chen`.

        A result may call it something else, as `de` for Germany: that is for the reader to judge.
        """
        if not self.task or not self._results or denies(answer):
            return
        read = "\n".join([*(text.raw for text in self._results), *self.files]).casefold()
        for match in _OF_WHOM.finditer(self.task):
            name = match["of"] or match["whose"]
            names = [name.removesuffix("s").casefold(), *((match["surname"] or "").casefold().split())]
            known = _NO_PERSON.fullmatch(name) or any(each in read for each in names)
            if not known and re.search(r"\d", answer):
                yield name

    def _misplaced(self, sources: Mapping[str, Source], seen: Sequence[_Text]) -> Iterator[str]:
        """Numbers and codes that stand only in records of others than the one person or thing that the task names.

        Records are the parts of a text between blank lines.
        """
        names = set(_CAPITALIZED.findall(self.task))
        records = [part for text in seen for part in _BLANK_LINES.split(text.raw) if part.strip()]
        named = {name: [part for part in records if name in part] for name in names}
        known = [name for name, parts in named.items() if 0 < len(parts) < len(records)]
        if len(known) != 1 or any(part.count("\n") > _RECORD for part in records):
            return
        for fact in sources:
            holding = [part for part in records if fact in part] if re.search(r"\d", fact) else []
            if holding and not any(part in named[known[0]] for part in holding):
                yield f"{known[0]} with {fact}"

    def _counts(self, answer: str) -> frozenset[int]:
        """Numbers that a reader gets by counting: lines of a result, items of the answer, calls."""
        counts = {sum(1 for line in text.raw.splitlines() if line.strip()) for text in self._results}
        counts |= {count - 1 for count in counts}  # without a heading
        return frozenset({*counts, len(_ITEM.findall(answer)), len(self._results)})


def _is_made(name: re.Match[str]) -> bool:
    """Whether the name of a file in a task is that of one that is still to be made."""
    return bool(_MADE.search(name.string, 0, name.start()))


def _defines(name: str, text: str) -> bool:
    """Whether a line of code or of a configuration may define a name."""
    name = re.escape(name)
    keyword = rf"\b(?:{_DEFINING})\b[^\n=(]{{0,60}}(?<!\w){name}\b"
    assigned = rf"(?<![\w.]){name}[\"'\]]{{0,2}}[ \t]*(?:\([^\n;]{{0,200}}\)[^\n;]{{0,60}}\{{|:(?!\d)|=(?!=)|<-)"
    return bool(re.search(f"{keyword}|{assigned}", text, re.IGNORECASE))


def where_of(server: str, tool: str, arguments: str) -> str:
    """A call in a few characters: the path that it was about, else server and tool. `arguments` is JSON."""
    values = load_or_none(arguments)
    for key in ("path", "file", "file_path", "filename", "filepath", "uri", "url"):
        if isinstance(values, dict) and isinstance(value := values.get(key), str) and value:
            return value
    return f"{server} {tool}"


def paths_in(arguments: str) -> list[str]:
    """The texts in a call's arguments under names of paths, also in lists."""
    values = load_or_none(arguments)
    named = [values[key] for key in values if _PATH_KEY.search(key)] if isinstance(values, dict) else []
    lists = [value if isinstance(value, list) else [value] for value in named]
    return [each for found in lists for each in found if isinstance(each, str)]


def _names_in(arguments: str) -> set[str]:
    """The last parts of the short texts in a call's arguments: names of files, if they are paths."""
    try:
        texts = list(_leaves(load_or_none(arguments), but=_CONTENT_KEY))
    except RecursionError:
        return set()
    short = [text for text in texts if len(text) <= _MAX_PATH]
    words = [word for text in short for word in (text, *re.split(r"[\s,;|:]+", text))]
    return {re.split(r"[/\\]", word.rstrip("/\\"))[-1].casefold() for word in words}


def _facts(answer: str) -> Iterator[_Fact]:
    """The facts of an answer in its order, at most `MAX_FACTS`."""
    text = _NO_WORDS.sub(" ", _answer_text(answer).replace("\u2011", "-"))
    taken = bytearray(len(text))
    facts: list[_Fact] = []
    for start, end, fact, find in _candidates(text):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            facts.append(_Fact(fact, find, start))
    yield from sorted((fact for fact in facts if fact.text), key=lambda fact: fact.start)[:MAX_FACTS]


def _candidates(text: str) -> Iterator[tuple[int, int, str, _Find]]:
    """What may be a fact: where it begins and ends, the words of it, how to find it. What overlaps an earlier one is
    none; nor is what has no words."""
    for match in _ORDINAL.finditer(text):
        yield *match.span(), "", _finder("")
    for match in _URL.finditer(text):
        url = match[0].rstrip(".,;:!?*_")
        yield match.start(), match.start() + len(url), url, _finder(url.rstrip("/"))
    for match in _MAIL.finditer(text):
        mail = match[0].rstrip(".")
        yield *match.span(), mail, _finder(mail)
    for start, end, values in _date_matches(text):
        yield start, end, text[start:end].strip(), _date_finder(values)
    for match in _TIME.finditer(text):
        if (minutes := _minutes(match)) is not None:
            yield *match.span(), match[0].strip(), _time_finder(minutes)
    for match in _QUOTED.finditer(text):
        quoted, is_code = match[match.lastindex or 0], match.lastindex == 3
        if _is_quotation(quoted, code=is_code):
            yield *match.span(), quoted.strip(), _code_span_finder(quoted) if is_code else _quote_finder(quoted)
    for match in _WORD.finditer(text):
        word = match[0].rstrip(_EDGE).lstrip(_EDGE.replace(".", "")).rstrip("-").lstrip("@")
        start = match.start() + match[0].find(word)
        if _is_telling(word):
            yield start, start + len(word), word, _word_finder(word)
    for match in _SPACED_NUMBER.finditer(text):
        yield *match.span(), match[0], _spaced_finder(match[0])
    for match in _ROUNDED_NUMBER.finditer(text):
        yield *match.span(), match[0], _rounded_finder(match["number"], _SCALES[match["scale"].casefold()])
    for match in _PLAIN_NUMBER.finditer(text):
        digits = match[0].rstrip(".,'\u2019_\u00a0\u202f")
        value = _counted(digits)
        is_address = re.fullmatch(r"\d+(?:\.\d{1,3}){2,}", digits) and not re.search(r"\.\d{3}\Z", digits)  # 10.0.0.1
        if value is not None or is_address:
            find = _finder(digits) if value is None else _number_finder(value)
            yield match.start(), match.start() + len(digits), digits.lstrip("+$€£¥"), find


def _answer_text(answer: str) -> str:
    """The text in which facts are looked for: of an answer that is JSON, its values only, one a line."""
    value = load_or_none(answer)
    return "\n".join(_leaves(value)) if isinstance(value, dict | list | str) else answer


def _leaves(value: object, *, but: re.Pattern[str] | None = None) -> Iterator[str]:
    """The texts and numbers in a JSON value, except under keys that match `but`."""
    if isinstance(value, dict):
        for key, child in value.items():
            if but is None or not but.search(key):
                yield from _leaves(child, but=but)
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, but=but)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _is_quotation(text: str, *, code: bool) -> bool:
    words = text.split()
    if code:
        return bool(re.search(r"[A-Za-z]{2}", text)) and (len(words) > 1 or _is_telling(text.strip(_EDGE)))
    return len(words) > 1 and len(text) >= _SHORT_QUOTE


def _is_telling(word: str) -> bool:
    """Whether a word is one that nobody writes without having read it: a path, a name out of code, a code."""
    is_word = 3 <= len(word) <= _MAX_WORD and re.search(r"[A-Za-z]", word)
    if not is_word or word.casefold().strip(".") in _ABBREVIATIONS:
        return False
    if re.fullmatch(r"[A-Za-z]+(?:['\u2019-][A-Za-z]+)*", word):
        return bool(re.search(r"^[a-z]+[A-Z]", word))  # camelCase; GitHub and JavaScript are words
    if re.fullmatch(rf"[-+]?[$€£¥]?[\d.,]+{_UNIT.pattern}", word, re.I):
        return False  # a number with its unit
    if re.fullmatch(r"[A-Za-z]+(?:/[A-Za-z]+)", word):
        return False  # read/write
    if re.search(r"[A-Za-z]-?\d|\d-?[A-Za-z]", word):
        return not re.fullmatch(r"\d+(?:st|nd|rd|th)|\d+-(?:[a-z]+)", word, re.I)  # 2nd, 5-digit
    if "_" in word.strip("_"):
        return True
    if re.search(r"[\w.~-]*[/\\][\w.~-]+", word):
        return bool(re.search(r"[./\\~].*[./\\]|\.\w+$|^[./~\\]", word))
    return bool(re.search(r"\w\.[A-Za-z]\w{0,9}$", word)) and not re.search(r"\.[A-Z][a-z]+$", word)  # file.ext, a.b


def _finder(text: str) -> _Find:
    wanted = _normalize(text)
    return lambda seen: _line_at(seen.normal, seen.normal.find(wanted))


def _pattern_finder(pattern: str) -> _Find:
    compiled = re.compile(pattern)

    def find(seen: _Text) -> int | None:
        match = compiled.search(seen.normal)
        return match and _line_at(seen.normal, match.start())

    return find


def _line_at(text: str, place: int) -> int | None:
    return None if place < 0 else text.count("\n", 0, place) + 1


def _either(*finders: _Find | None) -> _Find:
    """Finds what the first of these finds that finds anything."""
    return lambda seen: next((line for find in finders if find and (line := find(seen)) is not None), None)


def _word_finder(word: str) -> _Find:
    """Finds a word or a path; of a path that was put together from a folder and a listing, its last part.

    So of a dotted name if that part is telling: it is defined without its class.
    """
    whole = _code_finder(re.sub(r"^\.{1,2}(?:/|$)|^\.{2,}|^v(?=\d)", "", word))
    parts = [part for part in re.split(r"[/\\]", word) if part not in ("", ".", "..", "~")]
    return _either(whole, _code_finder(parts[-1]) if len(parts) > 1 else _attribute_finder(word))


def _code_span_finder(text: str) -> _Find:
    """Finds code; also the name of a function that it calls, where the names of the arguments are in the text, too."""
    whole, called = _quote_finder(text), _CALLED.fullmatch(text)
    if called is None:
        return _either(whole, _attribute_finder(text))
    named = _either(_whole_word_finder(called[1]), _attribute_finder(called[1]))
    arguments = [_quote_finder(each) for each in called[2].split(",") if each.strip()]
    return _either(whole, lambda seen: None if any(each(seen) is None for each in arguments) else named(seen))


def _attribute_finder(name: str) -> _Find | None:
    """Finds the last part of a dotted name, if it is a telling one."""
    last = re.split(r"\.|::", name)[-1]
    return _whole_word_finder(last) if _DOTTED.fullmatch(name) and _is_telling(last) else None


def _whole_word_finder(word: str) -> _Find:
    return _pattern_finder(rf"(?<!\w){re.escape(_normalize(word))}(?!\w)")


def _code_finder(text: str) -> _Find:
    """Finds a text, but not one whose number goes on: `juniper-478` is not in `juniper-4781`. Hashes may be cut."""
    wanted = _normalize(text)
    if not wanted[-1:].isdigit() or _HASH.fullmatch(wanted):
        return _finder(text)
    return _pattern_finder(rf"{re.escape(wanted)}(?!\d)")


def _quote_finder(text: str) -> _Find:
    """Finds a quotation, also over line ends; of one with an ellipsis, its parts."""
    parts = [_flatten(_normalize(part)).strip(" .,:;!?'\"*_") for part in re.split(r"…|\.\.\.", text[:_MAX_QUOTE])]
    wanted = [part for part in parts if part]
    start = _finder(" ".join(text.split()[:2]).strip("`\"'*_.,:;"))
    return lambda seen: (start(seen) or 1) if wanted and all(part in seen.flat for part in wanted) else None


def _spaced_finder(text: str) -> _Find:
    """Finds 1 234 567 as one number, or as the numbers 1, 234 and 567."""
    parts = [_number_finder(Decimal(part).normalize()) for part in text.split()]

    def find_parts(seen: _Text) -> int | None:
        lines = [part(seen) for part in parts]
        return None if None in lines else lines[0]

    return _either(_number_finder(Decimal(text.replace(" ", ""))), find_parts)


def _rounded_finder(number: str, scale: int) -> _Find:
    """Finds 1.2 million also as a number that is rounded to it."""
    wanted = Decimal(number)
    half = Decimal(1).scaleb(-len(number.partition(".")[2])) / 2

    def find(seen: _Text) -> int | None:
        close = (line for value, line in seen.numbers.items() if abs(value / scale - wanted) <= half)
        return next(close, seen.numbers.get(wanted.normalize()))

    return find


def _number_finder(value: Decimal) -> _Find:
    return lambda seen: seen.numbers.get(abs(value))


def _date_finder(days: Iterable[_Day]) -> _Find:
    def find(seen: _Text) -> int | None:
        for year, *day in days:
            for known, line in seen.dates.items():
                if [*known[1:]] == day and (year is None or known[0] in (None, year)):
                    return line
        return None

    return find


def _time_finder(minutes: int) -> _Find:
    return lambda seen: seen.times.get(minutes)


def _first_lines(found: Iterable[tuple[K, int]], text: str) -> dict[K, int]:
    """Each value that was found in a text, with the line where it comes first."""
    lines: dict[K, int] = {}
    line, looked = 1, 0
    for value, place in found:
        if place >= looked:
            line += text.count("\n", looked, place)
            looked = place
        lines.setdefault(value, line)
    return lines


def _readings(number: str) -> set[Decimal]:
    """What a number may mean: 1,234 is 1234, or 1.234 where the comma is a decimal one; 1 2 are also two numbers."""
    plain = re.sub(r"[ _'\u2019\u00a0\u202f]", "", number)
    forms = {plain.replace(",", ""), plain.replace(".", "").replace(",", "."), plain}
    forms |= set(re.split(r"[ '\u2019\u00a0\u202f]", number))
    if number.count(".") > 1:  # of version 3.11.7, also 3.11
        forms.add(".".join(number.split(".")[:2]))
    values = set()
    for form in forms:
        with suppress(DecimalException):
            values.add(Decimal(form).normalize())
    return values


def _counted(number: str, *, least: int = _SMALL) -> Decimal | None:
    """The value of a number in an answer, if it is one that must have been read: one digit may be a count."""
    digits = re.sub(r"[-+\u2212$€£¥ _'\u2019\u00a0\u202f]", "", number)
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    try:
        value = Decimal(digits.replace(",", ".")).normalize()
    except DecimalException:
        return None
    return None if value < least and value == value.to_integral_value() else value


def _is_count(fact: str, counts: frozenset[int]) -> bool:
    return fact.isascii() and fact.isdecimal() and len(fact) < 7 and int(fact) in counts


def _is_shown_sum(fact: str, answer: str) -> bool:
    """Whether a number is the result of a calculation that the answer shows, and that is right."""
    wanted = _counted(fact)
    if wanted is None:
        return False
    for match in _SUM.finditer(answer):
        right = _counted(match["right"].strip("*"))
        if right == wanted and _value_of(match["left"]) == right:
            return True
    return False


class _Calculated:
    """Numbers that follow from those of the task and of the results by a calculation that a reader might do.

    These are numbers that were rounded, if three digits are left; what two numbers give when they are added,
    subtracted, multiplied or divided, also as a percentage; the sum and the average of a column, of its rows that hold
    a word of the task, and of the last numbers of all results.
    From many numbers nearly anything follows: so only as many are used as leave a chance hit unlikely.
    """

    def __init__(self, task: str, results: Sequence[str]) -> None:
        self._words = list(dict.fromkeys(re.findall(r"\w{3,}", task.casefold())))[:_MAX_WORDS]
        numbers = _numbers_in(task)
        lists = [_numbers_in(text) for text in results]
        last = [numbers[-1] for numbers in lists if numbers]
        operands = [numbers, *lists, [*numbers, *last], [*numbers, *chain.from_iterable(lists)]]
        self._operands = [set(each) for each in operands]
        columns = chain([numbers, last], (column for text in results for column in self._columns(text)))
        self._decimals = [value for value in chain(numbers, *lists) if value != value.to_integral_value()]
        self._totals = list(islice(chain.from_iterable(map(_totals, columns)), _MAX_RESULTS))

    def holds(self, fact: str) -> bool:
        """Whether a number that was found nowhere is one of them."""
        wanted = abs(_counted(fact) or Decimal(0))
        digits, exponent = len(wanted.as_tuple().digits), wanted.as_tuple().exponent
        if not wanted or digits > _MAX_DIGITS or not isinstance(exponent, int):
            return False
        half = Decimal(1).scaleb(min(0, exponent)) / 2
        most = min(max(12, 10**digits // 20), _MAX_RESULTS)  # so many hit by chance in one of twenty cases
        few = (numbers for numbers in self._operands if 6 * len(numbers) * (len(numbers) - 1) <= most)
        pairs = chain.from_iterable(permutations(numbers, 2) for numbers in few)
        rounded = self._decimals[:most] if digits > 2 else ()
        found = chain(self._totals[:most], rounded, chain.from_iterable(map(_results_of, pairs)))
        return any(abs(abs(value) - wanted) <= half for value in found)

    def _columns(self, text: str) -> Iterator[list[Decimal]]:
        """The columns of numbers in each table: whole, and only with the rows that hold a word of the task.

        A table is all rows of a text if they have as many numbers each, or some that follow each other and begin alike.
        """
        rows = [(line.casefold(), numbers) for line in text[:_MAX_TABLE].splitlines() if (numbers := _numbers_in(line))]
        tables = [rows]
        if len({len(numbers) for _, numbers in rows}) != 1:
            alike = groupby(rows, key=lambda row: (len(row[1]), re.sub(r"\w", "", row[0].lstrip()[:1])))
            tables = [list(table) for _, table in alike]
        for table in tables:
            some = [word for word in self._words if 1 < sum(word in line for line, _ in table) < len(table)]
            for word in ("", *some):
                yield from map(list, zip(*(numbers for line, numbers in table if word in line), strict=True))


def _numbers_in(text: str) -> list[Decimal]:
    """The numbers of a text in their order, with a separator read as in English."""
    found = (_counted(match[0], least=0) for match in _NUMBER.finditer(text[:_MAX_CALCULATED]))
    return [value for value in found if value is not None]


def _results_of(pair: tuple[Decimal, Decimal]) -> Iterator[Decimal]:
    first, second = pair
    for operation in _OPERATIONS.values():
        with suppress(DecimalException):
            value = operation(first, second)
            yield from (value, value * 100) if operation is truediv else (value,)
    with suppress(DecimalException):
        yield (first - second) / second * 100


def _totals(numbers: Sequence[Decimal]) -> Iterator[Decimal]:
    """The sum, the average and the product of more than one number."""
    if len(numbers) > 1:
        total = sum(numbers)
        yield from (Decimal(total), total / Decimal(len(numbers)))
        if len(numbers) <= _SMALL:
            yield reduce(mul, numbers)


def _value_of(expression: str) -> Decimal | None:
    """The value of a chain of one kind of operation, rounded as a reader would; None for mixed ones."""
    operators = {"\u00d7": "*", "\u00f7": "/", "\u2212": "-"}
    kinds = {operators.get(sign, sign) for sign in re.findall(r"(?<=[\d\s])[-+*/\u00d7\u00f7\u2212]", expression)}
    if len(kinds) != 1:
        return None
    parts = re.split(r"\s*[-+*/\u00d7\u00f7\u2212]\s*", expression.strip())
    try:
        return reduce(_OPERATIONS[kinds.pop()], [Decimal(part.replace(",", "")) for part in parts]).normalize()
    except DecimalException:
        return None


def _date_matches(text: str) -> Iterator[tuple[int, int, set[_Day]]]:
    """Where dates are in a text, and which days each can mean."""
    for pattern in _DATES:
        for match in pattern.finditer(text):
            groups = match.groupdict()
            year = int(groups["year"]) if groups.get("year") else None
            if groups.get("month"):
                month = next(n for n, name in enumerate(_MONTHS, 1) if name.startswith(groups["month"][:3].casefold()))
                days = {(year, month, int(groups["d"]))}
            elif groups.get("a"):
                first, second = int(groups["a"]), int(groups["b"])
                days = {(year, first, second), (year, second, first)}
            else:
                days = {(year, int(groups["m"]), int(groups["d"]))}
            if days := {day for day in days if 1 <= day[1] <= 12 and 1 <= day[2] <= 31}:
                yield match.start(), match.end(), days


def _minutes(match: re.Match[str]) -> int | None:
    """A time of day in minutes after midnight."""
    hours, half = int(match["h"]), (match["half"] or "").casefold()
    if half and not 1 <= hours <= 12:
        return None
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    return hours * 60 + int(match["m"])


def _normalize(text: str) -> str:
    """The text as it is compared: its lines stay lines."""
    text = _ESCAPES.sub(lambda match: "\n" if match[1] == "n" else " " if match[1] in "rt" else match[1], text)
    text = text.casefold().translate(_QUOTES).replace("**", "").replace("`", "")
    return _SPACE.sub(" ", text)


def _flatten(normal: str) -> str:
    """Normalized text as one line, without quotes, for quotations that go over lines."""
    return " ".join(normal.replace('"', "").replace("'", "").split())
