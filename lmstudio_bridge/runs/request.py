"""What a caller wants done: RunRequest, ContinueRequest, and the access that a run may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmstudio_bridge.messages import Access

DEFAULT_MAX_ROUNDS = 50
MAX_ROUNDS = 1_000
MAX_TOKENS = 1_000_000  # of one reply
MAX_SERVERS = 100  # that a request names
MAX_NAME = 256  # characters of a server's or a model's name
MAX_TASK = 10_000  # characters


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants done.

    `servers` are names of configured MCP servers; None means all that can be used. `max_tokens` is
    for one reply of the model; None lets us choose by its context. `seconds` is the time for the
    whole run; None leaves it to the settings. With an `output_schema` (JSON Schema) the answer is JSON
    that fits it. `access` says whether tools that may change things run.
    """

    task: str
    servers: tuple[str, ...] | None = None
    max_rounds: int = DEFAULT_MAX_ROUNDS
    max_tokens: int | None = None
    model: str | None = None
    seconds: float | None = None
    output_schema: Mapping[str, Any] | None = None
    access: Access = "read"


@dataclass(frozen=True, slots=True)
class ContinueRequest:
    """How a run of before is to go on.

    Without `instructions` a finished run gives its answer again, and another one goes on where it
    stopped. The model is the one of before unless another is named. `access` is for what is done
    from here on; that of before does not count.
    """

    run_id: str
    instructions: str = ""
    max_rounds: int = DEFAULT_MAX_ROUNDS
    max_tokens: int | None = None
    model: str | None = None
    seconds: float | None = None
    output_schema: Mapping[str, Any] | None = None
    access: Access = "read"
