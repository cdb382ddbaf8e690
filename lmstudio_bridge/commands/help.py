"""What --help says of a command: what it does, its arguments, examples, exit codes, environment."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence

from lmstudio_bridge.commands.arguments import Commands

USUAL_EXIT_CODES = {0: "done", 1: "failed", 2: "wrong usage or settings", 130: "interrupted"}


def add_command(
    commands: Commands,
    name: str,
    about: str,
    description: str,
    *,
    examples: Sequence[tuple[str, str]] = (),
    exit_codes: Mapping[int, str] | None = None,
    variables: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """The parser of a new command, with all that --help says but for its arguments.

    `examples` are command lines, each with what it does; `exit_codes` differ from the usual ones;
    `variables` are those of the environment that matter most here.
    """
    codes = USUAL_EXIT_CODES | dict(exit_codes or {})
    parts = []
    if examples:
        parts.append("examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples))
    parts.append("exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in sorted(codes.items())))
    if variables:
        parts.append(f"environment:\n  {', '.join(variables)}; all settings: docs/settings.md")
    else:
        parts.append("environment:\n  all settings: docs/settings.md")
    return commands.add_parser(
        name,
        help=about,
        description=textwrap.dedent(description).strip(),
        epilog="\n\n".join(parts),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
