"""Tools as the model may know them: without secrets, and looked through once for all runs."""

from __future__ import annotations

import pytest

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs.tool_cache import Shown, ShownTools
from lmstudio_bridge.security.redact import Redactor

TOKEN = "hunter22-correct-horse"
READ = ServerTool("fs", "read", f"Reads with {TOKEN}.", {"type": "object", "properties": {"a": {"default": TOKEN}}})
HIDDEN = ServerTool("fs", f"read_{TOKEN}")
PLAIN = ServerTool("fs", "list", "Lists.")


def test_secrets_are_taken_out_and_tools_that_are_called_by_one_left_out() -> None:
    shown = ShownTools(Redactor([TOKEN])).of((READ, HIDDEN, PLAIN))

    cleaned = {"type": "object", "properties": {"a": {"default": "[secret]"}}}
    assert shown == Shown((ServerTool("fs", "read", "Reads with [secret].", cleaned), PLAIN), left_out=1)


def test_the_list_of_an_open_session_is_looked_through_once() -> None:
    known, tools = ShownTools(Redactor([TOKEN])), (READ, PLAIN)

    assert known.of(tools) is known.of(tools)


def test_a_list_that_is_gone_is_never_taken_for_a_new_one() -> None:
    known = ShownTools(Redactor())

    for number in range(1_000):  # Python gives the ids of what is gone to what comes
        assert known.of((ServerTool("fs", f"tool{number}"),)).tools[0].name == f"tool{number}"


def test_a_secret_that_is_learned_later_is_taken_out_of_a_list_that_is_known() -> None:
    redactor = Redactor()
    known, tools = ShownTools(redactor), (READ, HIDDEN, PLAIN)
    before = known.of(tools)
    redactor.learn([TOKEN])

    assert before == Shown(tools)
    assert known.of(tools) == ShownTools(Redactor([TOKEN])).of(tools)


@pytest.mark.parametrize(("others", "kept"), [(198, True), (199, True), (200, False)])
def test_two_hundred_lists_are_kept(others: int, kept: bool) -> None:
    known, tools = ShownTools(Redactor()), (PLAIN,)
    first = known.of(tools)
    for number in range(others):
        known.of((ServerTool("other", f"tool{number}"),))

    assert (known.of(tools) is first) == kept
