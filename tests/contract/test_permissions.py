"""Rules in a run, seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, assert_names, open_desk


@pytest.mark.npm
async def test_rules_hold_in_a_run_and_are_told(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
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
        async with desk.bridge("2025-11-25") as client:
            answer = await client.call("autonomous_discover_and_execute", task="Do it.", access="write")
            told = await client.request("resources/read", {"uri": "lmstudio://servers"})
            rules.write_text("deny = 1", encoding="utf-8")
            broken = await client.call("autonomous_discover_and_execute", task="Do it.")

        first, *_, last = desk.chat_requests()
        results = [message["content"] for message in last.messages if message["role"] == "tool"]
        offered = {tool["function"]["name"] for tool in first.tools}
        assert not (desk.project / "a.txt").exists()
    assert not answer.is_error
    assert not any(name.startswith("memory") for name in offered)
    assert "Not allowed: the user's rules deny filesystem write_file." in results[0]
    assert "There is no tool 'memory__read_graph'" in results[1]
    assert "Not allowed: '/etc/hostname' is outside of what this run may touch" in results[2]
    text = told["contents"][0]["text"]
    assert f"- rules: hide memory/*; deny filesystem/write_file (from {rules})" in text
    assert f"- workspace: {desk.project}" in text
    assert_names(broken, f"{rules}, line 1", "deny must be a list of strings")
