"""Claude Code's subagents for a run: the instructions of `.claude/agents/NAME.md`, and its tools as a limit.

Sources: code.claude.com/docs/en/sub-agents, and Claude Code 2.1.332: the project's files come before the user's. An
agent without `tools` has all, one with an empty `tools` none, and a file without valid frontmatter is no agent.
A project's file is somebody else's text: it can take tools away from a run, and give it none. What is not understood in
a file could be a limit, so that the file is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.security.host_rules import project_folders
from lmstudio_bridge.settings import Surroundings
from lmstudio_bridge.text import clean_text, one_line

if TYPE_CHECKING:
    from yaml import Node

MAX_INSTRUCTIONS = 20_000  # characters
_MAX_BYTES = 256 * 1024
_LISTED = 20  # agents, keys or tools that a message names
_DESCRIBING = frozenset({"name", "description", "color"})  # keys that say nothing about how it works
_MAX_FRONTMATTER = 20_000  # characters
_FRONTMATTER = re.compile(r"\s*^---[ \t]*\n(?P<head>.*?)^---[ \t]*(?:\n|\Z)(?P<body>.*)", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^([A-Za-z_-]+): +(?!\[.*\]$|\{.*\}$|[|>][-+\d]*$)([^\s\"'].*?)( #.*)?$", re.MULTILINE)
_NOT_PLAIN = re.compile(r"[\[\]{}*&#!|>%@`]|.*:(?: |$)")  # a value that YAML wants in quotes
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
# The keys that limit the tools, without - and _; and what stands before the patterns that follow from each.
_SPELLINGS = {"tools": "tools", "allowedtools": "tools", "disallowedtools": "disallowedtools"}
_LIMITS = {"tools": "", "disallowedtools": "!"}
_LIKE_A_LIMIT = re.compile(r"tool|allow|den(?:y|ied)|permissions")  # keys that Claude Code does not know
_BRACKETS = re.compile(r"\([^()]*\)")
_NARROWED = "\0"
_MCP_TOOL = re.compile(r"mcp__[A-Za-z0-9_*-]+|\*")
_OWN_TOOL = re.compile(r"(?!mcp)[A-Za-z][A-Za-z0-9_-]*", re.IGNORECASE)
_SHOWN_TOOL = re.compile(r"mcp__[\w-]{1,60}|[A-Za-z]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AgentFile:
    """A subagent as its file describes it.

    `tools` are the most that a run may be offered, as `is_within` of `security.host_rules` reads them; empty: no
    limit. `not_used` names what of the file a run cannot take over.
    """

    name: str
    path: Path
    instructions: str
    tools: tuple[str, ...] = ()
    not_used: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a reader of the answer should know."""
        left = f" Ignored in its file: {', '.join(self.not_used)}." if self.not_used else ""
        return f"The local model worked as the agent {self.name} ({one_line(str(self.path))}).{left}"


def find_agent(name: str, *, project: Path, environ: Mapping[str, str]) -> AgentFile:
    """The agent of that name, of the project or of a folder above it in the repository, or else of the user.

    Raises:
        BridgeError: There is none, or its file cannot be used.
    """
    around = Surroundings(project, environ)
    found = _files_in(around.claude_folder / "agents") if around.claude_folder else {}
    folders = project_folders(project)
    top = os.path.realpath(folders[-1])
    for folder in reversed(folders):  # the nearest wins
        files = _files_in(folder / ".claude" / "agents").items()
        # A link in a repository must not make a run read files from elsewhere.
        found |= {each: path for each, path in files if Path(os.path.realpath(path)).is_relative_to(top)}
    if (path := found.get(name)) is None:
        raise BridgeError(f"There is no agent {name!r}.", remedy=_advice(name, sorted(found)))
    try:
        text = read_bounded(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        raise BridgeError(f"The agent file {path} cannot be read: {exc}.", remedy="Correct the file.") from exc
    return _parse(name, path, text.replace("\r\n", "\n").replace("\r", "\n"))


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        return {path.stem: path for path in folder.glob("*.md")}
    except OSError:
        return {}


def _advice(name: str, known: list[str]) -> str:
    if not known:
        return "There are no agents in .claude/agents, neither the project's nor the user's. Leave out 'agent'."
    near = get_close_matches(name, known, n=1)
    first = [*near, *(each for each in known if each not in near)]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"The agents are: {', '.join(one_line(each) for each in first[:_LISTED])}{more}."


def _parse(name: str, path: Path, text: str) -> AgentFile:
    found = _FRONTMATTER.match(text)
    if found is None or len(found["head"]) > _MAX_FRONTMATTER:
        problem = "is too long" if found else "has no end" if text.lstrip().startswith("---") else "is missing"
        raise BridgeError(
            f"The frontmatter of the agent file {path} {problem}.",
            remedy="Begin the file with a line ---, settings such as 'tools: mcp__SERVER', and another line ---.",
        )
    instructions = clean_text(found["body"])[0].strip()
    if not 0 < len(instructions) <= MAX_INSTRUCTIONS:
        problem = f"more than {MAX_INSTRUCTIONS:,} characters of" if instructions else "no"
        raise BridgeError(f"The agent file {path} has {problem} instructions.", remedy="Correct the file.")
    try:
        fields = _fields("\n" * text.count("\n", 0, found.start("head")) + found["head"])
        tools, others = _tools(fields)
    except _NotUnderstoodError as exc:
        raise BridgeError(
            f"The agent file {path} cannot be used, because of line {exc.line}: {exc}.",
            remedy="Correct the file: what it allows is not clear.",
        ) from exc
    keys = [key for key in fields if key not in _DESCRIBING and key not in _LIMITS]
    if "tools" in fields and not tools:
        raise BridgeError(
            f"The agent {name} may use no MCP tool: none of the tools in {path} is one that a run has.",
            remedy="Add those for the local model, such as mcp__SERVER or mcp__SERVER__TOOL, or do it without 'agent'.",
        )
    return AgentFile(name, path, instructions, tools, (*keys[:_LISTED], *others))


class _NotUnderstoodError(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line + 1


def _fields(head: str) -> dict[str, Node]:
    """The top level of a frontmatter, with keys in lower case; those of `_LIMITS` in one spelling."""
    import yaml  # takes 60 ms, which only a run as an agent needs

    try:
        root = yaml.compose(head, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        try:  # as Claude Code does, since descriptions that are not valid YAML are common
            root = yaml.compose(_LINE.sub(_quoted, head.expandtabs(2)), yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as exc:
            mark = getattr(exc, "problem_mark", None)
            raise _NotUnderstoodError(mark.line if mark else 0, "it is not valid YAML") from exc
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _NotUnderstoodError(root.start_mark.line, "the frontmatter is not a table of keys and values")
    fields: dict[str, Node] = {}
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode) or not _KEY.fullmatch(key.value):
            raise _NotUnderstoodError(key.start_mark.line, "a key is not a plain name")
        name = _spelled(key.value)
        if name not in _LIMITS and _LIKE_A_LIMIT.search(name):
            raise _NotUnderstoodError(key.start_mark.line, "a key is not known, and could be a limit")
        if name in fields:
            raise _NotUnderstoodError(key.start_mark.line, f"there is more than one {name}")
        fields[name] = value
    return fields


def _quoted(line: re.Match[str]) -> str:
    key, value, _ = line.groups()
    may_quote = _spelled(key) not in _LIMITS or value.startswith("*")
    return f"{key}: {json.dumps(value)}" if may_quote and _NOT_PLAIN.match(value) else line[0]


def _spelled(key: str) -> str:
    name = key.casefold()
    return _SPELLINGS.get(re.sub("[-_]", "", name), name)


def _tools(fields: Mapping[str, Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The limit that follows from `tools` and `disallowedTools`, and what of them it does not have."""
    patterns: list[str] = []
    others: list[str] = []
    for key, sign in _LIMITS.items():
        left: list[str] = []
        for item, line in _items(fields[key]) if key in fields else () if sign else [("*", 0)]:
            name = item.removesuffix(_NARROWED)
            if _MCP_TOOL.fullmatch(name) and (sign or name == item):
                patterns.append(sign + ("mcp__*" if name == "*" else name.removesuffix("__")))
            elif sign and not _OWN_TOOL.fullmatch(name):
                raise _NotUnderstoodError(line, "an item of disallowedTools is not understood")
            elif shown := _SHOWN_TOOL.match(name):
                left.append(shown[0])
        if left:
            others.append(f"{'disallowedTools' if sign else key} {', '.join(list(dict.fromkeys(left))[:_LISTED])}")
    is_limited = patterns != ["mcp__*"] or "tools" in fields
    allows = any(not each.startswith("!") for each in patterns)
    return tuple(patterns) if is_limited and allows else (), tuple(others)


def _items(node: Node) -> Iterator[tuple[str, int]]:
    """The tools of a list or a text, each with its line; `_NARROWED` stands for what was in brackets after one."""
    for each in node.value if isinstance(node.value, list) else [node]:
        line = node.start_mark.line
        if isinstance(each, tuple) or not isinstance(each.value, str):  # a table, or a list in a list
            raise _NotUnderstoodError(line, "it is not a list of tools")
        text = "" if each.tag == "tag:yaml.org,2002:null" else each.value
        while (shorter := _BRACKETS.sub(_NARROWED, text)) != text:
            text = shorter
        if "(" in text or ")" in text:
            raise _NotUnderstoodError(line, "a bracket is missing")
        yield from ((item, line) for item in re.split(r"[,\s]+", text) if item)
