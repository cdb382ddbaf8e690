"""Calls as JSON that a grammar binds: what is asked for, how the history looks, and how a reply is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.json_calls import describe_tools, json_turns, partial_answer, read_reply, reply_schema
from lmstudio_bridge.agent.prompts import GOING_ON
from lmstudio_bridge.messages import (
    AssistantMessage,
    Completion,
    Image,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Usage,
    UserMessage,
)

READ = ToolSpec(
    "fs__read",
    "Reads a file. Gives all of it.",
    {"type": "object", "properties": {"path": {"type": "string"}, "head": {"type": "integer"}}, "required": ["path"]},
)
NOW = ToolSpec("time__now", "Tells the time", {"type": "object", "properties": {}})
TASK = UserMessage("What is in a.txt?")
SYSTEM = SystemMessage("Use tools.")

characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | characters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(characters, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(characters | st.sampled_from(["arguments", "call"]), values, max_size=4)
separators = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", " :\t")])


def spelled(value: Any, data: st.DataObject) -> str:
    """JSON text of a value as some model may write it."""
    return json.dumps(value, ensure_ascii=data.draw(st.booleans()), separators=data.draw(separators))


def read(text: str) -> Completion | None:
    return read_reply(Completion(text, finish_reason="stop", model="tiny", usage=Usage(1, 2, 0)), new_id=lambda: "c1")


# -- reading ----------------------------------------------------------------------------------------------------------


@given(characters, objects, st.data())
def test_a_call_is_read_as_it_was_written_with_the_models_own_bytes(
    name: str, arguments: dict[str, Any], data: st.DataObject
) -> None:
    own = spelled(arguments, data)
    note = spelled(data.draw(objects), data)
    call = f'"call" : {spelled(name, data)}'
    members = data.draw(st.permutations([call, f'"arguments":{own}', f'"note": {note}']))

    reply = read(f"{data.draw(st.sampled_from(['', ' ', 'I call: ']))}{{ {', '.join(members)} }}")

    assert reply == Completion("", "", (ToolCall("c1", name, own),), "stop", "tiny", Usage(1, 2, 0))


@given(characters, st.data())
def test_an_answer_is_read_as_it_was_written(answer: str, data: st.DataObject) -> None:
    expected = Completion(answer.strip(), "", (), "stop", "tiny", Usage(1, 2, 0), is_explicit=True)
    assert read(spelled({"answer": answer}, data)) == expected


@given(st.text() | st.text(st.sampled_from('{}[]",:\\ucalnswermt 10\n'), max_size=60))
def test_any_text_is_read_or_not_and_never_an_error(text: str) -> None:
    assert read(text) is None or isinstance(read(text), Completion)
    partial_answer(text)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"call": "f"}', "{}"),
        ('{"call": "f", "arguments": null}', "null"),
        ('{"call": "f", "arguments": "{\\"a\\": 1}"}', '"{\\"a\\": 1}"'),
        ('{"call": "f", "arguments": {"a": 1}, "arguments": {"a": true}}', '{"a": true}'),
        ('{"note": {"arguments": {"a": 1}}, "call": "f", "arguments": {"a": 1.0}}', '{"a": 1.0}'),
        ('{"arguments": {"a": 1}, "call": "f", "answer": "x"} and more', '{"a": 1}'),
    ],
)
def test_arguments_of_odd_calls_are_the_models_own(text: str, arguments: str) -> None:
    reply = read(text)

    assert reply
    assert reply.calls == (ToolCall("c1", "f", arguments),)


@pytest.mark.parametrize(
    "text",
    ["", "Hello.", "[]", "{}", '{"call": 5}', '{"name": "f"}', '{"answer', "{{" * 5_000, '{"answer": ' + "9" * 5_000],
)
def test_what_is_no_call_and_no_answer_is_not_read(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("written", "answer"),
    [('"half: \\ud83d"', "half: \ufffd"), ("5", "5"), ('["ö"]', '["ö"]'), ('" a "', "a"), ('"a\nb"', "a\nb")],
)
def test_an_answer_of_another_kind_becomes_text_that_can_be_sent_on(written: str, answer: str) -> None:
    reply = read(f'{{"answer": {written}}}')

    assert reply
    assert reply.text == answer


@pytest.mark.parametrize("text", ["", " \n"])
def test_json_that_a_reasoning_model_thought_counts(text: str) -> None:
    reply = read_reply(Completion(text, reasoning='{"answer": "Fine."}'), new_id=lambda: "c1")

    assert reply == Completion("Fine.", '{"answer": "Fine."}', is_explicit=True)


# -- an answer that is not whole yet ----------------------------------------------------------------------------------


@given(st.text(max_size=40), st.data())
def test_any_cut_of_an_answer_gives_its_beginning(answer: str, data: st.DataObject) -> None:
    whole = spelled({"answer": answer}, data)
    clean = answer.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    shown = [partial_answer(whole[:end]) for end in range(len(whole) + 1)]

    assert all(clean.startswith((text, text.removesuffix("\ufffd"))) for text in shown)
    assert shown[-1] == clean


@given(characters, st.data())
def test_what_is_shown_of_an_answer_only_grows(answer: str, data: st.DataObject) -> None:
    whole = spelled({"answer": answer}, data)
    shown = [partial_answer(whole[:end]) for end in range(len(whole) + 1)]

    assert all(answer.startswith(text) for text in shown)
    assert [len(text) for text in shown] == sorted(len(text) for text in shown)


@pytest.mark.parametrize("text", ["", "{", '{"answer"', '{"answer": 5', '{"call": "f", "arguments": {}}', "Hello."])
def test_nothing_is_shown_of_what_is_no_answer(text: str) -> None:
    assert partial_answer(text) == ""


# -- what is asked for ------------------------------------------------------------------------------------------------


def accepts(schema: Any, value: Any) -> bool:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema).is_valid(value)


def many(count: int) -> list[ToolSpec]:
    return [ToolSpec(f"s__t{number}", "Does it.", READ.parameters) for number in range(count)]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ({"answer": "It is."}, True),
        ({"call": "fs__read", "arguments": {"path": "a"}}, True),
        ({"call": "time__now", "arguments": {}}, True),
        ({"call": "fs__read", "arguments": {}}, False),
        ({"call": "fs__read", "arguments": {"path": 5}}, False),
        ({"call": "fs__read", "arguments": {"path": "a", "head": 5}}, False),
        ({"call": "fs__read"}, False),
        ({"call": "fs__write", "arguments": {"path": "a"}}, False),
        ({"call": "fs__read", "arguments": {"path": "a"}, "answer": "x"}, False),
        ({"answer": 5}, False),
        ({}, False),
        ("It is.", False),
    ],
)
def test_a_reply_is_one_call_of_an_offered_tool_with_what_it_requires_or_the_answer(value: Any, accepted: bool) -> None:
    assert accepts(reply_schema([READ, NOW]), value) is accepted
    assert accepts(reply_schema([READ, NOW], must_call=True), value) is (accepted and "answer" not in value)


def test_arguments_are_bound_to_choices_and_to_what_objects_in_lists_require() -> None:
    item = {"type": "object", "properties": {"name": {"type": "string"}, "note": {"type": "string"}}}
    parameters = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["new", "old"]},
            "items": {"type": "array", "items": {**item, "required": ["name"]}},
        },
        "required": ["kind", "items"],
    }
    schema = reply_schema([ToolSpec("s__t", "", parameters)])

    def fits(kind: str, **item: str) -> bool:
        return accepts(schema, {"call": "s__t", "arguments": {"kind": kind, "items": [item]}})

    assert fits("old", name="a")
    assert not fits("other", name="a")
    assert not fits("old")
    assert not fits("old", name="a", note="b")


def test_without_tools_a_reply_is_the_answer() -> None:
    for must_call in (False, True):
        schema = reply_schema([], must_call=must_call)
        assert accepts(schema, {"answer": "x"})
        assert not accepts(schema, {"call": "fs__read", "arguments": {}})


@pytest.mark.parametrize(("count", "exact"), [(39, True), (40, True), (41, False)])
def test_very_many_tools_share_one_form(count: int, exact: bool) -> None:
    schema = reply_schema(many(count))

    assert len(schema["anyOf"]) == (count if exact else 1) + 1
    assert accepts(schema, {"call": f"s__t{count - 1}", "arguments": {"path": "a"}})
    assert accepts(schema, {"call": "s__t0", "arguments": {}}) is not exact
    assert not accepts(schema, {"call": f"s__t{count}", "arguments": {"path": "a"}})


kinds = st.sampled_from(
    [
        *({"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}),
        *({"type": "object", "properties": {"x": {"type": "string"}}}, {"enum": ["a", "b"]}),
        *({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {}),
    ]
)


@st.composite
def tool_specs(draw: st.DrawFn) -> ToolSpec:
    properties = draw(st.dictionaries(characters, kinds, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return ToolSpec(
        draw(st.sampled_from("abcd")),
        draw(characters),
        {"type": "object", "properties": properties, "required": required},
    )


@given(st.lists(tool_specs(), max_size=4, unique_by=lambda spec: spec.name), st.booleans())
def test_what_is_asked_for_is_a_json_schema_for_any_tools_and_each_has_its_line(
    specs: list[ToolSpec], must_call: bool
) -> None:
    Draft202012Validator.check_schema(reply_schema(specs, must_call=must_call))
    assert [line.split("(")[0] for line in describe_tools(specs).split("\n")[5:]] == [f"- {s.name}" for s in specs]


@given(characters, objects, st.data())
def test_whatever_the_schema_accepts_is_read_and_what_is_read_as_answer_it_accepts(
    answer: str, extra: dict[str, Any], data: st.DataObject
) -> None:
    offered = reply_schema([READ, NOW])
    calls: list[dict[str, Any]] = [
        {"call": "fs__read", "arguments": {"path": answer}},
        {"call": "time__now", "arguments": {}},
    ]
    value = data.draw(st.sampled_from([{"answer": answer}, *calls, extra, {**extra, "answer": answer}]))

    reply = read(spelled(value, data))

    if accepts(offered, value):
        assert reply
        assert [(each.name, json.loads(each.arguments)) for each in reply.calls] == (
            [(value["call"], value["arguments"])] if "call" in value else []
        )
    if reply is None:
        assert not accepts(offered, value)


# -- the tools in words -----------------------------------------------------------------------------------------------


def test_a_tool_is_one_line_with_what_it_requires_and_its_first_sentence() -> None:
    assert describe_tools([READ, NOW]).split("\n")[4:] == [
        "The tools:",
        "- fs__read(path: string): Reads a file.",
        "- time__now(): Tells the time",
    ]


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "integer"}, "integer"),
        ({"enum": ["a", 1]}, '"a"|1'),
        ({"enum": list(range(9))}, "0|1|2|3|4|5|6|7"),
        ({"type": "array", "items": {"type": "number"}}, "[number]"),
        ({"type": "array"}, "[string]"),
        ({"type": "object", "properties": {"x": {"type": "string"}}}, "{x: string}"),
        ({"type": "object"}, "object"),
        ({"type": "integer", "default": 20}, "integer = 20"),
        ({}, "string"),
        (True, "string"),
    ],
)
def test_a_parameter_is_shown_by_its_kind(schema: Any, shown: str) -> None:
    spec = ToolSpec("t", "", {"type": "object", "properties": {"p": schema}})

    assert describe_tools([spec]).split("\n")[-1] == f"- t(p: {shown}): "


@pytest.mark.parametrize(("length", "kept"), [(159, 159), (160, 160), (161, 160)])
def test_a_long_description_is_cut(length: int, kept: int) -> None:
    spec = ToolSpec("t", "x" * length, {"type": "object", "properties": {}})

    assert describe_tools([spec]).endswith(f"- t(): {'x' * kept}")


def test_without_tools_only_the_answer_is_asked_for() -> None:
    assert describe_tools([]) == 'Reply with one JSON object: {"answer": "<text>"}'


# -- the history ------------------------------------------------------------------------------------------------------


def call(*calls: tuple[str, str]) -> AssistantMessage:
    return AssistantMessage("I look.", tuple(ToolCall(id, "fs__read", arguments) for id, arguments in calls))


def test_calls_and_results_become_turns_in_the_form_that_is_asked_for() -> None:
    messages = (
        SYSTEM,
        TASK,
        call(("c1", '{ "path":"a" }'), ("c2", "")),
        ToolMessage("c1", "hello"),
        ToolMessage("c2", "no path"),
        AssistantMessage("Grüße."),
        UserMessage("And now?"),
    )

    assert json_turns(messages, [READ]) == [
        SystemMessage(f"Use tools.\n{describe_tools([READ])}"),
        TASK,
        AssistantMessage('{"call": "fs__read", "arguments": { "path":"a" }}\n{"call": "fs__read", "arguments": {}}'),
        UserMessage("Result of fs__read:\nhello\n\nResult of fs__read:\nno path"),
        AssistantMessage('{"answer": "Grüße."}'),
        UserMessage("And now?"),
    ]


def test_what_stands_for_a_lost_turn_is_not_shown_as_an_answer() -> None:
    """A 0.5B model gave it as its own answer afterwards."""
    messages = (TASK, call(("c1", "{}")), ToolMessage("c1", "hello"), AssistantMessage(GOING_ON), UserMessage("Go on."))

    assert json_turns(messages, [READ])[-1] == UserMessage("Result of fs__read:\nhello\n\nGo on.")


def test_images_stay_in_the_turn_that_they_came_in() -> None:
    one, two = Image("b25l", "image/png"), Image("dHdv", "image/png")
    messages = (SYSTEM, TASK, call(("c1", "{}")), ToolMessage("c1", "shown"), UserMessage("Look.", (one, two)))

    assert json_turns(messages, [READ])[-1] == UserMessage("Result of fs__read:\nshown\n\nLook.", (one, two))


def test_a_history_without_instructions_gets_some() -> None:
    assert json_turns([TASK], [READ]) == [SystemMessage(describe_tools([READ])), TASK]


@given(
    st.lists(
        st.sampled_from(
            [
                SYSTEM,
                TASK,
                AssistantMessage("Hm."),
                call(("a", "{}")),
                call(("a", "{"), ("b", "")),
                ToolMessage("a", "result-1"),
                ToolMessage("b", "result-2"),
            ]
        ),
        max_size=20,
    )
)
def test_turns_are_system_then_user_and_assistant_and_no_result_is_lost(offered: list[Message]) -> None:
    conversation = Conversation([])
    for message in offered:
        try:
            conversation.add(message)
        except ValueError:
            continue
    history = list(conversation.messages)
    while history and (not isinstance(history[-1], UserMessage | ToolMessage) or Conversation(history).open_calls()):
        history.pop()  # the model is to speak
    if not any(isinstance(message, UserMessage) for message in history):
        return

    turns = json_turns(history, [READ])

    assert [type(turn) for turn in turns] == kinds_of(len(turns))
    assert isinstance(turns[-1], UserMessage)
    shown = "\n".join(turn.text for turn in turns)
    for result in ("result-1", "result-2"):
        there = [message for message in history if isinstance(message, ToolMessage) and message.text == result]
        assert shown.count(result) == len(there)


def kinds_of(count: int) -> Sequence[type]:
    return [SystemMessage, *[UserMessage, AssistantMessage] * count][:count]
