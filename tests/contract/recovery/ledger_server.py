"""An MCP server over stdio that enters every call into a ledger file; standard library only.

Its argument is the ledger's path: one line for each call that really ran, in order.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "name": "look_up",
        "description": "Gives the value of a key.",
        "inputSchema": {
            "type": "object",
            "properties": {"key": {"type": "string"}, "padding": {"type": "integer", "minimum": 0}},
            "required": ["key"],
        },
    },
    {
        "name": "weigh",
        "description": "Gives the weight of a key.",
        "inputSchema": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
]


def value_of(key: str) -> str:
    """What `look_up` gives for a key; nobody could guess it."""
    return f"{sum(map(ord, key)) * 7919}-{key[::-1]}"


def answer(message: dict[str, Any], *, ledger: str) -> dict[str, Any] | None:
    """The result of one message, or None where there is none to give."""
    params = message.get("params") or {}
    match message.get("method"):
        case "initialize":
            info = {"name": "ledger", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call":
            key, padding = params["arguments"].get("key", ""), params["arguments"].get("padding", 0)
            with open(ledger, "a", encoding="utf-8") as file:
                file.write(f"{key}\n")
            return {"content": [{"type": "text", "text": f"The value is {value_of(key)}." + " and so on" * padding}]}
        case _:
            return None


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        number, result = message.get("id"), answer(message, ledger=sys.argv[1])
        if number is not None:
            error = {"error": {"code": -32601, "message": "no such method"}}
            reply = {"jsonrpc": "2.0", "id": number, **({"result": result} if result is not None else error)}
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
