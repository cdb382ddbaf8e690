"""Calls that stand in the text of a reply, in notations that no parser knows, and answers that only mention a tool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.leaked_calls import holds_bare_arguments, holds_leaked_call
from lmstudio_bridge.agent.schemas import object_schema
from lmstudio_bridge.messages import Message, SystemMessage, ToolMessage, UserMessage

N = "notes__read_note"
NAMES = (N, "notes__list_notes", "notes__write_note", "math__add", "fs__list", "search_result", "find_tools")
J = '{"path": "a.md"}'

CALLS = [
    # JSON
    f'{{"name": "{N}", "arguments": {J}}}',
    f'{{"name": "functions.{N}", "parameters": {J}}}',
    '{"tool": "read_note", "tool_input": {"path": "a.md"}}',
    f'{{"do": "{N}", "with": {J}}}',
    f'{{"{N}": {J}}}',
    f'[{{"name": "{N}", "arguments": {J}}}]',
    f"{{'name': '{N}', 'arguments': {{'path': 'a.md'}}}}",
    f'{{"name": "{N}", "arguments": {{"path": "a.md"',
    f'{{"name": "{N}", "arguments": "{{\\"path\\": \\"a.md\\"}}"}}',
    '{"name": "add", "arguments": {"a": 1, "b": 2}}',
    # markup of others, and invented
    f"<tool_call>\n<function={N}>\n<parameter=path>\na.md\n</parameter>\n</function>\n</tool_call>",
    f"<{N}>\n<path>a.md</path>\n</{N}>",
    "<read_note>\n<path>a.md</path>\n</read_note>",
    f'<invoke name="{N}"><parameter name="path">a.md</parameter></invoke>',
    f'<tool:{N} path="a.md"/>',
    f"<<call {N}>> {J} <</call>>",
    f'[[{N} path="a.md"]]',
    f"<|action|>{N}<|params|>path=a.md<|end|>",
    f"\u00a7{N}\u00a7path=a.md\u00a7",
    f"\u27e6{N}\u27e7{J}",
    f"@tool {N} {J}",
    f"!{N} path=a.md",
    f"[{N}]{J}[END]",
    f"{N}[ARGS]{J}",
    f"{N}\n{J}",
    f"`{N}`\n```json\n{J}\n```",
    f"functools[{{'name': '{N}', 'arguments': {J}}}]",
    f"Action: {N}\nAction Input: {J}",
    f"Action: {N}\nAction Input: a.md",
    f"tool: {N}\nargs:\n  path: a.md",
    f'TOOL_CALL: {N}(path="a.md")',
    f'{N}(path="a.md")',
    f'print({N}(path="a.md"))',
    f'[{N}(path="a.md"), notes__list_notes()]',
    "read_note(path='a.md')",
    f"I call {N} with {J}",
    # code blocks
    f'```json\n{{"name": "{N}", "arguments": {J}}}\n```',
    f"```tool\n{N}\npath: a.md\n```",
    f"```xml\n<tool_call>\n<function={N}>\n<parameter=path>\na.md\n</parameter>\n</function>\n</tool_call>\n```",
    f"```python\n{N}(path='a.md')\n```",
    f"```yaml\nname: {N}\narguments:\n  path: a.md\n```",
    f'```\n{{"name": "{N}", "arguments": {J}}}',
    # without markup
    f"$ {N} --path a.md",
    f"> {N} --path=a.md",
    f'({N} :path "a.md")',
    f"*** CALL {N} ***",
    f"*** CALL {N} path=a.md ***",
    f"{N} path=a.md",
    f'{N} path: "a.md"',
    f"{N} a.md",
    f"/{N} a.md",
    f"$ {N} a",
    f"```\n$ {N} a\n```",
    f"\u2192 {N}: a.md",
    f"Use tool: {N}, path: a.md",
    f"Command: {N} a.md",
    f"Command: {N} a",
    f'```go\nresult := {N}("a.md")\n```',
    f'```python\nnote = {N}("a.md")\n# The note says red.\n```',
    f"EXECUTE {N} WITH path = a.md",
    f'*calls {N} with path="a.md"*',
    f"```bash\n{N} --path a.md\n```",
    f"```\n$ {N} a.md\n```",
    # with marks eaten
    f"function{N}\n```json\n{J}\n```",
    f"{N}\n<arg_key>path</arg_key>\n<arg_value>a.md</arg_value>\n</tool_call>",
    f"commentary to=functions.{N} json{J}",
    f"functions.{N}:0{J}",
    f">>>{N}\n{J}",
    f"<|recipient|> {N}\n<|content|> {J}",
    f"\u273fFUNCTION\u273f: {N}\n\u273fARGS\u273f: {J}",
    f"<start_function_call>call:{N}{{path:<escape>a.md<escape>}}<end_function_call>",
    rf"\( \text{{{N}}}(\text{{path}}=\"a.md\") \)",
    rf"\boxed{{{N}(path=\"a.md\")}}",
    f'Simulating {N}(path="a.md")...',
    # links, commands and headings
    "mcp://notes/read_note?path=a.md",
    "<mcp://notes/read_note?path=a.md>",
    "[Read a.md](mcp://notes/read_note?path=a.md)",
    f"`mcp://tools/{N}?path=%2Ftmp%2Fa.md`",
    "mcp:notes/read_note?path=a.md",
    "tool://notes/read_note/a.md",
    "mcp://fs/list",
    "GET /notes/read_note?path=a.md",
    "\u2500\u2500\u2500 read_note | notes \u2500\u2500\u2500\u2500\u2500\u2500\npath: a.md",
    "\u2500\u2500\u2500 list | fs \u2500\u2500\u2500\u2500\u2500\u2500\npath: a",
    "--- notes: read_note ---\npath: a.md",
    "=== read_note (notes) ===\npath: a.md",
    "### read_note | notes\npath: a.md",
    '\u25cf notes - read_note (MCP)(path: "a.md")',
    '\u23fa notes:read_note (MCP)(path: "a.md")',
    "@notes read_note path:a.md",
    "@notes/read_note a.md",
    "@fs list path:a",
    "@fs.list ./a",
    "/list ./a",
    "/list --path a",
    "/fs:list ./a",
    "/mcp call notes read_note path=a.md",
    f"/mcp__{N} a.md",
    "notes read_note a.md",
    "mcp notes read_note --path a.md",
    "mcp-cli notes read_note a.md",
    'call_tool("read_note", path="a.md")',
    "call_tool('notes', 'read_note', path='a.md')",
    "Tool: list\nPath: ./a",
    # in words, and with what models put around it
    f"EXEC {N} @path = 'a.md'",
    f"{N} <<EOF\n{J}\nEOF",
    f"TOOL: {N}\nINPUT: {J}\nEND",
    f"### Tool Call\n- **Tool**: {N}\n- **path**: a.md",
    f"Werkzeug: {N}\nEingabe: {J}",
    f'<tool_call>{{"name": "{N}", "arguments": {J}}}</tool_call>'.replace("<", "&lt;").replace(">", "&gt;"),
    f"{N} mit {J}",
    f"CALL {N}('a.md');",
]
ALONE = [
    "add(a=1, b=2)",
    f"I called {N} with {J}",
    f"{N}abcdef123{J}",  # Mistral, marks eaten
    f"I will call the tool `{N}` with {J}.",
    f"notes read note {J}",
]
"""These are calls only where there is nothing else."""
BARE = [
    N,
    "read_note",
    f"`{N}`",
    f"{N} a",
    "/read_note",
    "<read_note/>",
    "[read_note]",
    "read_note\na.md",
    "read_note \u2192 a.md",
    'list("a")',
    "```\nlist ./a\n```",
    "Using read_note: a.md",
    'await mcp.notes.read_note("a.md")',
    "notes > read_note > a.md",
]
NAMING = [
    f'{{"tool": "{N}", "calls": 3}}',
    '{"tool": "read_note", "reason": "It is called most often."}',
    f'[{{"tool": "{N}", "calls": 3}}, {{"tool": "fs__list", "calls": 1}}]',
    f'```json\n{{"tool": "{N}", "calls": 3}}\n```',
    f'The most used tool:\n{{"tool": "{N}", "calls": 3}}',
]
"""JSON that names a tool and gives it nothing that must be its arguments."""
MADE_UP = [
    "The result will tell the colour.",
    "Result: The colour is red.\nThe colour is red.",
    "Observation: red\nThought: I know the answer.\nFinal Answer: red",
    "<tool_response>\nred\n</tool_response>\nThe colour is red.",
    "**Output:** red\n\nThe colour is red.",
    '-> "red"\n\nThe colour is red.',
    f"Result of {N}:\nred\nThe colour is red.",
    "[Result: red]\nThe colour is red.",
    "Ergebnis: rot",
    "\u7ed3\u679c\uff1a\u7ea2\u8272",
    "I will wait for the result.",
    "The result is red.",
    "This will read the note.",
    "Please run this call and tell me what it says.",
]
WITHOUT_NAME = [
    '<tool_call>\n{"name": "open_file", "arguments": {"path": "a.md"}}\n</tool_call>',
    "<tool_call>\n<function=open_file>\n<parameter=path>\na.md\n</parameter>\n</function>\n</tool_call>",
    "<tool_call>open_file\n<arg_key>path</arg_key>\n<arg_value>a.md</arg_value>\n</tool_call>",
    '[TOOL_CALLS]open_file[ARGS]{"path": "a.md"}',
    '<|channel|>commentary to=functions.open_file <|constrain|>json<|message|>{"path": "a.md"}<|call|>',
    '<|tool_calls_section_begin|><|tool_call_begin|>functions.open_file:0<|tool_call_argument_begin|>{"path": "a.md"}',
    '<function_calls><invoke name="open_file"><parameter name="path">a.md</parameter></invoke></function_calls>',
    '<|tool_call_start|>[open_file(path="a.md")]<|tool_call_end|>',
    '<|python_tag|>open_file.call(path="a.md")',
    '<|python_tag|>print(open("a.md").read())',
    '```tool_code\nopen_file(path="a.md")\n```',
    'Action: open_file\nAction Input: {"path": "a.md"}',
    "Action 1: Search[a.md]\nObservation 1: red\nAction 2: Finish[red]",
    '{"name": "open_file", "arguments": {"path": "a.md"}}',
    '{"tool": "open_file", "args": {"path": "a.md"}}',
    '[{"name": "open_file", "parameters": {"path": "a.md"}}]',
    '{"type": "function", "function": {"name": "open_file", "arguments": "{\\"path\\": \\"a.md\\"}"}}',
    '{"tool_calls": [{"name": "open_file", "arguments": {}}]}',
    '{"name": "open_file", "arguments": {"path": "a.md"}}\nResult: red\nThe colour is red.',
    'functions.open_file({"path": "a.md"})',
    'commentary to=functions.open_file json{"path": "a.md"}',
    '```json\n{"action": "Search", "action_input": "the colour of a.md"}\n```',
    "Tool: read_file\nInput: a.md",
    "<tool_call>\n</tool_call>",
    "<tool_call>",
    "</tool_call>",
    '{"path": "a.md"}\n</tool_call>',
    '{"path": "a.md"}<|call|>',
    "<tool_response>\nred\n</tool_response>",
    "[TOOL_RESULTS]",
]
HALF = [
    "{",
    "[",
    "[ {from:",
    '{"name": "x", "argu',
    '[{"name":',
    '{"tool_calls": [',
    "```json",
    "```json\n{\n```",
    "<function=",
    "<tool",
]


@pytest.mark.parametrize("before", ["", "I'll read the note first.\n\n", "I need the note (a.md):\n"])
@pytest.mark.parametrize("call", [*CALLS, *ALONE])
def test_a_call_in_any_notation_is_found_also_behind_prose(call: str, before: str) -> None:
    before = "" if call in ALONE else before
    assert holds_leaked_call(before + call, NAMES)


@pytest.mark.parametrize("reply", [*BARE, *NAMING])
@pytest.mark.parametrize(
    ("task", "result", "leaked"),
    [
        ("Read a.md.", "teal", True),
        (f"Use {N} to read a.md.", f"Unknown tool. Did you mean {N}?", True),
        ("Which tool was called most often?", "teal", False),
        ("How many calls of each tool are there?", "teal", False),
    ],
)
def test_a_reply_that_only_names_a_tool_is_an_answer_where_that_was_asked_for(
    reply: str, task: str, result: str, leaked: bool
) -> None:
    messages: list[Message] = [SystemMessage(f"Which tool? {N}"), UserMessage(task), ToolMessage("1", result)]

    assert holds_leaked_call(reply, NAMES, messages=messages) is leaked


def test_a_reply_that_stands_in_a_result_is_a_quotation() -> None:
    read: list[Message] = [UserMessage("What is the last line?"), ToolMessage("1", "12:00 start\nread_note path=a.md")]

    assert not holds_leaked_call("read_note path=a.md", NAMES, messages=read)
    assert not holds_leaked_call("```\nread_note path=a.md\n```", NAMES, messages=read)
    assert holds_leaked_call("read_note path=b.md", NAMES, messages=read)
    assert holds_leaked_call("read_note path=a.md", NAMES, messages=read[:1])


def test_a_name_with_its_place_may_have_been_read() -> None:
    reply = "Function: read_note\nFile: server.py\nLine: 40"
    read: list[Message] = [UserMessage("Where is it?"), ToolMessage("1", "40: def read_note(path):")]

    assert not holds_leaked_call(reply, NAMES, messages=read)
    assert holds_leaked_call(reply, NAMES, messages=read[:1])


def test_the_name_of_a_tool_may_have_been_read_or_asked_for_as_json() -> None:
    defined = ToolMessage("1", "12: def read_note(path):")
    reply = '{"name": "read_note", "line": 12}'

    assert not holds_leaked_call("read_note", NAMES, messages=[UserMessage("What is in line 12?"), defined])
    assert not holds_leaked_call(reply, NAMES, messages=[UserMessage("What is in line 12?"), defined])
    assert not holds_leaked_call(reply, NAMES, messages=[UserMessage("Give name and line of it as JSON.")])
    assert holds_leaked_call('{"name": "read_note", "arguments": {}}', NAMES, messages=[UserMessage(""), defined])


@pytest.mark.parametrize("behind", MADE_UP)
@pytest.mark.parametrize(
    "call",
    [
        f'{{"name": "{N}", "arguments": {J}}}',
        f'```json\n{{"name": "{N}", "arguments": {J}}}\n```',
        f'{N}(path="a.md")',
        f"```python\nprint({N}(path='a.md'))\n```",
        f"Action: {N}\nAction Input: {J}",
        f"Action: {N}\nAction Input: a.md",
        f"I call {N} with {J}",
        f"{N} path=a.md",
        f"{N}: {J}",
        f'<call tool="{N}" path="a.md"/>',
        f'~~~json\n{{"name": "{N}", "arguments": {J}}}\n~~~',
        f"Werkzeug: {N}\nEingabe: {J}",
        f'Action: {N}(path="a.md")\nPAUSE',
    ],
)
def test_a_call_is_found_before_a_result_that_the_model_made_up(call: str, behind: str) -> None:
    for before in ("", "I'll read the note first.\n\n"):
        assert holds_leaked_call(f"{before}{call}\n{behind}", NAMES)


@pytest.mark.parametrize("call", WITHOUT_NAME)
def test_what_can_only_be_a_call_is_one_whatever_it_names(call: str) -> None:
    for before in ("", "I'll open it.\n", "I'll open it.\n\n"):
        assert holds_leaked_call(before + call, NAMES)


@pytest.mark.parametrize(
    ("task", "reply", "leaked"),
    [
        ("Give the tool and its args as JSON.", '{"tool": "ruff", "args": {"line": 120}}', False),
        ("Convert a.yaml to JSON.", '```json\n{"name": "build", "args": {"line": 120}}\n```', False),
        ("Give the tool and its args.", '{"tool": "ruff", "args": {"line": 120}}', True),
        ("Convert a.yaml to JSON.", '{"tool": "cat", "args": {"line": 120}}', True),
        ("Convert a.yaml to JSON.", '{"name": "fs__read", "args": {"line": 120}}', True),
        ("Which tag is it?", "<tool_call> is the tag that opens a call.", False),
        ("Which tag is it?", "<tool_call> I read the file.", True),
        ("Summarize a.md.", "<read_file>\n<path>a.md</path>\n</read_file>", True),
        ("Summarize a.md.", "<execute_bash>cat a.md</execute_bash>", True),
    ],
)
def test_json_that_was_asked_for_and_a_tag_that_is_spoken_of_are_no_calls(task: str, reply: str, leaked: bool) -> None:
    read = ToolMessage("c1", "name: build\ntool: ruff\nargs:\n  line: 120")

    assert holds_leaked_call(reply, ["fs__read"], messages=[UserMessage(task), read]) is leaked


@pytest.mark.parametrize("reply", HALF)
def test_json_or_markup_that_was_only_begun_is_no_answer(reply: str) -> None:
    assert holds_leaked_call(reply, NAMES)


@pytest.mark.parametrize(
    "answer", ["[]", "{}", "null", '{"a": [1, {}]}', "[a](b)", "[1] says so (see [2", "`{`", "<b>"]
)
def test_short_json_and_markup_is_an_answer(answer: str) -> None:
    assert not holds_leaked_call(answer, NAMES)


def test_a_list_of_calls_as_the_whole_reply_is_one_whatever_it_names() -> None:
    assert holds_leaked_call('[open_file(path="a.md")]', NAMES)
    assert not holds_leaked_call('The list is [open_file(path="a.md")].', NAMES)
    assert not holds_leaked_call("run(debug=True)", NAMES)


def test_a_lone_closing_tag_behind_a_sentence_is_what_is_left_of_a_call() -> None:
    assert holds_leaked_call("I read the note.\n</tool_call>", NAMES)
    assert holds_leaked_call("I read the note.</function></tool_call>", NAMES)


@pytest.mark.parametrize(
    "answer",
    [
        "The colour is teal.",
        r"The sum is \(\boxed{4711}\).",
        f"I used {N} to read a.md. The colour is teal.",
        f"I read it with `{N}`.",
        f"`{N}` failed: ENOENT.",
        f"{N} returned: teal",
        f"The colour is teal (from {N}).",
        f"The colour is teal. [{N}]",
        f"The colour is teal.\nSource: {N}(path='a.md')",
        f"The colour is teal, as `{N}(path='a.md')` says.",
        f"The colour is teal. I called {N} with {J}.",
        f'The tool {N} returned {{"colour": "teal"}}',
        f"These tools are there:\n- **{N}**: reads a note\n- **notes__list_notes**: lists them",
        f"| tool | what |\n|---|---|\n| {N} | reads |\n| notes__list_notes | lists |",
        f"|tool|what|\n|---|---|\n|{N}|reads a note|",
        f"```\n{N}\nnotes__list_notes\n```",
        f"```\n{N}\nof_another_server\n```",
        f'["{N}", "notes__list_notes"]',
        f'{{"answer": "teal", "tools": ["{N}"]}}',
        '{"answer": "teal"}',
        '```json\n{"colour": "teal"}\n```',
        "```python\nfor each in list(range(3)):\n    print(add(each, 1))\n```",
        "Use this:\n\n```python\nimport re\nre.search('a', 'b')\nx = list(y)\n```",
        "Run `list` or call add() yourself.",
        "The function add(a, b) gives 3.",
        "To list them, type: ls -la {dir}",
        f"{N} is the tool that I used, and the colour is <b>teal</b>",
        "<p>The note says: teal</p>",
        "[a.md](notes/a.md)",
        f"See [{N}](https://example.com/{{x}})",
        f"Tool: {N}\nAnswer: teal",
        f"teal\n\nTool used: {N}",
        "The names are: list, add and search.",
        '{"name": "demo", "version": "1.0.0"}',
        '{"name": "add", "stars": 5}',
        f"One would write it so:\n```\n{N}(path='a.md')\n```\nThat is all.",
        f'It is written so:\n```\n<tool_call>\n{{"name": "{N}", "arguments": {J}}}\n</tool_call>\n```\nThat is all.',
        'Hermes models write `<tool_call>{"name": "f", "arguments": {}}</tool_call>`, and it is parsed.',
        "The template closes the block with `</tool_call>`",
        "The template closes the block with </tool_call>",
        "Calls stand between <tool_call> and </tool_call>; the README says so in line 12.",
        "It looks for `[TOOL_CALLS]` first and for `<|python_tag|>` else.",
        "The file shows the format:\n\n```\nAction: search\nAction Input: cats\nObservation: ...\n```\n\nIt is ReAct.",
        "It ends so:\n```\n<tool_call>\n{}\n</tool_call>\n```",
        "The colour is teal.\n</answer>",
        "<answer>teal</answer>",
        "<answer>\nThe colour is teal.\n</answer>",
        f"<answer>{N} says teal</answer>",
        "Thought: I know it now.\nFinal Answer: teal",
        '{"mcpServers": {"notes": {"command": "python", "args": ["server.py"]}}}',
        'It is:\n```json\n{"name": "web", "command": ["python"], "args": ["--port", "80"]}\n```',
        '{"command": "npm", "args": ["run", "build"], "cwd": "/srv"}',
        '{"function": "parse", "arguments": ["text", "strict"], "returns": "Tree"}',
        '{"name": "getUser", "parameters": {"type": "object", "properties": {}}}',
        '{"name": "getUser", "parameters": {"id": {"type": "string"}}, "description": "Gets a user"}',
        f'{{"tools": [{{"name": "{N}", "description": "Reads a note", "parameters": {{"path": "string"}}}}]}}',
        '{"event": "call", "name": "login", "params": {"user": "ada"}, "time": "10:00"}',
        f"`{N}(path: str) -> str` reads a note.",
        f"I called {N} with {J}.\n\nResult: the colour is teal.",
        f"The colour is teal.\n\n(Tool used: {N}, path: a.md)",
        f"I could not read a.md: {N} failed with `ENOENT: no such file`.",
        f"The calls were:\n- {N} (path: a.md): worked\n- notes__write_note (path: b.md): failed",
        f"1. `{N}` \u2192 teal\n2. `notes__list_notes` \u2192 a.md, b.md",
        "```\nINFO calling tool read_note path=a.md\nINFO done\n```\nThe log shows one call.",
        "It is called in main.py:\n\n```python\nnote = read_note('a.md')\nprint(note)\n```\n\nSo it prints the note.",
        f"\u6211\u4f7f\u7528\u4e86 {N} \u8bfb\u53d6 a.md, teal",
        "<p>teal</p>\n<ul><li>function</li></ul>",
        "<Callout>\nThe colour is teal.\n</Callout>",
        "```html\n<answer>teal</answer>\n```",
        "LOG_LEVEL=debug\nPORT=80",
        '```json\n{"level": "info", "tool": "read_note", "args": {"path": "a.md"}}\n```\nThat is the log line.',
        "The module defines:\n\n- `read_note(path)`\n- `write_note(path, text)`\n- `list_notes()`",
        "<h1>Tools</h1>\n<ul><li>read_note</li><li>list_notes</li></ul>",
        "```\nTraceback:\n  File 'a.py', line 1\n    read_note('a.md')\nFileNotFoundError: a.md\n```",
        "```diff\n- read_note('a.md')\n+ read_note('b.md')\n```",
        '{"action": "opened", "input": {"a": 1}, "repository": {"name": "x"}}',
        "Action: deploy\nResult: ok",
        '```json\n{"action": "Final Answer", "action_input": "teal"}\n```',
        "Result: teal",
        "/list?q=teal",
        "```js\nfs.list(fd, buffer, 0, 10);\n```",
        "```python\nfs.list('a.md')\n```\nThis line lists it.",
        "See https://example.com/notes/read_note?path=a.md",
        "The server is at mcp://notes/",
        "The resource is mcp://docs/readme.md",
        "Source: mcp://notes/read_note?path=a.md",
        "/list is the command.",
        "The commands are /list and /add.",
        "/list/a.md",
        "/home/list/a.md",
        "--- notes ---\nlist: 5",
        "### read_note\nDescription: reads a note",
        "@notes is the owner.",
        "The most used tool is\nread_note",
        "list: 5\nadd: 3",
        "fs: list, add",
        "The command is `fs list`.",
        "Observation: the log ends at 12:00.\nResult: nothing was lost.",
        "",
        "   ",
    ],
)
def test_an_answer_that_mentions_a_tool_or_shows_other_code_stays_an_answer(answer: str) -> None:
    assert not holds_leaked_call(answer, NAMES)


def test_without_tools_nothing_is_a_call() -> None:
    assert not holds_leaked_call(CALLS[0], ())


def test_a_call_that_opens_a_reply_is_one_whatever_is_said_behind_it() -> None:
    assert holds_leaked_call(f'```json\n{{"name": "{N}", "arguments": {J}}}\n```\nThis will read the note.', NAMES)
    assert holds_leaked_call(f'{{"name": "{N}", "arguments": {J}}}\n\nThis will read the note.', NAMES)


def test_a_name_that_two_servers_share_is_that_of_no_tool() -> None:
    call = "read(path='a')"

    assert not holds_leaked_call(call, ("fs__read", "web__read"))
    assert holds_leaked_call(call, ("fs__read", "web__get"))


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<!>",
        "{",
        f"{N}(",
        f"{N}(\nResult:\n",
        "<tool_call>\n",
        "{\n",
        "`a",
        f"{N}{{",
        f'"{N}": {{',
        "```\n",
        "[",
        f"{N} a=b ",
        "\\",
        "(",
    ],
)
def test_a_reply_of_any_length_is_looked_at_in_bounded_time(unit: str) -> None:
    holds_leaked_call(unit * (8_000_000 // len(unit)), NAMES)
    holds_leaked_call(unit * (30_000 // len(unit)) + "x", NAMES)


@pytest.mark.parametrize("unit", ["{\n", "\n{}", "[\n"])
def test_json_of_any_length_is_held_against_the_tools_in_bounded_time(unit: str) -> None:
    schema = object_schema({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]})

    assert not holds_bare_arguments(unit * (8_000_000 // len(unit)) + "}", {N: schema})


@given(st.text(max_size=200))
def test_text_without_the_name_of_a_tool_is_never_a_call(text: str) -> None:
    begun = text.lstrip()[:1] in ("{", "[", "<", "`")  # JSON or markup that stops at once
    assert begun or not holds_leaked_call(text, ("zzqserver__zzqtool",)) or "zzqtool" in text


@given(
    opened=st.text("<[{|@#\u00a7\u27e8~^=", min_size=1, max_size=3),
    closed=st.text(">]}|@#\u00a7\u27e9~^=", min_size=1, max_size=3),
    prose=st.sampled_from(["", "I'll look.\n", "First the note, then the rest.\n\n"]),
    end=st.sampled_from(["", "\n", "</call>", "[END]", "<|end|>"]),
)
def test_any_invented_marks_around_a_name_with_an_object_are_a_call(
    opened: str, closed: str, prose: str, end: str
) -> None:
    assert holds_leaked_call(f"{prose}{opened}{N}{closed}{J}{end}", NAMES)
