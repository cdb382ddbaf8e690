"""The user's other MCP servers: configuration, connections, repairs."""
