"""MCP content made into text and images; the listing of tools is tested with real servers in test_sessions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.mcp_client import repair
from lmstudio_bridge.messages import Image, ToolResult

PNG = "iVBORw0KGgo="  # 8 bytes

LETTERS = "a \n\x00é😀"
HALF_A_LETTER = "\ud83d"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(LETTERS)
    | st.sampled_from(["text", "image", "resource", "name"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "text", "data", "uri", "resource", "name", "blob"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "text", "text": "plain"}, "plain"),
        ({"type": "text", "text": None}, '{"type":"text","text":null}'),
        ({"type": "audio", "data": "A" * 160_000, "mimeType": "audio/wav"}, "[audio: audio/wav, 120 kB]"),
        ({"type": "audio", "data": "A" * 1332}, "[audio: unknown type, 999 bytes]"),
        ({"type": "audio", "data": "A" * 1334}, "[audio: unknown type, 1 kB]"),
        ({"type": "audio", "data": "A" * 4_000_000}, "[audio: unknown type, 3.0 MB]"),
        (
            {"type": "resource_link", "uri": "file:///a", "name": "a", "description": "A file", "mimeType": "text/x"},
            "[resource: a] file:///a - A file - text/x",
        ),
        ({"type": "resource_link", "uri": "file:///a"}, "[resource: file:///a] file:///a"),
        ({"type": "resource", "resource": {"uri": "x:1", "text": "inside"}}, "[resource: x:1]\ninside"),
        ({"type": "resource", "resource": {"uri": "x:1", "blob": PNG}}, "[resource: x:1, unknown type, 8 bytes]"),
        ({"type": "resource", "resource": {}}, "{}"),
        ({"type": "resource", "resource": None}, '{"type":"resource","resource":null}'),
        ({"type": "hologram"}, '{"type":"hologram"}'),
        (["list"], '["list"]'),
        (7, "7"),
    ],
)
def test_each_kind_of_content_is_text(block: object, text: str) -> None:
    assert repair.read_result({"content": [block]}) == ToolResult(text)


def test_images_are_named_in_the_text_and_kept() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "see"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "x:1", "blob": PNG, "mimeType": "image/gif"}},
    ]
    assert repair.read_result({"content": blocks}) == ToolResult(
        "see\n[image: image/png, 8 bytes]\n[resource: x:1, image/gif, 8 bytes]",
        images=(Image(PNG, "image/png"), Image(PNG, "image/gif")),
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"structuredContent": {"a": 1}}, ToolResult('{"a":1}')),
        ({"structuredContent": {"a": 1}, "content": [{"type": "text", "text": "one"}]}, ToolResult('one\n{"a":1}')),
        ({"structuredContent": {}, "content": [{"type": "text", "text": ""}]}, ToolResult("{}")),
        ({"content": [], "isError": True}, ToolResult(repair.NO_OUTPUT, is_error=True)),
        ({"content": [], "isError": "yes"}, ToolResult(repair.NO_OUTPUT)),
        ({"content": [], "isError": "true"}, ToolResult(repair.NO_OUTPUT, is_error=True)),
        (
            {"content": [{"type": "image", "data": "data:image/png;base64,AAAA", "mimeType": "image/png"}]},
            ToolResult("[image: image/png, 3 bytes]", images=(Image("AAAA", "image/png"),)),
        ),
        ({"content": {"type": "text", "text": "no list"}}, ToolResult("no list")),
        ({"toolResult": {"old": True}}, ToolResult('{"old":true}')),
    ],
)
def test_whole_result_is_read(raw: dict[str, Any], expected: ToolResult) -> None:
    assert repair.read_result(raw) == expected


@pytest.mark.parametrize(
    ("structured", "texts", "beside"),
    [
        ({"a": [1, 2.0]}, ['{ "a": [1, 2] }'], ""),
        ({"content": "the text"}, ["the text"], ""),  # @modelcontextprotocol/server-filesystem
        ({"content": "first\nsecond"}, ["first", "second"], ""),
        ({"result": 5}, ["5"], ""),  # the SDKs, for what is not an object
        ({"result": ["1", "b"]}, ["1", "b"], ""),
        ({"result": [{"a": 1}, "b"]}, ['{"a": 1}', "b"], ""),
        ({}, ["done"], ""),
        ({"result": True}, ["1"], '\n{"result":true}'),
        ({"result": [True, False]}, ["[1, 0]"], '\n{"result":[true,false]}'),
        ({"result": True}, ["true"], ""),
        ({"content": "other"}, ["the text"], '\n{"content":"other"}'),
        ({"count": 1, "page": 1}, ["1"], '\n{"count":1,"page":1}'),
        ({"content": "x" * 100, "size": 100}, ["x" * 100], '\n{"size":100}'),
        ({"content": "x" * 99, "size": 99}, ["x" * 99], f'\n{{"content":"{"x" * 99}","size":99}}'),
        ({"rows": []}, ["none"], '\n{"rows":[]}'),
        ([1], ["one"], "\n[1]"),
    ],
)
def test_structured_content_is_shown_where_the_text_does_not_hold_it(
    structured: object, texts: list[str], beside: str
) -> None:
    raw = {"content": [{"type": "text", "text": text} for text in texts], "structuredContent": structured}

    assert repair.read_result(raw).text == "\n".join(texts) + beside


def test_images_are_not_repeated_as_structured_content() -> None:
    blocks = [{"type": "image", "data": PNG, "mimeType": "image/png"}]

    assert repair.read_result({"content": blocks, "structuredContent": {"content": blocks}}).text == (
        "[image: image/png, 8 bytes]"
    )
    assert repair.read_result({"content": [], "structuredContent": {"content": []}}).text == '{"content":[]}'


@pytest.mark.parametrize(
    ("mime_type", "blob", "text"),
    [
        ("text/csv", "YSxi", "[resource: x:1]\na,b"),
        ("text/plain; charset=utf-8", "w6k=", "[resource: x:1]\né"),
        ("application/json", "e30=", "[resource: x:1]\n{}"),
        ("application/ld+json", "e30=", "[resource: x:1]\n{}"),
        ("image/svg+xml", "PHN2Zy8+", "[resource: x:1]\n<svg/>"),
        ("application/x-python", "cGFzcw==", "[resource: x:1]\npass"),
        ("text/plain", "/w==", "[resource: x:1, text/plain, 1 bytes]"),
        ("text/plain", "no base64", "[resource: x:1, text/plain, 6 bytes]"),
        ("text/plain", "aGVs\nbG8", "[resource: x:1]\nhello"),
        ("text/plain", "Pz8_", "[resource: x:1]\n???"),
        ("text/plain; charset=latin-1", "6Q==", "[resource: x:1]\né"),
        ("text/plain; charset=none", "6Q==", "[resource: x:1, text/plain; charset=none, 1 bytes]"),
        ("text/csv", "aOlsbG8=", "[resource: x:1]\nhéllo"),
        ("text/csv", "//5hACwAYgA=", "[resource: x:1]\na,b"),
        ("text/csv", "77u/YSxi", "[resource: x:1]\na,b"),
        ("application/jsonl", "e30=", "[resource: x:1]\n{}"),
        ("application/x-httpd-php", "PD9waHA=", "[resource: x:1]\n<?php"),
        ("", "aGVsbG8=", "[resource: x:1]\nhello"),
        ("", "AAAA", "[resource: x:1, unknown type, 3 bytes]"),
        ("application/octet-stream", "YSxi", "[resource: x:1]\na,b"),
        ("application/octet-stream", "YQBi", "[resource: x:1, application/octet-stream, 3 bytes]"),
        ("application/pdf", "YSxi", "[resource: x:1, application/pdf, 3 bytes]"),
    ],
)
def test_text_sent_as_base64_is_read(mime_type: str, blob: str, text: str) -> None:
    block = {"type": "resource", "resource": {"uri": "x:1", "blob": blob, "mimeType": mime_type}}

    assert repair.read_result({"content": [block]}) == ToolResult(text)


@pytest.mark.parametrize(
    ("message", "data", "text"),
    [
        ("bad", None, "bad"),
        ("", None, "Error 7"),
        ("bad", {"path": "missing"}, 'bad\n{"path":"missing"}'),
        ("bad", "path is missing", "bad\npath is missing"),
        ("bad: path is missing", "path is missing", "bad: path is missing"),
        ("bad", "", "bad"),
        ("bad", HALF_A_LETTER, "bad\n?"),
    ],
)
def test_error_comes_with_its_data(message: str, data: object, text: str) -> None:
    assert repair.read_error(message, 7, data) == ToolResult(text, is_error=True)


@pytest.mark.parametrize(("answer", "text"), [({}, ""), ({"instructions": None}, ""), ({"instructions": "Be"}, "Be")])
def test_instructions_are_text(answer: dict[str, Any], text: str) -> None:
    assert repair.read_instructions(answer) == text


def test_image_with_structured_content_says_both() -> None:
    raw = {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}], "structuredContent": {"a": 1}}

    assert repair.read_result(raw).text == '[image: image/png, 8 bytes]\n{"a":1}'


def test_half_a_letter_becomes_a_question_mark() -> None:
    """JavaScript servers leave one where they cut a text; UTF-8 cannot say it."""
    raw = {"content": [{"type": "text", "text": HALF_A_LETTER}], "structuredContent": {HALF_A_LETTER: 1}}

    assert repair.read_result(raw) == ToolResult('?\n{"?":1}')
    assert repair.read_result({**raw, "content": []}) == ToolResult('{"?":1}')
    assert repair.plain_arguments({HALF_A_LETTER: [HALF_A_LETTER]}) == {"?": ["?"]}


@given(st.dictionaries(st.sampled_from(["content", "structuredContent", "isError", "toolResult"]), json_values))
def test_no_result_is_too_odd_to_be_read(raw: dict[str, Any]) -> None:
    assert repair.read_result(raw).text.encode("utf-8")


@given(st.lists(json_values))
def test_no_listing_is_too_odd_to_be_read(entries: list[object]) -> None:
    for tool in repair.read_tools("server", entries):
        assert tool.name
        assert tool.input_schema["type"] == "object"


@given(st.dictionaries(st.text(LETTERS), json_values))
def test_arguments_that_are_json_stay_as_they_are(arguments: dict[str, Any]) -> None:
    assert repair.plain_arguments(arguments) == arguments


@pytest.mark.parametrize(
    ("progress", "total", "message", "text"),
    [
        (1, 3, None, "1/3"),
        (0.5, 1, "half", "0.5/1 half"),
        (7, None, None, "7"),
        (7, 0, "seven\nlines", "7 seven lines"),
        (1, None, "x" * 300, "1 " + "x" * 198),
    ],
)
def test_progress_is_one_short_line(progress: float, total: float | None, message: str | None, text: str) -> None:
    assert repair.read_progress(progress, total, message) == text


@pytest.mark.parametrize("number", [repair.MAX_TOOLS - 1, repair.MAX_TOOLS, repair.MAX_TOOLS + 1])
def test_a_server_may_list_so_many_tools(number: int) -> None:
    tools = repair.read_tools("server", [{"name": f"tool{n}"} for n in range(number)])

    assert [tool.name for tool in tools] == [f"tool{n}" for n in range(min(number, repair.MAX_TOOLS))]


@pytest.mark.parametrize(
    ("length", "usable"), [(repair.MAX_NAME - 1, True), (repair.MAX_NAME, True), (repair.MAX_NAME + 1, False)]
)
def test_a_tools_name_may_be_so_long(length: int, usable: bool) -> None:
    tools = repair.read_tools("server", [{"name": "x" * length}, {"name": "other"}])

    assert [len(tool.name) for tool in tools] == ([length] if usable else []) + [5]


@pytest.mark.parametrize("length", [repair.MAX_DESCRIPTION - 1, repair.MAX_DESCRIPTION, repair.MAX_DESCRIPTION + 1])
def test_a_tools_description_is_cut(length: int) -> None:
    [tool] = repair.read_tools("server", [{"name": "a", "description": "x" * length}])

    assert len(tool.description) == min(length, repair.MAX_DESCRIPTION)


@pytest.mark.parametrize(("more", "usable"), [(-1, True), (0, True), (1, False)])
def test_a_tools_schema_may_be_so_large(more: int, usable: bool) -> None:
    empty = len('{"title":"","type":"object","properties":{}}')
    schema = {"title": "x" * (repair.MAX_SCHEMA - empty + more)}

    assert len(repair.read_tools("server", [{"name": "a", "inputSchema": schema}, {"name": "b"}])) == 1 + usable


@pytest.mark.parametrize(
    ("levels", "usable"), [(repair.MAX_LEVELS - 1, True), (repair.MAX_LEVELS, True), (repair.MAX_LEVELS + 1, False)]
)
def test_a_tools_schema_may_be_so_deep(levels: int, usable: bool) -> None:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}

    assert len(repair.read_tools("server", [{"name": "a", "inputSchema": schema}, {"name": "b"}])) == 1 + usable


@pytest.mark.parametrize("number", [repair.MAX_BLOCKS - 1, repair.MAX_BLOCKS, repair.MAX_BLOCKS + 1])
def test_a_result_may_have_so_many_blocks(number: int) -> None:
    result = repair.read_result({"content": [{"type": "text", "text": "x"}] * number})

    note = "\n[1 more blocks of this result were left out]" if number > repair.MAX_BLOCKS else ""
    assert result.text == "\n".join("x" * min(number, repair.MAX_BLOCKS)) + note


@pytest.mark.parametrize("length", [repair.MAX_TEXT - 1, repair.MAX_TEXT, repair.MAX_TEXT + 1])
def test_a_result_may_be_so_long(length: int) -> None:
    text = repair.read_result({"content": [{"type": "text", "text": "x" * length}]}).text

    note = "\n[the last 1 characters of this result were left out]" if length > repair.MAX_TEXT else ""
    assert len(text) == min(length, repair.MAX_TEXT) + len(note)
    assert text.endswith(note or "x")


@pytest.mark.parametrize("number", [repair.MAX_IMAGES - 1, repair.MAX_IMAGES, repair.MAX_IMAGES + 1])
def test_a_result_may_have_so_many_images(number: int) -> None:
    result = repair.read_result({"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}] * number})

    assert len(result.images) == min(number, repair.MAX_IMAGES)


def test_data_without_end_of_levels_is_told_and_not_shown() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    assert repair.read_result({"structuredContent": deep}).text == "[data that is nested too deeply to be shown]"
