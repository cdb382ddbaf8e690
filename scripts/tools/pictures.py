"""Makes docs/pictures: what real commands show in a real terminal, and the page of a run in Chromium.

The run is one of a real model in a real engine. For `doctor` a simulator stands in for LM Studio, at its own port, so
that address and model look as they do for a user. The only words that are changed are the temporary home folder and the
name of the kernel.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lmstudio_bridge.settings import DEFAULT_PORT
from scripts.tools.engine.demo import FILES, SLOTS, TASK, write_notes
from scripts.tools.engine.server import open_engine
from scripts.tools.engine.weights import MODELS, fetch_and_show
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.server import open_simulator
from tests.support.npm_servers import npm_server

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
MODEL = "qwen/qwen3-4b"
COLUMNS, ROWS = 118, 48
LIMIT = 60.0  # seconds for one command, or one picture
RUN_LIMIT = 1_800.0  # seconds for a command that waits for a model
PAGE_SIZE = (900, 640)  # pixels of the window in which the page of a run is shown
WEIGHTS = "qwen2.5-coder-1.5b"
NUMBERS = ("2400", "7350", "1180", "3000", "1260")
RUN = f'lmstudio-bridge run "{TASK}" --for-each "{FILES}" --mcp filesystem'


def make_home(home: Path) -> None:
    """A home folder with the bridge and one MCP server in Claude Code, and a project with the minutes of a week."""
    (home / "team").mkdir(parents=True)
    write_notes(home / "team", NUMBERS)
    servers = {
        "filesystem": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "."]},
        "lmstudio-bridge": {"command": "uvx", "args": ["lmstudio-bridge"], "alwaysLoad": True},
    }
    (home / ".claude.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    node, server = npm_server("filesystem")
    scripts = {
        "npx": f'shift 2\nexec {node} "{server}" "$@"\n',
        "uvx": f'shift\nexec "{sys.executable}" -m lmstudio_bridge "$@"\n',
        "lmstudio-bridge": f'exec "{sys.executable}" -m lmstudio_bridge "$@"\n',
    }
    (home / "bin").mkdir()
    for name, body in scripts.items():
        (home / "bin" / name).write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
        (home / "bin" / name).chmod(0o755)


def show_in_terminal(command: str, *, folder: Path, environ: Mapping[str, str]) -> str:
    """What stands on the screen when the command has ended, in whole lines, with its colours as terminal codes."""
    tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(folder.parent / "tmux")]
    script = f"printf '\\033[1m$ %s\\033[0m\\n' {shlex.quote(command)}; {command}; tmux wait-for -S done; exec cat"
    size = ("-x", str(COLUMNS), "-y", str(ROWS))
    try:
        for step in (
            ["new-session", "-d", *size, "-c", str(folder), f"sh -c {shlex.quote(script)}"],
            ["wait-for", "done"],
        ):
            subprocess.run([*tmux, *step], env=environ, check=True, timeout=RUN_LIMIT)
        done = subprocess.run(
            [*tmux, "capture-pane", "-e", "-p", "-J"], env=environ, check=True, timeout=LIMIT, stdout=-1
        )
    finally:
        subprocess.run([*tmux, "kill-server"], env=environ, check=False, timeout=LIMIT)
    return "\n".join(line.rstrip() for line in done.stdout.decode().rstrip().splitlines())


def draw_terminal(screen: str, *, title: str) -> str:
    """The screen as SVG, without the web font that rich would fetch."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen))
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)


def photograph(page: Path, *, size: tuple[int, int], picture: Path) -> None:
    """What Chromium shows of the page in a window of that size."""
    names = (os.environ.get("CHROMIUM", "chromium"), "google-chrome")
    chromium = next((found for name in names if (found := shutil.which(name))), None)
    assert chromium, "there is no Chromium: run scripts/browser"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"]
    options += [f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run([chromium, *options], check=True, timeout=LIMIT, stderr=subprocess.DEVNULL)


def make_picture(name: str, command: str, *, home: Path, environ: Mapping[str, str]) -> None:
    """A picture of a command, with what it shows."""
    screen = show_in_terminal(command, folder=home / "team", environ=environ)
    screen = re.sub(r";\s+Linux-\S+", "", screen.replace(str(home), "/home/ana")) + "\n"
    drawing = home / f"{name}.svg"
    drawing.write_text(svg := draw_terminal(screen, title=" ".join(command.split()[:2])), encoding="utf-8")
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found
    photograph(drawing, size=(round(float(found[1])), round(float(found[2]))), picture=PICTURES / f"{name}.png")


async def make_pictures(home: Path) -> None:
    """All of them."""
    environ = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environ |= {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    async with open_simulator([model], port=DEFAULT_PORT):
        await asyncio.to_thread(make_picture, "doctor", "lmstudio-bridge doctor", home=home, environ=environ)
    weights = MODELS[WEIGHTS]
    async with open_engine(fetch_and_show(weights), alias=weights.name, parallel=SLOTS) as engine:
        environ |= {"LMSTUDIO_BASE_URL": engine.url, "LMSTUDIO_BRIDGE_PARALLEL": str(SLOTS)}
        environ |= {"LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT": str(RUN_LIMIT)}  # on a busy machine
        await asyncio.to_thread(make_picture, "run", RUN, home=home, environ=environ)
    page = home / "run.html"
    command_line = ["lmstudio-bridge", "runs", "show", "last", "--html", str(page)]
    run_page = partial(subprocess.run, cwd=home, env=environ, check=True, timeout=LIMIT, stdout=subprocess.DEVNULL)
    await asyncio.to_thread(run_page, command_line)
    page.write_text(page.read_text(encoding="utf-8").replace(str(home), "/home/ana"), encoding="utf-8")
    photograph(page, size=PAGE_SIZE, picture=PICTURES / "run-page.png")


def main() -> None:
    """Make them, and say how large they are."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="home-") as name:
        home = Path(name).resolve()
        make_home(home)
        asyncio.run(make_pictures(home))
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
