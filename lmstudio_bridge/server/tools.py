"""The MCP tools: their arguments, and results and errors as the host's model reads them.

The server speaks both protocol eras (2026-07-28, and the handshakes before it).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as RegisteredTool
from mcp.types import CallToolResult, GetPromptResult, InputRequiredResult, Resource, TextContent, Tool, ToolAnnotations
from pydantic import Field, ValidationError

from lmstudio_bridge import __version__
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.messages import Access
from lmstudio_bridge.runs.items import MAX_ITEMS
from lmstudio_bridge.runs.report import MAX_RESULT
from lmstudio_bridge.runs.request import (
    DEFAULT_ITEM_ROUNDS,
    DEFAULT_MAX_ROUNDS,
    MAX_COMBINE,
    MAX_NAME,
    MAX_ROUNDS,
    MAX_SERVERS,
    MAX_TASK,
    MAX_TOKENS,
    ContinueRequest,
    RunRequest,
)
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.server.approval import HostedRun, drop_invalid_answers
from lmstudio_bridge.server.lifespan import App, incomplete_installation, open_app
from lmstudio_bridge.server.resources import add_resources
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import as_shown, as_utf8, first_line

if TYPE_CHECKING:
    from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent

logger = logging.getLogger(__name__)

MAX_SECONDS = 86_400
_LISTED_RUNS = 10  # in the list of resources
REPORT_META = "lmstudio-bridge/report"  # key of the structured report in a result's _meta
WRITING = "autonomous_with_write_access"  # the one tool whose runs may change things
_SHOWN_INPUT = 80  # characters of a bad argument that are quoted back

_INTERNAL_ERROR = (
    "Internal error in the bridge; the run was not finished.\n"
    "Please report it with the server's stderr output (in Claude Code: `claude --debug`)."
)
_ANSWERED_TWICE = "The run that asked is no longer waiting for an answer. Fetch its result with continue_run."
INSTRUCTIONS = (
    "Hands a task to a local model in LM Studio, which works on it by itself with the user's other MCP servers; only "
    "its answer comes back, so the files and results that it reads cost you nothing. Worth it for reading and "
    "summarizing many files, searching, extracting facts, bulk edits of a simple kind; for_each does one task for "
    "many files or texts. Not for hard reasoning, or for one or two calls that you can make yourself. The local model "
    "sees nothing of this conversation: put everything that it needs into the task (full paths, what to look for, the "
    "form of the answer), and check what it says. A server's name is the middle part of its tools' names: "
    "mcp__NAME__tool. Several read-only calls in one turn run at the same time. {changes} A run takes from seconds to "
    "many minutes; one that was interrupted or lost is kept: continue_run."
)
_CHANGES = (
    "Only autonomous_with_write_access changes things; the other tools do so only where the user, asked during the "
    "run, approves that very call."
)
_NO_CHANGES = "Nothing can be changed."  # with LMSTUDIO_BRIDGE_MAX_ACCESS=read

Task = Annotated[str, Field(min_length=1, max_length=MAX_TASK, description="What to do, complete in itself")]
MaxRounds = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=MAX_ROUNDS)] | None,
    Field(description=f"Limit of model requests; default {DEFAULT_MAX_ROUNDS}, per item {DEFAULT_ITEM_ROUNDS}"),
]
ForEach = Annotated[
    Annotated[list[str], Field(min_length=1)] | Annotated[str, Field(min_length=1)] | None,
    Field(description=f"Up to {MAX_ITEMS:,} texts, or a glob of files: do the task for each, as {{item}}"),
]
Combine = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_COMBINE)] | None, Field(description="How to merge the rows")
]
CombineSchema = Annotated[dict[str, Any] | None, Field(description="JSON Schema for the merged answer")]
MaxTokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)] | Literal["auto"]
Model = Annotated[str | None, Field(max_length=MAX_NAME, description="Model in LM Studio; default: a loaded one")]
OutputSchema = Annotated[dict[str, Any] | None, Field(description="JSON Schema for a JSON answer")]
Timeout = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=MAX_SECONDS)] | None,
    Field(description="Seconds; then the answer so far"),
]
RunId = Annotated[
    str, Field(min_length=1, description="Run id, from a result or lmstudio://runs; last: the newest of this project")
]
Agent = Annotated[
    str | None, Field(min_length=1, max_length=MAX_NAME, description="Subagent to act as: .claude/agents/NAME.md")
]
EarlierRun = Annotated[
    str | None, Field(min_length=1, description="Go on with this earlier run, with its servers; task says what is next")
]
Instructions = Annotated[
    str | None, Field(max_length=MAX_TASK, description="What to do next; without it: the answer again, or go on")
]
ServerName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME, description="MCP server: NAME of its tools mcp__NAME__tool")
]
ServerNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]],
    Field(min_length=1, max_length=MAX_SERVERS, description="MCP servers: NAME of their tools mcp__NAME__tool"),
]
AnyServerNames = Annotated[
    ServerNames | None, Field(description="MCP servers, as in mcp__NAME__tool; default: those it needs")
]

_UNLISTED_BOUNDS = (
    *(("maxLength", MAX_NAME), ("maxItems", MAX_SERVERS), ("minLength", 1), ("minItems", 1), ("minimum", 1)),
    *(("maximum", MAX_ROUNDS), ("maximum", MAX_SECONDS)),
    ("maxLength", MAX_COMBINE),
    ("additionalProperties", True),
)
"""Bounds that no ordinary call meets, and what is so anyway, left out of the schemas to save the caller's context."""
_UNLISTED_ARGUMENTS = frozenset({"max_tokens", "combine_schema"})
"""Accepted but not listed: callers hardly need it."""


def autonomous_with_mcp(
    mcp_name: ServerName,
    task: Task,
    max_rounds: MaxRounds = None,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    for_each: ForEach = None,
    agent: Agent = None,
    combine: Combine = None,
    combine_schema: CombineSchema = None,
) -> RunRequest:
    """Let the local model do a task that only reads, with one of the user's MCP servers."""
    names, tokens, items, merge = (mcp_name,), _tokens(max_tokens), _items(for_each), (combine, combine_schema)
    return RunRequest(task, names, max_rounds, tokens, model, timeout, output_schema, "read", items, agent, *merge)


def autonomous_with_multiple_mcps(
    mcp_names: ServerNames,
    task: Task,
    max_rounds: MaxRounds = None,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    for_each: ForEach = None,
    agent: Agent = None,
    combine: Combine = None,
    combine_schema: CombineSchema = None,
) -> RunRequest:
    """Let the local model do a task that only reads, with several of the user's MCP servers."""
    tokens, items = _tokens(max_tokens), _items(for_each)
    names, merge = tuple(mcp_names), (combine, combine_schema)
    return RunRequest(task, names, max_rounds, tokens, model, timeout, output_schema, "read", items, agent, *merge)


def autonomous_discover_and_execute(
    task: Task,
    max_rounds: MaxRounds = None,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    for_each: ForEach = None,
    agent: Agent = None,
    combine: Combine = None,
    combine_schema: CombineSchema = None,
) -> RunRequest:
    """Let the local model do a task that only reads, with the MCP servers it needs. Name them instead if you can."""
    tokens, items, merge = _tokens(max_tokens), _items(for_each), (combine, combine_schema)
    return RunRequest(task, None, max_rounds, tokens, model, timeout, output_schema, "read", items, agent, *merge)


def continue_run(
    run_id: RunId = "last",
    instructions: Instructions = None,
    max_rounds: MaxRounds = None,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
) -> ContinueRequest:
    """Fetch a run's answer again, ask it a follow-up, or go on with one that was interrupted or stopped early.

    Runs are kept, also when a call was cancelled or its result was lost.
    """
    tokens = _tokens(max_tokens)
    return ContinueRequest(run_id, instructions or "", max_rounds, tokens, model, timeout, output_schema)


def autonomous_with_write_access(
    task: Task,
    mcp_names: AnyServerNames = None,
    run_id: EarlierRun = None,
    max_rounds: MaxRounds = None,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    for_each: ForEach = None,
    agent: Agent = None,
    combine: Combine = None,
    combine_schema: CombineSchema = None,
) -> RunRequest | ContinueRequest:
    """Let the local model do a task that changes something, such as files. For reading use the other tools."""
    tokens = _tokens(max_tokens)
    if run_id is None:
        names = tuple(mcp_names) if mcp_names else None
        items, merge = _items(for_each), (combine, combine_schema)
        return RunRequest(task, names, max_rounds, tokens, model, timeout, output_schema, "write", items, agent, *merge)
    given: dict[str, Any] = {"mcp_names": mcp_names, "for_each": for_each, "agent": agent}
    given |= {"combine": combine, "combine_schema": combine_schema}
    if name := next((name for name, value in given.items() if value), ""):
        raise BridgeError(
            f"{name} cannot be given with run_id: a run goes on with its own servers, items and agent.",
            remedy="Leave out one of the two.",
        )
    return ContinueRequest(run_id, task, max_rounds, tokens, model, timeout, output_schema, "write")


def _items(for_each: list[str] | str | None) -> tuple[str, ...] | str | None:
    return tuple(for_each) if isinstance(for_each, list) else for_each


def _tokens(max_tokens: int | Literal["auto"]) -> int | None:
    return None if max_tokens == "auto" else max_tokens


def _tool(title: str, hint: str, make: Callable[..., Any], *, max_access: Access) -> RegisteredTool:
    """A tool: `make` turns its arguments into the request, and its docstring is the tool's description.

    Facts about Claude Code 2.1.332: it shows `annotations.title`; it runs calls of read-only tools in parallel; its
    permission rules know a tool's name but not its arguments, hence one tool for each risk; without `alwaysLoad` a
    server's tools are deferred, and its tool search finds them by `searchHint`. A reading tool keeps its mark though a
    call may be approved during its run (`server.approval`): by itself it changes nothing, and it says so.
    """
    writes = make.__name__ == WRITING
    only_if_approved = "" if writes or max_access == "read" else " Changes only what the user then approves."
    return RegisteredTool.from_function(
        make,
        description=" ".join((make.__doc__ or "").split()) + only_if_approved,
        annotations=ToolAnnotations(title=title, read_only_hint=not writes, destructive_hint=True if writes else None),
        meta={"anthropic/alwaysLoad": True, "anthropic/searchHint": hint},
        structured_output=False,
    )


_TOOLS: tuple[tuple[str, str, Callable[..., RunRequest | ContinueRequest]], ...] = (
    ("Delegate with one server", "delegate to local model, summarize many files", autonomous_with_mcp),
    ("Delegate with several servers", "delegate to local model, compare", autonomous_with_multiple_mcps),
    ("Delegate", "delegate to local model, search and read", autonomous_discover_and_execute),
    ("Continue a delegated run", "local model run, earlier or interrupted", continue_run),
    ("Delegate with write access", "local model, edit or change files", autonomous_with_write_access),
)


class BridgeServer(MCPServer[App]):
    """MCPServer whose tools hand tasks to the agent, with compact schemas, and with errors that say what to do."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._known = {tool.name: tool for tool in (_tool(*each, max_access=settings.max_access) for each in _TOOLS)}
        listed = [tool for name, tool in self._known.items() if settings.max_access == "write" or name != WRITING]
        super().__init__("lmstudio-bridge", tools=listed, **options)
        self.app: App | None = None  # set while the server runs
        self._settings = settings

    async def agent(self) -> DynamicAutonomousAgent:
        """The agent; raises BridgeError where it could not be opened."""
        assert self.app is not None
        return await self.app.agent()

    async def list_tools(self) -> list[Tool]:
        """As in the SDK, without what pydantic adds to every parameter: it costs the caller's context."""
        return [
            tool.model_copy(update={"input_schema": _compact_schema(tool.input_schema)})
            for tool in await super().list_tools()
        ]

    async def list_resources(self) -> list[Resource]:
        """Also the newest runs of this project: Claude Code (2.1.332) expands `@` mentions of listed resources only."""
        return [*await super().list_resources(), *await asyncio.to_thread(_run_resources, self._settings)]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[App, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """A prompt; it takes no arguments, but a host may still know those of an earlier version."""
        del arguments
        return await super().get_prompt(name, None, context)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[App, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Delegate a task. Unknown arguments are refused, and failures are text that the host's model can act on.

        The result may be a question for the person first: see `server.approval`.

        Raises:
            ToolError: There is no such tool.
        """
        tool = self._known.get(name)
        if tool is None:
            raise ToolError(f"Unknown tool: {name}")
        known = list(tool.parameters["properties"])
        if "access" in arguments:
            return _tool_result(self._about_access(name), is_error=True)
        if unknown := [given for given in arguments if given not in known]:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            return _tool_result(
                f"{name} has no argument {unknown[0]!r}.{hint} Its arguments are: {', '.join(known)}.", is_error=True
            )
        assert context is not None
        app = context.request_context.lifespan_context
        try:
            if context.request_state is None:
                request = tool.fn(**tool.fn_metadata.validate_arguments(arguments))
                agent = await app.agent()
                hosted = HostedRun(context, heartbeat=agent.settings.heartbeat)
                approver = hosted if hosted.can_ask else None
                hosted.task = asyncio.create_task(agent.run(request, emit=hosted.emit, approver=approver))
                app.calls.add(hosted.task)
                hosted.task.add_done_callback(app.calls.discard)
            elif (waiting := app.asking.pop(context.request_state, None)) is not None:
                hosted = waiting  # the person has answered
            else:
                return _tool_result(_ANSWERED_TWICE, is_error=True)
            report = await hosted.attend(context)
            if isinstance(report, InputRequiredResult):
                return report
            return _tool_result(
                report.text(limit=MAX_RESULT),
                is_error=report.outcome.stop == "failed",
                meta={REPORT_META: report.structure()},
            )
        except ValidationError as exc:
            text = _invalid_arguments(tool.name, exc)
        except BridgeError as exc:
            text = exc.explain()
        except ImportError as exc:  # some parts are only imported when a run needs them
            logger.error("a part of the bridge could not be loaded", exc_info=exc)
            text = incomplete_installation(exc).explain()
        except Exception as exc:  # a bug must reach the user as a sentence, and stderr in full
            logger.error("a run failed with an unexpected error", exc_info=exc)
            text = _INTERNAL_ERROR
        return _tool_result(text, is_error=True)

    def _about_access(self, name: str) -> str:
        """What to do about the argument that the tools of earlier versions had."""
        if name == WRITING:
            advice = f"{name} may change things; for a task that only reads, call another tool, also without it."
        elif self._settings.max_access == "read":
            advice = f"{name} only reads, and no other access is allowed: LMSTUDIO_BRIDGE_MAX_ACCESS is read."
        else:
            its_run = ", with run_id and the instructions as task" if name == continue_run.__name__ else ""
            advice = f"{name} only reads. For a task that changes something, call {WRITING}{its_run}."
        return f"{name} was not started. Leave out 'access': {advice}"


def build_server(settings: Settings, *, environ: Mapping[str, str], redactor: Redactor | None = None) -> BridgeServer:
    """The server with its tools; nothing is opened before it runs.

    The `redactor` learns the secrets of all that runs use.
    """
    redactor = redactor or Redactor()

    @asynccontextmanager
    async def lifespan(_: MCPServer[App]) -> AsyncIterator[App]:
        async with open_app(settings, environ=environ, redactor=redactor) as app:
            server.app = app
            yield app

    server = BridgeServer(
        settings,
        title="LM Studio bridge",
        version=__version__,
        instructions=INSTRUCTIONS.format(changes=_CHANGES if settings.max_access == "write" else _NO_CHANGES),
        lifespan=lifespan,
        middleware=[drop_invalid_answers],
        log_level="WARNING",
    )
    add_resources(server, agent=server.agent, redactor=redactor)
    return server


def _run_resources(settings: Settings) -> list[Resource]:
    """The newest runs of the project as resources, titled by their tasks."""
    try:
        from lmstudio_bridge.runs.resume import newest_starts  # listing the tools must not wait for it
    except ImportError:  # a damaged installation, which the calls report
        return []
    return [
        Resource(
            uri=f"lmstudio://runs/{start.run_id}",
            name=start.run_id,
            title=as_shown(first_line(start.task)) or None,
            mime_type="text/markdown",
        )
        for start in newest_starts(settings.home / "runs", project=str(settings.project), most=_LISTED_RUNS)
    ]


def _tool_result(text: str, *, is_error: bool, meta: Mapping[str, Any] | None = None) -> CallToolResult:
    """A result with text only; `meta` is for programs, no model reads it."""
    return CallToolResult(
        content=[TextContent(type="text", text=as_shown(text))],
        is_error=is_error,
        _meta=json.loads(as_utf8(json.dumps(meta, ensure_ascii=False))) if meta else None,
    )


def _compact_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments without titles and null defaults; `required` says what may be left out."""
    properties = {
        name: _compact_property(each)
        for name, each in schema.get("properties", {}).items()
        if name not in _UNLISTED_ARGUMENTS
    }
    return {key: value for key, value in {**schema, "properties": properties}.items() if key != "title"}


def _compact_property(schema: dict[str, Any]) -> dict[str, Any]:
    """One argument: `anyOf: [X, null], default: null` becomes X."""
    plain = {
        key: [_compact_property(each) for each in value] if key == "anyOf" else value
        for key, value in schema.items()
        if key != "title" and (key, value) not in _UNLISTED_BOUNDS
    }
    match plain:
        case {"anyOf": [*given, {"type": "null"}], "default": None}:
            rest = {key: value for key, value in plain.items() if key not in ("anyOf", "default")}
            return {**(given[0] if len(given) == 1 else {"anyOf": given}), **rest}
        case _:
            return plain


def _invalid_arguments(tool: str, error: ValidationError) -> str:
    """Which argument is invalid, and why: one line each."""
    lines = [f"Invalid arguments: {tool} was not started."]
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("constrained", "literal")))
        given = "" if problem["type"] == "missing" else f" (given: {str(problem['input'])[:_SHOWN_INPUT]!r})"
        lines.append(f"- {name}: {problem['msg']}{given}")
    return "\n".join(lines)
