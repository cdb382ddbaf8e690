"""The suite itself: each task can be done, and can fail."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from lmstudio_bridge.evals.checks import find_fault
from lmstudio_bridge.evals.results import Results
from lmstudio_bridge.evals.runner import EvalRequest, run_eval
from lmstudio_bridge.evals.sandbox import SERVERS, open_sandbox
from lmstudio_bridge.evals.suite import FAMILIES, make_suite
from lmstudio_bridge.evals.tasks import Task, World
from tests.unit.evals.desk import installed_servers, open_desk

MOMENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TASKS = make_suite(seed=1)
LONGEST_TEXT = 240  # characters; small models follow short tasks


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


CHANGING = [task for task in TASKS if task.access == "write"]
"""The tasks that want something done, and not only said."""


def test_there_are_seventeen_families_of_four_tasks_or_more_and_more_than_eighty_tasks() -> None:
    assert list(FAMILIES) == [
        *("one-call", "several-calls", "big-files", "edit-and-verify", "two-servers", "nothing-to-do", "impossible"),
        *("big-results", "structured", "find-text", "all-files", "edit-everywhere", "compare", "totals", "not-there"),
        *("schema", "for-each"),
    ]
    assert len(set(names(TASKS))) == len(TASKS) >= 80
    assert {server for task in TASKS for server in task.servers} == set(SERVERS)
    assert min(Counter(task.family for task in TASKS).values()) >= 4


def test_same_seed_gives_the_same_tasks_and_another_one_gives_others() -> None:
    texts, again, others = ([task.text for task in make_suite(seed=seed)] for seed in (7, 7, 8))

    assert texts == again
    assert sum(text != other for text, other in zip(texts, others, strict=True)) > len(texts) // 2


def test_a_task_stays_the_same_when_others_are_left_out() -> None:
    (first, second) = make_suite(seed=1, families=["structured"], most=2)

    assert [first.text, second.text] == [task.text for task in TASKS if task.family == "structured"][:2]


def test_tasks_that_want_json_have_a_schema_that_their_solution_fits() -> None:
    wanted = {task.name: task for task in TASKS if task.schema is not None}

    assert {task.family for task in wanted.values()} == {"structured", "schema"}
    assert len(wanted) == len(FAMILIES["structured"]) + len(FAMILIES["schema"])
    for task in wanted.values():
        answer = task.solution.answer.removeprefix("```json").removesuffix("```")
        Draft202012Validator(dict(task.schema or {})).validate(json.loads(answer))


def test_every_seed_makes_tasks_of_few_words() -> None:
    assert [task.text for seed in range(20) for task in make_suite(seed=seed) if len(task.text) > LONGEST_TEXT] == []


@pytest.mark.parametrize("task", TASKS, ids=names(TASKS))
def test_who_does_nothing_gives_up_or_leaves_a_mess_is_found_out(task: Task, tmp_path: Path) -> None:
    """Only what no tool could do may be given up without a look."""
    right_files = task.files if task.files_after is None else task.files_after
    with open_sandbox(tmp_path / "box", task, commands=SERVERS) as sandbox:

        def judge(answer: str, *, calls: int = 0) -> str:
            return find_fault(task, World(sandbox.folder, sandbox.memory, answer, calls, MOMENT, MOMENT))

        assert judge("Done.")
        assert bool(judge("IMPOSSIBLE")) is (task.name != "impossible/no-such-tool")
        if task in CHANGING:
            assert judge(task.solution.answer, calls=len(task.solution.calls))
        for name in task.files.keys() - right_files.keys():
            (sandbox.folder / name).unlink()
        for name, text in {**right_files, "stray.txt": "x"}.items():
            (sandbox.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (sandbox.folder / name).write_text(text, encoding="utf-8")
        assert judge(task.solution.answer, calls=9) == "there is a file too many: stray.txt"


def with_each_tool() -> list[Task]:
    """Those tasks that call a tool which no task of their family before them calls: others only name other files."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for task in TASKS:
        calls = {(task.family, call.server, call.tool) for call in task.solution.calls} or {(task.family, "", "")}
        if not calls <= seen:
            kept.append(task)
        seen |= calls
    return kept


@pytest.mark.npm
async def test_a_model_that_makes_the_right_calls_does_the_tasks_right(tmp_path: Path) -> None:
    """Through the whole bridge, with the real servers, and a simulated model that knows the solutions."""
    tasks = with_each_tool()
    seen: list[int] = []

    def keep(results: Results) -> None:
        seen.append(len(results.attempts))

    async with open_desk(tmp_path) as desk:
        desk.follow(tasks)
        request = EvalRequest(tasks, seed=1, parallel=4, commands=installed_servers())
        results = await run_eval(request, desk.settings, environ=desk.environ, say=lambda _: None, keep=keep)

    assert {each.task: (each.wrong, each.error) for each in results.attempts if not each.right} == {}
    assert sorted(each.task for each in results.attempts) == sorted(names(tasks))
    assert {each.task: each.calls for each in results.attempts} == {
        task.name: len(task.solution.calls) for task in tasks
    }
    assert seen == list(range(len(tasks) + 1)), "kept before the first and after each"
