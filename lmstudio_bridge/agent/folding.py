"""Old results → one line each, when the context fills: what was called, how much it gave, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable

from lmstudio_bridge.agent.arguments import about_arguments, read_json
from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.shelf import Shelf
from lmstudio_bridge.events import Emit, ResultsShrunk
from lmstudio_bridge.messages import ToolCall, ToolMessage

_WORTH_FOLDING = 240  # characters; the line that stands for a result takes about half as many


class Folder:
    """Makes room in the conversation of a run.

    The one place where a history changes other than at its end: the engine must read it anew from
    there, so it is done rarely and in big steps. `wrap` and `unwrap` put the run's fence around what
    stays of a result, and take it off.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        shelf: Shelf,
        tell: Emit,
        wrap: Callable[[str], str] = str,
        unwrap: Callable[[str], str] = str,
    ) -> None:
        self._conversation = conversation
        self._shelf = shelf
        self._tell = tell
        self._wrap = wrap
        self._unwrap = unwrap

    async def fold(self, *, to_chars: int) -> int:
        """Bring the history down to that many characters, if its results allow; how many were folded."""
        folded = self._conversation.shrink(to_chars=to_chars, fold=self._line)
        if folded:
            await self._tell(ResultsShrunk(tuple(folded), tuple(folded.values())))
        return len(folded)

    def _line(self, message: ToolMessage, call: ToolCall, room: int) -> str:
        """What stands for a result: one line, after as much of it as the room allows."""
        if len(message.text) <= _WORTH_FOLDING:
            return message.text
        text = self._unwrap(message.text).rstrip("\n")
        called = " ".join((call.name, _about(call))).strip()
        line = f'[{called} → {len(text):,} characters, not shown any more; read_result(id="{{}}", offset=0) gives them]'
        head = text[: max(0, room - len(line) - len(self._wrap("")) - 8)]
        return (f"{self._wrap(head)}\n" if head else "") + line.format(self._shelf.keep(text))


def _about(call: ToolCall) -> str:
    try:
        value = read_json(call.arguments or "{}")
    except ValueError:
        return ""
    return about_arguments(value) if isinstance(value, dict) else ""
