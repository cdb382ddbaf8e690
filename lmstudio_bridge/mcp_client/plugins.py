"""The servers that Claude Code's plugins bring along, named as there: `plugin:PLUGIN:SERVER`.

A plugin's folder is the one that Claude Code has recorded; it has its servers in `.mcp.json`, in `plugin.json`, or in
files that this names. For a plugin without `plugin.json`, its entry in the marketplace takes the place of that
(code.claude.com/docs/en/plugins-reference, and Claude Code 2.1.332).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lmstudio_bridge.errors import McpConfigError
from lmstudio_bridge.mcp_client.config import ConfigFile, read_object, read_root
from lmstudio_bridge.settings import Surroundings

_MANIFEST = Path(".claude-plugin", "plugin.json")
_MARKETPLACE = Path(".claude-plugin", "marketplace.json")
_SERVERS = ".mcp.json"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed plugin: `key` is `NAME@MARKETPLACE`; `is_for` is the project that it was installed for, if any."""

    key: str
    folder: Path
    data: Path
    is_for: Path | None = None

    def is_made_for(self, project: Path) -> bool:
        """Whether the user has installed it for this project, and not for all."""
        return self.is_for is not None and project.is_relative_to(self.is_for)


def installed_plugins(claude: Path, *, project: Path, warnings: list[str]) -> Mapping[str, Plugin]:
    """The plugins that are recorded in Claude Code's own folder, by key; of several, the one for this project."""
    root = read_object(claude / "plugins" / "installed_plugins.json", warnings=warnings) or {}
    plugins = root.get("plugins")
    found: dict[str, Plugin] = {}
    for key, records in plugins.items() if isinstance(plugins, dict) else ():
        data = claude / "plugins" / "data" / re.sub(r"[^A-Za-z0-9_-]", "-", key)
        candidates = [
            Plugin(key, Path(record["installPath"]), data, Path(place) if isinstance(place, str) and place else None)
            for record in (records if isinstance(records, list) else [records])
            if isinstance(record, dict) and isinstance(record.get("installPath"), str)
            for place in [record.get("projectPath")]
        ]
        fitting = [each for each in candidates if each.is_made_for(project)]
        general = [each for each in candidates if each.is_for is None]
        if chosen := (*fitting, *general, *candidates):
            found[key] = chosen[0]
    return found


def read_plugin(plugin: Plugin, *, around: Surroundings, warnings: list[str]) -> list[ConfigFile]:
    """The servers of a plugin; what cannot be read is a warning."""
    variables = {"CLAUDE_PLUGIN_ROOT": str(plugin.folder), "CLAUDE_PLUGIN_DATA": str(plugin.data)}
    around = Surroundings(around.project, {**around.environ, **variables})
    if not plugin.folder.is_dir():
        warnings.append(f"The enabled plugin {plugin.key} has no servers here: {plugin.folder} does not exist.")
    described, manifest = _read_manifest(plugin, warnings=warnings)
    name = manifest.get("name")
    prefix = f"plugin:{name if isinstance(name, str) and name else plugin.key.partition('@')[0]}:"
    files: list[ConfigFile] = []
    for path, root in _places(plugin.folder, described, manifest, warnings=warnings):
        entries = root.get("mcpServers", root)  # a plugin's file may leave it out
        named = None
        if isinstance(entries, dict):
            named = {f"{prefix}{server}": entry for server, entry in entries.items() if server != "$schema"}
        try:
            file = read_root({"mcpServers": named}, path=path, scope="plugin", around=around)
        except McpConfigError as exc:
            warnings.append(f"{exc.message} {exc.remedy}")
            continue
        servers = {
            server: replace(config, env={**variables, **config.env}) if config.transport == "stdio" else config
            for server, config in file.servers.items()
        }
        files.append(replace(file, servers=servers))
    return files


def _read_manifest(plugin: Plugin, *, warnings: list[str]) -> tuple[Path, Mapping[str, object]]:
    """What describes the plugin, and where that is."""
    path = plugin.folder / _MANIFEST
    name, _, market = plugin.key.partition("@")
    if (manifest := read_object(path, warnings=warnings)) is not None:
        return path, manifest
    known = read_object(plugin.data.parents[1] / "known_marketplaces.json", warnings=warnings) or {}
    folder = known[market].get("installLocation") if isinstance(known.get(market), dict) else None
    if not isinstance(folder, str):
        return path, {}
    listed = (read_object(Path(folder) / _MARKETPLACE, warnings=warnings) or {}).get("plugins")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return Path(folder) / _MARKETPLACE, next((each for each in entries if each.get("name") == name), {})


def _places(
    folder: Path, described: Path, manifest: Mapping[str, object], *, warnings: list[str]
) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Where a plugin names servers, and what is there; the first that has a name decides about it."""
    said = manifest.get("mcpServers")
    paths = [folder / _SERVERS]
    for each in said if isinstance(said, list) else [said]:
        if isinstance(each, dict):
            yield described, {"mcpServers": each}
        elif isinstance(each, str):
            path = folder / each
            if path.suffix == ".json" and path.is_file():
                paths.insert(0, path)
            else:
                warnings.append(f"{described} names {each!r}, which is not a JSON file in the plugin.")
    for path in dict.fromkeys(paths):
        if (root := read_object(path, warnings=warnings)) is not None:
            yield path, root
