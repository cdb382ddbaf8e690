"""`lmstudio-bridge doctor`: checks every link of the chain, and says what to do."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, Commands
from lmstudio_bridge.cli.help import add_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lmstudio_bridge.cli.doctor.checks import Check, State
    from lmstudio_bridge.security.redact import Redactor

_MARKS: dict[State, str] = {"ok": "\N{HEAVY CHECK MARK}", "warning": "!", "failed": "\N{HEAVY BALLOT X}"}
_ASCII_MARKS: dict[State, str] = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}
_COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "failed": "red"}


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "doctor",
        "check LM Studio, its models, the MCP servers and the registration",
        """
        Looks at every link of the chain, and says of each what was found, and what to do where something is
        wrong: versions, settings, LM Studio and its token, the model (loaded, context, slots, tool calls,
        just-in-time loading), the files with MCP servers, each server (it is started, and its tools are
        counted), rules, journals, and the programs that are set up to start the bridge.

        It takes the settings of this shell. Secrets are never shown.

        --json prints {"format": 1, "version": ..., "ok": ..., "checks": [...]}, each check with "area" (bridge,
        lm_studio, model, deep, servers, rules, journals, programs), "name", "state" (ok, warning, failed), "found" and
        "remedy". New areas and keys may be added; "format" changes if anything else does.
        """,
        examples=(
            ("lmstudio-bridge doctor", "check everything; nothing is changed"),
            ("lmstudio-bridge doctor --deep", "also let the model call a tool once, and load it for that if need be"),
            ("lmstudio-bridge doctor --json", "for programs: one JSON object on stdout"),
        ),
        exit_codes={0: "all is in place; there may be warnings", 1: "something is wrong"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT", "NO_COLOR"),
    )
    parser.add_argument("--deep", action="store_true", help="make a real call to the model, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of lines")


async def run(args: argparse.Namespace, redactor: Redactor) -> int:
    """Print each check as it is done; fail where one of them does."""
    import json

    from lmstudio_bridge.cli.doctor.examination import check_without_settings, examine
    from lmstudio_bridge.cli.surroundings import current_folder
    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.settings import read_settings

    checks: list[Check] = []
    show = _printer()

    def tell(check: Check) -> None:
        checks.append(check)
        if not args.json:
            show(check)

    folder = current_folder()
    try:
        settings = read_settings(os.environ, cwd=folder)
    except SettingsError as exc:
        for check in check_without_settings(exc):
            tell(check)
    else:
        await examine(settings, environ=os.environ, redactor=redactor, tell=tell, deep=args.deep)
    if args.json:
        print(json.dumps(_as_json(checks), indent=2))
    else:
        print(_summary(checks))
    return EXIT_FAILED if any(check.state == "failed" for check in checks) else EXIT_OK


def _printer() -> Callable[[Check], None]:
    """What prints a check as far as the terminal can show it."""
    from rich.text import Text

    from lmstudio_bridge.cli.terminal import can_show, open_console
    from lmstudio_bridge.text import clean_text, one_line

    console = open_console(sys.stdout, environ=os.environ)
    marks = _MARKS if can_show("".join(_MARKS.values()), sys.stdout) else _ASCII_MARKS

    def show(check: Check) -> None:
        mark = marks[check.state]
        line = Text.assemble(
            (mark, _COLOURS[check.state]), " ", (one_line(check.name), "bold"), f": {clean_text(check.found)[0]}"
        )
        console.print(line, soft_wrap=True)
        for remedy in clean_text(check.remedy)[0].splitlines():
            console.print(Text(" " * (len(mark) + 1) + remedy), soft_wrap=True)

    return show


def _summary(checks: Sequence[Check]) -> str:
    failed = sum(check.state == "failed" for check in checks)
    warned = sum(check.state == "warning" for check in checks)
    if not failed and not warned:
        return "All is in place."
    warnings = f"{warned} warning{'s' * (warned != 1)}"
    return f"{failed} wrong, {warnings}." if failed else f"All is in place, with {warnings}."


def _as_json(checks: Sequence[Check]) -> dict[str, object]:
    """The shape that docs/commands.md promises."""
    from lmstudio_bridge import __version__

    return {
        "format": 1,
        "version": __version__,
        "ok": not any(check.state == "failed" for check in checks),
        "checks": [check.to_json() for check in checks],
    }
