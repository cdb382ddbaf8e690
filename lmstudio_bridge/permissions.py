"""What the servers of a run may do: rule files, presets and the workspace made into one policy."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from lmstudio_bridge.agent.paths import make_workspace
from lmstudio_bridge.agent.policy import Policy
from lmstudio_bridge.agent.rules import Rule
from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.entries import Surroundings
from lmstudio_bridge.presets import preset_rules
from lmstudio_bridge.rule_files import load_rules

_LAUNCHER_OPTIONS = frozenset({"--directory", "--project", "--prefix", "--python", "--cwd", "-C", "--with-editable"})
"""Options of uv, npm and node whose folder is where a program is, not where it works."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """The policy of runs with certain servers, and where its rules come from."""

    policy: Policy
    paths: tuple[Path, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """What applies, for a reader."""
        where = " and ".join(map(str, self.paths)) or "no file"
        shown = [rule for rule in self.policy.rules.rules if _is_of(rule, self.paths)]
        listed = [f"{rule.verb} {rule.pattern}" for rule in shown]
        return [f"rules: {'; '.join(listed) or 'none'} (from {where})", f"workspace: {self.policy.workspace}"]


def read_permissions(
    configs: Iterable[ServerConfig], *, project: Path, environ: Mapping[str, str], policy: Policy | None = None
) -> Permissions:
    """What runs with these servers may do; `policy` says what else is decided, such as the access.

    Raises:
        SettingsError: A rule file cannot be used.
    """
    servers = list(configs)
    files = load_rules(project=project, environ=environ)
    folders = [*_launch_folder(project), *files.rules.folders]
    for config in servers:
        folders += _folders_of(config, project=project)
    made = replace(
        policy or Policy(),
        rules=files.rules + preset_rules(servers),
        workspace=make_workspace(folders, home=Surroundings(project, environ).home),
        local={config.name: config.cwd or project for config in servers if _is_here(config)},
    )
    return Permissions(made, files.paths, files.warnings)


def _is_of(rule: Rule, paths: Iterable[Path]) -> bool:
    return rule.source in map(str, paths)


def _launch_folder(project: Path) -> list[Path]:
    """The project; but where a program is started from nowhere in particular, all would be its workspace."""
    real = project.resolve()
    return [] if real == real.parent else [project]


def _folders_of(config: ServerConfig, *, project: Path) -> Iterator[Path]:
    """The folders that the user gave to a server; what a project's file gives to its servers widens nothing."""
    if config.scope == "project" or config.transport != "stdio":
        return
    if config.cwd is not None:
        yield config.cwd
    before = ""
    for argument in config.args:
        option, _, value = argument.partition("=") if argument.startswith("-") else (before, "", argument)
        before = argument
        if not value or option in _LAUNCHER_OPTIONS:
            continue
        folder = (config.cwd or project) / value
        try:
            if (os.sep in value or value.startswith(".")) and folder.is_dir():
                yield folder
        except OSError:  # too long for a name, or not for our eyes
            continue


def _is_here(config: ServerConfig) -> bool:
    """Whether the server's paths are on this machine."""
    if config.transport == "stdio":
        return True
    host = (urlsplit(config.url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(_plain_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    inner = getattr(address, "ipv4_mapped", None) or address
    return inner.is_loopback or inner.is_unspecified  # 0.0.0.0 leads here too


def _plain_address(host: str) -> str:
    """An address in its usual form: 127.1 and 2130706433 are 127.0.0.1."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host
