"""An MCP server over stdio whose one tool gives out nonces and writes each call into a ledger; standard library only.

Its argument is the ledger's path: one JSON object a line, with the `run` and `step` that asked and the `nonce` given.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

TAKE = {
    "name": "take",
    "description": "Gives the nonce of one step of a run.",
    "inputSchema": {
        "type": "object",
        "properties": {"run": {"type": "string"}, "step": {"type": "integer"}},
        "required": ["run", "step"],
    },
}
PADDING = "This line only makes the result long. " * 30
"""So that a full context has something to win."""


def take(run: str, step: int, *, ledger: str) -> str:
    """Enter one call into the ledger; the text of its result."""
    nonce = secrets.token_hex(8)
    with open(ledger, "a", encoding="utf-8") as file:
        file.write(json.dumps({"run": run, "step": step, "nonce": nonce}) + "\n")
    return f"nonce {run}/{step}: {nonce}\n{PADDING}"


def answer(message: dict[str, Any], *, ledger: str) -> dict[str, Any] | None:
    """The answer to one message, or None where there is none to give."""
    number, params = message.get("id"), message.get("params") or {}
    match message.get("method"):
        case "initialize":
            info = {"name": "tokens", "version": "1"}
            version = params["protocolVersion"]
            result: dict[str, Any] = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            result = {"tools": [TAKE]}
        case "tools/call":
            text = take(**params["arguments"], ledger=ledger)
            result = {"content": [{"type": "text", "text": text}]}
        case method if number is not None:
            return {"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": f"no method {method}"}}
        case _:
            return None
    return {"jsonrpc": "2.0", "id": number, "result": result}


def main() -> None:
    for line in sys.stdin:
        if (reply := answer(json.loads(line), ledger=sys.argv[1])) is not None:
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
