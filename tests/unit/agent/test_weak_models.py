"""What is decided for small models by rule: tools, the first call, the end, the form of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.json_calls import Strategy
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.prompts import ANSWER_NOW, NOT_CHANGED, NOT_THERE
from lmstudio_bridge.agent.repetition import MadeCall, RepetitionDetector, Step
from lmstudio_bridge.agent.tool_executor import find_edits, shorter_queries
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import ToolSchemaError
from lmstudio_bridge.events import CallFinished, CallStarted, Outcome, RunStarted, Tally
from lmstudio_bridge.messages import Access, JSONObject, ServerTool, SystemMessage, ToolResult, UserMessage
from lmstudio_bridge.security.access import Policy
from tests.support.fakes import FakeTools, ManualClock, Recorder, Reply, ScriptedModel, Sent, say
from tests.support.fakes import call as native_call

WEAK = Strategy("grammar", Step.ANSWER_NOW, "for these tests")


def file_tool(name: str, *required: str, read_only: bool) -> ServerTool:
    properties = {each: {"type": "string"} for each in required}
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return ServerTool("fs", name, f"{name}.", schema, read_only=read_only)


READ = file_tool("read_text_file", "path", read_only=True)
LIST = file_tool("list_directory", "path", read_only=True)
WRITE = file_tool("write_file", "path", "content", read_only=False)
EDIT = file_tool("edit", "path", "old_text", "new_text", read_only=False)
CLOCK = ServerTool("clock", "now", "Tells the time.", read_only=True)


class FileTools(FakeTools):
    """File tools over a dictionary."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        self.files = files
        self.found: dict[str, str] = {}

    async def call_tool(
        self, server: str, tool: str, arguments: Mapping[str, Any], *, on_progress: object = None
    ) -> ToolResult:
        self.sent.append(Sent(server, tool, arguments))
        path = arguments.get("path", "")
        match tool:
            case "list_directory":
                return ToolResult("\n".join(f"[FILE] {name}" for name in sorted(self.files)))
            case "read_text_file" if path in self.files:
                return ToolResult(self.files[path])
            case "write_file":
                self.files[path] = arguments["content"]
                return ToolResult("written")
            case "edit" | "now":
                return ToolResult("done")
            case "search_notes":
                return ToolResult(self.found.get(arguments["query"], ""))
            case _:
                return ToolResult("ENOENT", is_error=True)


class Given:
    """One run of a small model over files."""

    def __init__(
        self,
        *replies: Reply,
        task: str,
        files: dict[str, str],
        access: Access = "read",
        output_schema: JSONObject | None = None,
        rounds: int = 10,
        read_first: str = "",
    ) -> None:
        self.model = ScriptedModel(*replies)
        self.tools = FileTools(files)
        self.conversation = Conversation((SystemMessage("Use tools."), UserMessage(task)))
        self.recorder = Recorder()
        self._access = access
        self._policy = Policy(access)
        self._schema = output_schema
        self._rounds = rounds
        self._read_first = read_first
        self.strategy = WEAK
        self.more: tuple[ServerTool, ...] = ()
        self.outcome = Outcome("failed")

    async def go(self) -> Outcome:
        tally = Tally()
        tally.add(RunStarted("r", self.conversation.task(), (), 10, "2026-01-01T00:00:00Z", self._access))
        return await run(
            self.conversation,
            model=self.model,
            tools=self.tools,
            tool_set=ToolSet([READ, LIST, WRITE, EDIT, CLOCK, *self.more]),
            policy=self._policy,
            limits=Limits(self._rounds, 3_600, 10_000),
            emit=self.recorder.emit,
            tally=tally,
            options=RunOptions(
                strategy=self.strategy,
                output_schema=self._schema,
                clock=ManualClock(),
                read_first=self._read_first,
                filters=TextFilters(redact=lambda text: text.replace("hunter2", "[secret]")),
            ),
        )

    def branches(self, request: int) -> list[str]:
        """What the grammar of a request allows: names of tools, and `answer`."""
        schema = self.model.asked[request].response_schema
        assert schema is not None
        found = []
        for branch in schema.get("anyOf", [schema]):
            properties = branch["properties"]
            found.append(properties["call"]["enum"][0] if "call" in properties else "answer")
        return found

    def systems(self) -> list[str]:
        return [asked.messages[0].text for asked in self.model.asked]


async def ran(*replies: Reply, **options: Any) -> Given:
    """A run that has ended."""
    given = Given(*replies, **options)
    given.outcome = await given.go()
    return given


def call(name: str, **arguments: object) -> Reply:
    return say(json.dumps({"call": name, "arguments": arguments}))


def answer(value: object) -> Reply:
    return say(json.dumps({"answer": value}))


READ_A = call("fs__read_text_file", path="a.txt")


# -- which tools ------------------------------------------------------------------------------------------------------


async def test_a_run_that_only_reads_is_offered_no_tool_that_writes() -> None:
    given = await ran(answer("Nothing."), task="Say nothing.", files={})

    assert "fs__write_file" not in given.branches(0)
    assert "replace_text" not in given.branches(0)
    assert {"fs__read_text_file", "find_text", "calculate"} <= set(given.branches(0))
    assert "write_file" not in given.systems()[0]


async def test_a_run_that_may_write_is_offered_them() -> None:
    given = await ran(answer("Nothing."), task="Say nothing.", files={}, access="write")

    assert {"fs__write_file", "replace_text"} <= set(given.branches(0))


async def test_the_first_call_of_a_task_that_names_a_file_takes_a_path() -> None:
    given = await ran(
        call("fs__read_text_file", path="web.txt"),
        answer("80"),
        task="Which port is in web.txt?",
        files={"web.txt": "port 80"},
    )

    first, second = given.branches(0), given.branches(1)
    assert "answer" not in first
    assert "clock__now" not in first
    assert "calculate" not in first
    assert {"answer", "clock__now"} <= set(second)
    assert given.outcome.answer == "80"


@pytest.mark.parametrize(
    ("task", "offered"), [("Save a note.", False), ("Delete the note.", True), ("L\u00f6sche die Notiz.", True)]
)
async def test_tools_that_delete_are_offered_only_for_tasks_that_say_so(task: str, offered: bool) -> None:
    given = Given(*[answer("Done.")] * 3, task=task, files={}, access="write")
    given.more = (file_tool("delete_note", "path", read_only=False),)
    await given.go()

    assert ("fs__delete_note" in given.branches(0)) is offered


# -- the prompt stays -------------------------------------------------------------------------------------------------


async def test_the_system_text_is_the_same_in_every_request_also_in_the_last() -> None:
    given = await ran(READ_A, READ_A, answer("x"), task="What is in a.txt?", files={"a.txt": "x\n" * 9_000}, rounds=3)

    assert len(given.systems()) == 3
    assert len(set(given.systems())) == 1
    assert given.branches(2) == ["answer"]


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_a_call_that_is_made_again_with_the_same_result_ends_in_an_answer() -> None:
    list_all = call("fs__list_directory", path=".")
    files = {"a.txt": "one", "b.txt": "two"}
    read_b = call("fs__read_text_file", path="b.txt")
    given = await ran(list_all, READ_A, read_b, list_all, answer("one, two"), task="Read all files.", files=files)

    assert (given.outcome.answer, given.outcome.rounds) == ("one, two", 5)
    assert given.branches(4) == ["answer"]
    assert isinstance(last := given.model.asked[4].messages[-1], UserMessage)
    assert last.text.endswith(f"{ANSWER_NOW}\n\nRead all files.")


async def test_a_model_that_reads_again_in_place_of_the_change_must_make_it() -> None:
    write = call("fs__write_file", path="a.txt", content="two")
    task = "Read the file a.txt, and replace one by two in it."
    given = await ran(READ_A, READ_A, write, answer("done"), task=task, files={"a.txt": "one"}, access="write")

    assert "fs__write_file" in given.branches(2)
    assert not {"answer", "fs__read_text_file"} & set(given.branches(2))
    assert given.model.asked[2].messages[-1].text.endswith(NOT_CHANGED)


@pytest.mark.parametrize(("access", "repeated"), [("read", True), ("write", False)])
async def test_the_task_stands_behind_the_results_of_a_run_that_only_reads(access: Access, repeated: bool) -> None:
    task = "Read all files. What is in them?"
    read = call("read_files", paths=["*.txt"])
    given = await ran(read, read, answer("one"), answer("one"), task=task, files={"a.txt": "one"}, access=access)

    last = given.model.asked[-1].messages[-1].text
    assert last.endswith(f"\n\n{ANSWER_NOW}\n\n{task}" if repeated else f"\n\n{ANSWER_NOW}")
    assert given.conversation.task() == task


async def test_a_file_that_was_read_with_others_counts_as_read_again() -> None:
    files = {"a.txt": "one", "b.txt": "two"}
    given = await ran(
        call("read_files", paths=["*.txt"]), READ_A, answer("one"), task="Read all files, then answer.", files=files
    )

    assert given.branches(2) == ["answer"]


@pytest.mark.parametrize(
    ("first_step", "found"), [(Step.ANSWER_NOW, True), (Step.REMIND, False)], ids=["small model", "other model"]
)
def test_only_small_models_are_stopped_by_one_call_that_was_made_before(first_step: Step, found: bool) -> None:
    turns = [(MadeCall(name, "{}", "r", False),) for name in "abcda"]
    detector = RepetitionDetector(first_step=first_step)
    assert [bool(detector.add_turn(turn)) for turn in turns] == [False, False, False, False, found]


@pytest.mark.parametrize("again", [MadeCall("a", "{}", "r", True), MadeCall("a", "{}", "r", False, True)])
def test_a_failed_or_empty_call_that_is_made_again_later_ends_nothing(again: MadeCall) -> None:
    detector = RepetitionDetector(first_step=Step.ANSWER_NOW)
    turns: Sequence[tuple[MadeCall, ...]] = [(again,), (MadeCall("b", "{}", "s", False),), (again,)]
    assert [detector.add_turn(turn) for turn in turns] == [None, None, None]


@pytest.mark.parametrize(
    ("task", "text", "forced"),
    [
        ("Which file defines load_all?", "load_all", True),
        ("Which file defines load_all? Then read it.", "load_all", False),
        ("Which file defines load_none?", "load_none", True),
        ("Which file defines load_none?", "load", True),
        ("Which file defines load_none?", "none to load", False),
    ],
)
async def test_one_call_that_brings_all_that_was_asked_for_is_followed_by_the_answer(
    task: str, text: str, forced: bool
) -> None:
    files = {"a.py": "def load_all():", "b.py": "load_all()"}
    given = await ran(call("find_text", text=text, folder="."), answer("a.py"), answer("a.py"), task=task, files=files)

    assert given.branches(0) == ["find_text"]
    assert (given.branches(1) == ["answer"]) is forced


@pytest.mark.parametrize(
    ("task", "text", "access", "forced"),
    [
        ("Which code is in a.txt?", "code: x-1", "read", True),
        ("Which code is in a.txt?", "code: x-1", "write", False),
        ("Which code is in a.txt?", "See the file codes.txt.", "read", False),
        ("Which code is in a.txt?", "code: x-1\n" * 2_000, "read", False),  # only a part of it was shown
        ("Which code is in a.txt? Then look it up in b.txt.", "code: x-1", "read", False),
        ("Who calls main() in a.txt?", "code: x-1", "read", False),
        ("Which documents cite a.txt?", "code: x-1", "read", False),
        ("What does the README say about a.txt?", "code: x-1", "read", False),
        ("Which target is in a.txt?", '"extends": "./base.json"', "read", False),
        ("Which port is in a.txt?", "from settings import PORT", "read", False),
        ("Summarize a.txt.", "from settings import PORT", "read", True),
        ("Summarize a.txt.", "# All\n{{#include b.txt}}", "read", False),
        ("Which image is in a.txt?", "image: {{ .Values.image }}", "read", False),
        ("Wer hat den Code in a.txt?", "code: x-1", "read", False),  # other languages are not understood so well
        ("Which code is in a.txt?", "code: x-1\n[3 of 900 lines, 897 remaining]", "read", False),
        ("How many codes are in a.txt?", "code: x-1", "read", False),
        ("Which code is in c.txt?", "code: x-1", "read", False),  # it could not be read
    ],
)
async def test_a_file_that_was_read_first_and_is_all_that_is_needed_is_followed_by_the_answer(
    task: str, text: str, access: Access, forced: bool
) -> None:
    path = "c.txt" if "c.txt" in task else "a.txt"
    files = {"a.txt": text, "b.txt": "x"}
    given = await ran(answer("x-1"), *[answer("x-1")] * 4, task=task, files=files, access=access, read_first=path)

    assert (given.branches(0) == ["answer"]) is forced
    said = "".join(message.text for message in given.model.asked[0].messages)
    assert said.count(task) == 1 + forced, "the file has made the model forget the task"
    assert "fs__list_directory" in given.systems()[0], "the tools stay: the engine has read them for other items"


async def test_a_first_reply_that_is_no_answer_ends_nothing() -> None:
    plan = answer("Let me read it first:")
    task, files = "Which code is in a.txt?", {"a.txt": "code: x-1"}
    given = Given(plan, plan, answer("x-1"), task=task, files=files, read_first="a.txt")

    assert (await given.go()).answer == "x-1"
    assert [len(given.branches(request)) > 1 for request in range(3)] == [False, False, True]


# -- the answer's form ------------------------------------------------------------------------------------------------

NAMES = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"type": "string"}}},
    "required": ["names"],
}


async def test_the_answer_is_bound_to_the_output_schema_at_once() -> None:
    given = Given(
        READ_A, answer({"names": ["Ada"]}), task="Who is in a.txt?", files={"a.txt": "Ada"}, output_schema=NAMES
    )
    assert ((await given.go()).answer, len(given.model.asked)) == ('{"names": ["Ada"]}', 2)
    schema = given.model.asked[1].response_schema
    assert schema is not None
    assert schema["anyOf"][-1]["properties"]["answer"]["properties"]["names"]["type"] == "array"
    assert "fits this schema" in given.systems()[0]


async def test_long_json_whose_keys_are_like_parameters_is_an_answer_where_the_output_schema_has_them() -> None:
    wanted = {"content": "The sea is blue. " * 20, "source": "a.txt"}
    properties = {key: {"type": "string"} for key in wanted}
    schema = {"type": "object", "properties": properties, "required": list(wanted)}
    read = native_call(("fs__read_text_file", '{"path": "a.txt"}'))
    given = Given(read, say(json.dumps(wanted)), task="a.txt?", files={"a.txt": "The sea"}, output_schema=schema)
    given.strategy = Strategy("native", Step.REMIND, "for this test")
    assert (json.loads((await given.go()).answer), len(given.model.asked)) == (wanted, 2)


async def test_the_arguments_of_a_call_are_no_answer_to_an_output_schema_that_takes_anything() -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    given = Given(
        *(say('{"path": "a.txt"}'), READ_A, answer({"text": "It is the sea."})),
        task="a.txt?",
        files={"a.txt": "The sea"},
        output_schema=schema,
    )
    given.strategy = Strategy("native", Step.REMIND, "for this test")

    assert json.loads((await given.go()).answer) == {"text": "It is the sea."}


async def test_a_text_as_output_is_json_too() -> None:
    given = Given(READ_A, answer("Ada"), task="a.txt?", files={"a.txt": "Ada"}, output_schema={"type": "string"})
    assert (await given.go()).answer == '"Ada"'


async def test_an_engine_that_refuses_the_schema_is_asked_without_it_and_for_the_form_at_the_end() -> None:
    given = Given(
        ToolSchemaError("bad grammar"),
        READ_A,
        answer("Ada"),
        say('{"names": ["Ada"]}'),
        task="a.txt?",
        files={"a.txt": "Ada"},
        output_schema=NAMES,
    )
    assert (await given.go()).answer == '{"names": ["Ada"]}'


async def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    given = Given(
        READ_A, answer({"names": 1}), say('{"names": []}'), task="a.txt?", files={"a.txt": ""}, output_schema=NAMES
    )
    assert (await given.go()).answer == '{"names": []}'


# -- files that were not read -----------------------------------------------------------------------------------------


async def test_an_answer_without_a_file_that_the_task_names_is_asked_for_again_once() -> None:
    given = Given(
        READ_A,
        answer("one"),
        call("fs__read_text_file", path="b.txt"),
        answer("one and two"),
        task="What is in a.txt and b.txt?",
        files={"a.txt": "one", "b.txt": "two"},
    )
    assert (await given.go()).answer == "one and two"
    assert "answer" not in given.branches(2)
    assert isinstance(hint := given.model.asked[2].messages[-1], UserMessage)
    assert "You have not read b.txt." in hint.text


async def test_a_file_that_could_not_be_read_is_not_asked_for() -> None:
    given = Given(
        call("fs__read_text_file", path="b.txt"),
        READ_A,
        answer("one"),
        task="What is in a.txt and b.txt?",
        files={"a.txt": "one"},
    )
    assert (await given.go()).answer == "one"
    assert len(given.model.asked) == 3


async def test_an_answer_that_leaves_files_of_a_folder_out_is_asked_for_again() -> None:
    files = {"a.txt": "one", "b.txt": "two"}
    given = Given(
        call("fs__list_directory", path="."),
        READ_A,
        answer("one"),
        call("read_files", paths=["*.txt"]),
        answer("one, two"),
        task="List the words of all files.",
        files=files,
    )
    assert (await given.go()).answer == "one, two"


@pytest.mark.parametrize("times", [1, 2])  # of the same call the second ends in the answer
async def test_an_answer_with_a_value_of_somebody_else_is_asked_for_again_without_calls(times: int) -> None:
    given = Given(
        *[call("fs__read_text_file", path="people.txt")] * times,
        answer("Emil's fax number is 185572."),
        answer("A fax number of Emil was not found."),
        task="What is the fax number of Emil in people.txt?",
        files={"people.txt": "Emil\n  phone: 935233\n\nJana\n  phone: 501428\n  fax: 185572\n"},
    )
    assert (await given.go()).answer == "A fax number of Emil was not found."
    assert given.branches(-1) == ["answer"]
    assert isinstance(hint := given.model.asked[-1].messages[-1], UserMessage)
    assert hint.text == NOT_THERE.format(facts="Emil with 185572")


# -- changes ----------------------------------------------------------------------------------------------------------


async def test_an_edit_that_undoes_an_earlier_one_is_not_made() -> None:
    given = await ran(
        call("fs__edit", path="a.txt", old_text="x", new_text="y"),
        call("fs__edit", path="a.txt", old_text="y", new_text="x"),
        answer("Changed."),
        task="Change x to y in a.txt.",
        files={"a.txt": "x"},
        access="write",
    )

    assert len(given.tools.sent) == 1
    reasons = [event.reason for event in given.recorder.of(CallFinished)]
    assert reasons == ["", "it would undo an earlier change"]


@pytest.mark.parametrize(
    ("arguments", "edits"),
    [
        ({"path": "a", "old_text": "x", "new_text": "y"}, [("a", "x", "y")]),
        ({"path": "a", "edits": [{"oldText": "x", "newText": "y"}]}, [("a", "x", "y")]),
        ({"file_path": "a", "old_string": "x", "new_string": "y", "replace_all": True}, [("a", "x", "y")]),
        ({"path": "a", "content": "x"}, []),
        ({"path": "a", "old_text": 1, "new_text": "y"}, []),
    ],
)
def test_replacements_are_found_in_arguments(arguments: JSONObject, edits: list[tuple[str, str, str]]) -> None:
    assert list(find_edits(arguments)) == edits


# -- searches ---------------------------------------------------------------------------------------------------------


async def test_a_search_that_finds_nothing_with_all_its_words_is_made_again_with_fewer() -> None:
    search = ServerTool(
        "fs",
        "search_notes",
        "Search.",
        {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        read_only=True,
    )
    given = Given(call("fs__search_notes", query="Emil badge number"), answer("1321"), task="Emil's badge?", files={})
    given.more = (search,)
    given.tools.found = {"Emil": "Emil: badge 1321"}
    outcome = await given.go()

    assert [sent.arguments["query"] for sent in given.tools.sent] == ["Emil badge number", "Emil"]
    assert isinstance(shown := given.model.asked[1].messages[-1], UserMessage)
    assert "With Emil alone:\nEmil: badge 1321" in shown.text
    assert outcome.answer == "1321"


@pytest.mark.parametrize(
    ("arguments", "queries"),
    [
        ({"query": "Emil badge number"}, ["Emil", "badge"]),
        ({"query": "the opening hours"}, ["opening", "hours"]),
        ({"query": "Emil"}, []),
        ({"path": "a b"}, []),
    ],
)
def test_names_are_searched_for_first(arguments: JSONObject, queries: list[str]) -> None:
    assert [query for _, query in shorter_queries(arguments)] == queries


# -- composite tools in a run -----------------------------------------------------------------------------------------


async def test_each_inner_call_is_told_and_counted_like_one_of_the_model() -> None:
    files = {"a.txt": "TODO one", "b.txt": "two"}
    given = await ran(
        call("find_text", text="todo", folder="."), answer("a.txt:1"), task="List all TODOs.", files=files
    )

    assert [sent.tool for sent in given.tools.sent] == ["list_directory", "read_text_file", "read_text_file"]
    started = [event.call_id for event in given.recorder.of(CallStarted)]
    assert started == ["c00000001.1", "c00000001.2", "c00000001.3"]
    assert given.outcome.calls == 3
    assert any(source.startswith("a.txt") for source in given.outcome.rests_on)


@pytest.mark.parametrize("start", [3_993, 3_994, 3_997, 3_999, 4_000])
async def test_a_secret_is_told_in_no_part_where_an_inner_result_is_cut(start: int) -> None:
    files = {"a.txt": f"{'x' * start}hunter2\nTODO"}
    given = await ran(call("find_text", text="todo", folder="."), answer("a.txt"), task="List all TODOs.", files=files)

    told = [event.text for event in given.recorder.of(CallFinished)]
    assert len(told) == 3
    assert not any("hun" in text or text.endswith("xh") for text in told)


async def test_an_inner_call_that_may_not_run_is_refused_like_one_of_the_model() -> None:
    given = await ran(
        call("replace_text", path="a.txt", old="x", new="y"),
        answer("Done."),
        task="Change x to y in a.txt.",
        files={"a.txt": "x"},
    )

    assert given.tools.files == {"a.txt": "x"}
