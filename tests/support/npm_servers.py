"""Where the real MCP servers from npm are, once `scripts/setup` has installed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parents[1] / "node_modules" / "@modelcontextprotocol"


def npm_server(name: str) -> list[str]:
    """The command line that starts `@modelcontextprotocol/server-<name>`."""
    package = _PACKAGES / f"server-{name}"
    assert package.is_dir(), f"{package} is missing: run scripts/setup"
    manifest: dict[str, Any] = json.loads((package / "package.json").read_text(encoding="utf-8"))
    (script,) = manifest["bin"].values()
    return ["node", str(package / script)]


def config_entry(command: list[str], *args: str, **more: Any) -> dict[str, Any]:
    """An entry of `.mcp.json` for this command line."""
    return {"command": command[0], "args": [*command[1:], *args], **more}
