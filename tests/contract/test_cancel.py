"""Cancel reaches everything: LM Studio's stream, the tool call, the journal; and nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, EndlessReply, Reply, Stall, StreamOptions, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support.desk import MODEL, Desk
from tests.support.journals import Event, events_of, read_journal, stop_of
from tests.support.processes import SLOPPY
from tests.support.raw_client import Era

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 60.0  # seconds, for what happens within one on a machine that is not busy
SLOWLY = StreamOptions(token_delay_seconds=0.01)


@pytest.fixture(autouse=True)
def sloppy(desk: Desk, tmp_path: Path) -> None:
    habits = {"log": str(tmp_path / "server.log")}
    desk.configure(sloppy={"command": sys.executable, "args": [str(SLOPPY), json.dumps(habits)]})


class Model:
    """Answers the task "Other." when `release` is set, and does as `reply` says in any other."""

    def __init__(self, desk: Desk, reply: Reply) -> None:
        self.release = asyncio.Event()
        self._reply = reply
        desk.sim.script_fn(MODEL, self._answer)

    def _answer(self, request: SimRequest) -> Reply:
        if request.messages[1]["content"] == "Other.":
            return TextReply("The other is done.", faults=(Stall(until=self.release),))
        return self._reply


def ended(desk: Desk, stop: str) -> list[Event]:
    """The run that ended so, from its journal."""
    (events,) = [events for path in desk.journals() if stop_of(events := read_journal(path)) == stop]
    return events


def messages_at_server(folder: Path, method: str) -> list[dict[str, Any]]:
    lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
    return [message for message in map(json.loads, lines) if message.get("method") == method]


@pytest.mark.parametrize(
    ("reply", "seen", "so_far"),
    [
        pytest.param(TextReply("x", faults=(Stall(before_headers=True),)), "reading", "", id="silent"),
        pytest.param(
            TextReply("It begins well, then it stops.", faults=(Stall(after_tokens=1),)),
            "answering (1 token",
            "It begins we",
            id="silent in mid-reply",
        ),
        pytest.param(EndlessReply("on and on ", stream=SLOWLY), "answering", "on and on on and on", id="streaming"),
    ],
)
async def test_cancel_stops_the_generation_and_keeps_what_was_said(
    desk: Desk, era: Era, reply: Reply, seen: str, so_far: str
) -> None:
    model = Model(desk, reply)
    async with desk.bridge(era) as client:
        other = await client.start_call("autonomous_with_write_access", mcp_names=["sloppy"], task="Other.")
        await desk.sim.wait_for_request(1, path="/v1/chat/completions")
        number = await client.start_call("autonomous_with_write_access", mcp_names=["sloppy"], task="This.")
        request = await desk.sim.wait_for_request(2, path="/v1/chat/completions")
        await client.wait_for_progress(number, seen)
        async with asyncio.timeout(PATIENCE):
            while seen == "answering" and request.tokens_sent < 3:  # noqa: ASYNC110  # the simulator counts
                await asyncio.sleep(0.01)

        await client.cancel(number)
        async with asyncio.timeout(PATIENCE):
            await request.ended.wait()
        assert not desk.chat_requests()[0].ended.is_set(), "the other run is still in progress"
        model.release.set()
        answer = await client.answer_of(other)

    assert request.disconnected
    assert answer.said.startswith("The other is done.")
    assert client.answers_to(number) == []
    events = ended(desk, "cancelled")
    kept = events_of(events, "RunFinished")[-1]["answer"]
    assert kept.startswith(so_far)
    assert bool(kept) == bool(so_far)
    assert not events_of(events, "RoundFinished")


async def test_cancel_in_a_tool_call_reaches_the_tool_and_keeps_what_was_done(
    desk: Desk, era: Era, tmp_path: Path
) -> None:
    call = ("sloppy__progress", {"steps": 1, "message": "it is under way"})
    model = Model(desk, CallReply(call, call, text="I call it twice."))
    async with desk.bridge(era) as client:
        other = await client.start_call("autonomous_with_write_access", mcp_names=["sloppy"], task="Other.")
        await desk.sim.wait_for_request(1, path="/v1/chat/completions")
        number = await client.start_call("autonomous_with_write_access", mcp_names=["sloppy"], task="This.")
        await client.wait_for_progress(number, "it is under way")

        await client.cancel(number)
        async with asyncio.timeout(PATIENCE):
            while not messages_at_server(tmp_path, "notifications/cancelled"):  # noqa: ASYNC110  # a file tells nothing
                await asyncio.sleep(0.01)
        model.release.set()
        answer = await client.answer_of(other)

    assert answer.said.startswith("The other is done.")
    assert client.answers_to(number) == []
    (sent,) = messages_at_server(tmp_path, "tools/call")
    (cancelled,) = messages_at_server(tmp_path, "notifications/cancelled")
    assert cancelled["params"]["requestId"] == sent["id"]
    events = ended(desk, "cancelled")
    assert events_of(events, "RunFinished")[-1]["answer"] == "I call it twice."
    assert len(events_of(events, "RoundFinished")) == 1
    assert len(events_of(events, "CallStarted")) == 1
    assert not events_of(events, "CallFinished")


async def test_a_cancelled_run_can_be_gone_on_with(desk: Desk, era: Era) -> None:
    """Esc, then another wish: nothing of the work is lost."""
    call = ("sloppy__progress", {"steps": 1, "message": "it is under way"})
    Model(desk, CallReply(call))
    async with desk.bridge(era) as client:
        number = await client.start_call("autonomous_with_write_access", mcp_names=["sloppy"], task="This.")
        await client.wait_for_progress(number, "it is under way")
        await client.cancel(number)
        Model(desk, TextReply("Done without the tool."))
        async with asyncio.timeout(PATIENCE):
            while stop_of(read_journal(desk.journals()[0])) != "cancelled":  # noqa: ASYNC110  # a file
                await asyncio.sleep(0.01)
        answer = await client.call(
            "autonomous_with_write_access", run_id=desk.journals()[0].stem, task="Without the tool."
        )

    assert answer.said.startswith("Done without the tool.")
    results = desk.results()
    assert len(results) == 1
    assert "may or may not have taken effect" in results[0]
