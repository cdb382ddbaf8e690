"""The entry point: runs the command that the arguments name, logs to stderr, returns exit codes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeAlias

from lmstudio_bridge import DOCS, __version__
from lmstudio_bridge.cli import arguments
from lmstudio_bridge.errors import BridgeError, SettingsError
from lmstudio_bridge.security.redact import RedactingFormatter, Redactor
from lmstudio_bridge.text import clean_text

ExitCode: TypeAlias = int | Coroutine[Any, Any, int]
"""The exit code of a command, or a coroutine that returns it."""

_WELCOME = f"""\
lmstudio-bridge {__version__}
An MCP server that lets Claude Code hand tasks to a local model in LM Studio.

  lmstudio-bridge install   register it in Claude Code, which then starts it
  lmstudio-bridge doctor    check LM Studio, its models and your MCP servers
  lmstudio-bridge --help    all commands

Documentation:
  {DOCS}/README.md"""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # show "?" instead of failing on a character that can't be encoded
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run(arguments.build_parser().parse_args(argv))
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError:  # as in `lmstudio-bridge doctor | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return arguments.EXIT_BROKEN_PIPE


def _run(args: argparse.Namespace) -> int:
    redactor = Redactor()
    try:
        code = _start(args, redactor)
        return code if isinstance(code, int) else asyncio.run(_ended_by_signals(code))
    except BridgeError as exc:
        print(clean_text(redactor.redact(exc.explain()))[0], file=sys.stderr)
        return arguments.EXIT_USAGE if isinstance(exc, SettingsError) else arguments.EXIT_FAILED
    except KeyboardInterrupt:
        return arguments.EXIT_INTERRUPTED
    except BrokenPipeError:  # handled by `main`
        raise
    except Exception:  # an uncaught traceback could show secrets; the one in the log does not
        logging.critical("Unexpected error in the bridge; please report it.", exc_info=True)
        return arguments.EXIT_FAILED


def _start(args: argparse.Namespace, redactor: Redactor) -> ExitCode:
    """Run the command, or return the coroutine that does. The redactor learns the secrets that the command finds."""
    # Each command is imported when it runs, so that --help is fast and `serve` imports nothing that it does not need.
    # These commands must work even if the settings are invalid:
    match args.command:
        case "install" | "uninstall":
            from lmstudio_bridge.cli import install

            _log_to_stderr("warning", redactor)
            return install.install(args) if args.command == "install" else install.uninstall(args)
        case "doctor":
            from lmstudio_bridge.cli.doctor.command import run_doctor

            _log_to_stderr("warning", redactor)
            return run_doctor(args, redactor)
        case None if sys.stdin is not None and sys.stdin.isatty():  # a person, not a host
            print(_WELCOME)
            return arguments.EXIT_OK
        case "status":
            from lmstudio_bridge.cli.status import show_status

            return show_status(os.environ, cwd=arguments.current_folder(), bare=args.line)
        case "completion" if args.names is None:
            return _print_completion(arguments.build_parser(), args.shell)
    from lmstudio_bridge.settings import read_settings  # pydantic takes longer than --help and --version

    settings = read_settings(os.environ, cwd=arguments.current_folder())
    _log_to_stderr(settings.log_level, redactor)
    match args.command:
        case "run" | "continue":
            from lmstudio_bridge.cli import run

            return (run.run_task if args.command == "run" else run.continue_run)(settings, args, redactor)
        case "runs" | "models" | "servers":
            from lmstudio_bridge.cli import show

            if args.command == "models":
                return show.show_models(settings, args, redactor)
            if args.command == "runs":
                return show.show_runs(settings, args, redactor)
            return show.show_servers(settings, args, redactor)
        case "login" | "logout":
            from lmstudio_bridge.cli import login

            return (login.log_in if args.command == "login" else login.log_out)(settings, args, redactor)
        case "completion":
            from lmstudio_bridge.cli.names import print_names

            return print_names(settings, args.names)
        case "eval":
            from lmstudio_bridge.cli.eval import run_evals

            return run_evals(settings, args, redactor)
        case _:
            from lmstudio_bridge.cli.serve import serve_host

            return serve_host(settings, redactor)


def _log_to_stderr(level: str, redactor: Redactor) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s", redactor))
    logging.basicConfig(handlers=[handler], level=level.upper())
    if level.upper() != "DEBUG":  # it logs tracebacks of what we report ourselves
        logging.getLogger("mcp.client").setLevel(logging.CRITICAL)


def _print_completion(parser: arguments.CommandParser, shell: str | None) -> int:
    import shtab  # only this command needs it

    if shell is None:
        print(f"Name a shell: {', '.join(arguments.SHELLS)}.", file=sys.stderr)
        return arguments.EXIT_USAGE
    parsers = [parser]
    for each in parsers:
        each.description = each.summary  # zsh and fish show the first line
        parsers += each.commands.values()
        for argument in each.arguments:
            complete = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY}.get(str(argument.metavar))
            if (kind := arguments.NAMED.get(argument.dest)) and "=" not in str(argument.metavar):
                command = f"lmstudio-bridge completion --names {kind} 2>/dev/null"
                # shtab's own for zsh asks at every start of the shell, once for each argument
                complete = {**shtab.cmd(command), "zsh": f"{{compadd -- \\$({command})}}"}
            if complete:
                argument.complete = complete  # type: ignore[attr-defined]  # shtab reads it; see its documentation
    print(shtab.complete(parser, shell))
    return arguments.EXIT_OK


async def _ended_by_signals(work: Coroutine[Any, Any, int]) -> int:
    """The exit code of the work. SIGTERM, and the SIGHUP of a closed terminal, cancel it as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        task.cancel()

    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):  # Windows
            loop.add_signal_handler(getattr(signal, name), end, getattr(signal, name))
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
