"""docs/servers.md, made from the servers of tests/real/servers and the presets.

`python -m scripts.tools.servers_page` writes it. With `--record` every server is installed and started first, to note
its tools: after a new version or a new server in the catalogue.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import anyio

from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.presets import PRESETS, preset_rules
from tests.real.servers.catalogue import SERVERS, TOOLS, Server
from tests.unit.mcp_client.pools import open_test_pool

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
_HEAD = """\
# MCP servers

These servers are tried through the bridge every week. Any other server works the same way.

- `reading`: how many of its tools run with read access, by your [rules](security.md#rules), then the bridge's
  [presets](contributing/presets.md), then its marks; the others need write access.
- `tried`: which calls are made. *List*: tools are listed and writing calls refused; more would need an account.
- `sandbox`: what it needs for that in the [sandbox](sandbox.md): nothing (*yes*), *network* (`{ network = true }`), or
  these settings. Those with *list* only started there; no browser was opened.

| server | reading | tried | sandbox | what to know |
|---|---|---|---|---|
"""
_SANDBOX = {"true": "yes", "{ network = true }": "network"}
_START_LIMIT = 120.0  # seconds

Marks: TypeAlias = Mapping[str, bool | None]
"""What a server says of each of its tools: whether it only reads."""


def reading(name: str, marks: Marks) -> list[str]:
    """The tools that may run with read access, where the user has no rules."""
    entry = ServerConfig(name, "stdio", command="npx", args=(SERVERS[name].package,))
    policy = Policy("read", preset_rules([entry]))
    return [tool for tool, mark in marks.items() if policy.may_run(ServerTool(name, tool, read_only=mark))]


def recorded() -> dict[str, Marks]:
    """The tools of every server, as they were noted last."""
    found: dict[str, Marks] = json.loads(TOOLS.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """The whole page."""
    marks = recorded()
    return _HEAD + "".join(f"{_row(name, server, marks[name])}\n" for name, server in SERVERS.items())


def _row(name: str, server: Server, marks: Marks) -> str:
    tried = ", ".join([*(["reads"] if server.reads else []), *(["writes"] if server.writes else [])])
    known = " ".join(filter(None, [server.about, *_partly(server.package)]))
    sandbox = _SANDBOX.get(server.sandbox, f"`{server.sandbox}`")
    cells = [f"`{server.package}`", f"{len(reading(name, marks))}/{len(marks)}", tried or "list", sandbox, known]
    return f"| {' | '.join(map(str, cells))} |"


def _partly(package: str) -> Iterator[str]:
    """Which tools read or write, depending on an argument."""
    preset = PRESETS.get(package)
    if preset is None:
        return
    if preset.only_if:
        named = ", ".join(f"`{tool}` (by `{argument}`)" for tool, (argument, _) in preset.only_if.items())
        yield f"Only some calls read: {named}."
    if preset.writes or preset.writes_if:
        some = (f"some calls of `{tool}` (by `{argument}`)" for tool, (argument, _) in preset.writes_if.items())
        yield f"Marked as reading, but writing: {', '.join([*(f'`{tool}`' for tool in preset.writes), *some])}."


async def record() -> None:
    """Start every server and note its tools."""
    noted = {}
    for name, server in SERVERS.items():
        with tempfile.TemporaryDirectory() as folder:
            project = Path(folder) / "project"
            server.prepare(project)
            entry = server.entry(project, "http://127.0.0.1:9")
            config = ServerConfig(name, "stdio", command=entry["command"], args=tuple(entry["args"]), env=entry["env"])
            environ = {**os.environ, "HOME": folder}
            async with open_test_pool(project, environ=environ, start_timeout=_START_LIMIT) as pool:
                noted[name] = {tool.name: tool.read_only for tool in await pool.open_server(config)}
        print(f"{name}: {len(noted[name])} tools", flush=True)
    rows = (f"{json.dumps(name)}: {json.dumps(marks)}" for name, marks in noted.items())
    TOOLS.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m scripts.tools.servers_page", description=__doc__)
    parser.add_argument("--record", action="store_true", help="start every server and note its tools")
    if parser.parse_args().record:
        anyio.run(record)
    PAGE.write_text(page(), encoding="utf-8")
