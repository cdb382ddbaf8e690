"""The user's rules for tools: which may run, which may not, which are not even offered; and what their paths are.

Values and matching only. Where rules are written down is the business of `rule_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.messages import ServerTool

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
