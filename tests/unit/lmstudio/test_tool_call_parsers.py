"""Thinking and calls that leaked into the text are found, and mere mentions of them are left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.lmstudio.tool_call_parsers import LeakedCall, recover_calls, split_reasoning
from tests.lmstudio_sim.leaks import LEAK_FORMATS, LeakFormat, render_leak

OFFERED = frozenset({"list_files", "read_file"})
ARGUMENTS = {"path": "./größe 📁", "deep": True, "limit": 5}
WHOLE_TEXT_ONLY = ("bare_json", "harmony_name")


def recover(text: str) -> tuple[str, list[tuple[str, Any]]]:
    rest, calls = recover_calls(text, offered=OFFERED.__contains__)
    return rest, [(call.name, json.loads(call.arguments)) for call in calls]


# -- thinking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("Yes.", "Yes.", ""),
        (" Yes.\n", " Yes.\n", ""),
        ("<think>Hm.</think>Yes.", "Yes.", "Hm."),
        ("<think>\nHm.\n</think>\n\nYes.", "Yes.", "Hm."),
        ("<think></think>Yes.", "Yes.", ""),
        ("<thinking>Hm.</thinking>Yes.", "Yes.", "Hm."),
        ("<think>A</think>Yes<think>B</think>.", "Yes.", "A\nB"),
        ("Hm.</think>Yes.", "Yes.", "Hm."),
        ("Yes.<think>Hm.", "Yes.", "Hm."),
        ("<think>Hm.", "", "Hm."),
        ("A</think>Yes.<think>B", "Yes.", "A\nB"),
        ("<|channel>thought\nHm.<channel|>Yes.", "Yes.", "Hm."),
        ("<|channel>thought\nHm.", "", "Hm."),
        ("", "", ""),
    ],
)
def test_thinking_is_split_from_the_answer(text: str, answer: str, thinking: str) -> None:
    assert split_reasoning(text) == (answer, thinking)


# -- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notation", LEAK_FORMATS)
def test_a_call_is_read_in_every_notation(notation: LeakFormat) -> None:
    leak = render_leak(notation, name="list_files", arguments=ARGUMENTS)

    assert recover(leak) == ("", [("list_files", ARGUMENTS)])


@pytest.mark.parametrize("notation", LEAK_FORMATS)
def test_a_call_without_arguments_is_read_in_every_notation(notation: LeakFormat) -> None:
    leak = render_leak(notation, name="list_files", arguments={})

    assert recover(leak) == ("", [("list_files", {})])


@pytest.mark.parametrize("notation", [each for each in LEAK_FORMATS if each not in WHOLE_TEXT_ONLY])
def test_text_before_a_call_stays(notation: LeakFormat) -> None:
    leak = render_leak(notation, name="list_files", arguments=ARGUMENTS)

    assert recover(f"I'll look first.\n{leak}\n") == ("I'll look first.", [("list_files", ARGUMENTS)])


@pytest.mark.parametrize("notation", LEAK_FORMATS)
def test_a_call_of_a_tool_that_was_not_offered_is_left_alone(notation: LeakFormat) -> None:
    leak = render_leak(notation, name="delete_files", arguments=ARGUMENTS)

    assert recover(leak) == (leak, [])


@pytest.mark.parametrize("notation", LEAK_FORMATS)
@pytest.mark.parametrize("fence", ["```\n{}\n```", "```json\n{}", "See `{}` for that."])
def test_a_call_in_code_is_left_alone(notation: LeakFormat, fence: str) -> None:
    text = fence.format(render_leak(notation, name="list_files", arguments={"path": "."}).replace("\n", " "))

    assert recover(text) == (text, [])


@pytest.mark.parametrize("notation", ["hermes", "qwen_coder", "glm", "gemma", "default", "minimax", "lfm", "harmony"])
def test_several_calls_come_in_their_order(notation: LeakFormat) -> None:
    first = render_leak(notation, name="read_file", arguments={"path": "a"})
    second = render_leak(notation, name="list_files", arguments={"path": "b"})

    assert recover(f"One. {first}\n{second} Two.") == (
        "One. \n Two.",
        [("read_file", {"path": "a"}), ("list_files", {"path": "b"})],
    )


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name":"read_file","arguments":{}}\n{"name":"list_files","arguments":{}}</tool_call>',
        "<tool_call><function=read_file></function><function=list_files></function></tool_call>",
        '<tools>[{"name":"read_file","arguments":{}}, {"name":"list_files","arguments":{}}]</tools>',
        "<|tool_call_start|>[read_file(), list_files()]<|tool_call_end|>",
        '[TOOL_CALLS][{"name":"read_file","arguments":{}}, {"name":"list_files","arguments":{}}]',
        "[TOOL_CALLS]read_file[ARGS]{}[TOOL_CALLS]list_files[ARGS]{}",
        '<minimax:tool_call><invoke name="read_file"></invoke><invoke name="list_files"></invoke></minimax:tool_call>',
    ],
)
def test_several_calls_may_stand_in_one_block(text: str) -> None:
    assert recover(text) == ("", [("read_file", {}), ("list_files", {})])


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"list_files","parameters":{"path":"."}}',
        '{"tool":"list_files","arguments":{"path":"."}}',
        '{"type":"function","function":{"name":"list_files","arguments":{"path":"."}}}',
        '{"name":"list_files","arguments":"{\\"path\\":\\".\\"}"}',
        'I use <tool_call> for that: <tool_call>{"name":"list_files","arguments":{"path":"."}}</tool_call>',
        '<tool_call>{"name":"list_files","arguments":{"path":"."}}',
        '[TOOL_REQUEST]{"name":"list_files","arguments":{"path":"."}}',
    ],
)
def test_a_call_is_read_in_its_variants(text: str) -> None:
    assert recover(text)[1] == [("list_files", {"path": "."})]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name":"list_files","arguments":{"path":',
        "<tool_call><function=list_files><parameter=path>.</parameter><parameter=content>half of",
        "<function=list_files><parameter=path>half of",
        "<tool_call>list_files<arg_key>path</arg_key><arg_value>half of",
        '<minimax:tool_call><invoke name="list_files"><parameter name="path">half of',
        '<|tool_call>call:list_files{path:<|"|>half of',
        '<|tool_call_start|>[list_files(path="half of',
        '[TOOL_CALLS]list_files[ARGS]{"path":"half of',
        '{"name":"list_files","arguments":{"path":"half of',
    ],
)
def test_half_a_call_is_left_alone(text: str) -> None:
    """A reply that was cut off at its token limit: a call with half its arguments could do harm."""
    assert recover(text) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        'Like {"name":"list_files","arguments":{}} here.',
        '{"name":"list_files"}',
        '{"name":5,"arguments":{}}',
        '["list_files"]',
        "[TOOL_CALLS]",
        "<tool_call></tool_call>",
        "<|tool_call_start|>[list_files(**everything)](<|tool_call_end|>",
        "<|tool_call_start|>[list_files(path=open('x'))]<|tool_call_end|>",
        "[" * 50_000,
        "<tool_call>" * 50_000,
        "",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_call_is_left_alone(text: str) -> None:
    assert recover(text) == (text, [])


marks = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<function=list_files>", "</function>", "<parameter=x>", "</parameter>"),
        *("<tools>", "</tools>", "[TOOL_REQUEST]", "[END_TOOL_REQUEST]", "[TOOL_CALLS]", "[ARGS]", "list_files"),
        *("<|tool_call>", "<tool_call|>", "call:list_files{", "}", "{", "[", "]", '"', "<|tool_call_start|>"),
        *("<|tool_call_end|>", "<|channel|>commentary to=functions.", "<|message|>", "<|call|>", "<think>"),
        *("</think>", "```", "`", '{"name":"list_files","arguments":{}}', "<arg_key>", "</arg_key>", "x", "\n", ","),
    ]
)


@given(st.lists(marks, max_size=30).map("".join))
def test_no_text_breaks_the_search(text: str) -> None:
    answer, _ = split_reasoning(text)
    rest, calls = recover_calls(answer, offered=OFFERED.__contains__)

    assert isinstance(rest, str)
    assert all(isinstance(call, LeakedCall) and call.name in OFFERED for call in calls)
    assert calls or rest == answer


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        ("", "<think>", ""),
        ("", "<|channel>thought ", ""),
        ("", "`", ""),
        ("", "`a`", ""),
        ("", "{}", ""),
        ("", "<tool_call>", ""),
        ("", "<function=f><parameter=a>", ""),
        ("<function=f>", "<parameter=a", "</function>"),
        ("<tool_call>f", "<arg_key>a</arg_key><arg_value>", "</tool_call>"),
        ("<tool_call>f", "<arg_key>", "</tool_call>"),
        ('<minimax:tool_call><invoke name="f">', '<parameter name="a">', "</invoke></minimax:tool_call>"),
        ("<|channel|>commentary to=functions.f", "a", "<|call|>"),
        ("[TOOL_CALLS]", " ", ""),
        ("[TOOL_CALLS]", "f[ARGS]{}", ""),
        ("", '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n', ""),
    ],
)
def test_a_reply_without_end_is_read_in_time_that_grows_with_it(before: str, unit: str, after: str) -> None:
    """There is no limit to wait for here: where the time grew with its square, this took from minutes to years."""
    text = before + unit * (300_000 // len(unit)) + after

    rest, _ = split_reasoning(text)
    recover_calls(rest, offered=lambda name: name == "f")
