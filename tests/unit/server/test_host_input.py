"""The host's lines, however they are cut into pieces on their way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from lmstudio_bridge.server.host_input import HostInput


@pytest.fixture
def pipe() -> Iterator[tuple[HostInput, int]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file:
        yield HostInput(file), write


async def test_lines_are_put_together_from_pieces(pipe: tuple[HostInput, int]) -> None:
    lines, write = pipe
    pieces = [b'{"a"', b":1}\n{", b"}\n", "ä\n".encode()[:1], "ä\n".encode()[1:], b"\xff\nlast, without an end"]
    found = aiter(lines)

    async def write_all() -> None:
        for piece in pieces:
            os.write(write, piece)
            await asyncio.sleep(0)
        os.close(write)

    writing = asyncio.create_task(write_all())
    assert [line async for line in found] == ['{"a":1}', "{}", "ä", "\ufffd", "last, without an end"]
    await writing


async def test_lines_that_have_come_are_given_in_one_turn_of_the_loop(pipe: tuple[HostInput, int]) -> None:
    lines, write = pipe
    os.write(write, b"{}\n" * 50)
    found = aiter(lines)
    assert await anext(found) == "{}"
    turned: list[bool] = []
    asyncio.get_running_loop().call_soon(turned.append, True)

    assert [await anext(found) for _ in range(49)] == ["{}"] * 49
    assert turned == []
    os.close(write)


async def test_a_line_longer_than_a_pipe_is_whole(pipe: tuple[HostInput, int]) -> None:
    lines, write = pipe
    text = b"x" * 300_000

    def write_all() -> None:
        os.write(write, text + b"\n")
        os.close(write)

    writing = asyncio.create_task(asyncio.to_thread(write_all))
    assert [line async for line in lines] == [text.decode()]
    await writing


async def test_an_input_that_is_non_blocking_is_waited_for(pipe: tuple[HostInput, int]) -> None:
    lines, write = pipe
    os.set_blocking(lines.wrapped.fileno(), False)
    found = aiter(lines)

    for _ in range(20):
        line = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0)  # it is being read by now
        await asyncio.to_thread(os.write, write, b"{}\n")
        assert await line == "{}"
    os.close(write)
