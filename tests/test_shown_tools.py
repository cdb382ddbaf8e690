"""Tools as the model may know them: without secrets, and looked through once for all runs."""

from __future__ import annotations

import pytest

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.redaction import Redactor
from lmstudio_bridge.shown_tools import Shown, ShownTools

TOKEN = "hunter22-correct-horse"
READ = ServerTool("fs", "read", f"Reads with {TOKEN}.", {"type": "object", "properties": {"a": {"default": TOKEN}}})
HIDDEN = ServerTool("fs", f"read_{TOKEN}")
PLAIN = ServerTool("fs", "list", "Lists.")


def test_secrets_are_taken_out_and_tools_that_are_called_by_one_left_out() -> None:
    shown = ShownTools(Redactor([TOKEN])).of("fs", (READ, HIDDEN, PLAIN))

    cleaned = {"type": "object", "properties": {"a": {"default": "[secret]"}}}
    assert shown == Shown((ServerTool("fs", "read", "Reads with [secret].", cleaned), PLAIN), left_out=1)


def test_the_list_of_an_open_session_is_looked_through_once() -> None:
    known, tools = ShownTools(Redactor([TOKEN])), (READ, PLAIN)

    assert known.of("fs", tools) is known.of("fs", tools)


def test_another_list_is_looked_through_although_it_says_the_same() -> None:
    known = ShownTools(Redactor([TOKEN]))
    first = known.of("fs", (READ, PLAIN))

    assert known.of("fs", (READ,)) == Shown(first.tools[:1])


def test_a_secret_that_is_learned_later_is_taken_out_of_a_list_that_is_known() -> None:
    redactor = Redactor()
    known, tools = ShownTools(redactor), (READ, HIDDEN, PLAIN)
    before = known.of("fs", tools)
    redactor.learn([TOKEN])

    assert before == Shown(tools)
    assert known.of("fs", tools) == ShownTools(Redactor([TOKEN])).of("fs", tools)


@pytest.mark.parametrize(("others", "kept"), [(98, True), (99, True), (100, False)])
def test_the_tools_of_a_hundred_servers_are_kept(others: int, kept: bool) -> None:
    known, tools = ShownTools(Redactor()), (PLAIN,)
    first = known.of("fs", tools)
    for number in range(others):
        known.of(f"other{number}", tools)

    assert (known.of("fs", tools) is first) == kept
