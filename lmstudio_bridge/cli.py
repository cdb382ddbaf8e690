"""The command line: serve, run, doctor. Parses arguments, sends logs to stderr, chooses exit codes.

Everything heavy is imported when its command runs, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmstudio_bridge import __version__

if TYPE_CHECKING:
    from lmstudio_bridge.settings import Settings

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2  # argparse's own
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells expect

DESCRIPTION = "Hands tasks from Claude Code to a local model in LM Studio, which works with your other MCP servers."
EPILOG = (
    "Without a command it serves MCP on stdio; Claude Code starts it so: claude mcp add lmstudio-bridge -- uvx "
    "lmstudio-bridge. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."
)


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit code."""
    args = build_parser().parse_args(argv)
    import asyncio
    import logging

    from lmstudio_bridge.errors import BridgeError, SettingsError

    try:
        settings = _settings()
        logging.basicConfig(
            stream=sys.stderr, level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
        )
        match args.command:
            case "run":
                return asyncio.run(_run(settings, args))
            case "doctor":
                return asyncio.run(_doctor(settings))
            case _:
                return _serve(settings)
    except SettingsError as exc:
        print(exc.explain(), file=sys.stderr)
        return EXIT_USAGE
    except BridgeError as exc:
        print(exc.explain(), file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="lmstudio-bridge", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"lmstudio-bridge {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("serve", help="serve MCP on stdio (the default)")
    commands.add_parser("doctor", help="check LM Studio, its models and the MCP servers")
    run = commands.add_parser("run", help="do one task from the shell")
    run.add_argument("task", help="what to do")
    run.add_argument(
        "--mcp",
        action="append",
        metavar="NAME",
        help="MCP server whose tools the model may use; give it several times for several (default: all)",
    )
    run.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded one)")
    run.add_argument("--max-rounds", type=_positive, default=50, metavar="N", help="most requests to the model (50)")
    run.add_argument("--max-tokens", type=_positive, metavar="N", help="most tokens of one reply (default: auto)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {text!r}")
    return int(text)


def _settings() -> Settings:
    from lmstudio_bridge.settings import read_settings

    return read_settings(os.environ, cwd=Path.cwd())


def _serve(settings: Settings) -> int:
    from lmstudio_bridge.server import serve

    serve(settings, environ=os.environ)
    return EXIT_OK


async def _run(settings: Settings, args: argparse.Namespace) -> int:
    from lmstudio_bridge.agent.progress import open_progress
    from lmstudio_bridge.autonomous import open_agent
    from lmstudio_bridge.report import RunRequest

    async def show(_: float, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    request = RunRequest(args.task, tuple(args.mcp) if args.mcp else None, args.max_rounds, args.max_tokens, args.model)
    async with (
        open_agent(settings, environ=os.environ) as agent,
        open_progress(show, heartbeat=settings.heartbeat) as emit,
    ):
        report = await agent.execute(request, emit=emit)
    print(report.text(), file=sys.stderr if report.outcome.stop == "failed" else sys.stdout)
    return EXIT_OK if report.outcome.stop == "answered" else EXIT_FAILED


async def _doctor(settings: Settings) -> int:
    from lmstudio_bridge.autonomous import open_agent
    from lmstudio_bridge.doctor import run_checks

    passed = True
    async with open_agent(settings, environ=os.environ) as agent:
        async for check in run_checks(agent):
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}")
            if check.remedy:
                print("      " + check.remedy.replace("\n", "\n      "))
            passed = passed and check.passed
    return EXIT_OK if passed else EXIT_FAILED
