"""Big results: what of them is shown, read on, and found."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.result_store import RESULT_TOOLS, ResultStore
from lmstudio_bridge.messages import ToolCall

NOTE = 300  # characters that may stand beside what is shown


def ask(store: ResultStore, tool: str, **arguments: object) -> tuple[str, bool]:
    found = store.answer(ToolCall("c1", tool, json.dumps(arguments)))
    assert found is not None
    return found


def read(store: ResultStore, name: str, offset: object) -> tuple[str, bool]:
    return ask(store, "read_result", id=name, offset=offset)


def search(store: ResultStore, name: str, text: str) -> tuple[str, bool]:
    return ask(store, "search_result", id=name, text=text)


# -- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_result_becomes_a_word(text: str) -> None:
    assert ResultStore(100).show(text) == "(no output)"


@pytest.mark.parametrize(("length", "whole"), [(99, True), (100, True), (101, False)])
def test_a_result_over_the_limit_is_kept_and_shown_by_its_head_and_tail(length: int, whole: bool) -> None:
    store = ResultStore(100)
    text = "h" * 70 + "m" * (length - 100) + "t" * (30 if length > 99 else 29)

    shown = store.show(text)

    cut = (
        f"{'h' * 70}\n[… 1 of 101 characters are not shown here. Read on with "
        'read_result(id="r1", offset=70), or search it with search_result(id="r1", text="…") …]\n'
        f"{'t' * 30}"
    )
    assert shown == (text if whole else cut)
    assert read(store, "r1", 0)[1] is whole


@given(st.text(max_size=400), st.integers(1, 50))
def test_what_is_shown_is_the_limit_and_a_short_note(text: str, limit: int) -> None:
    store = ResultStore(limit)

    assert len(store.show(text)) <= limit + NOTE
    for offset in (0, 1, limit, len(text), -1, 10**30):
        assert len(read(store, "r1", offset)[0]) <= limit + NOTE
    for wanted in (text, text[:1], "x" * 5_000, ""):
        assert len(search(store, "r1", wanted)[0]) <= limit + NOTE


# -- reading on -------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=400), st.integers(1, 60))
def test_reading_from_offset_to_offset_gives_the_whole_text(text: str, limit: int) -> None:
    store = ResultStore(limit)
    if store.show(text) == text or not text.strip():
        return
    pages: list[str] = []
    offset: int | None = 0
    while offset is not None:
        answer, is_error = read(store, "r1", offset)
        assert not is_error
        page, _, note = answer.rpartition("\n")
        pages.append(page)
        more = re.search(r"read on with offset=(\d+)\]", note)
        assert more or note.endswith("this is its end]")
        offset = int(more[1]) if more else None

    assert "".join(pages) == text


def test_a_page_says_where_it_is() -> None:
    store = ResultStore(10)
    store.show("0123456789abcde")

    assert read(store, "r1", 3) == ("3456789abc\n[r1, characters 3 to 13 of 15; read on with offset=13]", False)
    assert read(store, "r1", 5) == ("56789abcde\n[r1, characters 5 to 15 of 15; this is its end]", False)


@pytest.mark.parametrize(("offset", "is_error"), [(-1, True), (0, False), (10, False), (11, True), ("10", False)])
def test_an_offset_outside_the_text_is_an_error_that_says_the_range(offset: object, is_error: bool) -> None:
    store = ResultStore(10)
    store.show("0123456789a")
    refused = ("r1 has 11 characters; offset must be from 0 to 10.", True)

    assert (read(store, "r1", offset) == refused) is is_error


@pytest.mark.parametrize(
    ("tool", "arguments", "fragment"),
    [
        ("read_result", "{}", "read_result needs 'id'."),
        ("search_result", '{"id": "r1"}', "search_result needs 'text'."),
        ("search_result", '{"id": "r1", "text": ""}', "The text to find is empty."),
        ("read_result", "{", "read_result was not done: "),
        ("read_result", '{"id": "r1", "offset": "abc"}', "read_result was not done: "),
        ("read_result", '{"id": "r1", "offset": []}', "read_result was not done: "),
        ("read_result", '{"id": "r9", "offset": 0}', "There is no kept result 'r9' (there are: r1)."),
        ("search_result", '{"id": "r9", "text": "x"}', "There is no kept result 'r9' (there are: r1)."),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(tool: str, arguments: str, fragment: str) -> None:
    store = ResultStore(10)
    store.show("x" * 11)

    found = store.answer(ToolCall("c1", tool, arguments))

    assert found is not None
    assert found[0].startswith(fragment)
    assert found[1] is True


@given(st.text() | st.text(st.sampled_from('{}[]",:idoffset0r19- '), max_size=40), st.sampled_from(RESULT_TOOLS))
def test_any_arguments_are_answered(arguments: str, spec: object) -> None:
    name = getattr(spec, "name", "")

    assert ResultStore(10).answer(ToolCall("c1", name, arguments)) is not None


def test_calls_of_other_tools_are_not_answered_here() -> None:
    assert ResultStore(10).answer(ToolCall("c1", "fs__read_result", "{}")) is None


# -- searching --------------------------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("abAB İßſ.*\n"), min_size=1, max_size=120), st.text("abA.İ", min_size=1, max_size=3))
def test_every_occurrence_up_to_the_bound_is_found_where_it_is(text: str, wanted: str) -> None:
    text += "-" * 5_000
    store = ResultStore(5_000)
    store.show(text)

    shown = [int(place) for place in re.findall(r"(?m)^at (\d+): …", search(store, "r1", wanted)[0])]

    assert shown == [match.start() for match in re.finditer(re.escape(wanted), text, re.IGNORECASE)][:20]


@pytest.mark.parametrize("count", [1, 19, 20, 21, 22])
def test_so_many_occurrences_are_shown_and_the_next_is_named(count: int) -> None:
    store = ResultStore(5_000)
    store.show(("needle" + "." * 300) * count + "." * 5_000)

    answer, is_error = search(store, "r1", "NEEDLE")

    assert not is_error
    assert answer.count("needle") == min(count, 20)
    assert answer.endswith("[there are more, the next at 6120]") is (count > 20)


def test_an_occurrence_is_shown_with_what_stands_around_it() -> None:
    store = ResultStore(120)
    store.show("." * 500 + "a needle here" + "." * 500)

    assert search(store, "r1", "needle") == (f"at 502: …{'.' * 38}a needle here{'.' * 35}…", False)
    assert search(store, "r1", "thread") == ("'thread' does not occur in r1.", False)


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "kept"), [(29, ["r2", "r3"]), (30, ["r1", "r2", "r3"]), (31, ["r1", "r2", "r3"])])
def test_the_oldest_results_go_when_there_is_no_more_room(bound: int, kept: list[str]) -> None:
    store = ResultStore(5, max_kept=bound)
    for _ in range(3):
        store.show("x" * 10)

    assert [name for name in ("r1", "r2", "r3") if not read(store, name, 0)[1]] == kept


def test_the_newest_result_is_kept_however_large_it_is() -> None:
    store = ResultStore(5, max_kept=10)
    store.show("x" * 8)
    store.show("y" * 1_000)

    assert read(store, "r2", 995) == ("yyyyy\n[r2, characters 995 to 1000 of 1000; this is its end]", False)
    assert "there are: r2" in read(store, "r1", 0)[0]


def test_only_the_newest_names_are_listed_for_an_unknown_one() -> None:
    store = ResultStore(5)
    for _ in range(12):
        store.show("x" * 6)

    assert f"(there are: {', '.join(f'r{number}' for number in range(3, 13))})." in read(store, "r99", 0)[0]


def test_an_id_that_the_history_names_is_not_given_to_another_result() -> None:
    """A run that goes on in a new process has its old results no more."""
    before = ResultStore(5)
    history = [before.show("x" * 6), "no id here", before.show("y" * 6)]
    after = ResultStore(5, history=history)

    assert 'read_result(id="r3"' in after.show("z" * 6)
    assert "There is no kept result 'r1' (there are: r3)." in read(after, "r1", 0)[0]
