"""What --help says of a command: what it does, its arguments, examples, exit codes, environment."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence

from lmstudio_bridge.cli.arguments import Commands

USUAL_EXIT_CODES = {0: "done", 1: "failed", 2: "wrong usage or settings", 130: "interrupted"}
_WIDTH = 100  # columns; longer lines are hard to read


class HelpFormatter(argparse.HelpFormatter):
    """Fills the paragraphs of a text to the width of the terminal, and leaves lines that are indented as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, _WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(
            each if "\n  " in f"\n{each}" else textwrap.fill(" ".join(each.split()), width) for each in paragraphs
        )


def add_command(
    commands: Commands,
    name: str,
    about: str,
    description: str,
    *,
    examples: Sequence[tuple[str, str]] = (),
    exit_codes: Mapping[int, str] | None = None,
    variables: Sequence[str] = (),
    settings: bool = True,
) -> argparse.ArgumentParser:
    """The parser of a new command, with all that --help says but for its arguments.

    `examples` are command lines, each with what it does; `exit_codes` differ from the usual ones;
    `variables` are those of the environment that matter most here, `settings` says whether the others
    do, too. All texts are plain ASCII, for terminals that have nothing else.
    """
    return commands.add_parser(
        name,
        help=about,
        description=description,
        epilog=epilog(examples=examples, exit_codes=exit_codes, variables=variables, settings=settings),
        formatter_class=HelpFormatter,
    )


def epilog(
    *,
    examples: Sequence[tuple[str, str]] = (),
    exit_codes: Mapping[int, str] | None = None,
    variables: Sequence[str] = (),
    settings: bool = True,
) -> str:
    """What stands below the arguments."""
    codes = USUAL_EXIT_CODES | dict(exit_codes or {})
    parts = []
    if examples:
        parts.append("examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples))
    parts.append("exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in sorted(codes.items())))
    named = [*variables, *(["all settings: docs/settings.md"] if settings else [])]
    if named:
        parts.append("environment:\n" + "\n".join(f"  {line}" for line in named))
    return "\n\n".join(parts)


def commands_of(parser: argparse.ArgumentParser) -> list[Commands]:
    """The commands below a parser: one action that has them all, or none."""
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
