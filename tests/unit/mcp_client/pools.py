"""Session pools and configurations of the sloppy server, for the tests of `mcp_client`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.mcp_client.pool import Lease, PoolOptions, SessionPool, open_pool
from lmstudio_bridge.messages import ServerConfig
from tests.support.processes import PATIENCE, SLOPPY


def configure(name: str = "sloppy", /, *, env: Mapping[str, str] | None = None, **habits: Any) -> ServerConfig:
    arguments = (str(SLOPPY), json.dumps(habits))
    return ServerConfig(name, "stdio", command=sys.executable, args=arguments, env=env or {})


def make_pool(
    project: Path = Path(__file__).parent,
    *,
    environ: Mapping[str, str] = os.environ,
    start_timeout: float = PATIENCE,
    call_timeout: float = PATIENCE,
    idle_limit: float = 600.0,
    max_servers: int = 20,
    **options: Any,
) -> AbstractAsyncContextManager[SessionPool]:
    """A pool with some limits set for it; `options` are those of `PoolOptions`."""
    return open_pool(
        PoolOptions(
            project=project,
            environ=environ,
            start_timeout=start_timeout,
            call_timeout=call_timeout,
            idle_limit=idle_limit,
            max_servers=max_servers,
            **options,
        )
    )


@asynccontextmanager
async def open_test_pool(*args: Any, **options: Any) -> AsyncIterator[Lease]:
    """The lease of the one user of a pool; both take what `make_pool` takes."""
    async with make_pool(*args, **options) as pool:
        with pool.lease() as lease:
            yield lease


@asynccontextmanager
async def open_sloppy(**habits: Any) -> AsyncIterator[Lease]:
    """The same, with the sloppy server open; `habits` are what `configure` takes."""
    async with open_test_pool() as pool:
        await pool.open_server(configure(**habits))
        yield pool


async def start_failure(config: ServerConfig, **options: Any) -> ServerStartError:
    """Why a pool with these options cannot open this server."""
    async with open_test_pool(**options) as pool:
        with pytest.raises(ServerStartError) as caught:
            await pool.open_server(config)
    return caught.value


async def assert_start_fails(config: ServerConfig, match: str, **options: Any) -> None:
    failure = str(await start_failure(config, **options))
    assert re.search(match, failure), failure


def names_of(tools: object) -> list[str]:
    assert isinstance(tools, tuple)
    return [tool.name for tool in tools]


async def messages_at(pool: Lease, **arguments: Any) -> list[dict[str, Any]]:
    """Every message that the server has got so far."""
    messages: list[dict[str, Any]] = json.loads((await pool.call_tool("sloppy", "received", arguments)).text)
    return messages


async def until_received(pool: Lease, method: str, count: int = 1) -> list[dict[str, Any]]:
    """Ask the server until it has got so many messages of that method, or calls of that tool."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [
                message
                for message in await messages_at(pool)
                if method in (message.get("method"), (message.get("params") or {}).get("name"))
            ]
            if len(found) >= count:
                return found
