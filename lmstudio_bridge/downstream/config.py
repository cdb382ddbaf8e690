"""Configured MCP servers as values: one server, and all that there are for a project.

Nothing here reads a file or starts anything: `entries` reads one file, `discovery` all of them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from lmstudio_bridge.errors import ServerNotConfiguredError, ServerNotTrustedError, listed

Transport: TypeAlias = Literal["stdio", "http", "sse"]

Scope: TypeAlias = Literal["explicit", "local", "project", "user", "lmstudio"]
"""How the file was found that a server stands in; the names are Claude Code's own, where it has one."""

PROJECT_FILE = ".mcp.json"
TRUST_VARIABLE = "LMSTUDIO_BRIDGE_TRUST"


_HOW_TO_ADD = (
    "No MCP server is configured: add one in Claude Code (`claude mcp add`) or in the project's .mcp.json, "
    "or name a file with LMSTUDIO_BRIDGE_MCP_CONFIG."
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One configured server, ready to be opened: variables are expanded, the transport is known.

    `timeout` is seconds for each call, None where the file does not say. `source` is the file that
    it stands in.
    """

    name: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    source: Path | None = None
    scope: Scope | None = None
    disabled: bool = False

    @property
    def digest(self) -> str:
        """Of all that decides what is started or reached, as hexadecimal SHA-256; where it stands does not count."""
        headers, env = sorted(self.headers.items()), sorted(self.env.items())
        cwd = None if self.cwd is None else str(self.cwd)
        parts = [self.transport, self.command, self.args, env, cwd, self.url, headers]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __repr__(self) -> str:
        """Arguments, URL, env and headers may hold secrets: only their number or their names are shown."""
        return (
            f"ServerConfig(name={self.name!r}, transport={self.transport!r}, command={self.command!r}, "
            f"args={len(self.args)}, env={sorted(self.env)}, headers={sorted(self.headers)}, "
            f"source={str(self.source or '')!r}, scope={self.scope!r})"
        )


@dataclass(frozen=True, slots=True)
class ServerCatalog:
    """What the files add up to; a name stands in one of `servers`, `unapproved` and `skipped`.

    `unapproved` are servers of the project's file that nobody has approved yet. `skipped` says for
    each server that cannot be used why, as a sentence. `paths` are the files that were read; none
    means that there are no such files. `warnings` are about files, `server_warnings` about servers
    that can be used all the same.
    """

    project: Path
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    unapproved: Mapping[str, ServerConfig] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    server_warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def require(self, name: str) -> ServerConfig:
        """The server of that name.

        Raises:
            ServerNotTrustedError: it stands in the project's file, and nobody has approved it.
            ServerNotConfiguredError: there is none, or it was skipped.
        """
        if name in self.servers:
            return self.servers[name]
        if name in self.unapproved:
            raise self.refusal(name)
        known = sorted(self.servers)
        choice = f"Configured: {listed(known)}." if known else _HOW_TO_ADD
        if name in self.skipped:
            raise ServerNotConfiguredError(
                f"MCP server '{name}' cannot be used: {self.skipped[name]}",
                server=name,
                configured=known,
                remedy=choice,
            )
        lower = {candidate.lower(): candidate for candidate in (*known, *sorted(self.unapproved))}
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
        hint = f"Did you mean {' or '.join(repr(match) for match in near)}? " if near else ""
        if self.paths:
            looked = f"in {' or '.join(str(path) for path in self.paths)}"
        else:
            looked = f"because no {PROJECT_FILE} was found in {self.project} or above it"
        raise ServerNotConfiguredError(
            f"No MCP server named '{name}' is configured {looked}.",
            server=name,
            configured=known,
            remedy=f"{hint}{choice}",
        )

    def refusal(self, name: str) -> ServerNotTrustedError:
        """Why an unapproved server is not started, and how to approve it."""
        config = self.unapproved[name]
        what = "command" if config.transport == "stdio" else "address"
        folder = config.source.parent if config.source else self.project
        return ServerNotTrustedError(
            f"MCP server '{name}' is not approved yet: its {what} comes from {config.source}.",
            server=name,
            remedy=f"Approve it in Claude Code (start `claude` in {folder} and answer its question; "
            f"`claude mcp list` shows where it stands), or set {TRUST_VARIABLE}={name} for the bridge.",
        )
