"""`lmstudio-bridge eval` from the shell."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmstudio_bridge.cli.arguments import build_parser
from lmstudio_bridge.cli.eval import read_commands, read_request
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.evals.runner import Limits
from lmstudio_bridge.evals.sandbox import SERVERS
from lmstudio_bridge.evals.suite import make_suite
from tests.support.shell import ROOT, Shell
from tests.unit.evals.desk import Desk, open_desk, server_options


def parse(*words: str) -> object:
    return read_request(build_parser().parse_args(["eval", *words]))


def test_without_options_all_tasks_are_done_once_by_the_bridge_alone() -> None:
    request = read_request(build_parser().parse_args(["eval"]))

    assert [task.name for task in request.tasks] == [task.name for task in make_suite(seed=1)]
    assert (request.seed, request.model, request.loops) == (1, None, ("bridge",))
    assert (request.limits, request.parallel) == (Limits(15, 2_048, 300.0), 1)
    assert request.commands == SERVERS


def test_options_choose_tasks_limits_and_loops() -> None:
    words = "eval --model m --family structured --family one-call --tasks 2 --seed 7 --max-rounds 4 --max-tokens 99"
    words += " --seconds 5 --parallel 3 --baseline"
    request = read_request(build_parser().parse_args([*words.split(), "--server=time='my time' -x"]))

    assert [task.name for task in request.tasks] == [
        "structured/sum-as-json",
        "structured/time-as-json",
        "one-call/read-code",
        "one-call/add-numbers",
    ]
    assert [task.text for task in request.tasks] == [
        task.text for task in make_suite(seed=7, families=["structured", "one-call"], most=2)
    ]
    assert (request.seed, request.model, request.loops) == (7, "m", ("bridge", "baseline"))
    assert (request.limits, request.parallel) == (Limits(4, 99, 5.0), 3)
    assert request.commands == {**SERVERS, "time": ("my time", "-x")}


def test_unknown_family_is_told_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("--family", "two-call")

    assert "one-call, several-calls" in caught.value.explain()


@pytest.mark.parametrize("option", ["time", "time=", "clock=x", 'time="x', "=x"])
def test_server_that_cannot_be_started_so_is_told(option: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_commands([option])

    assert "NAME=COMMAND" in caught.value.explain()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


async def shell(desk: Desk, folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of the command."""
    return await Shell(folder, {**desk.environ, "PYTHONPATH": str(ROOT)}).run("eval", *words)


def sandboxes(folder: Path) -> list[Path]:
    return list(folder.glob("lmstudio-bridge-eval-*"))


@pytest.mark.npm
async def test_command_writes_table_json_and_page_and_shows_each_attempt(desk: Desk, tmp_path: Path) -> None:
    desk.answer("Done.")

    code, out, err = await shell(
        desk, tmp_path, "--family", "one-call", "--tasks", "1", "--baseline", "--output", "found", *server_options()
    )

    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines() if not line.startswith("-")] == ["family", "one-call", "all"]
    assert "[1/2] one-call/read-code · bridge · wrong: the answer does not say " in err
    assert "[2/2] one-call/read-code · baseline · wrong: " in err
    values = json.loads((tmp_path / "found" / "results.json").read_text(encoding="utf-8"))
    assert [(each["loop"], each["right"], each["stop"]) for each in values["attempts"]] == [
        ("bridge", False, "answered"),
        ("baseline", False, "answered"),
    ]
    assert (tmp_path / "home" / "runs" / f"{values['attempts'][0]['run_id']}.jsonl").exists()
    assert (tmp_path / "found" / "results.html").exists()
    assert sandboxes(tmp_path) == []


@pytest.mark.npm
async def test_json_goes_to_stdout_and_a_server_that_cannot_start_is_left_out(desk: Desk, tmp_path: Path) -> None:
    desk.follow(make_suite(seed=1))
    words = [*server_options(), "--server=time=no-such-command-here"]

    code, out, err = await shell(desk, tmp_path, "--family", "nothing-to-do", "--tasks", "2", "--json", *words)

    assert code == 0, err
    values = json.loads(out)
    assert [(each["task"], each["right"]) for each in values["attempts"]] == [("nothing-to-do/badge-in-task", True)]
    assert "no-such-command-here" in values["skipped"]["nothing-to-do/repeat-word"]


@pytest.mark.npm
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--model", "nobody/nothing"), 1, "nobody/nothing"),
        (("--output", "taken"), 2, "The results can't be written to taken"),
    ],
)
async def test_what_cannot_be_done_ends_it_before_any_task(
    desk: Desk, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")

    got, out, err = await shell(desk, tmp_path, "--family", "one-call", "--tasks", "1", *words, *server_options())

    assert (got, out) == (code, "")
    assert told in err
    assert not (tmp_path / "eval-results").exists()
    assert [request.path for request in desk.sim.requests if request.path == "/v1/chat/completions"] == []


@pytest.mark.npm
async def test_without_git_its_tasks_are_left_out(desk: Desk, tmp_path: Path) -> None:
    desk.follow(make_suite(seed=1))
    (tmp_path / "bin").mkdir()
    node = shutil.which("node")
    assert node
    (tmp_path / "bin" / "node").symlink_to(node)
    poor = dataclasses.replace(desk, environ={**desk.environ, "PATH": str(tmp_path / "bin")})

    code, out, err = await shell(poor, tmp_path, "--family", "big-results", "--json", *server_options())

    assert code == 0, err
    values = json.loads(out)
    assert [(each["task"], each["right"]) for each in values["attempts"]] == [
        ("big-results/whole-graph", True),
        ("big-results/whole-tree", True),
    ]
    assert set(values["skipped"].values()) == {"git is not installed"}
