"""Serves the bridge over streamable HTTP on the loopback, for tools that cannot speak stdio; tests only.

The first line on stdout is the URL.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn

from lmstudio_bridge.server.tools import build_server
from lmstudio_bridge.settings import read_settings


def main() -> None:
    """Serve until a signal comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = build_server(read_settings(os.environ, cwd=Path.cwd()), environ=os.environ)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    app = server.streamable_http_app(host="127.0.0.1")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
