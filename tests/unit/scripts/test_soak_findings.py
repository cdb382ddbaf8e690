"""What the soak brought to light, each as a case of its own."""

from __future__ import annotations

from lmstudio_bridge import messages
from lmstudio_bridge.agent.conversation import Compactor, Conversation
from lmstudio_bridge.agent.model_request import ModelRequester
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.errors import ContextOverflowError
from lmstudio_bridge.lmstudio.queue import SlotQueue
from lmstudio_bridge.lmstudio.session import ModelSession
from tests.lmstudio_sim.errors import SLOT_WAIT_FAILED
from tests.lmstudio_sim.replies import HttpReply, Reply, StreamError, TextReply
from tests.lmstudio_sim.server import open_simulator
from tests.support.fakes import ManualClock, Recorder, ScriptedModel, say
from tests.unit.lmstudio.clients import QUESTION, QWEN, FakeTime, open_test_client, within


async def ask_pinned(*replies: Reply) -> tuple[messages.Completion | str, list[str], int]:
    """The reply (or the error's kind), the notices, and how many requests it took."""
    notices: list[str] = []

    async def on_notice(notice: messages.Notice) -> None:
        notices.append(notice.text)

    time = FakeTime()
    async with open_simulator() as sim, open_test_client(sim, time=time) as client:
        sim.script(QWEN, *replies)
        slots = SlotQueue(server=sim.url)
        choice = await client.validator.resolve(QWEN)
        model = ModelSession(client, choice, slots=slots)
        reply = await within(model.stream_chat_completion(messages.ChatRequest(QUESTION), on_notice=on_notice))
        asked = sum(request.path == "/v1/chat/completions" for request in sim.requests)
    return reply, notices, asked


BUSY_IN_MID_REPLY = TextReply("Half an answer.", faults=(StreamError(SLOT_WAIT_FAILED, after_tokens=1),))


async def test_an_engine_that_fails_in_mid_reply_is_asked_again() -> None:
    reply, notices, asked = await ask_pinned(BUSY_IN_MID_REPLY, TextReply("All of it."))

    assert isinstance(reply, messages.Completion)
    assert (reply.text, asked) == ("All of it.", 2)
    assert [notice for notice in notices if "Retrying (1 of 2)" in notice]


async def test_an_engine_that_fails_in_mid_reply_and_then_at_once_gets_the_tries_of_both() -> None:
    busy = HttpReply(503, {"error": {"message": "Loading model"}})

    reply, _, asked = await ask_pinned(BUSY_IN_MID_REPLY, busy, busy, TextReply("All of it."))

    assert isinstance(reply, messages.Completion)
    assert (reply.text, asked) == ("All of it.", 4)


async def test_a_history_that_we_take_for_short_enough_is_shortened_after_an_overflow_all_the_same() -> None:
    """Four characters make a token in English; in other scripts one does, and only the server knows."""
    conversation = Conversation((messages.SystemMessage("Use tools."), messages.UserMessage("Read it.")))
    conversation.add(messages.AssistantMessage("", (messages.ToolCall("c1", "fs__read", "{}"),)))
    conversation.add(messages.ToolMessage("c1", "読" * 20_000))
    overflow = ContextOverflowError("It does not fit.", needed=20_300, available=16_384)
    model = ScriptedModel(overflow, say("I read it."))
    requester = ModelRequester(
        model,
        compactor=Compactor(conversation, store=ResultStore(100_000), tell=Recorder().emit),
        tell=Recorder().emit,
        limits=Limits(5, 3_600, 100_000),
        options=RunOptions(clock=ManualClock()),
    )

    reply = await requester.request(1, conversation, ())

    assert reply.text == "I read it."
    first, second = (sum(len(message.text) for message in asked.messages) for asked in model.asked)
    assert second < first * 0.7
