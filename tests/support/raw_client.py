"""A raw JSON-RPC client over a child's stdio: nothing of an MCP SDK between the test and the wire."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tests.support.fork_server import BridgeProcess, start_bridge

Era: TypeAlias = Literal["2025-11-25", "2026-07-28"]
ERAS: tuple[Era, ...] = ("2025-11-25", "2026-07-28")

ANSWER_LIMIT = 180.0  # seconds until a missing answer fails the test
EXIT_LIMIT = 60.0  # seconds until a process that does not end fails the test

CLIENT_INFO = {"name": "claude-code", "title": "Claude Code", "version": "2.1.330"}
CAPABILITIES = {"roots": {"listChanged": True}}  # Claude Code also has elicitation: see test_approval.py
_META = "io.modelcontextprotocol/"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool call brought: its text, whether it is an error, the progress messages before it, its report."""

    text: str
    is_error: bool
    progress: tuple[str, ...]
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """That of its last line."""
        found: list[str] = re.findall(r"\brun (\S+)\]", self.text)
        assert found, self.text
        return found[-1]

    @property
    def told(self) -> str:
        """What the result tells: its text, and the warnings of its report."""
        return "\n".join((self.text, *self.report.get("warnings", ())))

    @property
    def said(self) -> str:
        """What the model said: the text without the lines above its answer and without the last line."""
        body = self.text.rpartition("\n\n[")[0] or self.text
        while body.startswith(_ABOVE):
            _, blank, rest = body.partition("\n\n")
            if not blank:
                break
            body = rest
        return body.removeprefix("The model's text so far:\n")


_ABOVE = ("Nothing was changed", "Not found in ", "Failed: ", "Note: ", "did not open ", "read ", "The model got stuck")
"""How the lines begin that the bridge puts above an answer."""


@dataclass(slots=True)
class RawClient:
    """Speaks to one server process in one protocol era, as Claude Code does."""

    process: BridgeProcess
    era: Era
    answer_limit: float = ANSWER_LIMIT
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Every message that the server sent, in order."""
    stray: list[bytes] = field(default_factory=list)
    """Every line on stdout that is no JSON-RPC message; must stay empty."""
    stderr: bytearray = field(default_factory=bytearray)
    methods: dict[int | str, str] = field(default_factory=dict)
    """The method of every request that was sent."""
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it to take nothing from the server any more, as a host that hangs."""
    _waiting: dict[int | str, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _progress: dict[int | str, list[str]] = field(default_factory=dict)
    _seen: asyncio.Condition = field(default_factory=asyncio.Condition)
    _last_id: int = 0

    async def open(self) -> dict[str, Any]:
        """The opening of the era; the server's answer to it."""
        if self.era == "2026-07-28":
            return await self.request("server/discover", {})
        answer = await self.request(
            "initialize", {"protocolVersion": self.era, "capabilities": CAPABILITIES, "clientInfo": CLIENT_INFO}
        )
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request; its `result`, or AssertionError with the error that came instead."""
        number = await self.start(method, params)
        return await self.result_of(number)

    async def start(self, method: str, params: Mapping[str, Any]) -> int:
        """Send a request without waiting; its id."""
        self._last_id += 1
        number = self._last_id
        meta: dict[str, Any] = {"progressToken": number}
        if self.era == "2026-07-28":
            meta |= modern_meta()
        await self.send_request(number, method, {**params, "_meta": meta})
        return number

    async def send_request(self, number: int | str, method: str, params: Mapping[str, Any]) -> None:
        """Send a request with an id of the caller's and just these params."""
        self.methods[number] = method
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._progress[number] = []
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    async def cancel(self, number: int | str) -> None:
        """Take a request back, as Esc does in Claude Code."""
        params: dict[str, Any] = {"requestId": number, "reason": "AbortError: user-cancel"}
        if self.era == "2026-07-28":
            params["_meta"] = modern_meta()
        await self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def answers_to(self, number: int | str) -> list[dict[str, Any]]:
        """Every answer to a request so far."""
        return [line for line in self.lines if line.get("id") == number and "method" not in line]

    async def answer_to(self, number: int | str) -> dict[str, Any]:
        """The whole message that answers a request, result or error."""
        async with asyncio.timeout(self.answer_limit):
            return await asyncio.shield(self._waiting[number])

    async def result_of(self, number: int | str) -> dict[str, Any]:
        """The result of a request that was started."""
        message = await self.answer_to(number)
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def start_call(self, tool: str, **arguments: Any) -> int:
        """Send a tools/call without waiting for its end."""
        return await self.start("tools/call", {"name": tool, "arguments": arguments})

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool and wait for its answer."""
        return await self.answer_of(await self.start_call(tool, **arguments))

    async def answer_of(self, number: int) -> Answer:
        """The answer to a call that was started."""
        result = await self.result_of(number)
        assert all(part["type"] == "text" for part in result["content"]), result
        assert "structuredContent" not in result, "Claude Code would show it instead of the text"
        text = "\n".join(part["text"] for part in result["content"])
        report = result.get("_meta", {}).get("lmstudio-bridge/report", {})
        return Answer(text, result.get("isError", False), tuple(self._progress[number]), report)

    async def wait_for_progress(self, number: int, fragment: str, *, count: int = 1) -> str:
        """The first progress message of a call that contains the fragment, or the `count`-th."""
        async with asyncio.timeout(self.answer_limit), self._seen:
            while True:
                found = [message for message in self._progress[number] if fragment in message]
                if len(found) >= count:
                    return found[count - 1]
                await self._seen.wait()

    def progress_of(self, number: int) -> list[tuple[float, str]]:
        """Counter and message of every progress notification of a call so far."""
        found = [line["params"] for line in self.lines if line.get("method") == "notifications/progress"]
        return [(each["progress"], each["message"]) for each in found if each["progressToken"] == number]

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write one message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        await self.process.stdin.drain()

    async def close_stdin(self) -> int:
        """End the session as a host does; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(EXIT_LIMIT):
            return await self.process.wait()

    async def read_stdout(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            await self.reading.wait()
            try:
                message = json.loads(line)
                assert message["jsonrpc"] == "2.0"
            except (ValueError, KeyError, TypeError, AssertionError):
                self.stray.append(line)
                continue
            async with self._seen:
                self.lines.append(message)
                if message.get("method") == "notifications/progress":
                    self._progress[message["params"]["progressToken"]].append(message["params"]["message"])
                elif message.get("id") in self._waiting and "method" not in message:
                    self._waiting[message["id"]].set_result(message)
                self._seen.notify_all()
        for number, future in self._waiting.items():
            if not future.done():
                future.set_result({"error": f"the server ended before it answered request {number}"})

    async def read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr += line


@asynccontextmanager
async def open_raw_client(
    *,
    era: Era,
    environ: Mapping[str, str],
    arguments: Sequence[str] = (),
    command: tuple[str, ...] = (),
    answer_limit: float = ANSWER_LIMIT,
    buffer_limit: int = 64 * 1024 * 1024,
    opened: bool = True,
) -> AsyncIterator[RawClient]:
    """A bridge in a process of its own; ended by closing its stdin, else killed.

    A `command` is started, instead of a bridge that is forked. `opened`: it has answered the opening of the era.
    `buffer_limit` is the most bytes of a line, and half of what is taken from the server while nobody reads.
    """
    environ = {**base_environment(), **environ}
    process = await start_bridge(*arguments, environ=environ, command=command, limit=buffer_limit)
    client = RawClient(process, era, answer_limit)
    client.reading.set()
    async with asyncio.TaskGroup() as readers:
        readers.create_task(client.read_stdout())
        readers.create_task(client.read_stderr())
        try:
            if opened:
                await client.open()
            yield client
        finally:
            client.reading.set()
            try:
                if process.returncode is None:
                    await client.close_stdin()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def modern_meta() -> dict[str, Any]:
    """What every message of the 2026-07-28 era carries in its `_meta`."""
    return {
        f"{_META}protocolVersion": "2026-07-28",
        f"{_META}clientInfo": CLIENT_INFO,
        f"{_META}clientCapabilities": CAPABILITIES,
    }


def base_environment() -> dict[str, str]:
    """The test's own environment without what would steer the bridge; servers that a test configures may start."""
    steering = ("LMSTUDIO", "LM_", "LMS_", "DEFAULT_MODEL", "MCP_JSON_PATH", "CLAUDE", "ANTHROPIC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return kept | {"LMSTUDIO_BRIDGE_TRUST": "*"}
