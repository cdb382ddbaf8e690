"""The bridge's own tools over files: what they give, what they call for it, and where they are offered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lmstudio_bridge.agent.composite_tools import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_FILES,
    MAX_HITS,
    CompositeResult,
    CompositeTools,
    read_listing,
    usable_tools,
)
from lmstudio_bridge.agent.prompts import FAILED
from lmstudio_bridge.agent.reply_checks import is_bridge_text
from lmstudio_bridge.agent.tools import Tool, ToolSet
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolResult, UserMessage


def server_tool(name: str, *required: str, read_only: bool = True, description: str = "") -> ServerTool:
    schema = {
        "type": "object",
        "properties": {each: {"type": "string"} for each in required},
        "required": list(required),
    }
    return ServerTool("fs", name, description, schema, read_only=read_only)


READ = server_tool("read_text_file", "path")
LIST = server_tool("list_directory", "path")
WRITE = server_tool("write_file", "path", "content", read_only=False)


@dataclass
class Disk:
    """Files behind the three tools, and the calls that came."""

    files: dict[str, str]
    locked: frozenset[str] = frozenset()
    calls: list[tuple[str, JSONObject]] = field(default_factory=list)

    async def __call__(self, tool: Tool, arguments: JSONObject) -> ToolResult:
        self.calls.append((tool.source.name, arguments))
        path = arguments["path"]
        if path in self.locked:
            return ToolResult(f"EACCES: {path}\nmore", is_error=True)
        match tool.source.name:
            case "list_directory":
                prefix = "" if path == "." else f"{path}/"
                below = [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]
                if not below:
                    return ToolResult("ENOENT: no such folder", is_error=True)
                lines = {f"[DIR] {name.split('/')[0]}" if "/" in name else f"[FILE] {name}" for name in below}
                return ToolResult("\n".join(sorted(lines)))
            case "write_file":
                self.files[path] = arguments["content"]
                return ToolResult("Successfully wrote")
            case _:
                if any(name.startswith(f"{path}/") for name in self.files):
                    return ToolResult("EISDIR: illegal operation on a directory, read", is_error=True)
                if path not in self.files:
                    return ToolResult("ENOENT: no such file", is_error=True)
                return ToolResult(self.files[path])

    async def call(self, name: str, *, tools: CompositeTools | None = None, **arguments: object) -> CompositeResult:
        tools = tools or composites()
        return await tools.run(ToolCall("c1", name, json.dumps(arguments)), inner=self)


def composites(*sources: ServerTool) -> CompositeTools:
    return CompositeTools(ToolSet(sources or (READ, LIST, WRITE)).tools)


def names(tools: CompositeTools) -> list[str]:
    return [tool.name for tool in tools.tools]


SOURCES = {
    "src/a.py": "LIMIT = 3\nprint(LIMIT)\n",
    "src/deep/b.py": "# todo: LIMIT_SIZE\nx = 1\n",
    "src/logo.png": "LIMIT",
    "src/node_modules/x.js": "LIMIT",
    "notes.md": "nothing here\n",
}


class TestOffer:
    def test_all_are_offered_where_files_can_be_read_listed_and_written(self) -> None:
        assert names(composites()) == [
            "find_text",
            "read_files",
            "compare_files",
            "count_files",
            "total_column",
            "replace_text",
            "append_text",
            "calculate",
        ]

    def test_nothing_is_replaced_where_nothing_can_be_written(self) -> None:
        assert not {"replace_text", "append_text"} & set(names(composites(READ, LIST)))

    @pytest.mark.parametrize("sources", [(READ,), (LIST,), (server_tool("read_text_file", "path", "mode"), LIST)])
    def test_none_is_offered_without_a_tool_to_read_and_one_to_list(self, sources: tuple[ServerTool, ...]) -> None:
        assert not names(composites(*sources))

    def test_none_is_offered_that_a_server_has_itself(self) -> None:
        found = names(composites(READ, LIST, server_tool("grep", "pattern"), server_tool("calculate", "expression")))
        assert "find_text" not in found
        assert "calculate" not in found
        assert "read_files" in found

    def test_they_stand_before_the_servers_tools_and_in_place_of_one(self) -> None:
        given = ToolSet([READ, LIST, server_tool("read_multiple_files", "paths")]).tools
        assert [tool.name for tool in CompositeTools(given).add_to(given)][-2:] == [
            "fs__list_directory",
            "fs__read_text_file",
        ]

    @pytest.mark.parametrize(
        ("may_run", "usable"),
        [
            (lambda tool: True, ["list_directory", "write_file"]),
            (lambda tool: bool(tool.read_only), ["list_directory"]),
            (lambda tool: False, ["list_directory", "read_file", "write_file"]),
        ],
    )
    def test_only_tools_that_may_run_and_are_not_deprecated_are_usable(
        self, may_run: Callable[[ServerTool], bool], usable: list[str]
    ) -> None:
        old = server_tool("read_file", "path", description="DEPRECATED: use read_text_file.")
        found = usable_tools(ToolSet([LIST, WRITE, old]).tools, may_run=may_run)
        assert [tool.source.name for tool in found] == usable


class TestFindText:
    async def test_lines_are_given_with_file_and_number(self) -> None:
        found = await Disk(SOURCES).call("find_text", text="limit", folder="src")
        assert found.text == "'limit'; defined in src/a.py:1: 3 lines in 2 files; 2 files searched in src:"
        assert found.data.splitlines() == [
            "src/a.py:1: LIMIT = 3",
            "src/a.py:2: print(LIMIT)",
            "src/deep/b.py:1: # todo: LIMIT_SIZE",
        ]
        assert dict(found.seen) == {name: SOURCES[name] for name in ("src/a.py", "src/deep/b.py")}

    async def test_what_is_not_there_is_said_with_where_it_was_looked_for(self) -> None:
        found = await Disk(SOURCES).call("find_text", text="FIXME|XXX", folder=".")
        assert (found.text, found.is_error) == (
            "'FIXME' or 'XXX' was not found: 3 files searched in the working folder.",
            False,
        )
        assert found.looked_at == ("notes.md", "src/a.py", "src/deep/b.py")

    async def test_a_text_with_the_marks_of_a_comment_is_found_without_them(self) -> None:
        found = await Disk(SOURCES).call("find_text", text="// TODO", folder="src")
        assert found.text == "'// TODO' was not found, but 'TODO': 1 line in 1 file; 2 files searched in src:"
        assert found.data == "src/deep/b.py:1: # todo: LIMIT_SIZE"

    async def test_a_file_can_be_searched_alone(self) -> None:
        found = await Disk(SOURCES).call("find_text", text="print", folder="./src/a.py")
        assert found.data == "src/a.py:2: print(LIMIT)"

    async def test_a_file_that_cannot_be_read_is_named(self) -> None:
        found = await Disk(SOURCES, locked=frozenset({"src/a.py"})).call("find_text", text="x =", folder="src")
        assert "src/a.py could not be read (EACCES: src/a.py)" in found.text

    async def test_a_folder_that_cannot_be_listed_is_named(self) -> None:
        disk = Disk(SOURCES, locked=frozenset({"src/deep"}))
        found = await disk.call("find_text", text="FIXME", folder="src")
        assert found.text == (
            "'FIXME' was not found: 1 file searched in src; src/deep could not be read (EACCES: src/deep)."
        )
        counted = await disk.call("count_files", folder="src")
        assert "src/deep could not be read" in counted.text

    @pytest.mark.parametrize(("depth", "found"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False)])
    async def test_a_folder_that_lies_too_deep_is_named(self, depth: int, found: bool) -> None:
        folder = "/".join(["d"] * depth)
        result = await Disk({f"{folder}/a.txt": "it"}).call("find_text", text="it", folder=".")
        assert bool(result.data) is found
        assert (f"{folder} could not be read (more than {MAX_DEPTH} folders deep)" in result.text) is not found

    async def test_a_folder_that_is_not_there_is_an_error(self) -> None:
        found = await Disk(SOURCES).call("find_text", text="x", folder="lib")
        assert found.text.startswith("lib could not be listed: ENOENT: no such folder\n")
        assert found.is_error

    async def test_definitions_come_first_where_there_are_too_many_lines(self) -> None:
        disk = Disk({"a.py": "use(it)\n" * MAX_HITS, "b.py": "def it():\n"})
        found = await disk.call("find_text", text="it", folder=".")
        assert found.data.splitlines()[0] == "b.py:1: def it():"
        assert len(found.data.splitlines()) == MAX_HITS
        assert f"The first {MAX_HITS} are" in found.text

    @pytest.mark.parametrize(("count", "is_error"), [(MAX_FILES, False), (MAX_FILES + 1, True)])
    async def test_a_folder_with_too_many_files_is_refused(self, count: int, is_error: bool) -> None:
        disk = Disk({f"f{number}.txt": "x" for number in range(count)})
        assert (await disk.call("find_text", text="y", folder=".")).is_error is is_error


class TestReadFiles:
    async def test_files_and_patterns_are_read_at_once(self) -> None:
        found = await Disk(SOURCES).call("read_files", paths=["src/**/*.py", "notes.md"])
        assert found.text == "3 files read."
        assert found.data.startswith("src/a.py: LIMIT = 3\nsrc/a.py: print(LIMIT)\nsrc/deep/b.py: ")

    async def test_one_star_stays_in_a_folder(self) -> None:
        assert (await Disk(SOURCES).call("read_files", paths=["src/*.py"])).looked_at == ("src/a.py",)

    async def test_a_missing_file_is_named_and_the_others_are_read(self) -> None:
        found = await Disk(SOURCES).call("read_files", paths=["notes.md", "gone.md"])
        assert found.text == "1 file read; gone.md could not be read (ENOENT: no such file)."

    async def test_a_folder_stands_for_the_text_files_in_it(self) -> None:
        disk = Disk(SOURCES)

        async def refuse_folders(tool: Tool, arguments: JSONObject) -> ToolResult:
            if tool.source.name == "read_text_file" and arguments["path"] == "src":
                return ToolResult("EISDIR: illegal operation on a directory", is_error=True)
            return await disk(tool, arguments)

        found = await composites().run(ToolCall("c1", "read_files", '{"paths": ["src/"]}'), inner=refuse_folders)
        assert found.looked_at == ("src/a.py", "src/deep/b.py")

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("**", ["a.py", "d/a.py", "d/e/a[1].py"]),
            ("**/*.py", ["a.py", "d/a.py", "d/e/a[1].py"]),
            ("**.py", ["a.py", "d/a.py", "d/e/a[1].py"]),
            ("d/**/a*", ["d/a.py", "d/e/a[1].py"]),
            ("d/*/a[1]*", ["d/e/a[1].py"]),
            ("*/a.py", ["d/a.py"]),
        ],
    )
    async def test_patterns_are_those_of_a_shell(self, pattern: str, names: list[str]) -> None:
        found = await Disk(dict.fromkeys(("a.py", "d/a.py", "d/e/a[1].py"), "x")).call("read_files", paths=[pattern])
        assert found.looked_at == tuple(names)

    @pytest.mark.parametrize("pattern", ["*a" * 30 + "*b", "**/" * 30 + "b", "**" * 30 + "b"])
    async def test_a_pattern_of_many_stars_takes_no_time(self, pattern: str) -> None:
        assert (await Disk({f"{'a' * 200}/{'a/' * 9}c": "x"}).call("read_files", paths=[pattern])).is_error

    async def test_a_pattern_whose_files_cannot_be_read_is_an_error(self) -> None:
        found = await Disk({"a.py": "x"}, locked=frozenset({"a.py"})).call("read_files", paths=["*.py"])
        assert found.text == "No file was read; a.py could not be read (EACCES: a.py)."

    async def test_no_more_is_read_than_can_be_held(self) -> None:
        disk = Disk({f"f{number:02}": "x" * (MAX_CHARS // 2) for number in range(40)})
        assert (await disk.call("read_files", paths=["*"])).looked_at == ("f00", "f01")
        assert len([name for name, _ in disk.calls if name == "read_text_file"]) < 20

    @pytest.mark.parametrize("paths", [["*.rs"], ["gone.md"]])
    async def test_nothing_to_read_is_an_error(self, paths: list[str]) -> None:
        assert (await Disk(SOURCES).call("read_files", paths=paths)).is_error


async def test_two_files_are_compared() -> None:
    disk = Disk({"a.json": '{"port": 1, "host": "x"}', "b.json": '{"host": "x", "port": 2}'})
    found = await disk.call("compare_files", path_a="a.json", path_b="b.json")
    assert found.text == "1 difference between a.json and b.json, and no others:"
    assert found.data == "port: 1 in a.json, 2 in b.json"


async def test_equal_files_are_said_to_be_the_same() -> None:
    found = await Disk({"a": "x", "b": "x"}).call("compare_files", path_a="a", path_b="b")
    assert (found.text, found.data) == ("a and b are the same.", "")


LOG = ServerTool(
    "git",
    "git_log",
    "",
    {
        "type": "object",
        "properties": {"repo_path": {"type": "string"}, "max_count": {"type": "integer"}},
        "required": ["repo_path"],
    },
    read_only=True,
)
SHOW = ServerTool(
    "git",
    "git_show",
    "",
    {
        "type": "object",
        "properties": {"repo_path": {"type": "string"}, "revision": {"type": "string"}},
        "required": ["repo_path", "revision"],
    },
    read_only=True,
)
SHAS = [str(number) * 40 for number in range(1, 5)]  # the newest first
PATCHES = {
    SHAS[0]: "--- a/app.ini\n+++ b/app.ini\n@@ -1 +1 @@\n-raven = 3\n+raven = 4\n",
    SHAS[1]: "--- a/app.ini\n+++ b/app.ini\n@@ -1 +1 @@\n owl = 1\n-heron = 1\n",
    SHAS[2]: "--- a/app.ini\n+++ b/app.ini\n@@ -1 +1 @@\n+Raven = 3\n",
    SHAS[3]: "--- /dev/null\n+++ b/app.ini\n@@ -0,0 +1 @@\n+heron = 1\n",
}


@dataclass
class History:
    """Commits behind the tools of a git server, and the calls that came."""

    log: str = "Commit history:\n" + "\n".join(f"Commit: {sha}\nAuthor: Ana\nMessage: m" for sha in SHAS)
    failing: str = ""
    calls: list[tuple[str, JSONObject]] = field(default_factory=list)

    async def __call__(self, tool: Tool, arguments: JSONObject) -> ToolResult:
        self.calls.append((tool.source.name, arguments))
        if tool.source.name == self.failing or arguments.get("revision") == self.failing:
            return ToolResult("fatal: no such repository\nmore", is_error=True)
        if tool.source.name == "git_log":
            return ToolResult(self.log)
        sha = arguments["revision"]
        head = f"commit {sha}\nAuthor: Ana <a@b>\nDate:   2025-06-15\n\n    Tune {sha[0]}\n"
        return ToolResult(f"{head}\n{PATCHES[sha]}")

    async def find(self, text: str) -> CompositeResult:
        tools = CompositeTools(ToolSet((LOG, SHOW)).tools)
        arguments = json.dumps({"text": text, "repository": "repo"})
        return await tools.run(ToolCall("c1", "find_commits", arguments), inner=self)


async def test_the_commits_that_changed_a_text_are_found_the_oldest_first() -> None:
    history = History()
    found = await history.find("raven")

    assert found.text == "'raven': 2 commits, the oldest first; all 4 commits searched:"
    assert found.data == (
        f'commit "Tune 3"\nAuthor: Ana <a@b>\nDate:   2025-06-15\nhash: {SHAS[2]}\napp.ini: +Raven = 3\n\n'
        f'commit "Tune 1"\nAuthor: Ana <a@b>\nDate:   2025-06-15\nhash: {SHAS[0]}\n'
        "app.ini: -raven = 3\napp.ini: +raven = 4"
    )
    assert history.calls[0] == ("git_log", {"repo_path": "repo", "max_count": 100})
    assert sorted(call[1]["revision"] for call in history.calls[1:]) == SHAS
    assert found.looked_at == ("app.ini",)
    assert is_bridge_text(found.text, [UserMessage("Show the commit.")])


@pytest.mark.parametrize("text", ["owl", "none"])
async def test_a_text_in_no_changed_line_is_in_no_commit(text: str) -> None:
    found = await History().find(text)
    assert (found.text, found.data) == (
        f"'{text}' was not found in a changed line or a message: all 4 commits searched.",
        "",
    )
    assert not found.is_error
    assert found.nowhere == (text,)
    assert (await History(failing=SHAS[2]).find(text)).nowhere == ()  # it may be in the one that was not shown


async def test_a_file_that_a_commit_made_is_found_by_its_name() -> None:
    found = await History().find("app.ini")
    assert "app.ini: created" in found.data
    assert found.data.count("app.ini: changed") == 3


async def test_removed_comments_of_two_dashes_are_no_heads_of_files() -> None:
    tools = CompositeTools(ToolSet((LOG, SHOW)).tools)
    patch = "--- a/old.sql\n+++ b/a.sql\n@@ -1,2 +1 @@\n--- cache_size is 3\n-SET cache_size = 3;\n+SET x;\n"

    async def inner(tool: Tool, arguments: JSONObject) -> ToolResult:
        return ToolResult(
            f"Commit: {SHAS[0]}" if tool.source.name == "git_log" else f"commit {SHAS[0]}\n\n    m\n\n{patch}"
        )

    for text, hits in (
        ("cache_size", "a.sql: --- cache_size is 3\na.sql: -SET cache_size = 3;"),
        ("old.sql", "a.sql: renamed from old.sql"),
        ("a.sql", "a.sql: renamed from old.sql"),
    ):
        call = ToolCall("c1", "find_commits", json.dumps({"text": text, "repository": "."}))
        assert (await tools.run(call, inner=inner)).data.endswith(f"hash: {SHAS[0]}\n{hits}")


async def test_a_text_that_stands_only_in_a_message_is_found() -> None:
    found = await History().find("tune 4")
    assert found.text.startswith("'tune 4': 1 commit,")
    assert found.data.endswith(f"hash: {SHAS[3]}\n(in its message)")
    assert found.looked_at == ()


async def test_what_could_not_be_shown_or_listed_is_said() -> None:
    assert "1 commit could not be shown" in (await History(failing=SHAS[2]).find("raven")).text
    failed = await History(failing="git_log").find("raven")
    assert failed.is_error
    assert failed.text == "The commits could not be listed: fatal: no such repository"
    hidden = await History(failing="git_show").find("raven")
    assert (hidden.is_error, hidden.text) == (True, "The commits could not be shown: fatal: no such repository")
    unread = await History(log="nothing to see").find("raven")
    assert (unread.is_error, unread.text) == (True, "git__git_log gave no commits.")
    assert (await History().find(" ")).is_error


@pytest.mark.parametrize(
    "log",
    [
        "".join(f"commit {sha}\nAuthor: Ana\n\n    reverts commit abc1234\n" for sha in SHAS),
        json.dumps([{"hash": sha, "shortHash": sha[:7], "message": "m"} for sha in SHAS]),
        "\n".join(f"Commit: '{sha}'" for sha in SHAS),
    ],
)
async def test_logs_in_other_forms_are_read(log: str) -> None:
    assert "all 4 commits searched" in (await History(log).find("raven")).text


async def test_a_log_that_takes_no_number_may_hold_only_the_newest() -> None:
    history = History()
    schema = {"type": "object", "properties": {"repo_path": {"type": "string"}}, "required": ["repo_path"]}
    tools = CompositeTools(ToolSet((replace(LOG, input_schema=schema), SHOW)).tools)
    arguments = json.dumps({"text": "raven", "repository": "repo"})
    found = await tools.run(ToolCall("c1", "find_commits", arguments), inner=history)

    assert found.text.endswith("the newest 4 commits searched:")
    assert history.calls[0] == ("git_log", {"repo_path": "repo"})


@pytest.mark.parametrize("tools", [(LOG,), (SHOW,), (LOG, replace(SHOW, server="other"))])
def test_commits_are_found_only_by_the_tools_of_one_server(tools: tuple[ServerTool, ...]) -> None:
    assert CompositeTools(ToolSet(tools).tools).find("find_commits") is None


async def test_files_without_text_in_a_folder_are_counted() -> None:
    found = await Disk({"docs/a.md": "one", "docs/b.pdf": "%PDF"}).call("read_files", paths=["docs"])
    assert found.text == "1 file read; 1 file without text left out."


async def test_of_guessed_names_in_one_folder_its_files_are_read() -> None:
    disk = Disk({"jobs/a.txt": "open", "jobs/b.txt": "done", "c.txt": "x"})
    found = await disk.call("read_files", paths=["jobs/1.txt", "jobs/2.txt"])

    assert found.text == "jobs/1.txt, jobs/2.txt not found. These are the files of jobs: 2 files read."
    assert found.data == "jobs/a.txt: open\njobs/b.txt: done"
    assert (await disk.call("read_files", paths=["jobs/1.txt", "d/2.txt"])).is_error
    assert (await disk.call("read_files", paths=["d.txt"])).is_error
    tools = CompositeTools(ToolSet((READ, LIST)).tools, task="What is in 1.txt?")
    assert (await disk.call("read_files", tools=tools, paths=["jobs/1.txt"])).is_error
    many = Disk({f"jobs/{number}.txt": "x" for number in range(100, 121)})
    assert (await many.call("read_files", paths=["jobs/1.txt"])).is_error


@pytest.mark.parametrize(
    ("name", "arguments", "head", "names"),
    [
        ("read_files", {"paths": ["folder/a.csv"]}, "In the working folder there are:", "d/\nx.md"),
        ("find_text", {"text": "x", "folder": "dd"}, "In the working folder there are:", "d/\nx.md"),
        ("compare_files", {"path_a": "x.md", "path_b": "e/f"}, "In the working folder there are:", "d/\nx.md"),
        (
            "find_text",
            {"text": "x", "folder": "folder/d"},
            'Call it again with "d". In the working folder there are:',
            "d/\nx.md",
        ),
        (
            "read_files",
            {"paths": ["folder/d.csv"]},
            'Call it again with "d". In the working folder there are:',
            "d/\nx.md",
        ),
        ("read_files", {"paths": ["folder/x.csv"]}, "In the working folder there are:", "d/\nx.md"),
        ("find_text", {"text": "x", "folder": "src/d"}, "In the working folder there are:", "d/\nx.md"),
        (
            "replace_text",
            {"path": "folder/x.md", "old": "a", "new": "b"},
            "In the working folder there are:",
            "d/\nx.md",
        ),
    ],
)
async def test_where_a_path_is_not_there_the_names_beside_it_are_shown(
    name: str, arguments: dict[str, Any], head: str, names: str
) -> None:
    found = await Disk({"d/b.txt": "1", "x.md": "2"}).call(name, **arguments)

    assert found.is_error
    assert (found.text.splitlines()[-1], found.data) == (head, names)


@pytest.mark.parametrize(
    "path", ["d/e/b.txt", "/d/b.txt", "../d.txt", "x y.md", 'a"b', "a\nb", "a*", "http://h/x", "C:\\x"]
)
async def test_no_names_are_shown_where_the_folder_is_there_or_the_path_is_odd(path: str) -> None:
    disk = Disk({"d/b.txt": "1"})
    assert not (await disk.call("find_text", text="x", folder=path)).data


async def test_no_name_is_meant_where_the_task_has_the_path_as_it_is() -> None:
    disk = Disk({"d/b.txt": "1"})
    tools = CompositeTools(ToolSet((READ, LIST)).tools, task="What is in folder/d?")
    assert (await disk.call("read_files", tools=tools, paths=["folder/d"])).text.endswith(
        "\nIn the working folder there are:"
    )


async def test_names_are_shown_only_for_files_of_the_server_that_is_read_from() -> None:
    async def list_all(tool: Tool, arguments: JSONObject) -> ToolResult:
        return ToolResult("[FILE] a.txt")

    for server, shown in (("other", False), (LIST.server, True)):
        near = await composites().names_near("b.txt", list_all, of=ServerTool(server, "open", "", {}))
        assert (near is not None) is shown


@pytest.mark.parametrize(("tool", "advised"), [(LIST, True), (READ, False)])
async def test_a_folder_is_meant_only_by_tools_that_take_one(tool: ServerTool, advised: bool) -> None:
    async def list_all(tool: Tool, arguments: JSONObject) -> ToolResult:
        return ToolResult("[DIR] src")

    near = await composites().names_near("folder/src.md", list_all, of=tool)
    assert near is not None
    assert ("Call it again with" in near.text) is advised


async def test_of_many_names_beside_a_path_the_rest_is_counted_and_of_none_none_are_shown() -> None:
    found = await Disk({f"{number:03}.txt": "" for number in range(100)}).call("read_files", paths=["x.md"])
    assert found.data.splitlines()[-1] == "(60 more)"
    assert (await Disk({}).call("find_text", text="x", folder="d/e")).data == ""


async def test_below_short_files_with_the_same_number_stands_which_is_the_highest() -> None:
    found = await Disk({"d/a.txt": "score: 9", "d/b.txt": "score: 12", "d/c.txt": "score: 7"}).call(
        "read_files", paths=["d"]
    )

    assert found.text == "3 files read."  # names of files are data
    lines = ["d/a.txt: score: 9", "d/b.txt: score: 12", "d/c.txt: score: 7"]
    assert found.data.split("\n") == [*lines, "score: highest 12 in d/b.txt, lowest 7 in d/c.txt"]


async def test_files_are_counted_by_extension() -> None:
    found = await Disk(SOURCES).call("count_files", folder="src")
    assert found.text == "3 files in src and its subfolders, without src/node_modules:"
    assert found.data == ".png: 1\n.py: 2"


async def test_a_column_is_added_up_and_the_sum_counts_as_seen() -> None:
    disk = Disk({"o.csv": "who,sum\nA,1.5\nB,2\nA,3\n"})
    found = await disk.call("total_column", path="o.csv", column="sum", where="who=A")
    assert found.text == "o.csv: Total of sum where who=A: 4.5 (2 of 3 rows)"
    assert ("total_column", found.text) in found.seen


@pytest.mark.parametrize(
    ("files", "total"),
    [
        (
            {"b/1.txt": "from: Nora\ntotal: 7\n", "b/2.txt": "from: Bo\ntotal: 5\n"},
            "b (2 files): Total of total: 12 (2 of 2 rows)",
        ),
        ({"b/1.json": '{"total": 7}', "b/2.json": '{"total": 5}'}, "b (2 files): Total of total: 12 (2 of 2 rows)"),
    ],
)
async def test_the_files_of_a_folder_are_added_up(files: dict[str, str], total: str) -> None:
    found = await Disk(files).call("total_column", path="b", column="total", where="")
    assert (found.is_error, found.text.partition("\n")[0]) == (False, total)
    assert found.looked_at == tuple(files)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"b/1.txt": "total: 7\n", "b/2.txt": "total: 5\nfrom: Bo\n"}, "b/2.txt does not hold the same"),
        ({"b/1.csv": "who,total\nA,7\n", "b/2.csv": "who,total\nB,5\n"}, "b/1.csv does not hold the same"),
        ({"b/1.txt": "total: 7\n", "b/2.txt.bak": "total: 7\n"}, "b holds files of several kinds or folders"),
        ({"b/1.txt": "total: 7\n", "b/old/2.txt": "total: 7\n"}, "b holds files of several kinds or folders"),
        ({"b/1.txt": "total: 7\n", "b/2.pdf": "total: 7\n"}, "b holds files of several kinds or folders"),
        ({"b/1": "total: 7\n", "b/locked": "total: 5\n"}, "b was not added up; b/locked could not be read"),
        ({"c/1.txt": "total: 7\n"}, "b was not added up; b could not be read (ENOENT"),
    ],
)
async def test_a_folder_whose_files_do_not_fit_together_is_not_added_up(files: dict[str, str], problem: str) -> None:
    found = await Disk(files, locked=frozenset({"b/locked"})).call("total_column", path="b", column="total", where="")
    assert found.is_error
    assert found.text.startswith(problem)


@pytest.mark.parametrize(
    ("task", "old", "done"),
    [
        ("In a.json, set both to false.", "true", False),
        ("In a.json, set debug to false.", "true", True),
        ("In a.json, set debug to false.", '"debug": true', True),
        ("In a.json, replace true by false.", "true", True),
        ("", "true", True),
    ],
)
async def test_a_text_that_the_task_does_not_name_is_replaced_in_one_place_only(
    task: str, old: str, done: bool
) -> None:
    held = '{\n "debug": true,\n "verbose": true\n}\n'
    disk = Disk({"a.json": held})
    tools = CompositeTools(ToolSet((READ, LIST, WRITE)).tools, task=task)

    result = await disk.call("replace_text", tools=tools, path="a.json", old=old, new=old.replace("true", "false"))

    assert (disk.files["a.json"] != held, not result.is_error) == (done, done)
    assert task == "" or old in task or '"verbose": true' in disk.files["a.json"]
    assert done or result.data == 'a.json:2: "debug": true,\na.json:3: "verbose": true'


@pytest.mark.parametrize(
    ("held", "text", "holds"),
    [
        ("- a\n- b\n", "- c", "- a\n- b\n- c\n"),
        ("- a\n- b", "- c\n", "- a\n- b\n- c"),
        ("- a\r\n- b\r\n", "- c\n- d", "- a\r\n- b\r\n- c\r\n- d\r\n"),
        ("", "- c", "- c\n"),
        ("- a\n", "    - c", "- a\n    - c\n"),
    ],
)
async def test_lines_are_added_at_the_end_of_a_file_and_nothing_else_changes(held: str, text: str, holds: str) -> None:
    disk = Disk({"todo.md": held})

    result = await disk.call("append_text", path="todo.md", text=text)

    assert disk.files == {"todo.md": holds}
    assert not result.is_error
    assert f"+{text.strip(chr(10)).splitlines()[0]}" in result.data


@pytest.mark.parametrize(("path", "text"), [("todo.md", " \n"), ("none.md", "- c"), ("locked.md", "- c")])
async def test_nothing_is_added_where_the_file_or_the_text_is_missing(path: str, text: str) -> None:
    disk = Disk({"todo.md": "- a\n", "locked.md": "x\n"}, locked=frozenset({"locked.md"}))

    assert (await disk.call("append_text", path=path, text=text)).is_error
    assert disk.files == {"todo.md": "- a\n", "locked.md": "x\n"}


async def test_an_expression_is_calculated_without_any_inner_call() -> None:
    disk = Disk({})
    assert (await disk.call("calculate", expression="2*21")).text == "2*21 = 42"
    assert not disk.calls


class TestReplaceText:
    async def test_all_places_in_all_files_are_replaced_and_shown(self) -> None:
        disk = Disk(dict(SOURCES))
        found = await disk.call("replace_text", path="src", old="LIMIT", new="MAX")
        assert found.text.splitlines() == [
            "2 files changed.",
            "src/a.py: 2 places replaced",
            "src/deep/b.py: 1 place replaced",
        ]
        assert disk.files["src/a.py"] == "MAX = 3\nprint(MAX)\n"
        assert "+MAX = 3" in found.data
        assert disk.files["src/logo.png"] == "LIMIT"

    async def test_a_pattern_names_the_files_in_which_a_text_is_replaced(self) -> None:
        found = await Disk(dict(SOURCES)).call("replace_text", path="src/*.py", old="LIMIT", new="MAX")
        assert found.text.splitlines() == ["1 file changed.", "src/a.py: 2 places replaced"]

    async def test_nothing_is_written_where_the_text_is_not_there(self) -> None:
        disk = Disk(dict(SOURCES))
        found = await disk.call("replace_text", path="notes.md", old="LIMIT", new="MAX")
        assert found.is_error
        assert found.text == "Nothing was changed: 'LIMIT' was not found (1 file searched in notes.md)."
        assert "write_file" not in [name for name, _ in disk.calls]

    async def test_a_replacement_is_not_undone(self) -> None:
        disk, tools = Disk({"a.py": "one\n"}), composites()
        assert not (await disk.call("replace_text", tools=tools, path="a.py", old="one", new="two")).is_error
        undone = await disk.call("replace_text", tools=tools, path="a.py", old="two", new="one")
        assert undone.is_error
        assert undone.text.startswith("Not done: it would undo your replacement")
        assert disk.files["a.py"] == "two\n"

    async def test_a_write_that_fails_is_an_error_that_names_the_file(self) -> None:
        disk = Disk({"a.py": "one"})

        async def refuse(tool: Tool, arguments: JSONObject) -> ToolResult:
            if tool.source.name == "write_file":
                return ToolResult("EROFS: read-only", is_error=True)
            return await disk(tool, arguments)

        call = ToolCall("c1", "replace_text", json.dumps({"path": "a.py", "old": "one", "new": "two"}))
        found = await composites().run(call, inner=refuse)
        assert found.is_error
        assert found.text.splitlines() == ["0 files changed.", "a.py: not changed, EROFS: read-only"]

    @pytest.mark.parametrize("old", ["1\tone\n2\ttwo", "1: one\n2: two\n", "   1 | one\n   2 | two", "caf\ufffd one"])
    async def test_a_file_that_is_not_read_as_it_is_is_not_written(self, old: str) -> None:
        disk = Disk({"a.py": old})
        found = await disk.call("replace_text", path="a.py", old="one", new="two")
        assert found.is_error
        assert "a.py: not changed, because it cannot be read exactly as it is" in found.text
        assert disk.files == {"a.py": old}

    @pytest.mark.parametrize(("held", "is_written"), [(True, True), (False, False), (None, False)])
    async def test_whoever_knows_the_file_decides_whether_it_was_read_as_it_is(
        self, held: bool | None, is_written: bool
    ) -> None:
        disk = Disk({"a.txt": "1: one\n2: two\n"})

        async def holds(tool: Tool, arguments: JSONObject, text: str) -> bool | None:
            return held and disk.files[arguments["path"]] == text

        call = ToolCall("c1", "replace_text", json.dumps({"path": "a.txt", "old": "one", "new": "1"}))
        assert (await composites().run(call, inner=disk, holds=holds)).is_error is not is_written
        assert disk.files["a.txt"].startswith("1: 1\n") is is_written

    async def test_the_text_for_an_empty_file_is_not_taken_for_its_content(self) -> None:
        disk = Disk({"a.py": "(no output)"})
        assert (await disk.call("replace_text", path="a.py", old="output", new="x")).is_error
        assert disk.files == {"a.py": "(no output)"}

    async def test_nothing_is_written_where_one_of_the_files_would_be_changed_back(self) -> None:
        disk, tools = Disk({"a.py": "two\n", "b.py": "one\n"}), composites()
        await disk.call("replace_text", tools=tools, path="b.py", old="one", new="two")
        assert (await disk.call("replace_text", tools=tools, path=".", old="two", new="one")).is_error
        assert disk.files == {"a.py": "two\n", "b.py": "two\n"}

    async def test_no_other_file_is_written_once_a_file_does_not_hold_what_was_written(self) -> None:
        disk = Disk({"a.py": "one", "b.py": "one", "c.py": "one"})

        async def cut(tool: Tool, arguments: JSONObject) -> ToolResult:
            short = {"content": arguments["content"][:1]} if "content" in arguments else {}
            return await disk(tool, {**arguments, **short})

        call = ToolCall("c1", "replace_text", json.dumps({"path": ".", "old": "one", "new": "two"}))
        found = await composites().run(call, inner=cut)
        assert found.text.splitlines() == [
            "0 files changed.",
            "a.py: written, but it does not hold what was written",
            "2 files left as before.",
        ]
        assert disk.files == {"a.py": "t", "b.py": "one", "c.py": "one"}

    async def test_a_write_that_did_nothing_is_noticed(self) -> None:
        disk = Disk({"a.py": "one"})

        async def forget(tool: Tool, arguments: JSONObject) -> ToolResult:
            return ToolResult("ok") if tool.source.name == "write_file" else await disk(tool, arguments)

        call = ToolCall("c1", "replace_text", json.dumps({"path": "a.py", "old": "one", "new": "two"}))
        found = await composites().run(call, inner=forget)
        assert found.is_error
        assert "does not hold what was written" in found.text


@pytest.mark.parametrize(
    ("name", "arguments"), [("find_text", "{"), ("find_text", '{"text": 1}'), ("read_files", '{"paths": "a"}')]
)
async def test_invalid_arguments_are_a_result_or_read_liberally(name: str, arguments: str) -> None:
    found = await composites().run(ToolCall("c1", name, arguments), inner=Disk({"a": "x"}))
    assert found.is_error is (name == "find_text")


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("[FILE] a b.txt\n[DIR] src", [("a b.txt", False), ("src", True)]),
        ("[FILE] a.txt      1.2 KB\n[DIR] src", [("a.txt", False), ("src", True)]),
        ('["a.txt", "src/"]', [("a.txt", False), ("src", True)]),
        ('[{"name": "a", "type": "file"}, {"name": "s", "type": "directory"}]', [("a", False), ("s", True)]),
        ('{"entries": [{"path": "x/a"}, {"name": "s", "is_dir": true}]}', [("a", False), ("s", True)]),
        ("a.txt\nsrc/\n\n", [("a.txt", False), ("src", True)]),
        ("- a.txt\n- src/", [("a.txt", False), ("src", True)]),
        (".\n..", []),
        (f"a{' ' * 100_000}b", [(f"a{' ' * 100_000}b", False)]),
    ],
)
def test_listings_of_many_forms_are_read(text: str, entries: list[tuple[str, bool]]) -> None:
    assert list(read_listing(text)) == entries


@pytest.mark.parametrize(
    ("name", "arguments", "task"),
    [
        ("find_text", {"text": "LIMIT", "folder": "src"}, "How many lines hold LIMIT?"),
        ("find_text", {"text": "nothing", "folder": "."}, "Wie viele Zeilen enthalten nothing?"),
        ("find_text", {"text": "print|todo", "folder": "src"}, "Does any file print something?"),
        ("find_text", {"text": "a LIMIT_SIZE here", "folder": "."}, "Count the lines."),
        ("read_files", {"paths": ["notes.md", "src/a.py"]}, "How many files can be read?"),
        ("compare_files", {"path_a": "src/a.py", "path_b": "notes.md"}, "Are they different?"),
        ("compare_files", {"path_a": "src/a.py", "path_b": "notes.md", "only_in_a": True}, "How many lines?"),
        ("count_files", {"folder": "src"}, "How many files are there?"),
    ],
)
async def test_the_head_of_a_result_without_its_data_only_answers_how_much_or_whether(
    name: str, arguments: dict[str, Any], task: str
) -> None:
    found = await Disk(SOURCES).call(name, **arguments)
    head = re.sub("; defined in [^ ]+(?=: )", "", found.text)
    asked = [UserMessage(task)]

    for text in (head, f"**{head}**", f"Here are the results: {head}", f"{head}\n\nThe result is shown above."):
        assert is_bridge_text(text, [UserMessage("Show the lines in question.")])
        assert not is_bridge_text(text, asked)
    for line in found.data.splitlines():
        assert not is_bridge_text(f"{head}\n{line}") or line.startswith("== ")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("find_text", {"text": "LIMITS", "folder": "src"}),
        ("read_files", {"paths": ["gone.md"]}),
        ("read_files", {"paths": ["*.rs"]}),
        ("compare_files", {"path_a": "src/a.py", "path_b": "src/a.py"}),
        ("compare_files", {"path_a": "src/a.py", "path_b": "src/a.py", "only_in_a": True}),
        ("total_column", {"path": "notes.md", "column": "x", "where": ""}),
        ("replace_text", {"path": "notes.md", "old": "nothing", "new": "something"}),
        ("replace_text", {"path": "notes.md", "old": "gone", "new": "something"}),
        ("append_text", {"path": "notes.md", "text": "more"}),
        ("calculate", {"expression": "3 * 4"}),
        ("calculate", {"expression": "1 / 0"}),
    ],
)
async def test_a_text_of_a_composite_tool_that_says_what_is_or_was_done_may_be_the_answer(
    name: str, arguments: dict[str, Any]
) -> None:
    assert not is_bridge_text((await Disk(SOURCES).call(name, **arguments)).text)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("find_text", {"text": "", "folder": "src"}),
        ("replace_text", {"path": "notes.md", "old": "", "new": "something"}),
        ("replace_text", {"path": "notes.md", "old": "x", "new": "x"}),
        ("replace_text", {"path": "src/a.py", "old": "LIMIT", "new": "MAX"}),
        ("append_text", {"path": "notes.md", "text": " "}),
        ("count_files", {"folder": "many"}),
        ("calculate", {"expression": "'a' + [1]"}),
        ("calculate", {"x": 3}),
    ],
)
async def test_what_a_composite_tool_tells_only_the_model_is_no_answer(name: str, arguments: dict[str, Any]) -> None:
    many = {f"many/{number}": "" for number in range(MAX_FILES + 1)}
    tools = CompositeTools(ToolSet((READ, LIST, WRITE)).tools, task="Change the first line.")
    found = await Disk(SOURCES | many).call(name, tools=tools, **arguments)

    assert found.is_error
    assert is_bridge_text(found.text)
    assert is_bridge_text(f"{FAILED}{found.text}", [UserMessage("How many are there?")])
