"""The MCP servers of one run: chosen for its task, opened at its beginning, and later those that are needed yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import anyio

from lmstudio_bridge.agent.choice import choose_servers
from lmstudio_bridge.agent.known_tools import KnownTools
from lmstudio_bridge.agent.reserve import Reserve
from lmstudio_bridge.agent.results import CHARS_PER_TOKEN
from lmstudio_bridge.downstream.changes import ToolTaker
from lmstudio_bridge.downstream.config import ServerConfig
from lmstudio_bridge.downstream.sessions import Lease
from lmstudio_bridge.errors import DownstreamError, ServerStartError, listed
from lmstudio_bridge.events import Emit, Noticed, ServerFailed, ServerReady, ServersChosen, Warned
from lmstudio_bridge.messages import Notice, ServerTool
from lmstudio_bridge.redaction import Redactor
from lmstudio_bridge.shown_tools import ShownTools
from lmstudio_bridge.similarity import ToolSimilarity

_TOOLS_SHARE = 4  # the tools may take a quarter of the context


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs servers and tools for.

    If it `chooses`, only those servers are started that the task needs, and the `used` ones: those that the run
    had before, where it goes on.
    """

    task: str
    chooses: bool
    used: frozenset[str] = frozenset()


def tools_room(context_length: int) -> int:
    """How many characters the tools may take of a context of so many tokens."""
    return context_length * CHARS_PER_TOKEN // _TOOLS_SHARE


class RunServers:
    """The servers that one run may use. `offers` says which of their tools the model gets to know of."""

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        *,
        lease: Lease,
        taker: ToolTaker,
        shown: ShownTools,
        tell: Emit,
        redactor: Redactor,
        offers: Callable[[ServerTool], bool],
    ) -> None:
        self._configs = {config.name: config for config in configs}
        self._lease = lease
        self._taker = taker
        self._shown = shown
        self._tell = tell
        self._redactor = redactor
        self._offers = offers
        self._left: dict[str, tuple[ServerTool, ...]] = {}
        self._opened: dict[str, tuple[ServerTool, ...]] = {}
        self._failed: list[DownstreamError] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The servers that are open, in the order in which they are configured."""
        return tuple(name for name in self._configs if name in self._opened)

    def tools(self) -> tuple[ServerTool, ...]:
        """The tools of the open servers, as far as the model may know of them."""
        return tuple(tool for name in self.names for tool in self._opened[name])

    def reserve(self, known: KnownTools) -> Reserve | None:
        """What was left unopened, to be found and opened later."""
        return Reserve(self._left, start=self._start_later, known=known) if self._left else None

    async def choose(self, needs: Needs, *, max_chars: int, similarity: ToolSimilarity, candidates: KnownTools) -> None:
        """Leave unopened what the task does not need, as far as that can be told.

        Servers are chosen until the tools that fit have `max_chars` characters. `candidates` is as in
        `choose_servers`.
        """
        known = {name: self._known_tools(config) for name, config in self._configs.items()}
        tools = [tool for each in known.values() for tool in each or ()]
        choice = choose_servers(
            needs.task,
            known,
            max_chars=max_chars,
            used=needs.used,
            similar=await similarity.compare(needs.task, tools),
            candidates=candidates,
        )
        self._left = {name: known[name] or () for name in choice.left}
        await self._tell(ServersChosen(tuple(choice.started), tuple(choice.started.values()), choice.left))

    async def open(self) -> None:
        """Open all that were not left; if none of them can be, the others too.

        Raises:
            DownstreamError: None can be opened.
        """
        await self._open_all(name for name in self._configs if name not in self._left)
        if not self._opened and self._left:
            left, self._left = self._left, {}
            await self._open_all(left)
        if not self._opened:
            error = _none_left(self._failed, self._redactor)
            raise error from (None if error in self._failed else self._failed[-1])

    async def _open_all(self, names: Iterable[str]) -> None:
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(self._open, self._configs[name])

    async def _open(self, config: ServerConfig) -> None:
        try:
            taken = self._taker.take(config, await self._lease.open_server(config, on_wait=self._on_wait))
        except DownstreamError as exc:
            self._failed.append(exc)
            await self._tell(ServerFailed(config.name, self._redactor.redact(exc.explain())))
            return
        shown = self._shown.of(taken.tools)
        self._opened[config.name] = tuple(filter(self._offers, shown.tools))
        await self._tell(ServerReady(config.name, len(taken.tools)))
        secret = shown.left_out
        told = (f"{config.name}: {secret} of its tools left out, because their names hold a secret.",) if secret else ()
        for warning in (*taken.warnings, *told):
            await self._tell(Warned(warning))

    async def _on_wait(self, text: str) -> None:
        await self._tell(Noticed(Notice("queue", text)))

    async def _start_later(self, name: str) -> tuple[ServerTool, ...]:
        await self._open(self._configs[name])
        if name not in self._opened:
            raise next(error for error in reversed(self._failed) if error.server == name)
        return self._opened[name]

    def _known_tools(self, config: ServerConfig) -> tuple[ServerTool, ...] | None:
        tools = self._taker.store.known_tools(config)
        return None if tools is None else tuple(filter(self._offers, self._shown.of(tools).tools))


def _none_left(failed: Sequence[DownstreamError], redactor: Redactor) -> DownstreamError:
    if len(failed) == 1:
        return failed[0]
    reasons = listed([f"- {redactor.redact(error.explain())}" for error in failed], between="\n")
    return ServerStartError(f"None of the MCP servers could be started:\n{reasons}", server=failed[0].server)
