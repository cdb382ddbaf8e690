"""Which argument of a call names a file to write. A call with one counts as writing, whatever its server says.

An argument is judged by its name, in words, then by the tool's name, its description and its value:

| its name | as in | names a file to write |
|---|---|---|
| saving | `save_to`, `downloads_dir`, `save: true`, `output_to_file: true` | always |
| writing, a path | `output_path`, `fileOut`, `savelocation` | unless a tool looks at it: `read_export(export_path)` |
| writing | `output`, `exportAs`, `into` | if the value is a file: a word is one where it can be no format or field |
| making, product, a path | `copy_path`, `log_file`, `filename` | if it is optional, or the tool makes files * |
| bare path | `path`, `file` | if the tool makes files (`export_pdf(path)`), and names no other argument for them * |
| any path | `target` | if the description says that the tool saves there |
| * | | but not if the description says that it is read |

A tool makes files by its name, or where a source (`url`, `remote_path`) is beside the argument; one that looks at
things by its name (`view_…`, `parse_…`) makes none. What else could be one counts for protected files only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from lmstudio_bridge.intent import only_reads_by_name
from lmstudio_bridge.messages import JSONObject, ServerTool, is_deeper
from lmstudio_bridge.security.workspace import (
    CRITERIA,
    MAX_DEPTH,
    NO_FILE_WORDS,
    OPTION,
    TEXT_WORDS,
    is_address,
    last_word,
    names_path,
    words_of,
)

_Judgement: TypeAlias = Literal["no", "perhaps", "yes"]

_SAVING = frozenset({"save", "download", "downloads"})
_OUT = frozenset({"out", "output", "outputs"})
_PLACES = frozenset({"dest", "destination", "dst", "into", "export", "dump"})
"""They are also places to travel to, branches, and what a module exports."""
_WRITING = _SAVING | _OUT | {"write", "writes", "export", "dest", "destination", "dst", "append", "persist"}
_MAKING = frozenset({"saved", "dump", "store", "copy", "extract", "record", "render", "to", "into"})
_LOGS = frozenset({"log", "logs", "trace", "report"})  # what a reading tool reads
_PRODUCTS = _LOGS | {
    *("local", "screenshot", "snapshot", "capture", "result", "results", "video", "recording", "har", "pdf", "backup")
}
_KINDS = _MAKING | _PRODUCTS
_MADE_OR_WRITTEN = _WRITING | _KINDS
_UNSAID = (_MADE_OR_WRITTEN | {"sarif", "csv", "storage", "archive"}) - {"to", "into"}
"""What an argument that is no path by its name can be told to save: `har`, `storageState`."""
_BARE = frozenset({"file", "path", "name", "filename", "filepath", "dir", "directory", "folder", "new", "image"})
_PLACE_WORDS = _BARE | {"paths", "files", "location"}
_SOURCES = frozenset({"source", "src", "url", "uri"})
_OF_SOURCES = _SOURCES | {"file", "image", "page", "video", "media", "document", "attachment", "download"}
_FETCHING = frozenset({"get", "fetch", "pull"})
_GLUED = re.compile(r"(\w+?)(to|as|file|name|filename|path|dir|directory|folder|location)")

_LOOKING = re.compile(
    "read|view|show|list|search|find|describe|compare|diff|info|status|count|query|lookup|look|inspect|open|load|parse"
    "|analy[sz]e|summari[sz]e|explain|validate|check|lint|ocr|transcribe|cat|grep|head|tail|tree|stat|preview"
)
_VERBS = "download|capture|export|save|render|print|dump"
_MADE = "(?:screenshot|snapshot|pdf|attachment|recording)s?|record"
_MAKES_FILES = re.compile(
    rf"(?:.*_)?(?:{_VERBS})(?:_.*)?|(?:record|screenshot)_.*|(?!extract|.*_(?:from|of|in)_)(?:.*_)?(?:{_MADE})"
)
_MAKES_AT = re.compile(rf"(?:.*_)?(?:{_VERBS}|{_MADE}|(?:save|capture)_.*)|(?:record|dump|screenshot)_.*")
"""Where a bare path is what is made and not what it is made from: `export_pdf`, but not `export_workbook`."""
_GETS = re.compile(r"(?:get|fetch)_(?!.*screenshot).*|dump_.*")
"""Where a bare path that must be given is what is read."""
_READS = frozenset({"git_log", "git_blame", "git_branch", "start_search", "firecrawl_parse"})  # without such a word

_IS_SAVED_TO = re.compile(
    r"\b(?:to|and) save\b|\A(?:save|write)s?\b(?!-)|\bto write\b|\bbe (?:saved|written)\b"
    r"|\b(?:output|destination) (?:file|path|folder|dir)|\b(?:should|will) be stored\b"
    r"|\b(?:saved|written|stored) (?:in|to|into|at) this (?:file|path|folder|dir|location)"
    r"|\b(?:is|are|gets?) (?:saved|written)\b(?! (?:in (?-i:[A-Z])|by\b))|\bwrites?\b[^.]{0,60}\b(?:to this|here\b)",
    re.IGNORECASE,
)
"""How the description of a path says that the tool writes there."""
_SPEAKS_OF_SAVING = re.compile(
    r"sav(?:e|ing)|writ|output|stor|export|download|dump|destination|screenshot|recording", re.IGNORECASE
)
_IS_READ = re.compile(
    r"\bto (?:be )?(?:read|look|search|find|open|load|analy|pars|inspect|check|upload|send|attach|view|compar|filter"
    r"|process|import|use|get|retriev|fetch|download|export)(?! to)|\bfilter|\bsource file"
    r"|\b(?:existing|input|uploaded|remote)\b"
    r"|\b(?:(?:the|an?|this|your)(?: [\w-]*[^\Ws])?|vector|data|document) store\b",
    re.IGNORECASE,
)
"""How it says that the tool only reads it, or that the path is one of a store."""
_LIMITS = re.compile(r"\b(?:only|whose|language|detect|restrict|limit)\b", re.IGNORECASE)
"""The same where it does not speak of saving."""
_NAMES_FILES = re.compile(r"\b(?:files?|paths?|folders?)\b", re.IGNORECASE)
_NAMES_FORMAT = re.compile(r"\b(?:formats?|mode|fields?|columns|properties)\b", re.IGNORECASE)
_FILE = re.compile(r"[/\\]|\.[A-Za-z]\w{0,4}\Z")
_NO_FILE = re.compile(
    r"(?:json|ya?ml|yaml-stream|xml|csv|tsv|te?xt|plain|markdown|md|html|table|raw|wide|names?|full|summary|compact"
    r"|content|none|true|false|inline|short|long|brief|detailed|verbose|minimal|default|concise|list|tree|object|jsonl"
    r"|ndjson|jsonc|base64|structured|both|auto|all|extend|stdout|-"
    r"|(?:application|audio|image|text|video)/(?:[\w-]+\+)?(?:html|plain|markdown|csv|json|xml|ya?ml|png|jpe?g|webp|gif|pdf)"
    r"|(?:jsonpath|jsonpath-as-json|custom-columns|go-template)=[^/\\]*)",
    re.IGNORECASE,
)
"""Formats, media types, and templates of what kubectl prints."""
_SURELY_FILE = re.compile(
    r"[/\\]|\.(?:md|te?xt|rst|jsonl?|ya?ml|toml|ini|csv|tsv|xml|html?|pdf|png|jpe?g|gif|webp|svg|docx?|xlsx?|pptx?|odt"
    r"|zip|tar|t?gz|7z|log|diff|patch|py|[cm]?[jt]s|[jt]sx|sh|sql|db|sqlite\d?|bak|parquet|mp[34]|wav|webm|har|sarif|bin)\Z",
    re.IGNORECASE,
)
"""How a file is told from a host, a place or a key: `Washington D.C`, `vpc.id`."""
_NEVER_FIELDS = frozenset({"to", "prefix", "basename", "stem", "html", "csv", "archive"})
"""Of an output: `output_prefix="page"` makes files whatever the word is."""
_BRANCH = re.compile(r"\w[\w-]*(?:/[\w-]+)*")
_HOLDS_FILE = re.compile(
    r"""['"](?!profile|xpath)\w*(?:file|path|folder|dir|directory)(?:_?name|_?path)?['"]\s*:\s*['"]""", re.IGNORECASE
)
"""In an object that says what the output is."""
_STAGE = re.compile(r"\$(out|merge)\b\W{0,3}:")
"""A stage of a MongoDB pipeline that writes."""
_MAX_SCHEMAS = 200


def find_output(tool: ServerTool, arguments: JSONObject, *, here: bool, strict: bool = False) -> str | None:
    """The name of the first argument, or default, that names a file to write, at any depth; None if there is none.

    What only the tool's name or a source beside an argument says counts if the server runs `here`, on this machine.
    `strict` also finds what most likely is something else, as the criteria of a search.
    """
    if is_deeper(arguments, MAX_DEPTH):
        return None  # such a call is refused where paths are looked for
    judge = _Judge(tool, here=here)
    wanted = ("yes", "perhaps") if strict else ("yes",)

    def find(value: Any, known: JSONObject, is_text: bool = False, is_criteria: bool = False) -> str | None:
        if isinstance(value, list | tuple):
            options = [f"{one} {two}" for one, two in pairwise(value) if str(one).startswith("--")]
            return next(filter(None, (find(each, known, is_text, is_criteria) for each in (*options, *value))), None)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # many servers accept an object as text
            with suppress(ValueError, RecursionError):
                decoded = json.loads(value)
                return None if is_deeper(decoded, MAX_DEPTH) else find(decoded, known, is_text, is_criteria)
        if isinstance(value, str) and not is_text:
            return _find_option(value, strict=strict)
        if not isinstance(value, dict):
            return None
        properties, required = _members(known, tool.input_schema)
        names = {str(name) for name in (*value, *properties)}
        kinds = (("source", _is_source), ("output", _is_output), ("key", _is_key))
        beside = {kind for kind, fits in kinds if any(map(fits, names))}
        for name, inner in value.items():
            stated = properties.get(name, {})
            if is_criteria and not stated and not strict:
                continue  # {"filter": {"filename": "a.md"}} of a database
            if judge(str(name), inner, stated, is_required=name in required, beside=beside) in wanted:
                return str(name)
            last = last_word(str(name))
            if last in CRITERIA and (stage := _STAGE.search(json.dumps(inner, default=str))):
                return f"${stage[1]}"
            if found := find(inner, stated, is_text or last in TEXT_WORDS, is_criteria or last in CRITERIA):
                return found
        return None

    stated = _members(tool.input_schema, tool.input_schema)[0]
    defaults = {name: each["default"] for name, each in stated.items() if isinstance(each.get("default"), str | bool)}
    return find({**defaults, **arguments}, tool.input_schema)


def needs_output(tool: ServerTool, *, here: bool) -> bool:
    """Whether a tool has to be told which file to write, so that each of its calls writes."""
    properties, required = _members(tool.input_schema, tool.input_schema)
    texts = [name for name in map(str, required) if properties.get(name, {}).get("type") == "string"]
    return find_output(tool, dict.fromkeys(texts, "x"), here=here) is not None


def reads_by_name(tool: ServerTool) -> bool:
    """Whether its name says that it reads and makes no file."""
    return _Judge(tool, here=True).reads


def _find_option(text: str, *, strict: bool) -> str | None:
    """An option that names an output file."""
    for found in OPTION.finditer(text):
        option, value = found.groups()
        # In "how does git diff --output work" it is a word of a question.
        is_option = strict or not text[: found.start()].strip() or text[found.end(1)] == "=" or _FILE.search(value)
        if is_option and not _NO_FILE.fullmatch(value) and last_word(option) not in NO_FILE_WORDS:
            return str(option)
    return None


def _members(schema: JSONObject, root: JSONObject) -> tuple[dict[str, JSONObject], list[str]]:
    """What an object's schema, or that of a list's items, says of its members, and which are required."""
    members: dict[str, JSONObject] = {}
    required: list[str] = []
    waiting: list[Any] = [schema]
    for each in waiting:  # which grows
        if not isinstance(each, dict) or len(waiting) > _MAX_SCHEMAS:
            continue
        properties, needed, name = each.get("properties"), each.get("required"), str(each.get("$ref", ""))
        if isinstance(properties, dict):
            members |= {key: value for key, value in properties.items() if isinstance(value, dict)}
        required += needed if isinstance(needed, list) else []
        waiting.append(each.get("items"))
        for key in ("anyOf", "oneOf", "allOf"):
            waiting += inner if isinstance(inner := each.get(key), list) else []
        for key in ("$defs", "definitions"):
            shared = root.get(key)
            if name.startswith(f"#/{key}/") and isinstance(shared, dict):
                waiting.append(shared.get(name.rpartition("/")[2]))
    return members, required


class _Judge:
    """What a tool's name says of its arguments: it `looks` at what they name, `reads`, or `makes` files of them."""

    def __init__(self, tool: ServerTool, *, here: bool) -> None:
        self.here, self.words = here, words_of(tool.name)
        name = "_".join(self.words)
        self.looks = any(map(_LOOKING.fullmatch, self.words)) and "and" not in self.words
        makes = not self.looks and _MAKES_FILES.fullmatch(name) is not None
        self.gets = _GETS.fullmatch(name) is not None
        self.reads = tool.name.lower() in _READS or (only_reads_by_name(tool.name) and not makes)
        self.makes = here and makes
        self.makes_at = here and makes and _MAKES_AT.fullmatch(name) is not None

    def __call__(
        self, name: str, value: object, stated: JSONObject, *, is_required: bool, beside: AbstractSet[str]
    ) -> _Judgement:
        """Whether an argument with this name, value and schema says which file to write: the table of this module."""
        words, described = _split(name), str(stated.get("description", ""))
        value = True if value == 1 and len(words) == 1 else value
        is_given = bool(value) and isinstance(value, str | list | dict | bool)
        if str(value).lstrip().lower().startswith("file:") and not _WRITING.isdisjoint(words):
            return "yes"
        if not is_given or "enum" in stated or words[-1] in NO_FILE_WORDS:
            return "no"
        if words[0] in _SAVING or words[-1] == "save":
            return "yes"
        if value is True:
            return "yes" if words[0] in _WRITING - _OUT or words[-2:] in (["to", "file"], ["to", "disk"]) else "no"
        is_path = names_path(name) or (words[-1] == "location" and "destination" not in words)
        if words[0] in _WRITING - _OUT - _PLACES and len(words) == 1 and _FILE.search(str(value)):
            return "yes"  # write: "a.md"
        is_file = words[-1] not in TEXT_WORDS and _FILE.search(str(value)) is not None
        if (is_path or is_file) and _IS_SAVED_TO.search(described):
            return "yes"
        what = {*words} - _PLACE_WORDS
        is_named = bool(what) and what.issubset(self.words)
        writes = (is_path or words[0] == "local") and not _WRITING.isdisjoint(words) and not _PLACES.issuperset(words)
        goes_to = words[-1] in ("to", "as") and not _MADE_OR_WRITTEN.isdisjoint(words[:-1])
        if writes or goes_to or words[0] in _OUT or words[-1] in _PLACES:
            judged = "yes" if writes else self._judge_value(words, value, stated)
            return "perhaps" if self.looks and is_named else judged
        if not (names_path(words[-1]) or words[-2:] == ["file", "name"]):
            return "perhaps" if is_file and not _UNSAID.isdisjoint(words) else "no"
        return self._judge_path(words, described, is_named=is_named, is_required=is_required, beside=beside)

    def _judge_path(
        self, words: list[str], described: str, *, is_named: bool, is_required: bool, beside: AbstractSet[str]
    ) -> _Judgement:
        """The same for a name that says of a path at most what is in the file."""
        kinds = _made(words)
        is_filename = "".join(words) == "filename"
        is_bare = not is_filename and _BARE.issuperset(words)
        makes = self.makes or (self.here and not self.looks and "source" in beside)
        if not (is_filename or is_bare or kinds):
            return "no"
        if is_bare and not (self.makes_at and "output" not in beside):
            return "perhaps" if self.here and not self.looks and "source" in beside else "no"
        is_fetched = not beside.isdisjoint(("key", "source")) and not _FETCHING.isdisjoint(self.words)
        saves = _SPEAKS_OF_SAVING.search(described) is not None
        says_read = _IS_READ.search(described) or (not saves and _LIMITS.search(described))
        if words[0] == "local" and is_fetched and self.here and not self.looks:
            return "perhaps" if says_read else "yes"
        makes = makes or (not self.looks and not kinds.isdisjoint(_MAKING))
        if is_bare and is_required and self.gets and not saves and "source" not in beside:
            return "perhaps"
        if is_required and not makes:
            return "no" if is_filename else "perhaps"
        is_of_tool = (is_named and (self.looks or kinds.isdisjoint(_MAKING))) or not kinds.isdisjoint(_LOGS)
        is_input = described and not makes and (self.looks or not is_filename)
        is_read = not saves and ((self.reads and is_of_tool) or is_input)
        return "perhaps" if is_read or says_read else "yes"

    def _judge_value(self, words: list[str], value: object, stated: JSONObject) -> _Judgement:
        """The same for a name that speaks of writing, but can mean a format, fields or a place, too."""
        described = str(stated.get("description", ""))
        is_place = words[-1] in _PLACES
        given = map(str, value if isinstance(value, list) else [value])
        texts = [each for each in given if not _NO_FILE.fullmatch(each) and not (is_place and is_address(each))]
        is_file = _SURELY_FILE if is_place or len(words) > 1 else _FILE
        if any(is_file.search(each) and not (words[-1] == "into" and _BRANCH.fullmatch(each)) for each in texts):
            return "yes"
        if any(map(_HOLDS_FILE.search, texts)):
            return "yes"
        if not texts or is_place:
            return "perhaps" if texts else "no"
        if _NAMES_FILES.search(described):
            return "yes"
        may_be_field = words in (["output"], ["outputs"]) and (
            (isinstance(value, list) and len(value) > 1) or (self.reads and not described)
        )
        is_output = words[0] in _OUT and len(words) > 1 and words[-1] not in _NEVER_FIELDS
        may_be_field = may_be_field or (is_output and not self.makes)
        is_choice = _NAMES_FORMAT.search(described) or _NO_FILE.fullmatch(str(stated.get("default") or ""))
        return "perhaps" if may_be_field or is_choice else "yes"


def _split(name: str) -> list[str]:
    """Its words, also those of `outdir` and `savelocation`."""
    words: list[str] = []
    for word in words_of(name):
        found = _GLUED.fullmatch(word)
        words += [*found.groups()] if found and found[1] in _MADE_OR_WRITTEN else [word]
    return words


def _made(words: list[str]) -> set[str]:
    """What the words before the last say of a file that is made: `path_to_x` is none."""
    return {each for at, each in enumerate(words[:-1]) if each in _KINDS and (at == 0 or each not in ("to", "into"))}


def _is_output(name: str) -> bool:
    """Whether an argument names what is written, or could."""
    return names_path(name) and not _MADE_OR_WRITTEN.isdisjoint(_split(name))


def _is_source(name: str) -> bool:
    """Whether an argument names what is fetched: `url`, `remote_path`, `file_url`, but not `repo_url`."""
    words = words_of(name)
    return words[0] == "remote" or (words[-1] in _SOURCES and _OF_SOURCES.issuperset(words))


def _is_key(name: str) -> bool:
    """Whether an argument says what is fetched from elsewhere: `file_id`, `key`, `remote`."""
    return last_word(name) in ("id", "ids", "key", "remote", "object", "attachment")
