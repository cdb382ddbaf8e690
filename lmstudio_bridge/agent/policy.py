"""May this call run? A decision with its reason; code, never the model's good sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from lmstudio_bridge.messages import ServerTool

Access: TypeAlias = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may run; `reason` is for the model and the user."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read`, only tools that their server marks as read-only run. A tool without the mark counts
    as writing, as the MCP specification says of `readOnlyHint` (its default is false).
    """

    access: Access = "write"

    def check_call(self, tool: ServerTool) -> Decision:
        """The decision for one call of this tool."""
        if self.access == "write" or tool.read_only:
            return Decision(allowed=True)
        return Decision(
            allowed=False,
            reason=f"{tool.server} {tool.name} may change things, and this run has read access only.",
        )
