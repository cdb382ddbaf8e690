"""docs/security.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from lmstudio_bridge.security.workspace import PROTECTED

ROOT = Path(__file__).parents[3]


def test_the_protected_files_are_named() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    [paragraph] = [part for part in text.split("\n\n") if part.startswith("**Protected files**")]

    assert all(f"`{name}`" in paragraph.casefold() for name in PROTECTED)
