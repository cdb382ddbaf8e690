"""Claude Code's own permission rules, carried out for the servers' tools that runs call.

Its settings files have lists `permissions.deny` and `permissions.ask`, and a rule of any file counts: deny before ask
before allow (code.claude.com/docs/en/permissions, and Claude Code 2.1.332). `mcp__server`, `mcp__server__tool` and
globs over such names are about tools, `Read(…)` and `Edit(…)` about paths, as in a .gitignore. Inside a run `ask`
counts as deny: the question during a run (`server.approval`) is about write access, and no answer to such a rule. In
doubt a rule forbids more than in Claude Code: it ignores letter case, what may not be read may not be written either,
and one that is not understood forbids all that it could be about. Rules about Claude Code's own tools concern no run.
"""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any, Literal

from pathspec import GitIgnoreSpec

from lmstudio_bridge.files import read_bounded
from lmstudio_bridge.json_text import load_commented
from lmstudio_bridge.messages import Decision, ServerTool
from lmstudio_bridge.settings import Surroundings
from lmstudio_bridge.text import clean_text

MAX_BYTES = 1024 * 1024  # of one file
_VERBS: tuple[Literal["deny", "ask"], ...] = ("deny", "ask")  # in the order in which they count
_MAX_RULE = 2_000  # characters; what is longer is not understood
_RULE = re.compile(r"(?P<tool>[^()\s,]+)(?:\((?P<about>.*)\))?", re.DOTALL)
_MCP = re.compile(r"mcp__[a-z0-9_*-]*|(?=[^*]*\*)[a-z0-9_*?\[\]!-]*")  # names of the servers' tools, or a glob
_MAY_BE_MCP = re.compile(r"m?c?p?_?_?[*?\[]|mcp__")  # how a glob begins that fits such a name
_MCP_INSIDE = re.compile(r"(mcp__[a-z0-9_*-]*)([^a-z0-9_*(),\s-]|\s+(?!mcp__)[^\s(),]|)")
_READS = frozenset({"read", "notebookread", "glob", "grep", "ls"})
_EDITS = frozenset({"edit", "write", "multiedit", "notebookedit"})
_NAMES = "|".join(sorted(_READS | _EDITS))
_ABOUT_PATHS = re.compile(rf"(?<![\w./\\-])(?:{_NAMES})(?![\w./\\-])")

# Of a rule that is not understood, without what stands in its brackets.
_IN_BRACKETS = re.compile(r"(?<=[\w*])\s*\([^()]*\)")
_MAX_NESTED = 8
_BETWEEN = re.compile(r"[\f,;|&]|\s(?:and|or)\s")
_ABOUT_TOOLS = re.compile(r"(?<![a-z])(?:mcp|tool|server)")
_LIKE_A_PATH = re.compile(
    r"(?!\w+://)(?:(?:\.{1,2}|~|[a-z]:|[$%]\w+%?)?[/\\](?!\*\Z)\S*|\S*/(?:[^\s*/]*\.\w+)?)|(?:\*\*?/)?\*?\.\w[^\s*+]*"
)
_LIKE_A_TOOL = re.compile(r"(?!\w+://|\W*mcp__)(?=\S*[*+/_])\S+")
_OTHER_TOOLS = frozenset(
    """
    agent artifact askuserquestion bash bashoutput brief cd claudedesign croncreate crondelete cronlist endconversation
    enterplanmode enterworktree exitplanmode exitworktree killbash killshell listagents listmcpresources
    listmcpresourcestool listpeers lsp monitor offerchromesetup powershell projects propose_skills proposegoal
    pushnotification readmcpresource readmcpresourcedir readmcpresourcedirtool readmcpresourcetool readnotifications
    remotetrigger reportfindings schedulewakeup sendfeedback sendmessage senduserfile sendusermessage setgoal
    shareonboardingguide showonboardingrolepicker skill slashcommand subagenthandback task taskcreate taskget tasklist
    taskoutput taskstop taskupdate todowrite toolsearch waitformcpservers webfetch websearch workflow
    """.split()  # noqa: SIM905
)
"""Claude Code's own, which no run has; of 2.1.332 and before."""

# Also quotes, variables, lists, and `:*`, which is for commands.
_UNCLEAR = re.compile(
    r"\A(?:[\s./~\\]*!|['$%])|\A~[\w.-]+/|[\"`,;|\n]|\$[\w{(]|%\w+%|\)\s*\w+\(|\s(?:and\s+)?[./~]|:\*\Z"
)
_VARIABLE = re.compile(r"[$%]\{?(HOME|USERPROFILE|PWD|CLAUDE_PROJECT_DIR)[}%]?(?=[/\\]|\Z)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{},]*,[^{}]*)\}")
_MAX_ALTERNATIVES = 256  # of one pattern
_CLASS = re.compile(r"\[[^\]]*\]")
_NEGATED = re.compile(r"\[[!^]\]?[^\]]*\]")  # a class of characters
_DRIVE = re.compile(r"/{0,2}([a-z]):(?:/|\Z)", re.IGNORECASE)  # of Windows; Claude Code writes C:\x as //c/x
_GLOB = re.compile(r"[*?\[\\]")
_SPECIAL = re.compile(r"[*?\[\]!#\\ ]")  # in a .gitignore
_ALL = GitIgnoreSpec.from_lines(["/**"])
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")  # Claude Code puts `_` there in the names of tools
_OWN_TOOLS = re.compile(r"[A-Z]\w*(?:\.\*)?(?:\|[A-Z]\w*(?:\.\*)?)*")  # the matcher of a hook
_MAX_STARS = 3  # in one part of a pattern, and of `**`
_SHOWN = 80  # characters of a rule that is not understood


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule, as it is written in `source`.

    It is about `tools`, globs over their names in Claude Code, or about the paths that `spec` matches; only about
    writing them if it is not `about_reading`.
    """

    verb: Literal["deny", "ask"]
    text: str
    source: Path
    tools: tuple[str, ...] = ()
    about_reading: bool = False
    spec: GitIgnoreSpec | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.verb} {json.dumps(self.text, ensure_ascii=False)} ({self.source})"

    def fits_tool(self, tool: ServerTool) -> bool:
        """Whether it is about this tool, or all tools of its server."""
        name = name_in_claude_code(tool).casefold()
        return any(name.startswith(f"{each}__") or fnmatchcase(name, each) for each in self.tools)

    def fits_path(self, path: PurePath) -> bool:
        """Whether it is about this absolute path."""
        return self.spec is not None and self.spec.match_file(_folded(path))

    def refuse_tool(self, tool: ServerTool) -> Decision:
        """The refusal of a call of this tool."""
        remedy = f"To let runs call it, add allow = [{pattern_of(tool)}] to your lmstudio-bridge.toml."
        return self._refuse(f"{tool.server} {tool.name}", remedy)

    def refuse_path(self, path: str) -> Decision:
        """The refusal of a call that names this path."""
        return self._refuse(f"access to {path!r}", "To allow it in runs, remove that rule.")

    def _refuse(self, what: str, remedy: str) -> Decision:
        if self.verb == "deny":
            return Decision("denied", f"Claude Code's rules deny {what}.", str(self))
        reason = f"Claude Code's rules ask the user before {what}, which counts as deny in a run."
        return Decision("denied", reason, str(self), f"Claude Code's rule {self} counts as deny in a run. {remedy}")


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules of all files, those that deny first; `paths` are the files that have any.

    `warnings` name files that cannot be read, `unclear` rules that are not understood and hooks, which do not run.
    """

    rules: tuple[HostRule, ...] = ()
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()

    def find_for_tool(self, tool: ServerTool) -> HostRule | None:
        """The rule that forbids a tool."""
        return next((rule for rule in self.rules if rule.fits_tool(tool)), None)

    def find_for_paths(self, paths: Iterable[PurePath], *, reads: bool) -> HostRule | None:
        """The rule that forbids a call with one of these absolute paths; `reads`: it is known to only read."""
        given = tuple(paths)
        rules = (rule for rule in self.rules if rule.about_reading or not reads)
        return next((rule for rule in rules if any(map(rule.fits_path, given))), None)


def pattern_of(tool: ServerTool) -> str:
    """What names this tool alone in the user's rules, as a text of TOML."""
    return json.dumps(f"{glob.escape(tool.server)}/{glob.escape(tool.name)}", ensure_ascii=False)


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
                rule, is_clear = _parse(verb, text, path, anchors=anchors, around=around)
                if rule.tools or rule.spec:
                    rules.append(rule)
                if not is_clear:
                    unclear.append(f"{path}: the rule {verb} {json.dumps(text)[:_SHOWN]} {_what_holds(rule)}.")
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
        for name in ("settings.json", "remote-settings.json"):  # the other: what an organization's server sent
            yield user / name, (around.project, user)
    for folder in project_folders(around.project):
        for name in ("settings.json", "settings.local.json"):
            if user is None or folder / ".claude" != user or name != "settings.json":
                yield folder / ".claude" / name, (folder,)


def project_folders(project: Path) -> list[Path]:
    """The project's folder, then those above it up to the top of its repository: Claude Code reads them all."""
    folders = [project, *project.parents]
    top = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    return folders[: top + 1]


def _managed_folder() -> Path:
    if sys.platform == "darwin":
        return Path("/Library/Application Support/ClaudeCode")
    return Path("C:/Program Files/ClaudeCode" if sys.platform == "win32" else "/etc/claude-code")


def _read(path: Path, warnings: list[str]) -> Mapping[str, Any]:
    try:
        root = load_commented(read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8-sig"))
        if not isinstance(root, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as exc:
        if isinstance(exc, FileNotFoundError | NotADirectoryError) and not path.is_symlink():
            return {}
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
) -> tuple[HostRule, bool]:
    """The rule, without tools and spec if it concerns no run; and whether all of it is understood."""
    text = text if isinstance(text, str) else json.dumps(text)
    plain = clean_text(text)[0].strip()
    if len(plain) > _MAX_RULE:
        return HostRule(verb, text, path, ("mcp__*",), about_reading=True, spec=_ALL), False
    found = _RULE.fullmatch(plain)
    name, about = (found["tool"].casefold(), found["about"]) if found else ("", None)
    if _is_balanced(about or "", "()"):  # otherwise it may be several rules
        if _MCP.fullmatch(name):
            own = {each for each in _READS | _EDITS | _OTHER_TOOLS if fnmatchcase(each, name)}
            if about in (None, "", "*") and (own or _MAY_BE_MCP.match(name)):
                return HostRule(verb, text, path, (_whole(name),)), True  # it means the same without these brackets
            if not own.isdisjoint(_READS | _EDITS):
                tools = (_whole(name),) if _MAY_BE_MCP.match(name) else ()
                return HostRule(verb, text, path, tools, not own.isdisjoint(_READS), _ALL), False
        if name in _OTHER_TOOLS or (about is None and name in _READS | _EDITS):
            return HostRule(verb, text, path), True
        if about is not None and name in _READS | _EDITS:
            with suppress(ValueError, re.error):  # as for a range of letters that ends before it begins
                spec = _spec(about.strip(), anchors=anchors, around=around)
                return HostRule(verb, text, path, about_reading=name in _READS, spec=spec), True
    return _guess(verb, text, path, unicodedata.normalize("NFKC", plain).casefold()), False


def _guess(verb: Literal["deny", "ask"], text: str, path: Path, lowered: str) -> HostRule:
    """All that a rule which is not understood could be about."""
    outside = lowered
    for _ in range(_MAX_NESTED):
        outside = _IN_BRACKETS.sub("\f", outside)
    parts = [part.strip(" \t\r\n[]{}()^$\"'") for part in _BETWEEN.split(outside)]
    named = (f"{each}*" if more else _whole(each) for each, more in _MCP_INSIDE.findall(lowered))
    tools = tuple(dict.fromkeys(named))
    is_about_paths = bool(_ABOUT_PATHS.search(outside))
    is_path = any(map(_LIKE_A_PATH.fullmatch, parts))
    others = [part for part in parts if not (_LIKE_A_PATH.fullmatch(part) or _ABOUT_PATHS.search(part))]
    if (_ABOUT_TOOLS.search(outside) and not tools) or any(map(_LIKE_A_TOOL.fullmatch, others)):
        tools = ("mcp__*",)
    is_about_reading = is_path or not _READS.isdisjoint(re.findall(r"[a-z]+", lowered))
    return HostRule(verb, text, path, tools, is_about_reading, _ALL if is_about_paths or is_path else None)


def _is_balanced(text: str, pair: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == pair[0]) - (char == pair[1])
        if depth < 0:
            return False
    return depth == 0


def _whole(name: str) -> str:
    return f"{name}*" if name.endswith("__") else name


def _what_holds(rule: HostRule) -> str:
    held = [("" if rule.about_reading else "writing to ") + "every path"] if rule.spec else []
    if rule.tools:
        held.append(f"all of {' and '.join(rule.tools)[:_SHOWN]}")
    return f"is not understood, {'so it holds for ' if held else 'and does not hold in runs'}{' and '.join(held)}"


def _spec(pattern: str, *, anchors: tuple[Path, ...], around: Surroundings) -> GitIgnoreSpec:
    """What a pattern matches, among paths as `_folded` has them.

    Raises:
        ValueError: It is not understood.
    """
    if variable := _VARIABLE.match(pattern):
        pattern = ("~" if variable[1].upper() in ("HOME", "USERPROFILE") else ".") + pattern[variable.end() :]
    forms: dict[str, None] = {}
    for each in _alternatives(pattern):
        windows = each.replace("\\", "/")  # otherwise a backslash escapes
        forms |= dict.fromkeys([windows] if _DRIVE.match(windows) else [each, windows])
    if not all(forms) or not all(map(_is_clear, forms)):
        raise ValueError(pattern)
    return GitIgnoreSpec.from_lines(line for form in forms for line in _absolute(form, anchors=anchors, around=around))


def _is_clear(form: str) -> bool:
    return bool(_BRACES.search(form)) or (_is_balanced(form, "{}") and not _UNCLEAR.search(_CLASS.sub("", form)))


def _alternatives(pattern: str) -> list[str]:
    """What `*.{pem,key}` stands for in a shell, and the pattern itself: Claude Code's braces stand for themselves."""
    found = [pattern]
    for each in found:  # it grows
        if braces := _BRACES.search(each):
            found += [each[: braces.start()] + part.strip() + each[braces.end() :] for part in braces[1].split(",")]
        if len(found) > _MAX_ALTERNATIVES:
            raise ValueError(pattern)
    return found


def _absolute(pattern: str, *, anchors: tuple[Path, ...], around: Surroundings) -> Iterator[str]:
    """The pattern from the root of the disk on, for each folder that it could be meant to start from."""
    root = (Path("/"),)
    pattern = _DRIVE.sub(lambda found: f"//{found[1]}/", pattern, count=1) if _DRIVE.match(pattern) else pattern
    bases: tuple[Path, ...] = (around.project,)
    if pattern.startswith("//"):
        bases = root
    elif re.match(r"~(?:/|\Z)", pattern):
        bases, pattern = ((around.home,), pattern[1:]) if around.home else (root, f"/**{pattern[1:]}")
    elif pattern.startswith("/"):
        bases = anchors + root  # the latter is a common mistake
    else:
        pattern = posixpath.normpath(pattern)
        if "/" not in pattern and pattern not in (".", ".."):
            pattern = f"**/{pattern}"
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    fixed = list(takewhile(lambda part: not _GLOB.search(part), parts))
    rest = parts[len(fixed) :]
    # Of many stars, a regular expression takes time without end.
    stars = max((part.count("*") for part in rest if part != "**"), default=0)
    is_broken = any(part == ".." or ("[" in part and "]" not in part) for part in rest)
    if stars > _MAX_STARS or rest.count("**") > _MAX_STARS or is_broken:
        raise ValueError(pattern)
    rest = [_NEGATED.sub("?", part) for part in rest]  # it would match fewer names without letter case
    while rest and rest[-1] == "**":  # the folder itself is meant, too: a tool may read all of it
        rest.pop()
    for base in bases:
        folder = os.path.normpath(base.joinpath(*fixed))
        for each in dict.fromkeys((folder, os.path.realpath(folder))):
            escaped = _SPECIAL.sub(r"\\\g<0>", _folded(Path(each)))
            yield "/" + ("/".join(filter(None, (escaped, *map(_fold, rest)))) or "**")


def _folded(path: PurePath) -> str:
    r"""An absolute path as patterns have it: `users/x` for /Users/x, `c/users/x` for C:\Users\x."""
    text = path.as_posix()
    return _fold(f"{text[0]}{text[2:]}" if _DRIVE.match(text) else text.lstrip("/"))


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold())
