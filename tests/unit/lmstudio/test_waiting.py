"""How long the client waits, for what, and how it lets go: silence, cancellation, and servers that ask for a pause."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lmstudio_bridge.errors import LLMRateLimitError, LLMTimeoutError, ServerBusyError
from lmstudio_bridge.lmstudio.client import LLMClient, open_client
from lmstudio_bridge.lmstudio.http import Timeouts
from lmstudio_bridge.messages import ChatRequest, Completion, Delta, TextDelta
from tests.lmstudio_sim.replies import EndlessReply, HttpReply, RateLimitReply, Stall, StreamOptions, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.unit.lmstudio.chunks import chunk, encode
from tests.unit.lmstudio.clients import QUESTION, QWEN, SHORT, FakeTime, open_test_client, within

CHAT = "/v1/chat/completions"
LONG = 60.0  # seconds; a limit that no test reaches
FIRST = Timeouts(first_byte=SHORT, between_bytes=LONG)
BETWEEN = Timeouts(first_byte=LONG, between_bytes=SHORT)


async def ask(client: LLMClient, **more: Any) -> Completion:
    return await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN, **more))


# -- silence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stall", "timeouts", "message"),
    [
        (Stall(before_headers=True), FIRST, "LM Studio sent nothing for 0.05 s."),
        (Stall(), FIRST, "LM Studio sent nothing for 0.05 s."),
        (Stall(after_tokens=1), BETWEEN, "LM Studio sent nothing for 0.05 s in the middle of its reply."),
    ],
    ids=["before the headers", "before the first byte", "between two bytes"],
)
async def test_silence_ends_a_stream_and_it_is_not_sent_again(stall: Stall, timeouts: Timeouts, message: str) -> None:
    """A request that timed out while LM Studio read the prompt would only start over."""
    async with open_simulator() as sim, open_test_client(sim, timeouts=timeouts) as client:
        sim.script(QWEN, TextReply("A long answer.", stream=StreamOptions(fragment_chars=4), faults=(stall,)))

        with pytest.raises(LLMTimeoutError) as caught:
            await ask(client)

        assert (caught.value.message, caught.value.url, caught.value.model) == (message, f"{sim.url}{CHAT}", QWEN)
        setting = "BETWEEN_BYTES" if stall.after_tokens else "FIRST_BYTE"
        assert f"LMSTUDIO_BRIDGE_{setting}_TIMEOUT" in caught.value.remedy
        assert len(sim.requests) == 1
        await within(sim.requests[0].ended.wait())
        assert sim.requests[0].disconnected


async def test_a_stream_of_keepalives_is_silence() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b": keepalive\n\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with open_client(url, timeouts=FIRST) as client:
            with pytest.raises(LLMTimeoutError, match="sent nothing for"):
                await ask(client)
        await within(ended.wait())


async def test_silence_after_the_finish_reason_does_not_spoil_an_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(encode([chunk({"content": "Yes."}), chunk(finish="stop")]))
        await reader.read()  # until the client hangs up
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, open_client(f"http://{host}:{port}", timeouts=BETWEEN) as client:
        assert await ask(client) == Completion("Yes.", finish_reason="stop", model="m")


# -- letting go -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Stall(before_headers=True), Stall(), None], ids=["headers", "first byte", "stream"])
async def test_cancelling_closes_the_connection(fault: Stall | None, client: LLMClient, sim: Simulator) -> None:
    """LM Studio stops generating when the client hangs up (docs/lm-studio.md, section 6)."""
    sim.script(QWEN, EndlessReply(faults=(fault,) if fault else ()))
    asking = asyncio.create_task(ask(client))
    request = await sim.wait_for_request()
    await within(request.started.wait())

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await within(asking)
    await within(request.ended.wait())
    assert (request.disconnected, len(sim.requests)) == (True, 1)


async def test_an_error_of_the_listener_closes_the_connection_and_comes_out(client: LLMClient, sim: Simulator) -> None:
    async def on_delta(delta: Delta) -> None:
        raise ZeroDivisionError

    sim.script(QWEN, EndlessReply())

    with pytest.raises(ZeroDivisionError):
        await ask(client, on_delta=on_delta)

    await within(sim.requests[0].ended.wait())
    assert (sim.requests[0].disconnected, len(sim.requests)) == (True, 1)


async def test_a_slow_listener_holds_the_stream_back_and_loses_nothing(client: LLMClient, sim: Simulator) -> None:
    told: list[Delta] = []
    gate, first = asyncio.Event(), asyncio.Event()

    async def on_delta(delta: Delta) -> None:
        first.set()
        await gate.wait()
        told.append(delta)

    sim.script(QWEN, TextReply("A long answer.", stream=StreamOptions(fragment_chars=5)))
    asking = asyncio.create_task(ask(client, on_delta=on_delta))
    await within(first.wait())
    assert told == []

    gate.set()

    assert (await within(asking)).text == "A long answer."
    assert told == [TextDelta("A lon"), TextDelta("g ans"), TextDelta("wer.")]


# -- pauses that the server asks for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "slept"),
    [
        (3, [3.0] * 4),
        (0, [0.0] * 4),
        (16, [15.0] * 4),
        (None, [1.0, 2.0, 4.0, 8.0]),
        ("soon", [1.0, 2.0, 4.0, 8.0]),
        (datetime.now(UTC) + timedelta(days=1), [15.0] * 4),
        (datetime.now(UTC) - timedelta(days=1), [0.0] * 4),
    ],
    ids=["seconds", "zero", "more than the cap", "none", "nonsense", "a date to come", "a date gone by"],
)
async def test_a_limited_request_is_tried_five_times_with_the_pauses_that_were_asked_for(
    retry_after: Any, slept: list[float], client: LLMClient, sim: Simulator, time: FakeTime
) -> None:
    sim.script_path(CHAT, *[RateLimitReply(retry_after)] * 9)

    with pytest.raises(LLMRateLimitError) as caught:
        await ask(client)

    assert (len(sim.requests), time.slept) == (5, slept)
    assert (caught.value.status, caught.value.retryable) == (429, False)


async def test_a_busy_server_may_ask_for_a_pause_too(client: LLMClient, sim: Simulator, time: FakeTime) -> None:
    busy = HttpReply(503, {"error": "overloaded"}, {"Retry-After": "7"})
    sim.script_path(CHAT, *[busy] * 9)

    with pytest.raises(ServerBusyError):
        await ask(client)

    assert time.slept == [7.0, 7.0]
