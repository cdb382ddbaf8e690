"""Sessions with the user's other MCP servers: opened on first use, shared, kept for the next run, reopened when lost.

A run takes a `Lease`, which holds a slot for each server that it uses. `Slots` decides who gets one,
`Session` opens and closes one server, `connection` speaks MCP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.abc

from lmstudio_bridge import errors
from lmstudio_bridge.mcp_client.connection import Connection, OnProgress
from lmstudio_bridge.mcp_client.failures import Failure, installer_of
from lmstudio_bridge.mcp_client.http import HttpTransport, OpenLogin
from lmstudio_bridge.mcp_client.json_size import MAX_MESSAGE
from lmstudio_bridge.mcp_client.launch import build_environment
from lmstudio_bridge.mcp_client.repair import plain_arguments
from lmstudio_bridge.mcp_client.stdio import ChildProcesses, StdioTransport
from lmstudio_bridge.messages import ServerConfig, ServerTool, ToolResult

logger = logging.getLogger(__name__)

CLOSE_LIMIT = 3.0  # seconds; a child process takes about one, an HTTP server is told with one request
SILENCE = 60.0  # seconds without an answer, after which a server is pinged before it is used again
PING_TIMEOUT = 5.0  # seconds

INSTALL_TIMEOUT = 300.0  # seconds for a command that may have to download its server first

OnWait: TypeAlias = Callable[[str], Awaitable[None]]
Confine: TypeAlias = Callable[[ServerConfig], Awaitable[ServerConfig]]

_MORE_SLOTS = "Name fewer servers, or raise LMSTUDIO_BRIDGE_MAX_SERVERS."


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How servers are started, and how long they are kept. Times are seconds.

    Of `environ` the servers get a small base, and what `pass_env` names. For a server that `is_fresh`,
    every lease starts its own, which ends with the lease. `max_event` limits the bytes of an answer over HTTP.
    `install_timeout`, if it is longer than `start_timeout`, is for the first start of a command such as `npx`, and
    for the next after a failed one.
    """

    project: Path
    environ: Mapping[str, str]
    start_timeout: float
    call_timeout: float
    idle_limit: float
    max_servers: int
    pass_env: Collection[str] = ()
    is_fresh: Callable[[ServerConfig], bool] = lambda config: False
    ping_timeout: float = PING_TIMEOUT
    install_timeout: float = INSTALL_TIMEOUT
    max_event: int = MAX_MESSAGE
    open_login: OpenLogin | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class OpenServer:
    """A server that is open or being opened: how many runs use it, and for how many seconds none has."""

    server: str
    users: int
    idle: float


@asynccontextmanager
async def open_pool(options: PoolOptions) -> AsyncIterator[SessionPool]:
    """A pool whose sessions and child processes end when the block is left, within a few seconds.

    Enter and leave it in the same task; its methods may be called from any.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        pool = SessionPool(tasks, options)
        try:
            yield pool
        except Exception as exc:  # noqa: BLE001  # raised again below: the task group would wrap it
            failure = exc
        finally:
            pool.close()
    if failure is not None:
        raise failure


class SessionPool:
    """The sessions of all runs; use `open_pool` to get one, and `lease` to use its servers."""

    def __init__(self, tasks: anyio.abc.TaskGroup, options: PoolOptions) -> None:
        self.options = options
        self._tasks = tasks
        self._children = ChildProcesses()
        self._environ = build_environment(options.environ, passed=options.pass_env)
        self._slots = Slots(limit=options.max_servers, idle_limit=options.idle_limit)
        self._sessions: set[Session] = set()  # also those that are about to end
        self._failed: set[str] = set()  # digests of the entries whose last start failed
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @contextmanager
    def lease(self, confine: Confine | None = None) -> Iterator[Lease]:
        """The right to use servers: those that it has opened stay open at least until the block is left.

        `confine` puts a server into its sandbox, if it has one; it may raise ServerStartError.
        """
        lease = Lease(self, confine)
        try:
            yield lease
        finally:
            lease.end()

    def opened(self) -> list[OpenServer]:
        """The servers that are open now; a fresh or a changed one may be there several times."""
        now = self.options.clock()
        return [
            OpenServer(slot.key.server, len(slot.users), 0.0 if slot.users else now - slot.idle_since)
            for slot in self._slots.open
            if slot.session is not None
        ]

    def kill_all(self) -> None:
        """Kill all child processes at once, for a signal handler; nothing is started after that."""
        self._closing = True
        self._children.kill_all()

    def close(self) -> None:
        """End all sessions; `open_pool` waits for them."""
        self._closing = True
        self._set_timer()
        for session in self._sessions:
            session.stop()
        for request in self._slots.queue:
            request.answered.set()

    async def take_slot(self, lease: Lease, config: ServerConfig, on_wait: OnWait | None) -> Slot:
        """A slot for this server, which the lease keeps until it releases it.

        Raises:
            ServerStartError: no slot became free within the start timeout, or none can.
        """
        owner = lease if self.options.is_fresh(config) else None
        request = self._slots.request(lease, SlotKey(config.name, config.digest, owner))
        self._settle()
        limit, seconds = self._slots.limit, self.options.start_timeout
        try:
            async with asyncio.timeout(seconds):
                if not request.answered.is_set() and on_wait is not None:
                    await on_wait(f"queued: MCP server {config.name} waits for one of the {limit} server slots")
                await request.answered.wait()
        except TimeoutError as exc:
            reason = f"was not started: all {limit} server slots were in use for {seconds:g} seconds"
            raise Failure(reason, f"Wait for other runs to finish. {_MORE_SLOTS}").start_error(config.name) from exc
        finally:
            self._slots.withdraw(request)
        if request.refused:
            reason = f"was not started: this run already uses all {limit} server slots"
            raise Failure(reason, _MORE_SLOTS).start_error(config.name)
        if request.slot is None:
            raise _shutting_down(config)
        return request.slot

    def release(self, lease: Lease, slot: Slot | None = None) -> None:
        """Release one slot, or all that a lease holds."""
        self._slots.release(lease, now=self.options.clock(), slot=slot)
        self._settle()

    def session_at(self, slot: Slot, config: ServerConfig, *, is_new: bool = False) -> Session:
        """The session of a slot; a new one if there is none, or if it was lost. See `Lease.open_server`."""
        before = slot.session
        if before is not None and before.usable:
            return before
        if self._closing:
            raise _shutting_down(config)
        if before is not None:
            before.retire()
        options = self.options
        transport = (
            StdioTransport(config, children=self._children, project=options.project, environ=self._environ)
            if config.transport == "stdio"
            else HttpTransport(config, max_event=options.max_event, open_login=options.open_login)
        )
        predecessors = [other for other in self._sessions if other.config.name == config.name and not other.usable]
        session = Session(config, Connection(config, transport), options=options, predecessors=predecessors)
        if installer_of(config) and (is_new or config.digest in self._failed):
            session.start_timeout = max(options.start_timeout, options.install_timeout)

        def on_end() -> None:
            self._sessions.discard(session)
            (self._failed.add if session.failure else self._failed.discard)(config.digest)
            if slot.session is session:
                slot.session = None
                self._slots.ended(slot)
                self._settle()

        slot.session = session
        self._sessions.add(session)
        self._tasks.start_soon(session.run, on_end, name=f"MCP server {config.name}")
        return session

    def _settle(self) -> None:
        for slot in self._slots.settle(self.options.clock()):
            if slot.session is not None:
                slot.session.stop()
        self._set_timer()

    def _set_timer(self) -> None:
        """Settle again when the next slot has been idle for too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._slots.next_due
        if due is not None and not self._closing:
            wait = max(0.0, due - self.options.clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._settle)


class Lease:
    """The servers that one run uses; use `SessionPool.lease` to get one."""

    def __init__(self, pool: SessionPool, confine: Confine | None = None) -> None:
        self._pool = pool
        self._confine = confine
        self._held: dict[str, tuple[ServerConfig, Slot]] = {}

    async def open_server(
        self, config: ServerConfig, *, on_wait: OnWait | None = None, is_new: bool = False
    ) -> tuple[ServerTool, ...]:
        """The server's tools, without those that its entry disables.

        It is started first if it does not run, or runs with another configuration.
        With `is_new`, it may never have been started on this machine, and gets the time to be installed.
        `on_wait` gets a message if all slots are in use, and if the server may have to be installed.

        Raises:
            ServerStartError: it did not start, or did not list its tools within the start timeout; or
                there was no slot for it.
        """
        if self._confine is not None:
            config = await self._confine(config)
        slot = await self._pool.take_slot(self, config, on_wait)
        before = self._held.get(config.name)
        self._held[config.name] = config, slot
        if before is not None and before[1] is not slot:
            self._pool.release(self, before[1])
        session = self._pool.session_at(slot, config, is_new=is_new)
        if on_wait is not None and session.installs:
            await on_wait(f"installing: {installer_of(config)} downloads MCP server {config.name} on its first start")
        try:
            return await self._fetch_tools(config, slot)
        except errors.SessionLostError:  # it went away unnoticed; listing tools again has no effects
            return await self._fetch_tools(config, slot)

    async def open_servers(
        self, configs: Iterable[ServerConfig]
    ) -> dict[str, tuple[ServerTool, ...] | errors.DownstreamError]:
        """The tools of each server, or why it cannot be used; all are opened at the same time."""
        outcomes: dict[str, tuple[ServerTool, ...] | errors.DownstreamError] = {}

        async def open_one(config: ServerConfig) -> None:
            try:
                outcomes[config.name] = await self.open_server(config)
            except errors.DownstreamError as exc:
                outcomes[config.name] = exc

        async with anyio.create_task_group() as tasks:
            for config in configs:
                outcomes[config.name] = ()  # keeps the order of the configurations
                tasks.start_soon(open_one, config)
        return outcomes

    def instructions(self, server: str) -> str:
        """What an open server says about the use of its tools; "" if it says nothing."""
        _, slot = self._held[server]
        return slot.session.connection.instructions if slot.session else ""

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> ToolResult:
        """Call a tool of a server that `open_server` has opened; a lost session is reopened first.

        `timeout` is seconds; it defaults to the server's own, then to the pool's. A call is sent
        twice only where the server did not execute it, because it had forgotten the session. An error that the tool
        or the server reports is a result with `is_error`.

        Raises:
            SessionLostError: the server went away; the call may or may not have had effects.
            ToolTimeoutError: no result in time; the server was told to cancel.
            ServerStartError: the session was lost before, and the server did not start again.
            DownstreamError: the server forgot the new session, too.
        """
        if server not in self._held:
            raise errors.ServerNotConfiguredError(f"MCP server '{server}' has not been opened.", server=server)
        config, slot = self._held[server]
        if not config.has_tool(tool):
            return ToolResult(f"Tool '{tool}' is disabled in {config.source}.", is_error=True)
        try:
            plain = plain_arguments(arguments)
        except ValueError as exc:
            return ToolResult(str(exc), is_error=True)
        seconds = timeout or config.timeout or self._pool.options.call_timeout
        expired: errors.SessionExpiredError | None = None
        for _ in range(2):
            session = self._pool.session_at(slot, config)
            await session.wait_ready()
            try:
                with session.calling():
                    return await session.connection.call_tool(tool, plain, seconds=seconds, on_progress=on_progress)
            except errors.SessionExpiredError as exc:
                logger.info("%s", exc)
                expired = exc
        assert expired is not None
        raise errors.DownstreamError(expired.message, server=server) from expired

    def end(self) -> None:
        """Release all servers; those that others use, or that are kept for the next run, stay open."""
        self._held.clear()
        self._pool.release(self)

    async def _fetch_tools(self, config: ServerConfig, slot: Slot) -> tuple[ServerTool, ...]:
        session = self._pool.session_at(slot, config)
        try:
            await session.wait_ready()
        except errors.ServerStartError:
            self._held.pop(config.name, None)
            self._pool.release(self, slot)
            raise
        return tuple(tool for tool in await session.fetch_tools() if config.has_tool(tool.name))


class Session:
    """One server from start to end.

    Its task (`run`) opens and leaves the connection, because anyio wants both in the same task. Calls
    go straight to the connection, from any task.
    """

    def __init__(
        self, config: ServerConfig, connection: Connection, *, options: PoolOptions, predecessors: Collection[Session]
    ) -> None:
        self.config = config
        self.connection = connection
        self.closed = asyncio.Event()
        self.start_timeout = options.start_timeout
        self.failure: Failure | None = None  # why it did not start
        self._options = options
        self._predecessors = predecessors
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()  # ready, or failed
        self._stopped = asyncio.Event()
        self._retired = False
        self._calls = 0  # calls in progress
        self._heard_at = options.clock()  # when the server last answered
        self._pinging = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """Whether it is starting or ready, and takes new calls."""
        return not (self.failure or self._retired or self._stopped.is_set() or self.connection.lost)

    @property
    def installs(self) -> bool:
        """Whether it is starting, with time to be installed."""
        return not self._settled.is_set() and self.start_timeout > self._options.start_timeout

    async def wait_ready(self) -> None:
        """Wait until it is open; a canceled waiter affects neither the others nor the start.

        Raises:
            ServerStartError: it did not start.
        """
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure.start_error(self.config.name)

    async def fetch_tools(self) -> tuple[ServerTool, ...]:
        """See `Connection.fetch_tools`; after a long silence, the server must answer a ping first.

        Raises:
            SessionLostError: the server has gone, or does not answer any more.
        """
        try:
            await self._ping_after_silence()
            return await self.connection.fetch_tools(seconds=self._options.start_timeout)
        except (errors.SessionLostError, errors.CallRefusedError):
            self.retire()
            raise

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Surrounds a call: a retired session ends after the last one, and a lost one is retired."""
        self._calls += 1
        try:
            yield
            self._heard_at = self._options.clock()
        except (errors.SessionLostError, errors.CallRefusedError):  # the next one opens the login that there is then
            self._retired = True
            raise
        finally:
            self._calls -= 1
            if self._retired and not self._calls:
                self.stop()

    def retire(self) -> None:
        """Take no new calls, and end after those in progress."""
        self._retired = True
        if not self._calls:
            self.stop()

    def stop(self) -> None:
        self._stopped.set()
        if not self._settled.is_set():
            self._scope.cancel()

    async def run(self, on_end: Callable[[], None]) -> None:
        """Open the connection, keep it, close it; never raises, or it would end the whole pool."""
        try:
            with self._scope:
                # Two processes of one server would fight over its files; but calls in progress may take their time.
                with anyio.move_on_after(CLOSE_LIMIT):
                    for predecessor in self._predecessors:
                        await predecessor.closed.wait()
                self._predecessors = ()
                await self._keep_open()
        except Exception as exc:  # whatever a server does must end here
            failure = self.connection.loss if self._settled.is_set() else self._explain(exc)
            if not self._settled.is_set():
                self.failure = failure
            logger.info("MCP server %s %s", self.config.name, failure.reason, exc_info=exc)
        finally:
            if not self._settled.is_set():
                self.failure = self.failure or Failure("was closed before it was ready")
            self._stopped.set()
            self._settled.set()
            self.closed.set()
            on_end()

    async def _keep_open(self) -> None:
        async with asyncio.timeout(self.start_timeout) as limit, self.connection.open():
            limit.reschedule(None)
            self._heard_at = self._options.clock()
            self._settled.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_when_lost)
                await self._stopped.wait()
                tasks.cancel_scope.cancel()
            limit.reschedule(asyncio.get_running_loop().time() + CLOSE_LIMIT)

    async def _stop_when_lost(self) -> None:
        await self.connection.ended.wait()
        self._stopped.set()

    async def _ping_after_silence(self) -> None:
        """A server with calls in progress may be too busy to answer, and is not asked."""
        async with self._pinging:
            if self._calls or self._options.clock() - self._heard_at < SILENCE:
                return
            if await self.connection.ping(seconds=self._options.ping_timeout) or self._calls:
                self._heard_at = self._options.clock()
                return
        raise Failure("does not answer any more").lost_error(self.config.name, "ping")

    def _explain(self, exc: Exception) -> Failure:
        try:
            failure = self.connection.explain(exc, seconds=self.start_timeout)
        except Exception:  # nothing may leave the task, not even a fault in the explanation
            logger.exception("the failure of MCP server %s cannot be explained", self.config.name)
            failure = Failure(f"could not be started ({type(exc).__name__})")
        confinement = self.config.confinement
        return replace(failure, remedy=f"{failure.remedy} {confinement.hint}".strip()) if confinement else failure


@dataclass(frozen=True, slots=True)
class SlotKey:
    """What two users must agree on to share a server; only `owner` may use it, if there is one."""

    server: str
    digest: str
    owner: Hashable | None = None


@dataclass(eq=False, slots=True)
class Slot:
    """Room for one open server. Its `session` may still be starting."""

    key: SlotKey
    stays: bool  # open when nobody uses it
    users: set[Hashable] = field(default_factory=set)
    session: Session | None = None
    idle_since: float = 0.0


@dataclass(eq=False, slots=True)
class SlotRequest:
    """A request for a slot: it gets one, is refused because it never could, or waits."""

    user: Hashable
    key: SlotKey
    slot: Slot | None = None
    refused: bool = False
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """Which servers are open for whom, which one is closed to make room, and who waits.

    There are at most `limit` slots. One that nobody uses is closed after `idle_limit` seconds, or earlier
    to make room. Nothing here waits: the pool acts on what `settle` decides, and passes the time.
    """

    def __init__(self, *, limit: int, idle_limit: float) -> None:
        self.limit = limit
        self.queue: list[SlotRequest] = []
        self._idle_limit = idle_limit
        self._open: dict[SlotKey, Slot] = {}
        self._closing: set[Slot] = set()

    @property
    def open(self) -> Collection[Slot]:
        """The slots that are used or can be."""
        return self._open.values()

    @property
    def next_due(self) -> float | None:
        """When the next slot will have been idle for too long."""
        return min((self._due(slot) for slot in self._idle()), default=None)

    def request(self, user: Hashable, key: SlotKey) -> SlotRequest:
        """Queue a request, which `settle` answers. An open slot of the same server with another digest is stale."""
        for slot in self._open.values():
            if slot.key.server == key.server and slot.key.digest != key.digest:
                slot.stays = False
        if key in self._open and key.owner is None:
            self._open[key].stays = True  # it may have been stale
        request = SlotRequest(user, key)
        self.queue.append(request)
        return request

    def withdraw(self, request: SlotRequest) -> None:
        if request in self.queue:
            self.queue.remove(request)

    def release(self, user: Hashable, *, now: float, slot: Slot | None = None) -> None:
        """Release one slot or, without one, all slots and requests of a user."""
        for each in [slot] if slot is not None else list(self._open.values()):
            if user in each.users:
                each.users.remove(user)
                each.idle_since = now
                if not each.users and each.session is None:
                    del self._open[each.key]
        if slot is None:
            self.queue = [request for request in self.queue if request.user != user]

    def ended(self, slot: Slot) -> None:
        """The session of a slot has ended; those who use the slot may start another one."""
        self._closing.discard(slot)
        if not slot.users and self._open.get(slot.key) is slot:
            del self._open[slot.key]

    def settle(self, now: float) -> list[Slot]:
        """Answer the requests that can be answered, in order; the slots returned must be closed.

        A request for a server that is in use needs no new slot, and so overtakes those that do.
        """
        closing = [slot for slot in self._idle() if not slot.stays or now >= self._due(slot)]
        for slot in closing:
            self._close(slot)
        waiting = 0
        for request in list(self.queue):
            if request.key not in self._open and len(self._open) + len(self._closing) < self.limit:
                self._open[request.key] = Slot(request.key, stays=request.key.owner is None)
            if request.key in self._open:
                request.slot = self._open[request.key]
                request.slot.users.add(request.user)
            elif sum(request.user in slot.users for slot in self._open.values()) == self.limit:
                request.refused = True  # it would wait for itself
            else:
                waiting += 1
                idle = min(self._idle(), key=self._due, default=None)
                if idle is not None and waiting > len(self._closing):
                    self._close(idle)
                    closing.append(idle)
                continue
            self.queue.remove(request)
            request.answered.set()
        return closing

    def _idle(self) -> list[Slot]:
        return [slot for slot in self._open.values() if not slot.users]

    def _due(self, slot: Slot) -> float:
        return slot.idle_since + self._idle_limit

    def _close(self, slot: Slot) -> None:
        del self._open[slot.key]
        self._closing.add(slot)


def _shutting_down(config: ServerConfig) -> errors.DownstreamError:
    return Failure("was not started: the bridge is shutting down").start_error(config.name)
