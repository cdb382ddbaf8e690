"""How many requests a model may get at once, by what LM Studio says of it."""

from __future__ import annotations

import pytest

from lmstudio_bridge.lmstudio.models import ModelChoice
from lmstudio_bridge.lmstudio.session import slot_count
from lmstudio_bridge.lmstudio.wire import OldNativeModelIn


@pytest.mark.parametrize(("state", "count"), [("not-loaded", 1), ("loading", 1), ("loaded", 4)])
def test_a_model_gets_one_request_until_it_is_loaded(state: str, count: int) -> None:
    """Each further request to a model that is being loaded could load an instance more."""
    info = OldNativeModelIn(id="tiny", state=state).to_info()
    instance = info.instances[0] if info.instances else None

    assert slot_count(ModelChoice("tiny", info, instance, source="/api/v0/models", wanted="tiny"), 4) == count
