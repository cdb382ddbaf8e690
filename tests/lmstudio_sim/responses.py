"""/v1/responses: its items, its events, and the conversations it remembers."""

from __future__ import annotations

import time
from typing import Any

from tests.lmstudio_sim.errors import JsonObject, RequestRefusedError, openai_error, permission_denied
from tests.lmstudio_sim.framing import Turn, data_frame
from tests.lmstudio_sim.pieces import Piece
from tests.lmstudio_sim.replies import Completion


class ResponseStore:
    """Conversations by response id. An id is kept even for `store: false`, as LM Studio does."""

    def __init__(self) -> None:
        self._items: dict[str, list[JsonObject]] = {}

    def keep(self, response_id: str, items: list[JsonObject]) -> None:
        self._items[response_id] = items

    def recall(self, response_id: str) -> list[JsonObject]:
        """The items up to and with that response.

        Raises:
            RequestRefusedError: 400 `previous_response_not_found`.
        """
        if response_id not in self._items:
            text = (
                f"Prediction history node with id '{response_id}' not found while attempting to build chat history "
                "chain that includes this node."
            )
            raise RequestRefusedError(
                400, openai_error(text, param="previous_response_id", code="previous_response_not_found")
            )
        return self._items[response_id]


def check_response_request(body: JsonObject) -> None:
    """Check a body for /v1/responses.

    Raises:
        RequestRefusedError: 400 or 403 with the recorded text.
    """
    text = body.get("text")
    if isinstance(text, dict) and "format" not in text:
        raise RequestRefusedError(400, openai_error("Required", param="text.format", code="missing_required_parameter"))
    if not isinstance(body.get("input"), str | list):
        raise RequestRefusedError(400, openai_error("Required", param="input", code="missing_required_parameter"))
    for tool in body.get("tools") or ():
        if isinstance(tool, dict) and tool.get("type") == "mcp":
            raise RequestRefusedError(403, permission_denied(f"mcp/{tool.get('server_label', '')}"))


def input_items(body: JsonObject) -> list[JsonObject]:
    """The request's own input as a list of items."""
    given = body["input"]
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [item for item in given if isinstance(item, dict)]


def to_messages(items: list[JsonObject], *, instructions: object) -> list[JsonObject]:
    """The conversation as the chat template sees it."""
    messages: list[JsonObject] = []
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        match item.get("type", "message"):
            case "message":
                messages.append({"role": item.get("role", "user"), "content": item.get("content")})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
    return messages


class ResponsesFraming:
    """A turn as a response object or as its events."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._sequence = 0
        self._places: dict[tuple[str, int], int] = {}
        self._texts: dict[tuple[str, int], str] = {}
        self.id = f"resp_{turn.ids.hex(48)}"
        self.output = self._make_output(turn.reply)

    def whole(self) -> JsonObject:
        return self._response(status="completed", output=self.output)

    def opening(self) -> list[bytes]:
        response = self._response(status="in_progress", output=[])
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def piece(self, piece: Piece) -> list[bytes]:
        key = (piece.kind, piece.index)
        frames: list[bytes] = []
        if piece.opens:
            place = self._places[key] = len(self._places)
            self._texts[key] = ""
            frames += self._open_item(piece, place)
        place, item = self._places[key], self._item(piece)
        self._texts[key] += piece.fragment
        where: JsonObject = {"item_id": item["id"], "output_index": place}
        names = {
            "text": "response.output_text",
            "reasoning": "response.reasoning_text",
            "call": "response.function_call_arguments",
        }
        name = names[piece.kind]
        part: JsonObject = {} if piece.kind == "call" else {"content_index": 0}
        if piece.fragment:
            frames.append(self._event(f"{name}.delta", **where, **part, delta=piece.fragment))
        if piece.closes:
            text = self._texts[key]
            whole = {"arguments": text} if piece.kind == "call" else {"text": text}
            frames.append(self._event(f"{name}.done", **where, **part, **whole))
            if piece.kind == "text":
                frames.append(self._event("response.content_part.done", **where, **part, part=item["content"][0]))
            frames.append(self._event("response.output_item.done", output_index=place, item=item))
        return frames

    def closing(self) -> list[bytes]:
        return [self._event("response.completed", response=self.whole())]

    def failure(self, message: str, *, duplicate: bool = False, done: bool = False) -> list[bytes]:
        error = {"code": "server_error", "message": message}
        response = self._response(status="failed", output=[]) | {"error": error}
        return [self._event("response.failed", response=response)]

    def _make_output(self, reply: Completion) -> list[JsonObject]:
        ids = self._turn.ids
        output: list[JsonObject] = []
        if reply.reasoning:
            content = [{"type": "reasoning_text", "text": reply.reasoning}]
            output.append({"id": f"rs_{ids.hex(48)}", "type": "reasoning", "summary": [], "content": content})
        if reply.text:
            part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
            output.append(
                {
                    "id": f"msg_{ids.hex(48)}",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            )
        for call in reply.calls:
            output.append(
                {
                    "id": f"fc_{ids.hex(48)}",
                    "type": "function_call",
                    "status": "completed",
                    "arguments": call.argument_text,
                    "call_id": f"call_{ids.digits(15)}" if call.id is None else call.id,
                    "name": call.name,
                }
            )
        return output

    def _item(self, piece: Piece) -> JsonObject:
        types = {"text": "message", "reasoning": "reasoning", "call": "function_call"}
        return [item for item in self.output if item["type"] == types[piece.kind]][piece.index]

    def _open_item(self, piece: Piece, place: int) -> list[bytes]:
        item = dict(self._item(piece))
        if piece.kind == "call":
            item |= {"status": "in_progress", "arguments": ""}
            return [self._event("response.output_item.added", output_index=place, item=item)]
        part = {**item["content"][0], "text": ""}
        item |= {"content": []} if piece.kind == "reasoning" else {"status": "in_progress", "content": []}
        added = self._event("response.output_item.added", output_index=place, item=item)
        if piece.kind == "reasoning":
            return [added]
        where = {"item_id": item["id"], "output_index": place, "content_index": 0}
        return [added, self._event("response.content_part.added", **where, part=part)]

    def _event(self, type: str, **fields: Any) -> bytes:
        self._sequence += 1
        body = {"type": type, **fields, "sequence_number": self._sequence - 1}
        return data_frame(body, event=type, line_end=self._turn.reply.stream.line_end)

    def _response(self, *, status: str, output: list[JsonObject]) -> JsonObject:
        # A reply cut off by max_output_tokens says "completed" too, with incomplete_details null: LM Studio's trap.
        body, usage = self._turn.body, self._turn.usage
        done = status == "completed"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._turn.created,
            "completed_at": int(time.time()) if done else None,
            "status": status,
            "incomplete_details": None,
            "model": self._turn.model,
            "previous_response_id": body.get("previous_response_id"),
            "instructions": body.get("instructions"),
            "output": output,
            "error": None,
            "tools": body.get("tools") or [],
            "tool_choice": body.get("tool_choice", "auto"),
            "truncation": "auto",
            "parallel_tool_calls": True,
            "text": body.get("text", {"format": {"type": "text"}}),
            "top_p": body.get("top_p", 1),
            "temperature": body.get("temperature", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "reasoning": {"summary": None, "effort": (body.get("reasoning") or {}).get("effort")},
            "usage": {
                "input_tokens": usage.prompt,
                "output_tokens": usage.completion,
                "total_tokens": usage.prompt + usage.completion,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            }
            if done
            else None,
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": True,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }
