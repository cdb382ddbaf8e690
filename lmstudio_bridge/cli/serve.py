"""`lmstudio-bridge serve`: serves MCP on stdio."""

from __future__ import annotations

import os
import sys

from lmstudio_bridge.cli.arguments import EXIT_OK
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.server.tools import build_server, serve
from lmstudio_bridge.settings import Settings


def serve_host(settings: Settings, redactor: Redactor) -> int:
    """Serve until the host closes the connection.

    Raises:
        SettingsError: stdin or stdout is closed.
    """
    if sys.stdin is None or sys.stdout is None:  # None if they were closed when Python started
        raise SettingsError(
            "stdin or stdout is closed. An MCP server talks to its host over them.",
            remedy="Let a host start the bridge: `lmstudio-bridge install` registers it there.",
        )
    serve(build_server(settings, environ=os.environ, redactor=redactor))
    return EXIT_OK
