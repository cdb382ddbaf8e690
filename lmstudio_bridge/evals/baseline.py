"""A plain agent loop: request with native tools, run the calls, append the results, until a reply has no call.

No recovery, no strategy, no nudges, no limits on results. Client, servers and tool names are those of the bridge, so
only the loop differs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.errors import BridgeError, DownstreamError
from lmstudio_bridge.events import Outcome, Stop
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.mcp_client.pool import Lease, SessionPool
from lmstudio_bridge.messages import (
    AssistantMessage,
    ChatRequest,
    Message,
    ServerConfig,
    ServerTool,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

SYSTEM_PROMPT = "You are a helpful assistant. Use the tools to do what the user asks for."


async def run_plain_loop(
    text: str,
    *,
    client: LLMClient,
    pool: SessionPool,
    servers: Iterable[ServerConfig],
    model: str | None,
    max_rounds: int,
    max_tokens: int,
    seconds: float,
    examples: tuple[Message, ...] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Do a task; every end except cancellation is an outcome. `max_tokens` is per reply.

    `examples` are turns before the task.
    """
    began = clock()
    stop: Stop = "failed"
    error = ""
    messages = [SystemMessage(SYSTEM_PROMPT), *examples, UserMessage(text)]
    with pool.lease() as lease:
        loop = _PlainLoop(client, lease, max_tokens)
        try:
            async with asyncio.timeout(seconds):
                stop = await loop.work(messages, servers, model, max_rounds)
        except TimeoutError:
            stop, error = "deadline", f"The run reached its limit of {seconds:g} s."
        except BridgeError as exc:
            error = exc.explain()
    return Outcome(stop, loop.answer, error, loop.model, loop.rounds, loop.calls, loop.usage, seconds=clock() - began)


@dataclass(slots=True)
class _PlainLoop:
    """One run of the plain loop, and its figures so far."""

    client: LLMClient
    lease: Lease
    max_tokens: int
    answer: str = ""
    model: str = ""
    rounds: int = 0
    calls: int = 0
    usage: Usage = field(default_factory=Usage)

    async def work(
        self, messages: list[Message], servers: Iterable[ServerConfig], model: str | None, max_rounds: int
    ) -> Stop:
        self.model = (await self.client.validator.resolve(model)).name
        tools = [tool for config in servers for tool in await self.lease.open_server(config)]
        offered = ToolSet(tools)
        by_name = {tool.name: tool.source for tool in offered.tools}
        for number in range(1, max_rounds + 1):
            reply = await self.client.stream_chat_completion(
                ChatRequest(messages, tools=offered.specs, max_tokens=self.max_tokens),
                model=self.model,
                recover_calls=False,
            )
            self.rounds = number
            self.usage += reply.usage or Usage()
            self.answer = reply.text
            messages.append(AssistantMessage(reply.text, reply.calls))
            if not reply.calls:
                return "answered"
            messages += [ToolMessage(call.id, await self._run(call, by_name)) for call in reply.calls]
        return "round_limit"

    async def _run(self, call: ToolCall, tools: dict[str, ServerTool]) -> str:
        tool = tools.get(call.name)
        if tool is None:
            return f"Error: unknown tool {call.name}"
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as exc:
            return f"Error: the arguments are not JSON: {exc}"
        if not isinstance(arguments, dict):
            return "Error: the arguments are not an object"
        self.calls += 1
        try:
            result = await self.lease.call_tool(tool.server, tool.name, arguments)
        except DownstreamError as exc:
            return f"Error: {exc.message}"
        return f"Error: {result.text}" if result.is_error else result.text
