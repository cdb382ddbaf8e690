"""`lmstudio-bridge models`: what LM Studio has."""

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
        "models",
        "list the models in LM Studio",
        """
        Lists the models in LM Studio: loaded or not, the context in tokens, how many requests at once, and whether
        LM Studio marks them as trained for tools. Nothing is loaded.
        """,
        examples=(("lmstudio-bridge models", "a table"), ("lmstudio-bridge models --json", "for a program")),
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "NO_COLOR"),
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list in place of the table")


async def run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Print them."""
    from lmstudio_bridge.cli.terminal import print_table
    from lmstudio_bridge.runs.autonomous import open_agent
    from lmstudio_bridge.runs.report import MODEL_COLUMNS, model_json, model_rows

    async with open_agent(settings, environ=os.environ, redactor=redactor) as agent:
        catalog = await agent.client.validator.catalog(refresh=True)
    if args.json:
        print(json.dumps([model_json(model) for model in catalog.models], ensure_ascii=False))
    else:
        print_table(
            sys.stdout, MODEL_COLUMNS, model_rows(catalog), environ=os.environ, empty="LM Studio has no models."
        )
    return EXIT_OK
