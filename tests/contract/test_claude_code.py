"""Claude Code's own openings, replayed message by message; what we send is held against the protocol's schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp_types.jsonrpc import JSONRPCError, JSONRPCNotification, JSONRPCResponse
from mcp_types.methods import parse_server_notification, parse_server_result, serialize_server_result
from pydantic import TypeAdapter

from tests.support.desk import Desk, open_desk
from tests.support.raw_client import CAPABILITIES, CLIENT_INFO, ERAS, Era, RawClient, modern_meta, open_raw_client

MODERN: Era = "2026-07-28"
LEGACY: Era = "2025-11-25"
PROBE = "server-discover-probe-1"
LISTS = ("tools/list", "prompts/list", "resources/list")
ONLY_KEYS = {"result": {"jsonrpc", "id", "result"}, "error": {"jsonrpc", "id", "error"}}

_MESSAGE: TypeAdapter[JSONRPCNotification | JSONRPCResponse | JSONRPCError] = TypeAdapter(
    JSONRPCNotification | JSONRPCResponse | JSONRPCError
)


def check_messages(client: RawClient, *, era: Era) -> None:
    """Every message that the server has sent is one that the schema of this era knows, with nothing on top."""
    assert client.stray == []
    assert client.lines
    for line in client.lines:
        message = _MESSAGE.validate_python(line, strict=True, by_name=False)
        match message:
            case JSONRPCResponse():
                assert set(line) == ONLY_KEYS["result"]
                method = client.methods[message.id]
                parse_server_result(method, era, message.result)
                assert serialize_server_result(method, era, message.result) == message.result
            case JSONRPCError():
                assert set(line) == ONLY_KEYS["error"]
                assert message.id in client.methods
            case JSONRPCNotification():
                assert set(line) <= {"jsonrpc", "method", "params"}
                parse_server_notification(message.method, era, message.params)
    for number, method in client.methods.items():
        answered = len(client.answers_to(number))
        assert answered == 1 or (method, answered) == ("subscriptions/listen", 0), (number, method)


@asynccontextmanager
async def unopened(era: Era, **environ: str) -> AsyncIterator[RawClient]:
    """The bridge, just started: it has been sent nothing yet."""
    async with open_raw_client(era=era, environ=environ, opened=False) as client:
        yield client


async def probe(client: RawClient, number: str = PROBE) -> None:
    await client.send_request(number, "server/discover", {"_meta": modern_meta()})


async def initialize(client: RawClient, number: int) -> None:
    params = {"protocolVersion": LEGACY, "capabilities": CAPABILITIES, "clientInfo": CLIENT_INFO}
    await client.send_request(number, "initialize", params)


async def listen(client: RawClient) -> int:
    kinds = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
    return await client.start("subscriptions/listen", {"notifications": kinds})


async def read_lists(client: RawClient) -> dict[str, Any]:
    """Ask for all three lists at once, as Claude Code does."""
    numbers = {method: await client.start(method, {}) for method in LISTS}
    results = {method: await client.result_of(number) for method, number in numbers.items()}
    return {method: results[method][method.partition("/")[0]] for method in LISTS}


def assert_usable(lists: dict[str, Any]) -> None:
    assert len(lists["tools/list"]) == 5
    assert len(lists["prompts/list"]) == 1
    assert len(lists["resources/list"]) == 3


async def test_discover_then_listen_then_the_lists() -> None:
    """What 2.1.330 sends to a server that it does not know yet."""
    async with unopened(MODERN) as client:
        await probe(client)
        found = (await client.answer_to(PROBE))["result"]
        await listen(client)
        lists = await read_lists(client)

    assert MODERN in found["supportedVersions"]
    assert_usable(lists)
    acknowledged = [line for line in client.lines if line.get("method") == "notifications/subscriptions/acknowledged"]
    assert len(acknowledged) == 1
    check_messages(client, era=MODERN)


async def test_an_unanswered_probe_is_followed_by_initialize_and_both_are_answered() -> None:
    """After 2.9 s without an answer Claude Code sends initialize as well; a server that was only slow gets both.

    It answers the first and refuses the second, and Claude Code goes on with the first.
    """
    async with unopened(MODERN) as client:
        await probe(client)
        await initialize(client, 0)  # the server is still starting: both wait for it in the pipe
        found = await client.answer_to(PROBE)
        refused = await client.answer_to(0)
        await probe(client, "server-discover-probe-2")
        again = await client.answer_to("server-discover-probe-2")
        await listen(client)
        lists = await read_lists(client)

    assert "result" in found
    assert refused["error"]["code"] == -32022
    assert again["result"] == found["result"]
    assert_usable(lists)
    check_messages(client, era=MODERN)


async def test_initialize_that_overtakes_a_lost_probe_opens_the_older_era() -> None:
    """The probe never arrived: a proxy or a wrapper swallowed it."""
    async with unopened(LEGACY) as client:
        await asyncio.sleep(3)  # what Claude Code waits for the probe; part of the scenario
        await client.open()
        lists = await read_lists(client)

    assert_usable(lists)
    check_messages(client, era=LEGACY)


async def test_a_host_that_remembers_us_as_a_legacy_peer_skips_the_probe() -> None:
    async with unopened(LEGACY) as client:
        opened = await client.open()
        lists = await read_lists(client)
        pong = await client.request("ping", {})

    assert opened["protocolVersion"] == LEGACY
    assert opened["serverInfo"]["name"] == "lmstudio-bridge"
    assert set(opened["capabilities"]) >= {"tools", "prompts", "resources", "completions"}
    assert pong == {}
    assert_usable(lists)
    check_messages(client, era=LEGACY)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18"])
async def test_older_hosts_are_served_in_the_version_that_they_ask_for(version: str) -> None:
    async with unopened(LEGACY) as client:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT_INFO}
        await client.send_request(0, "initialize", params)
        opened = (await client.answer_to(0))["result"]
        await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        lists = await read_lists(client)

    assert opened["protocolVersion"] == version
    assert_usable(lists)


async def test_an_unknown_method_and_a_wrong_id_are_answered_in_the_words_of_the_schema() -> None:
    async with unopened(MODERN) as client:
        await client.open()
        unknown = await client.answer_to(await client.start("tasks/list", {}))
        missing = await client.answer_to(await client.start("resources/read", {"uri": "lmstudio://runs/none-such"}))
        await client.cancel(4711)  # nothing of that id is under way
        lists = await read_lists(client)

    assert unknown["error"]["code"] == -32601
    assert missing["error"]["code"] == -32602
    assert_usable(lists)
    check_messages(client, era=MODERN)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


@pytest.mark.npm
@pytest.mark.parametrize("era", ERAS)
async def test_every_message_of_a_whole_session_fits_the_schema(desk: Desk, era: Era) -> None:
    """Lists, a run with its progress, an error, a bad argument, a resource, a prompt, a completion."""
    desk.script_reading()
    ref = {"type": "ref/resource", "uri": "lmstudio://runs/{run_id}"}
    completion = {"ref": ref, "argument": {"name": "run_id", "value": "2"}}
    async with desk.bridge(era) as client:
        await read_lists(client)
        await client.request("resources/templates/list", {})
        answer = await client.call("autonomous_with_mcp", mcp_name="filesystem", task="What is the code word?")
        unknown = await client.call("autonomous_with_mcp", mcp_name="unheard_of", task="What is the code word?")
        bad = await client.call("autonomous_with_mcp", mcp_name="filesystem")
        await client.request("resources/read", {"uri": "lmstudio://runs"})
        await client.request("prompts/get", {"name": "delegate"})
        await client.request("completion/complete", completion)

    assert answer.said.startswith("It is heron-42.")
    assert answer.progress
    assert (unknown.is_error, bad.is_error) == (True, True)
    check_messages(client, era=era)
