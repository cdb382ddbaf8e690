"""What the events of a run add up to, and how they are told."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from lmstudio_bridge.events import (
    AnswerChecked,
    CallFinished,
    CallProgress,
    CallStarted,
    Event,
    FileChange,
    FilesChanged,
    Generating,
    MessageAdded,
    ModelChosen,
    Noticed,
    Outcome,
    ResultsShrunk,
    RetryScheduled,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    ServerFailed,
    ServerReady,
    ServersChosen,
    Stop,
    Tally,
    Warned,
)
from lmstudio_bridge.messages import Access, Notice, Usage, UserMessage

LOST = "The bridge ended before the run did."


def round_finished(number: int, text: str, *, model: str = "", usage: Usage | None = None) -> RoundFinished:
    return RoundFinished(number, text, "", (), "stop", model, usage, 1.0)


def call_finished(*, sent: bool, is_error: bool = False) -> CallFinished:
    return CallFinished(1, "c1", "fs", "read", "x", is_error, sent, 1.0)


def outcome_of(*events: Event) -> Outcome:
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally.outcome()


def test_run_without_any_event_counts_as_failed() -> None:
    assert outcome_of() == Outcome("failed", error=LOST)


def test_rounds_calls_and_tokens_are_added_up() -> None:
    got = outcome_of(
        RunStarted("r1", "task", ("fs",), 5, ""),
        ModelChosen("tiny", loaded=True, context_length=4096),
        RoundStarted(1, 5, 3),
        round_finished(1, "I look.", usage=Usage(10, 2, 1)),
        call_finished(sent=True),
        call_finished(sent=True, is_error=True),
        call_finished(sent=False, is_error=True),
        RoundStarted(2, 5, 3),
        round_finished(2, "Hello.", usage=None),
        round_finished(3, "Hello.", usage=Usage(20, 3, 0)),
        RunFinished("answered", "Hello.", "", 9.5),
    )

    assert got == Outcome(
        "answered", "Hello.", "", "tiny", 3, 2, Usage(30, 5, 1), 9.5, sources=("fs read",), failed=("read: failed",)
    )
    assert got.figures() == "3 rounds · 2 calls · 35 tokens · 9.5 s"


def test_model_is_the_one_that_answered_and_else_the_one_that_was_chosen() -> None:
    chosen = ModelChosen("tiny", loaded=None, context_length=None)

    assert outcome_of(chosen).model == "tiny"
    assert outcome_of(chosen, round_finished(1, "x", model="")).model == "tiny"
    assert outcome_of(chosen, round_finished(1, "x", model="tiny:2")).model == "tiny:2"
    assert outcome_of(chosen, round_finished(1, "x", model="tiny:2"), round_finished(2, "x")).model == "tiny:2"


def test_run_without_its_end_keeps_the_last_text() -> None:
    assert outcome_of(round_finished(1, "I look."), round_finished(2, "")) == Outcome(
        "failed", "I look.", LOST, rounds=2
    )


@pytest.mark.parametrize("stop", get_args(Stop))
def test_answer_is_what_the_end_says_whatever_was_said_before(stop: Stop) -> None:
    end = RunFinished(stop, "", "why", 2.0)

    assert outcome_of(round_finished(1, "I look."), end) == Outcome(stop, "", "why", rounds=1, seconds=2.0)


def test_warnings_and_servers_that_failed_are_kept_in_their_order() -> None:
    mended = Noticed(Notice("recovery", "It was lost and is back."))

    got = outcome_of(Warned("one"), ServerFailed("memory", "No such file."), mended, Warned("two"))

    assert got.warnings == ("one", "MCP server memory was left out: No such file.", "It was lost and is back.", "two")


def test_last_check_of_the_answer_counts() -> None:
    first = AnswerChecked(("1 ← a.txt:1",), ("4831",), "")
    last = AnswerChecked(("4781 ← notes.txt:3",), (), "read 3 of 7 files in docs/")

    got = outcome_of(first, last)

    assert (got.rests_on, got.missing, got.coverage) == (last.sources, (), last.coverage)
    assert outcome_of(first).missing == ("4831",)


def test_servers_that_were_chosen_are_kept_with_what_became_of_them() -> None:
    chosen = ServersChosen(("new", "odd", "fs"), ("unknown", "unknown", "for read"), ("git", "time", "web"))
    later = (ServerReady("fs", 3), ServerFailed("odd", "x"), ServerReady("git", 2), ServerFailed("web", "y"))

    assert outcome_of(chosen).started == ("new, odd (unknown)", "fs (for read)")
    assert outcome_of(chosen).not_started == ("git", "time", "web")
    got = outcome_of(chosen, *later)
    assert got.started == ("new (unknown)", "fs (for read)", "git (needed on the way)")
    assert got.not_started == ("time",)


@pytest.mark.parametrize(
    "event",
    [
        RunStarted("r1", "task", (), 5, ""),
        ServerReady("fs", 3),
        MessageAdded(UserMessage("x")),
        RoundStarted(1, 5, 3),
        Generating(1, "thinking", 1, 0.5),
        CallStarted(1, "c1", "fs", "read", "{}", "a.txt", writes=False),
        CallProgress("c1", "fs", "read", "50%"),
        RetryScheduled(1, 1.0, "busy"),
        Noticed(Notice("loading", "It is being loaded.")),
        Noticed(Notice("queue", "2 requests are before it.")),
        ResultsShrunk((3,), ("shorter",)),
    ],
)
def test_other_events_do_not_change_the_outcome(event: Event) -> None:
    assert outcome_of(event) == outcome_of()


# -- files ------------------------------------------------------------------------------------------------------

WRITTEN = CallFinished(1, "c1", "fs", "write", "ok", False, True, 1.0, about="a.txt", writes=True)
SAME = FileChange("a.txt", "unchanged", "file 644 1:2", "file 644 1:2")
NEW = FileChange("b.txt", "created", "", "file 644 1:2")


def test_writes_that_left_their_files_as_they_were_changed_nothing() -> None:
    got = outcome_of(WRITTEN, FilesChanged("/work", (SAME,), is_complete=True))

    assert (got.nothing_changed, got.changes) == (True, (SAME,))


@pytest.mark.parametrize(
    "told",
    [
        FilesChanged("/work", (SAME, NEW), is_complete=True),
        FilesChanged("/work", (SAME,), ("what git commit did",)),
        FilesChanged("/work", (), is_complete=True),
    ],
)
def test_writes_that_changed_something_or_may_have_are_no_reason_to_say_that_nothing_was(told: FilesChanged) -> None:
    assert not outcome_of(WRITTEN, told).nothing_changed


@pytest.mark.parametrize(("undos", "access"), [(1, "write"), (1, "read"), (2, "write"), (0, "write")])
def test_what_was_undone_must_be_changed_again_when_the_run_goes_on(undos: int, access: Access) -> None:
    told: list[Event] = [FilesChanged("/work", (NEW,)), *[FilesChanged("/work", (NEW,), is_undo=True)] * undos]
    again: list[Event] = [RunContinued("r", "", (), 8, "", access), RunFinished("answered", "Done.", "", 1.0)]

    assert outcome_of(WRITTEN, *told, *again).nothing_changed is (undos == 1)
    mailed = FilesChanged("/work", (NEW,), not_kept=("mail send",))  # no undo takes a mail back
    assert not outcome_of(WRITTEN, mailed, *told[1:], *again).nothing_changed


def test_each_undo_takes_the_last_one_back() -> None:
    changed, undo = FilesChanged("/work", (NEW,)), FilesChanged("/work", (NEW,), is_undo=True)

    assert [outcome_of(changed, *[undo] * times).undone for times in range(3)] == [False, True, False]
    assert outcome_of(changed, undo).changes == (NEW,)
    partial = replace(undo, is_partial=True)
    assert [outcome_of(changed, partial, *each).undone for each in ([], [undo])] == [False, True]
