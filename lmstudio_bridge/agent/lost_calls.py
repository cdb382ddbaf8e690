"""Tool calls that stand in the text of a reply, told from mentions of a tool without knowing the notation.

The parsers of `lmstudio` read the notations that are known. What they leave is looked at here for one thing only: does
the reply, at its beginning or its end, hold something other than prose that names a tool where a call would name it?
That is a call that nobody has run, and never an answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_HEAD = 8_000  # characters at the beginning of a reply that are looked at
_TAIL = 30_000  # characters at its end
_MOST_NAMES = 30  # names of tools in each of them that are looked at
_AROUND = 120  # characters before and behind a name
_MOST_PLAIN = 2_000  # characters of arguments that stand in no brackets

_WORD = re.compile(r"[A-Za-z_][\w-]*+")
_NAMESPACE = re.compile(r"([A-Za-z_][\w-]*)(?:[./:]|::)\Z")
_NAMESPACES = ("functions", "function", "tools", "tool", "default_api", "api", "mcp")
_KEYS = (
    r"name|tool|tool[_ -]?name|tool[_ -]?call|function|function[_ -]?name|function[_ -]?call|call|action|act|method"
    r"|recipient[_ -]?name|recipient|to|command|cmd|invoke|use|run|do|exec|execute|op|operation|api|step"
)
# "name": "X", tool=X, <function=X, Action: X
_KEY_BEFORE = re.compile(rf"(?:\A|[\W_])(?:{_KEYS})[\"'`]?\s{{0,3}}(?:[:=]|=>)\s{{0,3}}[\"'`]?\Z", re.IGNORECASE)
_LABEL_BEFORE = re.compile(rf"(?:\A|\n)[^\w\n]{{0,6}}(?:{_KEYS})[*_`]{{0,2}}\s*:\s*[*_`\"']{{0,3}}\Z", re.IGNORECASE)
_KEYED_LINES = re.compile(
    r"[\"'`*_]{0,3}[ \t]*(?:\n[ \t]*[-*]?[ \t]*(?!(?:final )?answer|result|output|observation|source)"
    r"[\w \"'-]{1,40}[:=][^\n]*)+\s*\Z",
    re.IGNORECASE,
)
_AS_KEY = re.compile(r"[\"']\s{0,3}:\s{0,3}[{\[]")  # "X": {
_OBJECT_AFTER = re.compile(r"([^{.!?]{0,80})\{")  # X … {
_GROUP_AFTER = re.compile(r"[\"'`*]{0,2}\s?\(")  # X(
_PAIRS_AFTER = re.compile(
    r"(?:[ \t,]+[\w-]{1,40}\s?[=:]\s?(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'=]+))+[ \t]*\W{0,20}\w{0,20}\W{0,20}\Z"
)
_PLAIN_WORD = re.compile(r"(?<![^\s])[A-Za-z]+(?![^\s:])")
_GLUE = re.compile(
    r"with|args?|arguments?|param(?:eter)?s?|inputs?|json|data|call|code|function|tool|action|using|and|the|these"
    r"|following|as|xml|commentary|analysis|assistant",
    re.IGNORECASE,
)
_SAID_BEFORE = re.compile(r"(?:source|sources|via|from|used|using|cite|ref|see|by|called|ran|of)\W*\Z", re.IGNORECASE)
_INTENT = re.compile(
    r"\b(?:let me|let's|i'll|i will|i am going to|i'm going to|i need to|i must|i should|i call|i use|calling"
    r"|now|next|first|then)\b[^.!?\n]*\Z",
    re.IGNORECASE,
)
_LINE_START = re.compile(
    r"(?:\A|\n)(?:[^\w\n]|\b(?:print|await|return|call|tool[ _]?calls?|function[ _]?call|action|run|use|invoke|step)\b"
    r"|\b\w{1,20} ?= ?(?=\S*\Z)){0,12}\Z",
    re.IGNORECASE,
)
_MARKS_ONLY = re.compile(r"(?:<[^<>\n]{0,80}>|\[/?[\w ]{1,40}\]|[^\w])*+\Z")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*$", re.MULTILINE)
_QUOTES = "\"'`*_(\u201c\u201d\u2018\u2019\u00ab\u00bb"
_PROSE_MARKS = ").,;:!?%\u2026\u2013\u2014"
_OPENERS, _CLOSERS = "{[(", "}])"


@dataclass(frozen=True, slots=True)
class _Named:
    """A place where a tool is named. `certain` says that the word can hardly be anything but the tool's name."""

    start: int
    end: int
    name: str
    certain: bool


def holds_lost_call(text: str, names: Collection[str]) -> bool:
    """Whether the reply is, or ends in, something other than prose that names one of the tools as a call would."""
    return _Finder(names).holds_call(text)


class _Finder:
    """Looks for calls of these tools."""

    def __init__(self, names: Collection[str]) -> None:
        self._names: dict[str, tuple[str, bool]] = {}
        short: dict[str, str | None] = {}
        for name in names:
            _, _, last = name.partition("__")
            if last:
                short[_letters(last)] = None if _letters(last) in short else name
        for letters, meant in short.items():
            if letters and meant is not None:
                self._names[letters] = meant, "_" in meant.partition("__")[2].strip("_")
        for name in names:
            self._names[_letters(name)] = name, True
        self._servers = {_letters(name.partition("__")[0]) for name in names if "__" in name}

    def holds_call(self, text: str) -> bool:
        text = text.strip()
        if not text or not self._names:
            return False
        tail = text[-_TAIL:]
        if self._ends_in_call(tail):
            return True
        return not text[0].isalnum() and self._begins_with_call(text[:_HEAD])

    def _ends_in_call(self, text: str) -> bool:
        block = _last_fence(text)
        if block is not None and self._is_call_in_code(text[slice(*block)]):
            return True
        return any(self._is_call(text, named) for named in self._find_names(text, last=True))

    def _begins_with_call(self, text: str) -> bool:
        """Whether the text opens with a call, whatever is said behind it."""
        if text.startswith(("```", "~~~")):
            body, _, _ = text.partition("\n")[2].partition("\n```")
            return self._is_call_in_code(body)
        for named in self._find_names(text, last=False):
            before = text[: named.start]
            if "\n\n" in before or len(before) > _AROUND:
                return False
            if named.certain and _MARKS_ONLY.match(re.sub(rf"\b(?:{_KEYS})\b", "", before, flags=re.IGNORECASE)):
                after = text[named.end : named.end + _AROUND]
                return text[0] in "<{" or bool(_object_after(after)) or bool(_GROUP_AFTER.match(after))
        return False

    def _find_names(self, text: str, *, last: bool) -> list[_Named]:
        found = []
        for match in _WORD.finditer(text):
            known = self._names.get(_letters(match[0]))
            if known is None:
                continue
            name, certain = known
            start = match.start()
            full = _letters(match[0]) == _letters(name)
            if not full and (space := _NAMESPACE.search(text, max(0, start - 60), start)):
                owner = _letters(space[1])
                if owner in self._servers:
                    certain = True
                elif owner not in _NAMESPACES and text[start - 1] == ".":
                    continue  # a method of something else
            found.append(_Named(start, match.end(), name, certain))
        return found[-_MOST_NAMES:] if last else found[:_MOST_NAMES]

    def _is_call_in_code(self, code: str) -> bool:
        """Whether a code block is a call, and not a program or a list that names tools."""
        code = code.strip()
        names = self._find_names(code, last=True)
        if any(self._is_call(code, named) for named in names):
            return True
        if len({named.name for named in names}) != 1:
            return False
        first = names[0]
        alone = first.certain and not code[: first.start].strip("\"'`<[{(@#-* \t")
        return alone and bool(re.match(r"[\"'`]?\s*[\n{(\[<:]", code[first.end :])) and bool(code[first.end :].strip())

    def _is_call(self, text: str, named: _Named) -> bool:
        before = text[max(0, named.start - _AROUND) : named.start]
        after = text[named.end : named.end + _AROUND]
        rest = text[named.end :]
        if _SAID_BEFORE.search(before):
            return False
        if object_start := _object_after(after):
            if named.certain or object_start == 1:
                return _ends_here(text, named.end + object_start - 1)
            if not _KEY_BEFORE.search(before):
                return False
        if group := _GROUP_AFTER.match(after):
            if not _ends_here(text, named.end + group.end() - 1):
                return False
            if not named.certain:
                return not before.strip(_QUOTES + " \t\n[") and "=" in rest
            return any(each.search(before) for each in (_KEY_BEFORE, _LINE_START, _INTENT))
        if _KEY_BEFORE.search(before) or (before[-1:] in "\"'" and _AS_KEY.match(after)):
            if _ends_structured(rest) and (named.certain or _has_arguments(text)):
                return True
            labeled = named.certain and bool(_LABEL_BEFORE.search(before))
            return labeled and bool(_KEYED_LINES.match(rest[:_MOST_PLAIN]))
        if not named.certain:
            return False
        is_cell = (before[-1:], after[:1]) == ("|", "|")
        if _is_mark(before[-1:]) and _is_mark(after[:1]) and not is_cell and not after.startswith("]("):
            return _ends_structured(rest) and bool(re.search(r"\w", rest))
        if before.endswith(("[[", "<", "<<", "{{")) and _ends_structured(rest):
            return True
        return bool(_LINE_START.search(before)) and bool(_PAIRS_AFTER.match(rest[:_MOST_PLAIN]))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _last_fence(text: str) -> tuple[int, int] | None:
    """The inside of the code block that the text ends in; also of one that was not closed."""
    fences = list(_FENCE.finditer(text))
    if not fences:
        return None
    if len(fences) % 2:
        return fences[-1].end(), len(text)
    if text[fences[-1].end() :].strip():
        return None
    return fences[-2].end(), fences[-1].start()


def _object_after(after: str) -> int:
    """How far behind a name its object begins, counted from 1; 0 if there is none, or prose before it."""
    match = _OBJECT_AFTER.match(after)
    if match is None:
        return 0
    return match.end() if all(map(_GLUE.fullmatch, _PLAIN_WORD.findall(match[1]))) else 0


def _ends_here(text: str, start: int) -> bool:
    """Whether only marks and further groups follow the group that is opened at `start`; also if it stays open."""
    depth = 0
    quote = ""
    escaped = False
    for position in range(start, len(text)):
        char = text[position]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
        elif char == '"':
            quote = char
        elif char in _OPENERS:
            depth += 1
        elif char in _CLOSERS:
            depth -= 1
            if depth == 0:
                return _is_over(text[position + 1 :])
    return True


def _is_over(rest: str) -> bool:
    """Whether what follows a call is only marks, or more calls."""
    if rest.startswith((".", "!", "?", ";", ":")) and not rest[1:2].strip():
        return False  # the end of a sentence
    return bool(_MARKS_ONLY.match(rest)) or rest.rstrip().endswith(("}", ")]", ">", "```"))


def _ends_structured(rest: str) -> bool:
    """Whether the text ends as markup does, and as no sentence does."""
    end = rest.rstrip()
    return end.endswith("```") or _is_mark(end[-1:]) or end[-2:] == ")]"


def _is_mark(char: str) -> bool:
    return bool(char) and not char.isalnum() and not char.isspace() and char not in _QUOTES + _PROSE_MARKS


def _has_arguments(text: str) -> bool:
    return bool(re.search(r"[\"'<](?:arguments?|args|param(?:eter)?s?|input)\b", text, re.IGNORECASE))
