"""docs/security.md says of every bound what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmstudio_bridge import request, server
from lmstudio_bridge.agent import calls, journal, results, schemas, shelf, toolbox
from lmstudio_bridge.agent.paths import PROTECTED
from lmstudio_bridge.downstream import catalogues, connections, processes, transports
from lmstudio_bridge.llm import accumulate
from lmstudio_bridge.settings import read_settings

ROOT = Path(__file__).parent.parent
SETTINGS = read_settings({}, cwd=ROOT)
MI = 1024 * 1024


def bounds() -> dict[str, str]:
    """The table of bounds: what, and at most how much."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("## Bounds")[2]
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("requests to the model in a run", f"{request.DEFAULT_MAX_ROUNDS}; a call may ask for {request.MAX_ROUNDS:,} "),
        ("time of a run", f"{SETTINGS.run_timeout:,.0f} s "),
        ("calls of one turn", f"{calls.MAX_CALLS}"),
        ("one tool call", f"{SETTINGS.tool_timeout:.0f} s "),
        ("start of a server", f"{SETTINGS.server_start_timeout:.0f} s "),
        ("one message of a server", f"{processes.MAX_LINE // MI} MiB"),
        ("one message of a server", f"{transports.MAX_EVENT // MI} MiB"),
        (
            "what is kept of one server's tools",
            f"{catalogues.MAX_BYTES // MI} MiB, {catalogues.MAX_FILES} servers",
        ),
        ("pages of a list of tools", f"{connections.MAX_PAGES}"),
        ("schemas in one tool's schema", f"{schemas.MAX_NODES:,}"),
        ("one result that the model reads", f"a quarter of its context, {results.MAX_CHARS:,} characters"),
        ("results kept for paging", f"{shelf.MAX_KEPT // MI} Mi characters a run"),
        ("description of a tool", f"{toolbox.MAX_DESCRIPTION:,} characters"),
        ("one reply of the model", f"{accumulate.MAX_REPLY_CHARS // MI} Mi characters"),
        ("tries of a request", f"{SETTINGS.retry_attempts} "),
        ("one journal", f"{journal.MAX_BYTES // MI} MiB"),
        ("all journals", f"{SETTINGS.journal_mb} MB "),
        (
            "all journals",
            f"{SETTINGS.journal_mb} MB (`LMSTUDIO_BRIDGE_JOURNAL_MB`), each {SETTINGS.journal_days:.0f} days",
        ),
        ("the answer to Claude", f"{server.MAX_RESULT:,} characters"),
    ],
)
def test_a_bound_is_what_the_code_says(what: str, most: str) -> None:
    assert bounds()[what].startswith(most)


def test_the_protected_files_are_named() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("**Protected files**")]

    assert all(f"`{name}`" in line for name in PROTECTED)
