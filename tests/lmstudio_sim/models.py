"""A model on the simulated disk, with everything about it that changes an answer."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from tests.lmstudio_sim.errors import OVERFLOW_NUMBERED, OVERFLOW_PLAIN, JsonObject

Lane = Literal["jit", "manual"]


@dataclass(slots=True)
class SimModel:
    """One downloaded model; `key` is `publisher/name`. All fields may be changed while the simulator runs."""

    key: str
    _: KW_ONLY
    loaded: bool = False
    """Whether an instance exists when the simulator starts."""
    identifier: str | None = None
    """Id of that first instance, as `lms load --identifier` sets it; None means the key."""
    lane: Lane = "manual"
    """How that first instance came to be; auto-evict only unloads the JIT lane."""
    type: Literal["llm", "embedding"] = "llm"
    context_length: int = 8192
    """Tokens of context a load gets that does not say."""
    max_context_length: int = 131072
    guardrail_context_length: int | None = None
    """A load with more tokens of context than this hits the memory guardrail."""
    parallel: int = 4
    """Slots of an instance; further requests wait in line."""
    trained_for_tool_use: bool = False
    vision: bool = False
    reasoning: bool = False
    format: Literal["gguf", "mlx"] = "gguf"
    quantization: str = "Q4_K_M"
    architecture: str = "qwen3"
    size_bytes: int = 2_500_000_000
    load_delay: float | asyncio.Event = 0.0
    """Seconds a load takes, or the event that ends it."""
    load_failure: str | None = None
    """The text every load fails with."""
    meanings: tuple[tuple[str, ...], ...] = ()
    """Of an embedding model: words that mean the same; each group is a dimension, and one is for all other words."""
    overflow_text: str = OVERFLOW_PLAIN
    """What an overlong prompt gets; `{needed}` and `{available}` become tokens."""
    stream_overflow_text: str = OVERFLOW_NUMBERED

    @property
    def publisher(self) -> str:
        return self.key.partition("/")[0] if "/" in self.key else "unknown"

    @property
    def name(self) -> str:
        return self.key.partition("/")[2] or self.key

    @property
    def variant(self) -> str:
        return f"{self.key}@{self.quantization.lower()}"

    def answers_to(self, name: str) -> bool:
        """Whether `name` means this model: key, bare name or `key@quant`, in any letter case (0.4.25)."""
        return name.lower() in {self.key.lower(), self.name.lower(), self.variant.lower()}

    def capabilities(self) -> JsonObject:
        """The `capabilities` object of /api/v1/models."""
        known: JsonObject = {"vision": self.vision, "trained_for_tool_use": self.trained_for_tool_use}
        if self.reasoning:
            known["reasoning"] = {"allowed_options": ["off", "on"], "default": "on"}
        return known
