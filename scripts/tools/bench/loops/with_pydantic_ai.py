"""Pydantic AI, as its documents show it: an Agent with an MCPToolset, and the OpenAI chat model at another address."""

from __future__ import annotations

import asyncio
import json
import os

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from scripts.tools.bench.line import COMMAND_VARIABLE, URL_VARIABLE, serve_line
from scripts.tools.bench.task import MODEL


async def main() -> None:
    provider = OpenAIProvider(base_url=f"{os.environ[URL_VARIABLE]}/v1", api_key="none")
    command, *arguments = json.loads(os.environ[COMMAND_VARIABLE])
    toolset = MCPToolset(StdioTransport(command=command, args=arguments))
    agent = Agent(OpenAIChatModel(MODEL, provider=provider), toolsets=[toolset])
    limits = UsageLimits(request_limit=None)

    async def work(task: str) -> str:
        return str((await agent.run(task, usage_limits=limits)).output)

    async with agent:
        await serve_line(work)


if __name__ == "__main__":
    asyncio.run(main())
