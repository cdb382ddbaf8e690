"""The command line: parses arguments, sends logs to stderr, chooses exit codes.

What a command does stands in `commands`. Everything heavy is imported when its command runs, so that
--help and --version answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from lmstudio_bridge import __version__
from lmstudio_bridge.cli import completion, continuing, eval, install, models, run, runs, serve, servers, uninstall
from lmstudio_bridge.cli.arguments import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Commands
from lmstudio_bridge.cli.doctor import command as doctor
from lmstudio_bridge.cli.help import HelpFormatter, epilog
from lmstudio_bridge.collector import collector_paused

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings

DESCRIPTION = """
Hands tasks from Claude Code to a local model in LM Studio, which works with your other MCP servers.

Without a command it serves MCP on stdio, as Claude Code wants it. Start with `lmstudio-bridge install`, and with
`lmstudio-bridge doctor` where something does not work. `lmstudio-bridge COMMAND --help` tells more.
"""


class Command(Protocol):
    """A module of `commands`; `run` gives the exit code, at once or when it is awaited.

    The redactor is that of the log, and learns the secrets that the command comes to know.
    """

    def add_parser(self, commands: Commands, /) -> None: ...

    def run(
        self, settings: Settings, args: argparse.Namespace, redactor: Redactor, /
    ) -> int | Coroutine[Any, Any, int]: ...


class PlainCommand(Protocol):
    """The same for what does not depend on the settings, and must not fail where they are wrong."""

    def add_parser(self, commands: Commands, /) -> None: ...

    def run(self, args: argparse.Namespace, redactor: Redactor, /) -> int | Coroutine[Any, Any, int]: ...


COMMANDS: dict[str, Command] = {
    "serve": serve,
    "run": run,
    "continue": continuing,
    "runs": runs,
    "models": models,
    "servers": servers,
    "eval": eval,
}
PLAIN_COMMANDS: dict[str, PlainCommand] = {
    "install": install,
    "uninstall": uninstall,
    "doctor": doctor,
    "completion": completion,
}
_ORDER = (serve, install, doctor, run, continuing, runs, models, servers, eval, uninstall, completion)  # of --help


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character must not cost the answer
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run_command(build_parser().parse_args(argv))
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError:  # as in `lmstudio-bridge doctor | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return EXIT_BROKEN_PIPE


def _run_command(args: argparse.Namespace) -> int:
    import asyncio
    import logging

    from lmstudio_bridge.errors import BridgeError, SettingsError
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.text import clean_text

    redactor = Redactor()
    try:
        code = _start(args, redactor)
        return code if isinstance(code, int) else asyncio.run(_ended_by_signals(code))
    except SettingsError as exc:
        print(clean_text(redactor.redact(exc.explain()))[0], file=sys.stderr)
        return EXIT_USAGE
    except BridgeError as exc:
        print(clean_text(redactor.redact(exc.explain()))[0], file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # no fault of ours: `main` knows what it means
        raise
    except Exception:  # the last net: the log's traceback shows no secrets, an uncaught one would
        logging.critical("the bridge has a fault; please report it", exc_info=True)
        return EXIT_FAILED


def _log_to_stderr(level: str, redactor: Redactor) -> None:
    """Send the log there, without secrets."""
    import logging

    from lmstudio_bridge.security.redact import RedactingFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s", redactor))
    logging.basicConfig(handlers=[handler], level=level.upper())


def _start(args: argparse.Namespace, redactor: Redactor) -> int | Coroutine[Any, Any, int]:
    """What the command does, or its exit code if that is already done."""
    if args.command in PLAIN_COMMANDS:
        _log_to_stderr("warning", redactor)
        return PLAIN_COMMANDS[args.command].run(args, redactor)
    with collector_paused():
        from lmstudio_bridge.cli.surroundings import settings_here

        settings = settings_here()
    _log_to_stderr(settings.log_level, redactor)
    return COMMANDS[args.command or "serve"].run(settings, args, redactor)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="lmstudio-bridge",
        description=DESCRIPTION,
        epilog=epilog(
            exit_codes={143: "ended by SIGTERM (129: by SIGHUP)", 141: "the reader of its output went away"},
            variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "NO_COLOR"),
        ),
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"lmstudio-bridge {__version__}", help="show the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    for command in _ORDER:
        command.add_parser(commands)
    return parser


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
