"""The programs that can start the bridge, and the files in which they keep their MCP servers.

Sources: code.claude.com/docs/en/mcp (and Claude Code 2.1.330), modelcontextprotocol.io/quickstart/user for
Claude Desktop (its folder on Linux is that of the community's builds), cursor.com/docs/context/mcp,
code.visualstudio.com/docs/copilot/customization/mcp-servers, lmstudio.ai/docs/app/mcp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from lmstudio_bridge.cli.arguments import NAMES, SCOPES, Host, HostScope
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.mcp_client.approvals import read_state
from lmstudio_bridge.mcp_client.discovery import LM_STUDIO_FILES, PROJECT_FILE
from lmstudio_bridge.settings import Surroundings, variables_of

SERVERS_VARIABLE, *_ALIASES = variables_of("mcp_config")
"""In the bridge's entry, it names the file with the host's servers."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a host keeps the servers of a scope: in `path`, in the object that `keys` lead to."""

    host: Host
    scope: HostScope
    path: Path
    keys: tuple[str, ...]

    @property
    def is_unknown(self) -> bool:
        """Whether the bridge finds the servers in this file only if its settings name it."""
        return self.host in ("claude-desktop", "cursor", "vscode")

    def should_be_named(self, env: Mapping[str, str]) -> bool:
        """Whether these settings leave the host's servers out; those of a project may be somebody else's."""
        return self.is_unknown and self.scope == "user" and not {SERVERS_VARIABLE, *_ALIASES} & env.keys()


def find_location(host: Host, scope: HostScope, *, around: Surroundings, platform: str) -> Location:
    """The location for that host and scope; `platform` is a value of `sys.platform`.

    Raises:
        SettingsError: The host has no such scope, or there is no home folder.
    """
    if scope not in SCOPES[host]:
        raise SettingsError(
            f"{NAMES[host]} has no scope {scope!r}.", remedy=f"Its scopes are: {', '.join(SCOPES[host])}."
        )
    match host:
        case "claude-code":
            if scope == "project":
                return Location(host, scope, around.project / PROJECT_FILE, ("mcpServers",))
            path = read_state(around, warnings=[]).path
            if path is None:
                raise _no_home()
            top = _repository(around.project)
            folder = top.as_posix() if platform == "win32" else str(top)  # newer versions write slashes here too
            keys = ("projects", folder, "mcpServers") if scope == "local" else ("mcpServers",)
            return Location(host, scope, path, keys)
        case "claude-desktop":
            folder_of_app = _application_data(around, platform) / "Claude"
            return Location(host, scope, folder_of_app / "claude_desktop_config.json", ("mcpServers",))
        case "cursor":
            above = around.project if scope == "project" else _home(around)
            return Location(host, scope, above / ".cursor" / "mcp.json", ("mcpServers",))
        case "vscode":
            project = around.project / ".vscode"
            folder_of_files = project if scope == "project" else _application_data(around, platform) / "Code" / "User"
            return Location(host, scope, folder_of_files / "mcp.json", ("servers",))
        case "lm-studio":
            paths = [_home(around) / below for below in LM_STUDIO_FILES]
            path = next((path for path in paths if path.exists()), paths[0])
            return Location(host, scope, path, ("mcpServers",))
        case _:
            assert_never(host)


def _repository(folder: Path) -> Path:
    """The project of Claude Code's local scope (2.1.197): the top of the git repository, else the folder."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)


def _application_data(around: Surroundings, platform: str) -> Path:
    if platform == "win32" and (roaming := around.environ.get("APPDATA", "").strip()):
        return Path(roaming)
    if platform == "win32":
        return _home(around) / "AppData" / "Roaming"
    if platform == "darwin":
        return _home(around) / "Library" / "Application Support"
    if config := around.environ.get("XDG_CONFIG_HOME", "").strip():
        return Path(config)
    return _home(around) / ".config"


def _home(around: Surroundings) -> Path:
    if around.home is None:
        raise _no_home()
    return around.home


def _no_home() -> SettingsError:
    return SettingsError("There is no home folder.", remedy="Set HOME (on Windows: USERPROFILE).")
