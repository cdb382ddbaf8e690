"""`lmstudio-bridge serve`: serves MCP on stdio, which is what a host starts."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from lmstudio_bridge.commands.arguments import EXIT_OK, Commands

if TYPE_CHECKING:
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    commands.add_parser("serve", help="serve MCP on stdio (the default)")


def run(settings: Settings, _: argparse.Namespace) -> int:
    """Serve until the host goes away."""
    from lmstudio_bridge.server import serve

    serve(settings, environ=os.environ)
    return EXIT_OK
