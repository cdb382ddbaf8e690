"""What the servers of a run may do: rule files, presets and the workspace, made into one policy."""

from __future__ import annotations

import ipaddress
import os
import socket
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lmstudio_bridge.errors import NoToolMayRunError
from lmstudio_bridge.events import WITH_WRITE_ACCESS
from lmstudio_bridge.intent import only_reads_by_name
from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.security.access import PRESET, Policy, Rules
from lmstudio_bridge.security.host_rules import load_host_rules, pattern_of
from lmstudio_bridge.security.presets import preset_rules, starts_package
from lmstudio_bridge.security.rule_files import FILE, load_rules, user_file
from lmstudio_bridge.security.sandbox import EVERY, Sandboxes
from lmstudio_bridge.security.workspace import make_workspace
from lmstudio_bridge.settings import Surroundings

_LAUNCHER_OPTIONS = frozenset({"--directory", "--project", "--prefix", "--python", "--cwd", "-C", "--with-editable"})
"""Options of uv, npm and node that name the folder of a program, not one that it works on."""

_CONTAINERS = frozenset({"docker", "docker-compose", "podman", "nerdctl", "finch", "container", "ssh", "kubectl"})
"""They start a server in a container or on another machine, so that its paths are not ours."""
_FORWARDERS = ("mcp-remote", "mcp-proxy", "supergateway")
_SUGGESTED = 40  # tools in a rule that is suggested


@dataclass(frozen=True, slots=True)
class Permissions:
    """The policy and the sandboxes of runs with certain servers, where the rules come from, and the user's own file."""

    policy: Policy
    paths: tuple[Path, ...]
    warnings: tuple[str, ...]
    own: Path | None
    sandboxes: Sandboxes

    def lines(self) -> list[str]:
        """What applies, for a reader."""
        where = f"from {' and '.join(map(str, self.paths))}" if self.paths else "no rules file"
        sources = set(map(str, self.paths))
        listed = [f"{rule.verb} {rule.pattern}" for rule in self.policy.rules.rules if rule.source in sources]
        host = "; ".join(map(str, self.policy.host.rules))
        return [
            f"rules: {'; '.join(listed) or 'none'} ({where})",
            *([f"Claude Code's rules: {host}"] if host else []),
            f"workspace: {self.policy.workspace}",
        ]

    def find_unused(self, server: str, tools: Sequence[ServerTool]) -> list[str]:
        """A warning for each rule that names this server and fits none of its tools: it may be misspelled."""
        unused = self.policy.rules.find_unused(server, tools)
        return [f"The rule {rule} matches no tool of {server}." for rule in unused]

    def find_unknown(self, servers: Collection[str]) -> list[str]:
        """A warning for each rule that fits none of these servers."""
        rules = [rule for rule in self.policy.rules.rules if not rule.source.startswith(PRESET)]
        unfit = [f"rule {rule}" for rule in rules if not any(rule.fits_server(server) for server in servers)]
        unfit += [f"sandbox of {name}" for name in self.policy.rules.sandboxes if name not in (EVERY, *servers)]
        return [f"The {each} names no configured server." for each in unfit]

    def find_unusable(self, tools: Sequence[ServerTool]) -> list[str]:
        """A warning for each server of which no tool may run; it names the rule that would change that."""
        found: list[str] = []
        for server in dict.fromkeys(tool.server for tool in tools):
            try:
                self.check_usable([tool for tool in tools if tool.server == server])
            except NoToolMayRunError as exc:
                found.append(f"{exc.message} {exc.remedy}")
        return found

    def check_usable(self, tools: Sequence[ServerTool]) -> None:
        """Check that there is no tool, or one that may run.

        Raises:
            NoToolMayRunError: None may run; it names the rule that would change that.
        """
        if not tools or any(map(self.policy.may_run, tools)):
            return
        servers = ", ".join(dict.fromkeys(tool.server for tool in tools))
        host = self.policy.host
        free = [tool for tool in tools if self.policy.rules.find(tool) is None and host.find_for_tool(tool) is None]
        if not free:
            where = " or ".join(map(str, (*self.paths, *host.paths)))
            raise NoToolMayRunError(
                f"No tool of {servers} may run: your rules deny them.", remedy=f"Change the rules in {where}."
            )
        unbelieved = [tool for tool in free if tool.read_only and tool.server in self.policy.rules.unbelieved]
        why = "the marks of a project's servers do not count" if unbelieved else "none is marked as read-only"
        if not unbelieved and any(tool.read_only for tool in free):
            why = "those that are marked as read-only write files"
        reading = unbelieved or [tool for tool in free if only_reads_by_name(tool.name)]
        shown = reading[:_SUGGESTED] or free[:1]  # one as an example, lest all that write are allowed
        rule = f"allow = [{', '.join(map(pattern_of, shown))}]"
        those = "those that only read" if reading else "single tools, by their names,"
        raise NoToolMayRunError(
            f"No tool of {servers} may run with read access: {why}.",
            remedy=f"Use {WITH_WRITE_ACCESS}, or put {those} into {self.own or FILE}: {rule}",
        )


def read_permissions(
    configs: Iterable[ServerConfig], *, project: Path, environ: Mapping[str, str], policy: Policy | None = None
) -> Permissions:
    """What runs with these servers may do; `policy` holds what is decided already, such as the access.

    Raises:
        SettingsError: A rule file cannot be used.
    """
    servers, around = list(configs), Surroundings(project, environ)
    files = load_rules(project=project, environ=environ)
    host = load_host_rules(project=project, environ=environ)
    is_root = project.resolve().parent == project.resolve()  # then everything would be in the workspace
    common = [*([] if is_root else [project]), *files.rules.folders]
    named = {config.name: tuple(_folders_of(config, project=project)) for config in servers}
    folders = [*common, *(folder for each in named.values() for folder in each)]
    of_project = frozenset(config.name for config in servers if config.scope == "project")  # somebody else wrote it
    policy = policy or Policy()
    made = replace(
        policy,
        rules=files.rules + preset_rules(servers) + Rules(unbelieved=of_project),
        workspace=make_workspace(folders, home=around.home),
        host=host,
        local={
            config.name: None if config.launched[0] in _CONTAINERS else config.cwd or project
            for config in servers
            if _is_here(config)
        },
    )
    sandboxes = Sandboxes(
        around,
        chosen=files.rules.sandboxes,
        folders={name: (*common, *own) for name, own in named.items()},
        writes=policy.access == "write" or policy.asks,  # what the person approves can be done
    )
    of_sandboxes = (*sandboxes.warn_of_hidden(servers), *sandboxes.warn_of_unconfined(servers))
    warnings = (*files.warnings, *host.warnings, *of_sandboxes)
    return Permissions(made, files.paths, warnings, user_file(around), sandboxes)


def _folders_of(config: ServerConfig, *, project: Path) -> Iterator[Path]:
    """The folders that the user gave to a server; those of projects and plugins are not trusted with more."""
    if config.scope in ("project", "plugin") or config.transport != "stdio":
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
        except OSError:  # too long for a name, or not readable
            continue


def named_folders(config: ServerConfig, around: Surroundings) -> frozenset[Path]:
    """The folders that a server's entry names, in arguments and variables: its paths may be relative to one of them."""
    found: set[Path] = set()
    for text in (*config.args, *config.env.values()):
        for value in {text, text.partition("=")[2]}:
            with suppress(OSError, ValueError):  # too long for a name, or a null byte
                folder = around.locate(value)
                if (os.sep in value or value.startswith(("~", "."))) and folder.is_dir():
                    found.add(folder)
    return frozenset(found)


def _is_here(config: ServerConfig) -> bool:
    """Whether the server runs on this machine, so that its paths are ours; some commands only forward to a URL."""
    if config.transport != "stdio":
        return is_here(config.url)
    addresses = [word for word in config.args if word.startswith(("https://", "http://"))]
    forwards = addresses and any(starts_package(config, package) for package in _FORWARDERS)
    return not forwards or is_here(addresses[0])


def is_here(url: str) -> bool:
    """Whether the host of a URL is this machine."""
    host = unicodedata.normalize("NFKC", unquote(urlsplit(url).hostname or "")).rstrip(".")
    try:
        address = ipaddress.ip_address(_plain_address(host))
    except ValueError:
        own = socket.gethostname().casefold()
        names = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "host.docker.internal")
        return host in (*names, own, f"{own.partition('.')[0]}.local") or host.endswith(".localhost")
    inner = getattr(address, "ipv4_mapped", None) or address
    # 0.0.0.0 reaches this machine, too.
    return inner.is_loopback or inner.is_unspecified or _is_own_address(inner)


def _is_own_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether one of this machine's interfaces has the address; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _plain_address(host: str) -> str:
    """An address in its usual form: 127.1 and 2130706433 are 127.0.0.1."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host
