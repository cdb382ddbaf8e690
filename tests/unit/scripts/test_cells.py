"""The matrix of scripts/evals: which cells there are, which are done, and the table of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from lmstudio_bridge.cli.arguments import build_parser
from lmstudio_bridge.cli.eval import read_request
from lmstudio_bridge.evals.page import save_results
from lmstudio_bridge.evals.results import Results
from lmstudio_bridge.evals.suite import FAMILIES, make_suite
from scripts.tools.engine.evals import (
    BEGIN,
    DOCUMENT,
    END,
    TEMPLATES_OF,
    Cell,
    all_cells,
    cell_rows,
    eval_command,
    join_results,
    parse_options,
    read_cell,
    write_document,
)
from scripts.tools.engine.weights import MODELS
from tests.unit.evals.test_results import attempt, plan

CELL = Cell("qwen2.5-coder-0.5b", "bare_json", "one-call")


def results(*, tasks: int) -> Results:
    """One task done by both loops and one left out, of so many."""
    found = [attempt("one-call/a", "bridge"), attempt("one-call/a", "baseline", "no", rounds=8, seconds=9.0)]
    whole = dataclasses.replace(plan("bridge", "baseline"), tasks=tasks)
    return Results(whole, found, {"one-call/b": "no uvx"})


def test_each_model_has_three_templates_that_are_there() -> None:
    cells = all_cells(TEMPLATES_OF, ["one-call"])

    assert len(cells) == 6
    assert all(cell.model in MODELS for cell in cells)
    assert [cell.chat_template.is_file() for cell in cells if cell.chat_template] == [True] * 4


def test_by_default_the_smallest_model_does_the_one_call_family() -> None:
    options = parse_options([])

    assert (options.model, options.family, options.only, options.again, options.all) == (None, None, "", False, False)
    assert min(TEMPLATES_OF) == "qwen2.5-coder-0.5b"


def test_the_command_of_a_cell_is_one_that_the_shell_takes() -> None:
    words = eval_command(CELL, CELL.folder(Path("cells")), tasks=3, seed=5, seconds=300)
    args = build_parser().parse_args(words)
    request = read_request(args)

    assert args.output == Path("cells/qwen2.5-coder-0.5b/bare_json/one-call")
    assert [task.text for task in request.tasks] == [
        task.text for task in make_suite(seed=5, families=["one-call"], most=3)
    ]
    assert (request.model, request.loops) == (CELL.model, ("bridge", "baseline"))


@pytest.mark.parametrize(("tasks", "done"), [(1, False), (2, True), (3, False)])
def test_a_cell_counts_as_done_when_all_its_tasks_were_tried_or_left_out(
    tmp_path: Path, tasks: int, done: bool
) -> None:
    assert read_cell(CELL, tmp_path) is None
    save_results(results(tasks=tasks), CELL.folder(tmp_path))

    assert (read_cell(CELL, tmp_path) == results(tasks=tasks)) is done


def test_a_row_shows_both_loops() -> None:
    heading, line, row = cell_rows([(CELL, results(tasks=2))])

    assert heading.count("|") == line.count("|") == row.count("|")
    assert row == (
        "| qwen2.5-coder-0.5b | bare_json | one-call | 1 | **1** | 0 | 1 | 0 | 0 / 1 | 2.0 / 8.0 "
        "| 1,100 / 1,100 | 1 / 9 | 2026-03-01 |"
    )


def test_the_table_is_put_between_its_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "evals.md"
    document.write_text(f"# Above\n\n{BEGIN}\n\n| old |\n\n{END}\n\nBelow\n", encoding="utf-8")

    write_document(document, ["| a |", "| b |"])
    write_document(document, ["| a |", "| b |"])

    assert document.read_text(encoding="utf-8") == f"# Above\n\n{BEGIN}\n\n| a |\n| b |\n\n{END}\n\nBelow\n"


def test_the_document_names_every_family_with_its_number_of_tasks_and_every_option() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert text.count(BEGIN) == text.count(END) == 1
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, flags=re.MULTILINE)) == {
        family: str(len(tasks)) for family, tasks in FAMILIES.items()
    }
    named = set(re.findall(r"`(--[a-z-]+)", text))
    known = set(vars(build_parser().parse_args(["eval"]))) | set(vars(parse_options([])))
    assert {option.removeprefix("--").replace("-", "_") for option in named} <= known
    assert f"runs {len(make_suite(seed=1))} small tasks" in text


def test_the_bridge_can_be_run_anew_beside_the_plain_loop_of_before() -> None:
    old = results(tasks=2)
    new = Results(dataclasses.replace(plan("bridge"), began="2027-01-01"), [attempt("one-call/a", "bridge", "no")])

    joined = join_results(new, old)

    assert joined.attempts == [new.attempts[0], old.attempts[1]]
    assert (joined.plan.loops, joined.plan.began) == (("bridge", "baseline"), "2027-01-01")
