"""What it costs to make the catalogue of very many tools; in this process, for nothing of it waits for another."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from lmstudio_bridge.agent.tools import ToolSelection, ToolSet
from lmstudio_bridge.messages import ServerTool
from scripts.tools.bench.figures import BRIDGE, Figure, add_sample
from scripts.tools.bench.plan import Plan
from scripts.tools.bench.task import task_of

SERVERS = 10
TOOLS = 20  # of each server
ROUND = "a warm round"
ROOM = 32_768  # characters for the tools with a context of 32k tokens: not all fit, so they have to be ranked
_MILLI = 1_000.0

_SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "What to look for, in a few words"},
        "folder": {"type": "string", "default": "/", "description": "Where to look; a full path"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10, "description": "Most records"},
        "exact": {"type": "boolean", "default": False, "description": "Whether the words must stand there just so"},
    },
    "required": ["query"],
}


def many_tools() -> list[ServerTool]:
    """Tools as servers list them: no part of one is a part of another."""
    words = "Look up records of kind {} in area {} by words in them, newest first, with dates and owners."
    schema = json.dumps(_SCHEMA)
    return [
        ServerTool(f"server{server}", f"look_up_{number}", words.format(number, server), json.loads(schema), True)
        for server in range(SERVERS)
        for number in range(TOOLS)
    ]


def measure_catalogue(plan: Plan, rounds: Sequence[float]) -> list[Figure]:
    """CPU time to build the catalogue and choose from it, over the CPU times of a warm round (ms)."""
    title = f"catalogue of {SERVERS * TOOLS} tools from {SERVERS} servers"
    note = "once per run, over the bridge's own warm round"
    figure = Figure("catalogue", f"{title}, CPU", "ms", reference=ROUND, bar=5.0, note=note)
    for number in range(plan.catalogue_passes):
        tools = many_tools()
        began = time.process_time()
        build_catalogue(tools)
        add_sample(figure, BRIDGE, (time.process_time() - began) * _MILLI)
        add_sample(figure, ROUND, rounds[number % len(rounds)])
    return [figure]


def build_catalogue(tools: Sequence[ServerTool]) -> ToolSelection:
    """What a run does with the tools before its first round."""
    tool_set = ToolSet(tools)
    return ToolSelection(tool_set.tools, task_of(0, rounds=1), max_chars=ROOM)
