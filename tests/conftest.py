"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline, because a busy machine is not a fault of the code; scripts/fuzz looks for longer.
settings.register_profile("tests", deadline=None, max_examples=50)
settings.load_profile("tests")
