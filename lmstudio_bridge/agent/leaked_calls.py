"""Tool calls that stand in the text of a reply, told from mentions of a tool without knowing the notation.

The parsers of `lmstudio` read the notations that are known. What they leave is looked at here for one thing only: does
the reply, at its beginning or its end, hold something other than prose that names a tool where a call would name it?
That is a call that nobody has run, and never an answer. So is what stands before a result that the model made up, and,
whatever tool it names, the markup of a call or a JSON object that can be nothing else.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lmstudio_bridge.agent import prompts
from lmstudio_bridge.agent.arguments import find_problem, read_arguments
from lmstudio_bridge.agent.schemas import ObjectSchema
from lmstudio_bridge.intent import changes_by_name
from lmstudio_bridge.messages import Message, ToolMessage, UserMessage, plain_letters

_HEAD = 8_000  # characters at the beginning of a reply that are looked at
_TAIL = 30_000  # characters at its end
_MOST_NAMES = 30  # names of tools in each of them that are looked at
_ID_LENGTH = 9  # of a call in Mistral's templates
_AROUND = 120  # characters before and behind a name
_MOST_PLAIN = 2_000  # characters of arguments that stand in no brackets
_SHORTEST_QUOTE = 8  # characters
_MOST_PLACES = 20  # of marks and of JSON values that are looked at
_MOST_BREAKS = 6  # of made-up results

_WORD = re.compile(r"[A-Za-z_][\w-]*+")
_NAMESPACE = re.compile(r"([A-Za-z_][\w-]*)(?::?//?|[.:]|::)\Z")
_SERVER = re.compile(r"([A-Za-z_][\w-]*)(?:[ \t]*(?:[-=]?>|[|/:\u2192-])?[ \t]*|\[[\"'])\Z")  # fs > f, fs["f
_SERVER_AFTER = re.compile(r"[ \t]*(?:[|@][ \t]*|\()([A-Za-z_][\w-]{0,60})\b\)?")  # f | fs, f (fs)
_NAMESPACES = ("functions", "function", "tools", "tool", "defaultapi", "api", "mcp", "call", "action")
_KEYS = (
    r"name|tool|tool[_ -]?name|tool[_ -]?call|function|function[_ -]?name|function[_ -]?call|call|action|act|method"
    r"|recipient[_ -]?name|recipient|to|command|cmd|invoke|use|run|do|exec|execute|op|operation|api|step"
    r"|werkzeug|outil|herramienta|strumento|ferramenta|\u0438\u043d\u0441\u0442\u0440\u0443\u043c\u0435\u043d\u0442"
    r"|\u5de5\u5177|\u30c4\u30fc\u30eb"
)
# "name": "X", tool=X, <function=X, Action: X
_KEY_BEFORE = re.compile(rf"(?:\A|[\W_])(?:{_KEYS})[\"'`*]{{0,2}}\s{{0,3}}(?:[:=]|=>)\s{{0,3}}[\"'`]?\Z", re.IGNORECASE)
_LABEL_BEFORE = re.compile(rf"(?:\A|\n)[^\w\n]{{0,6}}(?:{_KEYS})[*_`]{{0,2}}\s*[:=]\s*[*_`\"']{{0,3}}\Z", re.IGNORECASE)
_KEYED_LINES = re.compile(
    r"(?:[ \t]*[|(@\u00b7-][ \t]*[\w-]{1,40})?[^\w\n]{0,80}(?:\n+(?:\[[\w. ]{1,40}\]\n)?[ \t]*[-*]?[ \t]*"
    r"(?!(?:final )?answer|result|output|observation|source|description|purpose|returns|usage|status)"
    r"[*_`]{0,2}[\w \"'-]{1,40}[*_`]{0,2}[:=][^\n]*)+\s*\Z",
    re.IGNORECASE,
)
_CALLER_BEFORE = re.compile(  # call_tool("fs", "f"
    r"(?:\A|\n|[\s.=])(?:call|use|run|invoke|exec(?:ute)?)_?(?:mcp_?)?(?:tool|function)?\(\s{0,3}"
    r"(?:[\"'][\w-]{1,60}[\"'],\s{0,3})?[\"']\Z",
    re.IGNORECASE,
)
_DEFINED = re.compile(r"[\"']\s{0,3},\s{0,9}[\"']description[\"']\s{0,3}:")  # "X", "description": …
_AS_KEY = re.compile(r"[\"']\s{0,3}:\s{0,3}[{\[]")  # "X": {
_OBJECT_AFTER = re.compile(r"([^{.!?]{0,80})\{")  # X … {
_GROUP_AFTER = re.compile(r"[\"'`*\]]{0,3}\s?\(")  # X(
_VALUE = r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'=]+)"
_PAIRS_AFTER = re.compile(  # path=a.md, --path a.md, :path "a.md"
    r"[\"'`]?(?:[ \t,]+(?:with|args?|arguments?|param(?:eter)?s?|input)\b:?)*"
    r"(?![ \t,:]+(?:fail(?:s|ed)|return(?:s|ed)|sa(?:ys|id)|g(?:ives|ave)|errors?|results?|outputs?|f(?:inds|ound)"
    r"|show(?:s|ed)|report(?:s|ed)|raise[sd]|answer(?:s|ed))\b)"
    rf"(?:[ \t,:]+(?:@?[\w-]{{1,40}}\s?[=:]\s?|--?[a-z][\w-]{{0,39}}[= \t]\s?|:[\w-]{{1,40}}[ \t])`?{_VALUE})+"
    r"[ \t]*\W{0,20}\w{0,20}\W{0,20}\Z",
    re.IGNORECASE,
)
_VALUES_AFTER = re.compile(  # a.md, "a.md"
    r"[\"'`]?:?(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'|[\w-]*[./\\][\w./\\-]*[\w/])){1,3}[ \t]*\W{0,20}\Z"
)
_STATEMENT_AFTER = re.compile(r"\((?=[^\n]{0,300}?[\"'={])[^\n]{0,400}\)[^\w\n]{0,3}(?:\n|\Z)")  # (path="a.md");
_FILLED_GROUP = re.compile(r"[\"'`*]{0,2}\s?\([^\n]{0,300}?[\"'={]")  # (path="a.md"
_KEYED_GROUP = re.compile(r"[\"'`*]{0,2}\s?\([^\n]{0,300}?(?:\w[\"']?\s?[=:]|\{)")
_RULED = re.compile(r"(?:\A|\n)[ \t]*([\u2500\u2501=#-])\1+[^\n]{0,9}\Z")  # a line across the page, or a heading
_EATEN = re.compile(r"\A(?:function|mcp)")  # of function=f, mcp__fs__f
_JSON_START = re.compile(r"(?:\A|```(?:json)?\n|\n)[ \t]*(?=[{\[]\s*[\"{\]])")
_FENCED = re.compile(r"\A(?:```|~~~)\w*\n(.*?)\n?(?:```|~~~)?\Z", re.DOTALL)
_ONE_VALUE = re.compile(  # a.md behind a name
    r"[\"'`]?(?:[ \t]*(?:[:=>|-]|=>|\u2192)[ \t]*|\s+|\()"
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|[\w~-]*[./\\][\w./\\-]*[\w/])[\W]{0,9}"
)
ASKS_FOR_TOOLS = re.compile(
    r"\b(?:which|what|how (?:many|often)|each|every|list|name|names? of|count|per|most)\b[^.?!\n]{0,60}"
    r"\b(?:tools?|functions?|commands?|methods?|calls?)\b"
    r"|\b(?:tools?|functions?|commands?|methods?)\b[^.?!\n]{0,40}\b(?:is|are|was|were|do|does|did|called|named"
    r"|defined)\b",
    re.IGNORECASE,
)
_MOST_HALF = 200  # characters of JSON or markup that was begun and is no answer
_HALF = re.compile(  # {"name": "f", "argu
    r"\[?\s*\{(?:[^{}\[\]]|[{\[][^{}\[\]]*[}\]])*[{\[]?[^{}\[\]]*|\[|(?:```\w*\s*)[{\[]?\s*(?:```)?|<[a-z_=]{0,20}"
)
_CALL_IN_WORDS = re.compile(  # I called f with {, or f and an id whose marks were eaten
    r"(?:\W{0,3}I(?:'ve| have| will|'ll)? (?:just |now )?(?:call(?:ed)?|used?|ran|run|invoked?)(?: the tool)? )?"
    r"[`*]?([A-Za-z_][\w .:/-]{1,100}?)[`*]?(?: with)?[ \t]*(?=\{[^\n]*\}[.:!]?\s*\Z)"
)
_RENDERED = re.compile(r" ?\(MCP\)(?=\()")  # fs - f (MCP)(path: "a.md")
_LINK_AFTER = re.compile(r"(?:[?/#][^\s<>]*)?\W{0,20}\Z")  # mcp://fs/f?path=a.md
_QUERY_AFTER = re.compile(r"\?[\w-]{1,40}=\S+\W{0,20}\Z")
_SIGIL_BEFORE = re.compile(r"(?:\A|\n)[ \t`>]{0,6}[/@!\u25cf\u23fa] ?\Z")
_PLAIN_WORD = re.compile(r"(?<![^\s])[A-Za-z]+(?![^\s:])")
_GLUE = re.compile(
    r"with|mit|avec|con|com|met|args?|arguments?|param(?:eter)?s?|inputs?|json|data|call|code|function|tool|action"
    r"|using|and|the|these|following|as|xml|commentary|analysis|assistant",
    re.IGNORECASE,
)
_SAID_BEFORE = re.compile(r"(?:source|sources|via|from|used|using|cite|ref|see|by|called|ran|of)\W*\Z", re.IGNORECASE)
_INTENT = re.compile(
    r"\b(?:let me|let's|i'll|i will|i am going to|i'm going to|i need to|i must|i should|i call|i use|calling"
    r"|now|next|first|then|here is|here's|hier ist|voici)\b[^.!?\n]*\Z",
    re.IGNORECASE,
)
_LINE_START = re.compile(
    r"(?:\A|\n)(?:[^\w\n]|\b(?:print|await|return|call(?:s|ing)?|tool|tool[ _]?calls?|function[ _]?call|action"
    r"|run(?:ning)?|us(?:e|ing)|invok(?:e|ing)|execut(?:e|ing)|simulat(?:e|ing)|step|command|get|post|select|exec"
    r"|perform|mcp(?:-cli)?|aufruf|appel|llamada|chiamata|chamada"
    r"|\u8c03\u7528|\u547c\u3073\u51fa\u3057)\b"
    r"|\b(?:(?:const|let|var) )?\w{1,20} ?:?= ?(?=\S*(?:await )?\Z)){0,12}\Z",
    re.IGNORECASE,
)
_MARKS_ONLY = re.compile(r"(?:<[^<>\n]{0,80}>|\[/?[\w ]{1,40}\]|\b(?:EOF|END|PAUSE|STOP)\b|[^\w])*+\Z")
_KEY_WORD = re.compile(rf"\b(?:{_KEYS})\b", re.IGNORECASE)
_LATEX = re.compile(
    r"\\(?:boxed|text(?:tt|bf)?|mathrm|operatorname)\{([^{}\n]{0,80})\}|\\boxed\{|\\[()\[\]]"
)  # around a call
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*$", re.MULTILINE)
_CODE = re.compile(r"^[ \t]*```(?!tool_\w).*?^[ \t]*```[^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_BEHIND = re.compile(
    # a result that the model made up, or what it says while it waits for one
    r"\n[^\w\n]{0,12}(?:the )?(?:(?:tool|function|call|api)[ _-]?)?(?:"
    r"(?:observations?|results?|outputs?|responses?|returns?|returned|thought|user|assistant|ergebnis|ausgabe"
    r"|r\u00e9sultat|sortie|resultado|salida|risultato|sa\u00edda|wynik|resultaat"
    r"|\u0440\u0435\u0437\u0443\u043b\u044c\u0442\u0430\u0442"
    r"|\u7ed3\u679c|\u7d50\u679c|\u8f93\u51fa|\u51fa\u529b|\u8fd4\u56de)(?: \d+| of [^\n:]{1,80}| is| was)?"
    r"[^\n\w]{0,8}(?:[:\uff1a>\]]|\n)"
    r"|(?:I will|I'll|let me|once|the (?:result|output|response) (?:will|should|would)|please (?:run|execute|wait"
    r"|call|provide|give|share)|wait(?:ing)?)\b)"
    r"|\n[ \t]*(?:[-=]>|\u2192)|\n(?:the (?:result|output|response) (?:is|was|says)"
    r"|this (?:(?:call|command|function|tool) )?(?:will|calls?|reads?|returns?|should))\b",
    re.IGNORECASE,
)
_REACT = re.compile(
    r"^[^\w\n]{0,6}Action(?: \d+)?[*_]{0,2}:[^\n]{1,200}\n+"
    r"[^\w\n]{0,6}(?:Action[ _]Input|Observation)(?: \d+)?[*_]{0,2}:"
    r"|^Tool: \w*_\w*\n(?:Tool )?(?:Input|Args|Arguments|Parameters):",
    re.IGNORECASE | re.MULTILINE,
)
_CALL_LIST = re.compile(r"\[[A-Za-z_][\w.]{0,80}\(\w+=[\"'\d\[{][^\n]{0,2000}\)\]")  # [f(x="y")]
_COMMENT = re.compile(r"^[ \t]*(?:#|//)[^\n]*$", re.MULTILINE)
_MARK = (
    r"<\|?/?(?:[\w-]{1,20}[:_])?(?:tool_?calls?|function_?calls?|start_function_call|use_mcp_tool)\b[^<>\n]{0,200}>"
    r"|<(?:\w{1,20}:)?(?:function|invoke)(?:=| name=)[^<>\n]{0,200}>|</(?:function|invoke|parameter|arg_value)>"
    r"|\[/?(?:TOOL_CALLS?|TOOL_REQUEST|END_TOOL_REQUEST|TOOL_RESULTS?)\]|<\|?tool_(?:response|result|output)\|?>"
    r"|functools(?=\[\{)"
    r"|<\|/?(?:tool_\w{1,40}|tools_prefix|python_tag|python_start|start_action|action_start|plugin|recipient|call)\|>"
    r"|<[\uff5c|](?:tool\u2581|DSML)[^<>\n]{1,60}>"
    r"|<\|(?:channel|start)\|>[^<\n]{0,40}\bto="
    r"|<(?:read_file|write_to_file|execute_command|list_files|search_files|replace_in_file|apply_diff|execute_bash"
    r"|str_replace_editor|attempt_completion|ask_followup_question|bash|execute|execute_ipython)>"
    r"|commentary to=\w|I call [\w.\-/:]{1,128} with (?=\{)"
)
"""Marks of a call, in whatever notation of which they are."""
_SPOKEN_OF = r"(?![ ,](?:is|are|was|means?|marks?|opens|begins|starts|stands|and|or|tags?|tokens?|elements?)\b)"
_MARK_FIRST = re.compile(rf"(?:{_MARK}|```tool_\w){_SPOKEN_OF}", re.IGNORECASE)
_MARK_IN_LINE = re.compile(
    rf"^[ \t]*(?:{_MARK}|```tool_\w|functions\.\w{{1,64}}\s?[({{])", re.IGNORECASE | re.MULTILINE
)
_MARK_LAST = re.compile(rf"(?:\A|[\n.!?:>\]}})])[ \t]*(?:{_MARK})\Z", re.IGNORECASE)
_LONGEST_MARK = 300  # characters
_JSON_LINE = re.compile(r"^[ \t]*(?=[{\[])", re.MULTILINE)
_JSON_LAST = re.compile(r"(?:^|(?<![\"'])[:\uff1a.!?])[ \t`]*(?=[{\[])", re.MULTILINE)  # not of a key
_WANTS_JSON = re.compile(r"(?<![\w./-])json\b(?! (?:files?|config\w*)\b)|\{", re.IGNORECASE)
_PARAMETER = re.compile(  # as `plain_letters` has them
    r"paths?|file(?:s|path|name)?|contents?|text|data|source|destination|edits|(?:old|new)(?:text|string)?|pattern"
    r"|query|url|head|tail|offset|limit|dryrun|encoding|excludepatterns|append"
)
_ARGUMENTS_NAMED = re.compile(r"[\"'<](?:arguments?|args|param(?:eter)?s?|input)\b", re.IGNORECASE)
_MOST_VALUES = 20  # keys of an object, objects of a list
_MOST_UNKNOWN = 2  # keys that are none of the tool's
_NAME_KEYS = ("name", "tool", "tool_name", "function", "function_name", "recipient_name", "action", "call")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "params", "input", "tool_input", "action_input")
_OTHER_KEYS = frozenset({"id", "type", "tool_call_id", "call_id", "index", "thought", "reasoning"})
_DECODER = json.JSONDecoder(strict=False)  # raw line breaks in strings are common
_QUOTES = "\"'`*_(\u201c\u201d\u2018\u2019\u00ab\u00bb"
_PROSE_MARKS = ").,;:!?%\u2026\u2013\u2014"
_OPENERS, _CLOSERS = "{[(", "}])"
_BRACKETS = re.compile(r'\\.|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{\[(}\])]', re.DOTALL)  # and what none in it counts


@dataclass(frozen=True, slots=True)
class _Named:
    """A place where a tool is named.

    `certain` says that the word can hardly be anything but the tool's name, `full` that its server is named, too.
    """

    start: int
    end: int
    name: str
    certain: bool
    full: bool


def holds_leaked_call(text: str, names: Collection[str], *, messages: Sequence[Message] = ()) -> bool:
    """Whether the reply is, or ends in, something other than prose that names one of the tools as a call would.

    A reply that only names a tool, and gives it no arguments, may be an answer: where a task among the `messages` asks
    for tools or for such JSON, or where the name stands in a result, as in code that was read.
    """
    if not (names and text.strip()):
        return False
    finder = _Finder(names)
    text = html.unescape(text.strip()) if "&lt;" in text[:_MOST_PLAIN] else text.strip()
    text = _RENDERED.sub("", _LATEX.sub(r"\1", text) if "\\" in text else text)
    named = finder.find_bare_name(text)
    if named and _is_asked_for(named, messages):
        return False
    if not (_is_half(text) or finder.holds_call(text)) and len(named) != 1:
        return False
    names_any = finder.find_names(text, last=False)
    return not (_is_quoted(text, messages) or (not names_any and _is_wanted_json(text, messages)))


def holds_bare_arguments(text: str, tools: Mapping[str, ObjectSchema], *, messages: Sequence[Message] = ()) -> bool:
    """Whether the reply is, or ends in, JSON that would be the arguments of one of the `tools`, without its name.

    It is an answer where a user's message asks for JSON or names its keys, or where a result holds it as it stands. It
    is none if it only gives back the values of the message, or is long and nothing but common parameters.
    """
    asked = "\n".join(message.text for message in messages if isinstance(message, UserMessage))
    told = (message.text for message in messages if isinstance(message, ToolMessage))
    results = [each for each in told if prompts.NOT_CALLED not in each]  # that gives back what was sent
    wants = _WANTS_JSON.search(asked)
    if not tools or "}" not in text:
        return False
    for start in islice(_JSON_LAST.finditer(text), _MOST_PLACES):
        value, end = _decode(text, start.end())
        rest = text[end : end + _MOST_PLAIN]
        if value is None or not (_is_over(rest) or _BEHIND.match("\n" + rest.lstrip(" \t\n`"))):
            continue
        values = list(_wrapped_values(value))
        fits = (
            (isinstance(each, dict) and len(json.dumps(each)) > _MOST_HALF and is_like_arguments(each))
            or (not wants and any(_fits(each, name, tools[name]) for name in tools))
            for each in values
        )
        if not 0 < len(values) <= _MOST_VALUES or not all(fits):
            return False
        return not (_names_keys(asked, values) or any(text[start.end() : end] in result for result in results))
    return False


def is_like_arguments(keys: Iterable[str]) -> bool:
    """Whether all these keys are what parameters of common tools are called."""
    return all(_PARAMETER.fullmatch(plain_letters(key)) for key in keys)


def _names_keys(asked: str, values: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a task names all keys of these objects, and not all of their strings, too."""
    given = [each for value in values for each in _all_in([*value.values()]) if isinstance(each, str)]
    named = all(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", asked, re.IGNORECASE) for value in values for key in value)
    return named and not (given and all(each in asked for each in given))


def _fits(value: Any, name: str, schema: ObjectSchema) -> bool:
    """Whether a JSON value would be taken as the arguments of a tool; a call that writes may have needless ones."""
    if not isinstance(value, dict) or len(value) > _MOST_VALUES:
        return False
    value = {key: each for key, each in value.items() if each is not None and key not in _OTHER_KEYS}
    given: Mapping[str, Any] = value
    if all(isinstance(each, str) for each in value.values()):  # "10" for 10 and other names are read, too
        try:
            given = read_arguments(json.dumps(value), schema.parameters).values
        except ValueError:
            return False
    known = {key: each for key, each in given.items() if key in schema.parameters.get("properties", {})}
    required = schema.parameters.get("required", ())
    most = _MOST_UNKNOWN if required and changes_by_name(name.rpartition("__")[2]) else 0
    if not known or not set(required) <= set(known) or len(given) - len(known) > most:
        return False
    return find_problem(known, schema) is None


class _Finder:
    """Looks for calls of these tools."""

    def __init__(self, names: Collection[str]) -> None:
        self._names: dict[str, tuple[str, bool]] = {}
        short: dict[str, str | None] = {}
        for name in names:
            _, _, last = name.partition("__")
            if last:
                short[plain_letters(last)] = None if plain_letters(last) in short else name
        for letters, meant in short.items():
            if letters and meant is not None:
                self._names[letters] = meant, "_" in meant.partition("__")[2].strip("_")
        for name in names:
            self._names[plain_letters(name)] = name, True
        self._servers = {plain_letters(name.partition("__")[0]) for name in names if "__" in name}

    def holds_call(self, text: str) -> bool:
        """Whether a text without white space around it holds a call."""
        tail = text[-_TAIL:]
        if self._is_sentence(text) or self._ends_in_call(tail) or self._begins_with_call(text[:_HEAD]):
            return True
        if _holds_unmistakable(tail):
            return True
        breaks = islice(_BEHIND.finditer(tail), _MOST_BREAKS)
        return any(self._ends_in_call(tail[: each.start()].rstrip()) for each in breaks)

    def _is_sentence(self, text: str) -> bool:
        """Whether the text is one line that says which tool is called, with an object of arguments behind its name."""
        match = _CALL_IN_WORDS.match(text)
        if match is None or not _ends_here(text.rstrip(".:!"), match.end()):
            return False
        names = (plain_letters(match[1]), plain_letters(match[1][:-_ID_LENGTH]))
        return any(self._names.get(name, ("", False))[1] for name in names)

    def find_bare_name(self, text: str) -> tuple[str, ...]:
        """What the text consists of, if it is the name of a tool, alone, with one value or in JSON without arguments:
        the name as it stands there, and then the keys of the JSON. Empty if it is anything else."""
        if len(text) > _MOST_PLAIN:
            return ()
        if start := _JSON_START.search(text):
            value = _decode(text[start.end() :].strip().removesuffix("```"), whole=True)[0]
            members = [member for each in _all_in(value) if isinstance(each, dict) for member in each.items()]
            named = self.find_names(text, last=False)
            calls = (plain_letters(key) in self._names and isinstance(given, dict) for key, given in members)
            keys = tuple(dict.fromkeys(key for key, _ in members))
            if not (keys and named) or set(map(str.casefold, keys)) & set(_ARGUMENT_KEYS) or any(calls):
                return ()
            return (text[named[0].start : named[0].end], *keys)
        plain = _FENCED.sub(r"\1", text).strip()
        named = self.find_names(plain, last=False)
        before = plain[: named[0].start] if named else ""
        if len(named) != 1 or not (_LINE_START.fullmatch(before) or _LABEL_BEFORE.fullmatch(before)):
            return ()
        name, rest = plain[named[0].start : named[0].end], plain[named[0].end :]
        if named[0].certain and (re.fullmatch(r"\W{0,40}", rest) or _ONE_VALUE.fullmatch(rest)):
            return (name,)
        if _KEYED_LINES.match(rest) and named[0].certain:
            return (name, *re.findall(r"\n\W*([\w ]+)", rest))
        if name == name.lower() and re.fullmatch(r":?[ \t]+[\w~-]*[./\\][\w./\\-]*[\w/]", rest):
            return (name,)
        if named[0].full and re.fullmatch(r"[^\w\n]{1,9}\S+", rest):
            return (name,)
        return (name,) if re.fullmatch(r"\(([\"'])[^\"'\n]+\1\)\W*", rest) else ()

    def _ends_in_call(self, text: str) -> bool:
        block = _last_fence(text)
        if block is not None and self._is_call_in_code(text[slice(*block)]):
            return True
        return any(self._is_call(text, named) for named in self.find_names(text, last=True))

    def _begins_with_call(self, text: str) -> bool:
        """Whether the text opens with a call, whatever is said behind it."""
        if text.startswith(("```", "~~~")):
            body, _, behind = text.partition("\n")[2].partition(f"\n{text[:3]}")
            full = any(named.full for named in self.find_names(body, last=False))
            return (full or not behind.strip()) and not text.startswith("```diff") and self._is_call_in_code(body)
        parts = {text.partition(end)[0] for end in ("\n\n", "\n")} - {text}
        if any(self._opens_with_name(part) and self._ends_in_call(part) for part in parts):
            return True
        for named in self.find_names(text, last=False):
            before = text[: named.start]
            if "\n\n" in before or len(before) > _AROUND:
                return False
            if named.certain and _MARKS_ONLY.match(_KEY_WORD.sub("", before)):
                after = text[named.end : named.end + _AROUND]
                if not text[0].isalnum() and bool(_object_after(after)):
                    return True
                if text[0] in "<[{" and (_FILLED_GROUP.match(after) or after.startswith("()")):
                    return True
            if named.certain and _LINE_START.match(before) and _STATEMENT_AFTER.match(text, named.end):
                return True
        return False

    def _opens_with_name(self, text: str) -> bool:
        """Whether nothing but marks, or words that stand before a call, come before the name of a tool."""
        named = self.find_names(text, last=False)
        before = text[: named[0].start] if named else ""
        is_marked = text[:1] in "<[{(|@/$%#-" or bool(_MARKS_ONLY.match(_KEY_WORD.sub("", before)))
        return bool(named) and named[0].certain and (is_marked or bool(_LINE_START.fullmatch(before)))

    def find_names(self, text: str, *, last: bool) -> list[_Named]:
        found = []
        for match in _WORD.finditer(text):
            word = plain_letters(match[0])
            known = self._names.get(word) or self._names.get(_EATEN.sub("", word))
            if known is None:
                continue
            name, certain = known
            start = match.start()
            full = word.endswith(plain_letters(name))
            start, owned = self._find_owner(text, start, certain=certain)
            if not full and start == match.start() and text[start - 1 : start] == ".":
                continue  # a method of something else
            certain = certain or owned or bool(_SIGIL_BEFORE.search(text, max(0, start - 12), start))
            end = match.end()
            if (owner_after := _SERVER_AFTER.match(text, end)) and plain_letters(owner_after[1]) in self._servers:
                end, certain = owner_after.end(), True
            found.append(_Named(start, end, name, certain, full or "__" not in name))
        return found[-_MOST_NAMES:] if last else found[:_MOST_NAMES]

    def _find_owner(self, text: str, start: int, *, certain: bool) -> tuple[int, bool]:
        """Where the server before a tool's name begins, or words such as `functions.`; whether a server is."""
        owned = False
        while space := _NAMESPACE.search(text, max(0, start - 60), start):
            owner = plain_letters(space[1])
            if owner in self._servers:
                owned = True
            elif owner not in _NAMESPACES or text[start - 1] == ":":
                break
            start = space.start()
        if owned or not (space := _SERVER.search(text, max(0, start - 60), start)):
            return start, owned
        is_owner = plain_letters(space[1]) in self._servers and (
            certain or bool(_SIGIL_BEFORE.search(text, max(0, space.start() - 12), space.start()))
        )
        return (space.start(), True) if is_owner else (start, False)

    def _is_call_in_code(self, code: str) -> bool:
        """Whether a code block is a call, and not a program or a list that names tools."""
        code = _COMMENT.sub("", code).strip()
        names = self.find_names(code, last=True)
        if any(self._is_call(code, named) for named in names):
            return True
        if len({named.name for named in names}) != 1:
            return False
        first = names[0]
        alone = first.certain and not code[: first.start].strip("\"'`<[{(@#-* \t")
        return alone and bool(re.match(r"[\"'`]?[ \t]*(?:\n[^\n]*)?[{\[<:=]", code[first.end :]))

    def _is_call(self, text: str, named: _Named) -> bool:
        before = text[max(0, named.start - _AROUND) : named.start]
        after = text[named.end : named.end + _AROUND]
        rest = text[named.end :]
        if _SAID_BEFORE.search(before):
            return False
        if "://" in text[named.start : named.end]:
            return bool(_LINK_AFTER.match(rest))
        if _CALLER_BEFORE.search(before):
            return named.certain and _ends_structured(rest.replace(")", ">"))
        if object_start := _object_after(after):
            if named.certain or object_start == 1:
                return _ends_here(text, named.end + object_start - 1)
            if not _KEY_BEFORE.search(before):
                return False
        if group := _GROUP_AFTER.match(after):
            if not _ends_here(text.rstrip(";") if named.full else text, named.end + group.end() - 1):
                return False
            if not named.full and before.strip(_QUOTES + " \n") and not _KEYED_GROUP.match(rest):
                return False  # `f()` in a list of functions, f(x) in a program
            if not named.certain:
                return not before.strip(_QUOTES + " \t\n[") and "=" in rest
            return any(each.search(before) for each in (_KEY_BEFORE, _LINE_START, _INTENT))
        if _KEY_BEFORE.search(before) or (before[-1:] in "\"'" and _AS_KEY.match(after)):
            if _DEFINED.match(after):
                return False
            if _ends_structured(rest) and (named.certain or _ARGUMENTS_NAMED.search(text)):
                return True
            argument = _KEYED_LINES.match(rest[:_MOST_PLAIN]) or re.fullmatch(r"[ \t]+\S+\s*", rest[:_MOST_PLAIN])
            label = _LABEL_BEFORE.search(before)
            if label and argument and (named.certain or "tool" in label[0].casefold()):
                return True
        return named.certain and self._is_plain_call(text, named, before, after)

    def _is_plain_call(self, text: str, named: _Named, before: str, after: str) -> bool:
        """Whether a name without an object, a group or a key is called by the marks or the line in which it stands."""
        rest = text[named.end :]
        is_cell = (before[-1:], after[:1]) == ("|", "|")
        if _is_mark(before[-1:]) and _is_mark(after[:1]) and not is_cell and not after.startswith("]("):
            words = _WORD.findall(re.sub(r"</?\w+>", "", rest)) or re.findall(r"\d", rest)
            return _ends_structured(rest) and any(plain_letters(word) not in self._names for word in words)
        if before.endswith(("[[", "<", "<<", "{{")) and _ends_structured(rest):
            return True
        start = _LINE_START.search(before)
        if start is None:
            return False
        if _QUERY_AFTER.match(rest) and re.search(r"[_/.:]", text[named.start : named.end]):
            return True
        if re.match(r"\s*<", rest) and _ends_structured(rest):
            return True
        if _PAIRS_AFTER.match(rest[:_MOST_PLAIN]):
            return True
        is_header = "\n" not in text[: named.start].strip() or _RULED.search(before)
        if is_header and _KEYED_LINES.match(rest[:_MOST_PLAIN]):
            return True
        if re.search(r"[$/@>\u2192][ \t]*\Z", start[0]) and re.fullmatch(r":?[ \t]+\S+\s*(?:```)?", rest):
            return True  # $ f a
        is_only = len(self.find_names(text, last=True)) == 1 and "\n" not in rest.strip()
        if is_only and _VALUES_AFTER.match(rest[:_MOST_PLAIN]):
            return True
        called = re.search(r"\b(?:call|calls|calling|invoke|invoking|execute|executing)\b", start[0], re.IGNORECASE)
        return is_only and bool(called) and bool(re.fullmatch(r"\W{0,40}", rest))


def _is_half(text: str) -> bool:
    """Whether a text is JSON or markup that was begun."""
    is_begun = bool(_HALF.fullmatch(text[: _MOST_HALF + 1]))
    return is_begun and (len(text) <= _MOST_HALF or _decode(text, whole=True)[0] is None)


def _decode(text: str, start: int = 0, *, whole: bool = False) -> tuple[Any, int]:
    """The JSON value at the start, which may be the whole text, and where it ends; None if there is none."""
    try:
        value, end = (json.loads(text), len(text)) if whole else _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return value, end


def _is_asked_for(named: Sequence[str], messages: Sequence[Message]) -> bool:
    """Whether the task asks about tools, or for JSON with these keys, or a result has the name."""
    name, *keys = named
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    for message in messages:
        match message:
            case ToolMessage(_, text) if "__" not in name and word.search(text):  # long names are the bridge's own
                return True
            case UserMessage(text) if ASKS_FOR_TOOLS.search(text):
                return True
            case UserMessage(text) if keys and "json" in text.casefold() and all(key in text for key in keys):
                return True
    return False


def _is_quoted(text: str, messages: Sequence[Message]) -> bool:
    """Whether a whole reply stands in a result, as a line of a log does. The bridge's own texts have the long names."""
    text = _FENCED.sub(r"\1", text).strip("`\n ")
    if "__" in text or not _SHORTEST_QUOTE < len(text) < _MOST_PLAIN:
        return False
    whole = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
    return any(whole.search(message.text) for message in messages if isinstance(message, ToolMessage))


def _is_wanted_json(text: str, messages: Sequence[Message]) -> bool:
    """Whether a reply is JSON, as the task wants it, and all its strings stand in the task or in results."""
    asked = "\n".join(message.text for message in messages if isinstance(message, UserMessage))
    value = _decode(_FENCED.sub(r"\1", text), whole=True)[0]
    told = asked + "\n".join(message.text for message in messages if isinstance(message, ToolMessage))
    strings = [each for each in _all_in(value) if isinstance(each, str)]
    return value is not None and "json" in asked.casefold() and all(each in told for each in strings)


def _all_in(value: Any) -> Iterator[Any]:
    """A JSON value, and all keys and values in it."""
    yield value
    for child in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _all_in(child)


def _holds_unmistakable(text: str) -> bool:
    """Whether the text is, or ends in, markup or JSON that is a call whatever it names. Code is only shown."""
    if _MARK_FIRST.match(text) or _MARK_LAST.search(text[-_LONGEST_MARK:]):
        return True
    plain = _CODE.sub("code", text)
    if _CALL_LIST.fullmatch(text) or _REACT.search(plain):
        return True
    for mark in islice(_MARK_IN_LINE.finditer(plain), _MOST_PLACES):
        if _ends_structured(plain[mark.start() :]) or plain.endswith(")") or _BEHIND.search(plain, mark.end()):
            return True
    block = _last_fence(text)
    if block is not None:
        before = text[: block[0]].rpartition("\n")[0].strip()
        if (not before or _INTENT.search(before.rstrip(".:! \n"))) and _is_call_json(text[slice(*block)].strip()):
            return True
    return any(_is_call_json(plain[start.end() :]) for start in islice(_JSON_LINE.finditer(plain), _MOST_PLACES))


def _is_call_json(text: str) -> bool:
    """Whether the text is JSON that can only be a call, with nothing behind it but marks or a made-up result."""
    value, end = _decode(text)
    values = list(_wrapped_values(value))
    if not (values and all(map(_is_call_object, values))):
        return False
    return _is_over(text[end:]) or bool(_BEHIND.match(text[end:].lstrip(" \t")))


def _wrapped_values(value: Any) -> Iterator[Any]:
    """What is in a list, or stands under the key for calls, or for arguments if that is the only one."""
    if isinstance(value, dict):
        keys = ("tool_calls", "tool_uses", *(_ARGUMENT_KEYS if len(value) == 1 else ()))
        value = next((value[key] for key in keys if isinstance(value.get(key), dict | list)), value)
    yield from value if isinstance(value, list) else (value,) if isinstance(value, dict) else ()


def _is_call_object(value: Any) -> bool:
    """Whether a JSON value names something and gives it arguments, and says nothing else."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("function"), dict):
        return _is_call_object(value["function"])
    keys = set(value) - _OTHER_KEYS
    named, given = keys & set(_NAME_KEYS), keys & set(_ARGUMENT_KEYS)
    if len(keys) != 2 or not named or not given:
        return False
    name, arguments = value[named.pop()], value[given.pop()]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.:/-]{0,127}", name):
        return False
    if isinstance(arguments, str):
        return arguments.lstrip().startswith("{") or "action_input" in value
    return isinstance(arguments, dict) and not {"properties", "type"} <= set(arguments)


def _last_fence(text: str) -> tuple[int, int] | None:
    """The inside of the code block that the text ends in; also of one that was not closed."""
    fences = list(_FENCE.finditer(text))
    if not fences:
        return None
    if len(fences) % 2:
        return fences[-1].end(), len(text)
    if text[fences[-1].end() :].strip():
        return None
    return fences[-2].end(), fences[-1].start()


def _object_after(after: str) -> int:
    """How far behind a name its object begins, counted from 1; 0 if there is none, or prose before it."""
    match = _OBJECT_AFTER.match(after)
    if match is None:
        return 0
    return match.end() if all(map(_GLUE.fullmatch, _PLAIN_WORD.findall(match[1]))) else 0


def _ends_here(text: str, start: int) -> bool:
    """Whether only marks and further groups follow the group that is opened at `start`; also if it stays open."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        if found[0] in _OPENERS:
            depth += 1
        elif found[0] in _CLOSERS:
            depth -= 1
            if depth == 0:
                return _is_over(text[found.end() :])
    return True


def _is_over(rest: str) -> bool:
    """Whether what follows a call is only marks, or more calls."""
    if rest.startswith((".", "!", "?", ";", ":")) and not rest[1:2].strip():
        return False  # the end of a sentence
    return bool(_MARKS_ONLY.match(rest)) or rest.rstrip().endswith(("}", ")]", ">", "```"))


def _ends_structured(rest: str) -> bool:
    """Whether the text ends as markup does, and as no sentence does."""
    end = rest.rstrip()
    return end.endswith("```") or _is_mark(end[-1:]) or end[-2:] == ")]"


def _is_mark(char: str) -> bool:
    return bool(char) and not char.isalnum() and not char.isspace() and char not in _QUOTES + _PROSE_MARKS
