"""One life of one server: a task that opens the connection, keeps it and leaves it.

Who may use it, and for how long it stays open, is up to `sessions`.

Sessions with the user's other MCP servers: opened on first use, shared, kept for the next run, reopened when lost.

`places` decides who may have which server open, `owners` opens and closes one, `connections` speaks MCP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.abc

from lmstudio_bridge.errors import (
    DownstreamError,
    ServerNotConfiguredError,
    ServerStartError,
    SessionLostError,
    ToolTimeoutError,
)
from lmstudio_bridge.mcp_client.connection import Connection, OnProgress
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.repair import plain_arguments
from lmstudio_bridge.mcp_client.stdio import ChildProcesses, build_environment
from lmstudio_bridge.messages import ServerConfig, ServerTool, ToolResult

logger = logging.getLogger(__name__)

CLOSE_LIMIT = 3.0  # seconds; a child process takes about one, an HTTP server is told with one request
SILENCE = 60.0  # seconds without a sign of life, after which a server is asked for one before it is used again
PING_LIMIT = 5.0  # seconds for that


class Session:
    """One life of one server.

    Its owner task opens and leaves the connection, because anyio wants both in the same task. Calls
    go straight to the connection, from any task.
    """

    def __init__(
        self,
        config: ServerConfig,
        connection: Connection,
        *,
        start_timeout: float,
        ping_limit: float,
        clock: Callable[[], float],
        predecessors: Collection[Session],
    ) -> None:
        self.config = config
        self.closed = asyncio.Event()
        self._connection = connection
        self._start_timeout = start_timeout
        self._ping_limit = ping_limit
        self._clock = clock
        self._predecessors = predecessors
        self._scope = anyio.CancelScope()
        self._settled = asyncio.Event()  # ready, or failed
        self._stopped = asyncio.Event()
        self._retired = False
        self._failure: Failure | None = None  # why it did not start
        self._calls = 0  # calls under way
        self._heard_at = clock()  # when the server last showed that it lives
        self._checking = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """Whether it is starting or ready, and takes new calls."""
        return not (self._failure or self._retired or self._stopped.is_set() or self._connection.lost)

    async def wait_ready(self) -> None:
        """Wait until it is open; a cancelled waiter disturbs neither the others nor the start.

        Raises:
            ServerStartError: it did not start.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure.start_error(self.config.name)

    async def fetch_tools(self) -> tuple[ServerTool, ...]:
        """See `Connection.fetch_tools`; a server that has been silent for long must show first that it lives.

        Raises:
            SessionLostError: the server has gone, or does not answer any more.
        """
        try:
            await self._check()
            return await self._connection.fetch_tools(seconds=self._start_timeout)
        except SessionLostError:
            self.retire()
            raise

    async def call_tool(
        self, tool: str, arguments: Mapping[str, Any], *, seconds: float, on_progress: OnProgress | None
    ) -> ToolResult:
        """See `Lease.call_tool`."""
        self._calls += 1
        try:
            # Not the SDK's own timeout: its error code is one that a server may send as well.
            async with asyncio.timeout(seconds):
                result = await self._connection.call_tool(tool, arguments, on_progress=on_progress)
            self._heard_at = self._clock()
            return result
        except TimeoutError as exc:
            raise ToolTimeoutError(
                f"Tool '{tool}' of MCP server '{self.config.name}' gave no result within {seconds:g} seconds; "
                "the server was told to cancel it.",
                server=self.config.name,
                remedy="If it needs longer, set `timeout` (milliseconds) in the server's entry.",
            ) from exc
        except SessionLostError:
            self._retired = True
            raise
        finally:
            self._calls -= 1
            if self._retired and not self._calls:
                self.stop()

    def retire(self) -> None:
        """Take no more calls, and end after those that are under way."""
        self._retired = True
        if not self._calls:
            self.stop()

    def stop(self) -> None:
        """End now."""
        self._stopped.set()
        if not self._settled.is_set():
            self._scope.cancel()

    async def own(self, on_end: Callable[[], None]) -> None:
        """Open the connection, keep it, close it; never raises, or it would take the whole pool down."""
        try:
            with self._scope:
                await self._wait_for_predecessors()
                await self._keep_open()
        except Exception as exc:  # whatever a server does must end here
            if self._settled.is_set():
                logger.info("MCP server %s %s", self.config.name, self._connection.loss.reason, exc_info=exc)
            else:
                self._failure = self._explain(exc)
                logger.info("MCP server %s %s", self.config.name, self._failure.reason, exc_info=exc)
        finally:
            if not self._settled.is_set():
                self._failure = self._failure or Failure("was closed before it was ready")
            self._stopped.set()
            self._settled.set()
            self.closed.set()
            on_end()

    async def _check(self) -> None:
        """Ask for a sign of life after a long silence; a server with calls under way may be too busy for one."""
        async with self._checking:
            if self._calls or self._clock() - self._heard_at < SILENCE:
                return
            if await self._connection.ping(seconds=self._ping_limit) or self._calls:
                self._heard_at = self._clock()
                return
        raise Failure("does not answer any more").lost_error(self.config.name, "ping")

    def _explain(self, exc: Exception) -> Failure:
        try:
            return self._connection.explain(exc, seconds=self._start_timeout)
        except Exception:  # nothing may leave the owner task, not even a fault in our search for words
            logger.exception("the failure of MCP server %s cannot be explained", self.config.name)
            return Failure(f"could not be started ({type(exc).__name__})")

    async def _wait_for_predecessors(self) -> None:
        """Two processes of one server would fight for its files; but calls under way may take their time."""
        with anyio.move_on_after(CLOSE_LIMIT):
            for predecessor in self._predecessors:
                await predecessor.closed.wait()
        self._predecessors = ()

    async def _keep_open(self) -> None:
        async with asyncio.timeout(self._start_timeout) as limit, self._connection.open():
            limit.reschedule(None)
            self._heard_at = self._clock()
            self._settled.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_when_lost)
                await self._stopped.wait()
                tasks.cancel_scope.cancel()
            limit.reschedule(asyncio.get_running_loop().time() + CLOSE_LIMIT)

    async def _stop_when_lost(self) -> None:
        await self._connection.ended.wait()
        self._stopped.set()


OnWait: TypeAlias = Callable[[str], Awaitable[None]]

_MORE_ROOM = "Name fewer servers, or raise LMSTUDIO_BRIDGE_MAX_SERVERS."


@dataclass(frozen=True, slots=True)
class OpenServer:
    """A server that is open, or being opened: by how many it is used or else, since when not, in seconds."""

    server: str
    users: int
    idle: float


@asynccontextmanager
async def open_pool(
    *,
    project: Path,
    environ: Mapping[str, str],
    start_timeout: float,
    call_timeout: float,
    idle_limit: float,
    max_servers: int,
    pass_env: Iterable[str] = (),
    is_fresh: Callable[[ServerConfig], bool] = lambda config: False,
    ping_limit: float = PING_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[SessionPool]:
    """A pool whose sessions and child processes end when the block is left, within a few seconds.

    Timeouts and limits of time are seconds. Of `environ` the servers get a small base, and what
    `pass_env` names. Of a server that `is_fresh` every lease gets its own, which ends with the lease.
    Enter and leave it in the same task; its methods may be called from any.
    """
    children = ChildProcesses()
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            pool = SessionPool(
                tasks,
                children,
                Places(bound=max_servers, idle_limit=idle_limit),
                project=project,
                environ=build_environment(environ, passed=pass_env),
                start_timeout=start_timeout,
                call_timeout=call_timeout,
                is_fresh=is_fresh,
                ping_limit=ping_limit,
                clock=clock,
            )
            try:
                yield pool
            except Exception as exc:  # noqa: BLE001  # raised again below: the task group would wrap it
                failure = exc
            finally:
                pool.close()
    finally:
        children.kill_all()
    if failure is not None:
        raise failure


class SessionPool:
    """The sessions of all runs; use `open_pool` to get one, and `lease` to use its servers."""

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        children: ChildProcesses,
        places: Places,
        *,
        project: Path,
        environ: Mapping[str, str],
        start_timeout: float,
        call_timeout: float,
        is_fresh: Callable[[ServerConfig], bool],
        ping_limit: float,
        clock: Callable[[], float],
    ) -> None:
        self.call_timeout = call_timeout
        self._tasks = tasks
        self._children = children
        self._places = places
        self._project = project
        self._environ = environ
        self._start_timeout = start_timeout
        self._is_fresh = is_fresh
        self._ping_limit = ping_limit
        self._clock = clock
        self._sessions: dict[Place, Session] = {}
        self._living: set[Session] = set()  # also those that are about to end
        self._waiting: dict[Request, asyncio.Event] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """The right to use servers: what it has opened stays open at least until the block is left."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            lease.end()

    def opened(self) -> list[OpenServer]:
        """What is open right now; of a fresh or a changed server there may be several."""
        now = self._clock()
        return [
            OpenServer(place.key.server, len(place.users), 0.0 if place.users else now - place.idle_since)
            for place in self._places.open
            if place.running
        ]

    def kill_all(self) -> None:
        """Kill all child processes at once, for a signal handler; the pool starts nothing any more."""
        self._closing = True
        self._children.kill_all()

    def close(self) -> None:
        """Let all sessions end; `open_pool` waits for them."""
        self._closing = True
        self._set_timer()
        for session in self._living:
            session.stop()
        for answered in self._waiting.values():
            answered.set()

    async def take_place(self, lease: Lease, config: ServerConfig, on_wait: OnWait | None) -> Place:
        """A place for this server, which is the lease's until it lets go of it.

        Raises:
            ServerStartError: there was no room within the start timeout, or there can't be.
        """
        owner = lease if self._is_fresh(config) else None
        request = self._places.ask(lease, Key(config.name, config.digest, owner))
        answered = self._waiting[request] = asyncio.Event()
        self._settle()
        bound = self._places.bound
        try:
            async with asyncio.timeout(self._start_timeout):
                if not answered.is_set() and on_wait is not None:
                    await on_wait(f"waiting for room: MCP server {config.name} needs one of {bound} places")
                await answered.wait()
        except TimeoutError as exc:
            reason = f"was not started: all {bound} places for servers were in use for {self._start_timeout:g} seconds"
            raise Failure(reason, f"Wait for other runs to end. {_MORE_ROOM}").start_error(config.name) from exc
        finally:
            self._waiting.pop(request, None)
            self._places.withdraw(request)
        if request.refused:
            reason = f"was not started: this run uses all {bound} places for servers by itself"
            raise Failure(reason, _MORE_ROOM).start_error(config.name)
        if request.place is None:
            raise self._shutting_down(config)
        return request.place

    def release(self, lease: Lease, place: Place | None = None) -> None:
        """Let go of one place, or of all that a lease has."""
        self._places.release(lease, now=self._clock(), place=place)
        self._settle()

    def session_at(self, place: Place, config: ServerConfig) -> Session:
        """The session to use at a place: the one that there is, or a new one."""
        current = self._sessions.get(place)
        if current is not None and current.usable:
            return current
        if self._closing:
            raise self._shutting_down(config)
        if current is not None:
            current.retire()
        session = Session(
            config,
            Connection(config, children=self._children, project=self._project, environ=self._environ),
            start_timeout=self._start_timeout,
            ping_limit=self._ping_limit,
            clock=self._clock,
            predecessors=[other for other in self._living if other.config.name == config.name and not other.usable],
        )

        def on_end() -> None:
            self._living.discard(session)
            if self._sessions.get(place) is session:
                del self._sessions[place]
                self._places.ended(place)
                self._settle()

        self._sessions[place] = session
        self._living.add(session)
        self._places.started(place)
        self._tasks.start_soon(session.own, on_end, name=f"MCP server {config.name}")
        return session

    def _settle(self) -> None:
        """Do what the places decide: end sessions, wake up who waits, and come back when the next one is due."""
        decision = self._places.settle(self._clock())
        for place in decision.closing:
            self._sessions[place].stop()
        for request in decision.answered:
            self._waiting[request].set()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._places.next_due
        if due is not None and not self._closing:
            wait = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._settle)

    def _shutting_down(self, config: ServerConfig) -> DownstreamError:
        return Failure("was not started: the bridge is shutting down").start_error(config.name)


class Lease:
    """What one run has of a pool: its servers stay open between its calls; use `SessionPool.lease` to get one."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._held: dict[str, tuple[ServerConfig, Place]] = {}

    async def open_server(self, config: ServerConfig, *, on_wait: OnWait | None = None) -> tuple[ServerTool, ...]:
        """The server's tools; it is started first if it does not run, or runs with another configuration.

        `on_wait` is told in words if there is no room for it yet.

        Raises:
            ServerStartError: it did not start, or did not list its tools within the start timeout; or
                there was no room for it.
        """
        place = await self._pool.take_place(self, config, on_wait)
        before = self._held.get(config.name)
        self._held[config.name] = config, place
        if before is not None and before[1] is not place:
            self._pool.release(self, before[1])
        try:
            return await self._fetch_tools(config, place)
        except SessionLostError:  # nobody had noticed yet: to list tools again has no effects
            return await self._fetch_tools(config, place)

    async def open_servers(
        self, configs: Iterable[ServerConfig]
    ) -> dict[str, tuple[ServerTool, ...] | DownstreamError]:
        """The tools of each server, or why it cannot be used; all are opened at the same time."""
        outcomes: dict[str, tuple[ServerTool, ...] | DownstreamError] = {}

        async def open_one(config: ServerConfig) -> None:
            try:
                outcomes[config.name] = await self.open_server(config)
            except DownstreamError as exc:
                outcomes[config.name] = exc

        async with anyio.create_task_group() as tasks:
            for config in configs:
                outcomes[config.name] = ()  # keeps the order of the configurations
                tasks.start_soon(open_one, config)
        return outcomes

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> ToolResult:
        """Call a tool of a server that `open_server` has opened; a lost session is opened again first.

        `timeout` is seconds; without one the server's own applies, else the pool's. A call is never
        sent twice. An error that the tool or the server reports is a result with `is_error`.

        Raises:
            SessionLostError: the server went away; the call may or may not have had effects.
            ToolTimeoutError: no result in time; the server was told to cancel.
            ServerStartError: the session was lost before, and the server did not start again.
        """
        if server not in self._held:
            raise ServerNotConfiguredError(
                f"MCP server '{server}' has not been opened.", server=server, configured=tuple(self._held)
            )
        config, place = self._held[server]
        try:
            plain = plain_arguments(arguments)
        except (TypeError, ValueError) as exc:
            return ToolResult(f"These arguments cannot be sent as JSON: {exc}", is_error=True)
        session = self._pool.session_at(place, config)
        await session.wait_ready()
        seconds = timeout or config.timeout or self._pool.call_timeout
        return await session.call_tool(tool, plain, seconds=seconds, on_progress=on_progress)

    async def _fetch_tools(self, config: ServerConfig, place: Place) -> tuple[ServerTool, ...]:
        session = self._pool.session_at(place, config)
        try:
            await session.wait_ready()
        except ServerStartError:
            self._held.pop(config.name, None)
            self._pool.release(self, place)
            raise
        return await session.fetch_tools()

    def end(self) -> None:
        """Let go of all; what others use, and what is kept for the next run, stays open."""
        self._held.clear()
        self._pool.release(self)


@dataclass(frozen=True, slots=True)
class Key:
    """What two users must agree in to share a server; `owner` is the only one who may use it, None if all may."""

    server: str
    digest: str
    owner: Hashable | None = None


@dataclass(eq=False, slots=True)
class Place:
    """Room for one open server. `running`: it has a session, which may still be starting."""

    key: Key
    stays: bool  # open when nobody uses it
    users: set[Hashable] = field(default_factory=set)
    running: bool = False
    idle_since: float = 0.0


@dataclass(eq=False, slots=True)
class Request:
    """Somebody's wish for a place: it gets one, is refused because it never could, or waits."""

    user: Hashable
    key: Key
    place: Place | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done: requests that have their answer now, and places whose sessions must end."""

    answered: tuple[Request, ...]
    closing: tuple[Place, ...]


class Places:
    """At most `bound` places; one that nobody uses is closed after `idle_limit` seconds, or earlier to make room."""

    def __init__(self, *, bound: int, idle_limit: float) -> None:
        self.bound = bound
        self._idle_limit = idle_limit
        self._open: dict[Key, Place] = {}
        self._closing: set[Place] = set()
        self._line: list[Request] = []

    @property
    def open(self) -> Collection[Place]:
        """The places that are used or can be."""
        return self._open.values()

    @property
    def next_due(self) -> float | None:
        """When the next place will have been idle for too long."""
        return min((self._due(place) for place in self._idle()), default=None)

    def ask(self, user: Hashable, key: Key) -> Request:
        """Stand in line; `settle` answers. What is open of the same server with another digest is out of date."""
        for place in self._open.values():
            if place.key.server == key.server and place.key.digest != key.digest:
                place.stays = False
        if key in self._open and key.owner is None:
            self._open[key].stays = True  # it was out of date, and is so no more
        request = Request(user, key)
        self._line.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        """Wait no longer."""
        if request in self._line:
            self._line.remove(request)

    def release(self, user: Hashable, *, now: float, place: Place | None = None) -> None:
        """Let go of one place or, without one, of all, and of every place in line."""
        for each in [place] if place is not None else list(self._open.values()):
            if user in each.users:
                each.users.remove(user)
                each.idle_since = now
                if not each.users and not each.running:
                    del self._open[each.key]
        if place is None:
            self._line = [request for request in self._line if request.user != user]

    def started(self, place: Place) -> None:
        """A place has a session."""
        place.running = True

    def ended(self, place: Place) -> None:
        """Its session is gone with all that belonged to it; who uses the place may start another one."""
        place.running = False
        self._closing.discard(place)
        if not place.users and self._open.get(place.key) is place:
            del self._open[place.key]

    def settle(self, now: float) -> Decision:
        """Close what has been idle for too long, and answer whom we can, in the order of the line.

        Who wants a server that is in use does not need a place, and so passes those who do.
        """
        answered: list[Request] = []
        closing = [place for place in self._idle() if not place.stays or now >= self._due(place)]
        for place in closing:
            self._close(place)
        waiting = 0
        for request in list(self._line):
            if request.key not in self._open and len(self._open) + len(self._closing) < self.bound:
                self._open[request.key] = Place(request.key, stays=request.key.owner is None)
            if request.key in self._open:
                request.place = self._open[request.key]
                request.place.users.add(request.user)
            elif sum(request.user in place.users for place in self._open.values()) == self.bound:
                request.refused = True  # it waits for nobody but itself
            else:
                waiting += 1
                idle = min(self._idle(), key=self._due, default=None)
                if idle is not None and waiting > len(self._closing):
                    self._close(idle)
                    closing.append(idle)
                continue
            self._line.remove(request)
            answered.append(request)
        return Decision(tuple(answered), tuple(closing))

    def _idle(self) -> list[Place]:
        return [place for place in self._open.values() if not place.users]

    def _due(self, place: Place) -> float:
        return place.idle_since + self._idle_limit

    def _close(self, place: Place) -> None:
        del self._open[place.key]
        self._closing.add(place)
