"""Sessions over stdio, with real child processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from lmstudio_bridge.downstream import content
from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.sessions import SessionPool
from lmstudio_bridge.errors import (
    DownstreamError,
    ServerNotConfiguredError,
    ServerStartError,
    SessionLostError,
    ToolTimeoutError,
)
from lmstudio_bridge.messages import ServerTool, ToolResult
from tests.downstream.testbed import PATIENCE, SLOPPY, configure, is_running, open_test_pool, until_dead


def names_of(tools: object) -> list[str]:
    assert isinstance(tools, tuple)
    return [tool.name for tool in tools]


async def messages_at(pool: SessionPool, **arguments: Any) -> list[dict[str, Any]]:
    """Every message that the server has got so far."""
    messages: list[dict[str, Any]] = json.loads((await pool.call_tool("sloppy", "received", arguments)).text)
    return messages


async def until_received(pool: SessionPool, method: str, count: int = 1) -> list[dict[str, Any]]:
    """Ask the server until it has got so many messages of that method, or calls of that tool."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [
                message
                for message in await messages_at(pool)
                if method in (message.get("method"), (message.get("params") or {}).get("name"))
            ]
            if len(found) >= count:
                return found


# Starting.


@pytest.mark.parametrize(
    "habits",
    [
        {},
        {"silent": True},
        {"chatty": True},
        {"batch": True},
        {"no_jsonrpc": True},
        {"version": "2024-11-05"},
        {"version": "1999-01-01"},
        {"modern": True},
        {"stubborn": True},
    ],
    ids=str,
)
async def test_server_with_a_harmless_habit_can_be_used(habits: dict[str, Any]) -> None:
    async with open_test_pool() as pool:
        tools = await pool.open_server(configure(**habits))
        result = await pool.call_tool("sloppy", "raw", {"result": {"content": [{"type": "text", "text": "hello"}]}})

    assert "raw" in names_of(tools)
    assert result == ToolResult("hello")


async def test_modern_server_gets_the_envelope_with_each_request() -> None:
    """Protocol 2026-07-28 has no handshake: each request names version, client and capabilities."""
    async with open_test_pool() as pool:
        await pool.open_server(configure(modern=True))
        first, listing, _ = await messages_at(pool)

    assert first["method"] == "initialize"
    assert listing["method"] == "tools/list"
    assert listing["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


async def test_server_that_exits_at_start_is_explained_with_its_own_words() -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError) as caught:
            await pool.open_server(configure(exit=4))

    assert caught.value.server == "sloppy"
    assert "'sloppy'" in caught.value.message
    assert "exited with code 4" in caught.value.message
    assert caught.value.stderr_tail == "cannot find my database\nset DB_PATH"


async def test_secrets_of_the_entry_do_not_appear_in_the_servers_last_words() -> None:
    config = configure(exit=4, env={"TOKEN": "database", "SHORT": "my"})
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError) as caught:
            await pool.open_server(config)

    assert caught.value.stderr_tail == "cannot find my ***\nset DB_PATH"
    assert "database" not in repr(config)


@pytest.mark.parametrize("habits", [{"hang": True}, {"hang_on": "tools/list"}, {"hang": True, "stubborn": True}])
async def test_silent_start_is_bounded(habits: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE), open_test_pool(start_timeout=0.3) as pool:
        with pytest.raises(ServerStartError, match=r"did not answer within 0\.3 seconds"):
            await pool.open_server(configure(**habits))


async def test_server_that_closes_its_output_is_given_up() -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match="closed its output before it was ready"):
            await pool.open_server(configure(close_stdout=True, hang=True))


async def test_line_above_the_cap_ends_the_server() -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match="wrote a line of more than 64 MiB"):
            await pool.open_server(configure(long_line=65 * 1024 * 1024))


async def test_missing_command_is_named_with_a_hint() -> None:
    async with open_test_pool(environ={"PATH": "/nonexistent"}) as pool:
        with pytest.raises(ServerStartError) as caught:
            await pool.open_server(ServerConfig("files", "stdio", command="npx", args=("-y", "x")))

    assert caught.value.message == "MCP server 'files' could not be started: command not found: npx."
    assert caught.value.remedy.startswith("Is Node.js installed?")


async def test_missing_folder_is_not_taken_for_a_missing_command(tmp_path: Path) -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match=r"its folder .*gone does not exist"):
            await pool.open_server(ServerConfig("x", "stdio", command=sys.executable, cwd=tmp_path / "gone"))


async def test_file_that_is_not_executable_is_named(tmp_path: Path) -> None:
    script = tmp_path / "server.sh"
    script.write_text("echo", encoding="utf-8")
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match="is not executable"):
            await pool.open_server(ServerConfig("x", "stdio", command=str(script)))


async def test_nul_byte_in_an_argument_is_an_error_of_that_server_only() -> None:
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match="could not be started"):
            await pool.open_server(ServerConfig("x", "stdio", command=sys.executable, args=("\0",)))


async def test_one_bad_server_does_not_spoil_the_others() -> None:
    configs = [configure("good"), configure("bad", exit=1), ServerConfig("none", "stdio", command="no-such-command")]
    async with open_test_pool() as pool:
        outcomes = await pool.open_servers(configs)

    assert list(outcomes) == ["good", "bad", "none"]
    assert "raw" in names_of(outcomes["good"])
    assert isinstance(outcomes["bad"], DownstreamError)
    assert isinstance(outcomes["none"], DownstreamError)


async def test_server_that_failed_is_tried_anew(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit(2)", encoding="utf-8")
    config = ServerConfig("late", "stdio", command=sys.executable, args=(str(script),))
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError):
            await pool.open_server(config)
        script.write_text(SLOPPY.read_text(encoding="utf-8"), encoding="utf-8")
        tools = await pool.open_server(config)

    assert "raw" in names_of(tools)


async def test_servers_start_at_the_same_time(tmp_path: Path) -> None:
    """Each of two servers waits for a file that the other one makes."""
    code = "import pathlib, sys, time\npathlib.Path(sys.argv[2]).touch()\n"
    code += "while not pathlib.Path(sys.argv[3]).exists(): time.sleep(0.01)\n"
    code += f"sys.argv[1] = '{{}}'\nexec(open({str(SLOPPY)!r}).read())"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    configs = [
        ServerConfig("one", "stdio", command=sys.executable, args=("-c", code, "", a, b)),
        ServerConfig("two", "stdio", command=sys.executable, args=("-c", code, "", b, a)),
    ]
    async with open_test_pool() as pool:
        outcomes = await pool.open_servers(configs)

    assert [len(names_of(tools)) for tools in outcomes.values()] == [12, 12]


# Environment.


async def test_server_gets_a_clean_environment_and_the_project_as_its_folder(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "LC_TIME": "C",
        "ANTHROPIC_API_KEY": "secret",
        "CLAUDECODE": "1",
        "CLAUDE_CODE_SESSION_ID": "secret",
        "LM_API_TOKEN": "secret",
        "OTHER": "1",
        "LMSTUDIO_BRIDGE_DEPTH": "2",
    }
    async with open_test_pool(tmp_path, environ=environ) as pool:
        await pool.open_server(configure(env={"LM_API_TOKEN": "its own"}))
        seen = json.loads((await pool.call_tool("sloppy", "env", {})).text)

    seen["env"].pop("LC_CTYPE", None)  # Python sets it for itself
    assert seen == {
        "cwd": str(tmp_path),
        "env": {
            "PATH": os.environ["PATH"],
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "LC_TIME": "C",
            "LM_API_TOKEN": "its own",
            "LMSTUDIO_BRIDGE_DEPTH": "3",
        },
    }


# Listing.


async def test_sloppy_tools_are_mended_and_never_hide_the_others() -> None:
    pages = [
        {
            "tools": [
                {"name": "empty schema", "inputSchema": {}},
                {"name": "No.Schema", "description": None},
                {"name": "untyped", "inputSchema": {"properties": {"a": {"type": "string"}}, "required": ["a"]}},
                {"name": "typed", "inputSchema": {"type": "string"}, "annotations": {"readOnlyHint": True}},
                {"description": "without a name"},
                None,
                {"name": "typed", "description": "the second of that name"},
                {"name": "out", "outputSchema": {"type": "object", "required": ["x"]}, "annotations": None},
            ]
        },
        {},
        {"tools": None},
        {"tools": [{"name": "last", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False}}]},
    ]
    anything = {"type": "object", "properties": {}}
    async with open_test_pool() as pool:
        tools = await pool.open_server(configure(pages=pages))

    assert tools == (
        ServerTool("sloppy", "empty schema", "", anything),
        ServerTool("sloppy", "No.Schema", "", anything),
        ServerTool(
            "sloppy", "untyped", "", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        ),
        ServerTool("sloppy", "typed", "", anything, read_only=True),
        ServerTool("sloppy", "out", "", anything),
        ServerTool("sloppy", "last", "", anything, read_only=False),
    )


@pytest.mark.parametrize("pages", [1, 2, 99, 100, 101])
async def test_pages_are_read_up_to_the_cap(pages: int) -> None:
    listing = [{"tools": [{"name": f"tool {number}"}, {"name": f"other {number}"}]} for number in range(pages)]
    async with open_test_pool() as pool:
        tools = await pool.open_server(configure(pages=listing))

    assert len(tools) == 2 * min(pages, 100)


async def test_repeated_cursor_ends_the_listing() -> None:
    async with asyncio.timeout(PATIENCE), open_test_pool() as pool:
        assert names_of(await pool.open_server(configure(endless=True))) == ["raw"]


async def test_changed_tools_are_listed_again_at_the_next_opening() -> None:
    config = configure()
    async with open_test_pool() as pool:
        before = names_of(await pool.open_server(config))
        await pool.call_tool("sloppy", "change", {"name": "added"})
        after = names_of(await pool.open_server(config))
        again = names_of(await pool.open_server(config))
        listings = [message for message in await messages_at(pool) if message.get("method") == "tools/list"]

    assert after == again == [*before, "added"]
    assert len(listings) == 2


# Calling.


async def test_result_of_a_tool_without_structured_content_is_taken() -> None:
    pages = [{"tools": [{"name": "raw", "outputSchema": {"type": "object", "required": ["x"]}}]}]
    async with open_test_pool() as pool:
        await pool.open_server(configure(pages=pages))
        result = await pool.call_tool("sloppy", "raw", {"result": {"content": [{"type": "text", "text": "plain"}]}})

    assert result == ToolResult("plain")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, ToolResult("(no output)")),
        ({"content": None, "isError": True}, ToolResult("(no output)", is_error=True)),
        ({"content": "just text"}, ToolResult("just text")),
        ({"content": [{"type": "hologram", "depth": 3}]}, ToolResult('{"type":"hologram","depth":3}')),
        (None, ToolResult('The server\'s answer is malformed: {"jsonrpc": "2.0", "id": 3, "result": null}', True)),
        ({"resultType": "input_required"}, ToolResult(content.NEEDS_INPUT, True)),
    ],
)
async def test_odd_result_is_read(answer: object, expected: ToolResult) -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        assert await pool.call_tool("sloppy", "raw", {"result": answer}) == expected


@pytest.mark.parametrize("code", [-32602, -32000, -32001, -32603, 7])
async def test_json_rpc_error_is_a_result_with_the_servers_words(code: int) -> None:
    """-32000 and -32001 are also what the SDK uses for a lost connection and a timeout."""
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        result = await pool.call_tool("sloppy", "fail", {"error": {"code": code, "message": "not like that"}})
        pid = await pool.call_tool("sloppy", "pid", {})
        again = await pool.call_tool("sloppy", "pid", {})

    assert result == ToolResult("not like that", is_error=True)
    assert pid == again


async def test_lone_surrogates_survive_in_neither_direction() -> None:
    """JavaScript servers cut texts inside of a character; a model's arguments may be cut as well."""
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        result = await pool.call_tool("sloppy", "raw", {"result": {"content": [{"type": "text", "text": "a\ud83db"}]}})

    assert result == ToolResult("a?b")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
async def test_arguments_that_are_no_json_are_answered_at_once(value: object) -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        result = await pool.call_tool("sloppy", "raw", {"result": value})
        methods = [message["method"] for message in await messages_at(pool)]

    assert result.is_error
    assert result.text.startswith("These arguments cannot be sent as JSON")
    assert methods.count("tools/call") == 1


async def test_big_result_passes() -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        result = await pool.call_tool("sloppy", "big", {"size": 20_000_000})

    assert result.text == "x" * 20_000_000


async def test_big_argument_passes() -> None:
    text = "é" * 3_000_000
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        result = await pool.call_tool("sloppy", "raw", {"result": {"content": [{"type": "text", "text": text}]}})

    assert result.text == text


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

    async with open_test_pool() as pool:
        await pool.open_server(configure())
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

    async with open_test_pool() as pool:
        await pool.open_server(configure())
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(pool.call_tool("sloppy", "progress", {"steps": 1}, on_progress=on_progress))
            await raised.wait()
            await messages_at(pool, release=True)

    assert call.result().text.startswith("released")


# Concurrency and cancelling.


async def test_twenty_calls_are_in_flight_at_once() -> None:
    """The server answers none of them before it has all."""
    async with asyncio.timeout(PATIENCE), open_test_pool() as pool:
        await pool.open_server(configure())
        calls = [pool.call_tool("sloppy", "meet", {"count": 20, "label": number}) for number in range(20)]
        results = await asyncio.gather(*calls)

    assert results == [ToolResult(f"met {number}") for number in range(20)]


async def test_openers_share_one_start() -> None:
    config = configure()
    async with open_test_pool() as pool:
        listings = await asyncio.gather(*(pool.open_server(config) for _ in range(5)))
        methods = [message["method"] for message in await messages_at(pool)]

    assert all(tools == listings[0] for tools in listings)
    assert methods == ["initialize", "notifications/initialized", "tools/list", "tools/call"]


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
    async with open_test_pool() as pool:
        await pool.open_server(configure())
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
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.call_tool, "sloppy", "hold", {})
            await until_received(pool, "hold")
            tasks.cancel_scope.cancel()
        cancelled = await until_received(pool, "notifications/cancelled")

    assert len(cancelled) == 1


async def test_call_that_times_out_is_told_to_the_server_and_leaves_the_session_usable() -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
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
    async with open_test_pool() as pool:
        await pool.open_server(configure())
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


async def test_server_that_died_idle_is_started_again_by_opening() -> None:
    config = configure()
    async with open_test_pool() as pool:
        await pool.open_server(config)
        pid = int((await pool.call_tool("sloppy", "pid", {})).text)
        os.kill(pid, 9)
        await until_dead(pid)
        tools = await pool.open_server(config)
        try:
            new = await pool.call_tool("sloppy", "pid", {})
        except SessionLostError:  # the kernel knew, our event loop did not yet
            tools = await pool.open_server(config)
            new = await pool.call_tool("sloppy", "pid", {})

    assert "raw" in names_of(tools)
    assert int(new.text) != pid


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
    async with asyncio.timeout(PATIENCE), open_test_pool() as pool:
        await pool.open_server(configure())
        grandchild = int((await pool.call_tool("sloppy", "spawn", {})).text)
        with pytest.raises(SessionLostError):
            await pool.call_tool("sloppy", "die", {})
        await until_dead(grandchild)


async def test_changed_configuration_opens_a_new_session_and_lets_old_calls_finish() -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        old = int((await pool.call_tool("sloppy", "pid", {})).text)
        await pool.open_server(configure(env={"CHANGED": "1"}))
        new = int((await pool.call_tool("sloppy", "pid", {})).text)
        await until_dead(old)
        await pool.open_server(configure(env={"CHANGED": "1"}))
        same = int((await pool.call_tool("sloppy", "pid", {})).text)

    assert new != old
    assert same == new


# Ending.


@pytest.mark.parametrize("habits", [{}, {"stubborn": True}], ids=["good", "stubborn"])
async def test_leaving_the_pool_ends_servers_and_their_children(habits: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        async with open_test_pool() as pool:
            await pool.open_server(configure(**habits))
            server = int((await pool.call_tool("sloppy", "pid", {})).text)
            grandchild = int((await pool.call_tool("sloppy", "spawn", {})).text)
            assert is_running(server)
            assert is_running(grandchild)
        assert not is_running(server)
        await until_dead(grandchild)


async def test_killing_all_needs_no_event_loop_turn() -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure(stubborn=True))
        server = int((await pool.call_tool("sloppy", "pid", {})).text)
        grandchild = int((await pool.call_tool("sloppy", "spawn", {})).text)
        pool.kill_all()
        await until_dead(server)
        await until_dead(grandchild)
        with pytest.raises(ServerStartError, match="shutting down"):
            await pool.open_server(configure("another"))


async def test_error_in_the_block_leaves_the_pool_unwrapped() -> None:
    async def fail_in_pool() -> None:
        async with open_test_pool() as pool:
            await pool.open_server(configure())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_in_pool()


async def test_cancelled_block_ends_the_servers() -> None:
    ready = asyncio.Event()
    pids: list[int] = []

    async def use_pool() -> None:
        async with open_test_pool() as pool:
            await pool.open_server(configure(stubborn=True))
            pids.append(int((await pool.call_tool("sloppy", "pid", {})).text))
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use_pool())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_running(pids[0])


async def test_pool_that_ends_during_a_start_tells_the_opener() -> None:
    async with open_test_pool() as pool:
        opener = asyncio.create_task(pool.open_server(configure(hang=True)))
        await asyncio.sleep(0)
    with pytest.raises(ServerStartError, match="was closed before it was ready"):
        await opener


async def test_call_under_way_when_the_pool_ends_is_lost() -> None:
    async with open_test_pool() as pool:
        await pool.open_server(configure())
        call = asyncio.create_task(pool.call_tool("sloppy", "hold", {}))
        await until_received(pool, "hold")
    with pytest.raises(SessionLostError):
        await call
