"""The loop: the model thinks, its calls are checked and run, until it answers or a limit is met.

Knows the model and the tools only as Protocols, and tells everything to one awaited sink.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import anyio

from lmstudio_bridge.agent.conversation import Conversation, Folder, room_to_keep
from lmstudio_bridge.agent.json_calls import MAX_TOOLS_WEAK, NATIVE, Strategy
from lmstudio_bridge.agent.model_request import Asker
from lmstudio_bridge.agent.prompts import (
    ANSWER_NOW,
    CALL_LOST,
    EMPTY_TURN,
    FOUND_NOTHING,
    GOING_ON,
    IMAGES,
    TRY_ANOTHER_WAY,
)
from lmstudio_bridge.agent.repetition import Circle, CircleWatch, MadeCall, Step
from lmstudio_bridge.agent.reply_checks import judge_reply
from lmstudio_bridge.agent.result_store import SHELF_SPECS, Shelf
from lmstudio_bridge.agent.structured_output import ShapeError, ask_for_shape
from lmstudio_bridge.agent.tool_executor import Caller
from lmstudio_bridge.agent.tools import Reserve, Selection, Toolbox, finding_specs
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import ContextOverflowError, LLMError
from lmstudio_bridge.events import (
    Emit,
    Event,
    MessageAdded,
    MessagesDropped,
    Noticed,
    Outcome,
    RunFinished,
    Stop,
    Tally,
    Warned,
)
from lmstudio_bridge.messages import (
    AssistantMessage,
    CallPolicy,
    ChatModel,
    Completion,
    Image,
    JSONObject,
    Message,
    Notice,
    ToolMessage,
    ToolRunner,
    ToolSpec,
    UserMessage,
)
from lmstudio_bridge.text import clean_text

_SEEN_TYPES = ("image/png", "image/jpeg")  # what LM Studio takes
_MAX_IMAGE = 8 * 1024 * 1024  # characters of one image in base64
_MAX_IMAGES = 4  # images of one turn
_POOR_TURNS = 2  # replies without call or answer that are answered with a nudge before the run counts as stuck
_POOR_TURN = {
    CALL_LOST: "The model's tool call did not come through.",
    EMPTY_TURN: "The model's reply held neither a call nor an answer.",
}
FINISH_TIMEOUT = 5.0  # seconds that the sinks get for the last event, also while being cancelled


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a run ends at the latest.

    `max_rounds` counts requests to the model, of which the last is without tools. `max_tokens` is
    for one reply, `result_chars` for one tool result, `tool_chars` for names, descriptions and schemas
    of the tools, `seconds` for the run. `context_length` in tokens, None where it is not known;
    `vision` says that the model sees images.
    """

    max_rounds: int
    seconds: float
    result_chars: int
    max_tokens: int | None = None
    temperature: float | None = None
    tool_chars: int | None = None
    context_length: int | None = None
    vision: bool = False


async def run(
    conversation: Conversation,
    *,
    model: ChatModel,
    tools: ToolRunner,
    toolbox: Toolbox,
    policy: CallPolicy,
    limits: Limits,
    emit: Emit,
    tally: Tally | None = None,
    strategy: Strategy = NATIVE,
    output_schema: JSONObject | None = None,
    filters: TextFilters = TextFilters(),  # noqa: B008  # frozen
    clock: Callable[[], float] = time.monotonic,
    started_at: float | None = None,
    reserve: Reserve | None = None,
    finish_timeout: float = FINISH_TIMEOUT,
) -> Outcome:
    """Work on the conversation until there is an answer or a limit is met.

    `tally` may hold the events that were told before `run` began, and `started_at` the time by
    `clock` at which the first of them happened. `strategy` is how the model is asked at first. With
    an `output_schema` the answer is JSON that fits it, or the run has failed. `reserve` are servers that
    may yet be started. `filters` treat what tools return; secrets in the events and in the outcome
    are for the caller to take out. Every way to end is an outcome,
    but for cancellation, which goes on after `RunFinished` was told.
    """
    began = clock() if started_at is None else started_at
    tally = tally or Tally()
    rounds = _Rounds(
        conversation, model, tools, toolbox, policy, limits, emit, tally, strategy, filters, clock, reserve
    )
    stop: Stop = "failed"
    error = "The bridge has a fault; its log on stderr says more."
    try:
        async with asyncio.timeout(limits.seconds) as deadline:
            stop, error = await rounds.work(), ""
            if output_schema is not None and stop in ("answered", "round_limit"):
                stop, error = await rounds.shape_answer(output_schema, stop)
    except TimeoutError:
        if not deadline.expired():
            raise
        stop, error = "deadline", f"The run reached its limit of {limits.seconds:g} s."
    except asyncio.CancelledError:
        stop, error = "cancelled", "The run was cancelled."
        raise
    except LLMError as exc:
        full = isinstance(exc, ContextOverflowError) and rounds.text_so_far()
        stop, error = "context_full" if full else "failed", exc.explain()
    finally:
        outcome = await finish_run(
            rounds.tell,
            rounds.tally,
            stop=stop,
            answer=rounds.final_text(),
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
        policy: CallPolicy,
        limits: Limits,
        emit: Emit,
        tally: Tally,
        strategy: Strategy,
        filters: TextFilters,
        clock: Callable[[], float],
        reserve: Reserve | None,
    ) -> None:
        fence = self._fence = filters.fence
        self.conversation = conversation
        self.limits = limits
        self.emit = emit
        self.tally = tally
        self._weak = weak = strategy.calls == "grammar"
        self._selection = Selection(
            toolbox.offers,
            conversation.task(),
            max_chars=limits.tool_chars,
            max_tools=MAX_TOOLS_WEAK if weak else None,
            best_first=weak,
            similar=toolbox.similar,
        )
        self._first = frozenset(spec.name for spec in self._selection.offered)
        self._finding = finding_specs(self._selection, reserve)
        self._specs: tuple[ToolSpec, ...] = ()
        self._specs_of: tuple[object, ...] = ()  # what they were made of
        self._watch = CircleWatch(first_step=strategy.first_step)
        self._shelf = Shelf(
            limits.result_chars,
            history=[message.text for message in conversation.messages],
            wrap=fence.wrap if fence else str,
        )
        self._folder = Folder(
            conversation,
            shelf=self._shelf,
            tell=self.tell,
            wrap=fence.wrap if fence else str,
            unwrap=fence.take_out if fence else str,
        )
        self._asker = Asker(
            model,
            folder=self._folder,
            tell=self.tell,
            max_rounds=limits.max_rounds,
            max_tokens=limits.max_tokens,
            strategy=strategy,
            temperature=limits.temperature,
            filters=filters,
            clock=clock,
        )
        self._caller = Caller(
            tools,
            toolbox=toolbox,
            policy=policy,
            shelf=self._shelf,
            selection=self._selection,
            tell=self.tell,
            filters=filters,
            clock=clock,
            reserve=reserve,
        )

    def text_so_far(self) -> str:
        """The newest text of the model, also that of a reply that was cut off."""
        return self._asker.text_under_way() or self.tally.last_text

    def final_text(self) -> str:
        """The newest text as a reader gets it: without fences, and without what cannot be seen."""
        text, _ = clean_text(self.text_so_far())
        return self._fence.take_out(text) if self._fence else text

    async def tell(self, event: Event) -> None:
        self.tally.add(event)
        await self.emit(event)

    async def work(self) -> Stop:
        poor_turns = 0
        hint = ""
        answer_now = False
        for number in range(1, self.limits.max_rounds + 1):
            at_limit = number == self.limits.max_rounds
            last = at_limit or answer_now
            if last and number > 1:
                hint = ANSWER_NOW
            if hint:
                await self.remind(hint)
            await self.make_room()
            offered = () if last else self.offered()
            reply = await self._asker.ask(number, self.conversation, offered)
            verdict = judge_reply(reply, tools_offered=bool(offered))
            if verdict == "answer" and self._fence and not self._fence.take_out(reply.text).strip():
                verdict = "empty"  # small models copy the fence and stop there
            if verdict == "calls" and not last:
                hint, poor_turns = "", 0
                if circle := await self.make_calls(number, reply):
                    hint, answer_now = await self.break_circle(circle)
            elif verdict == "answer" or (last and reply.text):
                await self.add(AssistantMessage(reply.text))
                if at_limit and number > 1 and not answer_now:
                    return "round_limit"
                if reply.finish_reason == "length":
                    await self.tell(Warned("The answer was cut off at the limit of tokens for one reply."))
                return "answered"
            elif answer_now:
                return "stuck"
            else:
                poor_turns += 1
                if poor_turns > _POOR_TURNS:
                    return "stuck"
                hint = CALL_LOST if verdict in ("lost_call", "announced") else EMPTY_TURN
                await self.notice(f"{_POOR_TURN[hint]} It was reminded to go on.")
        return "round_limit"

    def offered(self) -> tuple[ToolSpec, ...]:
        """The tools of the next request; the very same tuple as long as nothing changed."""
        # Weak models take any tool that they see: theirs for long results come with the first such result.
        reading = not (self._weak and self._shelf.is_empty)
        made_of = (self._selection.offered, reading)
        if self._specs_of != made_of:
            first = [spec for spec in self._selection.offered if spec.name in self._first]
            found = [spec for spec in self._selection.offered if spec.name not in self._first]
            own = (*(SHELF_SPECS if reading else ()), *self._finding)
            self._specs_of = made_of
            self._specs = (*first, *own, *found)  # what comes later stands last: the engine has read the rest
        return self._specs

    async def make_calls(self, number: int, reply: Completion) -> Circle | None:
        """Run the calls of a turn; what they show of a circle, if anything."""
        await self.add(AssistantMessage(reply.text, reply.calls))
        results = await self._caller.answer_turn(number, reply.calls)
        for call, result in zip(reply.calls, results, strict=True):
            await self.add(ToolMessage(call.id, result.text))
        await self.show_images([image for result in results for image in result.images])
        made = [
            MadeCall(call.name, call.arguments, result.text, result.is_error, FOUND_NOTHING in result.text)
            for call, result in zip(reply.calls, results, strict=True)
        ]
        return self._watch.add_turn(made)

    async def show_images(self, images: Sequence[Image]) -> None:
        """Show a model that sees the images of its turn's results; others have read what they are."""
        shown = [image for image in images if image.mime_type in _SEEN_TYPES and len(image.data) <= _MAX_IMAGE]
        if self.limits.vision and shown:
            await self.add(AssistantMessage(GOING_ON))  # images go in a user's turn, and turns must alternate
            await self.add(UserMessage(IMAGES, tuple(shown[-_MAX_IMAGES:])))

    async def make_room(self) -> None:
        """Shorten old results in one big step before the context is full: each step costs the prompt cache."""
        room = room_to_keep(self.limits.context_length, counted=self._asker.counted, size=self.conversation.size())
        if room is None:
            return
        if folded := await self._folder.fold(to_chars=room):
            await self.notice(f"The model's context was nearly full; {folded} earlier results were shortened.")

    async def break_circle(self, circle: Circle) -> tuple[str, bool]:
        """Do what the circle's step asks for; the hint for the next round, and whether it must be the last."""
        if circle.step != Step.ANSWER_NOW or self._asker.asks_natively:
            await self.notice(f"The model went in a circle: {circle.text}")
        if circle.step == Step.ANSWER_NOW and self._asker.asks_natively:
            await self._asker.use_grammar("The model repeats its calls")
            return f"{circle.text} {TRY_ANOTHER_WAY}", False
        match circle.step:
            case Step.REMIND:
                pass
            case Step.PRUNE:
                await self.prune(circle.turns)
            case Step.TAKE_AWAY:
                self._selection.take_away(circle.tools)
            case Step.ANSWER_NOW:
                await self.notice("The model went in a circle; it was asked to answer from what it knew.")
                return ANSWER_NOW, True
            case _:
                assert_never(circle.step)
        return f"{circle.text} {TRY_ANOTHER_WAY}", False

    async def prune(self, turns: int) -> None:
        """Take the newest turns with calls out of the history, with their results and what was said between."""
        starts = [
            place
            for place, message in enumerate(self.conversation.messages)
            if isinstance(message, AssistantMessage) and message.calls
        ]
        count = len(self.conversation.messages) - starts[-turns]
        self.conversation.drop_last(count)
        self._watch.forget_turns(turns)
        await self.tell(MessagesDropped(count))

    async def remind(self, hint: str) -> None:
        """Say something to the model between its turns."""
        # Strict templates want user and assistant in turn, and don't count calls and results.
        await self.add(AssistantMessage(GOING_ON))
        await self.add(UserMessage(hint))

    async def shape_answer(self, schema: JSONObject, stop: Stop) -> tuple[Stop, str]:
        """Bring the answer into the form of the schema; how the run ends then, and why it failed if it did."""

        async def ask() -> str:
            return await self._asker.ask_bound(self.tally.rounds + 1, self.conversation, schema)

        try:
            self.tally.last_text = await ask_for_shape(schema, ask=ask, add=self.add)
        except ShapeError as exc:
            return "failed", str(exc)
        return stop, ""

    async def notice(self, text: str) -> None:
        await self.tell(Noticed(Notice("recovery", text)))

    async def add(self, message: Message) -> None:
        self.conversation.add(message)
        await self.tell(MessageAdded(message))
