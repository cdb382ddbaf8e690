"""What the commands share: exit codes and kinds of arguments."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from lmstudio_bridge.cli.hosts import NAMES, SCOPES

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2  # argparse's own
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells expect

_SHOWN_TASK = 80  # characters of one that is too long

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def task(text: str) -> str:
    """A task, with the words that a call over MCP gets where it is none."""
    from lmstudio_bridge.runs.request import MAX_TASK

    if not text:
        raise argparse.ArgumentTypeError("String should have at least 1 character (given: '')")
    if len(text) > MAX_TASK:
        given = f"{text[:_SHOWN_TASK]!r}"
        raise argparse.ArgumentTypeError(f"String should have at most {MAX_TASK} characters (given: {given})")
    return text


def rounds(text: str) -> int:
    """A number of rounds."""
    from lmstudio_bridge.runs.request import MAX_ROUNDS

    if (number := positive(text)) > MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to {MAX_ROUNDS}: {text!r}")
    return number


def positive(text: str) -> int:
    """A whole number from 1 on, for `type=` of an argument."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {text!r}")
    return int(text)


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Which program's file is meant, and how it may be changed."""
    parser.add_argument(
        "host",
        nargs="?",
        choices=tuple(NAMES),
        default="claude-code",
        metavar="program",
        help=f"{', '.join(NAMES)} (claude-code)",
    )
    parser.add_argument(
        "--scope",
        choices=SCOPES["claude-code"],
        help="user: you, everywhere; local: you, in this folder (Claude Code only); project: all who work on the "
        "project here, in its .mcp.json, .cursor or .vscode (not Claude Desktop, LM Studio)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the change as a diff, and write nothing")
    parser.add_argument("--yes", action="store_true", help="don't ask before writing")
