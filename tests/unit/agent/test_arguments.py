"""Arguments as small models write them, and what may be made of them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.arguments import Arguments, read_arguments, read_json

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
        """{"path": "a.txt"}{"path": "b.txt"}""",
    ],
)
def test_slightly_wrong_json_is_repaired(text: str) -> None:
    assert values(text) == {"path": "a.txt"}


def test_python_words_are_read_as_json_ones() -> None:
    assert values("{'path': 'a', 'deep': True, 'head': None}") == {"path": "a", "deep": True}


@pytest.mark.parametrize("text", ["{'path': 'it's here.txt'}", r'{"path": "C:\new\dir"}'])
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
        ("tags", '["a", "b"]', ["a", "b"]),
        ("tags", "a", ["a"]),
        ("tags", ["a", 5], ["a", "5"]),
        ("options", '{"depth": "2"}', {"depth": 2}),
        ("options", {"depth": "2"}, {"depth": 2}),
    ],
)
def test_values_are_converted_by_the_schema(name: str, given_value: Any, wanted: Any) -> None:
    text = json.dumps({"path": "a.txt", name: given_value})

    result = read_arguments(text, READ)

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
    text = json.dumps({"path": "a.txt", name: value})

    assert values(text)[name] == value


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
