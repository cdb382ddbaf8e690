"""Reads what MCP servers send, however sloppy: messages, tool listings, results, progress.

Pure functions. A bad tool is repaired or left out, and every kind of content becomes text that a model can read.
"""

from __future__ import annotations

import base64
import codecs
import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from mcp.types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from lmstudio_bridge.messages import Image, ServerTool, ToolResult, is_deeper
from lmstudio_bridge.text import as_utf8

logger = logging.getLogger(__name__)

NO_OUTPUT = "(no output)"
NEEDS_INPUT = "This tool asks its user for more input, which cannot be given here."
_BINARY = re.compile(r"(?:image(?!/svg\+xml)|audio|video|font)/|application/(?:pdf|zip|gzip)")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_BYTE_ORDERS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_OF_URLS = str.maketrans("-_", "+/")
_HINTS = ("destructiveHint", "idempotentHint", "openWorldHint")
PROGRESS_LENGTH = 200  # characters of a progress text
MAX_TOOLS = 1_000  # of one server; honest ones have up to some hundred
MAX_NAME = 256  # characters of a tool's name; the MCP specification allows 128
MAX_DESCRIPTION = 16_384  # characters; the model reads the beginning
MAX_SCHEMA = 65_536  # characters of a tool's schema as JSON, which no local model could read
MAX_LEVELS = 64  # of a tool's schema as JSON
MAX_ARGUMENT_LEVELS = 200  # of the arguments of a call; pydantic encodes about 250
MAX_BLOCKS = 1_000  # of a result's content
MAX_TEXT = 16 * 1024 * 1024  # characters of a result; the model reads pages of it
_REPEATED = 100  # characters of a value that is not repeated beside others if it is the text
_MAX_COMPARED = 4 * 1024 * 1024  # characters of text that are read as JSON to compare them with structured content
MAX_IMAGES = 16  # of a result; a model is shown fewer


def decode_line(line: bytes) -> list[JSONRPCMessage]:
    """The messages in one line: one, or several from a server that sends batches (protocol 2025-03-26).

    Raises:
        ValueError: it is something else, such as a greeting or a log line.
    """
    try:
        return [jsonrpc_message_adapter.validate_json(line, by_name=False)]
    except ValidationError:
        try:
            decoded = json.loads(line.decode("utf-8", "replace"))
            return [_repair_message(item) for item in (decoded if isinstance(decoded, list) else [decoded])]
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc


def _repair_message(item: object) -> JSONRPCMessage:
    """The message; an invalid answer becomes an error, so that nobody waits for it."""
    if not isinstance(item, dict):
        raise ValueError("not a JSON-RPC message")
    try:
        return jsonrpc_message_adapter.validate_python({**item, "jsonrpc": "2.0"}, by_name=False)
    except ValidationError:
        number = item.get("id")
        if "method" in item or not isinstance(number, int | str):
            raise
    text = f"The server's answer is malformed: {json.dumps(item)[:500]}"
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=INTERNAL_ERROR, message=text))


def read_tools(server: str, entries: Iterable[object]) -> tuple[ServerTool, ...]:
    """The tools in a listing, without unusable ones, duplicates and those above `MAX_TOOLS`."""
    tools: dict[str, ServerTool] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or name in tools:
            logger.warning("MCP server %s lists a tool that cannot be used: %.200s", server, _shown(entry))
            continue
        if len(tools) == MAX_TOOLS:
            logger.warning("MCP server %s lists more than %d tools; the others are left out", server, MAX_TOOLS)
            break
        schema = _repair_schema(entry.get("inputSchema"))
        if problem := _too_much(schema):
            logger.warning("MCP server %s: the tool %s is left out: %s", server, name, problem)
            continue
        annotations = entry.get("annotations")
        notes = dict(annotations) if isinstance(annotations, dict) else {}
        hint = notes.pop("readOnlyHint", None)
        tools[name] = ServerTool(
            server=server,
            name=name,
            description=_text_of(entry.get("description"))[:MAX_DESCRIPTION],
            input_schema=schema,
            read_only=hint if isinstance(hint, bool) else None,
            title=(_text_of(entry.get("title")) or _text_of(notes.get("title")))[:MAX_DESCRIPTION],
            hints={key: notes[key] for key in _HINTS if isinstance(notes.get(key), bool)},
        )
    return tuple(tools.values())


def read_instructions(answer: Mapping[str, Any]) -> str:
    """What the server says about the use of its tools, in its answer to `initialize`."""
    return _text_of(answer.get("instructions"))[:MAX_DESCRIPTION]


def _too_much(schema: Mapping[str, Any]) -> str:
    """Why a schema is too large; "" if it is not."""
    if is_deeper(schema, MAX_LEVELS):
        return f"its schema is nested in more than {MAX_LEVELS} levels"
    return f"its schema is longer than {MAX_SCHEMA:,} characters" if len(_compact(schema)) > MAX_SCHEMA else ""


def _shown(entry: object) -> str:
    """A short form of an entry for the log, without formatting megabytes first."""
    name = entry.get("name") if isinstance(entry, dict) else entry
    return repr(name[:200] if isinstance(name, str) else type(name).__name__)


def _repair_schema(schema: object) -> dict[str, Any]:
    """An object schema: `{}`, a missing schema and a missing type all mean "any arguments"."""
    repaired: dict[str, Any] = dict(schema) if isinstance(schema, dict) else {}
    repaired["type"] = "object"
    if not isinstance(repaired.get("properties"), dict):
        repaired["properties"] = {}
    if "required" in repaired and not isinstance(repaired["required"], list):
        del repaired["required"]
    return repaired


def read_error(message: str, code: int, data: object) -> ToolResult:
    """An error in place of a result, with its `data`: servers put there what is wrong with the arguments."""
    text = message or f"Error {code}"
    more = data if isinstance(data, str) else "" if data is None else _compact(data)
    if more and more not in text:
        text = f"{text}\n{more[:MAX_TEXT]}"
    return ToolResult(as_utf8(text), is_error=True)


def read_result(raw: Mapping[str, Any]) -> ToolResult:
    """A result of tools/call as text and images."""
    if raw.get("resultType") == "input_required":
        return ToolResult(NEEDS_INPUT, is_error=True)
    content = raw.get("content")
    blocks = content if isinstance(content, list) else [] if content is None else [content]
    left_out = len(blocks) - MAX_BLOCKS
    blocks = blocks[:MAX_BLOCKS]
    if not blocks and "toolResult" in raw:  # protocol 2024-10-07
        blocks = [raw["toolResult"]]
    images: list[Image] = []
    parts = [text for block in blocks if (text := _read_block(block, images))]
    structured = raw.get("structuredContent")
    if structured is not None and (more := _not_in_content(structured, blocks)) is not None:
        parts.append(_compact(more))
    if left_out > 0:
        parts.append(f"[{left_out:,} more blocks of this result were left out]")
    text = "\n".join(parts)
    if len(text) > MAX_TEXT:
        cut = len(text) - MAX_TEXT
        text = f"{text[:MAX_TEXT]}\n[the last {cut:,} characters of this result were left out]"
    is_error = raw.get("isError") in (True, "true", "True")
    return ToolResult(as_utf8(text) or NO_OUTPUT, is_error=is_error, images=tuple(images[:MAX_IMAGES]))


def _not_in_content(structured: object, blocks: list[Any]) -> object | None:
    """What the structured content says beyond the content; None if nothing.

    Most servers repeat it as JSON text; the official filesystem server repeats the text as {"content": …}, and SDKs
    put what is not an object into {"result": …}.
    """
    texts = [text for block in blocks if (text := _text_in(block))]
    said: list[Any] = [blocks] if blocks else []
    if texts:
        decoded = list(map(_decode_json, texts)) if sum(map(len, texts)) <= _MAX_COMPARED else []
        said += ["\n".join(texts), texts, *texts, decoded, *decoded, {}]
    with suppress(RecursionError):
        said, compared = map(_tell_booleans, (said, structured))
        if compared in said:
            return None
        match structured:
            case dict() if len(structured) == 1 and next(iter(compared.values())) in said:
                return None
            case dict():
                long = {text for text in ("\n".join(texts), *texts) if len(text) >= _REPEATED}
                rest = {key: value for key, value in structured.items() if not (type(value) is str and value in long)}
                return rest if rest or not structured else None
    return structured


def _tell_booleans(value: Any) -> Any:
    """The value with its booleans as text, for to Python True == 1."""
    match value:
        case bool():
            return str(value)
        case dict():
            return {key: _tell_booleans(each) for key, each in value.items()}
        case list():
            return list(map(_tell_booleans, value))
    return value


def _decode_json(text: str) -> Any:
    """The JSON value of a text; the text itself if it is none."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _text_in(block: object) -> str:
    if isinstance(block, dict):
        return _text_of(block.get("text")) if block.get("type") == "text" else ""
    return _text_of(block)


def _decode_text(blob: str, mime_type: str) -> str | None:
    """The text in a resource that was sent as base64; None if it is not text.

    The base64 may be wrapped, without padding, or that of URLs. Whatever the type says, other than an image or the
    like, it is text if it reads as such; what is called text may be in an encoding of Windows.
    """
    kind = mime_type.strip().lower()
    if _BINARY.match(kind):
        return None
    charset = _CHARSET.search(mime_type)
    plain = "".join(blob.split()).rstrip("=").translate(_OF_URLS)
    with suppress(ValueError):
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        may_be_windows = kind.startswith("text/") and sum(byte < 0x80 for byte in data) >= 0.7 * len(data)
        guesses = ["utf-8-sig", *(["utf-16"] if data[:2] in _BYTE_ORDERS else ["cp1252"] if may_be_windows else [])]
        for encoding in [charset[1]] if charset else guesses:
            with suppress(ValueError, LookupError):
                text = data.decode(encoding)
                return None if "\0" in text else text
    return None


def _read_block(block: object, images: list[Image]) -> str:
    """One block as text; an image is also added to `images`."""
    if isinstance(block, str):
        return block
    if not isinstance(block, dict):
        return _compact(block)
    match block:
        case {"type": "text", "text": str() as text}:
            return text
        case {"type": "image" | "audio" as kind, "data": str() as data}:
            mime_type = _text_of(block.get("mimeType")) or "unknown type"
            data = data.rpartition(";base64,")[2] if data.startswith("data:") else data  # some servers send a URL
            if kind == "image":
                images.append(Image(data, mime_type))
            return f"[{kind}: {mime_type}, {_size_of(data)}]"
        case {"type": "resource_link", "uri": str() as uri}:
            name = _text_of(block.get("title")) or _text_of(block.get("name"))
            notes = [_text_of(block.get(key)) for key in ("description", "mimeType")]
            return " - ".join(part for part in (f"[resource: {name or uri}] {uri}", *notes) if part)
        case {"type": "resource", "resource": dict() as resource}:
            return _read_resource(resource, images)
        case _:
            return _compact(block)


def _read_resource(resource: Mapping[str, Any], images: list[Image]) -> str:
    uri = _text_of(resource.get("uri")) or "without URI"
    mime_type = _text_of(resource.get("mimeType"))
    match resource:
        case {"text": str() as text}:
            return f"[resource: {uri}]\n{text}"
        case {"blob": str() as blob} if (decoded := _decode_text(blob, mime_type)) is not None:
            return f"[resource: {uri}]\n{decoded}"
        case {"blob": str() as blob}:
            if mime_type.startswith("image/"):
                images.append(Image(blob, mime_type))
            return f"[resource: {uri}, {mime_type or 'unknown type'}, {_size_of(blob)}]"
        case _:
            return _compact(resource)


def _size_of(base64_text: str) -> str:
    """The size of the decoded bytes, for a reader."""
    size = len(base64_text.rstrip("=")) * 3 // 4
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def read_progress(progress: float, total: float | None, message: str | None) -> str:
    """A progress notification as one short line."""
    counted = f"{progress:g}/{total:g}" if total else f"{progress:g}"
    text = f"{counted} {message}" if message else counted
    return as_utf8(" ".join(text.split())[:PROGRESS_LENGTH])


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as plain JSON values.

    Raises:
        ValueError: they hold something that JSON cannot express, such as NaN, or are nested too deeply;
            the text says so to the model.
    """
    if is_deeper(arguments, MAX_ARGUMENT_LEVELS):
        raise ValueError("This is nested too deeply to be sent.")
    try:
        plain: dict[str, Any] = json.loads(as_utf8(json.dumps(arguments, ensure_ascii=False, allow_nan=False)))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"These arguments cannot be sent as JSON: {exc}") from exc
    return plain


def _compact(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except RecursionError:
        return "[data that is nested too deeply to be shown]"


def _text_of(value: object) -> str:
    return as_utf8(value) if isinstance(value, str) else ""
