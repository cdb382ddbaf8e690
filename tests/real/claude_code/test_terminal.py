"""The real Claude Code in a terminal: what a person does there, and how a session can end. Needs tmux and Linux."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.real.claude_code.anthropic_api import text, use
from tests.real.claude_code.host import BRIDGE, CLAUDE, NEEDED, READING, Host, open_host, read
from tests.real.claude_code.terminal import TMUX, Terminal, open_terminal, until
from tests.support.desk import MODEL
from tests.support.processes import is_running, processes_that_name, until_dead

pytestmark = [
    *NEEDED,
    pytest.mark.skipif(TMUX is None, reason="tmux is not installed: scripts/claude-code does it"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

FOCUS = "\u276f "
ANSWER = "It is heron-42."


@asynccontextmanager
async def open_session(folder: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[tuple[Host, Terminal]]:
    """Claude Code in a terminal, ready for a prompt; nothing that it started may outlast it."""
    allowed = ",".join(BRIDGE + name for name in READING)
    command = [str(CLAUDE), "--permission-mode", "default", "--allowedTools", allowed]
    async with open_host(folder) as host:
        async with open_terminal(
            command,
            folder=host.desk.project,
            environ={**host.environ, **(environ or {})},
            socket=folder.with_suffix(".tmux"),
        ) as terminal:
            await terminal.until("manual mode")
            await until(lambda: bool(bridges(folder)), "the bridge runs")
            yield host, terminal
            await until_dead(terminal.pid)
        for pid in processes_that_name(folder):
            await until_dead(pid)


def bridges(folder: Path) -> list[int]:
    """The bridge's processes."""
    return [
        pid for pid in processes_that_name(folder) if b"lmstudio_bridge" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def said(host: Host) -> str:
    """All that the newest request to the API holds."""
    return json.dumps(host.api.requests[-1]["messages"], ensure_ascii=False)


async def say(terminal: Terminal, words: str) -> None:
    await terminal.type(words)
    await terminal.until(words[-20:])
    await terminal.press("Enter")


async def choose(terminal: Terminal, line: str) -> None:
    """Move down to a line of a menu, and take it; Claude Code misses a key that comes while it draws."""
    taken = False
    for _ in range(30):
        if f"{FOCUS}{line}" in await terminal.screen():
            await terminal.press("Enter")
            taken = True
        elif taken:
            return
        else:
            await terminal.press("Down")
        for _ in range(20):
            if (f"{FOCUS}{line}" in await terminal.screen()) is not taken:
                break
            await asyncio.sleep(0.05)
    raise AssertionError(f"{line} could not be chosen:\n{await terminal.screen()}")


async def test_a_session_with_interruption_approval_mention_and_crash(tmp_path: Path) -> None:
    async with open_session(tmp_path / "desk") as (host, terminal):
        sim, api, path = host.desk.sim, host.api, host.desk.project / "a.md"

        # Esc closes LM Studio's stream, and the run is found without its id.
        sim.script(MODEL, TextReply("Never.", faults=(Stall(until=asyncio.Event()),)), TextReply(ANSWER))
        api.turns = [[read("What is the code word?")]]
        await say(terminal, "Look there.")
        request = await sim.wait_for_request(1, path="/v1/chat/completions")
        await terminal.press("Escape")
        await terminal.until("Interrupted")
        async with asyncio.timeout(60):
            await request.ended.wait()
        assert request.disconnected
        api.turns = [[use(f"{BRIDGE}continue_run")], [text("It was found.")]]
        await say(terminal, "Go on with it.")
        await terminal.until("It was found.")
        assert ANSWER in said(host)

        # A call of a reading run that changes something is shown, and made when the person accepts it.
        call = CallReply(("filesystem__write_file", {"path": str(path), "content": "new"}))
        sim.script(MODEL, call, TextReply("It is done."))
        api.turns = [[read("Write a.md.")], [text("It was written.")]]
        await say(terminal, "Write it.")
        await terminal.until("Allow filesystem write_file?", 'content: "new"', "a.md")
        assert not path.exists()
        await choose(terminal, "Accept")
        await terminal.until("It was written.")
        assert path.read_text(encoding="utf-8") == "new"

        # A run that is mentioned is read.
        mention = f"@lmstudio-bridge:lmstudio://runs/{host.desk.journals()[0].stem}"
        api.turns = [[text("It was mentioned.")]]
        await terminal.type(f"{mention} what is it?")
        await terminal.until("what is it?", gone="◇")  # the list of completions
        await terminal.press("Enter")
        await terminal.until("It was mentioned.")
        assert said(host).count(ANSWER) >= 2

        # After a crash, `/mcp` starts the bridge again.
        [bridge] = bridges(tmp_path / "desk")
        os.kill(bridge, signal.SIGKILL)
        await until_dead(bridge)
        await say(terminal, "/mcp")
        await terminal.until("MCP servers")
        await choose(terminal, "✘ lmstudio-bridge")
        await choose(terminal, "Reconnect")
        await until(lambda: bool(bridges(tmp_path / "desk")), "the bridge runs again")
        await terminal.until("econnected")
        api.turns = [[use(f"{BRIDGE}continue_run", run_id=host.desk.journals()[0].stem)], [text("It is back.")]]
        await say(terminal, "Fetch it again.")
        await terminal.until("It is back.")
        assert ANSWER in str(api.results()[-1]["content"])

        await say(terminal, "/exit")


async def test_a_call_in_the_background_brings_its_result_and_may_ask(tmp_path: Path) -> None:
    release = asyncio.Event()
    async with open_session(tmp_path / "desk", {"CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS": "1"}) as (host, terminal):
        sim, api, path = host.desk.sim, host.api, host.desk.project / "a.md"
        call = CallReply(
            ("filesystem__write_file", {"path": str(path), "content": "new"}), faults=(Stall(until=release),)
        )
        sim.script(MODEL, call, TextReply("It is done."))
        api.turns = [[read("Write a.md.")], [text("It is under way.")], [text("It was written.")]]
        await say(terminal, "Write it.")
        await terminal.until("It is under way.")
        assert "background" in str(api.results()[-1]["content"])
        release.set()
        await terminal.until("Allow filesystem write_file?")
        await choose(terminal, "Accept")
        await terminal.until("It was written.")
        assert "It is done." in said(host)
        assert path.exists()

        await terminal.press("C-d")
        await terminal.until("again to exit")
        await terminal.press("C-d")


async def press_ctrl_c(terminal: Terminal) -> None:
    await terminal.press("C-c")
    await terminal.until("Interrupted")
    await terminal.press("C-c")
    await terminal.until("again to exit")
    await terminal.press("C-c")


async def close_terminal(terminal: Terminal) -> None:
    await terminal.tmux("kill-session")


def send(number: signal.Signals) -> Callable[[Terminal], Awaitable[None]]:
    async def end(terminal: Terminal) -> None:
        os.kill(terminal.pid, number)

    return end


ENDS = {"ctrl-c": press_ctrl_c, "close": close_terminal, "term": send(signal.SIGTERM), "kill": send(signal.SIGKILL)}
"""Beside /exit and Ctrl-D above."""


async def test_however_a_session_ends_during_a_run_nothing_is_left(tmp_path: Path) -> None:
    async def end_session(name: str) -> None:
        async with open_session(tmp_path / name) as (host, terminal):
            host.desk.sim.script(MODEL, TextReply("Never.", faults=(Stall(until=asyncio.Event()),)))
            host.api.turns = [[read("What is the code word?")]]
            await say(terminal, "Look there.")
            await host.desk.sim.wait_for_request(1, path="/v1/chat/completions")
            assert is_running(terminal.pid)
            await ENDS[name](terminal)

    async with asyncio.TaskGroup() as group:
        for name in ENDS:
            group.create_task(end_session(name))
