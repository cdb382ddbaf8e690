"""The floor: httpx, the client of the MCP SDK, and a loop of request, call and append. It is safe against nothing.

With `--stream` it reads the replies as streams, which a loop must do that wants to see a reply before it is whole,
and to notice one that has stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httpx
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.types import TextContent

from scripts.tools.bench.line import COMMAND_VARIABLE, URL_VARIABLE, serve_line
from scripts.tools.bench.task import MODEL

CHAT = "/v1/chat/completions"


async def ask(http: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
    """The message of a whole reply."""
    reply = await http.post(CHAT, json=request)
    message: dict[str, Any] = reply.json()["choices"][0]["message"]
    return message


async def ask_for_stream(http: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
    """The message that a stream adds up to."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    async with http.stream("POST", CHAT, json={**request, "stream": True}) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                delta = choice["delta"]
                message["content"] += delta.get("content") or ""
                for call in delta.get("tool_calls") or []:
                    if "id" in call:
                        message.setdefault("tool_calls", []).append(call)
                    else:
                        message["tool_calls"][-1]["function"]["arguments"] += call["function"]["arguments"]
    return message


async def main() -> None:
    get_message = ask_for_stream if "--stream" in sys.argv else ask
    command, *arguments = json.loads(os.environ[COMMAND_VARIABLE])
    parameters = StdioServerParameters(command=command, args=arguments)
    async with (
        httpx.AsyncClient(base_url=os.environ[URL_VARIABLE], timeout=60) as http,
        stdio_client(parameters) as (incoming, outgoing),
        ClientSession(incoming, outgoing) as session,
    ):
        await session.initialize()
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in (await session.list_tools()).tools
        ]

        async def work(task: str) -> str:
            messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
            while True:
                message = await get_message(http, {"model": MODEL, "messages": messages, "tools": tools})
                messages.append(message)
                if not message.get("tool_calls"):
                    return str(message["content"])
                for call in message["tool_calls"]:
                    function = call["function"]
                    result = await session.call_tool(function["name"], json.loads(function["arguments"]))
                    text = "".join(part.text for part in result.content if isinstance(part, TextContent))
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})

        await serve_line(work)


if __name__ == "__main__":
    asyncio.run(main())
