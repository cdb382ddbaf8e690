"""An MCP server that answers each call with as much as it can; standard library only.

Its argument is a shape, over stdio; or `http`, for a server that says its port and takes encoding and shape from the
address: /events/objects. The answer to a call is written in pieces, so that the server itself needs little memory.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

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
    "short text": (HEAD + '{"type":"text","text":"\U0001f600', "x", 7 * MIB, '"}' + TAIL),
    "escapes": (HEAD + '{"type":"text","text":"', "\\n", 15 * MIB, '"}' + TAIL),
    "commas in a text": (HEAD + '{"type":"text","text":"', ",[", 15 * MIB, '"}' + TAIL),
    "newlines": ("\n", "\n", 64 * MIB, HEAD + '{"type":"text","text":"done"}' + TAIL),
    "digits": (HEAD + "1", "1", 15 * MIB, TAIL),
    "lists in a text": (HEAD + '{"type":"text","text":"', "[0,", 15 * MIB, '"}' + TAIL),
    "empty data lines": ("data:", "\ndata:", 60 * MIB, HEAD + TAIL),
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


def flood(number: object, shape: str, write: Callable[[str], object]) -> None:
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
            write(each)


def answer(message: dict[str, Any]) -> str:
    """The answer to a message that is no call; "" if it needs none."""
    match message.get("method"):
        case "initialize":
            info = {"name": "flood", "version": "1"}
            version = message["params"]["protocolVersion"]
            result: object = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            result = {"tools": [{"name": "flood", "inputSchema": {"type": "object"}}]}
        case _:
            return ""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})


class Handler(BaseHTTPRequestHandler):
    """Each answer ends with its connection."""

    def do_GET(self) -> None:
        self.send_error(405)

    def do_DELETE(self) -> None:
        self.send_error(405)

    def do_POST(self) -> None:
        encoding, shape = unquote(self.path).strip("/").split("/")
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_call = message.get("method") == "tools/call"
        text = "" if is_call else answer(message)
        self.send_response(200 if is_call or text else 202)
        is_stream = is_call and encoding == "events"
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        if is_call and encoding == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)

        def write(piece: str) -> None:
            data = (piece.replace("\n", "\n\ndata: ") if is_stream else piece).encode()
            self.wfile.write(packer.compress(data) if encoding == "gzip" else data)

        if not is_call:
            self.wfile.write(text.encode())
            return
        self.wfile.write(b"data: " if is_stream else b"")
        try:
            flood(message["id"], shape, write)
            self.wfile.write(packer.flush() if encoding == "gzip" else b"")
        except OSError:  # it reads no more
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    if sys.argv[1] == "http":
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print(server.server_port, flush=True)
        server.serve_forever()
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "tools/call":
            flood(message["id"], sys.argv[1], sys.stdout.write)
            sys.stdout.flush()
        elif text := answer(message):
            print(text, flush=True)


if __name__ == "__main__":
    main()
