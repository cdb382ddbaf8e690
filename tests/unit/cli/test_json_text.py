"""One member of a JSON text is changed; every other byte stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.cli.files import find_member, read_root, remove_member, set_member

ENTRY = {"command": "uvx", "args": ["lmstudio-bridge"]}
KEYS = ("mcpServers", "lmstudio-bridge")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)
indents = st.sampled_from([None, 0, 1, 2, 4, "\t"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "a": {\n    "b": {\n      "x": 1\n    }\n  }\n}\n'),
        ("{}", '{\n  "a": {\n    "b": {\n      "x": 1\n    }\n  }\n}'),
        ('{"z": 1.50}', '{"z": 1.50, "a": {"b": {"x": 1}}}'),
        ('{"a":{}}', '{"a":{"b": {"x": 1}}}'),
        ('{"a":{"c":2}}', '{"a":{"c":2, "b": {"x": 1}}}'),
        (
            '{\n\t"a": {\n\t\t"c": 2e5\n\t}\n}\n',
            '{\n\t"a": {\n\t\t"c": 2e5,\n\t\t"b": {\n\t\t\t"x": 1\n\t\t}\n\t}\n}\n',
        ),
        ('{\n    "a": {}\n}', '{\n    "a": {\n        "b": {\n            "x": 1\n        }\n    }\n}'),
        ('{\r\n  "z": 1\r\n}', '{\r\n  "z": 1,\r\n  "a": {\r\n    "b": {\r\n      "x": 1\r\n    }\r\n  }\r\n}'),
        ('{\n  "a": {"c": 2}\n}', '{\n  "a": {"c": 2, "b": {"x": 1}}\n}'),
        ('{"a": {"b": 7, "c": [1,  2]}}', '{"a": {"b": {"x": 1}, "c": [1,  2]}}'),
        ('{"a": 1, "a": {"b": 7}}', '{"a": 1, "a": {"b": {"x": 1}}}'),
    ],
)
def test_an_entry_is_written_as_the_rest_of_the_file_is(before: str, after: str) -> None:
    assert set_member(before, ("a", "b"), {"x": 1}) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": {"b": 1}}', '{"a": {}}'),
        ('{"a": {"b": 1, "c": 2}}', '{"a": {"c": 2}}'),
        ('{"a": {"c": 2, "b": 1}}', '{"a": {"c": 2}}'),
        ('{"a": {"c": 2, "b": 1, "d":3}}', '{"a": {"c": 2, "d":3}}'),
        ('{\n  "a": {\n    "c": 2,\n    "b": {\n    }\n  }\n}\n', '{\n  "a": {\n    "c": 2\n  }\n}\n'),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', '{"a": {"c": 2}}'),
        ('{"a": {"c": 2}}', '{"a": {"c": 2}}'),
        ('{"z":  0}', '{"z":  0}'),
        ("", ""),
    ],
)
def test_an_entry_is_taken_out_with_its_comma_and_nothing_else(before: str, after: str) -> None:
    assert remove_member(before, ("a", "b")) == after


@given(root=objects, servers=objects, indent=indents, ascii_only=st.booleans())
def test_an_entry_that_is_put_in_and_taken_out_leaves_no_trace(
    root: dict[str, Any], servers: dict[str, Any], indent: int | str | None, ascii_only: bool
) -> None:
    servers.pop(KEYS[1], None)
    text = json.dumps({**root, KEYS[0]: {"other": 1, **servers}}, indent=indent, ensure_ascii=ascii_only)

    with_it = set_member(text, KEYS, ENTRY)

    assert json.loads(with_it) == {**root, KEYS[0]: {"other": 1, **servers, KEYS[1]: ENTRY}}
    assert remove_member(with_it, KEYS) == text


@given(root=objects, indent=indents)
def test_objects_that_are_missing_on_the_way_are_made(root: dict[str, Any], indent: int | str | None) -> None:
    root.pop("projects", None)
    keys = ("projects", "/a b/ü", *KEYS)

    after = set_member(json.dumps(root, indent=indent), keys, ENTRY)

    assert json.loads(after) == {**root, "projects": {"/a b/ü": {KEYS[0]: {KEYS[1]: ENTRY}}}}
    assert find_member(read_root(after), keys) == ENTRY


@pytest.mark.parametrize(
    "text", ["[]", "1", "{", '{"mcpServers": []}', '{"mcpServers": 1}', '// c\n{"a": 1}', '{"a": 1,}', "[" * 9_000]
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        set_member(text, KEYS, ENTRY)
