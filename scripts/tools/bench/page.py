"""The results as one page that needs nothing else: no network, no script; for light and for dark screens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from scripts.tools.bench.figures import BRIDGE, Figure
from scripts.tools.bench.results import Results, facts, number, rows

_LEFT = 330  # pixels, as are all sizes here
_WIDTH = 520
_RIGHT = 40
_ROW = 30
_TOP = 34
_COLOURS = 6  # there are so many for the others, then they come again

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #687076; --paper: #fff; --line: #d7dbdf;
  --bridge: #0b68cb; --bar: #ca244d; --reached: #18794e;
  --o0: #b5651d; --o1: #7b4bb5; --o2: #0f766e; --o3: #a16207; --o4: #9d174d; --o5: #4d7c0f; }
@media (prefers-color-scheme: dark) { :root { --ink: #ecedee; --soft: #9ba1a6; --paper: #151718; --line: #3a3f42;
  --bridge: #52a9ff; --bar: #ff6369; --reached: #4cc38a;
  --o0: #e0a060; --o1: #b794f4; --o2: #5eead4; --o3: #facc15; --o4: #f9a8d4; --o5: #bef264; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.axis { stroke: var(--line); } .one { stroke: var(--soft); } .limit { stroke: var(--bar); stroke-width: 3; }
.bridge { fill: var(--bridge); stroke: var(--bridge); stroke-width: 2; }
.o0 { fill: var(--o0); } .o1 { fill: var(--o1); } .o2 { fill: var(--o2); } .o3 { fill: var(--o3); }
.o4 { fill: var(--o4); } .o5 { fill: var(--o5); }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.soft { color: var(--soft); } .reached { color: var(--reached); } .not { color: var(--bar); }
"""


def render_page(results: Results) -> str:
    """The whole page as HTML."""
    title = f"lmstudio-bridge bench, {results.date}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="soft">{escape(fact)}</p>' for fact in facts(results)),
        "<h2>Ratios</h2>",
        "<p>What each figure is measured against stands at 1. The thick mark is the bar.</p>",
        render_plot([figure for figure in results.figures if figure.reference]),
        f'<h2>Figures</h2><div class="wide">{_table(rows(results))}</div>',
    ]
    for profile in results.profiles:
        parts.append(f"<h2>{escape(profile.heading)}</h2>")
        for about, listed in profile.tables():
            heading = ["share", "ms per round", about]
            parts.append(f'<div class="wide">{_table([heading, *map(list, listed)])}</div>')
    return "\n".join([*parts, "</body></html>"]) + "\n"


def render_plot(figures: Sequence[Figure]) -> str:
    """Ratios on a logarithmic axis, a figure a row, as SVG."""
    spreads = {figure.key: {name: figure.spread(name) for name in figure.subjects} for figure in figures}
    ratios = [spread for each in spreads.values() for spread in each.values()]
    low = min([0.5, *(spread.low for spread in ratios)])
    high = max([4.0, *(spread.high for spread in ratios)])
    names = list(dict.fromkeys(name for figure in figures for name in figure.subjects if name != BRIDGE))
    height = _TOP + _ROW * len(figures)

    def x(ratio: float) -> float:
        share = (math.log(max(ratio, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return round(_LEFT + _WIDTH * share, 1)

    marks = list(_legend([BRIDGE, *names]))
    for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1):
        at = x(2.0**power)
        marks.append(f'<line class="{"axis" if power else "one"}" x1="{at}" y1="{_TOP - 8}" x2="{at}" y2="{height}"/>')
        marks.append(f'<text x="{at}" y="{height + 15}" text-anchor="middle">{2.0**power:g}</text>')
    for row, figure in enumerate(figures):
        y = _TOP + row * _ROW + _ROW // 2
        marks.append(f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(figure.title)}</text>')
        if figure.bar:
            at = x(figure.bar)
            marks.append(f'<line class="limit" x1="{at}" y1="{y - 11}" x2="{at}" y2="{y + 11}"/>')
        for name, spread in spreads[figure.key].items():
            about = f"<title>{escape(name)}: {number(spread.median, 'x')} x</title>"
            if name == BRIDGE:
                ends = f'x1="{x(spread.low)}" y1="{y}" x2="{x(spread.high)}" y2="{y}"'
                marks.append(f'<line class="bridge" {ends}/>')
                marks.append(f'<circle class="bridge" cx="{x(spread.median)}" cy="{y}" r="5">{about}</circle>')
            else:
                colour = names.index(name) % _COLOURS
                left = x(spread.median) - 4
                marks.append(f'<rect class="o{colour}" x="{left}" y="{y - 4}" width="8" height="8">{about}</rect>')
    size = f'viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {height + 20}" width="{_LEFT + _WIDTH + _RIGHT}"'
    return f'<svg role="img" aria-label="Ratios by figure" {size}>{"".join(marks)}</svg>'


def _legend(names: Sequence[str]) -> Iterable[str]:
    at = 8
    for place, name in enumerate(names):
        colour = "bridge" if name == BRIDGE else f"o{(place - 1) % _COLOURS}"
        yield f'<rect class="{colour}" x="{at}" y="4" width="9" height="9"/>'
        yield f'<text x="{at + 15}" y="13">{escape(name)}</text>'
        at += 30 + 8 * len(name)


def _table(lines: Sequence[Sequence[str]]) -> str:
    heading, *body = lines
    parts = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in heading)}</tr>"]
    parts += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in body]
    return "<table>\n" + "\n".join(parts) + "</table>"


def _cell(text: str) -> str:
    look = {"reached": ' class="reached"', "not reached": ' class="not"'}.get(text, "")
    return f"<td{look}>{escape(text)}</td>"
