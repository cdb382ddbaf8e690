"""May this tool call run? Access levels, the user's rules, and the workspace.

The decision is made in code and never left to the model. `rule_files` reads the rules; `presets` has those for
well-known servers.
"""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.intent import only_reads_by_name
from lmstudio_bridge.messages import Access, Decision, JSONObject, ServerTool
from lmstudio_bridge.security.host_rules import HostRule, HostRules, is_within, pattern_of
from lmstudio_bridge.security.output_files import find_output, needs_output, reads_by_name
from lmstudio_bridge.security.sandbox import Sandbox
from lmstudio_bridge.security.workspace import TooDeepError, Workspace, find_paths, is_address, is_protected

Verb: TypeAlias = Literal["hide", "deny", "allow"]

_SHOWN_PATH = 200  # characters of a refused path
_MAX_ENDS = 64  # parts of a path in a container that are looked at
PRESET = "preset for "  # begins the source of a preset's rules
_STRICTEST_FIRST: tuple[Verb, ...] = ("hide", "deny", "allow")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `pattern` is a glob over `server/tool`, `source` the file or preset it comes from."""

    verb: Verb
    pattern: str
    source: str

    def __str__(self) -> str:
        return f'{self.verb} "{self.pattern}" ({self.source})'

    def fits_server(self, server: str) -> bool:
        """Whether it can apply to a tool of this server."""
        return any(_fits(each, server, exactly=self.verb == "allow") for each, _ in _splits(self.pattern))

    def names_server(self, server: str) -> bool:
        """Whether it is about this server alone, and not about all that a `*` fits."""
        names = (server.casefold(), glob.escape(server).casefold())
        return any(each.casefold() in names for each, _ in _splits(self.pattern))

    def matches(self, tool: ServerTool) -> bool:
        """Whether it applies to this tool.

        Rules that forbid ignore letter case. Rules that allow respect it, so that no look-alike is allowed.
        """
        return _matches(self.pattern, tool, exactly=self.verb == "allow")


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a run, the user's own first.

    `folders` are part of the workspace. `arguments` maps a pattern to the arguments that are paths, instead of those
    with the usual names; `more_arguments` to arguments that are paths in addition. `writing` are patterns of tools
    that write whatever their server says; `writing_if` maps such a pattern to an argument, and to what its text has in
    it if the call writes. `conditions` map a pattern to an argument and what its text must match
    for a call to count as reading, where a preset lets it run. `unbelieved` are servers whose marks do not count.
    `sandboxes` are what the user chose for servers, by name or `*`; None is no sandbox.
    """

    rules: tuple[Rule, ...] = ()
    folders: tuple[Path, ...] = ()
    arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)
    more_arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)
    writing: frozenset[str] = frozenset()
    writing_if: Mapping[str, tuple[str, re.Pattern[str]]] = field(default_factory=dict)
    conditions: Mapping[str, tuple[str, re.Pattern[str]]] = field(default_factory=dict)
    unbelieved: frozenset[str] = frozenset()
    sandboxes: Mapping[str, Sandbox | None] = field(default_factory=dict)

    def find(self, tool: ServerTool) -> Rule | None:
        """The rule that decides about a tool: hide wins over deny, deny over allow."""
        matching = [rule for rule in self.rules if rule.matches(tool)]
        return min(matching, key=lambda rule: _STRICTEST_FIRST.index(rule.verb), default=None)

    def find_unused(self, server: str, tools: Collection[ServerTool]) -> list[Rule]:
        """The rules that name this server and fit none of its tools."""
        return [
            rule
            for rule in self.rules
            if not rule.source.startswith(PRESET) and rule.names_server(server) and not any(map(rule.matches, tools))
        ]

    def path_arguments(self, tool: ServerTool) -> frozenset[str] | None:
        """The names of the tool's arguments that are paths; None to decide by the usual names."""
        named = [names for pattern, names in self.arguments.items() if _matches(pattern, tool, exactly=True)]
        return named[0] if named else None

    def more_path_arguments(self, tool: ServerTool) -> frozenset[str]:
        """The names of arguments that are paths in addition."""
        named = [names for pattern, names in self.more_arguments.items() if _matches(pattern, tool, exactly=False)]
        return frozenset().union(*named)

    def only_reads(self, tool: ServerTool, arguments: JSONObject | None = None) -> bool:
        """Whether its server or a preset says that the tool, or the call with these arguments, only reads."""
        if any(_matches(pattern, tool, exactly=False) for pattern in self.writing):
            return False
        writing = [each for pattern, each in self.writing_if.items() if _matches(pattern, tool, exactly=False)]
        if arguments is not None and any(form.search(_text(arguments.get(name, ""))) for name, form in writing):
            return False
        if tool.read_only and tool.server not in self.unbelieved:
            return True
        if not any(rule.source.startswith(PRESET) and rule.matches(tool) for rule in self.rules):
            return False
        needed = [each for pattern, each in self.conditions.items() if _matches(pattern, tool, exactly=True)]
        return arguments is None or all(form.fullmatch(_text(arguments.get(name, ""))) for name, form in needed)

    def __add__(self, other: Rules) -> Rules:
        """These rules, then the others."""
        return Rules(
            self.rules + other.rules,
            self.folders + other.folders,
            {**self.arguments, **{key: names for key, names in other.arguments.items() if key not in self.arguments}},
            {**other.more_arguments, **self.more_arguments},
            self.writing | other.writing,
            {**self.writing_if, **other.writing_if},
            {**self.conditions, **other.conditions},
            self.unbelieved | other.unbelieved,
            {**other.sandboxes, **self.sandboxes},
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read` access, only tools that their server marks as read-only may run, and those that a rule allows. A tool
    without the mark counts as writing, as in the MCP specification (`readOnlyHint` defaults to false), and so does a
    call whose arguments name a file to write: Playwright's read-only tools take a `filename`. `local` are
    the servers on this machine, each with its working folder: their paths must stay in the workspace. Of a server in a
    container the folder is None: its paths are not those of this machine, but it may have been given the workspace, so
    that protected files are off limits by their names. Where the `max_access` of all runs is `read`, a rule lets no
    tool run that writes (`writes`): the bridge then says of itself that it changes nothing.
    `host` are the rules of Claude Code, which hold in any case; where one would ask, a rule of the user's that allows
    the tool is the answer. `limit` are the tools of the subagent as whom the model works, as `is_within` reads them:
    the most that it may know about and use. `asks`: the person can be asked to approve what needs write access, so that
    the model may use all tools.
    """

    access: Access = "read"
    rules: Rules = field(default_factory=Rules)
    workspace: Workspace = field(default_factory=lambda: Workspace(()))
    local: Mapping[str, Path | None] = field(default_factory=dict)
    max_access: Access = "write"
    host: HostRules = field(default_factory=HostRules)
    limit: tuple[str, ...] = ()
    asks: bool = False

    def offers(self, tool: ServerTool) -> bool:
        """Whether the model may know about the tool."""
        rule = self.rules.find(tool)
        return is_within(tool, self.limit) and (rule is None or rule.verb != "hide")

    def check_call(self, tool: ServerTool, arguments: JSONObject) -> Decision:
        """The decision about one call of this tool."""
        if not is_within(tool, self.limit):
            return Decision("denied", f"the agent does not have {tool.server} {tool.name}.", "agent")
        rule = self.rules.find(tool)
        if rule is not None and rule.verb != "allow":
            return Decision("denied", f"the user's rules deny {tool.server} {tool.name}.", str(rule))
        if (of_host := self._host_rule(tool, rule)) is not None:
            return of_host.refuse_tool(tool)
        output = find_output(tool, arguments, here=tool.server in self.local)
        reads_otherwise = self.rules.only_reads(tool, arguments)
        reads = reads_otherwise and output is None
        if tool.server in self.local and (refusal := self._check_paths(tool, arguments, reads=reads)):
            return refusal
        counts = rule is not None and (reads or not rule.source.startswith(PRESET))
        if counts and (self.max_access == "write" or not self.writes(tool, arguments)):
            return Decision("allowed", rule=str(rule))
        if reads:
            return Decision("allowed", rule="readOnlyHint")
        if self.access == "write":
            return Decision("allowed", rule="access=write")
        remedy = ""
        if reads_otherwise and output is not None:
            remedy = f"If it writes no file there, allow it by a rule: {pattern_of(tool)}."
            why = f" writes a file if it is given {output[:_SHOWN_PATH]!r}"
        elif tool.doubted:
            why = " may change things: its server did not always mark it as reading"
        elif tool.read_only and tool.server in self.rules.unbelieved:
            why = " may change things: the mark of a project's server is not believed"
        elif counts:
            why = " may change things, which LMSTUDIO_BRIDGE_MAX_ACCESS=read rules out whatever a rule allows"
        else:
            why = " may change things"
        return Decision(
            "needs_write", f"{tool.server} {tool.name}{why}, and this run has read access only.", "access=read", remedy
        )

    def may_run(self, tool: ServerTool) -> bool:
        """Whether calls of this tool can be allowed at all, whatever their arguments."""
        rule = self.rules.find(tool)
        if self._host_rule(tool, rule) is not None or not is_within(tool, self.limit):
            return False
        if rule is not None:
            return rule.verb == "allow" and (self.max_access == "write" or not self.writes(tool))
        return (
            self.access == "write"
            or self.asks
            or (self.rules.only_reads(tool) and not needs_output(tool, here=tool.server in self.local))
        )

    def writes(self, tool: ServerTool, arguments: JSONObject | None = None) -> bool:
        """Whether its calls, or the one with these arguments, count as changing something, in what is told of a run.

        Not so for tools that their server or a preset marks as reading. Of the others, many servers mark none, so
        those whose name says that they only read do not count either.
        """
        if arguments and find_output(tool, arguments, here=tool.server in self.local) is not None:
            return True
        if any(_matches(pattern, tool, exactly=False) for pattern in self.rules.writing):
            return True
        return not (self.rules.only_reads(tool, arguments) or only_reads_by_name(tool.name))

    def places(self, tool: ServerTool, arguments: JSONObject) -> tuple[Path, ...]:
        """Where on disk the paths in the arguments can be; none for a server that is not on this machine."""
        base = self.local.get(tool.server)
        if base is None:
            return ()
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        paths = find_paths(arguments, names=names, more=more)
        return tuple(dict.fromkeys(place for path in paths for place in self.workspace.places(path, base=base)))

    def _host_rule(self, tool: ServerTool, rule: Rule | None) -> HostRule | None:
        """The rule of Claude Code that forbids the tool; `rule` is the user's or a preset's about it."""
        found = self.host.find_for_tool(tool)
        is_answer = rule is not None and rule.verb == "allow" and not rule.source.startswith(PRESET)
        return None if found is not None and found.verb == "ask" and is_answer else found

    def _host_places(self, path: str, base: Path | None) -> Iterator[Path]:
        """Where on this machine a path can be, for Claude Code's rules; nowhere if it is a page of the web."""
        if is_address(path) and path.casefold().startswith(("http:", "https:")):
            return
        if base is not None:
            yield from self.workspace.places(path, base=base)
            with suppress(ValueError):
                yield Path(os.path.abspath(base / path))
        else:  # of a container, which may have been given any folder of the workspace under any name
            parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
            ends = [parts[number:] for number in range(len(parts) + 1)][-_MAX_ENDS:]
            yield from (folder.joinpath(*end) for folder in self.workspace.folders for end in ends)

    def _check_paths(self, tool: ServerTool, arguments: JSONObject, *, reads: bool) -> Decision | None:
        """A refusal if a path in the arguments leaves the workspace, or is protected and the call may change it."""
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        # A mark is only a hint: Playwright's browser_snapshot has it, and writes files.
        is_known = self.rules.find(tool) is not None or (
            reads_by_name(tool) and find_output(tool, arguments, here=True, strict=True) is None
        )
        try:
            paths = dict.fromkeys(find_paths(arguments, names=names, more=more, by_value=True, reads=reads))
        except TooDeepError as exc:
            return Decision("denied", f"{exc}.", "workspace")
        base = self.local[tool.server]
        for path in paths:
            locations = [Path(path)] if base is None else self.workspace.locate(path, base=base)
            shown = path[:_SHOWN_PATH]
            if locations is None:
                reason = f"{shown!r} is outside of what this run may touch ({self.workspace})."
                return Decision("outside", reason, "workspace", _remedy(tool))
            if not (reads and is_known) and not is_address(path) and any(map(is_protected, locations)):
                reason = f"{shown!r} is a file that decides what programs may do, and only the user changes those."
                if reads:
                    reason += f" {tool.server} {tool.name} is marked as reading, but not known to read files."
                remedy = f"If it only reads, allow it by a rule: {pattern_of(tool)}." if reads else _remedy(tool)
                return Decision("denied", reason, "protected files", remedy if reads or base is None else "")
            if (rule := self.host.find_for_paths(self._host_places(path, base), reads=reads)) is not None:
                return rule.refuse_path(shown)
        return None


def _remedy(tool: ServerTool) -> str:
    return (
        f"{tool.server} {tool.name} was kept to the workspace. To change that in your lmstudio-bridge.toml, add the "
        f"folder to `folders` of [paths], or below [paths.arguments] name its arguments that are paths on this disk: "
        f"{pattern_of(tool)} = [] means none."
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _matches(pattern: str, tool: ServerTool, *, exactly: bool) -> bool:
    """Server and tool are compared separately; where names have a `/`, each `/` of the pattern may divide them."""
    return any(
        _fits(server, tool.server, exactly=exactly) and _fits(name, tool.name, exactly=exactly)
        for server, name in _splits(pattern)
    )


def _splits(pattern: str) -> list[tuple[str, str]]:
    return [(pattern[:at], pattern[at + 1 :]) for at, each in enumerate(pattern) if each == "/"]


def _fits(pattern: str, text: str, *, exactly: bool) -> bool:
    """As a glob, or as it is: a name can have a `[`. Unless `exactly`, letters count as they look."""
    if not exactly:
        pattern, text = (unicodedata.normalize("NFKC", each).casefold() for each in (pattern, text))
    return pattern == text or fnmatchcase(text, pattern)
