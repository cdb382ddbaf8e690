"""scripts/evals: what is selected, what is kept of it, and the tables made of that."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import re
from pathlib import Path

import pytest

from lmstudio_bridge.cli.arguments import build_parser
from lmstudio_bridge.evals.results import Attempt
from lmstudio_bridge.evals.suite import FAMILIES, make_suite
from lmstudio_bridge.events import Stop
from scripts.tools.engine import eval_results, evals
from scripts.tools.engine.meter import Reading, open_meter
from scripts.tools.engine.server import TEMPLATES
from scripts.tools.engine.weights import MODELS

CELL = eval_results.Cell("qwen2.5-coder-0.5b", "stock", "auto", "bridge", "one-call")


def line(
    task: str,
    wrong: str = "",
    *,
    seed: int = 1,
    requests: int = 2,
    cell: eval_results.Cell = CELL,
    stop: Stop = "answered",
    digest: str = "1",
) -> eval_results.Line:
    name = f"{cell.family}/{task}"
    attempt = Attempt(name, cell.family, cell.subject, wrong, stop, 2, 1, 900, 30, 4.0, "one\ntwo")
    return eval_results.Line(
        eval_results.Key(cell, seed, name), attempt, requests, 500, 30, "0.1 abc", "2026-03-01", digest
    )


def lines(*each: eval_results.Line) -> eval_results.Lines:
    return {one.key: one for one in each}


def keys(*words: str) -> list[eval_results.Key]:
    return [key for selection in evals.selections(evals.parse_options([*words])) for key, _ in selection.attempts()]


# -- what is selected -------------------------------------------------------------------------------------------------


def test_by_default_the_bridge_does_all_tasks_of_a_seed_with_the_smallest_model() -> None:
    assert [(key.cell.subject, key.seed, key.task) for key in keys()] == [
        ("bridge", 1, task.name) for task in make_suite(seed=1)
    ]
    assert {(key.cell.model, key.cell.template, key.cell.strategy) for key in keys()} == {
        ("qwen2.5-coder-0.5b", "stock", "auto")
    }


def test_options_select_and_only_the_bridge_has_a_strategy() -> None:
    words = "--models qwen2.5-coder-1.5b --subjects bridge,baseline --strategies auto --families compare,totals"
    found = keys(*words.split(), "--seeds", "2,3", "--tasks", "1")

    assert len(found) == 8
    assert {(key.cell.subject, key.cell.strategy) for key in found} == {("bridge", "auto"), ("baseline", "native")}
    assert {(key.cell.family, key.seed) for key in found} == {(f, s) for f in ("compare", "totals") for s in (2, 3)}
    assert [key.task for key in keys("--only", "one-call/read")] == ["one-call/read-code"]


@pytest.mark.parametrize("words", [["--families", "two-call"], ["--models", "x"], ["--seeds", "one"]])
def test_what_is_not_known_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evals.parse_options(words)


def test_a_model_is_only_run_under_its_own_templates_which_are_there() -> None:
    for model, templates in evals.TEMPLATES_OF.items():
        assert model in MODELS
        assert all((TEMPLATES / f"{name}.jinja").is_file() for name in templates if name != "stock")
    found = list(
        evals.Selection(tuple(evals.TEMPLATES_OF), ("worked_examples",), families=("one-call",), tasks=1).attempts()
    )
    assert [key.cell.model for key, _ in found] == ["qwen2.5-coder-0.5b"]


def test_the_whole_matrix_has_all_families_subjects_and_three_seeds() -> None:
    found = {key for selection in evals.whole_matrix(1) for key, _ in selection.attempts()}
    stock = {key for key in found if key.cell.template == "stock" and key.cell.strategy != "auto"}

    assert {key.seed for key in found} == {1, 2, 3}
    assert {key.cell.family for key in stock} == set(FAMILIES)
    assert {key.cell.subject for key in found} == set(evals.SUBJECTS)
    native = {key.cell.template for key in found if key.cell.subject == "bridge" and key.cell.strategy == "native"}
    assert native == {name for names in evals.TEMPLATES_OF.values() for name in names}


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_lines_come_back_as_they_were_and_the_later_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "attempts.jsonl"
    first, second, again = line("a"), line("b", "no"), line("a", "no", requests=5)

    assert eval_results.read_lines(path) == {}
    for each in (first, second, again):
        eval_results.append_line(path, each)

    assert eval_results.read_lines(path) == {first.key: again, second.key: second}


def test_after_a_cut_line_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_text(line("a").to_json()[:90], encoding="utf-8")

    eval_results.append_line(path, line("b"))

    assert list(eval_results.read_lines(path)) == [line("b").key]


# -- tables -----------------------------------------------------------------------------------------------------------

BEFORE = lines(line("a"), line("b", "no"), line("c", "no", stop="round_limit"), line("a", "no", seed=2, requests=4))


def test_a_row_adds_up_a_family_and_another_one_all_families() -> None:
    rows = eval_results.table(BEFORE)

    assert rows[1:] == [
        ["qwen2.5-coder-0.5b", "stock", "auto", "bridge", name, "4", "1 (25%)", "2", "2.5", "500", "30", "4"]
        for name in ("one-call", "all")
    ]
    assert len(rows[0]) == len(rows[1])
    assert eval_results.as_markdown(rows)[1] == "|" + " --- |" * len(rows[0])


def test_a_comparison_takes_what_both_have_and_names_what_was_won_and_lost() -> None:
    after = lines(line("a", "other", requests=4), line("b"), line("d"))

    assert eval_results.compare(BEFORE, after)[1][5:9] == ["2", "1 (50%) → 1 (50%)", "1 → 1", "2.0 → 3.0"]
    assert eval_results.changes(BEFORE, after) == [
        "lost  qwen2.5-coder-0.5b stock auto bridge one-call/a seed 1: other",
        "won   qwen2.5-coder-0.5b stock auto bridge one-call/b seed 1",
    ]


def test_a_task_that_was_changed_is_another_one() -> None:
    first, same, other = (make_suite(seed=seed, families=["totals"], most=1)[0] for seed in (1, 1, 2))

    assert eval_results.digest_of(first) == eval_results.digest_of(same) != eval_results.digest_of(other)
    assert eval_results.compare(lines(line("a", digest="1")), lines(line("a", digest="2"))) == [
        eval_results.table({})[0]
    ]
    assert eval_results.changes(lines(line("a", digest="1")), lines(line("a", "no", digest="2"))) == []


def test_families_come_in_the_order_of_the_suite_and_subjects_apart() -> None:
    cells = [dataclasses.replace(CELL, family="totals"), CELL, dataclasses.replace(CELL, subject="baseline")]
    rows = eval_results.table(lines(*(line("a", cell=cell) for cell in cells)))

    assert [row[3:5] for row in rows[1:]] == [
        ["baseline", "one-call"],
        ["baseline", "all"],
        ["bridge", "one-call"],
        ["bridge", "totals"],
        ["bridge", "all"],
    ]


# -- the document -----------------------------------------------------------------------------------------------------


def test_the_tables_are_put_between_their_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "evals.md"
    document.write_text(f"# Above\n\n{evals.BEGIN}\n\n| old |\n\n{evals.END}\n\nBelow\n", encoding="utf-8")
    plain = dataclasses.replace(CELL, subject="baseline", strategy="native")
    known = lines(*BEFORE.values(), line("a", cell=plain), line("e", cell=dataclasses.replace(CELL, family="totals")))

    evals.write_document(document, known)
    once = document.read_text(encoding="utf-8")
    evals.write_document(document, known)

    assert document.read_text(encoding="utf-8") == once
    assert once.startswith(f"# Above\n\n{evals.BEGIN}\n\nRight")
    assert once.endswith(f"Versions and commits: 0.1 abc (2026-03-01).\n\n{evals.END}\n\nBelow\n")
    assert "old" not in once
    assert "| model | template | family | bridge, auto | baseline |" in once
    assert "| qwen2.5-coder-0.5b | stock | one-call | 1 of 4 (2) | 1 of 1 (0) |" in once
    assert "| qwen2.5-coder-0.5b | stock | totals | 1 of 1 (0) |  |" in once
    assert "| qwen2.5-coder-0.5b | stock | one-call | 2.5 · 500 · 30 · 4 | 2.0 · 500 · 30 · 4 |" in once


def test_the_document_names_every_family_with_its_number_of_tasks_and_every_option() -> None:
    text = evals.DOCUMENT.read_text(encoding="utf-8")

    assert text.count(evals.BEGIN) == text.count(evals.END) == 1
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, flags=re.MULTILINE)) == {
        family: str(len(tasks)) for family, tasks in FAMILIES.items()
    }
    options: argparse.Namespace = evals.parse_options([])
    known = set(vars(build_parser().parse_args(["eval"]))) | set(vars(options))
    named = set(re.findall(r"(--[a-z][a-z-]+)", text))
    assert {option.removeprefix("--").replace("-", "_") for option in named} <= known
    assert f"runs {len(make_suite(seed=1))} small tasks" in text
    assert all(f"`{subject}`" in text for subject in evals.SUBJECTS)


# -- the meter --------------------------------------------------------------------------------------------------------


async def test_the_meter_counts_requests_and_passes_everything_on() -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"llamacpp:prompt_tokens_total 70\nllamacpp:tokens_predicted_total 9\nllamacpp:requests_processing 0\n"
        if not head.startswith(b"GET /metrics"):
            body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def ask(url: str, *pieces: bytes) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    async with server, open_meter(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as meter:
        before = await meter.read()
        answer = await ask(meter.url, b"POST /v1/chat/comp", b"letions HTTP/1.1\r\n", b"\r\nbody")
        await ask(meter.url, b"POST /v1/chat/completions HTTP/1.1\r\n\r\nmore")
        await ask(meter.url, b"GET /v1/models HTTP/1.1\r\n\r\nnone")

        assert answer.endswith(b"body")
        assert before == Reading(0, 70, 9)
        assert await meter.read() - before == Reading(2, 0, 0)
