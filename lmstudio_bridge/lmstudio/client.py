"""LLMClient: LM Studio's routes as methods, with retries, typed replies and typed errors."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from lmstudio_bridge import errors
from lmstudio_bridge.lmstudio.failures import unreadable_answer
from lmstudio_bridge.lmstudio.http import Timeouts, Transport, open_transport
from lmstudio_bridge.lmstudio.models import DEFAULT_TTL, ModelCatalog, ModelValidator, Source
from lmstudio_bridge.lmstudio.retry import RetryPolicy, Sleep, retry_with_backoff
from lmstudio_bridge.lmstudio.stream import Accumulator, ChunkDecoder
from lmstudio_bridge.lmstudio.wire import (
    ChatIn,
    EmbeddingsIn,
    NativeModelsIn,
    OldNativeModelsIn,
    OpenAIModelsIn,
    WireModel,
    WrittenFloat,
    chat_request_out,
)
from lmstudio_bridge.messages import ChatRequest, Completion, OnDelta, OnRetry

M = TypeVar("M", bound=WireModel)

_BROKEN_REASONS = (
    *("error", "abort", "aborted", "cancelled", "canceled", "failed", "repetition", "insufficient_system_resource"),
    *("timeout", "interrupted", "internal_error", "server_error", "engine_error", "killed"),
    *("modelunloaded", "userstopped"),  # LM Studio's SDK
)
"""Finish reasons of a reply that is not whole: vLLM's and SGLang's `abort`, and `error` of several gateways."""

_MODELS_TIMEOUT = 10.0  # seconds; these routes answer at once, whatever the model is doing

_MODEL_ROUTES: Mapping[Source, type[NativeModelsIn] | type[OldNativeModelsIn] | type[OpenAIModelsIn]] = {
    "/api/v1/models": NativeModelsIn,
    "/api/v0/models": OldNativeModelsIn,
    "/v1/models": OpenAIModelsIn,
}


@asynccontextmanager
async def open_client(
    root_url: str,
    *,
    api_token: str | None = None,
    ca_file: Path | None = None,
    default_model: str | None = None,
    timeouts: Timeouts | None = None,
    retry_policy: RetryPolicy | None = None,
    model_ttl: float = DEFAULT_TTL,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[LLMClient]:
    """A client for the server at `root_url` (without /v1), with one connection pool of its own."""
    async with open_transport(root_url, api_token=api_token, ca_file=ca_file, timeouts=timeouts) as transport:
        yield LLMClient(
            transport,
            default_model=default_model,
            retry_policy=retry_policy or RetryPolicy(),
            model_ttl=model_ttl,
            sleep=sleep,
            clock=clock,
        )


class LLMClient:
    """LM Studio's OpenAI-compatible routes, and the routes that list its models.

    `model` is a concrete name from `validator.resolve`. Every method raises a kind of `LLMError`, with the URL, the
    model, the status and the server's own words. Retryable failures have been retried before.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        default_model: str | None,
        retry_policy: RetryPolicy,
        model_ttl: float,
        sleep: Sleep,
        clock: Callable[[], float],
    ) -> None:
        self._transport = transport
        self.root_url = transport.root_url
        self.retry_policy = retry_policy
        self.retry_sleep = sleep
        self.retry_clock = clock
        self.validator = ModelValidator(self.list_models, default_model=default_model, ttl=model_ttl, clock=clock)

    @retry_with_backoff
    async def list_models(self) -> ModelCatalog:
        """The models, from the most detailed route there is: `/api/v1`, else `/api/v0`, else `/v1`."""
        refusal: errors.LLMError | None = None
        for route, shape in _MODEL_ROUTES.items():
            url = self.root_url + route
            try:
                body = await self._transport.request("GET", route, timeout=_MODELS_TIMEOUT)
                return ModelCatalog(_read(shape, body, url=url).to_infos(), route, url)
            except errors.LLMResponseError as exc:
                is_missing = isinstance(exc, errors.WrongEndpointError) or exc.status in (403, 404, 405, 501)
                if not is_missing:  # 403: a token that is not permitted to use it
                    raise
                refusal = exc
        assert refusal is not None
        raise refusal

    async def list_openai_names(self) -> frozenset[str]:
        """The names in `/v1/models`: all models with just-in-time loading, else only the loaded ones."""
        route: Source = "/v1/models"
        body = await self._transport.request("GET", route, timeout=_MODELS_TIMEOUT)
        infos = _read(OpenAIModelsIn, body, url=self.root_url + route).to_infos()
        return frozenset(info.key for info in infos)

    async def load_model(self, model: str, *, context_length: int) -> None:
        """Load a model and wait until it is in memory; LM Studio 0.4 and later.

        A model that is loaded already gets a second instance, so check first. The context (tokens) may
        differ from what was asked for, so check again afterwards.

        Raises:
            ModelLoadError: LM Studio refused or failed.
            LLMError: In its other kinds; `WrongEndpointError` where there is no such route.
        """
        payload = {"model": model, "context_length": context_length}
        await self._transport.request("POST", "/api/v1/models/load", payload, model=model, resend=False)
        self.validator.forget()

    @retry_with_backoff
    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        model: str,
        on_delta: OnDelta | None = None,
        on_retry: OnRetry | None = None,
        accepts_model: Callable[[str], bool] | None = None,
        recover_calls: bool = True,
    ) -> Completion:
        """One reply: piece by piece to `on_delta`, and whole in the end.

        A request is not retried once `on_delta` got a piece. Canceling closes the connection, and
        LM Studio stops generating. Without `recover_calls`, calls that leaked into the text stay there.

        Raises:
            ModelLostError: The stream ended early; what came so far is not an answer.
            ModelSubstitutedError: `accepts_model` refused the name in the reply.
            LLMError: In its other kinds.
        """
        url = f"{self.root_url}/v1/chat/completions"
        payload = chat_request_out(request, model=model)
        accumulator = Accumulator(tools=request.tools if recover_calls else ())
        decoder = ChunkDecoder()

        async def take(chunks: Iterable[ChatIn]) -> None:
            for chunk in chunks:
                if accepts_model and chunk.model and not accepts_model(chunk.model):
                    raise errors.ModelSubstitutedError(
                        f"Another model answered: {chunk.model} instead of {model}.",
                        remedy=f"LM Studio does that when {model} is not available but one other model is loaded. "
                        f"Load {model}.",
                        model=model,
                    )
                for delta in accumulator.add(chunk):
                    if on_delta:
                        await on_delta(delta)

        try:
            # LM Studio sends the arguments of a call only when they are whole, after a silence as long as they take.
            async with self._transport.stream(
                "/v1/chat/completions", payload, model=model, patient=lambda: bool(request.tools) or accumulator.empty
            ) as pieces:
                async for piece in pieces:
                    await take(decoder.feed(piece))
                    if decoder.done:
                        break
                else:
                    await take(decoder.flush())
        except errors.LLMError as exc:
            exc.url, exc.model = exc.url or url, exc.model or model
            if not accumulator.empty:
                exc.retryable = False
            if not (accumulator.finished and isinstance(exc, (errors.ModelLostError, errors.LLMTimeoutError))):
                raise  # else the reply is whole, and only the end of the stream is missing
        if accumulator.finish_reason.casefold() in _BROKEN_REASONS:
            raise errors.ModelLostError(
                f"The server gave up on the reply (finish_reason {accumulator.finish_reason!r}).",
                remedy="Try again; if it happens often, look at LM Studio's server log.",
                url=url,
                model=model,
            )
        if decoder.foreign:
            raise unreadable_answer(url=url, model=model, detail=decoder.other)
        if not accumulator.finished and (accumulator.empty or not decoder.done):
            raise errors.ModelLostError(
                "The reply broke off before its end.",
                remedy="The model was probably unloaded or crashed; look at LM Studio's server log.",
                url=url,
                model=model,
            )
        return accumulator.completion()

    async def embed(self, texts: Sequence[str], *, model: str) -> list[list[float]]:
        """One vector per text, in their order; not retried, for callers that can do without the vectors.

        LM Studio silently truncates texts that exceed the loaded context (seen on 0.4.25).
        """
        url = f"{self.root_url}/v1/embeddings"
        payload = {"model": model, "input": list(texts)}
        body = await self._transport.request("POST", "/v1/embeddings", payload, model=model)
        vectors = _read(EmbeddingsIn, body, url=url, model=model).vectors()
        if len(vectors) != len(texts):
            raise unreadable_answer(url=url, model=model, detail=f"{len(vectors)} vectors for {len(texts)} texts")
        return vectors


def _read(shape: type[M], body: bytes, *, url: str, model: str | None = None) -> M:
    try:
        # Pydantic's own JSON reader refuses half characters.
        return shape.model_validate(json.loads(body, parse_float=WrittenFloat))
    except ValueError as exc:
        raise unreadable_answer(url=url, model=model, detail=body[:200].decode("utf-8", "replace")) from exc
