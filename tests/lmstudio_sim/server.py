"""Runs the simulator: `open_simulator` is what tests use."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.lmstudio_sim.errors import EXPRESS_ERROR_PAGE, MODEL_CRASHED, MODEL_UNLOADED, JsonObject
from tests.lmstudio_sim.http import BadRequestError, Connection, Exchange
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.playback import HTML_TYPE, LostStream
from tests.lmstudio_sim.replies import HttpReply, Reply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.routes import Site, answer
from tests.lmstudio_sim.scripts import ReplyFunction, ReplyScript
from tests.lmstudio_sim.state import Instance, ModelState

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5.0
"""Express closes a connection idle for this long."""
"""A request that waits longer for a slot fails."""
ARRIVAL_SECONDS = 60.0  # for what comes at once on a machine that is not busy
"""How long `wait_for_request` waits."""
HOST = "127.0.0.1"


class Simulator:
    """A running server: script it, watch it, break it."""

    def __init__(self, site: Site, *, port: int, keep_alive_seconds: float) -> None:
        self.requests: list[SimRequest] = []
        """All requests in order of arrival."""
        self.failures: list[Exception] = []
        """Exceptions of reply functions, or of the simulator itself; the client got an Express error page."""
        self.port = port
        self._site = site
        self._keep_alive_seconds = keep_alive_seconds
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._arrival = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def state(self) -> ModelState:
        return self._site.state

    @property
    def models(self) -> dict[str, SimModel]:
        """Models on disk by key; may be changed."""
        return self.state.models

    @property
    def instances(self) -> dict[str, Instance]:
        """Models in memory by instance id."""
        return self.state.instances

    # -- what to answer ------------------------------------------------------------------------------------------

    def script(self, model: str, *replies: Reply) -> None:
        """Queue replies for requests to a model (key, instance id or the name asked for; `*` for any)."""
        self._site.script.add(model, *replies)

    def script_fn(self, model: str, fn: ReplyFunction | None) -> None:
        """Let `fn` compute the reply whenever the model's queue is empty."""
        self._site.script.set_function(model, fn)

    def script_path(self, path: str, *replies: HttpReply) -> None:
        """Queue whole answers for a path, before token, body or model are looked at."""
        self._site.script.add_path(path, *replies)

    def unused_replies(self, model: str) -> int:
        """How many queued replies of a model are left."""
        return self._site.script.left(model)

    # -- what happens to models ----------------------------------------------------------------------------------

    async def load(self, model: str, *, context_length: int | None = None) -> Instance:
        """Load one more instance by hand."""
        return await self.state.load(self.models[model], context_length=context_length)

    def unload(self, instance_id: str) -> None:
        """Unload; requests in flight on it die of "Model unloaded."."""
        self.state.remove(instance_id, cause=MODEL_UNLOADED)

    def reload(self, instance_id: str, *, context_length: int | None = None) -> Instance:
        """Load anew under the same id; requests in flight on it die of "Model reloaded."."""
        return self.state.reload(instance_id, context_length=context_length)

    def crash(self, instance_id: str, *, text: str = MODEL_CRASHED) -> None:
        """Lose the engine; requests in flight on it die of `text`."""
        self.state.crash(instance_id, text=text)

    def evict(self) -> list[str]:
        """Unload all JIT-loaded instances and cancel JIT loads, as the load of another model would."""
        return self.state.evict()

    # -- what came in --------------------------------------------------------------------------------------------

    async def wait_for_request(self, n: int = 1, *, path: str | None = None) -> SimRequest:
        """The n-th request (from 1), of those to `path` if given, as soon as it has arrived.

        Raises:
            TimeoutError: it did not arrive within `ARRIVAL_SECONDS`.
        """
        async with asyncio.timeout(ARRIVAL_SECONDS), self._arrival:
            while True:
                seen = [request for request in self.requests if path in (None, request.path)]
                if len(seen) >= n:
                    return seen[n - 1]
                await self._arrival.wait()

    # -- the server itself ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen again on the same port."""
        # Not asyncio.start_server: its close() loses a connection accepted in the same turn of the loop (3.11).
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=256)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def stop(self) -> None:
        """Stop listening and cut every connection; models stay loaded."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        cut = dict(self._connections)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn
        for client in cut.values():
            client.close()  # a task cancelled before its first step closed nothing

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has given up already
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._connections[task] = client
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def _serve(self, client: socket.socket) -> None:
        try:
            connection = Connection(*await asyncio.open_connection(sock=client))
        except OSError:
            client.close()
            return
        try:
            while await self._serve_one(connection):
                pass
        except BadRequestError as error:
            logger.warning("%s", error)
            connection.write_now(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        except asyncio.CancelledError:
            connection.abort()  # server stop: what is written stays, what is not is lost
            raise
        except ConnectionError:
            pass
        except Exception as error:
            logger.exception("simulator failed")
            self.failures.append(error)
        finally:
            connection.close()

    async def _serve_one(self, connection: Connection) -> bool:
        raw = await connection.read_request(idle_seconds=self._keep_alive_seconds)
        if raw is None:
            return False
        path, _, query = raw.target.partition("?")
        request = SimRequest(
            len(self.requests) + 1, raw.method, path, query, raw.headers, raw.body, _parse_json(raw.body)
        )
        self.requests.append(request)
        async with self._arrival:
            self._arrival.notify_all()
        exchange = Exchange(request, connection, keep_alive=raw.keep_alive, keep_alive_seconds=self._keep_alive_seconds)
        loop = asyncio.get_running_loop()
        answering = loop.create_task(self._answer(exchange))
        watching = loop.create_task(connection.watch_hangup())
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                request.finish("disconnected")
        except asyncio.CancelledError:
            request.finish("cut")
            raise
        finally:
            answering.cancel()
            watching.cancel()
            try:
                await asyncio.gather(answering, watching, return_exceptions=True)
            finally:
                request.ended.set()  # also if `stop` comes just now
        return exchange.keep_alive and request.outcome in ("completed", "killed")

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await answer(self._site, exchange)
        except ConnectionError:
            exchange.request.finish("disconnected")
        except Exception as error:
            logger.exception("no answer to request %d", exchange.request.number)
            self.failures.append(error)
            if exchange.headers_sent:
                exchange.cut()
            else:
                await exchange.send(500, EXPRESS_ERROR_PAGE.encode(), content_type=HTML_TYPE)


def _parse_json(body: bytes) -> JsonObject | None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


@asynccontextmanager
async def open_simulator(
    models: Sequence[SimModel] | None = None,
    *,
    jit: bool = True,
    token: str | None = None,
    native: bool | None = True,
    port: int = 0,
    duplicate_jit: bool = False,
    lost_stream: LostStream = "error",
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
) -> AsyncIterator[Simulator]:
    """Run a simulator on a free port of the loopback, by default with one loaded chat model, `qwen/qwen3-4b`.

    `token` turns authentication on. `native=False` is an LM Studio before 0.4 (no /api/v1), `native=None` some other
    OpenAI-like server. `duplicate_jit` loads an instance for each of several concurrent first requests (bt#1751).
    `lost_stream` is how a stream ends whose instance dies.
    """
    if models is None:
        models = [SimModel("qwen/qwen3-4b", loaded=True, trained_for_tool_use=True)]
    state = ModelState(models, jit=jit, duplicate_jit=duplicate_jit, old_build=native is False)
    site = Site(state, ReplyScript(), native, token, lost_stream)
    simulator = Simulator(site, port=port, keep_alive_seconds=keep_alive_seconds)
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()
        await state.aclose()
