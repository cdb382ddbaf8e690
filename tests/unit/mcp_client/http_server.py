"""An MCP server over HTTP, made with the MCP SDK: `http_server.py http|json|sse PORT`.

It prints its port once it listens; port 0 lets the system choose one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("over-http", log_level="ERROR")
held: dict[int, asyncio.Event] = {}
cancelled: list[int] = []
gathered: list[asyncio.Event] = []


@server.tool(structured_output=False)
async def echo(text: str) -> str:
    return text


@server.tool(structured_output=False)
async def meet(count: int) -> str:
    """No answer before so many calls are under way."""
    gathered.append(asyncio.Event())
    if len(gathered) == count:
        for event in gathered:
            event.set()
    await gathered[-1].wait()
    return "met"


@server.tool(structured_output=False)
async def hold(number: int, ctx: Context) -> str:
    """Reports progress, and answers when it is released."""
    held[number] = asyncio.Event()
    await ctx.report_progress(1, 2, "holding")
    try:
        await held[number].wait()
    except asyncio.CancelledError:
        cancelled.append(number)
        raise
    return f"released {number}"


@server.tool(structured_output=False)
async def release(number: int) -> str:
    held[number].set()
    return "done"


@server.tool(structured_output=False)
async def was_cancelled() -> str:
    return " ".join(map(str, cancelled))


@server.tool(structured_output=False)
async def big(size: int) -> str:
    return "x" * size


@server.tool(structured_output=False)
async def die() -> str:
    os._exit(1)


def main(kind: str, port: int) -> None:
    app = server.sse_app() if kind == "sse" else server.streamable_http_app(json_response=kind == "json")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
