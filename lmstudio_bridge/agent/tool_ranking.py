"""Tools ranked by a query: BM25 over their names, descriptions and parameters."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

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
FITS = 1 / 3  # share of the best tool's score from which another server's tool still counts as fitting
_K1, _B = 1.2, 0.75  # the usual constants of BM25
_FUSION = 60  # the usual constant of reciprocal rank fusion: how little the first ranks stand out
_NAME_WEIGHT = 3  # a word in a tool's name counts as so many in its description


class Rankable(Protocol):
    """What can be ranked: by its `words`, as `tool_words` gives them."""

    @property
    def name(self) -> str: ...

    @property
    def words(self) -> Sequence[str]: ...


T = TypeVar("T", bound=Rankable)


class Index(Generic[T]):
    """Tools that can be ranked."""

    def __init__(self, tools: Sequence[T]) -> None:
        self._tools = tools
        self._words = [tool.words for tool in tools]
        self._mean = (sum(map(len, self._words)) / len(tools)) if tools else 1.0

    def rank(self, query: str, *, only_hits: bool = False, similar: Mapping[str, float] | None = None) -> list[T]:
        """The tools, best first; equals stay in their order.

        `similar` says of tools, by name, how close they are to the query in meaning: both ranks then count.
        """
        scores = self.scores(query)
        if similar:
            scores = _fuse(scores, [similar.get(tool.name, 0.0) for tool in self._tools])
        ranked = sorted(zip(scores, self._tools, strict=True), key=lambda scored: -scored[0])
        return [tool for score, tool in ranked if score > 0 or not only_hits]

    def scores(self, query: str) -> list[float]:
        """How well each tool fits, in the order of the tools; 0.0 where no word does."""
        wanted = dict.fromkeys(_words(query))  # in their order: a sum of floats depends on it
        hits = [[word for word in words if word in wanted] for words in self._words]
        documents = Counter(word for found in hits for word in set(found))
        total = len(self._tools)
        rarity = {word: math.log(1 + (total - documents[word] + 0.5) / (documents[word] + 0.5)) for word in wanted}
        scores = [0.0] * total
        for number, (found, words) in enumerate(zip(hits, self._words, strict=True)):
            for word in wanted:
                if often := found.count(word):
                    length = _B * len(words) / self._mean
                    scores[number] += rarity[word] * often * (_K1 + 1) / (often + _K1 * (1 - _B + length))
        return scores


def _fuse(*rankings: Sequence[float]) -> list[float]:
    """Reciprocal rank fusion (Cormack and others, 2009); what has no score in a ranking gets nothing from it."""
    fused = [0.0] * len(rankings[0])
    for scores in rankings:
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        for rank, number in enumerate(order):
            if scores[number] > 0:
                fused[number] += 1 / (_FUSION + rank + 1)
    return fused


def tool_words(name: str, description: str, parameters: Iterable[str]) -> Sequence[str]:
    """The words that a tool is ranked by, each as often as it counts."""
    return (*_words(f"{description} {' '.join(parameters)}"), *_words(name.replace("_", " ")) * _NAME_WEIGHT)


def _words(text: str) -> list[str]:
    """The words that count, in lower case and in a plain form: files, filed and file are one word."""
    stems = [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]
    return [_SAME.get(stem, stem) for stem in stems]


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word
