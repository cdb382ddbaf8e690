"""Which tools an engine cannot use: found by asking it, because its error names none of them.

One request to the model, told as events, and sent again where its failure can be mended.

A request has no side effects until somebody acts on the reply, so it may be sent again; but never
unchanged where the same request must fail the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from lmstudio_bridge.agent.conversation import Conversation, Folder
from lmstudio_bridge.agent.json_calls import NATIVE, Strategy, answer_under_way, grammar_turns, read_reply, reply_schema
from lmstudio_bridge.agent.prompts import FAILED, FOUND_NOTHING, NOT_CALLED
from lmstudio_bridge.agent.reply_checks import (
    LOST_CALL,
    Verdict,
    gives_up,
    is_unfounded,
    judge_reply,
    names_call,
    plain_turns,
    uncounted_answer,
)
from lmstudio_bridge.agent.schemas import simple_spec
from lmstudio_bridge.agent.untrusted import TextFilters
from lmstudio_bridge.errors import (
    ContextOverflowError,
    LLMError,
    LLMResponseError,
    LostToolCallError,
    TemplateError,
    ToolSchemaError,
)
from lmstudio_bridge.events import Emit, Generating, Noticed, Phase, RetryScheduled, RoundFinished, RoundStarted
from lmstudio_bridge.messages import (
    CallDelta,
    ChatModel,
    ChatRequest,
    Completion,
    Delta,
    JSONObject,
    Message,
    Notice,
    OnNotice,
    ReasoningDelta,
    Retry,
    TextDelta,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

_MAX_PROBES = 40  # requests of a run


class ToolProbe:
    """Looks for the tools that spoil a request; each look costs a request of one token."""

    def __init__(self, model: ChatModel, *, on_notice: OnNotice) -> None:
        self._model = model
        self._on_notice = on_notice
        self._made = 0

    async def find_bad_tools(self, specs: Sequence[ToolSpec]) -> frozenset[str]:
        """The names of such tools, found by halving.

        Raises:
            LLMError: A look failed for another reason.
        """
        bad: set[str] = set()
        parts = [list(specs)]
        while parts and self._made < _MAX_PROBES:
            part = parts.pop()
            self._made += 1
            if await self._takes(part):
                continue
            if len(part) == 1:
                bad.add(part[0].name)
            else:
                half = len(part) // 2
                parts += [part[:half], part[half:]]
        return frozenset(bad)

    async def _takes(self, specs: Sequence[ToolSpec]) -> bool:
        try:
            request = ChatRequest([UserMessage("Say ok.")], [simple_spec(spec) for spec in specs], max_tokens=1)
            await self._model.stream_chat_completion(request, on_notice=self._on_notice)
        except ToolSchemaError:
            return False
        except LLMError as exc:
            if isinstance(exc, LostToolCallError):
                return True
            raise
        return True


_LOST: Mapping[Verdict, str] = {
    "lost_call": "LM Studio lost a tool call of the model; the round was asked again.",
    "announced": "The model announced a tool call that did not come; the round was asked again.",
}
_CHARS_PER_TOKEN = 3  # cautious: what was too long must fit the next time
_PROMPT_SHARE = 0.6  # of the context that a shortened history may take; tools and the reply need the rest
_MUST_CALL_ROUNDS = 3  # rounds in which a first good result is insisted on
_MOST_UNBOUND = 2  # replies in a row that are not the JSON that was asked for, until the grammar is given up
_MORE_TOKENS = 2  # times as many tokens for a reply that was all thinking
_GENERATING_INTERVAL = 0.125  # seconds between two words about a reply that is being written; most are never shown
_MAX_TOKENS = 16_384  # tokens that we raise the limit of a reply to at the most


class _UnboundReplyError(ToolSchemaError):
    """A reply that should have been JSON by the engine's grammar, and was not."""


class Asker:
    """Asks the model, and remembers for the rest of the run how it has to be asked."""

    def __init__(
        self,
        model: ChatModel,
        *,
        folder: Folder,
        tell: Emit,
        max_rounds: int,
        max_tokens: int | None,
        filters: TextFilters,
        clock: Callable[[], float],
        strategy: Strategy = NATIVE,
        temperature: float | None = None,
    ) -> None:
        self._model = model
        self._folder = folder
        self._tell = tell
        self._max_rounds = max_rounds
        self._max_tokens = max_tokens
        self._split_reasoning = filters.split_reasoning
        self._clock = clock
        self._temperature = temperature
        self._grammar = strategy.calls == "grammar"
        self._grammar_refused = False  # the engine takes no response_format, or does not keep to it
        self._plain = False  # the template takes only user and assistant turns
        self._insists = False  # the next reply must be a call
        self._gave_up = False  # the model said that it cannot be done: one look that fails shows the same
        self._unbound = 0  # replies in a row that should have been JSON and were not
        self._simple = False  # the engine takes only simple schemas
        self._dropped: frozenset[str] = frozenset()  # tools whose schema it does not take at all
        self._probe = ToolProbe(model, on_notice=self._on_notice)
        self._effort: str | None = None
        self._ids = 0
        self._sent_at = 0.0
        self._counts_tokens = False  # whether the server ever did
        self.counted: tuple[int, int] | None = None  # tokens of the last request and reply, and the history's size then
        self._under_way: list[str] = []  # the text of the reply that is being streamed
        self._broken_off = False  # that text is of a reply that will be asked for again

    def _new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids:08}"  # nine letters and digits: Mistral's templates take no others

    @property
    def asks_natively(self) -> bool:
        """Whether the model is asked for native tool calls, and could be asked otherwise."""
        return not (self._grammar or self._grammar_refused)

    async def use_grammar(self, reason: str) -> None:
        """Ask for grammar-bound JSON from now on."""
        self._grammar = True
        await self._on_notice(Notice("strategy", f"{reason}; it is asked for JSON instead of native tool calls"))

    def text_under_way(self) -> str:
        """What came so far of a reply that is not whole, without its thinking."""
        text = self._split_reasoning("".join(self._under_way))[0].strip()
        return answer_under_way(text) if self._grammar else text

    async def ask(self, number: int, conversation: Conversation, offered: Sequence[ToolSpec]) -> Completion:
        """The model's reply to the conversation, as good as it can be got.

        Raises:
            LLMError: It cannot be had; `ContextOverflowError` if the history cannot be shortened any more.
        """
        await self._tell(RoundStarted(number, self._max_rounds, len(offered)))
        asked_again: set[str] = set()
        while True:
            try:
                reply = await self._request(number, conversation, self._specs(offered))
                verdict = judge_reply(reply, tools_offered=bool(offered))
                if verdict == "lost_call" and "lost_call" in asked_again and not self._counts_tokens:
                    return uncounted_answer(reply) or reply  # perhaps the server counts no tokens at all
                if offered and self.asks_natively and names_call(reply, offered):
                    await self.use_grammar("The model writes its tool calls as text")
                elif verdict in _LOST and "lost_call" not in asked_again:
                    asked_again.add("lost_call")
                    await self._mended(_LOST[verdict])
                elif verdict == "answer" and self._is_unfounded(reply, conversation, offered, number):
                    self._insists, self._gave_up = True, gives_up(reply.text)
                    await self._mended("The model answered without a look; the round was asked again, for a call.")
                elif verdict == "thought_only" and "thought_only" not in asked_again:
                    asked_again.add("thought_only")
                    await self._think_less(reply)
                else:
                    return reply
            except LLMResponseError as exc:
                fault = exc.kind
                if self._grammar and _refuses_grammar(exc):
                    await self._loosen_grammar(exc)
                    continue
                if fault in asked_again and not isinstance(exc, ToolSchemaError):
                    if isinstance(exc, LostToolCallError):
                        if offered and self.asks_natively:
                            await self.use_grammar("The server cannot read the model's tool calls")
                            continue
                        return Completion("", finish_reason=LOST_CALL)
                    raise
                asked_again.add(fault)
                await self._mend(exc, conversation, offered)

    def _is_unfounded(
        self, reply: Completion, conversation: Conversation, offered: Sequence[ToolSpec], number: int
    ) -> bool:
        """Whether a model that is weak at calling has to make a call first; insisted on but once."""
        if not (self._grammar and offered) or self._insists or number > _MUST_CALL_ROUNDS:
            return False
        if any(isinstance(message, ToolMessage) for message in conversation.messages):
            return False
        known = "\n".join(message.text for message in conversation.messages)
        return is_unfounded(reply.text, task=conversation.task(), known=known, tools=offered)

    async def _loosen_grammar(self, error: LLMResponseError) -> None:
        """The engine refused the schema of the reply, or the reply is no such JSON."""
        if isinstance(error, _UnboundReplyError):
            self._unbound += 1
            if self._unbound < _MOST_UNBOUND:
                await self._mended("The reply was not the JSON that was asked for; the round was asked again.")
                return
        elif isinstance(error, ToolSchemaError) and not self._simple:
            self._simple = True
            await self._mended("The engine could not bind replies to the tools' schemas; it was given simpler ones.")
            return
        self._grammar, self._grammar_refused = False, True
        await self._on_notice(Notice("strategy", "the engine does not bind replies to JSON; native tool calls it is"))

    async def ask_bound(self, number: int, conversation: Conversation, schema: JSONObject) -> str:
        """The model's reply as text that its engine was asked to bind to a JSON Schema.

        An engine that cannot do that is asked without; whether the text fits is the caller's to check.

        Raises:
            LLMError: There is no reply.
        """
        messages = plain_turns(conversation.messages) if self._grammar or self._plain else conversation.messages
        await self._tell(RoundStarted(number, self._max_rounds, 0))
        for bound in (True, False):
            try:
                reply = await self._send(number, messages, (), schema if bound else None)
            except LLMResponseError as exc:
                if not (bound and _refuses_grammar(exc)):
                    raise
            else:
                await self._tell_reply(number, reply)
                return reply.text or reply.reasoning
        raise AssertionError("the second try returns or raises")

    def _specs(self, offered: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
        if not (self._simple or self._dropped):
            return offered
        return [simple_spec(spec) for spec in offered if spec.name not in self._dropped]

    async def _mend(self, error: LLMResponseError, conversation: Conversation, offered: Sequence[ToolSpec]) -> None:
        """Change the way of asking so that this error need not come again, or raise it."""
        match error:
            case ContextOverflowError():
                await self._make_room(error, conversation)
            case TemplateError() if not self._plain:
                self._plain = True
                await self._mended("The model's prompt template takes only plain turns; it is asked in those.")
            case ToolSchemaError():
                await self._mend_schemas(error, offered)
            case LostToolCallError():
                await self._mended("LM Studio could not read a tool call of the model; the round was asked again.")
            case _:
                raise error

    async def _make_room(self, error: ContextOverflowError, conversation: Conversation) -> None:
        room = int(conversation.size() * _PROMPT_SHARE)  # however few tokens we take it for, it was too much
        if error.available:
            room = min(room, int(error.available * _CHARS_PER_TOKEN * _PROMPT_SHARE))
        folded = await self._folder.fold(to_chars=room)
        if not folded:
            raise error
        await self._mended(
            f"The model's context was full; {folded} earlier tool results were shortened. "
            "A larger context length in LM Studio avoids that."
        )

    async def _mend_schemas(self, error: ToolSchemaError, offered: Sequence[ToolSpec]) -> None:
        if not self._simple:
            self._simple = True
            await self._mended("The engine could not use the tools' schemas; it was given simpler ones.")
            return
        specs = [spec for spec in offered if spec.name not in self._dropped]
        bad = await self._probe.find_bad_tools(specs)
        if not bad or len(bad) == len(specs):
            raise error
        self._dropped |= bad
        await self._mended(f"Left out, because the engine cannot use the schema: {', '.join(sorted(bad))}.")

    async def _think_less(self, reply: Completion) -> None:
        """The reply was all thinking: give it more room if that ran out, else ask for less thought."""
        if reply.finish_reason == "length" and self._max_tokens and self._max_tokens < _MAX_TOKENS:
            self._max_tokens = min(_MAX_TOKENS, self._max_tokens * _MORE_TOKENS)
            await self._mended(f"The model only thought; it was given {self._max_tokens:,} tokens for its reply.")
        else:
            self._effort = "low"
            await self._mended("The model only thought; it was asked again for less reasoning.")

    async def _mended(self, text: str) -> None:
        await self._on_notice(Notice("recovery", text))

    async def _on_notice(self, notice: Notice) -> None:
        self._broken_off = True  # kept until the next text comes: it may be the last
        await self._tell(Noticed(notice))

    async def _request(self, number: int, conversation: Conversation, specs: Sequence[ToolSpec]) -> Completion:
        """One request for a call or an answer, with its events."""
        if self._grammar:
            schema = reply_schema(
                specs, must_call=self._insists or (_only_failed(conversation, number) and not self._gave_up)
            )
            self._insists = False
            reply = await self._send(number, grammar_turns(conversation.messages, specs), (), schema)
            read = read_reply(reply, new_id=self._new_id)
            if read is None and reply.finish_reason == "length" and (begun := answer_under_way(reply.text)):
                read = Completion(begun.strip(), reply.reasoning, (), reply.finish_reason, reply.model, reply.usage)
            if read is None and reply.finish_reason != "length":
                raise _UnboundReplyError("The engine did not keep its reply to the JSON that was asked for.")
            self._unbound = 0
            reply = read or Completion("", reply.text, (), LOST_CALL, reply.model, reply.usage)
        else:
            messages = plain_turns(conversation.messages) if self._plain else conversation.messages
            reply = await self._send(number, messages, specs, None)
        if reply.usage and reply.usage.prompt_tokens:
            self.counted = reply.usage.prompt_tokens + reply.usage.completion_tokens, conversation.size()
        await self._tell_reply(number, reply)
        return reply

    async def _send(
        self, number: int, messages: Sequence[Message], specs: Sequence[ToolSpec], schema: JSONObject | None
    ) -> Completion:
        self._sent_at = self._clock()
        writing_since = told_at = self._sent_at
        told: Phase | None = None
        pieces = 0

        async def on_delta(delta: Delta) -> None:
            nonlocal pieces, writing_since, told, told_at
            now = self._clock()
            if not pieces:
                writing_since, told = now, None
            pieces += 1
            if isinstance(delta, TextDelta):
                if self._broken_off:
                    self._under_way.clear()
                    self._broken_off = False
                self._under_way.append(delta.text)
            phase = _phase(delta)
            if phase != told or now - told_at >= _GENERATING_INTERVAL:
                told, told_at = phase, now
                await self._tell(Generating(number, phase, pieces, now - writing_since))

        async def on_notice(notice: Notice) -> None:
            nonlocal pieces
            pieces = 0  # whatever comes next begins the reply anew
            await self._on_notice(notice)

        async def on_retry(retry: Retry) -> None:
            nonlocal pieces
            pieces = 0
            await self._tell(RetryScheduled(retry.attempt, retry.wait, retry.error.message))

        reply = await self._model.stream_chat_completion(
            ChatRequest(messages, specs, self._max_tokens, self._temperature, self._effort, schema),
            on_delta=on_delta,
            on_retry=on_retry,
            on_notice=on_notice,
        )
        self._under_way.clear()
        self._broken_off = False
        self._counts_tokens = self._counts_tokens or bool(reply.usage and reply.usage.completion_tokens)
        return reply

    async def _tell_reply(self, number: int, reply: Completion) -> None:
        seconds = self._clock() - self._sent_at
        await self._tell(
            RoundFinished(
                number,
                reply.text,
                reply.reasoning,
                reply.calls,
                reply.finish_reason,
                reply.model,
                reply.usage,
                seconds,
            )
        )


def _only_failed(conversation: Conversation, number: int) -> bool:
    """Whether calls were made and none brought anything yet: then a model that is weak at calling must try another."""
    if number > _MUST_CALL_ROUNDS:
        return False
    results = [message.text for message in conversation.messages if isinstance(message, ToolMessage)]
    nothing = (NOT_CALLED, FOUND_NOTHING)
    return bool(results) and all(text.startswith(FAILED) or any(each in text for each in nothing) for text in results)


def _refuses_grammar(error: LLMResponseError) -> bool:
    """Whether the error says that the engine cannot bind its reply to our schema."""
    words = f"{error.message} {error.detail}".casefold()
    return isinstance(error, ToolSchemaError) or "response_format" in words or "json_schema" in words


def _phase(delta: Delta) -> Phase:
    match delta:
        case ReasoningDelta():
            return "thinking"
        case TextDelta():
            return "answering"
        case CallDelta():
            return "calling"
        case _:
            assert_never(delta)
