"""How much of a big result the model reads."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.conversation import MAX_CHARS, MIN_CHARS, holds_nothing, result_limit, says_failed


@pytest.mark.parametrize(
    ("context_length", "limit"),
    [
        (None, MAX_CHARS // 2),
        (0, MIN_CHARS),
        (999, MIN_CHARS),
        (1_000, MIN_CHARS),
        (1_001, MIN_CHARS + 1),
        (8_192, 8_192),
        (39_999, MAX_CHARS - 1),
        (40_000, MAX_CHARS),
        (40_001, MAX_CHARS),
        (1_000_000, MAX_CHARS),
    ],
)
def test_one_result_may_take_a_quarter_of_the_context(context_length: int | None, limit: int) -> None:
    assert result_limit(context_length) == limit


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("", True),
        (" \n", True),
        ("[]", True),
        ("{}", True),
        ("null", True),
        ('{\n  "entities": [],\n  "relations": [{}]\n}', True),
        ("No matches found", True),
        ("0 results", True),
        ("Nothing was found.", True),
        ("0", False),
        ("false", False),
        ('{"total": 0}', False),
        ('["a"]', False),
        ("Notes: no matches", False),
        ("No. 5 is the file of Hana. It has matches.", False),
        ("[" * 199, False),
        (" " * 201, False),
    ],
)
def test_a_result_of_a_search_holds_nothing_only_if_it_says_so_alone(text: str, nothing: bool) -> None:
    assert holds_nothing(text) is nothing


@pytest.mark.parametrize(
    "text",
    [
        "Database error: no such table: users",  # mcp-server-sqlite
        "Error: UNIQUE constraint failed: users.id",
        "Error executing tool create_issue: 403 Forbidden",  # FastMCP
        "Input validation error: 'title' is too long",
        "IntegrityError: duplicate key",
        "MCP error -32603: fetch failed",
        "Error while creating the page: the parent is archived",
        "\u274c Error: quota exceeded",
        "Failed to create issue: Bad credentials",
        "Unable to send the message.",
        "Access denied - path outside allowed directories",
        "HTTP 500 Internal Server Error",
        '{"error": "401 Unauthorized"}',
        '{"error": {"code": 404, "message": "Not Found"}}',
        '{"success": false, "error": "quota"}',
        '{"ok":false,"error":"channel_not_found"}',  # Slack
    ],
)
def test_a_line_that_begins_with_an_error_says_that_a_change_failed(text: str) -> None:
    assert says_failed(text)
    assert not says_failed(f"Done.\n{text}")
    assert not says_failed(text + "x" * 300)


@pytest.mark.parametrize(
    "text",
    [
        "Successfully wrote to errors.md",
        "Successfully moved error.log to old/error.log",
        "No errors",
        "No error: all rows were written",
        "Error log cleared",
        "Error handling added: 3 functions",
        "Error page created: /404.html",
        "Error: none",
        "Errors: 0",
        "Failed jobs: 0",
        "Failed: 0, passed: 12",
        "0 failed, 12 passed",
        "Failed to find a branch, but one was created.",
        "Created issue #7: Error: login fails",
        "Logged error: disk full",
        "Changes committed successfully with hash 3f2a1b",  # mcp-server-git
        "[main 3f2a1b] Error: say which file is missing",
        "[{'affected_rows': 1}]",  # mcp-server-sqlite
        '{"error": null, "id": 5}',
        '{"error": "", "id": 5}',
        '{"id": 7, "title": "Error: login fails", "state": "open"}',
        '{"success": true, "error": null}',
        '{"ok": true, "warnings": ["failed to notify bob"]}',
        '{"errors": [], "created": 3}',
        "Entity created successfully",
        "done",
        "null",
        "[]",
        "",
    ],
)
def test_a_line_that_only_speaks_of_errors_says_nothing_of_failure(text: str) -> None:
    assert not says_failed(text)
