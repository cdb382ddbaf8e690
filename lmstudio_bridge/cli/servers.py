"""`lmstudio-bridge servers`: the MCP servers that the bridge may use."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands
from lmstudio_bridge.cli.help import add_command

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "servers",
        "list the MCP servers that are configured",
        """
        Lists the MCP servers that the files name: whether the bridge may use each, why not, and where it comes from.
        None is started; `doctor` does that.
        """,
        examples=(("lmstudio-bridge servers", "a table"), ("lmstudio-bridge servers --json", "for a program")),
        variables=("LMSTUDIO_BRIDGE_MCP_CONFIG", "LMSTUDIO_BRIDGE_TRUST", "NO_COLOR"),
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list in place of the table")


def run(settings: Settings, args: argparse.Namespace, _: Redactor) -> int:
    """Print them, and on stderr what the user should know about the files."""
    from lmstudio_bridge.cli.terminal import print_table
    from lmstudio_bridge.mcp_client.discovery import load_servers
    from lmstudio_bridge.runs.report import SERVER_COLUMNS, server_rows
    from lmstudio_bridge.text import one_line

    catalog = load_servers(
        explicit=settings.mcp_config, project=settings.project, environ=os.environ, trusted=settings.trust
    )
    rows = server_rows(catalog)
    if args.json:
        print(json.dumps([dict(zip(SERVER_COLUMNS, row, strict=True)) for row in rows], ensure_ascii=False))
    else:
        print_table(sys.stdout, SERVER_COLUMNS, rows, environ=os.environ, empty="No MCP servers are configured.")
    about = [each for told in catalog.server_warnings.values() for each in told]
    remedies = [catalog.refusal(name).remedy for name in sorted(catalog.unapproved)]
    for line in (*catalog.warnings, *about, *remedies):
        print(one_line(line), file=sys.stderr)
    return EXIT_OK
