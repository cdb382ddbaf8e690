"""The tools that the loop offers from round to round, as circles and searches change them."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.json_calls import NATIVE, Strategy
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.repetition import Step
from lmstudio_bridge.agent.result_store import RESULT_TOOLS
from lmstudio_bridge.agent.tools import FIND_TOOLS, ToolSet
from lmstudio_bridge.messages import ServerTool, SystemMessage, ToolResult, UserMessage
from lmstudio_bridge.security.access import Policy
from tests.support.fakes import FakeTools, Recorder, Reply, ScriptedModel, call, say

OWN = [spec.name for spec in RESULT_TOOLS]
REMOVE_TOOL = Strategy("native", Step.REMOVE_TOOL, "for this test")


async def offers(
    *replies: Reply, tools: str, strategy: Strategy = NATIVE, tool_chars: int | None = None
) -> list[list[str]]:
    """The names that each request offered."""
    toolbox = ToolSet(ServerTool("s", name, f"Does {name}.") for name in tools)
    model = ScriptedModel(*replies)
    await run(
        Conversation((SystemMessage("Use tools."), UserMessage(f"Do {tools[0]}."))),
        model=model,
        tools=FakeTools({("s", name): ToolResult("done") for name in tools}),
        tool_set=toolbox,
        policy=Policy("write"),
        limits=Limits(20, 3_600, 1_000, tool_chars=tool_chars),
        emit=Recorder().emit,
        options=RunOptions(strategy=strategy),
    )
    return [[spec.name for spec in asked.tools] for asked in model.asked]


@pytest.mark.parametrize("taken", ["b", "c", "d"])
async def test_a_tool_that_is_taken_away_is_offered_no_more_wherever_it_stood(taken: str) -> None:
    repeated = call((f"s__{taken}", "{}"))

    all_of_them = ["s__b", "s__c", "s__d", *OWN]
    left = [name for name in all_of_them if name != f"s__{taken}"]
    assert await offers(repeated, repeated, say("Done."), tools="bcd", strategy=REMOVE_TOOL) == [
        all_of_them,
        all_of_them,
        left,
    ]


async def test_the_only_tool_can_be_taken_away() -> None:
    repeated = call(("s__b", "{}"))

    assert (await offers(repeated, repeated, say("Done."), tools="b", strategy=REMOVE_TOOL))[-1] == OWN


async def test_tools_that_are_found_are_offered_from_the_next_round_on_after_all_others() -> None:
    """The engine has read the others: its prompt cache holds up to where the list changes."""
    find = call((FIND_TOOLS.name, '{"query": "does d"}'))

    own = [*OWN, FIND_TOOLS.name]
    found = await offers(find, find, say("Done."), tools="bcd", tool_chars=1)
    assert found[0] == ["s__b", *own]
    assert found[1] == [*found[0], "s__d", "s__c"]
    assert found[2] == found[1]
