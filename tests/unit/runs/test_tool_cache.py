"""The tool cache on disk: what is stored of a server's tools, where, and which files are not trusted."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.runs import tool_cache as tool_cache
from lmstudio_bridge.runs.tool_cache import (
    CachedTools,
    Shown,
    ToolCache,
    UnreadableCacheError,
    shown_tools,
)
from lmstudio_bridge.runs.tool_changes import ToolHistory
from lmstudio_bridge.security.redact import MARK, Redactor
from tests.support.fakes import ManualClock

CONFIG = ServerConfig("git", "stdio", command="uvx", args=("mcp-server-git",), source=Path("/a"), scope="user")
LOG = ServerTool("git", "log", "Shows the log.", {"type": "object", "properties": {"n": {"type": "integer"}}}, True)
ODD = ServerTool("git", "odd", "Größe \u202e", title="Odd", hints={"destructiveHint": True}, doubted=True)
CANARY = "canary-51c0ffee"


@pytest.fixture
def store(tmp_path: Path) -> ToolCache:
    return ToolCache(tmp_path / "home" / "catalogues", values=[CANARY], clock=ManualClock())


def write(store: ToolCache, *tools: ServerTool, config: ServerConfig = CONFIG) -> Path:
    store.write(config, CachedTools(store.storable(config, tools)))
    return store.path(config)


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels, the leaf counted."""
    schema: Any = "leaf"
    for _ in range(levels - 1):
        schema = {"x": schema}
    assert isinstance(schema, dict)
    return schema


def test_what_is_written_is_read_again(store: ToolCache) -> None:
    history = {"0123": ToolHistory(unmarked=True, seen=("d1", "a2")), "4567": ToolHistory(unmarked=False)}
    kept = CachedTools((LOG, ODD), history, complete=False)

    store.write(CONFIG, kept)

    assert store.read(CONFIG) == kept
    assert store.known_tools(CONFIG) == (LOG, ODD)


def test_disabled_tools_are_not_known(store: ToolCache) -> None:
    write(store, LOG, ODD)

    assert store.known_tools(replace(CONFIG, disabled_tools=("odd",))) == (LOG,)
    assert store.known_tools(replace(CONFIG, only_tools=("log",))) == (LOG,)


def test_a_server_that_was_never_listed_has_no_cache(store: ToolCache) -> None:
    assert store.read(CONFIG) is None
    assert store.known_tools(CONFIG) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_files_are_the_owners_alone(store: ToolCache) -> None:
    path = write(store, LOG)

    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [each.name for each in path.parent.iterdir()] == [path.name], "nothing is left beside it"


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, name="git2"),
        replace(CONFIG, args=("mcp-server-git", "--repository", "x")),
        replace(CONFIG, command="npx"),
        replace(CONFIG, scope="local"),
        replace(CONFIG, source=Path("/b")),
        replace(CONFIG, transport="http", url="http://localhost/mcp"),
    ],
)
def test_another_entry_has_a_file_of_its_own(store: ToolCache, other: ServerConfig) -> None:
    write(store, LOG)

    assert store.read(other) is None


def test_secrets_of_an_entry_are_in_neither_the_name_nor_the_file(store: ToolCache) -> None:
    """Two tokens of one server are one server, and a server that prints its token into a description keeps it."""
    secret = replace(CONFIG, env={"API_TOKEN": "tok-123456"}, headers={"Authorization": "Bearer abc-def-ghi"})
    schema = {"type": "object", "properties": {"q": {"enum": ["tok-123456", [CANARY]]}}}
    path = write(store, ServerTool("git", "x", f"abc-def-ghi {CANARY}", schema), config=secret)

    assert path == store.path(CONFIG)
    assert not any(word in path.read_text(encoding="utf-8") for word in ("tok-123456", "abc-def-ghi", CANARY))
    kept = store.read(CONFIG)
    assert kept is not None
    assert kept.tools is not None
    assert kept.tools[0].description == f"{MARK} {MARK}"


def test_what_json_and_utf8_cannot_say_is_kept_in_other_words(store: ToolCache) -> None:
    """Half characters come from JavaScript servers; NaN from Python ones."""
    write(store, ServerTool("git", "half\ud800", "\udc00", {"type": "object", "maximum": float("nan")}))

    kept = store.read(CONFIG)
    assert kept is not None
    assert kept.tools == (ServerTool("git", "half\\ud800", "\\udc00", {"type": "object", "maximum": "nan"}),)


@pytest.mark.parametrize(("levels", "whole"), [(63, True), (64, True), (65, False), (5_000, False)])
def test_a_schema_that_is_too_deep_is_not_kept(store: ToolCache, levels: int, whole: bool) -> None:
    write(store, ServerTool("git", "deep", "", nested(levels)))

    kept = store.read(CONFIG)
    assert kept is not None
    assert kept.tools is not None
    assert (kept.tools[0].input_schema == nested(levels)) is whole


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"version": 1, "server": "git", "listed_at": 0, "complete": true, "history": {}, "tools": []}',
        b'{"version": 2, "server": "git", "listed_at": "soon", "complete": true, "history": {}, "tools": []}',
        b'{"version": 2, "server": "git", "listed_at": 0, "complete": true, "history": {}, "tools": [{"name": "log"}]}',
        b'{"version": 2, "server": "git", "listed_at": 0, "complete": true, "history": {"x": 1}, "tools": []}',
        b'{"version": 2, "server": "git", "listed_at": 0, "tools": []}',
        b'{"version": 2, "server": "git", "listed_at": 0, "tools": ' + b"[" * 100_000,
    ],
)
def test_a_file_that_we_would_not_write_is_not_believed(
    store: ToolCache, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(store, LOG)
    path.write_bytes(content)

    with caplog.at_level(logging.WARNING), pytest.raises(UnreadableCacheError, match="damaged"):
        store.read(CONFIG)
    assert store.known_tools(CONFIG) is None
    assert str(path) in caplog.text
    write(store, LOG)
    assert store.known_tools(CONFIG) == (LOG,)


def test_half_a_file_is_not_believed_wherever_it_was_cut(store: ToolCache) -> None:
    path = write(store, LOG)
    whole = path.read_bytes()

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert store.known_tools(CONFIG) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_plain_file_is_not_read(store: ToolCache, tmp_path: Path, kind: str) -> None:
    path = write(store, LOG)
    match kind:
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "link":
            path.rename(tmp_path / "other")
            path.symlink_to(tmp_path / "other")
        case _:
            path.unlink()
            path.mkdir()

    assert store.known_tools(CONFIG) is None


@pytest.mark.parametrize(("more", "read"), [(-1, True), (0, True), (1, False)])
def test_a_file_has_a_most_of_bytes(store: ToolCache, more: int, read: bool) -> None:
    path = write(store, LOG)
    path.write_bytes(path.read_bytes().ljust(tool_cache.MAX_BYTES + more))

    assert (store.known_tools(CONFIG) == (LOG,)) is read


@pytest.mark.parametrize(
    ("description", "seen", "kept_tools", "kept_seen"),
    [(100, 1, True, True), (tool_cache.MAX_BYTES, 1, False, True), (100, tool_cache.MAX_BYTES, False, False)],
)
def test_names_and_marks_are_kept_however_much_else_there_is(
    store: ToolCache, description: int, seen: int, kept_tools: bool, kept_seen: bool
) -> None:
    tools = (replace(LOG, description="x" * description),)
    history = {"0123": ToolHistory(unmarked=True, seen=("s" * seen,))}

    assert store.write(CONFIG, CachedTools(tools, history)) == ""
    assert store.read(CONFIG) == CachedTools(
        tools if kept_tools else None, history if kept_seen else {"0123": ToolHistory(unmarked=True)}
    )
    assert store.known_tools(CONFIG) == (tools if kept_tools else None)


def test_the_largest_history_fits_into_a_file(store: ToolCache) -> None:
    history = {f"{number:016x}": ToolHistory(unmarked=False) for number in range(tool_cache.MAX_HISTORY)}

    assert store.write(CONFIG, CachedTools(None, history)) == ""
    assert store.path(CONFIG).stat().st_size < tool_cache.MAX_BYTES


@pytest.mark.parametrize(("age", "known"), [(-1.0, False), (0.0, True), (0.999, True), (1.0, False)])
def test_what_is_long_ago_is_not_known_any_more(tmp_path: Path, age: float, known: bool) -> None:
    clock = ManualClock()
    clock.now = 5 * tool_cache.MAX_AGE
    store = ToolCache(tmp_path, clock=clock)
    write(store, LOG)

    clock.now += age * tool_cache.MAX_AGE
    assert (store.known_tools(CONFIG) is not None) is known
    assert store.read(CONFIG) is not None, "but its changes are still noticed"


def test_the_oldest_files_go_first(store: ToolCache) -> None:
    configs = [replace(CONFIG, name=f"s{number}") for number in range(tool_cache.MAX_FILES + 1)]
    for number, config in enumerate(configs[:-1]):
        os.utime(write(store, LOG, config=config), (number, number))
    write(store, LOG, config=configs[1])
    assert store.read(configs[0]) is not None, "an old file that is written anew takes no room"
    write(store, LOG, config=configs[-1])

    left = [config.name for config in configs if store.read(config) is None]
    assert left == ["s0"]
    assert len(list(store.path(CONFIG).parent.iterdir())) == tool_cache.MAX_FILES


def test_a_folder_that_cannot_be_written_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = ToolCache(tmp_path / "file" / "catalogues")

    write(store, LOG)

    assert store.known_tools(CONFIG) is None
    assert "cannot be written" in caplog.text


def test_a_mark_that_cannot_be_recorded_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    checked = ToolCache(tmp_path / "file" / "catalogues").check(CONFIG, (LOG,))

    assert checked.tools == (replace(LOG, read_only=False, doubted=True),)
    assert "read-only marks of its tools do not count: " in checked.warnings[-1]


# -- what the model may know --------------------------------------------------------------------

TOKEN = "hunter22-correct-horse"
READ = ServerTool("fs", "read", f"Reads with {TOKEN}.", {"type": "object", "properties": {"a": {"default": TOKEN}}})
HIDDEN = ServerTool("fs", f"read_{TOKEN}")
PLAIN = ServerTool("fs", "list", "Lists.", title=f"List {TOKEN}")


def test_secrets_are_redacted_and_tools_named_by_one_are_left_out() -> None:
    shown = shown_tools((READ, HIDDEN, PLAIN), Redactor([TOKEN]))

    cleaned = {"type": "object", "properties": {"a": {"default": "[secret]"}}}
    assert shown == Shown(
        (
            ServerTool("fs", "read", "Reads with [secret].", cleaned),
            ServerTool("fs", "list", "Lists.", title="List [secret]"),
        ),
        left_out=1,
    )


def test_the_name_of_a_server_stays_although_it_is_a_secret_too() -> None:
    assert shown_tools((ServerTool("memory", "read"),), Redactor(["memory"])).tools == (ServerTool("memory", "read"),)
