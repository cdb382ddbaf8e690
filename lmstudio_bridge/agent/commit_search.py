"""What the log and the commits of git servers say, for the tool that finds the commits which changed a text.

Forms: mcp-server-git (`Commit: <sha>`, then `git show` as text with a patch), and JSON with `hash`, `sha` or `commit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lmstudio_bridge.agent.tools import Tool
from lmstudio_bridge.messages import JSONObject

MAX_COMMITS = 100  # that are looked at, the newest
_COUNTS = ("max_count", "maxCount", "limit")
_REPOSITORY = re.compile(r"repo|path|dir|folder|cwd", re.IGNORECASE)
_REVISION = re.compile(r"revision|commit|\bref\b|sha|hash|object", re.IGNORECASE)
_SHA = re.compile(r'(?:^\W*|")(?:commit|hash|sha)\W{1,6}([0-9a-f]{7,64})\b', re.IGNORECASE | re.MULTILINE)
_PATCH = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)
_COMMIT = re.compile(r"\Acommit:? *", re.IGNORECASE)
_MOST_HEAD = 600  # characters of author, date and message
_MOST_MESSAGE = 300
_MOST_LINES = 5  # of one commit


@dataclass(frozen=True, slots=True)
class CommitTools:
    """The tools of one server that list the commits of a repository and show one."""

    log: Tool
    show: Tool

    @property
    def takes_count(self) -> str:
        """The argument of the log that says how many commits to list; "" if there is none."""
        return next((name for name in _COUNTS if name in self.log.spec.parameters["properties"]), "")

    def log_arguments(self, repository: str) -> JSONObject:
        """For the newest `MAX_COMMITS` commits, if the tool takes a number."""
        count = {self.takes_count: MAX_COMMITS} if self.takes_count else {}
        return {_argument(self.log, _REPOSITORY): repository, **count}

    def show_arguments(self, repository: str, commit: str) -> JSONObject:
        """For one commit."""
        return {_argument(self.show, _REPOSITORY): repository, _argument(self.show, _REVISION): commit}


def find_commit_tools(tools: Sequence[Tool]) -> CommitTools | None:
    """The git tools of the first server that has both."""
    named = {(tool.source.server, tool.source.name.lower().removeprefix("git_")): tool for tool in tools}
    for (server, name), log in named.items():
        show = named.get((server, "show"))
        if (
            name == "log"
            and show
            and all((_argument(log, _REPOSITORY), _argument(show, _REPOSITORY), _argument(show, _REVISION)))
        ):
            return CommitTools(log, show)
    return None


def _argument(tool: Tool, name: re.Pattern[str]) -> str:
    parameters = tool.spec.parameters
    return next(filter(name.search, (*parameters.get("required", ()), *parameters["properties"])), "")


def read_log(text: str) -> list[str]:
    """The commits of a log, in its order."""
    found = dict.fromkeys(_SHA.findall(text))
    return [sha for sha in found if not any(other != sha and other.startswith(sha) for other in found)][:MAX_COMMITS]


def show_hits(commit: str, holds: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Message, author and date of a commit, and what it did to lines and files that hold a text, with their file.

    If there is none, whether its message holds the text.
    """
    patch = _PATCH.search(commit)
    head, diff = (commit[: patch.start()], commit[patch.start() :]) if patch else (commit, "")
    message = " ".join(line.strip() for line in head.splitlines() if line.startswith("    "))
    if message:  # small models answer with what stands first
        rest = [_COMMIT.sub("hash: ", line) for line in head.splitlines() if line and not line.startswith("    ")]
        head = "\n".join([f'commit "{message[:_MOST_MESSAGE]}"', *rest[1:], rest[0]])
    hits = list(_hits(diff, holds)) or (["(in its message)"] if holds(message) else [])
    shown = hits[:_MOST_LINES] + ([f"and {len(hits) - _MOST_LINES} more lines"] if len(hits) > _MOST_LINES else [])
    return head.strip()[:_MOST_HEAD], shown


def _hits(diff: str, holds: Callable[[str], bool]) -> Iterator[str]:
    path = head = ""
    lines = diff.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("--- ") and following.startswith("+++ "):
            head = following
            before, after = (each[4:].strip('"') for each in (line, following))
            before, after = before.removeprefix("a/"), after.removeprefix("b/")
            path = before if after == "/dev/null" else after
            if holds(path) or holds(before):
                done = {"/dev/null": "deleted"}.get(after) or {"/dev/null": "created"}.get(before, "changed")
                yield f"{path}: {done if before in (path, '/dev/null') else f'renamed from {before}'}"
        elif line == head:
            head = ""
        elif line[:1] in ("+", "-") and holds(line[1:]):
            yield f"{path}: {line}"
