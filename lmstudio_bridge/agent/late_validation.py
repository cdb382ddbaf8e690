"""`agent.validation`, imported when it is first needed: it takes longer than all else of ours that a call needs."""

from __future__ import annotations

import importlib
import sys

import anyio.to_thread

from lmstudio_bridge.messages import JSONObject

_VALIDATION = "lmstudio_bridge.agent.validation"


async def load_validation() -> None:
    """Import what checks values, in a thread, before the first call needs it.

    No server needs it to start: so the first run does it while its servers start.
    """
    if _VALIDATION not in sys.modules:
        await anyio.to_thread.run_sync(importlib.import_module, _VALIDATION)


async def check_schema(schema: JSONObject) -> str | None:
    """What is wrong with a schema that a caller gave us, as `validation` says it."""
    await load_validation()
    from lmstudio_bridge.agent import validation

    return validation.check_schema(schema)
