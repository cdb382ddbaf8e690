"""What the MCP host sees: tools, resources, and the life of the server."""
