"""What most contract tests start from; a module with another desk or shell has fixtures of its own."""

from __future__ import annotations

from tests.support.desk import desk, era, shared_bridges
from tests.support.shell import shell, sim

__all__ = ["desk", "era", "shared_bridges", "shell", "sim"]
