"""Somebody new follows docs/quick-start.md, line by line, in a home folder with nothing in it and a real terminal.

In the place of what is not there: a simulator is LM Studio, and `claude`, `uvx` and `npx` are scripts that do for these
lines what the real ones do, without a network.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.test_install import FAKE_CLAUDE
from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.lmstudio_sim.server import Simulator
from tests.support.npm_servers import npm_server
from tests.support.shell import MODEL, ROOT
from tests.support.terminal import missing, type_line, write_script

pytestmark = pytest.mark.npm

ANSWER = "It counts the herons of a lake."
COMMANDS = ("install", "doctor", "run", "runs", "runs")


@dataclass(frozen=True)
class Step:
    """One block of command lines, and what the page says that one sees of the last of them."""

    lines: tuple[str, ...]
    seen: tuple[str, ...]


def steps(page: str) -> Iterator[Step]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for place, (kind, body) in enumerate(blocks):
        if kind == "sh":
            after = blocks[place + 1] if place + 1 < len(blocks) else ("", "")
            yield Step(tuple(body.splitlines()), tuple(after[1].splitlines()) if after[0] == "text" else ())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with one project, and the scripts that stand for what would come from a network."""
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    text = "A program that counts the herons of a lake.\n" * 300  # enough to save something
    (home / "project" / "README.md").write_text(text, encoding="utf-8")
    write_script(tmp_path / "bin" / "claude", FAKE_CLAUDE)
    write_script(tmp_path / "bin" / "uv", "#!/bin/sh\n")
    write_script(tmp_path / "bin" / "uvx", '#!/bin/sh\n[ "$1" = --from ] && shift 2\nexec "$@"\n')
    bridge = f'#!/bin/sh\nexec "{sys.executable}" -m lmstudio_bridge "$@"\n'
    write_script(tmp_path / "bin" / "lmstudio-bridge", bridge)
    node, server = npm_server("filesystem")
    write_script(tmp_path / "bin" / "npx", f'#!/bin/sh\nshift 2\nexec {node} "{server}" "$@"\n')
    return home


def environ_of(home: Path, url: str) -> dict[str, str]:
    """The environment of a shell in that home folder, where LM Studio has that address."""
    node = Path(shutil.which("node") or "").parent
    return {
        "PATH": os.pathsep.join([str(home.parent / "bin"), str(node), os.defpath]),
        "HOME": str(home),
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "CLAUDE_LOG": str(home.parent / "log"),
        "LMSTUDIO_BASE_URL": url,
    }


async def test_quick_start_does_what_it_says(home: Path, sim: Simulator) -> None:
    project, claude_file = home / "project", home / ".claude.json"
    sim.script(MODEL, CallReply(("filesystem__read_text_file", {"path": "README.md"})), TextReply(ANSWER))
    environ = environ_of(home, sim.url)
    commands, registered = [], False
    for step in steps("docs/quick-start.md"):
        shown = ""
        for line in step.lines:
            code, shown = await asyncio.to_thread(type_line, line, folder=project, environ=environ)
            assert code == 0, f"{line}\n{shown}"
            commands.append(" ".join(line.split()[: 2 if line.startswith("lm") else 3]))
            registered |= claude_file.exists() and "lmstudio-bridge" in claude_file.read_text(encoding="utf-8")
        assert not missing(step.seen, shown), f"{step.lines[-1]}\n{shown}"
    uninstall = next(steps("docs/uninstall.md")).lines[0]
    assert (await asyncio.to_thread(type_line, uninstall, folder=project, environ=environ))[0] == 0

    assert commands == ["claude mcp add", "uv tool install", *("lmstudio-bridge " + name for name in COMMANDS)]
    assert ANSWER in (project / "run.html").read_text(encoding="utf-8")
    assert registered
    assert list(json.loads(claude_file.read_text(encoding="utf-8"))["mcpServers"]) == ["filesystem"]


async def test_first_lines_of_the_readme_do_what_it_says(home: Path, sim: Simulator) -> None:
    sim.script(MODEL, CallReply(("filesystem__read_text_file", {"path": "README.md"})), TextReply(ANSWER))

    shown = ""
    for line in next(steps("README.md")).lines:
        code, shown = await asyncio.to_thread(
            type_line, line, folder=home / "project", environ=environ_of(home, sim.url)
        )
        assert code == 0, f"{line}\n{shown}"

    assert ANSWER in shown


@pytest.mark.parametrize(
    ("seen", "first_missing"),
    [((), ""), (("a … c",), ""), (("d",), ""), (("d", "a"), "a"), (("a … d",), "a … d"), (("b.",), "b.")],
)
def test_what_is_seen_is_looked_for_line_by_line_and_in_order(seen: tuple[str, ...], first_missing: str) -> None:
    assert missing(seen, "a b c\nd e\n") == first_missing
