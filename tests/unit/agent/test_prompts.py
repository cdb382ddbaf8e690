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


# -- texts of the bridge that come back as an answer -------------------------------------------------------------------

FILLED = [text for text in prompts.own_texts() if len(text) >= 30 and "{" not in text and text == text.strip()]


@pytest.mark.parametrize("text", FILLED)
def test_a_text_of_the_bridge_is_known_again(text: str) -> None:
    for form in ("{}", "{}\n{}", "**{}**", "*{}* ({})", "> {}\n", "OK. {}", "Assistant: {}\nOkay."):
        assert prompts.is_own_text(form.format(text, text))
        assert prompts.is_own_text(form.format(text, text).upper())


@pytest.mark.parametrize(
    "text",
    [
        prompts.LOOK_FIRST.format(tool="fs__list_directory"),
        prompts.GOING_ON,
        prompts.DID_YOU_MEAN.format(names="fs__read"),
        f"Sure. {prompts.TOOLS_ARE.format(names='fs__read, fs__list')}",
        prompts.NO_OTHER_TOOL + "\n\nOkay.",
        prompts.NOT_IN_RESULTS.format(facts="4711, 4712"),
        f"fs__read{prompts.NOT_CALLED}path: None is not of type 'string'",
        prompts.system_prompt(today=TODAY, folder=PurePosixPath("/home/someone")),  # type: ignore[arg-type]
        prompts.NAME_MISSING.replace(";", ":"),
        prompts.NAME_MISSING[:38],
        "xkqvtzmw",
        "Use it exactly as the task gives it.",
        "Answer the task now in plain text",
        "No tool call arrived. If you meant to call a tool",
        "You called fs__read_text_file again with the same arguments",
        "I was interrupted. Continue the task from here.",
        'Read on with read_result(id="r1", offset=700)',
        "**Note:** If a call fails, read the error and try another way.",
        f"{prompts.NAME_MISSING} " * 200_000,
    ],
)
def test_a_text_of_the_bridge_is_known_again_with_what_was_filled_in(text: str) -> None:
    assert prompts.is_own_text(text)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Teal.",
        "Nothing was found.",
        "No output.",
        "The call failed: ENOENT: no such file or directory, open 'a.txt'",
        "The result was the same.",
        "The task cannot be done: a.txt does not exist.",
        "No result says so.",
        "The working folder holds three files.",
        "Call Ada again with the same arguments that Bob gave, and do so before the meeting on Friday.",
        "Today is 2026-01-02.",
        "The working folder is /home/someone.",
        f"{prompts.NAME_MISSING} So I looked at the list of the folder, and the file is called notes.md.",
        "!" * 8_000_000,
        "a" + "!" * 8_000_000 + "b",
        prompts.COMBINE.format(items="60 items", counts="", answers='a: {"label": "bug"}\n' * 60, task="Sum up."),
    ],
)
def test_what_a_model_says_itself_is_not_taken_for_a_text_of_the_bridge(answer: str) -> None:
    assert not prompts.is_own_text(answer)


@pytest.mark.parametrize(("more", "own"), [(0, True), (56, True), (57, True), (58, False)])
def test_half_of_an_answer_makes_it_the_bridges(more: int, own: bool) -> None:
    assert len(prompts.NAME_MISSING.strip(".").replace(";", "")) == 57

    assert prompts.is_own_text(f"{prompts.NAME_MISSING}\n{'x' * more}") is own


def test_an_answer_to_the_example_in_the_prompt_is_no_answer() -> None:
    assert prompts.is_own_text("The letter in blue/7 is 20 years old.")
    assert not prompts.is_own_text("The file is in blue/7.")
