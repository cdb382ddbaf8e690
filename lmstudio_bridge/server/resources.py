"""What the server offers over MCP besides tools: resources, a prompt, completions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.text import as_shown, as_utf8

if TYPE_CHECKING:
    from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent

_MARKDOWN = "text/markdown"
_MAX_COMPLETIONS = 100  # what the MCP specification allows


def add_resources(
    server: MCPServer[Any], *, agent: Callable[[], Awaitable[DynamicAutonomousAgent]], redactor: Redactor
) -> None:
    """Register resources, prompt and completions; `agent` returns the agent once the server runs.

    Imports from `runs` are local, because listing the tools must not wait for them.
    """

    def sendable(text: str) -> str:
        return as_shown(redactor.redact(text))

    @server.resource("lmstudio://models", title="Models in LM Studio", mime_type=_MARKDOWN)
    async def models() -> str:
        """The models that LM Studio has: loaded or not, context, slots, trained for tools."""
        with _resource_errors(sendable):
            client = (await agent()).client
            from lmstudio_bridge.runs.report import models_text

            return sendable(models_text(await client.validator.catalog(refresh=True)))

    @server.resource("lmstudio://servers", title="MCP servers for delegated work", mime_type=_MARKDOWN)
    async def servers() -> str:
        """The MCP servers for delegated tasks: where each is configured, whether it is open, why one is left out."""
        with _resource_errors(sendable):
            opened = await agent()
            from lmstudio_bridge.runs.report import servers_text

            catalog = opened.configured_servers()
            permissions = opened.permissions(catalog.servers.values())
            return sendable(servers_text(catalog, permissions, opened.pool.opened(), opened.tool_cache, opened.logins))

    @server.resource("lmstudio://runs", title="Delegated runs", mime_type=_MARKDOWN)
    async def runs() -> str:
        """The newest delegated runs, this project's first: time, project, rounds, and how they ended."""
        with _resource_errors(sendable):
            opened = await agent()
            from lmstudio_bridge.runs.report import runs_text

            return sendable(
                runs_text(opened.runs_folder, project=str(opened.settings.project), keep=opened.settings.journal)
            )

    @server.resource("lmstudio://runs/{run_id}", title="One delegated run", mime_type=_MARKDOWN)
    async def run(run_id: str) -> str:
        """The whole answer of one run, and what was done for it."""
        with _resource_errors(sendable):
            opened = await agent()
            from lmstudio_bridge.runs.report import run_text
            from lmstudio_bridge.runs.resume import full_run_id, read_run

            return sendable(run_text(read_run(opened.runs_folder, full_run_id(opened.runs_folder, run_id))))

    @server.prompt(title="Delegate to the local model")
    def delegate() -> str:
        """Hand the task that is written after the command to the local model, well briefed."""
        # Without arguments: Claude Code (2.1.332) splits them at blanks, and shows its model the whole text anyway.
        return (
            "Delegate what I wrote after this command to the local model, with the fitting autonomous_* tool of the "
            "lmstudio-bridge server; if I wrote nothing there, what I asked for last.\n\n"
            "Write its task so that it is complete in itself: the local model is small and sees nothing of our "
            "conversation. Give full paths, say what to look for, what to leave alone, and the exact form of the "
            "answer. One task at a time; split a large one. Check the answer against something you can see cheaply "
            "before you rely on it, and tell me what was checked."
        )

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK's decorator has no types
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Ids of runs that contain what was typed."""
        try:
            names = _run_ids(await agent()) if argument.name == "run_id" else []
        except BridgeError:
            return None  # completions are a convenience: no error while somebody types
        typed = argument.value.casefold()
        fitting = [as_utf8(name) for name in names if typed in name.casefold()]
        shown = fitting[:_MAX_COMPLETIONS]
        return Completion(values=shown, total=len(fitting), has_more=len(fitting) > len(shown))


@contextmanager
def _resource_errors(sendable: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except RunNotFoundError as exc:
        raise ResourceNotFoundError(sendable(exc.explain())) from exc
    except BridgeError as exc:
        raise ResourceError(sendable(exc.explain())) from exc


def _run_ids(agent: DynamicAutonomousAgent) -> list[str]:
    from lmstudio_bridge.runs.resume import MAX_RUNS, newest_runs

    return [run.run_id for run in newest_runs(agent.runs_folder, most=MAX_RUNS)]
