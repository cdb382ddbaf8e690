"""Tools as the model may know them: without secrets."""

from __future__ import annotations

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs.tool_cache import Shown, shown_tools
from lmstudio_bridge.security.redact import Redactor

TOKEN = "hunter22-correct-horse"
READ = ServerTool("fs", "read", f"Reads with {TOKEN}.", {"type": "object", "properties": {"a": {"default": TOKEN}}})
HIDDEN = ServerTool("fs", f"read_{TOKEN}")
PLAIN = ServerTool("fs", "list", "Lists.", title=f"List {TOKEN}")


def test_secrets_are_redacted_and_tools_named_by_one_are_left_out() -> None:
    shown = shown_tools((READ, HIDDEN, PLAIN), Redactor([TOKEN]))

    cleaned = {"type": "object", "properties": {"a": {"default": "[secret]"}}}
    assert shown == Shown(
        (
            ServerTool("fs", "read", "Reads with [secret].", cleaned),
            ServerTool("fs", "list", "Lists.", title="List [secret]"),
        ),
        left_out=1,
    )


def test_the_name_of_a_server_stays_although_it_is_a_secret_too() -> None:
    assert shown_tools((ServerTool("memory", "read"),), Redactor(["memory"])).tools == (ServerTool("memory", "read"),)
