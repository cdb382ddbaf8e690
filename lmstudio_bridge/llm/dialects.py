"""Reasoning and tool calls that leaked into the text of a reply → reasoning and calls. Pure.

LM Studio leaves `<think>` in the text when its setting "separate reasoning_content" is off or the
template does not match, and leaves tool calls in the text that its own parser could not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_THINK = re.compile(r"<(think|thinking|thought)>(.*?)</\1>", re.DOTALL)
_OPEN_THINK = re.compile(r"<(?:think|thinking|thought)>")
_CLOSE_THINK = re.compile(r"</(?:think|thinking|thought)>")

_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_TAGGED = (
    re.compile(r"<tool_call>\s*(?P<json>\{.*?\})\s*(?:</tool_call>|\Z)", re.DOTALL),
    re.compile(r"\[TOOL_REQUEST\]\s*(?P<json>\{.*?\})\s*(?:\[END_TOOL_REQUEST\]|\Z)", re.DOTALL),
    re.compile(r"<tools>\s*(?P<json>\{.*?\})\s*(?:</tools>|\Z)", re.DOTALL),
)


@dataclass(frozen=True, slots=True)
class LeakedCall:
    """A call found in text; `arguments` is JSON text."""

    name: str
    arguments: str


def split_reasoning(text: str) -> tuple[str, str]:
    """`text` without its thinking, and the thinking.

    Also where only the closing tag is there (the template had opened it in the prompt), and where
    the reply was cut before the thinking ended.
    """
    thoughts: list[str] = []

    def take(match: re.Match[str]) -> str:
        thoughts.append(match[2].strip())
        return ""

    rest = _THINK.sub(take, text)
    if close := _CLOSE_THINK.search(rest):
        thoughts.insert(0, rest[: close.start()].strip())
        rest = rest[close.end() :]
    if opening := _OPEN_THINK.search(rest):
        thoughts.append(rest[opening.end() :].strip())
        rest = rest[: opening.start()]
    if not thoughts:
        return text, ""
    return rest.strip(), "\n".join(thought for thought in thoughts if thought)


def recover_calls(text: str, *, offered: Callable[[str], bool]) -> tuple[str, tuple[LeakedCall, ...]]:
    """`text` without the calls that leaked into it, and those calls, in their order.

    Only calls whose name is `offered` count, and nothing inside a code fence does. Bare JSON counts
    only if it is the whole text.
    """
    fences = [match.span() for match in _FENCE.finditer(text)]
    found: list[tuple[int, int, LeakedCall]] = []
    for pattern in _TAGGED:
        for match in pattern.finditer(text):
            fenced = any(start <= match.start() < end for start, end in fences)
            call = None if fenced else _read_call(match["json"])
            if call and offered(call.name):
                found.append((*match.span(), call))
    if found:
        found.sort(key=lambda entry: entry[0])
        return _cut(text, [(start, end) for start, end, _ in found]), tuple(call for *_, call in found)
    bare = _read_call(text)
    return ("", (bare,)) if bare and offered(bare.name) else (text, ())


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    def pieces() -> Iterator[str]:
        position = 0
        for start, end in spans:
            yield text[position:start]
            position = max(position, end)
        yield text[position:]

    return "".join(pieces()).strip()


def _read_call(text: str) -> LeakedCall | None:
    """The call that a JSON object spells, with the keys that models use for it."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    name = value.get("name") or value.get("function") or value.get("tool")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    return LeakedCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
