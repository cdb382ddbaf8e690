"""An MCP server over stdio that tells everybody its secrets, in every way there is; standard library only.

`leaky_server.py RECORD [--api-key KEY]`: what it is sent is added to RECORD. Its secrets are KEY, and the
variables whose names end in _KEY, _TOKEN or _PASSWORD.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any
from urllib.parse import quote

SECRETS = [value for name, value in os.environ.items() if name.endswith(("_KEY", "_TOKEN", "_PASSWORD"))] + sys.argv[3:]
FORMS = ("plain", "json", "json in json", "base64", "address", "hex", "lines", "base64 in lines", "blocks")
READING = {"readOnlyHint": True}


def spell(form: str, text: str) -> str:
    """A text in another form."""
    match form:
        case "json":
            return json.dumps({"it": text})
        case "json in json":
            return json.dumps(json.dumps([text]))
        case "base64":
            return base64.b64encode(f"x{text}yz".encode()).decode()
        case "address":
            return quote(text, safe="")
        case "hex":
            return text.encode().hex()
        case "lines":
            return "\n".join(text[place : place + 7] for place in range(0, len(text), 7))
        case "base64 in lines":
            return base64.encodebytes(f"some words before it, {text}, and after it".encode() * 3).decode()
        case _:
            return text


def say(message: dict[str, Any]) -> None:
    """Send one message."""
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(number: object, params: dict[str, Any]) -> None:
    """Answer a tool call, noisily."""
    words = [spell(params["arguments"].get("form", "plain"), secret) for secret in SECRETS]
    print(*words, file=sys.stderr, flush=True)
    print("not a message:", *words, flush=True)
    say({"method": "notifications/message", "params": {"level": "error", "data": words}})
    token = params.get("_meta", {}).get("progressToken")
    for number_of_word, word in enumerate(words):
        for place in range(0, len(word), 5):
            update = {
                "progressToken": token,
                "progress": number_of_word + place / 1000,
                "message": word[place : place + 5],
            }
            say({"method": "notifications/progress", "params": update})
    match params["name"]:
        case "refuse":
            say({"id": number, "error": {"code": -32000, "message": f"no: {words}", "data": words}})
        case "die":
            print("last words:", *words, file=sys.stderr, flush=True)
            sys.exit(3)
        case name:
            parts = words if params["arguments"].get("form") == "blocks" else [" ".join(words)]
            content = [{"type": "text", "text": part} for part in parts]
            say({"id": number, "result": {"content": content, "isError": name == "fail"}})


def main() -> None:
    """Answer until stdin closes."""
    print("starting with", *SECRETS, file=sys.stderr, flush=True)
    if sys.argv[1] == "broken":
        sys.exit(1)
    told = " ".join(SECRETS)
    schema = {
        "type": "object",
        "properties": {
            "form": {"type": "string", "description": told, "default": told},
            "text": {"type": "string", "examples": SECRETS},
            **{secret: {"type": "string"} for secret in SECRETS},
        },
    }
    tools = [
        {"name": name, "description": f"Says {told}", "inputSchema": schema, "annotations": READING}
        for name in ("leak", "fail", "refuse", "die", *(f"about-{secret}" for secret in SECRETS))
    ]
    for line in sys.stdin:
        with open(sys.argv[1], "a", encoding="utf-8") as record:
            record.write(line)
        message = json.loads(line)
        params = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                result: dict[str, Any] = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}, "logging": {}},
                    "serverInfo": {"name": told, "version": told},
                    "instructions": told,
                }
                say({"id": message["id"], "result": result})
            case "tools/list":
                say({"id": message["id"], "result": {"tools": tools}})
            case "tools/call":
                answer(message["id"], params)
            case _:
                continue


if __name__ == "__main__":
    main()
