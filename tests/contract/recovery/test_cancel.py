"""A call that is cancelled while the bridge waits for LM Studio: the connection closes, and other runs go on."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.contract.recovery.bench import (
    CHAT,
    LOAD,
    PATIENCE,
    QWEN,
    Bench,
    Trap,
    ask,
    cancel,
    chat_models,
    is_right,
    open_bench,
    soon,
    start,
)
from tests.lmstudio_sim.replies import HttpReply, RateLimitReply, Stall, TextReply
from tests.support.raw_client import RawClient

PREFILL, STREAM, RETRY, LOADING = "prefill/model", "stream/model", "retry/model", "loading/model"


async def test_a_call_can_be_cancelled_wherever_it_waits_for_lm_studio(tmp_path: Path) -> None:
    models = chat_models(PREFILL, STREAM, RETRY, LOADING)
    models[3].loaded, models[3].load_delay = False, asyncio.Event()
    async with open_bench(tmp_path, [*models, *chat_models(QWEN, parallel=1)]) as bench:
        reading, writing, bystander = Trap(), Trap(), Trap()
        bench.sim.script(PREFILL, TextReply("never", faults=(Stall(until=reading, before_headers=True),)))
        bench.sim.script(STREAM, TextReply("It seems to me", faults=(Stall(until=writing, after_tokens=1),)))
        bench.sim.script(RETRY, RateLimitReply(15))
        bench.work_on(QWEN, TextReply("done", faults=(Stall(until=bystander, after_tokens=1),)))
        async with bench.bridge() as client:
            going_on = await start(client, QWEN)
            await soon(bystander.reached)
            prefill, stream = await start(client, PREFILL), await start(client, STREAM)
            retry, loading, in_line = (
                await start(client, RETRY),
                await start(client, LOADING),
                await start(client, QWEN),
            )
            await soon(reading.reached)
            await soon(writing.reached)
            await client.wait_for_progress(retry, "Trying again in 15 s")
            load = await bench.sim.wait_for_request(path=LOAD)
            await client.wait_for_progress(in_line, "position 1")

            for number in (prefill, stream, retry, loading, in_line):
                await cancel(client, number)
            hung_up = [bench.chats(PREFILL)[0], bench.chats(STREAM)[0], load]
            for request in hung_up:
                await soon(request.ended)
            await until_stopped(bench, ["cancelled"] * 5)
            bystander.set()
            answer = await client.answer_of(going_on)
            bench.work_on(PREFILL)
            after = await ask(client, PREFILL)

        assert [request.outcome for request in hung_up] == ["disconnected"] * 3
        assert answer.said.startswith("done")
        assert is_right(after, PREFILL)
        assert (len(bench.chats(RETRY)), len(bench.chats(QWEN))) == (1, 2)
        assert bench.stops() == ["answered", "answered", *["cancelled"] * 5]


async def until_stopped(bench: Bench, stops: list[str]) -> None:
    """Wait until so many runs have ended as their journals say; no event tells of it."""
    async with asyncio.timeout(PATIENCE):
        while [stop for stop in bench.stops() if stop != "failed"] != stops:  # noqa: ASYNC110  # no end is "failed"
            await asyncio.sleep(0.05)


async def test_a_call_can_be_cancelled_while_lm_studio_is_looked_at(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        bench.sim.script_path("/api/v1/models", HttpReply(200, {"models": []}, faults=(Stall(),)))
        bench.work_on(QWEN)
        async with bench.bridge() as client:
            number = await start(client)
            look = await bench.sim.wait_for_request(path="/api/v1/models")
            await cancel(client, number)
            await soon(look.ended)
            after = await ask(client)

        assert look.disconnected
        assert is_right(after, QWEN)
        assert bench.stops() == ["answered", "cancelled"]


async def test_a_call_can_be_cancelled_while_it_connects(tmp_path: Path) -> None:
    """A listener whose queue is full neither takes a connection nor refuses it."""
    async with open_bench(tmp_path, chat_models(QWEN)) as bench:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            crowd = [socket.socket() for _ in range(4)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            try:
                async with bench.bridge(LMSTUDIO_BASE_URL=url, LMSTUDIO_BRIDGE_CONNECT_TIMEOUT="60") as client:
                    number = await start(client)
                    await client.wait_for_progress(number, "ledger is ready")
                    await cancel(client, number)
                    await until_stopped(bench, ["cancelled"])
                    assert await is_usable(client)
            finally:
                for each in crowd:
                    each.close()

        assert [request for request in bench.sim.requests if request.path == CHAT] == []


async def is_usable(client: RawClient) -> bool:
    return bool((await client.request("tools/list", {}))["tools"])
