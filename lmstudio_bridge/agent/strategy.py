"""How a model is asked for tool calls, by what is known of it and by what it does. Pure.

Seen on a real engine: the same 0.5B weights make 0 to 16 of 20 right calls with the prompt template
alone, and finish all of them when calls are grammar-bound JSON, whatever the template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lmstudio_bridge.agent.stuck import Step

CallStyle: TypeAlias = Literal["native", "grammar"]

MAX_TOOLS_WEAK = 16  # tools that a model which is weak at calling can tell apart
SMALL_MODEL = 3.0  # billions of parameters; up to here, native calls mostly fail
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the run asks: native tool calls, or grammar-bound JSON; and how long it puts up with circles."""

    calls: CallStyle
    first_step: Step
    reason: str


NATIVE = Strategy("native", Step.REMIND, "asked for")
"""Native tool calls and full freedom: the way for models that are good at calling tools."""


def choose_strategy(
    name: str, *, trained_for_tool_use: bool | None, calls: Literal["auto", "native", "grammar"] = "auto"
) -> Strategy:
    """The way to begin with: what the user set, what LM Studio says of the model, its size as its name tells."""
    if calls == "grammar":
        return Strategy("grammar", Step.ANSWER_NOW, "set so")
    if calls == "native":
        return Strategy("native", Step.REMIND, "set so")
    if trained_for_tool_use:
        return Strategy("native", Step.REMIND, "trained for tool use")
    if trained_for_tool_use is False:
        return Strategy("grammar", Step.ANSWER_NOW, "not trained for tool use")
    size = parameters_in_billions(name)
    if size is not None and size <= SMALL_MODEL:
        return Strategy("grammar", Step.ANSWER_NOW, f"a small model ({size:g}B)")
    return Strategy("native", Step.REMIND, "not known otherwise")


def parameters_in_billions(name: str) -> float | None:
    """The size that a model's name tells: 0.5 for qwen2.5-coder-0.5b, None if it tells none."""
    sizes = [float(number) / (1000 if unit.lower() == "m" else 1) for number, unit in _SIZE.findall(name)]
    return max(sizes, default=None)
