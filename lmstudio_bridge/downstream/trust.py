"""Who may start: a project's `.mcp.json` is somebody else's code, so its servers need the user's leave.

Leave is given in Claude Code, whose rules are followed (code.claude.com/docs/en/mcp, "Project server
approvals and workspace trust"), or by the bridge's own setting. Where Claude Code lets a trusted
folder's checked-in settings approve its servers, we do not: a later pull may change both files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmstudio_bridge.downstream.claude_files import ClaudeState, is_tracked, names_in, read_object

EVERYTHING = frozenset({"*", "all"})
"""What the bridge's own setting says for every server of the project."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Which servers of a project's file may start.

    `named` is the bridge's own setting. `rejected` holds the file that rejects each name.
    """

    named: frozenset[str] = frozenset()
    approved: frozenset[str] = frozenset()
    approves_all: bool = False
    rejected: Mapping[str, Path] = field(default_factory=dict)

    def allows(self, name: str) -> bool:
        """Whether it may start; the bridge's own setting counts most where it names the server itself."""
        if name in self.named or name in self.rejected:
            return name in self.named
        return self.approves_all or name in self.approved or bool(self.named & EVERYTHING)


def read_leave(file: Path, *, project: Path, claude: ClaudeState, trusted: Sequence[str], warnings: list[str]) -> Leave:
    """The leave for the servers of `file`, which was found from the project upwards."""
    approving: list[Mapping[str, Any]] = []
    rejecting: list[tuple[Path, Mapping[str, Any]]] = []

    def take(path: Path | None, source: Mapping[str, Any] | None, *, approves: bool) -> None:
        if path is not None and source:
            rejecting.append((path, source))
            if approves:
                approving.append(source)

    if claude.folder is not None:
        path = claude.folder / "settings.json"
        take(path, read_object(path, warnings=warnings), approves=True)
    # Not from above the file: leave for `files` there says nothing about what is called `files` here.
    folders = [folder for folder in (project, *project.parents) if folder.is_relative_to(file.parent)]
    for folder in folders:
        take(claude.path, claude.entry_of(folder), approves=True)
        path = folder / ".claude" / "settings.local.json"
        local = read_object(path, warnings=warnings)
        take(path, local, approves=local is not None and claude.trusts_folder(folder) and not is_tracked(path))
        path = folder / ".claude" / "settings.json"
        take(path, read_object(path, warnings=warnings), approves=False)
    return Leave(
        named=frozenset(trusted),
        approved=frozenset(name for source in approving for name in names_in(source, "enabledMcpjsonServers")),
        approves_all=any(source.get("enableAllProjectMcpServers") is True for source in approving),
        rejected={name: path for path, source in rejecting for name in names_in(source, "disabledMcpjsonServers")},
    )
