"""docs/tools.md, made from what the server lists: `python -m scripts.tools.tools_page` writes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.types import Tool

from lmstudio_bridge.server.tools import REPORT_META, BridgeServer, build_server
from lmstudio_bridge.settings import read_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tools.md"
_HEAD = """\
# Tools

What Claude or another MCP client sees of the bridge.
"""
_ANSWER = f"""\
## Results

Warnings, the answer, and where it comes from:

```text
Failed: write_file src/a.py: "no such folder"

The word is heron-42, from notes.txt.

[Local model output, unverified · qwen3-4b · read_text_file ×5 (a.md … e.md) · run 20261123-101236-r0fc6]
```

Lines above the answer:

- `Nothing was changed.`: though a change was asked for or tried
- `Not found in anything that was read: …`: facts of the answer that are in no result
- `did not open …`, `read 3 of 7 files in …`, `not of the newest …`: named but not read, or contradicts the answer
- `Failed: …`: a call that failed or was refused for good
- `Note: …`: anything else, such as a server left out, or an answer cut off

A run without an answer says why in its first line. For programs, the result's `_meta` has `{REPORT_META}`:

"""  # noqa: RUF001  # the multiplication sign is what results have
REPORT_KEYS = {
    "run_id": "id for `continue_run` and the command line",
    "stop": "`answered`, `round_limit`, `deadline`, `context_full`, `stuck`, `cancelled`, `failed`, "
    "or `partial`: some items of `for_each` are not done",
    "model": "the model used",
    "servers": "MCP servers whose tools were offered",
    "rounds": "model requests",
    "calls": "tool calls",
    "usage": "tokens of the local model",
    "saved": "tokens `kept`, `spent`, and `net`: [estimate](delegating.md#what-it-saves)",
    "seconds": "duration",
    "warnings": "notes, and faults recovered from",
    "sources": "tools that worked, with their servers",
    "failed": "calls that failed or were refused for good",
    "nothing_changed": "whether a change was asked for or tried, and none was made",
    "changes": "counts of `created`, `changed`, `moved`, `deleted` and `unchanged` files, and `files`",
    "grounding": "`sources` of the answer's facts, facts that are `missing` there, and `coverage`",
    "needed_write": "calls that need `autonomous_with_write_access`",
    "started": "servers selected, and why",
    "not_started": "the other servers",
    "error": "cause and remedy",
}


def build() -> BridgeServer:
    """The server as it is without any setting."""
    return build_server(read_settings({}, cwd=ROOT), environ={})


async def page() -> str:
    """The whole page."""
    server = build()
    tools = await server.list_tools()
    answer = _ANSWER + "".join(f"- `{key}`: {what}\n" for key, what in REPORT_KEYS.items())
    shared = _shared(tools)
    told: dict[str, str] = {}
    parts = [_HEAD, *(_section(tool, shared, told) for tool in tools), _everywhere(tools[0], shared), answer]
    return "\n".join([*parts, await _rest(server)])


def _shared(tools: Sequence[Tool]) -> list[str]:
    """Names of the arguments that every tool has, and that say the same there."""
    first, *others = (tool.input_schema["properties"] for tool in tools)
    return [name for name, each in first.items() if all(other.get(name) == each for other in others)]


def _section(tool: Tool, shared: Sequence[str], told: dict[str, str]) -> str:
    """The section of one tool; arguments that an earlier one has are only named. `told`: row → tool that has it."""
    own = {name: each for name, each in tool.input_schema["properties"].items() if name not in shared}
    rows = dict(zip(own, _rows(own, required=tool.input_schema.get("required", ())), strict=True))
    repeated = [f"`{name}`" for name, row in rows.items() if told.setdefault(row, tool.name) != tool.name]
    lines = [row for row in rows.values() if told[row] == tool.name]
    lines += [f"- as above: {', '.join(repeated)}"] if repeated else []
    return "\n\n".join([f"## `{tool.name}`", str(tool.description), "\n".join(lines)]) + "\n"


def _everywhere(tool: Tool, shared: Sequence[str]) -> str:
    given = {name: tool.input_schema["properties"][name] for name in shared}
    rows = "\n".join(_rows(given, required=()))
    unlisted = (
        "Not listed, but accepted: `max_tokens`, the limit of one model reply; `combine_schema` beside `combine`."
    )
    return f"## Arguments of all tools\n\nAll are optional. {unlisted}\n\n{rows}\n"


def _rows(properties: Mapping[str, dict[str, Any]], *, required: Sequence[str]) -> Iterator[str]:
    for name, each in properties.items():
        default = (
            ", required" if name in required else f", default {_json(each['default'])}" if "default" in each else ""
        )
        yield f"- `{name}` ({_type(each)}{default}): {each['description']}"


def _type(schema: Mapping[str, Any]) -> str:
    """A type in a few words, with its bounds."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "const" in schema:
        return _json(schema["const"])
    if "enum" in schema:
        return " or ".join(map(_json, schema["enum"]))
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}s"
    least, most = schema.get("minimum", schema.get("minLength")), schema.get("maximum", schema.get("maxLength"))
    unit = " characters" if schema["type"] == "string" else ""
    bounds = (
        f", {least:,} to {most:,}{unit}" if None not in (least, most) else f", up to {most:,}{unit}" if most else ""
    )
    return f"{schema['type']}{bounds}"


def _json(value: object) -> str:
    return f"`{json.dumps(value)}`"


async def _rest(server: BridgeServer) -> str:
    """Resources and prompts."""
    lines = ["## Resources", ""]
    lines += [f"- `{each.uri}`: {each.description}" for each in await MCPServer.list_resources(server)]
    lines += [f"- `{each.uri_template}`: {each.description}" for each in await server.list_resource_templates()]
    lines += ["", "In Claude Code, for example: `@lmstudio-bridge:lmstudio://servers`.", "", "## Prompt", ""]
    lines += [f"- `{prompt.name}`: {prompt.description}" for prompt in await server.list_prompts()]
    lines += ["", "In Claude Code: `/mcp__lmstudio-bridge__delegate Summarize every note`."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(page()), encoding="utf-8")
