"""`lmstudio-bridge doctor`: checks every link of the chain, and says what to do."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from lmstudio_bridge.commands.arguments import EXIT_FAILED, EXIT_OK, Commands

if TYPE_CHECKING:
    from lmstudio_bridge.settings import Settings


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    commands.add_parser("doctor", help="check LM Studio, its models and the MCP servers")


async def run(settings: Settings, _: argparse.Namespace) -> int:
    """Print each check as it is done; fail where one of them does."""
    from lmstudio_bridge.autonomous import open_agent
    from lmstudio_bridge.doctor import run_checks

    passed = True
    async with open_agent(settings, environ=os.environ) as agent:
        async for check in run_checks(agent):
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}")
            if check.remedy:
                print("      " + check.remedy.replace("\n", "\n      "))
            passed = passed and check.passed
    return EXIT_OK if passed else EXIT_FAILED
