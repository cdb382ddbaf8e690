"""The main job with a real model: a real engine, the real filesystem server, the bridge as a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmstudio_bridge.events import CallFinished
from lmstudio_bridge.runs.journal import read_events
from scripts.tools.engine.cache import Way, measure
from scripts.tools.engine.server import TEMPLATES, open_engine
from scripts.tools.engine.weights import MODELS, fetch_and_show
from tests.support.npm_servers import config_entry, npm_server
from tests.support.raw_client import open_raw_client

pytestmark = [pytest.mark.engine, pytest.mark.npm]

CODE_WORD = "osprey-6174"


async def test_a_run_makes_the_engine_read_nothing_twice() -> None:
    """At most a tenth more than the longest prompt, which a conversation that is only appended to comes to."""
    weights = MODELS["qwen2.5-coder-0.5b"]
    gguf = fetch_and_show(weights)
    ways: tuple[Way, ...] = ("native", "grammar")

    async with open_engine(gguf, alias=weights.name, chat_template=TEMPLATES / "bare_json.jinja") as engine:
        costs = [await measure(way, url=engine.url, model=weights.name, calls=2, words=40) for way in ways]

    assert [len(cost.requests) for cost in costs] == [3, 3]
    assert [cost.evaluated <= 1.1 * cost.longest for cost in costs] == [True, True], costs


async def test_a_real_model_reads_a_real_file_and_answers_with_what_only_the_file_holds(tmp_path: Path) -> None:
    weights = MODELS["qwen2.5-coder-0.5b"]
    gguf = fetch_and_show(weights)
    template = TEMPLATES / weights.template if weights.template else None
    project = tmp_path / "project"
    project.mkdir()
    notes = project / "notes.txt"
    notes.write_text(f"Minutes of the meeting.\nThe launch code word is {CODE_WORD}.\n", encoding="utf-8")
    servers = {"filesystem": config_entry(npm_server("filesystem"), str(project))}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    # The engine takes seconds for the definition of each tool.
    hidden = ["filesystem/read_m*", "filesystem/read_file", "filesystem/list_*_*", "filesystem/directory_tree"]
    (project / "lmstudio-bridge.toml").write_text(f"hide = {json.dumps(hidden)}\n", encoding="utf-8")

    async with open_engine(gguf, alias=weights.name, chat_template=template) as engine:
        environ = {
            "LMSTUDIO_BASE_URL": engine.url,
            "CLAUDE_PROJECT_DIR": str(project),
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(project / ".mcp.json"),
            "LMSTUDIO_BRIDGE_HOME": str(tmp_path / "home"),
        }
        async with open_raw_client(era="2026-07-28", environ=environ, answer_limit=600) as client:
            answer = await client.call(
                "autonomous_with_mcp",
                mcp_name="filesystem",
                task=f"Read the file {notes} and tell me the launch code word that it names.",
                max_rounds=6,
            )

    assert CODE_WORD in answer.text, answer.text
    assert not answer.is_error
    (journal,) = (tmp_path / "home" / "runs").glob("*.jsonl")
    read = [event for event in read_events(journal) if isinstance(event, CallFinished) and event.sent]
    assert any(CODE_WORD in event.text and not event.is_error for event in read)
