"""`lmstudio-bridge uninstall`: takes the bridge's entry out of a program's file, and nothing else."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands, add_place_arguments
from lmstudio_bridge.cli.help import add_command
from lmstudio_bridge.cli.hosts import NAMES

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "uninstall",
        "take the bridge out of Claude Code, or of another program",
        """
        Takes out the bridge's entry, and nothing else. The change is shown first, and you are asked.
        Without --scope it is taken from where it is; if it stands in several, you must say which.
        """,
        examples=(
            ("lmstudio-bridge uninstall", "from Claude Code"),
            ("lmstudio-bridge uninstall vscode --scope project --yes", "from .vscode/mcp.json, without a question"),
        ),
        exit_codes={0: "taken out, or it was not there", 1: "you said no, or the file can't be changed"},
        variables=("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"),
    )
    add_place_arguments(parser)


def run(args: argparse.Namespace, _: Redactor) -> int:
    """Show the change, ask, and write."""
    from lmstudio_bridge.cli.hosts import SCOPES
    from lmstudio_bridge.cli.registering import carry_out, place_for, say
    from lmstudio_bridge.cli.registration import plan_entry
    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.files import read_text

    scopes = (args.scope,) if args.scope else SCOPES[args.host]
    places = [place_for(args, scope) for scope in scopes]
    changes = [plan_entry(place, read_text(place.path), None) for place in places]
    found = [change for change in changes if change.needed]
    if not found:
        looked = ", ".join(dict.fromkeys(str(place.path) for place in places))
        say(f"{NAMES[args.host]} has no entry for the bridge: {looked}")
        return EXIT_OK
    if len(found) > 1:
        listed = ", ".join(f"{change.place.scope} ({change.place.path})" for change in found)
        raise SettingsError(f"The bridge stands in several scopes: {listed}.", remedy="Choose one with --scope.")
    code = carry_out(found[0], args, question="Take it out?")
    if code == EXIT_OK and not args.dry_run:
        say("What it left on disk (journals of runs) is told in docs/claude-code.md.")
    return code
