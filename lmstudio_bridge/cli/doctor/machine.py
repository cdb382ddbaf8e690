"""The bridge itself: versions, settings, and the folder for its journals."""

from __future__ import annotations

import difflib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from lmstudio_bridge import DOCS, __version__
from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.runs.journal import is_item_run, list_journals
from lmstudio_bridge.runs.telemetry import telemetry_problem, wanted_signals
from lmstudio_bridge.settings import Settings, variables_of
from lmstudio_bridge.text import counted

_LIBRARIES = ("mcp", "httpx", "pydantic")
_PREFIX = "LMSTUDIO_BRIDGE_"


def check_versions() -> Check:
    """Versions of the bridge, Python, the main libraries and the system."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    found = f"lmstudio-bridge {__version__}, Python {platform.python_version()}, {libraries}; {platform.platform()}"
    return Check("bridge", "Bridge", "ok", found)


def check_settings(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """The variables that are set (only the names of those that hold secrets), and unknown ones."""
    known = _variables()
    given = [name for name in known if environ.get(name, "").strip()]
    shown = [name if known[name] else f"{name}={environ[name].strip()}" for name in given]
    yield Check("bridge", "Settings", "ok", ", ".join(shown) or "none set, all defaults")
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            known_ends = [each.removeprefix(_PREFIX) for each in known if each.startswith(_PREFIX)]
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), known_ends, n=1)
            hint = f"Did you mean {_PREFIX}{near[0]}? " if near else ""
            remedy = f"{hint}See {DOCS}/settings.md."
            yield Check("bridge", "Settings", "warning", f"{name} is not a known setting.", remedy)
    if problem := telemetry_problem(environ):
        yield Check("bridge", "OpenTelemetry", "warning", problem.message, problem.remedy)
    elif signals := wanted_signals(environ):
        sent = " and ".join(signals).lower()
        yield Check("bridge", "OpenTelemetry", "ok", f"{sent} of runs are sent to the receiver that OTEL_* names")
    if settings.depth:
        found = "This bridge was started by another bridge, as one of its MCP servers, and takes no tasks."
        remedy = "Remove the bridge from the MCP servers that the bridge may use, or disable it there."
        yield Check("bridge", "Depth", "failed", found, remedy)


def check_journals(settings: Settings) -> Check:
    """Whether journals can be written, how many there are, and their size."""
    runs = settings.home / "runs"
    if settings.journal == "off":
        return Check("journals", "Journals", "ok", "off (LMSTUDIO_BRIDGE_JOURNAL=off)")
    problem = _unwritable(runs)
    if problem:
        remedy = "Set LMSTUDIO_BRIDGE_HOME to a folder that you can write to."
        return Check("journals", "Journals", "failed", f"{runs} is not writable: {problem}.", remedy)
    journals = list_journals(runs)
    count = sum(not is_item_run(run_id) for *_, run_id in journals)
    size = sum(size for _, size, _ in journals)
    bounds = f"kept for {settings.journal_days:g} days, at most {settings.journal_mb:,} MB"
    found = f"{runs}: {counted(count, 'run')}, {size / 1024**2:,.1f} MiB ({bounds})"
    return Check("journals", "Journals", "ok", found)


def _variables() -> dict[str, bool]:
    """Every variable of the settings, and whether its value is secret."""
    known = {"LMSTUDIO_HOST": False, "LMSTUDIO_PORT": False}
    for name, field in Settings.model_fields.items():
        known |= dict.fromkeys(variables_of(name), "SecretStr" in str(field.annotation))
    return known


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder, or "". A missing folder is not created."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        if existing != folder:
            if not existing.is_dir():
                return f"{existing} is not a folder"
            return "" if os.access(existing, os.W_OK | os.X_OK) else f"no write permission for {existing}"
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)
