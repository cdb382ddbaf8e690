"""Output for people: colors and marks where the terminal can show them, plain text elsewhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from lmstudio_bridge.runs.markdown import open_markdown
from lmstudio_bridge.text import clean_text, one_line

SPINNER_SAMPLE = "\N{BRAILLE PATTERN DOTS-124}"  # one character of rich's spinner "dots"
_NARROW = 70  # columns of the terminal, below which a table is hard to read
_GAP = 2  # columns between those of a table
_LAST = 20  # columns that the last one of a table needs at least; the others are not wrapped
_BLANK = "\ue000"  # for private use: a blank at which a line is not broken
PLAIN_WIDTH = 10_000  # columns where there is no terminal: a program reads the output, so lines are not wrapped


def open_console(stream: TextIO, *, environ: Mapping[str, str]) -> Console:
    """A console on a stream: colors only in a terminal without NO_COLOR, no line breaks in a pipe or a file.

    It interprets no markup, and does not highlight numbers and paths.
    """
    terminal = stream.isatty()
    return _Console(
        file=stream,
        width=None if terminal else PLAIN_WIDTH,
        force_terminal=terminal,
        no_color=True if environ.get("NO_COLOR") or not terminal else None,
        markup=False,
        emoji=False,
        highlight=False,
    )


class _Console(Console):
    """A console that leaves a closed pipe to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def can_show(text: str, stream: TextIO) -> bool:
    """Whether the encoding of the stream has these characters."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def markdown_in_terminal(text: str) -> Markdown:
    """What a model wrote, formatted; its links, images and tags are shown as they were written."""
    markdown = Markdown("", hyperlinks=False)
    markdown.parsed = open_markdown().parse(clean_text(text)[0])
    return markdown


def print_formatted(before: str, markdown: str, after: str, *, stream: TextIO) -> None:
    """Print what a model wrote, formatted, between texts of ours."""
    console = open_console(stream, environ=os.environ)
    with console.capture() as formatted:
        console.print(markdown_in_terminal(markdown.strip("\n")))
    lines = Text.from_ansi(formatted.get()).split()
    filled = [number for number, line in enumerate(lines) if line.plain.strip()] or [
        0
    ]  # tables have empty lines around
    whole = Text("\n").join(lines[filled[0] : filled[-1] + 1])
    for number, part in enumerate(filter(None, (Text(before.strip("\n")), whole, Text(after.strip("\n"))))):
        console.print("\n" * (number > 0), part, sep="")
    stream.flush()


def open_bar(stream: TextIO, *, environ: Mapping[str, str]) -> Progress:
    """A bar with the time that is left, while it is entered; nothing where the stream is not a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=open_console(stream, environ=environ),
        transient=True,
        disable=not stream.isatty(),
    )


def open_status(text: str, stream: TextIO, *, environ: Mapping[str, str]) -> Status | None:
    """A spinner with words beside it, to be started; None where the stream is not a terminal."""
    if not stream.isatty():
        return None
    spinner = "dots" if can_show(SPINNER_SAMPLE, stream) else "line"
    return open_console(stream, environ=environ).status(Text(text), spinner=spinner)


def print_marked(console: Console, mark: Text, text: Text) -> None:
    """Print a text after its mark; in a terminal it is wrapped at words, and further lines stand below the first.

    A command between backticks is not broken: what the terminal wraps by itself can be copied whole.
    """
    text.plain = re.sub("`[^`]+`", lambda command: command[0].replace(" ", _BLANK), text.plain)
    text.overflow = "ignore" if _BLANK in text.plain else None
    for line in text.wrap(console, max(1, console.width - len(mark) - 1)):
        line.plain = line.plain.replace(_BLANK, " ")
        line.rstrip()
        console.print(mark, line, soft_wrap=True)
        mark = Text(" " * len(mark))


def refusal(question: str, *, done: str, use: str) -> int:
    """Ask the user; an exit code if nothing may be `done`, such as "written", else `EXIT_OK`.

    `use` says what --yes is for, where there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        print(f"Nothing was {done}: there is no terminal to ask on. Use --yes to {use}.", file=sys.stderr)
        return EXIT_USAGE
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().casefold() in ("y", "yes"):
        return EXIT_OK
    print(f"Nothing was {done}.", file=sys.stderr)
    return EXIT_FAILED


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under their columns to stdout, or `empty`; in a narrow terminal, each row as lines."""
    console = open_console(sys.stdout, environ=os.environ)
    table = Table(box=None, pad_edge=False, header_style="bold")
    blocks: list[RenderableType] = []
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != columns[-1])  # run IDs can be copied whole
    widths = [*map(len, columns)]
    for row in rows:
        first, *others = cells = [Text(one_line(cell)) for cell in row]
        table.add_row(*cells)
        widths = [max(width, cell.cell_len) for width, cell in zip(widths, cells, strict=True)]
        named = (
            Text.assemble((f"{name}: ", "bold"), cell) for name, cell in zip(columns[1:], others, strict=True) if cell
        )
        blocks += [first, *(Padding(line, (0, 0, 0, 2)) for line in named)]
    whole = Measurement.get(console, console.options.update(width=PLAIN_WIDTH), table).maximum
    least = min(whole, max(_NARROW, sum(width + _GAP for width in widths[:-1]) + _LAST))
    with console.capture() as shown:
        for each in blocks if console.width < least else [table] if blocks else [Text(empty)]:
            console.print(each)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in shown.get().splitlines())
