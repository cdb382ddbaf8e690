"""`lmstudio-bridge eval`: measures how well a model does checkable tasks."""

from __future__ import annotations

import argparse
import json
import os
import sys

from lmstudio_bridge.cli.arguments import EXIT_OK
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.evals.page import save_results
from lmstudio_bridge.evals.request import read_request
from lmstudio_bridge.evals.results import Results, format_table, table_rows
from lmstudio_bridge.evals.runner import run_eval
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import clean_text


async def run_evals(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Run the suite: progress goes to stderr, the table to stdout, the full results into a folder."""

    def say(line: str) -> None:
        print(clean_text(line)[0], file=sys.stderr, flush=True)

    def keep(results: Results) -> None:
        try:
            save_results(results, args.output)
        except OSError as exc:
            message = f"The results can't be written to {args.output}: {exc}."
            raise SettingsError(message, remedy="Name another folder with --output.") from exc

    results = await run_eval(read_request(args), settings, environ=os.environ, redactor=redactor, say=say, keep=keep)
    if args.json:
        print(json.dumps(results.to_json(), ensure_ascii=False))
    else:
        print(clean_text(format_table(table_rows(results)))[0])
    say(f"Full results: {args.output / 'results.html'}")
    return EXIT_OK
