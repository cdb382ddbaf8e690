"""The programs that start the bridge: where it is registered, and whether its command exists."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lmstudio_bridge.cli.arguments import NAMES, SCOPES, HostScope
from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.cli.files import find_member
from lmstudio_bridge.cli.hosts import SERVERS_VARIABLE, Location, find_location
from lmstudio_bridge.cli.install import NAME, is_own
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.mcp_client.approvals import read_approvals, read_own_file, read_state
from lmstudio_bridge.mcp_client.config import read_object, read_root
from lmstudio_bridge.settings import Surroundings

_NEAREST_FIRST: tuple[HostScope, ...] = ("local", "project", "user")
"""Claude Code's scopes; of several entries with one name the first counts."""
_INSTALL_UV = "Install uv: https://docs.astral.sh/uv/getting-started/installation/"


def check_programs(around: Surroundings) -> Iterator[Check]:
    """Check every entry that starts the bridge, in any program's file."""
    found = unread = False
    plugin = _plugin_file(around)
    if plugin is not None:
        found = True
        yield _check_plugin(plugin, around)
    for host, scopes in SCOPES.items():
        for scope in scopes:
            try:
                location = find_location(host, scope, around=around, platform=sys.platform)
            except SettingsError:  # no home folder
                continue
            servers, problem = _read_servers(location)
            if problem:
                unread = True
                yield Check("programs", f"Registration in {NAMES[host]}", "warning", problem, "Fix that file.")
            for name, entry in servers.items():
                if isinstance(entry, dict) and is_own(entry):
                    found = True
                    yield _check_entry(location, name, entry, around)
                    if plugin is not None and host == "claude-code":
                        yield _duplicate(location, name)
    if not found:
        remedy = "`lmstudio-bridge install` registers it in Claude Code, `lmstudio-bridge install cursor` in Cursor, …"
        where = "file that can be read" if unread else "program on this machine"
        found_none = f"The bridge is not registered in any {where}."
        yield Check("programs", "Registration", "warning", found_none, "" if unread else remedy)


def as_started(around: Surroundings) -> tuple[Mapping[str, str], str]:
    """The variables that Claude Code's entry for the bridge sets in this project, and where it is; ({}, "") if none."""
    for scope in _NEAREST_FIRST:
        try:
            location = find_location("claude-code", scope, around=around, platform=sys.platform)
        except SettingsError:  # no home folder
            continue
        for name, entry in _read_servers(location)[0].items():
            if not (isinstance(entry, dict) and is_own(entry)):
                continue
            if scope == "project" and not _is_approved(location, name, around):
                continue
            anything = {"command": "any", "env": entry.get("env") or {}}  # an entry of the bridge itself is skipped
            file = read_root({"mcpServers": {name: anything}}, path=location.path, scope=scope, around=around)
            if name in file.servers:
                return file.servers[name].env, f"{name!r} in {location.path}"
    return {}, ""


def _check_plugin(plugin: Path, around: Surroundings) -> Check:
    """The plugin starts the bridge with uvx."""
    name, found = "Plugin in Claude Code", f"enabled in {plugin}"
    if shutil.which("uvx", path=around.environ.get("PATH", "")) is not None:
        return Check("programs", name, "ok", found)
    return Check("programs", name, "failed", f"{found}, but it needs 'uvx', which is not installed.", _INSTALL_UV)


def _duplicate(location: Location, name: str) -> Check:
    return Check(
        "programs",
        "Plugin in Claude Code",
        "warning",
        f"The bridge is registered twice, with all its tools: as a plugin, and as {name!r} in {location.path}.",
        f"Remove one: `lmstudio-bridge uninstall --scope {location.scope}`.",
    )


def _plugin_file(around: Surroundings) -> Path | None:
    """The settings file of Claude Code that enables the bridge's plugin (`enabledPlugins`, seen in 2.1.197)."""
    folders = [around.project / ".claude"]
    if (user := read_state(around, warnings=[]).folder) is not None:
        folders.append(user)
    for path in (folder / name for folder in folders for name in ("settings.local.json", "settings.json")):
        plugins = (read_own_file(path, warnings=[]) or {}).get("enabledPlugins")
        for name, on in plugins.items() if isinstance(plugins, dict) else ():
            if on is True and str(name).partition("@")[0] == NAME:
                return path
    return None


def _read_servers(location: Location) -> tuple[Mapping[str, Any], str]:
    """The servers at that location, or none and why its file cannot be used."""
    problems: list[str] = []
    root = read_object(location.path, warnings=problems)
    try:
        servers = find_member(dict(root or {}), location.keys)
    except ValueError as exc:
        problems.append(f"{location.path} can't be used: {exc}.")
        servers = None
    return servers if isinstance(servers, dict) else {}, " ".join(problems)


def _is_approved(location: Location, name: str, around: Surroundings) -> bool:
    """Whether that server of the project's file is approved for Claude Code, which also counts files in the project."""
    claude = read_state(around, warnings=[])
    approvals = read_approvals(location.path, around=around, claude=claude, trusted=(), warnings=[])
    return approvals.has_name(name) or approvals.inside(name) is not None


def _check_entry(location: Location, name: str, entry: Mapping[str, Any], around: Surroundings) -> Check:
    title = NAMES[location.host]
    check = partial(Check, "programs", f"Registration in {title}")
    command = str(entry.get("command"))
    found = f"{name!r} in {location.path} ({location.scope} scope)"
    if shutil.which(command, path=around.environ.get("PATH", "")) is None:
        target = "" if location.host == "claude-code" else f" {location.host}"
        return check(
            "failed",
            f"{found} starts {command!r}, which does not exist.",
            _INSTALL_UV
            if command == "uvx"
            else f"Install {command!r}, or replace the entry: "
            f"`lmstudio-bridge install{target} --scope {location.scope}`.",
        )
    if location.host == "claude-code" and location.scope == "project" and not _is_approved(location, name, around):
        return check(
            "warning",
            f"{found} is not approved yet, so Claude Code does not start it.",
            f"Start `claude` in {location.path.parent} and approve it.",
        )
    env = entry.get("env")
    given = {str(key): str(value) for key, value in env.items()} if isinstance(env, dict) else {}
    if location.should_be_named(given):
        return check(
            "warning",
            f"{found}. It starts the bridge without {SERVERS_VARIABLE}, so the servers of {title} are not used.",
            f"`lmstudio-bridge install {location.host}` adds it.",
        )
    own_servers = given.get(SERVERS_VARIABLE) == str(location.path)
    other = [
        key
        for key, value in given.items()
        if value != around.environ.get(key) and "${" not in value and not (own_servers and key == SERVERS_VARIABLE)
    ]
    if other:
        return check(
            "warning",
            f"{found}. It starts the bridge with settings that were not checked here: {', '.join(other)}.",
            "To check them, set the same variables in this shell first.",
        )
    servers = f"; to check the servers there, set {SERVERS_VARIABLE} to that file" if own_servers else ""
    return check("ok", f"{found}, starts {command!r}{servers}")
