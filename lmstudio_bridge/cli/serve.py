"""`lmstudio-bridge serve`: serves MCP on stdio."""

from __future__ import annotations

import logging
import os
import sys

from lmstudio_bridge.cli.arguments import EXIT_OK
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.server.tools import build_server
from lmstudio_bridge.settings import Settings

logger = logging.getLogger(__name__)


def serve_host(settings: Settings, redactor: Redactor) -> int:
    """Serve until the host closes stdin, sends a signal or is gone.

    Raises:
        SettingsError: stdin or stdout is closed.
    """
    if sys.stdin is None or sys.stdout is None:  # None if they were closed when Python started
        raise SettingsError(
            "stdin or stdout is closed. An MCP server talks to its host over them.",
            remedy="Let a host start the bridge: `lmstudio-bridge install` registers it there.",
        )
    if sys.platform != "win32":
        os.set_blocking(sys.stdin.fileno(), True)  # whoever shares it may have made it non-blocking
    server = build_server(settings, environ=os.environ, redactor=redactor)
    try:
        server.run("stdio")
    except* BrokenPipeError:
        logger.info("the host is gone: nobody reads our output")
    return EXIT_OK
