"""What Claude Code keeps for itself, as far as it concerns MCP servers: `.claude.json` and its settings files.

Read only, and never needed: a file that is missing says nothing, a broken one is a warning. Where the
files are and what they mean: Claude Code 2.1.330 and code.claude.com/docs/en/mcp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmstudio_bridge.downstream.entries import Surroundings, read_json
from lmstudio_bridge.errors import McpConfigError


@dataclass(frozen=True, slots=True)
class ClaudeState:
    """The user's own `.claude.json`, and the folder with the user's settings.

    `root` is empty where there is no such file; `path` and `folder` are None where there is no home folder.
    """

    path: Path | None = None
    folder: Path | None = None
    root: Mapping[str, Any] = field(default_factory=dict)

    def entry_of(self, folder: Path) -> Mapping[str, Any] | None:
        """What it says about a project folder, by its path as given or without links."""
        projects = self.root.get("projects")
        if not isinstance(projects, dict):
            return None
        for candidate in (folder, Path(os.path.realpath(folder))):
            for key in (str(candidate), candidate.as_posix()):  # Windows: newer versions write slashes
                if isinstance(entry := projects.get(key), dict):
                    return entry
        return None

    def nearest_entry(self, project: Path) -> Mapping[str, Any]:
        """What it says about the project, or about the nearest folder above that it knows."""
        found = (self.entry_of(folder) for folder in (project, *project.parents))
        return next((entry for entry in found if entry is not None), {})

    def trusts_folder(self, folder: Path) -> bool:
        """Whether the user has accepted the trust dialog for a folder or one above it."""
        return any(
            (self.entry_of(each) or {}).get("hasTrustDialogAccepted") is True for each in (folder, *folder.parents)
        )


def read_state(around: Surroundings, *, warnings: list[str]) -> ClaudeState:
    """The user's state; `CLAUDE_CONFIG_DIR` moves both the file and the settings."""
    if moved := around.environ.get("CLAUDE_CONFIG_DIR", "").strip():
        folder = around.locate(moved)
        path = folder / ".claude.json"
    elif around.home is not None:
        folder, path = around.home / ".claude", around.home / ".claude.json"
    else:
        return ClaudeState()
    return ClaudeState(path, folder, read_object(path, warnings=warnings) or {})


def read_object(path: Path, *, warnings: list[str]) -> Mapping[str, Any] | None:
    """The object in a file that may be missing; one that cannot be used is None and a warning."""
    try:
        if not path.exists():
            return None
        root = read_json(path)
    except (McpConfigError, OSError) as exc:
        warnings.append(exc.message if isinstance(exc, McpConfigError) else f"{path} cannot be read: {exc.strerror}.")
        return None
    if isinstance(root, dict):
        return root
    warnings.append(f"{path} is left out: it holds no JSON object.")
    return None


def names_in(source: Mapping[str, Any], key: str) -> Iterator[str]:
    """The names in a list of `.claude.json` or of a settings file."""
    value = source.get(key)
    yield from (name for name in (value if isinstance(value, list) else []) if isinstance(name, str))


def is_tracked(path: Path) -> bool:
    """Whether git keeps that file, so that it came with the repository; True also where we cannot tell.

    Git itself is not asked: a repository's own configuration can make it start programs.
    """
    for top in path.parents:
        place = top / ".git"
        if place.exists():
            break
    else:
        return False
    try:
        if place.is_file():  # a worktree or a submodule: "gitdir: <path>"
            place = top / place.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
        indexes = [file.read_bytes() for file in (place / "index", *place.glob("sharedindex.*")) if file.exists()]
    except (OSError, ValueError):
        return True
    name = path.relative_to(top).as_posix().encode()
    # Version 4 of the index cuts what a name has in common with the one before it.
    return any(name in index or index[4:8] == b"\0\0\0\4" for index in indexes)
