"""Tools as the model may know them: without the secrets that their server may have put into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.redaction import Redactor

_MAX_SERVERS = 100  # whose tools are kept; those of others are looked through in each run


@dataclass(frozen=True, slots=True)
class Shown:
    """The tools of a server that the model may know, and how many it must not, as their names hold a secret."""

    tools: tuple[ServerTool, ...] = ()
    left_out: int = 0


class ShownTools:
    """Looks through the tools of a server once for all runs, as long as its session lists the very same ones."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._made: dict[str, tuple[tuple[ServerTool, ...], int, Shown]] = {}

    def of(self, server: str, tools: tuple[ServerTool, ...]) -> Shown:
        """What may be shown of these; looked through anew when they are others, or when there are more secrets."""
        before, secrets, shown = self._made.get(server, ((), -1, Shown()))
        if before is not tools or secrets != self._redactor.lessons:
            named = [tool for tool in tools if self._redactor.redact(tool.name) == tool.name]
            # The model would write the name of another one, and it would stand in the journal.
            shown = Shown(tuple(without_secrets(tool, self._redactor) for tool in named), len(tools) - len(named))
            self._made[server] = tools, self._redactor.lessons, shown
            if len(self._made) > _MAX_SERVERS:
                del self._made[next(iter(self._made))]
        return shown


def without_secrets(tool: ServerTool, redactor: Redactor) -> ServerTool:
    """The tool with what its server may have put into its description and its schema taken out."""
    return replace(
        tool,
        description=redactor.redact(tool.description),
        input_schema=redactor.redact_fields(tool.input_schema),
    )
