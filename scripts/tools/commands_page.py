"""docs/commands.md, made from the parser: `python -m scripts.tools.commands_page` writes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lmstudio_bridge.cli.arguments import CommandParser, build_parser

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_HEAD = """\
# The command line

Answers and tables go to stdout, everything else to stderr. Colors appear only in terminals; `NO_COLOR` turns them off.
Exit codes: 0 success, 1 something failed or you declined, 2 invalid arguments or settings, 130 Ctrl-C. Environment
variables: [settings.md](settings.md).
"""
_USUAL_CODES = {"0 success", "1 failed, or you declined", "2 invalid arguments or settings", "130 interrupted"}


def parsers() -> dict[str, CommandParser]:
    """Every command's parser by its words ("", "runs", "runs show"); the whole command line's under ""."""
    return dict(_below(build_parser(), ""))


def _below(parser: CommandParser, words: str) -> Iterator[tuple[str, CommandParser]]:
    yield words, parser
    for name, each in parser.commands.items():
        yield from _below(each, f"{words} {name}".strip())


def page() -> str:
    """The whole page."""
    told: dict[str, str] = {}
    return "\n".join([_HEAD, *(_section(words, parser, told) for words, parser in parsers().items())])


def _section(words: str, parser: CommandParser, told: dict[str, str]) -> str:
    """The section of one command; arguments that mean what they meant last are only named. `told`: name → meaning."""
    paragraphs = (parser.description or "").split("\n\n")
    parts = [f"## `{f'lmstudio-bridge {words}'.strip()}`", *(" ".join(each.split()) for each in paragraphs)]
    rows = {f"`{_name(each)}`": _meaning(each) for each in parser.arguments if each.dest != "help"}
    repeated = [name for name, meaning in rows.items() if told.get(name) == meaning]
    told |= rows
    lines = [f"- {name}: {meaning}" for name, meaning in rows.items() if name not in repeated]
    if repeated:
        names = (name.strip("`").split()[0] for name in repeated)
        lines.append(f"- as above: `{'`, `'.join(names)}`")
    if lines:
        parts.append("\n".join(lines))
    for part in (parser.epilog or "").split("\n\n"):
        title, _, body = part.partition("\n")
        lines = [line.strip() for line in body.splitlines()]
        match title:
            case "examples:":
                pairs = zip(lines[::2], lines[1::2], strict=True)
                parts.append("\n".join(["```sh", *(f"{line}  # {what}" for line, what in pairs), "```"]))
            case "exit codes:":
                codes = [" ".join(line.split()) for line in lines]
                if unusual := [code for code in codes if code not in _USUAL_CODES]:
                    parts.append(f"Exit codes: {'; '.join(unusual)}.")
    return "\n\n".join(parts) + "\n"


def _name(argument: argparse.Action) -> str:
    choices = "{" + ", ".join(map(str, argument.choices)) + "}" if argument.choices else ""
    value = "" if argument.nargs == 0 else str(argument.metavar or choices or argument.dest.upper())
    return " ".join(filter(None, [", ".join(argument.option_strings), value]))


def _meaning(argument: argparse.Action) -> str:
    return str(argument.help) % {"default": argument.default}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
