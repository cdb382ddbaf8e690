"""A folder that no path leads to, not even for root: what is in it can only be reached piece by piece."""

from __future__ import annotations

import os
from pathlib import Path


def make_unreadable(folder: Path) -> None:
    """Make folders in one another, until a path to the last one is too long for the system."""
    opened = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("deep" * 60, dir_fd=opened)
        above, opened = opened, os.open("deep" * 60, os.O_RDONLY, dir_fd=opened)
        os.close(above)
    os.close(opened)
