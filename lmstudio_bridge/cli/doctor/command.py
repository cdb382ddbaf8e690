"""`lmstudio-bridge doctor`: checks every link of the chain, and says how to fix what is wrong."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict

from rich.text import Text

from lmstudio_bridge import __version__
from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, current_folder
from lmstudio_bridge.cli.doctor.checks import Area, Check, Say, State, failed_check, say_nothing
from lmstudio_bridge.cli.doctor.engine import check_call, check_engine
from lmstudio_bridge.cli.doctor.machine import check_journals, check_settings, check_versions
from lmstudio_bridge.cli.doctor.programs import as_started, check_programs
from lmstudio_bridge.cli.doctor.servers import check_catalog, check_rules, check_servers
from lmstudio_bridge.cli.terminal import can_show, open_console, open_status, print_marked
from lmstudio_bridge.errors import DownstreamError, SettingsError
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_environment
from lmstudio_bridge.settings import Settings, Surroundings, read_settings
from lmstudio_bridge.text import clean_text, counted, one_line

_MARKS: dict[State, str] = {"ok": "\N{HEAVY CHECK MARK}", "warning": "!", "failed": "\N{HEAVY BALLOT X}"}
_ASCII_MARKS: dict[State, str] = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}
_GROUPS: dict[Area, str] = {
    "bridge": "This machine",
    "journals": "This machine",
    "lm_studio": "LM Studio",
    "model": "Model",
    "deep": "Model",
    "servers": "MCP servers",
    "rules": "Rules",
    "programs": "Claude Code and other programs",
}
"""The links of the chain, as headings."""
_COLORS: dict[State, str] = {"ok": "green", "warning": "yellow", "failed": "red"}


async def run_doctor(args: argparse.Namespace, redactor: Redactor) -> int:
    """Print each check when it is done; fail if one of them does."""
    checks: list[Check] = []
    printer = None if args.json else _Printer()

    def tell(check: Check) -> None:
        if check.state == "warning" and check.found in {each.found for each in checks}:
            return  # an invalid file matters to several links of the chain
        checks.append(check)
        if printer:
            printer.show(check)

    folder = current_folder()
    entry, where = as_started(Surroundings(folder, os.environ))
    environ = {**os.environ, **entry}
    try:
        settings = read_settings(environ, cwd=folder)
    except SettingsError as exc:
        tell(check_versions())
        tell(failed_check("bridge", "Settings", exc))
    else:
        if entry:
            tell(Check("bridge", "Entry", "ok", f"settings as Claude Code sets them, by {where}"))
        await examine(
            settings,
            environ=environ,
            redactor=redactor,
            tell=tell,
            deep=args.deep,
            say=printer.say if printer else say_nothing,
        )
    ok = not any(check.state == "failed" for check in checks)
    if args.json:
        root = {"format": 1, "version": __version__, "ok": ok, "checks": [asdict(check) for check in checks]}
        print(json.dumps(root, indent=2))
    else:
        print(f"\n{_summary(checks)}")
    return EXIT_OK if ok else EXIT_FAILED


async def examine(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    redactor: Redactor,
    tell: Callable[[Check], None],
    deep: bool = False,
    say: Say = say_nothing,
) -> None:
    """Make every check, in the order of the chain, and tell each at once; `deep` adds a real call to the model."""
    redactor.learn(secrets_of_environment(environ))
    for check in (check_versions(), *check_settings(settings, environ), check_journals(settings)):
        tell(redactor.redact_fields(check))
    once = settings.model_copy(update={"retry_attempts": 1})  # retries would only delay the diagnosis
    async with open_agent(once, environ=environ, redactor=redactor) as agent:
        async for check in check_chain(agent, settings, environ=environ, deep=deep, say=say):
            tell(check)
    for check in check_programs(Surroundings(settings.project, environ)):
        tell(redactor.redact_fields(check))


async def check_chain(
    agent: DynamicAutonomousAgent,
    settings: Settings,
    *,
    environ: Mapping[str, str],
    deep: bool = False,
    say: Say = say_nothing,
) -> AsyncIterator[Check]:
    """The checks that need an open agent: LM Studio, its model, the MCP servers, the rules."""
    around = Surroundings(settings.project, environ)
    redactor = agent.redactor
    redactor.learn(secrets_of_environment(environ))
    reachable = True
    say("Asking LM Studio…")
    async for check in check_engine(agent.client, settings, around):
        reachable = reachable and not (check.state == "failed" and check.name in ("LM Studio", "API token", "Model"))
        yield redactor.redact_fields(check)
    if deep and reachable:
        say("Asking the model to call a tool…")
        yield redactor.redact_fields(await check_call(agent.client, settings))
    try:
        catalog = agent.configured_servers()
    except DownstreamError as exc:
        yield redactor.redact_fields(failed_check("servers", "MCP servers", exc))
        return
    for check in check_catalog(catalog):
        yield redactor.redact_fields(check)
    async for check in check_servers(agent, catalog, environ=environ, say=say):
        yield redactor.redact_fields(check)
    for check in check_rules(agent, catalog):
        yield redactor.redact_fields(check)


class _Printer:
    """Prints checks below a heading for their link of the chain, and what is waited for while that takes time."""

    def __init__(self) -> None:
        self._console = open_console(sys.stdout, environ=os.environ)
        self._marks = _MARKS if can_show("".join(_MARKS.values()), sys.stdout) else _ASCII_MARKS
        self._status = open_status("", sys.stderr, environ=os.environ)
        self._group = ""

    def say(self, text: str) -> None:
        """Show what is waited for, until the next check."""
        if self._status and self._console.is_terminal:
            self._status.update(Text(one_line(text)))
            self._status.start()

    def show(self, check: Check) -> None:
        """Print a check, in a terminal wrapped at words."""
        if self._status:
            self._status.stop()
        if self._group != _GROUPS[check.area]:
            self._console.print(Text(f"{chr(10) if self._group else ''}{_GROUPS[check.area]}", style="bold"))
            self._group = _GROUPS[check.area]
        mark = self._marks[check.state]
        found = Text.assemble((one_line(check.name), "bold"), f": {clean_text(check.found)[0]}")
        print_marked(self._console, Text(mark, _COLORS[check.state]), found)
        for remedy in clean_text(check.remedy)[0].splitlines():
            print_marked(self._console, Text(" " * len(mark)), Text(remedy))


def _summary(checks: Sequence[Check]) -> str:
    problems = sum(check.state == "failed" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    if not problems and not warnings:
        return "Everything looks good."
    told = [counted(problems, "problem") if problems else "No problems"]
    return f"{', '.join([*told, *([counted(warnings, 'warning')] if warnings else [])])}."
