"""What a run may do: by the tool that is called, limited by a setting, and by the rules in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, Desk, assert_names
from tests.support.raw_client import Era

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

TASK = {"mcp_name": "filesystem", "task": "Write it."}
WRITE = {"mcp_names": ["filesystem"], "task": "Write it."}
WRITING = "autonomous_with_write_access"


def write_then_say(desk: Desk, name: str) -> Path:
    """A model that writes a file of that name and says that it is done; the file's path."""
    path = desk.project / name
    arguments = {"path": str(path), "content": "new"}
    desk.sim.script(MODEL, CallReply(("filesystem__write_file", arguments)), TextReply("It is done."))
    return path


async def test_only_one_tool_may_change_things(desk: Desk, era: Era) -> None:
    async with desk.bridge(era) as client:
        refused = write_then_say(desk, "refused.txt")
        without = await client.call("autonomous_with_mcp", **TASK)
        asked = desk.chat_requests()[-1]
        allowed = write_then_say(desk, "allowed.txt")
        granted = await client.call(WRITING, **WRITE)

    assert not refused.exists()
    only_read = "Nothing was changed: this run could only read.\nFailed: write_file "
    assert without.text.startswith(f"{only_read}{refused}"[: len(only_read) + 60])
    assert ": needs write access\n\nIt is done.\n\n[" in without.text
    assert without.report["nothing_changed"]
    offered = {tool["function"]["name"] for tool in asked.tools}
    assert "filesystem__read_text_file" in offered
    assert not offered & {"filesystem__write_file", "filesystem__edit_file", "filesystem__move_file"}
    assert "Tools that change things exist, but are not available in this run" in asked.messages[0]["content"]
    assert allowed.read_text(encoding="utf-8") == "new"
    assert granted.text.startswith("It is done.\n\nChanged: allowed.txt (created, +1)\n")
    assert (granted.report["nothing_changed"], granted.report["failed"]) == (False, [])


async def test_a_task_that_only_reads_is_told_of_what_is_left_out_too(desk: Desk) -> None:
    async with desk.bridge() as client:
        desk.sim.script(MODEL, TextReply("It is blue."))
        result = await client.call("autonomous_with_mcp", mcp_name="filesystem", task="Say which color it is.")

    asked = desk.chat_requests()[-1]
    assert "Tools that change things exist, but are not available in this run" in asked.messages[0]["content"]
    assert "could only read" not in result.text


async def test_a_continued_run_must_ask_for_access_again(desk: Desk) -> None:
    """A run that could write before must not write later without being asked."""
    async with desk.bridge() as client:
        write_then_say(desk, "first.txt")
        first = await client.call(WRITING, **WRITE)
        run_id = first.run_id
        second = write_then_say(desk, "second.txt")
        reading = await client.call("continue_run", run_id=run_id, instructions="And now the second.")
        refused = second.exists()
        write_then_say(desk, "second.txt")
        await client.call(WRITING, run_id=run_id, task="Again.")

    assert not refused
    assert "needs write access\n" in reading.text
    assert second.exists()
    [journal] = desk.journals()
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [event["access"] for event in events if "access" in event] == ["write", "read", "write"]


async def test_nobody_can_ask_for_more_than_the_limit(desk: Desk) -> None:
    """Not even with a list of tools from before the setting was changed."""
    write_then_say(desk, "a.txt")
    async with desk.bridge(LMSTUDIO_BRIDGE_MAX_ACCESS="read") as client:
        listed = await client.request("tools/list", {})
        answers = [await client.call(WRITING, **WRITE), await client.call(WRITING, run_id="some-run", task="Write it.")]
        old = await client.call("autonomous_with_mcp", **TASK, access="write")
    told = client.lines[0]["result"]["instructions"]
    assert "Nothing can be changed. A run takes" in told
    assert WRITING not in told

    for answer in answers:
        assert_names(answer, "Write access is not allowed here", "LMSTUDIO_BRIDGE_MAX_ACCESS")
    assert_names(old, "Leave out 'access'", "LMSTUDIO_BRIDGE_MAX_ACCESS is read")
    assert desk.chat_requests() == []
    assert WRITING not in [tool["name"] for tool in listed["tools"]]
    assert len(listed["tools"]) == 4
    assert not [tool["name"] for tool in listed["tools"] if "approves" in tool["description"]]  # nobody is asked


@pytest.mark.parametrize("access", ["read", "write", "admin"])
async def test_the_argument_of_earlier_versions_is_answered_with_the_tool_to_use(desk: Desk, access: str) -> None:
    async with desk.bridge() as client:
        new = await client.call("autonomous_with_mcp", **TASK, access=access)
        again = await client.call("continue_run", run_id="some-run", access=access)
        writing = await client.call(WRITING, **WRITE, access=access)

    assert_names(new, "autonomous_with_mcp was not started. Leave out 'access'", "only reads", f"call {WRITING}")
    assert_names(again, "Leave out 'access'", f"call {WRITING}, with run_id and the instructions as task")
    assert_names(writing, "Leave out 'access'", "may change things", "call another tool")
    assert desk.chat_requests() == []


async def test_a_run_that_goes_on_has_its_own_servers(desk: Desk) -> None:
    async with desk.bridge() as client:
        answer = await client.call(WRITING, **WRITE, run_id="some-run")

    assert_names(answer, "mcp_names cannot be given with run_id", "Leave out one of the two")


async def test_the_rules_of_claude_code_hold_in_a_run(desk: Desk) -> None:
    settings = desk.project / ".claude" / "settings.json"
    settings.parent.mkdir()
    lists = {"deny": ["mcp__filesystem__write_file", "Read(./.env)"], "ask": ["mcp__filesystem__move_file"]}
    settings.write_text(json.dumps({"permissions": lists}), encoding="utf-8")
    (desk.project / ".env").write_text("KEY=plover", encoding="utf-8")
    path = str(desk.project / "a.txt")
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__write_file", {"path": path, "content": "x"})),
        CallReply(("filesystem__read_text_file", {"path": str(desk.project / ".env")})),
        CallReply(("filesystem__move_file", {"source": desk.notes, "destination": path})),
        TextReply("Done."),
    )
    async with desk.bridge() as client:
        answer = await client.call(WRITING, **WRITE)
        told = await client.request("resources/read", {"uri": "lmstudio://servers"})

    assert not (desk.project / "a.txt").exists()
    offered = {tool["function"]["name"] for tool in desk.chat_requests()[0].tools}
    assert not offered & {"filesystem__write_file", "filesystem__move_file"}
    assert "plover" not in str([request.messages for request in desk.chat_requests()])
    assert f"Failed: read_text_file {desk.project}"[:40] in answer.text
    assert f'- Claude Code\'s rules: deny "mcp__filesystem__write_file" ({settings});' in told["contents"][0]["text"]


async def test_rules_hold_in_a_run_and_are_told(desk: Desk) -> None:
    rules = desk.project / "lmstudio-bridge.toml"
    rules.write_text('deny = ["filesystem/write_file"]\nhide = ["memory/*"]\n', encoding="utf-8")
    path = str(desk.project / "a.txt")
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__write_file", {"path": path, "content": "x"})),
        CallReply(("memory__read_graph", {})),
        CallReply(("filesystem__read_text_file", {"path": "/etc/hostname"})),
        TextReply("Done."),
    )
    async with desk.bridge() as client:
        answer = await client.call(WRITING, task="Do it.")
        told = await client.request("resources/read", {"uri": "lmstudio://servers"})
        rules.write_text("deny = 1", encoding="utf-8")
        broken = await client.call("autonomous_discover_and_execute", task="Do it.")

    first, *_, last = desk.chat_requests()
    results = [message["content"] for message in last.messages if message["role"] == "tool"]
    offered = {tool["function"]["name"] for tool in first.tools}
    assert not (desk.project / "a.txt").exists()
    assert not answer.is_error
    assert not any(name.startswith("memory") for name in offered)
    assert "Tools that change things" not in first.messages[0]["content"], "others may"
    assert "Not allowed: the user's rules deny filesystem write_file." in results[0]
    assert "There is no tool 'memory__read_graph'" in results[1]
    assert "Not allowed: '/etc/hostname' is outside of what this run may touch" in results[2]
    text = told["contents"][0]["text"]
    assert f"- rules: hide memory/*; deny filesystem/write_file (from {rules})" in text
    assert f"- workspace: {desk.project}" in text
    assert_names(broken, f"{rules}, line 1", "deny must be a list of strings")
