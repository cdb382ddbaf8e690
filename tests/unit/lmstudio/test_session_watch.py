"""A run's model while a request is under way: watched, timed, and cancelled."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import LLMTimeoutError
from lmstudio_bridge.lmstudio.http import Timeouts
from tests.lmstudio_sim.errors import MODEL_UNLOADED, plain_error
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import HttpReply, Reply, Stall, TextReply
from tests.unit.lmstudio.clients import QWEN, SHORT, within
from tests.unit.lmstudio.session_case import CHAT, LIST, LOAD, case, unload

LOST = HttpReply(400, plain_error(MODEL_UNLOADED))
ANSWER = TextReply("Four files.")
REFUSED = HttpReply(400, plain_error("not now"))


# -- watched while a request is under way ---------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "chats"), [(2, 1), (3, 2)])
async def test_a_server_counts_as_gone_after_three_looks_without_an_answer(failures: int, chats: int) -> None:
    async with case(watch_interval=0.01) as given:
        go_on = asyncio.Event()
        given.sim.script(QWEN, TextReply("Four files.", faults=(Stall(until=go_on),)), ANSWER)
        model = await given.prepare()
        before = len(given.seen(LIST))
        given.sim.script_path(LIST, *[REFUSED] * failures)
        asking = asyncio.create_task(given.ask(model))
        await given.sim.wait_for_request(path=CHAT)

        given.time.now += 60
        await given.sim.wait_for_request(before + failures + 1, path=LIST)
        go_on.set()

        assert (await within(asking)).text == "Four files."
        assert len(given.seen(CHAT)) == chats


async def test_a_server_that_does_not_tell_is_not_watched() -> None:
    async with case(native=None, watch_interval=0.001) as given:
        go_on = asyncio.Event()
        given.sim.script(QWEN, TextReply("Four files.", faults=(Stall(until=go_on),)))
        model = await given.prepare()
        before = len(given.sim.requests)
        asking = asyncio.create_task(given.ask(model))
        await given.sim.wait_for_request(path=CHAT)
        go_on.set()

        assert (await within(asking)).text == "Four files."
        assert len(given.sim.requests) == before + 1


# -- silence --------------------------------------------------------------------------------------------------------


async def test_a_silence_of_a_server_that_cannot_be_looked_at_is_reported_as_it_is() -> None:
    async with case(timeouts=Timeouts(first_byte=SHORT)) as given:
        given.sim.script(QWEN, TextReply("never", faults=(Stall(before_headers=True),)))
        model = await given.prepare()
        given.sim.script_path(LIST, REFUSED)

        with pytest.raises(LLMTimeoutError) as caught:
            await given.ask(model)

        assert caught.value.message == f"LM Studio sent nothing for {SHORT:g} s."


# -- cancelled ------------------------------------------------------------------------------------------------------

WAITS: dict[str, tuple[Reply, str]] = {
    "prefill": (TextReply("never", faults=(Stall(before_headers=True),)), CHAT),
    "first token": (TextReply("never", faults=(Stall(),)), CHAT),
    "mid-stream": (TextReply("I think that", faults=(Stall(after_tokens=1),)), CHAT),
    "load": (LOST, LOAD),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_whoever_is_cancelled_hangs_up_and_gives_the_slot_back(wait: str) -> None:
    reply, path = WAITS[wait]
    loading = asyncio.Event()
    async with case(SimModel(QWEN, loaded=True, parallel=1, load_delay=loading)) as given:
        model = await given.prepare()
        if path == LOAD:
            unload(given.sim)
            given.sim.script_fn("*", lambda request: reply)
            given.time.now += 60
        given.sim.script(QWEN, reply)
        asking = asyncio.create_task(given.ask(model))
        request = await given.sim.wait_for_request(path=path)
        if path == CHAT:
            await within(request.started.wait())

        asking.cancel()
        await within(asyncio.wait([asking]))
        await within(request.ended.wait())

        assert asking.cancelled()
        assert request.disconnected
        loading.set()
        given.sim.script_fn("*", lambda request: ANSWER)
        assert (await given.ask(await given.prepare())).text == "Four files."
        assert given.slots.waiting(QWEN) == 0


async def test_run_canceled_in_the_pause_asks_no_more() -> None:
    async with case() as given:
        given.sim.script(QWEN, LOST)
        model = await given.prepare()
        given.time.stopped = True
        asking = asyncio.create_task(given.ask(model))
        await within(given.time.asleep.wait())

        asking.cancel()
        await within(asyncio.wait([asking]))

        assert (asking.cancelled(), len(given.seen(CHAT))) == (True, 1)
