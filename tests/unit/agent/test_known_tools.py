"""What is made of tools: when, how often, and how long it is kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lmstudio_bridge.agent.schemas import EMPTY_CHARS, MAX_WORK, SchemaWork, object_schema, parameter_names
from lmstudio_bridge.agent.tools import (
    KnownTool,
    KnownTools,
    Offer,
    PreparedCall,
    Selection,
    Toolbox,
    chars_of,
    known_offers,
)
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall
from lmstudio_bridge.runs.server_selection import choose_servers, known_candidates

TASK = "Write a letter to number 7."


class Watched(dict[str, Any]):
    """A part of a schema that counts how often it is looked into."""

    def __init__(self, **members: Any) -> None:
        super().__init__(members)
        self.reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)

    def items(self) -> Any:
        self.reads += 1
        return super().items()


def watched_tool(number: int) -> tuple[ServerTool, Watched, Watched]:
    """A tool, its schema, and the schema of its only parameter."""
    inner = Watched(type="string", description="Who gets it.")
    outer = Watched(type="object", properties={"address": inner}, required=["address"])
    return ServerTool("mail", f"send_{number}", f"Send letter number {number}.", outer), outer, inner


def run_with(tools: list[ServerTool], known: KnownTools) -> Toolbox:
    """What a run does with its tools: a toolbox, and a choice from it."""
    toolbox = Toolbox([replace(tool) for tool in tools], known=known)
    chars_of(toolbox.offers, most=math.inf)
    Selection(toolbox.offers, TASK, best_first=True)
    return toolbox


def offers(count: int) -> tuple[Offer, ...]:
    return Toolbox([watched_tool(number)[0] for number in range(count)]).offers


# -- how often --------------------------------------------------------------------------------------------------------


def test_a_further_run_with_the_same_tools_reads_none_of_their_schemas() -> None:
    known = known_offers()
    made = [watched_tool(number) for number in range(20)]
    tools = [tool for tool, _, _ in made]
    first = run_with(tools, known)
    read = [(outer.reads, inner.reads) for _, outer, inner in made]

    second = run_with(tools, known)

    assert all(outer >= 1 and inner == 1 for outer, inner in read)
    assert [(outer.reads, inner.reads) for _, outer, inner in made] == read
    assert all(one is other for one, other in zip(first.specs, second.specs, strict=True))
    words = [(one.words, other.words) for one, other in zip(first.offers, second.offers, strict=True)]
    assert all(one is other for one, other in words)


def test_a_further_choice_of_servers_reads_none_of_the_schemas() -> None:
    candidates = known_candidates()
    tool, outer, inner = watched_tool(7)
    known = {"mail": [tool], "clock": [ServerTool("clock", "now", "What time it is.")]}
    first = choose_servers(TASK, known, max_chars=10_000, candidates=candidates)
    read = outer.reads, inner.reads

    assert choose_servers(TASK, known, max_chars=10_000, candidates=candidates) == first
    assert (outer.reads, inner.reads) == read


def test_schemas_of_tools_for_which_there_is_no_room_are_not_cleaned() -> None:
    made = [watched_tool(number) for number in range(20)]
    toolbox = Toolbox([tool for tool, _, _ in made])
    size = Toolbox([made[7][0]]).offers[0].chars
    for _, _, inner in made:
        inner.reads = 0

    selection = Selection(toolbox.offers, TASK, max_chars=size)

    assert [spec.name for spec in selection.offered] == ["mail__send_7"]
    assert [tool.name for tool, _, inner in made if inner.reads] == ["send_7"]


def test_a_schema_is_made_ready_to_check_against_once_for_all_runs() -> None:
    known = known_offers()
    tool, _, inner = watched_tool(1)
    call = ToolCall("c1", "mail__send_1", '{"address": "Rome"}')
    before = Toolbox([tool], known=known)
    assert isinstance(before.prepare_call(call), PreparedCall)
    read = inner.reads

    assert isinstance(before.prepare_call(call), PreparedCall)
    assert isinstance(Toolbox([tool], known=known).prepare_call(call), PreparedCall)
    assert inner.reads == read


# -- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"description": "Burn it."}, {"title": "Burn"}, {"input_schema": {"type": "object", "properties": {}}}]
)
def test_a_tool_that_has_changed_is_made_anew(change: dict[str, Any]) -> None:
    known = known_offers()
    tool, _, _ = watched_tool(1)
    before = known.find(tool)
    changed = replace(tool, **change)

    assert known.find(replace(tool)) is before
    after = known.find(changed)
    assert after is not before
    assert (after.description, after.schema) == (changed.description, changed.input_schema)
    assert known.find(changed) is after


@pytest.mark.parametrize(("others", "kept"), [(998, True), (999, True), (1_000, False)])
def test_a_thousand_tools_are_kept(others: int, kept: bool) -> None:
    known = known_offers()
    first = ServerTool("mail", "send")
    before = known.find(first)

    for number in range(others):
        known.find(ServerTool("web", f"get_{number}"))

    assert (known.find(first) is before) is kept


@pytest.mark.parametrize(("count", "kept"), [(996, True), (997, True), (998, False)])  # and three of its name
def test_a_thousand_words_of_a_tool_are_kept(count: int, kept: bool) -> None:
    known = KnownTool("x", "word " * count, {})
    first = known.words(SchemaWork())

    assert list(first) == ["word"] * count + ["x"] * 3
    assert (known.words(SchemaWork()) is first) is kept


def test_a_name_that_was_taken_in_one_run_is_free_in_the_next() -> None:
    known = known_offers()
    one, other = ServerTool("s", "a-b"), ServerTool("s", "a.b")
    crowded = [offer.name for offer in Toolbox([one, other], known=known).offers]

    assert crowded[0] == "s__a_b"
    assert crowded[1].startswith("s__a_b_")
    assert [offer.name for offer in Toolbox([other], known=known).offers] == ["s__a_b"]
    assert [offer.name for offer in Toolbox([one, other], known=known).offers] == crowded


@pytest.mark.parametrize(("left", "properties"), [(0, {}), (2, {"path": {"type": "string"}})])
def test_a_schema_that_was_cut_short_for_one_run_is_whole_in_the_next(left: int, properties: JSONObject) -> None:
    tool = ServerTool("fs", "read", "", {"type": "object", "properties": {"path": {"type": "string"}}})
    known = known_offers().find(tool)
    cut = Offer(known, SchemaWork(left=left))

    assert cut.spec.parameters["properties"] == properties
    assert cut.spec is cut.spec
    assert Offer(known, SchemaWork()).spec.parameters["properties"] == {"path": {"type": "string"}}


def test_all_tools_of_a_run_share_its_work() -> None:
    properties = {f"p{number}": {"type": "string"} for number in range(1_990)}
    tools = [
        ServerTool("s", f"t{number:03}", input_schema={"type": "object", "properties": dict(properties)})
        for number in range(MAX_WORK // 1_991 + 3)
    ]

    specs = Toolbox(tools).specs

    assert [len(spec.parameters["properties"]) for spec in specs[-4:]] == [1_990, 1_990, 0, 0]


# -- how large --------------------------------------------------------------------------------------------------------


def test_characters_are_those_of_name_description_and_schema() -> None:
    [offer] = offers(1)
    spec = offer.spec

    assert offer.chars == len(spec.name) + len(spec.description) + len(json.dumps(spec.parameters))
    assert Toolbox([ServerTool("s", "t", "Does.")]).offers[0].least_chars == len("s__tDoes.") + EMPTY_CHARS
    assert Toolbox([ServerTool("s", "t", "Does.")]).offers[0].chars == len("s__tDoes.") + EMPTY_CHARS


@pytest.mark.parametrize(("more", "fits"), [(-1, False), (0, True), (1, True)])
def test_it_is_told_whether_all_have_room(more: int, fits: bool) -> None:
    most = sum(offer.chars for offer in offers(5)) + more

    taken = chars_of(offers(5), most=most)

    assert (taken <= most) is fits
    assert not fits or taken == most - more


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"a": {}, "b\u200b": {}, "c": True}},
        {"properties": []},
        {"properties": {str(number): {} for number in range(1_999)}},
        {"type": ["object", "string"], "properties": {"a": {}}},
    ],
)
def test_names_of_parameters_can_be_told_without_cleaning(schema: JSONObject) -> None:
    names = parameter_names(schema)

    assert names == (list(object_schema(schema)["properties"]) if schema.get("properties") != [] else None)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {}}}}},
        {"anyOf": [{"properties": {"x": {}}}, {"properties": {"y": {}}}]},
        {"allOf": [{"properties": {"x": {}}}]},
        {"oneOf": [{"properties": {"x": {}}}], "properties": {"y": {}}},
    ],
)
def test_names_that_stand_elsewhere_are_told_by_the_clean_schema(schema: JSONObject) -> None:
    [offer] = Toolbox([ServerTool("s", "t", "", schema)]).offers

    assert parameter_names(schema) is None
    assert {*object_schema(schema)["properties"], "s", "t"} == set(offer.words)
