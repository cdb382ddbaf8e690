"""`lmstudio-bridge install`: registers the bridge in a program that can start it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands, add_place_arguments
from lmstudio_bridge.cli.help import add_command
from lmstudio_bridge.cli.hosts import NAMES

if TYPE_CHECKING:
    from lmstudio_bridge.cli.hosts import Place
    from lmstudio_bridge.cli.registration import Program
    from lmstudio_bridge.security.redact import Redactor


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "install",
        "register the bridge in Claude Code, or in another program",
        """
        Puts the entry for the bridge into the file in which the program keeps its MCP servers, so that
        the program starts it. The change is shown as a diff first, and you are asked. Everything else
        in the file stays as it is, and what the file was is kept beside it. Claude Code's files are
        changed by its own command `claude mcp add-json`, if it is there and the entry has no secret.

        Values of variables that may be secrets are never shown.
        """,
        examples=(
            ("lmstudio-bridge install", "for Claude Code, in all folders"),
            ("lmstudio-bridge install --scope project", "for all who work on the project here"),
            ("lmstudio-bridge install cursor --dry-run", "show what would be written for Cursor"),
            ("lmstudio-bridge install --base-url http://10.0.0.5:1234 --max-access read --yes", "from a script"),
            ("lmstudio-bridge install --env LM_API_TOKEN", "take over a variable of this shell, unseen"),
        ),
        exit_codes={0: "registered, or it was already", 1: "you said no, or the file can't be changed"},
        variables=("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"),
    )
    add_place_arguments(parser)
    parser.add_argument("--base-url", metavar="URL", help="LM Studio's address (LMSTUDIO_BASE_URL in the entry)")
    parser.add_argument("--model", metavar="NAME", help="model for calls that name none (DEFAULT_MODEL in the entry)")
    parser.add_argument(
        "--max-access",
        choices=("read", "write"),
        help="most that a call may ask for (LMSTUDIO_BRIDGE_MAX_ACCESS in the entry)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="variable for the entry, several times for several; without a value, it is taken from this shell",
    )
    parser.add_argument("--print", action="store_true", help="print the JSON to paste by hand, and do nothing")


def run(args: argparse.Namespace, _: Redactor) -> int:
    """Show the change, ask, and write."""
    import shutil
    import sysconfig

    from lmstudio_bridge.cli.registering import carry_out, place_for, say
    from lmstudio_bridge.cli.registration import NAME as ENTRY
    from lmstudio_bridge.cli.registration import (
        Program,
        check_shareable,
        hidden_variables,
        make_entry,
        own_program,
        plan_entry,
        snippet,
    )
    from lmstudio_bridge.files import read_text

    place = place_for(args, args.scope or "user")
    env = _variables(args)
    check_shareable(env, place)
    program = own_program(
        argv0=sys.argv[0], prefix=sys.prefix, scripts=sysconfig.get_path("scripts"), python=sys.executable
    )
    if place.scope == "project":
        program = Program("uvx", (ENTRY,))  # a path of this machine is of no use to the others
    elif program.command == "uvx" and place.host != "claude-code":
        # A program that is started from a desktop often has a PATH without uvx.
        program = Program(shutil.which("uvx") or "uvx", program.args)
    entry = make_entry(program, env, place)
    if args.print:
        print(snippet(entry, place))
        for name in hidden_variables(entry):
            say(f"Put the value of {name} in the place of <{name}>.")
        return EXIT_OK
    change = plan_entry(place, read_text(place.path), entry)
    title = NAMES[place.host]
    if not change.needed:
        say(f"{title} has the bridge already: {place.path}")
        return EXIT_OK
    _tell_what_to_know(place, program)
    what = "Replace the entry that is there" if change.old is not None else "Write this"
    code = carry_out(change, args, question=f"{what}?")
    if code == EXIT_OK and not args.dry_run:
        say(_next_step(place))
    return code


def _variables(args: argparse.Namespace) -> dict[str, str]:
    """What the entry says in `env`; looked through as the bridge will look at it when it starts."""
    from lmstudio_bridge.cli.registration import read_variables
    from lmstudio_bridge.cli.surroundings import current_folder
    from lmstudio_bridge.settings import read_settings

    named = {
        "LMSTUDIO_BASE_URL": args.base_url,
        "DEFAULT_MODEL": args.model,
        "LMSTUDIO_BRIDGE_MAX_ACCESS": args.max_access,
    }
    env = {name: value for name, value in named.items() if value is not None}
    env |= read_variables(args.env, environ=os.environ)
    read_settings({name: value for name, value in env.items() if "${" not in value}, cwd=current_folder())
    return env


def _tell_what_to_know(place: Place, program: Program) -> None:
    from lmstudio_bridge.cli.registering import say

    if not place.path.parent.is_dir():
        say(f"The folder {place.path.parent} is not there yet and will be made. Is the program installed?")
    if place.host == "lm-studio":
        say(
            "LM Studio's own chat gets the bridge by this: a model there hands tasks to a model of the same LM Studio, "
            "which then holds two, or unloads the one that is waiting. The bridge itself leaves out its own entry, so "
            "it never works for itself."
        )
    if "archive-v" in sys.prefix or program.command == "uvx":
        say("The first start under uvx may take long. `uvx lmstudio-bridge --version` makes the next ones fast.")


def _next_step(place: Place) -> str:
    match place.host:
        case "claude-code":
            approve = "approve the server when it asks, " if place.scope == "project" else ""
            return (
                f"Start Claude Code anew, {approve}and ask it to use lmstudio-bridge with one of your MCP servers. "
                "`lmstudio-bridge doctor` checks the rest."
            )
        case "claude-desktop" | "cursor" | "vscode" | "lm-studio":
            return f"Start {NAMES[place.host]} anew. `lmstudio-bridge doctor` checks the rest."
