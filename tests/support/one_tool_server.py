"""The least MCP server that the bare SDK makes: one tool. What its start takes, no server on the SDK can do without."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

server = MCPServer("one-tool")


@server.tool()
async def echo(text: str) -> str:
    """Give the text back."""
    return text


if __name__ == "__main__":
    server.run("stdio")
