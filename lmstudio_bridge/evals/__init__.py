"""Tasks that can be checked, over real MCP servers: how well a local model does them, here and with a plain loop."""
