"""Many items: in which order, how many at once, when it ends early, and how their rows are shown."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from random import Random

import pytest

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    FileChange,
    FilesChanged,
    ItemFinished,
    ItemResults,
    ItemsCombined,
    ItemsListed,
    ItemsProgress,
    ItemStarted,
    Outcome,
    RunContinued,
    RunFinished,
    RunStarted,
    Stop,
    Tally,
)
from lmstudio_bridge.runs.for_each import MAX_ALIKE, ItemRunner, run_items
from lmstudio_bridge.runs.html import item_cells, render_run, tell_story
from lmstudio_bridge.runs.item_rows import fitting_table, item_rows, rows_as_csv
from lmstudio_bridge.runs.items_report import ItemsReport
from lmstudio_bridge.runs.journal import read_timed_events
from lmstudio_bridge.runs.progress import describe
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.request import ContinueRequest, ItemRun, RunRequest
from lmstudio_bridge.runs.resume import find_run, read_run
from tests.support.fakes import keep_events

RUN = "20260101-000000-aaaaa"
DONE = Outcome("answered", "Fine.", rests_on=("7 ← a.txt:1",), called=("read (a.txt)",))
LOST = Outcome("failed", error="LM Studio is gone.", outside=True)


def listed(count: int, schema: str = "") -> ItemsListed:
    return ItemsListed(tuple(f"item {n}" for n in range(1, count + 1)), "", (), "", None, schema)


class Items:
    """Runs items by a script; an item that is not named is done."""

    def __init__(
        self, count: int, *ends: tuple[int, list[Outcome]], at_once: int = 1, retry: bool = True, obstacle: str = ""
    ) -> None:
        self.tally = Tally()
        self.tally.add(RunStarted("r", "t", (), 8, ""))
        self.tally.add(listed(count))
        self.ends = dict(ends)
        self.ran: list[int] = []
        self.told: list[Event] = []
        self.running = 0
        self.most = 0
        self._at_once = at_once
        self._retry = retry
        self._obstacle = obstacle

    @property
    def results(self) -> ItemResults:
        assert self.tally.items
        return self.tally.items

    async def run(self) -> tuple[Stop, str]:
        return await run_items(
            self.results,
            run_item=self._item,
            at_once=self._room,
            seconds=None,
            retry=self._retry,
            tell=self._tell,
            find_obstacle=self._find_obstacle,
        )

    async def _find_obstacle(self, outcome: Outcome) -> str:
        return self._obstacle

    async def _item(self, number: int) -> Outcome:
        self.ran.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        ends = self.ends.get(number)
        return ends.pop(0) if ends else DONE

    async def _room(self) -> int:
        return self._at_once

    async def _tell(self, event: Event) -> None:
        self.told.append(event)
        self.tally.add(event)


@pytest.mark.parametrize("at_once", [1, 4, 9])
async def test_every_item_runs_once_and_so_many_at_once(at_once: int) -> None:
    items = Items(9, at_once=at_once)

    assert await items.run() == ("answered", "")
    assert (items.ran, items.most) == (list(range(1, 10)), at_once)


@pytest.mark.parametrize(
    ("ends", "ran", "to_do"),
    [
        ([[LOST], [LOST, LOST], [DONE]], [1, 2, 3, 1, 2], [2]),
        ([*[[Outcome("failed", error="No call arrived.")]] * 7, [DONE]], [*range(1, 9)], [*range(1, 8)]),
        ([[replace(LOST, failed_writes=True)], [DONE]], [1, 2], [1]),
    ],
    ids=["an outside reason", "the model's own fault, which ends nothing", "it may have changed something"],
)
async def test_an_item_that_failed_is_tried_once_more_after_the_others_where_that_may_help(
    ends: list[list[Outcome]], ran: list[int], to_do: list[int]
) -> None:
    items = Items(len(ends), *((number, list(each)) for number, each in enumerate(ends, start=1)))

    assert await items.run() == ("partial", "")
    assert (items.ran, items.results.to_do()) == (ran, to_do)


async def test_what_was_never_tried_comes_before_what_failed() -> None:
    items = Items(4)
    for number in (1, 2):
        items.results.finish(number, LOST)

    assert await items.run() == ("answered", "")
    assert items.ran == [3, 4, 1, 2]


class TimedItems(Items):
    """Items that take 1 to 10 seconds each, on a clock of their own, which jumps from one end to the next."""

    now = model_time = 0.0

    async def run(self) -> tuple[Stop, str]:
        self._rng, self._ends = Random(1), list[tuple[float, int, asyncio.Event]]()
        whole = asyncio.create_task(super().run())
        while True:
            for _ in range(20):
                await asyncio.sleep(0)  # until all that can start has started
            if not self._ends:
                return await whole
            self.now, _, ended = heappop(self._ends)
            ended.set()

    async def _item(self, number: int) -> Outcome:
        seconds, ended = self._rng.uniform(1, 10), asyncio.Event()
        self.model_time += seconds
        heappush(self._ends, (self.now + seconds, number, ended))
        await ended.wait()
        return await super()._item(number)


@pytest.mark.parametrize("slots", [1, 4, 16])
async def test_slots_are_hardly_ever_idle(slots: int) -> None:
    items = TimedItems(200, *((n, [LOST]) for n in range(1, 201, 10)), at_once=slots)

    assert await items.run() == ("answered", "")
    assert len(items.ran) == 220
    assert items.now <= 1.15 * items.model_time / slots


@pytest.mark.parametrize(("in_a_row", "paused"), [(MAX_ALIKE - 1, False), (MAX_ALIKE, True), (MAX_ALIKE + 1, True)])
async def test_it_pauses_after_so_many_alike_failures_in_a_row(in_a_row: int, paused: bool) -> None:
    lost = (
        (n, [Outcome("failed", error=f"Port {n} is closed.\nURL: x", outside=True)]) for n in range(2, in_a_row + 2)
    )
    items = Items(20, *lost, retry=False)

    stop, error = await items.run()

    assert stop == "partial"
    assert error.startswith("Paused: 5 items in a row failed for the same reason. Port 6 is closed.") is paused
    assert len(items.ran) == (6 if paused else 20)


@pytest.mark.parametrize(("count", "begins"), [(MAX_ALIKE, "5 items in a row"), (MAX_ALIKE + 1, "Paused: 5 items in")])
async def test_it_is_not_paused_where_every_item_was_tried(count: int, begins: str) -> None:
    items = Items(count, *((n, [LOST] * 2) for n in range(1, count + 1)))

    assert (await items.run())[1].startswith(begins)
    assert len(items.ran) == MAX_ALIKE


async def test_different_reasons_do_not_pause_it() -> None:
    items = Items(12, *((n, [Outcome("failed", error="AB"[n % 2], outside=True)]) for n in range(1, 12)), retry=False)

    assert await items.run() == ("partial", "")
    assert len(items.ran) == 12


async def test_what_all_items_would_fail_for_pauses_it_at_once() -> None:
    items = Items(9, (2, [LOST]), obstacle="LM Studio cannot be reached.\nStart it.")

    assert await items.run() == ("partial", "Paused: LM Studio cannot be reached.\nStart it.")
    assert items.ran == [1, 2]


async def test_an_item_that_is_tried_once_more_does_not_count_as_failed_yet() -> None:
    items = Items(2, (1, [LOST, LOST]), (2, [LOST, replace(DONE, failed=("read (b): no file",))]))
    await items.run()

    progress = [(event.done, event.failed, event.doubtful) for event in items.told if isinstance(event, ItemsProgress)]
    assert progress == [(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 1, 0), (2, 1, 1)]


def test_a_run_that_ended_before_its_model_names_neither_a_model_nor_a_cost_and_says_why_once() -> None:
    why = "MCP server 'fs' (`npx`) is not installed yet. Run its command once in a terminal."
    ended = Outcome("failed", error=f"Paused: {why}", notes=(f"MCP server fs was left out: {why}",), brief=9_999)
    report = ItemsReport("r", ended, (), items=ItemResults(listed(2), {1: Outcome("failed", error=why)}))

    assert report.text().count(why) == 1
    assert "Failed: item 1\n" in report.text()
    assert report.text().endswith("\n\n[run r]")
    assert (report.savings().kept, report.savings().spent) == (0, 0)


def test_items_that_failed_for_the_same_reason_share_a_line() -> None:
    text = text_of(3, dict.fromkeys((1, 2), Outcome("failed", error="No.\nTry again.")))

    assert "\nFailed: item 1, item 2: No. Try again.\n" in text


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        (ItemsProgress(37, 200, 2, 4, 361.0), "37 of 200 · 2 failed · 4 at once · about 6 min left"),
        (ItemsProgress(0, 3, 0, 1, None), "0 of 3 · 1 at once"),
        (ItemsProgress(3, 3, 1, 0, None, 2), "3 of 3 · 1 failed · 2 with failed calls"),
        (ItemsProgress(2, 3, 0, 1, 12.2), "2 of 3 · 1 at once · about 12 s left"),
    ],
)
def test_progress_says_how_far_it_is(progress: ItemsProgress, told: str) -> None:
    assert describe(progress, max_rounds=0) == told


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (LOST, "LM Studio is gone."),
        (Outcome("round_limit", "So far."), "hit the round limit"),
        (Outcome("answered", "Done!", nothing_changed=True), "nothing was changed"),
        (Outcome("answered", "Done!", failed=("write a: no",), failed_writes=True), "write a: no"),
        (Outcome("stuck", "Hm.", error="It only\nrepeated."), "the model got stuck: It only repeated."),
    ],
)
def test_an_item_that_is_not_done_has_no_answer(outcome: Outcome, reason: str) -> None:
    [row, open_row] = item_rows(ItemResults(listed(2), {1: outcome}), access="read")

    assert (row["status"], row["answer"], row["reason"]) == ("failed", None, reason)
    assert (open_row["status"], open_row["answer"]) == ("not_done", None)


@pytest.mark.parametrize(
    ("after", "statuses"),
    [
        ([], ["not_done", "not_done"]),
        ([ItemFinished(1, LOST)], ["failed", "not_done"]),
        ([ItemFinished(1, DONE), ItemStarted(2)], ["done", "not_done"]),
    ],
)
def test_a_writing_item_that_was_cut_off_stays_unsure_until_it_is_done(after: list[Event], statuses: list[str]) -> None:
    went_on = RunContinued("r", "", (), 8, "", "read")
    began: list[Event] = [RunStarted("r", "t", (), 8, "", "write"), listed(2), ItemStarted(1)]
    tally = Tally([*began, went_on, ItemStarted(1), *after])

    assert tally.items
    rows = item_rows(tally.items, access=tally.outcome().access)
    assert [row["status"] for row in rows] == statuses
    unsure = ["may have changed something" in row["reason"] for row in rows]
    assert unsure == [statuses[0] != "done", False]


def text_of(
    items: int | ItemsListed, finished: dict[int, Outcome], limit: int = 50_000, ended: Outcome | None = None
) -> str:
    """What is reported of these items, all of this time."""
    results = ItemResults(listed(items) if isinstance(items, int) else items, finished, now=list(finished))
    return ItemsReport("r", ended or Outcome("partial", model="m"), (), items=results).text(limit=limit)


@pytest.mark.parametrize(("count", "long"), [(3, 40_000), (200, 2_000), (1_000, 500)])
def test_a_long_result_is_shortened_evenly_with_the_failures_first(count: int, long: int) -> None:
    ended = {n: Outcome("answered", f"{n} " + "x" * long, rests_on=("a",)) for n in range(1, count)}
    text = text_of(count, {**ended, count: LOST}, 48_000)

    assert len(text) <= 48_000
    lines = text.splitlines()
    assert lines[0] == f"{count - 1:,} of {count:,} items done · 1 failed"
    assert lines[1] == f"Failed: item {count}: LM Studio is gone."
    rows = [line.split(" | ") for line in lines if line.startswith("| item ")][1:]
    assert len({len(row[2].partition(" ")[2]) for row in rows[:9] if row[1] == "done"}) == 1
    assert len(rows) == count
    assert "Cells were cut at" in text
    assert "lmstudio://runs/r" in text


def test_answers_with_facts_that_were_not_found_are_counted_first() -> None:
    text = text_of(3, {1: DONE, 2: replace(DONE, missing=("heron-7",)), 3: DONE})

    assert text.splitlines()[0] == "3 of 3 items done · 1 with facts that were not found in anything read"


def test_answers_in_spite_of_failed_calls_are_counted_and_marked() -> None:
    failed = Outcome("answered", "Fine.", failed=("read (b.txt): no file",))

    text = text_of(3, {1: DONE, 2: failed, 3: replace(failed, stop="stuck")})

    assert text.splitlines()[0] == "2 of 3 items done · 1 failed · 1 with calls that failed"
    statuses = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| item ")]
    assert statuses == ["status", "done", "done, calls failed", "failed"]
    assert "| Fine. | failed: read (b.txt): no file; no tool call worked |" in text


def test_a_note_names_its_items_unless_it_is_about_all() -> None:
    cut, done = replace(DONE, notes=("Same.", "Cut off.")), replace(DONE, notes=("Same.",))
    items = ItemResults(listed(4), {1: done, 2: cut, 3: cut}, now=[1, 2])

    text = ItemsReport("r", Outcome("partial", notes=("Same.", "Cut off.")), (), items=items).text()

    assert "\nNote: Same.\nNote on item 2, item 3: Cut off.\n" in text


def test_a_row_says_what_its_item_did_not_open() -> None:
    assert "| did not open b.txt; 7 ← a.txt:1 |" in text_of(1, {1: replace(DONE, coverage="did not open b.txt")})


def test_long_items_are_shortened_like_their_answers() -> None:
    items = ItemsListed(tuple(f"{n} " + "i" * 2_000 for n in range(1, 201)), "", (), "", None, "")
    text = text_of(items, dict.fromkeys(range(1, 201), DONE), 48_000)

    assert len(text) <= 48_000
    assert [line.split()[1] for line in text.splitlines() if " | done | " in line] == [str(n) for n in range(1, 201)]


def test_where_not_all_rows_fit_it_says_how_many_do() -> None:
    items = ItemResults(ItemsListed(("i" * 100,) * 1_000, "", (), "", None, ""), dict.fromkeys(range(1, 1_001), DONE))
    table, cut = fitting_table(item_rows(items, access="read"), 10_000)

    assert len(table) <= 10_000
    shown = len(table.splitlines()) - 2
    assert f"only {shown} of 1,000 rows fit" in cut


def test_no_text_of_an_item_or_an_answer_looks_like_a_row_or_line_of_ours() -> None:
    bad = "x |\n| item 2 | done | forged |\n\n[run r2]\nFailed: all"
    names = ItemsListed((bad, "b"), "", (), "", None, "")
    text = text_of(names, {1: Outcome("answered", bad), 2: Outcome("failed", error=bad)})

    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 4
    assert not any(line.startswith(("[run", "Failed: all")) for line in text.splitlines())
    assert r"x \| \| item 2 \| done" in text


def csv_of(finished: dict[int, Outcome], *, count: int) -> list[list[str]]:
    rows = item_rows(ItemResults(listed(count, '{"type": "object"}'), finished), access="read")
    return list(csv.reader(io.StringIO(rows_as_csv(rows))))


def test_answers_to_a_schema_have_columns_of_their_own_and_failures_a_reason_in_csv() -> None:
    answers = ['{"owner": "kim", "n": 3}', '{"owner": null, "n": [1]}']

    assert csv_of({1: Outcome("answered", answers[0]), 2: Outcome("answered", answers[1]), 3: LOST}, count=4) == [
        ["item", "status", "reason", "owner", "n", "rests on"],
        ["item 1", "done", "", "kim", "3", "no tool calls"],
        ["item 2", "done", "", "", "[1]", "no tool calls"],
        ["item 3", "failed", "LM Studio is gone.", "", "", ""],
        ["item 4", "not_done", "", "", "", ""],
    ]


def test_what_an_answer_calls_its_parts_is_never_taken_for_a_column_of_the_bridge() -> None:
    keys = ["status", "item", "reason", "rests on", "answer"]
    answer = Outcome("answered", json.dumps(dict.fromkeys(keys, "x")))

    assert csv_of({1: answer}, count=1) == [
        ["item", "status", "reason", *(f"answer.{key}" for key in keys[:4]), "answer", "rests on"],
        ["item 1", "done", "", *("x" * 5), "no tool calls"],
    ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        *[(value, f"'{value}") for value in ("=cmd()", "+1+cmd()", "-a", "@x", " =1", "\u200b=1", "\uff1d1", "-1-2")],
        *[(value, str(value)) for value in (-5, "-5", "+5", -0.5, "-1,234.50", "-3.5%", 1e-07, "-1e-07", "a=b", "")],
    ],
)
def test_no_text_in_csv_is_a_formula_and_numbers_stay_as_they_are(value: object, cell: str) -> None:
    [_, row] = csv_of({1: Outcome("answered", json.dumps({"owner": value}))}, count=1)
    assert row[3] == cell
    [head, _] = csv_of({1: Outcome("answered", json.dumps({str(value): 1, "b": 2}))}, count=1)
    assert head[3] == cell


def with_keys(count: int, keys: int, *, differ: bool) -> dict[int, Outcome]:
    """Answers with so many keys."""
    each = {n: {f"word{n * differ}_{key}": key for key in range(keys)} for n in range(1, count + 1)}
    return {n: Outcome("answered", json.dumps(answer)) for n, answer in each.items()}


@pytest.mark.parametrize(("count", "keys"), [(60, 60), (250, 20)])
def test_answers_whose_keys_differ_are_not_columns_but_one_each(count: int, keys: int) -> None:
    answers = with_keys(count, keys, differ=True)
    lines = text_of(listed(count, '{"type": "object"}'), answers, 48_000).splitlines()

    assert "| item | status | answer | rests on |" in lines
    assert sum(line.startswith("| item ") for line in lines) == count + 1
    head, *rows = csv_of(answers, count=count)
    assert head == ["item", "status", "reason", "answer", "rests on"]
    assert [json.loads(row[3]) for row in rows] == [json.loads(each.answer) for each in answers.values()]


@pytest.mark.parametrize(
    ("keys", "columns", "csv_columns"), [(20, 20, 20), (21, 1, 21), (200, 1, 200)], ids=["most", "more", "many"]
)
def test_answers_with_many_keys_alike_are_columns_only_in_csv(keys: int, columns: int, csv_columns: int) -> None:
    answers = with_keys(3, keys, differ=False)
    items = ItemResults(listed(3, '{"type": "object"}'), answers)
    table, _ = fitting_table(item_rows(items, access="read"), None)

    assert table.splitlines()[0].count(" | ") == columns + 2
    assert len(csv_of(answers, count=3)[0]) == csv_columns + 4


def test_the_outcome_adds_up_the_items_since_the_run_last_went_on() -> None:
    start = RunStarted("r", "Change all", (), 8, "")
    tally = Tally([start, listed(2), ItemFinished(1, DONE), ItemFinished(2, LOST)])

    assert not tally.outcome().nothing_changed, "that is said of each item"
    assert tally.items is not None
    assert (tally.items.to_do(), tally.items.failed(), tally.items.now) == ([2], [2], [1, 2])


async def test_no_undo_is_offered_where_the_journal_of_an_item_is_not_whole() -> None:
    async def do_run(request: RunRequest | ContinueRequest, item: ItemRun) -> RunReport:
        return RunReport(item.run_id, DONE, (), can_undo=not item.run_id.endswith("-1"))

    start = RunStarted(RUN, "t", (), 8, "", "write")
    runner = ItemRunner(
        do_run, start=start, task="t", listed=listed(2), model=None, first=start, folder=None, project=Path("/")
    )
    for number in (1, 2):
        await runner.run(number)
    changed = replace(DONE, changes=(FileChange("a.txt", "created", kept=True),))
    items = ItemResults(listed(2), {1: changed}, now=[1])
    told = ItemsReport(RUN, changed, (), items=items, can_undo=runner.can_undo).text()

    assert "Changed: a.txt" in told
    assert "Undo with" not in told


def changes_after(tally: Tally, *events: Event) -> list[tuple[bool, str]]:
    """After each of the events: whether the last changes were undone, and the numbers of the items that changed."""
    seen = []
    for event in events:
        tally.add(event)
        outcome = tally.outcome()
        seen.append((outcome.undone, "".join(each.path for each in outcome.changes)))
    return seen


def changed(number: int) -> ItemFinished:
    return ItemFinished(number, replace(DONE, changes=(FileChange(f"{number}", "created"),)))


def test_what_was_undone_does_not_count_as_changed_when_the_run_goes_on() -> None:
    undo, again = FilesChanged("", (), is_undo=True), RunContinued("r", "", (), 8, "")
    tally = Tally([RunStarted("r", "t", (), 8, "", "write"), listed(2)])

    seen = changes_after(tally, changed(1), undo, again, changed(2), undo, undo)

    assert seen == [(False, "1"), (True, "1"), (False, ""), (False, "2"), (True, "12"), (False, "12")]


def test_an_undo_of_one_item_leaves_the_changes_of_the_others() -> None:
    tally = Tally([RunStarted("r", "t", (), 8, "", "write"), listed(2), changed(1), changed(2)])
    undos: list[tuple[int, ...]] = [(1,), (1, 2), (2,), ()]

    seen = changes_after(tally, *(FilesChanged("", (), is_undo=True, undone=each) for each in undos))

    assert seen == [(False, "2"), (True, "12"), (False, "1"), (False, "12")]


def page_of(folder: Path, events: Sequence[Event]) -> str:
    """The page of a run over many, of whose items the first two have journals."""
    calls: list[Event] = [
        CallStarted(1, "c1", "fs", "read", '{"path": "a.txt"}'),
        CallFinished(1, "c1", "fs", "read", "<b>7</b>" + "x" * 5_000, is_error=False, sent=True, seconds=2),
    ]
    for run_id, told in (("r1", events), ("r1-1", [RunStarted("r1-1", "t", (), 8, ""), *calls]), ("r1-2", calls[:1])):
        keep_events(folder, run_id, *told)
    run = read_run(folder, "r1")
    return render_run(run, tell_story(read_timed_events(folder / "r1.jsonl")), item_cells(folder, run))


def test_the_page_of_a_run_has_its_items_with_their_answers_and_calls(tmp_path: Path) -> None:
    doubtful = ItemFinished(3, replace(DONE, failed=("read (b): no file",)))
    page = page_of(tmp_path, [*page_events(4), doubtful])

    assert [line.partition("<details")[0] for line in page.splitlines() if line.startswith('<li class="item ')] == [
        '<li class="item done">',
        '<li class="item failed">',
        '<li class="item done">',
        '<li class="item not_done">',
    ]
    assert page.count('<span class="wrong">calls failed</span>') == 1
    assert ["all 4</label>" in page, 'id="show-failed"> failed 1</label>' in page] == [True, True]
    assert (
        '<a class="item done" tabindex="-1" href="#item-1" title="item 1: done, 2.0 s"><i style="height:50%">' in page
    )
    assert "<pre>Fine.</pre>" in page
    assert '<span class="wrong">failed: LM Studio is gone.</span>' in page
    assert "<summary>read path: a.txt" in page
    assert "<pre>&lt;b&gt;7&lt;/b&gt;xxx" in page
    assert len(page) < 20_000, "long results are cut"
    assert '<span class="wrong">unfinished</span> path: a.txt' in page
    assert "lmstudio-bridge runs show r1-2" in page
    assert "Answer</h2>" not in page
    assert "Timeline" not in page


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        *[("last", RUN), ("last-2", f"{RUN}-2"), ("aaaaa", RUN), ("aaaaa-1", f"{RUN}-1"), (RUN, RUN)],
        *[(name, None) for name in ("last-9", "bbbbb", "aaaaa-9")],
    ],
)
def test_a_run_and_those_of_its_items_have_short_names(name: str, run_id: str | None, tmp_path: Path) -> None:
    for each in (RUN, f"{RUN}-1", f"{RUN}-2"):
        keep_events(tmp_path, each, RunStarted(each, "t", (), 8, ""))

    if run_id:
        assert find_run(tmp_path, name).run_id == run_id
    else:
        with pytest.raises(BridgeError, match="There is no run"):
            find_run(tmp_path, name)


def test_a_merged_answer_stands_above_the_items(tmp_path: Path) -> None:
    done = RunFinished("partial", "All **fine**.", "", 4.0)
    page = page_of(tmp_path, [*page_events(3), done])

    assert page.index("<h2>Merged answer</h2>") < page.index("<strong>fine</strong>") < page.index("<h2>Items</h2>")


def test_the_page_of_a_thousand_items_is_small_and_has_no_script(tmp_path: Path) -> None:
    page = page_of(tmp_path, page_events(1_000))

    assert page.count('<li class="item ') == 1_000
    assert len(page) < 1_500_000
    assert "<script" not in page


def page_events(count: int) -> list[Event]:
    """The first item is done, the second failed."""
    ends = [ItemFinished(1, replace(DONE, seconds=2.0)), ItemFinished(2, replace(LOST, seconds=4.0))]
    return [RunStarted("r1", "t", (), 8, ""), listed(count), *ends]


def test_an_audit_journal_holds_no_text_of_items(tmp_path: Path) -> None:
    secret = Outcome("answered", "PRIVATE", rests_on=("PRIVATE",), called=("PRIVATE",), notes=("PRIVATE",))
    events: list[Event] = [
        RunStarted("r1", "PRIVATE", (), 8, "", template="PRIVATE"),
        ItemsListed(("PRIVATE",), "PRIVATE", (), "", None, '"PRIVATE"'),
        ItemFinished(1, secret),
        ItemFinished(1, Outcome("failed", error="PRIVATE", failed=("PRIVATE",))),
    ]
    text = keep_events(tmp_path, "r1", *events, keep="audit").read_text(encoding="utf-8")
    assert text.count("ItemFinished") == 2
    assert "PRIVATE" not in text


def test_what_is_said_before_the_table_leaves_room_for_it() -> None:
    many = tuple(f"{n} " + "y" * 5_000 for n in range(500))
    failed = dict.fromkeys(range(1, 501), Outcome("failed", error="z" * 5_000))

    text = text_of(500, failed, 48_000, Outcome("partial", error="x" * 50_000, notes=many))

    assert len(text) <= 48_000
    assert text.count("\n| item ") == 501
    assert "and 490 more notes" in text
    assert "and 480 more" in text


def test_a_result_stays_within_its_limit_however_long_all_its_parts_are() -> None:
    notes = tuple(f"{n} " + "n" * 5_000 for n in range(20))
    answer = json.dumps({f"key {n}": "a" * 60 for n in range(20)})
    done = Outcome("answered", answer, notes=notes)
    outcomes = {n: Outcome("failed", error=f"{n} " + "e" * 5_000) if n <= 20 else done for n in range(1, 101)}
    items = ItemResults(replace(listed(100, "{}"), items=tuple(f"{n} " + "i" * 1_900 for n in range(100))), outcomes)
    items.combined = ItemsCombined(80)
    ended = Outcome("partial", "m" * 50_000, error="x" * 5_000, notes=notes, missing=("y" * 5_000,))

    assert 40_000 < len(ItemsReport("r", ended, (), items=items).text(limit=48_000)) <= 48_000
