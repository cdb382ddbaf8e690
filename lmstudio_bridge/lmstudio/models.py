"""Which models there are, which one a name means, and whether it can do the work.

`ModelValidator` caches the list for a while; it is given the function that fetches it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

from lmstudio_bridge.errors import LLMError, ModelNotFoundError, listed

ModelKind: TypeAlias = Literal["llm", "embedding"]
Source: TypeAlias = Literal["/api/v1/models", "/api/v0/models", "/v1/models"]

DEFAULT_TTL = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class ModelInstance:
    """A model in memory, or on its way there if it is `loading`; `id` is the name that replies carry."""

    id: str
    context_length: int | None = None  # tokens
    parallel: int | None = None  # slots
    loading: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that LM Studio offers.

    None means "not reported": `/v1/models` has neither the loaded state nor the context length, so
    `instances` is None there, and an empty tuple where the model is known not to be loaded. `served`: llama.cpp's
    server has it in memory, and does not unload it.
    """

    key: str
    kind: ModelKind = "llm"
    instances: tuple[ModelInstance, ...] | None = None
    max_context_length: int | None = None  # tokens
    trained_for_tool_use: bool | None = None
    vision: bool | None = None
    variants: tuple[str, ...] = ()
    size_bytes: int | None = None
    served: bool = False

    @property
    def loaded(self) -> bool | None:
        """Whether an instance is in memory; None where the server does not report it."""
        return self.served or None if self.instances is None else bool(self.instances)

    def possible_context(self, wanted: int) -> int:
        """The context to load the model with: as much as is wanted, as far as it can (tokens)."""
        return min(wanted, self.max_context_length or wanted)

    def names(self) -> tuple[str, ...]:
        """Every name under which LM Studio accepts this model."""
        return (self.key, *self.variants, *(instance.id for instance in self.instances or ()))


@dataclass(frozen=True, slots=True)
class ModelCatalog:
    """The models of a server at one moment; `source` is the route that they come from."""

    models: tuple[ModelInfo, ...]
    source: Source
    url: str

    def find(self, name: str) -> tuple[ModelInfo, str] | None:
        """The model that `name` means, and the name to send for it.

        LM Studio matches keys ignoring case, and instance ids exactly (reference, 3.3). We
        also take `key:2` for a key whose second instance is gone, `key@quant` where variants are
        not listed, and a name without its publisher if only one model has it.
        """
        for model in self.models:
            for instance in model.instances or ():
                if instance.id == name:
                    return model, instance.id
        folded = name.casefold()
        for model in self.models:
            for known in (model.key, *model.variants):
                if known.casefold() == folded:
                    return model, known
        bare = {
            model.key: (model, known)
            for model in self.models
            for known in (*model.variants, model.key)
            if known.casefold().rpartition("/")[2] == folded
        }
        if len(bare) == 1:
            return next(iter(bare.values()))
        base, at, _ = name.partition("@")
        if at and (found := self.find(base)) and not found[0].variants:
            return found[0], name
        base, colon, number = name.rpartition(":")
        return self.find(base) if colon and number.isdecimal() else None

    def chat_models(self) -> tuple[ModelInfo, ...]:
        return tuple(model for model in self.models if model.kind == "llm")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A concrete model: `name` goes into requests, `instance` is set if it is in memory.

    `wanted` is the name to resolve again when the instance is gone.
    """

    name: str
    info: ModelInfo
    instance: ModelInstance | None
    source: Source
    wanted: str

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and reply share; None if unknown."""
        return self.instance.context_length if self.instance else None

    def answers_as(self, reply_model: str) -> bool:
        """Whether a reply that carries this name came from the chosen model.

        Only servers with LM Studio's native routes name instances reliably; from others, and from
        replies without a name, everything is accepted.
        """
        if self.source == "/v1/models" or not reply_model:
            return True
        folded = reply_model.casefold()
        base, colon, number = folded.rpartition(":")
        stem = base if colon and number.isdecimal() else folded
        return any(name.casefold() in (folded, stem) for name in (self.name, *self.info.names()))


class ModelValidator:
    """Resolves a model name to a concrete model, with a cached list of the models.

    There is one fetch at a time, shared by all callers that wait for it. A name that is missing from a
    cached list is looked up in a fresh one before it is refused.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[ModelCatalog]],
        *,
        default_model: str | None = None,
        ttl: float = DEFAULT_TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._default_model = _name_or_none(default_model)
        self._ttl = ttl
        self._clock = clock
        self._fetching = asyncio.Lock()
        self._fetches = 0  # that have ended, well or badly
        self._forgotten = 0  # times that `forget` was called
        self._last: ModelCatalog | LLMError | None = None
        self._cached: ModelCatalog | None = None
        self._cached_at = 0.0

    async def catalog(self, *, refresh: bool = False, max_age: float | None = None) -> ModelCatalog:
        """The models, at most `max_age` (else `ttl`) seconds old; `refresh` always asks the server.

        Raises:
            LLMError: The server could not be asked; failures are not cached.
        """
        if not refresh and (cached := self._fresh(max_age)):
            return cached
        fetches = self._fetches
        async with self._fetching:
            if self._fetches == fetches:
                await self._fetch_catalog()
        assert self._last is not None
        if isinstance(self._last, LLMError):
            raise self._last
        return self._last

    async def resolve(self, name: str | None) -> ModelChoice:
        """The concrete model for `name`; with None, "" or "default" one is chosen.

        Raises:
            ModelNotFoundError: There is no such model, or none can be chosen; lists the available ones.
            LLMError: The server could not be asked.
        """
        name = _name_or_none(name) or self._default_model
        had_cache = self._fresh() is not None
        try:
            return _choose(await self.catalog(), name)
        except ModelNotFoundError:
            if not had_cache:
                raise
            return _choose(await self.catalog(refresh=True), name)

    def forget(self) -> None:
        """Drop the cached list, because it may have changed."""
        self._cached = None
        self._forgotten += 1

    async def _fetch_catalog(self) -> None:
        forgotten = self._forgotten
        try:
            self._last = await self._fetch()
        except LLMError as exc:
            self._last = exc
        self._fetches += 1
        self._cached_at = self._clock()
        keeps = self._forgotten == forgotten
        self._cached = self._last if keeps and isinstance(self._last, ModelCatalog) else None

    def _fresh(self, max_age: float | None = None) -> ModelCatalog | None:
        limit = self._ttl if max_age is None else max_age
        return self._cached if self._cached and self._clock() - self._cached_at < limit else None


def _name_or_none(name: str | None) -> str | None:
    """The name, or None for "", "default" and None, which leave the choice to us."""
    stripped = (name or "").strip()
    return None if stripped.casefold() in ("", "default") else stripped


def _choose(catalog: ModelCatalog, name: str | None) -> ModelChoice:
    chat_models = catalog.chat_models()
    if name is None:
        if not chat_models:
            raise ModelNotFoundError(
                "LM Studio has no chat model.",
                remedy="Download one in LM Studio (one marked with the tool-use hammer works best) and load it.",
                url=catalog.url,
            )
        model, known = _choose_unnamed(catalog, chat_models)
    else:
        found = catalog.find(name)
        if found is None:
            raise _not_found(catalog, name)
        model, known = found
        if model.kind == "embedding":
            raise ModelNotFoundError(
                f"{model.key} is an embedding model; it cannot chat.",
                remedy=_available(chat_models),
                url=catalog.url,
                model=name,
            )
    instance = _instance_for(model, known)
    wanted = model.key if instance and known == instance.id else known
    return ModelChoice(instance.id if instance else known, model, instance, catalog.source, wanted)


def _choose_unnamed(catalog: ModelCatalog, chat_models: tuple[ModelInfo, ...]) -> tuple[ModelInfo, str]:
    """A loaded model trained for tools, else a loaded one, else the only one."""
    loaded = [model for model in chat_models if model.loaded]
    trained = [model for model in loaded if model.trained_for_tool_use]
    for candidates in (trained, loaded, chat_models if len(chat_models) == 1 else ()):
        if candidates:
            return candidates[0], candidates[0].key
    names = [model.key for model in chat_models]
    raise ModelNotFoundError(
        "No model was named, none is loaded, and there are several to choose from."
        if chat_models[0].loaded is not None
        else "No model was named, and the server offers several.",
        remedy=f"Load one in LM Studio, set DEFAULT_MODEL, or pass model= one of: {listed(names)}.",
        url=catalog.url,
    )


def _instance_for(model: ModelInfo, name: str) -> ModelInstance | None:
    """The loaded instance that a request with this name reaches; of several, the one with the largest context."""
    instances = model.instances or ()
    if (named := next((each for each in instances if each.id == name), None)) is not None:
        return named
    if "@" in name and name not in model.variants[:1]:
        return None  # it may mean another variant than the one in memory: LM Studio decides
    return max(instances, key=lambda each: each.context_length or 0, default=None)


def _not_found(catalog: ModelCatalog, name: str) -> ModelNotFoundError:
    by_folded = {known.casefold(): known for model in catalog.chat_models() for known in model.names()}
    near = [by_folded[folded] for folded in get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return ModelNotFoundError(
        f"LM Studio has no model named {name!r}.",
        remedy=hint + _available(catalog.chat_models()),
        url=catalog.url,
        model=name,
    )


def _available(models: Iterable[ModelInfo]) -> str:
    names = [model.key for model in models]
    return f"Available: {listed(names)}." if names else "LM Studio has no chat model: download one there."
