"""Runs the tasks of an eval, with the bridge and with the plain loop, one after the other or several at once.

An attempt is one task in a sandbox of its own, done by one loop, and checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import anyio

from lmstudio_bridge import __version__
from lmstudio_bridge.agent.untrusted import Delimiter
from lmstudio_bridge.errors import BridgeError, DownstreamError
from lmstudio_bridge.evals.baseline import run_plain_loop
from lmstudio_bridge.evals.checks import files_only, find_fault
from lmstudio_bridge.evals.results import Attempt, Loop, Plan, Results
from lmstudio_bridge.evals.sandbox import SERVERS, Sandbox, claim_root, open_sandbox
from lmstudio_bridge.evals.tasks import Solution, Task, World
from lmstudio_bridge.events import Event, Outcome, RunStarted
from lmstudio_bridge.messages import Message
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.runs.items_report import ItemsReport
from lmstudio_bridge.runs.request import RunRequest
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

Say: TypeAlias = Callable[[str], None]

_START_SECONDS = 180.0  # for a server to start; npx and uvx may have to download it first


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one attempt; `max_tokens` is per reply."""

    max_rounds: int = 15
    max_tokens: int = 2_048
    seconds: float = 300.0


@dataclass(slots=True)
class Job:
    """A task to do, with what a loop may use. The loop sets `run_id` if it keeps a journal."""

    task: Task
    sandbox: Sandbox
    agent: DynamicAutonomousAgent
    model: str | None
    limits: Limits
    run_id: str = ""


Work: TypeAlias = Callable[[Job], Awaitable[Outcome]]
"""Does a task."""


class Attempts:
    """Makes attempts with the bridge's settings; `commands` start the MCP servers."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        redactor: Redactor,
        commands: Mapping[str, tuple[str, ...]],
    ) -> None:
        start = max(_START_SECONDS, settings.server_start_timeout)
        self._settings = settings.model_copy(update={"server_start_timeout": start, "run_timeout": 86_400.0})
        self._environ = environ
        self._commands = commands
        self.redactor = redactor

    async def make(
        self, task: Task, loop: Loop, work: Work, root: Path, *, model: str | None, limits: Limits
    ) -> Attempt:
        """Let a loop do a task in the folder `root`, which is made for it and removed; an error is an outcome."""
        with open_sandbox(root, task, commands=self._commands) as sandbox:
            async with self.open_bridge(sandbox) as agent:
                job = Job(task, sandbox, agent, model, limits)
                began = datetime.now(UTC)
                try:
                    outcome = await work(job)
                except BridgeError as exc:
                    outcome = Outcome("failed", error=exc.explain())
                ended = datetime.now(UTC)
            world = World(sandbox.folder, sandbox.memory, outcome.answer, outcome.calls, began, ended)
            wrong = await asyncio.to_thread(find_fault, task, world)
        attempt = Attempt(
            task=task.name,
            family=task.family,
            loop=loop,
            wrong=wrong,
            stop=outcome.stop,
            rounds=outcome.rounds,
            calls=outcome.calls,
            prompt_tokens=outcome.usage.prompt_tokens,
            completion_tokens=outcome.usage.completion_tokens,
            seconds=round(outcome.seconds, 3),
            answer=outcome.answer,
            error=outcome.error,
            run_id=job.run_id,
            flags=_flags(outcome),
        )
        return self.redactor.redact_fields(attempt)  # the plain loop does not redact

    def open_bridge(self, sandbox: Sandbox) -> AbstractAsyncContextManager[DynamicAutonomousAgent]:
        changes = {"project": sandbox.folder, "mcp_config": sandbox.mcp_config}
        return open_agent(
            self._settings.model_copy(update=changes),
            environ=self._environ,
            redactor=self.redactor,
            make_delimiter=lambda: Delimiter("xkqvtzmw"),  # the same seed gives the same prompts
        )


def _flags(outcome: Outcome) -> tuple[str, ...]:
    """What the result says before its answer."""
    missing = [f"not found: {fact}" for fact in outcome.missing]
    undone = (
        ["nothing was changed"] if outcome.nothing_changed else ["a change failed"] if outcome.failed_writes else []
    )
    return (*undone, *missing, *([outcome.coverage] if outcome.coverage else []))


# -- the loops --------------------------------------------------------------------------------------------------------


async def run_bridge(job: Job) -> Outcome:
    """The bridge; a task that changes nothing is delegated as one that may only read, as is the default."""

    async def on_event(event: Event) -> None:
        if isinstance(event, RunStarted):
            job.run_id = event.run_id

    over = job.task.for_each or None
    request = RunRequest(
        job.task.item_text if over else job.task.text,
        job.task.servers,
        max_rounds=None if over else job.limits.max_rounds,
        max_tokens=job.limits.max_tokens,
        model=job.model,
        seconds=job.limits.seconds,
        output_schema=job.task.schema,
        access=job.task.access,
        for_each=over,
    )
    report = await job.agent.run(request, emit=on_event)
    if isinstance(report, ItemsReport):
        return dataclasses.replace(report.outcome, answer=report.as_lines())
    return report.outcome


async def run_baseline(job: Job, *, examples: tuple[Message, ...] = ()) -> Outcome:
    """The plain loop, which offers all tools."""
    catalog = job.agent.configured_servers()
    return await run_plain_loop(
        job.task.text,
        client=job.agent.client,
        pool=job.agent.pool,
        servers=[catalog.require(name) for name in job.task.servers],
        model=job.model,
        max_rounds=job.limits.max_rounds,
        max_tokens=job.limits.max_tokens,
        seconds=job.limits.seconds,
        examples=examples,
    )


LOOPS: Mapping[Loop, Work] = {"bridge": run_bridge, "baseline": run_baseline}


# -- the eval ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What to run, with the limits of each attempt."""

    tasks: Sequence[Task]
    seed: int
    model: str | None = None
    loops: tuple[Loop, ...] = ("bridge",)
    limits: Limits = dataclasses.field(default_factory=Limits)
    parallel: int = 1
    commands: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(SERVERS))


async def run_eval(
    request: EvalRequest,
    settings: Settings,
    *,
    environ: Mapping[str, str],
    redactor: Redactor | None = None,
    say: Say,
    keep: Callable[[Results], None],
) -> Results:
    """Run all tasks; after each attempt, `say` gets a line and `keep` the results so far.

    Raises:
        BridgeError: LM Studio or the model can't be used, or no server can be started.
    """
    attempts = Attempts(settings, environ, redactor or Redactor(), request.commands)
    with claim_root() as root:
        model, broken = await _look_ahead(request, attempts, root, say)
        plan = Plan(
            model=model,
            seed=request.seed,
            loops=request.loops,
            **dataclasses.asdict(request.limits),
            parallel=request.parallel,
            tasks=len(request.tasks),
            began=datetime.now(UTC).isoformat("T", "seconds"),
            version=__version__,
        )
        results = Results(plan)
        waiting: list[tuple[Task, Loop]] = []
        for task in request.tasks:
            if missing := [broken[server] for server in task.servers if server in broken]:
                results.skipped[task.name] = missing[0]
            else:
                waiting += [(task, loop) for loop in request.loops]
        keep(results)  # fails now rather than after the first task
        queue = iter(waiting)

        async def worker(number: int) -> None:
            for task, loop in queue:
                attempt = await attempts.make(
                    task, loop, LOOPS[loop], root / f"task-{number}", model=request.model, limits=request.limits
                )
                results.attempts.append(attempt)
                say(f"[{len(results.attempts)}/{len(waiting)}] {describe(attempt)}")
                keep(results)

        async with anyio.create_task_group() as workers:
            for number in range(1, request.parallel + 1):
                workers.start_soon(worker, number)
    return results


async def _look_ahead(request: EvalRequest, attempts: Attempts, root: Path, say: Say) -> tuple[str, dict[str, str]]:
    """The model's name, and the servers that can't be started with the reason.

    Raises:
        BridgeError: The model can't be used, or all servers fail.
    """
    servers = {server for task in request.tasks for server in task.servers}
    broken: dict[str, str] = {}
    if "git" in servers and shutil.which("git") is None:
        servers.remove("git")
        broken["git"] = "git is not installed"
    probe = Task("", files_only, Solution((), ""), tuple(sorted(servers)))
    with open_sandbox(root / "probe", probe, commands=request.commands) as sandbox:
        async with attempts.open_bridge(sandbox) as agent:
            choice = await agent.client.validator.resolve(request.model)
            say(f"{choice.name}: {len(request.tasks)} tasks; starting {', '.join(probe.servers)} once")
            with agent.pool.lease() as lease:
                opened = await lease.open_servers(agent.configured_servers().require(name) for name in probe.servers)
    for name, outcome in opened.items():
        if isinstance(outcome, DownstreamError):
            broken[name] = attempts.redactor.redact(outcome.explain())
            say(f"left out: {broken[name]}")
            if all(isinstance(each, DownstreamError) for each in opened.values()):
                raise attempts.redactor.redact_error(outcome)
    return choice.name, broken


def describe(attempt: Attempt) -> str:
    """An attempt in one line."""
    verdict = "right" if attempt.right else f"wrong: {attempt.wrong}"
    verdict += f" · flagged: {'; '.join(attempt.flags)}" if attempt.flags else ""
    ended = "" if attempt.stop == "answered" else f" · {attempt.stop}"
    ended += f": {attempt.error.splitlines()[0]}" if attempt.stop == "failed" and attempt.error else ""
    tokens = attempt.prompt_tokens + attempt.completion_tokens
    return (
        f"{attempt.task} · {attempt.loop} · {verdict}{ended} · {attempt.rounds} rounds · {attempt.calls} calls · "
        f"{tokens:,} tokens · {attempt.seconds:.1f} s"
    )
