"""The bench works from end to end, in its smallest form; what comes out of that means nothing and is not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.tools.bench.__main__ import DOCUMENT, why_not
from scripts.tools.bench.figures import BRIDGE, FLOOR, Figure, Spread, against_best, spread_of
from scripts.tools.bench.model_server import reply_to
from scripts.tools.bench.peers import Peer, install
from scripts.tools.bench.results import BEGIN, END, Results, render_markdown, render_table, write_document
from scripts.tools.bench.subjects import BenchError, Desk, Model, open_desk
from scripts.tools.bench.task import ANSWER, task_of
from tests.support.raw_client import base_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")

ROOT = Path(__file__).parents[3]
LIMIT = 300.0  # seconds until a bench that hangs fails the test

BARS = {
    "start": 1.25,
    "second-run": 0,
    "memory": 1.3,
    "round-10": 5.0,
    "round-30": 5.0,
    "catalogue": 5.0,
}


def test_everything_is_measured_and_written_down(tmp_path: Path) -> None:
    files = [tmp_path / "bench.json", tmp_path / "bench.html"]
    outputs = ["--json", str(files[0]), "--html", str(files[1])]
    command = [sys.executable, "-m", "scripts.tools.bench", "--smallest", *outputs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(files[0].read_text(encoding="utf-8"))
    figures = {figure["key"]: figure for figure in found["figures"]}
    assert {key: figure["bar"] for key, figure in figures.items() if figure["bar"] is not None} == BARS
    assert all(value >= 0 for figure in figures.values() for value in figure["samples"][BRIDGE])
    assert figures["second-run"]["samples"] == {BRIDGE: [0]}
    assert all(figure["title"] in done.stdout for figure in figures.values())
    page = files[1].read_text(encoding="utf-8")
    assert all(figure["title"] in page for figure in figures.values())
    assert "//" not in page, "the page must do without a network"


def test_what_is_measured_keeps_what_it_compiles_as_an_installed_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    desk = Desk(tmp_path, Model("http://127.0.0.1:1"))
    asks = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    told = [
        subprocess.run(asks, env=environ, capture_output=True, text=True, timeout=LIMIT, check=True).stdout.strip()
        for environ in (dict(os.environ), {**base_environment(), **desk.bridge_environ()}, desk.line_environ())
    ]

    assert told == ["True", "False", "False"]


# -- figures -------------------------------------------------------------------------------------


def figure_of(bridge: list[float], floor: list[float], *, bar: float | None = None) -> Figure:
    return Figure("warm", "warm cost per round", "ms", {BRIDGE: bridge, FLOOR: floor}, bar=bar)


def test_a_ratio_is_taken_within_each_pass() -> None:
    figure = figure_of([2.0, 40.0, 9.0], [1.0, 10.0, 3.0])

    assert figure.values(BRIDGE) == [2.0, 4.0, 3.0]
    assert figure.spread(BRIDGE) == Spread(3.0, 2.5, 3.5)
    assert spread_of([7.0]) == Spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize(("value", "reached"), [(1.29, True), (1.3, True), (1.31, False)])
def test_a_bar_is_reached_up_to_itself(value: float, reached: bool) -> None:
    assert figure_of([value], [1.0], bar=1.3).reached is reached
    assert figure_of([value], [1.0]).reached is None


def test_the_best_peer_is_the_one_with_the_lowest_median() -> None:
    figure = Figure("warm", "warm", "ms", {BRIDGE: [2.0, 2.0], FLOOR: [1.0, 1.0], "slow": [8.0, 9.0], "good": [5.0, 3]})
    best = against_best(figure, ["slow", "good"], key="warm-peer", title="warm", bar=0.5)

    assert best is not None
    assert (best.reference, best.values(BRIDGE)) == ("good", [0.4, 2 / 3])
    assert against_best(figure, [], key="warm-peer", title="warm", bar=0.5) is None


def test_the_document_gets_the_figures_between_its_marks(tmp_path: Path) -> None:
    figures = [figure_of([2.0], [1.0], bar=3.0), figure_of([5.0], [1.0])]
    results = Results("a machine", "2026-11-23 10:00", {"floor": "Python 3.11"}, "full", figures)
    document = tmp_path / "performance.md"
    document.write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n", encoding="utf-8")
    write_document(document, results)
    write_document(document, results)

    text = document.read_text(encoding="utf-8")
    assert text == f"Before.\n\n{BEGIN}\n\n{render_markdown(results)}\n\n{END}\n\nAfter.\n"
    assert "2.00 x" in text
    assert "5.00 x" not in text, "it has no goal"
    assert "warm cost per round" in render_table(results)


def test_the_real_document_has_the_marks() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)


# -- peers ---------------------------------------------------------------------------------------


def test_a_peer_that_has_no_python_here_is_not_installed(tmp_path: Path) -> None:
    peer = Peer("future", ("Future.Agent[mcp]==1.0.2",), "with_future", python=99)

    with pytest.raises(BenchError, match=r"there is no Python 3\.99 or later here"):
        install(peer, tmp_path)
    assert peer.environment(tmp_path) == tmp_path / "future.agent-mcp-1.0.2"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit('it has no licence')", "lame ended: it has no licence"),
        ("print('BENCH ANSWERS [\"Hm.\"]', flush=True); input()", "lame answered: ['Hm.']"),
        ("print('hello'); print('BENCH ANSWERS ' + '[\"All steps are done.\"]')", ""),
    ],
)
async def test_a_peer_that_does_not_work_is_told_of(script: str, reason: str, tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        told = await why_not(desk, "lame", [sys.executable, "-c", script])

    assert told.endswith(reason)
    assert bool(told) is bool(reason)


# -- the stand-in for LM Studio ------------------------------------------------------------------


@pytest.mark.parametrize(("results", "calls"), [(0, True), (1, True), (2, False)])
@pytest.mark.parametrize("stream", [True, False])
def test_the_model_calls_the_tool_in_each_round_and_then_answers(results: int, calls: bool, stream: bool) -> None:
    history = [{"role": "user", "content": task_of(7, rounds=2)}, *([{"role": "tool"}] * results)]
    tools = [{"type": "function", "function": {"name": "find_tools"}}, {"function": {"name": "bench__echo"}}]
    body = json.dumps({"messages": history, "tools": tools, "stream": stream}).encode()
    reply, streams, place = reply_to(body)

    assert (streams, place) == (stream, (7, results))
    assert (b"bench__echo" in reply, f"step {results}".encode() in reply) == (calls, calls and not stream)
    assert (ANSWER.split()[0].encode() in reply) is not calls
