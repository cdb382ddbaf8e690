"""What MCP servers send, made into our words: tool listings, results, progress.

Pure functions over decoded JSON. Servers are sloppy in many ways, so nothing here raises: a bad
tool is repaired or left out, and every kind of content becomes text that a model can read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lmstudio_bridge.messages import Image, ServerTool, ToolResult

logger = logging.getLogger(__name__)

NO_OUTPUT = "(no output)"
NEEDS_INPUT = "This tool asks its user for more input, which cannot be given here."
_HINTS = ("destructiveHint", "idempotentHint", "openWorldHint")
PROGRESS_LENGTH = 200  # characters of a progress text


def read_tools(server: str, entries: Iterable[object]) -> tuple[ServerTool, ...]:
    """The tools in a listing; one without a usable name, or with a name that was there before, is left out."""
    tools: dict[str, ServerTool] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(name, str) or not name or name in tools:
            logger.warning("MCP server %s lists a tool that cannot be used: %.200r", server, entry)
            continue
        annotations = entry.get("annotations")
        said = dict(annotations) if isinstance(annotations, dict) else {}
        hint = said.pop("readOnlyHint", None)
        tools[name] = ServerTool(
            server=server,
            name=name,
            description=_text_of(entry.get("description")),
            input_schema=_repair_schema(entry.get("inputSchema")),
            read_only=hint if isinstance(hint, bool) else None,
            title=_text_of(entry.get("title")) or _text_of(said.get("title")),
            hints={name: said[name] for name in _HINTS if isinstance(said.get(name), bool)},
        )
    return tuple(tools.values())


def _repair_schema(schema: object) -> dict[str, Any]:
    """An object schema: `{}`, none at all and a missing type all mean "any arguments"."""
    repaired: dict[str, Any] = dict(schema) if isinstance(schema, dict) else {}
    repaired["type"] = "object"
    if not isinstance(repaired.get("properties"), dict):
        repaired["properties"] = {}
    if "required" in repaired and not isinstance(repaired["required"], list):
        del repaired["required"]
    return repaired


def read_result(raw: Mapping[str, Any]) -> ToolResult:
    """A result of tools/call as text and images."""
    if raw.get("resultType") == "input_required":
        return ToolResult(NEEDS_INPUT, is_error=True)
    content = raw.get("content")
    blocks = content if isinstance(content, list) else [] if content is None else [content]
    if not blocks and "toolResult" in raw:  # protocol 2024-10-07
        blocks = [raw["toolResult"]]
    texts: list[str] = []
    images: list[Image] = []
    for block in blocks:
        texts.append(_read_block(block, images))
    said = [text for text in texts if text]
    structured = raw.get("structuredContent")
    if structured is not None and not any(_is_text(block) for block in blocks):
        said.append(_compact(structured))
    return ToolResult(_clean("\n".join(said)) or NO_OUTPUT, is_error=raw.get("isError") is True, images=tuple(images))


def _is_text(block: object) -> bool:
    return isinstance(block, str) or (
        isinstance(block, dict) and block.get("type") == "text" and bool(block.get("text"))
    )


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
    return _clean(" ".join(text.split())[:PROGRESS_LENGTH])


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as what JSON can really carry.

    Raises:
        ValueError: they hold something that JSON has no word for, such as NaN.
        TypeError: they hold an object that is no JSON value.
    """
    plain: dict[str, Any] = json.loads(_clean(json.dumps(arguments, ensure_ascii=False, allow_nan=False)))
    return plain


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _text_of(value: object) -> str:
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """Without lone surrogates: JavaScript servers leave them where they cut a text, and UTF-8 cannot say them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
