"""docs/contributing/limits.md has every limit as it is in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmstudio_bridge import errors
from lmstudio_bridge.agent import arguments, options, result_store, schemas, untrusted
from lmstudio_bridge.agent import conversation as results
from lmstudio_bridge.agent import structured_output as validation
from lmstudio_bridge.agent import tool_executor as calls
from lmstudio_bridge.agent import tools as toolbox
from lmstudio_bridge.lmstudio import http as transport
from lmstudio_bridge.lmstudio import queue as slots
from lmstudio_bridge.lmstudio import stream as accumulate
from lmstudio_bridge.mcp_client import config as entries
from lmstudio_bridge.mcp_client import connection as connections
from lmstudio_bridge.mcp_client import http as transports
from lmstudio_bridge.mcp_client import json_size
from lmstudio_bridge.mcp_client import pool as pools
from lmstudio_bridge.mcp_client import repair as content
from lmstudio_bridge.mcp_client import stdio as processes
from lmstudio_bridge.runs import autonomous, changes, diffs, for_each, items, journal, preparation, report, request
from lmstudio_bridge.runs import server_selection as similarity
from lmstudio_bridge.runs import tool_cache as catalogues
from lmstudio_bridge.security import rule_files
from lmstudio_bridge.security import workspace as paths
from lmstudio_bridge.settings import read_settings
from tests.unit.mcp_client import test_memory

ROOT = Path(__file__).parents[3]
SETTINGS = read_settings({}, cwd=ROOT)
MI = 1024 * 1024
M = 1_000_000

BOUNDS: dict[str, str] = {
    "model requests": f"{request.DEFAULT_MAX_ROUNDS}",
    "run time": f"{SETTINGS.run_timeout:,.0f} s",
    "concurrent runs": f"{SETTINGS.run_limit}",
    "queued runs": f"{preparation.MAX_QUEUED}",
    "nested bridges": f"{SETTINGS.depth}",
    "tool calls per turn": f"{calls.MAX_CALLS}",
    "task or instructions": f"{request.MAX_TASK:,} characters",
    "servers named in a call": f"{request.MAX_SERVERS}",
    "items of `for_each`": f"{items.MAX_ITEMS:,}",
    "characters of an item": f"{items.MAX_ITEM:,}",
    "files looked at for a glob": f"{items.MAX_LOOKED_AT:,}",
    "model requests for one item": f"{request.DEFAULT_ITEM_ROUNDS}",
    "alike failures of items in a row": f"{for_each.MAX_ALIKE}",
    "answer returned to Claude": f"{report.MAX_RESULT:,} characters",
    "names listed in a message": f"{errors.SHOWN_NAMES}",
    "tokens per reply": f"{autonomous.AUTO_MAX_TOKENS:,}, at most a quarter of the context",
    "characters per reply": f"{accumulate.MAX_REPLY_CHARS // MI} Mi",
    "tool calls per reply": f"{accumulate.MAX_CALLS:,}",
    "one stream event": f"{accumulate.MAX_FRAME_BYTES // MI} MiB",
    "unreadable events per stream": f"{accumulate.MAX_BAD_FRAMES}",
    "response that is not streamed": f"{transport.MAX_BODY_BYTES // MI} MiB",
    "concurrent requests per model": f"its slots, or {slots.DEFAULT_PARALLEL}",
    "idle connections": f"{transport.MAX_IDLE}, each {transport.KEEPALIVE_EXPIRY:.0f} s",
    "attempts per request": f"{SETTINGS.retry_attempts}",
    "nesting of arguments": f"{arguments.MAX_NESTING}",
    "nesting searched for paths": f"{paths.MAX_DEPTH}",
    "arguments that are repaired": f"{arguments.MAX_REPAIR:,} characters",
    "first start with `npx`, `uvx`, `docker` and the like": f"{pools.INSTALL_TIMEOUT:.0f} s",
    "server start": f"{SETTINGS.server_start_timeout:.0f} s",
    "one tool call": f"{SETTINGS.tool_timeout:.0f} s",
    "open servers": f"{SETTINGS.max_servers}",
    "idle server": f"{SETTINGS.server_idle:.0f} s",
    "compressed responses": "one coding",
    "memory for one server": f"{test_memory.ROOM // M} MB",
    "requests of a server that takes no answers": f"stdio: {processes.MAX_UNREAD // MI} MiB with "
    f"{processes.REQUEST_COST:,} bytes for each; HTTP: {transports.MAX_UNREAD}",
    "unfinished replies of a server over HTTP": f"{transports.MAX_OPEN:,}",
    "compressed answers": "gzip",
    "one message": f"{json_size.MAX_MESSAGE // MI} MiB, {json_size.MAX_VALUES:,} values; "
    f"{transports.MAX_EVENT // MI} MiB as an event over HTTP",
    "one message over SSE": "1 MiB",  # the MCP SDK's; test_http meets it
    "text per result": f"{content.MAX_TEXT // MI} Mi characters",
    "text per result that the model can page through": f"{calls.MAX_PAGED // MI} Mi characters; more for "
    "`find_text` and `read_files`",
    "blocks per result": f"{content.MAX_BLOCKS:,}",
    "images per result": f"{content.MAX_IMAGES}",
    "text shown to the model per result": f"{results.MAX_CHARS:,} characters, at most a quarter of the context",
    "result store": f"{result_store.MAX_KEPT // MI} Mi characters a run",
    "tools per server": f"{content.MAX_TOOLS:,}",
    "pages per tool list": f"{connections.MAX_PAGES}",
    "tool name": f"{content.MAX_NAME} characters",
    "tool description": f"{toolbox.MAX_DESCRIPTION:,} characters",
    "instructions of a server": f"{untrusted.MAX_INSTRUCTIONS:,} characters each, together a sixteenth of the context",
    "tool schema": f"{content.MAX_SCHEMA:,} characters, {content.MAX_LEVELS} levels",
    "subschemas per tool schema": f"{schemas.MAX_NODES:,}",
    "subschemas per run": f"{schemas.MAX_WORK:,}",
    "cached tool embeddings": f"{similarity.MAX_VECTORS} of one embedding model",
    "tool cache on disk": f"{catalogues.MAX_BYTES // MI} MiB, {catalogues.MAX_FILES} servers",
    "tools a server ever listed": f"{catalogues.MAX_HISTORY:,}",
    "`output_schema`": f"{validation.MAX_SCHEMA:,} characters, {validation.MAX_LEVELS} levels",
    "checks of one call's arguments": f"{arguments.MAX_CHECKS:,}",
    "steps per check of an answer": f"{validation.MAX_STEPS:,}",
    "one pattern": f"{validation.MAX_PATTERN:,} characters",
    "patterns per `output_schema`": f"{validation.MAX_PATTERNS}",
    "file of MCP servers": f"{entries.MAX_BYTES // MI} MiB",
    "rules file": f"{rule_files.MAX_BYTES // MI} MiB",
    "copies of the files that one run changes": f"{changes.MAX_BYTES // M} MB, {changes.MAX_FILE // M} MB each; "
    f"{changes.MAX_IN_MEMORY // M} MB in all without a full journal",
    "a folder that is moved or deleted": f"{changes.MAX_FILES:,} files and folders",
    "diffs of one run": f"{changes.MAX_DIFFS:,} characters, {diffs.MAX_DIFF:,} each; {diffs.MAX_TEXT // M} MB and "
    f"{diffs.MAX_LINES:,} lines of text per file, {changes.MAX_COMPARED // M} MB in all",
    "comparing files at the end of a run": f"{options.FINISH_TIMEOUT:.0f} seconds, {changes.MAX_READ // M} MB",
    "one journal": f"{journal.MAX_BYTES // MI} MiB",
    "all journals, with copies of files": f"{SETTINGS.journal_mb} MB, {SETTINGS.journal_days:.0f} days",
}


def rows() -> list[list[str]]:
    """The rows of all tables: what, limit, at the limit, change it with."""
    lines = (ROOT / "docs" / "contributing" / "limits.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "what"]


def test_the_tables_have_every_limit_as_it_is_in_the_code() -> None:
    assert {row[0]: row[1] for row in rows()} == BOUNDS


def test_every_limit_says_what_happens_and_how_to_change_it() -> None:
    assert [row for row in rows() if len(row) != 4 or not all(row)] == []


@pytest.mark.parametrize("argument", ["max_rounds", "max_tokens"])
def test_the_largest_value_of_an_argument_is_listed(argument: str) -> None:
    most = {"max_rounds": request.MAX_ROUNDS, "max_tokens": request.MAX_TOKENS}[argument]

    assert any(row[3] == f"`{argument}` of a call, up to {most:,}" for row in rows())
