"""What `install` and `uninstall` share: which place is meant, showing a change, asking, and making it."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from lmstudio_bridge.cli.hosts import HostScope, Place, find_place
from lmstudio_bridge.cli.registration import NAME, Change, hidden_variables, plan_entry
from lmstudio_bridge.cli.surroundings import surroundings_here
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.files import read_text, replace_with_backup
from lmstudio_bridge.text import clean_text

_CLAUDE_LIMIT = 60.0  # seconds for one `claude mcp …`; it takes about two


def place_for(args: argparse.Namespace, scope: HostScope) -> Place:
    """The place that the arguments name."""
    return find_place(args.host, scope, around=surroundings_here(), platform=sys.platform)


def carry_out(change: Change, args: argparse.Namespace, *, question: str) -> int:
    """Show the change and make it, once the user agrees; the exit code."""
    print(clean_text(change.diff())[0])
    if args.dry_run:
        say("Nothing was written (--dry-run).")
        return EXIT_OK
    if not args.yes:
        if not sys.stdin.isatty():
            say("Nothing was written: there is no terminal to ask on. Give --yes to write without being asked.")
            return EXIT_USAGE
        if not _agrees(question):
            say("Nothing was written.")
            return EXIT_FAILED
    if change.place.host == "claude-code" and (claude := shutil.which("claude")):
        if _through_claude(claude, change):
            return EXIT_OK
        change = plan_entry(change.place, read_text(change.place.path), change.new)
        if not change.needed:
            return EXIT_OK
    shared = change.place.scope == "project"
    copy = replace_with_backup(
        change.place.path, before=change.before, after=change.after, now=datetime.now(), shared=shared
    )
    say(f"Written: {change.place.path}" + (f" (what it was: {copy})" if copy else ""))
    return EXIT_OK


def say(line: str) -> None:
    """A line for the person, beside what is printed."""
    print(line, file=sys.stderr, flush=True)


def _agrees(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _through_claude(claude: str, change: Change) -> bool:
    """Let Claude Code change its own file; whether the file is as wanted then.

    Not with a secret in the entry: command lines can be read by others (2.1.197 takes JSON from
    nowhere else). It refuses to replace an entry, so the old one goes first.
    """
    if change.new is not None and hidden_variables(change.new):
        return False
    scope = ("--scope", change.place.scope)
    steps: list[Sequence[str]] = []
    if change.old is not None:
        steps.append(("mcp", "remove", *scope, NAME))
    if change.new is not None:
        steps.append(("mcp", "add-json", *scope, NAME, json.dumps(change.new)))
    for step in steps:
        try:
            done = subprocess.run(
                [claude, *step],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_CLAUDE_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            say(f"`claude mcp` could not be used ({type(exc).__name__}); its file is changed instead.")
            return False
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            say(f"`claude mcp` did not do it ({said}); its file is changed instead.")
            return False
    try:
        done_by_it = not plan_entry(change.place, read_text(change.place.path), change.new).needed
    except BridgeError:
        return False
    if done_by_it:
        say(f"Written by `claude mcp`: {change.place.path}")
    return done_by_it
