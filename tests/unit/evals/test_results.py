"""Figures, table and page of an eval."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lmstudio_bridge.evals.results import (
    ALL,
    Attempt,
    Loop,
    Pairs,
    Plan,
    Results,
    Sum,
    format_table,
    render_page,
    save_results,
    table_rows,
)
from lmstudio_bridge.events import Stop

VOID = {"meta"}  # tags that need no end here
OUTWARD = {"src", "href", "xlink:href", "action", "data", "srcset", "poster", "background"}


def plan(*loops: Loop) -> Plan:
    return Plan("qwen/qwen3-4b", 1, loops, 15, 2048, 300.0, 1, 4, "2026-03-01T12:00:00+00:00", "0.1")


def attempt(task: str, loop: Loop, wrong: str = "", *, rounds: int = 2, seconds: float = 1.0) -> Attempt:
    family = task.partition("/")[0]
    return Attempt(task, family, loop, wrong, "answered", rounds, 1, 1_000, 100, seconds, "It is <b>that</b> & more.")


PAIRED = Results(
    plan("bridge", "baseline"),
    [
        attempt("structured/a", "bridge", rounds=4, seconds=3.0),
        attempt("structured/a", "baseline", "the answer is not JSON"),
        attempt("one-call/a", "bridge"),
        attempt("one-call/a", "baseline"),
        attempt("one-call/b", "bridge"),
        attempt("one-call/b", "baseline", "the file <x> is missing"),
        attempt("one-call/c", "bridge", "no"),
        attempt("one-call/c", "baseline"),
        attempt("one-call/d", "bridge", "no", rounds=5),
    ],
    {"impossible/a": "uvx is <missing>"},
)


def test_families_come_in_the_order_of_the_suite() -> None:
    assert PAIRED.families() == ["one-call", "structured"]


def test_sums_are_means_of_one_attempt() -> None:
    assert PAIRED.sum("one-call", "bridge") == Sum(4, 2, 2, 2.75, 1_100.0, 1.0)
    assert PAIRED.sum(ALL, "bridge") == Sum(5, 3, 2, 3.0, 1_100.0, 1.4)
    assert PAIRED.sum("big-files", "bridge") == Sum(0, 0, 0, 0.0, 0.0, 0.0)
    assert PAIRED.sum("one-call", "bridge").share == 0.5
    assert Sum(0, 0, 0, 0.0, 0.0, 0.0).share == 0.0


@pytest.mark.parametrize(
    ("wrong", "stop", "flags", "looks_right"),
    [
        ("no", "answered", (), True),
        ("", "answered", (), False),
        ("no", "stuck", (), False),
        ("no", "answered", ("not found: 17",), False),
    ],
)
def test_wrong_answer_looks_right_unless_its_end_or_a_flag_says_otherwise(
    wrong: str, stop: Stop, flags: tuple[str, ...], looks_right: bool
) -> None:
    tried = dataclasses.replace(attempt("one-call/a", "bridge", wrong), stop=stop, flags=flags)

    assert tried.wrong_as_success == looks_right


def test_pairs_count_only_tasks_that_both_loops_tried() -> None:
    assert PAIRED.pairs("one-call") == Pairs(both=1, bridge_only=1, baseline_only=1, neither=0)
    assert PAIRED.pairs(ALL) == Pairs(both=1, bridge_only=2, baseline_only=1, neither=0)


def test_table_shows_both_loops_and_their_differences() -> None:
    figures = ["wrong as success", "rounds", "tokens", "seconds"]
    assert table_rows(PAIRED) == [
        ["family", "tasks", "bridge", *figures, "baseline", *figures, "only bridge", "only baseline"],
        ["one-call", "4", "2 (50%)", "2", "2.8", "1,100", "1.0", "2 (67%)", "1", "2.0", "1,100", "1.0", "1", "1"],
        ["structured", "1", "1 (100%)", "0", "4.0", "1,100", "3.0", "0 (0%)", "1", "2.0", "1,100", "1.0", "1", "0"],
        ["all", "5", "3 (60%)", "2", "3.0", "1,100", "1.4", "2 (50%)", "2", "2.0", "1,100", "1.0", "2", "1"],
    ]


def test_table_of_the_bridge_alone_stands_in_columns() -> None:
    results = Results(plan("bridge"), [attempt("one-call/a", "bridge"), attempt("structured/a", "bridge", "no")])

    assert format_table(table_rows(results)).splitlines() == [
        "family      tasks    bridge  wrong as success  rounds  tokens  seconds",
        "----------------------------------------------------------------------",
        "one-call        1  1 (100%)                 0     2.0   1,100      1.0",
        "structured      1    0 (0%)                 1     2.0   1,100      1.0",
        "all             2   1 (50%)                 1     2.0   1,100      1.0",
    ]


def test_results_are_saved_as_json_and_as_a_page(tmp_path: Path) -> None:
    save_results(PAIRED, tmp_path / "deep" / "folder")

    values = json.loads((tmp_path / "deep" / "folder" / "results.json").read_text(encoding="utf-8"))
    assert values == json.loads(json.dumps(PAIRED.to_json()))
    assert [each["family"] for each in values["families"]] == ["one-call", "structured", "all"]
    assert values["families"][0]["pairs"] == {"both": 1, "bridge_only": 1, "baseline_only": 1, "neither": 0}
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == ["results.html", "results.json"]


class Page(HTMLParser):
    """A page taken apart: texts and bars, and whatever is not closed or points outward."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outward: list[str] = []
        self.texts: list[str] = []
        self.bars: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.outward += [name for name, _ in attrs if name in OUTWARD or name.startswith("on")]
        values = dict(attrs)
        if tag == "i":
            self.bars.append(str(values["style"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("results", [PAIRED, Results(plan("bridge"))], ids=["paired", "empty"])
def test_page_is_whole_and_needs_nothing_from_elsewhere(results: Results) -> None:
    text = render_page(results)
    page = Page(text)

    assert page.open == []
    assert page.outward == []
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "script" not in page.tags
    assert "prefers-color-scheme: dark" in text


def test_page_shows_bars_figures_and_what_went_wrong() -> None:
    page = Page(render_page(PAIRED))

    assert page.bars == [f"width:{percent}%" for percent in ("50.0", "66.7", "100.0", "60.0", "50.0")]
    assert "qwen/qwen3-4b: 3 of 5 tasks right (60%), baseline 2 of 4 tasks right (50%)" in page.texts
    assert not any("T12:00" in text for text in page.texts)  # the time is for people
    assert "2 of 4" in page.texts
    assert "wrong: the file <x> is missing" in page.texts
    assert "impossible/a: uvx is <missing>" in page.texts
    assert page.texts.count("It is <b>that</b> & more.") == 9
