"""A run as one of Claude Code's subagents: its instructions are followed, and it has no tools but its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, Desk, assert_names

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

WRITING = "autonomous_with_write_access"
READ = "filesystem__read_text_file"
AS_AGENT: dict[str, Any] = {"task": "Which code word is in notes.txt?", "agent": "finder"}


def write_agent(desk: Desk, tools: str = "Read, mcp__filesystem__read_text_file") -> None:
    path = desk.project / ".claude" / "agents" / "finder.md"
    path.parent.mkdir(parents=True)
    text = f"---\nname: finder\ndescription: Finds\nmodel: opus\ntools: {tools}\n---\nAlways answer in capitals.\n"
    path.write_text(text, encoding="utf-8")


def read_then_say(desk: Desk) -> None:
    desk.sim.script(MODEL, CallReply((READ, {"path": "notes.txt"})), TextReply("HERON-42"))


def offered(desk: Desk) -> set[str]:
    """The servers' tools in all requests to the model."""
    requests = desk.chat_requests()
    names = {tool["function"]["name"] for request in requests for tool in request.tools}
    return {name for name in names if "__" in name}


async def test_the_model_follows_the_agents_instructions_with_its_tools_only(desk: Desk) -> None:
    write_agent(desk)
    read_then_say(desk)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_discover_and_execute", **AS_AGENT)

    assert not answer.is_error, answer.text
    system, task = desk.chat_requests()[0].messages[:2]
    assert "\nAlways answer in capitals." in str(system["content"])
    assert task["content"] == AS_AGENT["task"]
    assert offered(desk) == {READ}
    assert "Note: The local model worked as the agent finder (" in answer.text
    assert "finder.md). Ignored in its file: model, tools Read." in answer.text
    assert "none of their tools: memory." in answer.text


async def test_a_run_that_goes_on_has_no_more_tools_than_before(desk: Desk) -> None:
    """Not even if its file allows more by then, and with write access."""
    write_agent(desk)
    read_then_say(desk)
    async with desk.bridge() as client:
        first = await client.call(WRITING, **AS_AGENT)
        (desk.project / ".claude" / "agents" / "finder.md").write_text("---\n---\nAll is allowed.", encoding="utf-8")
        new = desk.project / "new.txt"
        desk.sim.script(
            MODEL,
            CallReply(("filesystem__write_file", {"path": str(new), "content": "x"})),
            TextReply("It could not be done."),
        )
        run_id = first.run_id
        await client.call(WRITING, run_id=run_id, task="Write new.txt.")

    assert not new.exists()
    assert offered(desk) == {READ}


async def test_each_item_is_done_as_the_agent(desk: Desk) -> None:
    """Also one that is done later, when the file allows more."""
    write_agent(desk)
    read_then_say(desk)
    desk.sim.script(MODEL, *[TextReply("")] * 6)  # so that its run is not gone on with, but begins anew
    async with desk.bridge() as client:
        task = {"task": "Find the word in {item}.", "for_each": ["notes.txt", "./notes.txt"]}
        answer = await client.call("autonomous_with_mcp", mcp_name="filesystem", agent="finder", **task)
        (desk.project / ".claude" / "agents" / "finder.md").write_text(
            "---\n---\nAlways answer in capitals. All is allowed.", encoding="utf-8"
        )
        read_then_say(desk)
        later = await client.call("continue_run")

    assert ("1 of 2 items done" in answer.text, "2 of 2 items done" in later.text) == (True, True), answer.text
    assert all("Always answer in capitals." in str(each.messages[0]["content"]) for each in desk.chat_requests())
    assert offered(desk) == {READ}
    assert answer.text.count("worked as the agent finder") == 1


async def test_an_agent_gives_no_run_a_server_or_a_tool(desk: Desk) -> None:
    write_agent(desk, "mcp__memory, mcp__filesystem__no_such_tool")
    async with desk.bridge() as client:
        other = await client.call("autonomous_with_mcp", mcp_name="filesystem", **AS_AGENT)
        unknown = await client.call("autonomous_with_mcp", mcp_name="filesystem", task="x", agent="findr")
        again = await client.call(WRITING, run_id="some-run", **AS_AGENT)

    assert_names(other, "has no tool for the model", "the agent's file does not list them")
    assert_names(unknown, "There is no agent 'findr'", "The agents are: finder.")
    assert_names(again, "agent cannot be given with run_id")
    assert desk.chat_requests() == []
