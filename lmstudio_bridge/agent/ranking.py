"""Tools ranked by what somebody wants: BM25 over their names, descriptions and parameters. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from lmstudio_bridge.messages import ToolSpec

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
_K1, _B = 1.2, 0.75  # the usual constants of BM25
_FUSION = 60  # the usual constant of reciprocal rank fusion: how little the first ranks stand out
_NAME_WEIGHT = 3  # a word in a tool's name counts as so many in its description


class Index:
    """Tools that can be ranked."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._specs = specs
        self._counts = [_count(spec) for spec in specs]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = (sum(self._lengths) / len(self._lengths)) if specs else 1.0
        self._documents = Counter(word for counts in self._counts for word in counts)

    def rank(
        self, query: str, *, only_hits: bool = False, similar: Mapping[str, float] | None = None
    ) -> list[ToolSpec]:
        """The tools, best first; equals stay in their order.

        `similar` says of tools, by name, how close they are to the query in meaning: both ranks then count.
        """
        scores = self.scores(query)
        if similar:
            scores = _fuse(scores, [similar.get(spec.name, 0.0) for spec in self._specs])
        order = sorted(range(len(self._specs)), key=lambda number: -scores[number])
        return [self._specs[number] for number in order if scores[number] > 0 or not only_hits]

    def scores(self, query: str) -> list[float]:
        """How well each tool fits, in the order of the tools; 0.0 where no word does."""
        words = tuple(dict.fromkeys(_words(query)))  # in their order: a sum of floats depends on it
        return [self._score(words, number) for number in range(len(self._specs))]

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


def _fuse(*rankings: Sequence[float]) -> list[float]:
    """Reciprocal rank fusion (Cormack and others, 2009); what has no score in a ranking gets nothing from it."""
    fused = [0.0] * len(rankings[0])
    for scores in rankings:
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        for rank, number in enumerate(order):
            if scores[number] > 0:
                fused[number] += 1 / (_FUSION + rank + 1)
    return fused


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
