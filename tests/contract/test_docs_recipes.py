"""docs/recipes.md: every command line is run by a shell, with the servers and files that the page gives."""

from __future__ import annotations

import asyncio
import json
import re
import sys

import pytest

from tests.lmstudio_sim.replies import TextReply
from tests.lmstudio_sim.server import Simulator
from tests.support.npm_servers import npm_server
from tests.support.shell import LIMIT, MODEL, ROOT, Shell
from tests.support.terminal import write_script

pytestmark = pytest.mark.npm

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
ANSWER = '{"todos": [{"file": "src/a.py", "text": "count the herons"}]}'
"""One that fits the schema of the page; the other recipes take any text."""


@pytest.fixture
def kitchen(shell: Shell) -> Shell:
    """A project with what the recipes name, and commands that start the bridge and the servers from npm."""
    folder = shell.folder
    servers, saved = re.findall(r"^(?:Save this as `(.+?)`:\n\n)?```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, text in ((".mcp.json", servers[1]), saved):
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("src/a.py", "docs/one.md", "docs/two.md", "notes/meeting.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("# TODO: count the herons\n", encoding="utf-8")
    write_script(folder / "bin" / "lmstudio-bridge", f'#!/bin/sh\nexec "{sys.executable}" -m lmstudio_bridge "$@"\n')
    node, script = npm_server("filesystem")
    start = f'#!/bin/sh\nname=${{2#@modelcontextprotocol/server-}}\nshift 2\nexec {node} "{script}" "$@"\n'
    write_script(folder / "bin" / "npx", start.replace("server-filesystem", "server-$name"))
    return Shell(
        folder, {**shell.environ, "PATH": f"{folder / 'bin'}:{shell.environ['PATH']}", "LM_API_TOKEN": "sk-lm-1"}
    )


async def test_every_recipe_runs(kitchen: Shell, sim: Simulator) -> None:
    sim.script(MODEL, *[TextReply(ANSWER)] * 20)
    for block in BLOCKS:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-e", "-c", block),
            cwd=kitchen.folder,
            env=dict(kitchen.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(LIMIT):
            _, err = await process.communicate()
        # The scripted model changes nothing: where the task plainly asks for a change, `run` says so with 1.
        expected = 1 if "--access write" in block else 0
        assert process.returncode == expected, f"{block}\n{err.decode()}"

    runs = list((kitchen.folder / "home" / "runs").glob("*.jsonl"))
    files = list((kitchen.folder / "docs").glob("*.md"))
    items = PAGE.count("--for-each ") * len(files)
    assert len(runs) == PAGE.count("lmstudio-bridge run ") + items + PAGE.count("--combine ")
    for name in ("summaries.txt", "summaries.csv"):
        text = (kitchen.folder / name).read_text(encoding="utf-8")
        assert [f"docs/{file}.md" in text for file in ("one", "two")] == [True, True]
    found = json.loads((kitchen.folder / "found.json").read_text(encoding="utf-8"))
    assert json.loads(found["answer"]) == json.loads(ANSWER)
