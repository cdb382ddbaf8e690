"""Calls that stand in the text of a reply, in notations that no parser knows, and answers that only mention a tool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.lost_calls import holds_lost_call

N = "notes__read_note"
NAMES = (N, "notes__list_notes", "notes__write_note", "math__add", "fs__list", "search_result", "find_tools")
J = '{"path": "a.md"}'

CALLS = [
    # JSON
    f'{{"name": "{N}", "arguments": {J}}}',
    f'{{"name": "functions.{N}", "parameters": {J}}}',
    '{"tool": "read_note", "tool_input": {"path": "a.md"}}',
    f'{{"do": "{N}", "with": {J}}}',
    f'{{"{N}": {J}}}',
    f'[{{"name": "{N}", "arguments": {J}}}]',
    f"{{'name': '{N}', 'arguments': {{'path': 'a.md'}}}}",
    f'{{"name": "{N}", "arguments": {{"path": "a.md"',
    f'{{"name": "{N}", "arguments": "{{\\"path\\": \\"a.md\\"}}"}}',
    '{"name": "add", "arguments": {"a": 1, "b": 2}}',
    # markup of others, and invented
    f"<tool_call>\n<function={N}>\n<parameter=path>\na.md\n</parameter>\n</function>\n</tool_call>",
    f"<{N}>\n<path>a.md</path>\n</{N}>",
    "<read_note>\n<path>a.md</path>\n</read_note>",
    f'<invoke name="{N}"><parameter name="path">a.md</parameter></invoke>',
    f'<tool:{N} path="a.md"/>',
    f"<<call {N}>> {J} <</call>>",
    f'[[{N} path="a.md"]]',
    f"<|action|>{N}<|params|>path=a.md<|end|>",
    f"\u00a7{N}\u00a7path=a.md\u00a7",
    f"\u27e6{N}\u27e7{J}",
    f"@tool {N} {J}",
    f"!{N} path=a.md",
    f"[{N}]{J}[END]",
    f"{N}[ARGS]{J}",
    f"{N}\n{J}",
    f"`{N}`\n```json\n{J}\n```",
    f"functools[{{'name': '{N}', 'arguments': {J}}}]",
    f"Action: {N}\nAction Input: {J}",
    f"Action: {N}\nAction Input: a.md",
    f"tool: {N}\nargs:\n  path: a.md",
    f'TOOL_CALL: {N}(path="a.md")',
    f'{N}(path="a.md")',
    f'print({N}(path="a.md"))',
    f'[{N}(path="a.md"), notes__list_notes()]',
    "read_note(path='a.md')",
    "add(a=1, b=2)",
    f"I call {N} with {J}",
    # code blocks
    f'```json\n{{"name": "{N}", "arguments": {J}}}\n```',
    f"```tool\n{N}\npath: a.md\n```",
    f"```xml\n<tool_call>\n<function={N}>\n<parameter=path>\na.md\n</parameter>\n</function>\n</tool_call>\n```",
    f"```python\n{N}(path='a.md')\n```",
    f"```yaml\nname: {N}\narguments:\n  path: a.md\n```",
    f'```\n{{"name": "{N}", "arguments": {J}}}',
]


@pytest.mark.parametrize("before", ["", "I'll read the note first.\n\n", "I need the note (a.md):\n"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_in_any_notation_is_found_also_behind_prose(call: str, before: str) -> None:
    if call == "add(a=1, b=2)":
        before = ""  # such a word is a call only where it stands alone
    assert holds_lost_call(before + call, NAMES)


@pytest.mark.parametrize(
    "answer",
    [
        "The colour is teal.",
        f"I used {N} to read a.md. The colour is teal.",
        f"I read it with `{N}`.",
        f"The colour is teal (from {N}).",
        f"The colour is teal. [{N}]",
        f"The colour is teal.\nSource: {N}(path='a.md')",
        f"The colour is teal, as `{N}(path='a.md')` says.",
        f"The colour is teal. I called {N} with {J}.",
        f'The tool {N} returned {{"colour": "teal"}}',
        f"These tools are there:\n- **{N}**: reads a note\n- **notes__list_notes**: lists them",
        f"| tool | what |\n|---|---|\n| {N} | reads |\n| notes__list_notes | lists |",
        f"|tool|what|\n|---|---|\n|{N}|reads a note|",
        f"```\n{N}\nnotes__list_notes\n```",
        f'["{N}", "notes__list_notes"]',
        f'{{"answer": "teal", "tools": ["{N}"]}}',
        '{"answer": "teal"}',
        '```json\n{"colour": "teal"}\n```',
        "```python\nfor each in list(range(3)):\n    print(add(each, 1))\n```",
        "Use this:\n\n```python\nimport re\nre.search('a', 'b')\nx = list(y)\n```",
        "Run `list` or call add() yourself.",
        "The function add(a, b) gives 3.",
        "To list them, type: ls -la {dir}",
        f"{N} is the tool that I used, and the colour is <b>teal</b>",
        "<p>The note says: teal</p>",
        "[a.md](notes/a.md)",
        f"See [{N}](https://example.com/{{x}})",
        f"Tool: {N}\nAnswer: teal",
        f"teal\n\nTool used: {N}",
        "The names are: list, add and search.",
        '{"name": "demo", "version": "1.0.0"}',
        '{"name": "add", "stars": 5}',
        "",
        "   ",
    ],
)
def test_an_answer_that_mentions_a_tool_or_shows_other_code_stays_an_answer(answer: str) -> None:
    assert not holds_lost_call(answer, NAMES)


def test_without_tools_nothing_is_a_call() -> None:
    assert not holds_lost_call(CALLS[0], ())


def test_a_call_that_opens_a_reply_is_one_whatever_is_said_behind_it() -> None:
    assert holds_lost_call(f'```json\n{{"name": "{N}", "arguments": {J}}}\n```\nThis will read the note.', NAMES)
    assert holds_lost_call(f'{{"name": "{N}", "arguments": {J}}}\n\nThis will read the note.', NAMES)


def test_a_name_that_two_servers_share_is_that_of_no_tool() -> None:
    call = '{"name": "read", "arguments": {"path": "a"}}'

    assert not holds_lost_call(call, ("fs__read", "web__read"))
    assert holds_lost_call(call, ("fs__read", "web__get"))


@pytest.mark.parametrize(
    "unit", ["<", "<!>", "{", f"{N}(", f"{N}{{", f'"{N}": {{', "```\n", "[", f"{N} a=b ", "\\", "("]
)
def test_a_reply_of_any_length_is_looked_at_in_bounded_time(unit: str) -> None:
    holds_lost_call(unit * (8_000_000 // len(unit)), NAMES)
    holds_lost_call(unit * (30_000 // len(unit)) + "x", NAMES)


@given(st.text(max_size=200))
def test_text_without_the_name_of_a_tool_is_never_a_call(text: str) -> None:
    assert not holds_lost_call(text, ("zzqserver__zzqtool",)) or "zzqtool" in text


@given(
    opened=st.text("<[{|@#\u00a7\u27e8~^=", min_size=1, max_size=3),
    closed=st.text(">]}|@#\u00a7\u27e9~^=", min_size=1, max_size=3),
    prose=st.sampled_from(["", "I'll look.\n", "First the note, then the rest.\n\n"]),
    end=st.sampled_from(["", "\n", "</call>", "[END]", "<|end|>"]),
)
def test_any_invented_marks_around_a_name_with_an_object_are_a_call(
    opened: str, closed: str, prose: str, end: str
) -> None:
    assert holds_lost_call(f"{prose}{opened}{N}{closed}{J}{end}", NAMES)
