"""An MCP server over stdio with bad habits; standard library only, so that it starts fast.

Its first argument is a JSON object of habits (see HABITS). Its tools give a test full control: what
is answered, when, and in which words.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

HABITS: dict[str, Any] = {
    "exit": None,  # this exit code at start, with words on stderr
    "hang": False,  # never answers anything
    "hang_on": None,  # never answers this method
    "wait_for": None,  # answers nothing before this file is there
    "silent": False,  # no error for unknown methods
    "chatty": False,  # text on stdout between messages
    "stubborn": False,  # ignores SIGTERM and the end of its input
    "modern": False,  # protocol 2026-07-28 only
    "version": None,  # another protocol version than the one asked for
    "initialize": {},  # more in the answer to it
    "pages": None,  # tools/list: a list of result objects; the cursor is the index of the next
    "endless": False,  # tools/list: always the same next cursor
    "close_stdout": False,  # closes its output at start, and stays
    "long_line": 0,  # so many bytes without a line end at start
    "batch": False,  # answers come as JSON-RPC batches
    "no_jsonrpc": False,  # answers lack "jsonrpc": "2.0"
    "grandchild": False,  # starts a process at once that ignores SIGTERM and holds our pipes
    "log": None,  # this file gets a JSON line with our pid, our grandchild's, and each message that comes
}
TOOLS: list[dict[str, Any]] = [
    {"name": name, "description": f"The tool {name}.", "inputSchema": {"type": "object"}}
    | ({"annotations": {"readOnlyHint": True}} if name == "pid" else {})  # so that read runs can begin
    for name in ("raw", "hold", "meet", "received", "die", "big", "progress", "fail", "pid", "spawn", "change", "env")
]

habits: dict[str, Any] = dict(HABITS)
received: list[dict[str, Any]] = []  # every message so far
waiting: dict[Any, dict[str, Any]] = {}  # request id -> arguments of calls of "hold" and "meet"
extra: list[dict[str, Any]] = []  # tools that "change" has added


def note(message: dict[str, Any]) -> None:
    if habits["log"]:
        with open(habits["log"], "a", encoding="utf-8") as log:
            log.write(json.dumps(message) + "\n")


def start_grandchild() -> int:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-S", "-c", code]).pid


def send(message: dict[str, Any]) -> None:
    if habits["chatty"]:
        print("still alive, thank you\n", flush=True)
    message = {"jsonrpc": "2.0", **message}
    if habits["no_jsonrpc"]:
        del message["jsonrpc"]
    print(json.dumps([message] if habits["batch"] else message), flush=True)


def answer(number: Any, result: Any) -> None:
    send({"id": number, "result": result})


def say(number: Any, text: str) -> None:
    answer(number, {"content": [{"type": "text", "text": text}]})


def call(number: Any, name: str, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    match name:
        case "raw":  # the result as the test wants it
            answer(number, arguments["result"])
        case "hold":  # no answer until "received" is called with release
            waiting[number] = arguments
        case "meet":  # no answer before so many calls are under way
            waiting[number] = arguments
            if len(waiting) == arguments["count"]:
                for one in list(waiting):
                    say(one, f"met {waiting.pop(one)['label']}")
        case "received":
            say(number, json.dumps(received))
            if arguments.get("release"):
                for one in list(waiting):
                    say(one, f"released {waiting.pop(one)}")
        case "die":
            print("these are my last words", file=sys.stderr, flush=True)
            os._exit(arguments.get("code", 3))
        case "deaf":  # it lives on, but reads nothing any more
            os.close(0)
            say(number, "deaf")
            time.sleep(600)
        case "big":
            say(number, "x" * arguments["size"])
        case "progress":
            for step in range(1, arguments["steps"] + 1):
                params = {"progressToken": meta["progressToken"], "progress": step, "total": arguments["steps"]}
                if arguments.get("message"):
                    params["message"] = arguments["message"]
                send({"method": "notifications/progress", "params": params})
            waiting[number] = arguments
        case "fail":
            send({"id": number, "error": arguments["error"]})
        case "pid":
            say(number, str(os.getpid()))
        case "spawn":  # a grandchild that holds our pipes
            say(number, str(start_grandchild()))
        case "change":
            extra.append({"name": arguments["name"], "inputSchema": {"type": "object"}})
            for _ in range(arguments.get("times", 1)):
                send({"method": "notifications/tools/list_changed"})
            say(number, "changed")
        case "env":
            say(number, json.dumps({"env": dict(os.environ), "cwd": os.getcwd()}))
        case _:
            answer(number, {"content": [{"type": "text", "text": f"unknown tool {name}"}], "isError": True})


def list_tools(number: Any, params: dict[str, Any]) -> None:
    if habits["endless"]:
        answer(number, {"tools": TOOLS[:1], "nextCursor": "again"})
    elif habits["pages"] is not None:
        index = int(params.get("cursor", 0))
        page = habits["pages"][index]
        more = {"nextCursor": str(index + 1)} if index + 1 < len(habits["pages"]) else {}
        answer(number, {**page, **more})
    else:
        answer(number, {"tools": TOOLS + extra})


def handle(message: dict[str, Any]) -> None:
    received.append(message)
    note(message)
    method, number, params = message.get("method"), message.get("id"), message.get("params") or {}
    while habits["wait_for"] and not os.path.exists(habits["wait_for"]):
        time.sleep(0.01)
    if habits["hang"] or method == habits["hang_on"]:
        return
    if habits["modern"] and method == "initialize":
        error = {"code": -32022, "message": "Unsupported", "data": {"supported": ["2026-07-28"], "requested": "x"}}
        send({"id": number, "error": error})
    elif method == "initialize":
        version = habits["version"] or params["protocolVersion"]
        info = {"name": "sloppy", "version": "0"}
        answer(
            number,
            {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info, **habits["initialize"]},
        )
    elif method == "tools/list":
        list_tools(number, params)
    elif method == "tools/call":
        call(number, params["name"], params.get("arguments") or {}, params.get("_meta") or {})
    elif number is not None and not habits["silent"]:
        send({"id": number, "error": {"code": -32601, "message": f"no method {method}"}})


def main() -> None:
    if habits["exit"] is not None:
        print("cannot find my database\nset DB_PATH", file=sys.stderr)
        sys.exit(habits["exit"])
    if habits["stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note({"pid": os.getpid()})
    if habits["grandchild"]:
        note({"pid": start_grandchild()})
    if habits["long_line"]:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(habits["long_line"] // 65536 + 1):
                sys.stdout.write("x" * 65536)
            sys.stdout.flush()
    if habits["close_stdout"]:
        os.close(1)
    for line in sys.stdin:
        handle(json.loads(line))
    if habits["stubborn"]:
        time.sleep(600)


if __name__ == "__main__":
    habits |= json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    main()
