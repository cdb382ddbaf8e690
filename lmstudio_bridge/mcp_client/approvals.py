"""Which servers of a project's `.mcp.json` may start.

That file is somebody else's code, so its servers need the user's approval: in Claude Code, whose rules are followed
(code.claude.com/docs/en/mcp, "Project server approvals and workspace trust"), or by the bridge's own setting. Only
approvals outside of the project count: `.claude/settings.local.json`, in which Claude Code keeps some, may have come
with the project (in an archive, through a link, in a repository of any kind).

An approval is by name, but it is meant for what the name stood for: what an approved entry was when it was first used
is recorded, and an entry that has changed is held back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from lmstudio_bridge.errors import McpConfigError
from lmstudio_bridge.files import make_folder, read_bounded, write_file
from lmstudio_bridge.mcp_client.config import read_object
from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.settings import Surroundings

ALL_SERVERS = frozenset({"*", "all"})
"""Values of the bridge's own setting that approve every server of the project, also those that change."""

_MAX_BYTES = 4 * 1024 * 1024


class KnownEntry(BaseModel):
    """What an entry was when it was first used, or approved by `servers --approve`."""

    digest: str
    approved: bool = False


_RECORDS = TypeAdapter(dict[str, dict[str, KnownEntry]])


@dataclass(frozen=True, slots=True)
class Approvals:
    """Which servers of a project's file may start.

    `named` are the names in the bridge's own setting, `approving` the files of Claude Code that approve servers, both
    for this file; the approvals of those `in_project` do not count. `rejected` has the file that rejects each name.
    `known` are the recorded entries. The file `is_of_project` if it is in the project's folder, not above it.
    """

    named: frozenset[str] = frozenset()
    approving: tuple[tuple[Path, Mapping[str, Any]], ...] = ()
    in_project: tuple[tuple[Path, Mapping[str, Any]], ...] = ()
    rejected: Mapping[str, Path] = field(default_factory=dict)
    known: Mapping[str, KnownEntry] = field(default_factory=dict)
    is_of_project: bool = True

    def has_name(self, name: str) -> bool:
        """Whether the name is approved; the bridge's own setting takes precedence over Claude Code."""
        if name in self.named or name in self.rejected:
            return name in self.named
        if name in self.known and self.known[name].approved:
            return True
        return _approving(self.approving, name) is not None or bool(self.named & ALL_SERVERS)

    def allows(self, config: ServerConfig) -> bool:
        """Whether the server may start: its name is approved, and its entry is the one that was first used."""
        return self.has_name(config.name) and not self.has_changed(config)

    def has_changed(self, config: ServerConfig) -> bool:
        """Whether the name is approved, but was so for another entry."""
        if not self.has_name(config.name) or self.named & ALL_SERVERS:
            return False
        known = self.known.get(config.name)
        return known is not None and known.digest != config.entry_digest

    def to_record(self, configs: Iterable[ServerConfig]) -> dict[str, KnownEntry]:
        """The entries of the project's file that are used for the first time."""
        if self.named & ALL_SERVERS:
            return {}
        new = [config for config in configs if config.scope == "project" and config.name not in self.known]
        return {config.name: KnownEntry(digest=config.entry_digest) for config in new}

    def inside(self, name: str) -> Path | None:
        """The file in the project that approves it, which does not count."""
        return _approving(self.in_project, name)


def _approving(files: Sequence[tuple[Path, Mapping[str, Any]]], name: str) -> Path | None:
    for path, said in files:
        if said.get("enableAllProjectMcpServers") is True or name in names_in(said, "enabledMcpjsonServers"):
            return path
    return None


def read_approvals(
    file: Path, *, around: Surroundings, claude: ClaudeState, trusted: Sequence[str], warnings: list[str]
) -> Approvals:
    """The approvals for the servers of `file`, which was found in the project or above it.

    A name that is approved for the project means a server of its own file: a file above it, which somebody else may
    have put there, must not take the name.
    """
    of_project = file.parent == around.project
    outside: list[tuple[Path, Mapping[str, Any]]] = []
    inside: list[tuple[Path, Mapping[str, Any]]] = []
    rejecting: list[tuple[Path, Mapping[str, Any]]] = []
    if claude.folder is not None:
        path = claude.folder / "settings.json"
        said = read_own_file(path, warnings=warnings) or {}
        rejecting.append((path, said))
        if not of_project:
            said = {key: value for key, value in said.items() if key != "enabledMcpjsonServers"}
        outside.append((path, said))
    for folder in (each for each in (around.project, *around.project.parents) if each.is_relative_to(file.parent)):
        if claude.path is not None:
            said = claude.entry_of(folder) or {}
            (outside if folder == file.parent else rejecting).append((claude.path, said))
        for name in ("settings.local.json", "settings.json"):
            path = folder / ".claude" / name
            inside.append((path, read_own_file(path, warnings=warnings) or {}))
    return Approvals(
        named=frozenset(_names_for(file, trusted, around=around, of_project=of_project)),
        approving=tuple(outside),
        in_project=tuple(inside),
        rejected={
            name: path
            for path, said in (*outside, *rejecting, *inside)
            for name in names_in(said, "disabledMcpjsonServers")
        },
        is_of_project=of_project,
    )


def _names_for(file: Path, trusted: Sequence[str], *, around: Surroundings, of_project: bool) -> Iterator[str]:
    """The names that the bridge's own setting approves in this file, as `NAME` or `PATH:NAME`."""
    here = {_place_of(file), os.path.realpath(file.parent)}
    for item in trusted:
        if of_project or item in ALL_SERVERS:
            yield item
        for position in (index for index, letter in enumerate(item) if letter == ":"):
            path = Path(item[:position])
            is_full = path.is_absolute() or item.startswith("~")
            named = around.locate(str(path))
            if is_full and not here.isdisjoint((_place_of(named), os.path.realpath(named))):
                yield item[position + 1 :]


def _place_of(file: Path) -> str:
    """Where a project's file is, whatever it links to: a link could take over what was approved for another project."""
    return os.path.join(os.path.realpath(file.parent), file.name)


@dataclass(frozen=True, slots=True)
class EntryStore:
    """The recorded entries of all projects, in one file in the bridge's own folder."""

    home: Path

    @property
    def path(self) -> Path:
        return self.home / "approved.json"

    def read(self, file: Path) -> Mapping[str, KnownEntry]:
        """What is known of the entries in a project's file, by name.

        Raises:
            McpConfigError: The record cannot be read, so that nothing can be said about changes.
        """
        return self._read_all().get(_place_of(file), {})

    def record(self, file: Path, entries: Mapping[str, KnownEntry], *, warnings: list[str]) -> None:
        """Record entries of a project's file; that it cannot be written is a warning."""
        everything = self._read_all()
        known = everything.setdefault(_place_of(file), {})
        known |= entries
        try:
            make_folder(self.home)
            write_file(self.path, _RECORDS.dump_json(everything, indent=1))
        except OSError as exc:
            warnings.append(
                f"{self.path} cannot be written: {exc.strerror or exc}. A change to the entries in {file} will not be "
                "noticed."
            )

    def _read_all(self) -> dict[str, dict[str, KnownEntry]]:
        try:
            return _RECORDS.validate_json(read_bounded(self.path, max_bytes=_MAX_BYTES, follow_links=False))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValidationError) as exc:
            why = exc.strerror or str(exc) if isinstance(exc, OSError) else "it is not valid"
            raise McpConfigError(
                f"The record of approved servers, {self.path}, cannot be read: {why}.",
                remedy="Delete it; project servers are then recorded again.",
            ) from exc


@dataclass(frozen=True, slots=True)
class ClaudeState:
    """The user's own `.claude.json`, and the folder with the user's settings.

    `root` is empty if there is no such file; `path` and `folder` are None if there is no home folder.
    """

    path: Path | None = None
    folder: Path | None = None
    root: Mapping[str, Any] = field(default_factory=dict)

    def entry_of(self, folder: Path) -> Mapping[str, Any] | None:
        """The entry of a project folder, by its path as given or with links resolved."""
        projects = self.root.get("projects")
        if not isinstance(projects, dict):
            return None
        for candidate in (folder, Path(os.path.realpath(folder))):
            for key in (str(candidate), candidate.as_posix()):  # Windows: newer versions write slashes
                if isinstance(entry := projects.get(key), dict):
                    return entry
        return None

    def nearest_entry(self, project: Path) -> Mapping[str, Any]:
        """The entry of the project, or of the nearest folder above that has one."""
        found = (self.entry_of(folder) for folder in (project, *project.parents))
        return next((entry for entry in found if entry is not None), {})

    def trusts_folder(self, folder: Path) -> bool:
        """Whether the user has accepted the trust dialog for a folder or one above it."""
        return any(
            (self.entry_of(each) or {}).get("hasTrustDialogAccepted") is True for each in (folder, *folder.parents)
        )


def read_state(around: Surroundings, *, warnings: list[str]) -> ClaudeState:
    """The user's state; `CLAUDE_CONFIG_DIR` moves both the file and the settings."""
    folder = around.claude_folder
    if folder is None:
        return ClaudeState()
    is_moved = around.environ.get("CLAUDE_CONFIG_DIR", "").strip()
    path = (folder if is_moved else folder.parent) / ".claude.json"
    return ClaudeState(path, folder, read_own_file(path, warnings=warnings) or {})


def read_own_file(path: Path, *, warnings: list[str]) -> Mapping[str, Any] | None:
    """The object in a file of Claude Code's own, as by `read_object`.

    Claude Code (2.1.332) reads no comments and no trailing commas there, so such a file approves nothing.
    """
    return read_object(path, warnings=warnings, comments=False)


def names_in(source: Mapping[str, Any], key: str) -> Iterator[str]:
    """The names in a list of `.claude.json` or of a settings file."""
    value = source.get(key)
    yield from (name for name in (value if isinstance(value, list) else []) if isinstance(name, str))
