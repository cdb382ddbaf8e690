"""Reasoning and tool calls that leaked into the text of a reply → reasoning, calls and clean text.

LM Studio leaves `<think>` in the text when its setting "separate reasoning_content" is off or the template does not
match, and leaves tool calls in the text that its own parser could not read (sources: LM Studio's issue tracker, and the
chat templates of the models). The formats differ in their marks, hardly in their shape: between the marks there is JSON
that names the tool, a name followed by JSON, a call as Python writes it, or a name with tagged parameters. So marks are
skipped, and shapes are read.

A model can write anything for as long as it likes: all of this takes time in proportion to the text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from json_repair import repair_json

from lmstudio_bridge.json_text import written_items, written_json
from lmstudio_bridge.messages import JSONObject, resolve_tool_name

MAX_FAILED = 20  # opening marks of one reply that may turn out to open no call
_MAX_THOUGHTS = 100  # blocks of reasoning at the beginning of one reply
_MAX_REPAIRED = 100_000  # characters of broken JSON that are repaired
_MAX_PYTHON = 20_000  # characters of a call in Python's syntax

# -- reasoning ------------------------------------------------------------------------------------------------------

_REASONING = (
    *((f"<{tag}>", f"</{tag}>") for tag in ("think", "thinking", "thought", "reasoning", "seed:think")),
    *((f"<{tag}>", f"</{tag}>") for tag in ("scratchpad", "reflection", "inner_monologue")),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel|>commentary<|message|>", "<|end|>"),
    ("<\u25c1think\u25b7>", "<\u25c1/think\u25b7>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<|think|>", "<|/think|>"),
)
_LONE_CLOSING = re.compile(
    r"</(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|END_THINKING\|>|<channel\|>"
    r"|\[BEGIN FINAL RESPONSE\]"  # Apriel
)
_LEFT_CLOSING = re.compile(rf"(?:\s*(?:{_LONE_CLOSING.pattern}))+(?=[\w*]|\s*(?:\n|\Z))")  # not a sentence about it
_IN_QUOTES = re.compile(  # what is around a tag: the opening mark, what comes before it, and the closing one
    r"[\s(\[{=:,]?(?:\"\"|''|\(\)|\u201c\u201d|\u201e[\u201c\u201d]|\u2018\u2019|\u00ab\u00bb)"
)
_NEXT_TURN = re.compile(  # a model that goes on with the other's part
    r"(?:<\|(?:im_end|eot_id|end|endoftext)\|>|<end_of_turn>|</s>)\s*"
    r"(?:<\|(?:(?:im_start|start_header_id)\|>(?!\s*assistant)|(?:user|system)\|>)|<start_of_turn>(?!model)|(?:Human|User):).*\Z"
    r"|(?<=[^\s:])\s*\n<\|user\|>\s*\n.*\Z",
    re.DOTALL,
)
_EATEN_HARMONY = re.compile(r"\Aanalysis(.{1,100000}?)assistant\s?final(?=\S)", re.DOTALL)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_FINAL = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*(?:json|text|markdown)\s*)?<\|message\|>"
)
_LEADING = re.compile(
    r"(?:\s*(?:<\|START_RESPONSE\|>|<\|START_OF_TURN_TOKEN\|>|<\|CHATBOT_TOKEN\|>|<\|start\|>\s*assistant(?=\s*<\|channel)"
    r"|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|\[\|assistant\|\]|<\uff5cAssistant\uff5c>|<\|START_TEXT\|>"
    r"|<\|(?:bot|message|response)\|>|\[/INST\]|\Aassistant ?final(?=[A-Z\d\W])"
    r"|<\|begin_of_(?:box|solution)\|>|<(?:pad|bos|unk)>|<think/>|\ufeff|assistant\n\n"
    r"|<\|im_start\|>\s*assistant\b|<\|assistant\|>|<\|begin_of_text\|>|<start_of_turn>model\b"
    r"|<s>(?!.*</s>\s*\S)))++",
    re.DOTALL,
)
_TRAILING = re.compile(  # of whatever template; with a word and a space before it, it is spoken of
    r"(?<![\w:] )(?:<(?P<bar>[|\uff5c])(?!\S{0,40}(?:call|tool|action|python))[\w:.\u2581-]{1,40}(?P=bar)>"
    r"(?:assistant)?|\[\|[\w.-]{1,40}\|\]|<(?:\w{1,20}:)?(?:eos|pad|eoa)>"
    r"|<end_of_(?:turn|sentence|utterance)>|<turn\|>|\x00|</s>|\[EOS\]|\[e~\[|\[END FINAL RESPONSE\]|\[/INST\])\s*\Z"
)
_ROLE = re.compile(  # who speaks, as in a transcript; not a key among others
    r"\s*(?:[*_#]{0,4} ?(?:AI )?assistant|#{2,4} ?response)(?:[*_]{1,2}:|:[*_]{0,2})\s+(?!.*^[ \t]*[\w*_\"'-]{1,30}:)"
    r"|\s*<role>\s*assistant\s*</role>\s*|\s*\[assistant\]:?\s+",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_SPOKEN = re.compile(
    r"\s*<(assistant)>(?!\s*<)((?:(?!</?assistant>).)*)(?:</assistant>\s*)?", re.DOTALL | re.IGNORECASE
)
_WRAPPED = re.compile(r"\s*<(answer|response)>(.*)</\1>\s*", re.DOTALL)  # behind reasoning: Hunyuan, ERNIE, Granite


def split_reasoning(text: str, *, separate: bool = False) -> tuple[str, str]:
    """`text` without its reasoning and its stray control tokens, and the reasoning.

    Reasoning is a block at the beginning, or all up to a lone closing tag (the template had opened it in the prompt).
    With `separate` the server has delivered the reasoning apart: then tags in the text are words of the answer, except
    for a block, or a closing tag that was left over, at the very beginning. Tags in code or in JSON are words, too.
    """
    thoughts: list[str] = []
    next_turn = _NEXT_TURN.search(text)
    rest = _strip_tokens(
        text if next_turn is None or _is_in_code(text, next_turn.start()) else text[: next_turn.start()]
    )
    if eaten := _EATEN_HARMONY.match(rest):
        thoughts.append(eaten[1].strip())
        rest = rest[eaten.end() :]
    for _ in range(_MAX_THOUGHTS):
        start = rest.lstrip()
        marks = next((marks for marks in _REASONING if start[: len(marks[0])].casefold() == marks[0].casefold()), None)
        if marks is None:
            break
        if close := re.search(re.escape(marks[1]), start, re.IGNORECASE) or _LONE_CLOSING.search(start):
            marks = marks[0], close[0]
        inside, closed, after = start[len(marks[0]) :].partition(marks[1])
        if not closed and marks[1] == "<|end|>" and (final := _FINAL.search(inside)):
            inside, after = inside[: final.start()], inside[final.start() :]
        thoughts.append(inside.strip())
        rest = _strip_tokens(after)
    if separate and not thoughts and (left := _LEFT_CLOSING.match(rest)):
        rest = _strip_tokens(rest[left.end() :])
    if not separate and not thoughts and (close := _lone_closing(rest)):
        thoughts.append(rest[: close.start()].strip())
        rest = _strip_tokens(rest[close.end() :])
    if thoughts and (wrapped := _WRAPPED.fullmatch(rest)):
        rest = wrapped[2]
    if not thoughts and rest == text:
        return text, ""
    return rest.strip(), "\n".join(thought for thought in thoughts if thought)


def _strip_tokens(text: str) -> str:
    """Without the control tokens of a chat template before and behind a reply."""
    while match := _LEADING.match(text) or _FINAL.match(text.lstrip()):
        text = (text if match.re is _LEADING else text.lstrip())[match.end() :]
    if (role := _ROLE.match(text)) and text[role.end() :].strip():
        text = text[role.end() :]
    elif spoken := _SPOKEN.fullmatch(text):
        text = spoken[2].strip()
    while (match := _TRAILING.search(text[-200:])) and not (match[0].startswith("</s>") and "<s>" in text):
        text = text[: max(0, len(text) - 200) + match.start()].rstrip()
    return text


def _lone_closing(text: str) -> re.Match[str] | None:
    """The first closing tag, unless it is in code or the text is JSON."""
    close = _LONE_CLOSING.search(text)
    if close is None or text.lstrip().startswith(("{", "[")):
        return None
    before, after = text[: close.start()], text[close.end() :]
    if (
        close[0].replace("/", "") in before
        or re.match(r" ?[|.,;]", after)
        or _IN_QUOTES.fullmatch(before[-2:] + after[:1])
        or (before.endswith(" ") and re.match(r" [a-z]", after))
    ):
        return None  # a sentence about it
    return None if _is_in_code(text, close.start()) else close


def _is_in_code(text: str, position: int) -> bool:
    return any(span.start() <= position < span.end() for span in _CODE.finditer(text))


# -- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeakedCall:
    """A call found in text: the name of an offered tool, and its arguments as JSON text."""

    name: str
    arguments: str


_NAME = r"[A-Za-z_][\w.\-/:]{0,127}+"
_TOKEN = (
    r"<\|/?[\w.\-]{1,40}\|>"  # <|tool_call_begin|>
    r"|<\uff5c[^\uff5c<>\n]{1,40}\uff5c>"  # DeepSeek's, with wide bars
    r"|<\|tool_call>|<tool_call\|>"  # Gemma
    r"|\[\|[\w.\-]{1,40}\|\]"  # EXAONE
    r"|</?(?:[\w-]{1,20}:)?(?:tool_?calls?|tools|function_calls|longcat_tool_call|steptml)>"
    r"|\[/?(?:TOOL_CALLS?|TOOL_REQUEST|END_TOOL_REQUEST)\]"
)
_WORDS = r"(?:commentary|analysis|assistant|function|json|code|xml)\b(?!\s*[(\[=])"
_FILLER = rf"(?:\s|[,;]|{_TOKEN}|{_WORDS}|```(?:json|xml|tool_code)?(?=\s|$)|\[CALL_ID\]\w{{1,40}}|\[ARGS\])*+"
_SKIP = re.compile(_FILLER, re.IGNORECASE)
_NAMED = re.compile(rf"(?:recipient=|to=)?\[?({_NAME})(?: with |\]?{_FILLER})(?={{)", re.IGNORECASE)
_PYTHON = re.compile(rf"(?:print\()?\[?\s*({_NAME})\(")
_END_OF_PYTHON = re.compile(rf"{_TOKEN}|```|\Z", re.IGNORECASE)
_GEMMA = re.compile(rf"call:({_NAME})(?={{)")
_GEMMA_STRING = re.compile(r'<\|"\|>(.*?)<\|"\|>', re.DOTALL)
_GEMMA_KEY = re.compile(r"([{,]\s*)([A-Za-z_]\w*)\s*:")
_TAGGED = re.compile(rf'<(?:function=|(?:function|invoke|steptml:invoke) name=")({_NAME})"?\s*>', re.IGNORECASE)
_PAIRED = re.compile(rf"({_NAME})\s*(?=<(?:arg_key|longcat_arg_key|parameter=)|</tool_call>|</longcat_tool_call>)")
_PARAMETER = re.compile(
    r'\s*<(?:parameter=([^>\n]+)|(?:steptml:)?parameter name="([^"\n]+)"[^>\n]*)>'
    r"|\s*<(?:longcat_)?arg_key>(.*?)</(?:longcat_)?arg_key>\s*<(?:longcat_)?arg_value>",
    re.DOTALL,
)
_END_OF_VALUE = re.compile(r"</(?:(?:steptml:)?parameter|(?:longcat_)?arg_value)>(?=\s*\Z)")
_FOLLOWING = re.compile(
    r"<(?:parameter=|(?:steptml:)?parameter name=\")([^>\"\n]{1,128})"
    r"|</(?:function|(?:steptml:)?invoke)>(?=\s*(?:\Z|</?(?:[\w-]+:)?tool_call|<function|<invoke|</function_calls|<\||```))"
    r"|</?(?:longcat_)?tool_call>|<(?:longcat_)?arg_key>"
)
_END_OF_CALL = re.compile(r"\s*</(?:function|invoke|steptml:invoke|tool_call|longcat_tool_call)>")
_CLOSING = re.compile(rf"{_TOKEN}|</function>|\Z", re.IGNORECASE)
_OPENING = re.compile(
    r"<\|?(?:[\w-]{1,20}:)?(?:tool_?calls?|function_calls|longcat_tool_call)(?:\|?>)|<tools>"
    r"|<\|(?:tool_calls?(?:_section)?_(?:begin|start)|python_tag|python_start|START_ACTION|action_start|tools_prefix)\|>"
    r"|<\uff5ctool\u2581calls?\u2581begin\uff5c>"
    r"|\[(?:TOOL_CALLS?|TOOL_REQUEST)\]|functools(?=\[)|```tool_code\b|\bI call (?=[\w.\-/:]{1,128} with \{)"
    r"|(?P<kept><function(?:=| name=)|<(?:steptml:)?invoke name=|<\|(?:channel|start)\|>(?=[^<\n]{0,40}\bto=)"
    rf"|\[{_NAME}\]\s{{0,9}}(?={{)|(?<![\w.]){_NAME}(?:\[CALL_ID\]\w{{1,40}})?\[ARGS\](?=\s{{0,9}}{{))",
    re.IGNORECASE,
)
_MADE_UP = re.compile(
    r"<\|?/?(?:tool_response|tool_result|tool_output|function_result|observation|result)\w{0,20}\|?>"
    r"|^\W{0,12}(?:(?:tool|function)[ _-]?)?(?:observations?|results?|outputs?|responses?)\b"
    r"(?: of [^\n:]{1,80})?\W{0,8}(?::|$)",
    re.IGNORECASE | re.MULTILINE,
)
_DSML = re.compile(r"<(/?)[\uff5c|]DSML[\uff5c|]")
_STRAY_END = re.compile(rf"(?:\s*(?:{_TOKEN}|</function>|</invoke>|```))*+", re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)  # raw line breaks in strings are common


def recover_calls(text: str, *, tools: Mapping[str, JSONObject]) -> tuple[str, tuple[LeakedCall, ...]]:
    """The `text` before the calls that leaked into it, and those calls, in their order.

    What a model writes behind a call was written without its result. So it is left out; and behind a result that the
    model made up itself, further calls are left out, too.
    `tools` are the names of the offered tools with their parameter schemas, which say whether a tagged value is text.
    Only calls of offered tools count; half a call counts as none. What is in code is left alone, and bare JSON counts
    only if it is the whole text.
    """
    if "DSML" in text:
        text = _DSML.sub(r"<\1", text)
    reader = _Reader(text, tools)
    in_code = bytearray(len(text))
    for match in _CODE.finditer(text):
        if not match[0].startswith("```tool_code"):
            in_code[slice(*match.span())] = b"\1" * len(match[0])
    calls: list[LeakedCall] = []
    begin = len(text)
    position = failed = 0
    while (opening := _OPENING.search(text, position)) and failed < MAX_FAILED:
        start = opening.start()
        if calls and _MADE_UP.search(text, position, start):
            break
        position = opening.end()
        if in_code[start]:
            continue
        found, end = reader.read_block(start if opening["kept"] is not None else position)
        if found:
            calls += found
            stray = _STRAY_END.match(text, end)
            position = stray.end() if stray else end
            begin = min(begin, start)
        else:
            failed += 1
            position = max(position, reader.skip(position))  # marks that follow each other open the same block
    if calls:
        return text[:begin].strip(), tuple(calls)
    stripped = text.strip()
    if stripped.startswith(("{", "[")):
        for read in (reader.read_json, reader.read_python):
            found, end = read(len(text) - len(text.lstrip()))
            if found and not _SKIP.sub("", text[end:], count=1).strip():
                return "", tuple(found)
    return text, ()


class _Reader:
    """Reads calls out of one text, shape by shape."""

    def __init__(self, text: str, tools: Mapping[str, JSONObject]) -> None:
        self._text = text
        self._tools = tools
        self._shapes = self._tagged, self._gemma, self._named, self.read_json, self.read_python, self._paired

    def read_block(self, position: int) -> tuple[list[LeakedCall], int]:
        """The calls that follow each other from `position` on, and where they end."""
        calls: list[LeakedCall] = []
        while True:
            start = self.skip(position)
            for shape in self._shapes:
                found, end = shape(start)
                if found:
                    calls += found
                    position = end
                    break
            else:
                return calls, position

    def _resolve(self, name: str) -> str | None:
        return resolve_tool_name(name.strip().removesuffix(".call"), self._tools)  # Llama: f.call(x="y")

    def read_json(self, position: int) -> tuple[list[LeakedCall], int]:
        """JSON objects, one after another or in lists, that name a tool and its arguments."""
        text = self._text
        calls: list[LeakedCall] = []
        end = position
        while True:
            start = self.skip(end)
            if text[start : start + 1] not in ("{", "["):
                break
            found, after = self._json_value(start)
            if not found:
                return [], position
            calls += found
            end = after
        return calls, end

    def _json_value(self, start: int) -> tuple[list[LeakedCall], int]:
        try:
            value, end = _DECODER.raw_decode(self._text, start)
        except (ValueError, RecursionError):
            value, end = self._repaired(start)
            values: list[Any] = value if isinstance(value, list) else [value]
            return self._calls_of(values, [json.dumps(each, ensure_ascii=False) for each in values]), end
        source = self._text[start:end]
        for key in ("tool_calls", "tool_uses"):
            if isinstance(value, dict) and isinstance(value.get(key), list):
                value, source = value[key], written_json(source, key)
        if isinstance(value, list):
            return self._calls_of(value, written_items(source)), end
        return self._calls_of([value], [source]), end

    def _repaired(self, start: int) -> tuple[Any, int]:
        """The value of broken JSON, and where it ends; None where no closing mark says that all of it is there."""
        close = _CLOSING.search(self._text, start)
        if close is None or close.start() == len(self._text) or close.start() - start > _MAX_REPAIRED:
            return None, start
        region = self._text[start : close.start()].strip().removesuffix("```").rstrip()
        try:
            return repair_json(region, return_objects=True, skip_json_loads=True), close.start()
        except (ValueError, RecursionError):
            return None, start

    def _calls_of(self, values: Sequence[Any], sources: Sequence[str]) -> list[LeakedCall]:
        """The call in each value; none if one of them has none."""
        calls = [self._call_of(*each) for each in zip(values, sources, strict=True)]
        found = [call for call in calls if call is not None]
        return found if len(found) == len(calls) else []

    def _call_of(self, value: Any, source: str) -> LeakedCall | None:
        """The call in a JSON object, under the keys that models use; `source` is the object as it was written."""
        if not isinstance(value, dict):
            return None
        if isinstance(value.get("function"), dict):
            value, source = value["function"], written_json(source, "function")
        name = next(
            (value[key] for key in ("name", "function", "tool", "tool_name", "recipient_name") if key in value), None
        )
        key = next(
            (key for key in ("arguments", "parameters", "args", "input", "params", "tool_input") if key in value), None
        )
        if key is None and len(value) == 1:  # {"f": {…}}
            ((name, arguments),) = value.items()
            if not isinstance(arguments, dict):
                return None
            key = name
        if not isinstance(name, str) or key is None:
            return None
        arguments = value[key]
        tool = self._resolve(name.partition("<|")[0])  # gpt-oss: f<|channel|>commentary
        if tool is None or not isinstance(arguments, dict | str):
            return None
        return LeakedCall(tool, arguments if isinstance(arguments, str) else written_json(source, key))

    def _named(self, position: int) -> tuple[list[LeakedCall], int]:
        """A name, then its arguments as a JSON object: DeepSeek, Kimi, Harmony, Mistral, LM Studio's own.

        Also `f with {…}`, as histories in plain turns have it.
        """
        match = _NAMED.match(self._text, position)
        return self._with_object(match[1], match.end()) if match else ([], position)

    def _with_object(self, name: str, start: int) -> tuple[list[LeakedCall], int]:
        tool = self._resolve(name)
        if tool is None:
            return [], start
        try:
            _, end = _DECODER.raw_decode(self._text, start)
        except (ValueError, RecursionError):
            value, end = self._repaired(start)
            if not isinstance(value, dict):
                return [], start
            return [LeakedCall(tool, json.dumps(value, ensure_ascii=False))], end
        return [LeakedCall(tool, self._text[start:end])], end

    def _gemma(self, position: int) -> tuple[list[LeakedCall], int]:
        """`call:f{key:<|"|>text<|"|>,other:5}`: JSON but for its quotes."""
        match = _GEMMA.match(self._text, position)
        if match is None or (tool := self._resolve(match[1])) is None:
            return [], position
        end = self._text.find("<tool_call|>", match.end())
        body = self._text[match.end() : None if end == -1 else end].rstrip()
        pieces = _GEMMA_STRING.split(body)  # every second one is a string
        plain = [
            _GEMMA_KEY.sub(r'\1"\2":', piece) if n % 2 == 0 else json.dumps(piece) for n, piece in enumerate(pieces)
        ]
        try:
            arguments = json.loads("".join(plain))
        except (ValueError, RecursionError):
            return [], position
        return [LeakedCall(tool, json.dumps(arguments, ensure_ascii=False))], match.end() + len(body)

    def read_python(self, position: int) -> tuple[list[LeakedCall], int]:
        """`[f(x="y"), g()]`, `f(x="y")`, `print(f(x="y"))`: LFM 2, Gemma 3, Llama's Python tag."""
        match = _PYTHON.match(self._text, position)
        if match is None or self._resolve(match[1].removeprefix("print")) is None:
            return [], position
        close = _END_OF_PYTHON.search(self._text, position)
        end = close.start() if close else len(self._text)
        if end - position > _MAX_PYTHON:
            return [], position
        try:
            tree = ast.parse(self._text[position:end].strip())
            calls = [call for statement in tree.body for call in self._python_calls(statement)]
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            return [], position
        return calls, end

    def _python_calls(self, statement: ast.stmt) -> Iterator[LeakedCall]:
        if not isinstance(statement, ast.Expr):
            raise ValueError("not an expression")
        tree = statement.value
        if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "print" and len(tree.args) == 1:
            tree = tree.args[0]
        for each in tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]:
            if not isinstance(each, ast.Call) or each.args or any(key.arg is None for key in each.keywords):
                raise ValueError("not a call with named arguments")
            tool = self._resolve(ast.unparse(each.func))
            if tool is None:
                raise ValueError("not offered")
            arguments = {key.arg: ast.literal_eval(key.value) for key in each.keywords if key.arg}
            yield LeakedCall(tool, json.dumps(arguments, ensure_ascii=False))

    def _tagged(self, position: int) -> tuple[list[LeakedCall], int]:
        """`<function=f>` or `<invoke name="f">`, with tagged parameters or JSON: Qwen Coder, MiniMax, Llama."""
        match = _TAGGED.match(self._text, position)
        if match is None:
            return [], position
        start = self.skip(match.end())
        if self._text.startswith("{", start):
            found, end = self._with_object(match[1], start)
            close = _END_OF_CALL.match(self._text, end)
            return found, close.end() if close else end
        return self._pairs(match[1], match.end())

    def _paired(self, position: int) -> tuple[list[LeakedCall], int]:
        """A bare name with tagged parameters: GLM; also Qwen without its `<function=`."""
        match = _PAIRED.match(self._text, position)
        return self._pairs(match[1], match.end()) if match else ([], position)

    def _pairs(self, name: str, start: int) -> tuple[list[LeakedCall], int]:
        """A call with tagged arguments; none where one was cut off, for half a call may do harm."""
        text, tool = self._text, self._resolve(name.partition(">")[0])
        if tool is None:
            return [], start
        properties = self._tools[tool].get("properties")
        schemas: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        arguments: list[str] = []
        left = set(schemas)
        position = start
        while match := _PARAMETER.match(text, position):
            key = (match[1] or match[2] or match[3]).strip().strip('"')
            left.discard(key)
            end = self._end_of_value(match.end(), left)
            if end is None:
                return [], start
            value = text[match.end() : end[0]]
            arguments.append(f"{json.dumps(key, ensure_ascii=False)}: {_tagged_value(value, schemas.get(key))}")
            position = end[1]
        close = _END_OF_CALL.match(text, position)
        if close is None and text[position:].strip():
            return [], start
        return [LeakedCall(tool, "{" + ", ".join(arguments) + "}")], close.end() if close else len(text)

    def _end_of_value(self, start: int, left: set[str]) -> tuple[int, int] | None:
        """Where a tagged value ends, and where what follows it begins; None if it was cut off.

        At its closing tag, but a closing tag with text behind it is part of the value. A model may also forget it: then
        at the next parameter of those that are `left`, or at the end of the call.
        """
        text, looked = self._text, start
        while following := _FOLLOWING.search(text, looked):
            if end := _END_OF_VALUE.search(text, looked, following.start()):
                return end.span()
            if following[1] is None or following[1] in left:
                return following.start(), following.start()
            looked = following.end()  # a tag inside the value
        end = _END_OF_VALUE.search(text, looked)
        return end.span() if end else None

    def skip(self, position: int) -> int:
        """Where the next call may begin, behind marks and what else may be between two."""
        match = _SKIP.match(self._text, position)
        return match.end() if match else position


def _tagged_value(text: str, schema: Any) -> str:
    """A value from tags, which have no types, as JSON: text where the schema wants text, else JSON if it is that."""
    text = text.removeprefix("\n").removesuffix("\n")
    if not _takes_text(schema):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return text
    return json.dumps(text, ensure_ascii=False)


def _takes_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return True
    if any(isinstance(value, str) for value in schema.get("enum", ()) or ()) and kind is None:
        return True
    choices = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return any(_takes_text(each) for each in choices)
