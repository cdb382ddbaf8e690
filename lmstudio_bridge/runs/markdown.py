"""Markdown that a model wrote, for the page of a run and for terminals."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore


def open_markdown() -> MarkdownIt:
    """A parser for which all that would load something, link, or show other characters than were cleaned stays text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.core.ruler.push("keep_lines", _keep_lines)
    return markdown.disable(["link", "image", "autolink", "reference", "entity", "html_block", "html_inline"])


def _keep_lines(state: StateCore) -> None:
    """Lines stay lines: models write lists of facts without any mark."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
