"""What the host writes to stdin: as many lines at a time as have come.

The SDK's own reader hands each line through a thread and several turns of the loop: of many calls at once the last
would begin when the first are half done.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import anyio
import anyio.to_thread

if sys.platform != "win32":
    import fcntl

_CHUNK = 64 * 1024  # bytes; as much as a pipe holds


class HostInput(anyio.AsyncFile[str]):
    """The lines of stdin, for one reader."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(io.TextIOWrapper(file, encoding="utf-8", errors="replace"))
        self._file = file

    async def __aiter__(self) -> AsyncIterator[str]:
        begun: list[bytes] = []  # of a line whose end has not come
        while chunk := await anyio.to_thread.run_sync(self._read):
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                yield b"".join([*begun, line]).decode("utf-8", "replace")
                begun.clear()
            begun.append(rest)
        if any(begun):
            yield b"".join(begun).decode("utf-8", "replace")

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._file.fileno(), _CHUNK)
            except BlockingIOError:  # somebody who has the other end of it, or a terminal, too, made it non-blocking
                select.select([self._file], [], [])


@contextmanager
def claim_stdin() -> Iterator[HostInput]:
    """The host's input, of which nothing else in the process gets any: fd 0 leads to nowhere meanwhile.

    As the SDK does it with its own reader (mcp 2.3, `mcp/server/stdio.py`).
    """
    wire = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)  # never the place of a stdout or stderr that is closed
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    try:
        # closefd: a thread may still be blocked on it when the server has ended
        yield HostInput(os.fdopen(wire, "rb", closefd=False))
    finally:
        os.dup2(wire, 0)
