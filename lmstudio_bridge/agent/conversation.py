"""The history of a run, and its context budget.

The history is appended to and always in a form that strict templates take. How much of a result the model reads
depends on its context window. When that fills up, old results are compacted: one line each says what was called, how
much it returned, and where that is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace

from lmstudio_bridge.agent.arguments import about_arguments, replayable_arguments
from lmstudio_bridge.agent.prompts import ANSWER_NOW, is_own_text
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.untrusted import NO_DELIMITER, Delimiter
from lmstudio_bridge.events import Emit, ResultsShrunk
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage

CHARS_PER_TOKEN = 4  # a rough average over English text and code
MAX_CHARS = 40_000  # of one result, where the context is large or unknown
MIN_CHARS = 1_000  # of one result, however small the context
_SHARE = 4  # one result may take a quarter of the context
_FULL = 0.8  # share of the context at which old results are shortened
_ROOMY = 0.5  # share of it that is taken afterwards
_WORTH_COMPACTING = 240  # characters; the line that replaces a result takes about half as many
_NOTHING = 200  # characters; what is longer holds something
_FAILURE = 300
_FAILED = re.compile(  # "Error executing f: 403", {"success": false; not "Error log cleared", "Error: none"
    r"(?!.*\b(?:but|instead|anyway|success\w*)\b(?!\"))[^\w{]{0,4}"
    r"(?:(?:\w{1,30}(?:Error|Exception)|(?:(?:database|sql\w*|server|api|mcp|http|tool|internal|(?:input )?validation"
    r"|permission|auth\w*|network|connection|request) )?error"
    r"(?: (?:executing|running|calling|creating|updating|deleting|inserting|writing|saving|sending|while|in|from)\b"
    r"[^:]{0,60}| ?[\[(]?-?\d{2,5}[\])]?)?): ?(?!\w+\W*\Z)\S"  # not "Error: none"
    r"|(?:failed|unable) to (?:creat|writ|updat|delet|remov|insert|sav|send|add|mov|renam|commit|push|upload|edit|set"
    r"|post|clos|apply|connect|open)\w*\b(?!.*\b(?:added|fixed|closed|noted|resolved)\b)"
    r"|(?:access|permission) denied\b|http (?:error )?[45]\d\d\b"
    r"|\{\s*\"(?:error\"\s*:\s*(?:\"(?!(?:none|no(?: errors?)?|null|ok)?\")|\{\s*\"code\"\s*:\s*-?[1-9])"
    r"|(?:success|ok)\"\s*:\s*false\b))",
    re.IGNORECASE,
)
_NO_MATCH = re.compile(
    r"(?:no|0|nothing)\b[^.\n]{0,60}\b(?:match|matches|results?|found|hits?|entries|files?)\b[^.\n]{0,60}\.?",
    re.IGNORECASE,
)


class Conversation:
    """One system message, the task, then turns.

    Appending keeps the beginning of every request byte for byte the same, which is what the
    engine's prompt cache lives on.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages: list[Message] = []
        self._size = 0  # characters; kept, because a long history is asked for it in every round
        for message in messages:
            self.add(message)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole history, oldest first."""
        return tuple(self._messages)

    def task(self) -> str:
        """What the user asked for: the longest turn that is no hint of ours, without the hint before it."""
        return max(self._asked(), key=len, default="")

    def only_task(self) -> str:
        """The same; "" if the user asked more than once."""
        asked = set(self._asked())
        return asked.pop() if len(asked) == 1 else ""

    def _asked(self) -> list[str]:
        turns = (message.text for message in self._messages if isinstance(message, UserMessage))
        return [text for turn in turns if not is_own_text(text := turn.removeprefix(f"{ANSWER_NOW}\n\n"))]

    def size(self) -> int:
        """Characters of the whole history."""
        return self._size

    def add(self, message: Message) -> None:
        """Append a message; the arguments of its calls become valid JSON objects, if they are not.

        Raises:
            ValueError: The history would become one that templates refuse: a late system message,
                a call left without its result, a result without its call, an id used twice in a
                turn, user and assistant not in turn.
        """
        open_calls = self.open_calls()
        match message:
            case SystemMessage():
                if self._messages:
                    raise ValueError("the system message must come first, and only once")
            case ToolMessage(call_id=call_id):
                if call_id not in open_calls:
                    raise ValueError(f"no open call has the id {call_id!r}")
            case UserMessage() | AssistantMessage():
                if open_calls:
                    raise ValueError(f"calls without a result: {', '.join(open_calls)}")
                if isinstance(message, UserMessage) is self._is_models_turn():
                    raise ValueError("user and assistant must take turns, the user first")
                ids = [call.id for call in message.calls] if isinstance(message, AssistantMessage) else []
                if len(set(ids)) < len(ids):
                    raise ValueError(f"two calls of one turn have the same id: {', '.join(ids)}")
        if isinstance(message, AssistantMessage) and message.calls:
            calls = (replace(call, arguments=replayable_arguments(call.arguments)) for call in message.calls)
            message = AssistantMessage(message.text, tuple(calls))
        self._messages.append(message)
        self._size += _chars(message)

    def drop_last(self, count: int) -> None:
        """Take the newest messages out of the history."""
        if count:
            self._size -= sum(_chars(message) for message in self._messages[-count:])
            del self._messages[-count:]

    def _is_models_turn(self) -> bool:
        """Whether the user's turn is the last one; calls and their results are no turns of their own."""
        for message in reversed(self._messages):
            match message:
                case UserMessage():
                    return True
                case AssistantMessage(calls=()):
                    return False
        return False

    def open_calls(self) -> tuple[str, ...]:
        """The ids of the last turn's calls that have no result yet."""
        answered: set[str] = set()
        for message in reversed(self._messages):
            match message:
                case ToolMessage(call_id=call_id):
                    answered.add(call_id)
                case AssistantMessage(calls=calls):
                    return tuple(call.id for call in calls if call.id not in answered)
                case _:
                    return ()
        return ()

    def shrink(self, *, to_chars: int, compact: Callable[[ToolMessage, ToolCall, int], str]) -> dict[int, str]:
        """Compact tool results, oldest first, until the history has `to_chars` characters.

        `compact` returns the text that replaces a result, and may keep the given number of characters of it: 0 but
        for the newest, which goes last. Returns the new texts by the index of their message; none means
        that there was nothing to gain.
        """
        calls: dict[str, ToolCall] = {}
        results: list[tuple[int, ToolMessage, ToolCall]] = []
        for index, message in enumerate(self._messages):
            if isinstance(message, AssistantMessage):
                calls = {call.id: call for call in message.calls}
            elif isinstance(message, ToolMessage):
                results.append((index, message, calls[message.call_id]))
        compacted: dict[int, str] = {}
        for index, message, call in results:
            if self._size <= to_chars:
                break
            newest = index == results[-1][0]
            room = max(0, to_chars - (self._size - len(message.text))) if newest else 0
            text = compact(message, call, room)
            if len(text) < len(message.text):
                self.replace_result(index, text)
                compacted[index] = text
        return compacted

    def replace_result(self, index: int, text: str) -> None:
        """Replace the text of a tool result.

        Raises:
            ValueError: The message at that index is not a tool result.
        """
        message = self._messages[index] if 0 <= index < len(self._messages) else None
        if not isinstance(message, ToolMessage):
            raise ValueError(f"message {index} is not a tool result")
        self._size += len(text) - len(message.text)
        self._messages[index] = ToolMessage(message.call_id, text)


@dataclass(frozen=True, slots=True)
class Compactor:
    """Makes room in the conversation of a run.

    The only code that changes a history other than at its end: the engine must read it anew from
    there, so it is done rarely and in big steps.
    """

    conversation: Conversation
    _: KW_ONLY
    store: ResultStore
    tell: Emit
    delimiter: Delimiter = NO_DELIMITER

    async def compact(self, *, to_chars: int) -> int:
        """Bring the history down to that many characters, if its results allow; returns how many were compacted."""
        compacted = self.conversation.shrink(to_chars=to_chars, compact=self._line)
        if compacted:
            await self.tell(ResultsShrunk(tuple(compacted), tuple(compacted.values())))
        return len(compacted)

    def _line(self, message: ToolMessage, call: ToolCall, room: int) -> str:
        """What replaces a result: one line, after as much of the result as the room allows."""
        if len(message.text) <= _WORTH_COMPACTING:
            return message.text
        text = self.delimiter.take_out(message.text).rstrip("\n")
        called = " ".join((call.name, _about(call))).strip()
        line = f'[{called} → {len(text):,} characters, not shown any more; read_result(id="{{}}", offset=0) gives them]'
        head = text[: max(0, room - len(line) - len(self.delimiter.wrap("")) - 8)]
        return (f"{self.delimiter.wrap(head)}\n" if head else "") + line.format(self.store.keep(text))


def result_limit(context_length: int | None) -> int:
    """Characters of one result for a model with this context length in tokens."""
    if context_length is None:
        return MAX_CHARS // 2
    return max(MIN_CHARS, min(MAX_CHARS, context_length * CHARS_PER_TOKEN // _SHARE))


def room_to_keep(context_length: int | None, *, counted: tuple[int, int] | None, size: int) -> int | None:
    """Characters that the history may keep so that the next request fits; None if it may keep all.

    `counted` is what the engine counted of the last request and its reply (tokens), and the history's
    size then; `size` is its size now (characters). One big step, because each costs the prompt cache.
    """
    if context_length is None or counted is None:
        return None
    tokens, size_then = counted
    expected = tokens + (size - size_then) // CHARS_PER_TOKEN
    if expected <= context_length * _FULL:
        return None
    too_many = expected - int(context_length * _ROOMY)
    return max(0, size - too_many * CHARS_PER_TOKEN)


def holds_nothing(text: str) -> bool:
    """Whether a result of a search says that there was none: blank, JSON without a value in it, or a few such words."""
    if len(text) > _NOTHING:
        return False
    try:
        return _is_hollow(json.loads(text))
    except (ValueError, RecursionError):
        return not text.strip() or bool(_NO_MATCH.fullmatch(text.strip()))


def says_failed(text: str) -> bool:
    """Whether the result of a call that was to change something is one line that begins as only a failure does."""
    text = text.strip()
    return len(text) <= _FAILURE and "\n" not in text and bool(_FAILED.match(text))


def _is_hollow(value: object) -> bool:
    match value:
        case dict():
            return all(map(_is_hollow, value.values()))
        case list():
            return all(map(_is_hollow, value))
        case _:
            return value in (None, "")


def _chars(message: Message) -> int:
    calls = message.calls if isinstance(message, AssistantMessage) else ()
    return len(message.text) + sum(len(call.name) + len(call.arguments) for call in calls)


def _about(call: ToolCall) -> str:
    value = load_or_none(call.arguments)  # valid in a history
    return about_arguments(value) if isinstance(value, dict) else ""
