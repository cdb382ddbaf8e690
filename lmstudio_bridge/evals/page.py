"""The results of an evaluation as one page."""

from __future__ import annotations

import json
from pathlib import Path

from lmstudio_bridge.evals.results import ALL, Results
from lmstudio_bridge.files import open_private
from lmstudio_bridge.runs.html import Figure, render_template


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
    """The whole page as HTML; its heading says the score."""
    plan = results.plan
    sums = [(loop, results.sum(ALL, loop)) for loop in plan.loops]
    first = sums[0][1]
    scores = [f"{each.right:,} of {each.tasks:,} tasks right ({each.share:.0%})" for _, each in sums]
    return render_template(
        "results.html.j2",
        title=f"{plan.model}: {', baseline '.join(scores)}",
        plan=plan,
        facts=f"{plan.began} · lmstudio-bridge {plan.version} · seed {plan.seed} · at most {plan.max_rounds} rounds, "
        f"{plan.max_tokens:,} tokens a reply and {plan.seconds:g} s a task · {plan.parallel} at once",
        numbers=[
            Figure("Right", f"{first.share:.0%}"),
            Figure("Attempts", f"{len(results.attempts):,} of {plan.tasks * len(plan.loops):,}"),
            Figure("Wrong as success", f"{first.wrong_as_success:,}"),
            Figure("Rounds a task", f"{first.rounds:.1f}"),
            Figure("Tokens a task", f"{first.tokens:,.0f}"),
            Figure("Seconds a task", f"{first.seconds:.1f}"),
        ],
        bars=[
            (family, loop, results.sum(family, loop)) for family in [*results.families(), ALL] for loop in plan.loops
        ],
        pairs=results.pairs(ALL) if len(sums) > 1 else None,
        skipped=results.skipped,
        attempts=results.attempts,
    )
