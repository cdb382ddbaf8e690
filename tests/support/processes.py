"""Processes that tests start: the sloppy MCP server, and whether a process still runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

SLOPPY = Path(__file__).with_name("sloppy_server.py")
PATIENCE = 60.0  # seconds, for what must happen at once on a machine that is not busy


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return Path("/proc").is_dir() is False and _takes_signals(pid)
    return status.rpartition(")")[2].split()[0] not in "ZX"


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until_dead(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while is_running(pid):  # noqa: ASYNC110  # no event tells of the end of another's child
            await asyncio.sleep(0.01)


def processes_that_name(folder: Path) -> list[int]:
    """The running processes with this folder in their command line."""
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _read_or_nothing(path)]
    return [int(path.parent.name) for path in found if is_running(int(path.parent.name))]


def _read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
