"""Another framework as it does the tasks: in a process with an environment of its own, over the same servers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from lmstudio_bridge.evals.runner import Job, Work
from lmstudio_bridge.events import Outcome
from scripts.tools.bench.peers import PEERS, cache_folder, install
from scripts.tools.engine.server import CHECKOUT

PEER = "pydantic-ai"


def peer_work(url: str) -> Work:
    """Do a task with the peer, which is installed first if need be; `url` is the engine's.

    Raises:
        BenchError: It cannot be installed.
    """
    peer = next(each for each in PEERS if each.name == PEER)
    cache = cache_folder(Path.home())
    install(peer, cache)
    python = peer.environment(cache) / "bin" / "python"

    async def work(job: Job) -> Outcome:
        request = {
            "url": url,
            "model": job.model,
            "task": job.task.text,
            "servers": json.loads(job.sandbox.mcp_config.read_text(encoding="utf-8"))["mcpServers"],
            "max_rounds": job.limits.max_rounds,
            "max_tokens": job.limits.max_tokens,
        }
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            python,
            "-m",
            "scripts.tools.engine.with_pydantic_ai",
            cwd=job.sandbox.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(job.limits.seconds):
                out, err = await process.communicate(json.dumps(request).encode())
        except TimeoutError:
            return Outcome("deadline", seconds=time.monotonic() - began)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        seconds = time.monotonic() - began
        try:
            found = json.loads(out)
        except ValueError:
            return Outcome("failed", error=err.decode(errors="replace")[-2_000:], seconds=seconds)
        return Outcome(
            found["stop"],
            found["answer"],
            found["error"],
            rounds=found["rounds"],
            calls=found["calls"],
            seconds=seconds,
        )

    return work
