"""The words that the local model reads: few, and the same in each request."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from lmstudio_bridge.agent import prompts
from lmstudio_bridge.agent.conversation import CHARS_PER_TOKEN

TODAY = date(2026, 1, 2)


def test_system_prompt_is_the_same_bytes_each_time() -> None:
    folder = PurePosixPath("/home/someone/project")

    first, second = (prompts.system_prompt(today=TODAY, folder=folder) for _ in range(2))  # type: ignore[arg-type]

    assert first == second
    assert first.endswith(
        "\nToday is 2026-01-02. The working folder is /home/someone/project; paths are relative to it."
    )


def test_system_prompt_costs_little_context() -> None:
    folder = PureWindowsPath("C:/Users/someone/Documents/projects/a-name-of-usual-length")

    text = prompts.system_prompt(today=TODAY, folder=folder)  # type: ignore[arg-type]  # a path of any system

    assert len(text) / CHARS_PER_TOKEN < 250


@pytest.mark.parametrize("hint", [prompts.ANSWER_NOW, prompts.EMPTY_TURN, prompts.GOING_ON])
def test_hints_are_short_lines_without_shouting(hint: str) -> None:
    assert 0 < len(hint) / CHARS_PER_TOKEN < 50
    assert hint == hint.strip()
    assert not any(word.isupper() and len(word) > 1 for word in hint.split())
    assert "\n" not in hint
