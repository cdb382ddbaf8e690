"""The MCP servers: where they are configured, which of them may start, and whether they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from lmstudio_bridge.cli.doctor.checks import Check, Say, State, failed_check, say_nothing
from lmstudio_bridge.errors import BridgeError, DownstreamError, NoToolMayRunError, SettingsError
from lmstudio_bridge.mcp_client.discovery import ServerCatalog
from lmstudio_bridge.mcp_client.launch import find_withheld
from lmstudio_bridge.messages import ServerConfig, ServerTool
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent
from lmstudio_bridge.runs.tool_cache import CheckedTools
from lmstudio_bridge.security.sandbox import find_problem

_ADD = (
    "Add one to Claude Code, for example: "
    "`claude mcp add --scope user filesystem -- npx -y @modelcontextprotocol/server-filesystem .`"
)
_HARMLESS = ("it is disabled ", "its plugin is enabled only in ", "starts the bridge itself")
"""Parts of the reasons for skipping a server that need no action."""


def check_catalog(catalog: ServerCatalog) -> Iterator[Check]:
    """Check the configuration files; nothing is started."""
    for warning in catalog.warnings:  # why there may be none
        yield Check("servers", "MCP servers", "warning", warning, "The other files are still used.")
    where = ", ".join(map(str, catalog.paths))
    if catalog.servers:
        found = f"{len(catalog.servers)} usable of those in {where}"
        yield Check("servers", "MCP servers", "ok", found)
    elif catalog.warnings:
        yield Check("servers", "MCP servers", "failed", "none usable", "See the warning above.")
    else:
        found = f"none usable of those in {where}" if where else f"none configured for {catalog.project}"
        waiting = " Or approve one of the servers below." if catalog.unapproved else ""
        yield Check("servers", "MCP servers", "failed", found, _ADD + waiting)
    for name in catalog.unapproved:
        refusal = catalog.refusal(name)
        yield Check("servers", f"MCP server {name}", "warning", f"left out: {refusal.message}", refusal.remedy)
    for name, reason in catalog.skipped.items():
        harmless = any(words in reason for words in _HARMLESS)
        remedy = "" if harmless else "Fix its entry there, or remove it."
        yield Check("servers", f"MCP server {name}", "ok" if harmless else "warning", f"left out: {reason}", remedy)


def check_rules(agent: DynamicAutonomousAgent, catalog: ServerCatalog) -> Iterator[Check]:
    try:
        permissions = agent.permissions(catalog.servers.values())
    except BridgeError as exc:
        yield failed_check("rules", "Rules", exc)
        return
    sandboxes = permissions.sandboxes
    confined = {name: config for name, config in catalog.servers.items() if sandboxes.find(config)}
    problem = find_problem(sandboxes.around, sandboxes.untrusted)
    state: State = "warning" if problem and confined else "ok"
    yield Check("rules", "Sandbox", state, f"{problem or 'works'}; used for: {', '.join(confined) or 'no server'}")
    for name, config in catalog.servers.items():
        if config.scope == "project" and name not in confined and problem:
            yield Check("rules", "Sandbox", "warning", f"{name} of this project is started without one: {problem}.")
    for line in permissions.lines():
        subject, _, found = line.partition(": ")
        yield Check("rules", subject[:1].upper() + subject[1:], "ok", found)
    unknown = permissions.find_unknown([*catalog.servers, *catalog.unapproved, *catalog.skipped])
    for warning in (*permissions.warnings, *permissions.policy.host.unclear, *unknown):
        yield Check("rules", "Rules", "warning", warning)


async def check_servers(
    agent: DynamicAutonomousAgent, catalog: ServerCatalog, *, environ: Mapping[str, str], say: Say = say_nothing
) -> AsyncIterator[Check]:
    """Start all servers at the same time, and count their tools. The pool limits the time of each start."""
    try:
        permissions = agent.permissions(catalog.servers.values())
    except SettingsError:
        return  # said where the rules are checked; without them nothing may start
    if catalog.servers:
        say(f"Starting {', '.join(catalog.servers)}…")

    async def start(config: ServerConfig) -> tuple[float, CheckedTools | DownstreamError]:
        began = time.monotonic()
        try:
            with agent.pool.lease(permissions.sandboxes.confine) as lease:
                is_new = agent.tool_cache.known_tools(config) is None
                tools = await lease.open_server(config, is_new=is_new)
                seconds = time.monotonic() - began
                return seconds, agent.tool_cache.check(config, tools, instructions=lease.instructions(config.name))
        except DownstreamError as exc:
            return time.monotonic() - began, exc

    outcomes = await asyncio.gather(*map(start, catalog.servers.values()))
    for config, (seconds, outcome) in zip(catalog.servers.values(), outcomes, strict=True):
        name = f"MCP server {config.name}"
        warnings = list(catalog.server_warnings.get(config.name, ()))
        if isinstance(outcome, DownstreamError):
            yield failed_check("servers", name, outcome)
        else:
            warnings += outcome.warnings
            origin = f"{config.scope} scope, {config.source}" + ("; logged in" if agent.logins.has(config) else "")
            yield Check(
                "servers",
                name,
                "ok" if outcome.tools else "warning",
                f"{_counted(outcome.tools)} ({origin}; started in {seconds:.1f} s)",
            )
            warnings += permissions.find_unused(config.name, outcome.tools)
            try:
                permissions.check_usable(outcome.tools)
            except NoToolMayRunError as exc:
                yield Check("servers", name, "warning", exc.message, exc.remedy)
        for warning in warnings:
            yield Check("servers", name, "warning", warning)
        if withheld := find_withheld(config, environ, passed=agent.settings.pass_env):
            found = f"not passed on to it: {', '.join(withheld)}"
            yield Check(
                "servers", name, "ok", found, "If it needs them, use LMSTUDIO_BRIDGE_PASS_ENV, or `env` in its entry."
            )
        for note in config.notes:
            yield Check("servers", name, "ok", note)


def _counted(tools: Sequence[ServerTool]) -> str:
    """How many tools there are, and how many of them are marked read-only."""
    reading = sum(tool.read_only is True for tool in tools)
    unmarked = sum(tool.read_only is None for tool in tools)
    counts = f"{len(tools)} tools, {reading} marked read-only, {len(tools) - reading - unmarked} as writing"
    return f"{counts}, {unmarked} unmarked (treated as writing)" if unmarked else counts
