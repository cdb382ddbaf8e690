"""Which words ask for a change, and which names say that a tool only reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.intent import asks_for_change, only_reads_by_name


@pytest.mark.parametrize(
    "task",
    [
        "Write it.",
        "Create a file a.txt with x",
        "Read a.txt, then write a summary to out.md.",
        "Please rename a.txt to b.txt",
        "In notes.txt, replace X with Y.",
        "1. Delete the folder tmp",
        "- Add a line to todo.md",
        "Look at the file. Update the version.",
        "Find the file that mentions X and delete it.",
        "Can you move a.txt to b?",
        "I want you to fix the typo in README.md",
        "Summarize docs/ and save the summary in out.md",
        "Write a summary of docs/a.md",
        "Write the word heron into b.txt",
        "Set the port to 80",
        "What is in a.txt?\nAppend it to b.txt.",
        "commit the changes",
        "Read notes/meeting.md, and store each person in the memory",
    ],
)
def test_task_that_plainly_asks_for_a_change(task: str) -> None:
    assert asks_for_change(task)


@pytest.mark.parametrize(
    "task",
    [
        "",
        "Read README.md and tell me what it is",
        "What is the code word?",
        "Read a.txt and write one sentence about it.",
        "Write a summary.",
        "Write a short summary of what you found.",
        "Which functions do read and write operations?",
        "How do I delete a file?",
        "What do create, update and delete do?",
        "Do not change anything.",
        "List the numbers and add up their values.",
        "Never write to files.",
        "Find the commit that broke it",
        "Create a list of all functions",
        "Tell me whether the settings changed.",
        "Read docs/a.md and sum it up in two sentences",
    ],
)
def test_task_that_only_asks_to_read(task: str) -> None:
    assert not asks_for_change(task)


@given(st.text())
def test_any_text_is_a_task(task: str) -> None:
    assert asks_for_change(f"{task}\nDelete a.txt.")


@pytest.mark.parametrize("name", ["read_text_file", "listIssues", "git_status", "getUser", "search-nodes", "LIST"])
def test_name_that_says_that_the_tool_only_reads(name: str) -> None:
    assert only_reads_by_name(name)


@pytest.mark.parametrize(
    "name",
    ["write_file", "create_entities", "search_and_replace", "set_list", "browser_navigate", "log_event", "", "x"],
)
def test_other_name(name: str) -> None:
    assert not only_reads_by_name(name)
