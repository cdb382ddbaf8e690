"""The main job through the MCP server: real processes, real sockets, real MCP servers, a simulated LM Studio."""

from __future__ import annotations

import asyncio
import json
import re
from itertools import pairwise
from typing import Any

import pytest

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, HttpReply, Stall, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import open_simulator
from tests.support.desk import MODEL, Desk, assert_names
from tests.support.journals import events_of, read_journal
from tests.support.npm_servers import config_entry, npm_server
from tests.support.raw_client import Answer, Era, RawClient

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

LAST_LINE = re.compile(r"\n\n\[Local model output, unverified · (?P<model>\S+) · .+ · run (?P<run_id>\S+)\]\Z")


def last_result(request: SimRequest) -> str:
    """The text of the last tool result that the model was sent."""
    message = request.messages[-1]
    assert message["role"] == "tool", message
    return str(message["content"])


def answer_from_result(request: SimRequest) -> TextReply:
    return TextReply(f"The file says: {last_result(request).strip()}")


async def ask(client: RawClient, **more: Any) -> Answer:
    """Ask for the code word in the notes, of the filesystem server unless another is named."""
    return await client.call(
        "autonomous_with_mcp", **{"mcp_name": "filesystem", "task": "What is the code word?", **more}
    )


def read_then_answer(desk: Desk) -> None:
    """A model that reads the notes in its first round and answers with what it read."""

    def reply(request: SimRequest) -> CallReply | TextReply:
        if request.messages[-1]["role"] == "tool":
            return answer_from_result(request)
        return CallReply(("filesystem__read_text_file", {"path": desk.notes}))

    desk.sim.script_fn(MODEL, reply)


def assert_answered(answer: Answer, *, contains: str, rounds: int, calls: int) -> str:
    """The answer holds the text and ends in the line that says where it comes from; gives the run id."""
    assert not answer.is_error, answer.text
    assert contains in answer.text
    last = LAST_LINE.search(answer.text)
    assert last, answer.text
    assert last["model"] == MODEL
    assert (answer.report["rounds"], answer.report["calls"]) == (rounds, calls)
    assert answer.report["usage"]["prompt_tokens"] > 0
    stop = {"round_limit": "hit the round limit"}.get(answer.report["stop"], answer.report["stop"])
    assert answer.progress[-1].startswith(f"done: {stop} · {rounds} round"), "the figures come last"
    return last["run_id"]


async def test_one_server_gives_an_answer_that_only_the_file_could_give(desk: Desk, era: Era) -> None:
    read_then_answer(desk)
    async with desk.bridge(era) as client:
        answer = await ask(client)

    run_id = assert_answered(answer, contains="heron-42", rounds=2, calls=1)
    assert run_id in answer.progress[0], "the first message carries the run id, before anything can be lost"


async def test_several_servers_are_used_in_one_run(desk: Desk, era: Era) -> None:
    entity = {"name": "launch", "entityType": "event", "observations": ["code word heron-42"]}
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__read_text_file", {"path": desk.notes})),
        CallReply(("memory__create_entities", {"entities": [entity]})),
        CallReply(("memory__search_nodes", {"query": "launch"}), ("filesystem__list_allowed_directories", {})),
    )
    desk.sim.script_fn(MODEL, lambda request: TextReply(f"Stored: {request.messages[-2]['content']}"))
    async with desk.bridge(era) as client:
        answer = await client.call(
            "autonomous_with_write_access",
            mcp_names=["filesystem", "memory"],
            task="Remember the code word.",
        )

    assert_answered(answer, contains="heron-42", rounds=4, calls=4)


async def test_all_configured_servers_are_discovered(desk: Desk, era: Era) -> None:
    read_then_answer(desk)
    async with desk.bridge(era) as client:
        answer = await client.call("autonomous_discover_and_execute", task="What is the code word?")

    assert_answered(answer, contains="heron-42", rounds=2, calls=1)
    names = {tool["function"]["name"] for tool in desk.chat_requests()[0].tools}
    assert {name.partition("__")[0] for name in names if "__" in name} == {"filesystem", "memory"}
    assert {name for name in names if "__" not in name} == {
        "calculate",
        "compare_files",
        "count_files",
        "find_text",
        "read_files",
        "read_result",
        "search_result",
        "total_column",
    }


async def test_two_runs_at_once_are_both_in_flight_and_both_answered(desk: Desk, era: Era) -> None:
    both_started = asyncio.Event()

    def reply(request: SimRequest) -> CallReply | TextReply:
        if request.messages[-1]["role"] == "tool":
            return answer_from_result(request)
        if len(desk.chat_requests()) >= 2:
            both_started.set()  # neither gets its first reply before the other has asked
        return CallReply(
            ("filesystem__read_text_file", {"path": desk.notes}), faults=(Stall(until=both_started, seconds=30),)
        )

    desk.sim.script_fn(MODEL, reply)
    async with desk.bridge(era) as client:
        first = await client.start_call("autonomous_with_mcp", mcp_name="filesystem", task="What is the code word?")
        second = await client.start_call("autonomous_with_mcp", mcp_name="filesystem", task="And the code word?")
        answers = [await client.answer_of(number) for number in (first, second)]

    assert both_started.is_set()
    assert len({assert_answered(answer, contains="heron-42", rounds=2, calls=1) for answer in answers}) == 2


async def test_every_request_repeats_the_one_before_it_byte_for_byte(desk: Desk) -> None:
    """The engine's prompt cache lives on it (ours)."""
    oddly_spaced = json.dumps({"path": desk.notes}, separators=(" ,", "  : "))
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__read_text_file", oddly_spaced)),
        CallReply(("filesystem__get_file_info", json.dumps({"path": desk.notes}))),
        TextReply("done"),
    )
    async with desk.bridge() as client:
        await client.call("autonomous_with_mcp", mcp_name="filesystem", task="Look at the notes.")

    bodies = [json.loads(request.body) for request in desk.chat_requests()]
    assert len(bodies) == 3
    for earlier, later in pairwise(bodies):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
        assert json.dumps(later["tools"]) == json.dumps(earlier["tools"])
    assert bodies[2]["messages"][2]["tool_calls"][0]["function"]["arguments"] == oddly_spaced


async def test_the_round_limit_still_yields_an_answer(desk: Desk, era: Era) -> None:
    def reply(request: SimRequest) -> CallReply | TextReply:
        if request.tools:
            return CallReply(("filesystem__read_text_file", {"path": desk.notes}))
        return TextReply("As far as I know, heron-42.")

    desk.sim.script_fn(MODEL, reply)
    async with desk.bridge(era) as client:
        answer = await ask(client, max_rounds=3)

    assert_answered(answer, contains="heron-42", rounds=3, calls=2)
    assert "round limit" in answer.text
    assert [bool(request.tools) for request in desk.chat_requests()] == [True, True, False]


async def test_bad_arguments_of_the_model_never_run_a_tool(desk: Desk) -> None:
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__write_file", '{"path": "x.txt", "content": ')),
        CallReply(("filesystem__write_file", {"path": 3})),
        CallReply(("filesystem__no_such_tool", {})),
        TextReply("I could not."),
    )
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", mcp_name="filesystem", task="Write x.txt.")

    assert_answered(answer, contains="I could not", rounds=4, calls=0)
    told = [last_result(request) for request in desk.chat_requests()[1:]]
    assert "not valid JSON" in told[0]
    assert "'content' is a required property" in told[1] or "is not of type 'string'" in told[1]
    assert "no tool 'filesystem__no_such_tool'" in told[2]
    assert not (desk.project / "x.txt").exists()


async def test_one_broken_server_is_named_and_the_run_goes_on_with_the_others(desk: Desk, era: Era) -> None:
    read_then_answer(desk)
    desk.configure(
        filesystem=config_entry(npm_server("filesystem"), str(desk.project)),
        broken={"command": "node", "args": ["-e", "console.error('no database here'); process.exit(3)"]},
        missing={"command": "no-such-command-anywhere"},
    )
    async with desk.bridge(era) as client:
        answer = await client.call(
            "autonomous_with_multiple_mcps",
            mcp_names=["filesystem", "broken", "missing", "unheard_of"],
            task="What is the code word?",
        )

    assert_answered(answer, contains="heron-42", rounds=2, calls=1)
    for name in ("broken", "missing", "unheard_of"):
        assert f"MCP server {name} was left out" in answer.text
    assert "no database here" in answer.text


async def test_each_fault_gives_one_clear_error_and_the_server_stays_usable(desk: Desk, era: Era) -> None:
    desk.configure(
        filesystem=config_entry(npm_server("filesystem"), str(desk.project)),
        broken={"command": "node", "args": ["-e", "console.error('no database here'); process.exit(3)"]},
    )
    read_then_answer(desk)
    async with desk.bridge(era) as client:
        unknown_server = await ask(client, mcp_name="filesytem")
        unknown_model = await ask(client, model="qwen/qwen3-4")
        dies_at_start = await ask(client, mcp_name="broken")
        await desk.sim.stop()
        not_running = await ask(client, model=MODEL)
        await desk.sim.start()
        afterwards = await ask(client)

    assert_names(unknown_server, "'filesytem'", ".claude.json", "Did you mean 'filesystem'")
    assert_names(unknown_model, "'qwen/qwen3-4'", desk.sim.url, f"Did you mean {MODEL}")
    assert_names(dies_at_start, "'broken'", "exited with code 3", "no database here")
    assert_names(not_running, "not reachable", desk.sim.url, "lms server start", "LMSTUDIO_BASE_URL")
    assert_answered(afterwards, contains="heron-42", rounds=2, calls=1)


async def test_servers_that_all_failed_end_the_run_while_the_model_still_loads(desk: Desk) -> None:
    never = asyncio.Event()
    desk.sim.models["slow/model"] = SimModel("slow/model", load_delay=never)
    desk.configure(broken={"command": "node", "args": ["-e", "process.exit(3)"]})
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", mcp_name="broken", model="slow/model", task="Anything.")

    assert_names(answer, "'broken'", "exited with code 3")


async def test_a_wrong_base_url_is_recognised_behind_its_status_200(desk: Desk) -> None:
    async with desk.bridge(LMSTUDIO_BASE_URL=f"{desk.sim.url}/lmstudio/v1") as client:
        answer = await ask(client)

    assert_names(answer, "Unexpected endpoint or method", "/lmstudio", "Check LMSTUDIO_BASE_URL")


async def test_a_missing_token_is_asked_for_and_a_right_one_is_never_shown(desk: Desk) -> None:
    token = "sk-lm-abcd1234:abcdefghij0123456789"
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    async with open_simulator([model], token=token) as guarded:
        guarded.script(MODEL, CallReply(("filesystem__list_allowed_directories", {})), TextReply(f"It is {token}."))
        desk.environ["LMSTUDIO_BASE_URL"] = guarded.url
        async with desk.bridge() as client:
            refused = await ask(client)
        async with desk.bridge(LM_API_TOKEN=token, LMSTUDIO_BRIDGE_LOG_LEVEL="debug") as client:
            answered = await ask(client)

    assert_names(refused, "refused the API token", "API token is required", "LM_API_TOKEN")
    assert_answered(answered, contains="It is [secret]", rounds=2, calls=1)
    journals = "".join(path.read_text(encoding="utf-8") for path in desk.journals())
    assert token not in json.dumps(client.lines) + client.stderr.decode() + journals


async def test_a_run_can_be_read_back_from_its_journal(desk: Desk) -> None:
    read_then_answer(desk)
    async with desk.bridge("2025-11-25") as client:
        answer = await ask(client)

    run_id = assert_answered(answer, contains="heron-42", rounds=2, calls=1)
    path = desk.home / "runs" / f"{run_id}.jsonl"
    events = read_journal(path)
    (end,) = events_of(events, "RunFinished")
    assert end["stop"] == "answered"
    assert end["answer"] in answer.text
    assert [len(events_of(events, kind)) for kind in ("RoundFinished", "CallFinished")] == [2, 1]
    assert [event["model"] for event in events_of(events, "ModelChosen")] == [MODEL]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"task": ""}, ["task", "at least 1 character"]),
        ({"task": "x" * 10_001}, ["task", "at most 10000 characters"]),
        ({"max_rounds": 0}, ["max_rounds", "greater than or equal to 1"]),
        ({"max_rounds": 1_001}, ["max_rounds", "less than or equal to 1000"]),
        ({"max_rounds": True}, ["max_rounds", "valid integer"]),
        ({"max_rounds": "5"}, ["max_rounds", "valid integer"]),
        ({"max_rounds": 5.0}, ["max_rounds", "valid integer"]),
        ({"max_tokens": 0}, ["max_tokens", "greater than or equal to 1"]),
        ({"max_tokens": "much"}, ["max_tokens", "'auto'"]),
        ({"max_tokens": 1_000_001}, ["max_tokens", "less than or equal to"]),
        ({"max_tokens": True}, ["max_tokens", "valid integer"]),
        ({"timeout": True}, ["timeout", "valid integer"]),
        ({"timeout": "60"}, ["timeout", "valid integer"]),
        ({"mcp_name": "x" * 257}, ["mcp_name", "at most 256 characters"]),
        ({"model": "x" * 257}, ["model", "at most 256 characters"]),
        ({"max_round": 3}, ["'max_round'", "Did you mean 'max_rounds'"]),
    ],
)
async def test_a_bad_argument_is_named(desk: Desk, arguments: dict[str, Any], named: list[str]) -> None:
    async with desk.bridge() as client:
        answer = await ask(client, **arguments)
        missing = await client.call("autonomous_with_mcp", mcp_name="filesystem")

    assert_names(answer, *named)
    assert_names(missing, "task", "Field required")
    assert "pydantic" not in answer.text + missing.text


@pytest.mark.parametrize(
    ("number", "named"),
    [(99, ["and 79 more"]), (100, ["and 80 more"]), (101, ["mcp_names", "at most 100 items"])],
)
async def test_a_call_may_name_so_many_servers(desk: Desk, number: int, named: list[str]) -> None:
    names = [f"server-{n}" for n in range(number)]
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_multiple_mcps", mcp_names=names, task="x")

    assert_names(answer, *named)
    assert len(answer.text) < 10_000


async def test_the_tools_cost_their_caller_little_and_say_what_they_take(desk: Desk, era: Era) -> None:
    """The limit of 7 KB for all tools is ours: the earlier bridge took 82 KB of every session."""
    async with desk.bridge(era) as client:
        listed = await client.request("tools/list", {})

    assert len(json.dumps(listed, ensure_ascii=False).encode()) < 7_000
    tools = {tool["name"]: tool for tool in listed["tools"]}
    shared = ["max_rounds", "model", "timeout", "output_schema"]
    assert {name: list(tool["inputSchema"]["properties"]) for name, tool in tools.items()} == {
        "autonomous_with_mcp": ["mcp_name", "task", *shared, "for_each", "agent", "combine"],
        "autonomous_with_multiple_mcps": ["mcp_names", "task", *shared, "for_each", "agent", "combine"],
        "autonomous_discover_and_execute": ["task", *shared, "for_each", "agent", "combine"],
        "continue_run": ["run_id", "instructions", *shared],
        "autonomous_with_write_access": ["task", "mcp_names", "run_id", *shared, "for_each", "agent", "combine"],
    }
    for tool in tools.values():
        assert tool["description"]
        assert all(each.get("description") for each in tool["inputSchema"]["properties"].values())
        assert "outputSchema" not in tool


async def test_each_tool_has_one_risk_and_what_claude_code_needs_to_show_and_find_it(desk: Desk, era: Era) -> None:
    """Claude Code 2.1.332 runs read-only tools in parallel, and its permission rules see no arguments."""
    async with desk.bridge(era) as client:
        listed = await client.request("tools/list", {})

    tools = {tool["name"]: tool for tool in listed["tools"]}
    writing = tools.pop("autonomous_with_write_access")["annotations"]
    assert (writing["readOnlyHint"], writing["destructiveHint"]) == (False, True)
    assert {tool["annotations"]["readOnlyHint"] for tool in tools.values()} == {True}
    for tool in listed["tools"]:
        assert tool["annotations"]["title"]
        assert tool["_meta"]["anthropic/alwaysLoad"] is True
        assert "local model" in tool["_meta"]["anthropic/searchHint"]
    for name in ("autonomous_with_mcp", "autonomous_with_multiple_mcps"):
        about = next(iter(tools[name]["inputSchema"]["properties"].values()))["description"]
        assert "mcp__NAME__tool" in about


async def test_the_server_says_who_it_is_and_when_delegating_pays(desk: Desk, era: Era) -> None:
    async with desk.bridge(era) as client:
        pass

    opening = client.lines[0]["result"]
    info = opening.get("serverInfo") or opening["_meta"]["io.modelcontextprotocol/serverInfo"]
    assert info["name"] == "lmstudio-bridge"
    assert info["version"]
    assert 100 < len(opening["instructions"]) < 1_000


async def test_half_a_character_in_the_words_of_others_does_not_end_the_server(desk: Desk, era: Era) -> None:
    """JavaScript leaves them where it cuts a text, and the MCP SDK's writer (2.3) ends at one."""
    servers = json.loads((desk.project.parent / ".claude.json").read_text(encoding="utf-8"))["mcpServers"]
    desk.configure(**servers, **{"half\ud83d": {"command": "no-such-command"}})
    desk.sim.script(MODEL, HttpReply(400, b'{"error": "bad \\ud83d text"}', content_type="application/json"))
    async with desk.bridge(era) as client:
        unknown = await client.call("autonomous_with_mcp", mcp_name="nope", task="Anything.")
        failed = await client.call("autonomous_with_multiple_mcps", mcp_names=["memory", "half?"], task="Anything.")
        (journal,) = desk.journals()
        for name, words in (("servers", "| half? |"), ("runs", "Anything."), (f"runs/{journal.stem}", "bad ? text")):
            result = await client.request("resources/read", {"uri": f"lmstudio://{name}"})
            assert words in result["contents"][0]["text"]

    assert_names(unknown, "half?")
    assert_names(failed, "bad ? text", "half?")
