"""What LM Studio's own command `lms` tells and HTTP doesn't: its version, and which models go away by themselves.

Best effort: where the command is missing, slow, or speaks otherwise, nothing is said. The shapes are
those of the lms of August 2026 (`ps --json`, `daemon status --json`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping

import anyio

from lmstudio_bridge.cli.doctor.checks import Check

_LIMIT = 5.0  # seconds for one command
_END_TIMEOUT = 1.0  # seconds for one that was killed to be gone


async def check_lms(environ: Mapping[str, str], *, instance: str | None, limit: float = _LIMIT) -> AsyncIterator[Check]:
    """Ask `lms` about an LM Studio that runs on this machine; `instance` is the model in memory that would be used."""
    command = shutil.which("lms", path=environ.get("PATH", ""))
    if command is None:
        return
    status = await _ask(command, "daemon", "status", "--json", environ=environ, limit=limit)
    if isinstance(status, dict) and isinstance(version := status.get("version"), str):
        yield Check("lm_studio", "LM Studio's version", "ok", version[:40])
    loaded = await _ask(command, "ps", "--json", environ=environ, limit=limit)
    for model in loaded if isinstance(loaded, list) else ():
        if not isinstance(model, dict) or model.get("identifier") != instance:
            continue
        idle = model.get("ttlMs")
        if isinstance(idle, int | float) and idle > 0:
            key = str(model.get("modelKey") or instance)
            yield Check(
                "model",
                "Idle time",
                "warning",
                f"{instance} was loaded just in time: it is unloaded after {idle / 60_000:.0f} minutes without a "
                "request, and with «Only Keep Last JIT Loaded Model» as soon as another model is named.",
                f"Load it by hand, and it stays: `lms load {key}`.",
            )


async def _ask(command: str, *arguments: str, environ: Mapping[str, str], limit: float) -> object:
    """The JSON that the command prints; None where there is none in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(limit):
            out, _ = await process.communicate()
        answer: object = json.loads(out)
    except (TimeoutError, ValueError, RecursionError):
        return None
    else:
        return answer
    finally:
        if process.returncode is None:
            process.kill()
            with anyio.move_on_after(_END_TIMEOUT, shield=True):
                await process.wait()
