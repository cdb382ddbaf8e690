"""Runs the tasks of an eval, with the bridge and with the plain loop, one after the other or several at once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import anyio

from lmstudio_bridge import __version__
from lmstudio_bridge.errors import DownstreamError
from lmstudio_bridge.evals.attempts import LOOPS, Attempts, Limits, Now
from lmstudio_bridge.evals.checks import files_only
from lmstudio_bridge.evals.results import Attempt, Loop, Plan, Results
from lmstudio_bridge.evals.sandbox import SERVERS, claim_root, open_sandbox
from lmstudio_bridge.evals.tasks import Solution, Task
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

Say: TypeAlias = Callable[[str], None]


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
    now: Now = lambda: datetime.now(UTC),
) -> Results:
    """Run all tasks; after each attempt, `say` gets a line and `keep` the results so far.

    Raises:
        BridgeError: LM Studio or the model can't be used, or no server can be started.
    """
    attempts = Attempts(settings, environ, redactor or Redactor(), request.commands, now)
    with claim_root() as root:
        return await _Runner(request, attempts, root, say, keep, now).work()


@dataclass(frozen=True, slots=True)
class _Runner:
    """One eval in progress."""

    request: EvalRequest
    attempts: Attempts
    root: Path
    say: Say
    keep: Callable[[Results], None]
    now: Now

    async def work(self) -> Results:
        request = self.request
        model, broken = await self._look_ahead()
        plan = Plan(
            model=model,
            seed=request.seed,
            loops=request.loops,
            max_rounds=request.limits.max_rounds,
            max_tokens=request.limits.max_tokens,
            seconds=request.limits.seconds,
            parallel=request.parallel,
            tasks=len(request.tasks),
            began=self.now().isoformat("T", "seconds"),
            version=__version__,
        )
        results = Results(plan)
        waiting: list[tuple[Task, Loop]] = []
        for task in request.tasks:
            if missing := [broken[server] for server in task.servers if server in broken]:
                results.skipped[task.name] = missing[0]
            else:
                waiting += [(task, loop) for loop in request.loops]
        self.keep(results)  # fails now rather than after the first task
        total = len(waiting)
        queue = iter(waiting)

        async def worker(number: int) -> None:
            for task, loop in queue:
                attempt = await self.attempts.make(
                    task, loop, LOOPS[loop], self.root / f"task-{number}", model=request.model, limits=request.limits
                )
                results.attempts.append(attempt)
                self.say(f"[{len(results.attempts)}/{total}] {describe(attempt)}")
                self.keep(results)

        async with anyio.create_task_group() as workers:
            for number in range(1, request.parallel + 1):
                workers.start_soon(worker, number)
        return results

    async def _look_ahead(self) -> tuple[str, dict[str, str]]:
        """The model's name, and the servers that can't be started with the reason.

        Raises:
            BridgeError: The model can't be used, or all servers fail.
        """
        servers = {server for task in self.request.tasks for server in task.servers}
        broken: dict[str, str] = {}
        if "git" in servers and shutil.which("git") is None:
            servers.remove("git")
            broken["git"] = "git is not installed"
        probe = Task("", files_only, Solution((), ""), tuple(sorted(servers)))
        with open_sandbox(self.root / "probe", probe, commands=self.request.commands) as sandbox:
            async with self.attempts.open_bridge(sandbox) as agent:
                choice = await agent.client.validator.resolve(self.request.model)
                self.say(f"{choice.name}: {len(self.request.tasks)} tasks; starting {', '.join(probe.servers)} once")
                with agent.pool.lease() as lease:
                    opened = await lease.open_servers(
                        agent.configured_servers().require(name) for name in probe.servers
                    )
        for name, outcome in opened.items():
            if isinstance(outcome, DownstreamError):
                broken[name] = self.attempts.redactor.redact(outcome.explain())
                self.say(f"left out: {broken[name]}")
                if all(isinstance(each, DownstreamError) for each in opened.values()):
                    raise self.attempts.redactor.redact_error(outcome)
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
