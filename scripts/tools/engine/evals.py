"""The eval tasks with the real engine: small models under several chat templates, by the bridge and by others.

`scripts/evals` runs it. Each attempt is appended to a file as it ends, and is not made again while it is there, so that
an interrupted run goes on where it stopped. The tables are made from that file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby, product
from pathlib import Path

import anyio
import httpx2

from lmstudio_bridge import __version__
from lmstudio_bridge.evals.results import format_table
from lmstudio_bridge.evals.runner import LOOPS, Attempts, Job, Limits, Work, describe, run_baseline, run_bridge
from lmstudio_bridge.evals.sandbox import SERVERS, claim_root
from lmstudio_bridge.evals.suite import FAMILIES, make_suite
from lmstudio_bridge.evals.tasks import Task
from lmstudio_bridge.events import Outcome
from lmstudio_bridge.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import read_settings
from scripts.tools.bench.subjects import BenchError
from scripts.tools.engine.eval_results import (
    Cell,
    Figures,
    Key,
    Line,
    Lines,
    append_line,
    as_markdown,
    changes,
    compare,
    digest_of,
    read_lines,
    side_by_side,
    table,
)
from scripts.tools.engine.meter import open_meter
from scripts.tools.engine.peer import PEER, peer_work
from scripts.tools.engine.server import CHECKOUT, TEMPLATES, EngineError, open_engine
from scripts.tools.engine.weights import MODELS, WeightsError, fetch_and_show
from tests.support.npm_servers import npm_server

RESULTS = CHECKOUT / "eval-results" / "attempts.jsonl"
DOCUMENT = CHECKOUT / "docs" / "contributing" / "eval-results.md"
BEGIN, END = "<!-- results: scripts/evals --write makes what follows -->", "<!-- end of results -->"

STOCK = "stock"
"""The template inside the model's own file."""

TEMPLATES_OF = {
    "qwen2.5-coder-0.5b": (STOCK, "bare_json", "worked_examples"),
    "qwen2.5-coder-1.5b": (STOCK, "bare_json", "example_turns"),
}
BRIDGE = "bridge"
ONE_RUN = "bridge-one-run"
"""The bridge without `for_each`, for the tasks that it otherwise does with it."""
EXAMPLES_TOO = "baseline-examples"
SUBJECTS = (*LOOPS, ONE_RUN, EXAMPLES_TOO, PEER)
STRATEGIES = ("auto", "native", "grammar")
"""Values of LMSTUDIO_BRIDGE_CALLS; all subjects but the bridge call natively."""

CONTEXT = 32_768  # tokens, for two slots
MAX_ROUNDS, MAX_TOKENS = 8, 512
SECONDS = 1_200  # so long that a busy machine does not decide

EXAMPLES: tuple[Message, ...] = (
    UserMessage("What is the weather in Oslo?"),
    AssistantMessage("", (ToolCall("example1", "get_weather", '{"city": "Oslo"}'),)),
    ToolMessage("example1", "rain, 7 degrees"),
    AssistantMessage("It is raining in Oslo, at 7 degrees."),
    UserMessage("Read /data/report.md and tell me its author."),
    AssistantMessage("", (ToolCall("example2", "read_document", '{"path": "/data/report.md"}'),)),
    ToolMessage("example2", "Quarterly report\nAuthor: Ida Holm\nCosts fell by 4 %."),
    AssistantMessage("The author of the report is Ida Holm."),
)
"""Two worked examples with invented tools, as turns before the task."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which attempts are wanted."""

    models: tuple[str, ...] = (min(TEMPLATES_OF),)
    templates: tuple[str, ...] = (STOCK,)
    strategies: tuple[str, ...] = ("auto",)
    subjects: tuple[str, ...] = (BRIDGE,)
    families: tuple[str, ...] = tuple(FAMILIES)
    seeds: tuple[int, ...] = (1,)
    tasks: int | None = None
    only: str = ""

    def attempts(self) -> Iterator[tuple[Key, Task]]:
        """The attempts in the order in which they are made: those of one engine next to each other."""
        for model, template in product(self.models, self.templates):
            if template not in TEMPLATES_OF[model]:
                continue
            for strategy, subject, family, seed in product(self.strategies, self.subjects, self.families, self.seeds):
                calls = strategy if subject in (BRIDGE, ONE_RUN) else "native"
                for task in make_suite(seed=seed, families=[family], most=self.tasks):
                    if self.only in task.name and (task.for_each or subject != ONE_RUN):
                        yield Key(Cell(model, template, calls, subject, family), seed, task.name), task


def whole_matrix(tasks: int | None) -> tuple[Selection, ...]:
    """All families under the stock template by all subjects; one-call also under other templates and with native calls.

    Three seeds of all of it.
    """
    models = tuple(TEMPLATES_OF)
    templates = tuple(dict.fromkeys(name for names in TEMPLATES_OF.values() for name in names))
    seeds = (1, 2, 3)
    return (
        Selection(models, subjects=SUBJECTS, seeds=seeds, tasks=tasks),
        Selection(models, templates, ("auto", "native"), SUBJECTS, ("one-call",), seeds, tasks),
    )


# -- running ----------------------------------------------------------------------------------------------------------


async def run_attempts(todo: Mapping[Key, Task], results: Path, *, limits: Limits, threads: int) -> None:
    """Make attempts and append each to the file; an engine runs for each model and template.

    Raises:
        EngineError: The engine can't be had, or has ended; attempts that it did not see through are not kept.
    """
    version = describe_version()
    number = 0
    engines = groupby(todo.items(), lambda item: (item[0].cell.model, item[0].cell.template))
    with claim_root() as root:
        for (model, template), items in engines:
            gguf = await anyio.to_thread.run_sync(_fetch, model)
            async with AsyncExitStack() as stack:
                engine = await stack.enter_async_context(
                    open_engine(
                        gguf,
                        alias=model,
                        context_length=CONTEXT,
                        chat_template=None if template == STOCK else TEMPLATES / f"{template}.jinja",
                        threads=threads,
                    )
                )
                meter = await stack.enter_async_context(open_meter(engine.url))
                for key, task in items:
                    number += 1
                    attempts = open_attempts(meter.url, key.cell.strategy, results.parent / "home")
                    try:
                        before = await meter.read()
                        attempt = await attempts.make(
                            task,
                            key.cell.subject,
                            work_of(key.cell.subject, meter.url),
                            root / "task",
                            model=model,
                            limits=limits,
                        )
                        used = await meter.read() - before
                    except (httpx2.HTTPError, TimeoutError) as exc:
                        raise EngineError("the engine has ended or hangs", remedy="run the same command again") from exc
                    figures = (used.requests, used.evaluated, used.generated)
                    line = Line(key, attempt, *figures, version, today(), digest_of(task))
                    append_line(results, line)
                    said = f"{describe(attempt)} · {used.requests} requests · {used.evaluated:,} evaluated"
                    print(f"[{number}/{len(todo)}] seed {key.seed} · {said}", file=sys.stderr, flush=True)


def open_attempts(url: str, strategy: str, home: Path) -> Attempts:
    """The bridge's attempts with the engine at this address."""
    environ = {
        **os.environ,
        "LMSTUDIO_BASE_URL": url,
        "LMSTUDIO_BRIDGE_HOME": str(home),
        "LMSTUDIO_BRIDGE_CALLS": strategy,
    }
    return Attempts(read_settings(environ, cwd=CHECKOUT), environ, Redactor(), server_commands())


async def run_in_one(job: Job) -> Outcome:
    return await run_bridge(replace(job, task=replace(job.task, for_each="")))


def work_of(subject: str, url: str) -> Work:
    if subject == ONE_RUN:
        return run_in_one
    if subject == EXAMPLES_TOO:
        return partial(run_baseline, examples=EXAMPLES)
    return LOOPS[subject] if subject in LOOPS else peer_work(url)


def server_commands() -> dict[str, tuple[str, ...]]:
    """How the suite's servers are started that scripts/setup has installed."""
    commands = {**SERVERS, **{name: tuple(npm_server(name)) for name in ("filesystem", "memory", "everything")}}
    for name in ("git", "time"):
        script = shutil.which(f"mcp-server-{name}", path=str(Path(sys.executable).parent))
        if script is not None:  # else with uvx
            commands[name] = (script,)
    return commands


def describe_version() -> str:
    """The version, with the commit of this checkout and whether it was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return f"{__version__} {done.stdout.strip()}".strip()


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def _fetch(model: str) -> Path:
    return fetch_and_show(MODELS[model])


# -- the command ------------------------------------------------------------------------------------------------------


def write_document(document: Path, lines: Lines) -> None:
    """Put the tables between their marks."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    versions = sorted({f"{line.version} ({line.date})" for line in lines.values()})
    found = [
        "Right, and in brackets wrong as success:",
        *("", *as_markdown(side_by_side(lines, Figures.quality)), ""),
        "Requests · prompt tokens evaluated · tokens generated · seconds:",
        *("", *as_markdown(side_by_side(lines, Figures.cost)), ""),
        f"Versions and commits: {', '.join(versions)}.",
    ]
    document.write_text("\n".join([f"{before}{BEGIN}", "", *found, "", f"{END}{after}"]), encoding="utf-8")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/evals", description=__doc__.partition("\n")[0])
    default = Selection()

    def add_choice(name: str, known: tuple[str, ...], default: tuple[str, ...], text: str = "") -> None:
        shown = "all" if default == known else ", ".join(default)
        parser.add_argument(
            f"--{name}", type=lambda value: _chosen(value, known), metavar="A,B",
            help=f"{text}of {', '.join(known)} (default: {shown})",
        )  # fmt: skip

    templates = tuple(dict.fromkeys(name for names in TEMPLATES_OF.values() for name in names))
    add_choice("models", tuple(TEMPLATES_OF), default.models)
    add_choice("templates", templates, default.templates)
    add_choice("strategies", STRATEGIES, default.strategies, "how the bridge asks for calls: ")
    add_choice("subjects", SUBJECTS, default.subjects)
    add_choice("families", tuple(FAMILIES), default.families)
    parser.add_argument("--seeds", type=_seeds, metavar="1,2", help="default: 1")
    parser.add_argument("--tasks", type=int, metavar="N", help="the first N tasks of each family (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks in whose family/name this stands")
    parser.add_argument("--all", action="store_true", help="the whole matrix, three seeds: days")
    parser.add_argument("--again", action="store_true", help="also the attempts that are there already")
    parser.add_argument("--rounds", type=int, default=MAX_ROUNDS, metavar="N", help=f"most of a task ({MAX_ROUNDS})")
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="N", help=f"most of a task ({SECONDS})")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the engine (2)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where attempts are kept")
    parser.add_argument("--table", action="store_true", help="run nothing, show the table of what is selected")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="run nothing, compare an earlier file with this one"
    )
    parser.add_argument("--write", action="store_true", help="write the documented table from all attempts")
    return parser.parse_args(arguments)


def _chosen(value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value.split(","))
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def _seeds(value: str) -> tuple[int, ...]:
    return tuple(map(int, value.split(",")))


def selections(options: argparse.Namespace) -> tuple[Selection, ...]:
    """What the options ask for."""
    if options.all:
        return whole_matrix(options.tasks)
    names = ("models", "templates", "strategies", "subjects", "families", "seeds", "tasks", "only")
    return (Selection(**{name: value for name in names if (value := getattr(options, name))}),)


def main() -> int:
    options = parse_options()
    chosen = {key: task for selection in selections(options) for key, task in selection.attempts()}
    done = read_lines(options.results)
    if not (options.table or options.compare or options.write):
        known = {key for key, task in chosen.items() if key in done and done[key].digest == digest_of(task)}
        todo = {key: task for key, task in chosen.items() if options.again or key not in known}
        print(f"{len(todo)} attempts to make, {len(chosen) - len(todo)} are there", file=sys.stderr)
        limits = Limits(options.rounds, MAX_TOKENS, float(options.seconds))

        async def run_all() -> None:
            await run_attempts(todo, options.results, limits=limits, threads=options.threads)

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it also cleans up
        try:
            anyio.run(run_all)
        except (EngineError, WeightsError) as exc:
            print(f"\n{exc}\n{exc.remedy}", file=sys.stderr)
            return 1
        except BenchError as exc:
            print(f"\n{exc}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130  # as shells expect
        done = read_lines(options.results)
    if options.write:
        write_document(DOCUMENT, done)
        return 0
    wanted = {key: line for key, line in done.items() if key in chosen}
    if options.compare:
        before = read_lines(options.compare)
        print(format_table(compare(before, wanted)), *changes(before, wanted), sep="\n")
    else:
        print(format_table(table(wanted)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
