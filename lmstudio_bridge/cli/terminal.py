"""What a person sees in a terminal: colours and tables where they can be shown, plain text where they can't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmstudio_bridge.text import one_line

PLAIN_WIDTH = 10_000  # columns of output that is no terminal: a program reads it, so no line is broken


def open_console(stream: TextIO, *, environ: Mapping[str, str]) -> Console:
    """A console on a stream: colours only in a terminal and without NO_COLOR; lines stay whole in a pipe or a file.

    It neither reads markup in what it is given nor colours numbers and paths by itself.
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
    """One that leaves it to `cli` what happens when the reader of a pipe goes away."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def can_show(text: str, stream: TextIO) -> bool:
    """Whether the stream's encoding has these characters; ASCII must do where it has not."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def print_table(
    stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[str]], *, environ: Mapping[str, str], empty: str
) -> None:
    """Print rows under their columns, or what to say where there are none."""
    console = open_console(stream, environ=environ)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    with console.capture() as shown:
        console.print(table if table.rows else Text(empty))
    stream.writelines(f"{line.rstrip()}\n" for line in shown.get().splitlines())
