"""What words intend: whether a task asks for a change, and whether the name of a tool says that it only reads.

Both only decide what a result says about a run, never what a run may do.
"""

from __future__ import annotations

import re

_MAX_SENTENCE = 2_000  # characters that are looked at
_CHANGES = (
    "write|create|edit|change|rename|replace|delete|remove|add|append|move|update|fix|set|commit|insert|save|store|"
    "overwrite|rewrite|modify|copy|install|send|upload|push|merge"
)
_BEFORE = (
    r"please|and|then|also|now|next|first|finally|you(?: must| should| to| have to)?|task is to|job is to|so|but|"
    r"kindly|just"
)
_ASKS = re.compile(
    rf"(?:^[\s>*\-\d.)(]*(?:(?:can|could|would|will) you (?:please )?)?|[,;:(]\s*|\b(?:{_BEFORE})\s+)"
    rf"(?P<verb>{_CHANGES})\b(?!\s+(?:up|out|operations?|access|permissions?)\b)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_QUESTION = re.compile(
    r"\s*(?:what|which|who|whose|where|when|why|how|does|do|did|is|are|was|were|has|have|should|may)\b.*\?[\"')\]]*\s*",
    re.IGNORECASE | re.DOTALL,
)
_TEXT_VERBS = frozenset({"write", "create", "add", "send"})
_IS_ANSWER = re.compile(
    r"\s+(?:me\s+)?(?:an?|the|your|one|two|three|\w+-\w+)?\s*(?:\w+[\s-]){0,3}?"
    r"(?:summar(?:y|ies)|lists?|sentences?|tables?|reports?|answers?|overviews?|paragraphs?|explanations?|words?|"
    r"descriptions?|poems?|outlines?|bullets?|numbers?|names?)\b",
    re.IGNORECASE,
)
_DESTINATION = re.compile(
    r"\b(?:files?|folders?|director(?:y|ies)|database|repository|notes?|issue|page|disk)\b|\S\.\w{1,5}\b|[/\\]\w",
    re.IGNORECASE,
)
_READING = re.compile(
    "read|get|list|search|find|show|view|describe|count|query|lookup|look|fetch|status|info|diff|explain|compare|"
    "validate|ls|cat|stat|tree|glob|grep|head|tail|inspect|browse|history"
)
_CHANGING = re.compile(
    f"{_CHANGES}|make|mkdir|rm|mv|cp|run|exec|execute|apply|patch|drop|reset|checkout|stash|clear|wipe|purge|post|pay|"
    "buy|book|order|put|convert|cancel|close|click|type|fill|submit|start|stop|kill|restart|enable|disable|"
    "upsert|sync|import"
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def asks_for_change(task: str) -> bool:
    """Whether a task plainly asks to change something: a sentence or a clause that begins with such a verb.

    Questions do not, nor does "write a summary" where no file or the like is named for it: that is the answer.
    """
    sentences = (sentence[:_MAX_SENTENCE] for sentence in _SENTENCES.split(task) if not _QUESTION.fullmatch(sentence))
    return any(map(_sentence_asks, sentences))


def _sentence_asks(sentence: str) -> bool:
    start = 0
    while found := _ASKS.search(sentence, start):
        rest = found["rest"]
        is_answer = found["verb"].lower() in _TEXT_VERBS and _IS_ANSWER.match(rest) and not _DESTINATION.search(rest)
        if not is_answer:
            return True
        start = found.start("rest")
    return False


def only_reads_by_name(tool: str) -> bool:
    """Whether a tool's name has a word for reading and none for changing something, as `list_issues`."""
    words = [word.lower() for word in _WORDS.findall(tool)]
    return any(map(_READING.fullmatch, words)) and not any(map(_CHANGING.fullmatch, words))
