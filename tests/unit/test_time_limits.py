"""A busy machine fails no test of properties."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, settings

from tests.support.shell import ROOT


def test_hypothesis_limits_no_time() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def test_no_test_sets_a_limit_of_its_own() -> None:
    folders = (ROOT / "tests" / "unit", ROOT / "tests" / "contract", ROOT / "scripts")
    texts = {path: path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")}
    assert [path for path, text in texts.items() if re.search(r"deadline=\s*(\d|timedelta)", text)] == []
