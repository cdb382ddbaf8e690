"""What a caller wants done: RunRequest, ContinueRequest, and the access that a run may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmstudio_bridge.agent.untrusted import Delimiter
from lmstudio_bridge.messages import Access

DEFAULT_MAX_ROUNDS = 50
DEFAULT_ITEM_ROUNDS = 8  # of each item of a run over many
MAX_ROUNDS = 1_000
MAX_TOKENS = 1_000_000  # of one reply
MAX_SERVERS = 100  # that a request names
MAX_NAME = 256  # characters of a server's or a model's name
MAX_TASK = 10_000  # characters
MAX_COMBINE = 4_000  # characters


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants done.

    `servers` are names of configured MCP servers; None means all that can be used. `max_tokens` is for one reply of the
    model; None lets us choose by its context. `seconds` is the time for the whole run; None leaves it to the settings.
    With an `output_schema` (JSON Schema) the answer is JSON that fits it. `access` says whether tools that may change
    things run. With `for_each` (a list, or a glob of files in the workspace) the task is done once for each item, which
    stands for {item} in it or else at its end; then `max_rounds` and `max_tokens` are for each item. `max_rounds` None
    is `DEFAULT_MAX_ROUNDS`, or for an item `DEFAULT_ITEM_ROUNDS`. `combine` says how the model merges the answers of
    all items at the end, into JSON that fits the `combine_schema` if there is one. `agent` names a subagent of Claude
    Code: the model follows the instructions of its file, and has none but its tools.
    """

    task: str
    servers: tuple[str, ...] | None = None
    max_rounds: int | None = None
    max_tokens: int | None = None
    model: str | None = None
    seconds: float | None = None
    output_schema: Mapping[str, Any] | None = None
    access: Access = "read"
    for_each: tuple[str, ...] | str | None = None
    agent: str | None = None
    combine: str | None = None
    combine_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ItemRun:
    """What the run of one item has of the run over all: `template` is the task without the item.

    `tools_for` is the text by which the servers and tools of all items are chosen. `file` is the item, where it is a
    file of the project, `limit` that of the subagent when the run over all began. A run that merges answers has no
    tools, and the `delimiter` that is around them in its task.
    """

    run_id: str
    template: str
    tools_for: str = ""
    delimiter: Delimiter | None = None
    file: str = ""
    limit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContinueRequest:
    """How a run of before is to go on.

    Without `instructions` a finished run gives its answer again, and another one goes on where it
    stopped. The model is the one of before unless another is named. `access` is for what is done
    from here on; that of before does not count. A run over many items does those that are missing or failed.
    """

    run_id: str
    instructions: str = ""
    max_rounds: int | None = None
    max_tokens: int | None = None
    model: str | None = None
    seconds: float | None = None
    output_schema: Mapping[str, Any] | None = None
    access: Access = "read"
