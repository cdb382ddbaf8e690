"""A task from start to end with nothing but this checkout: a real model, a real MCP server, the bridge between them.

`scripts/demo` runs it. Exit codes: 0 the answer holds most of the facts that only the files have, 1 it does not,
2 the real model could not be had and the scripted one was used in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from scripts.tools.engine.server import (
    CHECKOUT,
    TEMPLATES,
    EngineError,
    check_engine_package,
    open_engine,
    read_first_line,
    stop_process,
)
from scripts.tools.engine.weights import MODELS, WeightsError, cache_root, fetch_and_show

FILESYSTEM_SERVER = "@modelcontextprotocol/server-filesystem"
FILESYSTEM_VERSION = "2026.8.31"
NPM_SECONDS = 300.0
CALL_SECONDS = 600.0
"""Bound on the whole delegated task; with the default model it takes 10 to 60 s on two cores."""

SIMULATOR_START_SECONDS = 30.0
PAGE_SECONDS = 60.0
TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "NO_COLOR", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT")
"""Variables that say what the terminal can show."""

DECISIONS = {
    "monday": "order {} test kits",
    "tuesday": "pay {} euros for the website",
    "wednesday": "invite {} customers",
    "thursday": "print {} posters",
    "friday": "rent {} square metres of office space",
}
PEOPLE = ("Ana", "Bo", "Chen", "Dilip", "Eva", "Farid")
TOPICS = ("the budget", "the new office", "the supplier", "the road map", "the website", "the customer survey")
VERBS = ("reported on", "asked about", "presented figures for", "had doubts about", "proposed to postpone")
MINUTES = 30  # lines of one meeting
FILES = "notes/*.md"
TASK = "Read {item} and say which decision it records."
SLOTS = 2  # of the engine, unless it is opened with more

SCRIPTED_MODEL = "scripted-model"


class DemoError(Exception):
    """The demo can't go on; `remedy` says what to do."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class RealModel:
    """A GGUF file and the prompt template with which it calls tools (None: the template inside the file)."""

    name: str
    gguf: Path
    chat_template: Path | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A project folder with minutes of meetings, each with a decision; `numbers` were made up for this run."""

    folder: Path
    numbers: tuple[str, ...]

    @property
    def notes(self) -> list[Path]:
        return [self.folder / "notes" / f"{day}.md" for day in sorted(DECISIONS)]

    def found_in(self, text: str) -> list[str]:
        """The numbers that the text holds, with or without separators."""
        plain = re.sub(r"(?<=\d)[,. ](?=\d)", "", text)
        return [number for number in self.numbers if number in plain]


def main() -> int:
    options = parse_options()
    try:
        server = install_filesystem_server(cache_root() / "servers")
        model = None if options.simulator else find_model(options)
        with make_sample(server) as sample:
            if model is not None:
                return anyio.run(run_with_engine, sample, model)
            done = anyio.run(run_with_simulator, sample)
            return done if options.simulator else done or 2
    except (DemoError, EngineError) as exc:
        print(f"\n{exc}\n{exc.remedy}", file=sys.stderr)
        return 1


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0])
    callers = sorted(name for name, model in MODELS.items() if model.template is not None)
    parser.add_argument("--model", choices=callers, default=callers[0], help="fetched once (default: %(default)s)")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="a model file of your own instead")
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="jinja, for --gguf; else the model's own one"
    )
    parser.add_argument("--simulator", action="store_true", help="no real model: a script that stands in for LM Studio")
    return parser.parse_args(arguments)


def find_model(options: argparse.Namespace) -> RealModel | None:
    """The model that was asked for, fetched if needed; None, with the reason printed, if it can't be had here.

    Raises:
        DemoError: the user's own file isn't there.
    """
    if options.gguf is not None and not options.gguf.is_file():
        raise DemoError(f"there is no file {options.gguf}", remedy="give the path of a GGUF model file")
    try:
        check_engine_package()
        if options.gguf is not None:
            return RealModel(options.gguf.stem, options.gguf, options.chat_template)
        weights = MODELS[options.model]
        say(f"Model: {weights.name}, {weights.size / 1e6:.0f} MB, kept in {cache_root() / 'models'}")
        gguf = fetch_and_show(weights)
        return RealModel(weights.name, gguf, TEMPLATES / weights.template if weights.template else None)
    except (WeightsError, EngineError) as exc:
        say(f"No real model: {exc} ({exc.remedy}). Going on with the scripted simulator, as with --simulator.")
        return None


def install_filesystem_server(folder: Path) -> Path:
    """The filesystem MCP server's entry file, installed with npm into `folder` unless it is there.

    Raises:
        DemoError: there is no Node.js, or npm failed (with its last words).
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise DemoError(
            "the demo's MCP server needs Node.js, and there is none here", remedy="install Node.js with npm"
        )
    package = folder / "node_modules" / FILESYSTEM_SERVER
    manifest = package / "package.json"
    if not manifest.exists() or json.loads(manifest.read_text(encoding="utf-8"))["version"] != FILESYSTEM_VERSION:
        say(f"MCP server: {FILESYSTEM_SERVER} {FILESYSTEM_VERSION}, installed with npm into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
        command += ["--silent", f"{FILESYSTEM_SERVER}@{FILESYSTEM_VERSION}"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NPM_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise DemoError(f"npm did not end within {NPM_SECONDS:g} s", remedy="check the network, try again") from exc
        if done.returncode != 0 or not manifest.exists():
            last_words = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise DemoError(f"npm could not install {FILESYSTEM_SERVER}: {last_words}", remedy="check npm, try again")
    return package / "dist" / "index.js"


@contextmanager
def make_sample(server: Path) -> Iterator[Sample]:
    """A temporary project with a week of minutes and an .mcp.json that names the filesystem server."""
    with tempfile.TemporaryDirectory(prefix="lmstudio-bridge-demo-") as name:
        folder = Path(name).resolve()  # the server compares real paths, and macOS links its temporary folder
        numbers = tuple(str(secrets.randbelow(9000) + 1000) for _ in DECISIONS)
        write_notes(folder, numbers)
        servers = {"filesystem": {"command": "node", "args": [str(server), str(folder)]}}
        (folder / ".mcp.json").write_text(json.dumps({"mcpServers": servers}, indent=2), encoding="utf-8")
        yield Sample(folder, numbers)


def write_notes(folder: Path, numbers: Sequence[str]) -> None:
    """Below `notes`, the minutes of a week, 2 kB a day; each has a decision with one of the numbers."""
    rng = random.Random(1)
    (folder / "notes").mkdir()
    for (day, decision), number in zip(DECISIONS.items(), numbers, strict=True):
        lines = [
            f"{9 + n // 12}:{n % 12 * 5:02} {rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(TOPICS)}. "
            f"{rng.choice(PEOPLE)} sends details to {rng.choice(PEOPLE)}."
            for n in range(MINUTES)
        ]
        lines.insert(rng.randrange(8, MINUTES - 4), f"Decision: {decision.format(number)}.")
        text = [f"# Minutes of {day.title()}", "", f"Present: {', '.join(PEOPLE)}.", "", *lines, ""]
        (folder / "notes" / f"{day}.md").write_text("\n".join(text), encoding="utf-8")


async def run_with_engine(sample: Sample, model: RealModel) -> int:
    say(f"Engine: llama.cpp's server loads {model.name} …")
    started = time.monotonic()
    async with open_engine(model.gguf, alias=model.name, parallel=SLOTS, chat_template=model.chat_template) as engine:
        say(f"Engine: ready at {engine.url} after {time.monotonic() - started:.1f} s")
        answer = await delegate(sample, engine.url, parallel=SLOTS)
    return check(sample, answer, "The answer has")


async def run_with_simulator(sample: Sample) -> int:
    """The scripted replies can't know the numbers: the check is whether the files' text reached the model."""
    say("SCRIPTED: no real model runs; a simulator of LM Studio sends replies that were written beforehand.")
    record = sample.folder / "requests.jsonl"
    async with open_scripted_model(sample, record) as url:
        await delegate(sample, url, parallel=1)  # the replies are in the order of the files
    return check(sample, await anyio.Path(record).read_text(encoding="utf-8"), "The (scripted) model has got")


def check(sample: Sample, text: str, who: str) -> int:
    """Say how many of the numbers are there; 0 if most are."""
    found, everything = len(sample.found_in(text)), len(sample.numbers)
    say(f"Check: {who} {found} of the {everything} numbers, which appear only in the files.")
    if found < everything:
        say("Small models do err: the larger one errs less (--model qwen2.5-coder-1.5b).")
    return int(found * 2 < everything)


@asynccontextmanager
async def open_scripted_model(sample: Sample, record: Path) -> AsyncIterator[str]:
    """The URL of a simulated LM Studio that reads each file and then answers; `record` has the requests."""
    answer = {"text": "(A scripted answer. With a real model, the decision would stand here.)"}
    calls = [{"calls": [["filesystem__read_text_file", {"path": str(path)}]]} for path in sample.notes]
    replies = [reply for call in calls for reply in (call, answer)]
    script = {
        "models": [{"key": SCRIPTED_MODEL, "loaded": True, "trained_for_tool_use": True}],
        "replies": {"*": replies},
    }
    script_file = anyio.Path(sample.folder) / "script.json"
    await script_file.write_text(json.dumps(script), encoding="utf-8")
    command = [sys.executable, "-m", "tests.lmstudio_sim", "--port", "0"]
    command += ["--script", str(script_file), "--record", str(record)]
    process = await anyio.open_process(command, cwd=CHECKOUT, stderr=None, start_new_session=True)
    try:
        assert process.stdout is not None
        with anyio.fail_after(SIMULATOR_START_SECONDS):
            url = await read_first_line(process.stdout)
        yield url
    finally:
        with anyio.CancelScope(shield=True):
            await stop_process(process)


async def delegate(sample: Sample, url: str, *, parallel: int) -> str:
    """Do what the quick start does: run the task from the shell, with its display, and make the page; the answers."""
    with tempfile.TemporaryDirectory(prefix="lmstudio-bridge-home-") as home:
        environ = {
            **{name: os.environ[name] for name in TERMINAL if name in os.environ},
            "PATH": os.environ.get("PATH", os.defpath),
            "LMSTUDIO_BASE_URL": url,
            "CLAUDE_PROJECT_DIR": str(sample.folder),
            "LMSTUDIO_BRIDGE_MCP_CONFIG": str(sample.folder / ".mcp.json"),  # as one of our own: we wrote it ourselves
            "LMSTUDIO_BRIDGE_HOME": home,
            "LMSTUDIO_BRIDGE_PARALLEL": str(parallel),
        }
        say(f'\n$ lmstudio-bridge run "{TASK}" --for-each "{FILES}" --mcp filesystem')
        with anyio.fail_after(CALL_SECONDS):
            await bridge("run", TASK, "--for-each", FILES, "--mcp", "filesystem", environ=environ, stdout=None)
        rows = (await bridge("runs", "show", "last", "--jsonl", environ=environ)).splitlines()
        await write_page(environ)
        return "\n".join(str(json.loads(row)["answer"]) for row in rows)


async def bridge(*arguments: str, environ: Mapping[str, str], stdout: int | None = subprocess.PIPE) -> str:
    """Run a command of the bridge in the terminal of the demo; what it printed, unless that goes to the terminal."""
    command = [sys.executable, "-m", "lmstudio_bridge", *arguments]
    done = await anyio.run_process(command, env=environ, stdout=stdout, stderr=None, check=False)
    return (done.stdout or b"").decode("utf-8")


async def write_page(environ: Mapping[str, str]) -> None:
    """Make the page of the run, as a user would, and say where it is."""
    page = cache_root() / "demo.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    with anyio.fail_after(PAGE_SECONDS):
        await bridge("runs", "show", "last", "--html", str(page), environ=environ)
    say(f"Report: {page.as_uri()}")
    say("  All rounds and calls, with what was asked and read. Open it in a browser. The run itself is not kept.")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
