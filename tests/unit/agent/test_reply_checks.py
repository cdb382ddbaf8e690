"""What a reply amounts to, and the forms of a request that more engines take."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from lmstudio_bridge.agent.prompts import ANSWER_NOW, DATA_BEGINS, NOT_CALLED
from lmstudio_bridge.agent.reply_checks import (
    CUT_CALL,
    LOST_CALL,
    ReplyKind,
    classify_reply,
    copies_tools,
    find_repetition,
    is_bridge_text,
    is_unfounded,
    plain_turns,
    repeats_task,
    rule_for_failure,
    says_already,
)
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.schemas import ObjectSchema, object_schema, own_spec, simple_spec
from lmstudio_bridge.messages import (
    AssistantMessage,
    Completion,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Usage,
    UserMessage,
)

CALL = ToolCall("c1", "fs__read", '{"path": "a.txt"}')
HALF = ToolCall("c2", "fs__read", '{"path": "a')
COUNTED, ZEROS = Usage(10, 5, 0), Usage()


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (Completion("", calls=(CALL,)), "calls"),
        (Completion("Let me read:", calls=(CALL,), usage=ZEROS), "calls"),
        (Completion("It is 42.", usage=COUNTED), "answer"),
        (Completion("It is 42."), "answer"),  # a server that does not count
        (Completion("I'll look at the file first.", usage=ZEROS), "lost_call"),
        (Completion("", usage=ZEROS), "lost_call"),
        (Completion("", finish_reason=LOST_CALL), "lost_call"),
        (Completion("Let me read the notes first:", usage=COUNTED), "announced"),
        (Completion("Let me read the notes…", usage=COUNTED), "announced"),
        (Completion("The notes are long.\nNow I will count the words...", usage=COUNTED), "announced"),
        (Completion("Next, I call the tool:", usage=COUNTED), "announced"),
        (Completion("Let me know if you need more.", usage=COUNTED), "answer"),
        (Completion("I will say only this: 42", usage=COUNTED), "answer"),
        (Completion("Let me sum up. The values are:\n- 42", usage=COUNTED), "answer"),
        (Completion("", "Hm, what is it?", usage=COUNTED), "thought_only"),
        (Completion("", usage=COUNTED), "empty"),
        (Completion("I look.", finish_reason="tool_calls", usage=COUNTED), "lost_call"),
        (Completion('<x fs__read {"path": "a"}>', usage=COUNTED), "leaked_call"),
        (Completion('<x fs__read {"path": "a', finish_reason="length", usage=COUNTED), "cut_call"),
        (Completion("", calls=(CALL,), finish_reason="length"), "calls"),
        (Completion("", calls=(CALL, HALF), finish_reason="length"), "cut_call"),
        (Completion("", calls=(HALF, CALL), finish_reason="length"), "calls"),
        (Completion("", calls=(HALF,), finish_reason="tool_calls"), "calls"),
        (Completion("", finish_reason=CUT_CALL), "cut_call"),
        (Completion("It is teal, and the color of", finish_reason="length", usage=COUNTED), "answer"),
        (Completion("It is teal, and the color of", usage=COUNTED), "nothing"),
        (Completion(ANSWER_NOW, usage=COUNTED), "own_words"),
        (Completion("Let me read the note.", usage=COUNTED), "announced"),
        (Completion("fs__read", usage=COUNTED), "leaked_call"),
        (Completion("I look.", finish_reason="function_call", usage=COUNTED), "lost_call"),
        (Completion("I look.", finish_reason="TOOL_CALLS", usage=COUNTED), "lost_call"),
        (Completion("I look.", finish_reason="tool_use", usage=COUNTED), "lost_call"),
        (Completion("I look.", finish_reason="toolCalls", usage=COUNTED), "lost_call"),
        (Completion("", finish_reason="MALFORMED_FUNCTION_CALL", usage=COUNTED), "lost_call"),
        (Completion("It is", finish_reason="SAFETY", usage=COUNTED), "filtered"),
        (Completion("It is", finish_reason="content_filter", usage=COUNTED), "filtered"),
        (Completion("", finish_reason="safety", usage=COUNTED), "filtered"),
        (Completion("", calls=(CALL,), finish_reason="content_filter"), "calls"),
        (Completion(""), "empty"),
        (Completion("...", usage=COUNTED), "empty"),
        (Completion("<|im_start|>", usage=COUNTED), "empty"),
        *(
            (Completion(text, usage=COUNTED), "empty")
            for text in (
                *("\u200b", "\u2060", "\xad", "\u2800", "\x1b[0m", "\ufeff\n"),
                *("assistantfinal", "<answer></answer>", "<answer>\n</answer>", "</answer>"),
            )
        ),
        *(
            (Completion(text, usage=COUNTED), "answer")
            for text in ("0", "-", "*", "\U0001f44d", "{}", "[]", "} else {", "** 2", "\u200b0", "<answer>4</answer>")
        ),
        (Completion("-", usage=COUNTED), "answer"),
    ],
)
def test_a_reply_amounts_to(reply: Completion, verdict: ReplyKind) -> None:
    assert classify_reply(reply, tools_offered=True, names=["fs__read"]) == verdict


@pytest.mark.parametrize("text", ["I'll look at the file first.", "Let me read the notes first:"])
@pytest.mark.parametrize("usage", [COUNTED, ZEROS])
def test_no_call_can_be_lost_where_no_tool_was_offered(text: str, usage: Usage) -> None:
    assert classify_reply(Completion(text, usage=usage), tools_offered=False) == "answer"


@pytest.mark.parametrize("said", [UserMessage, lambda text: ToolMessage("c1", text)])
def test_a_sentence_that_was_read_announces_nothing(said: Callable[[str], Message]) -> None:
    reply = Completion("I will read the file tomorrow.", usage=COUNTED)
    seen = [said("The note says: I will read the file tomorrow. Yours, Ada")]

    assert classify_reply(reply, tools_offered=True, names=["fs__read"]) == "announced"
    assert classify_reply(reply, tools_offered=True, names=["fs__read"], messages=seen) == "answer"
    own = [AssistantMessage(reply.text)]
    assert classify_reply(reply, tools_offered=True, names=["fs__read"], messages=own) == "announced"


def test_what_comes_next_is_no_answer_also_where_no_tool_is_offered_any_more() -> None:
    reply = Completion("Let me read the note.", usage=COUNTED)

    assert classify_reply(reply, tools_offered=False, names=["fs__read"]) == "announced"
    assert classify_reply(reply, tools_offered=False) == "answer"


@pytest.mark.parametrize(("length", "verdict"), [(399, "announced"), (400, "announced"), (401, "answer")])
def test_a_long_text_is_an_answer_however_it_ends(length: int, verdict: ReplyKind) -> None:
    ending = "\nLet me read:"
    text = "x" * (length - len(ending)) + ending

    assert classify_reply(Completion(text, usage=COUNTED), tools_offered=True) == verdict


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([], []),
        ([UserMessage("task")], [UserMessage("task")]),
        ([SystemMessage("rules"), UserMessage("task")], [UserMessage("rules\n\ntask")]),
        (
            [SystemMessage("rules"), UserMessage("task"), AssistantMessage("", (CALL,)), ToolMessage("c1", "hello")],
            [
                UserMessage("rules\n\ntask"),
                AssistantMessage('I call fs__read with {"path": "a.txt"}'),
                UserMessage("Result of fs__read:\nhello"),
            ],
        ),
        (
            [
                UserMessage("task"),
                AssistantMessage("Both.", (CALL, ToolCall("c2", "fs__list", ""))),
                ToolMessage("c1", "hello"),
                ToolMessage("c2", "a.txt"),
                AssistantMessage("On."),
                UserMessage("hint"),
            ],
            [
                UserMessage("task"),
                AssistantMessage('Both.\nI call fs__read with {"path": "a.txt"}\nI call fs__list with {}'),
                UserMessage("Result of fs__read:\nhello\n\nResult of fs__list:\na.txt"),
                AssistantMessage("On."),
                UserMessage("hint"),
            ],
        ),
        (
            [UserMessage("task"), AssistantMessage("", (CALL,)), ToolMessage("c1", "x"), AssistantMessage("", (CALL,))],
            [
                UserMessage("task"),
                AssistantMessage('I call fs__read with {"path": "a.txt"}'),
                UserMessage("Result of fs__read:\nx"),
                AssistantMessage('I call fs__read with {"path": "a.txt"}'),
            ],
        ),
    ],
)
def test_plain_turns_are_user_and_assistant_in_turn_and_lose_nothing(
    messages: list[Message], turns: list[Message]
) -> None:
    assert plain_turns(messages) == turns


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({"type": "string", "description": "A path.", "enum": ["a"]}, {"type": "string", "description": "A path."}),
        ({"type": "integer", "minimum": 1}, {"type": "integer"}),
        ({"type": ["string", "null"]}, {"type": "string"}),
        ({"anyOf": [{"type": "integer"}]}, {"type": "string"}),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "object"}),
        (
            {"type": "array", "items": {"type": "object", "properties": {}}},
            {"type": "array", "items": {"type": "object"}},
        ),
        ({"type": "array", "items": [{"type": "integer"}]}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        (True, {"type": "string"}),
        ({"description": 3}, {"type": "string"}),
    ],
)
def test_a_simple_parameter_is_its_type_and_what_it_is_for(schema: Any, simple: dict[str, Any]) -> None:
    spec = ToolSpec("t", "A tool.", {"type": "object", "properties": {"p": schema}, "required": ["p"]})

    expected = {"type": "object", "properties": {"p": simple}, "required": ["p"]}
    assert simple_spec(spec) == ToolSpec("t", "A tool.", expected)


def test_a_tool_without_parameters_stays_one() -> None:
    spec = ToolSpec("t", "A tool.", {"type": "object"})

    assert simple_spec(spec) == ToolSpec("t", "A tool.", {"type": "object", "properties": {}})


# -- answers before any call ------------------------------------------------------------------------------------------

TASK = "Hana has the badge 6218 since 14:31. Say 6,218 or NO_WAY."
KNOWN = f"The folder is /notes.txt\n{TASK}"
LOOK = ToolSpec("fs__read", "Reads.", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("answer", "unfounded"),
    [
        ("Hello, Hana!", False),
        ("Hana", False),
        ("It is 6218, as the task says.", False),
        ("6,218", False),
        ("Since 14:31.", False),
        ("It is in Notes.TXT.", False),
        ("No_way.", False),
        ("It is 6.", False),
        ("That is 99 in all", False),
        ("That is 100 in all", True),
        ("Her badge is 6219.", True),
        ("Her badge is A-12345.", True),
        ("It was 09:15.", True),
        ("The file is box.txt.", True),
        ("The folder is src/app.", True),
        ("I cannot know that.", True),
        ("That's impossible.", True),
        ("I don't have access to it.", True),
        ("I have saved Hana.", True),
        ("The file has been renamed.", True),
        ("fs__read", True),
    ],
)
def test_an_answer_before_any_call_holds_nothing_that_only_a_look_can_tell(answer: str, unfounded: bool) -> None:
    assert is_unfounded(answer, task=TASK, known=KNOWN, tools=[LOOK]) is unfounded


@pytest.mark.parametrize(
    ("task", "unfounded"),
    [
        ("Tell me the word in one.txt.", True),
        ("Tell me the words in src/main.py and b.", True),
        ("Add 1 and 2 with the tool.", True),
        ("Add 1 and 2. Use your tools for it.", True),
        ("Add 1 and 2 without the tool.", False),
        ("Add 1 and 2, and do not use the tool.", False),
        ("No tool is needed. Say yes.", False),
        ("How much is 1.5 and 2.25?", False),
        ("Say yes, e.g. with three letters.", False),
        ("Say hello.", False),
    ],
)
def test_a_task_that_names_a_file_or_wants_a_tool_used_is_not_answered_without_a_call(
    task: str, unfounded: bool
) -> None:
    assert is_unfounded("one", task=task, known=task, tools=[LOOK]) is unfounded


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("The file person.txt tells of a person. Read it, and save the person in the memory.", True),
        ("the file **person.txt** tells of a person; read it and save the person in the memory", True),
        ("The file person.txt tells of a person. Read it, and save", True),
        ("The file person.txt tells of a person. It is Hana, and she was saved in the memory.", False),
        ("The file person.txt tells of", False),
        ("Hana", False),
    ],
)
def test_a_repeated_task_is_no_answer(answer: str, repeats: bool) -> None:
    task = "The file person.txt tells of a person. Read it, and save the person in the memory."

    assert repeats_task(answer, task) is repeats


def test_a_short_task_may_be_its_own_answer() -> None:
    assert not repeats_task("Say hello to the world.", "Say hello to the world.")
    assert repeats_task("What does a.md say", "What does a.md say?")


# -- the bridge's words around results ---------------------------------------------------------------------------------


def _texts_of_the_store() -> list[str]:
    store = ResultStore(20)
    store.show("a line\n" * 30)

    def ask(name: str, **arguments: object) -> str:
        answer = store.answer(ToolCall("c1", name, json.dumps(arguments)))
        assert answer is not None
        return answer[0]

    return [
        store.show(" "),
        ask("read_result", id="r1", offset=0).rpartition("\n")[2],
        ask("read_result", id="r1", offset=200).rpartition("\n")[2],
        ask("read_result", id="r1", offset=999),
        ask("read_result", id="r9", offset=0),
        ask("read_result", offset=0),
        ask("read_result", id="r1", offset="x"),
        ask("search_result", id="r1", text="line").rpartition("\n")[2],
        ask("search_result", id="r1", text="words"),
        ask("search_result", id="r1", text=""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *_texts_of_the_store(),
        "Result of fs__read_text_file:",
        "The call failed:",
        "The call failed: Not allowed: writing is off. Continue without it.",
        "Not allowed: the user's rules deny fs write_file. Continue without it.",
        "These can be called now:\n- fs__read: Reads a file.\n- fs__list: Lists a folder.",
        '[fs__read a.txt \u2192 5,000 characters, not shown any more; read_result(id="r1", offset=0) gives them]',
        f'fs__read{NOT_CALLED}path: 3 is not a string\nYou sent: {{"path": 3}}',
        "[image: image/png, 12 KB]",
        "3 lines in 2 files",
        "The answer is: 3 lines in 2 files.",
        "1 line in 1 file; 1 file searched in notes.md:",
        "5 files searched in docs/v1.2:",
        "2 files read.\n== a.md ==\n== b.md ==",
    ],
)
def test_the_bridges_words_around_results_are_no_answer(text: str) -> None:
    assert is_bridge_text(text, [UserMessage("Show me the line about the harbor.")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No output.",
        "The call failed: ENOENT: no such file or directory, open 'a.txt'",
        "a.md:3: the harbor is closed",
        "3 lines in 2 files; 5 files searched in docs:\na.md:3: the harbor is closed",
        "I changed 3 lines in 2 files.",
        "'harbor' was not found: 5 files searched in docs.",
        "2 files read; c.md does not exist.",
        "The backup was not done: the disk is full.",
        "There are 3 lines in 2 files that mention the harbor.",
        "The text of harbor.md is empty.",
        "'parse'; defined in src/a.py:3: 4 lines in 2 files; 5 files searched in src:",
        "2 differences between a.json and b.json: port and host.",
        "You sent: hello",
        "Result of the vote: 12 to 3.",
        "The image shows a harbor.",
        "3 lines in 2 files" + "." * 4_000,
    ],
)
def test_an_answer_that_holds_more_than_the_bridges_words_stays(text: str) -> None:
    assert not is_bridge_text(text, [UserMessage("Show me the line about the harbor.")])


@pytest.mark.parametrize(
    "task",
    [
        "How many lines mention the harbor?",
        "Count the lines about the harbor.",
        "Tell me whether a file mentions the harbor.",
        "Does any file mention the harbor?",
        "Wie viele Zeilen nennen den Hafen?",
        "Combien de lignes parlent du port ?",
        "有多少行提到港口?",
    ],
)
def test_a_number_of_lines_is_the_answer_where_it_was_asked_for(task: str) -> None:
    text = "'harbor': 3 lines in 2 files; 5 files searched in the working folder:"

    assert not is_bridge_text(text, [UserMessage(task)])
    assert is_bridge_text(text, [UserMessage("Show me the line about the harbor.")])


def _wrapped(data: str) -> str:
    return f"{DATA_BEGINS.format(mark='qqww')}\n{data}\nqqww"


LISTED = (
    ToolSpec(
        "fs__read_text_file",
        "Read the complete contents of a file from the file system as text. Handles encodings.\nOnly within folders.",
        {"properties": {"path": {"type": "string"}, "head": {"type": "number"}}, "required": ["path"]},
    ),
    ToolSpec("calculate", "Calculate with numbers.", {"properties": {"expression": {"type": "string"}}}),
    ToolSpec("x__ping", "", {}),
    own_spec("read_files", "Read several text files at once.", paths={"type": "array", "items": {"type": "string"}}),
)
A_LINE = "fs__read_text_file(path: string): Read the complete contents of a file from the file system as text."


@pytest.mark.parametrize(
    "text",
    [
        A_LINE,
        f"- {A_LINE}",
        f"**{A_LINE}**",
        A_LINE[:60],
        f"1. {A_LINE}",
        f"{A_LINE} Handles encodings.",
        f"The tools:\n- {A_LINE}\n- calculate(expression: string): Calculate with numbers.",
        f"{A_LINE}\nCalculate.",
        "read_files(paths: [string]): Read several text files at once.",
    ],
)
def test_a_line_from_the_list_of_tools_is_no_answer(text: str) -> None:
    asked: list[Message] = [UserMessage("Who owns notes.txt?"), AssistantMessage("", (CALL,))]

    assert copies_tools(text, LISTED, [*asked, ToolMessage("c1", _wrapped("owner: Ada"))])
    assert not copies_tools(text, LISTED, [*asked, ToolMessage("c1", _wrapped(f"# Tools\n{text}\nend"))])
    assert not copies_tools(text, LISTED, [UserMessage("Which tools do you have?")])
    assert not copies_tools(text, LISTED, [UserMessage("Explain fs__read_text_file.")])
    assert not copies_tools(text, LISTED, [UserMessage(f"Translate to German for de.txt: {text}")])
    assert not copies_tools(text, LISTED, [UserMessage("Welche Werkzeuge hast du?")])


@pytest.mark.parametrize(
    "text",
    [
        "Ada owns it.",
        "calculate(expression: string): Calculates the value with eval, which is unsafe with user input.",
        "`read_files(paths: [string])` reads each of the paths and returns their texts.",
        "fs__read_text_file gave 'owner: Ada', so Ada owns it.",
        "The file says: read the complete contents first. Its owner is Ada, and the deputy is Grace Hopper.",
        f"The owner is Ada. I found her in the second line of the file, which also names her deputy.\n{A_LINE[:40]}",
        "Read the complete contents of a file from the file system as text.",  # may be the docstring in that file
        "Only within folders.",
        "fs__read_text_file(path: string)",
        'fs__read_text_file(path="notes.txt") returned "owner: Ada", so Ada owns it.',
        '`fs__read_text_file("notes.txt")` shows that Ada owns it.',
        "- fs__read_text_file(notes.txt): the owner is Ada\n- fs__read_text_file(b.txt): it holds x",
        "x__ping shows that Ada owns it.",
        "",
    ],
)
def test_an_answer_that_speaks_of_a_tool_is_an_answer(text: str) -> None:
    assert not copies_tools(text, LISTED, [UserMessage("Who owns notes.txt?")])


def test_a_result_that_is_made_up_is_no_answer() -> None:
    asked: list[Message] = [UserMessage("Who owns notes.txt?"), AssistantMessage("", (CALL,))]
    read = [*asked, ToolMessage("c1", _wrapped("owner: Ada\nport: 8080"))]

    for text in ("Result of fs__read:\nowner: Bob", "Okay.\n\nResult of fs__read:\n\nowner: Bob\nport: 9"):
        assert is_bridge_text(text, asked)
        assert is_bridge_text(text, read)
    for text in (
        "Result of fs__read:\nowner: Ada",
        "Result of fs__read:\n\n**owner: Ada**\n\nSo Ada owns it.",
        "Result of the review:\nowner: Bob",
        "Result of fs__read: Ada owns it.",
    ):
        assert not is_bridge_text(text, read)


@pytest.mark.parametrize("text", ["**", "}"])
def test_a_bare_mark_may_be_an_answer(text: str) -> None:
    assert classify_reply(Completion(text, usage=COUNTED), tools_offered=True, names=["fs__read"]) == "answer"


@pytest.mark.parametrize("before", ["", "<tools>\n", "[", "```json\n"])
@pytest.mark.parametrize("wrapped", ['{"type": "function", "function": %s}', "%s"])
def test_the_definition_of_a_tool_is_an_answer_only_to_a_task_that_asks_for_one(before: str, wrapped: str) -> None:
    of_ours = json.dumps({"name": LISTED[0].name, "description": LISTED[0].description})
    of_theirs = json.dumps({"name": "read_text_file", "description": "Reads a file."})
    tasks: list[Message] = [UserMessage("Who owns it?"), AssistantMessage("", (CALL,))]
    text = before + wrapped % of_ours

    assert copies_tools(text, LISTED, tasks)
    assert copies_tools(text, (), [*tasks, AssistantMessage("", (ToolCall("c2", LISTED[0].name, "{}"),))])
    assert not copies_tools(before + wrapped % of_theirs, LISTED, tasks)
    assert not copies_tools(text, LISTED, [*tasks, ToolMessage("c1", _wrapped(f"Tools: [{text}]"))])
    assert not copies_tools(text, LISTED, [UserMessage("Write the schema of a tool that reads files.")])
    assert not copies_tools(text, LISTED, [UserMessage("Zeige die Werkzeuge als JSON.")])


@pytest.mark.parametrize(
    "text", ["Nothing was found. Fewer words may find more.", "Did you mean: a__b", 'You sent: {"name": 1}', ANSWER_NOW]
)
def test_words_of_the_bridge_that_stand_in_a_file_are_a_quotation(text: str) -> None:
    asked: list[Message] = [UserMessage("What does the log say?"), AssistantMessage("", (CALL,))]

    assert not is_bridge_text(text, [*asked, ToolMessage("c1", _wrapped(f"12:00 {text}\nend"))])
    assert is_bridge_text(text, [*asked, ToolMessage("c1", f"{_wrapped('end')}\n{text}")])
    assert is_bridge_text(text, [*asked, ToolMessage("c9", _wrapped(text))])  # of a composite tool


@pytest.mark.parametrize(
    "text",
    [
        "This file does not exist yet.",
        "Nothing has been changed yet.",
        "The job backup has failed 3 times in a row with the same error.",
        "0 differences between a.md and b.md.",
    ],
)
def test_a_sentence_that_anyone_may_write_is_an_answer_unless_the_model_was_told_it(text: str) -> None:
    assert not is_bridge_text(text, [UserMessage("What is the state?")])
    assert is_bridge_text(text, [UserMessage("What is the state?"), UserMessage(f"{text} Look.")]) == ("0 " not in text)


@pytest.mark.parametrize(
    ("task", "text", "verdict"),
    [
        ("\u00dcbersetze: I will read the book.", "Ich werde das Buch lesen.", "answer"),
        ('Translate "I will read the file" into Chinese', "\u6211\u5c06\u8bfb\u53d6\u6587\u4ef6", "answer"),
        ("Translate notes.md: all of it.", "I will read the file.", "announced"),
        ("Translate the notes into German.", "Let me read the notes.", "announced"),
        ("Translate: I will read the book.", "Let me read book.md.", "announced"),
        ("Hi", "Hello! How can I help you today?", "answer"),
        ("Hi, sum up notes.md.", "Hello! How can I help you today?", "nothing"),
        ("Write a polite greeting for a bot.", "Hello! How can I help you?", "answer"),
        ("Acknowledge this.", "Understood.", "answer"),
        ("Translate to German: Sure!", "Klar!", "answer"),
        ("Translate to German: the sea", "Klar!", "nothing"),
        ("What is it about?", "Color: [about]", "nothing"),
        ("What is it about?", "Option: [b]", "answer"),
        ("How do I call it with a path?", "Use: tool <path>", "answer"),
        ("What is in notes.md?", "cat notes.md", "announced"),
        ("What is in notes.md?", "```bash\ngrep -n color notes.md\n```", "announced"),
        ("Which command shows notes.md?", "cat notes.md", "answer"),
        ("What is in notes.md?", "cat and dog", "answer"),
        ("What is in notes.md?", "read_it[notes.md]", "announced"),
        ("What is in notes.md?", "<tool>read_it</tool>", "announced"),
        ("What is read_it for?", "read_it[notes.md]", "answer"),
        ("What is in notes.md?", "names_of[0]", "answer"),
        ("What is in the notes?", "The first step is to open config.yml.", "announced"),
        ("As a first step read a.txt. Then summarise it.", "The first step is to read a.txt.", "announced"),
        ("Do step 2 of plan.md.", "Next, I will read step 2 of the plan.", "announced"),
        ("Do step 2 of plan.md.", "I will now write the file as step 2 says.", "announced"),
        ("What greeting does the letter use?", "Hello! How can I assist you today?", "nothing"),
        ("Acknowledge nothing; give a list of all open issues", "Here is the list:", "nothing"),
        ("Explain the word for word copy and find the total", "The result is:", "nothing"),
        ("Hi", "Here is the list:", "nothing"),
        ("What's the quickest way to find foo in a.txt on Linux?", "grep foo a.txt", "answer"),
        ("Give me the Unix equivalent of `type notes.txt`.", "cat notes.txt", "answer"),
        ("What does a user type to see the first five lines of a.txt?", "head -5 a.txt", "answer"),
        ("What type of note is it, and what does it say of Linux?", "cat notes.txt", "announced"),
        ("How can we compute the total of a.csv?", "The total is [insert total]", "nothing"),
        ("Which form does the name have?", "The name is [name].", "nothing"),
    ],
)
def test_what_sounds_like_a_plan_counts_by_the_task(task: str, text: str, verdict: ReplyKind) -> None:
    reply = Completion(text, usage=COUNTED)
    names = ["fs__read", "fs__read_it"]

    assert classify_reply(reply, tools_offered=True, names=names, messages=[UserMessage(task)]) == verdict


def _takes(closed: bool, *required: str, **optional: str) -> ObjectSchema:
    properties = {name: {"type": "string"} for name in required} | {
        key: {"type": kind} for key, kind in optional.items()
    }
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": not closed}
    return object_schema(schema)


SCHEMAS = {
    "fs__read": _takes(True, "path", head="integer", tail="integer"),
    "fs__read_many": object_schema(
        {
            "type": "object",
            "properties": {"paths": {"type": "array", "items": {"type": "string"}}},
            "required": ["paths"],
        }
    ),
    "fs__write_file": _takes(True, "path", "content"),
    "fs__move_file": _takes(True, "source", "destination"),
    "fs__list": _takes(False, path="string", depth="integer"),
    "web__search": _takes(False, "query", limit="integer"),
}
SUMMARIZE, WRITE = "Summarize notes.md.", "Write a summary of package.json to docs/a.md."
NOTE = {"path": "docs/a.md", "content": 'It says "sea".\n' * 30, "overwrite": True}


@pytest.mark.parametrize(
    "form", ["{}", "```json\n{}\n```", "Here:\n{}", "Sure! {}", "Here it is.\n\n```\n{}\n```", "{}\n"]
)
@pytest.mark.parametrize(
    ("task", "value", "verdict"),
    [
        (SUMMARIZE, {"path": "notes.md"}, "leaked_call"),
        (SUMMARIZE, {"path": "notes.md", "head": 10}, "leaked_call"),
        (SUMMARIZE, {"path": "other.md"}, "leaked_call"),
        (SUMMARIZE, {"arguments": {"path": "notes.md"}}, "leaked_call"),
        (SUMMARIZE, {"paths": [f"docs/{number}.md" for number in range(30)]}, "leaked_call"),
        (SUMMARIZE, {"file_path": "notes.md", "head": "10"}, "leaked_call"),
        (SUMMARIZE, {"path": "notes.md", "head": None, "reasoning": "I look."}, "leaked_call"),
        (SUMMARIZE, {**{f"file{number}.md": "It is about the sea." for number in range(30)}, "path": "a"}, "answer"),
        (SUMMARIZE, {"depth": 2}, "leaked_call"),
        (SUMMARIZE, [{"path": "notes.md"}], "leaked_call"),
        (WRITE, NOTE, "leaked_call"),
        (WRITE, {**NOTE, "mode": "w"}, "leaked_call"),
        (WRITE, {"path": "docs/a.md", "content": "sea"}, "leaked_call"),
        ("Rename the readme.", {"source": "a", "destination": "b"}, "leaked_call"),
        ("Move it from source a to destination b.", {"source": "a", "destination": "b"}, "leaked_call"),
        ("Read the JSON file a.json.", {"path": "a.json"}, "leaked_call"),
        # asked for
        ("Give the path notes.md as JSON.", {"path": "notes.md"}, "answer"),
        ("Give it all as JSON.", {"files": [f"docs/{number}.md" for number in range(30)]}, "leaked_call"),
        ("Write the JSON schema to a.json.", {"path": "a.json", "content": "{}\n" * 90}, "leaked_call"),
        ("Give it as JSON.", NOTE, "answer"),
        ("Answer as {path, content}.", NOTE, "answer"),
        ("What is the source, and what the destination?", {"source": "a.md", "destination": "b.md"}, "answer"),
        # not what a tool takes
        (SUMMARIZE, {"path": "notes.md", "summary": "It is about the sea."}, "answer"),
        (SUMMARIZE, {"path": 5}, "answer"),
        (SUMMARIZE, {"limit": 10, "offset": 0}, "answer"),
        (SUMMARIZE, {"depth": 2, "title": "The sea"}, "answer"),
        (SUMMARIZE, {"query": "sea", "limit": 5, "why": "I look."}, "answer"),
        (SUMMARIZE, {"notes": [{"path": "notes.md"}]}, "answer"),
        (SUMMARIZE, {"owner": "Ann", "ports": list(range(100))}, "answer"),
        (WRITE, {**NOTE, "mode": "w", "by": "me"}, "answer"),
        (SUMMARIZE, [{"path": "notes.md"}, {"title": "The sea"}], "answer"),
    ],
)
def test_the_arguments_of_a_call_alone_are_no_answer_unless_such_json_was_asked_for(
    task: str, value: object, verdict: ReplyKind, form: str
) -> None:
    def kind(*, is_explicit: bool = False, offered: bool = True) -> ReplyKind:
        text = form.replace("{}", json.dumps(value, indent=1 if form == "{}\n" else None))
        reply = Completion(text, usage=COUNTED, is_explicit=is_explicit)
        messages = [UserMessage(task)]
        return classify_reply(reply, tools_offered=offered, names=[*SCHEMAS], schemas=SCHEMAS, messages=messages)

    assert kind() == verdict
    assert kind(offered=False) == verdict
    assert kind(is_explicit=True) == "answer"


def test_the_arguments_of_a_call_with_an_invented_result_are_no_answer() -> None:
    text = '{"path": "notes.txt"}\n\nResult:\nThe code is eagle-17. ' + "It is said twice. " * 10
    reply, messages = Completion(text, usage=COUNTED), [UserMessage(SUMMARIZE)]
    assert classify_reply(reply, tools_offered=True, schemas=SCHEMAS, messages=messages) == "leaked_call"


def test_json_that_was_cut_off_is_no_answer() -> None:
    for whole in (json.dumps({"owner": "Ann", "ports": list(range(100))}, indent=1), json.dumps(NOTE)):
        reply = Completion(whole[:-20], usage=COUNTED)
        assert classify_reply(reply, tools_offered=True, names=["fs__read"]) == "leaked_call"


@pytest.mark.parametrize(
    "text",
    ['The entry is {"path": "a.md"}.', 'It has {"path": "a.md"} in line 2', '{"path": "a.md"}\nThat is the entry.'],
)
def test_json_inside_of_prose_is_an_answer(text: str) -> None:
    reply, messages = Completion(text, usage=COUNTED), [UserMessage(SUMMARIZE)]

    assert classify_reply(reply, tools_offered=True, names=[*SCHEMAS], schemas=SCHEMAS, messages=messages) == "answer"


@pytest.mark.parametrize(
    ("task", "result", "text", "verdict"),
    [
        ("Is it valid?", "a: 1", "Certainly.", "answer"),
        ("Read it.", "a: 1", "Certainly.", "nothing"),
        ("Show the title.", "title: [title]", "title: [title]", "answer"),
        ("Show the title.", "name: sea", "title: [title]", "nothing"),
        ("What is it in?", "cat notes.md", "cat notes.md", "answer"),
        ("What does main.py do?", "a: 1", "Reading files", "answer"),
        ("What does main.py do?", "a: 1", "I am reading files", "announced"),
        ("What does main.py do?", "a: 1", "Reading b.md", "announced"),
        ("Sum it up.", "a: 1", "Reading files", "announced"),
        ("Does the log show errors? List them all.", "a: 1", "Certainly!", "nothing"),
        ("What does main.py do?", "a: 1", "Reading files and printing them.", "answer"),
        *(
            ("What does the loader do?", "a: 1", text, "announced")
            for text in (
                "Searching the files for the answer",
                "Reading the file",
                "Opening the file to look at its contents",
                "Opening files and looking for the answer",
                "Je vais lire le fichier.",
            )
        ),
        (
            "main.py\u306f\u4f55\u3092\u3059\u308b?",
            "a: 1",
            "\u8a2d\u5b9a\u3092\u8aad\u307f\u8fbc\u307f\u307e\u3059\u3002",
            "answer",
        ),
    ],
)
def test_a_yes_or_a_blank_counts_by_the_result(task: str, result: str, text: str, verdict: ReplyKind) -> None:
    messages: list[Message] = [UserMessage(task), ToolMessage("c1", result)]
    reply = Completion(text, usage=COUNTED)

    assert classify_reply(reply, tools_offered=True, names=["fs__read"], messages=messages) == verdict


@pytest.mark.parametrize(
    ("answer", "already"),
    [
        ("It is already false.", True),
        ("a.json is up to date.", True),
        ("Der Wert ist bereits false.", True),
        ("\u5df2\u7ecf\u662f false\u3002", True),
        ("It is false.", False),
        ("I already changed it to false.", False),
        ("I have already set it to false.", False),
        ("It has already been changed.", False),
    ],
)
def test_an_answer_that_says_it_is_so_already_is_told_from_a_claim_to_have_made_it_so(
    answer: str, already: bool
) -> None:
    assert says_already(answer) is already


# -- endless repetition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "repeated"),
    [
        ("It is teal.\n", "lantern "),
        ("", "no"),
        ("<p>", "!"),
        ("So:", "\n"),
        ('{"path": "', "../"),
        ("[1", ", 0"),
        ("Well.\n", "I need to think about this once more, and then again. "),
        ("# Ports", "| 80 | open | the port of the web server, and that of its twin |\n"),
        ("x", "".join(map(str, range(100, 233)))),
    ],
)
def test_a_text_that_repeats_itself_without_end_is_known_and_where_that_begins(before: str, repeated: str) -> None:
    assert find_repetition(before + repeated * 2_001 + repeated[:3]) == len(before)
    assert find_repetition(before + repeated * 2_001 + "And that is all.") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lantern " * 120,
        "-" * 400,
        "=" * 1_000,
        "|" + " --- |" * 100,
        "[" + "0, " * 600,
        "[" + ("[" + "0, " * 31 + "0],\n") * 32,
        "".join(f"row {number}: 0, 0, 0, 0\n" for number in range(2_000)),
        "".join(f"    case {number}:\n        return True\n" for number in range(500)),
        "2026-01-02 ERROR the connection was refused\n" * 40,
        base64.b64encode(random.Random(1).randbytes(9_000)).decode(),
        "x" * 399 + "y",
        "the same paragraph, of some length " * 10 + "and its end.\n" * 20,
    ],
)
def test_tables_rules_code_and_numbers_are_no_endless_repetition(text: str) -> None:
    assert find_repetition(text) is None


@pytest.mark.parametrize(
    ("text", "least"), [("lantern ", 1_000), ("no", 2_000), ("A line of forty characters, as it is... ", 2_000)]
)
def test_a_repetition_counts_from_its_limit_on(text: str, least: int) -> None:
    whole = f">{text * 2_000}"

    assert find_repetition(whole[:least]) is None
    assert find_repetition(whole[: least + 1]) == 1


@pytest.mark.parametrize(
    ("task", "word"),
    [
        ("Read a.txt. If that cannot be done, answer with the one word IMPOSSIBLE.", "IMPOSSIBLE"),
        ('Which port? If there is none, reply only with "NOT_FOUND".', "NOT_FOUND"),
        ("Give the owner; otherwise say N/A.", "N/A"),
        ("When it is missing, return exactly `NONE`", "NONE"),
        ("Answer with the word YES.", None),  # on no condition
        ("If there is a README, say what it is about.", None),
        ("If it fails, write a report to OUT.txt.", None),
        ("Answer NONE if there is nothing.", "NONE"),
        ("Say HELLO if a.md exists.", None),
        ("If it is an HTTP error, return HTTP and the code.", None),
        ("Reply with YES if the port is 8080, otherwise NO.", None),
        ("If there are no TODOs, answer CLEAN, else DIRTY.", None),
        ("Answer PASS if no test failed and FAIL otherwise.", None),
    ],
)
def test_the_word_that_a_task_wants_where_it_cannot_be_done_is_known(task: str, word: str | None) -> None:
    found = rule_for_failure(task)

    assert (found and found[0]) == word


# -- replies that say nothing ---------------------------------------------------------------------------------------

NOTHING = [
    "### Answer",
    "**Summary**",
    "The notes say that it deals with",
    "The answer is about that",
    "Sure, as the note says",
    "Based on the file, the config speaks of",
    "Based on the file, the config says",
    "The answer is that the file contains",
    "In the notes it says",
    "The file that deals with",
    "Sure!",
    "Okay. Understood.",
    "Got it!",
    "Hello! How can I assist you today?",
    "I'm ready to help.",
    "Sure, I can help with that.",
    "What would you like me to do?",
    "The color of the harbor is",
    "Sure! Here is the result:",
    "The answer is:",
    "Based on the file,",
    "I have read the file.",
    "The file has been read successfully.",
    "The result is shown above.",
    "See above.",
    "Perfect, thank you!",
    "Sure, I'll do that.",
    "Working on it...",
    "Nat\u00fcrlich!",
    "\u597d\u7684\u3002",
    "Summary:",
    "**Final answer:**",
    "Here's a summary of notes.md:",
    "According to notes.md,",
    "Based on the content of notes.md, the",
    "The file contains",
    "It says that the",
    "The color in harbor.md is",
    "See the tool output.",
]


@pytest.mark.parametrize(
    "text",
    [
        "[color]",
        "<color>",
        "{{color}}",
        "The harbor is [color].",
        "The color is: ___",
        "[insert color here]",
        "[answer]",
    ],
)
def test_a_blank_that_was_not_filled_in_is_no_answer(text: str) -> None:
    def kind(task: str) -> ReplyKind:
        messages = [UserMessage(task)]
        return classify_reply(Completion(text, usage=COUNTED), tools_offered=True, names=["x"], messages=messages)

    assert kind("What color is the harbor?") == "nothing"
    assert kind("What is in the template for the color, and for the answer?") == "answer"


def test_a_tool_that_is_named_in_place_of_a_call_is_to_be_called() -> None:
    def kind(text: str, *messages: Message) -> ReplyKind:
        reply = Completion(text, usage=COUNTED)
        return classify_reply(reply, tools_offered=True, names=["fs__read"], messages=messages)

    task = UserMessage("What color is the harbor?")
    for text in ("The tool to use is fs__read.", "fs__read says that it is teal.", "We need fs__read for notes.md."):
        assert kind(text, task) == "announced"
        assert kind(text, task, ToolMessage("c1", "It is teal.")) == "answer"
        assert kind(text, UserMessage("Which tool reads files?")) == "answer"
        assert kind(text, UserMessage("What is fs__read for?")) == "answer"
    assert kind("It is teal.", task) == "answer"
    assert kind(f"{'It is teal. ' * 40}fs__read said so.", task) == "answer"


@pytest.mark.parametrize("text", NOTHING)
def test_a_reply_that_only_agrees_or_breaks_off_is_no_answer(text: str) -> None:
    def kind(*messages: Message, tools: bool = True) -> ReplyKind:
        names = ["fs__read"] if tools else []
        return classify_reply(Completion(text, usage=COUNTED), tools_offered=tools, names=names, messages=messages)

    assert kind(UserMessage("What color is the harbor?")) == "nothing"
    assert kind(UserMessage(f"Say this: {text}")) == "answer"
    assert kind(ToolMessage("c1", f"The note says {text.lower()}")) == "answer"
    assert kind(UserMessage("What color is the harbor?"), tools=False) == "answer"


@pytest.mark.parametrize(
    "text",
    [
        "No.",
        "Done.",
        "None",
        "[]",
        "Hello.",
        "Sure, the harbor is teal.",
        "Okay, I changed the color.",
        "Yes, they are",
        "The harbor is teal",
        "The answer is: teal",
        "Here is the result:\nteal",
        "It is turned on",
        "[teal]",
        "Great Harbor",
        "Claro de luna",
        "It is well.",
        "What it is for",
        "It has what the file contains",
        "The color of v1.2 is teal",
        "It is in the file",
        "Summary:\nIt is teal.",
        "It is [1].",
        "I have read the file: it is teal.",
        "The harbor is above the town.",
        "def color(harbor):",
        "src/a.py:12: class Harbor:",
        "The harbor can help with that.",
        "The team that Ann works with",
        "Nothing that I know of",
        "Teal, as the note says",
        "The one the README describes",
        "Yes, it does that",
        "It is **the**",
        "The harbor has port 8080. Details:",
    ],
)
def test_a_short_reply_with_content_is_an_answer(text: str) -> None:
    messages = [UserMessage("What color is the harbor?")]

    assert (
        classify_reply(Completion(text, usage=COUNTED), tools_offered=True, names=["x"], messages=messages) == "answer"
    )


def test_json_that_stands_in_a_result_is_an_answer() -> None:
    text = '{"path": "/srv/data"}'
    refused = f"fs__read was not called: invalid arguments: no.\nYou sent: {text}"
    for result, verdict in (
        (f"settings\n{text}\n", "answer"),
        ("path = /srv/data", "leaked_call"),
        (refused, "leaked_call"),
    ):
        messages: list[Message] = [UserMessage("Give the settings in notes.txt."), ToolMessage("1", result)]
        reply = Completion(text, usage=COUNTED)
        assert classify_reply(reply, tools_offered=True, schemas=SCHEMAS, messages=messages) == verdict
