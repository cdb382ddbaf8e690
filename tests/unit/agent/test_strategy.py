"""The way to begin with: what the user set, what LM Studio says, the size that a name tells."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.json_calls import Strategy, choose_strategy, parameters_in_billions
from lmstudio_bridge.agent.repetition import Step


def native(reason: str) -> Strategy:
    return Strategy("native", Step.REMIND, reason)


def grammar(reason: str) -> Strategy:
    return Strategy("grammar", Step.ANSWER_NOW, reason)


@pytest.mark.parametrize("trained", [True, False, None])
@pytest.mark.parametrize(
    ("calls", "expected"),
    [("native", native("Set by LMSTUDIO_BRIDGE_CALLS")), ("grammar", grammar("Set by LMSTUDIO_BRIDGE_CALLS"))],
)
def test_what_the_user_set_goes_before_all_else(
    calls: Literal["native", "grammar"], expected: Strategy, trained: bool | None
) -> None:
    assert choose_strategy("tiny-0.5b", trained_for_tool_use=trained, calls=calls) == expected


@pytest.mark.parametrize(
    ("name", "trained", "expected"),
    [
        ("qwen/qwen3-0.6b", True, native("Trained for tool use")),
        ("big-70b", False, grammar("Not trained for tool use")),
        ("qwen2.5-coder-0.5b", None, grammar("Small model (0.5B)")),
        ("gemma-270m", None, grammar("Small model (0.27B)")),
        ("llama-2.9b", None, grammar("Small model (2.9B)")),
        ("llama-3b", None, grammar("Small model (3B)")),
        ("llama-3.1b", None, native("Tool support unknown")),
        ("qwen/qwen3-4b", None, native("Tool support unknown")),
        ("gpt-oss", None, native("Tool support unknown")),
    ],
)
def test_what_lm_studio_says_goes_before_the_size(name: str, trained: bool | None, expected: Strategy) -> None:
    assert choose_strategy(name, trained_for_tool_use=trained) == expected


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("qwen2.5-coder-0.5b-instruct", 0.5),
        ("Qwen3-30B-A3B", 30),
        ("smollm2-135m", 0.135),
        ("llama-3.2-1b", 1),
        ("phi-4", None),
        ("gpt-oss-20b", 20),
        ("mistral-7b-v0.3", 7),
        ("model-q4_k_m", None),
        ("7 b", 7),
        ("", None),
        ("v2.1b2", None),
    ],
)
def test_the_size_is_the_largest_number_of_parameters_in_the_name(name: str, size: float | None) -> None:
    assert parameters_in_billions(name) == size


@given(st.text())
def test_any_name_has_a_strategy(name: str) -> None:
    assert choose_strategy(name, trained_for_tool_use=None).calls in ("native", "grammar")
