"""One task with Pydantic AI, as its documents show it; the request is JSON on stdin, the outcome JSON on stdout.

It runs in an environment of its own, without anything of this project.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent, capture_run_messages
from pydantic_ai.exceptions import AgentRunError, UsageLimitExceeded
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits


async def work(request: dict[str, Any]) -> dict[str, Any]:
    """Do the task of a request."""
    provider = OpenAIProvider(base_url=f"{request['url']}/v1", api_key="none")
    toolsets = [
        MCPToolset(StdioTransport(each["command"], each["args"], env={**os.environ, **each["env"]}))
        for each in request["servers"].values()
    ]
    agent = Agent(
        OpenAIChatModel(request["model"], provider=provider),
        toolsets=toolsets,
        model_settings=ModelSettings(max_tokens=request["max_tokens"]),
    )
    stop, answer, error = "answered", "", ""
    with capture_run_messages() as messages:
        try:
            async with agent:
                limits = UsageLimits(request_limit=request["max_rounds"])
                answer = str((await agent.run(request["task"], usage_limits=limits)).output)
        except UsageLimitExceeded as exc:
            stop, error = "round_limit", str(exc)
        except AgentRunError as exc:
            stop, error = "failed", str(exc)
    replies = [message for message in messages if isinstance(message, ModelResponse)]
    calls = sum(isinstance(part, ToolCallPart) for reply in replies for part in reply.parts)
    return {"stop": stop, "answer": answer, "error": error, "rounds": len(replies), "calls": calls}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(json.load(sys.stdin)))))
