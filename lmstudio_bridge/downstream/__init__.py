"""The conversation with other MCP servers: their configuration and their sessions."""
