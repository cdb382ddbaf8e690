"""Getting a model into memory before it is needed, once, with a context that fits the work.

Never unloads anything, and never loads a second instance of a model that is there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from lmstudio_bridge.errors import LLMError, LLMResponseError, ModelLoadError, ModelLostError, WrongEndpointError
from lmstudio_bridge.llm.client import LLMClient
from lmstudio_bridge.llm.models import ModelCatalog, ModelChoice, ModelInfo
from lmstudio_bridge.llm.slots import SlotQueue
from lmstudio_bridge.messages import Notice, OnNotice
from lmstudio_bridge.retry import Sleep

DEFAULT_CONTEXT_LENGTH = 16_384  # tokens; tools and a few results fill less
_SETTLE = 1.0  # seconds to let the other load get on before we look again
_LOADS = "load:"  # lines of the slot queue in which loads wait, one a model


class ModelLoader:
    """Loads models of one LM Studio, one load at a time for each, across runs and processes."""

    def __init__(
        self,
        client: LLMClient,
        slots: SlotQueue,
        *,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client = client
        self._slots = slots
        self._context_length = context_length
        self._sleep = sleep

    async def ensure_loaded(self, choice: ModelChoice, *, on_notice: OnNotice) -> ModelChoice:
        """The choice with its model in memory, as far as that can be brought about from here.

        Where the server has no load route, the model is loaded by the first request to it.

        Raises:
            ModelLoadError: LM Studio refused; the remedy names a smaller model, if there is one.
            LLMError: The server could not be asked.
        """
        if choice.info.loaded is not False:
            return choice
        key = choice.info.key
        if choice.source != "/api/v1/models":
            await on_notice(Notice("loading", f"{key} is not loaded yet; LM Studio loads it at the first request"))
            return choice

        async def on_wait(_: int) -> None:
            await on_notice(Notice("loading", f"waiting for {key}: another task loads it"))

        async with self._slots.hold(_LOADS + key, parallel=1, on_wait=on_wait):
            for last_try in (False, True):
                choice = await self._look(choice)  # somebody else may have loaded it, and a second load makes a twin
                if choice.info.loaded:
                    return choice
                await on_notice(Notice("loading", f"loading {key}"))
                try:
                    await self._load(choice)
                    break
                except ModelLostError as exc:  # overtaken by another load
                    if last_try:
                        raise
                    await on_notice(Notice("recovery", f"{exc.message} It was loaded again."))
                    await self._sleep(_SETTLE)
            return await self._look(choice)

    async def name_smaller(self, error: ModelLoadError, choice: ModelChoice) -> None:
        """Let the remedy name a model that is there and needs less memory, if there is one."""
        with suppress(LLMError):
            catalog = await self._client.validator.catalog()
            error.remedy = _with_smaller(error.remedy, choice.info, catalog)

    async def _look(self, choice: ModelChoice) -> ModelChoice:
        await self._client.validator.catalog(refresh=True)
        return await self._client.validator.resolve(choice.wanted)

    async def _load(self, choice: ModelChoice) -> None:
        wanted = min(self._context_length, choice.info.max_context_length or self._context_length)
        try:
            await self._client.load_model(choice.name, context_length=wanted)
        except ModelLoadError as exc:
            await self.name_smaller(exc, choice)
            raise
        except ModelLostError:
            raise
        except WrongEndpointError:
            return  # no such route after all: the first request loads it
        except LLMResponseError as exc:
            if exc.status not in (404, 405, 501):
                raise


def _with_smaller(remedy: str, model: ModelInfo, catalog: ModelCatalog) -> str:
    """The remedy, and the largest chat model that is smaller than this one; a loaded one first."""
    smaller = [
        other
        for other in catalog.chat_models()
        if other.key != model.key and (other.loaded or _size(other) < _size(model))
    ]
    if not smaller:
        return remedy
    best = max(smaller, key=lambda other: (bool(other.loaded), bool(other.trained_for_tool_use), _size(other)))
    state = "already loaded" if best.loaded else "smaller"
    return f"{remedy} {best.key} is {state}: pass model={best.key!r}."


def _size(model: ModelInfo) -> int:
    return model.size_bytes or 0
