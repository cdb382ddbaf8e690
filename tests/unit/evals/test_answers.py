"""The checks of answers that say several things: right ones in any form are taken, wrong ones are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from lmstudio_bridge.evals.answers import says_differences, says_not_there, says_number, says_together
from lmstudio_bridge.evals.checks import find_fault, says_json
from lmstudio_bridge.evals.suite import make_suite
from lmstudio_bridge.evals.tasks import Check, Task, World

MOMENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SEEDS = 30
WITHOUT_FACTS = ("edit-everywhere", "not-there")  # every seed's answer is much the same
DELEGATED = ("find-text", "all-files", "edit-everywhere", "compare", "totals", "not-there", "schema")


def fault(check: Check, answer: str, *, calls: int = 1) -> str:
    return check(World(Path(), Path("memory.jsonl"), answer, calls, MOMENT, MOMENT))


# -- what belongs to what ---------------------------------------------------------------------------------------------

TODOS = says_together(
    {"olive.py": ["check the lemon 4821", "check the raven 77"], "tulip.py": ["check the hazel 15"]}, never=["maple.py"]
)


@pytest.mark.parametrize(
    "answer",
    [
        "- olive.py: check the lemon 4821\n- olive.py: check the raven 77\n- tulip.py: check the hazel 15",
        "- tulip.py: TODO: check the hazel 15\n- src/olive.py: check the raven 77, check the lemon 4821",
        "### `src/olive.py`\n1. Check the lemon 4821\n2. check the raven 77\n### `src/tulip.py`\n1. check the hazel 15",
        "| file | TODO |\n|---|---|\n| olive.py | check the lemon 4821 |\n| olive.py | check the raven 77 |\n"
        "| tulip.py | check the hazel 15 |",
        "| TODO | file |\n|---|---|\n| check the lemon 4821 | olive.py |\n| check the hazel 15 | tulip.py |\n"
        "| check the raven 77 | olive.py |",
        "In olive.py there are check the lemon 4821 and check the raven 77. In tulip.py there is check the hazel 15.",
        "check the lemon 4821 (olive.py), check the hazel 15 (tulip.py) and check the raven 77 (olive.py)",
        'Here they are:\n[{"file": "olive.py", "text": "check the lemon 4821"}, {"file": "olive.py", '
        '"text": "check the raven 77"}, {"file": "tulip.py", "text": "check the hazel 15"}]',
        '[\n {\n  "text": "check the lemon 4821",\n  "file": "olive.py"\n },\n {\n  "text": "check the raven 77",\n'
        '  "file": "olive.py"\n },\n {\n  "text": "check the hazel 15",\n  "file": "tulip.py"\n }\n]',
        "olive.py,check the lemon 4821\nolive.py,check the raven 77\ntulip.py,check the hazel 15",
        "There are TODOs in olive.py and tulip.py:\n\n**olive.py**\n* check the lemon  4821\n* check the raven 77\n\n"
        "**tulip.py**\n* check the hazel 15",
    ],
)
def test_pairs_are_found_in_any_form(answer: str) -> None:
    assert fault(TODOS, answer) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("olive.py: check the lemon 4821\ntulip.py: check the hazel 15", "does not say check the raven 77"),
        ("check the lemon 4821, check the raven 77 and check the hazel 15", "does not say olive.py"),
        (
            "- olive.py: check the lemon 4821\n- tulip.py: check the hazel 15\n- tulip.py: check the raven 77",
            "raven 77",
        ),
        ("olive.py: check the hazel 15\ntulip.py: check the lemon 4821, check the raven 77", "another key"),
        ("olive.py and tulip.py: check the lemon 4821, check the raven 77, check the hazel 15", "another key"),
        (
            "olive.py: check the lemon 4821, check the raven 77\ntulip.py: check the hazel 15\nmaple.py: nothing",
            "also says maple.py",
        ),
        ("olive.py: check the lemon 482, check the raven 77\ntulip.py: check the hazel 15", "lemon 4821"),
    ],
)
def test_pairs_that_are_missing_or_mixed_up_are_refused(answer: str, why: str) -> None:
    assert why in fault(TODOS, answer)


COUNTS = says_together({"csv": [4], "log": [3], "xml": [7]})


@pytest.mark.parametrize(
    "answer",
    [
        "csv: 4, log: 3, xml: 7",
        "There are 4 .csv files, 3 .log files and 7 .xml files.",
        "There are four CSV files, three log files, and seven XML files: 14 in total.",
        "1. .csv: 4\n2. .log: 3\n3. .xml: 7",
        "| extension | files |\n| --- | --- |\n| `.csv` | 4 |\n| `.xml` | 7 |\n| `.log` | 3 |",
        '{"csv": 4, "log": 3, "xml": 7}',
        "- **.xml**: 7 files\n- **.log**: 3 files\n- **.csv**: 4 files",
        "*.csv 4\n*.log 3\n*.xml 7",
    ],
)
def test_counts_are_found_in_any_form(answer: str) -> None:
    assert fault(COUNTS, answer) == ""


@pytest.mark.parametrize(
    "answer",
    [
        "csv: 3, log: 4, xml: 7",
        "4 .csv files and 3 .log files",
        "1. .csv\n2. .log\n3. .xml",
        "csv: 4, log: 3, xml: 17",
        "",
    ],
)
def test_wrong_counts_are_refused(answer: str) -> None:
    assert fault(COUNTS, answer)


ROWS = says_together({"Ana": ["Bergen", 4821], "Bo": ["Cadiz", 1234]})


@pytest.mark.parametrize(
    "answer",
    [
        "| name | town | badge |\n|---|---|---|\n| Ana | Bergen | 4821 |\n| Bo | Cadiz | 1234 |",
        "| badge | name | town |\n|:-:|---|---|\n| 1,234 | Bo | Cadiz |\n| 4821 | Ana | Bergen |",
        "Ana lives in Bergen and has the badge 4821. Bo lives in Cadiz and has the badge 1234.",
        "name,town,badge\nAna,Bergen,4821\nBo,Cadiz,1234",
    ],
)
def test_rows_of_a_table_are_found(answer: str) -> None:
    assert fault(ROWS, answer) == ""


@pytest.mark.parametrize(
    "answer",
    ["| Ana | Cadiz | 4821 |\n| Bo | Bergen | 1234 |", "| Ana | Bergen | 4821 |", "Ana, Bergen, 4821\nBo, Cadiz"],
)
def test_wrong_rows_are_refused(answer: str) -> None:
    assert fault(ROWS, answer)


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (1234, "The total is 1234."),
        (1234, "1,234"),
        (1234, "It is **1.234**"),
        (1234, "1\u202f234 in all"),
        (1234, "1'234"),
        (1234, "1234.00"),
        (1234, "1,234.00 EUR"),
        (1234, "$1234"),
        (1234, "1000 + 234 = 1234"),
        (8, "There are eight."),
        (8, "8 of 19"),
        (Decimal("42.50"), "42.5 hours"),
        (Decimal("42.50"), "42,50"),
        (Decimal("1042.5"), "1,042.50"),
        (Decimal("42"), "42"),
    ],
)
def test_a_number_is_taken_as_people_write_it(wanted: Decimal | int, answer: str) -> None:
    assert fault(says_number(wanted), answer) == ""


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (1234, "1235"),
        (1234, "11234"),
        (1234, "1,234,000"),
        (1234, "1234.5"),
        (2, "1. yes\n2. no"),
        (8, "18"),
        (8, "8.5"),
        (Decimal("42.5"), "425"),
        (Decimal("42.5"), "42"),
        (1234, "one thousand"),
        (1234, ""),
    ],
)
def test_another_number_is_refused(wanted: Decimal | int, answer: str) -> None:
    assert fault(says_number(wanted), answer)


def test_a_number_that_shows_a_mistake_is_refused() -> None:
    check = says_number(700, never=(912, 300))

    assert fault(check, "500 + 200 = 700") == ""
    assert fault(check, "700, or 912 with all customers") == "the answer also says 912"


# -- what differs -----------------------------------------------------------------------------------------------------

DIFFERENCES = says_differences(
    {"port": (8080, 9090), "host": ("ana", "bo")}, equal=["debug", "wait"], names=("dev.ini", "prod.ini")
)


@pytest.mark.parametrize(
    "answer",
    [
        "port: 8080 in dev.ini, 9090 in prod.ini\nhost: ana in dev.ini, bo in prod.ini",
        "port: 8080 vs 9090; host: ana vs bo",
        "- host: ana -> bo\n- port: 8080->9090\n\nAll other settings (debug, wait) are the same.",
        "| setting | dev.ini | prod.ini |\n|---|---|---|\n| port | 8080 | 9090 |\n| host | ana | bo |",
        "dev.ini:\n- port = 8080\n- host = ana\n\nprod.ini:\n- port = 9090\n- host = bo",
        "The port is 8080 in dev.ini and 9090 in prod.ini. The host is ana in dev.ini and bo in prod.ini.",
        "In prod.ini the port is 9090 and the host is bo, while in dev.ini the port is 8080 and the host is ana.",
        '{"port": {"dev.ini": 8080, "prod.ini": 9090}, "host": {"dev.ini": "ana", "prod.ini": "bo"}}',
    ],
)
def test_differences_are_found_in_any_form(answer: str) -> None:
    assert fault(DIFFERENCES, answer) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("port: 8080 vs 9090", "does not say host"),
        ("port: 8080 vs 9090\nhost: ana vs ana", "does not say bo"),
        ("port: 8080 vs 9090\nhost: ana vs bo\ndebug: true vs true", "names debug as different"),
        ("port, host and wait differ.\nport: 8080 vs 9090\nhost: ana vs bo", "names wait as different"),
        ("port: 9090 in dev.ini, 8080 in prod.ini\nhost: ana in dev.ini, bo in prod.ini", "to the other side"),
        ("dev.ini has the host 8080 and the port ana, prod.ini has the host 9090 and the port bo", "another key"),
    ],
)
def test_wrong_differences_are_refused(answer: str, why: str) -> None:
    assert why in fault(DIFFERENCES, answer)


# -- what is not there ------------------------------------------------------------------------------------------------

NO_FAX = says_not_there("fax", "telefax", never=(481516, 234211), of_others=["Bo"])


@pytest.mark.parametrize(
    "answer",
    [
        "There is no fax number of Ana in contacts.txt.",
        "I could not find a fax number for Ana.",
        "The fax number of Ana in the file contacts.txt was not found.",
        "The file contacts.txt doesn't list a fax number for Ana, only her phone number, 481516.",
        "No fax number is listed for Ana. Her phone number is 481516.",
        "Fax: not found\nPhone: 481516",
        "I read the file contacts.txt; it has none. Let me know if you want the phone number instead.",
        '{"fax": null, "phone": 481516}',
        "Ana has no fax number: contacts.txt has only the phone number 481516.",
        "IMPOSSIBLE: there is no fax number.",
        "The fax number is not given (Bo has one: 234211).",
        "Bo has the fax number 234211, Ana has none.",
        "Unknown",
    ],
)
def test_a_denial_is_taken_in_any_words(answer: str) -> None:
    assert fault(NO_FAX, answer) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("The fax number of Ana is 481516.", "does not say that there is no fax"),
        ("Ana's number is 481516", "does not say"),
        ("I could not find it in notes.txt, but the fax number is 481516.", "gives 481516 as fax"),
        ("None of them is Bo's. Ana's telefax: 234211", "gives 234211 as fax"),
        ("No problem! Fax: 234211", "gives 234211 as fax"),
        ("I do not have access to the file.", "an excuse"),
        ("I'll need to read the file first; I have not done so.", "an excuse"),
        ("The file contacts.txt was not found.", "an excuse"),
        ("I cannot open files.", "an excuse"),
        ("", "does not say"),
    ],
)
def test_a_value_or_an_excuse_is_refused(answer: str, why: str) -> None:
    assert why in fault(NO_FAX, answer)


# -- JSON and the tasks themselves ------------------------------------------------------------------------------------


def test_json_may_have_its_lists_in_any_order_where_that_is_said() -> None:
    check = says_json({"a": [{"b": 1, "c": 2}, {"b": 3, "c": 4}]}, any_order=True)

    assert fault(check, '```json\n{"a": [{"c": 4, "b": 3}, {"b": 1, "c": 2}]}\n```') == ""
    assert fault(check, '{"a": [{"b": 1, "c": 4}, {"b": 3, "c": 2}]}')
    assert fault(check, '{"a": [{"b": 1, "c": 2}]}')
    assert fault(check, '{"a": [{"b": 1, "c": 2}, {"b": 3, "c": 4}], "d": 0}')
    assert fault(says_json([1, 2]), "[2, 1]")


def test_every_seed_makes_tasks_whose_solution_is_right_and_that_of_another_seed_wrong() -> None:
    refused: Counter[str] = Counter()
    for seed in range(SEEDS):
        tasks, others = (make_suite(seed=each, families=DELEGATED) for each in (seed, seed + SEEDS))
        assert {task.name: found for task in tasks if (found := fault(task.check, task.solution.answer))} == {}
        refused.update(
            task.name for task, other in zip(tasks, others, strict=True) if fault(task.check, other.solution.answer)
        )
    said = [task.name for task in make_suite(seed=0, families=DELEGATED) if task.family not in WITHOUT_FACTS]
    assert {name: refused[name] for name in said if refused[name] < SEEDS * 2 / 3} == {}, "few are alike by chance"


@pytest.mark.parametrize("task", make_suite(seed=3, families=["edit-everywhere"]), ids=lambda task: task.name)
def test_an_edit_that_misses_a_place_or_changes_more_is_found_out(task: Task, tmp_path: Path) -> None:
    """One changed line is left as it was, or one line that must stay is changed."""

    def judge(files: Mapping[str, str]) -> str:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return find_fault(task, World(tmp_path, Path("memory.jsonl"), "Done.", 3, MOMENT, MOMENT))

    assert task.files_after is not None
    right = dict(task.files_after)
    assert judge(right) == ""
    for name, text in right.items():
        old = task.files[name].splitlines(keepends=True)
        new = text.splitlines(keepends=True)
        for kind, first, last, start, end in SequenceMatcher(None, old, new).get_opcodes():
            lines = ["x\n"] if kind == "equal" else old[first:last]
            assert judge({**right, name: "".join([*new[:start], *lines, *new[end:]])})
    assert judge(right) == ""
