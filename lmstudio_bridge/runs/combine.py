"""The answers of many items, merged into one by the local model, in as many levels as its context needs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lmstudio_bridge import events
from lmstudio_bridge.agent.prompts import COMBINE, COMBINE_PART, COUNTED
from lmstudio_bridge.agent.untrusted import delimiter_of
from lmstudio_bridge.errors import RunNotFoundError
from lmstudio_bridge.messages import Usage
from lmstudio_bridge.runs.for_each import DoRun, run_items, safe_outcome
from lmstudio_bridge.runs.item_rows import count_answers, item_rows, value_text, why_not_done
from lmstudio_bridge.runs.journal import delete_journal, item_run_id
from lmstudio_bridge.runs.request import ItemRun, RunRequest
from lmstudio_bridge.runs.resume import read_run
from lmstudio_bridge.text import one_line, shortened

_CHARS_OF_ANSWERS = 1.5  # for a token of the context: three characters are one, and half is for the rest
_SHOWN_ITEM = 200  # characters
_HALVINGS = 2  # of that, where a request fails: the engine may count more tokens


class Combiner:
    """Merges the answers of a run over many items; each request is a run of its own, numbered after the items.

    `folder` is where the journals of those runs are; None if they do not hold whole runs.
    """

    def __init__(
        self,
        do_run: DoRun,
        *,
        results: events.ItemResults,
        start: events.RunStarted | events.RunContinued,
        model: str | None,
        folder: Path | None,
    ) -> None:
        self._do_run = do_run
        self._run_id = start.run_id
        self._listed = results.listed
        self._rows = [row for row in item_rows(results, access=start.access) if row["status"] == "done"]
        self._model = model
        self._folder = folder
        self._number = len(results.listed.items)  # of the newest run
        self._delimiter = delimiter_of(start.run_id)

    async def combine(
        self, context_length: int, *, at_once: Callable[[], Awaitable[int]], seconds: float | None, tell: events.Emit
    ) -> tuple[str, str]:
        """The merged answer, "" if there is none, and then why, "" if no item has an answer either.

        `context_length` is the model's, in tokens; `seconds` the time for all of it.
        """
        if not self._rows:
            return "", ""
        await tell(events.ItemsCombined(len(self._rows)))
        merged = await self._combine(context_length, at_once=at_once, seconds=seconds)
        await tell(events.ItemsCombined(len(self._rows), merged))
        if merged.is_done:
            return merged.answer, ""
        return "", f"The answers could not be merged: {why_not_done(merged)}"

    async def _combine(
        self, context_length: int, *, at_once: Callable[[], Awaitable[int]], seconds: float | None
    ) -> events.Outcome:
        rows = self._rows
        lines = [one_line(f"{shortened(row['item'], _SHOWN_ITEM)}: {value_text(row['answer'])}") for row in rows]
        all_rows = f"{len(rows):,} of {len(self._listed.items):,} items"
        of, counts = all_rows, count_answers(rows, self._listed.output_schema)
        room = int(context_length * _CHARS_OF_ANSWERS)
        halvings = 0
        made: list[events.Outcome] = []
        notes: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    most = room // 2  # so that each level has fewer parts
                    parts = _split([shortened(line, most) for line in lines], room)
                    ended = await self._ask(self._tasks(parts, of=of, counts=counts), at_once)
                    made += ended
                    failed = next((each for each in ended if not each.is_done), None)
                    if failed and not failed.outside and halvings < _HALVINGS:
                        halvings, room = halvings + 1, room // 2  # the engine counts more tokens than we do
                        continue
                    if cut := sum(len(line) > most for line in lines):
                        notes.append(f"{cut:,} answers were shortened before they were merged.")
                    if failed or len(ended) == 1:
                        return _added_up(failed or ended[0], made, notes)
                    lines = [one_line(f"Part {number}: {each.answer}") for number, each in enumerate(ended, start=1)]
                    of = f"{len(lines):,} parts of {all_rows}"
        except TimeoutError:
            return _added_up(events.Outcome("deadline"), made, notes)

    def _tasks(self, parts: Sequence[Sequence[str]], *, of: str, counts: str) -> list[str]:
        """What the model reads for each part."""
        if len(parts) == 1:
            return [self._task(parts[0], of, COUNTED.format(counts=counts) if counts else "", self._listed.combine)]
        task = COMBINE_PART.format(task=self._listed.combine)
        return [self._task(part, f"{len(part):,} of these: {of}", "", task) for part in parts]

    def _task(self, lines: Sequence[str], items: str, counts: str, task: str) -> str:
        return COMBINE.format(items=items, counts=counts, answers=self._delimiter.wrap("\n".join(lines)), task=task)

    async def _ask(self, tasks: Sequence[str], at_once: Callable[[], Awaitable[int]]) -> list[events.Outcome]:
        """How each of these requests ended, in order."""
        before, self._number = self._number, self._number + len(tasks)
        level = events.ItemResults(events.ItemsListed(tuple(tasks), "", (), "", None, ""))
        schema = self._listed.combine_schema if len(tasks) == 1 else ""

        async def run(number: int) -> events.Outcome:
            return await safe_outcome(self._run(before + number, tasks[number - 1], schema))

        async def tell(event: events.Event) -> None:
            if isinstance(event, events.ItemFinished):
                level.finish(event.number, event.outcome)

        await run_items(level, run_item=run, at_once=at_once, seconds=None, retry=True, tell=tell)
        missing = events.Outcome("failed", error="Too many requests failed.", outside=True)
        return [level.finished.get(number, missing) for number in range(1, len(tasks) + 1)]

    async def _run(self, number: int, task: str, schema: str) -> events.Outcome:
        run_id = item_run_id(self._run_id, number)
        if self._folder:
            with suppress(RunNotFoundError):
                stored = read_run(self._folder, run_id)
                if stored.finished and stored.outcome.is_done and stored.task == task:
                    return stored.outcome
            delete_journal(self._folder, run_id)
        request = RunRequest(
            task,
            (),
            max_rounds=1,
            max_tokens=self._listed.max_tokens,
            model=self._model,
            output_schema=json.loads(schema) if schema else None,
        )
        item = ItemRun(run_id, self._listed.combine, delimiter=self._delimiter)
        return (await self._do_run(request, item)).outcome


def _split(lines: Sequence[str], room: int) -> list[list[str]]:
    """The lines in order, in as few parts as have at most so many characters each, but at least two lines."""
    parts: list[list[str]] = []
    size = room
    for line in lines:
        size += len(line) + 1
        if size > room and not (parts and len(parts[-1]) < 2):
            parts.append([])
            size = len(line) + 1
        parts[-1].append(line)
    return parts


def _added_up(last: events.Outcome, made: Sequence[events.Outcome], notes: Sequence[str]) -> events.Outcome:
    """The last outcome with the work of all requests, and what in its answer was in nothing that any of them read."""
    return dataclasses.replace(
        last,
        rounds=sum(each.rounds for each in made),
        usage=sum((each.usage for each in made), Usage()),
        seconds=sum(each.seconds for each in made),
        missing=tuple(dict.fromkeys(fact for each in made for fact in each.missing if fact in last.answer)),
        notes=tuple(dict.fromkeys((*notes, *(note for each in made for note in each.notes)))),
    )
