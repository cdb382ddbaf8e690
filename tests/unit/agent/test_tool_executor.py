"""The calls of one turn: what is run, side by side or in order, and what each is answered with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.agent import prompts
from lmstudio_bridge.agent.composite_tools import CompositeTools
from lmstudio_bridge.agent.grounding import Evidence
from lmstudio_bridge.agent.json_calls import NATIVE, Strategy
from lmstudio_bridge.agent.options import ChangeWatch, Held, RunOptions
from lmstudio_bridge.agent.repetition import Step
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.tool_executor import MAX_PAGED, ToolExecutor, path_in_folder
from lmstudio_bridge.agent.tools import FIND_TOOLS, ToolSelection, ToolSet
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import ToolTimeoutError
from lmstudio_bridge.events import OWN_SERVER, CallFinished, CallStarted, Noticed, Warned
from lmstudio_bridge.messages import (
    Approval,
    Approver,
    JSONObject,
    Notice,
    ServerTool,
    ToolCall,
    ToolResult,
    ToolRunner,
)
from lmstudio_bridge.security.access import Policy, Rule, Rules
from lmstudio_bridge.security.redact import holds_mark
from lmstudio_bridge.security.workspace import Workspace
from tests.support.fakes import FakeTools, ManualClock, Recorder, Sent

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = ServerTool("fs", "read", "Reads a file.", PATH, read_only=True)
WRITE = ServerTool("fs", "write", "Writes a file.", PATH, read_only=False)
ODD = ServerTool("fs", "odd", "Says nothing of itself.", PATH)

LIST = ServerTool("fs", "list", "Lists a folder.", PATH, read_only=True)


def calls(*named: tuple[str, str]) -> list[ToolCall]:
    """Calls of `fs__…` tools with these paths."""
    return [
        ToolCall(f"c{number}", f"fs__{name}", f'{{"path": "{path}"}}') for number, (name, path) in enumerate(named, 1)
    ]


class MeetingTools:
    """Tools of which each call waits until `expected` are under way at once; gives its path back."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._all_there = asyncio.Event()
        self.most = 0
        self._under_way = 0
        self.order: list[str] = []

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: Callable[[str], Awaitable[None]] | None = None,
    ) -> ToolResult:
        path = str(arguments["path"])
        self.order.append(f"{path} begins")
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        if self._under_way == self._expected:
            self._all_there.set()
        async with asyncio.timeout(60):
            await self._all_there.wait()
        for _ in range(10 - int(path)):  # the last one ends first
            await asyncio.sleep(0)
        self._under_way -= 1
        self.order.append(f"{path} ends")
        return ToolResult(path)


@dataclass
class Case:
    """An executor put together from fakes."""

    tools: ToolRunner = field(default_factory=lambda: answering(ToolResult("done")))
    policy: Policy = field(default_factory=lambda: Policy("write"))
    limit: int = 1_000
    max_tools: int | None = None
    more: tuple[ServerTool, ...] = ()
    approver: Approver | None = None
    watch: ChangeWatch | None = None
    task: str = ""
    strategy: Strategy = NATIVE
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        toolbox = ToolSet([READ, WRITE, ODD, *self.more])
        self.selection = ToolSelection(toolbox.tools, "read", max_tools=self.max_tools)
        self.evidence = Evidence(self.task, self.task)
        self.executor = ToolExecutor(
            self.tools,
            tool_set=toolbox,
            policy=self.policy,
            store=ResultStore(self.limit),
            composites=CompositeTools(toolbox.tools),
            selection=self.selection,
            evidence=self.evidence,
            tell=self.recorder.emit,
            options=RunOptions(
                filters=TextFilters(redact=lambda text: text.replace("secret", "[…]"), holds_placeholder=holds_mark),
                clock=ManualClock(),
                approver=self.approver,
                watch=self.watch,
                strategy=self.strategy,
            ),
        )

    async def answer(self, turn: Sequence[ToolCall]) -> list[ToolResult]:
        return await self.executor.execute(1, turn)


def answering(result: ToolResult | BaseException) -> FakeTools:
    return FakeTools({("fs", name): result for name in ("read", "write", "odd")})


def finished(
    number: str, tool: str, text: str, *, sent: bool, is_error: bool, server: str = "fs", about: str = ""
) -> CallFinished:
    return CallFinished(1, number, server, tool, text, is_error=is_error, sent=sent, seconds=0, about=about)


async def test_a_tool_that_is_named_in_another_way_is_run_once_and_only_for_one_of_two_such_calls() -> None:
    given = Case(tools := answering(ToolResult("done")))

    results = await given.answer(
        [ToolCall("c1", "functions.fs__read", '{"path": "a"}'), ToolCall("c2", "read:1", '{"path": "a"}')]
    )

    assert [result.text for result in results] == ["done", "The same call was made above; its result is there."]
    assert len(tools.sent) == 1


async def test_the_tools_of_the_bridge_are_found_under_other_names_too() -> None:
    given = Case(answering(ToolResult("x" * 2_000)))
    await given.answer([ToolCall("c1", "fs__read", '{"path": "a"}')])

    [result] = await given.answer([ToolCall("c2", "functions.read_result", '{"id": "r1", "offset": 1990}')])

    assert result.text.startswith("x" * 10)


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["[secret]", "[secret:github-token …3f2a]"])
@pytest.mark.parametrize(("tool", "sent"), [("read", True), ("odd", False), ("write", False)])
async def test_placeholder_of_a_secret_is_not_written_in_its_place(tool: str, sent: bool, mark: str) -> None:
    [result] = await Case(tools := answering(ToolResult("done"))).answer(calls((tool, f"KEY={mark}")))

    assert (len(tools.sent) == 1) is sent
    assert ("is a placeholder for a secret that is kept from you" in result.text) is not sent


@pytest.mark.parametrize("size", [249_999, 250_000, 250_001])
async def test_result_of_any_length_is_redacted(size: int) -> None:
    given = Case(answering(ToolResult("a" * (size - 6) + "secret")), limit=2_000_000)

    [result] = await given.answer(calls(("read", "1")))

    assert result.text.endswith("[…]")


# -- side by side -----------------------------------------------------------------------------------------------------


async def test_calls_that_only_read_are_under_way_at_once_and_answered_in_their_order() -> None:
    results = await Case(tools := MeetingTools(expected=3)).answer(calls(("read", "1"), ("read", "2"), ("read", "3")))

    assert results == [ToolResult("1"), ToolResult("2"), ToolResult("3")]
    assert tools.most == 3
    assert tools.order[3:] == ["3 ends", "2 ends", "1 ends"]


@pytest.mark.parametrize("other", ["write", "odd"])
async def test_where_one_call_may_write_all_run_one_after_another(other: str) -> None:
    results = await Case(tools := MeetingTools(expected=1)).answer(calls(("read", "1"), (other, "2"), ("read", "3")))

    assert results == [ToolResult("1"), ToolResult("2"), ToolResult("3")]
    assert tools.order == ["1 begins", "1 ends", "2 begins", "2 ends", "3 begins", "3 ends"]


async def test_calls_of_the_bridges_own_tools_hold_no_others_up() -> None:
    given = Case(tools := MeetingTools(expected=2))
    find = ToolCall("c9", FIND_TOOLS.name, '{"query": "write"}')

    await given.answer([*calls(("read", "1")), find, *calls(("read", "2"))])

    assert tools.most == 2


async def test_a_failure_of_one_call_leaves_the_others_beside_it_alone() -> None:
    class Half(MeetingTools):
        async def call_tool(self, server: str, tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolResult:
            result = await super().call_tool(server, tool, arguments, **options)
            if result.text == "1":
                raise ToolTimeoutError("It took too long.", server="fs")
            return result

    results = await Case(Half(expected=2)).answer(calls(("read", "1"), ("read", "2")))

    assert [result.is_error for result in results] == [True, False]
    assert results[0].text.startswith("The call failed: It took too long.")


# -- the same call, and too many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["read", "write"])
async def test_the_same_call_twice_in_a_turn_is_run_once(name: str) -> None:
    given = Case(tools := answering(ToolResult("done")))

    results = await given.answer(calls((name, "a"), (name, "b"), (name, "a"), (name, "a")))

    above = ToolResult("The same call was made above; its result is there.")
    assert results == [ToolResult("done"), ToolResult("done"), above, above]
    assert tools.sent == [Sent("fs", name, {"path": "a"}), Sent("fs", name, {"path": "b"})]
    assert given.recorder.of(CallFinished)[2:] == [
        finished(number, name, above.text, sent=False, is_error=False, about="a") for number in ("c3", "c4")
    ]


@pytest.mark.parametrize(("count", "run"), [(15, 15), (16, 16), (17, 16)])
async def test_so_many_calls_of_a_turn_are_run_and_the_others_answered(count: int, run: int) -> None:
    given = Case(tools := answering(ToolResult("done")))

    results = await given.answer(calls(*[("read", str(number)) for number in range(count)]))

    refused = "Not done: at most 16 calls in one turn. Call it again if it is still needed."
    assert results == [ToolResult("done")] * run + [ToolResult(refused, is_error=True)] * (count - run)
    assert len(tools.sent) == run


async def test_a_call_like_one_that_was_too_many_is_not_said_to_have_a_result() -> None:
    given = Case()
    many = calls(*[("read", str(number)) for number in range(17)])

    results = await given.answer([*many, ToolCall("c18", many[-1].name, many[-1].arguments)])

    assert results[-1] == results[-2]
    assert results[-1].is_error


async def test_the_same_calls_do_not_count_among_the_many() -> None:
    given = Case(tools := answering(ToolResult("done")))

    await given.answer(calls(*[("read", "a")] * 20, *[("read", str(number)) for number in range(15)]))

    assert len(tools.sent) == 16


# -- calls that never leave -------------------------------------------------------------------------------------------


async def test_the_bridges_own_tools_never_reach_a_server() -> None:
    given = Case(tools := answering(ToolResult("x" * 20)), limit=10, max_tools=1)
    turn = [
        *calls(("read", "a")),
        ToolCall("c2", "read_result", '{"id": "r1", "offset": 18}'),
        ToolCall("c3", "search_result", '{"id": "r1", "text": "y"}'),
        ToolCall("c4", FIND_TOOLS.name, '{"query": "writes"}'),
        ToolCall("c5", "read_result", "{}"),
    ]

    results = await given.answer(turn)

    assert results[1:] == [
        ToolResult("xx\n[r1, characters 18 to 20 of 20; this is its end]"),
        ToolResult("'y' does not occur in r1."),
        ToolResult("These can be called now:\n- fs__write: Writes a file."),
        ToolResult("read_result needs 'id'.", is_error=True),
    ]
    assert tools.sent == [Sent("fs", "read", {"path": "a"})]
    assert given.recorder.of(CallFinished)[1:] == [
        finished(each.id, each.name, result.text, sent=False, is_error=result.is_error, server=OWN_SERVER, about=about)
        for each, result, about in zip(turn[1:], results[1:], ("r1", "r1", "writes", ""), strict=True)
    ]


@pytest.mark.parametrize("name", ["write", "odd"])
async def test_a_call_that_the_policy_refuses_is_not_sent(name: str) -> None:
    given = Case(tools := answering(ToolResult("done")), policy=Policy("read"))

    results = await given.answer(calls((name, "a"), ("read", "a")))

    refusal = f"Not allowed: fs {name} may change things, and this run has read access only. Continue without it."
    assert results == [ToolResult(refusal, is_error=True), ToolResult("done")]
    assert tools.sent == [Sent("fs", "read", {"path": "a"})]


async def test_a_tool_that_was_taken_away_is_not_run_any_more() -> None:
    """A model goes on to call what stands in its history, offered or not."""
    given = Case(tools := answering(ToolResult("done")))
    given.selection.remove({"fs__read"})

    results = await given.answer(calls(("read", "a"), ("write", "a")))

    assert results == [ToolResult(prompts.TOOL_REMOVED, is_error=True), ToolResult("done")]
    assert tools.sent == [Sent("fs", "write", {"path": "a"})]


async def test_a_tool_that_was_taken_away_is_not_run_under_another_spelling() -> None:
    given = Case(tools := answering(ToolResult("done")))
    given.selection.remove({"fs__read"})

    results = await given.answer([ToolCall("c1", "Fs__READ", '{"path": "a"}')])

    assert (results, tools.sent) == ([ToolResult(prompts.TOOL_REMOVED, is_error=True)], [])


@pytest.mark.parametrize(
    ("name", "arguments", "beginning"),
    [
        ("fs__reed", "{}", "There is no tool 'fs__reed'"),
        ("fs__read", "{", "fs__read was not called"),
        ("fs__read", '{"path": null, "x": "secret"}', "fs__read was not called: invalid arguments: "),
    ],
)
async def test_a_call_that_cannot_be_run_is_answered_without_being_sent(
    name: str, arguments: str, beginning: str
) -> None:
    [result] = await Case(tools := answering(ToolResult("done"))).answer([ToolCall("c1", name, arguments)])

    assert result.text.startswith(beginning)
    assert "secret" not in result.text
    assert (result.is_error, tools.sent) == (True, [])


# -- what is told -----------------------------------------------------------------------------------------------------


async def test_what_was_done_to_the_arguments_is_told_before_the_call() -> None:
    given = Case()

    await given.answer([ToolCall("c1", "fs__read", "{'file_path': 5}")])

    assert given.recorder.events == [
        Noticed(
            Notice(
                "strategy",
                "fs: read was understood so: the JSON was repaired; file_path was taken as path; path was given as int",
            )
        ),
        CallStarted(1, "c1", "fs", "read", '{"path": "5"}'),
        CallFinished(1, "c1", "fs", "read", "done", False, True, 0, verdict="allowed", about="5", rule="readOnlyHint"),
    ]


@pytest.mark.parametrize(
    ("length", "note"), [(MAX_PAGED, ""), (MAX_PAGED + 7, "[the last 7 characters of this result")]
)
async def test_of_a_huge_result_the_beginning_can_be_paged_through(length: int, note: str) -> None:
    """To redact 15 million characters took Python seconds, in which nothing else in the process went on."""
    [result] = await Case(tools=answering(ToolResult("x" * length)), limit=2_000).answer(calls(("read", "1")))

    assert len(result.text) < 5_000
    assert (note in result.text) is True
    assert ("were left out" in result.text) == bool(note)


async def test_a_big_result_is_shown_in_part_and_without_secrets() -> None:
    [result] = await Case(answering(ToolResult("secret" * 100, is_error=True)), limit=50).answer(calls(("read", "a")))

    assert result.text.startswith(f"The call failed: {'[…]' * 11}[…\n[… 250 of 300 characters are not shown here.")
    assert "secret" not in result.text


@pytest.mark.parametrize(
    "error", ["ENOENT: no such file", "Entity not found", "It does not exist.", "It doesn't exist"]
)
async def test_a_name_that_is_not_there_is_answered_with_the_tool_that_shows_the_names(error: str) -> None:
    given = Case(answering(ToolResult(error, is_error=True)), more=(LIST,))

    [result] = await given.answer(calls(("read", "made-up")))

    assert result.text == f"The call failed: {error}\n{prompts.LOOK_FIRST.format(tool='fs__list')}"


async def test_an_edit_of_a_file_that_is_not_there_is_answered_with_the_tool_that_makes_it() -> None:
    edit = ServerTool("fs", "edit_file", "Edits.", {"type": "object", "properties": {}})
    make = ServerTool("fs", "write_file", "Writes.", PATH)
    given = Case(FakeTools({("fs", "edit_file"): ToolResult("ENOENT", is_error=True)}), more=(edit, make))
    arguments = '{"path": "both.txt", "edits": [{"oldText": "a", "newText": "b"}]}'

    [result] = await given.answer([ToolCall("c1", "fs__edit_file", arguments)])

    assert result.text == f"The call failed: ENOENT\n{prompts.NOT_MADE_YET.format(tool='fs__write_file')}"


CONTENT = {"type": "object", "properties": {"path": {}, "content": {}}, "required": ["path", "content"]}
FILE_TOOLS = (
    ServerTool("disk", "read_text_file", "Reads.", PATH, read_only=True),
    ServerTool("disk", "list_directory", "Lists.", PATH, read_only=True),
    ServerTool("disk", "write_file", "Writes.", CONTENT, read_only=False),
)


class Files:
    """Files behind three tools, and their `ChangeWatch`; what was written is in `written`.

    `said` is what the tool that writes says, and `told` what the watch says of its effect.
    """

    def __init__(self, **held: str) -> None:
        self.held = {f"{name}.md": text for name, text in held.items()}
        self.written: list[str] = []
        self.said = ToolResult("written")
        self.told: str | None = None
        self.still = ""

    async def call_tool(self, server: str, tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolResult:
        path = str(arguments["path"])
        if tool == "write_file":
            self.held[path] = str(arguments["content"])
            self.written.append(path)
            return self.said
        return ToolResult(self.held[path]) if path in self.held else ToolResult("ENOENT", is_error=True)

    async def before_call(self, tool: ServerTool, arguments: JSONObject) -> Held:
        return {Path(str(arguments["path"])): ("", None)}

    async def effect(self, tool: ServerTool, held: Held) -> str | None:
        return self.told

    async def left(self, held: Held, edits: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        return next(((old, "a.md") for old, _ in edits if old in self.still), None)

    async def holds(self, tool: ServerTool, arguments: JSONObject, text: str) -> bool | None:
        held = self.held.get(str(arguments["path"]))
        return None if held is None else held == text

    async def finish(self) -> None: ...


def on_files(files: Files, task: str = "Add a line to todo.md.", *, weak: bool = True) -> Case:
    strategy = Strategy("grammar" if weak else "native", Step.ANSWER_NOW, "for this test")
    return Case(files, more=FILE_TOOLS, watch=files, task=task, strategy=strategy)


def disk_call(name: str, **arguments: str) -> list[ToolCall]:
    return [ToolCall("c1", f"disk__{name}", json.dumps(arguments))]


@pytest.mark.parametrize(("weak", "shown"), [(True, True), (False, False)])
async def test_small_models_are_shown_the_names_beside_a_path_that_is_not_there(weak: bool, shown: bool) -> None:
    files = Files()
    files.held["."] = "[DIR] notes\n[FILE] todo.md"
    given = on_files(files, weak=weak)

    [result] = await given.answer(disk_call("read_text_file", path="note/todo.md"))

    assert result.is_error
    assert ("In the working folder there are:" in result.text and "notes/" in result.text) is shown


DIFF = "+++ a.md\n@@ -1 +1 @@\n-one\n+a secret\x1b[2J"
UNCHANGED = "\nThis call changed nothing: the file is as it was."


@pytest.mark.parametrize(
    ("task", "left"),
    [
        ("Switch all entries of a.md to off.", True),
        ("Switch the first entry of a.md to off. Leave all else as it is.", False),
    ],
)
async def test_a_text_that_an_edit_left_elsewhere_is_told_and_doubted_where_the_task_speaks_of_all(
    task: str, left: bool
) -> None:
    files = Files(a="on\non\n")
    files.still = "on"
    given = on_files(files, task=task)
    edit = disk_call("write_file", path="a.md", content="off\non\n", oldText="on", newText="off")

    [result] = await given.answer(edit)

    said = prompts.STILL_THERE.format(text="'on'", path="a.md")
    assert (said in result.changes) is left
    doubt = "'on' still stands in a.md"
    assert (doubt in given.evidence.doubts("It is done.", ())) is left

    await given.answer(disk_call("write_file", path="ba.md", content="x", oldText="y", newText="x"))
    assert (doubt in given.evidence.doubts("It is done.", ())) is left, "an edit of another file does not mend it"

    files.still = ""
    await given.answer(disk_call("write_file", path="a.md", content="off\noff\n"))
    assert given.evidence.left == ("", "")


@pytest.mark.parametrize(("told", "failed"), [(None, True), ("", True), (DIFF, False)])
async def test_a_change_that_says_it_failed_is_noted_unless_the_file_was_changed(
    told: str | None, failed: bool
) -> None:
    files = Files()
    files.said, files.told = ToolResult("Error: disk is secret"), told
    given = on_files(files)

    [result] = await given.answer(disk_call("write_file", path="a.md", content="two"))

    [noted] = given.recorder.of(CallFinished)
    assert (noted.says_failed, noted.reason) == (failed, "disk is […]" if failed else "")
    assert (result.text, result.is_error, noted.is_error) == ("Error: disk is […]", False, False)


@pytest.mark.parametrize(
    ("said", "told", "changes"),
    [
        ("written", DIFF, "\n+++ a.md\n@@ -1 +1 @@\n-one\n+a […]"),
        ("written", None, ""),
        ("written", "", UNCHANGED),
        ("```diff\n-one\n+two\n```", DIFF, ""),
        ("Index: a\n@@ -1,2 +1,2 @@\n-one", DIFF, ""),
        ("```diff\n```", "", UNCHANGED),
    ],
)
async def test_the_model_reads_what_its_call_changed_unless_the_tool_shows_it(
    said: str, told: str | None, changes: str
) -> None:
    files = Files()
    files.said, files.told = ToolResult(said), told
    given = on_files(files)

    [result] = await given.answer(disk_call("write_file", path="a.md", content="x"))

    assert (result.text, result.changes) == (said, changes)
    [ended] = given.recorder.of(CallFinished)
    assert ended.text == said + changes


async def test_what_a_call_replaced_is_a_source_and_what_it_wrote_is_none() -> None:
    files = Files()
    files.told = "+++ a.md\n@@ -1 +1 @@\n-port 8041\n+port 9052"
    given = on_files(files)

    await given.answer(disk_call("write_file", path="a.md", content="x"))

    found = given.evidence.check("It was 8041 and is 9052.")
    assert ([source.fact for source in found.sources], found.missing) == (["8041"], ("9052",))


async def test_nothing_is_told_of_the_effect_of_a_call_that_failed_or_reads() -> None:
    files = Files(a="one")
    files.said, files.told = ToolResult("ENOSPC", is_error=True), ""

    results = await on_files(files).answer(
        [*disk_call("read_text_file", path="a.md"), *disk_call("write_file", path="a.md", content="one")]
    )

    assert [result.changes for result in results] == ["", ""]


async def test_a_file_that_was_not_read_is_shown_once_before_it_is_overwritten() -> None:
    files = Files(todo="- milk, a secret\n")
    given = on_files(files)
    write = disk_call("write_file", path="todo.md", content="- bread")

    [first] = await given.answer(write)
    assert (first.is_error, files.written) == (True, [])
    assert "- milk, a […]" in first.text
    [second] = await given.answer(write)

    assert (second.is_error, files.written) == (False, ["todo.md"])
    ended = given.recorder.of(CallFinished)
    assert [(event.tool, event.sent) for event in ended] == [
        ("read_text_file", True),
        ("write_file", False),
        ("write_file", True),
    ]


@pytest.mark.parametrize("held", [{}, {"todo": ""}, {"todo": "- bread\n"}, {"todo": "- milk\n\n"}])
async def test_a_file_of_which_nothing_would_be_lost_is_written_at_once(held: dict[str, str]) -> None:
    files = Files(**held)

    [result] = await on_files(files).answer(disk_call("write_file", path="todo.md", content="- milk\n- bread"))

    assert (result.text, files.written) == ("written", ["todo.md"])


async def test_a_file_that_was_read_or_written_before_is_written_at_once() -> None:
    files = Files(todo="- milk\n")
    given = on_files(files)

    await given.answer(disk_call("read_text_file", path="todo.md"))
    await given.answer(disk_call("write_file", path="todo.md", content="- milk\n- bread\n"))
    await given.answer(disk_call("write_file", path="new.md", content="one"))
    await given.answer(disk_call("write_file", path="new.md", content="two"))

    assert files.written == ["todo.md", "new.md", "new.md"]


@pytest.mark.parametrize(
    ("task", "weak"),
    [
        pytest.param("Add a line to todo.md.", False, id="a strong model"),
        pytest.param("Overwrite todo.md with one line.", True, id="the task asks for it"),
        pytest.param("Schreibe todo.md neu: überschreibe alles.", True, id="in German, too"),
    ],
)
async def test_a_file_is_overwritten_at_once_by_a_strong_model_and_where_the_task_asks_for_it(
    task: str, weak: bool
) -> None:
    files = Files(todo="- milk\n")

    await on_files(files, task, weak=weak).answer(disk_call("write_file", path="todo.md", content="- bread"))

    assert files.written == ["todo.md"]


@pytest.mark.parametrize(
    ("found", "doubted"), [('{"entities": []}', True), ("", True), ("Hana lives in Fargo.", False)]
)
async def test_a_change_after_looks_of_which_none_found_anything_is_doubted(found: str, doubted: bool) -> None:
    given = Case(answering(ToolResult(found)))

    await given.answer(calls(("read", "a"), ("write", "town.txt")))

    assert bool(given.evidence.doubts("It is done.", ())) is doubted


async def test_a_change_without_any_look_is_not_doubted() -> None:
    given = Case()

    await given.answer(calls(("write", "town.txt")))

    assert not given.evidence.doubts("It is done.", ())


async def test_a_move_to_the_name_of_a_folder_is_answered_with_the_whole_path() -> None:
    move = ServerTool("fs", "move_file", "Moves.", {"type": "object", "properties": {}})
    error = ToolResult("Destination already exists: /x/docs", is_error=True)
    given = Case(FakeTools({("fs", "move_file"): error}), more=(move,))

    [result] = await given.answer(
        [ToolCall("c1", "fs__move_file", '{"source": "notes/a.txt", "destination": "docs/"}')]
    )

    assert result.text.endswith(f"\n{prompts.WHOLE_PATH.format(path='docs/a.txt')}")


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "a.txt", "destination": "docs/a.txt"},
        {"source": "", "destination": "docs"},
        {"source": "a.txt"},
        {"source": 1, "destination": "docs"},
    ],
)
def test_no_path_is_made_up_where_no_file_is_moved_to_a_folder(arguments: JSONObject) -> None:
    assert path_in_folder(arguments) == ""


@pytest.mark.parametrize(("text", "advised"), [("[]", True), ('["a"]', False)])
async def test_a_search_that_found_nothing_is_answered_with_advice(text: str, advised: bool) -> None:
    search = ServerTool("fs", "search_all", "Searches.", PATH, read_only=True)
    given = Case(FakeTools({("fs", "search_all"): ToolResult(text)}), more=(search,))

    [result] = await given.answer(calls(("search_all", "two words")))

    assert result.text == (f"{text}\n{prompts.FOUND_NOTHING}" if advised else text)


@pytest.mark.parametrize(
    ("text", "advised"), [("Staged changes:\n", True), ("Staged changes:\n-a", False), ("Clean.", False)]
)
async def test_a_heading_with_nothing_below_it_names_the_tools_that_show_the_rest(text: str, advised: bool) -> None:
    names = ("git_diff_staged", "git_diff", "git_log", "git_diff_apply")
    diffs = tuple(ServerTool("fs", name, "Diff.", PATH, read_only=name != "git_diff_apply") for name in names)
    given = Case(FakeTools({("fs", "git_diff_staged"): ToolResult(text)}), more=diffs)

    [result] = await given.answer(calls(("git_diff_staged", ".")))

    assert result.text == text + (f"\n{prompts.NOTHING_BELOW.format(tools='fs__git_diff')}" if advised else "")


async def test_a_search_that_found_nothing_after_a_call_that_brought_something_gets_no_advice() -> None:
    """A 1.5B model that looked whether its work was there took it for lost, and undid it."""
    search = ServerTool("fs", "search_all", "Searches.", PATH, read_only=True)
    tools = FakeTools({("fs", "search_all"): ToolResult("[]"), ("fs", "write"): ToolResult("done")})
    given = Case(tools, more=(search,))

    await given.answer(calls(("write", "a")))

    assert await given.answer(calls(("search_all", "two words"))) == [ToolResult("[]")]


async def test_other_errors_get_no_such_advice() -> None:
    given = Case(answering(ToolResult("out of memory", is_error=True)), more=(LIST,))

    assert [each.text for each in await given.answer(calls(("read", "a")))] == ["The call failed: out of memory"]


async def test_a_tool_that_was_taken_away_is_not_advised() -> None:
    given = Case(answering(ToolResult("ENOENT", is_error=True)), more=(LIST,))
    given.selection.remove({"fs__list"})

    [result] = await given.answer(calls(("read", "a")))

    assert result.text == f"The call failed: ENOENT\n{prompts.NAME_MISSING}"


# -- the audit line ---------------------------------------------------------------------------------------------------


async def test_every_call_leaves_a_line_that_says_what_was_decided_and_how_it_ended() -> None:
    given = Case(tools := answering(ToolResult("done")), policy=Policy("read"))

    await given.answer([ToolCall("c1", "fs__read", '{"path":"a"}'), ToolCall("c2", "fs__write", '{"path":"b"}')])

    audit = [
        (event.tool, event.sent, event.verdict, event.rule, event.about, event.digest)
        for event in given.recorder.events
        if isinstance(event, CallFinished)
    ]
    assert len(tools.sent) == 1
    assert audit == [
        ("read", True, "allowed", "readOnlyHint", "a", sha256(b'{"path": "a"}').hexdigest()[:16]),
        ("write", False, "needs_write", "access=read", "b", sha256(b'{"path": "b"}').hexdigest()[:16]),
    ]


class Person:
    """Somebody who allows calls, or not."""

    def __init__(self, answer: Approval) -> None:
        self.answer = answer
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
        self.asked.append((tool.name, list(arguments)))
        return self.answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", (True, "allowed", "approved during the run")),
        ("no", (False, "needs_write", "not approved")),
        ("not_asked", (False, "needs_write", "limit of questions")),
    ],
)
async def test_person_is_asked_about_a_call_that_needs_write_access(
    answer: Approval, expected: tuple[bool, str, str]
) -> None:
    person = Person(answer)
    given = Case(policy=Policy("read"), approver=person)

    await given.answer(calls(("read", "a"), ("write", "secret.txt")))

    [event] = [each for each in given.recorder.events if isinstance(each, CallFinished) and each.tool == "write"]
    assert (event.sent, event.verdict, event.rule) == expected
    assert person.asked == [("write", [("path", '"[…].txt"')])]


async def test_person_is_not_asked_about_a_call_that_fails_anyway() -> None:
    person = Person("yes")
    given = Case(tools := answering(ToolResult("done")), policy=Policy("read"), approver=person)

    [result] = await given.answer(calls(("write", "[secret]")))

    assert (person.asked, tools.sent) == ([], [])
    assert "is a placeholder for a secret" in result.text
    [event] = given.recorder.of(CallFinished)
    assert event.verdict == "allowed", "write access would not help"


async def test_a_run_that_ends_while_it_waits_for_approval_says_so() -> None:
    class Silent:
        async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
            raise asyncio.CancelledError

    given = Case(policy=Policy("read"), approver=Silent())

    with pytest.raises(asyncio.CancelledError):
        await given.answer(calls(("write", "a")))

    assert given.recorder.events[-1] == Warned("The run ended while it waited for approval of fs write.")


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        (Policy("read", rules=Rules((Rule("deny", "fs/write", "file"),))), "a"),
        (Policy("read", limit=("mcp__fs__read",)), "a"),
        (Policy("read", local={"fs": Path("/work")}, workspace=Workspace((Path("/work"),))), "/etc/a"),
        (Policy("read", local={"fs": Path("/work")}, workspace=Workspace((Path("/work"),))), "/work/.mcp.json"),
    ],
)
async def test_nobody_can_approve_what_is_denied(policy: Policy, path: str) -> None:
    person = Person("yes")
    await Case(tools := answering(ToolResult("done")), policy=policy, approver=person).answer(calls(("write", path)))

    assert (person.asked, tools.sent) == ([], [])


async def test_the_setting_that_lifts_a_refusal_is_told_once_and_not_to_the_model() -> None:
    given = Case(answering(ToolResult("done")), policy=Policy("read", local={"fs": Path("/")}))

    results = await given.answer(calls(("read", "/etc/a"), ("read", "/etc/b")))

    [warning] = [event.text for event in given.recorder.of(Warned)]
    assert '"fs/read" = []' in warning
    assert all("Not allowed" in result.text and "[paths" not in result.text for result in results)
