"""Arguments as small models write them, and what may be made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.arguments import Arguments, read_arguments, read_json, replayable_arguments

READ: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "head": {"type": "integer"},
        "deep": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object", "properties": {"depth": {"type": "integer"}}},
        "ratio": {"type": "number"},
    },
    "required": ["path"],
}


def values(text: str, parameters: dict[str, Any] = READ) -> dict[str, Any]:
    return read_arguments(text, parameters).values


@pytest.mark.parametrize(
    "text",
    [
        """{'path': 'a.txt'}""",
        """{"path": "a.txt",}""",
        """{path: "a.txt"}""",
        """{"path": "a.txt"} and then I stop""",
        """Arguments: {"path": "a.txt"}""",
        """{"path": "a.txt"}\n</tool_call>""",
        json.dumps(json.dumps({"path": "a.txt"})),
        """{'path': 'a.txt'}{'path': 'a.txt'}""",
    ],
)
def test_slightly_wrong_json_is_repaired(text: str) -> None:
    assert values(text) == {"path": "a.txt"}


@pytest.mark.parametrize(
    "text",
    [
        """{"path": "a.txt"}{"path": "b.txt"}""",
        """{'path': 'a.txt'}\n{'path': 'b.txt'}""",
        """[{'path': 'a.txt'}, {'path': 'b.txt'}]""",
        """{'path': 'a.txt'} and {"path": "b""",
    ],
)
def test_a_repair_never_drops_a_second_object(text: str) -> None:
    with pytest.raises(ValueError, match="more than one JSON object"):
        read_arguments(text, READ)


def test_python_words_are_read_as_json_ones() -> None:
    assert values("{'path': 'a', 'deep': True, 'head': None}") == {"path": "a", "deep": True}


@pytest.mark.parametrize(
    "text",
    [
        "{'path': 'it's here.txt'}",
        r'{"path": "C:\new\dir"}',
        "{'path': 'it''s.txt'}",
        '{"path": "a" "b.txt"}',
        '{"path": `a.txt`}',
        '{"path": """a"b"""}',
        '{"path": undefined}',
    ],
)
def test_what_a_repair_would_change_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        read_arguments(text, READ)


def test_line_breaks_inside_a_text_stay_as_they_are() -> None:
    assert values('{"path": "one\ntwo"}') == {"path": "one\ntwo"}


@pytest.mark.parametrize("cut", range(1, len(json.dumps({"path": "a.txt", "content": "half of a file's {text}"}))))
def test_a_text_that_was_cut_off_is_refused_wherever_it_was_cut(cut: int) -> None:
    """Half a file's content, written over the whole, is worse than a refusal (ours)."""
    whole = json.dumps({"path": "a.txt", "content": "half of a file's {text}"})

    with pytest.raises(ValueError, match="cut off"):
        read_arguments(whole[:cut], {"type": "object", "properties": {}})


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), min_size=1, max_size=3), st.data())
def test_no_cut_of_any_object_is_taken_for_a_whole_one(original: dict[str, str], data: st.DataObject) -> None:
    text = json.dumps(original)
    cut = data.draw(st.integers(1, len(text) - 1))

    with pytest.raises(ValueError, match=r"cut off|not valid JSON"):
        read_arguments(text[:cut], {"type": "object", "properties": {}})


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        ),
        max_size=4,
    )
)
def test_valid_json_without_a_schema_is_left_as_it_is(original: dict[str, Any]) -> None:
    text = json.dumps(original)

    assert read_arguments(text, {"type": "object", "properties": {}}) == Arguments(json.loads(text))


@pytest.mark.parametrize(
    ("name", "given_value", "wanted"),
    [
        ("head", "5", 5),
        ("head", 5.0, 5),
        ("head", "-3", -3),
        ("ratio", "0.5", 0.5),
        ("ratio", "7", 7),
        ("deep", "true", True),
        ("deep", "False", False),
        ("deep", 1, True),
        ("path", 7, "7"),
        ("path", True, "true"),
        ("path", {"name": "demo"}, '{"name": "demo"}'),
        ("path", ["a", 1.5], '["a", 1.5]'),
        ("tags", '["a", "b"]', ["a", "b"]),
        ("tags", "a", ["a"]),
        ("tags", ["a", 5], ["a", "5"]),
        ("options", '{"depth": "2"}', {"depth": 2}),
        ("options", {"depth": "2"}, {"depth": 2}),
    ],
)
def test_values_are_converted_by_the_schema(name: str, given_value: Any, wanted: Any) -> None:
    result = read_arguments(json.dumps({"path": "a.txt", name: given_value}), READ)

    assert result.values[name] == wanted
    assert type(result.values[name]) is type(wanted)
    assert result.changes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "true"),
        ("path", "5"),
        ("path", '["a"]'),
        ("head", "five"),
        ("head", 5.5),
        ("deep", "maybe"),
        ("tags", "[broken"),
        ("options", "no"),
        ("head", True),
    ],
)
def test_values_that_are_right_or_doubtful_are_left_for_the_validator(name: str, value: Any) -> None:
    """A file whose content is the word true must stay that (an earlier bridge made it a boolean)."""
    assert values(json.dumps({"path": "a.txt", name: value}))[name] == value


ANY_TEXT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "version": {"type": "string"},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"enum": ["1.10", "2"]},
        "many": {"type": "array", "items": {"type": "string"}},
        "deep": {"type": "object", "properties": {"text": {"type": ["string", "null"]}}},
        "number": {"type": "number"},
        "any": {},
    },
}
WRITTEN = [
    "1.10",
    "1e5",
    "-0",
    "10000000000000000000000.0",
    "12e4567",
    "true",
    "false",
    '{"a":  1.10, "a": [1e5]}',
    "[]",
]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"version": %s}', lambda got: got["version"]),
        ('{ "version" :%s , "any": 1}', lambda got: got["version"]),
        ('{"version": "x", "version": %s}', lambda got: got["version"]),
        ('{"Version": %s}', lambda got: got["version"]),
        ('{"either": %s}', lambda got: got["either"]),
        ('{"one": %s}', lambda got: got["one"]),
        ('{"many": ["a", %s, "b"]}', lambda got: got["many"][1]),
        ('{"any": [{"text": 1}], "deep": {"b": {}, "text": %s}}', lambda got: got["deep"]["text"]),
        ('{"deep": "{\\"text\\": 1.10}", "version": %s}', lambda got: got["version"]),
    ],
)
def test_a_value_for_a_string_is_its_text_as_written(
    written: str, text: str, place: Callable[[dict[str, Any]], Any]
) -> None:
    assert place(values(text % written, ANY_TEXT)) == written


def test_objects_that_are_encoded_as_strings_keep_what_was_written_in_them() -> None:
    assert values(json.dumps('{"version": 1.10}'), ANY_TEXT) == {"version": "1.10"}
    assert values('{"deep": "{\\"text\\": 1.10}"}', ANY_TEXT) == {"deep": {"text": "1.10"}}


@pytest.mark.parametrize("digits", ["007", "1_000", "+5", ".5", "0x1F", "5."])
def test_what_is_no_number_of_json_is_kept_as_it_was_written(digits: str) -> None:
    assert values(f"{{path: {digits}}}") == {"path": digits}


def test_what_is_no_number_of_json_is_one_where_the_tool_wants_one() -> None:
    numbers = {"properties": {"i": {"type": "integer"}, "f": {"type": "number"}}}

    assert values("{i: 1_000, f: .5}", numbers) == {"i": 1000, "f": 0.5}
    assert values("{i: 007, f: 5.}", numbers) == {"i": 7, "f": 5.0}


@pytest.mark.parametrize("digits", ["1.10", "1e5", "0.0", "-3"])
def test_numbers_keep_their_digits_in_json_that_was_repaired(digits: str) -> None:
    text = f"{{'version': {digits}, 'any': 'a, {digits}, b', 'number': {digits}, 'many': [{digits}]}}"

    read = values(text, ANY_TEXT)

    assert read == {"version": digits, "any": f"a, {digits}, b", "number": float(digits), "many": [digits]}


def test_numbers_stay_numbers_where_the_schema_takes_them() -> None:
    assert values('{"number": 1.10, "any": 1e5}', ANY_TEXT) == {"number": 1.1, "any": 100000.0}


@pytest.mark.parametrize("written", ["12e4567", "NaN", "-Infinity"])
def test_a_number_that_json_cannot_hold_is_a_text_or_refused(written: str) -> None:
    assert values(f'{{"version": {written}}}', ANY_TEXT) == {"version": written}
    with pytest.raises(ValueError, match="not JSON compliant"):
        values(f'{{"any": {written}}}', ANY_TEXT)


@given(st.recursive(st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5))
def test_any_value_but_a_string_is_written_back_as_it_was(value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False)

    read = values(f'{{"any": 1, "version": {written}}}', ANY_TEXT)

    assert read["version"] == (value if isinstance(value, str) else written)


# -- what goes back into the history ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{}", ' {"a" : 1.10}\n', '{"a": 1, "a": 2}', '{"a": "\\ud83d\\ude00 \u00e9"}', '{"version":true}']
)
def test_a_valid_object_is_replayed_byte_for_byte(text: str) -> None:
    assert replayable_arguments(text) == text


@pytest.mark.parametrize(
    ("text", "replayed"),
    [
        ("", "{}"),
        ("null", "{}"),
        ("[]", "{}"),
        ("5", "{}"),
        ("{'path': 'a.md'}", '{"path": "a.md"}'),
        ("{'version': 1.10}", '{"version": 1.10}'),
        ('{"path": "a.m', "{}"),
        ('{"path": "one\ntwo"}', '{"path": "one\\ntwo"}'),
        ('"{\\"path\\": \\"a.md\\"}"', '{"path": "a.md"}'),
        ('```json\n{"path": "a.md"}\n```', '{"path": "a.md"}'),
        ('{"path": "a"}{"path": "b"}', "{}"),
        ('{"a": NaN}', "{}"),
        ('{"a": 1e999}', "{}"),
        ('{"a": "\\ud83d"}', "{}"),
        ('{"a": ' * 100 + "1" + "}" * 100, "{}"),
    ],
)
def test_anything_else_is_replayed_as_the_object_that_was_read_or_as_an_empty_one(text: str, replayed: str) -> None:
    assert replayable_arguments(text) == replayed


@given(st.text(max_size=40) | st.text("{}[]\"':,\\u0ad8 \n1.e", max_size=40))
def test_whatever_was_sent_what_is_replayed_is_one_valid_object(text: str) -> None:
    replayed = replayable_arguments(text)

    assert isinstance(json.loads(replayed), dict)
    replayed.encode()
    assert replayable_arguments(replayed) == replayed


@pytest.mark.parametrize("alias", ["file_path", "filePath", "filename", "PATH", "file"])
def test_a_usual_alias_is_taken_for_the_one_parameter_that_it_fits(alias: str) -> None:
    result = read_arguments(json.dumps({alias: "a.txt"}), READ)

    assert result == Arguments({"path": "a.txt"}, (f"{alias} was taken as path",))


@pytest.mark.parametrize(
    ("given_values", "properties"),
    [
        ({"file": "a"}, ["path", "filename"]),  # two would fit
        ({"file": "a", "filename": "b"}, ["path"]),  # two want it
        ({"colour": "red"}, ["path"]),  # nothing fits
        ({"file": "a", "path": "b"}, ["path"]),  # it is taken
    ],
)
def test_a_name_that_does_not_fit_exactly_one_parameter_is_left(
    given_values: dict[str, str], properties: list[str]
) -> None:
    parameters = {"type": "object", "properties": {name: {"type": "string"} for name in properties}}

    assert values(json.dumps(given_values), parameters) == given_values


def test_null_for_an_optional_parameter_is_the_same_as_leaving_it_out() -> None:
    assert values('{"path": "a", "head": null}') == {"path": "a"}
    assert values('{"path": null}') == {"path": None}, "a required one is for the validator to refuse"


@given(st.text(max_size=60))
def test_any_text_gives_an_object_or_a_refusal(text: str) -> None:
    try:
        result = read_arguments("{" + text, READ)
    except ValueError:
        return
    assert isinstance(result.values, dict)


@pytest.mark.parametrize(("number", "repaired"), [(199, True), (200, True), (201, False)])
def test_a_text_with_so_many_parentheses_is_repaired(number: int, repaired: bool) -> None:
    """For each that may begin a tuple of Python's, the repairer reads on to the end."""
    text = "{'a': 'x', b: " + "()" * number + "}"

    if repaired:
        assert read_arguments(text, {}).changes
    else:
        with pytest.raises(ValueError, match="not valid JSON"):
            read_arguments(text, {})


@pytest.mark.parametrize("unit", ["(", '("', "'", "```json\n", "{", "'a': 'b, "])
def test_arguments_without_end_are_refused_or_read_in_time_that_grows_with_them(unit: str) -> None:
    with suppress(ValueError):
        read_arguments("{'a': [" + unit * (49_000 // len(unit)) + "]}", {})
    with suppress(ValueError):
        read_json(unit * (300_000 // len(unit)))
