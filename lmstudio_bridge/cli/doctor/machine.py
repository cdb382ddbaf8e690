"""The bridge itself: versions, settings, and the folder in which it leaves its journals."""

from __future__ import annotations

import difflib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from lmstudio_bridge import __version__
from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.settings import Settings, variables_of

_LIBRARIES = ("mcp", "httpx", "pydantic")
_PREFIX = "LMSTUDIO_BRIDGE_"


def check_versions() -> Check:
    """What runs here."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return Check(
        "bridge",
        "Bridge",
        "ok",
        f"lmstudio-bridge {__version__}, Python {platform.python_version()}, {libraries}; {platform.platform()}",
    )


def check_settings(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Which variables are set; those that hold secrets by their name only."""
    known = _variables()
    given = [name for name in known if environ.get(name, "").strip()]
    shown = [name if known[name] else f"{name}={environ[name].strip()}" for name in given]
    yield Check("bridge", "Settings", "ok", ", ".join(shown) or "none set, so all are as they come")
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            yield Check(
                "bridge", "Settings", "warning", f"{name} is no setting.", f"{hint}All are in docs/settings.md."
            )
    if settings.depth:
        yield Check(
            "bridge",
            "Depth",
            "failed",
            "This bridge was started by another bridge, as one of its MCP servers, and takes no tasks.",
            "Take it out of the MCP servers that the bridge may use, or disable it there.",
        )


def check_journals(settings: Settings) -> Check:
    """Whether journals can be written, how many there are and how large they are."""
    runs = settings.home / "runs"
    if settings.journal == "off":
        return Check("journals", "Journals", "ok", "none are kept (LMSTUDIO_BRIDGE_JOURNAL=off)")
    problem = _unwritable(runs)
    if problem:
        return Check(
            "journals",
            "Journals",
            "failed",
            f"{runs} can't be written: {problem}.",
            "Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to.",
        )
    sizes = [path.stat().st_size for path in runs.glob("*.jsonl")] if runs.is_dir() else []
    bounds = f"kept for {settings.journal_days:g} days, at most {settings.journal_mb:,} MB"
    found = f"{runs}: {len(sizes):,} runs, {sum(sizes) / 1024**2:,.1f} MiB ({bounds})"
    return Check("journals", "Journals", "ok", found)


def _variables() -> dict[str, bool]:
    """Every variable of the settings, and whether its value is a secret."""
    known = {"LMSTUDIO_HOST": False, "LMSTUDIO_PORT": False}
    for name, field in Settings.model_fields.items():
        known |= dict.fromkeys(variables_of(name), "SecretStr" in str(field.annotation))
    return known


def _unwritable(folder: Path) -> str:
    """Why nothing can be written there; "" if something can. A folder that is not there yet is not made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        if there != folder:
            if not there.is_dir():
                return f"{there} is no folder"
            return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} is not yours to write to"
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)
