"""What is measured, and how: each function takes figures in passes, and in a pass one subject after the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import pairwise
from statistics import median, quantiles
from typing import TypeAlias

from scripts.tools.bench.figures import BRIDGE, FLOOR, Figure, add_sample
from scripts.tools.bench.plan import Plan
from scripts.tools.bench.processes import cpu_seconds, peak_memory
from scripts.tools.bench.subjects import (
    BRIDGE_COMMAND,
    CHECKOUT,
    ERA,
    LIMIT,
    TOOL_SERVER,
    BenchError,
    Cost,
    Desk,
    Request,
    Subject,
    cost_of,
    floor_command,
    open_bridge,
    open_line,
)
from scripts.tools.bench.task import ANSWER, SERVER, task_of
from tests.support.raw_client import base_environment, open_raw_client

Tell: TypeAlias = Callable[[str], None]
"""Told what is being measured."""

STREAMING = "floor, streaming"
SHELL = "bridge run"
BARE = "bare server"
_WARM_UP = 5  # rounds that are not counted: a process's first ones are dearer
_EARLY = (2, 8)  # rounds between which a history has about 10 messages
_LATE = 30  # rounds before the end, at which a long history is looked at
MAX_CPU = 5.0  # ms of a round; nobody notices less beside a model
_MILLI = 1_000.0

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Subject]]


def openers(desk: Desk, peers: Mapping[str, Sequence[str]]) -> dict[str, Opener]:
    """How each subject is started; `peers` are names and commands of loops."""
    lines = {FLOOR: floor_command(), STREAMING: floor_command("--stream"), **peers}

    def opener(name: str, command: Sequence[str]) -> Opener:
        return lambda: open_line(desk, name, command)

    return {BRIDGE: lambda: open_bridge(desk), **{name: opener(name, command) for name, command in lines.items()}}


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a pass: every second one backwards, so that nobody always comes after the same."""
    return list(names) if number % 2 == 0 else list(reversed(names))


async def measure_start(desk: Desk, plan: Plan, tell: Tell) -> list[Figure]:
    """From spawn to the answer to tools/list, ours and a bare server's; and the size of that answer."""
    wall = Figure("start", "spawn → tools/list", "ms", reference=BARE, bar=1.25, note="a one-tool server of the SDK")
    cpu = Figure("start-cpu", "spawn → tools/list, CPU", "ms", reference=BARE)
    size = Figure("tools-list", "tools/list of the bridge", "bytes", reference="")
    commands = {BRIDGE: BRIDGE_COMMAND, BARE: (BRIDGE_COMMAND[0], str(TOOL_SERVER))}
    for number in range(-plan.discarded, plan.start_passes):  # the first ones fill caches
        tell(f"start {max(number, 0) + 1} of {plan.start_passes}")
        for name in in_turn([*commands], number):
            began = time.perf_counter()
            async with open_raw_client(
                era=ERA, environ=desk.bridge_environ(), command=commands[name], answer_limit=LIMIT
            ) as client:
                listed = await client.request("tools/list", {})
                seconds, used = time.perf_counter() - began, cpu_seconds(client.process.pid)
            if number < 0:
                continue
            add_sample(wall, name, seconds * _MILLI)
            add_sample(cpu, name, used * _MILLI)
            if name == BRIDGE:
                add_sample(size, name, len(json.dumps(listed["tools"], separators=(",", ":"), ensure_ascii=False)))
    return [wall, cpu, size]


async def measure_cold(desk: Desk, plan: Plan, tell: Tell, peers: Mapping[str, Sequence[str]]) -> list[Figure]:
    """From the start of a process to the answer of a run of one round, its MCP server started on the way."""
    wall = Figure("cold", "cold run of one round", "ms", note="process start → answer")
    cpu = Figure("cold-cpu", "cold run of one round, CPU", "ms")
    known = openers(desk, peers)
    del known[STREAMING]
    ours = [name for name in (*known, SHELL) if name not in peers]
    for number in range(-plan.discarded, plan.cold_passes):
        tell(f"cold {max(number, 0) + 1} of {plan.cold_passes}")
        names = [*ours, *peers] if 0 <= number < plan.peers_cold_passes else ours
        for name in in_turn(names, number):
            cost = await (_run_in_shell(desk) if name == SHELL else _run_cold(known[name]))
            if number >= 0:
                add_sample(wall, name, cost.wall * _MILLI)
                add_sample(cpu, name, cost.cpu * _MILLI)
    return [wall, cpu]


async def _run_cold(opener: Opener) -> Cost:
    """One run of a process that is started for it, until its answer."""
    began = time.perf_counter()
    async with opener() as subject:
        await subject.run(1, rounds=1)
        return Cost(time.perf_counter() - began, cpu_seconds(subject.pid))


async def _run_in_shell(desk: Desk) -> Cost:
    """One `lmstudio-bridge run` until its answer stands on stdout; its servers end after that."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *BRIDGE_COMMAND,
        "run",
        task_of(0, rounds=1),
        "--mcp",
        SERVER,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=CHECKOUT,
        env={**base_environment(), **desk.bridge_environ()},
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    cost = Cost(time.perf_counter() - began, cpu_seconds(process.pid) if process.returncode is None else 0.0)
    await process.stdout.read()
    await process.wait()
    if ANSWER not in line.decode():
        raise BenchError(f"`lmstudio-bridge run` answered: {line.decode()}")
    return cost


@asynccontextmanager
async def open_subjects(
    desk: Desk, peers: Mapping[str, Sequence[str]], tell: Tell
) -> AsyncIterator[dict[str, Subject]]:
    """All subjects, each warmed up by a run.

    Raises:
        BenchError: One cannot be started, or does not start its MCP server just once.
    """
    async with AsyncExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name, opener in openers(desk, peers).items():
            tell(f"opening {name}")
            before = desk.starts()
            subjects[name] = await stack.enter_async_context(opener())
            await subjects[name].run(1, rounds=_WARM_UP)
            if desk.starts() - before != 1:
                raise BenchError(f"{name} started its server {desk.starts() - before} times")
        yield subjects


async def measure_warm(desk: Desk, plan: Plan, tell: Tell, subjects: Mapping[str, Subject]) -> list[Figure]:
    """The cost of a round in a process that is warm, and of a whole run of one round there."""
    wall = Figure("warm", "warm cost per round", "ms", note="request, call, result; wall time")
    cpu = Figure("warm-cpu", "warm cost per round, CPU", "ms", note="of the process itself")
    run = Figure("warm-run", "warm run of one round", "ms", note="what a run costs beside its rounds is in it")
    size = Figure("bytes", "bytes sent per request", "bytes", note=f"mean of a run of {plan.warm_rounds} rounds")
    for number in range(plan.warm_passes):
        tell(f"warm {number + 1} of {plan.warm_passes}")
        for name in in_turn([*subjects], number):
            add_sample(run, name, await subjects[name].run(1, rounds=1) * _MILLI)
            await desk.model.watch(subjects[name].pid)
            await desk.model.record()
            await subjects[name].run(1, rounds=plan.warm_rounds)
            requests = await desk.model.record()
            first, last = requests[min(_WARM_UP, plan.warm_rounds - 1)], requests[-1]
            rounds = last.round - first.round
            add_sample(wall, name, (last.wall - first.wall) / rounds * _MILLI)
            add_sample(cpu, name, (last.cpu - first.cpu) / rounds * _MILLI)
            add_sample(size, name, sum(request.size for request in requests) / len(requests))
    return [wall, cpu, run, size]


async def measure_crowd(desk: Desk, plan: Plan, tell: Tell, subjects: Mapping[str, Subject]) -> list[Figure]:
    """Many runs at once, in processes that do nothing else before it; then their peak memory; then still more runs."""
    many = f"{plan.crowd_runs} x {plan.crowd_rounds} rounds at once"
    wall = Figure("crowd", many, "ms")
    cpu = Figure("crowd-cpu", f"{many}, CPU", "ms")
    memory = Figure("memory", "peak memory", "MiB", bar=1.3, note=f"resident, after {many}")
    more = f"{plan.big_crowd_runs} x {plan.crowd_rounds} rounds at once"
    big = Figure("big-crowd", more, "ms")
    tail = Figure("big-crowd-p99", f"{more}: p99 of a round", "ms")
    apart = Figure(
        "big-crowd-apart",
        f"{more}: first to last end",
        "%",
        reference="",
        note="of the whole time; 0: all end together",
    )
    for number in range(plan.crowd_passes):
        tell(f"{many}, {number + 1} of {plan.crowd_passes}")
        for name in in_turn([*subjects], number):
            cost = await cost_of(subjects[name], runs=plan.crowd_runs, rounds=plan.crowd_rounds)
            add_sample(wall, name, cost.wall * _MILLI)
            add_sample(cpu, name, cost.cpu * _MILLI)
    for name, subject in subjects.items():
        add_sample(memory, name, peak_memory(subject.pid))
    for number in range(plan.big_crowd_passes):
        tell(f"{more}, {number + 1} of {plan.big_crowd_passes}")
        for name in in_turn([BRIDGE, FLOOR], number):
            await desk.model.record()
            seconds = await subjects[name].run(plan.big_crowd_runs, rounds=plan.crowd_rounds)
            requests = await desk.model.record()
            ends = _ends(requests)
            began = min(request.wall for request in requests)
            add_sample(big, name, seconds * _MILLI)
            add_sample(tail, name, quantiles(_rounds(requests), n=100, method="inclusive")[-1] * _MILLI)
            add_sample(apart, name, 100 * (max(ends) - min(ends)) / (max(ends) - began))
    return [wall, cpu, memory, big, tail, apart]


def _rounds(requests: Sequence[Request]) -> list[float]:
    """Seconds between each request and the next of the same run."""
    times: defaultdict[int, list[float]] = defaultdict(list)
    for request in requests:
        times[request.run].append(request.wall)
    return [after - before for each in times.values() for before, after in pairwise(each)]


def _ends(requests: Sequence[Request]) -> list[float]:
    """When the last request of each run came."""
    return [*{request.run: request.wall for request in requests}.values()]


async def measure_growth(desk: Desk, plan: Plan, tell: Tell, subjects: Mapping[str, Subject]) -> list[Figure]:
    """What a round costs with a long history, over one with about 10 messages; of each subject for itself."""
    title = f"growth of a round from 10 to {plan.growth_messages:,} messages"
    wall = Figure("growth", title, "x", reference="", note="each subject over itself")
    cpu = Figure("growth-cpu", f"{title}, CPU", "x", reference="", note="of the process itself")
    short = Figure("round-10", "CPU of a round at 10 messages", "ms", reference="", bar=MAX_CPU)
    long = Figure(
        f"round-{plan.growth_messages}",
        f"CPU of a round at {plan.growth_messages:,} messages",
        "ms",
        reference="",
        bar=MAX_CPU,
    )
    rounds = plan.growth_messages // 2
    for number in range(plan.growth_passes):
        tell(f"growth {number + 1} of {plan.growth_passes}")
        for name in in_turn([BRIDGE, FLOOR], number):
            await desk.model.watch(subjects[name].pid)
            early: list[Request] = []
            for _ in range(_LATE // (_EARLY[1] - _EARLY[0])):
                await desk.model.record()
                await subjects[name].run(1, rounds=_EARLY[1])
                early += (await desk.model.record())[_EARLY[0] :]
            await subjects[name].run(1, rounds=rounds)
            late = (await desk.model.record())[-min(_LATE, rounds - 1) :]
            for figure, of in ((wall, _wall), (cpu, _cpu)):
                add_sample(figure, name, _steps(late, of) / _steps(early, of))
            add_sample(short, name, _steps(early, _cpu) * _MILLI)
            add_sample(long, name, _steps(late, _cpu) * _MILLI)
    return [wall, cpu, short, long]


def _wall(request: Request) -> float:
    return request.wall


def _cpu(request: Request) -> float:
    return request.cpu


def _steps(requests: Sequence[Request], of: Callable[[Request], float]) -> float:
    """The median of what lies between a request and the next one of its run."""
    return median(of(after) - of(before) for before, after in pairwise(requests) if after.round == before.round + 1)


async def measure_second_run(desk: Desk, bridge: Subject) -> list[Figure]:
    """How often a further run of a bridge starts the server that it has worked with before."""
    starts = Figure("second-run", "server starts of a second run", "", reference="", bar=0)
    before = desk.starts()
    await bridge.run(1, rounds=1)
    add_sample(starts, BRIDGE, desk.starts() - before)
    return [starts]
