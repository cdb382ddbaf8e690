"""The tools that each MCP server listed last, and what has changed since.

One small file per server, readable by its owner only. Its name is a digest of the server's name, where it is
configured, and how it is started or reached; secrets of `env` and `headers` are in neither the name nor the file.

A server may be approved with harmless tools and then change them. New descriptions, arguments and instructions are
reported, each once; a tool that was not marked as read-only before goes on to count as writing. What that takes is a
few bytes for each tool that was ever listed, and is kept however long the listing is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from calendar import day_abbr, day_name, month_abbr, month_name
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lmstudio_bridge.agent.schemas import SchemaWork, object_schema
from lmstudio_bridge.agent.tools import MAX_DESCRIPTION, definition_chars
from lmstudio_bridge.agent.untrusted import MAX_INSTRUCTIONS
from lmstudio_bridge.files import make_folder, read_bounded, write_file
from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_entry
from lmstudio_bridge.text import clean_text

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024 * 1024  # of one file; the tools of honest servers take a hundredth of it
MAX_HISTORY = 20_000  # tools that a server ever listed; read-only marks of further ones are not believed
MAX_FILES = 200  # the oldest are deleted first; an entry that was changed or removed leaves its file behind
MAX_DEPTH = 64  # levels of a schema that is stored
MAX_AGE = 30 * 24 * 3600.0  # seconds; after that the server has probably been updated
REFRESH = 24 * 3600.0  # seconds after which an unchanged listing is written again, so that it does not get old

_SHOWN_TOOLS = 8  # of each kind of change
_SHOWN_NAME = 60  # characters of a tool's name
_FORMAT = 2
_MAX_WORK = 20_000  # schemas looked at to compare the tools of a server; honest ones have some hundred
_SEEN = 32  # digests of what a tool once looked like
_ITEM = re.compile(r"[^\s,;|\"{}()\[\]]+")  # of a list in a default
_WORD = re.compile(r"\w+")
_BLANKS = re.compile(r"[^\S\n]+")
_QUOTED = re.compile(r"`[^`\n]*`|\"[^\"\n]*\"|(?<!\w)'[^'\n]*'(?!\w)")
_BRACKETS = re.compile(r"[{\[](?:[^{}\[\]()]++|\([^{}\[\]()]*+\))*+[}\]]")
_PARENTHESES = re.compile(r"\([^()]*\)")
_MAX_BRACKETS = 16  # levels
_SLASHES = re.compile(r"(?<![^\s,;|])\w++(?:(?:/|\s/\s)\w++)+(?![/\w]|\.\w)")  # csv/json, but no path
_LINES = re.compile(r"\s*\n\s*(?:[-*•+]\s+)?")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_SEPARATOR = re.compile(r"[,;|]\s*+(?:(?:and|or)\b\s*+)?|(?<!\s)\s++(?:and|or)\s++")
_TOKEN = re.compile(rf"({_SEPARATOR.pattern}|\n\s*(?:[-*•+]\s+)?)|\w+|[^\w\s]")
_LEADS = re.compile(r"\b(?:never|not|no|don|only|without|unless|except|avoid|cannot|first)\b", re.IGNORECASE)
_TAILS = re.compile(r"\b(?:never|not|no|cannot)\b", re.IGNORECASE)
"""Words that mean something else where another item is beside them: `Never delete files, ask`."""
_MAX_LEAD = 6  # words that the first items, or the last ones, of both lists may have in common
_MAX_CHANGED = 20  # lines
_GLUE = {ord(letter): 0xE000 + ord(letter) for letter in " \t\n,;|/:.(){}[]"}  # to what separates nothing
_MADE_UP = re.compile(r"(?=.*[\d/\\_-]|.*[a-z][A-Z]).{1,200}")  # by a program: paths, IDs, names such as happy-panda
_MAX_MADE_UP = 16
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")  # their keys are names of others
_MAX_WHOLE = 50_000  # characters of a tool of which all is compared: takes 50 ms
_ZONES = "UTC|GMT|BST|[ECMP][SD]T|[CEW]ES?T"
_DATES = "|".join(filter(None, (*month_name, *month_abbr, *day_name, *day_abbr, "AM", "PM", _ZONES)))
_UNIT = (
    r"(?:[kKMGT]?i?B|bytes?|ms|(?:milli)?s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?"
    r"|(?:week|month|year)s?)\b"
)
_AMOUNT = rf"(?:(?<![\w.,])\d[\d.,]*+|\b(?:an?|one)(?=\s))\s?{_UNIT}"
_AMOUNTS = rf"{_AMOUNT}(?:,?(?: and)? {_AMOUNT}){{0,3}}"
_PASSED = re.compile(
    rf"(\b(?i:up|uptime|running)\b:?(?: for| is)? ){_AMOUNTS}|{_AMOUNTS}(?= (?i:ago|left|remaining|free)\b)"
)
"""Amounts whose unit may change, too: `Up for 2 hours`, but not `up to 5 seconds`."""
_VARYING = re.compile(rf"(?<!\w)[^\W\d]*+\d(?:[\w.:+-]*\w)?|\b(?:{_DATES})\b")
"""Times, dates, counts and IDs: no change."""
_MEASURED = re.compile(rf"(\d[\d.]*)({_UNIT})")
_IN_WORDS = re.compile(rf"(?<![^\W\d_])(?!(?:[a-fA-F]+|{_DATES})(?![^\W\d_]))[^\W\d_]{{4}}")
"""What is no number, but a word: not so in hexadecimal digits and dates."""
_MAX_NUMBER = 72  # characters
_ZEROS = re.compile(  # 1 h 2 min; 1 note, 2 notes
    r"\b0(?:,?(?: and)? 0){1,3}\b|(?<=\b0 )(?P<noun>\w{2,}?)(?:ies|s|(?<![aeiou])y)?\b"
)

_MARKED = "Newly marked as read-only (they count as writing until one of your rules allows them)"
_UNMARKED = "No longer marked as read-only"
_DESCRIPTION = "Different description"
_ARGUMENTS = "Different arguments"
_ANNOTATIONS = "Different annotations"
_INSTRUCTIONS = "Different instructions for their use"
_NEW = "New"
_ORDER = (_MARKED, _UNMARKED, _DESCRIPTION, _ARGUMENTS, _ANNOTATIONS, _INSTRUCTIONS, _NEW)


class ToolHistory(BaseModel):
    """What is remembered of a tool for as long as the file exists.

    `unmarked` says that it was, or may have been, listed without a read-only mark at least once, `seen` has digests of
    what it looked like.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    unmarked: bool
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CachedTools:
    """The tools of one server; None if they were too large to be stored. `listed_at` is seconds since the epoch.

    `read_only` of a tool is what the server said, even if the tool is `doubted`. `history` has every tool that was
    ever listed, by `tool_key`; unless `complete`, there were more than are kept. `instructions` are what the server
    said last about their use, `seen` has digests of what it ever said.
    """

    tools: tuple[ServerTool, ...] | None
    history: Mapping[str, ToolHistory] = field(default_factory=dict)
    complete: bool = True
    listed_at: float = 0.0
    instructions: str = ""
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedTools:
    """The tools as they count in a run, and warnings about their changes."""

    tools: tuple[ServerTool, ...]
    warnings: tuple[str, ...] = ()


class UnreadableCacheError(Exception):
    """The file of a server cannot be used; the text says why."""


class ToolCache:
    """The files in `folder`.

    `values` and `tokens` are secrets that no file may hold, besides those of each entry; `tokens` may become more.
    """

    def __init__(
        self,
        folder: Path,
        *,
        values: Iterable[str] = (),
        tokens: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._values = tuple(values)
        self._tokens = tokens
        self._clock = clock

    def path(self, config: ServerConfig) -> Path:
        """The file of this server, whether or not it exists."""
        how = [config.command, *config.args] if config.transport == "stdio" else [config.url]
        identity = [_FORMAT, config.name, config.scope, str(config.source), config.transport, *how]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        """The enabled tools that a server listed within the last 30 days; None if there is no such listing."""
        try:
            cached = self.read(config)
        except UnreadableCacheError:
            return None
        if cached is None or cached.tools is None or not 0 <= self._clock() - cached.listed_at < MAX_AGE:
            return None
        return tuple(tool for tool in cached.tools if config.has_tool(tool.name))

    def check(self, config: ServerConfig, tools: Sequence[ServerTool], *, instructions: str = "") -> CheckedTools:
        """Compare the tools and instructions of a server with what it listed and said before, and store them."""
        too_large = sum(map(definition_chars, tools)) > MAX_BYTES
        # Of such tools only digests are stored. To redact them could take a minute.
        now = tuple(tools) if too_large else self.storable(config, tools)
        warnings: list[str] = []
        before, known = None, CachedTools(None)
        try:
            before = self.read(config)
        except UnreadableCacheError as exc:
            known = CachedTools(None, complete=False)
            warnings.append(
                f"The last listing of MCP server '{config.name}' cannot be read, "
                "so changes of its tools go unnoticed, and their read-only marks are not believed until one of your "
                f"rules allows them: {exc}"
            )
        known = before or known
        history, changes = _compare(known, dict(zip(map(tool_key, tools), now, strict=True)))
        [said] = self.storable(config, [ServerTool(config.name, "", instructions)])
        seen, is_changed = _compare_instructions(known, said)
        changes = {**changes, **({_INSTRUCTIONS: ()} if is_changed else {})}
        complete = known.complete and len(history) <= MAX_HISTORY
        history = dict(islice(history.items(), MAX_HISTORY))
        if before is not None:
            warnings += _warnings(config.name, changes)
        doubts = [_is_doubted(tool, known, history) for tool in tools]
        stored = tuple(replace(tool, doubted=doubt) for tool, doubt in zip(now, doubts, strict=True))
        cached = CachedTools(None if too_large else stored, history, complete, instructions=said.description, seen=seen)
        fresh = 0 <= self._clock() - known.listed_at < REFRESH
        if (not fresh or cached != replace(known, listed_at=0.0)) and (problem := self.write(config, cached)):
            doubts = [_is_doubted(tool, known, known.history) for tool in tools]
            if any(doubts):
                warnings.append(
                    f"What MCP server '{config.name}' lists could not be recorded, "
                    f"so new read-only marks of its tools do not count: {problem}"
                )
        checked = tuple(
            replace(tool, read_only=False, doubted=True) if doubt else tool
            for tool, doubt in zip(tools, doubts, strict=True)
        )
        return CheckedTools(checked, tuple(warnings))

    def read(self, config: ServerConfig) -> CachedTools | None:
        """The stored tools of a server; None if there is no file.

        Raises:
            UnreadableCacheError: the file is damaged, or not one of ours.
        """
        path = self.path(config)
        try:
            stored = _Stored.model_validate_json(read_bounded(path, max_bytes=MAX_BYTES, follow_links=False))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            why = str(exc) if isinstance(exc, OSError) else "it is damaged, or not one of ours"
            logger.warning("the tool cache of MCP server %s in %s cannot be read: %s", config.name, path, why)
            raise UnreadableCacheError(f"{path}: {why}") from exc
        tools = (
            None
            if stored.tools is None
            else tuple(ServerTool(config.name, **tool.model_dump()) for tool in stored.tools)
        )
        return CachedTools(tools, stored.history, stored.complete, stored.listed_at, stored.instructions, stored.seen)

    def storable(self, config: ServerConfig, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """The tools as a file would give them back: without secrets, and without what JSON cannot express."""
        own = secrets_of_entry(
            env=config.env, headers=config.headers, url=config.url, arguments=(config.command, *config.args)
        )
        redactor = Redactor([*self._values, *self._tokens, *own])
        return tuple(
            replace(
                tool,
                name=_plain_text(tool.name, redactor),
                title=_plain_text(tool.title, redactor),
                description=_plain_text(tool.description, redactor),
                input_schema=_plain_schema(tool, redactor),
            )
            for tool in tools
        )

    def write(self, config: ServerConfig, cached: CachedTools) -> str:
        """Replace the file of a server; `cached` must be `storable`. Returns why it could not be written, or "".

        If the file would be too large, the tools are left out, then what they looked like.
        """
        marks = {key: ToolHistory(unmarked=each.unmarked) for key, each in cached.history.items()}
        for part in (cached, replace(cached, tools=None), replace(cached, tools=None, history=marks)):
            data = self._encode(config, part)
            if len(data) <= MAX_BYTES:
                break
        path = self.path(config)
        try:
            make_folder(self._folder)
            if not path.exists():
                self._delete_oldest()
            write_file(path, data)
        except OSError as exc:
            logger.warning("the tool cache of MCP server %s cannot be written: %s", config.name, exc)
            return str(exc)
        return ""

    def _encode(self, config: ServerConfig, cached: CachedTools) -> bytes:
        tools = None if cached.tools is None else [asdict(tool) for tool in cached.tools]
        for tool in tools or ():
            del tool["server"]
        stored = {
            "version": _FORMAT,
            "server": _plain_text(config.name, Redactor(())),
            "listed_at": self._clock(),
            "complete": cached.complete,
            "instructions": cached.instructions,
            "seen": cached.seen,
            "history": {key: each.model_dump() for key, each in cached.history.items()},
            "tools": tools,
        }
        return json.dumps(stored).encode()

    def _delete_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)
        for path in files[: max(0, len(files) - MAX_FILES + 1)]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Shown:
    """The tools that the model may know, and how many are left out because their names hold a secret."""

    tools: tuple[ServerTool, ...] = ()
    left_out: int = 0


def shown_tools(tools: Iterable[ServerTool], redactor: Redactor) -> Shown:
    """The tools without secrets. Those named by one are left out: the model would write the name."""
    tools = tuple(tools)
    named = [tool for tool in tools if redactor.redact(tool.name) == tool.name]
    shown = [
        replace(
            tool,
            title=redactor.redact(tool.title),
            description=redactor.redact(tool.description),
            input_schema=redactor.redact_fields(tool.input_schema),
        )
        for tool in named
    ]
    return Shown(tuple(shown), len(tools) - len(named))


class _StoredTool(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool | None
    hints: dict[str, bool]
    doubted: bool


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Literal[2]
    server: str  # for human readers
    listed_at: float
    complete: bool
    instructions: str = ""
    seen: tuple[str, ...] = ()
    history: dict[str, ToolHistory]
    tools: list[_StoredTool] | None


class _TooDeepError(Exception):
    """A schema has more levels than are stored."""


def _plain_text(text: str, redactor: Redactor) -> str:
    return redactor.redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _plain_schema(tool: ServerTool, redactor: Redactor) -> dict[str, Any]:
    """The schema, or a placeholder if it is nested too deeply: all of those look the same."""
    try:
        plain: dict[str, Any] = _plain_value(dict(tool.input_schema), redactor, MAX_DEPTH)
    except _TooDeepError:
        return {"type": "object", "properties": {}, "description": f"more than {MAX_DEPTH} levels"}
    return plain


def _plain_value(value: Any, redactor: Redactor, levels: int) -> Any:
    if not levels:
        raise _TooDeepError
    match value:
        case str():
            return _plain_text(value, redactor)
        case dict():
            return {
                _plain_text(str(key), redactor): _plain_value(each, redactor, levels - 1) for key, each in value.items()
            }
        case list() | tuple():
            return [_plain_value(each, redactor, levels - 1) for each in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value


def tool_key(tool: ServerTool) -> str:
    """What stands for a tool in the history: of the same length for every name."""
    return _digest(tool.name)


def _is_doubted(tool: ServerTool, known: CachedTools, history: Mapping[str, ToolHistory]) -> bool:
    """Whether a read-only mark is not believed; only a user's rule lifts that.

    `known` says whether the tool was ever listed without it, `history` whether it is on record from now on.
    """
    if tool.read_only is not True:
        return False
    key = tool_key(tool)
    past = known.history.get(key)
    return past.unmarked if past is not None else not known.complete or key not in history


def _compare(
    known: CachedTools, now: Mapping[str, ServerTool]
) -> tuple[dict[str, ToolHistory], Mapping[str, Sequence[str]]]:
    """The history with the tools as they are now, and the names of the tools for each kind of change."""
    history = dict(known.history)
    changes: dict[str, list[str]] = {}
    work = SchemaWork(_MAX_WORK)
    last = {tool_key(tool): tool for tool in known.tools or ()}
    for key, tool in now.items():
        past = history.get(key)
        looks = _looks(tool, past, last.get(key), work)
        kinds = [_NEW] if past is None else _kinds(past, tool, looks)
        for kind in kinds:
            changes.setdefault(kind, []).append(tool.name)
        current = list(dict.fromkeys(look for each in looks.values() for look in each))
        seen = [look for look in past.seen if look not in current] if past else []
        history[key] = ToolHistory(
            unmarked=tool.read_only is not True or (not known.complete if past is None else past.unmarked),
            seen=(*seen, *current)[-_SEEN:],
        )
    return history, changes


def _compare_instructions(known: CachedTools, said: ServerTool) -> tuple[tuple[str, ...], bool]:
    """The digests with that of the instructions as they are now, and whether those are new: as a tool's description."""
    key = tool_key(said)
    past = {key: ToolHistory(unmarked=True, seen=known.seen)} if known.seen else {}
    history, changes = _compare(CachedTools((replace(said, description=known.instructions),), past), {key: said})
    return history[key].seen, _DESCRIPTION in changes


def _looks(
    tool: ServerTool, past: ToolHistory | None, last: ServerTool | None, work: SchemaWork
) -> Mapping[str, Sequence[str]]:
    """For each kind of change, digests that must all be new for it.

    The first is of what the model is shown. If that is new, the second is of all that the server says without the IDs
    that have changed; or it is the last one again, if only the order of a list is new. Such a list may be cut for the
    model, so all of it is compared.
    """
    shown = _unordered(object_schema(tool.input_schema, work=work).parameters) if work.left > 0 else tool.input_schema
    looks = {
        _DESCRIPTION: ["F" + _digest(_description(tool))],
        _ARGUMENTS: ["C" + _digest(json.dumps(shown, sort_keys=True))],
        _ANNOTATIONS: ["h" + _digest(json.dumps(dict(tool.hints), sort_keys=True))],
        _MARKED if tool.read_only is True else _UNMARKED: ["m1" if tool.read_only is True else "m0"],
    }
    if last is None or definition_chars(tool) > _MAX_WHOLE:
        return looks
    for kind, parts in (
        (_DESCRIPTION, [{"title": each.title, "description": each.description} for each in (tool, last)]),
        (_ARGUMENTS, [each.input_schema for each in (tool, last)]),
    ):
        if past and looks[kind][0] not in past.seen:
            rest = _without_made_up(*(json.dumps(_unordered(part), sort_keys=True) for part in parts))
            looks[kind] += [looks[kind][0][0] + _digest(rest)] if rest else []
            looks[kind] += [look for look in past.seen if look[0] == looks[kind][0][0]] if _same(*parts) else []
    return looks


def _kinds(past: ToolHistory, tool: ServerTool, looks: Mapping[str, Sequence[str]]) -> list[str]:
    """What has changed about a tool since it was listed before; nothing that it has been before."""
    if not past.seen:  # the file was too large for it
        return [_MARKED] if tool.read_only is True and past.unmarked else []
    compared = {look[0] for look in past.seen}  # earlier versions made other digests
    return [kind for kind, each in looks.items() if each[0][0] in compared and not set(each) & set(past.seen)]


def _description(tool: ServerTool) -> str:
    text = clean_text(tool.description)[0]
    shown = text[:MAX_DESCRIPTION] if tool.name else text.strip()[:MAX_INSTRUCTIONS]  # which are of no tool
    return f"{_unordered_text(tool.title)}\n{_unordered_text(shown)}"


def _without_made_up(text: str, before: str) -> str:
    """The text without the words that changed, if only a few did and all look as if a program made them up; or ""."""
    words, old = (each.replace("\\n", " ").split() for each in (text, before))  # a line break is two letters in JSON
    changed = [number for number, pair in enumerate(zip(words, old, strict=False)) if len(set(pair)) > 1]
    if (
        len(words) != len(old)
        or not 0 < len(changed) <= _MAX_MADE_UP
        or not all(_MADE_UP.fullmatch(each[number]) for number in changed for each in (words, old))
    ):
        return ""
    return " ".join("" if number in changed else word for number, word in enumerate(words))


def _unordered(schema: Any) -> Any:
    """The schema without the order of what may come from a Python set, and without times and IDs."""
    match schema:
        case dict():
            return {key: _unordered_value(key, value) for key, value in schema.items()}
        case list():
            return sorted(map(_unordered, schema), key=lambda each: json.dumps(each, sort_keys=True))
        case _:
            return schema


def _unordered_value(key: str, value: Any) -> Any:
    match key, value:
        case "description" | "title", str():
            return _unordered_text(value)
        case "default", _:
            text = _without_numbers(json.dumps(value).replace("\\n", " "))
            return sorted(filter(None, (item.strip(".:'") for item in _ITEM.findall(text))))
        case _, dict() if key in _BY_NAME:
            return {name: _unordered(each) for name, each in value.items()}
        case _:
            return _unordered(value)


def _unordered_text(text: str) -> str:
    """The text with its lines in one order, and what is in brackets and between slashes."""
    text = _ZEROS.sub(lambda found: found["noun"] or "0", _without_numbers(_BLANKS.sub(" ", text)))
    text = _QUOTED.sub(lambda found: found[0].translate(_GLUE), text)
    for _ in range(_MAX_BRACKETS):
        text, count = _BRACKETS.subn(_sorted_brackets, text)
        if not count:
            break
    return "\n".join(sorted(_LINES.split(_SLASHES.sub(lambda found: _glued(found[0].split("/")), text))))


def _without_numbers(text: str) -> str:
    """The text with zeros in their place, and with their units; but for amounts that change while a server runs."""
    return _VARYING.sub(_zero, _PASSED.sub(lambda found: f"{found[1] or ''}0", text))


def _zero(found: re.Match[str]) -> str:
    number = found[0]
    if measured := _MEASURED.fullmatch(number):
        return f"0 {measured[2]}"
    return number if len(number) > _MAX_NUMBER or _IN_WORDS.search(number) else "0"


def _sorted_brackets(found: re.Match[str]) -> str:
    inner = _PARENTHESES.sub(lambda each: each[0].translate(_GLUE), found[0][1:-1])
    return _glued(_SEPARATOR.split(inner.replace("\n", ",")))


def _glued(items: Iterable[str]) -> str:
    return " ".join(sorted(filter(None, (item.strip() for item in items)))).translate(_GLUE)


def _same(one: Any, other: Any, key: str = "") -> bool:
    """Whether two schemas differ at most in the order of what may come from a set; words stay in their items."""
    match one, other:
        case str(), str() if key in ("description", "title"):
            return _is_reordered(_unordered_text(one), _unordered_text(other))
        case dict(), dict():
            return one.keys() == other.keys() and all(
                _same(value, other[name], "" if key in _BY_NAME else name) for name, value in one.items()
            )
        case list(), list():
            return _unordered(one) == _unordered(other) or (len(one) == len(other) and all(map(_same, one, other)))
        case _:
            return bool(_unordered_value(key, one) == _unordered_value(key, other))


def _is_reordered(one: str, other: str, splits: Sequence[re.Pattern[str]] = (_LINES, _SENTENCES)) -> bool:
    """Whether one text has the same lists as the other, perhaps in another order."""
    if one == other or _is_permuted(one, other):
        return True
    if not splits:
        return False
    old, new = Counter(splits[0].split(one)), Counter(splits[0].split(other))
    left, right = list((old - new).elements()), list((new - old).elements())
    if len(left) != len(right) or len(left) > _MAX_CHANGED:
        return False
    for part in left:
        partner = next((each for each in right if _is_reordered(part, each, splits[1:])), None)
        if partner is None:
            return False
        right.remove(partner)
    return True


def _is_permuted(one: str, other: str) -> bool:
    """Whether the texts are equal but for the order of the items of one list."""
    old, new = _tokens(one), _tokens(other)
    if old == new:
        return True  # but for white space
    if Counter(old) != Counter(new):
        return False
    start = next(number for number, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
    end = next(number for number, pair in enumerate(zip(old[::-1], new[::-1], strict=True)) if pair[0] != pair[1])
    for begin in range(start, max(start - _MAX_LEAD, 0) - 1, -1):
        for rest in range(end, max(end - _MAX_LEAD, 0) - 1, -1):
            stop = len(old) - rest
            if sorted(_items(old[begin:stop])) == sorted(_items(new[begin:stop])):
                lead = " ".join(_items(old[:begin])[-1]).rpartition(":")[2]
                tail = " ".join(_items(old[stop:])[0])
                return not (_LEADS.search(lead) or _TAILS.search(tail))
    return False


def _tokens(text: str) -> list[str]:
    return ["," if found[1] else found[0] for found in _TOKEN.finditer(text)]


def _items(tokens: Iterable[str]) -> list[list[str]]:
    items: list[list[str]] = [[]]
    for token in tokens:
        if token == ",":
            items.append([])
        else:
            items[-1].append(token)
    return items


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _warnings(server: str, changes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not changes:
        return ()
    told = [
        f"{kind}: {_names(names)}." if (names := changes[kind]) else f"{kind}." for kind in _ORDER if kind in changes
    ]
    advice = "" if set(changes) == {_NEW} else " Check whether you still trust it."
    return (f"The tools of MCP server '{server}' have changed. {' '.join(told)}{advice}",)


def _names(names: Sequence[str]) -> str:
    """Names for a reader, quoted: a server chooses them, so they must not look like our own text."""
    shown = ["".join(letter for letter in name if letter.isprintable())[:_SHOWN_NAME] for name in names[:_SHOWN_TOOLS]]
    more = f" and {len(names) - _SHOWN_TOOLS} more" if len(names) > _SHOWN_TOOLS else ""
    return f"{', '.join(map(repr, shown))}{more}"
