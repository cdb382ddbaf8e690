"""An MCP server over stdio with notes, of which some cannot be written and some never come back; standard library only.

Its argument is the path of a ledger: one line for each call that really ran, in order.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
NOTE = {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}, "required": ["path"]}
TOOLS: list[dict[str, Any]] = [
    {"name": "read_note", "description": "Reads a note.", "inputSchema": PATH, "annotations": {"readOnlyHint": True}},
    {"name": "write_note", "description": "Writes a note.", "inputSchema": NOTE},
]


def answer(tool: str, path: str) -> dict[str, Any] | None:
    """The result of a call; None for one that never has any."""
    if path.startswith("silent"):
        return None
    if path.startswith("missing"):
        return {"content": [{"type": "text", "text": "no such folder"}], "isError": True}
    text = "written" if tool == "write_note" else "The colour is teal."
    return {"content": [{"type": "text", "text": text}]}


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                info = {"name": "notes", "version": "1"}
                capabilities: dict[str, Any] = {"tools": {}}
                version = params["protocolVersion"]
                result: Any = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
            case "tools/list":
                result = {"tools": TOOLS}
            case "tools/call":
                path = params["arguments"]["path"]
                with open(sys.argv[1], "a", encoding="utf-8") as file:
                    file.write(f"{params['name']} {path}\n")
                result = answer(params["name"], path)
            case _:
                result = None
        if message.get("id") is not None and result is not None:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
