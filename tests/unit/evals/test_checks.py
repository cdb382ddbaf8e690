"""The checkers take what is right, in whatever words, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.evals import checks
from lmstudio_bridge.evals.sandbox import make_repository, run_git
from lmstudio_bridge.evals.tasks import REPOSITORY, Commit, World

MOMENT = datetime(2026, 3, 1, 23, 58, 30, tzinfo=UTC)


def world(answer: str = "", *, folder: Path = Path(), minutes: int = 3, calls: int = 1) -> World:
    return World(folder, folder / "memory.jsonl", answer, calls, MOMENT, MOMENT + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("text", "fact", "found"),
    [
        ("The code is heron-4821.", "heron-4821", True),
        ("The code is Heron-4821", "heron-4821", True),
        ("The code is heron\u20114821", "heron-4821", True),  # a hyphen that doesn't break, as some models write
        ("It is **heron-4821**!", "heron-4821", True),
        ("The code is heron-48211.", "heron-4821", False),
        ("sea-heron-4821x", "heron-4821", False),
        ("The sum is 117,365.", 117365, True),
        ("The sum is 117\u202f365", 117365, True),
        ("The sum is 117365.0", 117365, False),
        ("The sum is 1117365", 117365, False),
        ("1,117,365", 117365, False),
        ("heron-4821", 4821, True),
        ("2026-4821", 4821, False),
        ("", "x", False),
    ],
)
def test_a_fact_counts_only_as_a_whole(text: str, fact: object, found: bool) -> None:
    assert checks.holds(text, fact) is found


def test_an_answer_must_say_all_and_nothing_that_shows_a_guess() -> None:
    check = checks.says("one", "two", never=["three"])

    assert check(world("two, one")) == ""
    assert check(world("one")) == "the answer does not say two"
    assert check(world("one, two, three")) == "the answer also says three"


@pytest.mark.parametrize(
    "answer", ["20:05", "It is 20:05 there.", "8:05 PM", "8:05 p.m.", "2026-03-01T20:05:00+09:00", "20:05:59"]
)
def test_a_time_of_day_may_be_written_as_people_do(answer: str) -> None:
    assert checks.says_time(20 * 60 + 5)(world(answer)) == ""


@pytest.mark.parametrize("answer", ["8:05", "8:05 AM", "20:06", "120:05", "2026-03-01T09:00:00+20:05", "20:051", ""])
def test_another_time_of_day_is_wrong(answer: str) -> None:
    assert checks.says_time(20 * 60 + 5)(world(answer)) == "the answer does not say 20:05"


@pytest.mark.parametrize(
    ("answer", "right"),
    [("05:27", False), ("05:28", True), ("05:30", True), ("05:31", True), ("05:32", False), ("23:59", False)],
)
def test_the_time_now_is_any_at_which_the_task_was_under_way(answer: str, right: bool) -> None:
    """Began 23:58:30, ended 00:01:30, in a zone five and a half hours to the east."""
    assert (checks.says_now(offset=330)(world(answer)) == "") is right


@pytest.mark.parametrize("answer", ['{"a": [1, "x"]}', '\n{"a":[1,"x"]}\n', '```json\n{"a": [1, "x"]}\n```'])
def test_json_may_stand_alone_or_in_a_fence(answer: str) -> None:
    assert checks.says_json({"a": [1, "x"]})(world(answer)) == ""


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ('Here it is: {"a": 1}', "the answer is not JSON"),
        ('{"a": "1"}', 'the JSON of the answer is not {"a": 1}'),
        ('{"a": 1, "b": 2}', 'the JSON of the answer is not {"a": 1}'),
        ("[" * 100_000, "the answer is not JSON"),
        ("", "the answer is not JSON"),
    ],
)
def test_json_with_words_around_it_or_other_values_is_wrong(answer: str, wrong: str) -> None:
    assert checks.says_json({"a": 1})(world(answer)) == wrong


def test_impossible_must_be_said_in_the_word_that_was_asked_for() -> None:
    assert checks.says(checks.IMPOSSIBLE)(world("Impossible.")) == ""
    assert checks.says(checks.IMPOSSIBLE)(world("I have done it."))


@pytest.mark.parametrize(("calls", "wrong"), [(0, "it did not look"), (1, ""), (2, "")])
def test_a_look_may_be_asked_for(calls: int, wrong: str) -> None:
    assert checks.called(at_least=1)(world(calls=calls)) == wrong


@pytest.mark.parametrize(("calls", "wrong"), [(0, ""), (1, "it made 1 calls, where none was needed")])
def test_calls_may_be_forbidden(calls: int, wrong: str) -> None:
    assert checks.called(at_most=0)(world(calls=calls)) == wrong


def test_the_first_of_several_findings_is_told() -> None:
    check = checks.all_of(checks.says("a"), checks.says("b"), checks.says("c"))

    assert check(world("a")) == "the answer does not say b"
    assert check(world("a b c")) == ""


def test_files_are_compared_whole_but_for_white_space_at_their_end(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / REPOSITORY).mkdir()
    (tmp_path / REPOSITORY / "free.txt").write_text("x", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\n")
    (tmp_path / "box" / "b.txt").write_text("three", encoding="utf-8")

    assert checks.files_are(tmp_path, {"a.txt": "one\ntwo", "box/b.txt": "three\n"}) == ""
    assert checks.files_are(tmp_path, {"a.txt": "one\ntwo"}) == "there is a file too many: box/b.txt"
    assert checks.files_are(tmp_path, {"a.txt": "", "box/b.txt": "", "c.txt": ""}) == "there is no file c.txt"
    assert (
        checks.files_are(tmp_path, {"a.txt": "one two", "box/b.txt": "three"})
        == "the file a.txt does not hold what it should"
    )
    assert checks.files_are(tmp_path, {"a.txt": " one\ntwo", "box/b.txt": "three"})


def test_a_folder_may_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert checks.has_folder("file")(world(folder=tmp_path)) == "there is no folder file"
    assert checks.has_folder(".")(world(folder=tmp_path)) == ""


def save(folder: Path, *entries: dict[str, Any]) -> None:
    lines = [json.dumps(entry) for entry in entries]
    (folder / "memory.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_memory_is_read_from_its_file(tmp_path: Path) -> None:
    save(
        tmp_path,
        {"type": "entity", "name": "Ana", "entityType": "person", "observations": ["likes tea", "is tall"]},
        {"type": "relation", "from": "Ana", "to": "Bo", "relationType": "knows"},
    )
    there = world(folder=tmp_path)

    assert checks.remembers("ana", "tea", "tall")(there) == ""
    assert checks.remembers("Ana", "coffee")(there) == "the memory does not say coffee of Ana"
    assert checks.remembers("Bo")(there) == "the memory does not know Bo"
    assert checks.relates("Ana", "Bo")(there) == ""
    assert checks.relates("Bo", "Ana")(there) == "the memory has no relation from Bo to Ana"


def test_memory_without_a_file_knows_nobody(tmp_path: Path) -> None:
    assert checks.remembers("Ana")(world(folder=tmp_path)) == "the memory does not know Ana"


def test_git_is_asked_for_branch_and_last_commit(tmp_path: Path) -> None:
    repository = tmp_path / REPOSITORY
    make_repository(repository, [Commit("One", {"a": "1"}), Commit("Two", {"b": "2"}, "Bo")], unstaged={"a": "3"})
    there = world(folder=tmp_path)

    assert run_git(repository, "log", "--format=%an %s").splitlines() == ["Bo Two", "Ana One"]
    assert run_git(repository, "status", "--short").split() == ["M", "a"]
    assert checks.branch_is("main")(there) == ""
    assert checks.branch_is("other")(there) == "the branch is 'main'"
    assert checks.last_commit_is("Two", changed=["b"])(there) == ""
    assert checks.last_commit_is("One", changed=["a"])(there) == "the last commit is 'Two'"
    assert checks.last_commit_is("Two", changed=["a"])(there) == "the last commit changed b"
