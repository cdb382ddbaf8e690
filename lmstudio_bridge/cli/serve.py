"""`lmstudio-bridge serve`: serves MCP on stdio, which is what a host starts."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands
from lmstudio_bridge.cli.help import add_command
from lmstudio_bridge.collector import collector_paused

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    add_command(
        commands,
        "serve",
        "serve MCP on stdio (the default)",
        """
        Serves MCP on stdin and stdout until the program that started it goes away. That program is
        Claude Code or another one with MCP servers; `lmstudio-bridge install` registers it there. Logs
        go to stderr.
        """,
        examples=(("lmstudio-bridge", "the same as lmstudio-bridge serve"),),
        exit_codes={0: "the other side has closed the connection"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "LMSTUDIO_BRIDGE_LOG_LEVEL"),
    )


def run(settings: Settings, _: argparse.Namespace, redactor: Redactor) -> int:
    """Serve until the host goes away.

    Raises:
        SettingsError: There is no way to a host.
    """
    if sys.stdin is None or sys.stdout is None:  # as Python has it for those that were closed when it started
        from lmstudio_bridge.errors import SettingsError

        raise SettingsError(
            "stdin or stdout is closed, and an MCP server speaks with its host over them.",
            remedy="Let a host start it: `lmstudio-bridge install` registers it there.",
        )
    with collector_paused():
        from lmstudio_bridge.server.tools import build_server, serve

        server = build_server(settings, environ=os.environ, redactor=redactor)
    serve(server)
    return EXIT_OK
