"""The model of one run: loaded before it is needed, watched while it works, and recovered when LM Studio loses it.

A session never unloads a model and never loads a second instance of one that is in memory. A chat request has no side
effects at LM Studio (it keeps no state for this route), so it can be sent again as long as nobody acted on its reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from lmstudio_bridge import errors
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelChoice, ModelInfo, ModelInstance
from lmstudio_bridge.lmstudio.queue import SlotQueue
from lmstudio_bridge.messages import ChatRequest, Completion, Delta, Notice, OnDelta, OnNotice, OnRetry, Retry

DEFAULT_CONTEXT_LENGTH = 16_384  # tokens; enough for tools and several results
MAX_RESENDS = 2  # of one request whose model was lost; after a second crash it is not an accident
WATCH_INTERVAL = 5.0  # seconds between checks of the model while a request is in progress
_MAX_AGE = 1.0  # seconds; how old a list of models may be to tell that ours is still loaded
_FAILED_CHECKS = 3  # in a row, until the server counts as gone
_CLOSE_TIMEOUT = 2.0  # seconds for a canceled check to close its connection
_SETTLE = 1.0  # seconds for another load to make progress before we check again
_LOADS = "load:"  # prefix of the queues in which loads wait, one per model


def slot_count(choice: ModelChoice, parallel: int | None) -> int | None:
    """How many requests the model may get at once; None if unknown. `parallel` overrides what LM Studio reports.

    An LM Studio with no more than /api/v0 handles one request after the other, and loads an
    instance for each of several first requests (lmstudio-bug-tracker #1751).
    """
    if choice.info.loaded is False or (choice.instance and choice.instance.loading):
        return 1
    reported = choice.instance.parallel if choice.instance else None
    return parallel or reported or (1 if choice.source == "/api/v0/models" else None)


class ModelSession:
    """A model to talk to; `choice` is the instance as it was last seen."""

    def __init__(
        self,
        client: LLMClient,
        choice: ModelChoice,
        *,
        slots: SlotQueue,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        parallel: int | None = None,
        watch_interval: float = WATCH_INTERVAL,
    ) -> None:
        """`context_length` (tokens) is for loading the model, `parallel` overrides its number of slots."""
        self._client = client
        self._models = client.validator
        self._slots = slots
        self._context_length = context_length
        self._parallel = parallel
        self._watch_interval = watch_interval
        self.choice = choice

    async def prepare(self, *, on_notice: OnNotice) -> ModelChoice:
        """Load the model if it is not in memory; returns the instance to use.

        Where the server has no load route, the first request loads it.

        Raises:
            ModelLoadError: LM Studio could not load it; the remedy names a smaller model, if there is one.
            LLMError: The server could not be asked.
        """
        if self.choice.info.instances is not None:
            catalog = await self._models.catalog(max_age=_MAX_AGE)
            if self.choice.instance is None or _difference(self.choice.instance, catalog):
                await self._reload(max_age=_MAX_AGE, on_notice=on_notice)
        return self.choice

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: OnDelta | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        """As `LLMClient.stream_chat_completion`, in a slot of its own and from this model only.

        A reply that breaks off is discarded and requested again, at most `MAX_RESENDS` times; what
        `on_delta` got before belongs to the lost reply.
        """
        begun = False  # whether a piece of the current reply has come

        async def note_retry(retry: Retry) -> None:
            fewer = ""
            if isinstance(retry.error, errors.ServerBusyError):
                fewer = f", with at most {self._slots.lower(self.choice.name)} at once"
            await on_notice(Notice("recovery", f"{retry.error.message} The request was retried{fewer}."))
            if on_retry:
                await on_retry(retry)

        async def note_wait(position: int) -> None:
            where = f"position {position}" if position else "other sessions are using all slots"
            await on_notice(Notice("queue", f"queued for {self.choice.name}: {where}"))

        async def note_delta(delta: Delta) -> None:
            nonlocal begun
            begun = True
            if on_delta:
                await on_delta(delta)

        resends = 0
        while True:
            begun = False
            try:
                async with self._slots.hold(
                    self.choice.name, parallel=slot_count(self.choice, self._parallel), on_wait=note_wait
                ):
                    await self._check(on_notice)
                    async with self._watch():
                        return await self._client.stream_chat_completion(
                            request,
                            model=self.choice.name,
                            on_delta=note_delta,
                            on_retry=note_retry,
                            accepts_model=self.choice.answers_as,
                        )
            except (errors.ModelLostError, errors.ModelSubstitutedError, errors.ModelNotFoundError) as exc:
                never_seen = isinstance(exc, errors.ModelNotFoundError) and self.choice.info.instances is None
                if resends == MAX_RESENDS or never_seen:
                    raise
                lost: errors.LLMError = exc  # a model that is not found now was there when the run began
            except errors.ServerBusyError as exc:
                if not begun or resends == MAX_RESENDS:  # before the reply begins, the client retries
                    raise
                self._slots.lower(self.choice.name)
                lost = exc
            except errors.ModelLoadError as exc:  # the request itself loaded the model
                await self._name_smaller(exc)
                raise
            except errors.LLMTimeoutError as exc:
                lost = await self._explain_silence(exc)
                if not isinstance(lost, errors.ModelLostError) or resends == MAX_RESENDS:
                    raise lost from exc
            resends += 1
            await self._recover(lost, resends, on_notice)

    # -- loading

    async def _reload(self, *, max_age: float, on_notice: OnNotice) -> None:
        """Find the model anew, and load it if it is not in memory. One load at a time, also between processes."""
        choice = await self._find(max_age=max_age)
        if choice.info.loaded is not False:
            return
        key = choice.info.key
        if choice.source != "/api/v1/models":
            notice = f"{key} is not loaded yet; LM Studio will load it on the first request"
            await on_notice(Notice("loading", notice))
            return

        async def note_wait(_: int) -> None:
            await on_notice(Notice("loading", f"waiting for {key}: another task is loading it"))

        async with self._slots.hold(_LOADS + key, parallel=1, on_wait=note_wait):
            for last_try in (False, True):
                choice = await self._find()  # somebody else may have loaded it; a second load makes a second instance
                if choice.info.loaded:
                    return
                await on_notice(Notice("loading", f"loading {key}"))
                try:
                    await self._load()
                    break
                except errors.ModelLostError as exc:  # overtaken by another load
                    if last_try:
                        raise
                    await on_notice(Notice("recovery", f"{exc.message} The load was retried."))
                    await self._client.retry_sleep(_SETTLE)
            await self._find()

    async def _find(self, *, max_age: float = 0.0) -> ModelChoice:
        await self._models.catalog(max_age=max_age)
        self.choice = await self._models.resolve(self.choice.wanted)
        return self.choice

    async def _load(self) -> None:
        wanted = self.choice.info.possible_context(self._context_length)
        try:
            await self._client.load_model(self.choice.name, context_length=wanted)
        except errors.ModelLoadError as exc:
            await self._name_smaller(exc)
            raise
        except errors.ModelLostError:
            raise
        except errors.WrongEndpointError:
            return  # there is no such route after all: the first request loads the model
        except errors.LLMResponseError as exc:
            if exc.status not in (404, 405, 501):
                raise

    async def _name_smaller(self, error: errors.ModelLoadError) -> None:
        """Add to the remedy the largest chat model that needs less memory, if there is one; a loaded one first."""
        with suppress(errors.LLMError):
            catalog = await self._models.catalog()
            model = self.choice.info
            smaller = [
                other
                for other in catalog.chat_models()
                if other.key != model.key and (other.loaded or _size(other) < _size(model))
            ]
            if smaller:
                best = max(
                    smaller, key=lambda other: (bool(other.loaded), bool(other.trained_for_tool_use), _size(other))
                )
                state = "already loaded" if best.loaded else "smaller"
                error.remedy = f"{error.remedy} {best.key} is {state}: pass model={best.key!r}."

    # -- watching

    async def _check(self, on_notice: OnNotice) -> None:
        """Before a request: reload the model if it was unloaded for being idle, or reloaded by somebody else.

        The request would load it too, but without a notice and with the context that LM Studio chooses.
        """
        if self.choice.info.instances is None:
            return
        try:
            catalog = await self._models.catalog(max_age=_MAX_AGE)
        except errors.LLMError:
            return  # the request itself will say what is wrong
        if difference := _difference(self.choice.instance, catalog):
            await on_notice(Notice("recovery", difference))
        elif self.choice.instance is not None:
            return
        await self._reload(max_age=_MAX_AGE, on_notice=on_notice)

    @asynccontextmanager
    async def _watch(self) -> AsyncIterator[None]:
        """A request, which is canceled when its model changes meanwhile.

        Raises:
            ModelLostError: The instance was unloaded, reloaded or replaced, or the server is gone.
        """
        if self.choice.info.instances is None:
            yield  # a server that does not report what is loaded
            return
        lost: list[errors.ModelLostError] = []
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                lost.append(await self._wait_for_loss())
                scope.cancel()

            watcher = asyncio.create_task(watch())  # a task group would wrap the errors of the request
            try:
                yield
            finally:
                watcher.cancel()
                with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await asyncio.wait([watcher])
        if scope.cancelled_caught:
            raise lost[0]

    async def _wait_for_loss(self) -> errors.ModelLostError:
        """Check the model after each interval; returns when it is no longer what it was."""
        pinned = self.choice.instance
        failed = 0
        while True:
            await asyncio.sleep(self._watch_interval)
            try:
                catalog = await self._models.catalog(max_age=self._watch_interval)
            except errors.LLMError as exc:
                failed += 1
                if failed == _FAILED_CHECKS:
                    return _lost("LM Studio no longer answers.", exc)
                continue
            failed = 0
            if pinned is None:  # being loaded by this very request
                pinned = _instance_of(self.choice, catalog)
            elif difference := _difference(pinned, catalog):
                return _lost(difference)

    # -- recovering

    async def _recover(self, lost: errors.LLMError, resends: int, on_notice: OnNotice) -> None:
        """Find the model again, and load it if it is gone.

        Raises:
            LLMError: It could not be reloaded; the error says what had happened before.
        """
        why = lost.detail or lost.message
        await on_notice(Notice("recovery", f"{why} Retrying ({resends} of {MAX_RESENDS})."))
        await self._client.retry_sleep(_SETTLE * resends)
        try:
            await self._reload(max_age=0.0, on_notice=on_notice)
        except (errors.LLMConnectionError, errors.LLMTimeoutError):
            raise
        except errors.LLMError as exc:
            exc.message = f"{lost.message} The model could not be reloaded: {exc.message}"
            raise

    async def _explain_silence(self, error: errors.LLMTimeoutError) -> errors.LLMError:
        """The error for a reply that did not come in time, after a look at the server."""
        try:
            catalog = await self._models.catalog(refresh=True)
        except errors.LLMError:
            return error
        if difference := _difference(self.choice.instance, catalog):
            return _lost(difference, error)
        known = self.choice.info.instances is not None and _instance_of(self.choice, catalog)
        state = "The server is running, and the model is still loaded." if known else "The server is running."
        error.message = f"{error.message} {state}"
        return error


def _size(model: ModelInfo) -> int:
    return model.size_bytes or 0


def _instance_of(choice: ModelChoice, catalog: ModelCatalog) -> ModelInstance | None:
    found = catalog.find(choice.name)
    return next(iter(found[0].instances or ()), None) if found else None


def _difference(pinned: ModelInstance | None, catalog: ModelCatalog) -> str:
    """How the server's models differ from the instance that was pinned, in words; "" if they do not."""
    if pinned is None or catalog.source == "/v1/models":
        return ""
    for model in catalog.models:
        for instance in model.instances or ():
            if instance.id == pinned.id:
                if None in (instance.context_length, pinned.context_length):
                    return ""  # still loading, or not reported
                if instance.context_length == pinned.context_length:
                    return ""
                return (
                    f"The model {pinned.id} was reloaded with a context of {instance.context_length} tokens "
                    f"instead of {pinned.context_length}."
                )
    return f"The model {pinned.id} was unloaded."


def _lost(message: str, cause: errors.LLMError | None = None) -> errors.ModelLostError:
    return errors.ModelLostError(
        message,
        remedy="Load the model by hand in LM Studio (a hand-loaded model has no idle limit and is not evicted).",
        url=cause.url if cause else "",
        model=cause.model if cause else None,
    )
