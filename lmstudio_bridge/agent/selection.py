"""Which tools the model is offered when all of them would take too much of its context. Pure.

Ranked by the task with BM25 over names, descriptions and parameters; the others can be found later.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence

from lmstudio_bridge.agent.arguments import read_arguments
from lmstudio_bridge.messages import ToolCall, ToolSpec

_WORD = re.compile(r"[a-z]+|\d+")
# fmt: off
_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "for", "from", "give", "has", "have", "how",
    "i", "if", "in", "into", "is", "it", "its", "me", "my", "of", "on", "or", "please", "show", "so", "tell",
    "that", "the", "then", "there", "this", "to", "use", "what", "when", "where", "which", "who", "will",
    "with", "you", "your",
))
# fmt: on
_SAME = {"folder": "directory", "dir": "directory", "renam": "mov", "remov": "delet", "eras": "delet"}  # stems
_OLD = re.compile(r"\bdeprecated\b", re.IGNORECASE)
_K1, _B = 1.2, 0.75  # the usual constants of BM25
_NAME_WEIGHT = 3  # a word in a tool's name counts as so many in its description
_LISTING = ("list", "tree", "ls", "search", "find")  # words in the names of tools that show what there is, best first
_FOUND_AT_ONCE = 5  # tools that one search brings in
_SHOWN_DESCRIPTION = 200  # characters of a found tool's description

FIND_TOOLS = ToolSpec(
    "find_tools",
    "Find more tools by what they do.",
    {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What the tool should do, in a few words"}},
        "required": ["query"],
    },
)


class Selection:
    """The tools on offer: all that fit, else the best for the task, in the order of the toolbox.

    `max_chars` is the room for their names, descriptions and schemas, `max_tools` their number; None
    is no limit. `best_first` orders them by the task: small models take what stands first.
    """

    def __init__(
        self,
        specs: Sequence[ToolSpec],
        task: str,
        *,
        max_chars: int | None = None,
        max_tools: int | None = None,
        best_first: bool = False,
    ) -> None:
        self._specs = tuple(specs)
        self._taken_away: set[str] = set()
        self._index = _Index(self._specs)
        chosen: set[str] = set()
        room = math.inf if max_chars is None else max_chars
        ranked = sorted(self._index.rank(task), key=lambda spec: bool(_OLD.search(spec.description)))
        for spec in ranked:
            size = _size(spec)
            if (max_tools is not None and len(chosen) >= max_tools) or (chosen and size > room):
                continue
            chosen.add(spec.name)
            room -= size
        order = ranked if best_first else self._specs
        self.offered: tuple[ToolSpec, ...] = tuple(spec for spec in order if spec.name in chosen)

    @property
    def left_out(self) -> int:
        """How many tools are not on offer."""
        return len(self._specs) - len(self.offered)

    def find(self, query: str) -> tuple[ToolSpec, ...]:
        """Bring in the tools that fit the query best; gives those that are new.

        They come after the others, so that the beginning of the list stays as it was.
        """
        known = self._taken_away | {spec.name for spec in self.offered}
        fitting = [spec for spec in self._index.rank(query, only_hits=True) if spec.name not in known]
        found = tuple(fitting[:_FOUND_AT_ONCE])
        if found:
            self.offered = (*self.offered, *found)
        return found

    def answer(self, call: ToolCall) -> tuple[str, bool] | None:
        """The answer to a call of `find_tools`, and whether it is an error; None if it is of another tool."""
        if call.name != FIND_TOOLS.name:
            return None
        try:
            query = str(read_arguments(call.arguments, FIND_TOOLS.parameters).values["query"])
        except (ValueError, KeyError) as exc:
            return f"find_tools was not done: it needs a query ({exc}).", True
        found = self.find(query)
        if not found:
            return "No other tool fits that. Use the ones that you have.", False
        lines = [f"- {spec.name}: {spec.description[:_SHOWN_DESCRIPTION]}" for spec in found]
        return "\n".join(["These can be called now:", *lines]), False

    def listing_tool(self, name: str) -> str:
        """The tool on offer that shows which names there are for this one of the same server; "" if there is none."""
        server, _, _ = name.partition("__")
        own = set(next((_required(spec) for spec in self.offered if spec.name == name), ()))
        found = [
            (place, spec.name)
            for spec in self.offered
            for place, word in enumerate(_LISTING)
            if spec.name.startswith(f"{server}__")
            and word in spec.name.partition("__")[2].split("_")
            and _required(spec)
            and own.issuperset(_required(spec))
        ]
        best = min(found, default=(0, ""))[1]
        return "" if name in {each for _, each in found} else best

    def is_taken_away(self, name: str) -> bool:
        """Whether the tool must not be called any more."""
        return name in self._taken_away

    def take_away(self, names: Collection[str]) -> None:
        """Offer these no more, whatever is looked for."""
        self._taken_away |= set(names)
        self.offered = tuple(spec for spec in self.offered if spec.name not in names)


class _Index:
    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._specs = specs
        self._counts = [_count(spec) for spec in specs]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = (sum(self._lengths) / len(self._lengths)) if specs else 1.0
        self._documents = Counter(word for counts in self._counts for word in counts)

    def rank(self, query: str, *, only_hits: bool = False) -> list[ToolSpec]:
        """The tools, best first; equals stay in their order."""
        words = tuple(dict.fromkeys(_words(query)))  # in their order: a sum of floats depends on it
        scores = [self._score(words, number) for number in range(len(self._specs))]
        order = sorted(range(len(self._specs)), key=lambda number: -scores[number])
        return [self._specs[number] for number in order if scores[number] > 0 or not only_hits]

    def _score(self, words: Sequence[str], number: int) -> float:
        counts, length = self._counts[number], self._lengths[number]
        score = 0.0
        for word in words:
            if word not in counts:
                continue
            rarity = math.log(1 + (len(self._specs) - self._documents[word] + 0.5) / (self._documents[word] + 0.5))
            often = counts[word]
            score += rarity * often * (_K1 + 1) / (often + _K1 * (1 - _B + _B * length / self._mean))
        return score


def _count(spec: ToolSpec) -> Counter[str]:
    parameters = spec.parameters.get("properties", {})
    counts = Counter(_words(f"{spec.description} {' '.join(map(str, parameters))}"))
    for word in _words(spec.name):
        counts[word] += _NAME_WEIGHT
    return counts


def _words(text: str) -> list[str]:
    """The words that count, in a plain form: files, filed and file are one, and so are folder and directory."""
    stems = [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]
    return [_SAME.get(stem, stem) for stem in stems]


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _required(spec: ToolSpec) -> Sequence[str]:
    names: Sequence[str] = spec.parameters.get("required", ())
    return names


def _size(spec: ToolSpec) -> int:
    return len(spec.name) + len(spec.description) + len(json.dumps(spec.parameters))
