"""Claude Code's own permission rules, carried out for the servers' tools that runs call.

Its settings files have lists `permissions.deny` and `permissions.ask`, and a rule of any file counts: deny before ask
before allow (code.claude.com/docs/en/permissions, and Claude Code 2.1.332). `mcp__server`, `mcp__server__tool` and
globs over such names are about tools, `Read(…)` and `Edit(…)` about paths, as in a .gitignore. Inside a run nobody can
be asked, so that `ask` counts as deny there. In doubt a rule forbids more than in Claude Code: it ignores letter case,
and what may not be read may not be written either. Rules about Claude Code's own tools concern no run.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pathspec import GitIgnoreSpec

from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.messages import Decision, ServerTool
from lmstudio_bridge.settings import Surroundings

MAX_BYTES = 1024 * 1024  # of one file
_VERBS: tuple[Literal["deny", "ask"], ...] = ("deny", "ask")  # in the order in which they count
_RULE = re.compile(r"(?P<tool>[^()\s]+)(?:\((?P<about>.*)\))?", re.DOTALL)
_OWN_TOOL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_EDITS = frozenset({"Edit", "Write", "MultiEdit", "NotebookEdit"})
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")  # Claude Code puts `_` there in the names of tools
_OWN_TOOLS = re.compile(r"[A-Z]\w*(?:\.\*)?(?:\|[A-Z]\w*(?:\.\*)?)*")  # the matcher of a hook
_SHOWN = 80  # characters of a rule that is not understood


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule, as it is written in `source`.

    It is about `tools`, a glob over their names in Claude Code, or about the paths that `spec` matches below one of
    the `roots`; only about writing them if it is not `about_reading`.
    """

    verb: Literal["deny", "ask"]
    text: str
    source: Path
    tools: str = ""
    about_reading: bool = False
    roots: tuple[Path, ...] = ()
    spec: GitIgnoreSpec | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.verb} {json.dumps(self.text, ensure_ascii=False)} ({self.source})"

    def fits_tool(self, tool: ServerTool) -> bool:
        """Whether it is about this tool, or all tools of its server."""
        name = name_in_claude_code(tool).casefold()
        return bool(self.tools) and (name.startswith(f"{self.tools}__") or fnmatchcase(name, self.tools))

    def fits_path(self, path: Path) -> bool:
        """Whether it is about this absolute path."""
        below = [path.relative_to(root) for root in self.roots if path.is_relative_to(root)]
        return self.spec is not None and any(self.spec.match_file(each.as_posix().casefold()) for each in below)

    def refuse_tool(self, tool: ServerTool) -> Decision:
        """The refusal of a call of this tool."""
        pattern = json.dumps(f"{glob.escape(tool.server)}/{glob.escape(tool.name)}", ensure_ascii=False)
        return self._refuse(
            f"{tool.server} {tool.name}", f"To let runs call it, add allow = [{pattern}] to your lmstudio-bridge.toml."
        )

    def refuse_path(self, path: str) -> Decision:
        """The refusal of a call that names this path."""
        return self._refuse(f"access to {path!r}", "To allow it in runs, remove that rule.")

    def _refuse(self, what: str, remedy: str) -> Decision:
        if self.verb == "deny":
            return Decision("denied", f"Claude Code's rules deny {what}.", str(self))
        reason = f"Claude Code's rules ask the user before {what}, and nobody can be asked in a run."
        return Decision("denied", reason, str(self), f"Claude Code's rule {self} counts as deny in a run. {remedy}")


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules of all files, those that deny first; `paths` are the files that have any.

    `warnings` name files that cannot be read, `unclear` what is not carried out: rules that are not understood, hooks.
    """

    rules: tuple[HostRule, ...] = ()
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()

    def find_for_tool(self, tool: ServerTool) -> HostRule | None:
        """The rule that forbids a tool."""
        return next((rule for rule in self.rules if rule.fits_tool(tool)), None)

    def find_for_paths(self, paths: Iterable[Path], *, reads: bool) -> HostRule | None:
        """The rule that forbids a call with one of these absolute paths; `reads`: it is known to only read."""
        given = tuple(paths)
        rules = (rule for rule in self.rules if rule.about_reading or not reads)
        return next((rule for rule in rules if any(map(rule.fits_path, given))), None)


def name_in_claude_code(tool: ServerTool) -> str:
    """The tool's name as Claude Code's rules have it."""
    return f"{server_in_claude_code(tool.server)}__{_NOT_IN_NAMES.sub('_', tool.name)}"


def is_within(tool: ServerTool, limit: Sequence[str]) -> bool:
    """Whether a tool is among those that a subagent may have: `mcp__server`, `mcp__server__tool`, globs over them.

    What a `!` stands before is taken out, whatever its letter case. An empty limit is none.
    """
    taken_out = [pattern[1:].casefold() for pattern in limit if pattern.startswith("!")]
    names = (server_in_claude_code(tool.server), name_in_claude_code(tool))
    return not limit or (
        any(fnmatchcase(name, pattern) for pattern in limit for name in names)
        and not any(fnmatchcase(name.casefold(), pattern) for pattern in taken_out for name in names)
    )


def server_within(server: str, limit: Sequence[str]) -> bool:
    """Whether a server may have tools that are within the limit."""
    name = server_in_claude_code(server)
    return not limit or any(
        fnmatchcase(name, pattern) or pattern.startswith(f"{name}__") or fnmatchcase(f"{name}__", pattern)
        for pattern in limit
    )


def server_in_claude_code(server: str) -> str:
    """What the names of all tools of a server begin with in Claude Code."""
    return f"mcp__{_NOT_IN_NAMES.sub('_', server)}"


def load_host_rules(*, project: Path, environ: Mapping[str, str], managed: Path | None = None) -> HostRules:
    """The rules of Claude Code's settings files: those in the folder `managed`, the user's, and the project's."""
    around = Surroundings(project, environ)
    rules: list[HostRule] = []
    warnings: list[str] = []
    unclear: list[str] = []
    for path, anchors in _settings_files(around, managed or _managed_folder()):
        root = _read(path, warnings)
        unclear += [
            f"{path}: the PreToolUse hook for {json.dumps(matcher)[:_SHOWN]} does not run for calls in runs."
            for matcher in _matchers(root)
            if not _OWN_TOOLS.fullmatch(matcher)
        ]
        permissions = root.get("permissions", {})
        for verb in _VERBS:
            listed = permissions.get(verb, []) if isinstance(permissions, dict) else permissions
            for text in listed if isinstance(listed, list) else [listed]:
                rule = _parse(verb, text, path, anchors=anchors, around=around)
                if rule is None:
                    unclear.append(f"{path}: the rule {verb} {json.dumps(text)[:_SHOWN]} is not understood.")
                elif rule.tools or rule.spec:
                    rules.append(rule)
    paths = tuple(dict.fromkeys(rule.source for rule in rules))
    return HostRules(
        tuple(sorted(rules, key=lambda rule: _VERBS.index(rule.verb))), paths, tuple(warnings), tuple(unclear)
    )


def _settings_files(around: Surroundings, managed: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """The files that may be there, each with the folders that a pattern with a leading slash may start from."""
    yield managed / "managed-settings.json", (around.project,)
    for path in sorted((managed / "managed-settings.d").glob("*.json")):
        yield path, (around.project,)
    user = around.claude_folder
    if user is not None:
        yield user / "settings.json", (around.project, user)
    for folder in _project_folders(around.project):
        for name in ("settings.json", "settings.local.json"):
            if user is None or folder / ".claude" != user or name != "settings.json":
                yield folder / ".claude" / name, (folder,)


def _project_folders(project: Path) -> list[Path]:
    """The project's folder, and those above it up to the top of its repository."""
    folders = [project, *project.parents]
    top = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    return folders[: top + 1]


def _managed_folder() -> Path:
    if sys.platform == "darwin":
        return Path("/Library/Application Support/ClaudeCode")
    return Path("C:/Program Files/ClaudeCode" if sys.platform == "win32" else "/etc/claude-code")


def _read(path: Path, warnings: list[str]) -> Mapping[str, Any]:
    try:
        root = json.loads(read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8-sig"))
        if not isinstance(root, dict):
            raise ValueError("it is not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        warnings.append(f"Claude Code's settings file {path} cannot be read, so its rules do not hold in runs: {exc}.")
        return {}
    return root


def _matchers(root: Mapping[str, Any]) -> Iterator[str]:
    """For which tools a settings file has hooks that could stop a call."""
    hooks = root.get("hooks")
    listed = hooks.get("PreToolUse") if isinstance(hooks, dict) else None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            yield str(each.get("matcher", ""))


def _parse(
    verb: Literal["deny", "ask"], text: object, path: Path, *, anchors: tuple[Path, ...], around: Surroundings
) -> HostRule | None:
    """The rule; without tools and spec if it concerns no run, None if it is not understood."""
    found = _RULE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or not isinstance(text, str):
        return None
    name, about = found["tool"], found["about"]
    if name.startswith("mcp__") or "*" in name:
        return HostRule(verb, text, path, tools=name.casefold()) if about is None and "," not in name else None
    if not _OWN_TOOL.fullmatch(name):
        return None
    if about is None or (name != "Read" and name not in _EDITS):
        return HostRule(verb, text, path)
    if about.startswith("!") or about != about.strip() or not about.strip("~./"):  # which would match nothing
        return None
    pattern, roots = _anchored(about, anchors=anchors, around=around)
    try:
        spec = GitIgnoreSpec.from_lines([pattern.casefold()])
    except ValueError:
        return None
    return HostRule(verb, text, path, about_reading=name == "Read", roots=_with_real(roots), spec=spec)


def _anchored(pattern: str, *, anchors: tuple[Path, ...], around: Surroundings) -> tuple[str, tuple[Path, ...]]:
    """A pattern as in a .gitignore, and the folders in which it would be."""
    if pattern.startswith("//"):
        return pattern[1:], (Path("/"),)
    if pattern.startswith("~/") and around.home is not None:
        return pattern[1:], (around.home,)
    if pattern.startswith("/"):
        return pattern, anchors
    if ".." in Path(pattern).parts:
        return Path(os.path.normpath(around.project / pattern)).as_posix(), (Path("/"),)
    plain = pattern.removeprefix("./")
    return f"\\{plain}" if plain.startswith(("#", "!")) else plain, (around.project,)


def _with_real(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(each for folder in folders for each in (folder, Path(os.path.realpath(folder)))))
