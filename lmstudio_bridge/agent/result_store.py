"""Results that are too long to show: kept whole, shown as head and tail, and read on or searched by two tools."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.agent.prompts import NO_KEPT_RESULT, RESULT_SHORTENED
from lmstudio_bridge.agent.schemas import own_spec, text_parameter
from lmstudio_bridge.agent.untrusted import NO_DELIMITER, Delimiter
from lmstudio_bridge.messages import ToolCall
from lmstudio_bridge.text import shortened

MAX_KEPT = 64 * 1024 * 1024  # characters of all results of a run that are kept; older ones go first
_NAMES = ("read_result", "search_result")
_HEAD_SHARE = 0.7  # of what is shown of a big result
_MAX_HITS = 20
_HIT_CONTEXT = 120  # characters on each side of a hit
_SHOWN_WORDS = 100  # characters of what the model gave that are quoted back
_SHOWN_NAMES = 10
_ID = re.compile(r'read_result\(id="r(\d{1,9})"')

_KEPT_ID = text_parameter("Its id, for example r1")
RESULT_TOOLS = (
    own_spec(
        "read_result",
        "Read on in a result that was too long to be shown whole.",
        id=_KEPT_ID,
        offset={"type": "integer", "description": "Character to begin at"},
    ),
    own_spec(
        "search_result",
        "Find a text in a result that was too long to be shown whole.",
        id=_KEPT_ID,
        text=text_parameter("Text to find, in any letter case"),
    ),
)


class ResultStore:
    """The results of a run that were longer than `limit` characters.

    `history` are texts that may name results of an earlier process: those ids are not used again.
    `delimiter` goes around what is shown of a result, not around the bridge's own text about it.
    """

    def __init__(
        self, limit: int, *, max_kept: int = MAX_KEPT, history: Iterable[str] = (), delimiter: Delimiter = NO_DELIMITER
    ) -> None:
        self._limit = limit
        self._delimiter = delimiter
        self._max_kept = max_kept
        self._results: dict[str, str] = {}
        self._kept = 0
        self._count = max((int(number) for text in history for number in _ID.findall(text)), default=0)

    @property
    def is_empty(self) -> bool:
        """Whether no result of this run was kept."""
        return not self._results

    def show(self, text: str) -> str:
        """What the model reads of a result: the whole, or its head and tail and how to read on."""
        if not text.strip():
            return "(no output)"  # an empty tool message upsets some templates
        if len(text) <= self._limit:
            return self._delimiter.wrap(text)
        name = self._put(text)
        head = int(self._limit * _HEAD_SHARE)
        tail = self._limit - head
        missing = len(text) - head - tail
        more = RESULT_SHORTENED.format(missing=f"{missing:,}", all=f"{len(text):,}", id=name, offset=head)
        return f"{self._delimiter.wrap(text[:head])}\n{more}\n{self._delimiter.wrap(text[len(text) - tail :])}"

    def keep(self, text: str) -> str:
        """The id of a result that is shown no more; a text that is itself a part of a kept one has that one's."""
        named = _ID.search(text)
        name = f"r{named[1]}" if named else ""
        return name if name in self._results else self._put(text)

    def answer(self, call: ToolCall) -> tuple[str, bool] | None:
        """The answer to a call of one of the two tools, and whether it is an error; None if it is of neither."""
        if call.name not in _NAMES:
            return None
        spec = RESULT_TOOLS[_NAMES.index(call.name)]
        try:
            values = read_arguments(call.arguments, spec.parameters).values
            name = str(values["id"])
            if call.name == "read_result":
                return self._read(name, int(values.get("offset", 0)))
            return self._search(name, str(values["text"]))
        except KeyError as exc:
            return f"{call.name} needs {exc.args[0]!r}.", True
        except (ValueError, TypeError) as exc:
            return f"{call.name} was not done: {exc}", True

    def _put(self, text: str) -> str:
        self._count += 1
        name = f"r{self._count}"
        self._results[name] = text
        self._kept += len(text)
        while self._kept > self._max_kept and len(self._results) > 1:
            oldest = next(iter(self._results))
            self._kept -= len(self._results.pop(oldest))
        return name

    def _read(self, name: str, offset: int) -> tuple[str, bool]:
        text = self._results.get(name)
        if text is None:
            return self._unknown(name), True
        if not 0 <= offset < len(text):
            return f"{name} has {len(text):,} characters; offset must be from 0 to {len(text) - 1}.", True
        end = min(len(text), offset + self._limit)
        more = f"read on with offset={end}" if end < len(text) else "this is its end"
        shown = self._delimiter.wrap(text[offset:end])
        return f"{shown}\n[{name}, characters {offset} to {end} of {len(text)}; {more}]", False

    def _search(self, name: str, wanted: str) -> tuple[str, bool]:
        text = self._results.get(name)
        if text is None:
            return self._unknown(name), True
        if not wanted:
            return "The text to find is empty.", True
        matches = re.finditer(re.escape(wanted), text, re.IGNORECASE)
        found = [match.span() for match in islice(matches, _MAX_HITS + 1)]  # a letter may occur millions of times
        if not found:
            return f"{shortened(wanted, _SHOWN_WORDS)!r} does not occur in {name}.", False
        context = min(_HIT_CONTEXT, max(20, self._limit // (3 * min(len(found), _MAX_HITS))))
        shown: list[str] = []
        room = self._limit
        for start, end in found[:_MAX_HITS]:
            until = min(end, start + _SHOWN_WORDS) + context
            line = f"at {start}: …{text[max(0, start - context) : until]}…"
            if shown and len(line) > room:
                break
            shown.append(line)
            room -= len(line) + 1
        more = f"\n[there are more, the next at {found[len(shown)][0]}]" if len(shown) < len(found) else ""
        return self._delimiter.wrap("\n".join(shown)) + more, False

    def _unknown(self, name: str) -> str:
        known = ", ".join(list(self._results)[-_SHOWN_NAMES:]) or "none"
        return NO_KEPT_RESULT.format(id=repr(shortened(name, _SHOWN_WORDS)), known=known)
