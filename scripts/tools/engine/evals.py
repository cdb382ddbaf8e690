"""`lmstudio-bridge eval` against the real engine: small models under several chat templates, bridge and plain loop.

`scripts/evals` runs it. A cell is one model under one template with one family of tasks; what it brought is kept, and
it is not run again unless that is asked for. In the end the table of docs/evals.md is written anew from all cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from lmstudio_bridge.evals.page import save_results
from lmstudio_bridge.evals.results import Results, read_results
from lmstudio_bridge.evals.suite import FAMILIES
from scripts.tools.engine.server import CHECKOUT, TEMPLATES, EngineError, open_engine
from scripts.tools.engine.weights import MODELS, WeightsError, fetch_weights, show_progress
from tests.support.npm_servers import npm_server

CELLS = CHECKOUT / "eval-results" / "cells"
DOCUMENT = CHECKOUT / "docs" / "evals.md"
BEGIN, END = "<!-- cells: scripts/evals writes what follows -->", "<!-- end of cells -->"

STOCK = "stock"
"""The template inside the model's own file."""

TEMPLATES_OF = {
    "qwen2.5-coder-0.5b": (STOCK, "bare_json", "worked_examples"),
    "qwen2.5-coder-1.5b": (STOCK, "bare_json", "example_turns"),
}
CONTEXT = 32_768  # tokens, for two slots: one for the bridge's prompts, one for the plain loop's
LIMITS = ("--max-rounds", "8", "--max-tokens", "512")
SECONDS = 300  # of one task


@dataclass(frozen=True, slots=True)
class Cell:
    """One model under one chat template with one family of tasks."""

    model: str
    template: str
    family: str

    @property
    def name(self) -> str:
        return f"{self.model}/{self.template}/{self.family}"

    @property
    def chat_template(self) -> Path | None:
        return None if self.template == STOCK else TEMPLATES / f"{self.template}.jinja"

    def folder(self, cells: Path) -> Path:
        return cells / self.model / self.template / self.family


def all_cells(models: Iterable[str], families: Iterable[str]) -> list[Cell]:
    """The cells of these models and families, those of one engine next to each other."""
    names = list(families)
    return [Cell(model, template, family) for model in models for template in TEMPLATES_OF[model] for family in names]


def read_cell(cell: Cell, cells: Path) -> Results | None:
    """What was kept of a cell; None if there is nothing, or only a part of it."""
    path = cell.folder(cells) / "results.json"
    if not path.exists():
        return None
    results = read_results(json.loads(path.read_text(encoding="utf-8")))
    tried = len(results.attempts) // len(results.plan.loops) + len(results.skipped)
    return results if tried == results.plan.tasks else None


def eval_command(
    cell: Cell, folder: Path, *, tasks: int | None, seed: int, seconds: int, baseline: bool = True
) -> list[str]:
    """The command of one cell, after `lmstudio-bridge`; its results go into `folder`."""
    words = ["eval", "--model", cell.model, "--family", cell.family, "--seed", str(seed), *LIMITS]
    words += ["--baseline"] if baseline else []
    words += ["--seconds", str(seconds), *(["--tasks", str(tasks)] if tasks else [])]
    return [*words, "--output", str(folder)]


def join_results(new: Results, old: Results) -> Results:
    """The bridge's attempts of one run, and the plain loop's of another: those do not depend on the bridge."""
    plain = [attempt for attempt in old.attempts if attempt.loop == "baseline"]
    return Results(dataclasses.replace(new.plan, loops=old.plan.loops), [*new.attempts, *plain], new.skipped)


def server_options() -> list[str]:
    """How the suite's servers are started that scripts/setup has installed."""
    commands = {name: npm_server(name) for name in ("filesystem", "memory", "everything")}
    for name in ("git", "time"):
        script = shutil.which(f"mcp-server-{name}", path=str(Path(sys.executable).parent))
        if script is not None:  # else the command's own way, with uvx
            commands[name] = [script]
    return [f"--server={name}={shlex.join(command)}" for name, command in commands.items()]


async def run_cells(
    todo: Sequence[Cell], cells: Path, *, tasks: int | None, seed: int, seconds: int, threads: int, bridge: bool
) -> bool:
    """Run cells one after the other, an engine started for each; whether all of them ran."""
    ran = True
    for number, cell in enumerate(todo, 1):
        print(f"== {cell.name} ({number} of {len(todo)})", file=sys.stderr, flush=True)
        gguf = await anyio.to_thread.run_sync(_fetch, cell.model)
        async with open_engine(
            gguf, alias=cell.model, context_length=CONTEXT, chat_template=cell.chat_template, threads=threads
        ) as engine:
            old = read_cell(cell, cells) if bridge else None
            folder = cell.folder(cells) / "bridge" if old else cell.folder(cells)
            words = eval_command(cell, folder, tasks=tasks, seed=seed, seconds=seconds, baseline=old is None)
            words += server_options()
            environ = {**os.environ, "LMSTUDIO_BASE_URL": engine.url, "LMSTUDIO_BRIDGE_HOME": str(cells / "home")}
            command = [sys.executable, "-m", "lmstudio_bridge", *words]
            done = await anyio.run_process(command, cwd=CHECKOUT, env=environ, stdout=None, stderr=None, check=False)
            ran = ran and done.returncode == 0
            if old and done.returncode == 0:
                new = read_results(json.loads((folder / "results.json").read_text(encoding="utf-8")))
                save_results(join_results(new, old), cell.folder(cells))
    return ran


def _fetch(model: str) -> Path:
    return fetch_weights(MODELS[model], report=show_progress)


def cell_rows(done: Iterable[tuple[Cell, Results]]) -> list[str]:
    """The table of cells in Markdown; rounds, tokens and seconds as «bridge / plain loop»."""
    heading = ["model", "template", "family", "tasks", "bridge", "plain loop", "only bridge", "only plain"]
    heading += ["wrong as success", "rounds", "tokens", "seconds", "date"]
    rows = [heading, ["---"] * len(heading)]
    for cell, results in done:
        ours, plain = (results.sum(cell.family, loop) for loop in ("bridge", "baseline"))
        pairs = results.pairs(cell.family)
        rows.append(
            [
                cell.model,
                cell.template,
                cell.family,
                str(ours.tasks),
                f"**{ours.right}**",
                str(plain.right),
                str(pairs.bridge_only),
                str(pairs.baseline_only),
                f"{ours.wrong_as_success} / {plain.wrong_as_success}",
                f"{ours.rounds:.1f} / {plain.rounds:.1f}",
                f"{ours.tokens:,.0f} / {plain.tokens:,.0f}",
                f"{ours.seconds:.0f} / {plain.seconds:.0f}",
                results.plan.began[:10],
            ]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def write_document(document: Path, rows: Sequence[str]) -> None:
    """Put the table between its marks."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(rows)
    document.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/evals", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=sorted(TEMPLATES_OF), help="default: the smallest")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="default: one-call")
    parser.add_argument("--all", action="store_true", help="all models and families: hours")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells in whose model/template/family this stands"
    )
    parser.add_argument("--tasks", type=int, metavar="N", help="most tasks of a family (default: all)")
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="N", help=f"most of one task ({SECONDS})")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the engine; 1 on a busy machine (2)")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--again", action="store_true", help="also the cells that are there already")
    parser.add_argument("--bridge", action="store_true", help="with --again: only the bridge, not the plain loop")
    parser.add_argument("--cells", type=Path, default=CELLS, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--table", action="store_true", help="run nothing, only write the table of what is there")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()
    everything = all_cells(sorted(TEMPLATES_OF), FAMILIES)
    models = sorted(TEMPLATES_OF) if options.all else options.model or [min(TEMPLATES_OF)]
    families = list(FAMILIES) if options.all else options.family or ["one-call"]
    todo = [cell for cell in all_cells(models, families) if options.only in cell.name and not options.table]
    todo = [cell for cell in todo if options.again or read_cell(cell, options.cells) is None]

    async def run_all() -> bool:
        chosen = {name: getattr(options, name) for name in ("tasks", "seed", "seconds", "threads", "bridge")}
        return await run_cells(todo, options.cells, **chosen)

    try:
        ran = anyio.run(run_all)
    except (EngineError, WeightsError) as exc:
        print(f"\n{exc}\n{exc.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells expect
    finally:
        done = [(cell, results) for cell in everything if (results := read_cell(cell, options.cells)) is not None]
        if done:
            write_document(DOCUMENT, cell_rows(done))
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main())
