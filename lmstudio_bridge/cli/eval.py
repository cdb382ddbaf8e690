"""`lmstudio-bridge eval`: measures how well a model does checkable tasks."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable

from lmstudio_bridge.cli.arguments import EXIT_OK
from lmstudio_bridge.cli.terminal import open_bar
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.evals.results import Loop, Results, format_table, save_results, table_rows
from lmstudio_bridge.evals.runner import EvalRequest, Limits, run_eval
from lmstudio_bridge.evals.sandbox import SERVERS
from lmstudio_bridge.evals.suite import FAMILIES, make_suite
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import clean_text


async def run_evals(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Run the suite: progress goes to stderr, the table to stdout, the full results into a folder."""

    def say(line: str) -> None:
        print(clean_text(line)[0], file=sys.stderr, flush=True)

    bar = open_bar(sys.stderr, environ=os.environ)
    in_bar = bar.add_task("eval", total=None)

    def keep(results: Results) -> None:
        plan, right = results.plan, sum(attempt.right for attempt in results.attempts)
        total = (plan.tasks - len(results.skipped)) * len(plan.loops)
        bar.update(in_bar, description=f"{right} right", completed=len(results.attempts), total=total)
        try:
            save_results(results, args.output)
        except OSError as exc:
            message = f"The results can't be written to {args.output}: {exc}."
            raise SettingsError(message, remedy="Name another folder with --output.") from exc

    request = read_request(args)
    with bar:
        results = await run_eval(request, settings, environ=os.environ, redactor=redactor, say=say, keep=keep)
    if args.json:
        print(json.dumps(results.to_json(), ensure_ascii=False))
    else:
        print(clean_text(format_table(table_rows(results)))[0])
    say(f"Full results: {args.output / 'results.html'}")
    return EXIT_OK


def read_request(args: argparse.Namespace) -> EvalRequest:
    """The request that the arguments describe.

    Raises:
        SettingsError: A family or a server is not in the suite, or a command is empty.
    """
    families = [family.replace("_", "-") for family in args.family or ()]
    for family in families:
        if family not in FAMILIES:
            raise SettingsError(f"Unknown task family {family!r}.", remedy=f"The families are: {', '.join(FAMILIES)}.")
    loops: tuple[Loop, ...] = ("bridge", "baseline") if args.baseline else ("bridge",)
    return EvalRequest(
        make_suite(seed=args.seed, families=families, most=args.tasks),
        seed=args.seed,
        model=args.model,
        loops=loops,
        limits=Limits(args.max_rounds, args.max_tokens, float(args.seconds)),
        parallel=args.parallel,
        commands=read_commands(args.server),
    )


def read_commands(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The commands that start the servers; `NAME=COMMAND` options replace defaults.

    Raises:
        SettingsError: An option does not name a server of the suite, or has no command.
    """
    commands = dict(SERVERS)
    for option in options:
        name, _, command = option.partition("=")
        try:
            words = tuple(shlex.split(command))
        except ValueError:  # an unclosed quotation mark
            words = ()
        if name not in SERVERS or not words:
            raise SettingsError(
                f"--server {option!r} is invalid.",
                remedy=f"Write it as NAME=COMMAND. The servers are: {', '.join(SERVERS)}.",
            )
        commands[name] = words
    return commands
