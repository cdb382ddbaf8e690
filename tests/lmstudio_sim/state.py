"""The models on disk, the instances in memory, who is generating on them, and which one a name means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.lmstudio_sim.errors import (
    LOAD_CANCELED,
    LOAD_GUARDRAIL,
    MODEL_CRASHED,
    MODEL_RELOADED,
    MODEL_UNLOADED,
    NO_MODELS_LOADED,
    InstanceLostError,
    PredictionFailedError,
    RequestRefusedError,
    openai_error,
)
from tests.lmstudio_sim.models import Lane, SimModel

JIT_TTL_SECONDS = 3600.0
"""LM Studio's default idle time of a JIT-loaded model."""


@dataclass(slots=True, eq=False)
class Flight:
    """One request on an instance, waiting for a slot or generating."""

    task: asyncio.Task[Any]
    cause: str | None = None

    def kill(self, cause: str) -> None:
        if self.cause is None:
            self.cause = cause
            self.task.cancel()


@dataclass(slots=True, eq=False)
class Instance:
    """A loaded model. `ttl_seconds` None means it is never unloaded for being idle."""

    id: str
    model: SimModel
    context_length: int
    lane: Lane
    ttl_seconds: float | None
    parallel: int
    flights: set[Flight] = field(default_factory=set)
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.parallel)

    @asynccontextmanager
    async def hold_slot(self) -> AsyncIterator[None]:
        """Wait in line for a slot and keep it.

        Raises:
            PredictionFailedError: the instance died meanwhile.
        """
        task = asyncio.current_task()
        assert task is not None
        flight = Flight(task)
        self.flights.add(flight)
        try:
            async with self.slots:
                yield
        except asyncio.CancelledError:
            # A client that hung up has cancelled the task as well: then nobody is left to tell.
            if flight.cause is None or task.uncancel() > 0:
                raise
            raise InstanceLostError(flight.cause) from None
        finally:
            self.flights.discard(flight)

    def kill_flights(self, cause: str) -> None:
        for flight in list(self.flights):
            flight.kill(cause)


@dataclass(slots=True, eq=False)
class Load:
    """A load under way; `outcome` becomes the instance or the text it failed with."""

    model: SimModel
    lane: Lane
    outcome: asyncio.Future[Instance | str]
    task: asyncio.Task[None] | None = None

    def settle(self, outcome: Instance | str) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class ModelState:
    """All models and instances. `duplicate_jit` lets concurrent first requests load an instance each (bt#1751)."""

    def __init__(self, models: Sequence[SimModel], *, jit: bool, duplicate_jit: bool, old_build: bool) -> None:
        self.models: dict[str, SimModel] = {model.key: model for model in models}
        self.instances: dict[str, Instance] = {}
        self.loads: list[Load] = []
        self.jit = jit
        self.duplicate_jit = duplicate_jit
        self.old_build = old_build
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiries: dict[Instance, asyncio.TimerHandle] = {}
        for model in models:
            if model.loaded:
                self._add_instance(model, lane=model.lane, id=model.identifier)

    async def aclose(self) -> None:
        """Stop loads and timers; instances die with them."""
        for handle in self._expiries.values():
            handle.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def loaded(self, type: Literal["llm", "embedding"]) -> list[Instance]:
        """Instances of that type in order of loading."""
        return [instance for instance in self.instances.values() if instance.model.type == type]

    # -- from a name to an instance ------------------------------------------------------------------------------

    async def resolve(
        self, name: str, *, type: Literal["llm", "embedding"] = "llm", ttl_seconds: float | None = None
    ) -> Instance:
        """The instance that answers for `name`, loaded for this request if need be (rules of 0.4.25).

        Raises:
            RequestRefusedError: no model goes by that name, or its load failed.
        """
        instance = self._find_loaded(name, type=type)
        if instance is not None:
            return instance
        model = self.find_model(name, type=type)
        if model is not None and self.jit:
            return await self._load_for_request(model, ttl_seconds=ttl_seconds)
        raise RequestRefusedError(*self._refusal(name, type=type))

    def find_model(self, name: str, *, type: Literal["llm", "embedding"] | None = None) -> SimModel | None:
        """The downloaded model that `name` means."""
        for model in self.models.values():
            if model.answers_to(name) and type in (None, model.type):
                return model
        return None

    def _find_loaded(self, name: str, *, type: Literal["llm", "embedding"]) -> Instance | None:
        candidates = self.loaded(type)
        for instance in candidates:
            if instance.id == name:
                return instance
        for instance in candidates:
            if instance.model.answers_to(name):
                return instance
        known = self.jit and self.find_model(name, type=type) is not None
        if type == "llm" and not known and len({instance.model.key for instance in candidates}) == 1:
            return candidates[0]  # the substitution: only `model` in the reply tells
        return None

    def _refusal(self, name: str, *, type: Literal["llm", "embedding"]) -> tuple[int, dict[str, Any]]:
        downloaded = [model.key for model in self.models.values() if model.type == type]
        status = 404 if self.old_build else 400
        if not downloaded:
            text = f"Invalid model identifier '{name}'. There are no downloaded {type} models."
            return 400, openai_error(text, param="model", code="model_not_found")
        if not self.loaded(type) and (not self.jit or not name):
            return status, openai_error(NO_MODELS_LOADED, param="model")
        if self.old_build:
            listing = "\n".join(downloaded)
            text = f'Model "{name}" not found. Please specify a valid model.\n\nYour models:\n\n{listing}'
        else:
            text = (
                f'Invalid model identifier "{name}". '
                f"Please specify a valid downloaded model (e.g., {', '.join(downloaded)})."
            )
        return status, openai_error(text, param="model", code="model_not_found")

    # -- loading -------------------------------------------------------------------------------------------------

    async def load(self, model: SimModel, *, context_length: int | None = None) -> Instance:
        """Load one more instance by hand: no TTL, never auto-evicted.

        Raises:
            PredictionFailedError: the load failed; the message is LM Studio's.
        """
        outcome = await asyncio.shield(self._start_load(model, lane="manual", context_length=context_length).outcome)
        if isinstance(outcome, str):
            raise PredictionFailedError(outcome)
        return outcome

    async def _load_for_request(self, model: SimModel, *, ttl_seconds: float | None) -> Instance:
        load = next((each for each in self.loads if each.model is model and each.lane == "jit"), None)
        if load is None or self.duplicate_jit:
            self.evict(other_than=model)
            load = self._start_load(model, lane="jit", ttl_seconds=ttl_seconds)
        outcome = await asyncio.shield(load.outcome)
        if isinstance(outcome, str):
            text = f'Failed to load model "{model.key}". Error: {outcome}'
            raise RequestRefusedError(400, openai_error(text, param="model"))
        if self.instances.get(outcome.id) is not outcome:
            raise InstanceLostError(MODEL_UNLOADED)
        return outcome

    def _start_load(
        self, model: SimModel, *, lane: Lane, context_length: int | None = None, ttl_seconds: float | None = None
    ) -> Load:
        load = Load(model, lane, asyncio.get_running_loop().create_future())
        self.loads.append(load)
        load.task = self._spawn(self._run_load(load, context_length=context_length, ttl_seconds=ttl_seconds))
        return load

    async def _run_load(self, load: Load, *, context_length: int | None, ttl_seconds: float | None) -> None:
        model = load.model
        try:
            if isinstance(model.load_delay, asyncio.Event):
                await model.load_delay.wait()
            else:
                await asyncio.sleep(model.load_delay)
            wanted = context_length or model.context_length
            if model.load_failure is not None:
                load.settle(model.load_failure)
            elif model.guardrail_context_length is not None and wanted > model.guardrail_context_length:
                load.settle(LOAD_GUARDRAIL)
            else:
                load.settle(self._add_instance(model, lane=load.lane, context_length=wanted, ttl_seconds=ttl_seconds))
        finally:
            self.loads.remove(load)
            load.settle(LOAD_CANCELED)

    def _add_instance(
        self,
        model: SimModel,
        *,
        lane: Lane,
        id: str | None = None,
        context_length: int | None = None,
        ttl_seconds: float | None = None,
    ) -> Instance:
        base, free, count = id or model.key, id or model.key, 1
        while free in self.instances:
            count += 1
            free = f"{base}:{count}"
        ttl = (ttl_seconds or JIT_TTL_SECONDS) if lane == "jit" else None
        instance = Instance(free, model, context_length or model.context_length, lane, ttl, model.parallel)
        self.instances[free] = instance
        self.touch(instance)
        return instance

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- losing instances ----------------------------------------------------------------------------------------

    def touch(self, instance: Instance) -> None:
        """Restart the idle timer; a working model is not idle."""
        handle = self._expiries.pop(instance, None)
        if handle is not None:
            handle.cancel()
        if instance.ttl_seconds is not None and self.instances.get(instance.id) is instance:
            loop = asyncio.get_running_loop()
            self._expiries[instance] = loop.call_later(instance.ttl_seconds, self._expire, instance)

    def _expire(self, instance: Instance) -> None:
        if self.instances.get(instance.id) is not instance:
            return
        if instance.flights:
            self.touch(instance)
        else:
            self.remove(instance.id, cause=MODEL_UNLOADED)

    def remove(self, instance_id: str, *, cause: str) -> Instance:
        """Take an instance out of memory; its requests in flight die of `cause`."""
        instance = self.instances.pop(instance_id)
        handle = self._expiries.pop(instance, None)
        if handle is not None:
            handle.cancel()
        instance.kill_flights(cause)
        return instance

    def evict(self, *, other_than: SimModel | None = None) -> list[str]:
        """Auto-evict: unload the JIT lane (all models but one), cancel its loads, and tell which ids went."""
        gone = [i.id for i in self.instances.values() if i.lane == "jit" and i.model is not other_than]
        for instance_id in gone:
            self.remove(instance_id, cause=MODEL_UNLOADED)
        for load in list(self.loads):
            if load.lane == "jit" and load.model is not other_than and load.task is not None:
                load.task.cancel()
                load.settle(LOAD_CANCELED)
        return gone

    def reload(self, instance_id: str, *, context_length: int | None = None) -> Instance:
        """Load an instance anew under its id; its requests in flight die of "Model reloaded."."""
        old = self.instances[instance_id]
        old.kill_flights(MODEL_RELOADED)
        new = Instance(old.id, old.model, context_length or old.context_length, old.lane, old.ttl_seconds, old.parallel)
        self.instances[instance_id] = new
        self.touch(new)
        return new

    def crash(self, instance_id: str, *, text: str = MODEL_CRASHED) -> Instance:
        """Lose an instance to an engine crash."""
        return self.remove(instance_id, cause=text)
