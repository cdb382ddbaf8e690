"""The processes that are measured: the bridge as an MCP server, and loops that take their tasks on a line of stdin."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from scripts.tools.bench.line import ANSWERS, COMMAND_VARIABLE, URL_VARIABLE
from scripts.tools.bench.processes import cpu_seconds
from scripts.tools.bench.task import ANSWER, SERVER, task_of
from tests.support.raw_client import Era, RawClient, base_environment, open_raw_client

CHECKOUT = Path(__file__).resolve().parents[3]
TOOL_SERVER = CHECKOUT / "scripts" / "tools" / "bench" / "tool_server.py"
BRIDGE_COMMAND = (sys.executable, "-m", "lmstudio_bridge")
ERA: Era = "2026-07-28"  # the protocol that Claude Code speaks with us
MAX_RUNS = 64  # no bench has more at once; 20 is what the bridge lets run, more wait in line
LIMIT = 300.0  # seconds until an answer that does not come fails the bench
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Lets Python keep what it compiles, in the passes that are not counted.

An installed program is compiled. A checkout may not be, or no more since its last change; then each of its cold starts
would compile it anew, which no user ever waits for.
"""

_END_LIMIT = 20.0  # seconds for a process to end once its stdin is closed
_LINE_LIMIT = 64 * 1024 * 1024  # bytes


class BenchError(Exception):
    """Something cannot be measured; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came to the model: at `wall` and `cpu` seconds of clocks of their own, `size` in bytes."""

    run: int
    round: int
    wall: float
    cpu: float
    size: int


@dataclass(frozen=True, slots=True)
class Model:
    """The stand-in for LM Studio, in a process of its own."""

    url: str

    async def watch(self, pid: int) -> None:
        """Note the CPU time of this process with each request from now on."""
        await self._get(f"/bench/watch/{pid}")

    async def record(self) -> list[Request]:
        """The requests since the last look, in order of arrival."""
        return [Request(*each) for each in json.loads(await self._get("/bench/record"))]

    async def _get(self, path: str) -> bytes:
        host, _, port = self.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=_LINE_LIMIT)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(int(head.lower().rpartition(b"content-length:")[2]))
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a bench works: the model, a folder, and the MCP server that counts its starts in a file there."""

    folder: Path
    model: Model

    @property
    def ledger(self) -> Path:
        return self.folder / "starts.txt"

    @property
    def command(self) -> list[str]:
        """The command of the MCP server."""
        return [sys.executable, str(TOOL_SERVER), str(self.ledger)]

    def starts(self) -> int:
        """How often the MCP server was started so far."""
        return len(self.ledger.read_text(encoding="utf-8").splitlines()) if self.ledger.exists() else 0

    def bridge_environ(self) -> dict[str, str]:
        """Settings of the bridge; all else is as it comes, but that all runs may be under way at once."""
        config = self.folder / "servers.json"
        entry = {"command": self.command[0], "args": self.command[1:]}
        config.write_text(json.dumps({"mcpServers": {SERVER: entry}}), encoding="utf-8")
        return {
            **COMPILED,
            "PYTHONPATH": str(CHECKOUT),
            "LMSTUDIO_BASE_URL": self.model.url,
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(config),
            "LMSTUDIO_BRIDGE_HOME": str(self.folder / "home"),
            "LMSTUDIO_BRIDGE_MAX_RUNS": str(MAX_RUNS),
            "CLAUDE_PROJECT_DIR": str(self.folder),
        }

    def line_environ(self) -> dict[str, str]:
        """What a loop needs to know."""
        return {
            **base_environment(),
            **COMPILED,
            "PYTHONPATH": str(CHECKOUT),
            URL_VARIABLE: self.model.url,
            COMMAND_VARIABLE: json.dumps(self.command),
            "MCP_USE_ANONYMIZED_TELEMETRY": "false",
        }


@asynccontextmanager
async def open_desk(folder: Path) -> AsyncIterator[Desk]:
    """A desk in an empty folder, with the model's process running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scripts.tools.bench.model_server", stdout=asyncio.subprocess.PIPE, cwd=CHECKOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT):
            url = (await process.stdout.readline()).decode().strip()
        yield Desk(folder, Model(url))
    finally:
        process.kill()
        await process.wait()


class Subject(Protocol):
    """A process that does runs."""

    name: str

    @property
    def pid(self) -> int: ...

    async def run(self, runs: int, *, rounds: int) -> float:
        """Do so many runs at once; seconds until the last answer. Raises `BenchError`."""
        ...


@dataclass(slots=True)
class Bridge:
    """The bridge, as Claude Code starts it and calls it."""

    client: RawClient
    name: str = "bridge"

    @property
    def pid(self) -> int:
        return self.client.process.pid

    async def run(self, runs: int, *, rounds: int) -> float:
        """See `Subject`."""
        began = time.perf_counter()
        numbers = [
            await self.client.start_call(
                "autonomous_with_mcp", mcp_name=SERVER, task=task_of(number, rounds=rounds), max_rounds=rounds + 2
            )
            for number in range(runs)
        ]
        answers = [(await self.client.answer_of(number)).text for number in numbers]
        seconds = time.perf_counter() - began
        self.client.lines.clear()
        if wrong := next((answer for answer in answers if ANSWER not in answer), None):
            raise BenchError(f"the bridge answered: {wrong}")
        return seconds


@dataclass(slots=True)
class LineLoop:
    """A loop that reads its tasks from stdin; see `scripts.tools.bench.line`."""

    name: str
    process: asyncio.subprocess.Process
    stderr: bytearray = field(default_factory=bytearray)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def run(self, runs: int, *, rounds: int) -> float:
        """See `Subject`."""
        assert self.process.stdin is not None
        tasks = [task_of(number, rounds=rounds) for number in range(runs)]
        began = time.perf_counter()
        self.process.stdin.write(json.dumps(tasks).encode() + b"\n")
        try:
            async with asyncio.timeout(LIMIT):
                answers = await self._read_answers()
        except TimeoutError:
            raise BenchError(f"{self.name} gave no answer within {LIMIT:g} s") from None
        seconds = time.perf_counter() - began
        if answers != [ANSWER] * runs:
            raise BenchError(f"{self.name} answered: {answers[:1]}")
        return seconds

    async def _read_answers(self) -> list[str]:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.startswith(ANSWERS.encode()):
                answers: list[str] = json.loads(line[len(ANSWERS) :])
                return answers
        words = self.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BenchError(f"{self.name} ended: {words[-1] if words else 'without a word'}")

    async def read_stderr(self) -> None:
        """Keep what it says of itself."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr += line


@asynccontextmanager
async def open_bridge(desk: Desk, *, command: tuple[str, ...] = BRIDGE_COMMAND) -> AsyncIterator[Bridge]:
    """A bridge in a process of its own."""
    environ = desk.bridge_environ()
    async with open_raw_client(era=ERA, environ=environ, command=command, answer_limit=LIMIT) as client:
        yield Bridge(client)


@asynccontextmanager
async def open_line(desk: Desk, name: str, command: Sequence[str]) -> AsyncIterator[LineLoop]:
    """A loop in a process of its own; ended by closing its stdin, else killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        env=desk.line_environ(),
        limit=_LINE_LIMIT,
    )
    loop = LineLoop(name, process)
    reading = asyncio.create_task(loop.read_stderr())
    try:
        yield loop
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


def floor_command(*options: str) -> list[str]:
    """The command of the floor."""
    return [sys.executable, "-m", "scripts.tools.bench.loops.floor", *options]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time and of CPU time."""

    wall: float
    cpu: float


async def cost_of(subject: Subject, *, runs: int, rounds: int) -> Cost:
    """What runs cost, and what the process itself computed for them; servers that it started are not in the latter."""
    before = cpu_seconds(subject.pid)
    wall = await subject.run(runs, rounds=rounds)
    return Cost(wall, cpu_seconds(subject.pid) - before)


def processors() -> int:
    """How many processors there are for us."""
    return len(os.sched_getaffinity(0))
