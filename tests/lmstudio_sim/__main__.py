"""Runs the simulator as its own process: `python -m tests.lmstudio_sim --port 0 --script FILE.json`.

The first line on stdout is the URL. SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path

from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.script_file import ScriptFile, read_script
from tests.lmstudio_sim.server import open_simulator


async def run(*, port: int, script: ScriptFile) -> list[SimRequest]:
    """Serve until a signal comes; returns the requests that came."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with open_simulator(script.models, port=port, **script.settings) as simulator:
        script.apply(simulator)
        print(simulator.url, flush=True)
        await stopped.wait()
    return simulator.requests


def _describe(request: SimRequest) -> dict[str, object]:
    return {
        "number": request.number,
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "json": request.json,
        "status": request.status,
        "outcome": request.outcome,
        "tokens_sent": request.tokens_sent,
    }


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.lmstudio_sim", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--script", type=Path, help="a script file, see script_file.py")
    parser.add_argument("--record", type=Path, help="write the requests here at the end, one JSON object a line")
    given = parser.parse_args()
    script = read_script(given.script) if given.script else ScriptFile()
    requests = asyncio.run(run(port=given.port, script=script))
    if given.record is not None:
        lines = [json.dumps(_describe(request), ensure_ascii=False) for request in requests]
        given.record.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
