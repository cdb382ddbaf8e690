"""Lists of models, and a server that hands them out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelChoice, ModelInfo, ModelInstance, ModelValidator, Source
from tests.unit.lmstudio.clients import FakeTime

URL = "http://127.0.0.1:1234/api/v1/models"
TTL = 60.0

QWEN = ModelInfo(
    "qwen/qwen3-4b", instances=(), trained_for_tool_use=True, variants=("qwen/qwen3-4b@q4_k_m", "qwen/qwen3-4b@q8_0")
)
GEMMA = ModelInfo("google/gemma-3-1b", instances=(), trained_for_tool_use=False)
NOMIC = ModelInfo("text-embedding-nomic", kind="embedding", instances=(ModelInstance("text-embedding-nomic"),))


def loaded(model: ModelInfo, *instances: ModelInstance) -> ModelInfo:
    """The model with these instances in memory, by default with one of its own name."""
    return ModelInfo(
        model.key,
        kind=model.kind,
        instances=instances or (ModelInstance(model.key, 8192),),
        trained_for_tool_use=model.trained_for_tool_use,
        variants=model.variants,
    )


def catalog(*models: ModelInfo, source: Source = "/api/v1/models") -> ModelCatalog:
    return ModelCatalog(models, source, URL)


@dataclass(slots=True)
class Server:
    """Answers of the function that fetches, in their order; the last one stays."""

    answers: list[ModelCatalog | Exception]
    fetches: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None

    async def fetch(self) -> ModelCatalog:
        self.fetches += 1
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def validator(server: Server, *, time: FakeTime | None = None, default_model: str | None = None) -> ModelValidator:
    clock = (time or FakeTime()).clock
    return ModelValidator(server.fetch, default_model=default_model, ttl=TTL, clock=clock)


async def resolve(name: str | None, *models: ModelInfo, default_model: str | None = None) -> ModelChoice:
    return await validator(Server([catalog(*models)]), default_model=default_model).resolve(name)
