"""`lmstudio-bridge status`: the runs in progress in one line, for a status line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lmstudio_bridge.cli.arguments import EXIT_OK
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.events import RoundFinished
from lmstudio_bridge.runs.resume import StoredRun, running_runs
from lmstudio_bridge.settings import read_settings
from lmstudio_bridge.text import as_shown, clean_text, first_line, one_line

_SHOWN_TASK = 50  # characters


def show_status(environ: Mapping[str, str], *, cwd: Path, bare: bool) -> int:
    """Print the runs in progress, and what all runs saved.

    `bare`: only the former, nothing if there are none, and nothing in place of an error.
    """
    try:
        folder = read_settings(environ, cwd=cwd).home / "runs"
        line = running_line(folder)
    except (BridgeError, OSError) as exc:
        if not bare:
            raise
        logging.debug("no status", exc_info=exc)
        line = ""
    if line or not bare:
        print(line or "No run is in progress.")
    if not bare:
        from lmstudio_bridge.cli.show import print_savings  # a status line is asked for often and need not wait for it

        print_savings(folder)
    return EXIT_OK


def running_line(folder: Path) -> str:
    """The newest run in progress and how many others there are; "" if there is none.

    Never any on Windows, where nothing tells whether a run is in progress.
    """
    running = list(running_runs(folder))
    if not running:
        return ""
    more = f" (+{len(running) - 1})" if len(running) > 1 else ""
    return f"local model: {_describe(running[0])}{more}"


def _describe(run: StoredRun) -> str:
    task = clean_text(as_shown(one_line(first_line(run.task, _SHOWN_TASK))))[0]
    if run.items:
        total = len(run.items.listed.items)
        state = f"{total - len(run.items.to_do())} of {total} items"
    else:
        usage = run.outcome.usage
        seconds = sum(event.seconds for event in run.events if isinstance(event, RoundFinished))
        speed = f", {usage.completion_tokens / seconds:.0f} tokens/s" if seconds and usage.completion_tokens else ""
        state = f"round {run.outcome.rounds + 1}, {usage.total:,} tokens{speed}"
    return " - ".join(part for part in (task, state) if part)
