"""A server with one tool, of the bare SDK: every run works with it, and our own start is measured against its.

`python tool_server.py LEDGER` writes a line into the file LEDGER at each start; with a number as a second argument
it has so many tools.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field

READS = ToolAnnotations(read_only_hint=True)
server = MCPServer("bench")


@server.tool(annotations=READS, structured_output=False)
async def echo(text: Annotated[str, Field(description="What to do in this step")]) -> str:
    """Take one step, and say what came of it."""
    return f"Done: {text}. The next step can be taken now, if there is one; nothing else has changed meanwhile."


def add_tool(number: int) -> None:
    """One of many tools with some arguments."""

    @server.tool(name=f"look_up_record_{number}", annotations=READS, structured_output=False)
    async def look_up(
        query: Annotated[str, Field(description="What to look for, in a few words")],
        folder: Annotated[str, Field(description="Where to look; a full path")] = "/",
        limit: Annotated[int, Field(ge=1, le=100, description="Most records that are given")] = 10,
        exact: Annotated[bool, Field(description="Whether the words must stand there just so")] = False,
    ) -> str:
        """Look up records of one kind by words in them, newest first, with their dates and their owners."""
        return f"{number}: no record has {query!r} in {folder}; {limit} {exact}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open("a", encoding="utf-8") as ledger:
            ledger.write(f"{os.getpid()}\n")
    for more in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        add_tool(more)
    server.run("stdio")
