"""The plugin for Claude Code: in the documented layout, and true to the tools that it speaks of."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge import __version__
from lmstudio_bridge.server.tools import build_server
from lmstudio_bridge.settings import read_settings

PLUGIN = Path(__file__).parents[3] / "plugin"
SKILL = PLUGIN / "skills" / "delegate-to-local-model" / "SKILL.md"
SERVERS = {"lmstudio-bridge", "plugin:lmstudio-bridge:lmstudio-bridge"}  # as Claude Code names them
WORKER = PLUGIN / "agents" / "local-worker.md"
TEXTS = [SKILL, WORKER, *sorted((PLUGIN / "commands").glob("*.md"))]


def read_json(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((PLUGIN / name).read_text(encoding="utf-8"))
    return value


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def front_matter(path: Path) -> dict[str, str]:
    """The lines `key: value` between the two rules at a file's beginning."""
    head = text_of(path).split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines())


def test_manifest_has_the_version_of_the_package() -> None:
    manifest = read_json(".claude-plugin/plugin.json")

    assert (manifest["name"], manifest["version"]) == ("lmstudio-bridge", __version__)


def test_marketplace_offers_the_plugin_that_stands_beside_it() -> None:
    [entry] = read_json(".claude-plugin/marketplace.json")["plugins"]

    assert entry["name"] == read_json(".claude-plugin/plugin.json")["name"]
    assert (PLUGIN / entry["source"] / ".claude-plugin" / "plugin.json").is_file()


def test_documents_name_the_plugin_as_the_marketplace_does() -> None:
    market = read_json(".claude-plugin/marketplace.json")
    [plugin] = market["plugins"]
    [server] = read_json(".mcp.json")["mcpServers"]

    page = (PLUGIN.parent / "docs" / "claude-code.md").read_text(encoding="utf-8")
    assert f"\nclaude plugin install {plugin['name']}@{market['name']}\n" in page
    assert f"`mcp__plugin_{plugin['name']}_{server}__autonomous_with_mcp`" in page


def test_every_option_that_is_asked_for_reaches_the_server_and_none_is_needed() -> None:
    options = read_json(".claude-plugin/plugin.json")["userConfig"]
    environ = read_json(".mcp.json")["mcpServers"]["lmstudio-bridge"]["env"]

    assert set(environ.values()) == {f"${{user_config.{name}}}" for name in options}
    assert not any(option.get("required") for option in options.values())
    left_out = {"HOME": "/home/me", **dict.fromkeys(environ, "")}  # as Claude Code 2.1.332 gives them
    assert read_settings(left_out, cwd=PLUGIN) == read_settings({"HOME": "/home/me"}, cwd=PLUGIN)


def test_troubleshooting_has_what_claude_code_does_after_a_crash_and_a_failed_start() -> None:
    page = (PLUGIN.parent / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

    assert re.search(r"has disconnected.*/mcp.*Reconnect", page)
    assert re.search(r"plugin.*first start failed.*15 minutes", page)


def test_server_is_started_as_the_readme_says() -> None:
    entry = read_json(".mcp.json")["mcpServers"]["lmstudio-bridge"]

    readme = (PLUGIN.parent / "README.md").read_text(encoding="utf-8")
    assert entry["command"] == "uvx"
    assert f"\nuv tool install {entry['args'][1]}\n" in readme


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_text_says_when_to_use_it(path: Path) -> None:
    assert len(front_matter(path)["description"]) > 20


def test_skill_is_named_after_its_folder() -> None:
    assert front_matter(SKILL)["name"] == SKILL.parent.name


async def test_the_agent_has_the_tools_of_the_bridge_and_no_others(tmp_path: Path) -> None:
    server = build_server(read_settings({"CLAUDE_PROJECT_DIR": str(tmp_path)}, cwd=tmp_path), environ=os.environ)
    names = {f"mcp__plugin_lmstudio-bridge_lmstudio-bridge__{tool.name}" for tool in await server.list_tools()}

    assert front_matter(WORKER)["name"] == WORKER.stem
    assert set(front_matter(WORKER)["tools"].split(", ")) == names


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
async def test_every_tool_and_argument_that_is_named_exists(path: Path, tmp_path: Path) -> None:
    server = build_server(read_settings({"CLAUDE_PROJECT_DIR": str(tmp_path)}, cwd=tmp_path), environ=os.environ)
    tools = await server.list_tools()
    known = {tool.name for tool in tools} | {name for tool in tools for name in tool.input_schema["properties"]}
    known |= {front_matter(SKILL)["name"], "lmstudio://runs", "lmstudio://runs/<run id>", *SERVERS}

    named = re.findall(r"`([^`\n]+)`", text_of(path))

    assert set(named) <= known
