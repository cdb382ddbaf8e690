"""Bridges forked from a process that has imported everything once, as multiprocessing's fork server does it.

Importing takes ten times as long as all the rest of a start. Each bridge is still a process of its own with its
arguments, environment, folder and standard streams. Tests of starting and ending, and coverage, start Python itself.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import json
import os
import pkgutil
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BRIDGE = (sys.executable, "-m", "lmstudio_bridge")
PYTHON_READS = ("PYTHON", "LC_", "LANG")
"""What Python reads before the first line of a program: with other values Python itself is started."""
OTHERS_READ = ("PYTHONPATH", "PYTHON_KEYRING_BACKEND")
LATE = ("httpcore", "mcp.client.sse", "mcp.client.stdio", "mcp.client.streamable_http")
"""What the bridge's libraries import only when it is used."""


class ForkedProcess:
    """What tests use of `asyncio.subprocess.Process`, for a bridge that the fork server started."""

    def __init__(
        self,
        pid: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
        status: asyncio.StreamReader,
        connection: asyncio.StreamWriter,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._connection = connection
        self._ended = asyncio.create_task(self._wait_for(status))

    async def _wait_for(self, status: asyncio.StreamReader) -> int:
        self.returncode = int(await status.readline() or -signal.SIGKILL)
        self._connection.close()
        self.stdin.close()
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class SpawnedProcess(asyncio.subprocess.Process):
    """A program whose output its reader can close, as a host that dies does."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        protocol: asyncio.subprocess.SubprocessStreamProtocol,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, loop)
        self._pipes = transport

    def close_stdout(self) -> None:
        stdout = self._pipes.get_pipe_transport(1)
        assert stdout
        stdout.close()


BridgeProcess = SpawnedProcess | ForkedProcess


async def start_bridge(
    *arguments: str,
    environ: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bool = True,
    limit: int = 2**16,
    command: tuple[str, ...] = (),
) -> BridgeProcess:
    """The bridge with these arguments; `stdin`: a pipe, else nothing to read. A `command` is started, not forked."""
    if command or not _may_fork(environ):
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=limit, loop=loop),
            *(command or BRIDGE),
            *arguments,
            cwd=cwd,
            env=dict(environ),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        )
        return SpawnedProcess(transport, protocol, loop)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_address())
    (ours, theirs), out, err = socket.socketpair(), os.pipe(), os.pipe()
    socket.send_fds(connection, [b"\n"], [theirs.fileno(), out[1], err[1]])
    theirs.close()
    os.close(out[1])
    os.close(err[1])
    status, writer = await asyncio.open_connection(sock=connection)
    given = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environ": dict(environ)}
    writer.write(json.dumps(given).encode() + b"\n")
    pid = int(await status.readline())
    _, writing = await asyncio.open_connection(sock=ours)
    if not stdin:
        writing.close()
    return ForkedProcess(pid, writing, await _read_pipe(out[0], limit), await _read_pipe(err[0], limit), status, writer)


def _may_fork(environ: Mapping[str, str]) -> bool:
    early = {
        name: value for name, value in environ.items() if name.startswith(PYTHON_READS) and name not in OTHERS_READ
    }
    under_coverage = any(name.startswith("COVERAGE") for name in os.environ)
    return sys.platform == "linux" and not under_coverage and early.items() <= os.environ.items()


async def _read_pipe(fd: int, limit: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(fd, "rb"))
    return reader


@functools.cache
def _address() -> str:
    """That of this process's fork server, which is started now and ends with this process."""
    folder = tempfile.mkdtemp(prefix="fork-server-")
    address = f"{folder}/socket"
    command = (sys.executable, "-m", "tests.support.fork_server", address)
    pipe = subprocess.PIPE  # as those of a bridge, for Python looks at its streams when it starts
    server = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    assert server.stdout
    assert server.stderr
    assert server.stdout.readline() == b"ready\n", server.stderr.read().decode()

    def end() -> None:
        server.kill()
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return address


# -- the server ----------------------------------------------------------------------------------------------------


def serve(address: str) -> dict[str, Any]:
    """Fork a process for each connection; returns, in that process only, what it is to run."""
    import selectors

    import lmstudio_bridge

    for module in pkgutil.walk_packages(lmstudio_bridge.__path__, "lmstudio_bridge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    waking, woken = socket.socketpair()
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(woken.fileno())
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(100)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    children: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for each in (waking, listening, sys.stdin):
        selector.register(each, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                os._exit(0)
            elif key.fileobj is waking:
                waking.recv(4096)
                _report_the_ended(children)
            else:
                connection, _ = listening.accept()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                with connection.makefile("rb") as file:
                    given: dict[str, Any] = json.loads(file.readline())
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for each in (waking, woken, listening, connection, *children.values()):
                        each.close()
                    for number, fd in enumerate(streams):
                        os.dup2(fd, number)
                        os.close(fd)
                    return given
                for fd in streams:
                    os.close(fd)
                children[pid] = connection
                connection.sendall(b"%d\n" % pid)


def _report_the_ended(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as connection, contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    given = serve(sys.argv[1])
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environ"])
    time.tzset()
    sys.path[:1] = [given["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = given["arguments"]
    code = 0
    try:
        runpy.run_module("lmstudio_bridge", run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it was closed
            stream.flush()
    os._exit(code)  # as multiprocessing does it, too: to tear down all that is imported would copy its pages
