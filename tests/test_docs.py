"""The documents say what the code does."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from lmstudio_bridge.cli import build_parser
from lmstudio_bridge.events import Outcome, Stop
from lmstudio_bridge.report import RunReport
from lmstudio_bridge.server import build_server
from lmstudio_bridge.settings import read_settings
from tests import settings_page, tools_page

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

OTHERS = {
    # the system's
    "NO_COLOR",
    "HTTPS_PROXY",
    "NO_PROXY",
    "XDG_CONFIG_HOME",
    # Claude Code's
    "CLAUDE_CONFIG_DIR",
    "MCP_TIMEOUT",
    "MCP_TOOL_TIMEOUT",
    "CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT",
    "CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS",
    # LiteLLM's
    "LITELLM_MASTER_KEY",
    # A place for what the reader puts there
    "RUN_ID",
}
"""Names in capitals that the documents have from elsewhere."""


def spans(name: str) -> list[str]:
    """What stands between backticks in a document."""
    return re.findall(r"`([^`\n]+)`", read(name))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_page_of_settings_is_what_settings_say() -> None:
    """Where it is not: `python -m tests.settings_page`."""
    assert read("docs/settings.md") == settings_page.page()


async def test_page_of_tools_is_what_the_server_lists() -> None:
    """Where it is not: `python -m tests.tools_page`."""
    assert read("docs/tools.md") == await tools_page.page()


def test_every_key_of_the_report_is_told() -> None:
    outcome = Outcome("answered", "It is heron-42.", "tiny")
    assert list(tools_page.REPORT_KEYS) == list(RunReport("r1", outcome, ("fs",)).structure())
    assert all(f"`{stop}`" in tools_page.REPORT_KEYS["stop"] for stop in get_args(Stop))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_that_is_named_is_a_setting(name: str) -> None:
    known = {"LMSTUDIO_HOST", "LMSTUDIO_PORT", *OTHERS, *settings_page.variables()}
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", "\n".join(spans(name))))
    assert named - known == set()


def test_the_scripts_that_the_readme_names_are_there_and_executable() -> None:
    named = set(re.findall(r"^(scripts/\w+)", read("README.md"), flags=re.MULTILINE))
    assert named == {"scripts/demo", "scripts/test"}
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o111


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_shell_commands_are_ones_that_a_shell_and_our_parser_take(name: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", read(name), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)
    lines = [line for block in blocks for line in block.splitlines()]
    for line in (*lines, *(span for span in spans(name) if span.startswith("claude mcp add ") and " -- " in span)):
        words = shlex.split(line, comments=True)
        if words[:2] == ["claude", "mcp"] and words[2] == "add":
            words = words[words.index("--") + 1 :]  # what Claude Code will start
            assert words[:2] == ["uvx", "lmstudio-bridge"], line
        elif words[:2] == ["claude", "mcp"] and words[2] == "add-json":
            entry = json.loads(words[-1])
            words = [entry["command"], *entry["args"]]
            assert words[:2] == ["uvx", "lmstudio-bridge"], line
        words = words[1:] if words[:1] == ["uvx"] else words
        words = words[: words.index(">")] if ">" in words else words
        if words[:1] == ["lmstudio-bridge"] and words[1:] != ["--version"]:
            build_parser().parse_args(words[1:])  # exits if it does not understand


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_json_in_the_documents_is_json(name: str) -> None:
    for block in re.findall(r"^```json\n(.*?)^```", read(name), flags=re.MULTILINE | re.DOTALL):
        json.loads(block)


def test_the_permission_rules_name_tools_that_there_are() -> None:
    async def names() -> set[str]:
        settings = read_settings({}, cwd=ROOT)
        return {tool.name for tool in await build_server(settings, environ={}).list_tools()}

    named = set(re.findall(r"mcp__lmstudio-bridge__(\w+)", read("docs/claude-code.md")))
    assert named
    assert named <= asyncio.run(names())
