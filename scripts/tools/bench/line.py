"""How the bench speaks with a loop in its process: a line of JSON with tasks in, a line with their answers out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

URL_VARIABLE = "BENCH_URL"
COMMAND_VARIABLE = "BENCH_COMMAND"
"""Names of the environment variables with the address of the model, and with the MCP server's command as JSON."""

ANSWERS = "BENCH ANSWERS "
"""Begins the lines with answers: some frameworks write their log to stdout as well."""


async def serve_line(work: Callable[[str], Awaitable[str]]) -> None:
    """Do the tasks of each line, all at once, until stdin ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers = await asyncio.gather(*map(work, json.loads(line)))
        print(f"{ANSWERS}{json.dumps(answers)}", flush=True)
