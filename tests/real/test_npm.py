"""The servers that people really use, from npm; `scripts/setup` installs them below tests/node_modules."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lmstudio_bridge.messages import ServerConfig, ToolResult
from tests.support.npm_servers import npm_server
from tests.unit.mcp_client.pools import open_test_pool

pytestmark = pytest.mark.npm


def configure_npm(name: str, *args: str, **env: str) -> ServerConfig:
    command, *rest = npm_server(name)
    return ServerConfig(name, "stdio", command=command, args=(*rest, *args), env=env)


async def test_filesystem_server_reads_and_writes_below_its_folder(tmp_path: Path) -> None:
    config = configure_npm("filesystem", str(tmp_path))
    path = str(tmp_path / "note.txt")
    async with open_test_pool(tmp_path) as pool:
        tools = {tool.name: tool for tool in await pool.open_server(config)}
        written = await pool.call_tool(config.name, "write_file", {"path": path, "content": "true\n"})
        read = await pool.call_tool(config.name, "read_text_file", {"path": path})
        outside = await pool.call_tool(config.name, "read_text_file", {"path": "/etc/hostname"})
        invalid = await pool.call_tool(config.name, "read_text_file", {"path": 3})

    assert not written.is_error
    assert read == ToolResult("true\n")
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "true\n"
    assert outside.is_error
    assert invalid.is_error
    assert tools["read_text_file"].read_only is True
    assert tools["write_file"].read_only is False


async def test_memory_server_keeps_its_state_between_calls(tmp_path: Path) -> None:
    config = configure_npm("memory", MEMORY_FILE_PATH=str(tmp_path / "memory.json"))
    entity = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}
    async with open_test_pool(tmp_path) as pool:
        await pool.open_server(config)
        await pool.call_tool(config.name, "create_entities", {"entities": [entity]})
        graph = await pool.call_tool(config.name, "read_graph", {})

    assert json.loads(graph.text)["entities"] == [entity]


async def test_everything_server_shows_all_kinds_of_content(tmp_path: Path) -> None:
    config = configure_npm("everything")
    told: list[str] = []

    async def on_progress(text: str) -> None:
        told.append(text)

    async with open_test_pool(tmp_path) as pool:
        names = [tool.name for tool in await pool.open_server(config)]
        echo, image, linked, total, long = await asyncio.gather(
            pool.call_tool(config.name, "echo", {"message": "hello"}),
            pool.call_tool(config.name, "get-tiny-image", {}),
            pool.call_tool(config.name, "get-resource-links", {"count": 2}),
            pool.call_tool(config.name, "get-sum", {"a": 2, "b": 3}),
            pool.call_tool(
                config.name,
                "trigger-long-running-operation",
                {"duration": 0.5, "steps": 2},
                on_progress=on_progress,
            ),
        )

    assert "echo" in names
    assert echo == ToolResult("Echo: hello")
    assert "[image: image/png, " in image.text
    assert [one.mime_type for one in image.images] == ["image/png"]
    assert linked.text.count("[resource: ") == 2
    assert "5" in total.text
    assert not long.is_error
    assert told[:1] == ["1/2"]
