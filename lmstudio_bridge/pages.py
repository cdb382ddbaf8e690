"""Pages of HTML that need nothing else: no network, no script; for light and dark, narrow and wide screens."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #687076; --paper: #fff; --line: #d7dbdf; --inset: #f4f5f6;
  --first: #0b68cb; --second: #b5651d; --right: #18794e; --wrong: #ca244d; }
@media (prefers-color-scheme: dark) { :root { --ink: #ecedee; --soft: #9ba1a6; --paper: #151718; --line: #3a3f42;
  --inset: #1f2224; --first: #52a9ff; --second: #e0a060; --right: #4cc38a; --wrong: #ff6369; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.axis { stroke: var(--line); } .wide { overflow-x: auto; } .wide svg { min-width: 46rem; }
table { border-collapse: collapse; } caption { text-align: left; color: var(--soft); }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { overflow-wrap: anywhere; }
.right { color: var(--right); } .wrong { color: var(--wrong); } .soft { color: var(--soft); }
"""


def render_page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """A whole page; `parts` are its body as HTML, `style` is what it needs beyond the house's own."""
    head = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def render_cells(tag: str, texts: Iterable[str]) -> str:
    """Cells of one row of a table."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
