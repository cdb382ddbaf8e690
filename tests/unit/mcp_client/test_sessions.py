"""Calls, losses and ends of sessions over stdio, with real child processes."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from lmstudio_bridge.errors import ServerNotConfiguredError, ServerStartError, SessionLostError, ToolTimeoutError
from lmstudio_bridge.mcp_client import repair as content
from lmstudio_bridge.messages import ServerConfig, ToolResult
from tests.support.processes import PATIENCE, SLOPPY, until_dead
from tests.unit.mcp_client.pools import (
    configure,
    make_pool,
    messages_at,
    names_of,
    open_sloppy,
    open_test_pool,
    until_received,
)

# Calling.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, ToolResult("(no output)")),
        ({"content": None, "isError": True}, ToolResult("(no output)", is_error=True)),
        ({"content": "just text"}, ToolResult("just text")),
        ({"content": [{"type": "hologram", "depth": 3}]}, ToolResult('{"type":"hologram","depth":3}')),
        (None, ToolResult('The server\'s answer is malformed: {"jsonrpc": "2.0", "id": 3, "result": null}', True)),
        ({"resultType": "input_required"}, ToolResult(content.NEEDS_INPUT, True)),
        ({"content": [{"type": "text", "text": "half a letter: \ud83d"}]}, ToolResult("half a letter: ?")),
    ],
)
async def test_odd_result_is_read(answer: object, expected: ToolResult) -> None:
    async with open_sloppy() as pool:
        assert await pool.call_tool("sloppy", "raw", {"result": answer}) == expected


@pytest.mark.parametrize("code", [-32602, -32000, -32001, -32603, 7])
async def test_json_rpc_error_is_a_result_with_the_servers_words(code: int) -> None:
    """-32000 and -32001 are also what the SDK uses for a lost connection and a timeout."""
    async with open_sloppy() as pool:
        result = await pool.call_tool(
            "sloppy", "fail", {"error": {"code": code, "message": "not like that", "data": [7]}}
        )
        pid = await pool.call_tool("sloppy", "pid", {})
        again = await pool.call_tool("sloppy", "pid", {})

    assert result == ToolResult("not like that\n[7]", is_error=True)
    assert pid == again


async def test_instructions_of_a_server_are_known_once_it_is_open() -> None:
    async with open_sloppy(initialize={"instructions": "Search first."}) as pool:
        await pool.open_server(configure("plain"))

        assert [pool.instructions("sloppy"), pool.instructions("plain")] == ["Search first.", ""]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
async def test_arguments_that_are_no_json_are_answered_at_once(value: object) -> None:
    async with open_sloppy() as pool:
        result = await pool.call_tool("sloppy", "raw", {"result": value})
        methods = [message["method"] for message in await messages_at(pool)]

    assert result.is_error
    assert result.text.startswith("These arguments cannot be sent as JSON")
    assert methods.count("tools/call") == 1


async def test_arguments_too_deep_for_the_wire_are_answered_and_harm_nobody_else() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    async with open_sloppy() as pool:
        pid = await pool.call_tool("sloppy", "pid", {})

        result = await pool.call_tool("sloppy", "raw", {"result": deep})

        assert result == ToolResult("This is nested too deeply to be sent.", is_error=True)
        assert await pool.call_tool("sloppy", "pid", {}) == pid


async def test_big_results_and_arguments_pass() -> None:
    text = "é" * 2_000_000
    async with open_sloppy() as pool:
        big = await pool.call_tool("sloppy", "big", {"size": 16_000_000})
        sent = await pool.call_tool("sloppy", "raw", {"result": {"content": [{"type": "text", "text": text}]}})

    assert (big.text == "x" * 16_000_000, sent.text == text) == (True, True)


async def test_call_of_a_server_that_was_never_opened_is_refused() -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerNotConfiguredError):
            await pool.call_tool("sloppy", "raw", {})


async def test_progress_reaches_the_caller_as_text() -> None:
    told: list[str] = []
    enough = asyncio.Event()

    async def on_progress(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            enough.set()

    async with open_sloppy() as pool:
        arguments = {"steps": 3, "message": "reading\n files"}
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(pool.call_tool("sloppy", "progress", arguments, on_progress=on_progress))
            async with asyncio.timeout(PATIENCE):
                await enough.wait()
            assert not call.done()
            await messages_at(pool, release=True)

    assert told == ["1/3 reading files", "2/3 reading files", "3/3 reading files"]


async def test_listener_of_progress_that_raises_does_not_harm_the_call() -> None:
    raised = asyncio.Event()

    async def on_progress(text: str) -> None:
        raised.set()
        raise RuntimeError(text)

    async with open_sloppy() as pool, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(pool.call_tool("sloppy", "progress", {"steps": 1}, on_progress=on_progress))
        await raised.wait()
        await messages_at(pool, release=True)

    assert call.result().text.startswith("released")


# Concurrency and cancelling.


async def test_cancelled_opener_does_not_disturb_the_other() -> None:
    config = configure()
    async with open_test_pool() as pool:
        first = asyncio.create_task(pool.open_server(config))
        second = asyncio.create_task(pool.open_server(config))
        await asyncio.sleep(0)  # both run up to their first wait
        first.cancel()
        tools = await second
        with pytest.raises(asyncio.CancelledError):
            await first

    assert "raw" in names_of(tools)


async def test_cancelled_call_is_told_to_the_server_and_leaves_the_session_usable() -> None:
    async with open_sloppy() as pool:
        calls = [asyncio.create_task(pool.call_tool("sloppy", "hold", {"n": number})) for number in range(3)]
        held = await until_received(pool, "hold", 3)
        calls[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        (notice,) = await until_received(pool, "notifications/cancelled")
        await messages_at(pool, release=True)
        results = await asyncio.gather(calls[0], calls[2])

    assert [notice["params"]["requestId"]] == [
        message["id"] for message in held if message["params"]["arguments"] == {"n": 1}
    ]
    assert [result.text for result in results] == ["released {'n': 0}", "released {'n': 2}"]


async def test_call_in_a_cancelled_scope_is_told_to_the_server() -> None:
    """The MCP server side cancels a tool with an anyio scope, which cancels every await anew."""
    async with open_sloppy() as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.call_tool, "sloppy", "hold", {})
            await until_received(pool, "hold")
            tasks.cancel_scope.cancel()
        cancelled = await until_received(pool, "notifications/cancelled")

    assert len(cancelled) == 1


async def test_call_that_times_out_is_told_to_the_server_and_leaves_the_session_usable() -> None:
    async with open_sloppy() as pool:
        with pytest.raises(ToolTimeoutError, match=r"'hold' of MCP server 'sloppy' gave no result within 0\.2 seconds"):
            await pool.call_tool("sloppy", "hold", {}, timeout=0.2)
        cancelled = await until_received(pool, "notifications/cancelled")

    assert len(cancelled) == 1


@pytest.mark.parametrize(("own", "pool_wide"), [(0.2, PATIENCE), (None, 0.2)])
async def test_timeout_of_a_call_falls_back_to_the_servers_and_then_to_the_pools(
    own: float | None, pool_wide: float
) -> None:
    config = ServerConfig("sloppy", "stdio", command=sys.executable, args=(str(SLOPPY),), timeout=own)
    async with open_test_pool(call_timeout=pool_wide) as pool:
        await pool.open_server(config)
        with pytest.raises(ToolTimeoutError, match=r"0\.2 seconds"):
            await pool.call_tool("sloppy", "hold", {})


# Losing and reopening.


async def test_server_that_dies_in_a_call_loses_that_call_and_is_started_again_for_the_next() -> None:
    async with open_sloppy() as pool:
        bystander = asyncio.create_task(pool.call_tool("sloppy", "hold", {}))
        await until_received(pool, "hold")
        with pytest.raises(
            SessionLostError, match=r"exited with code 3 during the call of 'die'.*may or may not"
        ) as one:
            await pool.call_tool("sloppy", "die", {})
        with pytest.raises(SessionLostError):
            await bystander
        methods = [message["method"] for message in await messages_at(pool)]

    assert one.value.server == "sloppy"
    assert methods == ["initialize", "notifications/initialized", "tools/list", "tools/call"]  # nothing was sent again


async def test_server_that_stops_reading_loses_the_call_and_is_started_again_for_the_next() -> None:
    async with asyncio.timeout(PATIENCE), open_sloppy() as pool:
        pid = (await pool.call_tool("sloppy", "pid", {})).text
        await pool.call_tool("sloppy", "deaf", {})

        with pytest.raises(SessionLostError, match="does not read its input any more during the call of 'raw'"):
            await pool.call_tool("sloppy", "raw", {"result": {}})

        assert (await pool.call_tool("sloppy", "pid", {})).text != pid


async def test_server_that_does_not_come_back_is_a_start_error(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SLOPPY.read_text(encoding="utf-8"), encoding="utf-8")
    async with open_test_pool() as pool:
        await pool.open_server(ServerConfig("sloppy", "stdio", command=sys.executable, args=(str(script),)))
        script.write_text("raise SystemExit(5)", encoding="utf-8")
        with pytest.raises(SessionLostError):
            await pool.call_tool("sloppy", "die", {})
        with pytest.raises(ServerStartError, match="exited with code 5"):
            await pool.call_tool("sloppy", "pid", {})


async def test_grandchild_that_holds_the_pipes_does_not_hide_the_death_of_its_server() -> None:
    async with asyncio.timeout(PATIENCE), open_sloppy() as pool:
        grandchild = int((await pool.call_tool("sloppy", "spawn", {})).text)
        with pytest.raises(SessionLostError):
            await pool.call_tool("sloppy", "die", {})
        await until_dead(grandchild)


async def test_changed_configuration_opens_a_new_session_and_lets_old_calls_finish() -> None:
    async with open_sloppy() as pool:
        old = int((await pool.call_tool("sloppy", "pid", {})).text)
        await pool.open_server(configure(env={"CHANGED": "1"}))
        new = int((await pool.call_tool("sloppy", "pid", {})).text)
        await until_dead(old)
        await pool.open_server(configure(env={"CHANGED": "1"}))
        same = int((await pool.call_tool("sloppy", "pid", {})).text)

    assert new != old
    assert same == new


# Ending.


async def test_killing_all_needs_no_event_loop_turn() -> None:
    async with make_pool() as pool:
        with pool.lease() as lease:
            await lease.open_server(configure(stubborn=True))
            server = int((await lease.call_tool("sloppy", "pid", {})).text)
            grandchild = int((await lease.call_tool("sloppy", "spawn", {})).text)
            pool.kill_all()
            await until_dead(server)
            await until_dead(grandchild)
            with pytest.raises(ServerStartError, match="shutting down"):
                await lease.open_server(configure("another"))


async def test_error_in_the_block_leaves_the_pool_unwrapped() -> None:
    async def fail_in_pool() -> None:
        async with open_sloppy():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_in_pool()


async def test_pool_that_ends_during_a_start_tells_the_opener() -> None:
    async with open_test_pool() as pool:
        opener = asyncio.create_task(pool.open_server(configure(hang=True)))
        await asyncio.sleep(0)
    with pytest.raises(ServerStartError, match="was closed before it was ready"):
        await opener


async def test_call_under_way_when_the_pool_ends_is_lost() -> None:
    async with open_sloppy() as pool:
        call = asyncio.create_task(pool.call_tool("sloppy", "hold", {}))
        await until_received(pool, "hold")
    with pytest.raises(SessionLostError):
        await call


async def test_disabled_tools_are_neither_listed_nor_called() -> None:
    async with open_test_pool() as pool:
        every = names_of(await pool.open_server(configure()))
        config = replace(configure(), disabled_tools=("die",), source=Path("mcp.json"))
        left = names_of(await pool.open_server(config))
        refused = await pool.call_tool("sloppy", "die", {})
        received = await messages_at(pool)

    assert left == [name for name in every if name != "die"] != every
    assert (refused.text, refused.is_error) == ("Tool 'die' is disabled in mcp.json.", True)
    assert not [message for message in received if (message.get("params") or {}).get("name") == "die"]
