"""Which MCP servers there are for a project: all files, merged by Claude Code's precedence, with leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmstudio_bridge.downstream.claude_files import ClaudeState, names_in, read_object, read_state
from lmstudio_bridge.downstream.config import PROJECT_FILE, Scope, ServerCatalog, ServerConfig
from lmstudio_bridge.downstream.entries import ConfigFile, Surroundings, read_entries, read_file
from lmstudio_bridge.downstream.trust import Leave, read_leave
from lmstudio_bridge.errors import McpConfigError

LM_STUDIO_FILES = (Path(".lmstudio", "mcp.json"), Path(".cache", "lm-studio", "mcp.json"))
"""Below the home folder; the second is where older versions keep it."""


def load_servers(
    *, explicit: Path | None, project: Path, environ: Mapping[str, str], trusted: Sequence[str] = ()
) -> ServerCatalog:
    """Read the explicit file if there is one, else those of Claude Code and LM Studio.

    Of equal names the first counts: local scope of `~/.claude.json`, the project's `.mcp.json`, user
    scope, LM Studio. `trusted` names servers of the project's file that may start without Claude
    Code's approval, `*` all of them; it also brings back those that are disabled in Claude Code.

    Raises:
        McpConfigError: the explicit file is missing, or it or the project's cannot be used.
    """
    around = Surroundings(project, environ)
    if explicit is not None:
        return merge_files([read_file(explicit.expanduser(), scope="explicit", around=around)], project=project)
    warnings: list[str] = []
    claude = read_state(around, warnings=warnings)
    local = _read_claude(claude, "local", around=around, trusted=trusted, warnings=warnings)
    user = _read_claude(claude, "user", around=around, trusted=trusted, warnings=warnings)
    others = [*user, *_read_lm_studio(around, warnings=warnings)]
    found = find_project_file(project)
    if found is None:
        catalog = merge_files([*local, *others], project=project)
    else:
        whole = read_file(found, scope="project", around=around)
        leave = read_leave(found, project=project, claude=claude, trusted=trusted, warnings=warnings)
        catalog = merge_files([*local, _only_allowed(whole, leave), *others], project=project)
        catalog = _with_held_back(catalog, whole, leave)
    return replace(catalog, warnings=tuple(dict.fromkeys(warnings)))


def find_project_file(project: Path) -> Path | None:
    """The nearest `.mcp.json`, from the project upwards, as Claude Code 2.1.330 finds it."""
    folders = (project, *project.parents)
    return next((folder / PROJECT_FILE for folder in folders if (folder / PROJECT_FILE).is_file()), None)


def merge_files(files: Sequence[ConfigFile], *, project: Path) -> ServerCatalog:
    """One catalog of several files; the first that mentions a name decides about it."""
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


def _only_allowed(file: ConfigFile, leave: Leave) -> ConfigFile:
    """The project's file as far as it may decide: what is not approved hides no server of the user's own."""
    return ConfigFile(
        file.path,
        {name: config for name, config in file.servers.items() if leave.allows(name)},
        {name: reason for name, reason in file.skipped.items() if leave.allows(name)},
        {name: told for name, told in file.warnings.items() if leave.allows(name)},
    )


def _with_held_back(catalog: ServerCatalog, file: ConfigFile, leave: Leave) -> ServerCatalog:
    """The catalog, with what the project's file has and may not start; each with its reason."""
    held = {name: config for name, config in file.servers.items() if not leave.allows(name)}
    warnings = dict(catalog.server_warnings)
    for name in held.keys() & catalog.servers.keys():
        if catalog.servers[name].scope != "local":
            source = catalog.servers[name].source
            said = f"MCP server '{name}' is taken from {source}: its entry in {file.path} is not approved"
            warnings[name] = (*warnings.get(name, ()), said)
    reasons = dict(file.skipped)
    reasons |= {name: f"it is disabled in {path}." for name, path in leave.rejected.items() if name in held}
    reasons |= catalog.skipped
    waiting = held.keys() - leave.rejected.keys() - catalog.servers.keys()
    return replace(
        catalog,
        skipped={name: reason for name, reason in reasons.items() if name not in {*waiting, *catalog.servers}},
        unapproved={name: config for name, config in held.items() if name in waiting},
        server_warnings=warnings,
    )


def _read_claude(
    claude: ClaudeState, scope: Scope, *, around: Surroundings, trusted: Sequence[str], warnings: list[str]
) -> list[ConfigFile]:
    """The user's own servers in `.claude.json`: for this project ("local"), or for all ("user")."""
    if claude.path is None or not claude.root:
        return []
    known = claude.nearest_entry(around.project)
    entries = (known if scope == "local" else claude.root).get("mcpServers") or {}
    file = _read_or_warn(entries, path=claude.path, scope=scope, around=around, warnings=warnings)
    disabled = {*names_in(known, "disabledMcpServers")} - {*trusted}
    off = {name: f"it is disabled for this project in {claude.path}." for name in file.servers if name in disabled}
    servers = {name: config for name, config in file.servers.items() if name not in off}
    return [replace(file, servers=servers, skipped={**file.skipped, **off})]


def _read_lm_studio(around: Surroundings, *, warnings: list[str]) -> list[ConfigFile]:
    """LM Studio's own servers, which it keeps in Cursor's notation."""
    if around.home is None:
        return []
    for path in (around.home / below for below in LM_STUDIO_FILES):
        root = read_object(path, warnings=warnings)
        if root is not None:
            entries = root.get("mcpServers", root.get("servers", {}))
            return [_read_or_warn(entries, path=path, scope="lmstudio", around=around, warnings=warnings)]
    return []


def _read_or_warn(
    entries: object, *, path: Path, scope: Scope, around: Surroundings, warnings: list[str]
) -> ConfigFile:
    """The entries, or nothing and a warning: a broken file must not hide the others."""
    try:
        return read_entries(entries, path=path, scope=scope, around=around)
    except McpConfigError as exc:
        warnings.append(exc.message)
        return ConfigFile(path)
