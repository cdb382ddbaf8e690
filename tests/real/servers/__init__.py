"""The MCP servers that people use most, each through the bridge: scripts/test-servers."""
