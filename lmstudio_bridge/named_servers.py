"""Which of the configured MCP servers a run works with."""

from __future__ import annotations

from dataclasses import dataclass

from lmstudio_bridge.downstream.config import ServerCatalog, ServerConfig
from lmstudio_bridge.errors import DownstreamError, ServerNotConfiguredError, ServerNotTrustedError, listed


@dataclass(frozen=True, slots=True)
class NamedServers:
    """The servers to open, those that were meant and cannot be, and what the user should know about the files."""

    configs: list[ServerConfig]
    refused: list[DownstreamError]
    warnings: list[str]


def find_servers(catalog: ServerCatalog, names: tuple[str, ...] | None) -> NamedServers:
    """The servers of these names, or all that may be used.

    Raises:
        DownstreamError: None can be used.
    """
    configs: list[ServerConfig] = []
    refused: list[DownstreamError] = []
    for name in dict.fromkeys((*catalog.servers, *catalog.unapproved) if names is None else names):
        try:
            configs.append(catalog.require(name))
        except (ServerNotConfiguredError, ServerNotTrustedError) as exc:
            refused.append(exc)
    if not configs:
        raise _none_of(refused) if refused else _nothing_configured(catalog)
    about = [warning for config in configs for warning in catalog.server_warnings.get(config.name, ())]
    return NamedServers(configs, refused, [*catalog.warnings, *about])


def _none_of(refused: list[DownstreamError]) -> DownstreamError:
    if len(refused) == 1:
        return refused[0]
    reasons = listed([f"- {error.explain()}" for error in refused], between="\n")
    return DownstreamError(f"None of the MCP servers can be used:\n{reasons}", server=refused[0].server)


def _nothing_configured(catalog: ServerCatalog) -> ServerNotConfiguredError:
    looked = ", ".join(map(str, catalog.paths)) or f".mcp.json in {catalog.project} and above it"
    skipped = listed(["", *(f"{name} was skipped: {reason}" for name, reason in catalog.skipped.items())], between=" ")
    return ServerNotConfiguredError(
        f"There is no MCP server to work with. Looked in: {looked}.{skipped}",
        server="",
        remedy="Add one in Claude Code, for example: claude mcp add filesystem -- npx -y "
        "@modelcontextprotocol/server-filesystem . (a server in the project's .mcp.json must be approved there first), "
        "or name a file with LMSTUDIO_BRIDGE_MCP_CONFIG.",
    )
