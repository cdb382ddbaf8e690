"""What stands in a pipe or a file while a run is under way: plain lines. For terminals there is `display`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

from lmstudio_bridge.events import Emit
from lmstudio_bridge.runs.progress import open_progress
from lmstudio_bridge.text import one_line


@asynccontextmanager
async def open_lines(stream: TextIO, *, heartbeat: float) -> AsyncIterator[Emit]:
    """A sink that writes a line for what happens, at least every `heartbeat` seconds."""

    async def write(_: float, message: str) -> None:
        print(one_line(message), file=stream, flush=True)

    async with open_progress(write, heartbeat=heartbeat) as emit:
        yield emit
