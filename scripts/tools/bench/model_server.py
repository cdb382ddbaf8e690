"""A stand-in for LM Studio that answers with bytes made beforehand: `python -m scripts.tools.bench.model_server`.

The simulator of the tests reads and checks every request, which takes it milliseconds: it would be what is measured.
This one only looks for the task and counts the results in a request. It says its URL on the first line of stdout,
keeps a record of the requests, and gives it out (and forgets it) at GET /bench/record. After GET /bench/watch/PID the
record holds the CPU time that this process had used at each request.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from scripts.tools.bench.processes import cpu_clock
from scripts.tools.bench.task import ANSWER, MODEL, PATTERN, TOOL

JsonObject: TypeAlias = dict[str, Any]

CONTEXT = 1_048_576  # tokens; no run of the bench fills it
PARALLEL = 64  # requests at once, as the model is loaded: more than there are runs, so that none waits in line

_TOOL_NAME = re.compile(rb'"name":\s*"([A-Za-z0-9_-]*%b)"' % TOOL.encode())
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream":\s*true')
_RESULT = re.compile(rb'"role":\s*"tool"')

_ID, _NAME = "CALL-ID", "TOOL-NAME"  # stand in the prepared replies for what is different in each
_STEP = "STEP"
_USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def _whole(message: JsonObject, finish: str) -> bytes:
    choice: JsonObject = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": finish,
        "logprobs": None,
    }
    head: JsonObject = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": MODEL}
    return json.dumps({**head, "choices": [choice], "usage": _USAGE}).encode()


def _stream(deltas: Sequence[JsonObject], finish: str) -> bytes:
    """Chunks of a stream, a piece of the reply in each, as LM Studio sends them."""
    head: JsonObject = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    choices: list[JsonObject] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish})
    frames: list[JsonObject] = [{**head, "choices": [choice]} for choice in choices]
    frames.append({**head, "choices": [], "usage": _USAGE})
    texts = [f"data: {json.dumps(frame, separators=(',', ':'))}\n\n" for frame in frames]
    return "".join([*texts, "data: [DONE]\n\n"]).encode()


def _call(*, arguments: str | None, opens: bool) -> JsonObject:
    function: JsonObject = {"name": _NAME} if opens else {}
    start: JsonObject = {"id": _ID, "type": "function"} if opens else {}
    return {"index": 0, **start, "function": {**function, "arguments": arguments or ""}}


_PIECES = ('{"', "text", '":', ' "step ', _STEP, '"}')
_CALL_STREAM = _stream(
    [{"tool_calls": [_call(arguments=None, opens=True)]}]
    + [{"tool_calls": [_call(arguments=piece, opens=False)]} for piece in _PIECES],
    "tool_calls",
)
_CALL_WHOLE = _whole({"content": "", "tool_calls": [_call(arguments="".join(_PIECES), opens=True)]}, "tool_calls")
_ANSWER_STREAM = _stream([{"role": "assistant", "content": word} for word in re.findall(r"\S+\s*", ANSWER)], "stop")
_ANSWER_WHOLE = _whole({"content": ANSWER}, "stop")

_INSTANCE = {"id": MODEL, "config": {"context_length": CONTEXT, "parallel": PARALLEL}}
_NATIVE_MODELS = {
    "models": [
        {
            "type": "llm",
            "key": MODEL,
            "display_name": MODEL,
            "loaded_instances": [_INSTANCE],
            "max_context_length": CONTEXT,
            "capabilities": {"vision": False, "trained_for_tool_use": True},
        }
    ]
}
_OPENAI_MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}


def reply_to(body: bytes) -> tuple[bytes, bool, tuple[int, int] | None]:
    """The reply to a chat request, whether it is a stream, and the numbers of the run and of its round (from 0)."""
    streams = _STREAMS.search(body) is not None
    task = PATTERN.search(body)
    done = len(_RESULT.findall(body))
    name = _TOOL_NAME.search(body)
    if task is None or name is None or done >= int(task[2]):
        return _ANSWER_STREAM if streams else _ANSWER_WHOLE, streams, (int(task[1]), done) if task else None
    prepared = _CALL_STREAM if streams else _CALL_WHOLE
    step = b"%d" % done
    reply = prepared.replace(_STEP.encode(), step).replace(_NAME.encode(), name[1])
    return reply.replace(_ID.encode(), b"%09d" % done), streams, (int(task[1]), done)


@dataclass(slots=True)
class Record:
    """What is known of the requests: run, round, when it came, CPU seconds of the watched process, bytes."""

    requests: list[tuple[int, int, float, float, int]] = field(default_factory=list)
    clock: int = time.CLOCK_PROCESS_CPUTIME_ID

    def add(self, run: int, round: int, size: int) -> None:
        """Take a request that came just now."""
        try:
            cpu = time.clock_gettime(self.clock)
        except OSError:  # the process has gone
            cpu = 0.0
        self.requests.append((run, round, time.perf_counter(), cpu, size))


class Answerer(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) != -1:
            head = bytes(self._buffer[:end])
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        match path:
            case b"/v1/chat/completions":
                reply, streams, place = reply_to(body)
                if place is not None:
                    self._record.add(*place, len(body))
                self._send(reply, streams=streams)
            case b"/api/v1/models":
                self._send(json.dumps(_NATIVE_MODELS).encode())
            case b"/v1/models":
                self._send(json.dumps(_OPENAI_MODELS).encode())
            case b"/bench/record":
                self._send(json.dumps(self._record.requests).encode())
                self._record.requests.clear()
            case _ if path.startswith(b"/bench/watch/"):
                self._record.clock = cpu_clock(int(path.rpartition(b"/")[2]))
                self._send(b"{}")
            case _:
                self._send(b'{"error": "there is no such route here"}', status=b"404 Not Found")

    def _send(self, body: bytes, *, streams: bool = False, status: bytes = b"200 OK") -> None:
        assert self._transport is not None
        head = b"HTTP/1.1 " + status + b"\r\nConnection: keep-alive\r\n"
        if streams:
            frames = body.split(b"\n\n")[:-1]
            chunks = b"".join(b"%x\r\n%b\n\n\r\n" % (len(frame) + 2, frame) for frame in frames)
            head += b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self._transport.write(head + chunks + b"0\r\n\r\n")
        else:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)


async def serve() -> None:
    """Serve on a free port of the loopback until the process is ended."""
    record = Record()
    server = await asyncio.get_running_loop().create_server(lambda: Answerer(record), "127.0.0.1", 0, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
