"""`lmstudio-bridge run`: does one task from the shell."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from lmstudio_bridge.commands.arguments import EXIT_FAILED, EXIT_OK, Commands, positive, rounds, task
from lmstudio_bridge.commands.help import add_command

if TYPE_CHECKING:
    from lmstudio_bridge.redaction import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "run",
        "do one task from the shell",
        """
        Lets the local model work on the task with the tools of your MCP servers, as the bridge does for
        Claude Code. Progress goes to stderr, the answer to stdout. Ctrl-C ends the run and its servers in good
        order; what was done so far is in its journal.
        """,
        examples=(
            ('lmstudio-bridge run "List every TODO in src/" --mcp filesystem', "with one MCP server"),
            ('lmstudio-bridge run "Sort the notes by topic" --access write', "where tools may change things"),
        ),
        exit_codes={0: "answered", 1: "no whole answer: a limit was reached, or it failed"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "LMSTUDIO_BRIDGE_RUN_TIMEOUT"),
    )
    parser.add_argument("task", type=task, help="what to do")
    parser.add_argument(
        "--mcp",
        action="append",
        metavar="NAME",
        help="MCP server whose tools the model may use; give it several times for several (default: all)",
    )
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded one)")
    parser.add_argument("--max-rounds", type=rounds, default=50, metavar="N", help="most requests to the model (50)")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="most tokens of one reply (default: auto)")
    parser.add_argument(
        "--access",
        choices=("read", "write"),
        default="read",
        help="read: only tools that are marked as reading; write: also those that may change things (read)",
    )


async def run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Do the task: progress to stderr, the answer to stdout."""
    from lmstudio_bridge.agent.progress import open_progress
    from lmstudio_bridge.autonomous import open_agent
    from lmstudio_bridge.request import RunRequest

    async def show(_: float, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    request = RunRequest(
        args.task,
        tuple(args.mcp) if args.mcp else None,
        args.max_rounds,
        args.max_tokens,
        args.model,
        access=args.access,
    )
    async with (
        open_agent(settings, environ=os.environ, redactor=redactor) as agent,
        open_progress(show, heartbeat=settings.heartbeat) as emit,
    ):
        report = await agent.execute(request, emit=emit)
    print(report.text(), file=sys.stderr if report.outcome.stop == "failed" else sys.stdout)
    return EXIT_OK if report.outcome.stop == "answered" else EXIT_FAILED
