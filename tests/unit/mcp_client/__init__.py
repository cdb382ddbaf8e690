"""Tests of the conversation with other MCP servers, with real processes and real HTTP on loopback."""
