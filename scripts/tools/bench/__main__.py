"""Measures what the bridge costs, against a floor and its peers: `python -m scripts.tools.bench`, or scripts/bench."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from lmstudio_bridge import __version__
from scripts.tools.bench import measures, peers
from scripts.tools.bench.catalogue import measure_catalogue
from scripts.tools.bench.figures import BRIDGE, Figure, against_best
from scripts.tools.bench.page import render_page
from scripts.tools.bench.plan import FULL, QUICK, SMALLEST, Plan
from scripts.tools.bench.profile_table import measure_profile
from scripts.tools.bench.results import Results, render_table, write_document
from scripts.tools.bench.subjects import CHECKOUT, BenchError, Desk, open_desk, open_line, processors
from scripts.tools.bench.task import task_of

DOCUMENT = CHECKOUT / "docs" / "contributing" / "performance.md"
OUTPUT = CHECKOUT / "bench-results"
SCALES = {"full": FULL, "quick": QUICK, "smallest": SMALLEST}
PEER_BAR = 0.25  # of the best peer's warm cost per round
_PROFILE_ROUNDS = 100  # of a run
_PROFILE_RUNS = 15


def tell(words: str) -> None:
    """Say on stderr what is being done."""
    print(words, file=sys.stderr, flush=True)


async def bench(
    plan: Plan, results: Results, folder: Path, *, found: Sequence[peers.Peer] = (), cache: Path, profile_runs: int = 0
) -> None:
    """Measure everything and add it to the results."""
    commands = {peer.name: peer.command(cache) for peer in found}
    async with open_desk(folder) as desk:
        for name in list(commands):
            if reason := await why_not(desk, name, commands[name]):
                results.left_out[name] = reason
                del commands[name]
        results.figures += await measures.measure_start(desk, plan, tell)
        results.figures += await measures.measure_cold(desk, plan, tell, commands)
        async with measures.open_subjects(desk, commands, tell) as subjects:
            results.figures += await measures.measure_second_run(desk, subjects[BRIDGE])
            # First of all in processes that did nothing else: their memory is looked at.
            crowd = await measures.measure_crowd(desk, plan, tell, subjects)
            warm = await measures.measure_warm(desk, plan, tell, subjects)
            results.figures += [*_with_best_peer(warm, list(commands)), *crowd]
            results.figures += await measures.measure_growth(desk, plan, tell, subjects)
        by_key = {figure.key: figure for figure in warm}
        results.figures += measure_catalogue(plan, by_key["warm-cpu"].samples[BRIDGE])
        if profile_runs:
            results.profiles += await measure_profile(desk, rounds=_PROFILE_ROUNDS, runs=profile_runs, tell=tell)


async def why_not(desk: Desk, name: str, command: Sequence[str]) -> str:
    """Why a loop does not do a run of one round; nothing if it does."""
    try:
        async with open_line(desk, name, command) as loop:
            await loop.run(1, rounds=1)
    except (BenchError, OSError) as exc:
        return f"{task_of(0, rounds=1)!r} was not done: {exc}"
    return ""


def _with_best_peer(warm: Sequence[Figure], names: Sequence[str]) -> list[Figure]:
    found: list[Figure] = []
    for figure in warm:
        found.append(figure)
        if figure.key in ("warm", "warm-cpu"):
            title = f"{figure.title}, over the best peer's"
            best = against_best(figure, names, key=f"{figure.key}-peer", title=title, bar=PEER_BAR)
            found += [best] if best else []
    return found


def install_peers(results: Results, cache: Path) -> list[peers.Peer]:
    """The peers that are installed or could be; the others are noted in the results."""
    found: list[peers.Peer] = []
    for peer in peers.PEERS:
        tell(f"looking for {peer.requirements[0]}, or installing it")
        try:
            peers.install(peer, cache)
        except BenchError as exc:
            results.left_out[peer.name] = str(exc)
            continue
        results.versions[peer.name] = peers.versions(peer, cache)
        found.append(peer)
    return found


def new_results(scale: str) -> Results:
    """Empty results with the facts of this machine."""
    system = f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}"
    machine = f"{system}, {processors()} processors ({_processor()}), load {os.getloadavg()[0]:.1f} at the start"
    own = ", ".join(f"{name} {version(name)}" for name in ("mcp", "httpx", "pydantic", "anyio"))
    versions = {f"lmstudio-bridge {__version__}, floor": f"Python {platform.python_version()}, {own}"}
    return Results(machine, datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"), versions, scale)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def save(results: Results, *, json_file: Path, html_file: Path) -> None:
    """Write both files."""
    for file, text in (
        (json_file, f"{json.dumps(results.to_json(), indent=1, ensure_ascii=False)}\n"),
        (html_file, render_page(results)),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", dest="scale", action="store_const", const="quick", help="about a minute")
    scale.add_argument("--smallest", dest="scale", action="store_const", const="smallest", help="only to see it work")
    parser.add_argument("--peers", action="store_true", help="also the peers from PyPI; installs them (about 0.5 GB)")
    parser.add_argument("--profile", action="store_true", help="also say where the time of a warm round goes")
    parser.add_argument("--json", type=Path, default=OUTPUT / "bench.json", metavar="FILE", help="(bench-results/)")
    parser.add_argument("--html", type=Path, default=OUTPUT / "bench.html", metavar="FILE", help="(bench-results/)")
    parser.add_argument("--document", action="store_true", help="write the figures into the documentation")
    parser.set_defaults(scale="full")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and show and save what was found."""
    options = parse_options(arguments)
    if sys.platform != "linux":
        print("The bench reads CPU time and memory of other processes as Linux gives them.", file=sys.stderr)
        return 2
    results = new_results(options.scale)
    cache = peers.cache_folder(Path.home())
    found = install_peers(results, cache) if options.peers else []
    runs = _PROFILE_RUNS if options.profile else 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            work = bench(SCALES[options.scale], results, Path(folder), found=found, cache=cache, profile_runs=runs)
            asyncio.run(work)
        except BenchError as exc:
            print(f"Nothing was measured: {exc}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130  # as shells expect
    save(results, json_file=options.json, html_file=options.html)
    if options.document:
        write_document(DOCUMENT, results)
    print(render_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
