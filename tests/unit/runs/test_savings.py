"""What a run saved: counted once, net, and told as what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmstudio_bridge.events import (
    OWN_TOOLS,
    CallFinished,
    Event,
    Outcome,
    RunContinued,
    RunFinished,
    RunStarted,
    Stop,
    Tally,
)
from lmstudio_bridge.runs.journal import read_events
from lmstudio_bridge.runs.report import RUN_COLUMNS, RunReport, Savings, run_row, savings_rows
from lmstudio_bridge.runs.resume import StoredRun, read_run
from tests.support.fakes import keep_events

START = RunStarted("r1", "T" * 100, ("fs",), 5, "2026-11-30T12:00:00+00:00", is_first=False)
END = RunFinished("answered", "A" * 200, "", 1.0)


def finished(text: str, *, digest: str, tool: str = "read", is_error: bool = False, sent: bool = True) -> CallFinished:
    return CallFinished(
        1, "c1", "fs", tool, text, is_error=is_error, sent=sent, seconds=0, digest=digest, definition=1_000
    )


def outcome_of(*events: Event) -> Outcome:
    return Tally([START, *events, END]).outcome()


def test_results_and_definitions_of_called_tools_stay_here() -> None:
    outcome = outcome_of(finished("x" * 5_000, digest="a"), finished("x" * 300, digest="b", tool="list"))

    assert (outcome.kept, outcome.brief) == (5_000 + 300 + 2 * 1_000, 100)


def test_what_nobody_would_have_read_twice_or_at_all_does_not_count() -> None:
    outcome = outcome_of(
        finished("x" * 5_000, digest="a"),
        finished("x" * 5_000, digest="a"),
        finished("No such file.", digest="b", is_error=True),
        finished("Not allowed.", digest="c", sent=False),
    )

    assert outcome.kept == 5_000 + 1_000


def test_run_that_goes_on_counts_from_there() -> None:
    go_on = RunContinued("r1", "And now?", ("fs",), 5, "", is_first=False)

    outcome = outcome_of(finished("x" * 5_000, digest="a"), go_on, finished("x" * 50, digest="b"))

    assert (outcome.kept, outcome.brief) == (1_050, len("And now?"))


async def test_journal_alone_says_what_was_saved(tmp_path: Path) -> None:
    path = keep_events(tmp_path, "r1", START, finished("x" * 5_000, digest="a"), END)

    rebuilt = Tally(read_events(path)).outcome()

    assert (rebuilt.kept, rebuilt.brief) == (6_000, 100)


@pytest.mark.parametrize(("is_first", "definitions"), [(True, OWN_TOOLS), (False, 0)])
def test_definitions_of_our_tools_count_in_the_first_run_of_a_session(is_first: bool, definitions: int) -> None:
    outcome = outcome_of(replace(START, is_first=is_first))

    assert outcome.brief == 100 + definitions


def test_savings_are_net_of_all_that_the_caller_read() -> None:
    report = RunReport("r1", Outcome("answered", "A" * 800, brief=400, kept=40_000), ("fs",))

    assert report.savings() == Savings(10_000, (400 + len(report.text())) // 4)
    assert len(report.text()) > 800, "with the line below the answer"


@pytest.mark.parametrize(
    ("net", "said"),
    [(-1, ""), (0, ""), (1, "kept ~1,000 tokens out of Claude's context; delegating cost ~1,000")],
)
def test_run_that_cost_more_than_it_saved_says_nothing_of_it(net: int, said: str) -> None:
    spent = RunReport("r1", Outcome("answered", brief=4_000), ("fs",)).savings().spent
    report = RunReport("r1", Outcome("answered", brief=4_000, kept=4 * (spent + net)), ("fs",))

    assert (report.savings().net, report.saved()) == (net, said)


@pytest.mark.parametrize(
    ("stop", "says"), [("answered", True), ("stuck", True), ("failed", False), ("cancelled", False)]
)
def test_run_that_failed_or_was_cancelled_saved_nothing(stop: Stop, says: bool) -> None:
    assert bool(RunReport("r1", Outcome(stop, "", kept=1_000_000), ("fs",)).saved()) is says


def test_report_says_what_was_saved() -> None:
    report = RunReport("r1", Outcome("answered", brief=6_000, kept=32_400), ("fs",))

    assert report.saved() == "kept ~8,100 tokens out of Claude's context; delegating cost ~1,500"
    assert "token" not in report.text()
    assert report.structure()["saved"] == {"kept": 8_100, "spent": 1_502, "net": 6_598}


def test_sums_are_of_each_day_and_of_all(tmp_path: Path) -> None:
    runs = [
        stored(tmp_path, "r1", START, finished("x" * 40_000, digest="a"), END),
        stored(tmp_path, "r2", START, finished("x" * 40_000, digest="a"), RunFinished("failed", "", "No.", 1.0)),
        stored(tmp_path, "r3", replace(START, started_at="2026-11-28T12:00:00+00:00"), END),
    ]

    assert savings_rows(runs) == [
        ["2026-11-30", "2", "~10,000", "~120", "~10,000"],
        ["2026-11-28", "1", "~0", "~92", "~-92"],
        ["in all", "3", "~10,000", "~210", "~10,000"],
    ]
    rows = [dict(zip(RUN_COLUMNS, run_row(run), strict=True)) for run in runs]
    assert [row["saved"] for row in rows] == ["10,160", "-28", "-92"], "what they add up to"
    assert savings_rows([]) == []


def stored(folder: Path, run_id: str, *events: Event) -> StoredRun:
    keep_events(folder, run_id, *events)
    return read_run(folder, run_id)
