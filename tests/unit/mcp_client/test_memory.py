"""Whatever a server sends, it takes at most 300 MB: each shape in a process that can have no more than that."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from lmstudio_bridge.errors import SessionLostError
from lmstudio_bridge.mcp_client.http import CountedStream
from lmstudio_bridge.mcp_client.json_size import MAX_VALUES, ValueCounter, has_too_many_values
from lmstudio_bridge.messages import ServerConfig
from tests.unit.mcp_client.pools import open_test_pool

ROOM = 300_000_000  # bytes; as docs/contributing/limits.md says
SERVER = Path(__file__).parents[2] / "support" / "flooding_server.py"
TOO_MANY = "wrote a message with more than 200,000 values"
SHAPES = {
    "objects": "wrote a line of more than 16 MiB",
    "objects within the size": TOO_MANY,
    "blocks": "wrote a line of more than 16 MiB",
    "numbers": TOO_MANY,
    "levels": TOO_MANY,
    "strings": TOO_MANY,
    "keys": TOO_MANY,
    "quotes": TOO_MANY,
    "text": "result of 15728641 characters",
    "escapes": "result of 7864320 characters",
    "commas in a text": "result of 15728640 characters",
    "newlines": "result of 4 characters",
    "lists in a text": "result of 15728400 characters",
    "requests": "sends requests and does not read the answers",
    "large requests": "sends requests and does not read the answers",
    "notifications": "result of 4 characters",
}


LOST = "closed the connection"
REFUSED = "characters: Failed to parse JSON response: its answer "
OVER_HTTP = {
    "json": {"text": "result of 15728641 characters", "newlines": REFUSED, "digits": "characters: Failed to parse"},
    "gzip": {"blocks": REFUSED, "text": "result of 15728641 characters"},
    "events": {
        "objects": LOST,
        "text": LOST,
        "short text": "result of 7340033 characters",
        "empty data lines": "characters: Failed to parse",
        "requests": LOST,
        "large requests": LOST,
    },
}


async def call_all(port: str) -> dict[str, dict[str, str]]:
    """What a call of a server brings, by transport and the shape of what it sends."""
    brought: dict[str, dict[str, str]] = {"stdio": {}}
    for shape in SHAPES:
        server = ServerConfig(shape, "stdio", command=sys.executable, args=(str(SERVER), shape))
        brought["stdio"][shape] = await call(server)
    for encoding, shapes in OVER_HTTP.items():
        brought[encoding] = {
            shape: await call(ServerConfig(shape, "http", url=f"http://127.0.0.1:{port}/{encoding}/{quote(shape)}"))
            for shape in shapes
        }
    return brought


async def call(server: ServerConfig) -> str:
    async with open_test_pool() as pool:
        await pool.open_server(server)
        try:
            result = await pool.call_tool(server.name, "flood", {})
        except SessionLostError as exc:
            return str(exc)
    return f"result of {len(result.text)} characters{': ' + result.text if result.is_error else ''}"


def limit_memory() -> None:
    """Allow this process so much more than it has now."""
    import resource

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    limit = int(status["VmSize"].split()[0]) * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_no_shape_takes_more_memory_than_a_server_may() -> None:
    over_http = subprocess.Popen([sys.executable, SERVER, "http"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with over_http:
        ended = subprocess.run(
            [sys.executable, "-m", __name__], stdin=over_http.stdout, capture_output=True, encoding="utf-8",
            cwd=Path(__file__).parents[3], env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # addresses, not memory
        )  # fmt: skip
        over_http.kill()

    assert ended.returncode == 0, ended.stderr[-3_000:]
    brought = json.loads(ended.stdout)
    expected = {"stdio": SHAPES, **OVER_HTTP}
    others = {
        f"{shape}, {transport}": brought[transport][shape]
        for transport, shapes in expected.items()
        for shape, words in shapes.items()
        if words not in brought[transport][shape]
    }
    assert others == {}


async def test_others_go_on_while_a_large_message_is_parsed() -> None:
    def threads() -> int:
        return sum("AnyIO worker" in thread.name for thread in threading.enumerate())

    async with open_test_pool() as pool:
        await pool.open_server(ServerConfig("flood", "stdio", command=sys.executable, args=(str(SERVER), "short text")))
        before = threads()
        await pool.call_tool("flood", "flood", {})

    assert (before, threads()) == (0, 1)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize(("count", "fits"), [(MAX_VALUES - 3, True), (MAX_VALUES + 3, False)])
async def test_each_event_and_each_body_over_http_may_hold_so_many_values(end: bytes, count: int, fits: bool) -> None:
    event = b"data: [" + b"0," * count + b"0]" + end

    class Pieces(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, 2 * len(event), 50_000):
                yield (event * 2)[start : start + 50_000]

    ended: list[bool] = []
    stream = CountedStream(Pieces(), is_stream=True, on_end=lambda: ended.append(True))
    if fits:
        assert b"".join([piece async for piece in stream]) == event * 2
    else:
        with pytest.raises(httpx2.SSEError, match="more than 200,000 values"):
            [piece async for piece in stream]
    with pytest.raises(httpx2.StreamError, match="more than 200,000 values"):
        [piece async for piece in CountedStream(Pieces(), is_stream=False, on_end=lambda: None)]

    await stream.aclose()
    await stream.aclose()
    assert ended == [True], "it is counted once"


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (b'{"a": [1, 2, {"b": null}]}', 7),
        (b'{"text": "a, [b], {c}"}', 3),
        (rb'{"text": "a \", [b], \\"}', 3),
        (b'"never ends, [', 1),
    ],
)
def test_values_are_counted_outside_of_texts_wherever_the_pieces_end(message: bytes, values: int) -> None:
    for limit in (values - 1, values):
        for size in range(1, len(message) + 1):
            counter = ValueCounter(limit)
            found = [counter.feed(message[place : place + size]) for place in range(0, len(message), size)]

            assert size < len(message) or found[-1] == (values > limit)


def test_a_text_of_any_kind_counts_as_one_value() -> None:
    assert not has_too_many_values(b'{"text": "' + b",[{" * MAX_VALUES + b'"}')
    assert has_too_many_values(b"[" + b"0," * MAX_VALUES + b"0]")


if __name__ == "__main__":
    limit_memory()
    print(json.dumps(asyncio.run(call_all(input()))))
