"""A short soak, in a process of its own so that what it leaves over can be counted; and the judge is no yes-man."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.events import Outcome
from scripts.tools.soak.faults import FAULTS
from scripts.tools.soak.model import BUDGETS, SAYS, STEPS, Met, judge

RUNS = 45
SEED = 7  # another seed is another soak: scripts/soak takes a new one each time
LIMIT = 300.0  # seconds until a soak that hangs fails the test

NONCES = {step: [f"{step:016x}"] for step in STEPS}
ANSWER = Outcome("answered", " ".join(nonce for each in NONCES.values() for nonce in each), calls=len(STEPS))


def soak(*options: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-W", "always::ResourceWarning", "-m", "scripts.tools.soak", *options]
    return subprocess.run(
        command, cwd=root, env=dict(os.environ), capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_runs_among_faults_all_end_rightly_and_leave_nothing_over() -> None:
    done = soak("--runs", str(RUNS), "--at-once", "20", "--seed", str(SEED))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"seed {SEED}: {RUNS} runs" in done.stdout
    assert "ResourceWarning" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_mcp_server_holds_out_as_well() -> None:
    done = soak("--runs", "9", "--at-once", "9", "--seed", str(SEED), "--stdio")

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_class_of_failure_is_among_the_faults() -> None:
    assert {fault.kind for fault in FAULTS} == {*BUDGETS, "empty_turn", "lost_tool_call", ""}
    assert set(SAYS) == set(BUDGETS)


def failed(kind: str) -> Outcome:
    return Outcome("failed", error=f"{SAYS[kind][0]} …")


def met(*kinds: str, known: int = 0) -> list[Met]:
    return [Met(kind, kind, known, True) for kind in kinds]


def test_a_right_answer_is_right_whatever_was_met() -> None:
    assert judge(ANSWER, met("", "busy", "", "overflow", ""), NONCES) == []


@pytest.mark.parametrize(("kind", "budget"), BUDGETS.items())
def test_a_failure_is_lawful_only_after_all_its_tries(kind: str, budget: int) -> None:
    assert judge(failed(kind), met(*[kind] * budget), {}) == []
    early = judge(failed(kind), met(*[kind] * (budget - 1)), {})
    assert len(early) == 1


@pytest.mark.parametrize(
    ("outcome", "given", "problem"),
    [
        (ANSWER, {**NONCES, 2: NONCES[2] * 2}, "step 2 was called 2 times"),
        (ANSWER, {step: NONCES[step] for step in STEPS[:-1]}, "answered after steps [1, 2, 3, 4]"),
        (ANSWER, {**NONCES, 5: ["f" * 16]}, f"nonce {'f' * 16} is missing"),
        (Outcome("deadline"), {}, "ended as deadline"),
        (Outcome("cancelled"), {}, "ended as cancelled"),
        (Outcome("stuck"), {}, "stuck after 0 poor replies"),
        (Outcome("failed", error="Oops."), {}, "the error has no class: 'Oops.'"),
        (failed("auth"), {}, "ended as auth, but the last fault was none ()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_judge_tells_what_is_wrong(outcome: Outcome, given: dict[int, list[str]], problem: str) -> None:
    assert problem in judge(outcome, met(""), given)


def test_a_failure_that_passes_is_no_excuse_for_another() -> None:
    assert judge(failed("busy"), met("rate_limited", "rate_limited", "overflow"), {}) != []


def test_asking_again_after_what_cannot_pass_is_wrong() -> None:
    assert judge(ANSWER, met("", "auth", ""), NONCES) == ["asked again after 'auth'"]
