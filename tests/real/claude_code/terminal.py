"""A terminal (tmux) in which a test types and reads what is shown."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

TMUX = shutil.which("tmux")
_INTERVAL = 0.05  # seconds between two looks
_TRIES = 1_200  # looks until what does not happen fails the test


@dataclass(slots=True)
class Terminal:
    """One program in a terminal of its own; `pid` is that of the program."""

    socket: Path
    pid: int = 0

    async def tmux(self, *arguments: str) -> str:
        """What a command of tmux prints."""
        assert TMUX is not None
        process = await asyncio.create_subprocess_exec(
            TMUX, "-S", str(self.socket), "-f", "/dev/null", *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()

    async def press(self, *keys: str) -> None:
        """Press keys, by their names in tmux: Enter, Escape, C-c."""
        await self.tmux("send-keys", *keys)

    async def type(self, text: str) -> None:
        """Type a text, without Enter."""
        await self.tmux("send-keys", "-l", text)

    async def screen(self) -> str:
        """What is shown."""
        return await self.tmux("capture-pane", "-p")

    async def until(self, *fragments: str, gone: str = "") -> str:
        """The screen, once it shows all of these, and not `gone`."""
        screen = ""
        for _ in range(_TRIES):
            screen = await self.screen()
            if all(each in screen for each in fragments) and not (gone and gone in screen):
                return screen
            await asyncio.sleep(_INTERVAL)
        raise AssertionError(f"{fragments} did not show:\n{screen}")


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    for _ in range(_TRIES):
        if holds():
            return
        await asyncio.sleep(_INTERVAL)
    raise AssertionError(f"never came true: {what}")


@asynccontextmanager
async def open_terminal(
    command: Sequence[str], *, folder: Path, environ: Mapping[str, str], socket: Path
) -> AsyncIterator[Terminal]:
    """The program in a terminal; what is left of it is ended with the block."""
    terminal = Terminal(socket)
    assignments = [f"{name}={value}" for name, value in environ.items()]
    line = shlex.join(["exec", "env", "-i", "TERM=xterm-256color", *assignments, *command])
    pid = await terminal.tmux(
        "new-session", "-d", "-x", "160", "-y", "50", "-c", str(folder), "-P", "-F", "#{pane_pid}", line
    )
    terminal.pid = int(pid)
    try:
        yield terminal
    finally:
        await terminal.tmux("kill-server")
