"""How long servers live: kept for the next run, shared, made room for, and closed, with real child processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import DownstreamError, ServerNotConfiguredError, ServerStartError, SessionLostError
from lmstudio_bridge.mcp_client.pool import SILENCE, Lease, OpenServer, SessionPool
from lmstudio_bridge.messages import ServerConfig, ToolResult
from tests.support.processes import PATIENCE, is_running, until_dead
from tests.unit.mcp_client.pools import configure, make_pool, messages_at, names_of, until_received

SOON = 0.2  # seconds of an idle limit, so that a test can wait for its end


class Clock:
    """Time as the pool sees it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """The file in which each start of a server leaves its process id."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "starts.log"

    def server(self, name: str = "sloppy", /, **habits: Any) -> ServerConfig:
        return configure(name, log=str(self.path), **habits)

    def starts(self) -> list[int]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [message["pid"] for message in map(json.loads, lines) if "pid" in message]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def use(pool: SessionPool, config: ServerConfig) -> int:
    """A run with one server from start to end; the process that served it."""
    with pool.lease() as lease:
        return await pid_of(lease, config)


async def pid_of(lease: Lease, config: ServerConfig) -> int:
    await lease.open_server(config)
    return int((await lease.call_tool(config.name, "pid", {})).text)


def opened(pool: SessionPool) -> list[str]:
    return [each.server for each in pool.opened()]


async def until_open(pool: SessionPool, *servers: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while sorted(opened(pool)) != sorted(servers):  # noqa: ASYNC110  # no event tells what the pool has noticed
            await asyncio.sleep(0.01)


# Kept.


async def test_ten_runs_at_once_share_one_server(log: Log) -> None:
    """The server answers none of them before it has all, and nobody's end disturbs the others."""
    async with asyncio.timeout(PATIENCE), make_pool() as pool:

        async def run(number: int) -> ToolResult:
            with pool.lease() as lease:
                await lease.open_server(log.server())
                return await lease.call_tool("sloppy", "meet", {"count": 10, "label": number})

        results = await asyncio.gather(*map(run, range(10)))

    assert results == [ToolResult(f"met {number}") for number in range(10)]
    assert len(log.starts()) == 1


async def test_a_server_is_closed_when_nobody_has_used_it_for_the_idle_limit(log: Log) -> None:
    async with make_pool(idle_limit=SOON) as pool:
        with pool.lease() as lease:
            pid = await pid_of(lease, log.server())
            assert pool.opened() == [OpenServer("sloppy", 1, 0.0)]
        assert opened(pool) == ["sloppy"]
        await until_dead(pid)
        await until_open(pool)
        assert await use(pool, log.server()) != pid

    assert len(log.starts()) == 2


async def test_a_run_that_ends_during_a_start_leaves_the_server_to_the_next(log: Log) -> None:
    async with make_pool() as pool:
        first = asyncio.create_task(use(pool, log.server()))
        await asyncio.sleep(0)  # up to its first wait
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        pid = await use(pool, log.server())

    assert log.starts() == [pid]


async def test_a_lease_that_has_ended_gives_access_to_nothing(log: Log) -> None:
    async with make_pool() as pool:
        with pool.lease() as lease:
            await lease.open_server(log.server())
        with pytest.raises(ServerNotConfiguredError):
            await lease.call_tool("sloppy", "pid", {})


# Bounded.


async def test_the_one_left_longest_ago_makes_room_before_another_starts(log: Log) -> None:
    async with make_pool(max_servers=2) as pool:
        first, second = [await use(pool, log.server(name)) for name in ("one", "two")]
        assert await use(pool, log.server("one")) == first
        third = await use(pool, log.server("three"))

        assert [is_running(pid) for pid in (first, second, third)] == [True, False, True]
        assert sorted(opened(pool)) == ["one", "three"]


async def test_who_waits_for_longer_than_a_start_may_take_is_told_why() -> None:
    async with make_pool(max_servers=1, start_timeout=SOON) as pool:
        with pool.lease() as one, pool.lease() as other:
            await pool.take_slot(one, configure("one"), None)
            with pytest.raises(
                ServerStartError, match=r"'two' was not started: all 1 server slots .* for 0\.2 sec"
            ) as error:
                await pool.take_slot(other, configure("two"), None)
            one.end()
            await pool.take_slot(other, configure("two"), None)

    assert "LMSTUDIO_BRIDGE_MAX_SERVERS" in error.value.remedy


async def test_a_server_that_does_not_start_takes_no_slot(log: Log) -> None:
    async with make_pool(max_servers=1) as pool:
        with pool.lease() as lease:
            with pytest.raises(ServerStartError):
                await lease.open_server(log.server("one", exit=1))
            assert is_running(await pid_of(lease, log.server("two")))


async def test_a_run_that_wants_more_than_may_be_open_is_told_at_once_and_keeps_the_others(log: Log) -> None:
    async with asyncio.timeout(PATIENCE), make_pool(max_servers=2, start_timeout=2 * PATIENCE) as pool:
        with pool.lease() as lease:
            outcomes = await lease.open_servers(log.server(name) for name in ("one", "two", "three"))

    assert [isinstance(outcome, DownstreamError) for outcome in outcomes.values()] == [False, False, True]
    assert "this run already uses all 2 server slots" in str(outcomes["three"])


async def test_who_waits_when_the_pool_ends_is_told(log: Log) -> None:
    with ExitStack() as leases:
        async with make_pool(max_servers=1) as pool:
            await leases.enter_context(pool.lease()).open_server(log.server("one"))
            waiting = asyncio.create_task(leases.enter_context(pool.lease()).open_server(log.server("two")))
            await asyncio.sleep(0)
        with pytest.raises(ServerStartError, match="the bridge is shutting down"):
            await waiting


async def test_a_start_that_nobody_waits_for_any_more_makes_room(log: Log) -> None:
    async with asyncio.timeout(PATIENCE), make_pool(max_servers=1) as pool:
        hanging = asyncio.create_task(use(pool, log.server("one", hang=True)))
        await asyncio.sleep(0)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging

        assert is_running(await use(pool, log.server("two")))


# Fresh.


async def test_a_fresh_server_is_each_runs_own_and_ends_with_it(log: Log) -> None:
    async with make_pool(is_fresh=lambda config: config.name == "browser") as pool:
        with pool.lease() as one, pool.lease() as other:
            first, second = await pid_of(one, log.server("browser")), await pid_of(other, log.server("browser"))
            assert await pid_of(one, log.server("browser")) == first
            one.end()
            await until_dead(first)
            assert is_running(second)
        third = await use(pool, log.server("browser"))
        shared = [await use(pool, log.server("files")) for _ in range(2)]

    assert log.starts() == [first, second, third, shared[0]]


async def test_a_fresh_server_starts_when_the_one_before_it_has_ended(log: Log) -> None:
    """Two browsers cannot have one profile."""
    async with make_pool(is_fresh=lambda config: True) as pool:
        before = await use(pool, log.server(stubborn=True))
        with pool.lease() as lease:
            await lease.open_server(log.server(stubborn=True))
            assert not is_running(before)


# Changed.


async def test_a_changed_server_is_started_anew_for_the_next_run_while_the_one_before_keeps_its_own(log: Log) -> None:
    async with make_pool() as pool:
        with pool.lease() as one:
            old = await pid_of(one, log.server())
            held = asyncio.create_task(one.call_tool("sloppy", "hold", {}))
            await until_received(one, "hold")
            new = await use(pool, log.server(chatty=True))
            await messages_at(one, release=True)
            assert (await held).text == "released {}"
            assert int((await one.call_tool("sloppy", "pid", {})).text) == old
        await until_dead(old)
        assert await use(pool, log.server(chatty=True)) == new

    assert log.starts() == [old, new]


async def test_a_limit_that_changes_in_the_entry_starts_nothing_and_counts(log: Log) -> None:
    config = log.server()
    hasty = ServerConfig(config.name, "stdio", command=config.command, args=config.args, timeout=1.0)
    async with make_pool() as pool:
        pid = await use(pool, config)
        with pool.lease() as lease:
            assert await pid_of(lease, hasty) == pid
            with pytest.raises(DownstreamError, match=r"within 1 seconds"):
                await lease.call_tool("sloppy", "hold", {})


# Lost.


async def test_a_server_that_dies_between_two_runs_is_noticed_and_started_again(log: Log) -> None:
    async with make_pool() as pool:
        pid = await use(pool, log.server())
        os.kill(pid, signal.SIGKILL)
        await until_open(pool)  # nobody had to ask
        assert await use(pool, log.server()) != pid

    assert len(log.starts()) == 2


async def test_a_server_that_dies_in_a_run_is_started_again_in_its_place(log: Log) -> None:
    async with make_pool(max_servers=1) as pool:
        with pool.lease() as lease:
            pid = await pid_of(lease, log.server())
            with pytest.raises(SessionLostError):
                await lease.call_tool("sloppy", "die", {})
            new = int((await lease.call_tool("sloppy", "pid", {})).text)
        assert await use(pool, log.server()) == new

    assert log.starts() == [pid, new]


@pytest.mark.parametrize(("silence", "pings"), [(SILENCE - 1, 0), (SILENCE, 1), (SILENCE + 1, 1)])
@pytest.mark.parametrize("habits", [{}, {"silent": True}], ids=["answers", "answers with an error"])
async def test_a_server_is_asked_for_a_sign_of_life_after_a_long_silence(
    log: Log, silence: float, pings: int, habits: dict[str, Any]
) -> None:
    """The server has no ping, and says so; the one that says nothing counts as gone."""
    clock = Clock()
    async with make_pool(clock=clock, ping_timeout=PATIENCE if not habits else 0.2) as pool:
        await use(pool, log.server(**habits))
        clock.now += silence
        await use(pool, log.server(**habits))

    messages = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    assert [message.get("method") for message in messages].count("ping") == pings
    assert len(log.starts()) == (2 if habits and pings else 1)


async def test_one_ping_is_enough_for_all_that_open_at_once(log: Log) -> None:
    clock = Clock()
    async with make_pool(clock=clock) as pool:
        await use(pool, log.server())
        clock.now += SILENCE
        await asyncio.gather(*(use(pool, log.server()) for _ in range(5)))

    messages = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    assert [message.get("method") for message in messages].count("ping") == 1


async def test_a_server_that_hangs_after_a_long_silence_is_replaced(log: Log) -> None:
    clock = Clock()
    async with make_pool(clock=clock, ping_timeout=SOON) as pool:
        pid = await use(pool, log.server())
        os.kill(pid, signal.SIGSTOP)
        clock.now += SILENCE
        new = await use(pool, log.server())
        await until_dead(pid)

    assert log.starts() == [pid, new]


async def test_a_busy_server_is_not_asked_for_a_sign_of_life(log: Log) -> None:
    """One that does one thing at a time could not answer, and must not be ended for it."""
    clock = Clock()
    async with make_pool(clock=clock, ping_timeout=SOON) as pool:
        with pool.lease() as lease:
            pid = await pid_of(lease, log.server(hang_on="ping"))
            held = asyncio.create_task(lease.call_tool("sloppy", "hold", {}))
            await until_received(lease, "hold")
            clock.now += SILENCE
            assert await use(pool, log.server(hang_on="ping")) == pid
            messages = await messages_at(lease, release=True)
            assert (await held).text == "released {}"

    assert "ping" not in [message["method"] for message in messages]


async def test_a_server_that_gets_busy_while_it_is_asked_is_not_ended_for_its_silence(log: Log) -> None:
    clock = Clock()
    async with make_pool(clock=clock, ping_timeout=SOON) as pool:
        with pool.lease() as one, pool.lease() as other:
            pid = await pid_of(one, log.server(hang_on="ping"))
            clock.now += SILENCE
            opening = asyncio.create_task(pid_of(other, log.server(hang_on="ping")))
            held = asyncio.create_task(one.call_tool("sloppy", "hold", {}))
            assert await opening == pid
            await messages_at(one, release=True)
            assert (await held).text == "released {}"

    assert log.starts() == [pid]


async def test_an_answer_and_a_start_are_signs_of_life(log: Log) -> None:
    clock = Clock()
    gate = log.path.with_name("gate")
    async with make_pool(clock=clock) as pool:
        with pool.lease() as lease:
            opening = asyncio.create_task(lease.open_server(log.server(wait_for=str(gate))))
            await asyncio.sleep(0)  # up to its first wait
            clock.now += SILENCE
            gate.touch()
            await opening
            clock.now += SILENCE - 1
            await lease.call_tool("sloppy", "pid", {})
            clock.now += SILENCE - 1
            await lease.open_server(log.server(wait_for=str(gate)))
            methods = [message["method"] for message in await messages_at(lease)]

    assert "ping" not in methods


# Tools.


async def test_a_storm_of_changed_tools_costs_one_listing_at_the_next_opening() -> None:
    config = configure()
    async with make_pool() as pool:
        with pool.lease() as one, pool.lease() as other:
            before = names_of(await one.open_server(config))
            await one.call_tool("sloppy", "change", {"name": "added", "times": 1_000})
            quiet = [message["method"] for message in await messages_at(one)].count("tools/list")
            after = await asyncio.gather(*(other.open_server(config) for _ in range(5)))
            listings = [message["method"] for message in await messages_at(one)].count("tools/list")

    assert {tuple(names_of(tools)) for tools in after} == {(*before, "added")}
    assert (quiet, listings) == (1, 2)
