"""What a small model may begin with, by the words of the task."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.first_call import first_tools, is_done_by, names_file
from lmstudio_bridge.agent.json_calls import reply_schema
from lmstudio_bridge.messages import ToolSpec

PATH = {"type": "object", "properties": {"path": {"type": "string"}}}
NONE = {"type": "object", "properties": {}}
READING = [
    *(ToolSpec(name, "", PATH) for name in ("find_text", "read_files", "compare_files", "count_files", "total_column")),
    ToolSpec("fs__read_text_file", "", PATH),
    ToolSpec("clock__now", "", NONE),
]
WRITING = [ToolSpec("replace_text", "", PATH), *READING]


@pytest.mark.parametrize(
    ("task", "tool"),
    [
        ("Which file defines parse_header?", "find_text"),
        ("Where is maxRetries set?", "find_text"),
        ("List all TODOs with their files.", "find_text"),
        ('Find the sentence "the gate opens at dawn".', "find_text"),
        ("Which letters mention the order K-6638?", "find_text"),
        ("Read a.txt, b.txt and c.txt into one table.", "read_files"),
        ("What is the status in each of the files in jobs?", "read_files"),
        ("Which file in the folder scores has the highest score?", "read_files"),
        ("Compare dev.ini and prod.ini.", "compare_files"),
        ("Which names are in a.txt but not in b.txt?", "compare_files"),
        ("Count the files in src by extension.", "count_files"),
        ("How many Python files are there?", "count_files"),
        ("What is the total amount of Meyer in orders.csv?", "total_column"),
        ("How many tickets in tickets.csv are solved?", "total_column"),
    ],
)
def test_a_task_that_says_what_it_is_about_begins_with_the_tool_for_it(task: str, tool: str) -> None:
    assert [spec.name for spec in first_tools(task, READING)] == [tool]


@pytest.mark.parametrize(
    "task",
    [
        "Rename MAX_SIZE to LIMIT in all files.",
        "Replace old.example.com by new.example.com in conf.",
        "Change the port in a.ini from 1 to 2.",
    ],
)
def test_a_replacement_begins_with_the_tool_for_it_where_it_is_offered(task: str) -> None:
    assert [spec.name for spec in first_tools(task, WRITING)] == ["replace_text"]
    assert "replace_text" not in [spec.name for spec in first_tools(task, READING)]


@pytest.mark.parametrize("task", ["Rename the file a.txt to b.txt.", "Move the file a.txt into docs."])
def test_a_file_is_renamed_or_moved_by_the_tool_for_it(task: str) -> None:
    move = ToolSpec("fs__move_file", "", PATH)
    assert list(first_tools(task, [*WRITING, move])) == [move]


def test_a_task_about_a_folder_begins_with_a_tool_that_takes_a_path() -> None:
    names = [spec.name for spec in first_tools("There is one file in the folder box. What is its name?", READING)]
    assert "count_files" in names
    assert "clock__now" not in names


@pytest.mark.parametrize("task", ["Which port is set in config.json?", "Rename the file a.txt to b.txt."])
def test_a_task_that_names_a_file_begins_with_a_tool_that_takes_a_path(task: str) -> None:
    names = [spec.name for spec in first_tools(task, WRITING)]
    assert "fs__read_text_file" in names
    assert "clock__now" not in names


@pytest.mark.parametrize(
    ("task", "others"),
    [("Which port is set in config.json?", False), ("How large is config.json?", True), ("Where is a.txt?", True)],
)
def test_a_question_about_one_file_begins_with_reading_it(task: str, others: bool) -> None:
    names = [spec.name for spec in first_tools(task, READING)]
    assert {"fs__read_text_file", "find_text"} <= set(names)
    assert ("count_files" in names) is others


@pytest.mark.parametrize(
    "task",
    [
        "What time is it in Tokyo?",
        "Say hello to Goran.",
        "How many are 4 apples and 2 apples?",
        'Where does Kofi live? Answer only with JSON like this: {"name": "Kofi", "file": "a.txt"}',
        "Add 22279 and 64165 with the tool.",
    ],
)
def test_any_tool_may_come_first_where_the_task_does_not_say(task: str) -> None:
    assert not first_tools(task, READING)


def test_nothing_is_restricted_to_a_tool_that_is_not_offered() -> None:
    assert not first_tools("Which file defines parse_header?", [ToolSpec("clock__now", "", NONE)])


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("Read notes.txt.", True),
        ("Read docs/a-b.md now", True),
        ("Ask example.com.", True),
        ("Version 3.11 of it", False),
        ("Call os.path.join()", False),
        ('Answer like {"file": "a.txt"}', False),
        ("Nothing. Here", False),
    ],
)
def test_names_of_files_are_told_from_other_words(task: str, names: bool) -> None:
    assert names_file(task) is names


LOG = ToolSpec(
    "git__git_log",
    "",
    {
        "type": "object",
        "properties": {"repo_path": {"type": "string"}, "max_count": {"type": "integer", "default": 10}},
        "required": ["repo_path"],
    },
)


@pytest.mark.parametrize(
    "task",
    [
        "There is a git repository in the folder repo. What is the message of its last commit?",
        "Who made the most recent commit in repo?",
        "When was the latest commit made?",
    ],
)
def test_of_a_log_only_the_newest_commit_is_read_where_the_task_asks_for_it(task: str) -> None:
    (log,) = first_tools(task, [*READING, LOG])
    assert log.name == LOG.name
    assert log.parameters["properties"]["max_count"] == {"type": "integer", "enum": [1]}
    assert log.parameters["required"] == ["max_count", "repo_path"]
    assert reply_schema([log])["anyOf"][0]["properties"]["arguments"]["properties"]["max_count"]["enum"] == [1]


@pytest.mark.parametrize(
    "task",
    [
        "Which messages do the last commits have?",
        "What is the message of the last 3 commits?",
        "Which files did the last commit change?",
        "What is the author of each change since the last commit?",
    ],
)
def test_other_questions_about_commits_leave_the_log_as_it_is(task: str) -> None:
    assert LOG.name not in [spec.name for spec in first_tools(task, [LOG])] or LOG in first_tools(task, [LOG])


@pytest.mark.parametrize(
    ("task", "tool"),
    [
        ("In the repository repo, which commit added the setting raven_size to app.ini?", "find_commits"),
        ("Find the commit that removed the flag --fast.", "find_commits"),
        ("What commit changed the default port?", "find_commits"),
        ("Who made the commit that adds the saffron? The git repository is in the folder repo.", "find_commits"),
    ],
)
def test_the_commit_that_changed_something_is_searched_for(task: str, tool: str) -> None:
    assert [spec.name for spec in first_tools(task, [ToolSpec("find_commits", "", PATH), *READING])] == [tool]


@pytest.mark.parametrize(
    "task",
    [
        "Which commit is the newest?",
        "Which commits did Ana make?",
        "List the commits created by Ana.",
        "What did the commit 0303030 change?",
        "Which commit changed config.yaml last?",
        "Which files have uncommitted changes?",
    ],
)
def test_other_tasks_on_commits_are_free(task: str) -> None:
    found = [spec.name for spec in first_tools(task, [ToolSpec("find_commits", "", PATH), *READING])]
    assert found != ["find_commits"]


@pytest.mark.parametrize(
    ("tool", "result", "done"),
    [
        ("find_commits", "'x': 1 commit, the oldest first; all 5 commits searched:\na.ini: +x = 1", False),
        ("read_files", "jobs/1.txt not found. These are the files of jobs: 2 files read.", False),
        ("read_files", "2 files read.", True),
    ],
)
def test_a_look_that_may_not_be_the_whole_is_no_answer_yet(tool: str, result: str, done: bool) -> None:
    assert is_done_by("Which commit added x, and which files hold it?", tool, result) is done


COMPARE = ToolSpec(
    "compare_files",
    "",
    {
        "type": "object",
        "properties": {
            "path_a": {"type": "string"},
            "path_b": {"type": "string"},
            "only_in_a": {"type": "boolean", "default": False},
        },
        "required": ["path_a", "path_b"],
    },
)


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        ("Which names are in a.txt but not in b.txt?", "a.txt", "b.txt"),
        ("Which settings of conf/example.env are missing in local.env?", "conf/example.env", "local.env"),
        ("List the lines in `new.md`, but not in `old.md`.", "new.md", "old.md"),
    ],
)
def test_a_question_for_one_side_of_a_comparison_gets_that_side_only(task: str, first: str, second: str) -> None:
    (spec,) = first_tools(task, [COMPARE, *READING[3:]])
    values = {name: schema["enum"] for name, schema in spec.parameters["properties"].items()}
    assert values == {"path_a": [first], "path_b": [second], "only_in_a": [True]}


@pytest.mark.parametrize(
    "task",
    [
        "What differs between a.txt and b.txt?",
        "In the folder conf, which names are in a.txt but not in b.txt?",
        "Which names are in only one of a.txt and b.txt, but not in both?",
    ],
)
def test_other_comparisons_are_not_bound(task: str) -> None:
    assert list(first_tools(task, [COMPARE])) == [COMPARE]


MEMORY = ToolSpec("memory__search_nodes", "", NONE)


def test_tools_of_a_server_that_the_task_names_may_be_called_first_and_nothing_changes_before_a_look() -> None:
    task = "Look into the memory for the town where Hana lives. Write a new file town.txt with its name."
    write = ToolSpec("fs__write_file", "", PATH)
    add = ToolSpec("memory__create_entities", "", NONE)

    found = first_tools(task, [write, add, MEMORY, READING[-1]])

    assert MEMORY in found
    assert [each for each in (write, add, READING[-1]) if each in found] == []
    assert MEMORY not in first_tools("Write a new file town.txt.", [write, MEMORY])


APPEND = ToolSpec("append_text", "", PATH)


@pytest.mark.parametrize(
    "task",
    [
        "Add this line at the end of the file todo.md: - milk",
        "Append the line '- milk' at the end of todo.md.",
        "Please put - milk at the bottom of todo.md",
    ],
)
def test_lines_for_the_end_of_a_file_are_added_there(task: str) -> None:
    assert [spec.name for spec in first_tools(task, [APPEND, *WRITING])] == ["append_text"]


@pytest.mark.parametrize("task", ["Add a line to todo.md, before the last one.", "What is at the end of todo.md?"])
def test_other_tasks_about_a_file_may_begin_otherwise(task: str) -> None:
    assert [spec.name for spec in first_tools(task, [APPEND, *WRITING])] != ["append_text"]


def test_a_file_to_change_is_not_asked_for_its_size() -> None:
    task = "In the file settings.json, set debug to false. Tell me which size stands there."
    offered = [ToolSpec(f"fs__{name}", "", PATH) for name in ("get_file_info", "list_directory", "edit_file")]

    assert [spec.name for spec in first_tools(task, [*WRITING, *offered])][-1] == "fs__edit_file"
    assert not {spec.name for spec in first_tools(task, [*WRITING, *offered])} & {spec.name for spec in offered[:2]}
