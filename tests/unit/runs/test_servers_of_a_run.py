"""autonomous_discover_and_execute starts the servers that a task needs, says which, and can start more later."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from lmstudio_bridge.cli.doctor.servers import check_rules, check_servers
from lmstudio_bridge.errors import DownstreamError, NoToolMayRunError
from lmstudio_bridge.events import RunStarted, ServerFailed, ServersChosen, Tally
from lmstudio_bridge.mcp_client.discovery import load_servers
from lmstudio_bridge.mcp_client.repair import read_tools
from lmstudio_bridge.messages import Access
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent, read_servers
from lmstudio_bridge.runs.journal import read_events
from lmstudio_bridge.runs.report import unusable_servers
from lmstudio_bridge.runs.request import RunRequest
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import read_settings
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.changing_server import entry, noted, offer
from tests.support.desk import MODEL, Desk, open_desk
from tests.support.raw_client import Answer

TOOLS: dict[str, dict[str, Any]] = {
    "mail": {"name": "send", "description": "Send a letter to somebody."},
    "clock": {"name": "now", "description": "What time it is in a city.", "annotations": {"readOnlyHint": True}},
    "shop": {"name": "buy", "description": "Order goods."},
}
LETTER = "Send a letter to Ana."
DONE = TextReply("It is done.")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Three servers that nobody has started yet."""
    async with open_desk(tmp_path) as desk:
        desk.configure(**{name: entry(file(desk, name), tool) for name, tool in TOOLS.items()})
        yield desk


def file(desk: Desk, server: str) -> Path:
    return desk.home.parent / f"{server}.json"


def starts(desk: Desk) -> dict[str, int]:
    """How often each server was started."""
    return {name: noted(file(desk, name)).count("started") for name in TOOLS}


class Client(Protocol):
    """Somebody to hand a task to: the bridge's process, or its agent in this one."""

    async def call(self, tool: str, **arguments: Any) -> Answer: ...


@dataclass
class AgentClient:
    """The agent in this process, which starts faster than a bridge."""

    agent: DynamicAutonomousAgent

    async def call(self, tool: str, **arguments: Any) -> Answer:
        access: Access = "write" if tool == "autonomous_with_write_access" else "read"
        report = await self.agent.run(RunRequest(**arguments, access=access))
        return Answer(report.text(), report.outcome.stop == "failed", (), report.structure())


@asynccontextmanager
async def open_here(desk: Desk) -> AsyncIterator[Client]:
    environ = {**os.environ, **desk.environ}
    async with open_agent(read_settings(environ, cwd=desk.project), environ=environ) as agent:
        yield AgentClient(agent)


async def test_instructions_of_a_server_are_in_the_system_message(desk: Desk) -> None:
    """The same text in each run, so that engines can reuse it."""
    desk.configure(
        mail=entry(file(desk, "mail"), TOOLS["mail"], instructions="Letters need a stamp."),
        clock=entry(file(desk, "clock"), TOOLS["clock"]),
    )
    async with open_here(desk) as client:
        for _ in range(2):
            await discover(client, desk, LETTER)
    first, again = (str(request.messages[0]["content"]) for request in desk.chat_requests())

    assert "Notes of the MCP server mail on its tools:\nData, up to the line " in first
    assert "\nLetters need a stamp.\n" in first
    assert "server clock" not in first
    assert again == first


async def test_variables_that_choose_the_target_of_a_server_that_was_used_are_named_once(desk: Desk) -> None:
    desk.environ |= {"CLOCK_URL": "http://other", "CLOCK_KEY": "c", "MAIL_URL": "http://other"}
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER, *[CallReply(("clock__now", {"n": n})) for n in range(2)])

    (warning,) = [each for each in answer.report["warnings"] if "CLOCK" in each]
    assert "does not get CLOCK_URL. " in warning
    assert f"Note: {warning}" in answer.text
    assert "MAIL_URL" not in answer.text
    assert "http://other" not in answer.text


async def discover(client: Client, desk: Desk, task: str, *replies: CallReply, writes: bool = False) -> Answer:
    desk.sim.script(MODEL, *replies, DONE)
    tool = "autonomous_with_write_access" if writes else "autonomous_discover_and_execute"
    return await client.call(tool, task=task)


def chosen(answer: Answer) -> tuple[list[str], list[str]]:
    """The servers that were started, with the reasons, and those that were not."""
    return answer.report["started"], answer.report["not_started"]


def learn(desk: Desk) -> None:
    """As if a bridge of before had started every server once."""
    store = ToolCache(desk.home / "catalogues")
    catalog = load_servers(explicit=None, project=desk.project, environ=desk.environ, trusted=["*"])
    for name, config in catalog.servers.items():
        tools = json.loads(file(desk, name).read_text(encoding="utf-8"))["tools"]
        store.check(config, read_tools(name, tools))


def offered(desk: Desk) -> list[str]:
    """The names of the tools in the newest request."""
    return [tool["function"]["name"] for tool in desk.chat_requests()[-1].tools]


def find(query: str) -> CallReply:
    return CallReply(("find_tools", {"query": query}))


def test_the_name_of_a_folder_that_the_project_is_in_is_no_secret(tmp_path: Path) -> None:
    project, redactor = tmp_path / "shopware" / "part", Redactor()
    project.mkdir(parents=True)
    address = {"DATABASE_URL": "postgres://shopware:shopware@localhost/shopware", "A_TOKEN": "not-a-folder"}
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"db": {"command": "db", "env": address}}}), encoding="utf-8")
    environ = {"HOME": str(tmp_path), "LMSTUDIO_BRIDGE_MCP_CONFIG": str(file)}

    read_servers(read_settings(environ, cwd=project), environ=environ, redactor=redactor)

    assert redactor.redact(f"{project}: not-a-folder") == f"{project}: [secret]"


async def test_servers_are_started_once_to_be_known_and_then_if_the_task_needs_them(desk: Desk) -> None:
    async with desk.bridge("2025-11-25") as client:
        first = await discover(client, desk, LETTER)
    learnt = starts(desk)
    async with desk.bridge("2026-07-28") as client:
        second = await discover(client, desk, LETTER)

    assert learnt == {"mail": 1, "clock": 1, "shop": 1}
    assert chosen(first) == (["mail, clock, shop (its tools are not known yet)"], [])
    assert starts(desk) == {"mail": 2, "clock": 1, "shop": 1}
    assert chosen(second) == (["mail (for send)"], ["clock", "shop"])
    assert "Starting mail (for send); not clock, shop" in second.progress
    assert offered(desk)[0] == "mail__send"
    assert "clock__now" not in offered(desk)
    [tool] = [tool["function"] for tool in desk.chat_requests()[-1].tools if tool["function"]["name"] == "find_tools"]
    assert tool["description"] == "Find more tools by what they do. Also those of clock, shop."


async def test_an_embedding_model_in_memory_helps_to_choose(desk: Desk) -> None:
    learn(desk)
    meanings = (("ana", "pen", "letter"), ("clock", "hour", "time"))
    embedder = SimModel("nomic/text-embedding-nomic", type="embedding", meanings=meanings)
    desk.sim.models[embedder.key] = embedder
    task = "Order a pen, and tell me the hour."
    async with open_here(desk) as client:
        without = await discover(client, desk, task)
    await desk.sim.state.load(embedder)
    async with open_here(desk) as client:
        with_it = await discover(client, desk, task)
        again = await discover(client, desk, task)

    assert chosen(without) == (["shop (for buy)"], ["mail", "clock"])
    for answer in (with_it, again):
        assert chosen(answer) == (["shop (for buy)", "clock (for now)", "mail (for send)"], [])
    asked = [json.loads(request.body)["input"] for request in desk.sim.requests if request.path == "/v1/embeddings"]
    assert [len(texts) for texts in asked] == [4, 1], "the tools once, the task each time"


async def test_all_are_started_if_the_task_tells_nothing(desk: Desk) -> None:
    learn(desk)
    async with open_here(desk) as client:
        answer = await discover(client, desk, "Grüße!")

    assert chosen(answer) == (["mail, clock, shop (nothing in the task tells which server it needs)"], [])
    assert starts(desk) == {"mail": 1, "clock": 1, "shop": 1}
    assert "find_tools" not in offered(desk)


async def test_servers_that_are_named_are_started_and_no_others_are_spoken_of(desk: Desk) -> None:
    learn(desk)
    async with desk.bridge("2025-11-25") as client:
        desk.sim.script(MODEL, DONE)
        answer = await client.call("autonomous_with_multiple_mcps", mcp_names=["clock", "shop"], task=LETTER)

    assert starts(desk) == {"mail": 0, "clock": 1, "shop": 1}
    assert chosen(answer) == ([], [])
    assert "find_tools" not in offered(desk)


async def test_a_server_is_started_when_the_model_looks_for_its_tools(desk: Desk) -> None:
    learn(desk)
    offer(file(desk, "clock"), TOOLS["clock"], instructions="Cities are in English.")
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER, find("time in a city"), CallReply(("clock__now", {})))

    found, result = desk.results()
    tools, _, notes = found.partition("\nNotes of the MCP server clock on its tools:\nData, up to the line ")
    assert tools == "These can be called now:\n- clock__now: What time it is in a city."
    assert notes.splitlines()[1] == "Cities are in English."
    assert "Cities" not in result
    assert "now is done" in result
    assert starts(desk) == {"mail": 1, "clock": 1, "shop": 0}
    assert noted(file(desk, "clock"))[-1] == "called now"
    assert chosen(answer) == (["mail (for send)", "clock (needed on the way)"], ["shop"])
    assert offered(desk)[-1] == "clock__now", "what the engine has read stays in front"
    journal = desk.journals()[-1]
    events = read_events(journal)
    assert [e for e in events if isinstance(e, ServersChosen)] == [
        ServersChosen(("mail",), ("for send",), ("clock", "shop"))
    ]
    assert Tally(events).outcome().not_started == ("shop",)


async def test_two_searches_of_one_turn_start_a_server_once_and_both_get_an_answer(desk: Desk) -> None:
    learn(desk)
    query = {"query": "time in a city"}
    async with open_here(desk) as client:
        await discover(
            client, desk, LETTER, CallReply(("find_tools", query), ("find_tools", {**query, "query": "city time"}))
        )

    first, second = desk.results()
    assert first.startswith("These can be called now:\n- clock__now")
    assert second == "No other tool fits that. Use the ones that you have."
    assert starts(desk)["clock"] == 1


async def test_a_search_that_fits_no_server_starts_none(desk: Desk) -> None:
    learn(desk)
    async with open_here(desk) as client:
        await discover(client, desk, LETTER, find("dragons"), CallReply(("find_tools", {})))

    told = desk.results()
    assert told[0] == "No other tool fits that. Use the ones that you have."
    assert "needs a query" in told[1]
    assert starts(desk) == {"mail": 1, "clock": 0, "shop": 0}


@pytest.mark.parametrize(
    ("reply", "first_words", "later_words"),
    [
        (find("time in a city"), "No other tool fits that.", "No other tool fits that. Use the ones that you have."),
        (CallReply(("clock__now", {})), "", "There is no tool 'clock__now'"),
    ],
    ids=["a search", "a call"],
)
async def test_a_server_that_does_not_start_is_an_answer_to_the_model_and_a_note_to_the_user(
    desk: Desk, reply: CallReply, first_words: str, later_words: str
) -> None:
    learn(desk)
    file(desk, "clock").write_text(json.dumps({"exit": 3}), encoding="utf-8")
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER, reply, reply)

    first, second = desk.results()
    assert first.startswith(first_words)
    assert "MCP server 'clock'" in first
    assert "exited with code 3" in first
    assert later_words in second, "it is not tried again and again"
    assert "Note: MCP server clock was left out" in answer.text
    assert chosen(answer) == (["mail (for send)"], ["shop"])
    assert starts(desk)["clock"] == 1
    assert len([e for e in read_events(desk.journals()[-1]) if isinstance(e, ServerFailed)]) == 1


async def test_a_server_without_tools_is_left_out_with_a_note(desk: Desk) -> None:
    offer(file(desk, "clock"))
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER, writes=True)

    assert "Note: MCP server clock was left out" in answer.text
    assert "MCP server 'clock' offers no tool." in answer.text


@pytest.mark.parametrize(
    ("rules", "more", "reason"),
    [
        ("", {}, "MCP server 'clock' offers no tool."),
        ("", {"includeTools": []}, "MCP server 'clock' offers no tool that is enabled in its entry."),
        ('hide = ["clock/*"]\n', {}, "your rules hide them"),
    ],
)
async def test_a_run_does_not_begin_where_no_server_has_tools(
    desk: Desk, rules: str, more: dict[str, object], reason: str
) -> None:
    desk.configure(clock=entry(file(desk, "clock"), *([TOOLS["clock"]] if rules or more else [])) | more)
    desk.write_rules(rules)
    async with open_here(desk) as client:
        with pytest.raises(DownstreamError) as caught:
            await discover(client, desk, LETTER)

    assert reason in caught.value.message
    assert desk.chat_requests() == []


async def test_a_call_of_a_tool_that_was_not_offered_starts_its_server(desk: Desk) -> None:
    learn(desk)
    offer(file(desk, "clock"), TOOLS["clock"], instructions="Cities are in English.")
    async with open_here(desk) as client:
        await discover(client, desk, LETTER, CallReply(("clock__now", {})), CallReply(("shop__sell", {})))

    now, sell = desk.results()
    assert "now is done" in now
    assert "Cities are in English." in now
    assert "There is no tool 'shop__sell'" in sell
    assert starts(desk) == {"mail": 1, "clock": 1, "shop": 0}


async def test_access_and_rules_hold_for_servers_that_are_started_later(desk: Desk) -> None:
    """A writing tool is refused, a hidden one is not even found."""
    learn(desk)
    desk.write_rules('hide = ["clock/*"]\nallow = ["mail/*"]\n')
    async with open_here(desk) as client:
        answer = await discover(
            client, desk, LETTER, find("time in a city"), find("order goods"), CallReply(("shop__buy", {}))
        )

    clock, shop, refused = desk.results()
    assert clock == "No other tool fits that. Use the ones that you have."
    assert shop == "No other tool fits that. Use the ones that you have.", "it may not run"
    assert "shop__buy" not in offered(desk)
    assert "\nFailed: buy: needs write access\n" in answer.text
    assert "Not allowed" in refused
    assert starts(desk) == {"mail": 1, "clock": 0, "shop": 1}
    assert "called buy" not in noted(file(desk, "shop"))


async def test_an_unapproved_server_is_neither_chosen_nor_found(desk: Desk) -> None:
    servers = Path(desk.environ["HOME"]) / ".claude.json"
    servers.rename(desk.project / ".mcp.json")
    desk.write_rules("sandbox = false")  # their files are outside of the project
    learn(desk)
    async with desk.bridge("2025-11-25", LMSTUDIO_BRIDGE_TRUST="mail,shop") as client:
        task = "What time is it in the city, and send a letter."
        await discover(client, desk, task, find("time in a city"), writes=True)

    assert starts(desk)["clock"] == 0
    assert "clock__now" not in offered(desk)


async def test_changes_of_a_server_that_is_started_later_are_told_and_its_mark_is_not_believed(desk: Desk) -> None:
    learn(desk)
    offer(file(desk, "shop"), {**TOOLS["shop"], "annotations": {"readOnlyHint": True}})
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER, find("order goods"), CallReply(("shop__buy", {})))

    assert "The tools of MCP server 'shop' have changed. Newly marked as read-only" in answer.text
    assert "called buy" not in noted(file(desk, "shop"))


async def test_the_others_are_started_if_none_of_the_chosen_can_be(desk: Desk) -> None:
    learn(desk)
    file(desk, "mail").write_text(json.dumps({"exit": 3}), encoding="utf-8")
    async with open_here(desk) as client:
        answer = await discover(client, desk, LETTER)

    assert not answer.is_error
    assert starts(desk) == {"mail": 1, "clock": 1, "shop": 1}
    either_first: list[tuple[list[str], list[str]]] = [
        ([f"{names} (needed on the way)"], []) for names in ("clock, shop", "shop, clock")
    ]
    assert chosen(answer) in either_first, answer.text


async def test_a_run_that_goes_on_starts_what_it_used_and_what_it_needs_now(desk: Desk) -> None:
    learn(desk)
    async with desk.bridge("2025-11-25") as client:
        answer = await discover(client, desk, LETTER)
    run_id = answer.run_id
    async with desk.bridge("2025-11-25") as client:
        desk.sim.script(MODEL, DONE)
        further = await client.call("continue_run", run_id=run_id, instructions="And order some goods.")

    assert chosen(further) == (["mail (it was used before)", "shop (for buy)"], ["clock"])
    assert starts(desk) == {"mail": 2, "clock": 0, "shop": 1}
    [begin] = [e for e in read_events(desk.journals()[-1]) if isinstance(e, RunStarted)]
    assert begin.servers == ("mail", "clock", "shop")


async def test_a_run_does_not_begin_if_no_tool_may_run_and_names_the_rule_that_changes_it(desk: Desk) -> None:
    """A small model would spend its rounds on refused calls, and then guess (seen with 13 of 47 servers)."""
    desk.configure(**{name: entry(file(desk, name), TOOLS[name]) for name in ("mail", "shop")})
    async with open_here(desk) as client:
        with pytest.raises(NoToolMayRunError) as caught:
            await discover(client, desk, LETTER)
        requests = desk.chat_requests()
        rule = caught.value.remedy.rpartition(": ")[2]
        desk.write_rules(rule)
        answer = await discover(client, desk, LETTER)

    assert requests == []
    assert "No tool of mail, shop may run with read access" in caught.value.message
    assert rule == 'allow = ["mail/send"]', "one as an example, as neither only reads by its name"
    assert not answer.is_error
    outcome = Tally(read_events(desk.journals()[0])).outcome()
    assert (outcome.stop, caught.value.message in outcome.error) == ("failed", True)


async def test_doctor_and_the_list_of_servers_warn_of_one_of_which_no_tool_may_run(desk: Desk) -> None:
    learn(desk)
    environ = {**os.environ, **desk.environ}
    async with open_agent(read_settings(environ, cwd=desk.project), environ=environ) as agent:
        catalog = agent.configured_servers()
        permissions = agent.permissions(catalog.servers.values())
        listed = unusable_servers(catalog, permissions, agent.tool_cache)
        warned = [check async for check in check_servers(agent, catalog, environ={}) if check.state == "warning"]

    assert [line.partition(" may")[0] for line in listed] == ["No tool of mail", "No tool of shop"]
    assert [check.name for check in warned] == ["MCP server mail", "MCP server shop"]
    assert all('allow = ["' in text for text in (*listed, *(check.remedy for check in warned)))


async def test_rules_that_fit_nothing_are_named_in_the_answer_and_by_doctor(desk: Desk) -> None:
    """Somebody meant to forbid something with them."""
    own = desk.write_rules('deny = ["mail/sent", "shp/*", "*/nothing"]\n')
    environ = {**os.environ, **desk.environ}
    async with open_agent(read_settings(environ, cwd=desk.project), environ=environ) as agent:
        answer = await discover(AgentClient(agent), desk, LETTER, writes=True)
        catalog = agent.configured_servers()
        checks = [*check_rules(agent, catalog), *[each async for each in check_servers(agent, catalog, environ={})]]

    misspelled = f'The rule deny "mail/sent" ({own}) matches no tool of mail.'
    assert f"Note: {misspelled}" in answer.text
    warned = [check.found for check in checks if check.state == "warning"]
    assert misspelled in warned
    assert f'The rule deny "shp/*" ({own}) names no configured server.' in warned
    assert '"*/nothing"' not in f"{warned}{answer.text}"
