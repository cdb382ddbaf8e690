"""The loop: the model thinks, its calls are checked and run, until it answers or a limit is met.

Knows the model and the tools only as Protocols, and tells everything to one awaited sink.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.policy import Policy
from lmstudio_bridge.agent.prompts import ANSWER_NOW, CALL_LOST, EMPTY_TURN, GOING_ON
from lmstudio_bridge.agent.recovery import judge_reply
from lmstudio_bridge.agent.results import cap_result
from lmstudio_bridge.agent.rounds import Asker, ChatModel
from lmstudio_bridge.agent.toolbox import PreparedCall, RefusedCall, Toolbox
from lmstudio_bridge.errors import BridgeError, ContextOverflowError, DownstreamError, LLMError
from lmstudio_bridge.events import (
    CallFinished,
    CallProgress,
    CallStarted,
    Emit,
    Event,
    MessageAdded,
    Noticed,
    Outcome,
    RunFinished,
    Stop,
    Tally,
    Warned,
)
from lmstudio_bridge.messages import (
    AssistantMessage,
    Message,
    Notice,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)

_POOR_TURNS = 2  # replies without call or answer that are answered with a nudge before the run counts as stuck
_POOR_TURN = {
    CALL_LOST: "The model's tool call did not come through.",
    EMPTY_TURN: "The model's reply held neither a call nor an answer.",
}
FINISH_TIMEOUT = 5.0  # seconds that the sinks get for the last event, also while being cancelled


class ToolRunner(Protocol):
    """Something that runs tools; `lmstudio_bridge.downstream.sessions.SessionPool` is one."""

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: Callable[[str], Awaitable[None]] | None = None,
    ) -> ToolResult:
        """The result of one call. Raises `DownstreamError`."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a run ends at the latest.

    `max_rounds` counts requests to the model, of which the last is without tools. `max_tokens` is
    for one reply, `result_chars` for one tool result, `seconds` for the run.
    """

    max_rounds: int
    seconds: float
    result_chars: int
    max_tokens: int | None = None


async def run(
    conversation: Conversation,
    *,
    model: ChatModel,
    tools: ToolRunner,
    toolbox: Toolbox,
    policy: Policy,
    limits: Limits,
    emit: Emit,
    tally: Tally | None = None,
    redact: Callable[[str], str] = str,
    clock: Callable[[], float] = time.monotonic,
    started_at: float | None = None,
    finish_timeout: float = FINISH_TIMEOUT,
) -> Outcome:
    """Work on the conversation until there is an answer or a limit is met.

    `tally` may hold the events that were told before `run` began, and `started_at` the time by
    `clock` at which the first of them happened. `redact` takes secrets out of what tools
    return, and out of the answer. Every way to end is an outcome, but for cancellation, which goes
    on after `RunFinished` was told.
    """
    began = clock() if started_at is None else started_at
    rounds = _Rounds(conversation, model, tools, toolbox, policy, limits, emit, tally or Tally(), redact, clock)
    stop: Stop = "failed"
    error = "The bridge has a fault; its log on stderr says more."
    try:
        async with asyncio.timeout(limits.seconds) as deadline:
            stop, error = await rounds.work(), ""
    except TimeoutError:
        if not deadline.expired():
            raise
        stop, error = "deadline", f"The run reached its limit of {limits.seconds:g} s."
    except asyncio.CancelledError:
        stop, error = "cancelled", "The run was cancelled."
        raise
    except LLMError as exc:
        full = isinstance(exc, ContextOverflowError) and rounds.text_so_far()
        stop, error = "context_full" if full else "failed", redact(exc.explain())
    finally:
        outcome = await finish_run(
            rounds.tell,
            rounds.tally,
            stop=stop,
            answer=redact(rounds.text_so_far()),
            error=error,
            seconds=clock() - began,
            timeout=finish_timeout,
        )
    return outcome


async def finish_run(
    emit: Emit,
    tally: Tally,
    *,
    stop: Stop,
    answer: str = "",
    error: str,
    seconds: float,
    timeout: float = FINISH_TIMEOUT,
) -> Outcome:
    """Tell the one `RunFinished`, whatever else is being cancelled, and add up the outcome.

    `seconds` is how long the run took, `timeout` how many seconds the sinks get.
    """
    with anyio.move_on_after(timeout, shield=True):
        await emit(RunFinished(stop, answer, error, seconds))
    return tally.outcome()


class _Rounds:
    """One run under way."""

    def __init__(
        self,
        conversation: Conversation,
        model: ChatModel,
        tools: ToolRunner,
        toolbox: Toolbox,
        policy: Policy,
        limits: Limits,
        emit: Emit,
        tally: Tally,
        redact: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self.conversation = conversation
        self.model = model
        self.tools = tools
        self.toolbox = toolbox
        self.policy = policy
        self.limits = limits
        self.emit = emit
        self.tally = tally
        self.redact = redact
        self.clock = clock
        self._asker = Asker(
            model,
            tell=self.tell,
            max_rounds=limits.max_rounds,
            max_tokens=limits.max_tokens,
            redact=redact,
            clock=clock,
        )

    def text_so_far(self) -> str:
        """The newest text of the model, also that of a reply that was cut off."""
        return self._asker.text_under_way() or self.tally.last_text

    async def tell(self, event: Event) -> None:
        self.tally.add(event)
        await self.emit(event)

    async def work(self) -> Stop:
        poor_turns = 0
        hint = ""
        for number in range(1, self.limits.max_rounds + 1):
            last = number == self.limits.max_rounds
            if last and number > 1:
                hint = ANSWER_NOW
            if hint:
                # Strict templates want user and assistant in turn, and don't count calls and results.
                await self.add(AssistantMessage(GOING_ON))
                await self.add(UserMessage(hint))
            offered = () if last else self.toolbox.specs
            reply = await self._asker.ask(number, self.conversation, offered)
            verdict = judge_reply(reply, tools_offered=bool(offered))
            if verdict == "calls" and not last:
                hint, poor_turns = "", 0
                await self.add(AssistantMessage(reply.text, reply.calls))
                for call in reply.calls:
                    await self.add(await self.answer(number, call))
            elif verdict == "answer" or (last and reply.text):
                await self.add(AssistantMessage(reply.text))
                if last and number > 1:
                    return "round_limit"
                if reply.finish_reason == "length":
                    await self.tell(Warned("The answer was cut off at the limit of tokens for one reply."))
                return "answered"
            else:
                poor_turns += 1
                if poor_turns > _POOR_TURNS:
                    return "stuck"
                hint = CALL_LOST if verdict in ("lost_call", "announced") else EMPTY_TURN
                await self.tell(Noticed(Notice("recovery", f"{_POOR_TURN[hint]} It was reminded to go on.")))
        return "round_limit"

    async def add(self, message: Message) -> None:
        self.conversation.add(message)
        await self.tell(MessageAdded(message))

    async def answer(self, number: int, call: ToolCall) -> ToolMessage:
        """Check and run one call; whatever happens, the model gets a result to read."""
        started_at = self.clock()
        prepared = self.toolbox.prepare_call(call)
        sent = False
        if isinstance(prepared, RefusedCall):
            server = prepared.tool.server if prepared.tool else ""
            tool = prepared.tool.name if prepared.tool else call.name
            result = ToolResult(prepared.text, is_error=True)
        else:
            server, tool = prepared.tool.server, prepared.tool.name
            decision = self.policy.check_call(prepared.tool)
            if decision.allowed:
                sent = True
                result = await self.send(number, call, prepared)
            else:
                result = ToolResult(f"Not allowed: {decision.reason} Work without it.", is_error=True)
        text = cap_result(self.redact(result.text), self.limits.result_chars)
        if result.is_error and sent:
            text = f"The call failed: {text}"
        await self.tell(
            CallFinished(number, call.id, server, tool, text, result.is_error, sent, self.clock() - started_at)
        )
        return ToolMessage(call.id, text)

    async def send(self, number: int, call: ToolCall, prepared: PreparedCall) -> ToolResult:
        """Run a call that may run."""
        server, tool = prepared.tool.server, prepared.tool.name

        async def on_progress(text: str) -> None:
            await self.tell(CallProgress(call.id, server, tool, self.redact(text)))

        sent_arguments = json.dumps(prepared.arguments, ensure_ascii=False)
        await self.tell(CallStarted(number, call.id, server, tool, sent_arguments))
        try:
            return await self.tools.call_tool(server, tool, prepared.arguments, on_progress=on_progress)
        except DownstreamError as exc:
            return ToolResult(_for_model(exc), is_error=True)


def _for_model(error: BridgeError) -> str:
    return f"{error.explain()}\nTry again once if that may help, else work without this tool."
