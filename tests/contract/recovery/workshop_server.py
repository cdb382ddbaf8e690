"""An MCP server over stdio for the tests of weak models; standard library only.

Its arguments: the path of a ledger, one line for each call that really ran, and how many more tools it has.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

BIG = 2_000_000  # characters
NEEDLE = "The launch code word is heron-42."
MEETING = 10.0  # seconds until a call of `meet` that stays alone fails

KEY = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
TOOLS: list[dict[str, Any]] = [
    {"name": "look_up", "description": "Gives the value of a key.", "inputSchema": KEY},
    {"name": "fail", "description": "Is out of order.", "inputSchema": KEY},
    {"name": "big", "description": "Gives a very long text.", "inputSchema": KEY},
    {
        "name": "meet",
        "description": "Waits until somebody else waits here, too.",
        "inputSchema": KEY,
        "annotations": {"readOnlyHint": True},
    },
]


def more_tools(count: int) -> list[dict[str, Any]]:
    """Tools with long descriptions, of which only the last ones do something of their own."""
    words = "Sorts the stock of the shelf by its number and its colour, and counts it. " * 9
    return [{"name": f"shelf_{number}", "description": words, "inputSchema": KEY} for number in range(count)]


def value_of(key: str) -> str:
    """What `look_up` gives for a key; nobody could guess it."""
    return f"{sum(map(ord, key)) * 7919}-{key[::-1]}"


def big_text() -> str:
    """A long text with the needle in its middle."""
    half = "Nothing is to be seen here.\n" * (BIG // 56)
    return f"{half}{NEEDLE}\n{half}"


def work(tool: str, key: str, meeting: threading.Barrier) -> tuple[str, bool]:
    """The text of a call's result, and whether it is an error."""
    match tool:
        case "fail":
            return "out of order", True
        case "big":
            return big_text(), False
        case "meet":
            try:
                meeting.wait(MEETING)
            except threading.BrokenBarrierError:
                return f"{key} stayed alone", True
            return f"{key} met somebody", False
        case _:
            return f"The value is {value_of(key)}.", False


def main() -> None:
    tools = [*TOOLS, *more_tools(int(sys.argv[2]))]
    meeting = threading.Barrier(2)
    lock = threading.Lock()

    def send(number: Any, **fields: Any) -> None:
        with lock:
            print(json.dumps({"jsonrpc": "2.0", "id": number, **fields}), flush=True)

    def call(number: Any, tool: str, key: str) -> None:
        with lock, open(sys.argv[1], "a", encoding="utf-8") as file:
            file.write(f"{tool} {key}\n")
        text, is_error = work(tool, key, meeting)
        send(number, result={"content": [{"type": "text", "text": text}], "isError": is_error})

    for line in sys.stdin:
        message = json.loads(line)
        number, params = message.get("id"), message.get("params") or {}
        match message.get("method"):
            case "initialize":
                info = {"name": "workshop", "version": "1"}
                result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}}
                send(number, result={**result, "serverInfo": info})
            case "tools/list":
                send(number, result={"tools": tools})
            case "tools/call":
                arguments = (number, params["name"], params["arguments"].get("key", ""))
                threading.Thread(target=call, args=arguments, daemon=True).start()
            case _ if number is not None:
                send(number, error={"code": -32601, "message": "no such method"})


if __name__ == "__main__":
    main()
