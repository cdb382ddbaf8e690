"""Chunks of every recorded form become one reply, and what never ends is refused.

Forms are those of docs/lm-studio.md, section 3.5, unless a test says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import pytest

from lmstudio_bridge.errors import LLMResponseError
from lmstudio_bridge.lmstudio.stream import MAX_CALLS, Accumulator, ChunkDecoder, new_call_id
from lmstudio_bridge.lmstudio.wire import ChatIn
from lmstudio_bridge.messages import Completion, Delta, ToolCall, ToolSpec, Usage
from tests.unit.lmstudio.chunks import RECORDED, call, calls, chunk


def accumulate(chunks: Iterable[dict[str, Any]], *, offered: Sequence[str] = ()) -> Completion:
    numbers = count(1)
    accumulator = Accumulator(tools=[ToolSpec(name, "", {}) for name in offered], new_id=lambda: f"new{next(numbers)}")
    for each in chunks:
        accumulator.add(ChatIn.model_validate(each))
    return accumulator.completion()


# -- forms of a stream ----------------------------------------------------------------------------------------------


ONE_CALL = (ToolCall("111111111", "list_files", '{"path":"."}'),)
TWO_CALLS = (ToolCall("111111111", "list_files", '{"path":"."}'), ToolCall("222222222", "read_file", "{}"))
A, B = "111111111", "222222222"

FORMS: dict[str, tuple[list[dict[str, Any]], tuple[ToolCall, ...]]] = {
    "in one piece": ([calls(call("list_files", '{"path":"."}', index=0, id=A))], ONE_CALL),
    "with empty later names and ids": (
        [
            calls(call("list_files", "", index=0, id=A)),
            calls(call("", '{"path":', index=0, id="")),
            calls(call("", '"."}', index=0)),
        ],
        ONE_CALL,
    ),
    "with the name and id in every piece": (
        [calls(call("list_files", '{"path":', index=0, id=A)), calls(call("list_files", '"."}', index=0, id=A))],
        ONE_CALL,
    ),
    "without an index": (
        [
            calls(call("list_files", "", id=A)),
            calls(call(arguments='{"path":"."}')),
            calls(call("read_file", "", id=B)),
            calls(call(arguments="{}")),
        ],
        TWO_CALLS,
    ),
    "without an index, with the id in every piece": (
        [
            calls(call("list_files", "", id=A)),
            calls(call("read_file", "", id=B)),
            calls(call(arguments='{"path":"."}', id=A)),
            calls(call(arguments="{}", id=B)),
        ],
        TWO_CALLS,
    ),
    "without an id": (
        [calls(call("list_files", '{"path":"."}', index=0))],
        (ToolCall("new1", "list_files", '{"path":"."}'),),
    ),
    "with an empty id": (
        [calls(call("list_files", '{"path":"."}', index=0, id=""))],
        (ToolCall("new1", "list_files", '{"path":"."}'),),
    ),
    "with an id that is a number": ([calls(call("list_files", '{"path":"."}', index=0, id=111111111))], ONE_CALL),
    "with neither id nor index": (
        [calls(call("list_files", '{"path":')), calls(call(arguments='"."}'))],
        (ToolCall("new1", "list_files", '{"path":"."}'),),
    ),
    "without arguments": ([calls(call("list_files", index=0, id=A))], (ToolCall(A, "list_files", ""),)),
    "with arguments as an object": (
        [calls({"index": 0, "id": A, "function": {"name": "list_files", "arguments": {"path": "ß"}}})],
        (ToolCall(A, "list_files", '{"path": "ß"}'),),
    ),
    "with numbers in an object": (
        [calls({"index": 0, "id": A, "function": {"name": "list_files", "arguments": {"v": [1.5, 2], "n": {}}}})],
        (ToolCall(A, "list_files", '{"v": [1.5, 2], "n": {}}'),),
    ),
    "in the older form": (
        [
            chunk({"function_call": {"name": "list_files", "arguments": '{"path":'}}),
            chunk({"function_call": {"arguments": '"."}'}}),
        ],
        (ToolCall("new1", "list_files", '{"path":"."}'),),
    ),
    "in parallel, one after the other": (
        [calls(call("list_files", '{"path":"."}', index=0, id=A)), calls(call("read_file", "{}", index=1, id=B))],
        TWO_CALLS,
    ),
    "in parallel, interleaved": (
        [
            calls(call("list_files", "", index=0, id=A), call("read_file", "", index=1, id=B)),
            calls(call(arguments='{"path":', index=0)),
            calls(call(arguments="{", index=1)),
            calls(call(arguments='"."}', index=0), call(arguments="}", index=1)),
        ],
        TWO_CALLS,
    ),
    "in parallel, in the other order": (
        [calls(call("read_file", "{}", index=1, id=B)), calls(call("list_files", '{"path":"."}', index=0, id=A))],
        TWO_CALLS,
    ),
    "in parallel, all with the index 0": (
        [
            calls(call("list_files", '{"path":', index=0, id=A)),
            calls(call(arguments='"."}', index=0)),
            calls(call("read_file", "{", index=0, id=B)),
            calls(call(arguments="}", index=0)),
        ],
        TWO_CALLS,
    ),
    "in parallel, counted from one, the second without an index": (
        [calls(call("list_files", '{"path":"."}', index=1, id=A)), calls(call("read_file", "{}", id=B))],
        TWO_CALLS,
    ),
    "in parallel, with the same id": (
        [calls(call("list_files", '{"path":"."}', index=0, id=A)), calls(call("read_file", "{}", index=1, id=A))],
        (ToolCall(A, "list_files", '{"path":"."}'), ToolCall("new1", "read_file", "{}")),
    ),
    "without any name": ([calls(call("", "{}", index=0, id=A))], ()),
    "whole, as without a stream": (
        [{"choices": [{"message": {"content": "", "tool_calls": [call("list_files", '{"path":"."}', id=A)]}}]}],
        ONE_CALL,
    ),
}


@pytest.mark.parametrize(("chunks", "expected"), FORMS.values(), ids=FORMS)
def test_calls_come_in_many_forms(chunks: list[dict[str, Any]], expected: tuple[ToolCall, ...]) -> None:
    assert accumulate(chunks).calls == expected


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([chunk({"role": "assistant"}), chunk({"role": "assistant", "content": "a"}), chunk({"content": "b"})], "ab"),
        ([chunk({"content": "\n\n"}), chunk({"content": "a \n"}), chunk({"content": "b\n"})], "a \nb"),
        ([chunk({"content": None}), chunk({"content": ""}), chunk({"content": "a"})], "a"),
        ([chunk({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": None}]})], "a"),
        ([{"choices": None}, {"choices": [{"delta": None}]}, chunk({"content": "a"})], "a"),
        ([{"choices": [{"delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}], "a"),
    ],
    ids=["repeated role", "whitespace", "empty content", "content in parts", "nothing in it", "a second choice"],
)
def test_text_comes_in_many_forms(chunks: list[dict[str, Any]], expected: str) -> None:
    assert accumulate(chunks).text == expected


@pytest.mark.parametrize(
    "delta",
    [{"reasoning_content": "Hm."}, {"reasoning": "Hm."}, {"reasoning_content": "Hm.", "reasoning": "Hm."}],
    ids=str,
)
def test_reasoning_is_read_under_either_name(delta: dict[str, str]) -> None:
    assert accumulate([chunk(delta), chunk({"content": "Yes."})]) == Completion("Yes.", "Hm.", model="m")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4, 0)),
        ({"prompt_tokens": 3, "completion_tokens": None, "completion_tokens_details": None}, None),
        ({"completion_tokens_details": {"reasoning_tokens": 2}}, Usage(0, 0, 2)),
    ],
    ids=str,
)
def test_usage_comes_in_a_chunk_without_choices(usage: dict[str, Any], expected: Usage | None) -> None:
    assert accumulate([chunk({"content": "a"}), {"choices": [], "usage": usage}]).usage == expected


def test_a_new_id_fits_the_strictest_template() -> None:
    """Mistral's templates take ids of exactly nine letters and digits."""
    made = new_call_id()

    assert (len(made), made.isalnum(), made.isascii()) == (9, True, True)


def test_half_a_character_alone_becomes_a_replacement_that_can_be_encoded() -> None:
    reply = accumulate([chunk({"content": "a\udcc1b"}), calls(call("f", '{"x":"\ud83d"}', index=0, id=A))])

    assert (reply.text, reply.calls) == ("a�b", (ToolCall(A, "f", '{"x":"�"}'),))


# -- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(len(RECORDED)))
def test_a_reply_is_finished_only_once_its_finish_reason_came(kept: int) -> None:
    accumulator = Accumulator()
    for each in RECORDED[:kept]:
        accumulator.add(ChatIn.model_validate(each))

    assert accumulator.finished is (kept >= RECORDED.index(chunk(finish="tool_calls")) + 1)


@pytest.mark.parametrize(
    ("delta", "empty"),
    [
        ({"role": "assistant"}, True),
        ({"content": ""}, True),
        ({"content": "\n"}, False),
        ({"reasoning": "x"}, False),
        ({"tool_calls": [call("", "", index=0)]}, False),
    ],
    ids=str,
)
def test_a_reply_is_empty_until_something_of_it_came(delta: dict[str, Any], empty: bool) -> None:
    accumulator = Accumulator()

    accumulator.add(ChatIn.model_validate(chunk(delta)))

    assert accumulator.empty is empty


def add_all(accumulator: Accumulator, chunks: Iterable[ChatIn]) -> list[Delta]:
    return [delta for each in chunks for delta in accumulator.add(each)]


# -- bounded memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "allowed"), [(9, True), (10, True), (11, False)])
@pytest.mark.parametrize("key", ["content", "reasoning", "reasoning_content"])
def test_a_reply_may_be_as_long_as_the_limit(key: str, size: int, allowed: bool) -> None:
    accumulator = Accumulator(max_chars=10)
    chunks = [ChatIn.model_validate(chunk({key: "x"}))] * size

    if allowed:
        assert len(add_all(accumulator, chunks)) == size
    else:
        with pytest.raises(LLMResponseError, match="did not end within 10 characters"):
            add_all(accumulator, chunks)


@pytest.mark.parametrize(("size", "allowed"), [(6, True), (7, True), (8, False)])
def test_the_arguments_of_calls_count_too(size: int, allowed: bool) -> None:
    """One for the call, two for its name, the rest for its arguments."""
    accumulator = Accumulator(max_chars=10)
    pieces = [calls(call("ls", "", index=0))] + [calls(call(arguments="x", index=0))] * size
    chunks = [ChatIn.model_validate(each) for each in pieces]

    if allowed:
        assert len(add_all(accumulator, chunks)) == size + 1
    else:
        with pytest.raises(LLMResponseError):
            add_all(accumulator, chunks)


def test_calls_without_a_word_are_bounded_too() -> None:
    accumulator = Accumulator(max_chars=10)

    chunks = [ChatIn.model_validate(calls(call(index=index))) for index in range(11)]

    with pytest.raises(LLMResponseError):
        add_all(accumulator, chunks)


# -- what leaked into the text --------------------------------------------------------------------------------------


def test_thinking_in_the_text_is_moved_to_the_reasoning() -> None:
    reply = accumulate([chunk({"reasoning": "First."}), chunk({"content": "<think>Then.</think>\n\nYes."})])

    assert (reply.text, reply.reasoning) == ("Yes.", "First.\nThen.")


LEAK = '<tool_call>{"name":"list_files","arguments":{"path":"."}}</tool_call>'
LEAKED = (ToolCall("new1", "list_files", '{"path":"."}'),)


@pytest.mark.parametrize(
    ("delta", "text", "reasoning"),
    [
        ({"content": f"I look. {LEAK}"}, "I look.", ""),
        ({"content": f"<think>Hm.</think>{LEAK}"}, "", "Hm."),
        ({"content": f"<think>Hm. {LEAK}"}, "", "Hm."),
        ({"reasoning_content": f"Hm. {LEAK}"}, "", "Hm."),
    ],
    ids=["in the text", "after thinking", "in thinking that does not end", "in the reasoning"],
)
def test_a_call_that_leaked_is_recovered(delta: dict[str, str], text: str, reasoning: str) -> None:
    reply = accumulate([chunk(delta, finish="stop")], offered=["list_files"])

    assert reply == Completion(text, reasoning, LEAKED, "stop", "m")


def test_two_whole_calls_with_the_same_index_and_no_ids_are_two_calls() -> None:
    pieces = [call("f", '{"a": 1}', index=0, id=""), call("g", '{"b": 2}', index=0, id="")]
    reply = accumulate([chunk({"tool_calls": [piece]}) for piece in pieces])

    assert [(each.name, each.arguments) for each in reply.calls] == [("f", '{"a": 1}'), ("g", '{"b": 2}')]
    assert len({each.id for each in reply.calls}) == 2


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ('{"a": 1}{"a": 2}', ['{"a": 1}', '{"a": 2}']),
        ('{"a": 1}\n{"a": 2}, {"a": 3}', ['{"a": 1}', '{"a": 2}', '{"a": 3}']),
        ('{"a": 1}{"a": 1}', ['{"a": 1}']),
        ('{"a": 1} and so on', ['{"a": 1} and so on']),
        ('{"a": 1}{"a": ', ['{"a": 1}{"a": ']),
        ("", [""]),
    ],
)
def test_several_objects_in_the_arguments_of_one_call_are_several_calls(arguments: str, calls: list[str]) -> None:
    reply = accumulate([chunk({"tool_calls": [call("f", arguments, index=0, id=A)]})])

    assert [(each.name, each.arguments) for each in reply.calls] == [("f", each) for each in calls]


def test_a_name_may_come_in_two_pieces() -> None:
    pieces = [call("list_", "", index=0, id=A), call("files", "", index=0, id=A), call("", "{}", index=0, id=A)]
    reply = accumulate([chunk({"tool_calls": [piece]}) for piece in pieces], offered=["list_files"])

    assert reply.calls == (ToolCall(A, "list_files", "{}"),)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "Yes.", "reasoning_content": 5},
        {"content": "Yes.", "tool_calls": "none"},
        {"content": "Yes.", "tool_calls": [{"index": "first"}]},
        {"content": [{"type": "text", "text": "Yes."}, "", None, {"type": "x"}]},
        {"content": ["Yes."]},
    ],
)
def test_an_odd_field_costs_only_itself(delta: dict[str, Any]) -> None:
    assert accumulate([chunk(delta, finish="stop") | {"usage": "many"}]).text == "Yes."


@pytest.mark.parametrize("reason", ["length", "max_tokens", "token_limit", "contextLengthReached"])
def test_a_reply_that_was_cut_says_so_in_one_word(reason: str) -> None:
    assert accumulate([chunk({"content": "Yes,"}, finish=reason)]).finish_reason == "length"


def test_an_empty_usage_is_unknown_and_not_zero() -> None:
    assert accumulate([chunk({"content": "Yes."}, finish="stop") | {"usage": {}}]).usage is None


@pytest.mark.parametrize(
    ("chunks", "offered"),
    [
        ([chunk({"content": LEAK})], []),
        ([chunk({"content": LEAK})], ["read_file"]),
        ([chunk({"content": "Done.", "reasoning": f"Like {LEAK}?"})], ["list_files"]),
        ([chunk({"content": f"```\n{LEAK}\n```"})], ["list_files"]),
    ],
    ids=["no tools offered", "other tools offered", "in the reasoning of an answer", "in a code block"],
)
def test_a_mere_mention_of_a_call_is_left_alone(chunks: list[dict[str, Any]], offered: list[str]) -> None:
    reply = accumulate(chunks, offered=offered)

    assert reply.calls == ()
    assert "<tool_call>" in reply.text + reply.reasoning


NATIVE = ToolCall(A, "list_files", '{"path": "docs"}')


@pytest.mark.parametrize(
    ("text", "left", "found"),
    [
        (LEAK, "", (LEAKED[0], NATIVE)),
        (f"Both. {LEAK}{LEAK}", "Both.", (LEAKED[0], ToolCall("new2", "list_files", '{"path":"."}'), NATIVE)),
        (f"I look. {LEAK.replace('.', 'docs')}", "I look.", (NATIVE,)),
        (f"As {LEAK} says, I look.", f"As {LEAK} says, I look.", (NATIVE,)),
        ("I look.", "I look.", (NATIVE,)),
    ],
    ids=["another", "two others", "the same", "a mention", "none"],
)
def test_a_call_that_leaked_beside_a_native_one_is_not_lost(text: str, left: str, found: tuple[ToolCall, ...]) -> None:
    native = calls(call("list_files", NATIVE.arguments, index=0, id=A))
    reply = accumulate([chunk({"content": text}), native], offered=["list_files"])

    assert (reply.text, reply.calls) == (left, found)


@pytest.mark.parametrize(("number", "ends"), [(MAX_CALLS - 1, True), (MAX_CALLS, True), (MAX_CALLS + 1, False)])
def test_a_reply_may_hold_so_many_calls(number: int, ends: bool) -> None:
    chunks = [calls(call("f", "{}", index=place)) for place in range(number)]

    if ends:
        assert len(accumulate(chunks).calls) == number
    else:
        with pytest.raises(LLMResponseError, match="more than 1,000 tool calls"):
            accumulate(chunks)


def test_half_a_character_in_a_call_that_leaked_is_mended() -> None:
    [call] = accumulate([chunk({"content": '[TOOL_CALLS]f[ARGS]{"\\ud83da": 1}'})], offered=["f"]).calls

    assert call.arguments == '{"\ufffda": 1}'


def test_numbers_of_an_object_keep_their_digits() -> None:
    deep = '{"a": ' * 300 + "1.10" + "}" * 300
    written = '{"version": 1.10, "n": [1e5, -0.0, 2, 12345678901234567890], "s": "\u00df", "x": null}'
    for arguments, expected in ((written, written), (deep, deep.replace("1.10", "1.1"))):
        frame = json.dumps(calls(call("f", "ARGUMENTS", index=0, id=A))).replace('"ARGUMENTS"', arguments)
        decoder, accumulator = ChunkDecoder(), Accumulator()
        for each in decoder.feed(f"data: {frame}\n\n".encode()):
            accumulator.add(each)

        assert [each.arguments for each in accumulator.completion().calls] == [expected]


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"content": "It is teal."}, finish="stop")],
        [{"choices": [], "usage": {"completion_tokens": 3}}, chunk({"content": "It is teal."}), chunk(finish="stop")],
        [{"choices": []}, {"choices": None}, chunk({"content": "It is teal."}, finish="stop"), {"choices": []}],
        [chunk({"role": "assistant", "content": None}), chunk({"content": "It is teal."}), chunk(finish="stop")],
        [{"choices": [{"index": 0, "delta": None}]}, chunk({"content": "It is teal."}, finish="stop")],
        [chunk({"content": "It is teal."}, finish="stop"), chunk(finish="stop"), chunk()],
        [chunk({"content": "It is "}), chunk(finish="stop"), chunk({"content": "teal."})],
        [chunk({"content": "It is "}, finish=""), chunk({"content": "teal."}, finish="stop")],
        [chunk({"content": "It is teal.", "tool_calls": None, "reasoning_content": ["odd"]}, finish="stop")],
        [{"choices": [{"index": 0, "delta": "odd"}]}, chunk({"content": "It is teal."}, finish="stop")],
        [{"choices": [{"index": 0, "message": {"content": "It is teal."}, "finish_reason": "stop"}]}],
        [
            {"choices": [{"index": 0, "delta": {"content": "It is "}}, {"index": 1, "delta": {"content": "Not "}}]},
            {"choices": [{"index": 1, "delta": {"content": "red."}, "finish_reason": "length"}]},
            {"choices": [{"index": 0, "delta": {"content": "teal."}, "finish_reason": "stop"}]},
        ],
    ],
)
def test_the_text_of_an_odd_stream_is_whole_and_is_that_of_one_choice(chunks: list[dict[str, Any]]) -> None:
    reply = accumulate(chunks)

    assert (reply.text, reply.finish_reason) == ("It is teal.", "stop")


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"tool_calls": [{"index": 0, "id": A, "name": "list_files", "arguments": '{"path":"."}'}]})],
        [chunk({"tool_calls": call("list_files", '{"path":"."}', index=0, id=A)})],
        [chunk({"tool_calls": [None, 5, call("list_files", '{"path":"."}', index=0, id=A)]})],
        [calls({"index": 0, "id": A, "function": {"name": "list_files", "parameters": '{"path":"."}'}})],
        [calls(call("list_files", '[{"path":"."}]', index=0, id=A))],
        [calls(call(part, index=0, id=A)) for part in ("li", "st_fi", "les")]
        + [calls(call(arguments='{"path":"."}', index=0))],
    ],
    ids=str,
)
def test_a_call_in_an_odd_form_is_read(chunks: list[dict[str, Any]]) -> None:
    assert accumulate(chunks, offered=["list_files"]).calls == ONE_CALL


def test_a_list_of_objects_as_arguments_is_a_call_for_each() -> None:
    reply = accumulate([calls(call("read_file", '[{"path": "a"}, {"version": 1.10}]', index=0, id=A))])

    assert [each.arguments for each in reply.calls] == ['{"path": "a"}', '{"version": 1.10}']


@pytest.mark.parametrize(
    "each", [{"choices": [{"index": 0, "text": "a"}]}, {"choices": {"index": 0, "delta": {"content": "a"}}}]
)
def test_text_in_an_odd_form_is_read(each: dict[str, Any]) -> None:
    assert accumulate([each]).text == "a"
