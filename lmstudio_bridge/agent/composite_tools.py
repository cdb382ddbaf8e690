"""Tools of the bridge itself, made of the file and git tools of the user's servers: one call in place of many.

Small models lose their way in a chain of list, read, read, read, and cannot count or add up. Each inner call goes
through `CallInner`: it is checked, told and counted like a call of the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from functools import partial
from pathlib import PurePosixPath
from typing import TypeAlias

import anyio

from lmstudio_bridge.agent import text_operations
from lmstudio_bridge.agent.arguments import find_problem, read_arguments
from lmstudio_bridge.agent.commit_search import MAX_COMMITS, CommitTools, find_commit_tools, read_log, show_hits
from lmstudio_bridge.agent.first_call import GUESSED
from lmstudio_bridge.agent.prompts import NOT_CALLED
from lmstudio_bridge.agent.schemas import SchemaWork, own_spec, text_parameter
from lmstudio_bridge.agent.tools import Tool, make_tool, required
from lmstudio_bridge.events import OWN_SERVER
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolCall, ToolResult
from lmstudio_bridge.text import counted

MAX_FILES = 400  # of one call
MAX_FOLDERS = 200
MAX_DEPTH = 12  # folders below the first
MAX_CHARS = 8 * 1024 * 1024  # of all files of one call
MAX_HITS = 60  # lines that are shown
SEARCHING = ("find_text", "find_commits")  # tools whose result has no data where nothing was found
_AT_ONCE = 8  # inner calls
_SHOWN_FAILURES = 5
_SHOWN_DEFINITIONS = 3
_SHOWN_PLACES = 10
_SHOWN_COMMITS = 20
_SHORT_FILE = 5  # lines; with more, names before each would be most of the text
_BELOW = re.compile(r"[\w.-]+(?:/[\w.-]+)*")  # a relative path that can stand in our own words
_SHOWN_NAMES = 40
_NO_NAMES = frozenset({"folder", "dir", "directory"})  # words that small models put before a name
_GUESSED_FOLDER = 20  # files that are read in place of those whose names were guessed
NO_SUCH_PATH = re.compile(r"\bENOENT\b|\bno such (?:file|dir)|\bdoes not exist\b", re.IGNORECASE)
_ON_FOLDERS = ("find_text", "read_files", "count_files", "total_column")  # tools that only read, and take folders
_PLACES = ("path", "folder", "path_a", "path_b")  # arguments that name a file or a folder
_MISSING = re.compile(r"ENOENT|no such file|not found|not exist", re.IGNORECASE)
_SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache"})
_BINARY = re.compile(
    r"\.(?:png|jpe?g|gif|webp|ico|bmp|pdf|zip|t?gz|bz2|xz|7z|jar|whl|so|dylib|dll|exe|bin|o|a|pyc|class|woff2?|[ot]tf|"
    r"mp[34]|mov|avi|wav|flac|ogg|sqlite|db|parquet)",
    re.IGNORECASE,
)
_READERS = ("read_text_file", "read_file", "get_file_contents", "view_file", "open_file", "cat_file")
_LISTERS = ("list_directory", "list_files", "list_dir", "list_folder", "ls")
_WRITERS = ("write_file", "write_text_file", "save_file", "create_file")
_PATH_NAME = re.compile(r"path|file|dir|folder|uri", re.IGNORECASE)
_CONTENT_NAME = re.compile(r"content|text|data|body", re.IGNORECASE)
_ALIKE: Mapping[str, re.Pattern[str]] = {
    "find_commits": re.compile(r"(?:search|find)_commits?|pickaxe"),
    "find_text": re.compile(r"grep|search_(?:text|content|code|in_files)|find_text|find_in_files"),
    "compare_files": re.compile(r"compare|diff_files|file_diff"),
    "count_files": re.compile(r"count_files|file_count"),
    "calculate": re.compile(r"calculat|evaluate_expression"),
    "replace_text": re.compile(r"replace_(?:text|all|in_file)|(?:search|find)_and_replace"),
    "append_text": re.compile(r"append"),
}
"""Names of servers' tools that do the same: where there is one, the bridge adds none."""
_LISTED = re.compile(r"(?:\[(?P<kind>FILE|DIR|DIRECTORY)\]\s*|[-*]\s+)?(?P<name>\S.*)")
_SIZE = re.compile(r"(?<=\S)\s{2,}\d[\d.,]*\s*[KMG]?B\Z")  # behind a name
_NUMBERED = re.compile(r"\s*(\d+)(?:\t|\s*[:|\u2192])")  # a line as some tools show it
_NO_OUTPUT = "(no output)"  # what stands for the text of an empty file


_TOO_LONG = ToolResult("too long", is_error=True)

HoldsText: TypeAlias = Callable[[Tool, JSONObject, str], Awaitable[bool | None]]
"""Whether the file that the arguments of a tool name holds just this text; None where that cannot be known."""

CallInner: TypeAlias = Callable[[Tool, JSONObject], Awaitable[ToolResult]]
"""Runs one call of a server's tool; a failure is a result with `is_error`. The text is as the server sent it."""


async def _unknown(tool: Tool, arguments: JSONObject, text: str) -> bool | None:
    return None


@dataclass(frozen=True, slots=True)
class CompositeResult:
    """What a call of such a tool gave.

    `text` is the bridge's own, `data` comes from files and is untrusted. `seen` are the texts that it rests on, by
    file; `looked_at` are all files that were read, and `nowhere` texts for which all commits were searched in vain.
    """

    text: str
    data: str = ""
    is_error: bool = False
    seen: tuple[tuple[str, str], ...] = ()
    looked_at: tuple[str, ...] = ()
    nowhere: tuple[str, ...] = ()


def usable_tools(tools: Sequence[Tool], *, may_run: Callable[[ServerTool], bool]) -> tuple[Tool, ...]:
    """The tools that may run and are not deprecated; all of them if that leaves none."""
    usable = tuple(tool for tool in tools if may_run(tool.source))
    return tuple(tool for tool in usable if not tool.is_deprecated) or usable or tuple(tools)


def _spec(name: str, description: str, **parameters: JSONObject) -> ServerTool:
    schema = own_spec(name, description, **parameters).parameters
    return ServerTool(OWN_SERVER, name, description, schema, read_only=name not in ("replace_text", "append_text"))


_READING = (
    _spec(
        "find_text",
        "Find a text in all files of a folder and of its subfolders. Gives each line with its file and number.",
        text=text_parameter("The text to find, in any letter case; a|b finds both"),
        folder=text_parameter("The folder to search, or a file"),
    ),
    _spec(
        "read_files",
        "Read several text files at once.",
        paths={"type": "array", "items": {"type": "string"}, "description": "Files; * stands for any characters"},
    ),
    _spec(
        "compare_files",
        "Compare two text files. Gives every difference.",
        path_a=text_parameter("A file"),
        path_b=text_parameter("Another file"),
        only_in_a={"type": "boolean", "default": False, "description": "Only what path_a has and path_b has not"},
    ),
    _spec(
        "count_files",
        "Count the files in a folder and in its subfolders, by extension.",
        folder=text_parameter("The folder"),
    ),
    _spec(
        "total_column",
        "Add up the numbers in a column of a CSV file, or count its rows.",
        path=text_parameter("The CSV file"),
        column=text_parameter("Name of the column to add up; empty to count rows"),
        where=text_parameter("column=value for only those rows; empty for all rows"),
    ),
)
_CALCULATE = _spec("calculate", "Calculate exactly.", expression=text_parameter("For example 12.5*(3+4)"))
_REPLACE = _spec(
    "replace_text",
    "Replace a text everywhere in a file, or in all files of a folder.",
    path=text_parameter("The file or the folder"),
    old=text_parameter("The text to replace"),
    new=text_parameter("The text to put in its place"),
)
_COMMITS = _spec(
    "find_commits",
    "Find the commits of a git repository that added, changed or removed a text.",
    text=text_parameter("The text to find in the changed lines or the message, in any letter case"),
    repository=text_parameter("The folder of the repository"),
)
_APPEND = _spec(
    "append_text",
    "Add text at the end of a file.",
    path=text_parameter("The file"),
    text=text_parameter("The lines to add"),
)


class CompositeTools:
    """The tools that can be made of a run's tools, and their calls.

    `tools` are those of the servers that may run. With a `task`, a text that does not stand in it is replaced in one
    place only, in the line that the task names: small models replace every `true` where one was meant.
    """

    def __init__(self, tools: Sequence[Tool], *, task: str = "") -> None:
        self._files = _find_file_tools(tools)
        self._commits = find_commit_tools(tools)
        self._task = task
        self._edits: set[tuple[str, str, str]] = set()  # file, old and new text of each replacement
        names = [tool.source.name.lower() for tool in tools]
        made: list[ServerTool] = [] if self._commits is None else [_COMMITS]
        if self._files is not None:
            made += [*_READING, *([_REPLACE, _APPEND] if self._files.write else []), _CALCULATE]
        work = SchemaWork()
        self.tools: tuple[Tool, ...] = tuple(
            make_tool(source, name=source.name, description=source.description, work=work)
            for source in made
            if not (source.name in _ALIKE and any(map(_ALIKE[source.name].search, names)))
        )

    def add_to(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """These before the servers' tools, without those that they stand for."""
        replaced = {"read_multiple_files"} if self.find("read_files") else set()
        return (*self.tools, *(tool for tool in tools if tool.source.name not in replaced))

    def find(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == name), None)

    def reading_call(self, name: str, arguments: JSONObject) -> tuple[Tool, JSONObject, str] | None:
        """The call that reads the file which a writing call replaces, and its path; None if it replaces no file."""
        files = self._files
        if files is None or files.write is None or files.write.name != name:
            return None
        path = arguments.get(files.paths[name])
        return (files.read, {files.paths[files.read.name]: path}, path) if isinstance(path, str) else None

    async def run(self, call: ToolCall, *, inner: CallInner, holds: HoldsText = _unknown) -> CompositeResult:
        """The result of a call of one of these tools; what is wrong with the call is a result, too.

        With `holds` no file is written that the server's tool does not give as it is.
        """
        tool = self.find(call.name)
        assert tool is not None
        try:
            values = read_arguments(call.arguments, tool.spec.parameters).values
            if problem := find_problem(values, tool.schema):
                raise ValueError(problem)
        except ValueError as exc:
            return CompositeResult(f"{call.name}{NOT_CALLED}{exc}", is_error=True)
        try:
            if call.name == "calculate":
                text = text_operations.calculate(values["expression"])
                return CompositeResult(text, seen=(("calculate", text),))
            if call.name == "find_commits":
                assert self._commits is not None
                return await _find_commits(self._commits, inner, values["text"], values["repository"])
            assert self._files is not None
            files = _Files(self._files, inner, holds, self._task, self._edits)
            known = {name: values[name] for name in tool.spec.parameters["properties"] if name in values}
            return await _ON_FILES[call.name](files, **known)
        except ValueError as exc:
            named = values.get("paths") or [value for name, value in values.items() if name in _PLACES]
            gone = next((path for path in named if _tidy(path) in str(exc)), named[0] if named else "")
            is_gone = bool(gone and NO_SUCH_PATH.search(str(exc)))
            near = await self.names_near(gone, inner, of=tool.source) if is_gone else None
            return replace(near, text=f"{exc}\n{near.text}") if near else CompositeResult(str(exc), is_error=True)

    async def names_near(self, path: str, inner: CallInner, *, of: ServerTool) -> CompositeResult | None:
        """For a path below the working folder of which nothing is there: the names in that folder, if it has any.

        None also where it is no path of the server that these tools read from. Where the tool takes folders and only
        reads, the text says which one is meant if the task does not have the path, and only words such as `folder`
        before the name or an ending that makes a file of a folder are wrong; what else is alike may be another one.
        """
        wanted = PurePosixPath(_tidy(path))
        if self._files is None or of.server not in (OWN_SERVER, self._files.listing.source.server):
            return None
        listing = self._files.listing
        if listing.source.read_only is not True or not _BELOW.fullmatch(str(wanted)) or ".." in wanted.parts:
            return None
        listed = await inner(listing, {self._files.paths[listing.name]: "."})
        names = [f"{name}/" if is_folder else name for name, is_folder in read_listing(listed.text)]
        if listed.is_error or not names or wanted.parts[0] in (name.rstrip("/") for name in names):
            return None
        meant = next((each for each in (wanted.name, wanted.stem) if f"{each}/" in names), "")
        task = self._task.replace("\\", "/").casefold()
        is_invented = _NO_NAMES.issuperset(wanted.parts[:-1]) and str(wanted).casefold() not in task
        if not is_invented or of.name not in (listing.source.name, *_ON_FOLDERS):
            meant = ""
        advice = f'Call it again with "{meant}". ' if meant else ""
        more = len(names) - _SHOWN_NAMES
        shown = "\n".join([*names[:_SHOWN_NAMES], *([f"({more} more)"] if more > 0 else [])])
        text = f"{advice}In the working folder there are:"
        return CompositeResult(text, shown, is_error=True, seen=(("the working folder", shown),))


async def _find_commits(tools: CommitTools, inner: CallInner, text: str, repository: str) -> CompositeResult:
    wanted = _parts(text)
    log = await inner(tools.log, tools.log_arguments(repository))
    if log.is_error:
        raise ValueError(f"The commits could not be listed: {_first_line(log.text)}")
    if not (commits := read_log(log.text)):
        raise ValueError(f"{tools.log.name} gave no commits.")
    results = await _for_each(commits, lambda each: inner(tools.show, tools.show_arguments(repository, each)))
    shown = {commit: results[commit].text for commit in reversed(commits) if not results[commit].is_error}
    if not shown:
        raise ValueError(f"The commits could not be shown: {_first_line(results[commits[0]].text)}")
    failed = len(commits) - len(shown)

    def search() -> dict[str, tuple[str, list[str]]]:
        holds = text_operations.holds_any(wanted)
        return {commit: found for commit, text in shown.items() if (found := show_hits(text, holds))[1]}

    found = await anyio.to_thread.run_sync(search, abandon_on_cancel=True)
    quoted = " or ".join(map(repr, wanted))
    newest = "all" if tools.takes_count and len(commits) < MAX_COMMITS else "the newest"
    searched = f"{newest} {counted(len(commits), 'commit')} searched"
    searched += f"; {counted(failed, 'commit')} could not be shown" if failed else ""
    if not found:
        nowhere = () if failed or newest != "all" else tuple(wanted)
        return CompositeResult(f"{quoted} was not found in a changed line or a message: {searched}.", nowhere=nowhere)
    shows = list(found.items())[:_SHOWN_COMMITS]
    first = f", the first {_SHOWN_COMMITS}" if len(found) > _SHOWN_COMMITS else ""
    return CompositeResult(
        f"{quoted}: {counted(len(found), 'commit')}{first}, the oldest first; {searched}:",
        "\n\n".join("\n".join((head, *hits)) for _, (head, hits) in shows),
        seen=tuple((f"commit {commit[:12]}", shown[commit]) for commit, _ in shows),
        looked_at=tuple(dict.fromkeys(hit.partition(": ")[0] for _, (_, hits) in shows for hit in hits if ": " in hit)),
    )


async def _for_each(names: Iterable[str], call: Callable[[str], Awaitable[ToolResult]]) -> dict[str, ToolResult]:
    """The results of calls that run side by side, by the names that they are for, in the order of those."""
    results: dict[str, ToolResult] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def run(name: str) -> None:
        async with limiter:
            results[name] = await call(name)

    distinct = dict.fromkeys(names)
    async with anyio.create_task_group() as group:
        for name in distinct:
            group.start_soon(run, name)
    return {name: results[name] for name in distinct}


def _parts(text: str) -> list[str]:
    wanted = [part.strip() for part in text.split("|") if part.strip()]
    if not wanted:
        raise ValueError("The text to find is empty.")
    return wanted


async def _find_text(files: _Files, text: str, folder: str) -> CompositeResult:
    wanted = _parts(text)
    found = await files.read_below(folder)
    hits, quoted = await _search(found, text_operations.holds_any(wanted)), " or ".join(map(repr, wanted))
    for words, matches in () if hits else text_operations.looser_searches(text):
        if hits := await _search(found, matches):
            quoted = f"{quoted} was not found, but {words}"
            break
    seen = {path: found.texts[path] for path in dict.fromkeys(path for path, _, _ in hits)}
    searched = f"{counted(len(found.texts), 'file')} searched in {_shown(folder)}{found.problems()}"
    looked_at = tuple(found.texts)
    if not hits:
        return CompositeResult(f"{quoted} was not found: {searched}.", looked_at=looked_at)
    definitions = [f"{path}:{number}" for path, number, line in hits if text_operations.defines(line, wanted)]
    hits.sort(key=lambda hit: f"{hit[0]}:{hit[1]}" not in definitions)
    defined = f"; defined in {', '.join(definitions)}" if 0 < len(definitions) <= _SHOWN_DEFINITIONS else ""
    searched += f". The first {MAX_HITS} are" if len(hits) > MAX_HITS else ""
    head = f"{quoted}{defined}: {counted(len(hits), 'line')} in {counted(len(seen), 'file')}; {searched}:"
    lines = "\n".join(f"{path}:{number}: {line}" for path, number, line in hits[:MAX_HITS])
    return CompositeResult(head, lines, seen=tuple(seen.items()), looked_at=looked_at)


async def _search(found: _Found, matches: Callable[[str], bool]) -> list[tuple[str, int, str]]:
    """Path, number and text of the lines that pass a test."""

    def search() -> list[tuple[str, int, str]]:
        hits = ((path, text_operations.find_lines(content, matches)) for path, content in found.texts.items())
        return [(path, number, line) for path, lines in hits for number, line in lines]

    # In a thread: megabytes take a second in which other runs must go on.
    return await anyio.to_thread.run_sync(search, abandon_on_cancel=True)


async def _read_files(files: _Files, paths: Sequence[str]) -> CompositeResult:
    wanted: dict[str, None] = {}
    for path in paths:
        wanted.update(dict.fromkeys(await files.match(path) if "*" in path else [_tidy(path)]))
    found = await files.read(list(wanted))
    if len(paths) == 1 and not found.texts and not found.failed.get(_tidy(paths[0]), "ENOENT").startswith("ENOENT"):
        found = await files.read_below(paths[0])  # a folder
    guessed = ""
    in_task = any(PurePosixPath(path).name in files.task for path in wanted)
    if not (found.texts or in_task) and found.failed and all(map(_MISSING.search, found.failed.values())):
        folder = _only_folder(found.failed)
        below = await files.read_below(folder) if folder else found
        if 0 < len(below.texts) <= _GUESSED_FOLDER:
            guessed, found = f"{', '.join(found.failed)}{GUESSED}{folder}: ", below
    if not found.texts:
        raise ValueError(f"No file was read{found.problems()}.")
    is_short = len(found.texts) > 1 and all(text.count("\n") <= _SHORT_FILE for text in found.texts.values())
    data = "\n".join(_with_name(path, text.rstrip(), each_line=is_short) for path, text in found.texts.items())
    left_out = f"; {counted(len(files.binaries), 'file')} without text left out" if files.binaries else ""
    head = f"{guessed}{counted(len(found.texts), 'file')} read{found.problems()}{left_out}."
    extremes = text_operations.find_extremes(found.texts) if is_short and not found.failed else []
    data = "\n".join([data, *extremes])
    return CompositeResult(head, data, seen=tuple(found.texts.items()), looked_at=tuple(found.texts))


def _with_name(path: str, text: str, *, each_line: bool) -> str:
    """The text of a file with its name above it, or before each line: small models lose which file a line is of."""
    return "\n".join(f"{path}: {line}" for line in text.split("\n")) if each_line else f"== {path} ==\n{text}"


def _only_folder(paths: Iterable[str]) -> str:
    """The folder in which all of the paths are, if it is not the working folder."""
    folders = {path.rpartition("/")[0] for path in paths}
    return folders.pop() if len(folders) == 1 else ""


async def _compare_files(files: _Files, path_a: str, path_b: str, only_in_a: bool = False) -> CompositeResult:
    one, other = [(path, await files.read_one(path)) for path in (_tidy(path_a), _tidy(path_b))]
    if only_in_a:
        missing = await anyio.to_thread.run_sync(text_operations.find_missing, one[1], other[1], abandon_on_cancel=True)
        text = f"{counted(len(missing), 'line') if missing else 'Nothing'} in {one[0]} but not in {other[0]}"
        text += ":" if missing else "."
        return CompositeResult(text, "\n".join(missing), seen=(one, other), looked_at=(one[0], other[0]))
    found = await anyio.to_thread.run_sync(text_operations.find_differences, one, other, abandon_on_cancel=True)
    names = f"{one[0]} and {other[0]}"
    differ = f"{counted(found.count, 'difference')} between {names}, and no others"
    text = differ if found.count else f"{names} are the same"
    text += f", except in {found.left_out}" if found.left_out else ""
    text += ":" if found.count else "."
    return CompositeResult(text, "\n".join(found.lines), seen=(one, other), looked_at=(one[0], other[0]))


async def _count_files(files: _Files, folder: str) -> CompositeResult:
    paths = await files.walk(folder)
    by_extension = Counter(PurePosixPath(path).suffix.lower() or "no extension" for path in paths)
    lines = "\n".join(f"{extension}: {count}" for extension, count in sorted(by_extension.items()))
    without = f", without {', '.join(files.skipped[:_SHOWN_FAILURES])}" if files.skipped else ""
    problems = _Found({}, files.unlisted).problems()
    text = f"{counted(len(paths), 'file')} in {_shown(folder)} and its subfolders{without}{problems}:"
    return CompositeResult(text, lines, seen=(("count_files", "\n".join([text, lines, *paths])),))


def _is_beside(path: str, others: Iterable[str]) -> bool:
    """Whether a file is in the same folder as all of the others, and has the same extension."""
    return len({(each.rpartition("/")[0], PurePosixPath(each).suffix) for each in (path, *others)}) == 1


async def _total_column(files: _Files, path: str, column: str, where: str) -> CompositeResult:
    path = _tidy(path)
    found = await files.read([path])
    if not found.texts and not _MISSING.search(found.failed[path]):
        found = await files.read_below(path)  # a folder
        below = (*files.binaries, *files.skipped, *found.texts)
        if odd := next((each for each in below if not _is_beside(each, found.texts)), ""):
            raise ValueError(f"{path} holds files of several kinds or folders, such as {odd}. Name one file.")
    if not found.texts or found.failed:  # a sum without them would be wrong
        raise ValueError(f"{path} was not added up{found.problems()}")
    content = found.texts[path] if path in found.texts else text_operations.join_settings(found.texts)
    files_of = "" if path in found.texts else f" ({counted(len(found.texts), 'file')})"
    text = f"{path}{files_of}: {text_operations.add_up(content, column, where)}"
    return CompositeResult(text, seen=(*found.texts.items(), ("total_column", text)), looked_at=tuple(found.texts))


async def _replace_text(files: _Files, path: str, old: str, new: str) -> CompositeResult:
    if not old or old == new:
        raise ValueError("The text to replace is empty." if not old else "Old and new text are the same.")
    found = await files.read_below(path)
    everywhere = {name: text_operations.replace_all(text, old, new) for name, text in found.texts.items()}
    made = {name: replaced for name, replaced in everywhere.items() if replaced.count}
    if undone := next((name for name in made if (name, new, old) in files.edits), ""):
        raise ValueError(f"Not done: it would undo your replacement of {new!r} by {old!r} in {undone}.")
    anywhere = not files.task or old.strip().casefold() in files.task.casefold()
    if not anywhere and len(made) == 1:
        name = next(iter(made))
        made[name] = text_operations.replace_where(found.texts[name], old, new, files.task) or made[name]
    if not anywhere and sum(replaced.count for replaced in made.values()) > 1:
        places = [
            f"{name}:{number}: {line}"
            for name in made
            for number, line in text_operations.find_lines(found.texts[name], lambda each: old in each)
        ]
        text = f"Not done: {old!r} stands in several places. Give more of the line to change as old."
        return CompositeResult(text, "\n".join(places[:_SHOWN_PLACES]), is_error=True, looked_at=tuple(found.texts))
    lines: list[str] = []
    diffs: list[str] = []
    changed: dict[str, str] = {}
    for name, replaced in made.items():
        problem, is_written = await files.write(name, replaced.text, old=found.texts[name])
        if problem:
            lines.append(f"{name}: {problem}")
            if is_written:
                break  # the tool does not write what it is given: no other file may come to harm
            continue
        files.edits.add((name, old, new))
        longer = f"; {replaced.left} more left alone, as parts of longer words" if replaced.left else ""
        lines.append(f"{name}: {counted(replaced.count, 'place')} replaced{longer}")
        diffs.append(text_operations.show_changes(name, found.texts[name], replaced.text))
        changed[name] = replaced.text
    if left := len(made) - len(lines):
        lines.append(f"{counted(left, 'file')} left as before.")
    if not lines:
        searched = f"{counted(len(found.texts), 'file')} searched in {_shown(path)}{found.problems()}"
        raise ValueError(f"Nothing was changed: {old!r} was not found ({searched}).")
    return CompositeResult(
        "\n".join([f"{counted(len(changed), 'file')} changed{found.problems()}.", *lines]),
        "\n".join(diffs),
        is_error=len(changed) < len(lines),
        seen=tuple(changed.items()),
        looked_at=tuple(found.texts),
    )


async def _append_text(files: _Files, path: str, text: str) -> CompositeResult:
    path = _tidy(path)
    if not text.strip():
        raise ValueError("The text to add is empty.")
    old = await files.read_one(path)
    new = text_operations.add_at_end(old, text)
    problem, _ = await files.write(path, new, old=old)
    if problem:
        raise ValueError(f"{path}: {problem}")
    return CompositeResult(
        f"Added at the end of {path}.",
        text_operations.show_changes(path, old, new),
        seen=((path, new),),
        looked_at=(path,),
    )


_ON_FILES: Mapping[str, Callable[..., Awaitable[CompositeResult]]] = {
    "find_text": _find_text,
    "read_files": _read_files,
    "compare_files": _compare_files,
    "count_files": _count_files,
    "total_column": _total_column,
    "replace_text": _replace_text,
    "append_text": _append_text,
}
"""The tools that work on files: called with the files and the arguments of the tool."""


@dataclass(frozen=True, slots=True)
class _FileTools:
    """The tools of one server for text files; `paths` and `content` are names of their arguments."""

    read: Tool
    listing: Tool
    write: Tool | None
    content: str
    paths: Mapping[str, str]  # by the name of the tool


@dataclass(frozen=True, slots=True)
class _Found:
    """The texts of files by path, and why others could not be read."""

    texts: Mapping[str, str]
    failed: Mapping[str, str]

    def problems(self) -> str:
        """What to say of those that could not be read."""
        parts = [f"{path} could not be read ({reason})" for path, reason in self.failed.items()]
        more = len(parts) - _SHOWN_FAILURES
        parts = [*parts[:_SHOWN_FAILURES], f"{more} more could not be read"] if more > 0 else parts
        return "".join(f"; {part}" for part in parts)


@dataclass(slots=True)
class _Files:
    """The files of one call: walked, read and written with the inner tools. Errors are `ValueError`, for the model.

    `task` and `edits` are those of `CompositeTools`.
    """

    tools: _FileTools
    inner: CallInner
    holds: HoldsText
    task: str
    edits: set[tuple[str, str, str]]
    unlisted: dict[str, str] = field(default_factory=dict)  # folders below one that was walked, and why they were not
    binaries: list[str] = field(default_factory=list)  # files below a folder that were not read
    skipped: list[str] = field(default_factory=list)  # folders that were left aside

    async def read_one(self, path: str) -> str:
        found = await self.read([path])
        if path not in found.texts:
            raise ValueError(f"{path} could not be read: {found.failed[path]}")
        return found.texts[path]

    async def read(self, paths: Sequence[str]) -> _Found:
        """The texts of files, in the order of the paths."""
        received = 0

        async def read(path: str) -> ToolResult:
            nonlocal received
            if received > MAX_CHARS:
                return _TOO_LONG
            result = await self._call(self.tools.read, path)
            received += len(result.text)
            return result

        texts: dict[str, str] = {}
        failed = dict.fromkeys(paths[MAX_FILES:], f"more than {MAX_FILES} files at once")
        room = MAX_CHARS
        for path, result in (await _for_each(paths[:MAX_FILES], read)).items():
            if result.is_error:
                failed[path] = _first_line(result.text)
            elif len(result.text) > room:
                failed[path] = _TOO_LONG.text
            else:
                texts[path] = "" if result.text == _NO_OUTPUT else result.text
                room -= len(result.text)
        return _Found(texts, failed)

    async def read_below(self, path: str) -> _Found:
        """The text files of a folder and of its subfolders; of a path that is a file or has `*`, what it names."""
        if "*" in path:
            return await self.read(await self.match(path))
        try:
            walked = await self.walk(path)
        except ValueError:
            files = await self.read([_tidy(path)])
            if not files.texts:
                raise
            return files
        self.binaries = [each for each in walked if _BINARY.fullmatch(PurePosixPath(each).suffix)]
        files = await self.read([each for each in walked if each not in set(self.binaries)])
        return _Found(files.texts, {**self.unlisted, **files.failed})

    async def match(self, pattern: str) -> list[str]:
        """The files that a pattern such as src/*.py or src/**/*.py names."""
        pattern = _tidy(pattern)
        fixed = pattern[: pattern.index("*")].rpartition("/")[0]
        wanted = _compile_glob(pattern)
        found = [path for path in await self.walk(fixed or ".") if wanted(path)]
        if not found:
            raise ValueError(f"No file matches {pattern!r}.")
        return found

    async def walk(self, folder: str) -> list[str]:
        """The paths of the files of a folder and of its subfolders, sorted."""
        files: list[str] = []
        level = [_tidy(folder)]
        listed = 0
        for depth in range(MAX_DEPTH):
            listed += len(level)
            if listed > MAX_FOLDERS:
                raise ValueError(f"{_shown(folder)} holds more than {MAX_FOLDERS} folders; name a smaller one.")
            below: list[str] = []
            for path, result in (await _for_each(level, partial(self._call, self.tools.listing))).items():
                if result.is_error and not depth:
                    raise ValueError(f"{_shown(folder)} could not be listed: {_first_line(result.text)}")
                if result.is_error:
                    self.unlisted[path] = _first_line(result.text)
                    continue
                for name, is_folder in read_listing(result.text):
                    whole = name if path == "." else f"{path.rstrip('/')}/{name}"
                    if not is_folder:
                        files.append(whole)
                    elif name in _SKIPPED:
                        self.skipped.append(whole)
                    else:
                        below.append(whole)
            if len(files) > MAX_FILES:
                raise ValueError(f"{_shown(folder)} holds more than {MAX_FILES} files; name a smaller folder.")
            level = below
        self.unlisted.update(dict.fromkeys(level, f"more than {MAX_DEPTH} folders deep"))
        return sorted(files)

    async def write(self, path: str, text: str, *, old: str) -> tuple[str, bool]:
        """Write a file that was read as `old`, and read it again; what went wrong, and whether it was written."""
        tool = self.tools.write
        assert tool is not None
        named = {self.tools.paths[tool.name]: path}
        held = await self.holds(tool, named, old)
        if held is False or (held is None and _is_decorated(old)):
            return "not changed, because it cannot be read exactly as it is", False
        result = await self._call(tool, path, {self.tools.content: text})
        if result.is_error:
            return f"not changed, {_first_line(result.text)}", False
        held = await self.holds(tool, named, text)
        if held is None:
            held = (await self._call(self.tools.read, path)).text.rstrip() == text.rstrip()
        return "" if held else "written, but it does not hold what was written", True

    async def _call(self, tool: Tool, path: str, more: JSONObject | None = None) -> ToolResult:
        return await self.inner(tool, {self.tools.paths[tool.name]: path, **(more or {})})


def _is_decorated(text: str) -> bool:
    """Whether a text seems not to be just what the file holds: bytes were replaced, or its lines are numbered."""
    lines = text.splitlines()
    numbers = [int(match[1]) for line in lines if (match := _NUMBERED.match(line))]
    return "\ufffd" in text or (len(lines) > 1 and numbers == [*range(1, len(lines) + 1)])


def _find_file_tools(tools: Sequence[Tool]) -> _FileTools | None:
    """The file tools of the first server that has one to read a text file and one to list a folder."""
    for server in dict.fromkeys(tool.source.server for tool in tools):
        own = [tool for tool in tools if tool.source.server == server]
        read, listing = _pick(own, _READERS, takes=1), _pick(own, _LISTERS, takes=1)
        write = _pick(own, _WRITERS, takes=2)
        if read is None or listing is None:
            continue
        content = next((name for name in required(write.spec) if _CONTENT_NAME.search(name)), "") if write else ""
        write = write if content else None
        paths = {tool.name: _path_argument(tool, content) for tool in (read, listing, write) if tool}
        return _FileTools(read, listing, write, content, paths) if all(paths.values()) else None
    return None


def _pick(tools: Sequence[Tool], names: Sequence[str], *, takes: int) -> Tool | None:
    """The tool with the first of these names that requires at most so many arguments."""
    named = {tool.source.name.lower(): tool for tool in tools if len(required(tool.spec)) <= takes}
    return next((named[name] for name in names if name in named), None)


def _path_argument(tool: Tool, content: str) -> str:
    names = (*required(tool.spec), *tool.spec.parameters["properties"])
    return next((name for name in names if name != content and _PATH_NAME.search(name)), "")


def read_listing(text: str) -> Iterator[tuple[str, bool]]:
    """The names in the listing of a folder, and which are folders.

    Known forms: `[FILE] name` and `[DIR] name` (@modelcontextprotocol/server-filesystem), JSON lists of names or of
    objects with a name and a type, and one name a line, where folders end in a slash.
    """
    entries = load_or_none(text)
    if isinstance(entries, dict):
        entries = next((value for value in entries.values() if isinstance(value, list)), None)
    found = map(_read_entry, entries) if isinstance(entries, list) else map(_read_line, text.splitlines())
    for path, is_folder in found:
        name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
        if name not in ("", ".", ".."):
            yield name, is_folder


def _read_entry(entry: object) -> tuple[str, bool]:
    if not isinstance(entry, dict):
        return str(entry), str(entry).endswith("/")
    name, kind = str(entry.get("name") or entry.get("path") or ""), str(entry.get("type") or entry.get("kind") or "")
    return name, kind.lower().startswith(("dir", "folder")) or bool(entry.get("is_dir")) or name.endswith("/")


def _read_line(line: str) -> tuple[str, bool]:
    match = _LISTED.fullmatch(line.strip())
    if match is None:
        return "", False
    name = _SIZE.sub("", match["name"])
    return name, (match["kind"] or "").upper().startswith("DIR") or name.endswith("/")


def _compile_glob(pattern: str) -> Callable[[str], bool]:
    """The test whether a path fits a pattern. In time linear to the path, however many stars there are."""
    names = re.sub(r"\*\*+(?=[^/*])", "**/*", pattern).split("/")
    parts = [None if name == "**" else re.compile(translate(name.replace("[", "[[]"))) for name in names]

    def skip_folders(reached: set[int]) -> set[int]:
        """With what comes behind each `**` reached, which may stand for no folder."""
        for number, part in enumerate(parts):
            if number in reached and part is None:
                reached.add(number + 1)
        return reached

    def fits(path: str) -> bool:
        reached = skip_folders({0})
        for name in path.split("/"):
            followed: set[int] = set()
            for number in reached:
                if number == len(parts):
                    continue
                if (part := parts[number]) is None:
                    followed.add(number)
                elif part.match(name):
                    followed.add(number + 1)
            reached = skip_folders(followed)
        return len(parts) in reached

    return fits


def _tidy(path: str) -> str:
    """A path without ./ before it and / behind it; the working folder is `.`."""
    tidy = path.strip().replace("\\", "/")
    while tidy.startswith("./"):
        tidy = tidy[2:].lstrip("/")
    return tidy.rstrip("/") or ("/" if tidy.startswith("/") else ".")


def _shown(folder: str) -> str:
    tidy = _tidy(folder)
    return "the working folder" if tidy == "." else tidy


def _first_line(text: str) -> str:
    return text_operations.cut_line(text.strip().partition("\n")[0]) or "no reason given"
