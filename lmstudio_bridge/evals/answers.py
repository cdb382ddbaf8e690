"""What an answer says of several things: what belongs to what, which numbers, what differs, what was not found.

Each check takes a right answer in any form (sentences, lists, tables, JSON; in any order) and refuses a wrong one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from lmstudio_bridge.evals.checks import holds
from lmstudio_bridge.evals.tasks import Check, World

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_LIST_NUMBER = re.compile(r"^(\s*)\d{1,2}[.)](?=\s)", re.MULTILINE)
_NUMBER = re.compile(r"(?<!\d)(?<!\d[.,])\d+(?:[,.'\u2009\u202f\u00a0]\d{3}(?!\d))*(?:[.,]\d+)?(?![.,]?\d)")
_CLAUSE = re.compile(r"[,;|\n]|\. | and | but | while | vs\.? | versus ", re.IGNORECASE)
_LINE = re.compile(r"\n")
_SAME = re.compile(r"\b(same|equal|identical|unchanged|match|matches|in both|no difference)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:no|not|none|nobody|nothing|nowhere|never|neither|cannot|unable|unknown|missing|absent|empty|lacks?|without"
    r"|impossible|null|n/a)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_EXCUSE = re.compile(
    r"\b(?:cannot|can.?t|could not|couldn.?t|unable to|not able to|do not|don.?t|need to|have to) (?:directly )?"
    r"(?:have )?(?:access|open|read)\b"
    r"|(?<!in )(?<!in the )\b(?:file|folder|path|repository) \S+ "
    r"(?:was not found|not found|does not exist|doesn.t exist|could not be)"
    r"|no such file|\blet me (?:check|look|read|search|see)|\b(?:i.ll|i will) (?:need|check|look|read|search|now)",
    re.IGNORECASE,
)


# -- what belongs to what ---------------------------------------------------------------------------------------------


def says_together(groups: Mapping[str, Sequence[object]], *, never: Iterable[object] = ()) -> Check:
    """The answer says each fact, and that it belongs to its key, such as a file's name.

    A fact belongs to the only key in its clause or else in its line, or else to the nearest key before it (or, in the
    whole answer, after it). None of `never` may be said.
    """
    unwanted = tuple(never)

    def check(world: World) -> str:
        text = _without_list_numbers(world.answer)
        if wrong := [str(fact) for fact in unwanted if _spans(text, fact)]:
            return f"the answer also says {', '.join(wrong)}"
        if missing := [str(each) for key, facts in groups.items() for each in (key, *facts) if not _spans(text, each)]:
            return f"the answer does not say {', '.join(missing)}"
        owners = _Owners(text, groups)
        if mixed := [f"{fact} to {key}" for key, facts in groups.items() for fact in facts if owners.deny(fact, key)]:
            return f"the answer gives another key than that of {', '.join(mixed)}"
        for after in (False, True):
            pairs = ((fact, key) for key, facts in groups.items() for fact in facts)
            lost = [f"{fact} of {key}" for fact, key in pairs if not owners.grant(fact, key, after)]
            if not lost:
                return ""
        return f"the answer does not tell {', '.join(lost)}"

    return check


class _Owners:
    """The keys of a text, with where they stand, and to which of them a fact belongs."""

    def __init__(self, text: str, keys: Iterable[str]) -> None:
        self._text = text
        self._keys = sorted((start, end, key) for key in keys for start, end in _spans(text, key))
        self._parts = [[match.end() for match in separator.finditer(text)] for separator in (_CLAUSE, _LINE)]

    def deny(self, fact: object, key: str) -> bool:
        """Whether each time that the fact stands beside one key only, it is another one."""
        alone = [owner for at, _ in self._facts(fact) if (owner := self._alone(at))]
        return bool(alone) and key not in alone

    def grant(self, fact: object, key: str, after: bool) -> bool:
        """Whether the fact stands beside this key, or next to it in the given direction."""
        return any((self._alone(at) or self._next(at, after)) == key for at, _ in self._facts(fact))

    def _facts(self, fact: object) -> list[tuple[int, int]]:
        """Where the fact stands, except inside of a key."""
        return [
            (start, end)
            for start, end in _spans(self._text, fact)
            if not any(first <= start and end <= last for first, last, _ in self._keys)
        ]

    def _alone(self, at: int) -> str:
        for parts in self._parts:
            number = bisect_right(parts, at)
            begin = parts[number - 1] if number else 0
            end = parts[number] if number < len(parts) else len(self._text)
            found = {key for start, _, key in self._keys if begin <= start < end}
            if found:
                return found.pop() if len(found) == 1 else ""
        return ""

    def _next(self, at: int, after: bool) -> str:
        if after:
            return next((key for start, _, key in self._keys if start > at), "")
        return next((key for start, _, key in reversed(self._keys) if start < at), "")


def _spans(text: str, fact: object) -> list[tuple[int, int]]:
    """Where a word or number stands as a whole; small numbers also as words."""
    if isinstance(fact, int):
        found = [match.span() for match in _NUMBER.finditer(text) if fact in _values(match[0])]
        return found + (_spans(text, _NUMBER_WORDS[fact]) if fact < len(_NUMBER_WORDS) else [])
    words = r"\s+".join(map(re.escape, str(fact).split()))
    words = f"v?{words}" if words[:1].isdigit() else words  # versions
    return [match.span() for match in re.finditer(rf"(?<!\w)(?<!\w-){words}(?!\w|-\w|\.\w)", text, re.IGNORECASE)]


def _without_list_numbers(text: str) -> str:
    """The text without what formats it, so that an item's number is not taken for a fact."""
    return re.sub(r"[*`]", "", _LIST_NUMBER.sub(r"\1", text.replace("\\_", "_"))).replace("\u2011", "-")


# -- numbers ----------------------------------------------------------------------------------------------------------


def says_number(wanted: Decimal | int, *, never: Iterable[Decimal | int] = ()) -> Check:
    """The answer says this number, with any separators or as a word, and no number that would show a mistake."""
    unwanted = tuple(never)

    def check(world: World) -> str:
        text = _without_list_numbers(world.answer)
        said = {value for match in _NUMBER.finditer(text) for value in _values(match[0])}
        said |= {Decimal(value) for value, word in enumerate(_NUMBER_WORDS) if holds(text, word)}
        if wanted not in said:
            return f"the answer does not say {wanted}"
        wrong = [str(number) for number in unwanted if number in said]
        return f"the answer also says {', '.join(wrong)}" if wrong else ""

    return check


def _values(written: str) -> set[Decimal]:
    """What a number may mean: the last comma or point separates decimals, or thousands if three digits follow."""
    digits = re.split(r"[^\d]", written)
    whole = Decimal("".join(digits))
    if len(digits) == 1:
        return {whole}
    decimal = Decimal(f"{''.join(digits[:-1])}.{digits[-1]}")
    mark = written[-len(digits[-1]) - 1]
    mixed = len(digits) > 2 and mark != written[len(digits[0])]  # as in 1,234.500
    if len(digits[-1]) != 3 or mixed:
        return {decimal}
    return {whole, decimal} if mark in ",." and len(digits) == 2 else {whole}


# -- what differs, and what is not there ------------------------------------------------------------------------------


def says_differences(
    found: Mapping[str, tuple[object, object]], *, equal: Iterable[str], names: Sequence[str]
) -> Check:
    """The answer says what differs, with both values, and nothing of what is equal except that it is.

    `names` are those of the two sides: a value must not be given to the other one.
    """
    same = tuple(equal)
    together = says_together(found)
    sides = {name: [values[side] for values in found.values()] for side, name in enumerate(names)}

    def check(world: World) -> str:
        if fault := together(world):
            return fault
        text = _without_list_numbers(world.answer)
        for part in re.split(r"\n|\. |;", text):
            if not _SAME.search(part) and (named := [key for key in same if _spans(part, key)]):
                return f"the answer names {', '.join(named)} as different"
        owners = _Owners(text, names)
        swapped = [str(value) for name, values in sides.items() for value in values if owners.deny(value, name)]
        return f"the answer gives {', '.join(swapped)} to the other side" if swapped else ""

    return check


def says_not_there(*subject: str, never: Iterable[object] = (), of_others: Iterable[str] = ()) -> Check:
    """The answer says that something was not found, not that it was not looked for, and gives no value for it.

    What else was found may be said: one of `never` counts only in a clause that has a word of the subject, denies
    nothing, and does not speak of others.
    """
    values, others = tuple(never), tuple(of_others)

    def check(world: World) -> str:
        text = _without_list_numbers(world.answer)
        if not _DENIAL.search(text):
            return f"the answer does not say that there is no {subject[0]}"
        if excuse := _EXCUSE.search(text):
            return f"the answer is an excuse: {excuse[0]}"
        for clause in re.split(r"[.;,!?]\s|\n|\bbut\b|\bonly\b", text):
            given = [str(each) for each in values if _spans(clause, each)]
            about = any(_spans(clause, word) for word in subject) and not any(_spans(clause, name) for name in others)
            if given and about and not _DENIAL.search(clause):
                return f"the answer gives {', '.join(given)} as {subject[0]}"
        return ""

    return check
