"""The stdio transport: child processes that speak MCP over stdin and stdout and always end with the bridge.

Each child leads a process group of its own, so that its own children end with it. That is POSIX only:
on Windows the SDK's transport is used, which ends processes with job objects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage, JSONRPCRequest

from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.json_size import MAX_MESSAGE, TOO_MANY, has_too_many_values
from lmstudio_bridge.mcp_client.launch import add_git_safety, add_own, add_python_safety, find_trap, keep_from_project
from lmstudio_bridge.mcp_client.repair import decode_line
from lmstudio_bridge.messages import ServerConfig

logger = logging.getLogger(__name__)

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes of complete lines that wait to be read; above that, the pipe is not read any further."""

MAX_UNREAD = 4 * 1024 * 1024
"""Bytes of a server's requests, with some for each, whose answers wait because it does not read them."""

_MAX_ON_LOOP = 256 * 1024  # bytes of a line; larger ones are parsed in a thread
_LINE_COST = 200  # bytes that a line takes beside its own
REQUEST_COST = 4_000  # bytes that a request takes beside its own, with the task that answers it

STDERR_LINES = 40
STDERR_LINE = 500  # bytes; longer lines, such as progress bars, are cut here

EOF_GRACE = 0.5  # seconds to exit after stdin was closed
TERM_GRACE = 0.5  # seconds to exit after SIGTERM
KILL_GRACE = 2.0  # seconds for the event loop to notice the exit after SIGKILL
EXIT_GRACE = 0.5  # seconds for a server that closed its output to exit, so that its exit code can be reported
READ_GRACE = 0.2  # after the exit, for its last words

_NEWLINES = re.compile(rb"\n{2,}")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class StdioTransport:
    """Starts one server; can be opened once.

    `exit_reason` says how the server went away, as the end of a sentence. If `detects_exit`, it is set
    before the streams end, so that whoever waits for an answer wakes up knowing it.
    """

    detects_exit = sys.platform != "win32"

    def __init__(
        self, config: ServerConfig, *, children: ChildProcesses, project: Path, environ: Mapping[str, str]
    ) -> None:
        self.exit_reason = ""
        self._config = config
        self._children = children
        self._cwd = config.cwd or project
        own = {"CLAUDE_PROJECT_DIR": str(project), **config.env}  # Claude Code sets it, too
        env = add_python_safety(add_git_safety(add_own(environ, own)), config)
        command, self._env = keep_from_project(config, env, project=project)
        if config.confinement is not None:
            command = (*config.confinement.words, *command)
            self._env = {name: value for name, value in self._env.items() if name not in config.confinement.inside}
        self._command, *self._args = command
        self._trap = find_trap(config, project=project, home=environ.get("HOME"))
        self._child: ChildProcess | None = None
        self._unread = 0  # bytes of its requests since it last took something from its input

    @property
    def stderr_tail(self) -> str:
        """The last lines that the server wrote to stderr."""
        return self._child.stderr_tail if self._child else ""

    @asynccontextmanager
    async def open_streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start the server, and yield streams to read messages from and to write them to.

        Leaving the block ends the server and its children.
        """
        if self._trap:
            raise ValueError(self._trap)
        if sys.platform == "win32":
            server = StdioServerParameters(command=self._command, args=self._args, env=self._env, cwd=self._cwd)
            async with stdio_client(server) as streams:
                yield streams
            return
        async with self._children.open_child(self._command, self._args, env=self._env, cwd=self._cwd) as child:
            self._child = child
            arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            write, leaving = anyio.create_memory_object_stream[SessionMessage](0)
            async with read, write, anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, child, arrived)
                tasks.start_soon(self._send, child, leaving)
                yield read, write
                tasks.cancel_scope.cancel()

    def explain(self, exc: BaseException) -> Failure | None:
        """Why the server could not be started, if the transport knows."""
        if self._trap:
            return failures.explain_trap(self._trap, config=self._config)
        if self.exit_reason:
            return failures.explain_exit(self.exit_reason, config=self._config, stderr_tail=self.stderr_tail)
        if self.detects_exit and self._child is None and isinstance(exc, OSError | ValueError):
            return failures.explain_spawn(exc, config=self._config, cwd=self._cwd)
        return None

    async def _receive(self, child: ChildProcess, arrived: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        with suppress(anyio.BrokenResourceError):  # the session has ended
            async with arrived:
                async for line in child.lines():
                    if len(line) < _MAX_ON_LOOP:
                        messages = _decode(line)
                    else:  # so that others go on meanwhile
                        messages = await anyio.to_thread.run_sync(_decode, line, abandon_on_cancel=True)
                    if messages is None:
                        self.exit_reason = f"wrote a message with {TOO_MANY}"
                        return
                    if not messages:
                        child.keep_line(line)
                    for message in messages:
                        if isinstance(message, JSONRPCRequest):
                            self._unread += len(line) + REQUEST_COST
                            if self._unread > MAX_UNREAD:
                                self.exit_reason = "sends requests and does not read the answers"
                                return
                        await arrived.send(SessionMessage(message))
                await self._note_exit(child, "closed its output")

    async def _send(self, child: ChildProcess, leaving: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with leaving:
            async for item in leaving:
                try:  # in ASCII, because some servers take U+2028 for the end of a line
                    text = json.dumps(item.message.model_dump(by_alias=True, mode="json", exclude_unset=True))
                except (ValueError, RecursionError) as exc:  # it repeats something strange that the server sent
                    logger.warning("a message for MCP server %s cannot be encoded: %s", self._config.name, exc)
                    continue
                try:
                    await child.write(text.encode() + b"\n")
                    self._unread = 0
                except BrokenPipeError:
                    await self._note_exit(child, "does not read its input any more")
                    child.stop_reading()
                    return

    async def _note_exit(self, child: ChildProcess, otherwise: str) -> None:
        if not self.exit_reason:
            if await child.wait_exited(EXIT_GRACE):
                await child.wait_read(READ_GRACE)
            self.exit_reason = child.exit_reason or otherwise


class ChildProcesses:
    """The children that one pool has started."""

    def __init__(self) -> None:
        self._live: set[ChildProcess] = set()

    @asynccontextmanager
    async def open_child(
        self, command: str, args: Sequence[str], *, env: Mapping[str, str], cwd: Path
    ) -> AsyncIterator[ChildProcess]:
        """Start a command; leaving the block ends it together with its process group.

        Raises:
            OSError: the command cannot be started.
            ValueError: a NUL byte in the command, its arguments or its environment.
        """
        child = ChildProcess(self._live)
        try:
            with anyio.CancelScope(shield=True):  # a half-started process could not be ended properly
                await asyncio.get_running_loop().subprocess_exec(
                    lambda: child, command, *args, env=dict(env), cwd=cwd, start_new_session=True
                )
            try:
                yield child
            finally:
                with anyio.CancelScope(shield=True):
                    await child.end()
        finally:
            child.kill_now()

    def kill_all(self) -> None:
        """Kill every child and its group at once, without waiting: for signal handlers."""
        for child in list(self._live):
            child.kill_now()


class ChildProcess(asyncio.SubprocessProtocol):
    """One child: lines in, lines out, the end of its stderr, and how it exited.

    A protocol, and not `asyncio.create_subprocess_exec`: before Python 3.12.5 the `wait` of that one does
    not return as long as a grandchild holds the pipes, so that a dead server would look alive.
    """

    def __init__(self, live: set[ChildProcess]) -> None:
        self._live = live
        self._transport: asyncio.SubprocessTransport | None = None
        self._lines: deque[bytes] = deque()
        self._queued = 0  # bytes in _lines
        self._stdout = LineSplitter(MAX_MESSAGE)
        self._stdout_ended = False
        self._stderr = LineSplitter(STDERR_LINE)
        self._stderr_lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._stdin_lost = False
        self._exited = asyncio.Event()
        self._read = asyncio.Event()  # to the end
        self._group_killed = False

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def stderr_tail(self) -> str:
        """The last lines of its stderr, and what it wrote to stdout that was not a message."""
        partial = [self._stderr.rest] if self._stderr.rest else []
        return "\n".join([*self._stderr_lines, *map(_readable, partial)][-STDERR_LINES:])

    @property
    def exit_reason(self) -> str:
        """How it ended, as the end of a sentence; empty while it runs."""
        if self._stdout.overflowed:
            return f"wrote a line of more than {MAX_MESSAGE // (1024 * 1024)} MiB"
        code = self._transport.get_returncode() if self._transport else None
        if code is None:
            return "closed its output" if self._stdout_ended else ""
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def keep_line(self, line: bytes) -> None:
        """Keep a line of stdout that was not a message in `stderr_tail`."""
        self._stderr_lines.append(_readable(line))

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of its stdout, without line ends, until it closes it; for one reader."""
        while True:
            while not self._lines:
                if self._stdout_ended:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            line = self._lines.popleft()
            self._queued -= len(line) + _LINE_COST
            if self._queued <= MAX_QUEUED:
                self._output.resume_reading()
            yield line

    async def write(self, data: bytes) -> None:
        """Write to its stdin; waits while the pipe is full.

        Raises:
            BrokenPipeError: it does not read any more.
        """
        if not self._stdin_lost and not self._input.is_closing():
            self._input.write(data)
            await self._writable.wait()
        if self._stdin_lost or self._input.is_closing():
            raise BrokenPipeError

    def stop_reading(self) -> None:
        """End `lines` after what has arrived so far."""
        self._stdout_ended = True
        self._arrived.set()

    async def wait_exited(self, seconds: float) -> bool:
        """Whether it exited within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    async def wait_read(self, seconds: float) -> bool:
        """Whether it exited and all that it wrote was read within that time; another process may hold its pipes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._read.wait()
        return self._read.is_set()

    async def end(self) -> None:
        """Close its stdin, then SIGTERM, then SIGKILL to the whole group: about one second at most."""
        self._input.close()
        # Read on and drop it: a server that is stuck writing would never see its stdin close.
        self.stop_reading()
        self._lines.clear()
        self._output.resume_reading()
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

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        self._output = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(1))
        self._live.add(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr_lines.extend(_readable(line) for line in self._stderr.feed(data))
            return
        if self._stdout_ended:
            return
        lines = self._stdout.feed(data)
        if self._stdout.overflowed:
            self.stop_reading()
            return
        self._queue(lines)
        if self._queued > MAX_QUEUED:
            self._output.pause_reading()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._stdin_lost = True
            self._writable.set()
        elif fd == 1:
            self._end_output()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def process_exited(self) -> None:
        self._kill_group()  # a grandchild that holds the pipes would keep `lines` from ending
        self._exited.set()
        asyncio.get_running_loop().call_later(READ_GRACE, self._give_up_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read.set()

    # Helpers.

    def _give_up_reading(self) -> None:
        """End `lines` although a grandchild in a session of its own holds the pipes; a pause keeps what is in them."""
        if self._queued > MAX_QUEUED and not self._stdout_ended:
            asyncio.get_running_loop().call_later(READ_GRACE, self._give_up_reading)
        else:
            self._end_output()

    def _end_output(self) -> None:
        if not self._stdout_ended:
            self._queue([self._stdout.rest] if self._stdout.rest else [])
            self.stop_reading()

    def _queue(self, lines: list[bytes]) -> None:
        self._lines.extend(lines)
        self._queued += sum(map(len, lines)) + _LINE_COST * len(lines)
        if lines:
            self._arrived.set()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _kill_group(self) -> None:
        """SIGKILL to the group, once: afterwards another process may get its number."""
        if self._transport is not None and not self._group_killed:
            self._group_killed = True
            self._signal_group(signal.SIGKILL)


class LineSplitter:
    """Splits bytes into lines, in linear time; empty lines, and what exceeds `limit` bytes of a line, are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False

    @property
    def rest(self) -> bytes:
        """What has arrived since the last line end."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without line ends."""
        *ends, rest = _NEWLINES.sub(b"\n", data).split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            if self._parts:
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


def _decode(line: bytes) -> list[JSONRPCMessage] | None:
    """The messages in a line, if any; None if it must not be parsed."""
    if has_too_many_values(line):
        return None
    try:
        return decode_line(line)
    except ValueError:
        return []


def _readable(line: bytes) -> str:
    text = _ANSI.sub("", line[:STDERR_LINE].decode("utf-8", "replace")).rstrip()
    return text.rpartition("\r")[2]  # the last state of a progress bar
