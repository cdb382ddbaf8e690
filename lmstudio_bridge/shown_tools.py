"""Tools as the model may know them: without the secrets that their server may have put into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.redaction import Redactor

MAX_LISTS = 200  # that are kept; two of a server, as its session and its file have them


@dataclass(frozen=True, slots=True)
class Shown:
    """The tools of a server that the model may know, and how many it must not, as their names hold a secret."""

    tools: tuple[ServerTool, ...] = ()
    left_out: int = 0


class ShownTools:
    """Looks through the list of a server's tools once for all runs that get the very same one."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._made: dict[int, tuple[tuple[ServerTool, ...], int, Shown]] = {}
        """By the id of the list, which is kept, so that nothing else can have it."""

    def of(self, tools: tuple[ServerTool, ...]) -> Shown:
        """What may be shown of these; looked through anew when there are more secrets."""
        _, secrets, shown = self._made.get(id(tools), ((), -1, Shown()))
        if secrets != self._redactor.lessons:
            # A name that holds a secret would be written by the model, and then stand in the journal.
            named = [tool for tool in tools if self._redactor.redact(tool.name) == tool.name]
            shown = Shown(tuple(map(self._without_secrets, named)), len(tools) - len(named))
            self._made[id(tools)] = tools, self._redactor.lessons, shown
            if len(self._made) > MAX_LISTS:
                del self._made[next(iter(self._made))]
        return shown

    def _without_secrets(self, tool: ServerTool) -> ServerTool:
        return replace(
            tool,
            description=self._redactor.redact(tool.description),
            input_schema=self._redactor.redact_fields(tool.input_schema),
        )
