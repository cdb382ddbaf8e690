"""The record of one request: what came in, and how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.lmstudio_sim.errors import JsonObject

Outcome = Literal["pending", "completed", "disconnected", "killed", "cut"]


@dataclass(slots=True, eq=False)
class SimRequest:
    """A request as it arrived. `number` counts from 1 in order of arrival; header names are in lower case."""

    number: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    json: JsonObject | None
    """The body, if it is a JSON object."""
    outcome: Outcome = "pending"
    """`completed`: answered to the scripted end. `disconnected`: the client hung up first, the generation stopped.
    `killed`: its instance died. `cut`: the simulator closed the connection, as a fault or by `stop`."""
    status: int | None = None
    instance_id: str | None = None
    tokens_sent: int = 0
    """Delta frames written so far."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the request has a slot and its generation begins."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the request is over, whatever its outcome; its slot is free by then."""

    @property
    def completed(self) -> bool:
        return self.outcome == "completed"

    @property
    def disconnected(self) -> bool:
        return self.outcome == "disconnected"

    @property
    def size_bytes(self) -> int:
        return len(self.body)

    @property
    def model(self) -> str:
        """The model the request asks for, or an empty string."""
        named = (self.json or {}).get("model")
        return named if isinstance(named, str) else ""

    @property
    def messages(self) -> list[JsonObject]:
        found: Any = (self.json or {}).get("messages")
        return found if isinstance(found, list) else []

    @property
    def tools(self) -> list[JsonObject]:
        found: Any = (self.json or {}).get("tools")
        return found if isinstance(found, list) else []

    @property
    def streams(self) -> bool:
        return bool((self.json or {}).get("stream"))

    def finish(self, outcome: Outcome) -> None:
        """Settle the outcome; the first one given stays."""
        if self.outcome == "pending":
            self.outcome = outcome
