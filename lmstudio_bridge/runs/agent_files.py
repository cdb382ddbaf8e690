"""Claude Code's subagents for a run: the instructions of `.claude/agents/NAME.md`, and its tools as a limit.

Sources: code.claude.com/docs/en/sub-agents, and Claude Code 2.1.332: the project's files come before the user's.
A project's file is somebody else's text: it can take tools away from a run, and give it none.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.settings import Surroundings
from lmstudio_bridge.text import clean_text, one_line

MAX_INSTRUCTIONS = 20_000  # characters
_MAX_BYTES = 256 * 1024
_LISTED = 20  # agents, keys or tools that a message names
_DESCRIBING = frozenset({"name", "description", "color"})  # keys that say nothing about how it works
_FRONTMATTER = re.compile(r"---[ \t]*\n(?P<head>.*?)^---[ \t]*(?:\n|\Z)(?P<body>.*)", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"""["']?(?P<key>[A-Za-z][\w-]{0,39})["']?[ \t]*:(?:[ \t]+(?P<value>.*))?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_TOOL = re.compile(r"(?:\([^)]{0,200}\)|[^,\[\]{}\s])+")  # a comma or a blank in brackets belongs to the tool
_MCP_TOOL = re.compile(r"mcp__[A-Za-z0-9_*-]+")
_SHOWN_TOOL = re.compile(r"[A-Za-z]{1,40}")


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
        left = f" Not taken over from it: {', '.join(self.not_used)}." if self.not_used else ""
        return f"The local model worked as the agent {self.name} ({one_line(str(self.path))}).{left}"


def find_agent(name: str, *, project: Path, environ: Mapping[str, str]) -> AgentFile:
    """The agent of that name, of the project or else of the user.

    Raises:
        BridgeError: There is none, or its file cannot be used.
    """
    around = Surroundings(project, environ)
    mine = _files_in(around.claude_folder / "agents") if around.claude_folder else {}
    top = project.resolve()
    # A link in a repository must not make a run read files from elsewhere.
    of_project = {
        each: path
        for each, path in _files_in(project / ".claude" / "agents").items()
        if path.resolve().is_relative_to(top)
    }
    found = {**mine, **of_project}
    if (path := found.get(name)) is None:
        raise BridgeError(f"There is no agent {name!r}.", remedy=_advice(name, sorted(found)))
    try:
        text = read_bounded(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        raise BridgeError(f"The agent file {path} cannot be read: {exc}.", remedy="Correct the file.") from exc
    return _parse(name, path, text.replace("\r\n", "\n"))


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        return {path.stem: path for path in folder.glob("*.md")}
    except OSError:
        return {}


def _advice(name: str, known: list[str]) -> str:
    if not known:
        return "There are none: .claude/agents of the project and of the user have no NAME.md. Leave out 'agent'."
    near = get_close_matches(name, known, n=1)
    first = [*near, *(each for each in known if each not in near)]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"The agents are: {', '.join(one_line(each) for each in first[:_LISTED])}{more}."


def _parse(name: str, path: Path, text: str) -> AgentFile:
    found = _FRONTMATTER.match(text)
    if found is None and text.startswith("---"):
        raise BridgeError(f"The frontmatter of the agent file {path} has no end.", remedy="Add a line --- after it.")
    fields = _fields(found["head"]) if found else {}
    instructions = clean_text(found["body"] if found else text)[0].strip()
    if not 0 < len(instructions) <= MAX_INSTRUCTIONS:
        problem = f"more than {MAX_INSTRUCTIONS:,} characters of" if instructions else "no"
        raise BridgeError(f"The agent file {path} has {problem} instructions.", remedy="Correct the file.")
    tools, others = _tools(fields)
    keys = [key for key in fields if key not in _DESCRIBING and key not in ("tools", "disallowedtools")]
    if "tools" in fields and not tools:
        raise BridgeError(
            f"The agent {name} may use no MCP tool: the tools in {path} are Claude Code's own, which no run has.",
            remedy="Add those for the local model, such as mcp__SERVER or mcp__SERVER__TOOL, or do it without 'agent'.",
        )
    return AgentFile(name, path, instructions, tools, (*keys[:_LISTED], *others))


def _fields(head: str) -> dict[str, str]:
    """The top level of a frontmatter: keys in lower case, and the text of each with all its lines.

    Not by a YAML parser, because descriptions that are not valid YAML are common, and Claude Code takes them.
    """
    fields: dict[str, str] = {}
    key = ""
    for line in textwrap.dedent(head).splitlines():
        if found := _KEY.fullmatch(line):
            key = found["key"].casefold()
            fields[key] = found["value"] or ""
        elif key:
            fields[key] += f"\n{line}"
    return fields


def _tools(fields: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The limit that follows from `tools` and `disallowedTools`, and which of Claude Code's own tools they name."""
    given, denied = _listed(fields.get("tools", "*")), _listed(fields.get("disallowedtools", ""))
    allowed = [_pattern(each) for each in given if each == "*" or _MCP_TOOL.fullmatch(each)]
    refused = [f"!{_pattern(each)}" for each in denied if each == "*" or each.startswith("mcp__")]
    others = []
    for key, listed in (("tools", given), ("disallowedTools", denied)):
        own = [found[0] for each in listed if not each.startswith("mcp__") and (found := _SHOWN_TOOL.match(each))]
        if own:
            others.append(f"{key} {', '.join(list(dict.fromkeys(own))[:_LISTED])}")
    is_limited = allowed and ("tools" in fields or refused)
    return tuple(allowed + refused) if is_limited else (), tuple(others)


def _pattern(tool: str) -> str:
    """The tool without what stands in brackets after it; `*` is all."""
    return "mcp__*" if tool == "*" else tool.partition("(")[0]


def _listed(value: str) -> list[str]:
    """The items of a list in any of YAML's ways, or with commas as Claude Code writes it."""
    lines = (_COMMENT.sub("", line).strip().removeprefix("- ") for line in value.split("\n"))
    items = (each.strip().strip("\"'").strip() for line in lines for each in _TOOL.findall(line))
    return [each for each in items if each]
