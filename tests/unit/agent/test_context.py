"""The context as a budget: old results shortened in time, images only for models that see."""

from __future__ import annotations

import pytest

from lmstudio_bridge import messages
from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import Limits
from lmstudio_bridge.agent.prompts import GOING_ON, IMAGES
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.events import ResultsShrunk
from lmstudio_bridge.security.access import Policy
from tests.support.fakes import FakeTools, Recorder, ScriptedModel, say

READ = messages.ServerTool(
    "fs", "read", "Reads a file.", {"type": "object", "properties": {"path": {"type": "string"}}}, read_only=True
)
OPENING = (messages.SystemMessage("Use tools."), messages.UserMessage("What is in the files?"))
RESULT = "x" * 8_000  # about 2,000 tokens
PNG = messages.Image("aGVsbG8=", "image/png")


def call_with_usage(number: int, tokens: int) -> messages.Completion:
    """The call of a round whose whole prompt LM Studio counted as so many tokens."""
    call = messages.ToolCall(f"c{number}", "fs__read", f'{{"path": "{number}.txt"}}')
    return messages.Completion("", calls=(call,), finish_reason="tool_calls", usage=messages.Usage(tokens, 0, 0))


async def results_after(*counted: int, context_length: int | None) -> tuple[list[int], Recorder]:
    """The lengths of the results in the last request, after rounds with these token counts."""
    calls = [call_with_usage(number, tokens) for number, tokens in enumerate(counted)]
    model = ScriptedModel(*calls, say("Done."))
    recorder = Recorder()
    await run(
        Conversation(OPENING),
        model=model,
        tools=FakeTools({("fs", "read"): messages.ToolResult(RESULT)}),
        tool_set=ToolSet([READ]),
        policy=Policy("write"),
        limits=Limits(20, 3_600, 10_000, context_length=context_length),
        emit=recorder.emit,
    )
    last = model.asked[-1].messages
    return [len(message.text) for message in last if isinstance(message, messages.ToolMessage)], recorder


@pytest.mark.parametrize(("context", "shortened"), [(7_633, False), (7_632, True)])
async def test_results_are_shortened_just_before_the_context_is_full(context: int, shortened: bool) -> None:
    """The newest count is 4,100 tokens; a call with its result of 2,006 came after it: 80 % of 7,632.5 (ours)."""
    lengths, recorder = await results_after(100, 2_100, 4_100, context_length=context)

    assert (recorder.of(ResultsShrunk) != []) is shortened
    assert (min(lengths) < len(RESULT)) is shortened
    assert lengths[-1] == len(RESULT), "the newest result stays"


async def test_an_unknown_context_is_left_to_the_server() -> None:
    lengths, recorder = await results_after(1_000, 100_000, context_length=None)

    assert recorder.of(ResultsShrunk) == []
    assert lengths == [len(RESULT)] * 2


@pytest.mark.parametrize("vision", [True, False])
async def test_images_are_shown_only_to_a_model_that_sees(vision: bool) -> None:
    result = messages.ToolResult("[image: image/png, 1 kB]", images=(PNG, messages.Image("x", "image/webp")))
    model = ScriptedModel(call_with_usage(1, 10), say("A heron."))
    await run(
        Conversation(OPENING),
        model=model,
        tools=FakeTools({("fs", "read"): result}),
        tool_set=ToolSet([READ]),
        policy=Policy("write"),
        limits=Limits(20, 3_600, 10_000, vision=vision),
        emit=Recorder().emit,
    )

    shown = (messages.AssistantMessage(GOING_ON), messages.UserMessage(IMAGES, (PNG,))) if vision else ()
    assert model.asked[-1].messages[3:] == (messages.ToolMessage("c1", result.text), *shown)
