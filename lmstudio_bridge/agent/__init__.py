"""The thinking between model and tools; knows neither HTTP nor MCP."""
