"""May this call run? A decision with its reason; code, never the model's good sense."""

from __future__ import annotations

from dataclasses import dataclass

from lmstudio_bridge.events import Verdict
from lmstudio_bridge.messages import Access, ServerTool


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may run; `reason` is a sentence for the model and the user where it may not."""

    verdict: Verdict
    reason: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it may."""
        return self.verdict == "allowed"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read`, only tools that their server marks as read-only run. A tool without the mark counts
    as writing, as the MCP specification says of `readOnlyHint` (its default is false).
    """

    access: Access = "read"

    def check_call(self, tool: ServerTool) -> Decision:
        """The decision for one call of this tool."""
        if self.access == "write" or tool.read_only:
            return Decision("allowed")
        return Decision(
            "needs_write", f"{tool.server} {tool.name} may change things, and this run has read access only."
        )
