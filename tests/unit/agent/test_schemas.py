"""Schemas as the engines get them: always plain, never without end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent import schemas as cleaning
from lmstudio_bridge.agent.schemas import MAX_NODES, SchemaWork
from lmstudio_bridge.messages import JSONObject

KEPT = {
    *("type", "description", "enum", "minimum", "maximum", "default"),
    *("properties", "required", "items", "additionalProperties", "anyOf"),
}
TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def nodes_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema in a cleaned schema, itself included."""
    yield schema
    children = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            children.append(schema[key])
    for child in children:
        yield from nodes_of(child)


def assert_plain(schema: dict[str, Any]) -> None:
    """The form that every engine takes (LM Studio reference, 9)."""
    assert schema["type"] == "object"
    assert isinstance(schema["properties"], dict)
    json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    nodes = list(nodes_of(schema))
    assert len(nodes) <= 2 * MAX_NODES  # a choice between forms offers the properties of all
    for node in nodes:
        assert set(node) <= KEPT
        assert node.get("type", "string") in TYPES
        assert set(node.get("required", [])) <= set(node.get("properties", {}))
        assert len(node.get("anyOf", [{}, {}])) > 1


def object_schema(schema: JSONObject, *, work: SchemaWork | None = None) -> dict[str, Any]:
    return cleaning.object_schema(schema, work=work).parameters


def property_of(schema: dict[str, Any], **root: Any) -> Any:
    """What becomes of one property `a` with this schema."""
    return object_schema({"type": "object", "properties": {"a": schema}, **root})["properties"]["a"]


# -- keywords -----------------------------------------------------------------------------------

STRING = {"type": "string"}
NUMBER = {"type": "number"}


@pytest.mark.parametrize(
    ("schema", "cleaned"),
    [
        ({}, {}),
        ({"type": "string", "description": "A path."}, {"type": "string", "description": "A path."}),
        ({"type": "integer", "minimum": 1, "maximum": 10}, {"type": "integer", "minimum": 1, "maximum": 10}),
        ({"type": "string", "enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"const": None}, {"enum": [None]}),
        ({"type": ["string", "null"]}, STRING),
        ({"type": ["null"]}, {"type": "null"}),
        ({"type": ["string", "number"]}, {"anyOf": [STRING, NUMBER]}),
        ({"type": ["string", "number", "null"], "description": "d"}, {"description": "d", "anyOf": [STRING, NUMBER]}),
        ({"anyOf": [STRING, {"type": "null"}], "default": None}, STRING),
        ({"oneOf": [STRING, NUMBER]}, {"anyOf": [STRING, NUMBER]}),
        ({"anyOf": [STRING, NUMBER, {"type": "null"}]}, {"anyOf": [STRING, NUMBER]}),
        ({"anyOf": [{"type": "null"}]}, {"type": "null"}),
        ({"anyOf": [STRING, {}]}, {}),
        ({"anyOf": []}, {}),
        ({"allOf": [STRING, {"description": "d"}]}, {"type": "string", "description": "d"}),
        ({"type": "array", "items": STRING, "minItems": 1, "uniqueItems": True}, {"type": "array", "items": STRING}),
        ({"type": "array", "items": [STRING, NUMBER]}, {"type": "array", "items": STRING}),
        ({"type": "array", "items": []}, {"type": "array"}),
        ({"type": "array", "items": True}, {"type": "array"}),
        ({"type": "object", "additionalProperties": STRING}, {"type": "object", "additionalProperties": STRING}),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"pattern": "(?=x)", "format": "uri", "minLength": 1, "maxLength": 9, "title": "T", "examples": []}, {}),
        ({"exclusiveMinimum": 0, "multipleOf": 2, "if": {}, "then": {}, "else": {}, "not": {}}, {}),
        ({"x-vendor": {"$ref": "#/x"}, "$anchor": "n", "$dynamicRef": "#n", "prefixItems": [{}]}, {}),
        (True, {}),
        (False, {}),
    ],
)
def test_keyword_is_kept_made_plain_or_left_out(schema: Any, cleaned: dict[str, Any]) -> None:
    assert property_of(schema) == cleaned


def test_parts_of_all_of_become_one_object() -> None:
    schema = {
        "allOf": [
            {"type": "object", "properties": {"x": STRING}, "required": ["x"]},
            {"properties": {"y": NUMBER}},
            {"required": ["y", "x", "z"]},
        ]
    }

    assert property_of(schema) == {"type": "object", "properties": {"y": NUMBER, "x": STRING}, "required": ["y", "x"]}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"type": "integer", "default": 20}, {"type": "integer", "default": 20}),
        ({"type": "boolean", "default": False}, {"type": "boolean", "default": False}),
        ({"type": ["string", "null"], "default": None}, {"type": "string", "default": None}),
        ({"type": "array", "default": []}, {"type": "array", "default": []}),
        ({"$ref": "#/$defs/limit"}, {"type": "integer", "default": 5}),
        ({"type": "string", "default": "x" * 198}, {"type": "string", "default": "x" * 198}),
        ({"type": "string", "default": "x" * 199}, {"type": "string"}),
        ({"type": "string", "default": "a\u202eb"}, {"type": "string"}),
        ({"type": "number", "default": float("nan")}, {"type": "number"}),
    ],
)
def test_required_parameter_with_a_default_may_be_left_out(given: dict[str, Any], shown: dict[str, Any]) -> None:
    """As in the schemas of Zod 4, whose servers accept calls without it."""
    root = {
        "properties": {"path": STRING, "a": given},
        "required": ["a", "path"],
        "$defs": {"limit": {"type": "integer", "default": 5}},
    }
    assert object_schema(root) == {"type": "object", "properties": {"path": STRING, "a": shown}, "required": ["path"]}
    nested = object_schema({"properties": {"box": root}, "$defs": root["$defs"]})
    assert nested["properties"]["box"] == {"properties": {"path": STRING, "a": shown}, "required": ["path"]}


def test_default_of_an_optional_parameter_is_not_shown() -> None:
    root = {"properties": {"path": STRING, "limit": {"type": "integer", "default": 5}}, "required": ["path"]}
    assert object_schema(root)["properties"]["limit"] == {"type": "integer"}


def test_property_may_be_named_like_a_keyword() -> None:
    properties = dict.fromkeys(("pattern", "$ref", "type", "enum", "properties", "required", "anyOf"), STRING)

    assert object_schema({"type": "object", "properties": properties, "required": ["pattern", "$ref"]}) == {
        "type": "object",
        "properties": properties,
        "required": ["pattern", "$ref"],
    }


def test_choice_between_whole_forms_offers_the_names_of_all() -> None:
    schema = {
        "oneOf": [
            {"type": "object", "properties": {"id": NUMBER}, "required": ["id"]},
            {"type": "object", "properties": {"name": STRING}, "required": ["name"]},
        ]
    }

    assert object_schema(schema) == {"type": "object", "properties": {"id": NUMBER, "name": STRING}}


@pytest.mark.parametrize(
    "broken",
    [
        *({"type": 5}, {"type": "text"}, {"type": [["string"]]}, {"type": {"string": 1}}, {"enum": {}}),
        *({"enum": "abc"}, {"enum": []}, {"enum": [float("nan")]}, {"enum": [{"a": 1}]}),
        *({"enum": [10**5000]}, {"minimum": "1"}, {"minimum": True}, {"minimum": float("nan")}),
        *({"maximum": float("inf")}, {"minimum": 10**400}, {"description": 5}, {"properties": []}),
        *({"properties": {"x": 5}}, {"required": "x"}, {"required": [[], {}, 5, "x"]}, {"items": 5}),
        *({"additionalProperties": 5}, {"anyOf": 5}, {"anyOf": [5, [], None]}),
        *({"allOf": [{"required": 3}, {"properties": 3}]}, {"$ref": 5}, {"$ref": "http://[/"}),
        *({"$ref": "#/nowhere/5"}, {"$ref": "#/properties/a/anyOf/7"}),
    ],
)
def test_broken_schema_becomes_a_plain_one(broken: dict[str, Any]) -> None:
    assert_plain(object_schema({"type": "object", "properties": {"a": broken}, "required": ["a"]}))
    assert_plain(object_schema(broken))


def test_half_of_a_surrogate_pair_does_not_reach_the_wire() -> None:
    """JavaScript servers leave them where they cut a text, and then the whole request could not be sent."""
    assert property_of({"type": "string", "description": "cut \ud83d", "enum": ["\ud83d"]}) == {
        "type": "string",
        "description": "cut ?",
        "enum": ["?"],
    }


@pytest.mark.parametrize(("length", "kept"), [(1_023, "d" * 1_023), (1_024, "d" * 1_024), (1_025, "d" * 1_024 + "…")])
def test_cut_description_of_a_property_is_marked(length: int, kept: str) -> None:
    assert property_of({"description": "d" * length}) == {"description": kept}


def test_list_of_values_that_would_fill_the_context_is_left_out() -> None:
    countries = {"type": "string", "enum": [f"country {n}" for n in range(1_000)]}

    assert property_of(countries) == {"type": "string"}


# -- references ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "root"),
    [
        ("#/$defs/Path", {"$defs": {"Path": STRING}}),
        ("#/definitions/Path", {"definitions": {"Path": STRING}}),
        ("#/$defs/a~1b~0c", {"$defs": {"a/b~c": STRING}}),
        ("#/$defs/a%20b", {"$defs": {"a b": STRING}}),
        ("#/$defs/Choice/anyOf/1", {"$defs": {"Choice": {"anyOf": [NUMBER, STRING]}}}),
        ("#/$defs/Alias", {"$defs": {"Alias": {"$ref": "#/$defs/Path"}, "Path": STRING}}),
    ],
)
def test_local_reference_is_replaced_by_what_it_points_to(reference: str, root: dict[str, Any]) -> None:
    assert property_of({"$ref": reference}, **root) == STRING


def test_words_beside_a_reference_win() -> None:
    root = {"$defs": {"Path": {"type": "string", "description": "general"}}}

    assert property_of({"$ref": "#/$defs/Path", "description": "special"}, **root) == {
        "type": "string",
        "description": "special",
    }


@pytest.mark.parametrize("reference", ["http://example.test/schema", "other.json#/a", "#anchor", "#/no/where", ""])
def test_reference_that_leads_nowhere_allows_anything(reference: str) -> None:
    assert property_of({"$ref": reference}) == {}


def test_reference_as_the_root_is_followed() -> None:
    schema = {"$ref": "#/definitions/In", "definitions": {"In": {"type": "object", "properties": {"x": STRING}}}}

    assert object_schema(schema) == {"type": "object", "properties": {"x": STRING}}


@pytest.mark.parametrize(
    "loop",
    [{"a": {"$ref": "#/$defs/a"}}, {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, {"a": {"$ref": "#"}}],
)
def test_reference_to_itself_allows_anything(loop: dict[str, Any]) -> None:
    assert property_of({"$ref": "#/$defs/a"}, **{"$defs": loop}) == {}


def test_recursive_type_is_shown_once() -> None:
    node = {
        "type": "object",
        "properties": {"name": STRING, "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    }

    assert property_of({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}}) == {
        "type": "object",
        "properties": {"name": STRING, "children": {"type": "array", "items": {}}},
    }


def test_references_that_double_at_each_level_stay_small() -> None:
    """Each of 40 levels points twice to the next: written out, 2 to the 40."""
    defs = {
        f"L{n}": {"properties": {"x": {"$ref": f"#/$defs/L{n + 1}"}, "y": {"$ref": f"#/$defs/L{n + 1}"}}}
        for n in range(40)
    }

    cleaned = object_schema({"properties": {"a": {"$ref": "#/$defs/L0"}, "z": STRING}, "$defs": defs})

    assert_plain(cleaned)
    assert cleaned["properties"]["z"] == STRING
    assert cleaned["properties"]["a"]["properties"]["y"]["properties"]["y"] != {}


def test_types_that_all_point_to_each_other_stay_small() -> None:
    names = [f"T{n}" for n in range(30)]
    defs = {name: {"properties": {other: {"$ref": f"#/$defs/{other}"} for other in names}} for name in names}

    assert_plain(object_schema({"properties": {"a": {"$ref": "#/$defs/T0"}}, "$defs": defs}))


@pytest.mark.parametrize(("count", "kept"), [(1_998, 1_998), (1_999, 1_999), (2_000, 2_000), (2_001, 2_000)])
def test_number_of_properties_is_bounded(count: int, kept: int) -> None:
    cleaned = object_schema({"properties": {f"p{n}": STRING for n in range(count)}})

    assert_plain(cleaned)
    assert len(cleaned["properties"]) == kept


def test_deep_schema_ends_in_anything() -> None:
    schema: dict[str, Any] = STRING
    for _ in range(500):
        schema = {"type": "object", "properties": {"x": schema}}

    cleaned = object_schema(schema)

    assert_plain(cleaned)
    assert len(list(nodes_of(cleaned))) == 14  # the root, twelve levels, and "anything"


# -- any schema at all --------------------------------------------------------------------------

words = st.sampled_from(["a", "b", "type", "$ref", "#/$defs/a", "#/$defs/b", "#/properties/a", "#", "string", "null"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(words | st.text(max_size=3), children, max_size=3)
    ),
    max_leaves=6,
)


def _grown(children: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.lists(children, max_size=3)
    named = st.dictionaries(words, children, max_size=3)
    types = st.sampled_from(sorted(TYPES))
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types | st.lists(types, max_size=3) | anything,
            "properties": named | anything,
            "required": st.lists(words, max_size=3) | anything,
            "items": children | lists | anything,
            "additionalProperties": children | st.booleans(),
            "anyOf": lists | anything,
            "oneOf": lists,
            "allOf": lists | anything,
            "$ref": words | anything,
            "$defs": named | anything,
            "enum": anything,
            "const": anything,
            "minimum": anything,
            "pattern": st.text(max_size=3),
            "description": st.text(max_size=3) | anything,
            "not": children,
        },
    )


schemas = st.recursive(st.just({"type": "string"}) | st.booleans() | anything, _grown, max_leaves=12)


@given(_grown(schemas))
def test_any_schema_becomes_a_plain_object_schema(schema: dict[str, Any]) -> None:
    assert_plain(object_schema(schema))


@given(_grown(schemas))
def test_plain_schema_stays_as_it_is(schema: dict[str, Any]) -> None:
    cleaned = object_schema(schema)

    assert object_schema(cleaned) == cleaned


# -- real servers: @modelcontextprotocol/server-filesystem, -memory, -everything -----------------

DRAFT_07 = "http://json-schema.org/draft-07/schema#"

EDITS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "oldText": {"type": "string", "description": "Text to search for - must match exactly"},
            "newText": {"type": "string", "description": "Text to replace with"},
        },
        "required": ["oldText", "newText"],
    },
}
TEXTS = {"type": "array", "items": STRING}
OBSERVATION = {
    "type": "object",
    "properties": {"entityName": STRING, "contents": TEXTS},
    "required": ["entityName", "contents"],
}
OBSERVATIONS = {"observations": {"type": "array", "items": OBSERVATION}}
KINDS = {"type": "string", "enum": ["resourceLink", "resource"]}


def real(given: JSONObject, cleaned: JSONObject, *required: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A server's schema with these properties, and what the engine gets of it."""
    more = {"required": list(required)} if required else {}
    whole = {"$schema": DRAFT_07, "type": "object", "properties": given, **more}
    return whole, {"type": "object", "properties": cleaned, **more}


REAL = {
    "filesystem edit_file": real(
        {"path": STRING, "edits": EDITS, "dryRun": {"default": False, "type": "boolean"}},
        {"path": STRING, "edits": EDITS, "dryRun": {"type": "boolean"}},
        *("path", "edits"),
    ),
    "filesystem read_multiple_files": real({"paths": {"minItems": 1, **TEXTS}}, {"paths": TEXTS}, "paths"),
    "filesystem list_allowed_directories": real({}, {}),
    "memory add_observations": real(OBSERVATIONS, OBSERVATIONS, "observations"),
    "everything get-resource-links": real(
        {"count": {"default": 3, "type": "number", "minimum": 1, "maximum": 10}},
        {"count": {"type": "number", "minimum": 1, "maximum": 10}},
    ),
    "everything gzip-file-as-resource": real(
        {
            "data": {"default": "data:,x", "type": "string", "format": "uri"},
            "outputType": {"default": "resource", **KINDS},
        },
        {"data": STRING, "outputType": KINDS},
    ),
}


@pytest.mark.parametrize("tool", REAL)
def test_schemas_of_real_servers_lose_only_what_engines_cannot_read(tool: str) -> None:
    schema, cleaned = REAL[tool]

    assert object_schema(schema) == cleaned
    assert_plain(cleaned)


def test_what_a_reader_cannot_see_is_in_no_word_of_a_schema() -> None:
    """A hidden order is as good in a parameter as in the tool's description."""
    hidden = "\u202e\x1b[8m\U000e0041"
    schema = {
        "properties": {
            "path": {"type": "string", "description": f"The {hidden}path."},
            "mode": {"type": "string", "enum": ["fast", f"slow{hidden}"]},
            "kind": {"const": f"one{hidden}"},
            f"order{hidden}": {"type": "string"},
            "deep": {"type": "array", "items": {"type": "string", "description": hidden}},
        },
        "required": ["path", f"order{hidden}"],
    }

    assert object_schema(schema) == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The path."},
            "mode": {"type": "string"},
            "kind": {},
            "deep": {"type": "array", "items": {"type": "string", "description": ""}},
        },
        "required": ["path"],
    }


@pytest.mark.parametrize(("left", "read"), [(0, False), (1, True), (2, True)])
def test_a_schema_is_read_as_long_as_work_is_left(left: int, read: bool) -> None:
    """The first schema of a tool is looked at whole, whatever it costs: its size is bounded."""
    work = SchemaWork(left)

    cleaned = object_schema({"properties": {"a": {"type": "string"}}}, work=work)

    assert cleaned["properties"] == ({"a": {"type": "string"}} if read else {})
    assert work.left == (left - 2 if read else 0)


@pytest.mark.parametrize(("hops", "found"), [(15, True), (16, True), (17, False)])
def test_references_to_references_are_followed_so_far(hops: int, found: bool) -> None:
    chain: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(hops)}
    schema = {"properties": {"a": {"$ref": "#/$defs/d1"}}, "$defs": {**chain, f"d{hops}": {"type": "string"}}}

    assert object_schema(schema)["properties"] == {"a": {"type": "string"} if found else {}}


def test_a_server_cannot_stall_the_bridge_with_chains_of_references() -> None:
    """There is no limit to wait for here: this took minutes for a handful of tools."""
    chain: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1_200)}
    work = SchemaWork()
    for _ in range(50):
        object_schema({"properties": {f"q{n}": {"$ref": "#/$defs/d0"} for n in range(300)}, "$defs": chain}, work=work)

    assert work.left <= 0
