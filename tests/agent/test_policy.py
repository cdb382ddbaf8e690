"""Which calls may run."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.policy import Decision, Policy
from lmstudio_bridge.messages import Access, ServerTool

YES = Decision("allowed")
NO = Decision("needs_write", "fs write may change things, and this run has read access only.")


@pytest.mark.parametrize(
    ("access", "read_only", "decision"),
    [
        ("write", True, YES),
        ("write", False, YES),
        ("write", None, YES),
        ("read", True, YES),
        ("read", False, NO),
        ("read", None, NO),
    ],
)
def test_read_access_runs_only_what_the_server_marks_as_read_only(
    access: Access, read_only: bool | None, decision: Decision
) -> None:
    """A tool without the mark counts as writing (MCP specification, readOnlyHint)."""
    assert Policy(access).check_call(ServerTool("fs", "write", read_only=read_only)) == decision


def test_access_is_to_read_unless_said_otherwise() -> None:
    assert Policy() == Policy("read")
