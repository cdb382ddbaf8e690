"""May this tool call run? Access levels, the user's rules, the workspace, and presets for well-known servers.

The decision is made in code and never left to the model. `rule_files` reads the rules. A well-known server is
recognized by the package that its entry starts, not by its name, which anyone can choose.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.intent import only_reads_by_name
from lmstudio_bridge.messages import Access, Decision, JSONObject, ServerConfig, ServerTool
from lmstudio_bridge.security.workspace import TooDeepError, Workspace, find_paths, is_protected

Verb: TypeAlias = Literal["hide", "deny", "allow"]

_SHOWN_PATH = 200  # characters of a refused path
_PRESET = "preset for "  # begins the source of a preset's rules
_STRICTEST_FIRST: tuple[Verb, ...] = ("hide", "deny", "allow")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `pattern` is a glob over `server/tool`, `source` the file or preset it comes from."""

    verb: Verb
    pattern: str
    source: str

    def __str__(self) -> str:
        return f'{self.verb} "{self.pattern}" ({self.source})'

    def matches(self, tool: ServerTool) -> bool:
        """Whether it applies to this tool.

        Rules that forbid ignore letter case. Rules that allow respect it, so that no look-alike is allowed.
        """
        return _matches(self.pattern, tool, exactly=self.verb == "allow")


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a run, the user's own first.

    `folders` are part of the workspace. `arguments` maps a pattern to the arguments that are paths, instead of those
    with the usual names; `more_arguments` to arguments that are paths in addition.
    """

    rules: tuple[Rule, ...] = ()
    folders: tuple[Path, ...] = ()
    arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)
    more_arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def find(self, tool: ServerTool) -> Rule | None:
        """The rule that decides about a tool: hide wins over deny, deny over allow."""
        matching = [rule for rule in self.rules if rule.matches(tool)]
        return min(matching, key=lambda rule: _STRICTEST_FIRST.index(rule.verb), default=None)

    def path_arguments(self, tool: ServerTool) -> frozenset[str] | None:
        """The names of the tool's arguments that are paths; None to decide by the usual names."""
        named = [names for pattern, names in self.arguments.items() if _matches(pattern, tool, exactly=True)]
        return named[0] if named else None

    def more_path_arguments(self, tool: ServerTool) -> frozenset[str]:
        """The names of arguments that are paths in addition."""
        named = [names for pattern, names in self.more_arguments.items() if _matches(pattern, tool, exactly=False)]
        return frozenset().union(*named)

    def __add__(self, other: Rules) -> Rules:
        """These rules, then the others."""
        return Rules(
            self.rules + other.rules,
            self.folders + other.folders,
            {**self.arguments, **{key: names for key, names in other.arguments.items() if key not in self.arguments}},
            {**other.more_arguments, **self.more_arguments},
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read` access, only tools that their server marks as read-only may run, and those that a rule allows. A tool
    without the mark counts as writing, as in the MCP specification (`readOnlyHint` defaults to false). `local` are
    the servers on this machine, each with its working folder: their paths must stay in the workspace.
    """

    access: Access = "read"
    rules: Rules = field(default_factory=Rules)
    workspace: Workspace = field(default_factory=lambda: Workspace(()))
    local: Mapping[str, Path] = field(default_factory=dict)

    def offers(self, tool: ServerTool) -> bool:
        """Whether the model may know about the tool."""
        rule = self.rules.find(tool)
        return rule is None or rule.verb != "hide"

    def check_call(self, tool: ServerTool, arguments: JSONObject) -> Decision:
        """The decision about one call of this tool."""
        rule = self.rules.find(tool)
        if rule is not None and rule.verb != "allow":
            return Decision("denied", f"the user's rules deny {tool.server} {tool.name}.", str(rule))
        if tool.server in self.local and (refusal := self._check_paths(tool, arguments)):
            return refusal
        if rule is not None:
            return Decision("allowed", rule=str(rule))
        if tool.read_only:
            return Decision("allowed", rule="readOnlyHint")
        if self.access == "write":
            return Decision("allowed", rule="access=write")
        doubt = ": its server did not always mark it as reading" if tool.doubted else ""
        return Decision(
            "needs_write",
            f"{tool.server} {tool.name} may change things{doubt}, and this run has read access only.",
            "access=read",
        )

    def may_run(self, tool: ServerTool) -> bool:
        """Whether calls of this tool can be allowed at all, whatever their arguments."""
        rule = self.rules.find(tool)
        if rule is not None:
            return rule.verb == "allow"
        return bool(tool.read_only) or self.access == "write"

    def writes(self, tool: ServerTool) -> bool:
        """Whether its calls count as changing something, in what is told of a run.

        Not so for tools that their server or a preset marks as reading. Of the others, many servers mark none, so
        those whose name says that they only read do not count either.
        """
        if tool.read_only or only_reads_by_name(tool.name):
            return False
        return not any(rule.source.startswith(_PRESET) and rule.matches(tool) for rule in self.rules.rules)

    def places(self, tool: ServerTool, arguments: JSONObject) -> tuple[Path, ...]:
        """Where on disk the paths in the arguments can be; none for a server that is not on this machine."""
        base = self.local.get(tool.server)
        if base is None:
            return ()
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        paths = find_paths(arguments, names=names, more=more)
        return tuple(dict.fromkeys(place for path in paths for place in self.workspace.places(path, base=base)))

    def _check_paths(self, tool: ServerTool, arguments: JSONObject) -> Decision | None:
        """A refusal if a path in the arguments leaves the workspace, or is protected from changes."""
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        try:
            paths = list(find_paths(arguments, names=names, more=more))
        except TooDeepError as exc:
            return Decision("denied", f"{exc}.", "workspace")
        for path in paths:
            locations = self.workspace.locate(path, base=self.local[tool.server])
            shown = path[:_SHOWN_PATH]
            if locations is None:
                reason = f"{shown!r} is outside of what this run may touch ({self.workspace})."
                return Decision("outside", reason, "workspace")
            if not tool.read_only and any(map(is_protected, locations)):
                reason = f"{shown!r} is a file that decides what programs may do, and only the user changes those."
                return Decision("denied", reason, "protected files")
        return None


def _matches(pattern: str, tool: ServerTool, *, exactly: bool) -> bool:
    """Server and tool are compared separately, so that a `/` in a name cannot shift them."""
    server, _, name = pattern.partition("/")
    if exactly:
        return fnmatchcase(tool.server, server) and fnmatchcase(tool.name, name)
    return fnmatchcase(tool.server.casefold(), server.casefold()) and fnmatchcase(tool.name.casefold(), name.casefold())


@dataclass(frozen=True, slots=True)
class Preset:
    """One well-known server; `reason` explains the preset.

    `reads` are tools that may run with read access. `paths` maps a glob over the server's tools to the arguments that
    are paths, instead of those with the usual names. Each run starts a `fresh` server for itself.
    """

    reason: str
    reads: tuple[str, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fresh: bool = False


_BROWSER = "its open page belongs to one run, and no other run must click in it"

PRESETS: Mapping[str, Preset] = {
    "@modelcontextprotocol/server-filesystem": Preset(
        "versions before 2025.11 mark no tool",
        reads=(
            "read_file",
            "read_text_file",
            "read_media_file",
            "read_multiple_files",
            "list_directory",
            "list_directory_with_sizes",
            "directory_tree",
            "search_files",
            "get_file_info",
            "list_allowed_directories",
        ),
    ),
    "@modelcontextprotocol/server-memory": Preset(
        "versions before 2025.11 mark no tool; the user configures its only file, so no argument is a path",
        reads=("read_graph", "search_nodes", "open_nodes"),
        paths={"*": ()},
    ),
    "@modelcontextprotocol/server-sequential-thinking": Preset(
        "it keeps thoughts in memory and touches nothing else", reads=("sequentialthinking",), paths={"*": ()}
    ),
    "@modelcontextprotocol/server-github": Preset(
        "its paths are in repositories on GitHub, not on this machine", paths={"*": ()}
    ),
    "mcp-server-git": Preset(
        "these pass nothing to git that it could read as options; in older versions git_diff and git_log write files",
        reads=("git_status", "git_diff_unstaged", "git_diff_staged"),
        paths={"*": ("repo_path", "files")},
    ),
    "mcp-server-time": Preset("it only tells the time", reads=("get_current_time", "convert_time"), paths={"*": ()}),
    "mcp-server-fetch": Preset(
        "its URLs are not paths; its tool is not listed as reading, because a URL can carry away what was read",
        paths={"*": ()},
    ),
    "@playwright/mcp": Preset(_BROWSER, fresh=True),
    "chrome-devtools-mcp": Preset(_BROWSER, fresh=True),
    "@modelcontextprotocol/server-puppeteer": Preset(_BROWSER, fresh=True),
}


def preset_rules(configs: Iterable[ServerConfig]) -> Rules:
    """The rules for the well-known ones among these servers."""
    rules = Rules()
    for config in configs:
        package = _package_of(config)
        if package is None:
            continue
        preset, name = PRESETS[package], glob.escape(config.name)
        rules += Rules(
            tuple(Rule("allow", f"{name}/{tool}", f"{_PRESET}{package}") for tool in preset.reads),
            arguments={f"{name}/{tools}": frozenset(names) for tools, names in preset.paths.items()},
        )
    return rules


def is_fresh(config: ServerConfig, *, named: Collection[str] | None) -> bool:
    """Whether each run starts this server for itself: if the user named it or, by default, if its preset says so."""
    if named is not None:
        return config.name in named or "*" in named
    package = _package_of(config)
    return package is not None and PRESETS[package].fresh


def _package_of(config: ServerConfig) -> str | None:
    return next((package for package in PRESETS if _starts(config, package)), None)


def _starts(config: ServerConfig, package: str) -> bool:
    """Whether the entry starts that package: by name, with a version, or by a path into an installed one.

    A folder of the same name, such as a checkout that the server works in, does not count.
    """
    if config.transport != "stdio" or not any(package in word for word in (config.command, *config.args)):
        return False  # the common case
    name = re.escape(package)
    installed = rf"(?:.*[/\\])?node_modules[/\\]{name}(?:[/\\].*)?"
    words = re.compile(rf"(?:--?[\w-]+=)?{name}(?:[@=].*)?|{installed}", re.DOTALL)
    command = re.compile(rf"(?:.*[/\\])?{name}(?:\.\w+)?|{installed}", re.DOTALL)
    return bool(command.fullmatch(config.command)) or any(map(words.fullmatch, config.args))
