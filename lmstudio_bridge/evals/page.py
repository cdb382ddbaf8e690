"""The results of an evaluation as one page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

from lmstudio_bridge.evals.results import ALL, Attempt, Loop, Results, table_rows
from lmstudio_bridge.runs import html as pages
from lmstudio_bridge.runs.html import render_cells

_BAR = 16  # pixels, as are all sizes here
_GAP = 14
_LEFT = 150
_WIDTH = 480
_RIGHT = 110
_ANSWER_SHOWN = 300  # characters

_STYLE = ".bridge { fill: var(--first); } .baseline { fill: var(--second); }"


def save_results(results: Results, folder: Path) -> None:
    """Write results.json and results.html into a folder, which is made if need be.

    Raises:
        OSError: They can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.to_json(), indent=2, ensure_ascii=False)
    for name, content in (("results.json", f"{text}\n"), ("results.html", render_page(results))):
        part = folder / f"{name}.part"
        part.write_text(content, encoding="utf-8")
        part.replace(folder / name)


def render_page(results: Results) -> str:
    """The whole page as HTML."""
    plan = results.plan
    facts = (
        f"{plan.began} · lmstudio-bridge {plan.version} · seed {plan.seed} · at most {plan.max_rounds} rounds, "
        f"{plan.max_tokens:,} tokens a reply and {plan.seconds:g} s a task · {plan.parallel} at once"
    )
    title = f"{plan.model}: {len(results.attempts)} of {plan.tasks * len(plan.loops)} attempts"
    skipped = [f"<li>{escape(task)}: {escape(reason)}</li>" for task, reason in results.skipped.items()]
    parts = [
        f'<h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p>',
        "<h2>Tasks done right</h2>",
        render_plot(results),
        f'<div class="wide">{_table(results)}</div>',
        *(["<h2>Left out</h2><ul>", *skipped, "</ul>"] if skipped else []),
        f'<h2>Each task</h2><div class="wide">{_attempts(results.attempts)}</div>',
    ]
    return pages.render_page(title, parts, style=_STYLE)


def render_plot(results: Results) -> str:
    """Bars of the share of tasks done right, one a family and loop, as SVG."""
    loops = results.plan.loops
    families = [*results.families(), ALL]
    group = _BAR * len(loops) + _GAP
    top = 30
    height = top + group * len(families)
    marks: list[str] = []
    for place, loop in enumerate(loops):
        x = _LEFT + place * 110
        marks.append(f'<rect class="{loop}" x="{x}" y="2" width="12" height="12"/>')
        marks.append(f'<text x="{x + 18}" y="13">{loop}</text>')
    for percent in (0, 25, 50, 75, 100):
        x = _LEFT + _WIDTH * percent // 100
        marks.append(f'<line class="axis" x1="{x}" y1="{top - 6}" x2="{x}" y2="{height}"/>')
    for row, family in enumerate(families):
        y = top + row * group
        middle = y + _BAR * len(loops) // 2 + 4
        marks.append(f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(family)}</text>')
        marks += [_bar(results, family, loop, y + place * _BAR) for place, loop in enumerate(loops)]
    label = "Share of tasks done right, by family"
    size = f'viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {height}" width="{_LEFT + _WIDTH + _RIGHT}" height="{height}"'
    return f'<svg role="img" aria-label="{label}" {size}>{"".join(marks)}</svg>'


def _bar(results: Results, family: str, loop: Loop, y: int) -> str:
    figures = results.sum(family, loop)
    length = round(_WIDTH * figures.share)
    text = f"{figures.right} of {figures.tasks}"
    return (
        f'<rect class="{loop}" x="{_LEFT}" y="{y + 1}" width="{length}" height="{_BAR - 2}"/>'
        f'<text x="{_LEFT + length + 6}" y="{y + _BAR - 4}">{text}</text>'
    )


def _table(results: Results) -> str:
    heading, *rows = table_rows(results)
    body = "\n".join(f"<tr>{render_cells('td', row)}</tr>" for row in rows)
    caption = "Rounds, tokens and seconds are means of one task."
    return f"<table><caption>{caption}</caption><tr>{render_cells('th', heading)}</tr>\n{body}</table>"


def _attempts(attempts: Iterable[Attempt]) -> str:
    heading = render_cells("th", ["task", "loop", "", "end", "rounds", "calls", "tokens", "seconds", "answer"])
    rows: list[str] = []
    for each in attempts:
        verdict = (
            '<span class="right">right</span>' if each.right else f'<span class="wrong">{escape(each.wrong)}</span>'
        )
        shown = each.answer or each.error
        shown = shown if len(shown) <= _ANSWER_SHOWN else f"{shown[:_ANSWER_SHOWN]}…"
        figures = [str(each.rounds), str(each.calls), f"{each.prompt_tokens + each.completion_tokens:,}"]
        rows.append(
            f'<tr>{render_cells("td", [each.task, each.loop])}<td class="text">{verdict}</td>'
            f"{render_cells('td', [each.stop, *figures, f'{each.seconds:.1f}'])}"
            f'<td class="text">{escape(shown)}</td></tr>'
        )
    return f"<table><tr>{heading}</tr>\n" + "\n".join(rows) + "</table>"
