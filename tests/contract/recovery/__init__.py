"""Tests that nothing LM Studio does loses a run, through the MCP server."""
