"""Runs over many items are killed at random moments and continued: nothing that was finished is done again."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmstudio_bridge.events import CallStarted
from lmstudio_bridge.runs.item_rows import item_rows
from lmstudio_bridge.runs.journal import journal_path, read_events
from lmstudio_bridge.runs.resume import StoredRun, item_runs, read_run
from tests.lmstudio_sim.replies import CallReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support.desk import MODEL, Desk, open_desk

ITEMS = 12
_NAME = re.compile(r"f\d{2}\.txt")
_LATER = 0.03  # seconds after the arrival of a request in which the bridge is killed


async def kill_and_continue(folder: Path, *, points: int, seed: int) -> list[str]:
    """What was wrong, each with its moment; every second run writes."""
    rng = random.Random(seed)
    wrong: list[str] = []
    for number in range(points):
        place = folder / f"kill-{number}"
        place.mkdir()
        writes, later = bool(number % 2), rng.uniform(0, _LATER)
        request = rng.randint(1, 2 * ITEMS + 1 if writes else ITEMS + 1)  # the last one merges
        moment = f"{'writing' if writes else 'reading'}, killed {later * 1_000:.0f} ms after request {request}"
        wrong += [f"{moment}: {each}" for each in await _kill_once(place, request, later, writes=writes)]
        shutil.rmtree(place)
    return wrong


async def _kill_once(folder: Path, request: int, later: float, *, writes: bool) -> list[str]:
    async with open_desk(folder) as desk:
        names = [f"f{number:02}.txt" for number in range(1, ITEMS + 1)]
        for name in names:
            (desk.project / name).write_text("old\n", encoding="utf-8")
        desk.sim.script_fn(MODEL, lambda asked: _act(desk, asked, writes=writes))
        tool = "autonomous_with_write_access" if writes else "autonomous_with_mcp"
        servers: dict[str, Any] = {"mcp_names": ["filesystem"]} if writes else {"mcp_name": "filesystem"}
        async with desk.bridge(checked=False) as client:
            await client.start_call(tool, **servers, task="Write new into {item}", for_each="f*.txt", combine="List.")
            await desk.sim.wait_for_request(request, path="/v1/chat/completions")
            await asyncio.sleep(later)
            client.process.kill()
            await client.process.wait()
        runs = desk.home / "runs"
        run_id = min((path.stem for path in desk.journals()), key=len)
        before = read_run(runs, run_id)
        assert before.items
        finished = {names[number - 1] for number, each in before.items.finished.items() if each.is_done}
        wrong = list(_not_told(before, runs, writes=writes))
        begun = {name for number, name in enumerate(names, 1) if journal_path(runs, f"{run_id}-{number}").exists()}
        async with desk.bridge() as client:
            again = {"run_id": run_id, "task": "Go on."} if writes else {"run_id": run_id}
            answer = await client.call(tool if writes else "continue_run", **again)
        after = read_run(runs, run_id)
        assert after.items
        rows = item_rows(after.items, access=after.outcome.access)
        undone = {name for name, row in zip(names, rows, strict=True) if row["status"] != "done"}
        # A write that was under way is not repeated, and the model of this run only says that it is done.
        if undone - (begun - finished if writes else set()):
            wrong.append(f"not all is done: {answer.text[:1_000]}")
        given = Counter(_item(each) for each in desk.chat_requests() if each.completed and _is_last(each))
        wrong += [f"{name} was done {given[name]} times" for name in finished if given[name] > 1]
        for item in item_runs(runs, before):
            sent = Counter(event.arguments for event in item.events if isinstance(event, CallStarted))
            if writes and any(count > 1 for count in sent.values()):
                wrong.append(f"a call was repeated: {sent}")
        return wrong


def _not_told(run: StoredRun, folder: Path, *, writes: bool) -> Iterator[str]:
    """Writing items that were under way, and of which nobody is told that they may have happened."""
    assert run.items
    for number, row in enumerate(item_rows(run.items, access=run.outcome.access), start=1):
        path = journal_path(folder, f"{run.run_id}-{number}")
        if not writes or row["status"] == "done" or not path.exists():
            continue
        sent = [event.call_id for event in read_events(path) if isinstance(event, CallStarted)]
        if sent and "may have changed something" not in row["reason"]:
            yield f"{row['item']} was under way, and its row says {row}"


def _act(desk: Desk, request: SimRequest, *, writes: bool) -> Reply:
    if _is_last(request):
        return TextReply("Done.")
    path = str(desk.project / _item(request))
    if writes:
        return CallReply(("filesystem__write_file", {"path": path, "content": "new\n"}))
    return CallReply(("filesystem__read_text_file", {"path": path}))


def _is_last(request: SimRequest) -> bool:
    """Whether the reply is an answer: there is a result, or there are only answers to merge."""
    return not request.tools or any(message["role"] == "tool" for message in request.messages)


def _item(request: SimRequest) -> str:
    task = next(str(message["content"]) for message in request.messages if message["role"] == "user")
    found = _NAME.search(task)
    return found[0] if found and request.tools else ""
