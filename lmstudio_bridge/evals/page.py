"""The results of an evaluation as one page."""

from __future__ import annotations

import json
from pathlib import Path

from lmstudio_bridge.evals.results import ALL, Results, table_rows
from lmstudio_bridge.files import open_private
from lmstudio_bridge.runs.html import Bar, Chart, Label, Line, render_template

_BAR = 16  # pixels, as are all sizes here
_GAP = 14
_LEFT = 150
_WIDTH = 480
_RIGHT = 110
_ANSWER_SHOWN = 300  # characters


def save_results(results: Results, folder: Path) -> None:
    """Write results.json and results.html into a folder, which is made if need be.

    Raises:
        OSError: They can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.to_json(), indent=2, ensure_ascii=False)
    for name, content in (("results.json", f"{text}\n"), ("results.html", render_page(results))):
        part = folder / f"{name}.part"
        with open(part, "w", encoding="utf-8", opener=open_private) as file:
            file.write(content)
        part.replace(folder / name)


def render_page(results: Results) -> str:
    """The whole page as HTML."""
    plan = results.plan
    heading, *rows = table_rows(results)
    return render_template(
        "results.html.j2",
        title=f"{plan.model}: {len(results.attempts)} of {plan.tasks * len(plan.loops)} attempts",
        facts=f"{plan.began} · lmstudio-bridge {plan.version} · seed {plan.seed} · at most {plan.max_rounds} rounds, "
        f"{plan.max_tokens:,} tokens a reply and {plan.seconds:g} s a task · {plan.parallel} at once",
        chart=draw_shares(results),
        heading=heading,
        rows=rows,
        skipped=results.skipped,
        attempts=results.attempts,
        answer_shown=_ANSWER_SHOWN,
    )


def draw_shares(results: Results) -> Chart:
    """A bar for each family and loop: the share of tasks done right."""
    loops = results.plan.loops
    families = [*results.families(), ALL]
    group = _BAR * len(loops) + _GAP
    top = 30
    height = top + group * len(families)
    chart = Chart("Share of tasks done right, by family", height, _LEFT + _WIDTH + _RIGHT)
    for column, loop in enumerate(loops):
        x = _LEFT + column * 110
        chart.bars.append(Bar(loop, x, 2, 12, 12))
        chart.texts.append(Label(loop, x + 18, 13))
    for percent in (0, 25, 50, 75, 100):
        x = _LEFT + _WIDTH * percent // 100
        chart.lines.append(Line(x, top - 6, x, height))
    for row, family in enumerate(families):
        y = top + row * group
        chart.texts.append(Label(family, _LEFT - 8, y + _BAR * len(loops) // 2 + 4, "end"))
        for number, loop in enumerate(loops):
            figures = results.sum(family, loop)
            length = round(_WIDTH * figures.share)
            chart.bars.append(Bar(loop, _LEFT, y + number * _BAR + 1, length, _BAR - 2))
            words = f"{figures.right} of {figures.tasks}"
            chart.texts.append(Label(words, _LEFT + length + 6, y + (number + 1) * _BAR - 4))
    return chart
