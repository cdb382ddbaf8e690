"""The calls of one turn: checked, allowed, run, and each answered with something for the model to read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import anyio

from lmstudio_bridge.agent.arguments import about_arguments
from lmstudio_bridge.agent.conversation import holds_nothing
from lmstudio_bridge.agent.prompts import FAILED, FOUND_NOTHING, LOOK_FIRST, NAME_MISSING, TAKEN_AWAY, TRY_AGAIN
from lmstudio_bridge.agent.result_store import SHELF_SPECS, Shelf
from lmstudio_bridge.agent.tools import FIND_TOOLS, PreparedCall, RefusedCall, Reserve, Selection, Toolbox, read_query
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import DownstreamError
from lmstudio_bridge.events import CallFinished, CallProgress, CallStarted, Emit, Noticed
from lmstudio_bridge.messages import CallPolicy, Decision, Notice, ServerTool, ToolCall, ToolResult, ToolRunner
from lmstudio_bridge.text import clean_text

T = TypeVar("T")

MAX_CALLS = 16  # calls of one turn that are run; small models can write them without end
_TOO_MANY = f"Not done: at most {MAX_CALLS} calls in one turn. Call it again if it is still needed."
_HOLDS_MARK = (
    "Not done: [secret…] stands for a secret that is kept from you. Written anywhere, it would take the secret's "
    "place. Change only what stands around it, or leave it."
)
_LONG = 1_000_000  # characters of a result
_OWN = "lmstudio-bridge"  # stands for the server of the bridge's own tools
_OWN_NAMES = frozenset(spec.name for spec in (*SHELF_SPECS, FIND_TOOLS))  # servers' tools have longer names
_NOT_ASKED = Decision("")  # of calls that the policy does not see
_DIGEST_LENGTH = 16  # hexadecimal digits of a digest: enough to tell calls from each other
_SEARCHES = re.compile(r"search|find|query|look_?up", re.IGNORECASE)
_MISSING = re.compile(r"\bENOENT\b|\bno such\b|\bnot found\b|\bdoes ?n[o']t exist\b|\bdoes not exist\b", re.IGNORECASE)


class Caller:
    """Answers the calls of a run."""

    def __init__(
        self,
        tools: ToolRunner,
        *,
        toolbox: Toolbox,
        policy: CallPolicy,
        shelf: Shelf,
        selection: Selection,
        tell: Emit,
        filters: TextFilters,
        clock: Callable[[], float],
        reserve: Reserve | None = None,
    ) -> None:
        self._tools = tools
        self._toolbox = toolbox
        self._policy = policy
        self._shelf = shelf
        self._selection = selection
        self._reserve = reserve
        self._starting = anyio.Lock()
        self._tell = tell
        self._redact = filters.redact
        self._holds_placeholder = filters.holds_placeholder
        self._clock = clock
        self._has_found = False  # whether any call of this process brought something

    async def answer_turn(self, number: int, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """A result for each call, in their order; whatever happens, there is something to read.

        Calls that only read run side by side, others one after another. The same call twice in a turn
        is run once.
        """
        results: list[ToolResult | None] = [None] * len(calls)
        first: dict[tuple[str, str], int] = {}
        wanted: list[int] = []
        for place, call in enumerate(calls):
            if (call.name, call.arguments) in first:
                continue
            first[call.name, call.arguments] = place
            wanted.append(place)

        async def answer(place: int) -> None:
            results[place] = await self._answer(number, calls[place])

        allowed = wanted[:MAX_CALLS]
        if len(allowed) > 1 and all(self._only_reads(calls[place]) for place in allowed):
            async with anyio.create_task_group() as group:
                for place in allowed:
                    group.start_soon(answer, place)
        else:
            for place in allowed:
                await answer(place)
        for place, call in enumerate(calls):
            if results[place] is None:
                done = first[call.name, call.arguments] in allowed
                text = "The same call stands above; its result is there." if done else _TOO_MANY
                results[place] = await self._without_sending(number, call, text, is_error=not done)
        return [result for result in results if result is not None]

    def _only_reads(self, call: ToolCall) -> bool:
        if call.name in _OWN_NAMES:
            return True
        prepared = self._toolbox.prepare_call(call)
        return isinstance(prepared, PreparedCall) and prepared.tool.read_only is True

    async def _answer(self, number: int, call: ToolCall) -> ToolResult:
        problems = await self._start_needed(call)
        own = self._shelf.answer(call) or self._selection.answer(call)
        if own is not None:
            text, is_error = own
            text = "\n".join((text, *problems))
            return await self._without_sending(number, call, text, is_error=is_error, server=_OWN)
        if problems:
            return await self._without_sending(number, call, f"{FAILED}{problems[0]}")
        if self._selection.is_taken_away(self._toolbox.known_name(call.name) or call.name):
            return await self._without_sending(number, call, TAKEN_AWAY)
        prepared = self._toolbox.prepare_call(call)
        if isinstance(prepared, RefusedCall):
            server = prepared.tool.server if prepared.tool else ""
            tool = prepared.tool.name if prepared.tool else call.name
            return await self._without_sending(number, call, self._redact(prepared.text), server=server, tool=tool)
        server, tool = prepared.tool.server, prepared.tool.name
        decision = self._policy.check_call(prepared.tool, prepared.arguments)
        if not decision.allowed:
            text = f"Not allowed: {decision.reason} Work without it."
            about = about_arguments(prepared.arguments)
            return await self._without_sending(
                number, call, self._redact(text), server=server, tool=tool, decision=decision, about=about
            )
        sent_arguments = json.dumps(prepared.arguments, ensure_ascii=False)
        if prepared.tool.read_only is not True and self._holds_placeholder(sent_arguments):
            return await self._without_sending(number, call, _HOLDS_MARK, server=server, tool=tool, decision=decision)
        return await self._send(number, call, prepared, decision, sent_arguments)

    async def _start_needed(self, call: ToolCall) -> list[str]:
        """Start the servers that this call needs and that are not started; what the model must read if they fail."""
        if self._reserve is None or self._toolbox.known_name(call.name):
            return []
        async with self._starting:  # another call of the turn may start the same server
            return await self._start_from(self._reserve, call)

    async def _start_from(self, reserve: Reserve, call: ToolCall) -> list[str]:
        servers: Sequence[str] = ()
        if call.name == FIND_TOOLS.name:
            with suppress(ValueError, KeyError):  # the answer to the call will say so
                servers = reserve.fitting(read_query(call), self._selection.hidden)
        elif server := reserve.server_of(call.name):
            servers = (server,)
        tools: dict[str, Sequence[ServerTool]] = {}
        problems: dict[str, str] = {}

        async def start(server: str) -> None:
            try:
                tools[server] = await reserve.start(server)
            except DownstreamError as exc:
                problems[server] = self._shelf.show(self._redact(clean_text(exc.explain())[0]))

        async with anyio.create_task_group() as group:
            for server in servers:
                group.start_soon(start, server)
        for server in servers:
            self._selection.add(self._toolbox.add(tools.get(server, ())))
        return [problems[server] for server in servers if server in problems]

    async def _without_sending(
        self,
        number: int,
        call: ToolCall,
        text: str,
        *,
        is_error: bool = True,
        server: str = "",
        tool: str = "",
        decision: Decision = _NOT_ASKED,
        about: str = "",
    ) -> ToolResult:
        await self._tell(
            CallFinished(
                number,
                call.id,
                server,
                tool or call.name,
                text,
                is_error,
                sent=False,
                seconds=0,
                verdict=decision.verdict,
                about=about,
                rule=decision.rule,
                digest=_digest(call.arguments),
            )
        )
        return ToolResult(text, is_error=is_error)

    async def _off_the_loop(self, function: Callable[[str], T], text: str) -> T:
        """What the function makes of the text; a long one takes seconds, in which other runs must go on."""
        return function(text) if len(text) < _LONG else await anyio.to_thread.run_sync(function, text)

    async def _send(
        self, number: int, call: ToolCall, prepared: PreparedCall, decision: Decision, sent_arguments: str
    ) -> ToolResult:
        server, tool = prepared.tool.server, prepared.tool.name
        started_at = self._clock()

        async def on_progress(text: str) -> None:
            await self._tell(CallProgress(call.id, server, tool, clean_text(text)[0]))

        if prepared.changes:
            text = f"{server}: {tool} was understood so: {'; '.join(prepared.changes)}"
            await self._tell(Noticed(Notice("strategy", text)))
        await self._tell(CallStarted(number, call.id, server, tool, sent_arguments))
        advice = ""
        try:
            result = await self._tools.call_tool(server, tool, prepared.arguments, on_progress=on_progress)
        except DownstreamError as exc:
            result, advice = ToolResult(exc.explain(), is_error=True), f"\n{TRY_AGAIN}"
        cleaned, unseen = await self._off_the_loop(clean_text, result.text)
        text = self._shelf.show(await self._off_the_loop(self._redact, cleaned)) + advice
        if unseen:
            text += f"\n[{unseen:,} invisible characters or terminal codes were taken out of this result]"
        if result.is_error:
            text = FAILED + text
            if _MISSING.search(result.text):
                listing = self._selection.listing_tool(call.name)
                text += f"\n{LOOK_FIRST.format(tool=listing) if listing else NAME_MISSING}"
        elif _SEARCHES.search(tool) and holds_nothing(result.text):
            if not self._has_found:  # later, a 1.5B model undid what it had done, and began anew
                text += f"\n{FOUND_NOTHING}"
        else:
            self._has_found = True
        seconds = self._clock() - started_at
        await self._tell(
            CallFinished(
                number,
                call.id,
                server,
                tool,
                text,
                result.is_error,
                sent=True,
                seconds=seconds,
                verdict=decision.verdict,
                rule=decision.rule,
                digest=_digest(sent_arguments),
                definition=self._toolbox.definition_size(prepared.tool),
            )
        )
        return ToolResult(text, result.is_error, result.images)


def _digest(arguments: str) -> str:
    return hashlib.sha256(arguments.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
