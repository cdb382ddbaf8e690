"""A run from the shell, new or gone on with: what both take, what is shown, what is printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, positive, rounds
from lmstudio_bridge.collector import collector_paused

if TYPE_CHECKING:
    from lmstudio_bridge.events import Emit, Event
    from lmstudio_bridge.runs.request import ContinueRequest, RunRequest
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, how far, and how the answer comes."""
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded one)")
    parser.add_argument("--max-rounds", type=rounds, default=50, metavar="N", help="most requests to the model (50)")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="most tokens of one reply (default: auto)")
    parser.add_argument("--timeout", type=positive, metavar="S", help="seconds for the run; then the answer so far")
    parser.add_argument(
        "--access",
        choices=("read", "write"),
        default="read",
        help="read: only tools that are marked as reading; write: also those that may change things (read)",
    )
    parser.add_argument("--schema", metavar="FILE", help="file with a JSON Schema that the answer must fit; it is JSON")
    parser.add_argument("--json", action="store_true", help="print answer and figures as one JSON object")


def read_schema(name: str | None) -> dict[str, Any] | None:
    """The JSON Schema in a file; None where none was named.

    Raises:
        SettingsError: It cannot be read, or is no JSON object.
    """
    from lmstudio_bridge.errors import SettingsError

    if name is None:
        return None
    try:
        schema = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise SettingsError(f"--schema {name} can't be used: {exc}.", remedy="Name a file with a JSON Schema.") from exc
    if not isinstance(schema, dict):
        raise SettingsError(f"--schema {name} is no JSON object.", remedy="Name a file with a JSON Schema.")
    return schema


async def do_work(
    settings: Settings, request: RunRequest | ContinueRequest, redactor: Redactor, *, as_json: bool
) -> int:
    """Do what is asked: what happens to stderr, the answer to stdout; the exit code."""
    import asyncio

    with collector_paused():
        from lmstudio_bridge.cli.progress_lines import open_lines
        from lmstudio_bridge.events import RunContinued, RunStarted, fan_out
        from lmstudio_bridge.runs.autonomous import open_agent
        from lmstudio_bridge.runs.request import RunRequest
        from lmstudio_bridge.text import clean_text

    def open_show() -> AbstractAsyncContextManager[Emit]:
        if not sys.stderr.isatty():
            return open_lines(sys.stderr, heartbeat=settings.heartbeat)
        from lmstudio_bridge.cli.display import open_display

        return open_display(sys.stderr, environ=os.environ)

    run_id = ""

    async def remember(event: Event) -> None:
        nonlocal run_id
        if isinstance(event, RunStarted | RunContinued):
            run_id = event.run_id

    async with open_agent(settings, environ=os.environ, redactor=redactor) as agent:
        try:
            async with open_show() as show:
                emit = fan_out(remember, show)
                if isinstance(request, RunRequest):
                    report = await agent.execute(request, emit=emit)
                else:
                    report = await agent.continue_run(request, emit=emit)
        except asyncio.CancelledError:
            if run_id:
                go_on = f"lmstudio-bridge continue {run_id}"
                print(f"Interrupted. What was done is kept; go on with: {go_on}", file=sys.stderr, flush=True)
            raise
        if as_json:
            text = json.dumps({"answer": report.outcome.answer, **report.structure()}, ensure_ascii=False)
        else:
            text = clean_text(report.text())[0]
        aside = report.outcome.stop == "failed" and not as_json
        print(text, file=sys.stderr if aside else sys.stdout, flush=True)  # now: the servers may be slow to end
    return EXIT_OK if report.outcome.stop == "answered" else EXIT_FAILED
