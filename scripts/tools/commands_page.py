"""docs/commands.md, made from the parser: `python -m scripts.tools.commands_page` writes it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from lmstudio_bridge.cli.help import commands_of
from lmstudio_bridge.cli.main import build_parser

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_HEAD = """\
# The command line

`uvx lmstudio-bridge …` and an installed `lmstudio-bridge …` are the same. What `--help` of each command says stands
here, too.

Answers and tables go to stdout, everything else to stderr. Colours are for terminals only, and `NO_COLOR` turns them
off; what a terminal can't show is put in other signs. Secrets are never shown.
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser by its words, the whole command line's under ""."""
    return dict(_below(build_parser(), ""))


def _below(parser: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in commands_of(parser):
        for name, each in action.choices.items():
            yield from _below(each, f"{words} {name}".strip())


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(words, parser) for words, parser in parsers().items())])


def _section(words: str, parser: argparse.ArgumentParser) -> str:
    paragraphs = textwrap.dedent(parser.description or "").strip().split("\n\n")
    parts = [f"## `{f'lmstudio-bridge {words}'.strip()}`", *(" ".join(each.split()) for each in paragraphs)]
    if rows := list(_rows(parser)):
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


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"| `{choice.dest}` | {choice.help} |"
            continue
        choices = "{" + ", ".join(map(str, action.choices)) + "}" if action.choices else ""
        value = "" if action.nargs == 0 else str(action.metavar or choices or action.dest.upper())
        name = " ".join(filter(None, [", ".join(action.option_strings), value]))
        yield f"| `{name}` | {str(action.help).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
