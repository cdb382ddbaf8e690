"""`lmstudio-bridge completion --names`: the names that the shells complete, asked for at each Tab."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from contextlib import suppress

from lmstudio_bridge.cli.arguments import EXIT_OK, NameKind
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.runs.journal import is_item_run, list_journals
from lmstudio_bridge.runs.resume import LAST
from lmstudio_bridge.settings import Settings

_SAFE = re.compile(r"[\w./@:+-]+")  # bash would run what a name of a project's server holds between `$(` and `)`
_TIMEOUT = 1.0  # seconds to wait for LM Studio
_SHOWN_RUNS = 30


async def print_names(settings: Settings, kind: NameKind) -> int:
    """Print the names, one a line; none if they can't be had."""
    with suppress(BridgeError, OSError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT):
            names = await _find_names(settings, kind)
        print("\n".join(name for name in names if _SAFE.fullmatch(name)))
    return EXIT_OK


async def _find_names(settings: Settings, kind: NameKind) -> Iterable[str]:
    match kind:
        case "runs":
            runs = [run_id for _, _, run_id in list_journals(settings.home / "runs") if not is_item_run(run_id)]
            return [LAST, *reversed(runs[-_SHOWN_RUNS:])]
        case "servers":
            from lmstudio_bridge.mcp_client.discovery import servers_of_settings

            catalog = servers_of_settings(settings, environ=os.environ)
            return [*catalog.servers, *catalog.unapproved]
        case "models":
            from lmstudio_bridge.lmstudio.client import open_client

            token = settings.api_token.get_secret_value() if settings.api_token else None
            async with open_client(settings.root_url, api_token=token, ca_file=settings.ca_file) as client:
                return [model.key for model in (await client.validator.catalog(refresh=True)).chat_models()]
