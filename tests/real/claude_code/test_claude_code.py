"""The real Claude Code as the host, with `-p` and a scripted API; scripts/claude-code installs it."""

from __future__ import annotations

import asyncio
import json

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.real.claude_code.anthropic_api import text, use
from tests.real.claude_code.host import BRIDGE, NEEDED, READING, WRITING, Host, host, read
from tests.support.desk import MODEL

__all__ = ["host"]  # a fixture

pytestmark = NEEDED


async def test_all_tools_are_in_the_request_and_small(host: Host) -> None:
    """Not deferred, though nothing in the entry says so."""
    host.api.turns = [[read("Warm up.")]]
    host.desk.sim.script(MODEL, TextReply("Warm."))
    await host.ask("Say hello.")

    tools = [tool for tool in host.api.requests[-1]["tools"] if tool["name"].startswith(BRIDGE)]
    assert {tool["name"] for tool in tools} == {BRIDGE + name for name in (*READING, WRITING)}
    assert all(tool["input_schema"]["properties"] for tool in tools)
    assert len(json.dumps(tools, ensure_ascii=False).encode()) < 6_500


async def test_two_reading_runs_of_one_turn_overlap(host: Host) -> None:
    both = asyncio.Event()
    host.desk.sim.script(
        MODEL, TextReply("Warm."), *[TextReply("It is heron-42.", faults=(Stall(until=both),)) for _ in range(2)]
    )
    host.api.turns = [[read("Warm up.")], [read("Look here."), read("Look there.")], [text("Both are done.")]]
    session = asyncio.create_task(host.ask("Look at both."))
    await host.desk.sim.wait_for_request(3, path="/v1/chat/completions")  # the last comes while the other waits
    both.set()
    events = await session

    assert events[-1]["result"] == "Both are done."
    assert ["It is heron-42." in str(result["content"]) for result in host.api.results()][1:] == [True, True]


async def test_the_writing_tool_asks_although_the_reading_ones_are_allowed(host: Host) -> None:
    host.desk.sim.script(MODEL, TextReply("It is heron-42."))
    host.api.turns = [
        [read("What is the code word?")],
        [use(f"{BRIDGE}{WRITING}", mcp_names=["filesystem"], task="Write it.")],
    ]
    await host.ask("Read, then write.")

    reading, writing = host.api.results()
    assert "It is heron-42." in str(reading["content"])
    assert not reading.get("is_error")
    assert writing["is_error"]
    assert "permission" in str(writing["content"])
    assert len(host.desk.journals()) == 1, "nothing was started"


async def test_the_rules_for_a_servers_tools_hold_in_its_runs(host: Host) -> None:
    settings = host.desk.project / ".claude" / "settings.json"
    settings.parent.mkdir()
    rules = {"deny": ["mcp__filesystem__write_file", "Read(./notes.txt)"]}
    settings.write_text(json.dumps({"permissions": rules}), encoding="utf-8")
    path = host.desk.project / "a.txt"
    host.desk.sim.script(
        MODEL,
        CallReply(("filesystem__write_file", {"path": str(path), "content": "x"})),
        CallReply(("filesystem__read_text_file", {"path": host.desk.notes})),
        TextReply("Done."),
    )
    host.api.turns = [[use(f"{BRIDGE}{WRITING}", mcp_names=["filesystem"], task="Write it.")]]
    await host.ask("Write.", allowed=(WRITING,))

    assert not path.exists()
    assert "heron-42" not in str([request.messages for request in host.desk.chat_requests()])


async def test_a_lost_run_of_an_agent_goes_on_without_its_id(host: Host) -> None:
    agents = host.desk.project / ".claude" / "agents"
    agents.mkdir(parents=True)
    head = "name: finder\ndescription: Finds.\ntools: Read, mcp__filesystem__read_text_file"
    (agents / "finder.md").write_text(f"---\n{head}\n---\nYou find code words.", encoding="utf-8")
    host.desk.sim.script(MODEL, TextReply("It is heron-42."))
    call = {"mcp_name": "filesystem", "task": "What is the code word?", "agent": "finder"}
    host.api.turns = [[use(f"{BRIDGE}autonomous_with_mcp", **call)]]
    await host.ask("Read.")
    assert "Ignored in its file: tools Read." in str(host.api.results()[-1]["content"])
    [request] = host.desk.chat_requests()
    assert "You find code words." in str(request.messages)
    tools = [tool["function"]["name"] for tool in (request.json or {})["tools"]]
    assert [name for name in tools if name.startswith("filesystem__")] == ["filesystem__read_text_file"]
    host.api.turns = [[use(f"{BRIDGE}continue_run")]]
    await host.ask("Fetch it again.")

    assert "It is heron-42." in str(host.api.results()[-1]["content"])
    assert len(host.desk.chat_requests()) == 1


async def test_the_words_after_the_prompt_reach_the_model_whole(host: Host) -> None:
    await host.ask("/mcp__lmstudio-bridge__delegate Summarize every note in here")

    said = json.dumps(host.api.requests[-1]["messages"])
    assert "what I wrote after this command" in said
    assert "Summarize every note in here" in said
