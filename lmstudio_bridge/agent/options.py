"""What a run is given besides its conversation, model and tools: limits, and how things are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from lmstudio_bridge.agent.json_calls import NATIVE, Strategy
from lmstudio_bridge.agent.tools import UnstartedServers
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.events import FilesChanged
from lmstudio_bridge.messages import Approver, JSONObject, ServerTool

FINISH_TIMEOUT = 5.0  # seconds that the sinks get for the last event, also while being cancelled

Held: TypeAlias = Mapping[Path, tuple[str, bytes | None]]
"""What was at the paths that a call names: the state, and the content of a file that is not too large to be told."""


class ChangeWatch(Protocol):
    """Sees which files a run changes; `lmstudio_bridge.runs.changes.ChangeRecorder` is one."""

    async def before_call(self, tool: ServerTool, arguments: JSONObject) -> Held:
        """Keep what a writing call is about to change; what is there now. Never raises."""

    async def effect(self, tool: ServerTool, held: Held) -> str | None:
        """What a call did to the files, in a few lines without secrets. Never raises.

        "" if it left them as they were, None if nothing can be said.
        """

    async def left(self, held: Held, edits: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        """The text that an edit took away and that still stands elsewhere in a file, and that file. Never raises.

        `edits` are the old and the new texts of the call. None if all of them are gone.
        """

    async def holds(self, tool: ServerTool, arguments: JSONObject, text: str) -> bool | None:
        """Whether the file that the arguments name holds just this text; None if it is not on this machine."""

    async def finish(self) -> FilesChanged | None:
        """What was changed; None if there was no such call."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a run ends at the latest.

    `max_rounds` counts requests to the model, of which the last is without tools. `max_tokens` is for one reply,
    `result_chars` for one tool result, `tool_chars` for names, descriptions and schemas of the tools, `seconds` for the
    run. `context_length` is in tokens, None where it is not known; `vision` says that the model sees images.
    """

    max_rounds: int
    seconds: float
    result_chars: int
    max_tokens: int | None = None
    temperature: float | None = None
    tool_chars: int | None = None
    context_length: int | None = None
    vision: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out.

    `strategy` is how the model is asked at first. With an `output_schema` the answer is JSON that fits it, or the
    run has failed. `unstarted` are servers that can still be started. `started_at` is the time by `clock` at which
    the first event of the run happened; None means now. `finish_timeout` is how many seconds the sinks
    get for the last event, and `watch` for its comparison. `approver` is asked about calls that need write access.
    `tools_for` is the text by which the tools are chosen and ordered, so that several runs can offer the same; "" means
    the run's own task. `read_first` is a file that the model will need: it is read before the first request where one
    server can do so; "" for none. `earlier_calls` are the arguments of calls that worked before the run was continued.
    """

    strategy: Strategy = NATIVE
    output_schema: JSONObject | None = None
    unstarted: UnstartedServers | None = None
    filters: TextFilters = field(default_factory=TextFilters)
    clock: Callable[[], float] = time.monotonic
    started_at: float | None = None
    finish_timeout: float = FINISH_TIMEOUT
    watch: ChangeWatch | None = None
    approver: Approver | None = None
    tools_for: str = ""
    read_first: str = ""
    earlier_calls: tuple[str, ...] = ()
