"""Phrases that were replaced do not come back where people read them."""

from __future__ import annotations

import re

import pytest

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
PATHS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
PATHS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "lmstudio_bridge").rglob("*")) if path.is_file()]


@pytest.mark.parametrize("path", [path for path in PATHS if path.endswith((".py", ".md", ".j2"))])
def test_replaced_phrases_are_gone(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.findall("|".join(map(re.escape, REPLACED)), text)
