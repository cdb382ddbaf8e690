"""OpenAI's Agents SDK: an Agent with an MCPServerStdio, and the chat model at another address; without tracing."""

from __future__ import annotations

import asyncio
import json
import os

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

from scripts.tools.bench.line import COMMAND_VARIABLE, URL_VARIABLE, serve_line
from scripts.tools.bench.task import MODEL

MAX_TURNS = 1_000


async def main() -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{os.environ[URL_VARIABLE]}/v1", api_key="none")
    command, *arguments = json.loads(os.environ[COMMAND_VARIABLE])
    server = MCPServerStdio({"command": command, "args": arguments}, cache_tools_list=True)

    async with server:
        agent = Agent(
            name="bench",
            instructions="",
            model=OpenAIChatCompletionsModel(model=MODEL, openai_client=client),
            mcp_servers=[server],
        )

        async def work(task: str) -> str:
            return str((await Runner.run(agent, task, max_turns=MAX_TURNS)).final_output)

        await serve_line(work)


if __name__ == "__main__":
    asyncio.run(main())
