"""Which MCP servers there are for a project: all files, merged by Claude Code's precedence, and who may start.

Claude Code's own files are only read. A missing one is ignored, a broken one is a warning. Where they are and
what they mean: Claude Code 2.1.330 and code.claude.com/docs/en/mcp.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from lmstudio_bridge.errors import McpConfigError, ServerNotConfiguredError, ServerNotTrustedError, listed
from lmstudio_bridge.mcp_client.approvals import (
    Approvals,
    ClaudeState,
    EntryStore,
    names_in,
    read_approvals,
    read_own_file,
    read_state,
)
from lmstudio_bridge.mcp_client.config import ConfigFile, read_file, read_object, read_root
from lmstudio_bridge.mcp_client.plugins import Plugin, installed_plugins, read_plugin
from lmstudio_bridge.messages import Scope, ServerConfig
from lmstudio_bridge.settings import Settings, Surroundings

PROJECT_FILE = ".mcp.json"
LM_STUDIO_FILES = (Path(".lmstudio", "mcp.json"), Path(".cache", "lm-studio", "mcp.json"))
"""Below the home folder; the second is that of older versions."""

TRUST_VARIABLE = "LMSTUDIO_BRIDGE_TRUST"
_HOW_TO_ADD = (
    "Add one in Claude Code (`claude mcp add`) or in the project's .mcp.json, "
    "or name a file with LMSTUDIO_BRIDGE_MCP_CONFIG."
)
_ONLY_CLAUDE_CODE = (
    "Servers that only Claude Code knows, by `--mcp-config` or from claude.ai, must also be in one of these files "
    "(`claude mcp add`)."
)


@dataclass(frozen=True, slots=True)
class ServerCatalog:
    """All configured servers; each name is in one of `servers`, `unapproved` and `skipped`.

    `unapproved` are servers of the project's file that nobody has approved yet. `skipped` has, for each
    server that cannot be used, the reason as a sentence. `paths` are the files that were read.
    `warnings` are about files, `server_warnings` about servers that can still be used.
    """

    project: Path
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    unapproved: Mapping[str, ServerConfig] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    server_warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    approvals: Approvals = field(default_factory=Approvals)

    def require(self, name: str) -> ServerConfig:
        """The server of that name.

        Raises:
            ServerNotTrustedError: it is in the project's file, and nobody has approved it.
            ServerNotConfiguredError: it does not exist, or was skipped.
        """
        name = self._spelled(name)
        if name in self.servers:
            return self.servers[name]
        if name in self.unapproved:
            raise self.refusal(name)
        known = sorted(self.servers)
        how_to_add = "" if self.warnings and not self.paths else _HOW_TO_ADD  # a broken file is to be mended first
        choice = f"Configured: {listed(known)}. {_ONLY_CLAUDE_CODE}" if known else how_to_add
        if name in self.skipped:
            raise ServerNotConfiguredError(
                f"MCP server '{name}' cannot be used: {self.skipped[name]}",
                server=name,
                remedy=f"Configured: {listed(known)}." if known else _HOW_TO_ADD,
            )
        lower = {candidate.lower(): candidate for candidate in (*known, *sorted(self.unapproved))}
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
        hint = f"Did you mean {' or '.join(repr(match) for match in near)}? " if near else ""
        raise ServerNotConfiguredError(
            f"No MCP server named '{name}' is configured. {self.looked}", server=name, remedy=f"{hint}{choice}"
        )

    def _spelled(self, name: str) -> str:
        """The configured name that it means: Claude Code shows `a.b` as `a_b` in the names of tools."""
        known = (*self.servers, *self.unapproved, *self.skipped)
        same = [each for each in known if _as_in_tools(each) == _as_in_tools(name)]
        return same[0] if len(same) == 1 and name not in known else name

    @property
    def remarks(self) -> list[str]:
        """What there is to say about the servers that can be used: warnings first, then notes."""
        warnings = [each for told in self.server_warnings.values() for each in told]
        return [*warnings, *(note for config in self.servers.values() for note in config.notes)]

    @property
    def looked(self) -> str:
        """Which files could not be read, and where else servers were looked for, as sentences."""
        places = []
        if self.paths:
            places = [f"Looked in: {listed([*map(str, self.paths)])}."]
        elif not self.warnings:
            places = [
                f"There is no {PROJECT_FILE} in {self.project} or a parent folder, and no MCP server in the settings "
                "of Claude Code or LM Studio."
            ]
        return " ".join([*self.warnings, *places])

    def held_because(self, config: ServerConfig) -> str:
        """Why an unapproved server is not started, in three words."""
        return "changed, held back" if self.approvals.has_changed(config) else "not approved yet"

    def refusal(self, name: str) -> ServerNotTrustedError:
        """Why an unapproved server is not started, and how to approve it."""
        config = self.unapproved[name]
        assert config.source is not None
        what = "command" if config.transport == "stdio" else "address"
        approve = f"`lmstudio-bridge servers --approve {shlex.quote(name)}` in {self.project}"
        if self.approvals.has_changed(config):
            return ServerNotTrustedError(
                f"MCP server '{name}' is held back: its entry in {config.source} has changed since it was approved or "
                "first used.",
                server=name,
                remedy=f"Look at what it starts now; to accept that, run {approve}.",
            )
        message = f"MCP server '{name}' is not approved yet: its {what} comes from {config.source}."
        trusted = name if self.approvals.is_of_project else f"{config.source}:{name}"
        remedy = f"run {approve}, or set {TRUST_VARIABLE}={trusted} for the bridge."
        if (inside := self.approvals.inside(name)) is not None:
            message += f" {inside} approves it, which does not count: that file may have come with the project."
            return ServerNotTrustedError(message, server=name, remedy=f"If you know what it starts, {remedy}")
        remedy = (
            f"Approve it in Claude Code (start `claude` in {config.source.parent} and answer its question; "
            f"`claude mcp list` shows its state), or {remedy}"
        )
        return ServerNotTrustedError(message, server=name, remedy=remedy)


def servers_of_settings(settings: Settings, *, environ: Mapping[str, str]) -> ServerCatalog:
    """The servers of these settings; see `load_servers`."""
    return load_servers(
        explicit=settings.mcp_config,
        project=settings.project,
        environ=environ,
        trusted=settings.trust,
        home=settings.home,
    )


def load_servers(
    *,
    explicit: Path | None,
    project: Path,
    environ: Mapping[str, str],
    trusted: Sequence[str] = (),
    home: Path | None = None,
) -> ServerCatalog:
    """Read the explicit file if there is one, else those of Claude Code and LM Studio.

    If several define the same name, the first wins: local scope of `~/.claude.json`, the project's
    `.mcp.json`, user scope, enabled plugins, LM Studio. `trusted` names servers of the project's file that may start
    without Claude Code's approval, `*` all of them; it also enables those that are disabled in Claude Code.
    In `home`, the bridge's own folder, is recorded what each approved server of the project was first.

    Raises:
        McpConfigError: the explicit file is missing or cannot be used, or that record cannot be read.
    """
    around = Surroundings(project, environ)
    if explicit is not None:
        return merge_files([read_file(explicit.expanduser(), scope="explicit", around=around)], project=project)
    warnings: list[str] = []
    claude = read_state(around, warnings=warnings)
    local = _read_claude(claude, "local", around=around, trusted=trusted, warnings=warnings)
    user = _read_claude(claude, "user", around=around, trusted=trusted, warnings=warnings)
    plugins = _read_plugins(claude, around=around, trusted=trusted, warnings=warnings)
    others = [*user, *plugins, *_read_lm_studio(around, warnings=warnings)]
    project_files = [folder / PROJECT_FILE for folder in (project, *project.parents)]
    found = next(filter(Path.is_file, project_files), None)  # the nearest, as Claude Code 2.1.330 finds it
    for path in takewhile(lambda path: path != found, project_files):
        if os.path.lexists(path):
            warnings.append(f"{path} is ignored: it is not a file, or a broken link.")
    if found is None:
        catalog = merge_files([*local, *others], project=project)
    else:
        whole = _read_own(found, scope="project", around=around, warnings=warnings) or ConfigFile(found)
        approvals = read_approvals(found, around=around, claude=claude, trusted=trusted, warnings=warnings)
        store = None if home is None else EntryStore(home)
        if store is not None:
            approvals = replace(approvals, known=store.read(found))
        catalog = merge_files([*local, _only_allowed(whole, approvals), *others], project=project)
        catalog = _add_unapproved(_mark_hiding(catalog, others), whole, approvals)
        if store is not None and (first := approvals.to_record(catalog.servers.values())):
            store.record(found, first, warnings=warnings)
    return replace(catalog, warnings=tuple(dict.fromkeys(warnings)))


def merge_files(files: Sequence[ConfigFile], *, project: Path) -> ServerCatalog:
    """One catalog of several files; the first that has a name decides about it."""
    servers: dict[str, ServerConfig] = {}
    skipped: dict[str, str] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    for file in files:
        decided = {*servers, *skipped}
        servers |= {name: config for name, config in file.servers.items() if name not in decided}
        skipped |= {name: reason for name, reason in file.skipped.items() if name not in decided}
        warnings |= {name: told for name, told in file.warnings.items() if name not in decided}
    paths = tuple(dict.fromkeys(file.path for file in files))
    return ServerCatalog(project, servers, skipped, paths=paths, server_warnings=warnings)


def _only_allowed(file: ConfigFile, approvals: Approvals) -> ConfigFile:
    """The approved part of the project's file: what is not approved must not hide a server of the user's own."""
    return ConfigFile(
        file.path,
        {name: config for name, config in file.servers.items() if approvals.allows(config)},
        {name: reason for name, reason in file.skipped.items() if approvals.has_name(name)},
        {name: told for name, told in file.warnings.items() if approvals.allows(file.servers[name])},
    )


def _mark_hiding(catalog: ServerCatalog, others: Iterable[ConfigFile]) -> ServerCatalog:
    """The catalog, where a project's server says that it takes the place of one of the user's."""
    own = {name: file.path for file in others for name in (*file.servers, *file.skipped)}
    hiding = {name: each for name, each in catalog.servers.items() if each.scope == "project" and name in own}
    marked = {name: replace(each, hides_own=True) for name, each in hiding.items()}
    return replace(catalog, servers={**catalog.servers, **marked})


def _add_unapproved(catalog: ServerCatalog, file: ConfigFile, approvals: Approvals) -> ServerCatalog:
    """The catalog, with the servers of the project's file that may not start, and why."""
    held = {name: config for name, config in file.servers.items() if not approvals.allows(config)}
    warnings = dict(catalog.server_warnings)
    for name in held.keys() & catalog.servers.keys():
        if catalog.servers[name].scope != "local":
            source = catalog.servers[name].source
            warning = f"MCP server '{name}' is taken from {source}: its entry in {file.path} is not approved"
            warnings[name] = (*warnings.get(name, ()), warning)
    reasons = dict(file.skipped)
    reasons |= {name: f"it is disabled in {path}." for name, path in approvals.rejected.items() if name in held}
    reasons |= catalog.skipped
    waiting = held.keys() - approvals.rejected.keys() - catalog.servers.keys()
    return replace(
        catalog,
        skipped={name: reason for name, reason in reasons.items() if name not in {*waiting, *catalog.servers}},
        unapproved={name: config for name, config in held.items() if name in waiting},
        server_warnings=warnings,
        approvals=approvals,
    )


def _read_claude(
    claude: ClaudeState, scope: Scope, *, around: Surroundings, trusted: Sequence[str], warnings: list[str]
) -> list[ConfigFile]:
    """The user's own servers in `.claude.json`: for this project ("local"), or for all ("user")."""
    if claude.path is None or not claude.root:
        return []
    known = claude.nearest_entry(around.project)
    root = {"mcpServers": (known if scope == "local" else claude.root).get("mcpServers") or {}}
    file = _read_or_warn(root, path=claude.path, scope=scope, around=around, warnings=warnings)
    return [_without_disabled(file, claude, around=around, trusted=trusted)]


def _without_disabled(
    file: ConfigFile, claude: ClaudeState, *, around: Surroundings, trusted: Sequence[str]
) -> ConfigFile:
    """The file without the servers that the user has switched off in Claude Code for this project."""
    disabled = {*names_in(claude.nearest_entry(around.project), "disabledMcpServers")} - {*trusted}
    off = {name: f"it is disabled for this project in {claude.path}." for name in file.servers if name in disabled}
    servers = {name: config for name, config in file.servers.items() if name not in off}
    return replace(file, servers=servers, skipped={**file.skipped, **off})


def _read_plugins(
    claude: ClaudeState, *, around: Surroundings, trusted: Sequence[str], warnings: list[str]
) -> list[ConfigFile]:
    """The servers of the plugins that are enabled in Claude Code; those that only the project enables are skipped."""
    if claude.folder is None:
        return []
    installed = installed_plugins(claude.folder, project=around.project, warnings=warnings)
    enabled = _enabling_settings(claude, installed, project=around.project, warnings=warnings)
    files: list[ConfigFile] = []
    for key, (path, counts) in enabled.items():
        for file in read_plugin(installed[key], around=around, warnings=warnings):
            if not counts:
                reason = f"its plugin is enabled only in {path}; `claude plugin install {key}` enables it for you."
                file = ConfigFile(file.path, skipped=dict.fromkeys((*file.servers, *file.skipped), reason))
            files.append(_without_disabled(file, claude, around=around, trusted=trusted))
    return files


def _enabling_settings(
    claude: ClaudeState, installed: Mapping[str, Plugin], *, project: Path, warnings: list[str]
) -> Mapping[str, tuple[Path, bool]]:
    """For each enabled plugin, the settings that enable it, and whether they count.

    A project's settings enable only what the user has installed for that project.
    """
    assert claude.folder is not None
    enabled: dict[str, tuple[Path, bool]] = {}
    trusts = claude.trusts_folder(project)
    for folder, name in ((claude.folder, ""), (project / ".claude", ""), (project / ".claude", ".local")):
        path = folder / f"settings{name}.json"
        said = (read_own_file(path, warnings=warnings) or {}).get("enabledPlugins")
        for key, on in said.items() if isinstance(said, dict) else ():
            if on is False:
                enabled.pop(key, None)
            elif on is True and key in installed:
                counts = folder == claude.folder or (trusts and installed[key].is_made_for(project))
                enabled[key] = (path, True) if counts else enabled.get(key, (path, False))
    return enabled


def _read_lm_studio(around: Surroundings, *, warnings: list[str]) -> list[ConfigFile]:
    """LM Studio's own servers, which are in Cursor's format."""
    if around.home is None:
        return []
    for path in (around.home / below for below in LM_STUDIO_FILES):
        if (file := _read_own(path, scope="lmstudio", around=around, warnings=warnings)) is not None:
            return [file]
    return []


def _read_own(path: Path, *, scope: Scope, around: Surroundings, warnings: list[str]) -> ConfigFile | None:
    """A file that holds servers only; None if it is missing or cannot be read."""
    root = read_object(path, warnings=warnings)
    return None if root is None else _read_or_warn(root, path=path, scope=scope, around=around, warnings=warnings)


def _read_or_warn(root: object, *, path: Path, scope: Scope, around: Surroundings, warnings: list[str]) -> ConfigFile:
    """The entries, or none and a warning: a broken file must not hide the others."""
    try:
        return read_root(root, path=path, scope=scope, around=around)
    except McpConfigError as exc:
        warnings.append(f"{exc.message} {exc.remedy}".rstrip())
        return ConfigFile(path)


def _as_in_tools(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
