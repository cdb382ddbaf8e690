"""Thinking and calls that leaked into the text are found, and mere mentions of them are left alone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.lmstudio.stream import Accumulator
from lmstudio_bridge.lmstudio.tool_call_parsers import LeakedCall, recover_calls, split_reasoning
from lmstudio_bridge.lmstudio.wire import ChatIn
from lmstudio_bridge.messages import JSONObject, ToolSpec
from tests.lmstudio_sim.leaks import LEAK_FORMATS, LeakFormat, render_leak

OFFERED: dict[str, JSONObject] = {"list_files": {}, "read_file": {}}
ARGUMENTS = {"path": "./größe 📁", "deep": True, "limit": 5}
WHOLE_TEXT_ONLY = ("bare_json", "harmony_name")


def recover(text: str) -> tuple[str, list[tuple[str, Any]]]:
    rest, calls = recover_calls(text, tools=OFFERED)
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
        ("<think>A</think><think>B</think>Yes.", "Yes.", "A\nB"),
        ("<think>A</think>Yes, <think>B</think>.", "Yes, <think>B</think>.", "A"),
        ("Hm.</think>Yes.", "Yes.", "Hm."),
        ("Yes, <think>Hm.", "Yes, <think>Hm.", ""),
        ("<think>Hm.", "", "Hm."),
        ("A</think>Yes, <think>B", "Yes, <think>B", "A"),
        ("<|channel>thought\nHm.<channel|>Yes.", "Yes.", "Hm."),
        ("<|channel>thought\nHm.", "", "Hm."),
        ("<seed:think>Hm.</seed:think>Yes.", "Yes.", "Hm."),
        ("[THINK]Hm.[/THINK]Yes.", "Yes.", "Hm."),
        ("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>", "Yes.", "Hm."),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            "Yes.",
            "Hm.",
        ),
        ("<|channel|>final<|message|>Yes.<|return|>", "Yes.", ""),
        ("<|channel|>analysis<|message|>Hm.", "", "Hm."),
        ("Yes.<|im_end|>", "Yes.", ""),
        ("<|im_start|>assistant\nYes.<|im_end|><|endoftext|>", "Yes.", ""),
        ("It closes with `</think>`.", "It closes with `</think>`.", ""),
        ("Opens with `<think>`, closes with `</think>`.", "Opens with `<think>`, closes with `</think>`.", ""),
        ('{"tag": "</think>"}', '{"tag": "</think>"}', ""),
        ("```\n</think>\n```", "```\n</think>\n```", ""),
        ("", "", ""),
        ("<Think>Hm.</Think>Yes.", "Yes.", "Hm."),
        ("<think>Hm.</thinking>Yes.", "Yes.", "Hm."),
        ("\u25c1think\u25b7Hm.\u25c1/think\u25b7Yes.", "Yes.", "Hm."),
        ("<|thinking|>Hm.<|/thinking|>Yes.", "Yes.", "Hm."),
        ("<|begin_of_thought|>Hm.<|end_of_thought|><|begin_of_solution|>Yes.<|end_of_solution|>", "Yes.", "Hm."),
        ("<|channel|>commentary<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Yes.", "Hm."),
        ("analysisHm.assistantfinalYes.", "Yes.", "Hm."),
        ("analysis of it: final", "analysis of it: final", ""),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nYes.", "Yes.", ""),
        ("Yes.<|eot_id|><|start_header_id|>assistant<|end_header_id|>", "Yes.", ""),
        ("Yes.<|im_end|>\n<|im_start|>user\nAnd now?", "Yes.", ""),
        ("Yes.<|endoftext|>Human: And now?", "Yes.", ""),
        ("`<|im_end|> <|user|>` is its end.", "`<|im_end|> <|user|>` is its end.", ""),
        ("<bos>Yes.<eos><pad><pad>", "Yes.", ""),
        ("<|begin_of_box|>Yes.<|end_of_box|>", "Yes.", ""),
        ("<s>Yes.</s>", "Yes.", ""),
        ("<s>Yes</s> or no", "<s>Yes</s> or no", ""),
        ("The tags are <think> and </think>.", "The tags are <think> and </think>.", ""),
        ("| </think> |", "| </think> |", ""),
        ("The tag </think> ends the reasoning.", "The tag </think> ends the reasoning.", ""),
        ("I reason.\n[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]\n<|end|>", "Yes.", "I reason."),
        ("<think>Hm.</think>\n<answer>\nYes.\n</answer>", "Yes.", "Hm."),
        ("<think>Hm.</think>\n<response>Yes.</response>\n", "Yes.", "Hm."),
        ("<answer>Yes.</answer>", "<answer>Yes.</answer>", ""),
        ("assistant\n\nYes.", "Yes.", ""),
        ("Assistant: Yes.", "Yes.", ""),
        ("<scratchpad>Hm.</scratchpad>Yes.", "Yes.", "Hm."),
        ("<reflection>\nHm.\n</reflection>\nYes.", "Yes.", "Hm."),
        ("assistantfinalYes.", "Yes.", ""),
        ("[/INST] Yes.", "Yes.", ""),
        ("<|bot|>Yes.", "Yes.", ""),
        ("Yes.[EOS]", "Yes.", ""),
        ("Yes.\n<|user|>\nThanks!", "Yes.", ""),
        ("**Assistant:** Yes.\n\nIt is.", "Yes.\n\nIt is.", ""),
        ("### Assistant:\nYes.", "Yes.", ""),
        ("<think>Hm.</think>\n\nASSISTANT: Yes.", "Yes.", "Hm."),
        ("### Response:\nYes.", "Yes.", ""),
        ("[assistant]: Yes.", "Yes.", ""),
        ("<role>assistant</role>\nYes.", "Yes.", ""),
        ("<assistant>\nYes.\n</assistant>", "Yes.", ""),
        ("<assistant>Yes.", "Yes.", ""),
        ("<|im_start|>assistant\nAssistant: Yes.", "Yes.", ""),
        *(
            (f"Yes.{token}", "Yes.", "")
            for token in (
                *(
                    "<|endofturn|>",
                    "<|role_end|>",
                    "<|plamo:eos|>",
                    "<\uff5chy_place\u2581holder\u2581no\u25812\uff5c>",
                ),
                *("<seed:eos>", "<eoa>", "<turn|>", "[e~[", "<end_of_sentence>", "</s></s>"),
            )
        ),
        ("HTML: <s>old</s>", "HTML: <s>old</s>", ""),
        *(
            (text, text, "")
            for text in (
                "assistant: 3\nmanager: 4",
                "Assistant: Hello.\nUser: Bye.",
                "Assistant: Ada\n**Manager**: Bob",
                "Assistant:",
                "Assistants: Ada and Bob.",
                "assistant finals are in May",
                "The turns begin with:\n<|user|>\nHello",
                "The [EOS] token ends it.",
                "It is in <scratchpad> tags.",
                "Response: 200 OK",
                "<assistant><name>Ada</name></assistant>",
                "[assistant.py]: two functions",
            )
        ),
        ("The turn ends with <|im_end|>", "The turn ends with <|im_end|>", ""),
        ("Its token: <|eot_id|>", "Its token: <|eot_id|>", ""),
        *(
            (text, text, "")
            for text in (
                'text.split("</think>")[1]',
                'if "</think>" in text:\n    text = text.rpartition("</think>")[2]',
                "const end = '</think>';",
                '"end": "</think>",\n"start": "<think>"',
                "The end tag (</think>) is missing.",
                "Das Ende ist \u201e</think>\u201c.",
            )
        ),
        ('Who is "Ada"?</think>"Ada" owns it.', '"Ada" owns it.', 'Who is "Ada"?'),
        ("The answer (as a word)</think>(Yes)", "(Yes)", "The answer (as a word)"),
    ],
)
def test_thinking_is_split_from_the_answer(text: str, answer: str, thinking: str) -> None:
    assert split_reasoning(text) == (answer, thinking)


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("The parser drops all up to </think> and keeps the rest.",) * 2 + ("",),
        ("Tags are <think>, <step> and <plan>.",) * 2 + ("",),
        ("<think>Hm.</think>Yes.", "Yes.", "Hm."),
        ("Yes.<|im_end|>", "Yes.", ""),
        ("\n</think>\n\nYes.", "Yes.", ""),
        ("</think>\n\n</think>\nYes.", "Yes.", ""),
        ("</think>\n", "", ""),
        ("</thinking>**Yes.**", "**Yes.**", ""),
        ("[/THINK]Yes.", "Yes.", ""),
        ("<|END_THINKING|>Yes.", "Yes.", ""),
        ("</think> closes the reasoning.",) * 2 + ("",),
        ("[/THINK], in v13.",) * 2 + ("",),
        ("`</think>`\n",) * 2 + ("",),
        ("Reasoning ends with:\n</think>\nThen comes the answer.",) * 2 + ("",),
    ],
)
def test_tags_are_words_of_the_answer_where_reasoning_came_apart(text: str, answer: str, thinking: str) -> None:
    assert split_reasoning(text, separate=True) == (answer, thinking)


# -- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notation", LEAK_FORMATS)
@pytest.mark.parametrize("arguments", [ARGUMENTS, {}], ids=["arguments", "none"])
def test_a_call_is_read_in_every_notation_and_the_text_before_it_stays(
    notation: LeakFormat, arguments: JSONObject
) -> None:
    leak = render_leak(notation, name="list_files", arguments=dict(arguments))

    assert recover(leak) == ("", [("list_files", arguments)])
    if notation not in WHOLE_TEXT_ONLY:
        assert recover(f"I'll look first.\n{leak}\n") == ("I'll look first.", [("list_files", arguments)])


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
        "One.",
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


WIDE = "\uff5c"  # the wide bar of DeepSeek's tokens
N, J = "list_files", '{"path": "a.md"}'
OTHER_FORMATS = {
    "deepseek r1": f"<{WIDE}tool\u2581calls\u2581begin{WIDE}><{WIDE}tool\u2581call\u2581begin{WIDE}>function"
    f"<{WIDE}tool\u2581sep{WIDE}>{N}\n```json\n{J}\n```<{WIDE}tool\u2581call\u2581end{WIDE}>"
    f"<{WIDE}tool\u2581calls\u2581end{WIDE}>",
    "deepseek v3.1": f"<{WIDE}tool\u2581calls\u2581begin{WIDE}><{WIDE}tool\u2581call\u2581begin{WIDE}>{N}"
    f"<{WIDE}tool\u2581sep{WIDE}>{J}<{WIDE}tool\u2581call\u2581end{WIDE}><{WIDE}tool\u2581calls\u2581end{WIDE}>",
    "deepseek dsml": f'<{WIDE}DSML{WIDE}function_calls>\n<{WIDE}DSML{WIDE}invoke name="{N}">\n'
    f'<{WIDE}DSML{WIDE}parameter name="path" string="true">a.md</{WIDE}DSML{WIDE}parameter>\n'
    f"</{WIDE}DSML{WIDE}invoke>\n"
    f"</{WIDE}DSML{WIDE}function_calls>",
    "kimi k2": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{N}:0<|tool_call_argument_begin|>{J}"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "llama python tag": f'<|python_tag|>{{"name": "{N}", "parameters": {J}}}<|eom_id|>',
    "llama function": f"<function={N}>{J}</function>",
    "phi 4": f'functools[{{"name": "{N}", "arguments": {J}}}]',
    "granite 3": f'<|tool_call|>[{{"name": "{N}", "arguments": {J}}}]',
    "nemotron": f'<TOOLCALL>[{{"name": "{N}", "arguments": {J}}}]</TOOLCALL>',
    "command r": f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "{N}", "parameters": {J}}}]<|END_ACTION|>',
    "gemma 3": f'```tool_code\n{N}(path="a.md")\n```',
    "gemma 3, printed": f'```tool_code\nprint({N}(path="a.md"))\n```',
    "minimax m1": f'[TOOL_CALL] {{"tool": "{N}", "args": {J}}} [/TOOL_CALL]',
    "devstral, mark eaten": f"{N}[ARGS]{J}",
    "lm studio, bracketed": f"[{N}]\n{J}\n[END_TOOL_REQUEST]",
    "jamba": f'<tool_calls>[{{"name": "{N}", "arguments": {J}}}]</tool_calls>',
    "seed oss": f"<seed:tool_call><function={N}><parameter=path>a.md</parameter></function></seed:tool_call>",
    "function calls": f'<function_calls><invoke name="{N}"><parameter name="path">a.md</parameter></invoke>'
    "</function_calls>",
    "harmony, tool first": f"<|start|>assistant to=functions.{N}<|channel|>commentary json<|message|>{J}<|call|>",
    "harmony, analysis": f"<|channel|>analysis to=functions.{N} code<|message|>{J}<|call|>",
    "plain turns imitated": f"I call {N} with {J}",
    "qwen, parameter not closed": f"<tool_call>\n<function={N}>\n<parameter=path>\na.md\n</function>\n</tool_call>",
    "hermes, namespace": f'<tool_call>{{"name": "functions.{N}", "arguments": {J}}}</tool_call>',
    "hermes, a brace short": f'<tool_call>{{"name": "{N}", "arguments": {J}</tool_call>',
    "hermes, Python's quotes": f"<tool_call>{{'name': '{N}', 'arguments': {{'path': 'a.md'}}}}</tool_call>",
    "hermes, fenced inside": f'<tool_call>\n```json\n{{"name": "{N}", "arguments": {J}}}\n```\n</tool_call>',
    "one key": f'<tool_call>{{"{N}": {J}}}</tool_call>',
    "step 3": f'<steptml:invoke name="{N}"><steptml:parameter name="path">a.md</steptml:parameter></steptml:invoke>',
    "olmo 3": f'<function_calls>{N}(path="a.md")</function_calls>',
    "mistral, with an id": f"[TOOL_CALLS]{N}[CALL_ID]VvvODy9mT[ARGS]{J}",
    "mistral, with an id, mark eaten": f"{N}[CALL_ID]VvvODy9mT[ARGS]{J}",
    "llama 3, code": f'<|python_tag|>{N}.call(path="a.md")',
    "llama 4": f'<|python_start|>[{N}(path="a.md")]<|python_end|>',
    "a name as attribute": f'<function name="{N}">\n<parameter name="path">a.md</parameter>\n</function>',
    "exaone": f'<tool_call>{{"name": "{N}", "arguments": {J}}}</tool_call>[|endofturn|]',
    "end token": f'{{"name": "{N}", "parameters": {J}}}<|eom_id|>',
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_call_is_read_in_the_formats_of_other_families_and_with_common_slips(name: str) -> None:
    assert recover(split_reasoning(OTHER_FORMATS[name])[0]) == ("", [(N, {"path": "a.md"})])
    if name != "end token":
        assert recover(f"First I look.\n\n{OTHER_FORMATS[name]}") == ("First I look.", [(N, {"path": "a.md"})])


WRITE: dict[str, JSONObject] = {
    "fs__write_file": {
        "properties": {
            "path": {"type": "string"},
            "count": {"type": "integer"},
            "tags": {"type": "array"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "level": {"enum": ["1", "2"]},
        }
    }
}


def tagged(key: str, value: str) -> str:
    return f"<tool_call>\n<function=write_file>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("key", "value", "arguments"),
    [
        ("path", "1.10", '{"path": "1.10"}'),
        ("path", "1e5", '{"path": "1e5"}'),
        ("path", "true", '{"path": "true"}'),
        ("path", "NaN", '{"path": "NaN"}'),
        ("path", '{"a": 1}', '{"path": "{\\"a\\": 1}"}'),
        ("path", "ends with </parameter> here", '{"path": "ends with </parameter> here"}'),
        ("path", "a <parameter=x> b", '{"path": "a <parameter=x> b"}'),
        ("path", "a </function> b", '{"path": "a </function> b"}'),
        ("count", "5", '{"count": 5}'),
        ("tags", '["a"]', '{"tags": ["a"]}'),
        ("either", "5", '{"either": "5"}'),
        ("level", "1", '{"level": "1"}'),
        ("unknown", "1.10", '{"unknown": 1.10}'),
        ("unknown", "plain", '{"unknown": "plain"}'),
    ],
)
def test_the_schema_says_whether_a_tagged_value_is_text(key: str, value: str, arguments: str) -> None:
    _, calls = recover_calls(tagged(key, value), tools=WRITE)

    assert calls == (LeakedCall("fs__write_file", arguments),)


@pytest.mark.parametrize(
    "text",
    ["CALL", "[CALL]", '{"tool_calls": [CALL, CALL]}', "<tool_call>CALL</tool_call>", "<tools>[ CALL , CALL ]</tools>"],
)
def test_arguments_stay_as_they_were_written(text: str) -> None:
    call = '{"name":"list_files","arguments":{"version": 1.10 ,"n":1e5}}'

    _, calls = recover_calls(text.replace("CALL", call), tools=OFFERED)

    assert {call.arguments for call in calls} == {'{"version": 1.10 ,"n":1e5}'}


@pytest.mark.parametrize(
    "text",
    [
        '[list_files(path="a.md")]',
        '[list_files(path="a.md")]<|eot_id|>',
        '{"tool_calls": [{"name": "list_files", "arguments": {"path": "a.md"}}]}',
        '{"tool_uses": [{"recipient_name": "functions.list_files", "parameters": {"path": "a.md"}}]}',
    ],
)
def test_a_call_without_marks_is_read_where_it_is_the_whole_text(text: str) -> None:
    assert recover(split_reasoning(text)[0]) == ("", [("list_files", {"path": "a.md"})])
    assert recover(f"Like {text} here.")[1] == []


@pytest.mark.parametrize(
    "result",
    ["<tool_response>red</tool_response>", "Result: red", "**Observation:** red", "Result of list_files:\nred"],
)
def test_neither_a_result_that_the_model_made_up_nor_what_rests_on_it_is_taken(result: str) -> None:
    call = '<tool_call>{"name":"list_files","arguments":{}}</tool_call>'
    other = '<tool_call>{"name":"read_file","arguments":{}}</tool_call>'

    assert recover(f"I look.\n{call}\n{result}\nIt is red.") == ("I look.", [("list_files", {})])
    assert recover(f"I look.\n{call}\n{result}\n{other}") == ("I look.", [("list_files", {})])
    assert recover(f"I look.\n{call}\nAnd then:\n{other}")[1] == [("list_files", {}), ("read_file", {})]


PLAIN = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="<>[]{}|`\uff5c"),
    max_size=30,
).filter(lambda text: text == text.strip())
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "path": PLAIN,
        "count": st.integers(-(10**9), 10**9),
        "deep": st.booleans(),
        "tags": st.lists(PLAIN, max_size=3),
    },
)
TYPED: dict[str, JSONObject] = {
    "read_file": {
        "properties": {
            "path": {"type": "string"},
            "count": {"type": "integer"},
            "deep": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
        }
    }
}


@given(st.sampled_from([each for each in LEAK_FORMATS if each not in WHOLE_TEXT_ONLY]), VALUES, PLAIN, PLAIN)
def test_any_call_is_read_in_any_format_between_any_words(
    notation: LeakFormat, arguments: dict[str, Any], before: str, after: str
) -> None:
    text = f"{before}\n{render_leak(notation, name='read_file', arguments=arguments)}\n{after}"
    rest, calls = recover_calls(text, tools=TYPED)

    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("read_file", arguments)]
    assert rest.split() == before.split()  # what stands behind was written without the call's result


@given(st.sampled_from(LEAK_FORMATS), VALUES, st.lists(st.integers(1, 200), max_size=5), st.booleans())
def test_a_call_is_read_however_the_reply_is_cut_into_pieces(
    notation: LeakFormat, arguments: dict[str, Any], cuts: list[int], thinks: bool
) -> None:
    text = render_leak(notation, name="read_file", arguments=arguments)
    text = f"<think>I look into {{it}}.</think>{text}" if thinks else text
    accumulator = Accumulator(tools=[ToolSpec(name, "", schema) for name, schema in TYPED.items()])
    for start, end in pairwise([0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]):
        accumulator.add(ChatIn.model_validate({"choices": [{"delta": {"content": text[start:end]}}]}))
    reply = accumulator.completion()

    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("read_file", arguments)]
    assert reply.text == ""


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
    rest, calls = recover_calls(answer, tools=OFFERED)

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
    recover_calls(rest, tools={"f": {}})


@pytest.mark.parametrize("value", ["<parameter=path>", "see <parameter=path>\nand <parameter=content>", "</parameter>"])
def test_a_tag_of_a_parameter_that_was_given_is_text(value: str) -> None:
    parameters = f"<parameter=path>\na.md\n</parameter>\n<parameter=content>\n{value}\n</parameter>\n"
    text = f"<tool_call>\n<function=write_file>\n{parameters}</function>\n</tool_call>"
    schema = {"properties": {"path": {"type": "string"}, "content": {"type": "string"}}}

    _, calls = recover_calls(text, tools={"write_file": schema})

    assert [json.loads(call.arguments) for call in calls] == [{"path": "a.md", "content": value}]
