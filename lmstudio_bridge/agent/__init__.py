"""The agent loop: rounds, tool calls, limits. It knows neither HTTP nor MCP."""
