"""The command line: serve, run, doctor. Parses arguments, sends logs to stderr, chooses exit codes.

Everything heavy is imported when its command runs, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmstudio_bridge import __version__

if TYPE_CHECKING:
    from collections.abc import Coroutine

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

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character must not cost the answer
            stream.reconfigure(errors="replace")
    try:
        settings = _settings()
        logging.basicConfig(
            stream=sys.stderr, level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
        )
        match args.command:
            case "run":
                return asyncio.run(_ended_by_signals(_run(settings, args)))
            case "doctor":
                return asyncio.run(_ended_by_signals(_doctor(settings)))
            case "eval":
                return asyncio.run(_ended_by_signals(_eval(settings, args)))
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
    run.add_argument(
        "--access",
        choices=("read", "write"),
        default="read",
        help="read: only tools that are marked as reading; write: also those that may change things (read)",
    )
    _add_eval(commands)
    return parser


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "measure how well a model does tasks that can be checked, over real MCP servers"
    parser = commands.add_parser("eval", help=about, description=f"{about[0].upper()}{about[1:]}; see docs/evals.md.")
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded one)")
    parser.add_argument("--family", action="append", metavar="F", help="family of tasks; several times for several")
    parser.add_argument("--tasks", type=_positive, metavar="N", help="most tasks of each family (default: all)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="names and numbers in the tasks (1)")
    parser.add_argument("--max-rounds", type=_positive, default=15, metavar="N", help="most requests of a task (15)")
    parser.add_argument("--max-tokens", type=_positive, default=2_048, metavar="N", help="most of one reply (2048)")
    parser.add_argument("--seconds", type=_positive, default=300, metavar="S", help="most seconds of a task (300)")
    parser.add_argument("--parallel", type=_positive, default=1, metavar="N", help="tasks at once (1)")
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


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {text!r}")
    return int(text)


def _settings() -> Settings:
    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.settings import read_settings

    try:
        folder = Path.cwd()
    except OSError as exc:
        raise SettingsError(
            f"The folder that the bridge was started in can't be used: {exc.strerror}.",
            remedy="Start it in a folder that exists and that you may enter.",
        ) from exc
    return read_settings(os.environ, cwd=folder)


def _serve(settings: Settings) -> int:
    from lmstudio_bridge.server import serve

    serve(settings, environ=os.environ)
    return EXIT_OK


async def _ended_by_signals(work: Coroutine[Any, Any, int]) -> int:
    """The exit code of the work. SIGTERM, and the SIGHUP of a closed terminal, end it as Ctrl-C does: in good order."""
    import asyncio
    import contextlib
    import signal

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        task.cancel()

    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):  # Windows
            loop.add_signal_handler(getattr(signal, name), end, getattr(signal, name))
    try:
        return await work
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]


async def _run(settings: Settings, args: argparse.Namespace) -> int:
    from lmstudio_bridge.agent.progress import open_progress
    from lmstudio_bridge.autonomous import open_agent
    from lmstudio_bridge.report import RunRequest

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


async def _eval(settings: Settings, args: argparse.Namespace) -> int:
    import json

    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.evals.page import save_results
    from lmstudio_bridge.evals.request import read_request
    from lmstudio_bridge.evals.results import Results, format_table, table_rows
    from lmstudio_bridge.evals.runner import run_eval

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def keep(results: Results) -> None:
        try:
            save_results(results, args.output)
        except OSError as exc:
            message = f"The results can't be kept in {args.output}: {exc}."
            raise SettingsError(message, remedy="Name another folder with --output.") from exc

    results = await run_eval(read_request(args), settings, environ=os.environ, say=say, keep=keep)
    if args.json:
        print(json.dumps(results.to_json(), ensure_ascii=False))
    else:
        print(format_table(table_rows(results)))
    say(f"The whole is in {args.output / 'results.html'}.")
    return EXIT_OK
