"""The arguments of the tools that the host sees."""

from __future__ import annotations

from typing import Any

import pytest

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.server.tools import autonomous_with_write_access


@pytest.mark.parametrize(
    "given",
    [
        {"mcp_names": ["fs"]},
        {"for_each": "*.md"},
        {"agent": "reviewer"},
        {"combine": "Add up."},
        {"combine_schema": {"type": "object"}},
    ],
)
def test_nothing_of_a_new_run_is_silently_left_out_when_one_is_continued(given: dict[str, Any]) -> None:
    with pytest.raises(BridgeError, match=f"{next(iter(given))} cannot be given with run_id"):
        autonomous_with_write_access("Go on.", run_id="20261129-101112-abcde", **given)
