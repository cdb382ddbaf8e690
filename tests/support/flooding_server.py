"""An MCP server over stdio that answers each call with as much as it can; standard library only.

Its argument is a shape. The answer to a call is written in pieces, so that the server itself needs little memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

MIB = 1024 * 1024
PIECE = 64 * 1024
LONG = "x" * 60_000
HEAD, TAIL = '"result":{"content":[', "]}}\n"


def repeated(text: str, size: int) -> Iterable[str]:
    """The text, again and again, up to about `size` characters."""
    piece = text * (PIECE // len(text))
    return (piece for _ in range(size // len(piece)))


SHAPES: dict[str, tuple[str, str, int, str]] = {
    "objects": (HEAD + "{}", ",{}", 17 * MIB, TAIL),
    "objects within the size": (HEAD + "{}", ",{}", 15 * MIB, TAIL),
    "blocks": (HEAD + "{}", ',{"type":"text","text":"x"}', 26 * MIB, TAIL),
    "numbers": (HEAD + "0", ",0", 15 * MIB, TAIL),
    "levels": (HEAD, "[", 15 * MIB, TAIL),
    "strings": (HEAD + '""', ',""', 15 * MIB, TAIL),
    "keys": ('"result":{"a":0', ',"a":0', 15 * MIB, "}}\n"),
    "quotes": (HEAD, '"', 15 * MIB, TAIL),
    "text": (HEAD + '{"type":"text","text":"\U0001f600', "x", 15 * MIB, '"}' + TAIL),
    "escapes": (HEAD + '{"type":"text","text":"', "\\n", 15 * MIB, '"}' + TAIL),
    "commas in a text": (HEAD + '{"type":"text","text":"', ",[", 15 * MIB, '"}' + TAIL),
    "newlines": ("\n", "\n", 64 * MIB, HEAD + '{"type":"text","text":"done"}' + TAIL),
    "requests": ("", '{"jsonrpc":"2.0","id":1,"method":"ping"}\n', 1024 * MIB, ""),
    "large requests": (
        "",
        f'{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{"x" * 60_000}"}}}}\n',
        1024 * MIB,
        "",
    ),
    "notifications": (
        "",
        '{"jsonrpc":"2.0","method":"notifications/message"}\n',
        2 * MIB,
        '{"jsonrpc":"2.0",' + HEAD + '{"type":"text","text":"done"}' + TAIL,
    ),
}


def flood(number: object, shape: str) -> None:
    head, text, size, tail = SHAPES[shape]
    opening = f'{{"jsonrpc":"2.0","id":{json.dumps(number)},'
    if head == "\n":
        tail = opening + tail
    elif head:
        head = opening + head
    elif tail:
        tail = opening + tail.removeprefix('{"jsonrpc":"2.0",')
    for piece in ([head], repeated(text, size), [tail]):
        for each in piece:
            sys.stdout.write(each)
    sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                info = {"name": "flood", "version": "1"}
                version = message["params"]["protocolVersion"]
                result: object = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            case "tools/list":
                result = {"tools": [{"name": "flood", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                flood(message["id"], sys.argv[1])
                continue
            case _:
                continue
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
