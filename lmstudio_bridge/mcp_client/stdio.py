"""Child processes that speak in lines over stdin and stdout, and that are sure to end with us.

Nothing here knows MCP. Each child leads a process group of its own, so that its own children end
with it. POSIX only: on Windows `transports` uses the transport of the MCP SDK.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar, cast

import anyio

_Pipe = TypeVar("_Pipe", asyncio.ReadTransport, asyncio.WriteTransport)

MAX_LINE = 64 * 1024 * 1024
"""Bytes in one line of stdout: far above any useful result, far below what would exhaust memory."""

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes of whole lines that wait for their reader; above that we stop reading the pipe."""

STDERR_LINES = 40
STDERR_LINE = 500  # bytes; a progress bar or a dumped object is cut here

EOF_GRACE = 0.5  # seconds to end by itself once stdin is closed
TERM_GRACE = 0.5  # seconds to end after SIGTERM
KILL_GRACE = 2.0  # seconds for the event loop to see a SIGKILLed child end

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ChildProcesses:
    """The children that one pool has started; `kill_all` is for the path that has no time left."""

    def __init__(self) -> None:
        self._live: set[ChildProcess] = set()

    @asynccontextmanager
    async def open_child(
        self, command: str, args: Sequence[str], *, env: Mapping[str, str], cwd: Path
    ) -> AsyncIterator[ChildProcess]:
        """Start a command; on leaving it is ended together with its whole process group.

        Raises:
            OSError: the command cannot be started.
            ValueError: a NUL byte in the command, its arguments or its environment.
        """
        child = ChildProcess(self._live)
        try:
            with anyio.CancelScope(shield=True):  # half a start could not be ended properly, and takes no time
                await asyncio.get_running_loop().subprocess_exec(
                    lambda: child, command, *args, env=dict(env), cwd=cwd, start_new_session=True
                )
        except BaseException:
            child.kill_now()
            raise
        try:
            yield child
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await child.end()
            finally:
                child.kill_now()

    def kill_all(self) -> None:
        """Kill every child and its group at once, without waiting."""
        for child in list(self._live):
            child.kill_now()


class ChildProcess(asyncio.SubprocessProtocol):
    """One child: lines in, lines out, its last words on stderr, and how it ended."""

    def __init__(self, live: set[ChildProcess]) -> None:
        self._live = live
        self._transport: asyncio.SubprocessTransport | None = None
        self._lines: deque[bytes] = deque()
        self._queued = 0  # bytes in _lines
        self._stdout = LineSplitter(MAX_LINE)
        self._stdout_ended = False
        self._stdout_failure = ""
        self._stderr = LineSplitter(STDERR_LINE)
        self._words: deque[str] = deque(maxlen=STDERR_LINES)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._stdin_lost = False
        self._exited = asyncio.Event()
        self._group_killed = False

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def stderr_tail(self) -> str:
        """The last lines that it wrote to stderr, and what it wrote to stdout that was no message."""
        partial = [self._stderr.rest] if self._stderr.rest else []
        return "\n".join([*self._words, *map(_readable, partial)][-STDERR_LINES:])

    @property
    def ending(self) -> str:
        """How it ended, as the end of a sentence; empty while it runs."""
        if self._stdout_failure:
            return self._stdout_failure
        code = self._transport.get_returncode() if self._transport else None
        if code is None:
            return "closed its output" if self._stdout_ended else ""
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def note(self, line: bytes) -> None:
        """Keep a line that was no message among its last words."""
        self._words.append(_readable(line))

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of its stdout, without line ends, until it closes it; for one reader."""
        while True:
            while not self._lines:
                if self._stdout_ended:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            line = self._lines.popleft()
            self._queued -= len(line)
            if self._queued <= MAX_QUEUED:
                self._pipe(1, asyncio.ReadTransport).resume_reading()
            yield line
            if self._lines:
                await asyncio.sleep(0)  # others get their turn: a server may write thousands of lines at once

    async def write(self, data: bytes) -> None:
        """Write to its stdin; waits while the pipe is full.

        Raises:
            BrokenPipeError: it does not read any more.
        """
        pipe = self._pipe(0, asyncio.WriteTransport)
        if not self._stdin_lost and not pipe.is_closing():
            pipe.write(data)
            await self._writable.wait()
        if self._stdin_lost or pipe.is_closing():
            raise BrokenPipeError

    def stop_reading(self) -> None:
        """Let `lines` end with what has come so far."""
        self._stdout_ended = True
        self._arrived.set()

    async def wait_exited(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    async def end(self) -> None:
        """Close its stdin, then SIGTERM, then SIGKILL: about one second at most, and always the whole group."""
        self._pipe(0, asyncio.WriteTransport).close()
        self._discard_stdout()
        if not await self.wait_exited(EOF_GRACE):
            self._signal_group(signal.SIGTERM)
            await self.wait_exited(TERM_GRACE)
        self._kill_group()
        await self.wait_exited(KILL_GRACE)

    def kill_now(self) -> None:
        """Kill it and its group without waiting; may be called again."""
        self._kill_group()
        self._live.discard(self)
        if self._transport is not None:
            self._transport.close()

    # What asyncio tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._live.add(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._words.extend(_readable(line) for line in self._stderr.feed(data))
            return
        if self._stdout_ended:
            return
        whole = self._stdout.feed(data)
        if self._stdout.overflowed:
            self._stdout_failure = f"wrote a line of more than {MAX_LINE // (1024 * 1024)} MiB"
            self.stop_reading()
            return
        self._lines.extend(whole)
        self._queued += sum(map(len, whole))
        if self._queued > MAX_QUEUED:
            self._pipe(1, asyncio.ReadTransport).pause_reading()
        if whole:
            self._arrived.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._stdin_lost = True
            self._writable.set()
        elif fd == 1 and not self._stdout_ended:
            if self._stdout.rest:
                self._lines.append(self._stdout.rest)
                self._queued += len(self._stdout.rest)
            self.stop_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def process_exited(self) -> None:
        # A grandchild that holds the pipes would keep a dead server looking alive.
        self._kill_group()
        self._exited.set()

    # The rest.

    def _discard_stdout(self) -> None:
        """Read on without keeping anything: a server that is stuck writing would never see its stdin close."""
        self.stop_reading()
        self._lines.clear()
        self._pipe(1, asyncio.ReadTransport).resume_reading()

    def _pipe(self, fd: int, kind: type[_Pipe]) -> _Pipe:
        assert self._transport is not None
        return cast(_Pipe, self._transport.get_pipe_transport(fd))

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _kill_group(self) -> None:
        """SIGKILL to the group, once: afterwards its number may come to belong to somebody else."""
        if self._transport is not None and not self._group_killed:
            self._group_killed = True
            self._signal_group(signal.SIGKILL)


class LineSplitter:
    """Bytes in, whole lines out, in time linear to the bytes; what passes `limit` bytes of a line is dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False

    @property
    def rest(self) -> bytes:
        """What has come since the last line end."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without line ends."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self.rest)
            self._parts.clear()
            self._size = 0
        self._keep(rest)
        return lines

    def _keep(self, piece: bytes) -> None:
        room = self._limit - self._size
        if len(piece) > room:
            self.overflowed = True
            piece = piece[:room]
        if piece:
            self._parts.append(piece)
            self._size += len(piece)


def _readable(line: bytes) -> str:
    text = _ANSI.sub("", line[:STDERR_LINE].decode("utf-8", "replace")).rstrip()
    return text.rpartition("\r")[2]  # of a progress bar, the last state


DEPTH_VARIABLE = "LMSTUDIO_BRIDGE_DEPTH"
"""How many bridges stand above a process; it stops a bridge that starts itself through a wrapper."""


def read_depth(environ: Mapping[str, str]) -> int:
    """How many bridges stand above us; 0 where nobody says, or says something that is no number."""
    text = environ.get(DEPTH_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


_INHERITED = frozenset(
    {
        # What the MCP SDK lets a stdio server inherit, on POSIX and on Windows.
        *("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"),
        *("APPDATA", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE"),
        *("SYSTEMDRIVE", "SYSTEMROOT", "USERNAME", "USERPROFILE"),
        # What a server needs on top to reach the network, and to write files and dates as its user does.
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    }
)


_INHERITED_PREFIXES = ("LC_", "XDG_")


_NEVER = frozenset({"LM_API_TOKEN", "LMSTUDIO_API_KEY"})


_NEVER_PREFIXES = ("ANTHROPIC_", "CLAUDE")


def build_environment(environ: Mapping[str, str], *, passed: Iterable[str] = ()) -> dict[str, str]:
    """What every server gets of our environment: a small clean base, and what `passed` names."""
    # Windows does not tell upper from lower case in these names.
    inherited = {name for name in environ if name.upper() in _INHERITED} if sys.platform == "win32" else _INHERITED
    built = {
        name: value
        for name, value in environ.items()
        if (name in inherited or name.startswith(_INHERITED_PREFIXES)) and not value.startswith("()")
    }
    return built | passed_variables(environ, passed) | {DEPTH_VARIABLE: str(read_depth(environ) + 1)}


def passed_variables(environ: Mapping[str, str], passed: Iterable[str]) -> dict[str, str]:
    """The variables that these names and patterns (`AWS_*`) pick; never Claude Code's, nor LM Studio's token."""
    patterns = tuple(passed)
    return {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and name.upper() not in _NEVER
        and not name.upper().startswith(_NEVER_PREFIXES)
    }


def add_own(environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment with a server's own `env`, which may set everything but how deep the bridge stands."""
    return {**environ, **own, DEPTH_VARIABLE: environ.get(DEPTH_VARIABLE, "1")}
