"""The toolbox: names for the model, arguments checked, and what the model reads when they are wrong."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lmstudio_bridge.agent.arguments import MAX_CHECKS, find_problem
from lmstudio_bridge.agent.schemas import MAX_WORK, object_schema
from lmstudio_bridge.agent.tools import MAX_DESCRIPTION, MAX_NAME, PreparedCall, RefusedCall, ToolSet
from lmstudio_bridge.messages import ServerTool, ToolCall, ToolSpec

READ = ServerTool(
    "fs", "read", "Reads a file.", {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)


def tool(server: str, name: str, schema: Mapping[str, Any] | None = None) -> ServerTool:
    return ServerTool(server, name, input_schema=schema if schema is not None else {"type": "object"})


def names_of(*tools: ServerTool) -> list[str]:
    return [spec.name for spec in ToolSet(tools).specs]


def prepare(tools: list[ServerTool], name: str, arguments: str = "{}") -> PreparedCall | RefusedCall:
    return ToolSet(tools).prepare_call(ToolCall("c1", name, arguments))


def refusal(schema: Mapping[str, Any], arguments: str) -> str:
    """What the model reads about these arguments; fails if they are taken."""
    refused = prepare([tool("s", "t", schema)], "s__t", arguments)
    assert isinstance(refused, RefusedCall)
    return refused.text


def takes(schema: Mapping[str, Any], arguments: str) -> bool:
    return isinstance(prepare([tool("s", "t", schema)], "s__t", arguments), PreparedCall)


# -- names --------------------------------------------------------------------------------------


def test_tools_are_offered_in_the_order_of_their_names() -> None:
    schema = {"type": "object", "properties": {}}

    specs = ToolSet([tool("web", "get"), tool("fs", "write"), READ]).specs

    assert specs == (
        ToolSpec("fs__read", "Reads a file.", READ.input_schema),
        ToolSpec("fs__write", "", schema),
        ToolSpec("web__get", "", schema),
    )


@pytest.mark.parametrize(
    ("server", "name", "offered"),
    [
        ("fs", "read_file", "fs__read_file"),
        ("My Server", "Read-File", "my_server__read_file"),
        ("a.b", "c.d/e", "a_b__c_d_e"),
        ("", "", "server__tool"),
        ("日本", "读取文件", "ri_ben__du_qu_wen_jian"),
        ("файлы", "читать файл", "fayly__chitat_fayl"),
        ("Größe", "café_search", "grosse__cafe_search"),
        ("\u3000", "\ufe0f", "server__tool"),
        ("_x_", "__y__", "x__y"),
    ],
)
def test_name_is_made_of_server_and_tool_in_plain_letters(server: str, name: str, offered: str) -> None:
    assert names_of(tool(server, name)) == [offered]


@pytest.mark.parametrize("length", [MAX_NAME - 1, MAX_NAME, MAX_NAME + 1, 200])
def test_name_is_cut_only_beyond_its_limit(length: int) -> None:
    whole = "s__" + "t" * (length - 3)

    [name] = names_of(tool("s", "t" * (length - 3)))

    assert len(name) == min(length, MAX_NAME)
    assert (name == whole) is (length <= MAX_NAME)


def test_names_that_fall_together_are_told_apart_and_found_again() -> None:
    tools = [tool("s", name) for name in ("a-b", "a.b", "a_b", "A B")]

    toolbox = ToolSet(tools)

    names = [spec.name for spec in toolbox.specs]
    assert names[0] == "s__a_b"
    assert len(set(names)) == 4
    assert [prepared.tool for name in names if (prepared := toolbox.prepare_call(ToolCall("c", name, "")))] == [
        tool("s", name) for name in sorted(("a-b", "a.b", "a_b", "A B"))
    ]


def test_name_that_looks_like_a_made_one_is_told_apart_too() -> None:
    taken = names_of(tool("s", "a-b"), tool("s", "a_b"))[1].removeprefix("s__")

    assert len(set(names_of(tool("s", "a-b"), tool("s", "a_b"), tool("s", taken.upper())))) == 3


def test_tool_listed_twice_is_offered_once() -> None:
    assert names_of(READ, READ) == ["fs__read"]


any_name = st.one_of(
    st.text(st.characters(), max_size=8),
    st.text("aAbB-_. <|", max_size=4),
    st.sampled_from(["", "a" * 200, "a" * 201, "é" * 200, "\ud800"]),
)


@given(st.lists(st.tuples(any_name, any_name), max_size=12, unique=True), st.randoms(use_true_random=False))
def test_any_names_become_plain_unique_stable_ones_that_lead_back(names: list[tuple[str, str]], random: Any) -> None:
    tools = [tool(server, name) for server, name in names]
    shuffled = list(tools)
    random.shuffle(shuffled)

    toolbox, other = ToolSet(tools), ToolSet(shuffled)

    offered = [spec.name for spec in toolbox.specs]
    assert all(re.fullmatch(r"[a-z0-9_]{1,64}", name) for name in offered)
    assert len(set(offered)) == len(tools)
    assert other.specs == toolbox.specs
    found = [toolbox.prepare_call(ToolCall("c", name, "{}")).tool for name in offered]
    assert found == sorted(tools, key=lambda each: (each.server, each.name))


@pytest.mark.parametrize("written", ["fs__read", "FS__READ", " fs__read ", "fs__read<|channel|>commentary"])
def test_name_is_found_as_models_spell_it(written: str) -> None:
    assert prepare([READ], written, '{"path": "a"}') == PreparedCall(READ, {"path": "a"})


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("get", "There is no tool 'get', so nothing was done. Did you mean: api__get, web__get. Call one of them."),
        ("fs__raed", "There is no tool 'fs__raed', so nothing was done. Did you mean: fs__read. Call one of them."),
        (
            "zzz",
            "There is no tool 'zzz', so nothing was done. The tools are: api__get, fs__read, web__get. "
            "Call one of them.",
        ),
        (
            "",
            "There is no tool '', so nothing was done. The tools are: api__get, fs__read, web__get. Call one of them.",
        ),
    ],
)
def test_unknown_name_is_answered_with_those_that_may_be_meant(written: str, text: str) -> None:
    assert prepare([READ, tool("web", "get"), tool("api", "get")], written) == RefusedCall(None, text)


@pytest.mark.parametrize(
    "written",
    [
        "fs__read",
        "read",
        "Read",
        "functions.fs__read",
        "functions.read:0",
        "fs__read:12",
        "fs.read",
        "FS-Read",
        "`read`",
        "fs__read<|channel|>commentary",
        "default_api.fs__read",
        "mcp__fs__read",
        " fs__read\n",
    ],
)
def test_a_name_that_can_mean_only_one_tool_runs_that_tool(written: str) -> None:
    prepared = prepare([READ, tool("web", "get")], written, '{"path": "a"}')

    assert prepared == PreparedCall(READ, {"path": "a"})


def test_unknown_name_without_any_tools_is_answered_too() -> None:
    assert prepare([], "read") == RefusedCall(
        None, "There is no tool 'read', so nothing was done. There are no tools at all."
    )


def test_endless_unknown_name_is_not_repeated_whole() -> None:
    refused = prepare([READ], "x" * 1_000_000)

    assert isinstance(refused, RefusedCall)
    assert len(refused.text) < 300


@pytest.mark.parametrize("count", [19, 20, 21])
def test_at_most_twenty_names_are_listed(count: int) -> None:
    refused = prepare([tool("s", f"t{n:02}") for n in range(count)], "zzzzzzzz")

    assert isinstance(refused, RefusedCall)
    assert refused.text.count("s__t") == min(count, 20)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_cut_description_is_marked(extra: int) -> None:
    long = ServerTool("s", "t", "d" * (MAX_DESCRIPTION + extra))

    [spec] = ToolSet([long]).specs

    assert spec.description == ("d" * MAX_DESCRIPTION + "…" if extra > 0 else long.description)


# -- reading arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("{}", {}),
        ('{"a": 1}', {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('"null"', {}),
        ('{"a": {"b": [1.5, true, null, "é"]}}', {"a": {"b": [1.5, True, None, "é"]}}),
    ],
)
def test_arguments_are_read_as_models_write_them(written: str, arguments: dict[str, Any]) -> None:
    plain = tool("s", "t")

    assert prepare([plain], "s__t", written) == PreparedCall(plain, arguments)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("[]", "they must be one JSON object."),
        ('"text"', "they must be one JSON object."),
        ('"{"', "they must be one JSON object."),
        ("5", "they must be one JSON object."),
        (
            "{",
            "they are not valid JSON: the text was cut off before the object's end "
            "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1)).",
        ),
        ('{"a": NaN}', "they are not valid JSON (Out of range float values are not JSON compliant)."),
        ('{"a": 1e999}', "they are not valid JSON (Out of range float values are not JSON compliant)."),
        ('{"a": "\\ud800"}', "they are not valid JSON (half of a surrogate pair)."),
        ("[" * 100_000, "they are not valid JSON (nested too deeply)."),
        (json.dumps("[" * 100_000), "they must be one JSON object."),
    ],
    ids=range(10),
)
def test_arguments_that_are_no_json_object_are_refused_with_the_reason(written: str, problem: str) -> None:
    first, sent, *_ = refusal({"type": "object"}, written).split("\n")

    # Newer Pythons add the value to their words about numbers that are out of range.
    assert re.sub(r"(compliant): \w+", r"\1", first) == (f"s__t was not called: invalid arguments: {problem}")
    assert sent == f"You sent: {written[:300]}"


@pytest.mark.parametrize(("levels", "taken"), [(63, True), (64, True), (65, False), (500, False)])
def test_arguments_are_refused_beyond_a_depth(levels: int, taken: bool) -> None:
    assert takes({"type": "object"}, '{"a":' * levels + "1" + "}" * levels) is taken


@given(st.text(max_size=30) | st.text('{}[]":,0eE-. \\u', max_size=20))
def test_no_text_as_arguments_makes_the_check_raise(written: str) -> None:
    prepared = prepare([READ], "fs__read", written)

    assert isinstance(prepared, RefusedCall) or json.dumps(prepared.arguments, allow_nan=False)


# -- checking arguments -------------------------------------------------------------------------

COUNT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


def test_refusal_quotes_problem_arguments_schema_and_an_example() -> None:
    assert refusal(COUNT, '{"n": 2}') == (
        "s__t was not called: invalid arguments: n: 2 is less than the minimum of 3\n"
        'You sent: {"n": 2}\n'
        'They must fit this schema: {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, '
        '"required": ["n"]}\n'
        'Call it again with arguments like: {"n": 3}'
    )


def test_place_of_a_problem_is_named() -> None:
    schema = {"properties": {"edits": {"type": "array", "items": {"properties": {"line": {"type": "integer"}}}}}}

    text = refusal(schema, '{"edits": [{"line": 1}, {"line": "two"}]}')

    assert "invalid arguments: edits.1.line: 'two' is not of type 'integer'\n" in text


def test_long_arguments_are_quoted_in_part() -> None:
    text = refusal(COUNT, json.dumps({"n": "x" * 100_000}))

    assert len(text) < 1_200
    assert text.endswith('Call it again with arguments like: {"n": 3}')


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (COUNT, '{"n": 3}', '{"n": 2}'),
        (COUNT, '{"n": 3}', "{}"),
        ({"properties": {"a": {"enum": ["x"]}}}, '{"a": "x"}', '{"a": "y"}'),
        ({"additionalProperties": False}, "{}", '{"a": 1}'),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "null"}}}, '{"a": null}', '{"a": 1}'),
        # "Or null" is not shown, and still accepted; so are properties that only a pattern names.
        ({"properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}, '{"a": null}', "{}"),
        (
            {"properties": {"a": {"anyOf": [{"enum": ["x"]}, {"type": "null"}]}}, "required": ["a"]},
            '{"a": null}',
            '{"a": "y"}',
        ),
    ],
)
def test_arguments_are_checked_against_the_schema_that_the_model_was_shown(
    schema: dict[str, Any], good: str, bad: str
) -> None:
    assert (takes(schema, good), takes(schema, bad)) == (True, False)


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"pattern": "^x$"}}}, '{"a": "y"}'),
        ({"properties": {"a": {"maxLength": 1}}}, '{"a": "xx"}'),
        ({"properties": {"a": {"minimum": 1, "exclusiveMinimum": True}}}, '{"a": 1}'),
        ({"properties": {"a": {"patternProperties": {"x": {}}, "additionalProperties": False}}}, '{"a": {"x": 1}}'),
        ({"properties": {"a": {"items": [{"type": "object"}, {"type": "string"}]}}}, '{"a": [{}, "x"]}'),
        ({"properties": {"a": {"type": "array", "items": {"type": "integer"}}}}, json.dumps({"a": ["x"] * 100_000})),
    ],
)
def test_what_is_not_shown_or_takes_too_long_is_left_to_the_server(schema: dict[str, Any], arguments: str) -> None:
    assert takes(schema, arguments)


def test_call_without_a_required_argument_that_has_a_default_is_sent() -> None:
    limit = {"type": "integer", "default": 20}
    search = tool("s", "search", {"properties": {"query": {"type": "string"}, "limit": limit}, "required": ["limit"]})

    prepared = prepare([search], "s__search", '{"query": "tea"}')

    assert isinstance(prepared, PreparedCall)
    assert prepared.arguments == {"query": "tea"}
    assert isinstance(prepare([search], "s__search", '{"limit": "many"}'), RefusedCall)


@pytest.mark.parametrize(("nodes", "checked"), [(-1, True), (0, True), (1, False)])
def test_arguments_are_checked_up_to_a_bound(nodes: int, checked: bool) -> None:
    """So many schemas times so many values, here two."""
    schema = replace(
        object_schema({"properties": {"a": {}, "b": {}}, "required": ["b"]}), nodes=MAX_CHECKS // 2 + nodes
    )

    assert (find_problem({"a": 1}, schema) is not None) is checked


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": 5}, {"$schema": {}}, {"$schema": 5}, {"$schema": "http://["}, {"$id": "http://["}),
        *({"$id": 5}, {"required": [[]], "properties": {}}, {"required": [{}], "properties": {"a": {}}}),
        *({"required": 5}, {"properties": []}, {"properties": {"a": {"type": "text"}}}),
        *({"properties": {"a": {"type": [["string"]]}}}, {"properties": {"a": {"pattern": "("}}}),
        *({"properties": {"a": {"pattern": 5}}}, {"properties": {"a": {"enum": {}}}}),
        *({"properties": {"a": {"allOf": [{"required": 3}]}}}, {"properties": {"a": {"$ref": 5}}}),
        *({"properties": {"a": {"$ref": "#/nowhere"}}}, {"properties": {"a": {"$ref": "#/properties/a"}}}),
        *({"properties": {"a": {"$ref": "http://[/"}}}, {"properties": {"a": {"$dynamicRef": "#none"}}}),
        *({"$ref": "#"}, {"properties": {"a": {"multipleOf": 0.5}}}),
    ],
)
def test_broken_schema_lets_the_server_judge(schema: dict[str, Any]) -> None:
    """The last one is not broken, but jsonschema cannot divide an integer of 400 digits by a float."""
    assert takes(schema, '{"a": 1' + "0" * 400 + "}")


def test_reference_to_a_url_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    schema = {"properties": {"a": {"$ref": "http://localhost:9/schema.json"}}, "$schema": "http://localhost:9/draft"}

    assert takes(schema, '{"a": 1}')


# -- examples -----------------------------------------------------------------------------------


def example_in(text: str) -> dict[str, Any]:
    example: dict[str, Any] = json.loads(text.rpartition("Call it again with arguments like: ")[2])
    return example


NESTED = {
    "type": "object",
    "properties": {"old": {"type": "string"}, "new": {"type": "string"}, "all": {"type": "boolean"}},
    "required": ["old", "new"],
}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        (READ.input_schema, {"path": "..."}),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}, {"a": "..."}),
        ({"properties": {"a": {"type": "integer", "minimum": 10}}}, {"a": 10}),
        ({"properties": {"a": {"type": "number", "maximum": -2.5}}}, {"a": -2.5}),
        ({"properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}}, {"a": 1}),
        ({"properties": {"a": {"type": "boolean"}}}, {"a": True}),
        ({"properties": {"a": {"type": "null"}}}, {"a": None}),
        ({"properties": {"a": {"enum": ["x", "y"]}}}, {"a": "x"}),
        ({"properties": {"a": {"const": 7}}}, {"a": 7}),
        ({"properties": {"a": {"type": ["string", "null"]}}}, {"a": "..."}),
        ({"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}}, {"a": 1}),
        ({"properties": {"a": {"type": "array", "items": {"type": "string"}, "minItems": 1}}}, {"a": ["..."]}),
        ({"properties": {"a": {"type": "array"}}}, {"a": []}),
        ({"properties": {"a": {"type": "array", "items": NESTED}}}, {"a": [{"old": "...", "new": "..."}]}),
        ({"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": NESTED}}, {"a": {"old": "...", "new": "..."}}),
        ({"additionalProperties": False}, {}),
    ],
)
def test_example_fits_the_schema(schema: dict[str, Any], example: dict[str, Any]) -> None:
    assert example_in(refusal(schema, "[]")) == example
    Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("schema", [{"properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}}])
def test_example_that_would_not_fit_is_not_given(schema: dict[str, Any]) -> None:
    assert "Call it again" not in refusal(schema, "[]")


simple = st.recursive(
    st.sampled_from(
        [
            *({"type": "string"}, {"type": "boolean"}, {"type": "null"}, {"enum": ["x", 1]}),
            *({"type": "integer", "minimum": 5}, {"type": "number", "maximum": -1}),
        ]
    ),
    lambda children: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, children),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(children, min_size=1, max_size=2)),
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)},
            st.dictionaries(st.sampled_from("abc"), children, max_size=2),
        ),
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from("abc"), simple, max_size=3), st.booleans())
def test_simple_schema_always_comes_with_an_example_that_fits(properties: dict[str, Any], needed: bool) -> None:
    schema = {"type": "object", "properties": properties, "required": sorted(properties) if needed else []}

    text = refusal(schema, "[]")

    Draft202012Validator(schema).validate(example_in(text))


def test_all_tools_of_a_run_share_its_work() -> None:
    properties = {f"p{number}": {"type": "string"} for number in range(1_990)}
    tools = [
        ServerTool("s", f"t{number:03}", input_schema={"type": "object", "properties": dict(properties)})
        for number in range(MAX_WORK // 1_991 + 3)
    ]

    specs = ToolSet(tools).specs

    assert [len(spec.parameters["properties"]) for spec in specs[-4:]] == [1_990, 1_990, 0, 0]


def test_characters_are_those_of_name_description_and_schema() -> None:
    tool_set = ToolSet([ServerTool("s", "t", "Does.", {"properties": {"a": {"type": "string"}}}), ServerTool("s", "u")])

    assert [tool.chars for tool in tool_set.tools] == [
        len(spec.name) + len(spec.description) + len(json.dumps(spec.parameters)) for spec in tool_set.specs
    ]
    assert tool_set.chars == sum(tool.chars for tool in tool_set.tools)
