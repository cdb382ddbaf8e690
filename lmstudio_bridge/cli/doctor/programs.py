"""The programs that start the bridge: which of them have it, in which file, and whether its command is there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.cli.files import find_member, read_root
from lmstudio_bridge.cli.hosts import HOSTS, NAMES, SCOPES, Place, find_place
from lmstudio_bridge.cli.registration import NAME
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.files import read_text
from lmstudio_bridge.mcp_client.config import starts_bridge
from lmstudio_bridge.mcp_client.discovery import read_leave, read_object, read_state
from lmstudio_bridge.settings import Surroundings


def check_programs(around: Surroundings, *, platform: str = sys.platform) -> Iterator[Check]:
    """Every entry that starts the bridge, in any program's file."""
    found = False
    plugin = _plugin_file(around)
    if plugin is not None:
        found = True
        yield Check("programs", "Plugin in Claude Code", "ok", f"switched on in {plugin}")
    for host in HOSTS:
        for scope in SCOPES[host]:
            try:
                place = find_place(host, scope, around=around, platform=platform)
            except SettingsError:  # no home folder
                continue
            try:
                servers = _servers_at(place)
            except (SettingsError, ValueError) as exc:
                problem = exc.message if isinstance(exc, SettingsError) else f"{place.path} can't be read: {exc}."
                yield Check("programs", f"Registration in {NAMES[host]}", "warning", problem, "Correct it there.")
                continue
            for name, entry in servers.items():
                if isinstance(entry, dict) and _starts_us(entry):
                    found = True
                    yield _look_at(place, name, entry, around)
                    if plugin is not None and host == "claude-code":
                        yield _twice(place, name)
    if not found:
        yield Check(
            "programs",
            "Registration",
            "warning",
            "No program on this machine is set up to start the bridge.",
            "`lmstudio-bridge install` registers it in Claude Code, `lmstudio-bridge install cursor` in Cursor, …",
        )


def _twice(place: Place, name: str) -> Check:
    return Check(
        "programs",
        "Plugin in Claude Code",
        "warning",
        f"The bridge is there twice, with all its tools: as a plugin, and as {name!r} in {place.path}.",
        f"Take one away: `lmstudio-bridge uninstall --scope {place.scope}`.",
    )


def _plugin_file(around: Surroundings) -> Path | None:
    """The settings file of Claude Code in which our plugin is switched on (`enabledPlugins`, seen in 2.1.197)."""
    folders = [around.project / ".claude"]
    if (user := read_state(around, warnings=[]).folder) is not None:
        folders.append(user)
    for path in (folder / name for folder in folders for name in ("settings.local.json", "settings.json")):
        plugins = (read_object(path, warnings=[]) or {}).get("enabledPlugins")
        for name, on in plugins.items() if isinstance(plugins, dict) else ():
            if on is True and str(name).partition("@")[0] == NAME:
                return path
    return None


def _servers_at(place: Place) -> Mapping[str, Any]:
    """The servers in that place. Raises SettingsError or ValueError where the file cannot be read or understood."""
    text = read_text(place.path)
    servers = find_member(read_root((text or "").removeprefix("\ufeff")), place.keys)
    return servers if isinstance(servers, dict) else {}


def _starts_us(entry: Mapping[str, Any]) -> bool:
    args = entry.get("args")
    words = tuple(map(str, args)) if isinstance(args, list) else ()
    return starts_bridge(str(entry.get("command") or ""), words)


def _is_approved(place: Place, name: str, around: Surroundings) -> bool:
    """Whether the user has approved that server of the project's file in Claude Code."""
    claude = read_state(around, warnings=[])
    return read_leave(place.path, project=around.project, claude=claude, trusted=(), warnings=[]).allows(name)


def _look_at(place: Place, name: str, entry: Mapping[str, Any], around: Surroundings) -> Check:
    title = NAMES[place.host]
    command = str(entry.get("command"))
    found = f"{name!r} in {place.path} ({place.scope} scope)"
    if shutil.which(command, path=around.environ.get("PATH", "")) is None:
        target = "" if place.host == "claude-code" else f" {place.host}"
        return Check(
            "programs",
            f"Registration in {title}",
            "failed",
            f"{found} starts {command!r}, which is not there.",
            f"`lmstudio-bridge install{target} --scope {place.scope}` writes one that is, or install {command!r}.",
        )
    if place.host == "claude-code" and place.scope == "project" and not _is_approved(place, name, around):
        return Check(
            "programs",
            f"Registration in {title}",
            "warning",
            f"{found} is not approved yet, so Claude Code does not start it.",
            f"Start `claude` in {place.path.parent} and answer its question.",
        )
    env = entry.get("env")
    given = {str(key): str(value) for key, value in env.items()} if isinstance(env, dict) else {}
    other = [key for key, value in given.items() if value != around.environ.get(key) and "${" not in value]
    if other:
        return Check(
            "programs",
            f"Registration in {title}",
            "warning",
            f"{found}. It starts the bridge with settings that were not looked at here: {', '.join(other)}.",
            "To look at those, set the same variables in this shell first.",
        )
    return Check("programs", f"Registration in {title}", "ok", f"{found}, starts {command!r}")
