"""Settings of all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# No limit of time, because a busy machine is not a fault of the code; scripts/fuzz looks for longer.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("tests")


_SLOW = ("contract", "real", "unit/scripts", "unit/mcp_client", "unit/evals")  # folders whose files take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not any(f"/tests/{folder}/" in item.path.as_posix() for folder in _SLOW))
