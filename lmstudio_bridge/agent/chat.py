"""What the agent needs of a model: the one Protocol that it is seen through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from lmstudio_bridge.messages import ChatRequest, Completion, Delta, OnNotice
from lmstudio_bridge.retry import OnRetry


class ChatModel(Protocol):
    """A model to talk to; `lmstudio_bridge.llm.pinned.PinnedModel` is one."""

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: Callable[[Delta], Awaitable[None]] | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        """One whole reply. Raises `LLMError`."""
        ...
