"""Makes docs/pictures: what real commands show in a real terminal, and the page of a run in Chromium.

A simulator stands in for LM Studio, at its own port, so that address and model look as they do for a user. The only
words that are changed are the temporary home folder and the name of the kernel.
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
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, StreamOptions, TextReply
from tests.lmstudio_sim.server import open_simulator
from tests.support.npm_servers import npm_server

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
MODEL = "qwen/qwen3-4b"
COLUMNS, ROWS = 118, 48
LIMIT = 60.0  # seconds for one command, or one picture
PAGE_SIZE = (900, 1040)  # pixels of the window in which the page of a run is shown
TASK = "Which birds were counted on more than one day, according to the files in notes/?"
ANSWER = (
    "Two birds were counted on more than one day:\n\n"
    "- grey heron: Monday (7), Tuesday (4), Wednesday (9)\n"
    "- kingfisher: Monday (1), Wednesday (2)"
)
PACE = StreamOptions(fragment_chars=4, argument_fragment_chars=4, token_delay_seconds=0.04)
COUNTS = {
    "monday": "grey heron 7, kingfisher 1",
    "tuesday": "grey heron 4, coot 12",
    "wednesday": "grey heron 9, kingfisher 2",
}


def make_home(home: Path) -> None:
    """A home folder with the bridge and one MCP server in Claude Code, and a project with three files of notes."""
    notes = home / "birds" / "notes"
    notes.mkdir(parents=True)
    for day, counts in COUNTS.items():
        weather = (
            "".join(f"{hour:02}:00  cloud {hour % 8}/8, wind {hour % 5}, water calm\n" for hour in range(5, 22)) * 8
        )
        (notes / f"{day}.md").write_text(f"# {day.title()}\n\nCounted: {counts}.\n\n{weather}", encoding="utf-8")
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
            subprocess.run([*tmux, *step], env=environ, check=True, timeout=LIMIT)
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


async def make_pictures(home: Path) -> None:
    """All of them."""
    project = home / "birds"
    environ = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environ |= {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
    model = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=True)
    paths = {"list_directory": ["notes"], "read_text_file": [f"notes/{day}.md" for day in COUNTS]}
    calls = [(f"filesystem__{tool}", {"path": path}) for tool, given in paths.items() for path in given]
    async with open_simulator([model], port=DEFAULT_PORT) as sim:
        sim.script(MODEL, *(CallReply(call, stream=PACE) for call in calls), TextReply(ANSWER, stream=PACE))
        for name, command in {
            "doctor": "lmstudio-bridge doctor",
            "run": f'lmstudio-bridge run "{TASK}" --mcp filesystem',
        }.items():
            screen = await asyncio.to_thread(show_in_terminal, command, folder=project, environ=environ)
            screen = re.sub(r"; Linux-\S+", "", screen.replace(str(home), "/home/ana"))
            drawing = home / f"{name}.svg"
            drawing.write_text(svg := draw_terminal(screen, title=command.partition(' "')[0]), encoding="utf-8")
            found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
            assert found
            photograph(drawing, size=(round(float(found[1])), round(float(found[2]))), picture=PICTURES / f"{name}.png")
    page = home / "run.html"
    command_line = ["lmstudio-bridge", "runs", "show", "last", "--html", str(page)]
    run_page = partial(subprocess.run, cwd=project, env=environ, check=True, timeout=LIMIT, stdout=subprocess.DEVNULL)
    await asyncio.to_thread(run_page, command_line)
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
