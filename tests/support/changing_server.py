"""An MCP server over stdio whose tools stand in a file, so that they can change between two starts.

Its argument is a JSON file: `tools` as tools/list gives them, or `exit` to end at once with that code. Beside it,
in a file of the same name that ends in .log, it notes its start and every call. Standard library only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(sys.argv[-1])


def note(line: str) -> None:
    with FILE.with_suffix(".log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


def entry(file: Path, *tools: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The server's entry in a .mcp.json; its tools are written to `file`."""
    offer(file, *tools, **more)
    return {"command": sys.executable, "args": ["-S", __file__, str(file)]}


def offer(file: Path, *tools: dict[str, Any], **more: Any) -> None:
    """Let it have these tools at its next start; a schema and a description are filled in. `more` is for initialize."""
    whole = [{"description": f"Does {tool['name']}.", "inputSchema": {"type": "object"}, **tool} for tool in tools]
    file.write_text(json.dumps({"tools": whole, "initialize": more}), encoding="utf-8")


def noted(file: Path) -> list[str]:
    """What it has noted so far."""
    log = file.with_suffix(".log")
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def main() -> None:
    """Answer until stdin closes."""
    note("started")
    content = json.loads(FILE.read_text(encoding="utf-8"))
    if "exit" in content:
        sys.exit(content["exit"])
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                info = {"name": "changing", "version": "1"}
                version = params["protocolVersion"]
                result: dict[str, Any] = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
                result |= content["initialize"]
            case "tools/list":
                result = {"tools": content["tools"]}
            case "tools/call":
                note(f"called {params['name']}")
                result = {"content": [{"type": "text", "text": f"{params['name']} is done"}]}
            case _:
                continue
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
