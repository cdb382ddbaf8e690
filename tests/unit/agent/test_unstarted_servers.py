"""Servers that are not started: which a search starts, and how their tools come in."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.tools import (
    FIND_TOOLS,
    PreparedCall,
    ToolSelection,
    ToolSet,
    UnstartedServers,
    finding_specs,
)
from lmstudio_bridge.errors import DownstreamError, ServerStartError
from lmstudio_bridge.messages import ServerTool, ToolCall, ToolSpec

NOW = ServerTool("clock", "now", "What time it is in a city.")
SEND = ServerTool("mail", "send", "Send a letter to somebody.")
READ = ToolSet([ServerTool("fs", "read_file", "Read a file.")]).tools[0]


def reserve(*tools: ServerTool, fails: bool = False) -> tuple[UnstartedServers, list[str]]:
    """A reserve, and the servers that it has started."""
    started: list[str] = []
    of = {name: [tool for tool in tools if tool.server == name] for name in {tool.server: None for tool in tools}}

    async def start(server: str) -> tuple[ServerTool, ...]:
        started.append(server)
        if fails:
            raise ServerStartError("It broke.", server=server)
        return tuple(of[server])

    return UnstartedServers(of, start=start), started


@pytest.mark.parametrize(
    ("query", "servers"),
    [
        ("the time", ("clock",)),
        ("send letters", ("mail",)),
        ("a letter, or what time", ("clock", "mail")),
        ("dragons", ()),
        ("", ()),
        ("read a file, in time", ()),  # what the run has already fits far better
    ],
)
def test_a_search_starts_the_servers_whose_tools_fit_best(query: str, servers: tuple[str, ...]) -> None:
    kept, _ = reserve(NOW, SEND)

    assert kept.fitting(query, [READ]) == servers


@pytest.mark.parametrize(("count", "at_once"), [(2, 2), (3, 3), (4, 3)])
def test_a_search_starts_so_many_servers_at_most(count: int, at_once: int) -> None:
    kept, _ = reserve(*(ServerTool(f"mail{number}", "send", "Send a letter.") for number in range(count)))

    assert len(kept.fitting("letter", ())) == at_once


async def test_a_server_is_started_once() -> None:
    kept, started = reserve(NOW, SEND)

    assert kept.server_of("clock__now") == "clock"
    assert await kept.start("clock") == (NOW,)
    assert (kept.names, started) == (("mail",), ["clock"])
    assert kept.server_of("clock__now") is None
    assert kept.fitting("time", ()) == ()


async def test_a_server_that_does_not_start_is_not_tried_again() -> None:
    kept, _ = reserve(NOW, fails=True)

    with pytest.raises(DownstreamError):
        await kept.start("clock")
    assert kept.names == ()


def test_tools_that_come_later_keep_the_names_and_the_order_of_the_others() -> None:
    toolbox = ToolSet([SEND])
    taken = ServerTool("Mail", "send", "Another.")

    added = toolbox.add([taken, NOW])

    names = [spec.name for spec in toolbox.specs]
    assert names[0] == "mail__send"
    assert names[1:] == [tool.name for tool in added]
    assert [tool.spec.description for tool in added] == ["Another.", "What time it is in a city."]
    prepared = [toolbox.prepare_call(ToolCall("c1", name, "{}")) for name in names]
    assert [each.tool for each in prepared if isinstance(each, PreparedCall)] == [SEND, taken, NOW]


def test_a_selection_finds_tools_that_come_later_and_offers_none_unasked() -> None:
    toolbox = ToolSet([SEND])
    selection = ToolSelection(toolbox.tools, "Send a letter.")
    before = selection.offered

    selection.add(toolbox.add([NOW]))

    assert selection.offered == before
    assert [spec.name for spec in selection.hidden] == ["clock__now"]
    assert [spec.name for spec in selection.find("time")] == ["clock__now"]
    assert selection.hidden == ()


@pytest.mark.parametrize(("count", "end"), [(1, "do. Also those of s0."), (10, ", s8, s9."), (11, ", s8, s9, ….")])
def test_find_tools_says_of_which_servers_it_finds_tools(count: int, end: str) -> None:
    kept, _ = reserve(*(ServerTool(f"s{number}", "now") for number in range(count)))

    [spec] = finding_specs(ToolSelection((), ""), kept)
    assert spec.description.startswith(FIND_TOOLS.description)
    assert spec.description.endswith(end)
    assert (spec.name, spec.parameters) == (FIND_TOOLS.name, FIND_TOOLS.parameters)


@pytest.mark.parametrize(("most", "finding"), [(None, ()), (1, (FIND_TOOLS,))])
def test_find_tools_is_offered_where_there_is_something_to_find(
    most: int | None, finding: tuple[ToolSpec, ...]
) -> None:
    assert finding_specs(ToolSelection(ToolSet([NOW, SEND]).tools, "time", max_tools=most), None) == finding
