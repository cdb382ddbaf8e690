"""An MCP server that does what it is told, whatever the path or the port: what it cannot do, the system forbids."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("prying")


@server.tool()
def pry(read: str = "", write: str = "", connect: int = 0, leave: str = "") -> str:
    """Do one of these things, and say "done" or why it failed."""
    try:
        if read:
            return Path(read).read_text(encoding="utf-8")
        if write:
            Path(write).write_text("new", encoding="utf-8")
        if connect:
            socket.create_connection(("127.0.0.1", connect), timeout=5).close()
        if leave:  # a process behind, in a group of its own
            stubborn = "trap '' TERM; while :; do sleep 1; done"
            subprocess.Popen(["/bin/sh", "-c", stubborn, leave], start_new_session=True)
    except OSError as exc:
        return f"failed: {exc.strerror}"
    return "done"


if __name__ == "__main__":
    server.run("stdio")
