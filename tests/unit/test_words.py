"""Phrases that were replaced do not come back where people read them."""

from __future__ import annotations

import re

from tests.support.shell import ROOT

REPLACED = (
    "grammar tool calls",
    "native tool calls it is",
    "The model only thought",
    "The limit of rounds was reached",
    "needed access=",
    "All is in place",
    "Take it out?",
    "Start Claude Code anew",
    "the task anew",
    "When what happened",
    "How the context filled",
    "most requests to the model",
    "No call is made twice by itself",
)
READ = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "lmstudio_bridge").rglob("*.py")]
READ += (ROOT / "lmstudio_bridge").rglob("*.j2")


def test_replaced_phrases_are_gone() -> None:
    pattern = re.compile("|".join(map(re.escape, REPLACED)))

    assert [(path, found) for path in READ for found in pattern.findall(path.read_text(encoding="utf-8"))] == []
