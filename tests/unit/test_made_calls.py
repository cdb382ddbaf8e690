"""What the events say of the calls of a run: those that worked, those that failed, and whether anything was changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lmstudio_bridge.events import (
    INVALID_ARGUMENTS,
    NOT_ASKED,
    OWN_SERVER,
    READ_ONLY,
    UNKNOWN_TOOL,
    CallFinished,
    CallStarted,
    Event,
    Outcome,
    RoundFinished,
    RunContinued,
    RunFinished,
    RunStarted,
    Tally,
    Warned,
)
from lmstudio_bridge.messages import Access, Verdict

NEXT_TURN = RoundFinished(1, "", "", (), "tool_calls", "m", None, 1.0)
END = RunFinished("answered", "I wrote it.", "", 1.0)


def start(task: str = "Do it.", access: Access = "write") -> RunStarted:
    return RunStarted("r1", task, ("fs",), 5, "", access)


def go_on(instructions: str = "", access: Access = "write") -> RunContinued:
    return RunContinued("r1", instructions, ("fs",), 5, "", access)


def read(about: str, *, is_error: bool = False, tool: str = "read") -> CallFinished:
    return CallFinished(1, "c", "fs", tool, "x", is_error, True, 0, "allowed", about, writes=False, reason="no file")


def write(about: str, *, is_error: bool = False, sent: bool = True, rule: str = "") -> CallFinished:
    verdict: Verdict = "" if rule else "allowed"
    return CallFinished(
        1, "c", "fs", "write", "x", is_error, sent, 0, verdict, about, rule, about, writes=True, reason="no folder"
    )


def refused(about: str) -> CallFinished:
    return replace(write(about, is_error=True, sent=False), verdict="needs_write", rule="access=read")


def outcome_of(*events: Event) -> Outcome:
    tally = Tally()
    for event in (*events, END):
        tally.add(event)
    return tally.outcome()


# -- failed calls -----------------------------------------------------------------------------------------------------


def test_failed_and_refused_calls_are_named_with_the_reason_and_no_source() -> None:
    got = outcome_of(start(access="read"), read("a.md"), read("b.md", is_error=True, tool="stat"), refused("src/a.py"))

    assert got.failed == ('stat b.md: "no file"', "write src/a.py: needs write access")
    unasked = outcome_of(start(access="read"), replace(refused("src/a.py"), rule=NOT_ASKED))
    assert unasked.failed == ("write src/a.py: needs write access, and the run may ask the user no more questions",)
    assert got.sources == ("fs read",)
    assert got.called == ("read (a.md)",)
    assert got.failed_writes


@pytest.mark.parametrize(
    ("calls", "failed"),
    [
        ([write("a", is_error=True), write("a")], ()),
        ([write("a"), write("a", is_error=True)], ('write a: "no folder"',)),
        ([write("a", is_error=True), write("b")], ('write a: "no folder"',)),
        ([write("a", is_error=True), write("a", is_error=True)], ('write a: "no folder"',)),
        ([write("a", is_error=True), read("a")], ('write a: "no folder"',)),
        ([write("a", is_error=True), write("b", is_error=True), write("a")], ('write b: "no folder"',)),
    ],
)
def test_call_is_made_good_by_a_later_one_of_the_same_tool_about_the_same(
    calls: list[CallFinished], failed: tuple[str, ...]
) -> None:
    got = outcome_of(start(), *calls)

    assert (got.failed, got.failed_writes) == (failed, bool(failed))


def test_invalid_arguments_are_made_good_by_a_later_turns_call_of_the_same_tool() -> None:
    invalid = write("", is_error=True, sent=False, rule=INVALID_ARGUMENTS)

    assert outcome_of(start(), invalid, NEXT_TURN, write("a")).failed == ()
    assert outcome_of(start(), invalid, write("a")).failed == ("write: no folder",), "a call beside it is another one"
    assert outcome_of(start(), invalid, NEXT_TURN, read("a")).failed == ("write: no folder",)


@pytest.mark.parametrize(
    ("name", "good", "is_good"),
    [
        ("fs__writ", write("a"), True),
        ("fs__writ", write("b"), False),
        ("fs__writ", read("a"), False),
        ("fs__reed_list", read("a"), True),
    ],
)
def test_unknown_tool_is_made_good_by_a_later_call_about_the_same(name: str, good: CallFinished, is_good: bool) -> None:
    unknown = CallFinished(1, "c", "", name, "x", True, False, 0, "", "a", UNKNOWN_TOOL, writes=False, reason="no tool")

    assert outcome_of(start(), unknown, NEXT_TURN, good).failed == (() if is_good else (f"{name} a: no tool",))


def test_call_that_worked_and_is_only_not_made_again_has_not_failed() -> None:
    removed = write("a", is_error=True, sent=False)

    assert outcome_of(start(), write("a"), removed).failed == ()
    assert outcome_of(start(), write("b"), removed).failed == ("write a: no folder",)


def test_same_call_twice_in_a_turn_is_neither_a_source_nor_made_good() -> None:
    twice = write("a", sent=False)

    got = outcome_of(start(), write("a", is_error=True), twice)

    assert (got.failed, got.sources) == (('write a: "no folder"',), ())


def test_tools_of_the_bridge_are_left_out() -> None:
    own = CallFinished(1, "c", OWN_SERVER, "read_result", "x", True, False, 0, about="r1", writes=False)

    assert outcome_of(start(), own).failed == ()


def test_servers_are_named_where_several_have_the_tool() -> None:
    other = replace(read("b", is_error=True), server="git")

    got = outcome_of(start(), read("a"), other)

    assert (got.called, got.failed) == (("fs read (a)",), ('git read b: "no file"',))


@pytest.mark.parametrize(("length", "cut"), [(119, False), (120, False), (121, True)])
def test_reason_is_one_short_line(length: int, cut: bool) -> None:
    [failed] = outcome_of(start(), replace(read("a", is_error=True), reason="x" * length)).failed

    assert failed == f"""read a: "{"x" * min(length, 120)}{"…" if cut else ""}\""""


def test_names_of_others_stay_in_their_line() -> None:
    odd = replace(read("a\nb", is_error=True), tool="re\nad\x1b[2J", reason="no\n\nfile.\u200b")

    assert outcome_of(start(), odd).failed == ('"re ad" "a b": "no file"',)


@pytest.mark.parametrize(("length", "cut"), [(63, False), (64, False), (65, True)])
def test_name_of_a_tool_is_cut(length: int, cut: bool) -> None:
    [failed] = outcome_of(start(), read("", is_error=True, tool="t" * length)).failed

    assert failed == f"{'t' * min(length, 64)}{'…' if cut else ''}" + ': "no file"'


@pytest.mark.parametrize(
    ("abouts", "called"),
    [
        (["a"], "read (a)"),
        ([""], "read"),
        (["a", "b"], "read \N{MULTIPLICATION SIGN}2 (a, b)"),
        (["a", "a"], "read \N{MULTIPLICATION SIGN}2 (a)"),
        (["a", "b", "c"], "read \N{MULTIPLICATION SIGN}3 (a … c)"),
    ],
)
def test_calls_that_worked_are_grouped_by_tool(abouts: list[str], called: str) -> None:
    assert outcome_of(start(), *map(read, abouts)).called == (called,)


# -- nothing changed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "nothing"),
    [
        ([start(), write("a", is_error=True)], True),
        ([start(), write("a", is_error=True), write("b")], False),
        ([start(), read("a")], False),
        ([start("Write it into a.txt."), read("a")], True),
        ([start("Write it into a.txt.")], True),
        ([start("Write it into a.txt."), write("b")], False),
        ([start("Write it into a.txt.", "read"), read("a")], False),
        ([start("\u039b\u03cd\u03c3\u03b5 \u03c4\u03bf."), read("a")], True),  # in a script that is not known
        ([start("\u039b\u03cd\u03c3\u03b5 \u03c4\u03bf.", "read"), read("a")], False),
        ([start("What is it?", "read"), refused("a")], True),
        ([start("What is it?", "read"), write("a", is_error=True, sent=False, rule=INVALID_ARGUMENTS)], True),
    ],
)
def test_nothing_was_changed(events: list[Event], nothing: bool) -> None:
    assert outcome_of(*events).nothing_changed is nothing


def test_nothing_is_claimed_of_a_call_whose_result_was_lost() -> None:
    lost = replace(write("a", is_error=True), is_lost=True)

    got = outcome_of(start("Write it into a.txt."), lost)

    assert not got.nothing_changed
    assert got.failed == ("write a: no folder (it may have had effects)",)


def test_nothing_is_claimed_of_a_journal_that_does_not_say_which_calls_write() -> None:
    """As those of 0.1 (ours)."""
    old = replace(write("a"), writes=None)

    assert not outcome_of(start("Write it into a.txt."), old).nothing_changed
    assert outcome_of(start(access="read"), replace(refused("a"), writes=None, reason="")).nothing_changed


def test_run_that_goes_on_with_its_task_keeps_what_was_changed_and_what_failed() -> None:
    before = (start("Write it into a.txt."), write("a"), write("b", is_error=True), END)

    goes_on = outcome_of(*before, go_on())
    further = outcome_of(*before, go_on("Now delete b.txt."))

    assert (goes_on.nothing_changed, goes_on.failed) == (False, ('write b: "no folder"',))
    assert (further.nothing_changed, further.failed) == (True, ())


# -- calls without a result -------------------------------------------------------------------------------------------


def sent(tool: str = "write", *, writes: bool | None = True, about: str = "a") -> CallStarted:
    return CallStarted(1, "c", "fs", tool, "{}", about, writes)


def unfinished(*events: Event) -> Outcome:
    """The outcome of a run whose journal was cut off."""
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally.outcome()


@pytest.mark.parametrize("outcome", [outcome_of, unfinished])
def test_change_whose_result_never_came_may_have_happened(outcome: Callable[..., Outcome]) -> None:
    got = outcome(start("Write it into a.txt."), sent())

    assert got.failed == ("write a: no result came (it may have had effects)",)
    assert (got.failed_writes, got.nothing_changed, got.sources, got.called) == (True, False, (), ())


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        (sent("read", writes=False), ()),
        (sent("list_issues", writes=None, about=""), ()),
        (sent("do_it", writes=None, about=""), ("do_it: no result came (it may have had effects)",)),
    ],
)
def test_look_whose_result_never_came_has_changed_nothing(call: CallStarted, failed: tuple[str, ...]) -> None:
    assert outcome_of(start("Write it into a.txt."), call).failed == failed
    assert outcome_of(start("Write it into a.txt."), call).nothing_changed is not bool(failed)


def test_call_that_got_its_result_is_not_without_one() -> None:
    assert outcome_of(start(), sent(), write("a")).failed == ()
    assert outcome_of(start(), sent(), write("a", is_error=True)).failed == ('write a: "no folder"',)


def test_change_without_a_result_is_made_good_when_the_run_goes_on() -> None:
    before: list[Event] = [start("Write it into a.txt."), sent(), go_on()]

    assert outcome_of(*before).failed == ("write a: no result came (it may have had effects)",)
    assert outcome_of(*before, sent(), write("a")).failed == ()
    assert outcome_of(start(), sent(), go_on("Something else.")).failed == ()


@pytest.mark.parametrize(("made", "is_told"), [(write("a"), False), (read("a"), True)])
def test_that_a_run_could_only_read_is_not_said_of_one_that_was_allowed_to_write(
    made: CallFinished, is_told: bool
) -> None:
    outcome = outcome_of(start("Write a.", "read"), Warned(READ_ONLY), made)

    assert (READ_ONLY in outcome.notes, READ_ONLY in outcome.warnings) == (is_told, is_told)


GONE = replace(read("a", is_error=True), is_server_gone=True, reason="fs died")


@pytest.mark.parametrize(
    ("calls", "gone"),
    [
        ([GONE], '"fs died"'),
        ([GONE, refused("b")], '"fs died"'),
        ([GONE, read("b", is_error=True)], ""),
        ([read("b"), GONE], ""),
        ([GONE, NEXT_TURN, read("a")], ""),
        ([refused("b")], ""),
        ([], ""),
    ],
)
def test_where_no_call_worked_because_the_server_is_gone_it_says_why(calls: list[Event], gone: str) -> None:
    assert outcome_of(start(), *calls).gone == gone


def test_a_change_whose_result_says_that_it_failed_counts_as_failed() -> None:
    said = replace(write("a"), says_failed=True, reason="Database error: no such table")
    outcome = outcome_of(start(), said)
    mended = outcome_of(start(), said, write("a"))

    assert outcome.failed == ('write a: "Database error: no such table"',)
    assert (outcome.nothing_changed, outcome.failed_writes, outcome.sources) == (False, True, ())
    assert (mended.nothing_changed, mended.failed, mended.sources) == (False, (), ("fs write",))
