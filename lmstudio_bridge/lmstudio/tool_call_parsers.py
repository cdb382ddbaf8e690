"""Parsers for reasoning and tool calls that leaked into the text of a reply.

LM Studio leaves `<think>` in the text when its setting "separate reasoning_content" is off or the
template does not match, and tool calls that its own parser could not read. The formats are those of
the models' own templates, as seen in LM Studio's issue tracker.

A model can write anything of any length, so every parser takes time in proportion to the text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_OPEN_THINK = re.compile(r"<(think|thinking|thought)>|<\|channel>thought\b")
_CLOSE_THINK = re.compile(r"</(?:think|thinking|thought)>")

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_NAME = r"[\w.\-/:]+"
_FUNCTION = re.compile(rf"\s*(?:<function=)?({_NAME})>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>")
_INVOKE = re.compile(rf'<invoke name="({_NAME})">(.*?)(?:</invoke>|\Z)', re.DOTALL)
_INVOKE_PARAMETER = re.compile(r'\s*<parameter name="([^"\n]+)">')
_GLM = re.compile(rf"\s*({_NAME})\s*((?:<arg_key>.*)?)", re.DOTALL)
_GLM_KEY = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>", re.DOTALL)
_HARMONY = re.compile(rf"({_NAME}+).*?<\|message\|>(.*)", re.DOTALL)
_GEMMA = re.compile(rf"\s*call:({_NAME})(\{{.*\}})\s*", re.DOTALL)
_GEMMA_STRING = re.compile(r'<\|"\|>(.*?)<\|"\|>', re.DOTALL)
_GEMMA_KEY = re.compile(r"([{,]\s*)([A-Za-z_]\w*)\s*:")
_MISTRAL = re.compile(rf"\s*+(?:\[TOOL_CALLS\])?\s*+({_NAME})\[ARGS\]\s*")
_BETWEEN = re.compile(r"[ \t\r\n,;]*")
_STRAY_END = re.compile(r"\s*</tool_call>")


@dataclass(frozen=True, slots=True)
class LeakedCall:
    """A call found in text; `arguments` is JSON text."""

    name: str
    arguments: str


def split_reasoning(text: str) -> tuple[str, str]:
    """`text` without its reasoning, and the reasoning.

    The opening tag may be missing (the template put it into the prompt), and so may the closing tag
    (the reply was truncated).
    """
    thoughts: list[str] = []
    kept: list[str] = []
    missing: set[str] = set()  # closing tags that do not occur again
    position = looked = 0
    while opening := _OPEN_THINK.search(text, looked):
        closing = f"</{opening[1]}>" if opening[1] else "<channel|>"
        end = -1 if closing in missing else text.find(closing, opening.end())
        looked = opening.end()
        if end == -1:
            missing.add(closing)
            continue
        thoughts.append(text[opening.end() : end].strip())
        kept.append(text[position : opening.start()])
        position = looked = end + len(closing)
    rest = "".join((*kept, text[position:]))
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
    """`text` without the calls that leaked into it, and those calls in order.

    Only calls whose name is `offered` count, and none inside code. Bare JSON counts only if it is the
    whole text.
    """
    taken = bytearray(len(text))
    for match in _CODE.finditer(text):
        _mark(taken, *match.span())
    found: list[tuple[int, int, list[LeakedCall]]] = []
    for opening, closing, read in _FORMATS:
        for start, end, body in _blocks(text, opening, closing):
            if not taken[start] and (calls := [call for call in read(body) if offered(call.name)]):
                found.append((start, end, calls))
                _mark(taken, start, end)
    if found:
        found.sort(key=lambda block: block[0])
        return _cut(text, [(start, end) for start, end, _ in found]), tuple(call for *_, each in found for call in each)
    bare = [call for call in _read_json(text) if offered(call.name)]
    return ("", tuple(bare)) if bare else (text, ())


def _blocks(text: str, opening: str, closing: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of every block between the two marks; the last may be truncated."""
    position = 0
    while (start := text.find(opening, position)) != -1:
        end = text.find(closing, start) if closing else -1
        if end == -1:
            yield start, len(text), text[start + len(opening) :]
            return
        start = text.rfind(opening, start, end)  # an earlier mark without an end was only mentioned
        yield start, end + len(closing), text[start + len(opening) : end]
        position = end + len(closing)


def _mark(taken: bytearray, start: int, end: int) -> None:
    taken[start:end] = b"\1" * (end - start)


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    def pieces() -> Iterator[str]:
        position = 0
        for start, end in spans:
            yield text[position:start]
            position = end
            if stray := _STRAY_END.match(text, end):  # Qwen sometimes omits the opening tag
                position = stray.end()
        yield text[position:]

    return "".join(pieces()).strip()


def _read_json(text: str) -> list[LeakedCall]:
    """The calls in a text of nothing but JSON: objects in a row or in a list."""
    values: list[Any] = []
    position = _skip(text, 0)
    while position < len(text):
        try:
            value, position = json.JSONDecoder().raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        values += value if isinstance(value, list) else [value]
        position = _skip(text, position)
    calls = [_read_call(value) for value in values]
    return [call for call in calls if call] if all(calls) else []


def _skip(text: str, position: int) -> int:
    """The position of the next value, after separators."""
    between = _BETWEEN.match(text, position)
    return between.end() if between else position


def _read_call(value: Any) -> LeakedCall | None:
    """The call in a JSON object, under any of the keys that models use."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name") or value.get("function") or value.get("tool")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    name = name.partition("<|")[0].strip()  # gpt-oss: f<|channel|>commentary
    return _call(name, arguments)


def _call(name: str, arguments: dict[str, Any] | str) -> LeakedCall:
    return LeakedCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def _value(text: str) -> Any:
    """A value from a format without types: JSON if it parses, else the text."""
    text = text.removeprefix("\n").removesuffix("\n")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_tagged(body: str) -> list[LeakedCall]:
    """Inside `<tool_call>`: JSON (Hermes, Qwen 2.5), `<function=…>` (Qwen 3 Coder) or `<arg_key>` (GLM)."""
    if body.lstrip().startswith("{"):
        return _read_json(body)
    if "<function=" in body:
        return [call for piece in body.split("<function=")[1:] for call in _read_function(piece)]
    match = _GLM.fullmatch(body)
    return _read_pairs(match[1], match[2], _GLM_KEY, "</arg_value>") if match else []


def _read_function(body: str) -> list[LeakedCall]:
    match = _FUNCTION.match(body)
    return _read_pairs(match[1], match[2], _PARAMETER, "</parameter>") if match else []


def _read_invokes(body: str) -> list[LeakedCall]:
    return [
        call
        for name, inside in _INVOKE.findall(body)
        for call in _read_pairs(name, inside, _INVOKE_PARAMETER, "</parameter>")
    ]


def _read_pairs(name: str, inside: str, opening: re.Pattern[str], closing: str) -> list[LeakedCall]:
    """The call with tagged arguments; none if it was truncated, because half a call may do harm."""
    arguments: dict[str, Any] = {}
    position = 0
    while match := opening.match(inside, position):
        end = inside.find(closing, match.end())
        if end == -1:
            return []
        arguments[match[1].strip()] = _value(inside[match.end() : end])
        position = end + len(closing)
    return [] if inside[position:].strip() else [_call(name, arguments)]


def _read_harmony(body: str) -> list[LeakedCall]:
    match = _HARMONY.match(body)
    return [_call(match[1], match[2].strip())] if match else []


def _read_gemma(body: str) -> list[LeakedCall]:
    """`call:f{key:<|"|>text<|"|>,other:5}`: JSON but for its quotes."""
    match = _GEMMA.fullmatch(body)
    if match is None:
        return []
    pieces = _GEMMA_STRING.split(match[2])  # every second one is a string
    plain = [_GEMMA_KEY.sub(r'\1"\2":', piece) if n % 2 == 0 else json.dumps(piece) for n, piece in enumerate(pieces)]
    try:
        arguments = json.loads("".join(plain))
    except (ValueError, RecursionError):
        return []
    return [_call(match[1], arguments)]


def _read_python(body: str) -> list[LeakedCall]:
    """`[f(x="y"), g()]` (LFM 2)."""
    try:
        tree = ast.parse(body.strip(), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        return [
            _call(ast.unparse(each.func), {key.arg: ast.literal_eval(key.value) for key in each.keywords if key.arg})
            for each in calls
            if isinstance(each, ast.Call)
        ]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _read_mistral(body: str) -> list[LeakedCall]:
    """`[{…}, {…}]`, or `f[ARGS]{…}` once or several times."""
    if body.lstrip().startswith("["):
        return _read_json(body)
    calls: list[LeakedCall] = []
    position = 0
    while match := _MISTRAL.match(body, position):
        try:
            value, position = json.JSONDecoder().raw_decode(body, match.end())
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict):
            calls.append(_call(match[1], value))
    return calls


_FORMATS: tuple[tuple[str, str, Callable[[str], list[LeakedCall]]], ...] = (
    ("<tool_call>", "</tool_call>", _read_tagged),
    ("<function=", "</function>", _read_function),
    ("<tools>", "</tools>", _read_json),
    ("[TOOL_REQUEST]", "[END_TOOL_REQUEST]", _read_json),
    ("<minimax:tool_call>", "</minimax:tool_call>", _read_invokes),
    ("<|channel|>commentary to=functions.", "<|call|>", _read_harmony),
    ("<|tool_call>", "<tool_call|>", _read_gemma),
    ("<|tool_call_start|>", "<|tool_call_end|>", _read_python),
    ("[TOOL_CALLS]", "", _read_mistral),
)
"""Opening mark, closing mark ("" for the end of the text), and the parser of the content."""
