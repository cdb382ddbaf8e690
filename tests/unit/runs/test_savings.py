"""What a run saved: counted once, net, and told as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmstudio_bridge.events import CallFinished, Event, Outcome, RunContinued, RunFinished, RunStarted, Stop, Tally
from lmstudio_bridge.runs.journal import open_journal, read_events, rebuild_outcome
from lmstudio_bridge.runs.report import OWN_TOOLS, RunReport, Savings, estimate_savings

SAVED_ONE = "kept ~1,600 tokens out of Claude's context; delegating cost ~1,600"
START = RunStarted("r1", "T" * 100, ("fs",), 5, "")
END = RunFinished("answered", "A" * 200, "", 1.0)


def finished(text: str, *, digest: str, tool: str = "read", is_error: bool = False, sent: bool = True) -> CallFinished:
    return CallFinished(
        1, "c1", "fs", tool, text, is_error=is_error, sent=sent, seconds=0, digest=digest, definition=1_000
    )


def outcome_of(*events: Event) -> Outcome:
    tally = Tally()
    for event in (START, *events, END):
        tally.add(event)
    return tally.outcome()


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
    go_on = RunContinued("r1", "And now?", ("fs",), 5, "")

    outcome = outcome_of(finished("x" * 5_000, digest="a"), go_on, finished("x" * 50, digest="b"))

    assert (outcome.kept, outcome.brief) == (1_050, len("And now?"))


async def test_journal_alone_says_what_was_saved(tmp_path: Path) -> None:
    events: list[Event] = [START, finished("x" * 5_000, digest="a"), END]
    with open_journal(tmp_path, "r1") as journal:
        for event in events:
            journal.keep(event)

    rebuilt = rebuild_outcome(read_events(tmp_path / "r1.jsonl"))

    assert (rebuilt.kept, rebuilt.brief) == (6_000, 100)


def test_savings_are_net_of_our_own_tools_the_task_and_what_comes_back() -> None:
    outcome = Outcome("answered", brief=400, kept=40_000)

    assert estimate_savings(outcome, given_back=800) == Savings(10_000, (OWN_TOOLS + 400 + 800) // 4)


@pytest.mark.parametrize(("net", "said"), [(-1, ""), (0, ""), (1, SAVED_ONE)])
def test_run_that_cost_more_than_it_saved_says_nothing_of_it(net: int, said: str) -> None:
    report = RunReport("r1", Outcome("answered", "", kept=(OWN_TOOLS // 4 + net) * 4), ("fs",))

    assert (report.savings().net, report.saved()) == (net, said)


@pytest.mark.parametrize(
    ("stop", "says"), [("answered", True), ("stuck", True), ("failed", False), ("cancelled", False)]
)
def test_run_that_failed_or_was_cancelled_saved_nothing(stop: Stop, says: bool) -> None:
    assert bool(RunReport("r1", Outcome(stop, "", kept=1_000_000), ("fs",)).saved()) is says


def test_report_says_what_was_saved() -> None:
    spent = OWN_TOOLS // 4
    much = RunReport("r1", Outcome("answered", "", kept=(spent + 2_000) * 4), ("fs",))
    nothing = RunReport("r1", Outcome("answered", "", kept=(spent - 300) * 4), ("fs",))

    assert much.saved() == "kept ~3,600 tokens out of Claude's context; delegating cost ~1,600"
    assert nothing.saved() == ""
    assert "token" not in much.text()
    assert much.structure()["saved"] == {"kept": spent + 2_000, "spent": spent, "net": 2_000}
