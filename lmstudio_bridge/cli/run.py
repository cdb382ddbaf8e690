"""`lmstudio-bridge run`: does one task from the shell."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import Commands, task
from lmstudio_bridge.cli.help import add_command
from lmstudio_bridge.cli.working import add_work_arguments, do_work, read_schema

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "run",
        "do one task from the shell",
        """
        Lets the local model do a task with the tools of your MCP servers, as the bridge does for Claude Code. What
        happens is shown on stderr, the answer is printed on stdout. Ctrl-C ends it and keeps what was done;
        `continue` goes on from there.
        """,
        examples=(
            ('lmstudio-bridge run "List every TODO in src/ with its file" --mcp filesystem', "read, and answer"),
            ('lmstudio-bridge run "Rename a.txt to b.txt" --mcp filesystem --access write', "change something"),
            ('lmstudio-bridge run "Who wrote most commits?" --mcp git --schema name.json --json', "for a program"),
        ),
        exit_codes={0: "answered", 1: "no whole answer: a limit was reached, or it failed"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "LMSTUDIO_BRIDGE_RUN_TIMEOUT", "NO_COLOR"),
    )
    parser.add_argument("task", type=task, help="what to do")
    parser.add_argument(
        "--mcp",
        action="append",
        metavar="NAME",
        help="MCP server whose tools the model may use; give it several times for several (default: all)",
    )
    add_work_arguments(parser)


async def run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Do the task."""
    from lmstudio_bridge.runs.request import RunRequest

    request = RunRequest(
        args.task,
        tuple(args.mcp) if args.mcp else None,
        args.max_rounds,
        args.max_tokens,
        args.model,
        args.timeout,
        read_schema(args.schema),
        args.access,
    )
    return await do_work(settings, request, redactor, as_json=args.json)
