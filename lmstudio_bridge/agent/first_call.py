"""Which tools a small model may begin with, by the words of the task.

Small models begin with any tool, or with the first that they see, and take its result for the answer. Where the task
plainly says what it is about, the grammar of the first request allows only the tools that fit, and where one call does
all, the next reply is the answer. Strong models are free.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lmstudio_bridge.agent.tools import SEARCHES, takes_path
from lmstudio_bridge.intent import asks_for_change, changes_by_name
from lmstudio_bridge.messages import ToolSpec

_FILE = re.compile(r"(?<![\w.])(?:[\w-]{2,100}\.[A-Za-z]|[\w-]\.[A-Za-z]{2})[A-Za-z0-9]{0,4}\b(?![.(]\w)")  # not e.g.
_FORM = re.compile(r"\{[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)*\}")  # the form of an answer in JSON
_NAME = re.compile(
    r"\b(?:[A-Za-z]+_\w+|[a-z]+[A-Z]\w*|(?:TODO|FIXME|HACK)s?|[A-Za-z]+-\d{2,}\w*)\b"  # names out of code, codes
    r"|[\"'`\u201c][^\"'`\u201d\n]{2,60}[\"'`\u201d]"  # a text in quotes
)
_COMPARES = re.compile(
    r"\b(?:compar\w+|differ\w*|diff|but not in|only in|missing (?:in|from)|in both)\b", re.IGNORECASE
)
_TOTALS = re.compile(r"\b(?:totals?|sums?|add(?:ed)? up|altogether|how (?:much|many))\b", re.IGNORECASE)
_OF_TWO = re.compile(r"\b(?:than (?:that|those) of|difference between|compared (?:to|with)|versus)\b", re.IGNORECASE)
_COUNTS = re.compile(r"\b(?:how many|count|number of)\b[^.?!\n]{0,40}\bfiles\b", re.IGNORECASE)
_REPLACES = re.compile(r"\b(?:renam\w+|replac\w+|chang\w+)\b[^\n]{1,200}?\b(?:to|by|with|into)\b", re.IGNORECASE)
_APPENDS = re.compile(
    r"\b(?:add|append|put|write|insert)\b[^\n]{1,200}?\b(?:at|to|on) the (?:very )?(?:end|bottom)\b|^\W*append\b",
    re.IGNORECASE,
)
_RENAMES_FILE = re.compile(r"\b(?:rename|move) (?:the )?(?:file|folder)\b", re.IGNORECASE)
_MOVES = re.compile(r"(?:^|_)(?:move|rename)(?:_|$)")
_FOLDER = re.compile(r"\b(?:folder|directory)\b", re.IGNORECASE)
_EACH_FOLDER = re.compile(r"\b(?:all|each|every)\b[^.?!\n]{0,20}\bfolders?\b", re.IGNORECASE)
_ALL = re.compile(
    r"\b(?:all|each|every|which)\b[^.?!\n]{0,40}\b(?:files?|notes?|documents?|docs|configs?|modules?|pages?|folder)\b",
    re.IGNORECASE,
)


_ABOUT_FILE = re.compile(
    r"\b(?:size|large|big|bytes|modified|created|newest|oldest|exists?|somewhere|(?:which|what) folder|where is)\b",
    re.I,
)
GUESSED = " not found. These are the files of "  # what a tool says of names that it was given
_READ_ONE = ("find_text", "read_files", "total_column")
_READS = re.compile(r"__(?:read|view|open|cat|get)_?(?:text_?)?(?:file|content)s?(?:_contents?)?$")
_NO_CONTENT = re.compile(r"__.*(?:info|stat|list|tree|director|folder|media|image|search|move|find)")
_NEWEST_COMMIT = re.compile(
    r"\b(?:message|subject|author|date|hash|sha|id|who|when)\b[^.?!\n]{0,60}(?<!since )(?<!since the )(?<!before the )"
    r"\b(?:last|latest|newest|most recent) commit\b",
    re.IGNORECASE,
)
_CHANGING_COMMIT = re.compile(  # the one that did something, not all, nor the last
    r"\A(?!.*\b(?:last|latest|newest|most|more|recent\w*|by)\b).*\b(?:which|what|the) commit\b(?! [0-9a-f]{7})"
    r"[^.?!\n]{0,30}?"
    r"\b(?:add|introduc|remov|delet|chang|renam|replac|set|bump|rais|lower|creat)\w*\b",
    re.IGNORECASE | re.DOTALL,
)
_LOG = re.compile(r"(?:^|_)(?:log|list_commits)$")
_COUNTS_ENTRIES = ("max_count", "limit", "perPage", "per_page")  # as parameters of git servers are called
_PATH = r"[\"'`]?([\w./-]*\w\.\w{1,5})[\"'`]?"
_ONLY_IN_FIRST = re.compile(
    rf"\bin {_PATH},? (?:but|and|that are) not in {_PATH}"
    rf"|\b(?:of|in|from) {_PATH} (?:is|are) (?:missing|not) (?:in|from) {_PATH}",
    re.IGNORECASE,
)
_DELETES = re.compile(r"(?:^|_)(?:delete|remove|drop|purge|erase|truncate)(?:_|$)", re.IGNORECASE)
_DELETES_TASK = re.compile(
    r"delet|remov|drop|purg|eras|clear|clean|empty|forget|undo|l\u00f6sch|entfern|supprim|effac|borra|elimin|cancell|"
    r"rimuov|apag|verwijder|usu|\u0443\u0434\u0430\u043b|\u5220|\u524a\u9664|\u6d88",
    re.IGNORECASE,
)
_OVERWRITES_TASK = re.compile(
    r"overwrit|rewrit|(?:re-?|newly )generat|replace (?:the )?(?:whole|entire|all|content|file)|from scratch|"
    r"\u00fcberschreib|\u00e9cras|sobrescrib|sovrascriv|sobrescrev|overschrijf|nadpisz|\u043f\u0435\u0440\u0435\u0437\u0430\u043f\u0438\u0448|\u8986\u76d6|\u4e0a\u66f8\u304d",
    re.IGNORECASE,
)
_LOOKS_FIRST = re.compile(
    r"\W*(?:please,? |first,? )*(?:look|read|find|search|open|check|list|see|get|fetch|go through|take)\b",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"\b(?:then|after(?:wards| that)|next|finally|also|save|write|remember|store|create|check|verify)\b", re.IGNORECASE
)

_ASKS_OF_TEXT = re.compile(  # what a file says
    r"(?:^|[.?!,:]\s|\band\s)\s*(?:please )?(?:what|which|who is|list|summari[sz]e|describe|explain|say|tell|give"
    r"|extract|classify|label|rate|translate|state|quote)\b",
    re.IGNORECASE | re.MULTILINE,
)
_IN_FILE = re.compile(
    rf"\b(?:in|from|of|fits|read|open|summari[sz]e|describe|explain|translate|classify|label|rate)\s(?:the )?(?:file )?"
    rf"[\"'`]?[\w./-]*(?:{_FILE.pattern})|\A[\w./-]+:\s",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(  # what may stand in other files, or nowhere
    r"\b(?:others?|another|elsewhere|anywhere|folder|directory|project|repo(?:sitory)?|code ?base|callers?"
    r"|call(?:s|ed)?|use[sd]?|unused|import(?:s|ed)?|depend\w*|references?|tests?|tested|covered|git|commits?|history|links?|valid"
    r"|exists?|tracked|runs?|execute|edited|changed|changes|missing|broken|average|mean|max\w*|min\w*|readme|makefile"
    r"|memory|database|authors?|branch|release|urls?|pages?|cites?|mention\w*|guide|appendix|current|local|system|loads?|needs?|renders?|embeds?|invoked"
    r"|dead|(?:which|what) (?:documents?|modules?|files?|scripts?|configs?|notes|tests?|targets?))\b|%",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:see|look (?:at|in)|refer to|moved to|(?:described|defined|documented|kept|included?|listed)(?: in| from)?"
    r"|read|license in|extends?|siehe|voir|ver|vedi)\b(?: also)?\W{1,6}"
    r"(?:the (?:file )?)?\W?[\w./-]{0,200}\w\.\w{1,5}\b|\bworkspace = true\b"
    r"|\]\([^()\s]{0,200}\.\w{1,5}\)|^[ \t]*(?:from \S+ )?import\b|\brequire\("
    r"|\{\{|\$\{",
    re.IGNORECASE | re.MULTILINE,
)
_INCLUDES = re.compile(r"include(?:::|\s)|\\input\{|!\[\[|\A\s*[\w./-]{1,200}\.\w{1,5}\s*\Z", re.IGNORECASE)
_SUMS_UP = re.compile(r"\b(?:summari[sz]e|describe|classify|label|rate|translate|about)\b", re.IGNORECASE)
_CUT = re.compile(r"\b(?:remaining|truncated|more lines)\b", re.IGNORECASE)
_EDGE = 300  # characters at both ends of a result, where a server says that it cut it


def names_file(task: str) -> bool:
    """Whether a task names a file."""
    return bool(_FILE.search(_FORM.sub(" ", task)))


def asks_to_delete(task: str) -> bool:
    """Whether a task has a word for deleting, in any of ten languages."""
    return bool(_DELETES_TASK.search(task))


def asks_to_overwrite(task: str) -> bool:
    """Whether a task says that what a file holds may be replaced, in any of ten languages."""
    return bool(_OVERWRITES_TASK.search(task))


def deletes(name: str) -> bool:
    """Whether a tool deletes something, by its name."""
    return bool(_DELETES.search(name))


def is_done_by(task: str, tool: str, result: str = "") -> bool:
    """Whether a task that had to begin with this tool needs no other: its result holds all that was asked for.

    Small models do not stop there: they read the same again file by file, and lose what they had.
    """
    if _GOES_ON.search(task) or tool == "find_commits":
        return False
    if tool == "read_files" and GUESSED in result:
        return False
    needs_more = {"read_files": _TOTALS, "total_column": _OF_TWO}.get(tool)
    return needs_more is None or not needs_more.search(task)


def reading_tool(task: str, offered: Sequence[ToolSpec]) -> tuple[str, str] | None:
    """The tool that reads the file of the task, and the name of its argument, if just one server has such.

    None also where the first call may be of another kind.
    """
    first = first_tools(task, offered)
    if not all(spec.name in _READ_ONE or _READS.search(spec.name) for spec in first):
        return None
    found = {
        spec.name: required[0]
        for spec in first
        if _READS.search(spec.name) and len(required := list(spec.parameters.get("required") or ())) == 1
    }
    if len({name.partition("__")[0] for name in found}) != 1:
        return None
    return min(found.items(), key=lambda each: "text" not in each[0])


def answers_from(task: str, text: str) -> bool:
    """Whether a task can be answered from the text of the one file that it names, without another look."""
    words = _FILE.sub(" ", _FORM.sub(" ", task))
    asks_more = (_GOES_ON, _ELSEWHERE, _ABOUT_FILE, _COMPARES, _TOTALS)
    alone = len(set(_FILE.findall(_FORM.sub(" ", task)))) == 1
    refers = _INCLUDES.search(text) or (_REFERS.search(text) and not _SUMS_UP.search(words))
    whole = not (refers or _CUT.search(text[:_EDGE]) or _CUT.search(text[-_EDGE:]))
    asks = _ASKS_OF_TEXT.search(words) and _IN_FILE.search(task)
    return alone and whole and bool(asks) and not any(each.search(words) for each in asks_more)


def first_tools(task: str, offered: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
    """The tools that the first call may be of; none where the task does not say."""
    found = _fitting(task, offered)
    if not _LOOKS_FIRST.match(task):
        return found
    return [spec for spec in found if not changes_by_name(spec.name.rpartition("__")[2])] or found


def _fitting(task: str, offered: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
    task = _FORM.sub(" ", task)
    files = len(set(_FILE.findall(task)))
    named = bool(_NAME.search(_FILE.sub(" ", task)))
    writes = any(spec.name == "replace_text" for spec in offered)
    wanted = (
        ("append_text", files == 1 and _APPENDS.search(task) and not _REPLACES.search(task)),
        ("replace_text", _REPLACES.search(task) and not _RENAMES_FILE.search(task)),
        ("compare_files", not writes and files >= 2 and _COMPARES.search(task)),
        ("total_column", not writes and ".csv" in task.lower() and _TOTALS.search(task)),
        ("count_files", not writes and _COUNTS.search(task)),
        ("find_commits", not writes and _CHANGING_COMMIT.search(task)),
        ("find_text", not writes and not files and named),
        ("read_files", not writes and (files >= 2 or _EACH_FOLDER.search(task) or (not files and _ALL.search(task)))),
    )
    for name, fits in wanted:
        if fits and (found := [spec for spec in offered if spec.name == name]):
            return [_bound(found[0], task)]
    if _RENAMES_FILE.search(task) and (found := [spec for spec in offered if _MOVES.search(spec.name)]):
        return found
    if _NEWEST_COMMIT.search(task) and (
        found := [one for spec in offered if _LOG.search(spec.name) and (one := _one_entry(spec))]
    ):
        return found
    if not files and not _FOLDER.search(task):
        return ()
    taking = [spec for spec in offered if takes_path(spec)]
    if named_too := _of_named_servers(task, offered, taking):
        return [*named_too, *taking]
    if writes and files == 1 and asks_for_change(task):  # not its size, though the task may speak of one
        return [spec for spec in taking if not _NO_CONTENT.search(spec.name)] or taking
    if writes or files != 1 or _ABOUT_FILE.search(task):
        return taking
    return [spec for spec in taking if spec.name in _READ_ONE or _READS.search(spec.name)] or taking


def _of_named_servers(task: str, offered: Sequence[ToolSpec], taking: Sequence[ToolSpec]) -> list[ToolSpec]:
    """The tools of servers without files that the task names: "look into the memory, and write a file"."""
    with_files = {spec.name.partition("__")[0] for spec in taking}
    servers = {spec.name.partition("__")[0] for spec in offered if "__" in spec.name} - with_files
    named = {server for server in servers if re.search(rf"\b{re.escape(server)}\b", task, re.IGNORECASE)}
    found = [spec for spec in offered if spec.name.partition("__")[0] in named]
    if not _LOOKS_FIRST.match(task):
        return found
    # Small models open an entry by a word of the task, and take it for missing.
    return [spec for spec in found if SEARCHES.search(spec.name.rpartition("__")[2])] or found


def _bound(spec: ToolSpec, task: str) -> ToolSpec:
    """The tool, with the arguments that the task plainly gives."""
    if spec.name == "compare_files":
        return _one_sided(spec, task)
    if spec.name == "total_column" and _OF_TWO.search(task):  # without a condition it gives all of them
        properties = {**spec.parameters["properties"], "where": {"type": "string", "enum": [""]}}
        return replace(spec, parameters={**spec.parameters, "properties": properties})
    return spec


def _one_sided(spec: ToolSpec, task: str) -> ToolSpec:
    """The tool that compares, bound to what only the first file has where the task asks for that.

    Of all differences, small models give those of the wrong side.
    """
    match = _ONLY_IN_FIRST.search(task)
    properties = spec.parameters.get("properties", {})
    if match is None or _FOLDER.search(task) or "only_in_a" not in properties:
        return spec
    first, second = [path for path in match.groups() if path]
    bound = {
        "path_a": {"type": "string", "enum": [first]},
        "path_b": {"type": "string", "enum": [second]},
        "only_in_a": {"type": "boolean", "enum": [True]},
    }
    return replace(spec, parameters={**spec.parameters, "properties": bound, "required": list(bound)})


def _one_entry(spec: ToolSpec) -> ToolSpec | None:
    """A log's tool that gives one entry, the newest: of several, small models take the last that they read."""
    properties = spec.parameters.get("properties", {})
    for name in _COUNTS_ENTRIES:
        if name in properties:
            required = {*spec.parameters.get("required", ()), name}
            bound = {**properties, name: {"type": "integer", "enum": [1]}}
            return replace(spec, parameters={**spec.parameters, "properties": bound, "required": sorted(required)})
    return None
