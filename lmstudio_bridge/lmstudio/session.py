"""Getting a model into memory before it is needed, once, with a context that fits the work.

Never unloads anything, and never loads a second instance of a model that is there.

PinnedModel: one run's model, kept to one instance, and got back when LM Studio loses it.

A chat request has no side effects at LM Studio (it keeps no state for this route), so it can be sent
again as long as nobody acted on its reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio

from lmstudio_bridge.errors import (
    LLMConnectionError,
    LLMError,
    LLMResponseError,
    LLMTimeoutError,
    ModelLoadError,
    ModelLostError,
    ModelNotFoundError,
    ModelSubstitutedError,
    ServerBusyError,
    WrongEndpointError,
)
from lmstudio_bridge.lmstudio.client import LLMClient, OnDelta
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelChoice, ModelInfo, ModelInstance
from lmstudio_bridge.lmstudio.queue import SlotQueue
from lmstudio_bridge.lmstudio.retry import Sleep
from lmstudio_bridge.messages import ChatRequest, Completion, Delta, Notice, OnNotice, OnRetry, Retry

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


T = TypeVar("T")

MAX_RESENDS = 2  # of one request whose model was lost; after a second crash it is no accident
WATCH_INTERVAL = 5.0  # seconds between looks at the model while a request is under way
_LOOK_AGE = 1.0  # seconds; how old a list of models may be by which we decide that ours is still there
_FAILED_LOOKS = 3  # looks in a row without an answer until the server counts as gone
_CLOSE_TIMEOUT = 2.0  # seconds for a look at the model to hang up once it is cancelled


class PinnedModel:
    """A model to talk to; `choice` is the instance as it was last seen."""

    def __init__(
        self,
        client: LLMClient,
        choice: ModelChoice,
        *,
        loader: ModelLoader,
        slots: SlotQueue,
        parallel: int | None = None,
        watch_interval: float = WATCH_INTERVAL,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client = client
        self._loader = loader
        self._slots = slots
        self._parallel = parallel
        self._watch_interval = watch_interval
        self._sleep = sleep
        self.choice = choice

    async def prepare(self, *, on_notice: OnNotice) -> ModelChoice:
        """Load the model if it is not in memory, before any work starts; the instance to use.

        Raises:
            ModelLoadError: LM Studio could not load it.
        """
        if self.choice.info.loaded is not None:
            catalog = await self._client.validator.catalog(max_age=_LOOK_AGE)
            if self.choice.instance is None or _difference(self.choice.instance, catalog):
                await self._pin_again(max_age=_LOOK_AGE, on_notice=on_notice)
        return self.choice

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: OnDelta | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        """As `LLMClient.stream_chat_completion`, in a slot of its own and at this model only.

        A reply that breaks off is thrown away and asked for again, at most `MAX_RESENDS` times; what
        was told to `on_delta` before belongs to the lost reply.
        """

        async def told_retry(retry: Retry) -> None:
            fewer = ""
            if isinstance(retry.error, ServerBusyError):
                fewer = f", with at most {self._slots.lower(self.choice.name)} at once"
            await on_notice(Notice("recovery", f"{retry.error.message} It was asked again{fewer}."))
            if on_retry:
                await on_retry(retry)

        async def on_wait(place: int) -> None:
            where = f"place {place} in line" if place else "other sessions hold all slots"
            await on_notice(Notice("queue", f"waiting for {self.choice.name}: {where}"))

        begun = False  # the reply that is being asked for

        async def on_piece(delta: Delta) -> None:
            nonlocal begun
            begun = True
            if on_delta:
                await on_delta(delta)

        resends = 0
        while True:
            begun = False
            try:
                async with self._slots.hold(self.choice.name, parallel=self._limit(), on_wait=on_wait):
                    await self._look(on_notice)
                    return await self._watched(
                        self._client.stream_chat_completion(
                            request.messages,
                            model=self.choice.name,
                            tools=request.tools,
                            max_tokens=request.max_tokens,
                            temperature=request.temperature,
                            reasoning_effort=request.reasoning_effort,
                            response_schema=request.response_schema,
                            on_delta=on_piece,
                            on_retry=told_retry,
                            accepts_model=self.choice.answers_as,
                        )
                    )
            except (ModelLostError, ModelSubstitutedError, ModelNotFoundError) as exc:
                untold = isinstance(exc, ModelNotFoundError) and self.choice.info.loaded is None
                if resends == MAX_RESENDS or untold:
                    raise
                lost: LLMError = exc  # what is not found any more was there when the run began
            except ServerBusyError as exc:
                if not begun or resends == MAX_RESENDS:  # before the reply begins, the client tries again
                    raise
                self._slots.lower(self.choice.name)
                lost = exc
            except ModelLoadError as exc:  # by this request itself
                await self._loader.name_smaller(exc, self.choice)
                raise
            except LLMTimeoutError as exc:
                lost = await self._explain_silence(exc)
                if not isinstance(lost, ModelLostError) or resends == MAX_RESENDS:
                    raise lost from exc
            resends += 1
            await self._restore(lost, resends, on_notice)

    def _limit(self) -> int | None:
        """How many requests may be at the model at once.

        An LM Studio with no more than /api/v0 works on one request after the other, and loads an
        instance for each of several first requests (bug-tracker #1751).
        """
        if self.choice.info.loaded is False:
            return 1
        told = self.choice.instance.parallel if self.choice.instance else None
        return self._parallel or told or (1 if self.choice.source == "/api/v0/models" else None)

    async def _look(self, on_notice: OnNotice) -> None:
        """Pin the model anew if it is not as it was pinned: unloaded for being idle, or reloaded.

        A request would load it too, but silently and with the context that LM Studio chooses.
        """
        if self.choice.info.loaded is None:
            return
        try:
            catalog = await self._client.validator.catalog(max_age=_LOOK_AGE)
        except LLMError:
            return  # the request itself will tell what is wrong
        if problem := _difference(self.choice.instance, catalog):
            await on_notice(Notice("recovery", problem))
        elif self.choice.instance is not None:
            return
        await self._pin_again(max_age=_LOOK_AGE, on_notice=on_notice)

    async def _pin_again(self, *, max_age: float, on_notice: OnNotice) -> None:
        await self._client.validator.catalog(max_age=max_age)
        choice = await self._client.validator.resolve(self.choice.wanted)
        self.choice = await self._loader.ensure_loaded(choice, on_notice=on_notice)

    async def _restore(self, lost: LLMError, resends: int, on_notice: OnNotice) -> None:
        """Look for the model, load it if it is gone, and pin it again.

        Raises:
            LLMError: It cannot be got back; the error says what had happened before.
        """
        why = lost.detail or lost.message
        await on_notice(Notice("recovery", f"{why} Asking again ({resends} of {MAX_RESENDS})."))
        await self._sleep(_SETTLE * resends)
        try:
            await self._pin_again(max_age=0.0, on_notice=on_notice)
        except LLMError as exc:
            if isinstance(exc, LLMConnectionError | LLMTimeoutError):
                raise
            exc.message = f"{lost.message} It could not be got back: {exc.message}"
            exc.args = (exc.message,)
            raise

    async def _explain_silence(self, error: LLMTimeoutError) -> LLMError:
        """What a look at the server says about a reply that did not come in time."""
        try:
            catalog = await self._client.validator.catalog(refresh=True)
        except LLMError:
            return error
        if problem := _difference(self.choice.instance, catalog):
            return _lost(problem, error)
        known = self.choice.info.loaded is not None and _instance_of(self.choice, catalog)
        error.message += " The server is up, and the model is still loaded." if known else " The server is up."
        error.args = (error.message,)
        return error

    async def _watched(self, request: Coroutine[Any, Any, T]) -> T:
        """The request's result, unless its model changes meanwhile: then the connection is closed.

        Raises:
            ModelLostError: The instance was unloaded, reloaded or replaced, or the server is gone.
        """
        if self.choice.info.loaded is None:
            return await request  # a server that does not tell
        lost: list[ModelLostError] = []
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                lost.append(await self._watch())
                scope.cancel()

            async with _later(watch, seconds=self._watch_interval):
                return await request
        raise lost[0]

    async def _watch(self) -> ModelLostError:
        """Look at the model, and again after each interval; returns when it is no longer what it was."""
        pinned = self.choice.instance
        failed_looks = 0
        while True:
            try:
                catalog = await self._client.validator.catalog(max_age=self._watch_interval)
            except LLMError as exc:
                failed_looks += 1
                if failed_looks == _FAILED_LOOKS:
                    return _lost("LM Studio no longer answers.", exc)
            else:
                failed_looks = 0
                if pinned is None:  # being loaded by this very request
                    pinned = _instance_of(self.choice, catalog)
                elif problem := _difference(pinned, catalog):
                    return _lost(problem, None)
            await asyncio.sleep(self._watch_interval)


def _instance_of(choice: ModelChoice, catalog: ModelCatalog) -> ModelInstance | None:
    found = catalog.find(choice.name)
    return next(iter(found[0].instances or ()), None) if found else None


def _difference(pinned: ModelInstance | None, catalog: ModelCatalog) -> str:
    """How the server's models differ from the pinned instance, in words; "" if they don't."""
    if pinned is None or catalog.source == "/v1/models":
        return ""
    for model in catalog.models:
        for instance in model.instances or ():
            if instance.id == pinned.id:
                if None in (instance.context_length, pinned.context_length):
                    return ""  # being loaded, or not told
                if instance.context_length == pinned.context_length:
                    return ""
                return (
                    f"The model {pinned.id} was reloaded with a context of {instance.context_length} tokens "
                    f"instead of {pinned.context_length}."
                )
    return f"The model {pinned.id} was unloaded."


def _lost(message: str, error: LLMError | None) -> ModelLostError:
    return ModelLostError(
        message,
        remedy="Load the model by hand in LM Studio (a hand-loaded model has no idle limit and is not evicted).",
        url=error.url if error else "",
        model=error.model if error else None,
    )


@asynccontextmanager
async def _later(work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> AsyncIterator[None]:
    """Work in a task of its own, which begins after so long and ends with the block; most blocks end before it begins.

    No task group: it would wrap the errors of the block.
    """
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    timer = loop.call_later(seconds, lambda: tasks.append(loop.create_task(work())))
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()
            with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await asyncio.wait([task])
            if task.done() and not task.cancelled():
                task.exception()  # seen: asyncio would complain of one that nobody looked at
