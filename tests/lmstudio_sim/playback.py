"""Plays a reply to a client, whole or streamed, with its faults at their places."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal

from tests.lmstudio_sim.errors import ENGINE_TERMINATED, PredictionFailedError
from tests.lmstudio_sim.framing import ChatFraming, data_frame, encode_json, join_frames
from tests.lmstudio_sim.http import CutError, Exchange
from tests.lmstudio_sim.pieces import cut_pieces
from tests.lmstudio_sim.replies import BadFrame, Completion, CutSocket, EndEarly, Fault, HttpReply, Stall, StreamError

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"

LostStream = Literal["error", "end"]
"""How a stream ends when its instance dies: by an `event: error` frame, or early and without a word."""


async def wait_out(stall: Stall) -> None:
    """Wait as long as the stall says."""
    if stall.until is not None:
        await stall.until.wait()
    elif stall.seconds is not None:
        await asyncio.sleep(stall.seconds)
    else:
        await asyncio.Event().wait()


async def send_http_reply(exchange: Exchange, reply: HttpReply) -> None:
    """Send a whole answer as scripted."""
    if isinstance(reply.body, bytes | str):
        body = reply.body.encode("utf-8") if isinstance(reply.body, str) else reply.body
        content_type = reply.content_type or HTML_TYPE
    else:
        body = encode_json(reply.body, indent=2)
        content_type = reply.content_type or JSON_TYPE
    for fault in reply.faults:
        match fault:
            case Stall():
                await wait_out(fault)
            case CutSocket(before_headers=True):
                exchange.cut(reset=fault.reset)
                return
            case CutSocket():
                await exchange.send_torn(reply.status, body, content_type=content_type, reset=fault.reset)
                return
            case _:
                pass  # the others only mean something in a stream
    await exchange.send(reply.status, body, content_type=content_type, headers=dict(reply.headers))


async def play_whole(exchange: Exchange, reply: Completion, framing: ChatFraming) -> None:
    """Answer a request without `stream`.

    Raises:
        PredictionFailedError: the reply is scripted to fail.
    """
    for fault in reply.faults:
        match fault:
            case Stall():
                await wait_out(fault)
            case StreamError():
                raise PredictionFailedError(fault.message)
            case EndEarly():
                raise PredictionFailedError(ENGINE_TERMINATED)
            case CutSocket(before_headers=True):
                exchange.cut(reset=fault.reset)
                return
            case CutSocket():
                body = encode_json(framing.whole(), indent=2)
                await exchange.send_torn(200, body, content_type=JSON_TYPE, reset=fault.reset)
                return
            case BadFrame():
                pass  # a whole body has no frames
    if reply.endless:
        await wait_out(Stall())
    if reply.stream.token_delay_seconds:
        await asyncio.sleep(reply.stream.token_delay_seconds * sum(1 for _ in cut_pieces(reply)))
    body = encode_json(framing.whole(), indent=2)
    await exchange.send(200, body, content_type=JSON_TYPE)


async def play_stream(exchange: Exchange, reply: Completion, framing: ChatFraming) -> None:
    """Answer a request with `stream`.

    Raises:
        CutError: a fault closed the connection.
    """
    await _StreamPlayer(exchange, reply, framing).play()


async def fail_stream(exchange: Exchange, framing: ChatFraming, message: str, *, lost_stream: LostStream) -> None:
    """End a stream, begun or not, because its generation failed."""
    if not exchange.headers_sent:
        await exchange.open_stream()
    frames = framing.failure(message) if lost_stream == "error" else []
    await exchange.send_frame(join_frames(frames), last="completed")


class _StreamPlayer:
    def __init__(self, exchange: Exchange, reply: Completion, framing: ChatFraming) -> None:
        self._exchange = exchange
        self._reply = reply
        self._framing = framing
        self._sent = 0
        self._ended = False

    async def play(self) -> None:
        await self._meet(fault for fault in self._reply.faults if _before_headers(fault))
        await self._exchange.open_stream()
        waiting = [fault for fault in self._reply.faults if not _before_headers(fault)]
        for piece in cut_pieces(self._reply):
            due = [fault for fault in waiting if fault.after_tokens <= self._sent]
            waiting = [fault for fault in waiting if fault.after_tokens > self._sent]
            await self._meet(due)
            if self._ended:
                return
            if self._reply.stream.token_delay_seconds:
                await asyncio.sleep(self._reply.stream.token_delay_seconds)
            self._sent += 1
            self._exchange.request.tokens_sent = self._sent
            await self._send(self._framing.piece(piece))
        await self._meet(waiting)
        if self._ended:
            return
        *frames, last = self._framing.closing()
        for frame in frames:
            await self._send(frame)
        await self._send(last, last=True)

    async def _meet(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            match fault:
                case Stall():
                    await wait_out(fault)
                case BadFrame():
                    await self._send(data_frame(fault.data))
                case CutSocket():
                    self._exchange.cut(reset=fault.reset)
                    raise CutError
                case StreamError():
                    frames = self._framing.failure(fault.message, duplicate=fault.duplicate, done=fault.done)
                    await self._send(join_frames(frames), last=True)
                    self._ended = True
                    return
                case EndEarly():
                    await self._send(b"", last=True)
                    self._ended = True
                    return

    async def _send(self, frame: bytes, *, last: bool = False) -> None:
        write_bytes = self._reply.stream.write_bytes
        await self._exchange.send_frame(frame, write_bytes=write_bytes, last="completed" if last else None)


def _before_headers(fault: Fault) -> bool:
    return isinstance(fault, Stall | CutSocket) and fault.before_headers
