"""A run over many items: each item is a run of its own, and as many run at once as the model has slots."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from lmstudio_bridge import events
from lmstudio_bridge.errors import BridgeError, ContextOverflowError, RunNotFoundError
from lmstudio_bridge.runs.changes import may_have_changed, standing_changes
from lmstudio_bridge.runs.items import is_file, item_task
from lmstudio_bridge.runs.journal import delete_journal, item_run_id
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import ContinueRequest, ItemRun, RunRequest
from lmstudio_bridge.runs.resume import StoredRun, read_run

logger = logging.getLogger(__name__)

MAX_ALIKE = 5  # items in a row that fail for the same outside reason; then the run pauses
_NUMBERS = re.compile(r"\d+")
_HOPELESS: frozenset[events.Stop] = frozenset({"stuck", "context_full"})  # such a conversation is not gone on with


class DoRun(Protocol):
    """Does the run of an item."""

    async def __call__(self, request: RunRequest | ContinueRequest, item: ItemRun) -> RunReport:
        """Raises BridgeError if it could not start."""


class ItemRunner:
    """Runs single items, or goes on with their runs.

    `servers` are those of all items; None until the first run has chosen them for its task. `model` is the name that
    was asked for.
    """

    def __init__(
        self,
        do_run: DoRun,
        *,
        start: events.RunStarted | events.RunContinued,
        task: str,
        listed: events.ItemsListed,
        model: str | None,
        first: events.RunStarted,
        folder: Path | None,
        project: Path,
    ) -> None:
        """`start` is that of the run over all, or of its continuation, `first` the former.

        `model` is the one that was asked for now.

        `folder` is where the journals of items are; None if they do not hold whole runs. `can_undo` says afterwards
        whether each of them does.
        """
        self._do_run = do_run
        self._run_id = start.run_id
        self._task = task
        self._items = listed.items
        self._agent = first.agent or None
        self._limit = first.limit
        self.folder = folder
        self._project = project
        self.servers = listed.servers or None
        self.can_undo = True
        self.model = model or listed.model or None
        self._options: dict[str, Any] = {
            "max_rounds": start.max_rounds,
            "max_tokens": listed.max_tokens,
            "model": self.model,
            "output_schema": json.loads(listed.output_schema) if listed.output_schema else None,
            "access": start.access,
        }

    async def run(self, number: int) -> events.Outcome:
        """How the run of this item ended, which does not fail, whatever happens to it."""
        outcome = await safe_outcome(self._run(number))
        if outcome.gone and outcome.stop not in ("failed", "cancelled"):  # an answer rests on nothing
            error = f"No tool call worked: {outcome.gone}"
            outcome = dataclasses.replace(outcome, stop="failed", error=error, outside=True)
        # Of the changes only the names are told here: the rest is in the item's own journal.
        changes = tuple(dataclasses.replace(each, before="", after="", diff="") for each in outcome.changes)
        return dataclasses.replace(outcome, changes=changes)

    async def _run(self, number: int) -> events.Outcome:
        run_id = item_run_id(self._run_id, number)
        task = item_task(self._task, self._items[number - 1])
        request: RunRequest | ContinueRequest = RunRequest(task, self.servers, agent=self._agent, **self._options)
        stored = self._earlier(run_id)
        earlier = standing_changes(stored.events) if stored else ()
        # The bridge ended before it could tell so.
        if stored and stored.finished and stored.outcome.is_done and not stored.outcome.gone:
            return dataclasses.replace(stored.outcome, changes=earlier)
        if stored:
            # A run that was answered goes on only with instructions.
            again = task if stored.outcome.stop == "answered" else ""
            request = ContinueRequest(run_id, again, **self._options)
        tools_for = item_task(self._task, self._items[0])
        item = self._items[number - 1]
        # Of a change, small models only speak once they have the content: docs/contributing/eval-results.md.
        file = item if self._options["access"] == "read" and is_file(self._project, item) else ""
        report = await self._do_run(request, ItemRun(run_id, self._task, tools_for, file=file, limit=self._limit))
        self.servers = self.servers or report.servers
        self.can_undo &= report.can_undo
        return dataclasses.replace(report.outcome, changes=(*earlier, *report.outcome.changes))

    def _earlier(self, run_id: str) -> StoredRun | None:
        """The run of the item as its journal has it; None if it is to begin anew."""
        if self.folder is None:
            return None
        try:
            stored = read_run(self.folder, run_id)
        except RunNotFoundError:
            return None
        hopeless = stored.cut or stored.outcome.gone or stored.outcome.stop in _HOPELESS
        if self._options["access"] == "read" and hopeless and not may_have_changed(stored.events):
            delete_journal(self.folder, run_id)
            return None
        return stored


async def safe_outcome(work: Awaitable[events.Outcome]) -> events.Outcome:
    """The outcome of a run, also of one that could not start."""
    try:
        return await work
    except BridgeError as exc:
        return events.Outcome("failed", error=exc.explain(), outside=not isinstance(exc, ContextOverflowError))
    except Exception as exc:  # a bug must not end the other items
        logger.error("the run of an item failed with an unexpected error", exc_info=exc)
        return events.Outcome("failed", error="Internal error in the bridge; its log on stderr says more.")


async def run_items(
    results: events.ItemResults,
    *,
    run_item: Callable[[int], Awaitable[events.Outcome]],
    at_once: Callable[[], Awaitable[int]],
    seconds: float | None,
    retry: bool,
    tell: events.Emit,
    find_obstacle: Callable[[events.Outcome], Awaitable[str]] | None = None,
) -> tuple[events.Stop, str]:
    """Run the items that are missing, then those that failed; returns how that ended, and why not all are done.

    Each end is told at once, and `tell` adds it to the results. `at_once` says how many items may run at the same
    time now. After an item failed for an outside reason, `find_obstacle` says what all others would fail for, too; then
    the run pauses at once. After `seconds` the items in progress are cancelled; None is no limit. `retry`: an item that
    failed for an outside reason is tried once more after the others, unless a change may have been made already.
    """
    waiting = deque(sorted(results.to_do(), key=results.finished.__contains__))
    whole, began = len(waiting), time.monotonic()
    running: set[asyncio.Task[None]] = set()
    retried: set[int] = set()
    alike: list[str] = []  # why the newest items failed, if it was the same outside reason
    obstacle = ""

    async def work(number: int) -> None:
        nonlocal obstacle
        outcome = await run_item(number)
        await tell(events.ItemFinished(number, outcome))
        if outcome.stop != "failed" or not outcome.outside:
            alike.clear()
            return
        if alike and _reason(alike[-1]) != _reason(outcome.error):
            alike.clear()
        alike.append(outcome.error)
        if find_obstacle and not obstacle:
            obstacle = await find_obstacle(outcome)
        if retry and number not in retried and not outcome.failed_writes:
            retried.add(number)
            waiting.append(number)

    async def tell_progress() -> None:
        done = whole - len(waiting) - len(running)
        left = (time.monotonic() - began) / done * (whole - done) if done else None
        ended = set(results.now) - results.open - set(waiting)  # not those that are tried once more
        failed = len(ended.intersection(results.failed()))
        total = len(results.listed.items)
        doubtful = sum(results.finished[number].is_done and bool(results.finished[number].failed) for number in ended)
        await tell(events.ItemsProgress(total - whole + done, total, failed, len(running), left, doubtful))

    try:
        async with asyncio.timeout(seconds) as limit, asyncio.TaskGroup() as group:
            while True:
                room = await at_once()
                while waiting and len(running) < room and len(alike) < MAX_ALIKE and not obstacle:
                    number = waiting.popleft()
                    await tell(events.ItemStarted(number))
                    running.add(group.create_task(work(number)))
                await tell_progress()
                if not running:
                    break
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        if not limit.expired():
            raise
        return "deadline", f"The run reached its limit of {seconds:g} s."
    if not results.to_do():
        return "answered", ""
    stop: events.Stop = "partial" if any(each.is_done for each in results.finished.values()) else "failed"
    if obstacle:
        return stop, f"Paused: {obstacle}"
    if len(alike) >= MAX_ALIKE and waiting:
        paused = "" if retried.issuperset(waiting) else "Paused: "  # all were tried
        return stop, f"{paused}{len(alike)} items in a row failed for the same reason. {alike[-1]}"
    return stop, ""


def _reason(error: str) -> str:
    """What is the same in errors of the same kind."""
    return _NUMBERS.sub("", error.partition("\n")[0])
