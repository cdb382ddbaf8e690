"""Cuts a completion into the pieces a stream is made of, and counts its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle, zip_longest
from typing import Literal

from tests.lmstudio_sim.errors import JsonObject
from tests.lmstudio_sim.replies import Completion, Usage

CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One delta: a fragment of the reasoning, of the text, or of call number `index`."""

    kind: Literal["reasoning", "text", "call"]
    fragment: str
    index: int = 0
    opens: bool = False


def cut_pieces(reply: Completion) -> Iterator[Piece]:
    """All deltas of a reply in order; without end if the reply is endless."""
    size = max(reply.stream.fragment_chars, 1)
    yield from _cut("reasoning", reply.reasoning, size=size)
    if reply.endless:
        fragments = _fragments(reply.text or " ", size=size)
        yield from (Piece("text", text, opens=n == 0) for n, text in zip(count(), cycle(fragments), strict=False))
    yield from _cut("text", reply.text, size=size)
    calls = [list(_cut_call(reply, index)) for index in range(len(reply.calls))]
    if reply.stream.interleave_calls:
        for row in zip_longest(*calls):
            yield from (piece for piece in row if piece is not None)
    else:
        for pieces in calls:
            yield from pieces


def _cut(kind: Literal["reasoning", "text"], text: str, *, size: int) -> Iterator[Piece]:
    fragments = _fragments(text, size=size)
    for n, fragment in enumerate(fragments):
        yield Piece(kind, fragment, opens=n == 0)


def _cut_call(reply: Completion, index: int) -> Iterator[Piece]:
    text = reply.calls[index].argument_text
    fragments = _fragments(text, size=reply.stream.argument_fragment_chars or max(len(text), 1))
    yield Piece("call", "", index=index, opens=True)
    for fragment in fragments:
        yield Piece("call", fragment, index=index)


def _fragments(text: str, *, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def count_text_tokens(text: str) -> int:
    """Tokens by length: a token for every four characters begun."""
    return -(-len(text) // CHARS_PER_TOKEN)


def count_prompt_tokens(messages: Sequence[JsonObject], *, tools: object = None) -> int:
    """Tokens of messages and tools as the model would see them."""
    texts = [_flatten(message.get("content")) for message in messages]
    texts += [json.dumps(message["tool_calls"]) for message in messages if message.get("tool_calls")]
    if tools:
        texts.append(json.dumps(tools, ensure_ascii=False))
    return count_text_tokens("".join(texts))


def count_usage(reply: Completion, *, prompt_tokens: int) -> Usage:
    """The usage of a reply: its own, or by length."""
    if reply.usage is not None:
        return reply.usage
    reasoning = count_text_tokens(reply.reasoning)
    calls = sum(count_text_tokens(call.name + call.argument_text) for call in reply.calls)
    return Usage(prompt_tokens, reasoning + count_text_tokens(reply.text) + calls, reasoning)


def _flatten(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
