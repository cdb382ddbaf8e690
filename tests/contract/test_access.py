"""The access of a run is an argument of the call, limited by a setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, Desk, assert_names, desk, era, shared_bridges
from tests.support.raw_client import Era

__all__ = ["desk", "era", "shared_bridges"]  # fixtures

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

TASK = {"mcp_name": "filesystem", "task": "Write it."}


def write_then_say(desk: Desk, name: str) -> Path:
    """A model that writes a file of that name and says that it is done; the file's path."""
    path = desk.project / name
    arguments = {"path": str(path), "content": "new"}
    desk.sim.script(MODEL, CallReply(("filesystem__write_file", arguments)), TextReply("It is done."))
    return path


async def test_a_run_only_reads_unless_it_is_asked_to_write(desk: Desk, era: Era) -> None:
    async with desk.bridge(era) as client:
        refused = write_then_say(desk, "refused.txt")
        without = await client.call("autonomous_with_mcp", **TASK)
        allowed = write_then_say(desk, "allowed.txt")
        granted = await client.call("autonomous_with_mcp", **TASK, access="write")

    assert not refused.exists()
    only_read = "Nothing was changed: this run could only read.\nFailed: write_file "
    assert without.text.startswith(f"{only_read}{refused}"[: len(only_read) + 60])
    assert ": needs access=write\n\nIt is done.\n\n[" in without.text
    assert without.report["nothing_changed"]
    assert allowed.read_text(encoding="utf-8") == "new"
    assert granted.text.startswith("It is done.\n\n[")
    assert (granted.report["nothing_changed"], granted.report["failed"]) == (False, [])


async def test_a_continued_run_must_ask_for_access_again(desk: Desk) -> None:
    """A run that could write before must not write later without being asked."""
    async with desk.bridge() as client:
        write_then_say(desk, "first.txt")
        first = await client.call("autonomous_with_mcp", **TASK, access="write")
        run_id = first.text.rpartition("run ")[2].rstrip("]")
        second = write_then_say(desk, "second.txt")
        reading = await client.call("continue_run", run_id=run_id, instructions="And now the second.")
        refused = second.exists()
        write_then_say(desk, "second.txt")
        await client.call("continue_run", run_id=run_id, instructions="Again.", access="write")

    assert not refused
    assert "needs access=write\n" in reading.text
    assert second.exists()
    [journal] = desk.journals()
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [event["access"] for event in events if "access" in event] == ["write", "read", "write"]


async def test_nobody_can_ask_for_more_than_the_limit(desk: Desk) -> None:
    write_then_say(desk, "a.txt")
    async with desk.bridge(LMSTUDIO_BRIDGE_MAX_ACCESS="read") as client:
        answers = [
            await client.call("autonomous_with_mcp", **TASK, access="write"),
            await client.call("continue_run", run_id="some-run", access="write"),
        ]
        listed = await client.request("tools/list", {})

    for answer in answers:
        assert_names(answer, "access=write is not allowed here", "LMSTUDIO_BRIDGE_MAX_ACCESS")
    assert desk.chat_requests() == []
    assert {tool["annotations"]["readOnlyHint"] for tool in listed["tools"]} == {True}


async def test_an_unknown_access_is_named(desk: Desk) -> None:
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **TASK, access="admin")

    assert_names(answer, "access", "'read' or 'write'", "'admin'")
