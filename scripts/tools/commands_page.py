"""docs/commands.md, made from the parser: `python -m scripts.tools.commands_page` writes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lmstudio_bridge.cli.arguments import CommandParser, build_parser

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_HEAD = """\
# The command line

`uvx lmstudio-bridge …` and an installed `lmstudio-bridge …` are the same. This page has the text that `--help` prints
for each command.

Answers and tables go to stdout, everything else to stderr. Colors appear only in terminals, and `NO_COLOR` turns them
off; characters that a terminal can't show are replaced. Secrets are never shown.
"""


def parsers() -> dict[str, CommandParser]:
    """Every command's parser by its words ("", "runs", "runs show"); the whole command line's under ""."""
    return dict(_below(build_parser(), ""))


def _below(parser: CommandParser, words: str) -> Iterator[tuple[str, CommandParser]]:
    yield words, parser
    for name, each in parser.commands.items():
        yield from _below(each, f"{words} {name}".strip())


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(words, parser) for words, parser in parsers().items())])


def _section(words: str, parser: CommandParser) -> str:
    paragraphs = (parser.description or "").split("\n\n")
    parts = [f"## `{f'lmstudio-bridge {words}'.strip()}`", *(" ".join(each.split()) for each in paragraphs)]
    if rows := [*map(_row, parser.arguments[1:]), *(f"| `{k}` | {v.summary} |" for k, v in parser.commands.items())]:
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    for part in (parser.epilog or "").split("\n\n"):
        title, _, body = part.partition("\n")
        lines = body.splitlines()
        match title:
            case "examples:":
                pairs = zip(lines[::2], lines[1::2], strict=True)
                parts.append(
                    "\n".join(["```sh", *(f"{line.strip()}  # {what.strip()}" for line, what in pairs), "```"])
                )
            case "exit codes:":
                codes = [line.split(maxsplit=1) for line in lines]
                parts.append(
                    "\n".join(["| exit code | |", "|---|---|", *(f"| {code} | {what} |" for code, what in codes)])
                )
            case "environment:":
                named = [f"`{line.strip()}`" for line in lines if not line.strip().startswith("all settings")]
                parts += (
                    [f"Environment: {', '.join(named)}. All settings: [settings.md](settings.md)."] if named else []
                )
    return "\n\n".join(parts) + "\n"


def _row(argument: argparse.Action) -> str:
    choices = "{" + ", ".join(map(str, argument.choices)) + "}" if argument.choices else ""
    value = "" if argument.nargs == 0 else str(argument.metavar or choices or argument.dest.upper())
    name = " ".join(filter(None, [", ".join(argument.option_strings), value]))
    text = str(argument.help) % {"default": argument.default}
    return f"| `{name}` | {text.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
