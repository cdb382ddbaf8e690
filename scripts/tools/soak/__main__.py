"""The soak: many runs at once against a simulated LM Studio that spoils one request in four, and nothing may be lost.

`python -m scripts.tools.soak --help`, or scripts/soak. Prints the seed and figures; exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.events import CallStarted, Event, Outcome, RunFinished, RunStarted, Tally
from lmstudio_bridge.runs.autonomous import open_agent
from lmstudio_bridge.runs.journal import journal_path, read_events
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import RunRequest
from lmstudio_bridge.settings import read_settings
from scripts.tools.soak.faults import FAULTS
from scripts.tools.soak.kills import kill_and_continue
from scripts.tools.soak.model import Met, SoakModel, judge, read_ledger
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.playback import LostStream
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.fork_server import BRIDGE
from tests.support.raw_client import open_raw_client

MODEL = "qwen/qwen3-4b"
CONTEXT = 32_768  # tokens
PARALLEL = 8  # slots; fewer than runs at once, so that they queue
MAX_ROUNDS = 40  # far more than a run needs, nudges included
RUN_LIMIT = 120.0  # seconds; a run that takes longer hangs
SLEEP_SHARE = 0.02  # of the pauses before a request is sent again; they are not what is tested
CANCEL_SHARE = 0.03  # of the runs are cancelled on their way
THIRDS = 3  # parts of the soak, each run to its end, so that the weights between them can be compared
MAX_GROWTH = 1.3  # weight at the end to weight after the first third

LIMITS = {
    "LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT": "3",
    "LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT": "3",
    "LMSTUDIO_BRIDGE_WATCH_INTERVAL": "0.25",
    "LMSTUDIO_BRIDGE_RUN_TIMEOUT": "100",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, as its caller saw it. No `outcome` where the caller gets only text; no `run_id`: no journal."""

    run_id: str = ""
    outcome: Outcome | None = None
    text: str = ""
    cancelled: bool = False
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """What a process holds: memory in KiB, Python's blocks of memory (0: not known), open files."""

    memory: int
    blocks: int
    files: int


@dataclass(slots=True)
class Figures:
    """What the soak brought."""

    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    weights: list[Weight] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a reader."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        weights = ", ".join(f"{each.memory // 1024} MiB/{each.blocks} blocks" for each in self.weights)
        met = sum(fault.name in self.faults for fault in FAULTS)
        return [
            f"seed {self.seed}: {self.ends.total()} runs: {ends}",
            f"{self.requests} requests, {self.faults.total()} of them hit by {met} of {len(FAULTS)} faults",
            f"weights: {weights}",
            *(f"WRONG: {problem}" for problem in self.wrong),
        ]


Runner = Callable[[str], Awaitable[Ended]]


@dataclass(slots=True)
class Desk:
    """The folders of one soak, and the bridge's environment."""

    folder: Path
    environ: dict[str, str]

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def runs(self) -> Path:
        return self.folder / "home" / "runs"


def lay_desk(folder: Path, sim: Simulator) -> Desk:
    """A project whose only MCP server gives out nonces."""
    for name in ("project", "home"):
        (folder / name).mkdir()
    desk = Desk(folder, {"LMSTUDIO_BASE_URL": sim.url, **LIMITS})
    desk.environ |= {
        "CLAUDE_PROJECT_DIR": str(folder / "project"),
        "LMSTUDIO_BRIDGE_HOME": str(folder / "home"),
        "LMSTUDIO_BRIDGE_MCP_CONFIG": str(folder / "project" / "servers.json"),
    }
    desk.ledger.touch()
    script = Path(__file__).with_name("tool_server.py")
    tokens = {"command": sys.executable, "args": [str(script), str(desk.ledger)]}
    config = json.dumps({"mcpServers": {"tokens": tokens}})
    (folder / "project" / "servers.json").write_text(config, encoding="utf-8")
    return desk


def task_of(label: str) -> str:
    return f"This is {label}. Take the nonces of all steps and name them."


async def sleep_briefly(seconds: float, /) -> None:
    """Pauses that are short, but real."""
    await asyncio.sleep(seconds * SLEEP_SHARE)


@asynccontextmanager
async def open_inside(desk: Desk, *, seed: int) -> AsyncIterator[tuple[Runner, int]]:
    """Runs by an agent in this process; some are cancelled at a random event."""
    environ: Mapping[str, str] = {**os.environ, **desk.environ}
    settings = read_settings(desk.environ, cwd=desk.folder)

    async with open_agent(settings, environ=environ, sleep=sleep_briefly) as agent:

        async def run(label: str) -> Ended:
            rng = random.Random(f"{seed}/{label}")
            cancel_at = rng.randint(1, 60) if rng.random() < CANCEL_SHARE else 0
            events: list[Event] = []

            async def emit(event: Event) -> None:
                events.append(event)
                if len(events) == cancel_at:
                    task.cancel()

            request = RunRequest(task_of(label), ("tokens",), max_rounds=MAX_ROUNDS, model=MODEL, access="write")
            task: asyncio.Task[RunReport] = asyncio.create_task(agent.run(request, emit=emit))
            done, _ = await asyncio.wait({task}, timeout=RUN_LIMIT)
            run_id = next((event.run_id for event in events if isinstance(event, RunStarted)), "")
            if not done:
                task.cancel()
                await asyncio.wait({task}, timeout=RUN_LIMIT)
                return Ended(run_id, wrong=f"hung after {events[-1:]}")
            if task.cancelled():
                return Ended(run_id, cancelled=bool(cancel_at))
            if (error := task.exception()) is None:
                return Ended(run_id, task.result().outcome)
            if isinstance(error, BridgeError):  # before the first round
                return Ended(run_id, text=error.explain())
            return Ended(run_id, wrong=f"raised {error!r}")

        yield run, os.getpid()


@asynccontextmanager
async def open_process(desk: Desk) -> AsyncIterator[tuple[Runner, int]]:
    """Runs by the bridge in a process of its own, as Claude Code makes them."""
    async with open_raw_client(
        era="2025-11-25", environ=desk.environ, command=BRIDGE, answer_limit=RUN_LIMIT
    ) as client:

        async def run(label: str) -> Ended:
            number = await client.start_call(
                "autonomous_with_write_access",
                mcp_names=["tokens"],
                task=task_of(label),
                max_rounds=MAX_ROUNDS,
                model=MODEL,
            )
            try:
                answer = await client.answer_of(number)
            except TimeoutError:
                return Ended(wrong="hung")
            client.lines.clear()
            run_id = next((word for word in answer.progress[0].split() if word.count("-") == 2), "").strip(".:,")
            return Ended(run_id, text=answer.text)

        yield run, client.process.pid
    assert client.stray == [], "stdout belongs to the protocol"
    assert b"Traceback" not in client.stderr, client.stderr.decode()


async def soak(*, runs: int, at_once: int, seed: int, stdio: bool, folder: Path) -> Figures:
    """Make the runs and judge them all."""
    figures = Figures(seed)
    tasks_before, files_before = len(asyncio.all_tasks()), _open_files(os.getpid())
    models = [SimModel(MODEL, loaded=True, context_length=CONTEXT, parallel=PARALLEL, trained_for_tool_use=True)]
    lost_stream: LostStream = random.Random(seed).choice(("error", "end"))
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(open_simulator(models, lost_stream=lost_stream))
        model = SoakModel(sim, seed)
        sim.script_fn("*", model.reply)
        desk = lay_desk(folder, sim)
        runner, pid = await stack.enter_async_context(open_process(desk) if stdio else open_inside(desk, seed=seed))
        labels = [f"run-{number:05}" for number in range(runs)]
        for third in range(THIRDS):
            part = labels[third::THIRDS]
            ended = await _run_all(part, runner, at_once=at_once)
            figures.wrong += [f"the simulator failed: {failure!r}" for failure in sim.failures]
            _judge_all(figures, desk, ended, model.take_history())
            figures.weights.append(_weigh(pid))
        many = [name for name in sim.instances if sim.instances[name].model.key == MODEL]
        figures.wrong += [f"the model is loaded twice: {many}"] if len(many) > 1 else []
    if stdio and (left := _children()):
        figures.wrong.append(f"child processes are left: {left}")
    await _look_around(figures, desk, tasks=tasks_before, files=files_before)
    _compare(figures)
    return figures


async def _run_all(labels: Sequence[str], runner: Runner, *, at_once: int) -> dict[str, Ended]:
    waiting = iter(labels)
    ended: dict[str, Ended] = {}

    async def work() -> None:
        for label in waiting:
            ended[label] = await runner(label)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return ended


def _judge_all(figures: Figures, desk: Desk, ended: Mapping[str, Ended], history: Mapping[str, list[Met]]) -> None:
    ledger = read_ledger(desk.ledger)
    for label, end in ended.items():
        met = history.get(label, [])
        figures.requests += len(met)
        figures.faults.update(each.name for each in met if each.name)
        wrong = [end.wrong] if end.wrong else []
        if end.run_id:
            outcome, told = _read_journal(desk, end)
            wrong += told
            if told := judge(outcome, met, ledger.get(label, {}), cancelled=end.cancelled):
                wrong += [*told, f"its error is {outcome.error!r}"]
            figures.ends[f"{outcome.stop} ({met[-1].kind})" if outcome.stop == "failed" and met else outcome.stop] += 1
        else:
            wrong.append("there is no run id")
        if wrong:
            path = ", ".join(f"{each.name or '·'}" for each in met)
            figures.wrong.append(f"{label} ({end.run_id}): {'; '.join(wrong)}. It met: {path}")


def _read_journal(desk: Desk, end: Ended) -> tuple[Outcome, list[str]]:
    """The outcome as the journal has it, and what is wrong with the journal."""
    events = read_events(journal_path(desk.runs, end.run_id))
    outcome = Tally(events).outcome()
    wrong = []
    if (ends := sum(isinstance(event, RunFinished) for event in events)) != 1:
        wrong.append(f"the journal has {ends} ends")
    if end.outcome is not None and end.outcome != outcome:
        wrong.append(f"the journal says {outcome}, the report {end.outcome}")
    if end.text and outcome.answer not in end.text and outcome.error not in end.text:
        wrong.append(f"the journal says {outcome}, the text {end.text!r}")
    sent = Counter(event.arguments for event in events if isinstance(event, CallStarted))
    wrong += [f"{arguments} was sent {count} times" for arguments, count in sent.items() if count > 1]
    return outcome, wrong


async def _look_around(figures: Figures, desk: Desk, *, tasks: int, files: int) -> None:
    """After the end: is anything left over?"""
    await asyncio.sleep(0)  # transports that were closed just now are gone in the next turn
    if len(left := asyncio.all_tasks()) > tasks:
        figures.wrong.append(f"tasks are left: {left}")
    if left_children := _children():
        figures.wrong.append(f"child processes are left: {left_children}")
    if (now := _open_files(os.getpid())) > files:
        figures.wrong.append(f"{now} open files, {files} at the start")
    strange = [
        str(path.relative_to(desk.folder))
        for path in desk.folder.rglob("*")
        if path.is_file() and path.suffix not in (".jsonl", ".lock") and path.name != "servers.json"
        if path.parent.name != "catalogues"
    ]
    if strange:
        figures.wrong.append(f"files are left: {strange}")
    if (locks := len(list((desk.folder / "home").rglob("*.lock")))) > PARALLEL + 2:
        figures.wrong.append(f"{locks} lock files for {PARALLEL} slots")
    if (journals := len(list(desk.runs.glob("*.jsonl")))) != figures.ends.total():
        figures.wrong.append(f"{journals} journals for {figures.ends.total()} runs")


def _compare(figures: Figures) -> None:
    """Is the memory flat?"""
    first, last = figures.weights[0], figures.weights[-1]
    for name in ("memory", "blocks", "files"):
        before, after = getattr(first, name), getattr(last, name)
        if after > before * MAX_GROWTH:
            figures.wrong.append(f"{name} grew from {before} to {after}")


def _weigh(pid: int) -> Weight:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return Weight(memory, sys.getallocatedblocks() if pid == os.getpid() else 0, _open_files(pid))


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text(encoding="utf-8").split()]


def main() -> int:
    """Parse the command line, soak, tell."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tools.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="default: another each time")
    parser.add_argument("--stdio", action="store_true", help="through the MCP server in a process of its own")
    parser.add_argument("--kills", type=int, default=20, help="moments at which a run over many items is killed")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")  # so that a file left there is found
        figures = asyncio.run(
            soak(runs=given.runs, at_once=given.at_once, seed=given.seed, stdio=given.stdio, folder=folder)
        )
        figures.wrong += asyncio.run(kill_and_continue(folder, points=given.kills, seed=given.seed))
    print("\n".join(figures.lines()))
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
