"""fast-agent: an agent without a history between its tasks, its model the generic provider's; nothing is shown."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path

from fast_agent import FastAgent

from scripts.tools.bench.line import COMMAND_VARIABLE, URL_VARIABLE, serve_line
from scripts.tools.bench.task import MODEL, SERVER


def settings() -> str:
    """The settings file; JSON is YAML."""
    command, *arguments = json.loads(os.environ[COMMAND_VARIABLE])
    quiet = {"type": "none", "progress_display": False, "show_chat": False, "show_tools": False}
    return json.dumps(
        {
            "default_model": f"generic.{MODEL}",
            "generic": {"api_key": "none", "base_url": f"{os.environ[URL_VARIABLE]}/v1"},
            "mcp": {"servers": {SERVER: {"command": command, "args": arguments}}},
            "logger": quiet,
        }
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fastagent.config.yaml"
        file.write_text(settings(), encoding="utf-8")
        fast = FastAgent("bench", config_path=str(file), parse_cli_args=False, quiet=True, isolated=True, home=folder)

        @fast.agent(name="worker", instruction="", servers=[SERVER], use_history=False)  # type: ignore[untyped-decorator]  # it is not installed here
        async def run() -> None:
            async with fast.run() as app:

                async def work(task: str) -> str:
                    return str(await app.worker.send(task))

                await serve_line(work)

        await run()


if __name__ == "__main__":
    asyncio.run(main())
