"""The ranking against its formula, written out plainly."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.tool_ranking import Index, tool_words

words = ["read", "reads", "reading", "folder", "dir", "the", "of", "12", "3x", "look_up,", "renamed.", "url/query"]
texts = st.lists(st.sampled_from(words) | st.text(max_size=6), max_size=12).map(" ".join)


@dataclass(frozen=True)
class Ranked:
    name: str
    words: Sequence[str]


def plain_words(text: str) -> list[str]:
    """The words of a text, one by one."""
    return [each for word in re.findall(r"[a-z]+|\d+", text.lower()) for each in tool_words("", word, ())]


def bm25(query: str, tools: Sequence[Ranked]) -> list[float]:
    """Robertson and Zaragoza (2009), with k1 = 1.2 and b = 0.75."""
    counts = [Counter(tool.words) for tool in tools]
    lengths = [len(tool.words) for tool in tools]
    scores = []
    for each, length in zip(counts, lengths, strict=True):
        score = 0.0
        for word in dict.fromkeys(plain_words(query)):
            with_word = sum(word in other for other in counts)
            if word in each:
                rarity = math.log(1 + (len(tools) - with_word + 0.5) / (with_word + 0.5))
                norm = 1.2 * (1 - 0.75 + 0.75 * length / (sum(lengths) / len(lengths)))
                score += rarity * each[word] * (1.2 + 1) / (each[word] + norm)
        scores.append(score)
    return scores


@given(st.lists(st.tuples(texts, texts, st.lists(texts, max_size=3)), max_size=8), texts)
def test_tools_are_scored_by_the_formula(tools: list[tuple[str, str, list[str]]], query: str) -> None:
    ranked = [Ranked(name, tool_words(name, text, parameters)) for name, text, parameters in tools]

    assert Index(ranked).scores(query) == bm25(query, ranked)


@given(texts, texts, st.lists(texts, max_size=3))
def test_a_tool_has_the_words_of_its_description_and_parameters_and_three_times_those_of_its_name(
    name: str, description: str, parameters: list[str]
) -> None:
    found = tool_words(name, description, parameters)

    assert list(found) == plain_words(f"{description} {' '.join(parameters)}") + plain_words(name) * 3
