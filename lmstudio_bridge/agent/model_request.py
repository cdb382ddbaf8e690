"""One request to the model, told as events, and sent again where its failure can be repaired.

A request has no side effects until its reply is acted on, so it may be sent again; but never
unchanged where the same request would fail the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from lmstudio_bridge import errors
from lmstudio_bridge.agent import reply_checks
from lmstudio_bridge.agent.conversation import CHARS_PER_TOKEN, Compactor, Conversation
from lmstudio_bridge.agent.first_call import first_tools
from lmstudio_bridge.agent.json_calls import json_turns, partial_answer, read_reply, reply_schema
from lmstudio_bridge.agent.leaked_calls import holds_bare_arguments
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.prompts import FAILED, FOUND_NOTHING, NOT_CALLED
from lmstudio_bridge.agent.schemas import ObjectSchema, object_schema, simple_spec
from lmstudio_bridge.events import Emit, Generating, Noticed, Phase, RetryScheduled, RoundFinished, RoundStarted
from lmstudio_bridge.intent import changes_by_name
from lmstudio_bridge.messages import (
    AssistantMessage,
    CallDelta,
    ChatModel,
    ChatRequest,
    Completion,
    Delta,
    JSONObject,
    Message,
    Notice,
    ReasoningDelta,
    Retry,
    TextDelta,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

_MAX_PROBES = 40  # requests of a run
_LOST: Mapping[reply_checks.ReplyKind, str] = {
    "lost_call": "LM Studio lost a tool call of the model; retrying the request.",
    "leaked_call": "The model wrote a tool call as text; retrying the request.",
    "announced": "The model announced a tool call but made none; retrying the request.",
}
_PHASES: Mapping[type[Delta], Phase] = {ReasoningDelta: "thinking", TextDelta: "answering", CallDelta: "calling"}
_CHARS_PER_TOKEN = 3  # cautious: what was too long must fit the next time
_PROMPT_SHARE = 0.6  # of the context that a shortened history may take; tools and the reply need the rest
_MUST_CALL_ROUNDS = 3  # rounds in which a first good result is insisted on
_MOST_UNBOUND = 2  # replies in a row that are not the JSON that was asked for, until the grammar is given up
_MORE_TOKENS = 2  # times as many tokens for a reply that was all thinking, or ended in the middle of a call
_GENERATING_INTERVAL = 0.125  # seconds between two words about a reply that is being written; most are never shown
_NEW_TEXT = 250  # characters of a reply after which its end is looked at again
_VARIED = 0.8  # temperature of a reply after one that repeated itself without end; at 0, it would come again
_MAX_TOKENS = 16_384  # tokens that we raise the limit of a reply to at the most


class _UnboundReplyError(errors.ToolSchemaError):
    """A reply that the engine should have bound to JSON, and did not."""


class _EndlessReplyError(errors.LLMResponseError):
    """The reply repeats itself without end: raised while it is read, so that the engine stops writing it."""


class _Part:
    """One part of a reply that is being streamed: its text, its reasoning, or the arguments of a call."""

    def __init__(self, read: Sequence[str]) -> None:
        self._read = read
        self._tail = ""
        self._new = 0  # characters since its end was looked at

    def add(self, piece: str) -> None:
        """Add the next piece.

        Raises:
            _EndlessReplyError: The part ends in an endless repetition.
        """
        self._tail = (self._tail + piece)[-reply_checks.LONGEST_REPETITION :]
        self._new += len(piece)
        if self._new < _NEW_TEXT:
            return
        self._new = 0
        if _is_endless(self._tail, self._read):
            raise _EndlessReplyError("The reply repeats itself without end.")


class ModelRequester:
    """Requests replies from the model, and remembers for the rest of the run how it has to be asked."""

    def __init__(
        self, model: ChatModel, *, compactor: Compactor, tell: Emit, limits: Limits, options: RunOptions
    ) -> None:
        self._model = model
        self._compactor = compactor
        self._tell = tell
        self._max_rounds = limits.max_rounds
        self._max_tokens = limits.max_tokens
        self._temperature = limits.temperature
        self._split_reasoning = options.filters.split_reasoning
        self._clock = options.clock
        self._json_calls = options.strategy.calls == "grammar"
        self._described: Sequence[ToolSpec] = ()  # the tools in the system text, which stays the same in all requests
        self._answer_schema = None if options.output_schema is None else _answer_schema(options.output_schema)
        self._json_refused = False  # the engine takes no response_format, or does not keep to it
        self._plain = False  # the template takes only user and assistant turns
        self._must_call = False  # the next reply must be a call
        self._vary = False  # the next reply must not come out as the last one
        self._must_change = False  # that call must be of a tool that changes something
        self.gave_up = False  # the model said that it cannot be done: one look that fails shows the same
        self._unbound = 0  # replies in a row that should have been JSON and were not
        self._simple = False  # the engine takes only simple schemas
        self._dropped: frozenset[str] = frozenset()  # tools whose schema it does not take at all
        self._probes = 0
        self._effort: str | None = None
        self._ids = 0
        self._sent_at = 0.0
        self._counts_tokens = False  # whether the server ever did
        self.counted: tuple[int, int] | None = None  # tokens of the last request and reply, and the history's size then
        self._pieces: list[str] = []  # the text of the reply that is being streamed
        self._broken_off = False  # that text is of a reply that will be requested again

    def _new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids:08}"  # nine letters and digits: Mistral's templates take no others

    @property
    def asks_natively(self) -> bool:
        """Whether the model is asked for native tool calls, and could be asked otherwise."""
        return not (self._json_calls or self._json_refused)

    def describe(self, specs: Sequence[ToolSpec]) -> None:
        """Put the tools into the system text also if none can be called: the engine then reads that text only once."""
        self._described = specs

    def require_call(self, *, changing: bool = False) -> None:
        """Take only a call as the next reply, of a tool that changes something, if the model is asked for JSON."""
        self._must_call, self._must_change = True, changing

    async def use_json_calls(self, reason: str) -> None:
        """Ask for tool calls as constrained JSON from now on."""
        self._json_calls = True
        await self._on_notice(Notice("strategy", f"{reason}; using schema-constrained JSON"))

    def partial_text(self) -> str:
        """What has arrived of an incomplete reply, without its reasoning."""
        text = self._split_reasoning("".join(self._pieces))[0].strip()
        return partial_answer(text) if self._json_calls else text

    def _expected_tokens(self, conversation: Conversation, offered: Sequence[ToolSpec]) -> int:
        """About how many tokens the model reads next."""
        if self.counted is not None:
            tokens, size_then = self.counted
            return max(0, tokens + (conversation.size() - size_then) // CHARS_PER_TOKEN)
        tools = sum(len(tool.description) + len(str(tool.parameters)) for tool in offered)
        return (conversation.size() + tools) // CHARS_PER_TOKEN

    async def request(
        self,
        number: int,
        conversation: Conversation,
        offered: Sequence[ToolSpec],
        *,
        names: Collection[str] = (),
        schemas: Mapping[str, ObjectSchema] = MappingProxyType({}),
    ) -> Completion:
        """The model's reply to the conversation, after all repairs that help.

        `names` are the tools of the run: a call of one of them is looked for in the text also where none is offered.
        `schemas` are as for `classify_reply`.

        Raises:
            LLMError: There is none; `ContextOverflowError` if the history cannot be shortened any more.
        """
        tokens = self._expected_tokens(conversation, offered)
        await self._tell(RoundStarted(number, self._max_rounds, len(offered), tokens))
        asked_again: set[str] = set()
        while True:
            try:
                messages, specs, schema = self._form(number, conversation, self._specs(offered))
                reply = await self._send(number, messages, specs, schema)
                if schema is not None and reply.finish_reason != reply_checks.ENDLESS:
                    reply = self._read(reply)
                if reply.usage and reply.usage.prompt_tokens:
                    self.counted = reply.usage.total, conversation.size()
                await self._tell_reply(number, reply)
                history = conversation.messages
                kind = reply_checks.classify_reply(
                    reply, tools_offered=bool(offered), names=names, schemas=schemas, messages=history
                )
                is_json = kind == "leaked_call" and (
                    reply_checks.names_call(reply, offered)
                    or holds_bare_arguments(reply.text, schemas, messages=history)
                )
                names_tool = any(spec.name in reply.text for spec in offered)
                if kind == "lost_call" and "lost_call" in asked_again:
                    return reply_checks.as_answer(reply, counts_tokens=self._counts_tokens) or reply
                if kind == "endless":
                    if kind in asked_again:
                        return reply
                    asked_again.add(kind)
                    self._vary = True
                    await self._notice("The model repeated the same words without end; retrying the request.")
                elif kind == "cut_call":
                    if not self._raise_max_tokens():
                        return reply_checks.without_half_call(reply)
                    more = f"the model was given {self._max_tokens:,} tokens for its reply"
                    await self._notice(f"A tool call was cut off; {more}.")
                elif is_json and self.asks_natively:
                    await self.use_json_calls("The model writes its tool calls as text")
                elif kind in _LOST and "lost_call" not in asked_again:
                    asked_again.add("lost_call")
                    self._must_call = self._json_calls and bool(offered)
                    await self._notice(_LOST[kind])
                elif self.asks_natively and (kind == "leaked_call" or (kind == "announced" and names_tool)):
                    await self.use_json_calls("The model writes its tool calls as text")
                elif (
                    kind == "answer"
                    and "unfounded" not in asked_again  # an engine may ignore the grammar
                    and self._is_unfounded(reply, conversation, offered, number)
                ):
                    asked_again.add("unfounded")
                    self._must_call, self.gave_up = True, reply_checks.gives_up(reply.text)
                    await self._notice("The model answered without calling a tool; retrying with a tool call required.")
                elif kind == "thought_only" and "thought_only" not in asked_again:
                    asked_again.add("thought_only")
                    await self._think_less(reply)
                else:
                    return reply
            except errors.LLMResponseError as exc:
                fault = exc.kind
                if self._json_calls and _refuses_schema(exc):
                    await self._loosen_schema(exc)
                    continue
                if fault in asked_again and not isinstance(exc, errors.ToolSchemaError):
                    if isinstance(exc, errors.LostToolCallError):
                        if offered and self.asks_natively:
                            await self.use_json_calls("The server cannot parse the model's tool calls")
                            continue
                        return Completion("", finish_reason=reply_checks.LOST_CALL)
                    raise
                asked_again.add(fault)
                await self._repair(exc, conversation, offered)

    def _is_unfounded(
        self, reply: Completion, conversation: Conversation, offered: Sequence[ToolSpec], number: int
    ) -> bool:
        """Whether a model that is weak at calling has to make a call first; required only once."""
        is_bound = self._json_calls and offered and not self._must_call
        if not is_bound or number > _MUST_CALL_ROUNDS or _has_called(conversation):
            return False
        known = "\n".join(message.text for message in conversation.messages)
        return reply_checks.is_unfounded(reply.text, task=conversation.task(), known=known, tools=offered)

    async def _loosen_schema(self, error: errors.LLMResponseError) -> None:
        """The engine refused the schema of the reply, or the reply is no such JSON."""
        if isinstance(error, _UnboundReplyError):
            self._unbound += 1
            if self._unbound < _MOST_UNBOUND:
                await self._notice("The reply did not match the JSON schema; retrying the request.")
                return
        elif self._answer_schema is not None:
            self._answer_schema = None
            await self._notice("The engine cannot enforce the output schema; the answer is validated at the end.")
            return
        elif isinstance(error, errors.ToolSchemaError) and not self._simple:
            self._simple = True
            await self._notice("The engine cannot enforce the tools' schemas; retrying with simpler ones.")
            return
        self._json_calls, self._json_refused = False, True
        await self._on_notice(Notice("strategy", "Server ignores JSON schemas; using native tool calls"))

    async def request_bound(self, number: int, conversation: Conversation, schema: JSONObject) -> str:
        """The model's reply as text that the engine was asked to bind to a JSON Schema.

        An engine that cannot do that is asked without; the caller checks whether the text fits.

        Raises:
            LLMError: There is no reply.
        """
        is_plain = self._json_calls or self._plain
        messages = reply_checks.plain_turns(conversation.messages) if is_plain else conversation.messages
        await self._tell(RoundStarted(number, self._max_rounds, 0))
        try:
            reply = await self._send(number, messages, (), schema)
        except errors.LLMResponseError as exc:
            if not _refuses_schema(exc):
                raise
            reply = await self._send(number, messages, (), None)
        await self._tell_reply(number, reply)
        return reply.text or reply.reasoning

    def _specs(self, offered: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
        if not (self._simple or self._dropped):
            return offered
        return [simple_spec(spec) for spec in offered if spec.name not in self._dropped]

    async def _repair(
        self, error: errors.LLMResponseError, conversation: Conversation, offered: Sequence[ToolSpec]
    ) -> None:
        """Change the way of asking so that this error need not come again, or raise it."""
        match error:
            case errors.ContextOverflowError():
                await self._make_room(error, conversation)
            case errors.TemplateError() if not self._plain:
                self._plain = True
                await self._notice("The model's prompt template accepts only plain turns; retrying with those.")
            case errors.ToolSchemaError():
                await self._repair_schemas(error, offered)
            case errors.ToolsUnsupportedError() if self.asks_natively:
                await self.use_json_calls("The server does not accept tools for this model")
            case errors.LostToolCallError():
                await self._notice("LM Studio could not parse a tool call of the model; retrying the request.")
            case _:
                raise error

    async def _make_room(self, error: errors.ContextOverflowError, conversation: Conversation) -> None:
        room = int(conversation.size() * _PROMPT_SHARE)  # however few tokens we take it for, it was too much
        if error.available:
            room = min(room, int(error.available * _CHARS_PER_TOKEN * _PROMPT_SHARE))
        compacted = await self._compactor.compact(to_chars=room)
        if not compacted:
            raise error
        await self._notice(
            f"The model's context is full; {compacted} earlier tool results were truncated. "
            "A larger context length in LM Studio avoids that."
        )

    async def _repair_schemas(self, error: errors.ToolSchemaError, offered: Sequence[ToolSpec]) -> None:
        if not self._simple:
            self._simple = True
            await self._notice("The engine rejected the tools' schemas; retrying with simpler ones.")
            return
        specs = [spec for spec in offered if spec.name not in self._dropped]
        bad = await self._find_bad_tools(specs)
        if not bad or len(bad) == len(specs):
            raise error
        self._dropped |= bad
        await self._notice(f"Tools left out because the engine rejected their schemas: {', '.join(sorted(bad))}.")

    async def _find_bad_tools(self, specs: Sequence[ToolSpec]) -> frozenset[str]:
        """The tools whose schema the engine cannot use, found by halving: its error names none of them.

        Each look is a request for one token.

        Raises:
            LLMError: A look failed for another reason.
        """
        bad: set[str] = set()
        parts = [list(specs)]
        while parts and self._probes < _MAX_PROBES:
            part = parts.pop()
            self._probes += 1
            try:
                request = ChatRequest([UserMessage("Say ok.")], [simple_spec(spec) for spec in part], max_tokens=1)
                await self._model.stream_chat_completion(request, on_notice=self._on_notice)
            except errors.LostToolCallError:
                continue
            except errors.ToolSchemaError:
                half = len(part) // 2
                if half:
                    parts += [part[:half], part[half:]]
                else:
                    bad.add(part[0].name)
        return frozenset(bad)

    async def _think_less(self, reply: Completion) -> None:
        """The reply was all thinking: give it more room if that ran out, else ask for less thought."""
        if reply.finish_reason == "length" and self._raise_max_tokens():
            await self._notice(f"The reply was all reasoning; retrying with more tokens ({self._max_tokens:,}).")
        else:
            self._effort = "low"
            await self._notice("The reply was all reasoning; retrying with less reasoning.")

    def _raise_max_tokens(self) -> bool:
        """Give the next replies more tokens; False if they have as many as we give."""
        if self._max_tokens is None or self._max_tokens >= _MAX_TOKENS:
            return False
        self._max_tokens = min(_MAX_TOKENS, self._max_tokens * _MORE_TOKENS)
        return True

    async def _notice(self, text: str) -> None:
        await self._on_notice(Notice("recovery", text))

    async def _on_notice(self, notice: Notice) -> None:
        self._broken_off = True  # its text is kept until the next comes: it may be the last
        await self._tell(Noticed(notice))

    def _form(
        self, number: int, conversation: Conversation, specs: Sequence[ToolSpec]
    ) -> tuple[Sequence[Message], Sequence[ToolSpec], JSONObject | None]:
        """Messages, tools and response schema of a request for a call or an answer."""
        history = conversation.messages
        if not self._json_calls:
            return reply_checks.plain_turns(history) if self._plain else history, specs, None
        self._described = self._described or specs
        must_call = self._must_call or (_only_failed(conversation, number) and not self.gave_up)
        allowed: Sequence[ToolSpec] = specs
        changing = [spec for spec in specs if changes_by_name(spec.name.rpartition("__")[2])]
        if self._must_call and self._must_change:
            allowed = changing or specs
        elif must_call and _found_nothing(conversation):  # small models write down what they have not found
            allowed = [spec for spec in specs if spec not in changing] or specs
        self._must_call = self._must_change = False
        if not _has_called(conversation) and (first := first_tools(conversation.task(), specs)):
            must_call, allowed = True, first
        schema = self._answer_schema
        turns = json_turns(history, self._described, answer_schema=schema)
        return turns, (), reply_schema(allowed, must_call=must_call, answer_schema=schema)

    def _read(self, reply: Completion) -> Completion:
        """The reply with the call or the answer that its constrained JSON holds.

        Raises:
            _UnboundReplyError: It is not such JSON.
        """
        if read := read_reply(reply, new_id=self._new_id, as_json=self._answer_schema is not None):
            self._unbound = 0
            return read
        if reply.finish_reason != "length":
            raise _UnboundReplyError("The engine did not keep its reply to the JSON that was asked for.")
        self._unbound = 0
        if begun := partial_answer(reply.text):
            return replace(reply, text=begun.strip(), calls=())
        if not reply.text.strip():
            return reply  # all thinking
        return replace(reply, text="", reasoning=reply.text, calls=(), finish_reason=reply_checks.CUT_CALL)

    async def _send(
        self, number: int, messages: Sequence[Message], specs: Sequence[ToolSpec], schema: JSONObject | None
    ) -> Completion:
        """The reply; of one that repeats itself without end what came before, with `ENDLESS` as its finish reason."""
        self._sent_at = self._clock()
        read = [message.text for message in messages if not isinstance(message, AssistantMessage)]
        parts: defaultdict[object, _Part] = defaultdict(lambda: _Part(read))
        temperature = max(self._temperature or 0, _VARIED) if self._vary else self._temperature
        self._vary = False
        writing_since = told_at = self._sent_at
        told: Phase | None = None
        pieces = 0

        async def on_delta(delta: Delta) -> None:
            nonlocal pieces, writing_since, told, told_at
            now = self._clock()
            if not pieces:
                writing_since, told = now, None
                parts.clear()
            pieces += 1
            if isinstance(delta, TextDelta):
                if self._broken_off:
                    self._pieces.clear()
                    self._broken_off = False
                self._pieces.append(delta.text)
            if isinstance(delta, CallDelta):
                parts[delta.index].add(delta.arguments)
            else:
                parts[type(delta)].add(delta.text)
            phase = _PHASES[type(delta)]
            if phase != told or now - told_at >= _GENERATING_INTERVAL:
                told, told_at = phase, now
                text = self.partial_text() if phase == "answering" else ""
                await self._tell(Generating(number, phase, pieces, now - writing_since, text))

        async def on_notice(notice: Notice) -> None:
            nonlocal pieces
            pieces = 0  # whatever comes next begins the reply anew
            await self._on_notice(notice)

        async def on_retry(retry: Retry) -> None:
            nonlocal pieces
            pieces = 0
            await self._tell(RetryScheduled(retry.attempt, retry.wait, retry.error.message))

        try:
            reply = await self._model.stream_chat_completion(
                ChatRequest(messages, specs, self._max_tokens, temperature, self._effort, schema),
                on_delta=on_delta,
                on_retry=on_retry,
                on_notice=on_notice,
            )
        except _EndlessReplyError:
            text = self.partial_text()
            reply = Completion(text[: reply_checks.find_repetition(text)].strip(), finish_reason=reply_checks.ENDLESS)
        if reply.finish_reason == "length":
            written = (reply.text, reply.reasoning, *(call.arguments for call in reply.calls))
            if any(_is_endless(each.rstrip(), read) for each in written):
                text = partial_answer(reply.text) if self._json_calls else reply.text
                text = text[: reply_checks.find_repetition(text)].strip()
                reply = replace(reply, text=text, calls=(), finish_reason=reply_checks.ENDLESS)
        self._pieces.clear()
        self._broken_off = False
        self._counts_tokens = self._counts_tokens or bool(reply.usage and reply.usage.completion_tokens)
        return reply

    async def _tell_reply(self, number: int, reply: Completion) -> None:
        seconds = self._clock() - self._sent_at
        answer = (reply.text, reply.reasoning, reply.calls, reply.finish_reason, reply.model, reply.usage)
        await self._tell(RoundFinished(number, *answer, seconds))


def _is_endless(text: str, read: Sequence[str]) -> bool:
    """Whether a text ends in an endless repetition that is no copy of one of the `read` texts, as of a log's rows."""
    start = reply_checks.find_repetition(text)
    if start is None:
        return False
    copied = text[start:].replace("\\n", "\n").strip("\\ \n")  # the text may be JSON
    return not any(copied in each for each in read)


def _answer_schema(schema: JSONObject) -> JSONObject:
    """An output schema as engines can take it, like the schemas of tools."""
    parameters = object_schema({"type": "object", "properties": {"answer": schema}}).parameters
    answer: JSONObject = parameters["properties"]["answer"]
    return answer


def _has_called(conversation: Conversation) -> bool:
    """Whether a tool was called yet."""
    return any(isinstance(message, ToolMessage) for message in conversation.messages)


def _only_failed(conversation: Conversation, number: int) -> bool:
    """Whether calls were made and none brought anything yet: then a model that is weak at calling must try another."""
    if number > _MUST_CALL_ROUNDS:
        return False
    results = [message.text for message in conversation.messages if isinstance(message, ToolMessage)]
    return bool(results) and all(
        text.startswith(FAILED) or NOT_CALLED in text or FOUND_NOTHING in text for text in results
    )


def _found_nothing(conversation: Conversation) -> bool:
    """Whether the newest call was a look that brought nothing."""
    newest = conversation.messages[-1]
    return isinstance(newest, ToolMessage) and FOUND_NOTHING in newest.text


def _refuses_schema(error: errors.LLMResponseError) -> bool:
    """Whether the error says that the engine cannot bind its reply to the schema."""
    words = f"{error.message} {error.detail}".casefold()
    return isinstance(error, errors.ToolSchemaError) or "response_format" in words or "json_schema" in words
