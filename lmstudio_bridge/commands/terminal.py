"""What a person sees in a terminal: colours and tables where they can be shown, plain text where they can't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from rich.console import Console

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
