"""What the person at Claude Code sees of a run under way, through the whole bridge."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from itertools import pairwise

import pytest

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, Stall, StreamError, StreamOptions, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support.desk import MODEL, Desk
from tests.support.processes import SLOPPY
from tests.support.raw_client import Era, RawClient

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

TASK = {"mcp_names": ["sloppy"], "task": "Do something."}
SLOWLY = StreamOptions(token_delay_seconds=0.01)
SECONDS = re.compile(r" · \d+ s\Z")


@pytest.fixture(autouse=True)
def sloppy(desk: Desk) -> None:
    desk.configure(sloppy={"command": sys.executable, "args": [str(SLOPPY), json.dumps({})]})


def assert_counts_up(client: RawClient, number: int) -> None:
    counters = [counter for counter, _ in client.progress_of(number)]
    assert counters
    assert all(earlier < later for earlier, later in pairwise(counters)), counters


async def test_each_thing_worth_knowing_has_its_message(desk: Desk) -> None:
    loaded, read, thought = asyncio.Event(), asyncio.Event(), asyncio.Event()
    key = "qwen/qwen3-8b"
    desk.sim.models[key] = SimModel(key, load_delay=loaded, context_length=32_768, trained_for_tool_use=True)
    thoughts = "".join(f"I think about {number}. " for number in range(100))
    stalls = (Stall(until=read, before_headers=True), Stall(until=thought, after_tokens=120))
    hold = ("sloppy__hold", {"lines": 3, "path": "src/app.py"})
    desk.sim.script(key, CallReply(hold, reasoning=thoughts, stream=SLOWLY, faults=stalls))
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_write_access", **TASK, model=key, max_rounds=7)
        await client.wait_for_progress(number, f"loading {key}")
        loaded.set()
        await client.wait_for_progress(number, "round 1/7 · reading ")
        read.set()
        thinking = await client.wait_for_progress(number, "tok/s")
        thought.set()
        await client.wait_for_progress(number, "round 1/7 · sloppy: hold src/app.py")
        await client.cancel(number)

    (journal,) = desk.journals()
    first, *_ = client.progress_of(number)
    assert journal.stem in first[1], "what Claude Code loses when it moves a call to the background"
    assert re.fullmatch(r"round 1/7 · thinking \(\d+ tokens, \d+ tok/s\)", thinking)
    assert_counts_up(client, number)


async def test_waiting_for_a_slot_and_recoveries_are_told(desk: Desk) -> None:
    desk.sim.models[MODEL].parallel = 1
    release = asyncio.Event()
    lost = TextReply("x", faults=(StreamError("Model unloaded."),))
    desk.sim.script(MODEL, TextReply("The first.", faults=(Stall(until=release),)), lost)
    desk.sim.script(MODEL, TextReply("The second."))
    async with desk.bridge(LMSTUDIO_BRIDGE_PARALLEL="1") as client:
        first = await client.start_call("autonomous_with_write_access", **TASK)
        await desk.sim.wait_for_request(1, path="/v1/chat/completions")
        second = await client.start_call("autonomous_with_write_access", **TASK)
        await client.wait_for_progress(second, f"queued for {MODEL}: position 1")
        release.set()
        answers = [await client.answer_of(number) for number in (first, second)]

    assert [answer.text.partition("\n")[0] for answer in answers] == ["The first.", "The second."]
    assert any("Model unloaded. Retrying (1 of 2)." in message for message in answers[1].progress)


async def test_when_nothing_happens_the_last_message_comes_again_with_its_age(desk: Desk) -> None:
    desk.sim.script(MODEL, TextReply("never", faults=(Stall(before_headers=True),)))
    async with desk.bridge(LMSTUDIO_BRIDGE_HEARTBEAT="0.2") as client:
        number = await client.start_call("autonomous_with_write_access", **TASK)
        await client.wait_for_progress(number, " tokens · ", count=3)
        await client.cancel(number)

    repeated = [message for _, message in client.progress_of(number) if SECONDS.search(message)]
    assert any(re.match(r"round 1/50 · reading [\d,]+ tokens · ", message) for message in repeated)
    assert_counts_up(client, number)


async def test_the_progress_of_a_tool_is_passed_on(desk: Desk, era: Era) -> None:
    desk.sim.script(MODEL, CallReply(("sloppy__progress", {"steps": 3, "message": "halfway there"})))
    async with desk.bridge(era) as client:
        number = await client.start_call("autonomous_with_write_access", **TASK)
        message = await client.wait_for_progress(number, "3/3")
        await client.cancel(number)

    assert message == "sloppy: progress · 3/3 halfway there"


async def test_a_fast_model_makes_at_most_four_messages_a_second(desk: Desk) -> None:
    """Two thousand pieces; the seconds are the run's own, so that a slow machine is no excuse and no harm."""
    pieces = StreamOptions(fragment_chars=5, token_delay_seconds=0.0005)
    desk.sim.script(MODEL, TextReply("".join(f"{number:04} " for number in range(2_000)), stream=pieces))
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_write_access", **TASK)
        result = await client.result_of(number)

    seconds = result["_meta"]["lmstudio-bridge/report"]["seconds"]
    assert desk.chat_requests()[0].tokens_sent == 2_000
    assert 2 <= len(client.progress_of(number)) <= 4 * seconds + 3  # the first, the last and a begun quarter second
    assert_counts_up(client, number)


async def test_a_host_that_does_not_read_holds_no_run_up(desk: Desk) -> None:
    """Its pipe is full, so that not one progress message gets through; the run works on all the same."""

    def reply(request: SimRequest) -> CallReply | TextReply:
        if len(request.messages) > 8:
            return TextReply("Done.")
        return CallReply(("sloppy__raw", {"result": {"content": [{"type": "text", "text": "ok"}]}}))

    desk.sim.script_fn(MODEL, reply)
    async with desk.bridge(options={"buffer_limit": 32_768}) as client:
        client.reading.clear()
        lists = [await client.start("tools/list", {}) for _ in range(80)]  # their answers are some 300 KB
        number = await client.start_call("autonomous_with_write_access", **TASK)
        await desk.sim.wait_for_request(4, path="/v1/chat/completions")
        unread = [each for each in lists if not client.answers_to(each)]
        client.reading.set()
        answer = await client.answer_of(number)
        for each in lists:
            await client.result_of(each)

    assert unread, "the pipe was full while the model was asked four times"
    assert answer.said.startswith("Done.")
    assert_counts_up(client, number)
