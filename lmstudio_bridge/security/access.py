"""The user's rules for tools: which may run, which may not, which are not even offered; and what their paths are.

Values and matching only. Where rules are written down is the business of `rule_files`.

May this call run? A decision with its reason; code, never the model's good sense.

What is known of well-known MCP servers: tools that only read, arguments that are paths, state that is one run's.

A server is known by the package that its entry starts, not by its name, which anyone can choose.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.messages import Access, Decision, JSONObject, ServerConfig, ServerTool
from lmstudio_bridge.security.workspace import TooDeepError, Workspace, find_paths, is_protected

Verb: TypeAlias = Literal["hide", "deny", "allow"]

_STRICTEST_FIRST: tuple[Verb, ...] = ("hide", "deny", "allow")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `pattern` is a glob over `server/tool`, `source` says who made it."""

    verb: Verb
    pattern: str
    source: str

    def __str__(self) -> str:
        return f'{self.verb} "{self.pattern}" ({self.source})'

    def fits(self, tool: ServerTool) -> bool:
        """Whether it is about this tool.

        What forbids takes no notice of letter case; what allows does, so that no look-alike gets in.
        """
        return _fits(self.pattern, tool, exactly=self.verb == "allow")


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a run, the user's own before others.

    `folders` are part of the workspace. `arguments` says for a pattern which arguments are paths, in
    place of the usual names; `more_arguments` says which are paths as well.
    """

    rules: tuple[Rule, ...] = ()
    folders: tuple[Path, ...] = ()
    arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)
    more_arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def find(self, tool: ServerTool) -> Rule | None:
        """The rule that decides about a tool: hiding beats denying beats allowing."""
        fitting = [rule for rule in self.rules if rule.fits(tool)]
        return min(fitting, key=lambda rule: _STRICTEST_FIRST.index(rule.verb), default=None)

    def path_arguments(self, tool: ServerTool) -> frozenset[str] | None:
        """The names of the tool's arguments that are paths; None where only their usual names tell."""
        named = [names for pattern, names in self.arguments.items() if _fits(pattern, tool, exactly=True)]
        return named[0] if named else None

    def more_path_arguments(self, tool: ServerTool) -> frozenset[str]:
        """The names of arguments that are paths in any case."""
        named = [names for pattern, names in self.more_arguments.items() if _fits(pattern, tool, exactly=False)]
        return frozenset().union(*named)

    def __add__(self, other: Rules) -> Rules:
        """These rules, and behind them the others."""
        return Rules(
            self.rules + other.rules,
            self.folders + other.folders,
            {**self.arguments, **{key: names for key, names in other.arguments.items() if key not in self.arguments}},
            {**other.more_arguments, **self.more_arguments},
        )


def _fits(pattern: str, tool: ServerTool, *, exactly: bool) -> bool:
    """Server and tool are compared on their own, so that a `/` in a name shifts nothing."""
    server, _, name = pattern.partition("/")
    if exactly:
        return fnmatchcase(tool.server, server) and fnmatchcase(tool.name, name)
    return fnmatchcase(tool.server.casefold(), server.casefold()) and fnmatchcase(tool.name.casefold(), name.casefold())


_SHOWN_PATH = 200  # characters of a path that is refused


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read`, only tools that their server marks as read-only run, and those that a rule allows. A
    tool without the mark counts as writing, as the MCP specification says of `readOnlyHint` (its
    default is false). `local` are the servers whose paths are on this machine, each with the folder
    that it works in: their paths must stay in the workspace.
    """

    access: Access = "read"
    rules: Rules = field(default_factory=Rules)
    workspace: Workspace = field(default_factory=lambda: Workspace(()))
    local: Mapping[str, Path] = field(default_factory=dict)

    def offers(self, tool: ServerTool) -> bool:
        """Whether the model gets to know of the tool."""
        rule = self.rules.find(tool)
        return rule is None or rule.verb != "hide"

    def check_call(self, tool: ServerTool, arguments: JSONObject) -> Decision:
        """The decision for one call of this tool."""
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

    def _check_paths(self, tool: ServerTool, arguments: JSONObject) -> Decision | None:
        """A refusal if a path in the arguments leaves the workspace, or names what must not be changed."""
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        try:
            paths = list(find_paths(arguments, names=names, more=more))
        except TooDeepError as exc:
            return Decision("denied", f"{exc}.", "workspace")
        for path in paths:
            places = self.workspace.places_of(path, base=self.local[tool.server])
            shown = path[:_SHOWN_PATH]
            if places is None:
                reason = f"{shown!r} is outside of what this run may touch ({self.workspace})."
                return Decision("outside", reason, "workspace")
            if not tool.read_only and any(map(is_protected, places)):
                reason = f"{shown!r} is a file that decides what programs may do, and only the user changes those."
                return Decision("denied", reason, "protected files")
        return None


@dataclass(frozen=True, slots=True)
class Preset:
    """One well-known server; `reason` says why what stands here is so.

    `reads` are tools that may run in a run that only reads. `paths` says for a glob over the server's
    tools which arguments are paths, in place of the usual names. Each run starts a `fresh` one for itself.
    """

    reason: str
    reads: tuple[str, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fresh: bool = False


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
        "versions before 2025.11 mark no tool; its one file is named by the user, so that no argument is a path",
        reads=("read_graph", "search_nodes", "open_nodes"),
        paths={"*": ()},
    ),
    "@modelcontextprotocol/server-sequential-thinking": Preset(
        "it keeps thoughts in its memory and touches nothing else", reads=("sequentialthinking",), paths={"*": ()}
    ),
    "@modelcontextprotocol/server-github": Preset(
        "its paths are in a repository on GitHub, not on this machine", paths={"*": ()}
    ),
    "mcp-server-git": Preset(
        "these take no words that git could read as options; older versions let git_diff and git_log write files so",
        reads=("git_status", "git_diff_unstaged", "git_diff_staged"),
        paths={"*": ("repo_path", "files")},
    ),
    "mcp-server-time": Preset("it only tells the time", reads=("get_current_time", "convert_time"), paths={"*": ()}),
    "mcp-server-fetch": Preset(
        "its addresses are no paths; it is not in the list of reading tools, because an address can carry away what "
        "was read",
        paths={"*": ()},
    ),
    "@playwright/mcp": Preset("its open page is one run's, and no other must click in it", fresh=True),
    "chrome-devtools-mcp": Preset("its open page is one run's, and no other must click in it", fresh=True),
    "@modelcontextprotocol/server-puppeteer": Preset(
        "its open page is one run's, and no other must click in it", fresh=True
    ),
}


def preset_rules(configs: Iterable[ServerConfig]) -> Rules:
    """The rules for those of the servers that are well known."""
    rules = Rules()
    for config in configs:
        package = _package_of(config)
        if package is None:
            continue
        preset, name = PRESETS[package], glob.escape(config.name)
        rules += Rules(
            tuple(Rule("allow", f"{name}/{tool}", f"known of {package}") for tool in preset.reads),
            arguments={f"{name}/{tools}": frozenset(names) for tools, names in preset.paths.items()},
        )
    return rules


def is_fresh(config: ServerConfig, *, named: Collection[str] | None) -> bool:
    """Whether each run starts this server for itself: as the user named them or, where nobody did, as is known."""
    if named is not None:
        return config.name in named or "*" in named
    package = _package_of(config)
    return package is not None and PRESETS[package].fresh


def _package_of(config: ServerConfig) -> str | None:
    return next((package for package in PRESETS if _starts(config, package)), None)


def _starts(config: ServerConfig, package: str) -> bool:
    """Whether the entry starts that package: by name, with a version, or by a path into an installed one.

    A folder that is only called so, such as a checkout that a server may work in, is none.
    """
    if config.transport != "stdio" or not any(package in word for word in (config.command, *config.args)):
        return False  # most are none, and this is asked for every run
    name = re.escape(package)
    installed = rf"(?:.*[/\\])?node_modules[/\\]{name}(?:[/\\].*)?"
    words = re.compile(rf"(?:--?[\w-]+=)?{name}(?:[@=].*)?|{installed}", re.DOTALL)
    command = re.compile(rf"(?:.*[/\\])?{name}(?:\.\w+)?|{installed}", re.DOTALL)
    return bool(command.fullmatch(config.command)) or any(map(words.fullmatch, config.args))
