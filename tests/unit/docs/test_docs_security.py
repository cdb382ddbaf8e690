"""docs/security.md and security-details.md say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from lmstudio_bridge.security.workspace import PROTECTED

ROOT = Path(__file__).parents[3]


def test_the_protected_files_are_named() -> None:
    text = (ROOT / "docs" / "contributing" / "security-details.md").read_text(encoding="utf-8")
    paragraph = text.partition("## Protected files\n")[2].partition("\n## ")[0]

    assert all(f"`{name}`" in paragraph.casefold() for name in PROTECTED)


def test_each_promise_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "contributing" / "security-details.md").read_text(encoding="utf-8")
    promises = text.partition("## Promises and their tests")[2].partition("\n## ")[0].splitlines()[4:]
    rows = [re.findall(r"`(\S+)::(test_\w+)`", line) for line in promises if line]

    assert len(rows) == 10
    for row in rows:
        file = ""
        for named, test in row:
            file = file if named == "…" else named
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")
