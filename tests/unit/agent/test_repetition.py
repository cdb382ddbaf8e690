"""Circles: which are noticed, which answer comes next, and what is no circle."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.repetition import MadeCall, Repetition, RepetitionDetector, Step

AGAIN = "You called {} again with the same arguments, and the result was the same."
CIRCLE = "You repeated these calls: {}, with the same arguments and the same results."
FAILING = "{} has failed 3 times in a row with the same error."


def turn(name: str, arguments: str = "{}", result: str = "r", *, is_error: bool = False) -> tuple[MadeCall, ...]:
    return (MadeCall(name, arguments, result, is_error),)


def failed(name: str, arguments: str, error: str = "ENOENT") -> tuple[MadeCall, ...]:
    return turn(name, arguments, error, is_error=True)


def watch(*turns: tuple[MadeCall, ...], first_step: Step = Step.REMIND) -> list[Repetition | None]:
    """What each turn brought."""
    watching = RepetitionDetector(first_step=first_step)
    return [watching.add_turn(each) for each in turns]


def steps(found: Sequence[Repetition | None]) -> list[Step | None]:
    return [circle.step if circle else None for circle in found]


def test_each_further_repetition_counts_and_gets_the_next_step() -> None:
    assert watch(*[turn("a")] * 6) == [
        None,
        Repetition(Step.REMIND, 1, ("a",), AGAIN.format("a")),
        Repetition(Step.PRUNE, 2, ("a",), AGAIN.format("a")),
        Repetition(Step.REMOVE_TOOL, 3, ("a",), AGAIN.format("a")),
        Repetition(Step.ANSWER_NOW, 4, ("a",), AGAIN.format("a")),
        Repetition(Step.ANSWER_NOW, 5, ("a",), AGAIN.format("a")),
    ]


@pytest.mark.parametrize("length", [2, 3])
def test_a_cycle_of_a_few_turns_is_noticed_once_it_is_whole(length: int) -> None:
    names = "abc"[:length]
    found = watch(*[turn(name) for name in names * 2])

    assert found[:-1] == [None] * (2 * length - 1)
    assert found[-1] == Repetition(Step.REMIND, length, (names[-1],), CIRCLE.format(", ".join(names)))


def test_a_cycle_of_four_turns_is_no_circle() -> None:
    assert watch(*[turn(name) for name in "abcd" * 3]) == [None] * 12


@pytest.mark.parametrize(
    "other", [turn("b"), turn("a", '{"x": 1}'), turn("a", result="s"), turn("a", is_error=True), turn("a") * 2, ()]
)
def test_turns_that_differ_in_anything_are_no_circle(other: tuple[MadeCall, ...]) -> None:
    assert watch(turn("a"), other) == [None, None]


def test_a_turn_of_several_calls_repeats_only_as_a_whole_and_in_its_order() -> None:
    both, turned = turn("a") + turn("b"), turn("b") + turn("a")

    assert watch(both, turned, turn("a")) == [None] * 3
    assert watch(both, both)[1] == Repetition(Step.REMIND, 1, ("a", "b"), AGAIN.format("a, b"))


@pytest.mark.parametrize("times", [2, 3, 4])
def test_the_same_error_of_a_tool_is_noticed_the_third_time_whatever_the_arguments(times: int) -> None:
    found = watch(*[failed("a", f"{n}") for n in range(times)])

    expected = [None, None, *[Repetition(Step(n), 1, ("a",), FAILING.format("a")) for n in (1, 2)]]
    assert found == expected[:times]


@pytest.mark.parametrize(
    "third", [failed("b", "3"), failed("a", "3", "EACCES"), turn("a", "3", "ENOENT"), failed("a", "3") + turn("b")]
)
def test_three_turns_that_are_not_the_same_error_are_no_circle(third: tuple[MadeCall, ...]) -> None:
    assert watch(failed("a", "1"), failed("a", "2"), third) == [None] * 3


@pytest.mark.parametrize(("new_turns", "step"), [(3, Step.PRUNE), (4, Step.REMIND), (5, Step.REMIND)])
def test_enough_new_turns_in_a_row_forgive_a_circle(new_turns: int, step: Step) -> None:
    new = [turn("b", f"{number}") for number in range(new_turns)]

    assert steps(watch(turn("a"), turn("a"), *new, new[-1])) == [None, Step.REMIND, *[None] * new_turns, step]


def test_old_turns_between_new_ones_do_not_forgive() -> None:
    between = [turn("b"), turn("a"), turn("c"), turn("b"), turn("d"), turn("a"), turn("e"), turn("c")]

    found = watch(turn("a"), turn("a"), *between, turn("f"), turn("f"))

    assert steps(found) == [None, Step.REMIND, *[None] * 9, Step.PRUNE]


def test_a_model_that_heeds_no_reminders_is_asked_for_the_answer_at_once_and_each_time() -> None:
    assert steps(watch(*[turn("a")] * 3, first_step=Step.ANSWER_NOW)) == [None, Step.ANSWER_NOW, Step.ANSWER_NOW]


def test_turns_that_were_taken_out_count_no_more() -> None:
    watching = RepetitionDetector()
    for _ in range(3):
        found = watching.add_turn(turn("a"))
    assert found is not None
    watching.forget_turns(found.turns)

    assert watching.add_turn(turn("a")) == Repetition(Step.REMOVE_TOOL, 1, ("a",), AGAIN.format("a"))


def test_a_tool_that_only_fails_is_taken_away_before_an_answer_is_asked_for() -> None:
    """There is nothing yet to answer with; once taken away it does not count as found out."""
    fails = failed("a", "{}")

    found = watch(fails, fails, fails, turn("b"), turn("b"), first_step=Step.ANSWER_NOW)

    assert steps(found) == [None, Step.REMOVE_TOOL, Step.ANSWER_NOW, None, Step.ANSWER_NOW]


def test_a_search_that_finds_nothing_twice_is_taken_away_before_an_answer_is_asked_for() -> None:
    empty = (MadeCall("search", "{}", "[]", is_error=False, found_nothing=True),)

    assert steps(watch(empty, empty, first_step=Step.ANSWER_NOW)) == [None, Step.REMOVE_TOOL]


def test_nothing_to_forget_forgets_nothing() -> None:
    watching = RepetitionDetector()
    watching.add_turn(turn("a"))
    watching.forget_turns(0)

    assert watching.add_turn(turn("a")) is not None


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_the_turns_of_a_circle_only_repeat_those_before_them(names: list[str]) -> None:
    watching = RepetitionDetector()
    made: list[str] = []
    for name in names:
        made.append(name)
        circle = watching.add_turn(turn(name))
        tails = [made[-period:] == made[-2 * period : -period] for period in (1, 2, 3) if len(made) >= 2 * period]
        assert (circle is not None) == any(tails)
        if circle:
            kept, repeated = made[: -circle.turns], made[-circle.turns :]
            assert any(repeated == (kept[-period:] * 30)[: circle.turns] for period in (1, 2, 3))


@given(st.integers(0, 40), st.data())
def test_turns_with_results_of_their_own_never_are_a_circle(count: int, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))

    assert watch(*[turn(name, result=f"{n}") for n, name in enumerate(names)]) == [None] * count
