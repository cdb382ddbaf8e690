"""Which servers are started for a task."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.runs.server_selection import CANNOT_TELL, NAMED, UNKNOWN, USED, ServerChoice, choose_servers

FS = [
    ServerTool("fs", "read_file", "Read a file."),
    ServerTool("fs", "write_file", "Write a file."),
]
CLOCK = [ServerTool("clock", "now", "What time it is in a city.")]
MAIL = [ServerTool("mail", "send", "Send a letter to somebody.")]
WEB = [ServerTool("web", "fetch", "Gets a page.", {"type": "object", "properties": {"url": {}}})]
ALL: dict[str, Sequence[ServerTool] | None] = {"clock": CLOCK, "fs": FS, "mail": MAIL, "web": WEB}


def choose(
    task: str,
    known: dict[str, Sequence[ServerTool] | None] = ALL,
    *,
    max_chars: int = 10_000,
    used: Sequence[str] = (),
    similar: dict[tuple[str, str], float] | None = None,
) -> ServerChoice:
    return choose_servers(task, known, max_chars=max_chars, used=used, similar=similar)


def test_the_server_whose_tools_fit_is_started_and_the_others_are_not() -> None:
    assert choose("Write the poem down.") == ServerChoice({"fs": "for write_file"}, ("clock", "mail", "web"))


def test_servers_that_fit_nearly_as_well_are_started_too_the_best_first() -> None:
    assert choose("A letter about the time.") == ServerChoice({"mail": "for send", "clock": "for now"}, ("fs", "web"))


@pytest.mark.parametrize("task", ["Say hello.", "Größe?", "", "the of and"])
def test_all_are_started_if_the_task_tells_nothing(task: str) -> None:
    assert choose(task) == ServerChoice(dict.fromkeys(ALL, CANNOT_TELL), ())


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("Ask mail for help with the poem to write.", True),
        ("Ask MAIL for help with the poem to write.", True),
        ("An e-mail to write.", False),
        ("Mails to write.", False),
    ],
)
def test_a_server_that_the_task_names_is_started(task: str, named: bool) -> None:
    assert (choose(task).started.get("mail") == NAMED) is named


@pytest.mark.parametrize(("name", "named"), [("look_it_up", True), ("look-up", True), ("search", False)])
def test_a_tool_that_the_task_names_starts_its_server_unless_its_name_is_an_ordinary_word(
    name: str, named: bool
) -> None:
    known = {**ALL, "odd": [ServerTool("odd", name)]}

    assert (choose(f"Write with {name}.", known).started.get("odd") == NAMED) is named


def test_a_server_whose_tools_are_not_known_is_started_besides_those_that_fit() -> None:
    assert choose("Write it.", {**ALL, "new": None}) == ServerChoice(
        {"new": UNKNOWN, "fs": "for write_file"}, ("clock", "mail", "web")
    )
    assert choose("Größe?", {**ALL, "new": None}).left == (), "an unknown server is no sign that the others don't fit"


def test_a_server_that_was_used_before_is_started_again() -> None:
    assert choose("Write it.", used=["mail", "other"]).started == {"mail": USED, "fs": "for write_file"}


def test_a_server_without_tools_is_not_started() -> None:
    assert choose("Write it.", {**ALL, "prompts": []}).left == ("clock", "mail", "web", "prompts")


@pytest.mark.parametrize(
    ("task", "server"),
    [
        ("Summarise https://example.org/a.", "web"),
        ("Summarise (HTTP://example.org/a.txt)", "web"),
        ("Summarise notes.txt.", "fs"),
        ("Summarise `/var/log/syslog`", "fs"),
        ("Summarise src/", "fs"),
        ("Summarise ./src/app and a/b/c", "fs"),
        ("Summarise ~/notes", "fs"),
    ],
)
def test_addresses_and_paths_say_what_they_are(task: str, server: str) -> None:
    assert list(choose(task).started) == [server]


@pytest.mark.parametrize("word", ["e.g.", "i.e.", "3.14", "and/or", "end.", "https", "x" * 400 + ".txt"])
def test_other_words_with_dots_and_slashes_are_no_paths(word: str) -> None:
    assert choose(f"Summarise {word} poems").left == ()


@pytest.mark.parametrize(("spare", "count"), [(-1, 1), (0, 1), (1, 2)])
def test_servers_are_started_until_their_fitting_tools_fill_the_room(spare: int, count: int) -> None:
    [tool] = MAIL
    size = len("mail__send") + len(" Send a letter to somebody.") + len(json.dumps(tool.input_schema))

    assert len(choose("A letter about the time.", max_chars=size + spare).started) == count


def test_one_server_is_started_however_small_the_room_is() -> None:
    assert list(choose("Write the poem down.", max_chars=0).started) == ["fs"]


def test_the_tools_that_are_closest_in_meaning_count_as_fitting() -> None:
    similar = {("mail", "send"): 0.9, ("fs", "read_file"): 0.8, ("fs", "write_file"): 0.7, ("clock", "now"): 0.6}

    assert choose("Write to Ana.", similar=similar) == ServerChoice(
        {"fs": "for write_file, read_file", "mail": "for send"}, ("clock", "web")
    )
    assert choose("Write to Ana.", similar={("mail", "send"): 0.0, ("web", "fetch"): -0.5}).started == {
        "fs": "for write_file"
    }
    assert choose("Say hello.", similar=similar).left == (), "a closest one there always is"


def test_a_name_in_a_reason_is_cut_and_cannot_break_its_line() -> None:
    tool = ServerTool("odd", "poem\n\x1b[2J" + "x" * 60, "Poems.")

    assert choose("Poems!", {**ALL, "odd": [tool]}).started == {"odd": f"for poem[2J{'x' * 33}"}


words = st.sampled_from(["read", "file", "time", "city", "letter", "send", "fs", "x/y.txt", "http://a", "the", "ö"])
tasks = st.lists(words, max_size=8).map(" ".join)


@given(tasks, st.sets(st.sampled_from(sorted(ALL))), st.integers(0, 500))
def test_every_server_is_either_started_or_left_and_one_is_started(task: str, unknown: set[str], room: int) -> None:
    known = {name: None if name in unknown else tools for name, tools in ALL.items()}
    choice = choose(task, known, max_chars=room)

    assert sorted([*choice.started, *choice.left]) == sorted(ALL)
    assert choice.started
    assert unknown <= set(choice.started)
