"""Which tools an engine cannot use: found by asking it, because its error names none of them."""

from __future__ import annotations

from collections.abc import Sequence

from lmstudio_bridge.agent.chat import ChatModel
from lmstudio_bridge.agent.schemas import simple_spec
from lmstudio_bridge.errors import LLMError, LostToolCallError, ToolSchemaError
from lmstudio_bridge.messages import ChatRequest, OnNotice, ToolSpec, UserMessage

_MAX_PROBES = 40  # requests of a run


class ToolProbe:
    """Looks for the tools that spoil a request; each look costs a request of one token."""

    def __init__(self, model: ChatModel, *, on_notice: OnNotice) -> None:
        self._model = model
        self._on_notice = on_notice
        self._made = 0

    async def find_bad_tools(self, specs: Sequence[ToolSpec]) -> frozenset[str]:
        """The names of such tools, found by halving.

        Raises:
            LLMError: A look failed for another reason.
        """
        bad: set[str] = set()
        parts = [list(specs)]
        while parts and self._made < _MAX_PROBES:
            part = parts.pop()
            self._made += 1
            if await self._takes(part):
                continue
            if len(part) == 1:
                bad.add(part[0].name)
            else:
                half = len(part) // 2
                parts += [part[:half], part[half:]]
        return frozenset(bad)

    async def _takes(self, specs: Sequence[ToolSpec]) -> bool:
        try:
            request = ChatRequest([UserMessage("Say ok.")], [simple_spec(spec) for spec in specs], max_tokens=1)
            await self._model.stream_chat_completion(request, on_notice=self._on_notice)
        except ToolSchemaError:
            return False
        except LLMError as exc:
            if isinstance(exc, LostToolCallError):
                return True
            raise
        return True
