"""Runs each task in its own sandbox, with the bridge and with the plain loop, and checks the result."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, assert_never

import anyio

from lmstudio_bridge import __version__
from lmstudio_bridge.agent.untrusted import Delimiter
from lmstudio_bridge.errors import BridgeError, DownstreamError
from lmstudio_bridge.evals.baseline import run_plain_loop
from lmstudio_bridge.evals.checks import files_only, find_fault
from lmstudio_bridge.evals.results import Attempt, Loop, Plan, Results
from lmstudio_bridge.evals.sandbox import SERVERS, Sandbox, claim_root, open_sandbox
from lmstudio_bridge.evals.tasks import Solution, Task, World
from lmstudio_bridge.events import Emit, Event, Outcome, RunStarted
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.runs.request import RunRequest
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings

Say: TypeAlias = Callable[[str], None]
Now: TypeAlias = Callable[[], datetime]

_START_SECONDS = 180.0  # for a server to start; npx and uvx may have to download it first


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What to run. `commands` start the MCP servers, `max_tokens` is per reply, `seconds` per attempt."""

    tasks: Sequence[Task]
    seed: int
    model: str | None = None
    loops: tuple[Loop, ...] = ("bridge",)
    max_rounds: int = 15
    max_tokens: int = 2_048
    seconds: float = 300.0
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
    settings = settings.model_copy(
        update={"server_start_timeout": max(_START_SECONDS, settings.server_start_timeout), "run_timeout": 86_400.0}
    )
    with claim_root() as root:
        runner = _Runner(request, settings, environ, redactor or Redactor(), root, say, keep, now)
        return await runner.work()


class _Runner:
    """One eval in progress."""

    def __init__(
        self,
        request: EvalRequest,
        settings: Settings,
        environ: Mapping[str, str],
        redactor: Redactor,
        root: Path,
        say: Say,
        keep: Callable[[Results], None],
        now: Now,
    ) -> None:
        self._request = request
        self._settings = settings
        self._environ = environ
        self._redactor = redactor
        self._root = root
        self._say = say
        self._keep = keep
        self._now = now

    async def work(self) -> Results:
        request = self._request
        model, broken = await self._look_ahead()
        plan = Plan(
            model=model,
            seed=request.seed,
            loops=request.loops,
            max_rounds=request.max_rounds,
            max_tokens=request.max_tokens,
            seconds=request.seconds,
            parallel=request.parallel,
            tasks=len(request.tasks),
            began=self._now().isoformat("T", "seconds"),
            version=__version__,
        )
        results = Results(plan)
        waiting: list[tuple[Task, Loop]] = []
        for task in request.tasks:
            if missing := [broken[server] for server in task.servers if server in broken]:
                results.skipped[task.name] = missing[0]
            else:
                waiting += [(task, loop) for loop in request.loops]
        self._keep(results)  # fails now rather than after the first task
        total = len(waiting)
        queue = iter(waiting)

        async def worker(number: int) -> None:
            for task, loop in queue:
                attempt = await self._attempt(task, loop, self._root / f"task-{number}")
                results.attempts.append(attempt)
                self._say(f"[{len(results.attempts)}/{total}] {_line(attempt)}")
                self._keep(results)

        async with anyio.create_task_group() as workers:
            for number in range(1, request.parallel + 1):
                workers.start_soon(worker, number)
        return results

    async def _look_ahead(self) -> tuple[str, dict[str, str]]:
        """The model's name, and the servers that can't be started with the reason.

        Raises:
            BridgeError: The model can't be used, or all servers fail.
        """
        servers = {server for task in self._request.tasks for server in task.servers}
        broken: dict[str, str] = {}
        if "git" in servers and shutil.which("git") is None:
            servers.remove("git")
            broken["git"] = "git is not installed"
        probe = Task("", tuple(sorted(servers)), files_only, Solution((), ""))
        with open_sandbox(self._root / "probe", probe, commands=self._request.commands) as sandbox:
            async with self._agent(sandbox) as agent:
                choice = await agent.client.validator.resolve(self._request.model)
                self._say(f"{choice.name}: {len(self._request.tasks)} tasks; starting {', '.join(probe.servers)} once")
                with agent.pool.lease() as lease:
                    opened = await lease.open_servers(
                        agent.configured_servers().require(name) for name in probe.servers
                    )
        for name, outcome in opened.items():
            if isinstance(outcome, DownstreamError):
                broken[name] = self._redactor.redact(outcome.explain())
                self._say(f"left out: {broken[name]}")
                if all(isinstance(each, DownstreamError) for each in opened.values()):
                    raise self._redactor.redact_error(outcome)
        return choice.name, broken

    async def _attempt(self, task: Task, loop: Loop, root: Path) -> Attempt:
        run_id = ""

        async def on_event(event: Event) -> None:
            nonlocal run_id
            if isinstance(event, RunStarted):
                run_id = event.run_id

        with open_sandbox(root, task, commands=self._request.commands) as sandbox:
            async with self._agent(sandbox) as agent:
                began = self._now()
                try:
                    match loop:
                        case "bridge":
                            outcome = await self._run_bridge(agent, task, on_event)
                        case "baseline":
                            outcome = await self._run_baseline(agent, task)
                        case _:
                            assert_never(loop)
                except BridgeError as exc:
                    outcome = Outcome("failed", error=exc.explain())
                ended = self._now()
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
            run_id=run_id,
            flags=_flags(outcome),
        )
        return self._redactor.redact_fields(attempt)  # the plain loop does not redact

    async def _run_bridge(self, agent: DynamicAutonomousAgent, task: Task, emit: Emit) -> Outcome:
        request = RunRequest(
            task.text,
            task.servers,
            max_rounds=self._request.max_rounds,
            max_tokens=self._request.max_tokens,
            model=self._request.model,
            seconds=self._request.seconds,
            output_schema=task.schema,
            access="write",
        )
        return (await agent.run(request, emit=emit)).outcome

    async def _run_baseline(self, agent: DynamicAutonomousAgent, task: Task) -> Outcome:
        catalog = agent.configured_servers()
        return await run_plain_loop(
            task.text,
            client=agent.client,
            pool=agent.pool,
            servers=[catalog.require(name) for name in task.servers],
            model=self._request.model,
            max_rounds=self._request.max_rounds,
            max_tokens=self._request.max_tokens,
            seconds=self._request.seconds,
        )

    def _agent(self, sandbox: Sandbox) -> AbstractAsyncContextManager[DynamicAutonomousAgent]:
        """The bridge, configured for this sandbox."""
        changes = {"project": sandbox.folder, "mcp_config": sandbox.mcp_config}
        return open_agent(
            self._settings.model_copy(update=changes),
            environ=self._environ,
            redactor=self._redactor,
            make_delimiter=_same_fence,
        )


def _same_fence() -> Delimiter:
    """The same in every run, so that the same seed gives the same prompts."""
    return Delimiter("xkqvtzmw")


def _flags(outcome: Outcome) -> tuple[str, ...]:
    """What the result says before its answer."""
    missing = [f"not found: {fact}" for fact in outcome.missing]
    return (*missing, *([outcome.coverage] if outcome.coverage else []))


def _line(attempt: Attempt) -> str:
    verdict = "right" if attempt.right else f"wrong: {attempt.wrong}"
    verdict += f" · flagged: {'; '.join(attempt.flags)}" if attempt.flags else ""
    ended = "" if attempt.stop == "answered" else f" · {attempt.stop}"
    ended += f": {attempt.error.splitlines()[0]}" if attempt.stop == "failed" and attempt.error else ""
    tokens = attempt.prompt_tokens + attempt.completion_tokens
    return (
        f"{attempt.task} · {attempt.loop} · {verdict}{ended} · {attempt.rounds} rounds · {attempt.calls} calls · "
        f"{tokens:,} tokens · {attempt.seconds:.1f} s"
    )
