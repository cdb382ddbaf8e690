"""Settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No limit of time, because a busy machine is not a fault of the code; scripts/fuzz looks for longer.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("tests")
