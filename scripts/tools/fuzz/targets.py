"""What is fuzzed: each target takes any bytes, and fails where our code does not keep its word about them.

The word is: typed errors and no others, no hang, texts that UTF-8 can say, and the laws that stand in the targets.
Used by `test_fuzz` with kept seeds and with hypothesis, and by `harness` under coverage guidance.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from lmstudio_bridge.agent.arguments import read_arguments, read_json
from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.json_calls import describe_tools, json_turns, partial_answer, read_reply, reply_schema
from lmstudio_bridge.agent.reply_checks import classify_reply, plain_turns
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.schemas import MAX_NODES, object_schema, simple_spec
from lmstudio_bridge.agent.structured_output import OutputSchema
from lmstudio_bridge.agent.tools import PreparedCall, ToolSelection, ToolSet, UnstartedServers
from lmstudio_bridge.agent.untrusted import Delimiter
from lmstudio_bridge.cli.files import find_member, read_root, remove_member, set_member
from lmstudio_bridge.errors import BridgeError, LLMError, McpConfigError, RunNotFoundError, SettingsError
from lmstudio_bridge.lmstudio.failures import error_from_response
from lmstudio_bridge.lmstudio.stream import Accumulator, ChunkDecoder
from lmstudio_bridge.lmstudio.tool_call_parsers import recover_calls, split_reasoning
from lmstudio_bridge.lmstudio.wire import message_out
from lmstudio_bridge.mcp_client.discovery import load_servers
from lmstudio_bridge.mcp_client.repair import decode_line, read_progress, read_result, read_tools
from lmstudio_bridge.messages import Completion, Message, ServerConfig, ServerTool, ToolCall, ToolMessage, ToolSpec
from lmstudio_bridge.runs.journal import open_journal, read_events
from lmstudio_bridge.runs.progress import describe
from lmstudio_bridge.runs.resume import continuation, read_run, rebuild_conversation
from lmstudio_bridge.runs.server_selection import choose_servers
from lmstudio_bridge.runs.tool_cache import CheckedTools, ToolCache, UnreadableCacheError
from lmstudio_bridge.runs.tool_changes import tool_key
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.rule_files import FILE, load_rules
from lmstudio_bridge.settings import read_settings
from lmstudio_bridge.text import clean_text

SEPARATOR = b"\n%%\n"
"""Between the parts of an input that has several."""


def fuzz_stream(data: bytes) -> None:
    """The bytes of a chat stream give the same reply however they are cut, or an error of ours."""
    step, stream = (data[0] % 7 + 1, data[1:]) if data else (1, b"")
    whole = _read_stream([stream])
    assert whole == _read_stream([stream[at : at + step] for at in range(0, len(stream), step)])
    if not isinstance(whole, Completion):
        return
    _check_text(whole.text, whole.reasoning, whole.model, *(call.arguments for call in whole.calls))
    ids = [call.id for call in whole.calls]
    assert len(set(ids)) == len(ids)
    classify_reply(whole, tools_offered=True)


def _read_stream(pieces: list[bytes]) -> Completion | str:
    numbers = count(1)
    accumulator = Accumulator(
        tools=[ToolSpec(name, "", {}) for name in ("f", "files__read")], new_id=lambda: f"call{next(numbers)}"
    )
    decoder = ChunkDecoder(max_bad_frames=3)
    try:
        for piece in pieces:
            for chunk in decoder.feed(piece):
                accumulator.add(chunk)
        for chunk in decoder.flush():
            accumulator.add(chunk)
    except LLMError as exc:
        return f"{type(exc).__name__}: {exc.explain()}"
    return accumulator.completion()


def fuzz_errors(data: bytes) -> None:
    """An error body of LM Studio becomes an error of ours, or none."""
    status = 200 + (data[0] if data else 0) * 2
    error = error_from_response(status, data[1:], url="http://localhost", model="m", retry_after=None)
    assert error is not None or status < 400
    assert error is None or error.explain()


def fuzz_dialects(data: bytes) -> None:
    """Whatever a model writes: calls and reasoning are found in it without a fault."""
    text = data.decode("utf-8", "replace")
    rest, thinking = split_reasoning(text)
    assert len(rest) + len(thinking) <= len(text)
    left, calls = recover_calls(text, tools={"list_files": {}, "f": {}, "fs__read_file": {}})
    assert calls or left == text
    for call in calls:
        assert call.name  # its halves of characters are mended by the accumulator
    partial_answer(text)
    numbers = count(1)
    reply = read_reply(Completion(text), new_id=lambda: str(next(numbers)))
    if reply is not None:
        _check_text(reply.text, *(part for call in reply.calls for part in (call.name, call.arguments)))
    classify_reply(Completion(text), tools_offered=True)


def fuzz_tools(data: bytes) -> None:
    """What a server lists becomes tools that can be sent to any engine, and calls of them are prepared or refused."""
    listing, text = _parts(data, 2)
    try:
        decoded = json.loads(listing)
    except (ValueError, RecursionError):
        return
    toolbox = ToolSet(read_tools("server", decoded if isinstance(decoded, list) else [decoded]))
    for spec in toolbox.specs:
        _check_json([spec.name, spec.description, spec.parameters])
        assert _count_schemas(spec.parameters) <= MAX_NODES + 100
        assert _is_equal(object_schema(spec.parameters).parameters, spec.parameters)  # what is clean stays as it is
        _check_json(simple_spec(spec).parameters)
        prepared = toolbox.prepare_call(ToolCall("1", spec.name, text))
        if isinstance(prepared, PreparedCall):
            _check_json(prepared.arguments)
            Policy("read").check_call(prepared.tool, prepared.arguments)
        else:
            _check_text(prepared.text)
    _check_json(reply_schema(toolbox.specs))
    _check_text(describe_tools(toolbox.specs))
    ToolSelection(toolbox.tools, text, max_chars=500).find(text)


def fuzz_schemas(data: bytes) -> None:
    """A caller's output schema is refused in words, or checks a value in bounded time."""
    schema_text, value_text = _parts(data, 2)
    try:
        schema, value = json.loads(schema_text), json.loads(value_text)
    except (ValueError, RecursionError):
        return
    if not isinstance(schema, dict):
        return
    try:
        problem = OutputSchema(schema).find_problem(value)
    except ValueError as exc:
        problem = str(exc)
    assert problem is None or len(problem) < 2_000


def fuzz_arguments(data: bytes) -> None:
    """A model's text for arguments becomes values that JSON can say, or a ValueError with a reason."""
    text, schema_text = _parts(data, 2)
    try:
        schema = json.loads(schema_text)
    except (ValueError, RecursionError):
        schema = {}
    parameters = object_schema(schema if isinstance(schema, dict) else {}).parameters
    with suppress(ValueError):
        arguments = read_arguments(text, parameters)
        _check_json(arguments.values)
        again = read_arguments(json.dumps(arguments.values), parameters)
        assert _is_equal(again.values, arguments.values)  # what was brought into shape stays as it is
    with suppress(ValueError):
        _check_json(read_json(text))


def fuzz_results(data: bytes) -> None:
    """A result of a tool is text in a delimiter that it cannot leave, and can be read whole, page by page."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raw = {"content": [{"type": "text", "text": data.decode("utf-8", "surrogateescape")}]}
    if not isinstance(raw, dict):
        raw = {"content": raw}
    result = read_result(raw)
    text, unseen = clean_text(result.text)
    assert unseen >= 0
    assert clean_text(text) == (text, 0)
    _check_text(text)
    delimiter = Delimiter("kmzpqrst")
    wrapped = delimiter.wrap(text)
    assert wrapped.lower().count(delimiter.mark) == 2
    assert delimiter.mark.lower() not in delimiter.take_out(wrapped).lower()
    shelf = ResultStore(40)
    shown = shelf.show(text)
    assert shown == "(no output)" or len(shown) < 400
    if len(text) <= 40 or len(text) > 4_000 or not text.strip():
        return
    pages: list[str] = []
    while sum(map(len, pages)) < len(text):
        answer = shelf.answer(ToolCall("1", "read_result", json.dumps({"id": "r1", "offset": sum(map(len, pages))})))
        assert answer is not None
        assert not answer[1]
        pages.append(answer[0].rpartition("\n[r1, ")[0])
    assert "".join(pages) == text
    searched = shelf.answer(ToolCall("2", "search_result", json.dumps({"id": "r1", "text": text[3:9]})))
    assert searched is not None
    assert "does not occur" not in searched[0]


def fuzz_lines(data: bytes) -> None:
    """A line of a server is messages, or something else (ValueError); a progress text is one short line."""
    with suppress(ValueError):
        decode_line(data)
    text = data.decode("utf-8", "surrogateescape")
    assert len(read_progress(1, 2, text)) < 300


def fuzz_config(data: bytes) -> None:
    """Files with MCP servers, of Claude Code and of LM Studio: catalogued, or one clear error."""
    kind, text = (data[0] % 4, data[1:]) if data else (0, b"")
    with _folder() as folder:
        home, project = folder / "home", folder / "home" / "project"
        (home / ".lmstudio").mkdir(parents=True)
        (project / ".claude").mkdir(parents=True)
        state = text.replace(b"@PROJECT@", str(project).encode())
        places = (project / ".mcp.json", home / ".claude.json", home / ".lmstudio" / "mcp.json")
        place = (*places, project / ".claude" / "settings.local.json")[kind]
        place.write_bytes(state)
        if kind == 3:
            (project / ".mcp.json").write_text('{"mcpServers": {"a": {"command": "x"}}}', encoding="utf-8")
        environ = {"HOME": str(home), "TOKEN": "t"}
        for explicit in (None, place):
            try:
                catalog = load_servers(explicit=explicit, project=project, environ=environ, trusted=("a",))
            except McpConfigError as exc:
                _check_words(exc.explain())
                continue
            for name in (*catalog.servers, *catalog.unapproved, *catalog.skipped, "x"):
                try:
                    repr(catalog.require(name))
                except BridgeError as exc:
                    _check_words(exc.explain())


def fuzz_rules(data: bytes) -> None:
    """Rule files, and the environment: rules and settings, or a SettingsError."""
    with _folder() as folder:
        (folder / FILE).write_bytes(data)
        try:
            load_rules(project=folder, environ={"HOME": str(folder)})
        except SettingsError as exc:
            _check_words(exc.explain())
    text = data.decode("utf-8", "replace").replace("\0", "")
    pairs = [line.partition("=") for line in text.splitlines()]
    try:
        read_settings({name.strip(): value for name, _, value in pairs}, cwd=Path("/"))
    except SettingsError as exc:
        _check_words(exc.explain())


def fuzz_journal(data: bytes) -> None:
    """A journal, cut or forged: the run as far as it can be read, or RunNotFoundError; written again it is the same."""
    with _folder() as folder:
        (folder / "run.jsonl").write_bytes(data)
        try:
            stored = read_run(folder, "run")
        except RunNotFoundError:
            return
        asyncio.run(_write_again(folder, stored.events))
        for event in stored.events:
            describe(event, max_rounds=1)
        assert len(read_events(folder / "again.jsonl")) == len(stored.events)
        try:
            conversation = rebuild_conversation(stored)
            added = continuation(stored, conversation, instructions="go on") if conversation.messages else ()
            for message in added:
                conversation.add(message)
        except RunNotFoundError:
            return
        _send(conversation)


def fuzz_changes(data: bytes) -> None:
    """What a server had and what it lists now: no new mark of reading is believed, and nothing is told twice."""
    stored, listing, task = _parts(data, 3)
    config = ServerConfig("server", "stdio")
    try:
        decoded = json.loads(listing)
    except (ValueError, RecursionError):
        decoded = []
    tools = read_tools("server", decoded if isinstance(decoded, list) else [decoded])
    with _folder() as folder:
        store = ToolCache(folder, clock=lambda: 0.0)
        store.path(config).write_text(stored, encoding="utf-8", newline="")
        try:
            before = store.read(config)
        except UnreadableCacheError:
            before = None
        _choose(store.known_tools(config), task)
        taken = store.check(config, tools)
        for warning in taken.warnings:
            _check_words(warning)
        for said, counted in zip(tools, taken.tools, strict=True):
            assert counted.name == said.name
            past = before.history.get(tool_key(said)) if before else None
            assert not (counted.read_only and past and past.unmarked)
        assert store.check(config, tools) == CheckedTools(taken.tools)
        _choose(store.known_tools(config), task)


def _choose(tools: tuple[ServerTool, ...] | None, task: str) -> None:
    choice = choose_servers(task, {"server": tools, "other": ()}, max_chars=1_000)
    assert choice.started
    for line in choice.started.values():
        _check_text(line)
        assert line.isprintable()
    UnstartedServers({"server": tools or ()}, start=_never).fitting(task, ())


async def _never(server: str) -> tuple[ServerTool, ...]:
    raise AssertionError(server)


async def _write_again(folder: Path, events: tuple[Any, ...]) -> None:
    with open_journal(folder, "again") as journal:
        for event in events:
            journal.keep(event)


def _send(conversation: Conversation) -> None:
    """What is done with a conversation before it goes out."""
    turns: list[Message] = [*conversation.messages]
    for form in (turns, plain_turns(turns), json_turns(turns, ())):
        json.dumps([message_out(message) for message in form], ensure_ascii=False).encode("utf-8", "replace")
    assert not any(isinstance(message, ToolMessage) for message in plain_turns(turns))


def fuzz_catalogue(data: bytes) -> None:
    """A file with the tools that a server had: as we would write it, or one error of ours."""
    config = ServerConfig("server", "stdio", "x")
    with _folder() as folder:
        store = ToolCache(folder, clock=lambda: 1_000_000.0)
        store.path(config).write_bytes(data)
        store.known_tools(config)
        with suppress(UnreadableCacheError):
            catalogue = store.read(config)
            assert catalogue is not None
            for spec in ToolSet(catalogue.tools or ()).specs:
                _check_json([spec.name, spec.description, spec.parameters])


def fuzz_edits(data: bytes) -> None:
    """Another program's file: what is put into it stands there, what is taken out is gone, and the rest stays."""
    text = data.decode("utf-8", "replace")
    keys = ("mcpServers", "bridge")
    try:
        changed = set_member(text, keys, {"command": "x"})
        removed = remove_member(changed, keys)
    except ValueError:
        return
    before, after = read_root(text), read_root(changed)
    assert find_member(after, keys) == {"command": "x"}
    assert find_member(read_root(removed), keys) is None
    assert {key: before[key] for key in before if key != keys[0]} == {
        key: after[key] for key in after if key != keys[0]
    }


def fuzz_secrets(data: bytes) -> None:
    """A secret that is known stands nowhere in what was redacted, however the text around it looks."""
    secret = "s3cr3t/V4lue+0123456789"
    text = data.decode("utf-8", "surrogateescape").replace("@SECRET@", secret)
    assert secret not in Redactor([secret]).redact(text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "stream": fuzz_stream,
    "errors": fuzz_errors,
    "dialects": fuzz_dialects,
    "tools": fuzz_tools,
    "schemas": fuzz_schemas,
    "arguments": fuzz_arguments,
    "results": fuzz_results,
    "lines": fuzz_lines,
    "config": fuzz_config,
    "rules": fuzz_rules,
    "journal": fuzz_journal,
    "catalogue": fuzz_catalogue,
    "changes": fuzz_changes,
    "edits": fuzz_edits,
    "secrets": fuzz_secrets,
}


def _parts(data: bytes, number: int) -> list[str]:
    parts = data.decode("utf-8", "replace").split(SEPARATOR.decode(), number - 1)
    return [*parts, *[""] * (number - len(parts))]


def _check_text(*texts: str) -> None:
    for text in texts:
        text.encode("utf-8")


def _check_words(text: str) -> None:
    """A message to a person: there is one, and it is no flood."""
    assert text
    assert len(text) < 20_000


def _check_json(value: Any) -> None:
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _count_schemas(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_count_schemas, value.values()))
    return sum(map(_count_schemas, value)) if isinstance(value, list) else 0


def _is_equal(one: Any, other: Any) -> bool:
    """As JSON: true is not 1, and a name is in its place."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
