"""The bridge ends without a trace, however its host ends it: real processes, counted by their ids.

Every cell has a bridge of its own with three MCP servers: one behaves well, one is stubborn, one has a child.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, EndlessReply, Reply, StreamOptions, TextReply
from tests.support.desk import MODEL, Desk, open_desk
from tests.support.fork_server import BRIDGE, SpawnedProcess
from tests.support.journals import read_journal, stop_of
from tests.support.processes import SLOPPY, is_running, until_dead
from tests.support.raw_client import ERAS, EXIT_LIMIT, RawClient
from tests.support.wheels import build_archives, find_program, uvx_command

pytestmark = [
    pytest.mark.npm,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these signals nor process groups"),
]

SERVERS: dict[str, dict[str, Any]] = {
    "good": {},
    "stubborn": {"stubborn": True},  # ignores EOF and SIGTERM
    "parent": {"grandchild": True},  # which ignores SIGTERM and holds its parent's pipes
}
PROCESSES = len(SERVERS) + 1

EOF = "EOF"
CLAUDE_CODE = "SIGINT, 0.1 s later SIGTERM, 0.5 s later SIGKILL"
HOST_GONE = "both pipes closed, as when the host dies"
CODES = {
    EOF: 0,
    "SIGINT": 128 + signal.SIGINT,
    "SIGTERM": 128 + signal.SIGTERM,
    CLAUDE_CODE: 128 + signal.SIGINT,  # by itself, at the first signal
}
STATES = ("idle", "while the model writes", "during a tool call")


@dataclass
class Cell:
    """A bridge in one of the states, with everything that it has started."""

    desk: Desk
    client: RawClient
    state: str
    logs: tuple[Path, ...]

    def pids(self) -> list[int]:
        """The processes of the servers."""
        lines = [json.loads(line) for log in self.logs for line in log.read_text(encoding="utf-8").splitlines()]
        return [line["pid"] for line in lines if "pid" in line]

    async def bring_about(self, called: str) -> None:
        """Let the bridge come into the state; its servers have been started by then."""
        replies: dict[str, Reply] = {
            "idle": TextReply("done"),
            "while the model writes": EndlessReply(stream=StreamOptions(token_delay_seconds=0.01)),
            "during a tool call": CallReply((f"{called}__progress", {"steps": 1, "message": "the call is under way"})),
        }
        self.desk.sim.script(MODEL, replies[self.state])
        number = await self.client.start_call(
            "autonomous_with_write_access", mcp_names=list(SERVERS), task="Do something."
        )
        match self.state:
            case "idle":
                answer = await self.client.answer_of(number)
                assert not answer.is_error, answer.text
            case "while the model writes":
                await self.client.wait_for_progress(number, "answering")
            case _:
                await self.client.wait_for_progress(number, "the call is under way")

    async def end(self, way: str) -> int:
        """End the bridge; its exit code."""
        process = self.client.process
        assert isinstance(process, SpawnedProcess)
        match way:
            case "EOF":
                return await self.client.close_stdin()
            case "both pipes closed, as when the host dies":
                process.close_stdout()
                return await self.client.close_stdin()
            case "SIGINT, 0.1 s later SIGTERM, 0.5 s later SIGKILL":
                await end_like_claude_code(process)
            case _:
                process.send_signal(signal.Signals[way])
        async with asyncio.timeout(EXIT_LIMIT):
            return await process.wait()

    async def check_nothing_is_left(self) -> None:
        """Every process that was started has ended, and every journal is closed."""
        assert len(self.pids()) == PROCESSES
        for pid in self.pids():
            await until_dead(pid)
        (journal,) = self.desk.journals()
        wanted = "answered" if self.state == "idle" else "cancelled"
        assert stop_of(read_journal(journal)) == wanted
        for request in self.desk.chat_requests():
            async with asyncio.timeout(EXIT_LIMIT):
                await request.ended.wait()
            assert request.disconnected == (self.state == "while the model writes")
        assert self.client.stray == []
        assert "Traceback" not in self.client.stderr.decode()

    def kill_what_is_left(self) -> None:
        """After a failure, so that nothing outlives the test."""
        with contextlib.suppress(FileNotFoundError):
            for pid in self.pids():
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)


async def end_like_claude_code(process: asyncio.subprocess.Process) -> None:
    """As seen in 2.1.330; stdin stays open."""
    for number, seconds in ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.0)):
        if process.returncode is None:
            process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()


@asynccontextmanager
async def open_cell(
    folder: Path, state: str, *, called: str = "stubborn", command: tuple[str, ...] = BRIDGE
) -> AsyncIterator[Cell]:
    """A bridge in that state; `called` is the server of the call that is under way."""
    logs = {server: folder / f"{server}.log" for server in SERVERS}
    async with open_desk(folder) as desk:
        habits = {server: json.dumps({**SERVERS[server], "log": str(logs[server])}) for server in SERVERS}
        desk.configure(
            **{
                server: {"command": sys.executable, "args": ["-S", str(SLOPPY), each]}
                for server, each in habits.items()
            }
        )
        era = ERAS[len(state) % 2]  # both are met; that each state is met in both is not worth the time
        async with desk.bridge(era, options={"command": command}) as client:
            cell = Cell(desk, client, state, tuple(logs.values()))
            try:
                await cell.bring_about(called)
                yield cell
            finally:
                if client.process.returncode is None:
                    client.process.kill()
                cell.kill_what_is_left()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", CODES)
async def test_nothing_is_left_behind(tmp_path: Path, way: str, state: str) -> None:
    """A SIGKILL by the host would show as exit code -9."""
    async with open_cell(tmp_path, state) as cell:
        code = await cell.end(way)
        await cell.check_nothing_is_left()

    assert code == CODES[way]


@pytest.mark.parametrize("called", SERVERS)
async def test_nothing_is_left_behind_by_a_host_that_died(tmp_path: Path, called: str) -> None:
    """Nobody reads what we write any more, and stdin has ended."""
    async with open_cell(tmp_path, "during a tool call", called=called) as cell:
        code = await cell.end(HOST_GONE)
        await cell.check_nothing_is_left()

    assert code == 0


async def test_a_closed_terminal_ends_the_bridge_as_a_signal_does(tmp_path: Path) -> None:
    """SIGHUP goes to the whole process group of the terminal, and the bridge is in Claude Code's."""
    async with open_cell(tmp_path, "while the model writes") as cell:
        code = await cell.end("SIGHUP")
        await cell.check_nothing_is_left()

    assert code == 128 + signal.SIGHUP


async def test_a_signal_while_stubborn_servers_get_their_time_after_eof_leaves_nothing(tmp_path: Path) -> None:
    """The MCP specification's own shutdown: stdin is closed, then SIGTERM to who does not go at once."""
    async with open_cell(tmp_path, "during a tool call") as cell:
        stdin = cell.client.process.stdin
        assert stdin is not None
        stdin.close()
        async with asyncio.timeout(EXIT_LIMIT):
            while not _is_closed(cell.desk):  # noqa: ASYNC110  # no event tells that the server is being ended now
                await asyncio.sleep(0.01)
        code = await cell.end("SIGTERM")
        await cell.check_nothing_is_left()

    assert code == 128 + signal.SIGTERM


def _is_closed(desk: Desk) -> bool:
    (journal,) = desk.journals()
    return '"type": "RunFinished"' in journal.read_text(encoding="utf-8")


# -- under uvx, which stands between the host and the bridge -------------------------------------------------------


@pytest.fixture(scope="module")
def uvx(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command that starts the bridge from a wheel under uvx."""
    uv, uvx = find_program("uv"), find_program("uvx")
    if uv is None or uvx is None:
        pytest.skip("uv is not there")
    return uvx_command(uvx, build_archives(uv, tmp_path_factory.mktemp("wheel")).wheel)


@pytest.mark.parametrize("way", [EOF, CLAUDE_CODE])
async def test_nothing_is_left_behind_under_uvx(tmp_path: Path, uvx: tuple[str, ...], way: str) -> None:
    """uv hands SIGTERM on at once, but holds a SIGINT back for a moment: in a terminal both would have got it."""
    async with open_cell(tmp_path, "during a tool call", command=uvx) as cell:
        bridges = _children_of(cell.client.process.pid)
        code = await cell.end(way)
        for pid in bridges:
            await until_dead(pid)
        await cell.check_nothing_is_left()

    assert bridges
    assert code == CODES[way] or (way == CLAUDE_CODE and code == CODES["SIGTERM"])


def _children_of(parent: int) -> list[int]:
    texts = [path.read_text(encoding="utf-8") for path in Path(f"/proc/{parent}/task").glob("*/children")]
    return [int(word) for text in texts for word in text.split()]
