"""Is everything in place? Checks, each with what was found and what to do about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from lmstudio_bridge.autonomous import DynamicAutonomousAgent
from lmstudio_bridge.downstream.changes import take_tools
from lmstudio_bridge.errors import BridgeError, DownstreamError


@dataclass(frozen=True, slots=True)
class Check:
    """The result of looking at one link of the chain."""

    name: str
    passed: bool
    found: str
    remedy: str = ""


async def run_checks(agent: DynamicAutonomousAgent) -> AsyncIterator[Check]:
    """Look at LM Studio, its models, the configuration, and each MCP server, in this order."""
    try:
        catalog = await agent.client.list_models()
    except BridgeError as exc:
        yield Check("LM Studio", False, exc.message, exc.explain())
    else:
        names = [model.key for model in catalog.chat_models()]
        yield Check("LM Studio", True, f"{agent.client.root_url} answers ({catalog.source}), {len(names)} chat models")
        try:
            choice = await agent.client.validator.resolve(None)
        except BridgeError as exc:
            yield Check("Model", False, exc.message, exc.remedy)
        else:
            context = f", context {choice.context_length:,} tokens" if choice.context_length else ""
            loaded = {True: "loaded", False: "not loaded", None: "load state not told"}[choice.info.loaded]
            yield Check("Model", True, f"{choice.name} ({loaded}{context})")
    try:
        servers = agent.configured_servers()
    except DownstreamError as exc:
        yield Check("MCP servers", False, exc.message, exc.remedy)
        return
    where = ", ".join(map(str, servers.paths))
    yield Check(
        "MCP servers",
        bool(servers.servers),
        f"{len(servers.servers)} usable of those in {where}" if where else f"none configured for {servers.project}",
        "" if servers.servers or servers.unapproved else "Add one to Claude Code, for example with `claude mcp add`.",
    )
    for warning in servers.warnings:
        yield Check("MCP servers", True, f"warning: {warning}")
    for name in servers.unapproved:
        refusal = servers.refusal(name)
        yield Check(f"MCP server {name}", True, f"left out: {refusal.message}", refusal.remedy)
    for name, reason in servers.skipped.items():
        yield Check(f"MCP server {name}", True, f"left out: {reason}")
    try:
        permissions = agent.permissions(servers.servers.values())
    except BridgeError as exc:
        yield Check("Rules", False, exc.message, exc.remedy)
    else:
        for line in permissions.lines():
            subject, _, found = line.partition(": ")
            yield Check(subject.capitalize(), True, found)
        for warning in permissions.warnings:
            yield Check("Rules", True, f"warning: {warning}")
    for config in servers.servers.values():
        try:
            taken = take_tools(agent.catalogues, config, await agent.pool.open_server(config))
        except DownstreamError as exc:
            yield Check(f"MCP server {config.name}", False, exc.message, exc.explain())
        else:
            tools = taken.tools
            reading = sum(tool.read_only is True for tool in tools)
            origin = f"{config.scope} scope, {config.source}"
            yield Check(f"MCP server {config.name}", True, f"{len(tools)} tools, {reading} marked read-only ({origin})")
            for warning in taken.warnings:
                yield Check(f"MCP server {config.name}", True, f"warning: {warning}")
        for warning in servers.server_warnings.get(config.name, ()):
            yield Check(f"MCP server {config.name}", True, f"warning: {warning}")
