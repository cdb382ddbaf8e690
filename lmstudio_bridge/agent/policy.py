"""May this call run? A decision with its reason; code, never the model's good sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmstudio_bridge.agent.paths import TooDeepError, Workspace, find_paths, is_protected
from lmstudio_bridge.agent.rules import Rules
from lmstudio_bridge.events import Verdict
from lmstudio_bridge.messages import JSONObject, ServerTool
from lmstudio_bridge.request import Access

_SHOWN_PATH = 200  # characters of a path that is refused


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may run; `reason` is a sentence for the model and the user where it may not.

    `rule` is what decided: a rule of the user's, or the words for one of ours.
    """

    verdict: Verdict
    reason: str = ""
    rule: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it may."""
        return self.verdict == "allowed"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tools of a run may do.

    With `read`, only tools that their server marks as read-only run, and those that a rule allows. A
    tool without the mark counts as writing, as the MCP specification says of `readOnlyHint` (its
    default is false). `local` are the servers whose paths are on this machine, each with the folder
    that it works in: their paths must stay in the workspace.
    """

    access: Access = "read"
    rules: Rules = field(default_factory=Rules)
    workspace: Workspace = field(default_factory=lambda: Workspace(()))
    local: Mapping[str, Path] = field(default_factory=dict)

    def offers(self, tool: ServerTool) -> bool:
        """Whether the model gets to know of the tool."""
        rule = self.rules.find(tool)
        return rule is None or rule.verb != "hide"

    def check_call(self, tool: ServerTool, arguments: JSONObject) -> Decision:
        """The decision for one call of this tool."""
        rule = self.rules.find(tool)
        if rule is not None and rule.verb != "allow":
            return Decision("denied", f"the user's rules deny {tool.server} {tool.name}.", str(rule))
        if tool.server in self.local and (refusal := self._check_paths(tool, arguments)):
            return refusal
        if rule is not None:
            return Decision("allowed", rule=str(rule))
        if tool.read_only:
            return Decision("allowed", rule="readOnlyHint")
        if self.access == "write":
            return Decision("allowed", rule="access=write")
        doubt = ": its server did not always mark it as reading" if tool.doubted else ""
        return Decision(
            "needs_write",
            f"{tool.server} {tool.name} may change things{doubt}, and this run has read access only.",
            "access=read",
        )

    def _check_paths(self, tool: ServerTool, arguments: JSONObject) -> Decision | None:
        """A refusal if a path in the arguments leaves the workspace, or names what must not be changed."""
        names, more = self.rules.path_arguments(tool), self.rules.more_path_arguments(tool)
        try:
            paths = list(find_paths(arguments, names=names, more=more))
        except TooDeepError as exc:
            return Decision("denied", f"{exc}.", "workspace")
        for path in paths:
            places = self.workspace.places_of(path, base=self.local[tool.server])
            shown = path[:_SHOWN_PATH]
            if places is None:
                reason = f"{shown!r} is outside of what this run may touch ({self.workspace})."
                return Decision("outside", reason, "workspace")
            if not tool.read_only and any(map(is_protected, places)):
                reason = f"{shown!r} is a file that decides what programs may do, and only the user changes those."
                return Decision("denied", reason, "protected files")
        return None
