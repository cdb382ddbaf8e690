"""`lmstudio-bridge eval`: measures how well a model does tasks that can be checked."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands, positive
from lmstudio_bridge.cli.help import add_command

if TYPE_CHECKING:
    from lmstudio_bridge.evals.results import Results
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "eval",
        "measure how well a model does tasks that can be checked, over real MCP servers",
        """
        Lets a model do tasks whose result can be checked, over real MCP servers in a folder of their own, and
        prints a table. What was measured, and how: docs/evals.md.
        """,
        examples=(
            ("lmstudio-bridge eval --baseline", "all tasks, here and with a plain loop"),
            ("lmstudio-bridge eval --family one_call --tasks 3 --json", "a quick look, for a program"),
        ),
        exit_codes={0: "measured, however well the model did"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL"),
    )
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded one)")
    parser.add_argument("--family", action="append", metavar="F", help="family of tasks; several times for several")
    parser.add_argument("--tasks", type=positive, metavar="N", help="most tasks of each family (default: all)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="names and numbers in the tasks (1)")
    parser.add_argument("--max-rounds", type=positive, default=15, metavar="N", help="most requests of a task (15)")
    parser.add_argument("--max-tokens", type=positive, default=2_048, metavar="N", help="most of one reply (2048)")
    parser.add_argument("--seconds", type=positive, default=300, metavar="S", help="most seconds of a task (300)")
    parser.add_argument("--parallel", type=positive, default=1, metavar="N", help="tasks at once (1)")
    parser.add_argument("--baseline", action="store_true", help="do each task with a plain loop too")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="how one of the MCP servers is started (default: with npx or uvx)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("eval-results"), metavar="FOLDER", help="for results.json and results.html"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON in place of the table")


async def run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Do the suite: what happens to stderr, the table to stdout, the whole into a folder."""
    import json

    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.evals.page import save_results
    from lmstudio_bridge.evals.request import read_request
    from lmstudio_bridge.evals.results import format_table, table_rows
    from lmstudio_bridge.evals.runner import run_eval
    from lmstudio_bridge.text import clean_text

    def say(line: str) -> None:
        print(clean_text(line)[0], file=sys.stderr, flush=True)

    def keep(results: Results) -> None:
        try:
            save_results(results, args.output)
        except OSError as exc:
            message = f"The results can't be kept in {args.output}: {exc}."
            raise SettingsError(message, remedy="Name another folder with --output.") from exc

    results = await run_eval(read_request(args), settings, environ=os.environ, redactor=redactor, say=say, keep=keep)
    if args.json:
        print(json.dumps(results.to_json(), ensure_ascii=False))
    else:
        print(clean_text(format_table(table_rows(results)))[0])
    say(f"The whole is in {args.output / 'results.html'}.")
    return EXIT_OK
