"""The tools on offer: which are chosen, in which order, and how more are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.schemas import SchemaWork
from lmstudio_bridge.agent.tools import FIND_TOOLS, Tool, ToolSelection, make_tool
from lmstudio_bridge.messages import ServerTool, ToolCall, ToolSpec


def tool(name: str, description: str = "", **properties: object) -> ToolSpec:
    return ToolSpec(name, description, {"type": "object", "properties": properties})


READ = tool("fs__read_file", "Read a file.", path={"type": "string"})
WRITE = tool("fs__write_file", "Write a file.", path={"type": "string"})
TIME = tool("time__now", "Tell the current time in a city.", timezone={"type": "string"})
MAIL = tool("mail__send", "Send a letter to somebody.", address={"type": "string"})
ALL = (MAIL, READ, TIME, WRITE)


def size(*specs: ToolSpec) -> int:
    return sum(len(spec.name) + len(spec.description) + len(json.dumps(spec.parameters)) for spec in specs)


def tools(specs: Sequence[ToolSpec]) -> list[Tool]:
    return [
        make_tool(
            ServerTool("s", "t", "", spec.parameters), name=spec.name, description=spec.description, work=SchemaWork()
        )
        for spec in specs
    ]


def select(specs: Sequence[ToolSpec], task: str, **options: Any) -> ToolSelection:
    return ToolSelection(tools(specs), task, **options)


def names(specs: tuple[ToolSpec, ...]) -> list[str]:
    return [spec.name for spec in specs]


def requires(name: str, *parameters: str) -> ToolSpec:
    properties = {each: {"type": "string"} for each in parameters}
    return ToolSpec(name, "", {"type": "object", "properties": properties, "required": list(parameters)})


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_without_limits_all_are_offered_in_the_order_of_the_toolbox() -> None:
    selection = select(ALL, "What time is it?")

    assert (selection.offered, selection.left_out) == (ALL, 0)


@pytest.mark.parametrize(("more", "offered"), [(-1, (TIME,)), (0, (READ, TIME)), (1, (READ, TIME))])
def test_the_best_that_fit_the_room_are_offered_in_the_order_of_the_toolbox(
    more: int, offered: tuple[ToolSpec, ...]
) -> None:
    selection = select((READ, TIME), "What time is it in this city?", max_chars=size(TIME, READ) + more)

    assert (selection.offered, selection.left_out) == (offered, 2 - len(offered))


@pytest.mark.parametrize("room", [0, 1, size(TIME) - 1, size(TIME)])
def test_the_best_is_offered_however_little_room_there_is(room: int) -> None:
    assert select(ALL, "What time is it in this city?", max_chars=room).offered == (TIME,)


def test_a_smaller_tool_takes_the_room_that_is_too_small_for_a_better_one() -> None:
    huge = tool("files__read", "Read a file. " * 50)

    assert select((huge, READ, MAIL), "Send a letter.", max_chars=size(MAIL, READ)).offered == (READ, MAIL)


@pytest.mark.parametrize(("most", "offered"), [(1, (TIME,)), (3, (MAIL, READ, TIME)), (4, ALL), (5, ALL)])
def test_no_more_tools_than_asked_for_are_offered(most: int, offered: tuple[ToolSpec, ...]) -> None:
    assert select(ALL, "What time is it in this city?", max_tools=most).offered == offered


def test_the_best_stand_first_where_that_is_asked_for() -> None:
    selection = select(ALL, "Write the time into a file.", best_first=True)

    assert names(selection.offered) == ["fs__write_file", "time__now", "fs__read_file", "mail__send"]


@pytest.mark.parametrize(
    ("task", "searches"),
    [
        ("Read a.txt and keep it.", False),
        ("Read a.txt and keep it in the memory.", True),
        ("Read memory/a.txt and keep it.", False),
    ],
)
def test_every_server_has_its_share_of_the_places(task: str, searches: bool) -> None:
    """Beside a server with many tools for files, a run had none of the memory that its task was about."""
    work = SchemaWork()
    given = [
        make_tool(ServerTool(server, name, "", spec.parameters), name=spec.name, description="", work=work)
        for server, name, spec in [
            *(("fs", f"read_{number}", tool(f"fs__read_{number}", path={"type": "string"})) for number in range(20)),
            *(("memory", f"keep_{number}", tool(f"memory__keep_{number}")) for number in range(9)),
            ("memory", "search_nodes", tool("memory__search_nodes")),
        ]
    ]
    offered = ToolSelection(given, task, max_tools=16, best_first=True, paths_first=True).offered

    assert len(offered) == 16
    assert sum(spec.name.startswith("memory__") for spec in offered) == 4
    assert ("memory__search_nodes" in names(offered)) is searches
    assert all(spec.name.startswith("fs__") for spec in offered[:12])


def test_words_and_meaning_count_the_same_where_both_are_known() -> None:
    """Reciprocal rank fusion: what is first in one ranking and second in the other wins."""
    similar = {"mail__send": 0.9, "fs__write_file": 0.8, "time__now": -0.2}

    selection = select(ALL, "Write the time into a file.", best_first=True, similar=similar)
    assert names(selection.offered) == ["fs__write_file", "mail__send", "time__now", "fs__read_file"]
    unmatched = select(ALL, "Größe?", best_first=True, similar=similar)
    assert names(unmatched.offered)[:2] == ["mail__send", "fs__write_file"]
    without = select(ALL, "Write the time into a file.", best_first=True, similar={})
    assert names(without.offered)[0] == "fs__write_file"


def test_tools_that_a_task_says_nothing_of_stay_in_their_order() -> None:
    assert select(ALL, "Größe?", best_first=True).offered == ALL


def test_no_tools_are_no_selection() -> None:
    selection = select((), "What time is it?", max_chars=10)

    assert (selection.offered, selection.left_out, selection.find("time")) == ((), 0, ())


@pytest.mark.parametrize(
    ("task", "description"),
    [
        ("Read the files", "file"),
        ("Write the note", "notes"),
        ("Search the addresses", "address"),
        ("What are the times?", "time"),
        ("Move it", "moved moving moves"),
        ("the classes", "a class"),
        ("List the directory", "directories"),
    ],
)
def test_forms_of_a_word_are_one_word(task: str, description: str) -> None:
    other, fitting = tool("a", "something else"), tool("b", description)

    assert select((other, fitting), task, max_tools=1).offered == (fitting,)


def test_a_word_in_the_name_counts_more_than_one_in_the_description() -> None:
    described, named = tool("a", "a clock of iron"), tool("b__clock", "a thing of iron")

    assert select((described, named), "clock", max_tools=1).offered == (named,)


def test_a_rare_word_counts_more_than_one_that_all_tools_have() -> None:
    specs = (*[tool(f"a{n}", "a file that is a file") for n in range(5)], tool("b", "file of dragons now"))

    assert select(specs, "file of dragons", max_tools=1).offered == (specs[-1],)


words = st.sampled_from(["read", "write", "file", "time", "city", "letter", "send", "now", "the", "a", "list", "of"])
texts = st.lists(words, max_size=8).map(" ".join)
toolboxes = st.lists(texts, max_size=12).map(lambda found: [tool(f"t{n}", text) for n, text in enumerate(found)])


@given(toolboxes, texts, st.integers(0, 600) | st.none(), st.integers(1, 12) | st.none(), st.booleans())
def test_the_limits_hold_and_the_choice_is_always_the_same(
    specs: list[ToolSpec], task: str, max_chars: int | None, max_tools: int | None, best_first: bool
) -> None:
    chosen = [
        select(specs, task, max_chars=max_chars, max_tools=max_tools, best_first=best_first).offered for _ in range(2)
    ]

    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == len(set(names(chosen[0])))
    assert (len(chosen[0]) > 0) == bool(specs)
    assert max_tools is None or len(chosen[0]) <= max_tools
    assert max_chars is None or len(chosen[0]) <= 1 or size(*chosen[0]) <= max_chars
    assert best_first or chosen[0] == tuple(spec for spec in specs if spec in chosen[0])


def test_the_choice_is_the_same_in_every_process() -> None:
    """Python orders sets of words otherwise in each process, and sums of floats depend on their order."""
    code = (
        "from lmstudio_bridge.agent.tool_ranking import Index;"
        "from lmstudio_bridge.agent.tools import ToolSelection;"
        "from lmstudio_bridge.agent.tools import ToolSet;"
        "from lmstudio_bridge.messages import ServerTool;"
        "words = 'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu'.split();"
        "tools = [ServerTool('s', f't{n}', ' '.join(words[n % 5:] + words[:n % 7])) for n in range(40)];"
        "s = ToolSelection(ToolSet(tools).tools, ' '.join(words), best_first=True);"
        "scores = Index(ToolSet(tools).tools).scores(' '.join(words));"
        "print([spec.name for spec in s.offered], list(map(repr, scores)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(seen) == 1


def test_two_hundred_tools_are_ranked() -> None:
    specs = [tool(f"s{n}__do", f"Does the thing number {n} with files and letters.", path={}) for n in range(200)]

    selection = select(specs, "Do thing number 177", max_chars=2_000)

    assert "s177__do" in names(selection.offered)
    assert size(*selection.offered) <= 2_000


# -- finding more -----------------------------------------------------------------------------------------------------


def find(selection: ToolSelection, arguments: str) -> tuple[str, bool] | None:
    return selection.answer(ToolCall("c1", "find_tools", arguments))


def test_tools_that_are_found_come_after_those_that_were_there() -> None:
    selection = select(ALL, "What time is it in this city?", max_tools=1)

    found = find(selection, '{"query": "send a letter"}')

    assert found == ("These can be called now:\n- mail__send: Send a letter to somebody.", False)
    assert names(selection.offered) == ["time__now", "mail__send"]
    assert find(selection, '{"query": "reading files"}') == (
        "These can be called now:\n- fs__read_file: Read a file.\n- fs__write_file: Write a file.",
        False,
    )
    assert names(selection.offered)[2:] == ["fs__read_file", "fs__write_file"]


@pytest.mark.parametrize("query", ["time", "dragons", "", "the"])
def test_a_search_that_brings_nothing_new_leaves_the_offer_as_it_was(query: str) -> None:
    selection = select(ALL, "What time is it in this city?", max_tools=1)
    before = selection.offered

    assert find(selection, json.dumps({"query": query})) == (
        "No other tool fits that. Use the ones that you have.",
        False,
    )
    assert selection.offered == before


@pytest.mark.parametrize(("fitting", "brought"), [(4, 4), (5, 5), (6, 5)])
def test_a_search_brings_in_so_many_at_once(fitting: int, brought: int) -> None:
    specs = [TIME, *[tool(f"letters{n}", "Send a letter.") for n in range(fitting)]]

    assert len(select(specs, "time in a city", max_tools=1).find("letter")) == brought


@pytest.mark.parametrize(("length", "shown"), [(199, 199), (200, 200), (201, 200)])
def test_a_long_description_of_a_found_tool_is_cut(length: int, shown: int) -> None:
    selection = select([TIME, tool("mail", "x" * length)], "time in a city", max_tools=1)

    assert find(selection, '{"query": "mail"}') == (f"These can be called now:\n- mail: {'x' * shown}", False)


@pytest.mark.parametrize("arguments", ["", "{}", "{", "[]", '{"other": 5}'])
def test_a_search_without_a_query_is_an_error_that_says_so(arguments: str) -> None:
    found = find(select(ALL, "time", max_tools=1), arguments)

    assert found is not None
    assert found[0].startswith("find_tools was not done: it needs a query (")
    assert found[1] is True


def test_calls_of_other_tools_are_not_answered_here() -> None:
    assert select(ALL, "time").answer(ToolCall("c1", "fs__find_tools", "{}")) is None
    assert FIND_TOOLS.name == "find_tools"


def test_a_tool_that_was_removed_is_not_found_again() -> None:
    selection = select(ALL, "time")

    selection.remove({"mail__send", "find_tools"})

    assert selection.find("send a letter") == ()
    assert selection.offered == (READ, TIME, WRITE)
    assert [selection.is_removed(name) for name in ("mail__send", "time__now")] == [True, False]


@given(toolboxes, st.lists(texts, max_size=4))
def test_finding_only_adds_at_the_end(specs: list[ToolSpec], queries: list[str]) -> None:
    selection = select(specs, "read a file", max_tools=2)
    for query in queries:
        before = selection.offered
        found = selection.find(query)
        assert selection.offered == (*before, *found)
        assert not set(names(found)) & set(names(before))


# -- small models -----------------------------------------------------------------------------------------------------


def test_words_for_the_same_thing_are_one() -> None:
    tools = (tool("fs__list_directory"), tool("fs__move_file"), tool("fs__stat"))

    assert names(select(tools, "What is in this folder?", best_first=True).offered)[0] == "fs__list_directory"
    assert names(select(tools, "Rename a.txt.", best_first=True).offered)[0] == "fs__move_file"


def test_what_its_server_calls_deprecated_comes_last() -> None:
    old = tool("fs__read_file", "Read a file. DEPRECATED: use read_text.", path={"type": "string"})
    new = tool("fs__read_text", "Read the text of something.", path={"type": "string"})

    assert names(select((old, TIME, new), "Read the file a.txt.", best_first=True).offered)[-1] == "fs__read_file"


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ((requires("fs__search_files", "path"), requires("fs__list_directory", "path")), "fs__list_directory"),
        ((requires("fs__search_files", "path"), requires("fs__tree", "path")), "fs__tree"),
        ((requires("fs__list_all"), requires("fs__list_by", "kind"), requires("fs__listed", "path")), ""),
        ((requires("git__list_files", "path"),), ""),
        ((), ""),
    ],
)
def test_what_shows_the_names_for_a_tool_is_of_its_server_and_takes_what_it_takes(
    others: tuple[ToolSpec, ...], found: str
) -> None:
    selection = select((requires("fs__read", "path"), *others), "Read.")

    assert selection.listing_tool("fs__read") == found
    assert [selection.listing_tool(spec.name) for spec in others if spec.name == found] in ([], [""])


def test_tools_that_take_a_path_come_first_where_the_task_names_a_file() -> None:
    move = tool("fs__move_file", "Move or rename.", source={"type": "string"}, destination={"type": "string"})
    read = tool("fs__read_text", "Read.", path={"type": "string"})

    offered = select((TIME, read, move), "What time? Rename a.txt.", best_first=True, paths_first=True).offered
    assert names(offered) == ["fs__move_file", "fs__read_text", "time__now"]
