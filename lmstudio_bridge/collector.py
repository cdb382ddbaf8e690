"""Python's garbage collector, out of the way while modules are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """For a block that imports much: what it makes is no garbage, and stays out of all later collections too.

    Else the collector looks at the same hundred thousands of objects again and again: a tenth of the MCP SDK's import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
