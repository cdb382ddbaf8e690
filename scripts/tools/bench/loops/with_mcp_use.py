"""mcp-use: one MCPAgent without a memory between its tasks, over one MCPClient, with LangChain's OpenAI model."""

from __future__ import annotations

import asyncio
import json
import os

from langchain_openai import ChatOpenAI
from mcp_use import MCPAgent, MCPClient

from scripts.tools.bench.line import COMMAND_VARIABLE, URL_VARIABLE, serve_line
from scripts.tools.bench.task import MODEL, SERVER

MAX_STEPS = 1_000


async def main() -> None:
    command, *arguments = json.loads(os.environ[COMMAND_VARIABLE])
    client = MCPClient.from_dict({"mcpServers": {SERVER: {"command": command, "args": arguments}}})
    model = ChatOpenAI(model=MODEL, base_url=f"{os.environ[URL_VARIABLE]}/v1", api_key="none")
    agent = MCPAgent(llm=model, client=client, max_steps=MAX_STEPS, memory_enabled=False)
    await agent.initialize()

    async def work(task: str) -> str:
        return str(await agent.run(task, manage_connector=False))

    try:
        await serve_line(work)
    finally:
        await client.close_all_sessions()


if __name__ == "__main__":
    asyncio.run(main())
