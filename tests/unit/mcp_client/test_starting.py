"""How servers over stdio are started, and how their tools are listed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.mcp_client.failures import NOT_INSTALLED, explain_exit, installer_of
from lmstudio_bridge.messages import Confinement, ServerConfig, ServerTool, ToolResult
from tests.support.processes import PATIENCE, SLOPPY
from tests.unit.mcp_client.pools import (
    assert_start_fails,
    configure,
    messages_at,
    names_of,
    open_sloppy,
    open_test_pool,
    start_failure,
)

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
    async with open_sloppy(modern=True) as pool:
        first, listing, _ = await messages_at(pool)

    assert first["method"] == "initialize"
    assert listing["method"] == "tools/list"
    assert listing["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


async def test_server_that_exits_at_start_is_explained_with_its_own_words_without_secrets_of_its_entry() -> None:
    config = configure(exit=4, env={"TOKEN": "database", "SHORT": "my"})
    failure = await start_failure(config)

    assert failure.server == "sloppy"
    assert "'sloppy'" in failure.message
    assert "exited with code 4" in failure.message
    assert failure.stderr_tail == "cannot find my ***\nset DB_PATH"
    assert "database" not in repr(config)


@pytest.mark.parametrize(
    "words", ["npm error code ENOTCACHED", "Packages were unavailable because the network was disabled."]
)
@pytest.mark.parametrize("confinement", [None, Confinement(("bwrap",), "It runs in a sandbox.")])
def test_a_server_that_could_not_be_downloaded_says_so_and_not_more(
    words: str, confinement: Confinement | None
) -> None:
    config = ServerConfig("files", "stdio", command="npx", args=("-y", "x"), confinement=confinement)

    failure = explain_exit("exited with code 1", config=config, stderr_tail=f"{words}\nlog 2026-01-01T00_00.log")

    assert failure.reason == f"(`npx`) {NOT_INSTALLED}, so it cannot be downloaded"
    assert failure.remedy == ("" if confinement else "Run its command once in a terminal, with network.")
    assert failure.stderr_tail == ""


@pytest.mark.parametrize("habits", [{"hang": True}, {"hang_on": "tools/list"}, {"hang": True, "stubborn": True}])
async def test_silent_start_is_bounded(habits: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        await assert_start_fails(configure(**habits), r"did not answer within 0\.3 seconds", start_timeout=0.3)


async def test_server_that_closes_its_output_is_given_up() -> None:
    await assert_start_fails(configure(close_stdout=True, hang=True), "closed its output before it was ready")


async def test_line_above_the_cap_ends_the_server() -> None:
    await assert_start_fails(configure(long_line=17 * 1024 * 1024), "wrote a line of more than 16 MiB")


async def test_missing_command_is_named_with_a_hint() -> None:
    failure = await start_failure(
        ServerConfig("files", "stdio", command="npx", args=("-y", "x")), environ={"PATH": "/nonexistent"}
    )

    assert failure.message == "MCP server 'files' could not be started: command not found: npx."
    assert failure.remedy.startswith("Is Node.js installed?")


@pytest.mark.parametrize(
    ("command", "args", "folder", "reason"),
    [
        (sys.executable, (), "gone", r"its folder .*gone does not exist"),
        (sys.executable, (), "x" * 300, "could not be started: its folder"),
        ("server.sh", (), ".", "is not executable"),
        (sys.executable, ("\0",), ".", "could not be started"),
        ("moved.py", (), ".", "the program that the first line of .*moved.py names does not exist"),
    ],
    ids=["folder is missing", "folder cannot be inspected", "file is not executable", "NUL byte", "no interpreter"],
)
async def test_wrong_entry_is_an_error_of_that_server_only(
    tmp_path: Path, command: str, args: tuple[str, ...], folder: str, reason: str
) -> None:
    (tmp_path / "server.sh").write_text("echo", encoding="utf-8")
    (tmp_path / "moved.py").write_text("#!/gone/bin/python\n", encoding="utf-8")
    (tmp_path / "moved.py").chmod(0o755)
    config = ServerConfig("x", "stdio", command=str(tmp_path / command), args=args, cwd=tmp_path / folder)
    async with open_test_pool() as pool:
        with pytest.raises(ServerStartError, match=reason):
            await pool.open_server(config)
        assert "raw" in names_of(await pool.open_server(configure()))


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


@pytest.mark.parametrize("command", ["npx -y @scope/server --token=abc", f"{sys.executable} server.py"])
async def test_whole_command_line_in_command_is_to_be_split(command: str) -> None:
    failure = await start_failure(ServerConfig("files", "stdio", command=command))

    first = command.split()[0]
    assert failure.message.endswith(f"its `command` is a whole command line, which begins with {first}.")
    assert f'`"command": "{first}"`' in failure.remedy
    assert "abc" not in failure.explain()


async def test_missing_program_with_a_blank_in_its_path_is_not_a_command_line() -> None:
    config = ServerConfig("files", "stdio", command="/no such/program")
    await assert_start_fails(config, "command not found: /no such/program")


def installing(folder: Path, ready: Path, program: str = "npx") -> ServerConfig:
    """A server that such a program starts, and that answers once the file is there."""
    command = folder / program
    habits = json.dumps({"wait_for": str(ready)})
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -S {SLOPPY} '{habits}'\n", encoding="utf-8")
    command.chmod(0o700)
    return ServerConfig("files", "stdio", command=str(command))


@pytest.mark.parametrize(
    ("words", "installer"),
    [
        (("npx", "-y", "foo"), "npx"),
        (("bun", "x", "foo"), "bun"),
        (("bash", "-lc", ". ~/.nvm/nvm.sh && npx -y foo"), "npx"),
        (("sh", "-c", "exec /opt/uv/uvx foo"), "uvx"),
        (("bash", "-c", "node foo.js"), ""),
        (("op", "run", "--env-file=.env", "--", "npx", "-y", "foo"), "npx"),
        (("node", "foo.js", "--", "--npx"), ""),
        (("node", "npx"), ""),
    ],
)
def test_commands_that_may_install_their_server_are_known(words: tuple[str, ...], installer: str) -> None:
    assert installer_of(ServerConfig("files", "stdio", command=words[0], args=words[1:])) == installer


async def test_first_start_gets_the_time_to_be_installed(tmp_path: Path) -> None:
    """It begins before another server that takes too long, and answers after that was given up."""
    told: list[str] = []

    async def on_wait(text: str) -> None:
        told.append(text)
        with pytest.raises(ServerStartError, match=r"within 0\.3 seconds"):
            await pool.open_server(configure(hang=True))
        (tmp_path / "ready").touch()

    async with open_test_pool(start_timeout=0.3, install_timeout=PATIENCE) as pool:
        config = installing(tmp_path, tmp_path / "ready")
        tools = await pool.open_server(config, on_wait=on_wait, is_new=True)
        await pool.open_server(config, on_wait=on_wait, is_new=True)

    assert "raw" in names_of(tools)
    assert told == ["installing: npx downloads MCP server files on its first start"]


@pytest.mark.parametrize("program", ["npx", "python"])
async def test_only_a_start_that_may_install_gets_more_time(tmp_path: Path, program: str) -> None:
    config = installing(tmp_path, tmp_path / "never", program)
    async with open_test_pool(start_timeout=0.3, install_timeout=0.6) as pool:
        for is_new, seconds in ((False, "0.3"), (False, "0.6"), (True, "0.6")):
            limit = seconds if program == "npx" else "0.3"
            with pytest.raises(ServerStartError, match=f"within {limit} seconds"):
                await pool.open_server(config, is_new=is_new)


# Environment.


async def test_server_gets_a_clean_environment_what_is_passed_and_the_project_as_its_folder(tmp_path: Path) -> None:
    kept = {"PATH": os.environ["PATH"], "HTTPS_PROXY": "http://127.0.0.1:9", "LC_TIME": "C"}
    passed = {"AWS_PROFILE": "y", "OTHER": "1"}
    secrets = dict.fromkeys(("ANTHROPIC_API_KEY", "CLAUDE_CODE_SESSION_ID", "LM_API_TOKEN", "MORE"), "secret")
    environ = {**kept, **passed, **secrets, "CLAUDECODE": "1", "AWS_REGION": "x", "LMSTUDIO_BRIDGE_DEPTH": "2"}
    own = {"LM_API_TOKEN": "its own", "ANTHROPIC_API_KEY": "its own", "AWS_REGION": "its own"}
    async with open_test_pool(tmp_path, environ=environ, pass_env=("AWS_*", "OTHER")) as pool:
        await pool.open_server(configure(env=own))
        seen = json.loads((await pool.call_tool("sloppy", "env", {})).text)

    seen["env"].pop("LC_CTYPE", None)  # Python sets it for itself
    seen["env"] = {name: value for name, value in seen["env"].items() if not name.startswith("GIT_CONFIG_")}
    bridges = {"CLAUDE_PROJECT_DIR": str(tmp_path), "LMSTUDIO_BRIDGE_DEPTH": "3"}
    assert seen == {"cwd": str(tmp_path), "env": {**kept, **passed, **own, **bridges}}


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
