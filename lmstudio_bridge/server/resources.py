"""What can be read and completed over MCP besides the tools: resources, a prompt, completions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import Field

from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.text import as_shown, as_utf8

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.server.lifespan import Service

_MARKDOWN = "text/markdown"
_MAX_COMPLETIONS = 100  # what the MCP specification allows


def add_resources(server: MCPServer[Any], *, service: Callable[[], Awaitable[Service]], redactor: Redactor) -> None:
    """Register all of it; `service` gives the service once the server runs, `redactor` knows its secrets."""

    def sendable(text: str) -> str:
        return as_shown(redactor.redact(text))

    @server.resource("lmstudio://models", title="Models in LM Studio", mime_type=_MARKDOWN)
    async def models() -> str:
        """The models that LM Studio has: loaded or not, context, slots, trained for tools."""
        with _resource_errors(sendable):
            return sendable(await (await service()).models())

    @server.resource("lmstudio://servers", title="MCP servers for delegated work", mime_type=_MARKDOWN)
    async def servers() -> str:
        """The MCP servers for delegated tasks: where each is configured, whether it is open, why one is left out."""
        with _resource_errors(sendable):
            return sendable((await service()).servers())

    @server.resource("lmstudio://runs", title="Delegated runs", mime_type=_MARKDOWN)
    async def runs() -> str:
        """The newest delegated runs and how they ended."""
        with _resource_errors(sendable):
            return sendable((await service()).runs())

    @server.resource("lmstudio://runs/{run_id}", title="One delegated run", mime_type=_MARKDOWN)
    async def run(run_id: str) -> str:
        """The whole answer of one run, and what was done for it."""
        with _resource_errors(sendable):
            return sendable((await service()).run_report(run_id))

    @server.prompt(title="Delegate to the local model")
    def delegate(
        task: Annotated[str, Field(description="What is to be done")],
        server: Annotated[str, Field(description="MCP server that has the tools for it")] = "",
        model: Annotated[str, Field(description="Model name in LM Studio")] = "",
    ) -> str:
        """Hand a task to the local model, well briefed."""
        tool = f"autonomous_with_mcp with mcp_name={server!r}" if server else "the fitting autonomous_* tool"
        with_model = f" and model={model!r}" if model else ""
        return (
            f"Delegate this to the local model with {tool}{with_model} of the lmstudio-bridge server: {task}\n\n"
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
        """Names of models, servers and runs that contain what was typed."""
        try:
            names = await (await service()).names(argument.name)
        except BridgeError:
            return None  # nothing to offer is no error for somebody who is typing
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
