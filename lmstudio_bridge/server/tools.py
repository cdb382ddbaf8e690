"""The MCP tools: their arguments, and results and errors as the host's model reads them.

The server speaks both protocol eras (2026-07-28, and the handshakes before it).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as RegisteredTool
from mcp.types import CallToolResult, TextContent, Tool, ToolAnnotations
from pydantic import Field, ValidationError

from lmstudio_bridge import __version__
from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.events import Emit
from lmstudio_bridge.messages import Access
from lmstudio_bridge.runs.progress import open_progress
from lmstudio_bridge.runs.request import (
    DEFAULT_MAX_ROUNDS,
    MAX_NAME,
    MAX_ROUNDS,
    MAX_SERVERS,
    MAX_TASK,
    MAX_TOKENS,
    ContinueRequest,
    RunRequest,
)
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.server.lifespan import App, incomplete_installation, open_app
from lmstudio_bridge.server.resources import add_resources
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import as_shown, as_utf8

if TYPE_CHECKING:
    from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent

logger = logging.getLogger(__name__)

MAX_SECONDS = 86_400
MAX_RESULT = 48_000  # characters; Claude Code puts results over 50,000 into a file
REPORT_META = "lmstudio-bridge/report"  # key of the structured report in a result's _meta
_SHOWN_INPUT = 80  # characters of a bad argument that are quoted back

_INTERNAL_ERROR = (
    "Internal error in the bridge; the run was not finished.\n"
    "Please report it with the server's stderr output (in Claude Code: `claude --debug`)."
)
INSTRUCTIONS = (
    "Hands a task to a local model in LM Studio, which works on it by itself with the user's other MCP servers; only "
    "its answer comes back, so the files and results that it reads cost you nothing. Worth it for reading and "
    "summarising many files, searching, extracting facts, bulk edits of a simple kind. Not for hard reasoning, or for "
    "one or two calls that you can make yourself. The local model sees nothing of this conversation: put everything "
    "that it needs into the task (full paths, what to look for, the form of the answer), and check what it says. It "
    "only reads unless you ask for access=write: do so where the task is to change something. A run takes from seconds "
    "to many minutes."
)

Task = Annotated[str, Field(min_length=1, max_length=MAX_TASK, description="What to do, complete in itself")]
MaxRounds = Annotated[
    int, Field(strict=True, ge=1, le=MAX_ROUNDS, description="Most model requests; the last gives the answer")
]
MaxTokens = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)] | Literal["auto"],
    Field(description="Most tokens of one model reply"),
]
Model = Annotated[str | None, Field(max_length=MAX_NAME, description="Model name in LM Studio; default: a loaded one")]
AccessArgument = Annotated[
    Access, Field(description="write: also tools that change things; read: only tools marked as reading")
]
OutputSchema = Annotated[dict[str, Any] | None, Field(description="JSON Schema for a JSON answer")]
Timeout = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=MAX_SECONDS)] | None,
    Field(description="Seconds for the run; then the answer so far is given"),
]
RunId = Annotated[
    str, Field(min_length=1, description="Run id, from the first progress message or a result's last line")
]
Instructions = Annotated[
    str | None, Field(max_length=MAX_TASK, description="What to do next; without it: the answer again, or go on")
]
ServerName = Annotated[str, Field(min_length=1, max_length=MAX_NAME, description="MCP server name, as configured")]
ServerNames = Annotated[
    list[ServerName], Field(min_length=1, max_length=MAX_SERVERS, description="MCP server names, as configured")
]

_UNLISTED_BOUNDS = (("maxLength", MAX_NAME), ("maxItems", MAX_SERVERS), ("maximum", MAX_TOKENS))
"""Bounds that no ordinary call reaches, left out of the schemas to save the caller's context."""

_ANNOTATIONS: dict[Access, ToolAnnotations] = {
    "write": ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True),
    "read": ToolAnnotations(read_only_hint=True, open_world_hint=True),
}
"""Tool annotations by the most access that a call may ask for. Claude Code runs read-only tools in parallel."""


def autonomous_with_mcp(
    mcp_name: ServerName,
    task: Task,
    max_rounds: MaxRounds = DEFAULT_MAX_ROUNDS,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    access: AccessArgument = "read",
) -> RunRequest:
    """Let the local model do a task with the tools of one of the user's MCP servers."""
    return RunRequest(task, (mcp_name,), max_rounds, _tokens(max_tokens), model, timeout, output_schema, access)


def autonomous_with_multiple_mcps(
    mcp_names: ServerNames,
    task: Task,
    max_rounds: MaxRounds = DEFAULT_MAX_ROUNDS,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    access: AccessArgument = "read",
) -> RunRequest:
    """Let the local model do a task with the tools of several of the user's MCP servers."""
    return RunRequest(task, tuple(mcp_names), max_rounds, _tokens(max_tokens), model, timeout, output_schema, access)


def autonomous_discover_and_execute(
    task: Task,
    max_rounds: MaxRounds = DEFAULT_MAX_ROUNDS,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    access: AccessArgument = "read",
) -> RunRequest:
    """Let the local model do a task with the MCP servers it needs. Name the servers instead if you know them."""
    return RunRequest(task, None, max_rounds, _tokens(max_tokens), model, timeout, output_schema, access)


def continue_run(
    run_id: RunId,
    instructions: Instructions = None,
    max_rounds: MaxRounds = DEFAULT_MAX_ROUNDS,
    max_tokens: MaxTokens = "auto",
    model: Model = None,
    timeout: Timeout = None,
    output_schema: OutputSchema = None,
    access: AccessArgument = "read",
) -> ContinueRequest:
    """Fetch a finished run's answer again, go on with one that stopped early, or ask it a follow-up."""
    tokens = _tokens(max_tokens)
    return ContinueRequest(run_id, instructions or "", max_rounds, tokens, model, timeout, output_schema, access)


def _tokens(max_tokens: int | Literal["auto"]) -> int | None:
    return None if max_tokens == "auto" else max_tokens


_TOOLS: Mapping[str, Callable[..., RunRequest | ContinueRequest]] = {
    "Delegate with one MCP server": autonomous_with_mcp,
    "Delegate with several MCP servers": autonomous_with_multiple_mcps,
    "Delegate with all MCP servers": autonomous_discover_and_execute,
    "Continue a delegated run": continue_run,
}
"""The tools by title: each makes the request from its arguments, and its docstring is its description."""


class BridgeServer(MCPServer[App]):
    """MCPServer whose tools hand tasks to the agent, with compact schemas, and with errors that say what to do."""

    def __init__(self, tools: Sequence[RegisteredTool], **options: Any) -> None:
        super().__init__("lmstudio-bridge", tools=list(tools), **options)
        self.app: App | None = None  # set while the server runs
        self._delegations = {tool.name: tool for tool in tools}

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

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[App, Any] | None = None
    ) -> CallToolResult:
        """Delegate a task. Unknown arguments are refused, and failures are text that the host's model can act on.

        Raises:
            ToolError: There is no such tool.
        """
        tool = self._delegations.get(name)
        if tool is None:
            raise ToolError(f"Unknown tool: {name}")
        known = list(tool.parameters["properties"])
        if unknown := [given for given in arguments if given not in known]:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            return _tool_result(
                f"{name} has no argument {unknown[0]!r}.{hint} Its arguments are: {', '.join(known)}.", is_error=True
            )
        try:
            request = tool.fn(**tool.fn_metadata.validate_arguments(arguments))
        except ValidationError as exc:
            return _tool_result(_invalid_arguments(name, exc), is_error=True)
        assert context is not None
        try:
            async with _delegation(context) as (agent, emit):
                report = await agent.run(request, emit=emit)
                return _tool_result(
                    report.text(limit=MAX_RESULT),
                    is_error=report.outcome.stop == "failed",
                    meta={REPORT_META: report.structure()},
                )
        except BridgeError as exc:
            text = exc.explain()
        except ImportError as exc:  # some parts are only imported when a run needs them
            logger.error("a part of the bridge could not be loaded", exc_info=exc)
            text = incomplete_installation(exc).explain()
        except Exception as exc:  # a bug must reach the user as a sentence, and stderr in full
            logger.error("a run failed with an unexpected error", exc_info=exc)
            text = _INTERNAL_ERROR
        return _tool_result(text, is_error=True)


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

    annotations = _ANNOTATIONS[settings.max_access]
    server = BridgeServer(
        [
            RegisteredTool.from_function(function, title=title, annotations=annotations, structured_output=False)
            for title, function in _TOOLS.items()
        ],
        title="LM Studio bridge",
        version=__version__,
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        log_level="WARNING",
    )
    add_resources(server, agent=server.agent, redactor=redactor)
    return server


@asynccontextmanager
async def _delegation(ctx: Context[App, Any]) -> AsyncIterator[tuple[DynamicAutonomousAgent, Emit]]:
    """The agent, and a sink for a run's events that the host is shown as progress of this tool call."""
    app = ctx.request_context.lifespan_context
    task = asyncio.current_task()
    assert task is not None
    app.calls.add(task)

    async def send(counter: float, message: str) -> None:
        await ctx.report_progress(counter, None, as_shown(message))

    try:
        agent = await app.agent()
        async with open_progress(send, heartbeat=agent.settings.heartbeat) as emit:
            yield agent, emit
    finally:
        app.calls.discard(task)


def _tool_result(text: str, *, is_error: bool, meta: Mapping[str, Any] | None = None) -> CallToolResult:
    """A result with text only; `meta` is for programs, no model reads it."""
    return CallToolResult(
        content=[TextContent(type="text", text=as_shown(text))],
        is_error=is_error,
        _meta=json.loads(as_utf8(json.dumps(meta, ensure_ascii=False))) if meta else None,
    )


def _compact_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments without titles and null defaults; `required` says what may be left out."""
    properties = {name: _compact_property(each) for name, each in schema.get("properties", {}).items()}
    return {key: value for key, value in {**schema, "properties": properties}.items() if key != "title"}


def _compact_property(schema: dict[str, Any]) -> dict[str, Any]:
    """One argument: `anyOf: [X, null], default: null` becomes X."""
    plain = {
        key: [_compact_property(each) for each in value] if key == "anyOf" else value
        for key, value in schema.items()
        if key != "title" and (key, value) not in _UNLISTED_BOUNDS
    }
    match plain:
        case {"anyOf": [dict() as given, {"type": "null"}], "default": None}:
            rest = {key: value for key, value in plain.items() if key not in ("anyOf", "default")}
            return {**given, **rest}
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
