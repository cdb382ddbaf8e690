"""`lmstudio-bridge continue`: goes on with a run of before."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import Commands
from lmstudio_bridge.cli.help import add_command
from lmstudio_bridge.cli.working import add_work_arguments, do_work, read_schema

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "continue",
        "go on with a run, or ask it something more",
        """
        Goes on with a run that was interrupted or ended early, gives the answer of a finished one again, or with
        instructions does something more on top of what it found out. No call is made twice by itself.
        """,
        examples=(
            ("lmstudio-bridge continue last", "go on with the newest run"),
            ('lmstudio-bridge continue last "Now only those in src/"', "ask for something more"),
        ),
        exit_codes={0: "answered", 1: "failed, or ended before there was a whole answer"},
        variables=("LMSTUDIO_BASE_URL", "LMSTUDIO_BRIDGE_HOME", "NO_COLOR"),
    )
    parser.add_argument("run_id", help="its id, from the last line of an answer or from `runs`; or: last")
    parser.add_argument("instructions", nargs="?", default="", help="what to do next")
    add_work_arguments(parser)


async def run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Go on with it."""
    from lmstudio_bridge.runs.report import find_run
    from lmstudio_bridge.runs.request import ContinueRequest

    stored = find_run(settings.home / "runs", args.run_id)
    request = ContinueRequest(
        stored.run_id,
        args.instructions,
        args.max_rounds,
        args.max_tokens,
        args.model,
        args.timeout,
        read_schema(args.schema),
        args.access,
    )
    return await do_work(settings, request, redactor, as_json=args.json)
