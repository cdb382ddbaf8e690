"""Child processes without MCP; how they end is tested with servers in test_sessions."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.mcp_client.stdio import MAX_QUEUED, ChildProcess, ChildProcesses, LineSplitter
from tests.support.processes import PATIENCE


@asynccontextmanager
async def running(code: str) -> AsyncIterator[ChildProcess]:
    """A Python child."""
    children = ChildProcesses()
    async with (
        asyncio.timeout(PATIENCE),
        children.open_child(sys.executable, ["-c", code], env=os.environ, cwd=Path.cwd()) as child,
    ):
        yield child


async def flood(child: ChildProcess) -> None:
    while True:
        await child.write(b"x" * 100_000)


async def test_lines_come_and_go() -> None:
    async with running("import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)") as child:
        lines = child.lines()
        await child.write("straße\n".encode())
        assert await anext(lines) == b"STRASSE"
        await child.write(b"a\nb\n")
        assert [await anext(lines), await anext(lines)] == [b"A", b"B"]


async def test_last_line_needs_no_line_end() -> None:
    async with running("print('one'); print('two', end='')") as child:
        assert [line async for line in child.lines()] == [b"one", b"two"]


async def test_more_lines_than_may_be_queued_wait_for_their_reader() -> None:
    async with running(f"for _ in range(3): print('x' * {MAX_QUEUED})") as child:
        assert await child.wait_exited(0.05) is False  # it cannot write on before we read
        assert [len(line) async for line in child.lines()] == [MAX_QUEUED] * 3


async def test_writing_to_a_child_that_does_not_read_waits_and_then_breaks() -> None:
    async with running(
        "import os, sys; sys.stdin.readline(); os.close(0); print('closed', flush=True); input()"
    ) as child:
        await child.write(b"go\n")
        assert await anext(child.lines()) == b"closed"
        with pytest.raises(BrokenPipeError):
            await flood(child)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "exited with code 0"),
        ("raise SystemExit(7)", "exited with code 7"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
)
async def test_exit_is_explained(code: str, reason: str) -> None:
    async with running(code) as child:
        assert [line async for line in child.lines()] == []
        assert await child.wait_exited(PATIENCE)
        assert child.exit_reason == reason


async def test_an_exit_is_noticed_although_a_process_in_another_session_holds_the_pipes() -> None:
    code = """
import subprocess, sys
subprocess.Popen(["cat"], start_new_session=True)  # until stdin is closed
sys.exit("DB_URL is not set")
"""
    async with running(f"print('hello', flush=True){code}") as child:
        assert [line async for line in child.lines()] == [b"hello"]
        assert (child.exit_reason, child.stderr_tail) == ("exited with code 1", "DB_URL is not set")
        assert await child.wait_read(0) is False


async def test_last_words_are_readable_and_few() -> None:
    code = r"""
import sys
for n in range(100): print(f"line {n}", file=sys.stderr)
print("\x1b[31mred\x1b[0m", file=sys.stderr)
print("10%\r50%\r100%", file=sys.stderr)
sys.stderr.buffer.write(b"\xff" + b"y" * 9000 + b"\nunfinished")
"""
    async with running(code) as child:
        assert await child.wait_read(PATIENCE)
        tail = child.stderr_tail.split("\n")

    assert len(tail) == 40
    assert tail[-5:] == ["line 99", "red", "100%", "\ufffd" + "y" * 499, "unfinished"]


@given(st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"\xff"])).map(b"".join)))
def test_splitting_does_not_depend_on_the_pieces_and_drops_empty_lines(pieces: list[bytes]) -> None:
    splitter = LineSplitter(1000)
    lines = [line for piece in pieces for line in splitter.feed(piece)]

    *whole, rest = b"".join(pieces).split(b"\n")
    assert (lines, splitter.rest) == ([line for line in whole if line], rest)


@pytest.mark.parametrize(("length", "overflowed"), [(9, False), (10, False), (11, True)])
def test_line_is_cut_at_the_limit(length: int, overflowed: bool) -> None:
    splitter = LineSplitter(10)
    lines = splitter.feed(b"x" * 5) + splitter.feed(b"x" * (length - 5) + b"\nnext\n")

    assert lines == [b"x" * min(length, 10), b"next"]
    assert splitter.overflowed is overflowed
